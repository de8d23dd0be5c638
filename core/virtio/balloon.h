/* virtio memory balloon. */
#ifndef CORE_VIRTIO_BALLOON_H
#define CORE_VIRTIO_BALLOON_H

#include "core/virtio/device.h"

struct virtio_balloon;

/* Who gets memory back that the guest does not use. */
struct balloon_backend {
	/* [host, host + len), whole pages of guest RAM: afterwards they are zero or what they were,
	 * and cost nothing until they are touched. */
	void (*discard)(void *opaque, uint8_t *host, uint64_t len);
	void *opaque;
};

struct virtio_balloon_stats {
	uint64_t target, actual; /* bytes wanted from the guest, and given by it */
	uint64_t reported;		 /* bytes that free page reporting gave back, ever */
};

/* NULL: out of memory. */
struct virtio_balloon *virtio_balloon_create(struct vm *vm, const struct balloon_backend *b);
/* To attach to a transport. */
struct virtio_device *virtio_balloon_device(struct virtio_balloon *b);
/* Asks the guest for so many bytes of its memory, or gives all but those back to it. */
void virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes);
void virtio_balloon_get_stats(const struct virtio_balloon *b, struct virtio_balloon_stats *out);

#endif
