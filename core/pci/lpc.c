/* The LPC bridge of an ICH9 (Intel I/O Controller Hub 9 data sheet, 316972-004,
 * chapter 13): what stands for "there is an ISA bus here", and the PIRQ router by
 * which PCI interrupts reach the 8259s.
 *
 * Each PIRQ goes to its I/O APIC pin always, and to an ISA irq while its route
 * register names one. PIRQ E-H have registers and no wires. PMBASE tells where the
 * power management ports are; they do not move. The decode ranges read back and do
 * nothing. VM lock held. */
#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/pci/bridge.h"

enum {
	PMBASE = 0x40,
	ACPI_CNTL = 0x44,
	PIRQA_ROUT = 0x60, /* ..D at 63h */
	SIRQ_CNTL = 0x64,
	PIRQE_ROUT = 0x68, /* ..H at 6Bh */
	LPC_IO_DEC = 0x80,
	LPC_EN = 0x82,
	GEN1_DEC = 0x84, /* four of 32 bits */
	GEN4_DEC_END = 0x93,
};

#define ROUTE_NOWHERE 0x80u

/* irqs that a route register can name ([ICH9 13.1.17]); the others are the board's own. */
#define ROUTABLE 0xdef8u

static void update(struct pci_lpc *l) {
	uint16_t high = 0;
	for (unsigned i = 0; i < PCI_PIRQS; i++) {
		uint8_t route = l->pci.cfg[PIRQA_ROUT + i];
		if (l->level[i] && !(route & ROUTE_NOWHERE))
			high |= (uint16_t)(1u << (route & 15) & ROUTABLE);
	}
	uint16_t changed = high ^ l->isa_high;
	l->isa_high = high;
	for (unsigned irq = 0; irq < 16; irq++)
		if (changed >> irq & 1)
			irq_set(&l->isa[irq], high >> irq & 1);
}

void pci_lpc_set_pirq(void *opaque, unsigned pirq, bool level) {
	struct pci_lpc *l = opaque;
	if (pirq >= PCI_PIRQS)
		return;
	l->level[pirq] = level;
	irq_set(&l->gsi[pirq], level);
	update(l);
}

static void written(struct pci_device *d, unsigned off, unsigned size) {
	if (off < PIRQA_ROUT + PCI_PIRQS && off + size > PIRQA_ROUT)
		update((struct pci_lpc *)d);
}

static void reset(void *self) {
	struct pci_lpc *l = self;
	uint8_t *cfg = l->pci.cfg;
	pci_device_reset(&l->pci);
	for (unsigned i = 0; i < PCI_PIRQS; i++) {
		cfg[PIRQA_ROUT + i] = l->route[i];
		cfg[PIRQE_ROUT + i] = ROUTE_NOWHERE;
	}
	cfg[ACPI_CNTL] = l->pm_base ? 0x80 : 0; /* ACPI_EN */
	cfg[SIRQ_CNTL] = 0x10;
	for (unsigned r = LPC_IO_DEC; r <= GEN4_DEC_END; r++)
		cfg[r] = 0;
	update(l);
}

static void state(struct state_io *io, void *self) {
	struct pci_lpc *l = self;
	pci_device_state(io, &l->pci);
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		state_bool(io, "level", &l->level[i]);
	state_u16(io, "isa_high", &l->isa_high); /* the 8259s have their own copy of it */
}

const struct device_ops pci_lpc_ops = {
	.name = "pci-lpc",
	.version = 1,
	.reset = reset,
	.state = state,
};

void pci_lpc_init(struct pci_lpc *l, struct pci_bus *bus, const struct irq_line gsi[PCI_PIRQS],
				  const struct irq_line isa[16], const uint8_t route[PCI_PIRQS], uint16_t pm_base) {
	*l = (struct pci_lpc){.pm_base = pm_base};
	pci_device_init(&l->pci, "lpc", 0x8086, 0x2918, 0x060100, 2, 0x1af4, 0x1100);
	l->pci.cfg[PCI_INTERRUPT_PIN] = 0;
	for (unsigned i = 0; i < PCI_PIRQS; i++) {
		l->gsi[i] = gsi[i];
		l->route[i] = route[i] & 0x8f;
		l->pci.writable[PIRQA_ROUT + i] = 0x8f;
		l->pci.writable[PIRQE_ROUT + i] = 0x8f;
	}
	for (unsigned i = 0; i < 16; i++)
		l->isa[i] = isa[i];
	if (pm_base)
		le16_put(l->pci.cfg + PMBASE, pm_base | 1u);
	l->pci.writable[ACPI_CNTL] = 0x87;
	l->pci.writable[SIRQ_CNTL] = 0xff;
	for (unsigned r = LPC_IO_DEC; r <= GEN4_DEC_END; r++)
		l->pci.writable[r] = 0xff;
	l->pci.cfg_written = written;
	pci_bus_add(bus, &l->pci, PCI_LPC_DEVFN);
	reset(l);
}
