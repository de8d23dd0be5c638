/* virtio entropy device. */
#ifndef CORE_VIRTIO_RNG_H
#define CORE_VIRTIO_RNG_H

#include "core/virtio/device.h"
#include "core/vm/backend.h"

/* NULL: out of memory. Attach the result to a transport. */
struct virtio_device *virtio_rng_create(struct vm *vm, const struct rng_backend *backend);

#endif
