/* virtio over PCI: one function with modern capabilities, MSI-X and INTx. */
#ifndef CORE_VIRTIO_PCI_H
#define CORE_VIRTIO_PCI_H

#include "core/pci/pci.h"
#include "core/virtio/device.h"

struct virtio_pci;

/* Puts `d` on the bus at devfn and registers it with the VM (instance: the devfn).
 * NULL: out of memory. */
struct virtio_pci *virtio_pci_create(struct vm *vm, struct pci_bus *bus, struct virtio_device *d,
									 uint8_t devfn);
struct pci_device *virtio_pci_device(struct virtio_pci *t);

#endif
