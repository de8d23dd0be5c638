/* The board "pc": what a PC's software expects since the nineties, and PCI.
 *
 *     00000000  RAM, up to 3 GiB            E0000000  ECAM of bus 0
 *     C0000000  PCI, 32 bits                FEC00000  I/O APIC
 *     100000000 RAM, the rest               FED00000  HPET
 *     5000000000 PCI, 64 bits               FEE00000  local APICs
 *
 * PCI device 0 is the host bridge, 1f the LPC bridge; virtio devices are at 1 and on,
 * disks first, network cards at 18, the balloon at 1c, vsock at 1d. */
#include "core/base/bits.h"
#include "core/board/parts.h"
#include "core/virtio/pci.h"

#define ECAM 0xe0000000ull
#define MEM32_BASE 0xc0000000ull
#define MEM32_SIZE 0x20000000ull
#define MEM64_BASE 0x5000000000ull /* above BOARD_MEMORY_MAX and the hole, below 2^39 */
#define MEM64_SIZE 0x1000000000ull
#define MEM64_BITS 39
#define IO_BASE 0xc000u
#define IO_SIZE 0x4000u

/* Interrupts of PCI: pins of the I/O APIC, and two ISA irqs for guests without APICs. */
#define GSI_INTX 16
static const uint8_t intx_irq[PCI_PIRQS] = {10, 11, 10, 11};

static void add_bridges(struct board *b) {
	struct irq_line gsi[PCI_PIRQS], isa[16];
	for (unsigned i = 0; i < PCI_PIRQS; i++) {
		gsi[i] = board_gsi_line(b, GSI_INTX + i);
		b->acpi.intx_gsi[i] = GSI_INTX + i;
		b->acpi.intx_irq[i] = intx_irq[i];
	}
	for (unsigned i = 0; i < 16; i++)
		isa[i] = board_pirq_line(b, i);
	pci_host_init(&b->host, &b->pci);
	vm_add_device(b->vm, &pci_host_ops, 0, &b->host);
	board_part(b, "pci-host", "pci 00:00.0");
	pci_lpc_init(&b->lpc, &b->pci, gsi, isa, intx_irq, b->acpi.pm1_evt);
	vm_add_device(b->vm, &pci_lpc_ops, 0, &b->lpc);
	board_part(b, "pci-lpc", "pci 00:1f.0");
}

static void add_pci(struct board *b) {
	struct irq_line intx[PCI_PIRQS];
	struct msi_sink msi = board_msi_sink(b);
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		intx[i] = (struct irq_line){pci_lpc_set_pirq, &b->lpc, i};
	pci_bus_init(&b->pci, &b->vm->mem, &msi, intx, ECAM);
	b->pci.mmio32_next = MEM32_BASE;
	b->pci.mmio32_end = MEM32_BASE + MEM32_SIZE;
	if (board_phys_bits(b) >= MEM64_BITS) {
		b->pci.mmio64_next = MEM64_BASE;
		b->pci.mmio64_end = MEM64_BASE + MEM64_SIZE;
		b->acpi.mem64 = (struct acpi_window){MEM64_BASE, MEM64_SIZE};
	}
	b->pci.io_next = IO_BASE;
	b->pci.io_end = IO_BASE + IO_SIZE;
	add_bridges(b);

	b->acpi.pci = true;
	b->acpi.ecam_base = ECAM;
	b->acpi.mem32 = (struct acpi_window){MEM32_BASE, MEM32_SIZE};
}

static bool attach(struct board *b, struct virtio_device *d, const char *name, unsigned index,
				   unsigned slot) {
	board_part(b, name, "pci 00:%02x.0", slot);
	return virtio_pci_create(b->vm, &b->pci, d, PCI_DEVFN(slot, 0));
}

static int create(struct board *b, struct err *e) {
	board_add_basic(b);
	board_add_pc(b);
	add_pci(b);
	return board_add_virtio(b, attach, e);
}

const struct board_kind board_pc = {"pc", create};
