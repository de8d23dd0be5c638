/* virtio over MMIO, register layout version 2 ([VIRTIO1.2 4.2.2]). For the board without
 * PCI; found through the command line or ACPI's LNRO0005.
 *
 * Registers below 0x100 are accessed as aligned 32-bit words, other accesses read 0 and
 * write nothing; the configuration space takes every size. Left out: version 1 (legacy),
 * shared memory (length all ones: none), queue reset. VM lock held. */
#include "core/virtio/mmio.h"

#include "core/vm/vm.h"

enum {
	MAGIC = 0x000,
	VERSION = 0x004,
	DEVICE_ID = 0x008,
	VENDOR_ID = 0x00c,
	DEVICE_FEATURES = 0x010,
	DEVICE_FEATURES_SEL = 0x014,
	DRIVER_FEATURES = 0x020,
	DRIVER_FEATURES_SEL = 0x024,
	QUEUE_SEL = 0x030,
	QUEUE_NUM_MAX = 0x034,
	QUEUE_NUM = 0x038,
	QUEUE_READY = 0x044,
	QUEUE_NOTIFY = 0x050,
	INTERRUPT_STATUS = 0x060,
	INTERRUPT_ACK = 0x064,
	STATUS = 0x070,
	QUEUE_DESC_LOW = 0x080,
	QUEUE_DESC_HIGH = 0x084,
	QUEUE_DRIVER_LOW = 0x090,
	QUEUE_DRIVER_HIGH = 0x094,
	QUEUE_DEVICE_LOW = 0x0a0,
	QUEUE_DEVICE_HIGH = 0x0a4,
	SHM_LEN_LOW = 0x0b0,
	SHM_LEN_HIGH = 0x0b4,
	SHM_BASE_LOW = 0x0b8,
	SHM_BASE_HIGH = 0x0bc,
	CONFIG_GENERATION = 0x0fc,
	CONFIG = 0x100,
};

#define MAGIC_VALUE 0x74726976u /* "virt" */
#define VENDOR_VALUE 0x54534a4au

struct virtio_mmio {
	struct virtio_device *dev;
	struct mem_region mem;
	struct irq_line line;
	struct mem_bell *bells; /* one a queue */
};

static void update_line(struct virtio_mmio *t) {
	irq_set(&t->line, t->dev->isr != 0);
}

static void interrupt(void *transport, struct virtqueue *q) {
	struct virtio_mmio *t = transport;
	t->dev->isr |= q ? VIRTIO_ISR_QUEUE : VIRTIO_ISR_CONFIG;
	update_line(t);
}

static void live(void *transport, bool on) {
	struct virtio_mmio *t = transport;
	mem_set_bells(t->dev->mem, &t->mem, t->bells, on ? t->dev->nvq : 0);
}

static const struct virtio_transport_ops transport_ops = {interrupt, live};

static uint32_t read_register(struct virtio_mmio *t, uint64_t off) {
	struct virtio_device *d = t->dev;
	struct virtqueue *q = virtio_selected_queue(d);
	switch (off) {
	case MAGIC:
		return MAGIC_VALUE;
	case VERSION:
		return 2;
	case DEVICE_ID:
		return d->ops->id;
	case VENDOR_ID:
		return VENDOR_VALUE;
	case DEVICE_FEATURES:
		return virtio_features_read(d);
	case QUEUE_NUM_MAX:
		return q ? q->max_size : 0;
	case QUEUE_READY:
		return q && q->enabled;
	case INTERRUPT_STATUS:
		return d->isr;
	case STATUS:
		return virtio_status_read(d);
	case SHM_LEN_LOW:
	case SHM_LEN_HIGH:
	case SHM_BASE_LOW:
	case SHM_BASE_HIGH:
		return 0xffffffff;
	case CONFIG_GENERATION:
		return d->generation;
	default:
		return 0;
	}
}

static void write_register(struct virtio_mmio *t, uint64_t off, uint32_t val) {
	struct virtio_device *d = t->dev;
	struct virtqueue *q = virtio_selected_queue(d);
	switch (off) {
	case DEVICE_FEATURES_SEL:
		d->features_sel = val;
		break;
	case DRIVER_FEATURES:
		virtio_driver_features_write(d, val);
		break;
	case DRIVER_FEATURES_SEL:
		d->driver_features_sel = val;
		break;
	case QUEUE_SEL:
		d->queue_sel = val > 0xffff ? 0xffff : (uint16_t)val;
		break;
	case QUEUE_NUM:
		virtio_queue_set_size(d, val);
		break;
	case QUEUE_READY:
		virtio_queue_enable(d, val & 1);
		break;
	case QUEUE_NOTIFY:
		virtio_queue_notify(d, val);
		break;
	case INTERRUPT_ACK:
		d->isr &= (uint8_t)~val;
		update_line(t);
		break;
	case STATUS:
		virtio_status_write(d, (uint8_t)val);
		update_line(t);
		break;
	case QUEUE_DESC_LOW:
	case QUEUE_DESC_HIGH:
		if (q)
			virtio_queue_set_half(d, &q->desc, off == QUEUE_DESC_HIGH, val);
		break;
	case QUEUE_DRIVER_LOW:
	case QUEUE_DRIVER_HIGH:
		if (q)
			virtio_queue_set_half(d, &q->driver, off == QUEUE_DRIVER_HIGH, val);
		break;
	case QUEUE_DEVICE_LOW:
	case QUEUE_DEVICE_HIGH:
		if (q)
			virtio_queue_set_half(d, &q->device, off == QUEUE_DEVICE_HIGH, val);
		break;
	}
}

static uint64_t mmio_read(void *dev, uint64_t off, unsigned size) {
	struct virtio_mmio *t = dev;
	if (off >= CONFIG)
		return virtio_config_read(t->dev, off - CONFIG, size);
	return size == 4 && !(off & 3) ? read_register(t, off) : 0;
}

static void mmio_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct virtio_mmio *t = dev;
	if (off >= CONFIG)
		virtio_config_write(t->dev, off - CONFIG, size, (uint32_t)val);
	else if (size == 4 && !(off & 3))
		write_register(t, off, (uint32_t)val);
}

static const struct io_ops mmio_ops = {mmio_read, mmio_write, 1, 4};

static void mmio_reset(void *self) {
	struct virtio_mmio *t = self;
	virtio_device_reset(t->dev);
	update_line(t);
}

static void mmio_state(struct state_io *io, void *self) {
	virtio_device_state(io, ((struct virtio_mmio *)self)->dev);
}

static void mmio_loaded(void *self) {
	struct virtio_mmio *t = self;
	update_line(t);
	virtio_device_loaded(t->dev);
}

static const struct device_ops device_ops = {"virtio-mmio", 1, mmio_reset, mmio_state, mmio_loaded};

struct virtio_mmio *virtio_mmio_create(struct vm *vm, struct virtio_device *d, gpa_t base,
									   const struct irq_line *line, unsigned instance) {
	struct virtio_mmio *t = vm_alloc(vm, sizeof(*t));
	struct mem_bell *bells = vm_alloc(vm, d->nvq * sizeof(*bells));
	if (!t || !bells)
		return NULL;
	for (unsigned i = 0; i < d->nvq; i++)
		bells[i] = (struct mem_bell){QUEUE_NOTIFY, 4, i};
	t->bells = bells;
	t->dev = d;
	t->line = *line;
	t->mem = (struct mem_region){.name = d->ops->name,
								 .base = base,
								 .size = VIRTIO_MMIO_SIZE,
								 .kind = MEM_MMIO,
								 .priority = 1,
								 .ops = &mmio_ops,
								 .dev = t};
	virtio_device_attach(d, &transport_ops, t);
	mem_add(&vm->mem, &t->mem);
	vm_add_device(vm, &device_ops, instance, t);
	return t;
}
