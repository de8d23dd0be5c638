/* virtio over PCI, modern interface only ([VIRTIO1.2 4.1]): vendor 1af4, device 1040 + id,
 * revision 1. BAR 0 (memory) holds the four structures, BAR 1 the MSI-X table.
 *
 *     0x0000 common configuration     0x1000 ISR status
 *     0x2000 device configuration     0x3000 notifications, 4 bytes a queue
 *
 * Left out: the legacy I/O BAR, notification data, queue reset, shared memory. The
 * bus-master bit is not enforced: a driver that forgets it works all the same.
 * VM lock held. */
#include "core/virtio/pci.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/vm/vm.h"

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040
#define CAP_VENDOR 0x09

#define BAR_REGS 0
#define BAR_MSIX 1
#define BAR_SIZE 0x4000
#define COMMON_OFF 0x0000
#define ISR_OFF 0x1000
#define CONFIG_OFF 0x2000
#define NOTIFY_OFF 0x3000
#define NOTIFY_STRIDE 4

enum cap_type { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI_CFG };

/* struct virtio_pci_cap: offsets in the capability */
enum { CAP_LEN = 2, CAP_TYPE = 3, CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_EXTRA = 16 };

/* Fields of the common configuration ([VIRTIO1.2 4.1.4.3]) */
enum {
	DEVICE_FEATURE_SELECT = 0x00,
	DEVICE_FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_MSIX_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	DEVICE_STATUS = 0x14,
	CONFIG_GENERATION = 0x15,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_MSIX_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
	QUEUE_NOTIFY_DATA = 0x38,
	QUEUE_RESET = 0x3a,
	COMMON_SIZE = 0x3c,
};

struct virtio_pci {
	struct pci_device pci;
	struct virtio_device *dev;
	struct mem_bell *bells; /* one a queue */
	uint8_t cfg_cap;		/* offset of the capability that is a window into BAR 0 */
};

static void update_intx(struct virtio_pci *t) {
	pci_set_intx(&t->pci, t->dev->isr && !pci_msix_enabled(&t->pci));
}

static void interrupt(void *transport, struct virtqueue *q) {
	struct virtio_pci *t = transport;
	if (pci_msix_enabled(&t->pci)) {
		uint16_t vector = q ? q->vector : t->dev->config_vector;
		if (vector < t->pci.msix.nvectors)
			pci_msix_notify(&t->pci, vector);
		return;
	}
	t->dev->isr |= q ? VIRTIO_ISR_QUEUE : VIRTIO_ISR_CONFIG;
	update_intx(t);
}

static void live(void *transport, bool on) {
	struct virtio_pci *t = transport;
	if (t->pci.bus)
		mem_set_bells(t->dev->mem, &t->pci.bar[BAR_REGS].mem, t->bells, on ? t->dev->nvq : 0);
}

static const struct virtio_transport_ops transport_ops = {interrupt, live};

/* The structure as bytes, so that reads of every size and place come out right. */
static uint32_t common_read(struct virtio_pci *t, unsigned off, unsigned size) {
	struct virtio_device *d = t->dev;
	const struct virtqueue *q = virtio_selected_queue(d);
	uint8_t b[COMMON_SIZE + 4] = {0};
	le32_put(b + DEVICE_FEATURE_SELECT, d->features_sel);
	le32_put(b + DEVICE_FEATURE, virtio_features_read(d));
	le32_put(b + DRIVER_FEATURE_SELECT, d->driver_features_sel);
	le32_put(b + DRIVER_FEATURE, virtio_driver_features_read(d));
	le16_put(b + CONFIG_MSIX_VECTOR, d->config_vector);
	le16_put(b + NUM_QUEUES, (uint16_t)d->nvq);
	b[DEVICE_STATUS] = virtio_status_read(d);
	b[CONFIG_GENERATION] = d->generation;
	le16_put(b + QUEUE_SELECT, d->queue_sel);
	le16_put(b + QUEUE_MSIX_VECTOR, q ? q->vector : VIRTIO_NO_VECTOR);
	if (q) { /* a queue that does not exist has size 0 */
		le16_put(b + QUEUE_SIZE, q->size);
		le16_put(b + QUEUE_ENABLE, q->enabled);
		le16_put(b + QUEUE_NOTIFY_OFF, q->index);
		le64_put(b + QUEUE_DESC, q->desc);
		le64_put(b + QUEUE_DRIVER, q->driver);
		le64_put(b + QUEUE_DEVICE, q->device);
	}
	return off + size <= sizeof(b) ? le32_get(b + MIN(off, COMMON_SIZE)) : 0;
}

static uint16_t judge_vector(const struct virtio_pci *t, uint16_t vector) {
	return vector < t->pci.msix.nvectors ? vector : VIRTIO_NO_VECTOR;
}

/* A field is written whole ([VIRTIO1.2 4.1.3.1]); other writes do nothing. */
static void common_write(struct virtio_pci *t, unsigned off, unsigned size, uint32_t val) {
	struct virtio_device *d = t->dev;
	struct virtqueue *q = virtio_selected_queue(d);
	switch (off << 4 | size) {
	case DEVICE_FEATURE_SELECT << 4 | 4:
		d->features_sel = val;
		break;
	case DRIVER_FEATURE_SELECT << 4 | 4:
		d->driver_features_sel = val;
		break;
	case DRIVER_FEATURE << 4 | 4:
		virtio_driver_features_write(d, val);
		break;
	case CONFIG_MSIX_VECTOR << 4 | 2:
		d->config_vector = judge_vector(t, (uint16_t)val);
		break;
	case DEVICE_STATUS << 4 | 1:
		virtio_status_write(d, (uint8_t)val);
		update_intx(t);
		break;
	case QUEUE_SELECT << 4 | 2:
		d->queue_sel = (uint16_t)val;
		break;
	case QUEUE_SIZE << 4 | 2:
		virtio_queue_set_size(d, val & 0xffff);
		break;
	case QUEUE_MSIX_VECTOR << 4 | 2:
		if (q)
			q->vector = judge_vector(t, (uint16_t)val);
		break;
	case QUEUE_ENABLE << 4 | 2:
		if (val == 1) /* [VIRTIO1.2 4.1.4.3.2] 0 must not be written */
			virtio_queue_enable(d, true);
		break;
	case QUEUE_DESC << 4 | 4:
	case (QUEUE_DESC + 4) << 4 | 4:
		if (q)
			virtio_queue_set_half(d, &q->desc, off & 4, val);
		break;
	case QUEUE_DRIVER << 4 | 4:
	case (QUEUE_DRIVER + 4) << 4 | 4:
		if (q)
			virtio_queue_set_half(d, &q->driver, off & 4, val);
		break;
	case QUEUE_DEVICE << 4 | 4:
	case (QUEUE_DEVICE + 4) << 4 | 4:
		if (q)
			virtio_queue_set_half(d, &q->device, off & 4, val);
		break;
	}
}

static uint32_t isr_read(struct virtio_pci *t) {
	uint8_t isr = t->dev->isr;
	t->dev->isr = 0; /* reading acknowledges */
	update_intx(t);
	return isr;
}

static uint64_t regs_read(void *dev, uint64_t off, unsigned size) {
	struct virtio_pci *t = dev;
	if (off < ISR_OFF)
		return common_read(t, (unsigned)off, size);
	if (off == ISR_OFF)
		return isr_read(t);
	if (off >= CONFIG_OFF && off < NOTIFY_OFF)
		return virtio_config_read(t->dev, off - CONFIG_OFF, size);
	return 0;
}

static void regs_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct virtio_pci *t = dev;
	if (off < ISR_OFF)
		common_write(t, (unsigned)off, size, (uint32_t)val);
	else if (off >= NOTIFY_OFF)
		virtio_queue_notify(t->dev, (unsigned)(off - NOTIFY_OFF) / NOTIFY_STRIDE);
	else if (off >= CONFIG_OFF)
		virtio_config_write(t->dev, off - CONFIG_OFF, size, (uint32_t)val);
}

static const struct io_ops regs_ops = {regs_read, regs_write, 1, 4};

/* [VIRTIO1.2 4.1.4.9] an access to pci_cfg_data is one to the BAR, where and as long as
 * the capability's own fields say. For firmware that cannot map BARs. */
static bool window(struct virtio_pci *t, unsigned off, unsigned size, uint32_t *at, uint32_t *len) {
	const uint8_t *cap = t->pci.cfg + t->cfg_cap;
	unsigned data = t->cfg_cap + CAP_EXTRA;
	if (off >= data + 4 || off + size <= data)
		return false;
	*at = le32_get(cap + CAP_OFFSET);
	*len = le32_get(cap + CAP_LENGTH);
	return cap[CAP_BAR] == BAR_REGS && (*len == 1 || *len == 2 || *len == 4) &&
		   !(*at & (*len - 1)) && *at <= BAR_SIZE - *len;
}

static void cfg_written(struct pci_device *pci, unsigned off, unsigned size) {
	struct virtio_pci *t = (struct virtio_pci *)pci;
	uint32_t at, len;
	if (window(t, off, size, &at, &len))
		regs_write(t, at, len, le32_get(pci->cfg + t->cfg_cap + CAP_EXTRA) & size_mask(len));
	update_intx(t); /* MSI-X may have been switched */
}

static bool cfg_read(struct pci_device *pci, unsigned off, unsigned size, uint32_t *val) {
	struct virtio_pci *t = (struct virtio_pci *)pci;
	uint32_t at, len;
	if (window(t, off, size, &at, &len))
		le32_put(pci->cfg + t->cfg_cap + CAP_EXTRA,
				 (uint32_t)(regs_read(t, at, len) & size_mask(len)));
	return false; /* and now as any other register */
}

static uint8_t add_cap(struct virtio_pci *t, enum cap_type type, uint32_t off, uint32_t length,
					   unsigned extra) {
	uint8_t at = pci_add_cap(&t->pci, CAP_VENDOR, CAP_EXTRA + extra);
	uint8_t *cap = t->pci.cfg + at;
	cap[CAP_LEN] = (uint8_t)(CAP_EXTRA + extra);
	cap[CAP_TYPE] = (uint8_t)type;
	cap[CAP_BAR] = BAR_REGS;
	le32_put(cap + CAP_OFFSET, off);
	le32_put(cap + CAP_LENGTH, length);
	return at;
}

static void add_caps(struct virtio_pci *t) {
	add_cap(t, CAP_COMMON, COMMON_OFF, COMMON_SIZE, 0);
	uint8_t notify = add_cap(t, CAP_NOTIFY, NOTIFY_OFF, t->dev->nvq * NOTIFY_STRIDE, 4);
	le32_put(t->pci.cfg + notify + CAP_EXTRA, NOTIFY_STRIDE);
	add_cap(t, CAP_ISR, ISR_OFF, 1, 0);
	add_cap(t, CAP_DEVICE, CONFIG_OFF, VIRTIO_CONFIG_SIZE, 0);
	t->cfg_cap = add_cap(t, CAP_PCI_CFG, 0, 0, 4);
	uint8_t *w = t->pci.writable + t->cfg_cap;
	w[CAP_BAR] = 0xff;
	for (unsigned i = CAP_OFFSET; i < CAP_EXTRA + 4; i++)
		w[i] = 0xff;
}

static void reset(void *self) {
	struct virtio_pci *t = self;
	virtio_device_reset(t->dev);
	pci_device_reset(&t->pci);
	uint8_t *cap = t->pci.cfg + t->cfg_cap;
	cap[CAP_BAR] = BAR_REGS;
	le32_put(cap + CAP_OFFSET, 0);
	le32_put(cap + CAP_LENGTH, 0);
	le32_put(cap + CAP_EXTRA, 0);
	update_intx(t);
}

static void state(struct state_io *io, void *self) {
	struct virtio_pci *t = self;
	pci_device_state(io, &t->pci);
	virtio_device_state(io, t->dev);
	if (!io->loading)
		return;
	t->dev->config_vector = judge_vector(t, t->dev->config_vector);
	for (unsigned i = 0; i < t->dev->nvq; i++)
		t->dev->vq[i].vector = judge_vector(t, t->dev->vq[i].vector);
}

static void loaded(void *self) {
	struct virtio_pci *t = self;
	update_intx(t);
	virtio_device_loaded(t->dev);
}

static const struct device_ops device_ops = {"virtio-pci", 1, reset, state, loaded};

/* What a driver that knows no virtio takes it for, [PCI3.0 D]. */
static uint32_t class_of(uint16_t id) {
	switch (id) {
	case VIRTIO_ID_BLOCK:
		return 0x010000; /* mass storage */
	case VIRTIO_ID_CONSOLE:
		return 0x078000; /* other communication */
	default:
		return 0x00ff00; /* unclassified */
	}
}

struct virtio_pci *virtio_pci_create(struct vm *vm, struct pci_bus *bus, struct virtio_device *d,
									 uint8_t devfn) {
	struct virtio_pci *t = vm_alloc(vm, sizeof(*t));
	struct mem_bell *bells = vm_alloc(vm, d->nvq * sizeof(*bells));
	if (!t || !bells)
		return NULL;
	for (unsigned i = 0; i < d->nvq; i++)
		bells[i] = (struct mem_bell){NOTIFY_OFF + i * NOTIFY_STRIDE, 0, 0};
	t->bells = bells;
	t->dev = d;
	pci_device_init(&t->pci, d->ops->name, VENDOR, (uint16_t)(DEVICE_BASE + d->ops->id),
					class_of(d->ops->id), 1, VENDOR, (uint16_t)(DEVICE_BASE + d->ops->id));
	pci_add_bar(&t->pci, BAR_REGS, PCI_BAR_MEM32, BAR_SIZE, &regs_ops, t);
	pci_add_msix(&t->pci, BAR_MSIX, MIN(d->nvq + 1, PCI_MSIX_VECTORS));
	add_caps(t);
	t->pci.cfg_written = cfg_written;
	t->pci.cfg_read = cfg_read;
	virtio_device_attach(d, &transport_ops, t);
	pci_bus_add(bus, &t->pci, devfn);
	vm_add_device(vm, &device_ops, devfn, t);
	return t;
}

struct pci_device *virtio_pci_device(struct virtio_pci *t) {
	return &t->pci;
}
