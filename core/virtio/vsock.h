/* virtio socket device: streams between the guest's AF_VSOCK and its host (CID 2). */
#ifndef CORE_VIRTIO_VSOCK_H
#define CORE_VIRTIO_VSOCK_H

#include "core/virtio/device.h"
#include "core/vm/backend.h"

struct virtio_vsock;

/* `cid` is the guest's address, 3 to 2^32 - 2. NULL: out of memory. */
struct virtio_vsock *virtio_vsock_create(struct vm *vm, uint32_t cid,
										 const struct vsock_backend *b);
/* To attach to a transport. */
struct virtio_device *virtio_vsock_device(struct virtio_vsock *v);
/* For the back end. */
struct vsock_device virtio_vsock_port(struct virtio_vsock *v);

#endif
