/* The virtio devices and NVMe disks that the config asks for; how they are attached is the
 * board's business. */
#include "core/base/string.h"
#include "core/board/parts.h"
#include "core/nvme/nvme.h"
#include "core/virtio/blk.h"
#include "core/virtio/rng.h"

#define SLOT_NETS 0x18u
#define SLOT_BALLOON 0x1cu
#define SLOT_VSOCK 0x1du

struct adder {
	struct board *b;
	board_attach *attach;
	unsigned index;
};

static bool add_at(struct adder *a, struct virtio_device *d, const char *name, unsigned slot) {
	return d && a->attach(a->b, d, name, a->index++, slot);
}

static bool add(struct adder *a, struct virtio_device *d, const char *name) {
	return add_at(a, d, name, a->index + 1);
}

/* One device: port 0 is the console if there is one, the channels follow. */
static bool add_console(struct adder *a) {
	const struct board_config *c = &a->b->config;
	struct virtio_console_port_options ports[1 + BOARD_CHANNELS];
	unsigned n = 0;
	if (c->console.write)
		ports[n++] = (struct virtio_console_port_options){.console = true, .backend = c->console};
	a->b->first_channel = n;
	for (unsigned i = 0; i < c->nchannels; i++)
		ports[n++] = (struct virtio_console_port_options){
			.name = c->channels[i].name, .closed = true, .backend = c->channels[i].backend};
	a->b->console = virtio_console_create(a->b->vm, ports, n);
	return a->b->console && add(a, virtio_console_device(a->b->console), "virtio-console");
}

/* One queue (or pair of them) a processor, within reason. */
static unsigned queues(const struct board *b) {
	return b->config.cpus < 4 ? b->config.cpus : 4;
}

static bool add_net(struct adder *a, unsigned i) {
	const struct board_net *c = &a->b->config.nets[i];
	struct virtio_net_options o = {.backend = c->backend, .mtu = c->mtu, .pairs = queues(a->b)};
	memcpy(o.mac, c->mac, sizeof(o.mac));
	a->b->nets[i] = virtio_net_create(a->b->vm, &o);
	return a->b->nets[i] &&
		   add_at(a, virtio_net_device(a->b->nets[i]), "virtio-net", SLOT_NETS + i);
}

/* An NVMe controller takes the slot that the disk would have as a virtio device. */
static bool add_disk(struct adder *a, unsigned i) {
	struct board *b = a->b;
	const struct block_backend *disk = b->config.disks[i];
	if (!b->config.disk_nvme[i])
		return add(a, virtio_blk_create(b->vm, disk, queues(b)), "virtio-blk");
	unsigned slot = ++a->index;
	board_part(b, "nvme", "pci 00:%02x.0", slot);
	return nvme_create(b->vm, &b->pci, disk, PCI_DEVFN(slot, 0));
}

static bool add_balloon(struct adder *a) {
	struct balloon_backend be = {a->b->config.discard, a->b->config.discard_opaque};
	a->b->balloon = virtio_balloon_create(a->b->vm, &be);
	return a->b->balloon &&
		   add_at(a, virtio_balloon_device(a->b->balloon), "virtio-balloon", SLOT_BALLOON);
}

static bool add_vsock(struct adder *a) {
	const struct board_config *c = &a->b->config;
	a->b->vsock = virtio_vsock_create(a->b->vm, c->vsock_cid, &c->vsock);
	return a->b->vsock && add_at(a, virtio_vsock_device(a->b->vsock), "virtio-vsock", SLOT_VSOCK);
}

int board_add_virtio(struct board *b, board_attach *attach, struct err *e) {
	struct adder a = {.b = b, .attach = attach};
	bool ok = true;
	for (unsigned i = 0; i < b->config.ndisks; i++)
		if (b->config.disk_nvme[i] && !b->acpi.pci)
			return err_set(e, ERR_INVAL, "bus=nvme needs PCI: --board pc");
	for (unsigned i = 0; ok && i < b->config.ndisks; i++)
		ok = add_disk(&a, i);
	if (ok && (b->config.console.write || b->config.nchannels))
		ok = add_console(&a);
	if (ok && b->config.rng.fill)
		ok = add(&a, virtio_rng_create(b->vm, &b->config.rng), "virtio-rng");
	for (unsigned i = 0; ok && i < b->config.nnets; i++)
		ok = add_net(&a, i);
	if (ok && b->config.discard)
		ok = add_balloon(&a);
	if (ok && b->config.vsock.connect)
		ok = add_vsock(&a);
	return ok ? 0 : err_set(e, ERR_NOMEM, "no memory for a virtio device");
}
