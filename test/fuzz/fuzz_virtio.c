/* libFuzzer: a hostile guest at a virtio device. The input's first byte chooses device and
 * transport, the rest is a program: register accesses, writes to guest memory (raw, or as
 * descriptors so that the fuzzer gets deep quickly), completions of the back end, input,
 * time, saving and loading, resets. Whatever it does, nothing may crash, hang, or touch
 * memory outside of the guest's. Link with core/ and test/unit/fake.c. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/net/offload.h"
#include "core/virtio/balloon.h"
#include "core/virtio/blk.h"
#include "core/virtio/console.h"
#include "core/virtio/mmio.h"
#include "core/virtio/net.h"
#include "core/virtio/pci.h"
#include "core/virtio/rng.h"
#include "core/virtio/vsock.h"
#include "core/vm/vm.h"
#include "test/unit/fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define RAM_SIZE 0x20000u
#define ROM_BASE 0x40000u
#define MMIO 0xd0000000ull
#define ECAM 0xe0000000ull
#define BARS 0xc0000000ull
#define DEVFN PCI_DEVFN(1, 0)
#define DISK_SIZE 0x10000u
#define RINGS 0x1000u /* where the quick start puts them */
#define STATE_MAX (1u << 20)
#define OPS_MAX 400

struct input {
	const uint8_t *p;
	size_t len;
};

struct fuzz {
	struct fake_clock time;
	struct fake_irq irq;
	struct vm_host host;
	struct vm vm;
	struct mem_region ram_region, ram2_region, rom_region;
	uint8_t *ram;
	struct pci_bus bus;
	bool pci;
	gpa_t regs; /* of the transport */
	struct virtio_device *dev;
	struct virtio_console *console;
	struct virtio_net *net;
	struct virtio_balloon *balloon;
	struct virtio_vsock *vsock;
	struct vsock_device streams;
	uint64_t open;				/* streams, bits */
	size_t unread[VSOCK_CONNS]; /* bytes of the guest's that were not passed on */
	uint8_t frame[FRAME_MAX], segment[FRAME_MAX];
	struct block_backend disk;
	struct block_request *waiting[256];
	unsigned nwaiting;
	size_t room;
	bool immediate;
	void *blocks[64];
	unsigned nblocks;
};

static uint64_t take(struct input *in, unsigned bytes) {
	uint8_t b[8] = {0};
	for (unsigned i = 0; i < bytes && in->len; i++, in->p++, in->len--)
		b[i] = *in->p;
	return le64_get(b);
}

static void *keep(struct fuzz *f, void *p) {
	if (!p || f->nblocks == ARRAY_LEN(f->blocks))
		abort();
	return f->blocks[f->nblocks++] = p;
}

static void *alloc(void *opaque, size_t size) {
	return keep(opaque, calloc(1, size));
}

/* --- back ends --- */

static void check_guest_memory(struct fuzz *f, const uint8_t *host, uint64_t len) {
	if (host < f->ram || len > RAM_SIZE || (size_t)(host - f->ram) > RAM_SIZE - len)
		abort();
}

static void complete(struct fuzz *f, struct block_request *r, int error) {
	for (unsigned i = 0; i < r->nsegs; i++) {
		check_guest_memory(f, r->segs[i].host, r->segs[i].len);
		if (r->op == BLOCK_READ)
			memset(r->segs[i].host, 0x44, r->segs[i].len);
	}
	r->done(r, error);
}

static void disk_submit(void *opaque, struct block_request *r) {
	struct fuzz *f = opaque;
	if (r->nsegs > BLOCK_SEGMENTS || r->offset > DISK_SIZE || r->len > DISK_SIZE - r->offset)
		abort();
	if (f->immediate)
		complete(f, r, 0);
	else if (f->nwaiting < ARRAY_LEN(f->waiting))
		f->waiting[f->nwaiting++] = r;
	else
		abort();
}

static void disk_complete(struct fuzz *f, unsigned which, int error) {
	if (!f->nwaiting)
		return;
	which %= f->nwaiting;
	struct block_request *r = f->waiting[which];
	f->waiting[which] = f->waiting[--f->nwaiting];
	complete(f, r, error);
}

static size_t wire_write(void *opaque, const uint8_t *buf, size_t len) {
	struct fuzz *f = opaque;
	size_t n = MIN(len, f->room);
	volatile uint8_t sum = 0;
	for (size_t i = 0; i < n; i += 64)
		sum = (uint8_t)(sum + buf[i]);
	f->room -= n;
	return n;
}

static void wire_readable(void *opaque) {
}

static void rng_fill(void *opaque, void *buf, size_t len) {
	memset(buf, 0x5a, len);
}

static uint8_t *net_room(void *opaque) {
	struct fuzz *f = opaque;
	return f->room & 1 ? NULL : f->frame;
}

static void net_segment(void *opaque, const struct frame *s) {
	if (s->len < FRAME_MIN || s->len > FRAME_MAX || s->csum)
		abort();
}

/* What arrives must stand everything that a back end does with it. */
static void net_send(void *opaque, const struct frame *frame) {
	struct fuzz *f = opaque;
	struct frame copy = *frame;
	if (frame->data != f->frame || !frame_valid(frame))
		abort();
	if (frame->gso != FRAME_GSO_NONE)
		frame_segment(frame, f->segment, net_segment, f);
	frame_complete(&copy, f->frame);
}

static void net_kick(void *opaque, uint64_t flush_ns) {
}

static void net_readable(void *opaque) {
}

static void balloon_discard(void *opaque, uint8_t *host, uint64_t len) {
	check_guest_memory(opaque, host, len);
	memset(host, 0, len);
}

/* --- streams: whatever the device says about them must make sense --- */

static bool stream_is(struct fuzz *f, unsigned conn) {
	return f->open >> conn & 1;
}

static void stream_begin(struct fuzz *f, unsigned conn) {
	if (conn >= VSOCK_CONNS || stream_is(f, conn))
		abort();
	f->open |= BIT(conn);
	f->unread[conn] = 0;
}

static void stream_end(struct fuzz *f, unsigned conn) {
	if (!stream_is(f, conn))
		abort();
	f->open &= ~BIT(conn);
}

static bool stream_connect(void *opaque, unsigned conn, uint32_t port) {
	if (port & 1)
		return false;
	stream_begin(opaque, conn);
	return true;
}

static void stream_connected(void *opaque, unsigned conn) {
	if (!stream_is(opaque, conn))
		abort();
}

static void stream_write(void *opaque, unsigned conn, const uint8_t *buf, size_t len) {
	struct fuzz *f = opaque;
	check_guest_memory(f, buf, len);
	f->unread[conn] += len;
	if (!stream_is(f, conn) || f->unread[conn] > VSOCK_WINDOW)
		abort();
	if (f->room & 1) {
		f->streams.consumed(f->streams.dev, conn, f->unread[conn]);
		f->unread[conn] = 0;
	} else if (f->room & 16) {
		stream_end(f, conn);
		f->streams.close(f->streams.dev, conn, true);
	}
}

static void stream_finish(void *opaque, unsigned conn, bool both) {
	struct fuzz *f = opaque;
	if (!stream_is(f, conn))
		abort();
	if (both && f->room & 2) {
		stream_end(f, conn);
		f->streams.close(f->streams.dev, conn, false);
	}
}

static void stream_close(void *opaque, unsigned conn) {
	stream_end(opaque, conn);
}

static void stream_readable(void *opaque, unsigned conn) {
	struct fuzz *f = opaque;
	if (!stream_is(f, conn))
		abort();
	if (f->streams.receive(f->streams.dev, conn, f->segment, f->room) > f->room)
		abort();
}

static struct virtio_device *make_vsock(struct fuzz *f) {
	struct vsock_backend b = {stream_connect,
							  stream_connected,
							  stream_write,
							  stream_finish,
							  stream_close,
							  stream_readable,
							  f};
	f->vsock = virtio_vsock_create(&f->vm, 3, &b);
	f->streams = virtio_vsock_port(f->vsock);
	return virtio_vsock_device(f->vsock);
}

/* The host's side of a stream. */
static void stream_input(struct fuzz *f, struct input *in) {
	uint8_t what = (uint8_t)take(in, 1);
	unsigned conn = (unsigned)take(in, 1) % VSOCK_CONNS;
	f->room = take(in, 2);
	if (what & 1) {
		int n = f->streams.connect(f->streams.dev, what & 2 ? 1 : (uint32_t)take(in, 1));
		if (n >= 0)
			stream_begin(f, (unsigned)n);
	}
	if (!stream_is(f, conn))
		return;
	if (what & 4)
		f->streams.receive(f->streams.dev, conn, f->segment, f->room);
	if (what & 8) {
		f->streams.consumed(f->streams.dev, conn, f->unread[conn]);
		f->unread[conn] = 0;
	}
	if (what & 16)
		f->streams.finish(f->streams.dev, conn);
	if (what & 32) {
		stream_end(f, conn);
		f->streams.close(f->streams.dev, conn, what & 64);
	}
}

/* --- the machine --- */

static struct virtio_device *make_device(struct fuzz *f, unsigned kind) {
	struct rng_backend rng = {rng_fill, NULL};
	struct virtio_console_port_options ports[2] = {
		{NULL, true, {wire_write, wire_readable, f}, false},
		{"name", false, {wire_write, NULL, f}, true},
	};
	switch (kind) {
	case 0:
		f->disk = (struct block_backend){.submit = disk_submit,
										 .opaque = f,
										 .size = DISK_SIZE,
										 .block_size = 4096,
										 .discard = true,
										 .serial = "serial"};
		return virtio_blk_create(&f->vm, &f->disk, 2);
	case 1:
		f->console = virtio_console_create(&f->vm, ports, 2);
		return virtio_console_device(f->console);
	case 2: {
		struct virtio_net_options o = {
			{net_room, net_send, net_kick, net_readable, f}, {2}, 1400, 2};
		f->net = virtio_net_create(&f->vm, &o);
		return virtio_net_device(f->net);
	}
	case 3: {
		struct balloon_backend b = {balloon_discard, f};
		f->balloon = virtio_balloon_create(&f->vm, &b);
		return virtio_balloon_device(f->balloon);
	}
	case 4:
		return make_vsock(f);
	default:
		return virtio_rng_create(&f->vm, &rng);
	}
}

static void on_msi(void *opaque, gpa_t addr, uint32_t data) {
}

static void map(struct fuzz *f, struct mem_region *r, enum mem_kind kind, gpa_t base, uint64_t size,
				uint8_t *host) {
	*r = (struct mem_region){.name = "ram", .base = base, .size = size, .kind = kind, .host = host};
	mem_add(&f->vm.mem, r);
}

static void make(struct fuzz *f, uint8_t choice) {
	memset(f, 0, sizeof(*f));
	fake_clock_init(&f->time);
	fake_irq_init(&f->irq);
	f->host = (struct vm_host){.alloc = alloc, .opaque = f};
	vm_init(&f->vm, &f->host, &f->time.clock);
	f->ram = keep(f, aligned_alloc(PAGE_SIZE, RAM_SIZE));
	memset(f->ram, 0, RAM_SIZE);
	/* Two regions, adjacent for the guest and the other way round in our memory. */
	map(f, &f->ram_region, MEM_RAM, 0, RAM_SIZE / 2, f->ram + RAM_SIZE / 2);
	map(f, &f->ram2_region, MEM_RAM, RAM_SIZE / 2, RAM_SIZE / 2, f->ram);
	map(f, &f->rom_region, MEM_ROM, ROM_BASE, PAGE_SIZE, f->ram);
	f->dev = make_device(f, choice % 6);
	f->pci = choice & 0x80;
	f->regs = f->pci ? BARS : MMIO;
	if (f->pci) {
		struct irq_line lines[4] = {f->irq.line, f->irq.line, f->irq.line, f->irq.line};
		struct msi_sink sink = {on_msi, NULL, NULL};
		pci_bus_init(&f->bus, &f->vm.mem, &sink, lines, ECAM);
		f->bus.mmio32_next = BARS;
		f->bus.mmio32_end = BARS + 0x100000;
		virtio_pci_create(&f->vm, &f->bus, f->dev, DEVFN);
		mem_io_write(&f->vm.mem, ECAM + (DEVFN << 12) + 4, 2, 6);
	} else {
		virtio_mmio_create(&f->vm, f->dev, MMIO, &f->irq.line, 0);
	}
}

static void finish(struct fuzz *f) {
	f->immediate = true;
	while (f->nwaiting)
		disk_complete(f, 0, 0);
	while (f->nblocks)
		free(f->blocks[--f->nblocks]);
}

/* --- what the guest does --- */

static void status(struct fuzz *f, uint8_t val) {
	if (f->pci)
		mem_io_write(&f->vm.mem, f->regs + 0x14, 1, val);
	else
		mem_io_write(&f->vm.mem, f->regs + 0x70, 4, val);
}

static void kick(struct fuzz *f, unsigned queue) {
	if (f->pci)
		mem_io_write(&f->vm.mem, f->regs + 0x3000 + 4 * (queue % 64), 2, queue);
	else
		mem_io_write(&f->vm.mem, f->regs + 0x50, 4, queue);
}

static gpa_t ring_of(unsigned queue) {
	return RINGS + queue % 8 * 0x800;
}

/* The handshake up to DRIVER_OK with rings of 16 in all queues. */
static void quick_start(struct fuzz *f, uint64_t features, uint16_t size) {
	struct virtio_device *d = f->dev;
	status(f, 0);
	status(f, 3);
	for (d->driver_features_sel = 0; d->driver_features_sel < 2; d->driver_features_sel++)
		virtio_driver_features_write(
			d, (uint32_t)((features | BIT(VIRTIO_F_VERSION_1)) >> 32 * d->driver_features_sel));
	status(f, 11);
	for (unsigned i = 0; i < d->nvq; i++) {
		struct virtqueue *q = &d->vq[i];
		d->queue_sel = (uint16_t)i;
		virtio_queue_set_size(d, size);
		virtio_queue_set_half(d, &q->desc, false, (uint32_t)ring_of(i));
		virtio_queue_set_half(d, &q->driver, false, (uint32_t)ring_of(i) + 0x400);
		virtio_queue_set_half(d, &q->device, false, (uint32_t)ring_of(i) + 0x600);
		virtio_queue_enable(d, true);
	}
	status(f, 15);
}

static void poke(struct fuzz *f, gpa_t gpa, const void *buf, size_t len) {
	mem_write(&f->vm.mem, gpa % RAM_SIZE, buf, len);
}

/* A descriptor, anywhere in a ring. */
static void put_desc(struct fuzz *f, struct input *in) {
	uint8_t desc[16], place = (uint8_t)take(in, 1), shape = (uint8_t)take(in, 1);
	gpa_t ring = ring_of(place & 7);
	le64_put(desc, shape & 1 ? take(in, 8) : 0x8000 + take(in, 2));
	le32_put(desc + 8, (uint32_t)(shape & 2 ? take(in, 4) : take(in, 1)));
	le16_put(desc + 12, (uint16_t)(shape & 4 ? take(in, 2) : shape >> 4));
	le16_put(desc + 14, (uint16_t)(shape & 8 ? take(in, 2) : take(in, 1)));
	poke(f, ring + (place >> 3) % 16 * 16, desc, 16);
}

/* A descriptor of a split ring becomes available. */
static void put_avail(struct fuzz *f, struct input *in) {
	uint8_t queue = (uint8_t)take(in, 1) & 7, head = (uint8_t)take(in, 1), idx[2], entry[2];
	gpa_t avail = ring_of(queue) + 0x400;
	mem_read(&f->vm.mem, avail + 2, idx, 2);
	le16_put(entry, head);
	poke(f, avail + 4 + le16_get(idx) % 16 * 2, entry, 2);
	le16_put(idx, (uint16_t)(le16_get(idx) + 1));
	poke(f, avail + 2, idx, 2);
	kick(f, queue);
}

static void encode(uint8_t desc[16], bool packed, gpa_t gpa, uint32_t len, uint16_t id_or_next,
				   uint16_t flags) {
	le64_put(desc, gpa);
	le32_put(desc + 8, len);
	le16_put(desc + (packed ? 14 : 12), flags);
	le16_put(desc + (packed ? 12 : 14), id_or_next);
}

/* A chain as a driver would make it, direct or through a table, with
 * a request's header in front: what it asks for is the input's, its form is right. */
static void put_chain(struct fuzz *f, struct input *in) {
	static const uint8_t types[] = {0, 1, 4, 8, 11, 13, 2, 3};
	struct virtqueue *q = &f->dev->vq[take(in, 1) % f->dev->nvq];
	uint8_t shape = (uint8_t)take(in, 1), readable = (uint8_t)take(in, 1);
	bool indirect = shape & 0x80;
	unsigned n = indirect ? 1u + (shape & 0x3f) * 4 : 1u + shape % 16;
	unsigned unit = shape & 0x40 ? 512 : 4;
	if (!q->enabled || (!indirect && n > q->size))
		return;
	/* A block request with the range of a discard behind it, or a console's message. */
	uint8_t header[32] = {0}, desc[16];
	header[0] = types[take(in, 1) % 8];
	header[4] = (uint8_t)take(in, 1) & 7;
	header[6] = readable & 1;
	header[8] = (uint8_t)take(in, 1);
	header[16] = header[8];
	header[24] = readable;
	header[28] = shape & 1;
	gpa_t at = 0x8000 + (take(in, 1) << 7), table = 0x6000;
	poke(f, at, header, sizeof(header));
	unsigned slot = q->packed ? q->next_avail : 0;
	bool wrap = q->avail_wrap;
	for (unsigned i = 0; i < n; i++) {
		bool write = i >= readable;
		uint32_t len = i && i + 1 == n ? 1 : i < 2 ? 16 : unit * (1 + i % 4);
		uint16_t flags = (uint16_t)((i + 1 < n) | (unsigned)write << 1);
		if (q->packed && !indirect)
			flags |= wrap ? 0x80 : 0x8000;
		encode(desc, q->packed, at, len, (uint16_t)(slot + 1), flags);
		poke(f, indirect ? table + 16 * i : q->desc + 16 * slot, desc, 16);
		at += len;
		if (++slot == q->size && q->packed && !indirect) {
			slot = 0;
			wrap = !wrap;
		}
	}
	if (indirect) {
		uint16_t flags = 4;
		if (q->packed)
			flags |= q->avail_wrap ? 0x80 : 0x8000;
		encode(desc, q->packed, table, 16 * n, 0, flags);
		poke(f, q->desc + (q->packed ? 16u * q->next_avail : 0), desc, 16);
	}
	if (!q->packed) {
		uint8_t head[2] = {0}, idx[2];
		poke(f, q->driver + 4 + q->next_avail % q->size * 2u, head, 2);
		le16_put(idx, (uint16_t)(q->next_avail + 1));
		poke(f, q->driver + 2, idx, 2);
	}
	kick(f, q->index);
}

/* A packet whose form is right, so that streams come to be. */
static void put_packet(struct fuzz *f, struct input *in) {
	uint8_t h[48] = {3}, desc[16], head[2] = {0}, idx[2], shape = (uint8_t)take(in, 1);
	struct virtqueue *q = &f->dev->vq[1];
	uint32_t len = shape & 0x40 ? (uint32_t)take(in, 2) : shape & 0x20 ? (uint32_t)take(in, 1) : 0;
	if (!q->enabled || q->packed || !q->size)
		return;
	h[8] = 2;
	h[16] = (uint8_t)take(in, 1); /* ports */
	h[20] = (uint8_t)take(in, 1);
	h[23] = shape & 0x10 ? 0x40 : 0;
	le32_put(h + 24, len);
	h[28] = 1;
	h[30] = shape & 7;
	h[32] = (uint8_t)take(in, 1);
	le32_put(h + 36, (uint32_t)take(in, 2));
	le32_put(h + 40, (uint32_t)take(in, 1));
	poke(f, 0x8000, h, 44);
	encode(desc, false, 0x8000, 44 + (shape & 0x80 ? 0 : len), 0, 0);
	poke(f, q->desc, desc, 16);
	poke(f, q->driver + 4 + q->next_avail % q->size * 2u, head, 2);
	le16_put(idx, (uint16_t)(q->next_avail + 1));
	poke(f, q->driver + 2, idx, 2);
	kick(f, 1);
}

/* A frame for the guest, with work left to do that a link has judged. */
static void net_input(struct fuzz *f, struct input *in) {
	struct net_device port = virtio_net_port(f->net);
	static uint8_t data[FRAME_MAX];
	uint8_t shape = (uint8_t)take(in, 1);
	size_t len = shape & 1 ? take(in, 2) : 0, n = MIN(in->len, 120u);
	len = MAX(len, n);
	memset(data, 0, sizeof(data));
	memcpy(data, in->p, n);
	in->p += n;
	in->len -= n;
	struct frame frame = {.data = data, .len = len, .csum = shape & 2, .ecn = shape & 4};
	frame.csum_start = (uint16_t)take(in, 1);
	frame.csum_offset = (uint16_t)take(in, 1);
	frame.gso = (enum frame_gso)(shape >> 4 & 3);
	frame.gso_size = (uint16_t)take(in, 2);
	if (frame_valid(&frame))
		port.receive(port.dev, &frame);
	if (shape & 8)
		fake_clock_set(&f->time, f->time.now_ns + (port.flush(port.dev) & 0xfffff));
	port.flush(port.dev);
	f->room = take(in, 1);
	port.writable(port.dev);
	if (shape & 8)
		port.set_link(port.dev, f->room & 2);
}

static void console_input(struct fuzz *f, struct input *in) {
	if (f->net)
		net_input(f, in);
	if (f->vsock)
		stream_input(f, in);
	if (f->balloon)
		virtio_balloon_set_target(f->balloon, take(in, 3) << 12);
	if (!f->console)
		return;
	struct char_device port = virtio_console_port(f->console, (unsigned)take(in, 1) & 1);
	size_t n = (size_t)take(in, 1);
	n = MIN(n, in->len);
	if (port.receive(port.dev, in->p, n) > n)
		abort();
	f->room = take(in, 2);
	port.writable(port.dev);
	if (f->room & 2)
		virtio_console_set_open(f->console, 1, f->room & 4);
	if (f->room & 1)
		virtio_console_resize(f->console, (uint16_t)take(in, 1), (uint16_t)take(in, 1));
}

/* Saves, perhaps damages a byte, and loads. */
static void save_load(struct fuzz *f, struct input *in) {
	static uint8_t buf[STATE_MAX];
	struct state_io io;
	state_io_save(&io, buf, sizeof(buf));
	vm_state(&f->vm, &io);
	if (io.error || io.pos > sizeof(buf))
		abort();
	size_t size = io.pos;
	uint32_t damage = (uint32_t)take(in, 3);
	if (damage & 1 && size)
		buf[(damage >> 9) % size] ^= (uint8_t)(damage >> 1);
	if (damage & 2)
		vm_reset(&f->vm);
	while (damage & 4 && f->nwaiting) /* or the load is refused */
		disk_complete(f, 0, 0);
	state_io_load(&io, buf, size);
	vm_state(&f->vm, &io);
	if (io.error)
		vm_reset(&f->vm);
}

static void step(struct fuzz *f, struct input *in) {
	static const uint8_t sizes[] = {1, 2, 4, 8};
	uint8_t op = (uint8_t)take(in, 1);
	gpa_t at;
	switch (op % 16) {
	case 0:
		at = f->regs + take(in, 2) % (f->pci ? 0x6000 : VIRTIO_MMIO_SIZE);
		mem_io_write(&f->vm.mem, at, sizes[op >> 6], take(in, 4));
		break;
	case 1:
		at = f->regs + take(in, 2) % (f->pci ? 0x6000 : VIRTIO_MMIO_SIZE);
		mem_io_read(&f->vm.mem, at, sizes[op >> 6]);
		break;
	case 2:
		at = ECAM + (DEVFN << 12) + (take(in, 1) & 0xff);
		mem_io_write(&f->vm.mem, at, sizes[(op >> 6) % 3], take(in, 4));
		mem_io_read(&f->vm.mem, at, 4);
		break;
	case 3: {
		gpa_t gpa = take(in, 2);
		size_t n = take(in, 1) & 63;
		n = MIN(n, in->len);
		poke(f, gpa, in->p, n);
		in->p += n;
		in->len -= n;
		break;
	}
	case 4:
	case 5:
		put_desc(f, in);
		break;
	case 6:
		put_avail(f, in);
		break;
	case 7:
		kick(f, (unsigned)take(in, 1));
		break;
	case 8:
		f->immediate = op & 0x80;
		disk_complete(f, (unsigned)take(in, 1), op & 0x40 ? -ERR_IO : 0);
		break;
	case 9:
		console_input(f, in);
		break;
	case 10:
		fake_clock_set(&f->time, f->time.now_ns + take(in, 1));
		break;
	case 11:
		save_load(f, in);
		break;
	case 12:
		quick_start(f, take(in, 5) & f->dev->features, (uint16_t)(op & 0x80 ? 16 : take(in, 1)));
		break;
	case 13:
	case 14:
		if (f->vsock && op & 0x80)
			put_packet(f, in);
		else
			put_chain(f, in);
		break;
	default:
		if (op & 0x80)
			vm_reset(&f->vm);
		else
			status(f, (uint8_t)take(in, 1));
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	static struct fuzz f;
	struct input in = {data, len};
	make(&f, (uint8_t)take(&in, 1));
	quick_start(&f, take(&in, 5) & f.dev->features, 16);
	for (unsigned i = 0; in.len && i < OPS_MAX; i++)
		step(&f, &in);
	finish(&f);
	return 0;
}
