/* The host bridge of a Q35 (Intel 3 Series Express chipset data sheet, 316966-002,
 * chapter 5), as far as a guest without and with firmware asks for it: identity, and
 * PCIEXBAR, by which firmware places the ECAM window.
 *
 * PAM, SMRAM and TOLUD read back what was written and do nothing: the memory below
 * 1 MiB is the board's affair and there is no SMM. VM lock held. */
#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/pci/bridge.h"

enum { PCIEXBAR = 0x60, PAM0 = 0x90, PAM6 = 0x96, SMRAM = 0x9d, TOLUD = 0xb0 };

#define PCIEXBAR_ENABLE 1ull
#define PCIEXBAR_WRITABLE 0xff0000007ull /* 64 MiB granules below 64 GiB, length, enable */

/* Base and length as the data sheet has it: 256, 128 or 64 MiB; only bus 0, the window's
 * first MiB, has anything in it. */
static gpa_t window_base(const struct pci_host *h) {
	static const uint64_t granule[4] = {MIB(256), MIB(128), MIB(64), MIB(256)};
	uint64_t reg = le64_get(h->pci.cfg + PCIEXBAR);
	return align_down(reg & ~0x3ffffffull, granule[reg >> 1 & 3]);
}

static void place_ecam(struct pci_host *h) {
	struct pci_bus *bus = h->pci.bus;
	gpa_t base = window_base(h);
	bool on = (h->pci.cfg[PCIEXBAR] & PCIEXBAR_ENABLE) && base;
	if (bus->ecam.added && (!on || bus->ecam.base != base))
		mem_remove(bus->mem, &bus->ecam);
	if (on && !bus->ecam.added) {
		bus->ecam.base = base;
		mem_add(bus->mem, &bus->ecam);
	}
}

static void written(struct pci_device *d, unsigned off, unsigned size) {
	if (off < PCIEXBAR + 8 && off + size > PCIEXBAR)
		place_ecam((struct pci_host *)d);
}

static void set_defaults(struct pci_host *h) {
	le64_put(h->pci.cfg + PCIEXBAR, h->ecam_base ? h->ecam_base | PCIEXBAR_ENABLE : 0);
	for (unsigned r = PAM0; r <= PAM6; r++)
		h->pci.cfg[r] = 0;
	h->pci.cfg[SMRAM] = 2;
	le16_put(h->pci.cfg + TOLUD, 0);
	place_ecam(h);
}

static void reset(void *self) {
	struct pci_host *h = self;
	pci_bus_reset(h->pci.bus);
	set_defaults(h);
}

static void state(struct state_io *io, void *self) {
	struct pci_host *h = self;
	pci_bus_state(io, h->pci.bus);
	pci_device_state(io, &h->pci);
	if (io->loading && !io->error)
		place_ecam(h);
}

const struct device_ops pci_host_ops = {
	.name = "pci-host",
	.version = 1,
	.reset = reset,
	.state = state,
};

void pci_host_init(struct pci_host *h, struct pci_bus *bus) {
	pci_device_init(&h->pci, "host-bridge", 0x8086, 0x29c0, 0x060000, 0, 0x1af4, 0x1100);
	h->pci.cfg[PCI_INTERRUPT_PIN] = 0;
	h->ecam_base = bus->ecam.base;
	le64_put(h->pci.writable + PCIEXBAR, PCIEXBAR_WRITABLE);
	for (unsigned r = PAM0; r <= PAM6; r++)
		h->pci.writable[r] = r == PAM0 ? 0x30 : 0x33;
	h->pci.writable[SMRAM] = 0x70;
	le16_put(h->pci.writable + TOLUD, 0xfff0);
	h->pci.cfg_written = written;
	pci_bus_add(bus, &h->pci, PCI_HOST_DEVFN);
	set_defaults(h);
}
