/* The two bridges that guests expect on a PC's bus 0: the host bridge at 00:00.0
 * and the LPC bridge ("ISA bridge") at 00:1f.0, with the identities of Intel's Q35
 * and ICH9 that every operating system knows.
 *
 * A board embeds them, calls init after pci_bus_init(), and registers the ops as
 * devices. VM lock held. */
#ifndef CORE_PCI_BRIDGE_H
#define CORE_PCI_BRIDGE_H

#include "core/pci/pci.h"
#include "core/vm/device.h"

#define PCI_HOST_DEVFN PCI_DEVFN(0, 0)
#define PCI_LPC_DEVFN PCI_DEVFN(0x1f, 0)
#define PCI_PIRQS 4

struct pci_host {
	struct pci_device pci;
	gpa_t ecam_base; /* after reset */
};

struct pci_lpc {
	struct pci_device pci;
	struct irq_line gsi[PCI_PIRQS]; /* A..D, wired: the I/O APIC */
	struct irq_line isa[16];		/* where the route registers may lead: the 8259s */
	uint8_t route[PCI_PIRQS];		/* what they hold after reset: an irq, or 80h = nowhere */
	bool level[PCI_PIRQS];
	uint16_t isa_high; /* what isa[] was last told */
	uint16_t pm_base;
};

/* Adds the host bridge. Its PCIEXBAR moves and switches the bus's ECAM window. */
void pci_host_init(struct pci_host *h, struct pci_bus *bus);

/* Adds the LPC bridge. `gsi` and `isa` are copied; lines that are not connected stay zero.
 * `route` is where each PIRQ leads when no firmware says otherwise. `pm_base`: the ports of
 * the power management chip, for the register that tells them; 0: none, or not laid out as
 * an ICH9 has them (128 ports, PM1 at 0, timer at 8, GPE0 at 20h). */
void pci_lpc_init(struct pci_lpc *l, struct pci_bus *bus, const struct irq_line gsi[PCI_PIRQS],
				  const struct irq_line isa[16], const uint8_t route[PCI_PIRQS], uint16_t pm_base);

/* Its PIRQ inputs A..D, the type fits irq_line.set: the board makes them the bus's intx[]. */
void pci_lpc_set_pirq(void *lpc, unsigned pirq, bool level);

extern const struct device_ops pci_host_ops; /* also walks and resets the bus itself */
extern const struct device_ops pci_lpc_ops;

#endif
