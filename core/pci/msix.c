/* Message-signalled interrupts: MSI with one vector and a mask bit ([PCI3.0 6.8.1]),
 * and MSI-X with its table and pending bits in a BAR ([PCI3.0 6.8.2]).
 *
 * A message that may not go now (masked) is remembered in its pending bit and goes
 * as soon as it may. Called by devices and by config.c, VM lock held. */
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/pci/internal.h"

#define CAP_MSI 0x05
#define CAP_MSIX 0x11
#define MSIX_ENTRY 16u
#define MSIX_MASKED 1u

/* The MSI capability: 64-bit address, per-vector masking. */
enum {
	MSI_CTL = 2,
	MSI_ADDR = 4,
	MSI_DATA = 12,
	MSI_MASK = 16,
	MSI_PENDING = 20,
	MSI_LEN = 24,
};
#define MSI_CTL_ENABLE 0x0001u
#define MSI_CTL_64BIT 0x0080u
#define MSI_CTL_MASKING 0x0100u

enum { MSIX_CTL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_LEN = 12 };
#define MSIX_CTL_ENABLE 0x8000u
#define MSIX_CTL_MASK_ALL 0x4000u

/* Before the guest goes on that has masked or moved something: nothing comes by the old way then,
 * as nothing does on a bus where its read back pushes messages ahead of it ([PCI3.0 3.2.5]). */
static void settle(const struct pci_device *d) {
	if (d->bus)
		msi_settle(&d->bus->msi);
}

/* MSI */

void pci_add_msi(struct pci_device *d) {
	check(!d->msi_cap);
	d->msi_cap = pci_add_cap(d, CAP_MSI, MSI_LEN);
	uint8_t *w = d->writable + d->msi_cap;
	le16_put(d->cfg + d->msi_cap + MSI_CTL, MSI_CTL_64BIT | MSI_CTL_MASKING);
	le16_put(w + MSI_CTL, MSI_CTL_ENABLE);
	le64_put(w + MSI_ADDR, ~3ull);
	le16_put(w + MSI_DATA, 0xffff);
	w[MSI_MASK] = 1;
}

bool pci_msi_enabled(const struct pci_device *d) {
	return d->msi_cap && (le16_get(d->cfg + d->msi_cap + MSI_CTL) & MSI_CTL_ENABLE);
}

void pci_msi_notify(struct pci_device *d) {
	if (!pci_msi_enabled(d) || !d->bus)
		return;
	uint8_t *cap = d->cfg + d->msi_cap;
	cap[MSI_PENDING] = cap[MSI_MASK] & 1;
	if (!cap[MSI_PENDING])
		msi_send(&d->bus->msi, le64_get(cap + MSI_ADDR), le16_get(cap + MSI_DATA));
}

/* MSI-X */

static uint16_t msix_ctl(const struct pci_device *d) {
	return le16_get(d->cfg + d->msix.cap + MSIX_CTL);
}

bool pci_msix_enabled(const struct pci_device *d) {
	return d->msix.cap && (msix_ctl(d) & MSIX_CTL_ENABLE);
}

/* Sends vector n if it is pending and may go. */
static void msix_flush(struct pci_device *d, unsigned n) {
	if (!d->msix.vec[n].pending || !d->bus || !pci_msix_enabled(d) ||
		(msix_ctl(d) & MSIX_CTL_MASK_ALL) || (d->msix.vec[n].ctrl & MSIX_MASKED))
		return;
	d->msix.vec[n].pending = false;
	msi_send(&d->bus->msi, d->msix.vec[n].addr, d->msix.vec[n].data);
}

void pci_msix_notify(struct pci_device *d, unsigned vector) {
	if (vector >= d->msix.nvectors || !pci_msix_enabled(d))
		return;
	d->msix.vec[vector].pending = true;
	msix_flush(d, vector);
}

static uint64_t table_read(void *opaque, uint64_t off, unsigned size) {
	const struct pci_device *d = opaque;
	if (off & 3)
		return ~0ull;
	if (off < d->msix.nvectors * MSIX_ENTRY) {
		unsigned n = (unsigned)off / MSIX_ENTRY;
		switch (off % MSIX_ENTRY) {
		case 0:
			return (uint32_t)d->msix.vec[n].addr;
		case 4:
			return d->msix.vec[n].addr >> 32;
		case 8:
			return d->msix.vec[n].data;
		default:
			return d->msix.vec[n].ctrl;
		}
	}
	if (off < d->msix.pba_off)
		return 0;
	uint32_t pending = 0;
	uint64_t first = (off - d->msix.pba_off) * 8;
	for (unsigned i = 0; i < 32 && first + i < d->msix.nvectors; i++)
		pending |= (uint32_t)d->msix.vec[first + i].pending << i;
	return pending;
}

static void table_write(void *opaque, uint64_t off, unsigned size, uint64_t val) {
	struct pci_device *d = opaque;
	if ((off & 3) || off >= d->msix.nvectors * MSIX_ENTRY)
		return;
	unsigned n = (unsigned)off / MSIX_ENTRY;
	uint64_t *addr = &d->msix.vec[n].addr;
	settle(d);
	switch (off % MSIX_ENTRY) {
	case 0:
		*addr = (*addr & ~0xffffffffull) | ((uint32_t)val & ~3u);
		break;
	case 4:
		*addr = (uint32_t)*addr | val << 32;
		break;
	case 8:
		d->msix.vec[n].data = (uint32_t)val;
		break;
	default:
		d->msix.vec[n].ctrl = val & MSIX_MASKED;
		msix_flush(d, n);
		break;
	}
}

static const struct io_ops table_ops = {table_read, table_write, 4, 4};

void pci_add_msix(struct pci_device *d, unsigned bar, unsigned nvectors) {
	check(!d->msix.cap && nvectors && nvectors <= PCI_MSIX_VECTORS);
	d->msix.bar = (uint8_t)bar;
	d->msix.nvectors = (uint16_t)nvectors;
	d->msix.table_off = 0;
	d->msix.pba_off = nvectors * MSIX_ENTRY;
	uint64_t size = PAGE_SIZE;
	while (size < d->msix.pba_off + (nvectors + 63) / 64 * 8)
		size *= 2;
	pci_add_bar(d, bar, PCI_BAR_MEM32, size, &table_ops, d);
	d->msix.cap = pci_add_cap(d, CAP_MSIX, MSIX_LEN);
	uint8_t *cap = d->cfg + d->msix.cap;
	le16_put(cap + MSIX_CTL, (uint16_t)(nvectors - 1));
	le32_put(cap + MSIX_TABLE, d->msix.table_off | bar);
	le32_put(cap + MSIX_PBA, d->msix.pba_off | bar);
	le16_put(d->writable + d->msix.cap + MSIX_CTL, MSIX_CTL_ENABLE | MSIX_CTL_MASK_ALL);
	pci_msi_reset(d);
}

/* Both */

static bool touches(unsigned off, unsigned size, unsigned cap, unsigned len) {
	return cap && off < cap + len && off + size > cap;
}

void pci_msi_written(struct pci_device *d, unsigned off, unsigned size) {
	const uint8_t *msi = d->cfg + d->msi_cap;
	if (touches(off, size, d->msi_cap, MSI_LEN) || touches(off, size, d->msix.cap, MSIX_LEN))
		settle(d);
	if (touches(off, size, d->msi_cap, MSI_LEN) && (msi[MSI_PENDING] & 1) && !(msi[MSI_MASK] & 1))
		pci_msi_notify(d);
	if (touches(off, size, d->msix.cap, MSIX_LEN))
		for (unsigned n = 0; n < d->msix.nvectors; n++)
			msix_flush(d, n);
}

void pci_msi_reset(struct pci_device *d) {
	if (d->msi_cap) {
		uint8_t *cap = d->cfg + d->msi_cap;
		le16_put(cap + MSI_CTL, MSI_CTL_64BIT | MSI_CTL_MASKING);
		le64_put(cap + MSI_ADDR, 0);
		le32_put(cap + MSI_DATA, 0);
		le64_put(cap + MSI_MASK, 0); /* and pending */
	}
	if (d->msix.cap)
		le16_put(d->cfg + d->msix.cap + MSIX_CTL, (uint16_t)(d->msix.nvectors - 1));
	for (unsigned n = 0; n < d->msix.nvectors; n++) {
		d->msix.vec[n].addr = 0;
		d->msix.vec[n].data = 0;
		d->msix.vec[n].ctrl = MSIX_MASKED;
		d->msix.vec[n].pending = false;
	}
}

void pci_msix_state(struct state_io *io, struct pci_device *d) {
	bool msi_pending = d->msi_cap && (d->cfg[d->msi_cap + MSI_PENDING] & 1);
	if (d->msi_cap) {
		state_bool(io, "msi_pending", &msi_pending);
		if (io->loading)
			d->cfg[d->msi_cap + MSI_PENDING] = msi_pending;
	}
	for (unsigned n = 0; n < d->msix.nvectors; n++) {
		state_u64(io, "msix_addr", &d->msix.vec[n].addr);
		state_u32(io, "msix_data", &d->msix.vec[n].data);
		state_u32(io, "msix_ctrl", &d->msix.vec[n].ctrl);
		state_bool(io, "msix_pending", &d->msix.vec[n].pending);
		if (io->loading) {
			d->msix.vec[n].addr &= ~3ull;
			d->msix.vec[n].ctrl &= MSIX_MASKED;
		}
	}
}
