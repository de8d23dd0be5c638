/* An NVMe controller with one namespace: a disk that Linux boots from without modules. */
#ifndef CORE_NVME_NVME_H
#define CORE_NVME_NVME_H

#include "core/pci/pci.h"
#include "core/vm/vm.h"

/* Makes the controller and puts it on the bus. `backend` stays the caller's and outlives it; its
 * completions come with the VM lock held. False: out of memory. */
bool nvme_create(struct vm *vm, struct pci_bus *bus, const struct block_backend *backend,
				 uint8_t devfn);

#endif
