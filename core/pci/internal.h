/* Between the files of core/pci only. */
#ifndef CORE_PCI_INTERNAL_H
#define CORE_PCI_INTERNAL_H

#include "core/pci/pci.h"

/* config.c: brings BAR regions in line with command register and addresses. */
void pci_map_bars(struct pci_device *d);
/* config.c: header and capabilities as after power-on, without side effects. */
void pci_config_reset(struct pci_device *d);

/* bus.c: brings the line in line with d->intx and the command register. `quiet`: only the
 * book-keeping; whoever is behind the line has its own saved state. */
void pci_update_intx(struct pci_device *d, bool quiet);

/* msix.c: after a configuration write, sends what is pending and not masked any more. */
void pci_msi_written(struct pci_device *d, unsigned off, unsigned size);
void pci_msi_reset(struct pci_device *d);
void pci_msix_state(struct state_io *io, struct pci_device *d);

#endif
