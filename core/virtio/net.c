/* virtio network device, id 1 ([VIRTIO1.2 5.1]): checksum and segmentation offload both ways
 * (TCP and UDP), mergeable receive buffers, several queue pairs, the control queue
 * (net_control.c), announcement after a load.
 *
 * Sending: a frame is copied out of the guest's memory into the back end's, then its header
 * is judged; what makes no sense is dropped. A full back end stops the queue, so that the
 * guest's own queueing discipline works. Receiving: what the driver did not agree to take
 * (segments to be cut, checksums to be completed) is done here in software. A frame that needs
 * several buffers appears in the used ring as a whole or not at all.
 *
 * That a few small frames are sent is worth no interrupt: a driver that gets an answer soon looks
 * then what was sent. So such an interrupt waits, until it is not needed any more or for a
 * millisecond; when that was in vain, the next ones do not wait.
 *
 * A flow's frames go to the queue pair on which the guest sends that flow.
 *
 * Left out: RSS, hash reports, UFO, guest header length, receive coalescing of interrupts,
 * SPEED_DUPLEX. VM lock held. */
#include "core/virtio/net.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/net/offload.h"
#include "core/net/packet.h"
#include "core/virtio/net_int.h"
#include "core/vm/vm.h"

#define QUEUE_SIZE 256

/* Interrupts for frames that were sent: how long one waits, for how many slots of the ring and
 * bytes at most (more, and a sender may stand still for want of it), and after how many batches the
 * next one waits when one has waited in vain: the double each time. */
#define OWED_NS 1000000u
#define OWED_SLOTS 16u
#define OWED_BYTES KIB(16)
#define DOUBT_MIN 32u
#define DOUBT_MAX 1024u

/* struct virtio_net_hdr */
#define HEADER_SIZE 12u
enum {
	HDR_FLAGS = 0,
	HDR_GSO_TYPE = 1,
	HDR_HDR_LEN = 2,
	HDR_GSO_SIZE = 4,
	HDR_CSUM_START = 6,
	HDR_CSUM_OFFSET = 8,
	HDR_NUM_BUFFERS = 10,
};
#define HDR_F_NEEDS_CSUM 1u
#define HDR_F_DATA_VALID 2u
#define GSO_TCPV4 1u
#define GSO_TCPV6 4u
#define GSO_UDP_L4 5u
#define GSO_ECN 0x80u

static bool link_up(const struct virtio_net *n) {
	return n->dev.config[NET_CONFIG_STATUS] & NET_STATUS_LINK_UP;
}

static unsigned control_queue(const struct virtio_net *n) {
	/* [VIRTIO1.2 5.1.2] without MQ there is one pair before it */
	return virtio_device_has(&n->dev, NET_F_MQ) ? 2 * n->options.pairs : 2;
}

/* --- sending --- */

static bool gso_of(const struct virtio_net *n, uint8_t type, struct frame *f) {
	unsigned feature;
	switch (type & ~GSO_ECN) {
	case 0:
		return type == 0;
	case GSO_TCPV4:
		f->gso = FRAME_GSO_TCP4;
		feature = NET_F_HOST_TSO4;
		break;
	case GSO_TCPV6:
		f->gso = FRAME_GSO_TCP6;
		feature = NET_F_HOST_TSO6;
		break;
	case GSO_UDP_L4:
		f->gso = FRAME_GSO_UDP;
		feature = NET_F_HOST_USO;
		break;
	default:
		return false;
	}
	f->ecn = type & GSO_ECN;
	return virtio_device_has(&n->dev, feature) &&
		   (!f->ecn || virtio_device_has(&n->dev, NET_F_HOST_ECN));
}

/* Makes the frame of what was copied to `f->data` and of its header. */
static bool judge(const struct virtio_net *n, const uint8_t *header, struct frame *f) {
	f->csum = header[HDR_FLAGS] & HDR_F_NEEDS_CSUM;
	f->csum_start = le16_get(header + HDR_CSUM_START);
	f->csum_offset = le16_get(header + HDR_CSUM_OFFSET);
	f->gso_size = le16_get(header + HDR_GSO_SIZE);
	if (f->csum && !virtio_device_has(&n->dev, NET_F_CSUM))
		return false;
	return gso_of(n, header[HDR_GSO_TYPE], f) && frame_valid(f);
}

static void remember_flow(struct virtio_net *n, const struct frame *f, unsigned pair) {
	struct packet p;
	if (n->pairs > 1 && packet_parse(&p, f->data, f->len))
		n->flows[packet_flow(&p, f->data) % NET_FLOWS] = (uint8_t)(pair + 1);
}

static void send_chain(struct virtio_net *n, unsigned pair, uint8_t *room) {
	const struct virtq_chain *c = &n->chain;
	uint8_t header[HEADER_SIZE];
	struct frame f = {.data = room};
	if (virtq_chain_read(c, 0, header, sizeof(header)) != sizeof(header)) {
		virtio_device_fail(&n->dev, 2 * pair + 1, "a frame without its header");
		return;
	}
	if (!link_up(n) || c->out_len - HEADER_SIZE > FRAME_MAX)
		return;
	f.len = virtq_chain_read(c, HEADER_SIZE, room, (size_t)(c->out_len - HEADER_SIZE));
	if (!judge(n, header, &f))
		return;
	remember_flow(n, &f, pair);
	n->options.backend.send(n->options.backend.opaque, &f);
}

/* Has the driver seen by itself what was sent? */
static void settle(struct virtio_net *n, unsigned pair) {
	struct net_owed *o = &n->owed[pair];
	if (!o->due_ns || virtqueue_owes(&n->dev.vq[2 * pair + 1]))
		return;
	*o = (struct net_owed){0};
	n->doubt = DOUBT_MIN;
}

static void tell(struct virtio_net *n, unsigned pair) {
	n->owed[pair] = (struct net_owed){0};
	virtqueue_notify(&n->dev.vq[2 * pair + 1]);
}

/* After a batch: gives the interrupt, or notes when it is due. */
static void conclude(struct virtio_net *n, unsigned pair, uint64_t bytes) {
	struct virtqueue *q = &n->dev.vq[2 * pair + 1];
	struct net_owed *o = &n->owed[pair];
	o->bytes += bytes;
	bool few = q->unsignalled <= OWED_SLOTS && o->bytes <= OWED_BYTES;
	if (n->hurried || !few || n->tx_waiting & BIT(pair) || !virtqueue_owes(q)) {
		n->hurried -= n->hurried != 0;
		tell(n, pair);
	} else if (!o->due_ns) {
		o->due_ns = timers_now(n->dev.timers) + OWED_NS;
	}
}

/* Until the first one is due. */
static uint64_t owed_ns(const struct virtio_net *n) {
	uint64_t due = UINT64_MAX, now;
	for (unsigned i = 0; i < n->options.pairs; i++)
		if (n->owed[i].due_ns)
			due = MIN(due, n->owed[i].due_ns);
	if (due == UINT64_MAX)
		return due;
	now = timers_now(n->dev.timers);
	return due > now ? due - now : 0;
}

static void transmit(struct virtio_net *n, unsigned pair) {
	struct virtqueue *q = &n->dev.vq[2 * pair + 1];
	const struct net_backend *b = &n->options.backend;
	uint64_t bytes = 0;
	unsigned count = 0;
	if (n->sending)
		return;
	n->sending = true;
	settle(n, pair);
	for (;;) {
		uint8_t *room = b->room(b->opaque);
		if (!room) {
			n->tx_waiting |= 1u << pair;
			break;
		}
		if (!virtqueue_pop(q, &n->chain))
			break;
		send_chain(n, pair, room);
		virtqueue_push(q, &n->chain, 0);
		bytes += n->chain.out_len;
		count++;
	}
	n->sending = false;
	if (!count)
		return;
	conclude(n, pair, bytes);
	b->kick(b->opaque, owed_ns(n));
}

static void writable(void *dev) {
	struct virtio_net *n = dev;
	uint32_t waiting = n->tx_waiting;
	n->tx_waiting = 0;
	for (; waiting; waiting &= waiting - 1) {
		unsigned pair = (unsigned)__builtin_ctz(waiting);
		virtqueue_refresh(&n->dev.vq[2 * pair + 1]);
		transmit(n, pair);
	}
}

/* --- receiving --- */

static void fill_header(uint8_t *h, const struct virtio_net *n, const struct frame *f) {
	memset(h, 0, HEADER_SIZE);
	if (f->csum) {
		h[HDR_FLAGS] = HDR_F_NEEDS_CSUM;
		le16_put(h + HDR_CSUM_START, f->csum_start);
		le16_put(h + HDR_CSUM_OFFSET, f->csum_offset);
	} else if (f->csum_ok && n->guest_offloads & BIT(NET_F_GUEST_CSUM)) {
		h[HDR_FLAGS] = HDR_F_DATA_VALID;
	}
	if (f->gso == FRAME_GSO_NONE)
		return;
	h[HDR_GSO_TYPE] = f->gso == FRAME_GSO_TCP4	 ? GSO_TCPV4
					  : f->gso == FRAME_GSO_TCP6 ? GSO_TCPV6
												 : GSO_UDP_L4;
	if (f->ecn)
		h[HDR_GSO_TYPE] |= GSO_ECN;
	le16_put(h + HDR_GSO_SIZE, f->gso_size);
	/* Enough of it to hold all headers, with options. A hint, and Linux wants it there. */
	size_t head = f->csum_start + 8u;
	if (f->gso != FRAME_GSO_UDP)
		head = f->csum_start + (f->data[f->csum_start + 12] >> 4) * 4u;
	le16_put(h + HDR_HDR_LEN, (uint16_t)head);
}

static struct virtqueue *receive_queue(struct virtio_net *n, const struct frame *f) {
	struct packet p;
	unsigned pair = 0;
	if (n->pairs > 1 && packet_parse(&p, f->data, f->len)) {
		uint32_t flow = packet_flow(&p, f->data);
		uint8_t known = n->flows[flow % NET_FLOWS];
		pair = known && known <= n->pairs ? known - 1u : flow % n->pairs;
	}
	return &n->dev.vq[2 * pair];
}

/* Puts a frame, which the driver takes as it is, into buffers. false: there are too few. */
static bool deliver(struct virtio_net *n, const struct frame *f) {
	struct virtqueue *q = receive_queue(n, f);
	struct virtq_mark mark = virtqueue_mark(q);
	bool merge = virtio_device_has(&n->dev, NET_F_MRG_RXBUF);
	unsigned count = 0;
	size_t off = 0;
	uint8_t header[HEADER_SIZE];
	virtqueue_refresh(q);
	do {
		struct virtq_chain *c = count ? &n->chain : &n->first;
		if (!virtqueue_pop(q, c)) {
			virtqueue_rewind(q, mark);
			return !virtio_device_live(&n->dev);
		}
		size_t head = count ? 0 : HEADER_SIZE;
		if (c->in_len <= head) {
			virtio_device_fail(&n->dev, q->index, "a buffer that no frame fits into");
			return true;
		}
		size_t len = virtq_chain_write(q, c, head, f->data + off, f->len - off);
		off += len;
		n->used[count++] = (struct virtq_used){c->id, c->ndescs, (uint32_t)(head + len)};
	} while (off < f->len && merge && count < NET_MERGE);
	if (off < f->len) { /* larger than what the driver prepared for */
		virtqueue_rewind(q, mark);
		return true;
	}
	fill_header(header, n, f);
	le16_put(header + HDR_NUM_BUFFERS, (uint16_t)count);
	virtq_chain_write(q, &n->first, 0, header, sizeof(header));
	virtqueue_push_all(q, n->first.epoch, n->used, count);
	return true;
}

static bool takes_gso(const struct virtio_net *n, const struct frame *f) {
	uint64_t want = BIT(NET_F_GUEST_CSUM);
	struct packet p;
	if (f->gso == FRAME_GSO_TCP4)
		want |= BIT(NET_F_GUEST_TSO4);
	else if (f->gso == FRAME_GSO_TCP6)
		want |= BIT(NET_F_GUEST_TSO6);
	else if (packet_parse(&p, f->data, f->len))
		want |= p.ip4 ? BIT(NET_F_GUEST_USO4) : BIT(NET_F_GUEST_USO6);
	if (f->ecn)
		want |= BIT(NET_F_GUEST_ECN);
	return (n->guest_offloads & want) == want;
}

struct cut {
	struct virtio_net *n;
	bool stopped;
};

/* Segments for which there is no room are lost, as on a wire: a sender sends them again. */
static void deliver_segment(void *opaque, const struct frame *segment) {
	struct cut *c = opaque;
	if (!c->stopped)
		c->stopped = !deliver(c->n, segment);
}

static bool receive(void *dev, const struct frame *f) {
	struct virtio_net *n = dev;
	struct packet p;
	if (!virtio_device_live(&n->dev) || !link_up(n) || !packet_parse(&p, f->data, f->len) ||
		!net_filter_wants(n, f->data, p.vlan))
		return true;
	if (f->gso != FRAME_GSO_NONE && !takes_gso(n, f)) {
		struct cut cut = {n, false};
		frame_segment(f, n->segment, deliver_segment, &cut);
		n->starved |= cut.stopped;
		return true;
	}
	struct frame whole = *f;
	if (f->csum && !(n->guest_offloads & BIT(NET_F_GUEST_CSUM))) {
		memcpy(n->scratch, f->data, f->len);
		frame_complete(&whole, n->scratch);
	}
	if (deliver(n, &whole))
		return true;
	n->starved = true;
	return false;
}

static uint64_t flush(void *dev) {
	struct virtio_net *n = dev;
	for (unsigned i = 0; i < n->pairs; i++)
		virtqueue_notify(&n->dev.vq[2 * i]);
	for (unsigned i = 0; i < n->options.pairs; i++) {
		settle(n, i);
		if (!n->owed[i].due_ns || n->owed[i].due_ns > timers_now(n->dev.timers))
			continue;
		n->hurried = n->doubt;
		n->doubt = MIN(2 * n->doubt, DOUBT_MAX);
		tell(n, i);
	}
	return owed_ns(n);
}

static void set_link(void *dev, bool up) {
	struct virtio_net *n = dev;
	uint8_t *status = n->dev.config + NET_CONFIG_STATUS;
	if (link_up(n) == up)
		return;
	*status = (uint8_t)(up ? *status | NET_STATUS_LINK_UP : *status & ~NET_STATUS_LINK_UP);
	virtio_device_config_changed(&n->dev);
}

/* --- the device --- */

static void notify(void *self, unsigned queue) {
	struct virtio_net *n = self;
	if (queue == control_queue(n)) {
		if (virtio_device_has(&n->dev, NET_F_CTRL_VQ))
			net_control_run(n, &n->dev.vq[queue]);
	} else if (queue >= 2 * n->pairs) {
		return; /* of a pair that is not in use */
	} else if (queue & 1) {
		transmit(n, queue / 2);
	} else if (n->starved) {
		n->starved = false;
		n->options.backend.readable(n->options.backend.opaque);
	}
}

static void started(void *self) {
	struct virtio_net *n = self;
	n->guest_offloads = n->dev.driver_features & NET_GUEST_OFFLOADS;
}

static void reset(void *self) {
	struct virtio_net *n = self;
	n->pairs = 1;
	n->guest_offloads = 0;
	n->tx_waiting = 0;
	n->starved = false;
	memset(n->owed, 0, sizeof(n->owed));
	n->hurried = 0;
	n->doubt = DOUBT_MIN;
	memset(n->flows, 0, sizeof(n->flows));
	memcpy(n->dev.config + NET_CONFIG_MAC, n->options.mac, 6);
	n->dev.config[NET_CONFIG_STATUS] &= NET_STATUS_LINK_UP;
	net_filter_reset(n);
}

static void state(struct state_io *io, void *self) {
	struct virtio_net *n = self;
	state_bytes(io, "mac", n->dev.config + NET_CONFIG_MAC, 6);
	state_u32_below(io, "pairs", &n->pairs, n->options.pairs + 1);
	state_u64(io, "guest_offloads", &n->guest_offloads);
	net_filter_state(io, &n->filter);
	if (!io->loading)
		return;
	if (!n->pairs)
		n->pairs = 1;
	n->guest_offloads &= n->dev.driver_features & NET_GUEST_OFFLOADS;
	n->tx_waiting = 0;
	memset(n->owed, 0, sizeof(n->owed));
	memset(n->flows, 0, sizeof(n->flows));
}

static void loaded(void *self) {
	struct virtio_net *n = self;
	/* The back end may be another one, on another wire: frames may wait there, and switches
	 * shall learn where this card is now. */
	n->starved = true;
	for (unsigned i = 0; i < n->options.pairs; i++) /* where one waited when it was saved */
		tell(n, i);
	if (!virtio_device_live(&n->dev) || !virtio_device_has(&n->dev, NET_F_GUEST_ANNOUNCE))
		return;
	n->dev.config[NET_CONFIG_STATUS] |= NET_STATUS_ANNOUNCE;
	virtio_device_config_changed(&n->dev);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.notify = notify,
	.started = started,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};

static uint64_t features_of(const struct virtio_net_options *o) {
	uint64_t f = NET_GUEST_OFFLOADS | BIT(NET_F_CSUM) | BIT(NET_F_CTRL_GUEST_OFFLOADS) |
				 BIT(NET_F_MAC) | BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6) |
				 BIT(NET_F_HOST_ECN) | BIT(NET_F_HOST_USO) | BIT(NET_F_MRG_RXBUF) |
				 BIT(NET_F_STATUS) | BIT(NET_F_CTRL_VQ) | BIT(NET_F_CTRL_RX) |
				 BIT(NET_F_CTRL_VLAN) | BIT(NET_F_CTRL_RX_EXTRA) | BIT(NET_F_GUEST_ANNOUNCE) |
				 BIT(NET_F_CTRL_MAC_ADDR);
	if (o->mtu)
		f |= BIT(NET_F_MTU);
	if (o->pairs > 1)
		f |= BIT(NET_F_MQ);
	return f;
}

struct virtio_net *virtio_net_create(struct vm *vm, const struct virtio_net_options *o) {
	check(o->pairs >= 1 && o->pairs <= VIRTIO_NET_PAIRS);
	struct virtio_net *n = vm_alloc(vm, sizeof(*n));
	if (!n ||
		!virtio_device_init(&n->dev, vm, &ops, n, features_of(o), 2 * o->pairs + 1, QUEUE_SIZE))
		return NULL;
	n->options = *o;
	le16_put(n->dev.config + NET_CONFIG_PAIRS, (uint16_t)o->pairs);
	le16_put(n->dev.config + NET_CONFIG_MTU, o->mtu);
	n->dev.config[NET_CONFIG_STATUS] = NET_STATUS_LINK_UP;
	reset(n);
	return n;
}

struct virtio_device *virtio_net_device(struct virtio_net *n) {
	return &n->dev;
}

struct net_device virtio_net_port(struct virtio_net *n) {
	return (struct net_device){receive, flush, writable, set_link, n};
}
