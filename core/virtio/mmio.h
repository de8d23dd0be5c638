/* virtio-mmio, version 2: a register window and a level-triggered line. */
#ifndef CORE_VIRTIO_MMIO_H
#define CORE_VIRTIO_MMIO_H

#include "core/virtio/device.h"
#include "core/vm/irq.h"

#define VIRTIO_MMIO_SIZE 0x200

struct virtio_mmio;

/* Maps `d` at [base, base + VIRTIO_MMIO_SIZE) and registers it with the VM under this
 * instance number. NULL: out of memory. */
struct virtio_mmio *virtio_mmio_create(struct vm *vm, struct virtio_device *d, gpa_t base,
									   const struct irq_line *line, unsigned instance);

#endif
