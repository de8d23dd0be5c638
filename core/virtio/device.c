/* The part of a virtio device that does not depend on what it is; see device.h.
 * [VIRTIO1.2 2.1] status, [VIRTIO1.2 2.2] features, [VIRTIO1.2 2.4] reset,
 * [VIRTIO1.2 2.5] configuration space, [VIRTIO1.2 3.1] the handshake.
 *
 * Left out: legacy and transitional devices, VIRTIO_F_RING_RESET, shared memory regions,
 * VIRTIO_F_ACCESS_PLATFORM (there is no IOMMU in front of it).
 *
 * Called with the VM lock held: by transports on a vCPU's thread, by back ends and the
 * timer on the host's. */
#include "core/virtio/device.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/vm/vm.h"

#define RING_FEATURES                                                                              \
	(BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_VERSION_1) |             \
	 BIT(VIRTIO_F_RING_PACKED))

static void serve_again(void *opaque) {
	struct virtio_device *d = opaque;
	for (unsigned i = 0; i < d->nvq; i++) {
		if (d->vq[i].again)
			virtio_queue_notify(d, i);
	}
}

bool virtio_device_init(struct virtio_device *d, struct vm *vm, const struct virtio_device_ops *ops,
						void *self, uint64_t features, unsigned nvq, uint16_t queue_size) {
	check(nvq <= VIRTIO_QUEUES && is_pow2(queue_size) && queue_size <= VIRTQ_SIZE_MAX);
	d->ops = ops;
	d->self = self;
	d->mem = &vm->mem;
	d->timers = &vm->timers;
	d->features = features | RING_FEATURES;
	d->nvq = nvq;
	d->config_vector = VIRTIO_NO_VECTOR;
	d->vq = vm_alloc(vm, nvq * sizeof(*d->vq));
	if (!d->vq)
		return false;
	for (unsigned i = 0; i < nvq; i++)
		virtqueue_init(&d->vq[i], d, i, queue_size);
	timer_init(&d->again, serve_again, d);
	return true;
}

void virtio_device_attach(struct virtio_device *d, const struct virtio_transport_ops *ops,
						  void *transport) {
	check(!d->transport);
	d->transport = ops;
	d->transport_self = transport;
}

void virtio_device_interrupt(struct virtio_device *d, struct virtqueue *q) {
	if (d->transport)
		d->transport->interrupt(d->transport_self, q);
}

void virtio_device_config_changed(struct virtio_device *d) {
	d->generation++;
	if (d->status & VIRTIO_STATUS_DRIVER_OK)
		virtio_device_interrupt(d, NULL);
}

void virtio_device_fail(struct virtio_device *d, unsigned queue, const char *why) {
	if (d->status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	d->status |= VIRTIO_STATUS_NEEDS_RESET;
	/* The 1st, 2nd, 4th, 8th ... time: a guest that does this in a loop fills no disk. */
	if (is_pow2(++d->failures))
		log_line(LOG_WARN, "%s: queue %u: the guest gave %s; the device waits to be reset (%u)",
				 d->ops->name, queue, why, d->failures);
	/* [VIRTIO1.2 2.1.2] tell a driver that is at work */
	if (d->status & VIRTIO_STATUS_DRIVER_OK)
		virtio_device_interrupt(d, NULL);
}

static void set_live(struct virtio_device *d, bool on) {
	if (d->transport && d->transport->live)
		d->transport->live(d->transport_self, on);
}

void virtio_device_again(struct virtio_device *d) {
	if (!timer_armed(&d->again))
		timer_arm(d->timers, &d->again, timers_now(d->timers));
}

void virtio_device_reset(struct virtio_device *d) {
	uint8_t before = d->status ? d->status : d->draining;
	d->status = d->isr = 0;
	d->driver_features = 0;
	d->features_sel = d->driver_features_sel = 0;
	d->queue_sel = 0;
	d->config_vector = VIRTIO_NO_VECTOR;
	timer_cancel(&d->again);
	for (unsigned i = 0; i < d->nvq; i++)
		virtqueue_reset(&d->vq[i]);
	if (d->ops->reset)
		d->ops->reset(d->self);
	/* [VIRTIO1.2 2.4.1] memory is the driver's again only when it reads 0: not while a
	 * back end may still write to it. */
	d->draining = d->ops->busy && d->ops->busy(d->self) ? before : 0;
	set_live(d, false);
}

uint8_t virtio_status_read(struct virtio_device *d) {
	if (d->draining && !(d->ops->busy && d->ops->busy(d->self)))
		d->draining = 0;
	return d->status ? d->status : d->draining;
}

/* [VIRTIO1.2 2.2.2] everything accepted must have been offered, and we are not legacy. */
static bool features_acceptable(const struct virtio_device *d) {
	return !(d->driver_features & ~d->features) && virtio_device_has(d, VIRTIO_F_VERSION_1);
}

void virtio_status_write(struct virtio_device *d, uint8_t val) {
	if (!val) {
		virtio_device_reset(d);
		return;
	}
	/* [VIRTIO1.2 2.1.1] a driver sets bits and never clears one but by reset. */
	uint8_t fresh = val & (uint8_t)~d->status;
	fresh &= VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
			 VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FAILED;
	if ((fresh & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(d))
		fresh &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
	d->status |= fresh & (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
	if (!(fresh & VIRTIO_STATUS_DRIVER_OK) || !(d->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	d->status |= VIRTIO_STATUS_DRIVER_OK;
	set_live(d, true);
	if (d->ops->started)
		d->ops->started(d->self);
	/* A ring found bad before this moment could not say so. */
	if (d->status & VIRTIO_STATUS_NEEDS_RESET)
		virtio_device_interrupt(d, NULL);
	/* Some drivers ring the bell too early; look at what they left. */
	for (unsigned i = 0; i < d->nvq; i++)
		virtio_queue_notify(d, i);
}

uint32_t virtio_features_read(const struct virtio_device *d) {
	return d->features_sel < 2 ? (uint32_t)(d->features >> (32 * d->features_sel)) : 0;
}

uint32_t virtio_driver_features_read(const struct virtio_device *d) {
	return d->driver_features_sel < 2
			   ? (uint32_t)(d->driver_features >> (32 * d->driver_features_sel))
			   : 0;
}

void virtio_driver_features_write(struct virtio_device *d, uint32_t val) {
	if (d->driver_features_sel > 1 || (d->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	unsigned shift = 32 * d->driver_features_sel;
	d->driver_features &= ~(0xffffffffull << shift);
	d->driver_features |= (uint64_t)val << shift;
}

struct virtqueue *virtio_selected_queue(struct virtio_device *d) {
	return d->queue_sel < d->nvq ? &d->vq[d->queue_sel] : NULL;
}

void virtio_queue_set_size(struct virtio_device *d, uint32_t size) {
	struct virtqueue *q = virtio_selected_queue(d);
	/* One that is too large becomes 0, with which it cannot be enabled. */
	if (q && !q->enabled)
		q->size = size <= q->max_size ? (uint16_t)size : 0;
}

void virtio_queue_set_half(struct virtio_device *d, uint64_t *addr, bool high, uint32_t val) {
	struct virtqueue *q = virtio_selected_queue(d);
	if (!q || q->enabled)
		return;
	if (high)
		*addr = (*addr & 0xffffffffull) | (uint64_t)val << 32;
	else
		*addr = (*addr & ~0xffffffffull) | val;
}

void virtio_queue_enable(struct virtio_device *d, bool on) {
	struct virtqueue *q = virtio_selected_queue(d);
	/* Before FEATURES_OK the ring's format is not known ([VIRTIO1.2 3.1.1]). */
	if (q && (!on || (d->status & VIRTIO_STATUS_FEATURES_OK)))
		virtqueue_enable(q, on);
}

void virtio_queue_notify(struct virtio_device *d, unsigned queue) {
	if (queue >= d->nvq || !virtio_device_live(d) || !d->vq[queue].enabled)
		return;
	d->vq[queue].again = false;
	virtqueue_refresh(&d->vq[queue]);
	d->ops->notify(d->self, queue);
}

uint32_t virtio_config_read(const struct virtio_device *d, uint64_t off, unsigned size) {
	uint8_t buf[4] = {0};
	for (unsigned i = 0; i < MIN(size, 4u); i++)
		buf[i] = off + i < VIRTIO_CONFIG_SIZE ? d->config[off + i] : 0;
	return le32_get(buf);
}

void virtio_config_write(struct virtio_device *d, uint64_t off, unsigned size, uint32_t val) {
	if (off < VIRTIO_CONFIG_SIZE && size <= VIRTIO_CONFIG_SIZE - off && d->ops->config_write)
		d->ops->config_write(d->self, (unsigned)off, size, val);
}

void virtio_device_state(struct state_io *io, struct virtio_device *d) {
	uint16_t id = d->ops->id;
	uint32_t nvq = d->nvq;
	state_u16(io, "id", &id);
	state_u32(io, "queues", &nvq);
	if (io->loading && !io->error && (id != d->ops->id || nvq != d->nvq)) {
		state_fail(io, "the state of another kind of virtio device");
		return;
	}
	if (io->loading && d->ops->busy && d->ops->busy(d->self)) {
		state_fail(io, "requests are in work: drain the back end before loading");
		return;
	}
	state_u64(io, "driver_features", &d->driver_features);
	state_u32(io, "features_sel", &d->features_sel);
	state_u32(io, "driver_features_sel", &d->driver_features_sel);
	state_u16(io, "queue_sel", &d->queue_sel);
	state_u16(io, "config_vector", &d->config_vector);
	state_u8(io, "status", &d->status);
	state_u8(io, "isr", &d->isr);
	state_u8(io, "generation", &d->generation);
	if (io->loading && !io->error) {
		d->draining = 0;
		d->isr &= VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG;
		timer_cancel(&d->again);
		if ((d->status & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(d))
			state_fail(io, "it uses features that this device does not offer");
		else if ((d->status & VIRTIO_STATUS_DRIVER_OK) && !(d->status & VIRTIO_STATUS_FEATURES_OK))
			state_fail(io, "an impossible status");
	}
	for (unsigned i = 0; i < d->nvq; i++) {
		virtqueue_state(io, &d->vq[i]);
		if (io->loading && d->vq[i].enabled && !(d->status & VIRTIO_STATUS_FEATURES_OK))
			state_fail(io, "a queue enabled before its features were agreed on");
	}
	if (d->ops->state)
		d->ops->state(io, d->self);
}

void virtio_device_loaded(struct virtio_device *d) {
	set_live(d, d->status & VIRTIO_STATUS_DRIVER_OK);
	if (d->ops->loaded)
		d->ops->loaded(d->self);
	/* What was made available while the budget or the requests had run out. */
	for (unsigned i = 0; i < d->nvq; i++)
		virtio_queue_notify(d, i);
}
