/* virtio block device. */
#ifndef CORE_VIRTIO_BLK_H
#define CORE_VIRTIO_BLK_H

#include "core/virtio/device.h"
#include "core/vm/backend.h"

#define VIRTIO_BLK_QUEUES 16

/* NULL: out of memory. `backend` stays the caller's and outlives the device; its
 * completions come with the VM lock held. 1 to VIRTIO_BLK_QUEUES queues. */
struct virtio_device *virtio_blk_create(struct vm *vm, const struct block_backend *backend,
										unsigned nqueues);

#endif
