/* The board "micro": the least that a stock kernel boots on, made to start fast.
 * No PCI to scan, no keyboard, no HPET to calibrate: virtio devices sit at fixed
 * addresses and the DSDT names them.
 *
 *     00000000  RAM, up to 3 GiB            FEC00000  I/O APIC
 *     D0000000  virtio-mmio, a page each    FEE00000  local APICs
 *     100000000 RAM, the rest
 */
#include "core/base/bits.h"
#include "core/board/parts.h"
#include "core/virtio/mmio.h"

#define VIRTIO_BASE 0xd0000000ull

/* Pins of the I/O APIC that no legacy chip uses, those beyond ISA first. */
static const uint8_t virtio_gsi[] = {16, 17, 18, 19, 20, 21, 22, 23, 5,
									 6,	 7,	 10, 11, 12, 14, 15, 3,	 1};

static bool attach(struct board *b, struct virtio_device *d, const char *name, unsigned index,
				   unsigned slot) {
	if (index >= ARRAY_LEN(virtio_gsi))
		return false;
	gpa_t base = VIRTIO_BASE + (uint64_t)index * PAGE_SIZE;
	struct irq_line line = board_gsi_line(b, virtio_gsi[index]);
	b->acpi.virtio[index].base = base;
	b->acpi.virtio[index].gsi = virtio_gsi[index];
	b->acpi.nvirtio = index + 1;
	board_part(b, name, "memory %llx gsi %u", (unsigned long long)base, virtio_gsi[index]);
	return virtio_mmio_create(b->vm, d, base, &line, index);
}

static int create(struct board *b, struct err *e) {
	board_add_basic(b);
	return board_add_virtio(b, attach, e);
}

const struct board_kind board_micro = {"micro", create};
