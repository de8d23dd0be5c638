/* Configuration space of one device: header, capabilities, BARs ([PCI3.0 6]).
 *
 * cfg[] holds what is read, writable[] which of its bits the guest may change; a
 * BAR's size is nothing but its unwritable low bits, so sizing needs no code. After
 * a write the side effects are derived from what cfg[] says then: which BARs are
 * mapped and where, the interrupt pin, pending messages.
 *
 * A BAR is mapped while its space is enabled and its address makes sense: not 0
 * (not assigned), not running over the end of its space (sizing with decoding on).
 * Left out: BIST, expansion ROMs, power management, error status bits. Memory above
 * offset 255 reads 0: no extended capabilities. Called by bus.c, VM lock held. */
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/pci/internal.h"

#define FIRST_CAP 0x40

/* I/O, memory, master, parity, SERR, INTx disable: the bits that something may want. */
#define COMMAND_BITS 0x0547u

void pci_device_init(struct pci_device *d, const char *name, uint16_t vendor, uint16_t device,
					 uint32_t class_code, uint8_t revision, uint16_t subvendor,
					 uint16_t subdevice) {
	memset(d, 0, sizeof(*d));
	d->name = name;
	d->next_cap = FIRST_CAP;
	le16_put(d->cfg + PCI_VENDOR, vendor);
	le16_put(d->cfg + PCI_DEVICE, device);
	d->cfg[PCI_REVISION] = revision;
	d->cfg[PCI_CLASS] = (uint8_t)class_code;
	le16_put(d->cfg + PCI_CLASS + 1, (uint16_t)(class_code >> 8));
	le16_put(d->cfg + PCI_SUBVENDOR, subvendor);
	le16_put(d->cfg + PCI_SUBDEVICE, subdevice);
	d->cfg[PCI_INTERRUPT_PIN] = 1;
	le16_put(d->writable + PCI_COMMAND, COMMAND_BITS);
	d->writable[PCI_CACHE_LINE] = 0xff;
	d->writable[PCI_LATENCY] = 0xff;
	d->writable[PCI_INTERRUPT_LINE] = 0xff;
}

static unsigned bar_reg(unsigned bar) {
	return PCI_BAR0 + bar * 4;
}

void pci_add_bar(struct pci_device *d, unsigned bar, enum pci_bar_kind kind, uint64_t size,
				 const struct io_ops *ops, void *dev) {
	bool wide = kind == PCI_BAR_MEM64;
	check(!d->bus && kind != PCI_BAR_NONE && is_pow2(size) && ops);
	check(bar + wide < PCI_BARS && d->bar[bar].kind == PCI_BAR_NONE);
	check(kind == PCI_BAR_IO ? size >= 4 && size <= 256 : size >= 16 && size <= GIB(1));
	struct pci_bar *b = &d->bar[bar];
	unsigned reg = bar_reg(bar);
	b->kind = kind;
	b->size = size;
	if (kind == PCI_BAR_IO) {
		d->cfg[reg] = 1;
		le32_put(d->writable + reg, (uint32_t) ~(size - 1));
		b->port =
			(struct port_region){.name = d->name, .size = (uint32_t)size, .ops = ops, .dev = dev};
		return;
	}
	d->cfg[reg] = wide ? 4 : 0;
	le32_put(d->writable + reg, (uint32_t) ~(size - 1));
	if (wide)
		le32_put(d->writable + reg + 4, 0xffffffff);
	b->mem = (struct mem_region){.name = d->name,
								 .size = size,
								 .kind = MEM_MMIO,
								 .priority = PCI_BAR_PRIORITY,
								 .ops = ops,
								 .dev = dev};
}

static uint64_t bar_address(const struct pci_device *d, unsigned bar) {
	const uint8_t *reg = d->cfg + bar_reg(bar);
	uint64_t addr = le32_get(reg);
	if (d->bar[bar].kind == PCI_BAR_MEM64)
		addr = le64_get(reg);
	return addr & ~(d->bar[bar].size - 1);
}

static bool fits(uint64_t addr, uint64_t size, uint64_t limit) {
	return addr && addr <= limit && size <= limit - addr;
}

static void map_port(struct pci_bus *bus, struct pci_bar *b, uint64_t addr, bool on) {
	on = on && fits(addr, b->size, 0x10000);
	if (b->port.added && (!on || b->port.base != addr))
		port_remove(bus->mem, &b->port);
	if (on && !b->port.added) {
		b->port.base = (uint16_t)addr;
		port_add(bus->mem, &b->port);
	}
}

static void map_mem(struct pci_bus *bus, struct pci_bar *b, uint64_t addr, bool on) {
	/* The last bytes of a space are left alone: that is what sizing writes. */
	uint64_t limit = b->kind == PCI_BAR_MEM64 ? ~0ull : 0xffffffffull;
	on = on && fits(addr, b->size, limit);
	if (b->mem.added && (!on || b->mem.base != addr))
		mem_remove(bus->mem, &b->mem);
	if (on && !b->mem.added) {
		b->mem.base = addr;
		mem_add(bus->mem, &b->mem);
	}
}

void pci_map_bars(struct pci_device *d) {
	uint16_t command = le16_get(d->cfg + PCI_COMMAND);
	if (!d->bus)
		return;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *b = &d->bar[i];
		if (b->kind == PCI_BAR_IO)
			map_port(d->bus, b, bar_address(d, i), command & PCI_COMMAND_IO);
		else if (b->kind != PCI_BAR_NONE)
			map_mem(d->bus, b, bar_address(d, i), command & PCI_COMMAND_MEMORY);
	}
}

uint8_t pci_add_cap(struct pci_device *d, uint8_t id, unsigned len) {
	uint8_t at = d->next_cap;
	len = (unsigned)align_up(len, 4);
	check(!d->bus && at >= FIRST_CAP && len >= 4 && at + len <= 256);
	/* At the chain's end, so that drivers find them in the order they were added. */
	uint8_t *link = &d->cfg[PCI_CAP_POINTER];
	while (*link)
		link = &d->cfg[*link + 1];
	*link = at;
	d->cfg[at] = id;
	d->cfg[PCI_STATUS] |= PCI_STATUS_CAPS;
	d->next_cap = (uint8_t)(at + len); /* 0: full */
	return at;
}

uint32_t pci_cfg_read(struct pci_device *d, unsigned off, unsigned size) {
	uint32_t val;
	check(size >= 1 && size <= 4 && off < PCI_CFG_SIZE && size <= PCI_CFG_SIZE - off);
	if (d->cfg_read && d->cfg_read(d, off, size, &val))
		return val;
	val = 0;
	for (unsigned i = 0; i < size; i++)
		val |= (uint32_t)d->cfg[off + i] << i * 8;
	return val;
}

static bool touches(unsigned off, unsigned size, unsigned start, unsigned len) {
	return off < start + len && start < off + size;
}

void pci_cfg_write(struct pci_device *d, unsigned off, unsigned size, uint32_t val) {
	check(size >= 1 && size <= 4 && off < PCI_CFG_SIZE && size <= PCI_CFG_SIZE - off);
	for (unsigned i = 0; i < size && off + i < sizeof(d->writable); i++) {
		uint8_t mask = d->writable[off + i];
		d->cfg[off + i] = (uint8_t)((d->cfg[off + i] & ~mask) | (val >> i * 8 & mask));
	}
	if (touches(off, size, PCI_COMMAND, 2) || touches(off, size, PCI_BAR0, PCI_BARS * 4)) {
		pci_map_bars(d);
		pci_update_intx(d, false);
	}
	pci_msi_written(d, off, size);
	if (d->cfg_written)
		d->cfg_written(d, off, size);
}

void pci_config_reset(struct pci_device *d) {
	le16_put(d->cfg + PCI_COMMAND, 0);
	d->cfg[PCI_CACHE_LINE] = 0;
	d->cfg[PCI_LATENCY] = 0;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint8_t *reg = d->cfg + bar_reg(i);
		if (d->bar[i].kind == PCI_BAR_NONE)
			continue;
		le32_put(reg, (uint32_t)d->bar[i].assigned | (reg[0] & (d->bar[i].size - 1) & 0xf));
		if (d->bar[i].kind == PCI_BAR_MEM64)
			le32_put(reg + 4, (uint32_t)(d->bar[i].assigned >> 32));
	}
	pci_map_bars(d);
}

void pci_device_state(struct state_io *io, struct pci_device *d) {
	uint8_t cfg[sizeof(d->writable)];
	memcpy(cfg, d->cfg, sizeof(cfg));
	state_bytes(io, "cfg", cfg, sizeof(cfg));
	state_bool(io, "intx", &d->intx);
	pci_msix_state(io, d);
	if (!io->loading || io->error)
		return;
	/* What the guest could not have written is this device's own and stays. */
	for (unsigned i = 0; i < sizeof(cfg); i++)
		d->cfg[i] = (uint8_t)((d->cfg[i] & ~d->writable[i]) | (cfg[i] & d->writable[i]));
	pci_map_bars(d);
	pci_update_intx(d, true);
}
