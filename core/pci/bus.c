/* PCI bus 0: which device is where, the two ways to configuration space
 * ([PCI3.0 3.2.2.3.2] mechanism 1, [PCIE 7.2.2] ECAM), and the interrupt lines.
 *
 * There is one bus and no bridge to another; other bus numbers read all ones.
 * Interrupt pin p (A = 0) of device n arrives at line (n + p) mod 4, as firmware
 * tables say it for every PC. VM lock held throughout. */
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/pci/internal.h"

#define ECAM_SIZE MIB(1)
#define CONFIG_ENABLE BIT(31)
#define CONFIG_ADDR_BITS 0x80fffffcu

/* mem.h has room for MEM_REGIONS; the board's own need some of it. */
#define BAR_REGIONS_MAX 96

static uint32_t device_read(struct pci_bus *b, unsigned devfn, unsigned off, unsigned size) {
	struct pci_device *d = b->dev[devfn & 0xff];
	if (!d || off + size > PCI_CFG_SIZE) /* an access that runs into the next function */
		return 0xffffffff;
	return pci_cfg_read(d, off, size);
}

static void device_write(struct pci_bus *b, unsigned devfn, unsigned off, unsigned size,
						 uint32_t val) {
	struct pci_device *d = b->dev[devfn & 0xff];
	if (d && off + size <= PCI_CFG_SIZE)
		pci_cfg_write(d, off, size, val);
}

/* Mechanism 1. Only a 32-bit access is one to CONFIG_ADDRESS; others are for whoever else
 * lives at these ports. */
static uint64_t cf8_read(void *opaque, uint64_t off, unsigned size) {
	struct pci_bus *b = opaque;
	return off == 0 && size == 4 ? b->config_addr : ~0ull;
}

static void cf8_write(void *opaque, uint64_t off, unsigned size, uint64_t val) {
	struct pci_bus *b = opaque;
	if (off == 0 && size == 4)
		b->config_addr = (uint32_t)val & CONFIG_ADDR_BITS;
}

static bool config_target(const struct pci_bus *b) {
	return (b->config_addr & CONFIG_ENABLE) && !bits(b->config_addr, 23, 16);
}

static uint64_t cfc_read(void *opaque, uint64_t off, unsigned size) {
	struct pci_bus *b = opaque;
	if (!config_target(b))
		return ~0ull;
	return device_read(b, (unsigned)bits(b->config_addr, 15, 8),
					   (b->config_addr & 0xfc) + (unsigned)off, size);
}

static void cfc_write(void *opaque, uint64_t off, unsigned size, uint64_t val) {
	struct pci_bus *b = opaque;
	if (config_target(b))
		device_write(b, (unsigned)bits(b->config_addr, 15, 8),
					 (b->config_addr & 0xfc) + (unsigned)off, size, (uint32_t)val);
}

static const struct io_ops cf8_ops = {cf8_read, cf8_write, 0, 0};
static const struct io_ops cfc_ops = {cfc_read, cfc_write, 1, 4};

static uint64_t ecam_read(void *opaque, uint64_t off, unsigned size) {
	return device_read(opaque, (unsigned)(off >> 12), off & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t off, unsigned size, uint64_t val) {
	device_write(opaque, (unsigned)(off >> 12), off & 0xfff, size, (uint32_t)val);
}

static const struct io_ops ecam_ops = {ecam_read, ecam_write, 1, 4};

void pci_bus_init(struct pci_bus *b, struct mem_space *mem, const struct msi_sink *msi,
				  const struct irq_line intx[4], gpa_t ecam_base) {
	memset(b, 0, sizeof(*b));
	b->mem = mem;
	b->msi = *msi;
	for (unsigned i = 0; i < 4; i++)
		b->intx[i] = intx[i];
	b->cf8 = (struct port_region){"pci-address", 0xcf8, 4, &cf8_ops, b, false, 0};
	b->cfc = (struct port_region){"pci-data", 0xcfc, 4, &cfc_ops, b, false, 0};
	port_add(mem, &b->cf8);
	port_add(mem, &b->cfc);
	b->ecam = (struct mem_region){.name = "pci-ecam",
								  .base = ecam_base,
								  .size = ECAM_SIZE,
								  .kind = MEM_MMIO,
								  .priority = PCI_BAR_PRIORITY, /* the guest may move it */
								  .ops = &ecam_ops,
								  .dev = b};
	if (ecam_base)
		mem_add(mem, &b->ecam);
}

/* The next free aligned piece of [*next, end), or 0. */
static uint64_t take(uint64_t *next, uint64_t end, uint64_t size) {
	uint64_t at = align_up(*next, size);
	if (at < *next || at > end || size > end - at || !at)
		return 0;
	*next = at + size;
	return at;
}

static void assign(struct pci_bus *b, struct pci_bar *bar) {
	uint64_t io;
	switch (bar->kind) {
	case PCI_BAR_IO:
		io = b->io_next;
		bar->assigned = take(&io, b->io_end, bar->size);
		b->io_next = (uint32_t)io;
		break;
	case PCI_BAR_MEM64:
		bar->assigned = take(&b->mmio64_next, b->mmio64_end, bar->size);
		if (bar->assigned)
			break;
		__attribute__((fallthrough)); /* no room above, or no such window */
	case PCI_BAR_MEM32:
		bar->assigned = take(&b->mmio32_next, b->mmio32_end, bar->size);
		break;
	case PCI_BAR_NONE:
		break;
	}
}

static unsigned count_bars(const struct pci_bus *b, bool io) {
	unsigned n = 0;
	for (unsigned devfn = 0; devfn < 256; devfn++)
		for (unsigned i = 0; b->dev[devfn] && i < PCI_BARS; i++)
			n += b->dev[devfn]->bar[i].kind != PCI_BAR_NONE &&
				 (b->dev[devfn]->bar[i].kind == PCI_BAR_IO) == io;
	return n;
}

void pci_bus_add(struct pci_bus *b, struct pci_device *d, uint8_t devfn) {
	check(!d->bus && !b->dev[devfn]);
	d->bus = b;
	d->devfn = devfn;
	b->dev[devfn] = d;
	/* Said here, so that no guest can find out by enabling everything at once. */
	check(count_bars(b, false) <= BAR_REGIONS_MAX && count_bars(b, true) <= BAR_REGIONS_MAX);
	/* Function 0 says whether a guest should look for others. */
	struct pci_device *first = b->dev[devfn & ~7u];
	for (unsigned fn = 1; first && fn < 8; fn++)
		if (b->dev[(devfn & ~7u) + fn])
			first->cfg[PCI_HEADER_TYPE] |= 0x80;
	for (unsigned i = 0; i < PCI_BARS; i++)
		assign(b, &d->bar[i]);
	pci_device_reset(d);
}

/* The line that the device's pin is wired to, 0..3. */
static unsigned line_of(const struct pci_device *d) {
	return ((d->devfn >> 3) + d->cfg[PCI_INTERRUPT_PIN] - 1u) & 3;
}

void pci_update_intx(struct pci_device *d, bool quiet) {
	struct pci_bus *b = d->bus;
	d->cfg[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
	if (!b || !d->cfg[PCI_INTERRUPT_PIN])
		return;
	if (d->intx)
		d->cfg[PCI_STATUS] |= PCI_STATUS_INTX;
	bool drive = d->intx && !(le16_get(d->cfg + PCI_COMMAND) & PCI_COMMAND_NO_INTX);
	if (drive == d->intx_driven)
		return;
	unsigned line = line_of(d);
	d->intx_driven = drive;
	if (drive)
		b->intx_count[line]++;
	else
		b->intx_count[line]--;
	if (!quiet)
		irq_set(&b->intx[line], b->intx_count[line] > 0);
}

void pci_set_intx(struct pci_device *d, bool level) {
	d->intx = level;
	pci_update_intx(d, false);
}

void pci_device_reset(struct pci_device *d) {
	pci_config_reset(d);
	d->cfg[PCI_INTERRUPT_LINE] =
		d->bus && d->cfg[PCI_INTERRUPT_PIN] ? d->bus->intx_irq[line_of(d)] : 0;
	pci_msi_reset(d);
	pci_set_intx(d, false);
}

void pci_bus_reset(struct pci_bus *b) {
	b->config_addr = 0;
	for (unsigned devfn = 0; devfn < 256; devfn++)
		if (b->dev[devfn])
			pci_device_reset(b->dev[devfn]);
}

void pci_bus_state(struct state_io *io, void *bus) {
	struct pci_bus *b = bus;
	state_u32(io, "config_addr", &b->config_addr);
	if (io->loading)
		b->config_addr &= CONFIG_ADDR_BITS;
}
