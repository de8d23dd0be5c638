/* What every virtio device shares, whatever it does and wherever it is attached
 * ([VIRTIO1.2 2.1], [VIRTIO1.2 3.1]): status and feature handshake, configuration
 * space, queues, the way to be broken. A device (blk.c, console.c, rng.c) embeds struct
 * virtio_device; a transport (pci.c, mmio.c) attaches to it. VM lock held throughout. */
#ifndef CORE_VIRTIO_DEVICE_H
#define CORE_VIRTIO_DEVICE_H

#include "core/virtio/queue.h"
#include "core/vm/timer.h"

struct vm;

#define VIRTIO_ID_NET 1
#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG 4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_VSOCK 19

#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_PACKED 34

#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER 2u
#define VIRTIO_STATUS_DRIVER_OK 4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED 128u

#define VIRTIO_ISR_QUEUE 1u
#define VIRTIO_ISR_CONFIG 2u

#define VIRTIO_NO_VECTOR 0xffffu
#define VIRTIO_CONFIG_SIZE 64
#define VIRTIO_QUEUES 64

/* What a device does. `self` is the device's own struct. */
struct virtio_device_ops {
	const char *name;
	uint16_t id;
	/* The driver made buffers available in an enabled queue of a live device. */
	void (*notify)(void *self, unsigned queue);
	/* The driver is ready (DRIVER_OK), before the first notification; may be NULL. */
	void (*started)(void *self);
	/* The driver wrote into the configuration space; may be NULL. */
	void (*config_write)(void *self, unsigned off, unsigned size, uint32_t val);
	/* Forgets everything from before; chains that it holds are stale. May be NULL. */
	void (*reset)(void *self);
	/* A back end still works on buffers from before the reset; may be NULL. */
	bool (*busy)(void *self);
	/* Fields beyond those of struct virtio_device; may be NULL. */
	void (*state)(struct state_io *io, void *self);
	/* After a load: take up again what was in work; may be NULL. */
	void (*loaded)(void *self);
};

/* How an interrupt leaves. `q` is NULL for a configuration change. */
struct virtio_transport_ops {
	void (*interrupt)(void *transport, struct virtqueue *q);
	/* The driver works with the device from now on, or not any more; may be NULL. */
	void (*live)(void *transport, bool on);
};

struct virtio_device {
	const struct virtio_device_ops *ops;
	void *self;
	struct mem_space *mem;
	struct vm_timers *timers;
	struct vm_timer again; /* continues queues whose budget ran out */
	const struct virtio_transport_ops *transport;
	void *transport_self;
	struct virtqueue *vq;
	unsigned nvq;
	uint64_t features; /* offered */
	uint64_t driver_features;
	uint32_t features_sel, driver_features_sel;
	uint16_t queue_sel;
	uint16_t config_vector;
	uint8_t status;
	uint8_t draining; /* the status shown until the back end let go after a reset */
	uint8_t isr;
	uint8_t generation; /* of config */
	uint8_t config[VIRTIO_CONFIG_SIZE];
	uint32_t failures; /* how often the guest broke it, for rate limiting */
};

/* For devices. `features` are the device's own; those of the rings are added. Returns
 * false when out of memory. */
bool virtio_device_init(struct virtio_device *d, struct vm *vm, const struct virtio_device_ops *ops,
						void *self, uint64_t features, unsigned nvq, uint16_t queue_size);
/* The driver is ready and has not broken anything. */
static inline bool virtio_device_live(const struct virtio_device *d) {
	return (d->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) ==
		   VIRTIO_STATUS_DRIVER_OK;
}
static inline bool virtio_device_has(const struct virtio_device *d, unsigned feature) {
	return d->driver_features >> feature & 1;
}
/* The guest did what cannot be served: nothing moves until it resets the device. */
void virtio_device_fail(struct virtio_device *d, unsigned queue, const char *why);
/* The configuration space changed. */
void virtio_device_config_changed(struct virtio_device *d);
void virtio_device_interrupt(struct virtio_device *d, struct virtqueue *q);
/* Serves queues marked `again` when the lock has been free for a moment. */
void virtio_device_again(struct virtio_device *d);

/* For transports. Reads and writes of registers that they have in common. */
void virtio_device_attach(struct virtio_device *d, const struct virtio_transport_ops *ops,
						  void *transport);
void virtio_device_reset(struct virtio_device *d);
uint8_t virtio_status_read(struct virtio_device *d);
void virtio_status_write(struct virtio_device *d, uint8_t val);
uint32_t virtio_features_read(const struct virtio_device *d);
uint32_t virtio_driver_features_read(const struct virtio_device *d);
void virtio_driver_features_write(struct virtio_device *d, uint32_t val);
/* The selected queue, or NULL. */
struct virtqueue *virtio_selected_queue(struct virtio_device *d);
/* Registers of the selected queue. Ignored once it is enabled. */
void virtio_queue_set_size(struct virtio_device *d, uint32_t size);
void virtio_queue_set_half(struct virtio_device *d, uint64_t *addr, bool high, uint32_t val);
void virtio_queue_enable(struct virtio_device *d, bool on);
/* The driver's doorbell. */
void virtio_queue_notify(struct virtio_device *d, unsigned queue);
uint32_t virtio_config_read(const struct virtio_device *d, uint64_t off, unsigned size);
void virtio_config_write(struct virtio_device *d, uint64_t off, unsigned size, uint32_t val);
void virtio_device_state(struct state_io *io, struct virtio_device *d);
void virtio_device_loaded(struct virtio_device *d);

#endif
