/* Private to core/board: the board itself and the steps that make one. */
#ifndef CORE_BOARD_PARTS_H
#define CORE_BOARD_PARTS_H

#include "core/acpi/acpi.h"
#include "core/board/board.h"
#include "core/chip/acpi_pm.h"
#include "core/chip/debug_exit.h"
#include "core/chip/hpet.h"
#include "core/chip/i8042.h"
#include "core/chip/i8254.h"
#include "core/chip/i8259.h"
#include "core/chip/ioapic.h"
#include "core/chip/lapic.h"
#include "core/chip/mc146818.h"
#include "core/chip/ns16550.h"
#include "core/chip/pvpanic.h"
#include "core/pci/bridge.h"
#include "core/virtio/balloon.h"
#include "core/virtio/console.h"
#include "core/virtio/net.h"
#include "core/virtio/vsock.h"
#include "core/vm/kvmclock.h"

#define BOARD_PARTS 64
#define RAM_LOW_MAX 0xc0000000ull /* 3 GiB: from here to 4 GiB are PCI and chips */

struct board_kind {
	const char *name;
	int (*create)(struct board *b, struct err *e);
};

extern const struct board_kind board_pc, board_micro;

struct board_part {
	const char *name;
	char where[40];
};

struct board {
	struct vm *vm;
	const struct board_kind *kind;
	struct board_config config;
	struct acpi_config acpi; /* filled while parts are added */
	struct board_part parts[BOARD_PARTS];
	unsigned nparts;

	struct mem_region ram_low, ram_high;
	gpa_t low_end;

	/* wires.c */
	struct lapic_bus apic_bus;
	struct lapic *lapic; /* one a vCPU */
	struct ioapic ioapic;
	struct kvmclock kvmclock;
	struct mem_region lapic_mem, ioapic_mem;
	uint16_t isa_high, pirq_high; /* levels of the two drivers of each ISA irq */

	/* legacy.c */
	struct i8259 pic;
	struct i8254 pit;
	struct mc146818 rtc;
	struct ns16550 com1;
	struct i8042 kbd;
	struct hpet hpet;
	struct acpi_pm pm;
	struct mem_region hpet_mem;
	struct pvpanic pvpanic;
	struct debug_exit debug;
	struct port_region pic_ports[3], pit_ports[2], rtc_port, com1_port, pm_ports[3], kbd_ports[3];
	struct port_region pvpanic_port, debug_ports[2];

	/* pc.c */
	struct pci_bus pci;
	struct pci_host host;
	struct pci_lpc lpc;

	struct virtio_console *console; /* NULL: none */
	struct virtio_net *nets[BOARD_NETS];
	struct virtio_balloon *balloon; /* NULL: none */
	struct virtio_vsock *vsock;		/* NULL: none */
	unsigned first_channel;			/* its port that is config.channels[0] */
};

/* board.c */
unsigned board_phys_bits(const struct board *b); /* of guest-physical addresses */
void board_add_mmio(struct board *b, struct mem_region *r, const char *name, gpa_t base,
					uint64_t size, const struct io_ops *ops, void *dev);
void board_add_port(struct board *b, struct port_region *r, const char *name, uint16_t base,
					uint32_t size, const struct io_ops *ops, void *dev);
void board_part(struct board *b, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* wires.c */
void board_wire_cpus(struct board *b);
struct irq_line board_isa_line(struct board *b, unsigned irq);	/* irq 0..15 but 2 */
struct irq_line board_gsi_line(struct board *b, unsigned gsi);	/* a pin of its own */
struct irq_line board_pirq_line(struct board *b, unsigned irq); /* PCI's way to an ISA irq */
struct irq_line board_intr_line(struct board *b);				/* what the 8259s drive */
struct msi_sink board_msi_sink(struct board *b);

/* legacy.c: the chips that both boards have, and those that only a PC has. */
void board_add_basic(struct board *b);
void board_add_pc(struct board *b);

/* virtio.c: makes the configured virtio devices in order and gives each to `attach`: `index`
 * counts them, `slot` is a PCI device number that stays a device's own when others come and
 * go: guests name network cards by it. */
typedef bool board_attach(struct board *b, struct virtio_device *d, const char *name,
						  unsigned index, unsigned slot);
int board_add_virtio(struct board *b, board_attach *attach, struct err *e);

#endif
