/* The I/O APIC 82093AA with the EOI register of its successors, version 20h
 * (Intel 82093AA data sheet, order 290566-001; ICH9 data sheet 13.5 for EOI).
 *
 * Left out: the three-wire APIC bus (messages go straight to the local APICs, so
 * delivery status is always idle) and the arbitration register's counting.
 * Polarity is kept but not used: the board's wires already say "active".
 *
 * DEVIATION: switching an entry to edge-triggered clears its remote IRR; operating
 * systems use that to get a stuck entry free, and real chips do so too.
 * An ExtINT entry sends one message an edge; boards connect the 8259 to LINT0.
 *
 * Called with the VM lock held: registers by the board for any vCPU, pins by
 * devices, EOIs by local APICs. */
#include "core/chip/ioapic.h"

#include "core/base/bits.h"

#define VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

/* Offsets in the window and numbers of the indirect registers. */
enum { WIN_SELECT = 0x00, WIN_DATA = 0x10, WIN_EOI = 0x40 };
enum { REG_ID = 0, REG_VERSION = 1, REG_ARB = 2, REG_REDIR = 0x10 };

#define RED_LOGICAL BIT(11)
#define RED_STATUS BIT(12)
#define RED_REMOTE_IRR BIT(14)
#define RED_LEVEL BIT(15)
#define RED_MASKED BIT(16)
#define RED_READ_ONLY (RED_STATUS | RED_REMOTE_IRR)
#define RED_WRITABLE (0xffull << 56 | (0x1ffffull & ~RED_READ_ONLY))

static enum lapic_mode mode_of(uint64_t redir) {
	return (enum lapic_mode)bits(redir, 10, 8);
}

/* Only these two are level-triggered in a way that waits for an EOI. */
static bool waits_for_eoi(uint64_t redir) {
	return (redir & RED_LEVEL) && mode_of(redir) <= LAPIC_LOWEST;
}

static void send(struct ioapic *a, unsigned pin) {
	uint64_t r = a->redir[pin];
	bool level = waits_for_eoi(r);
	if (mode_of(r) == LAPIC_SIPI) /* not a mode of this chip */
		return;
	bool taken = lapic_bus_deliver(a->bus, (uint8_t)(r >> 56), r & RED_LOGICAL, mode_of(r),
								   (uint8_t)r, level);
	/* Not taken (nobody there, or not enabled yet): no EOI would come. */
	if (taken && level)
		a->redir[pin] |= RED_REMOTE_IRR;
}

/* Sends what a level-triggered pin has waiting. */
static void look(struct ioapic *a, unsigned pin) {
	uint64_t r = a->redir[pin];
	if ((a->pins >> pin & 1) && waits_for_eoi(r) && !(r & (RED_MASKED | RED_REMOTE_IRR)))
		send(a, pin);
}

void ioapic_set_pin(void *opaque, unsigned pin, bool level) {
	struct ioapic *a = opaque;
	if (pin >= IOAPIC_PINS)
		return;
	uint32_t bit = 1u << pin;
	bool rose = level && !(a->pins & bit);
	a->pins = level ? a->pins | bit : a->pins & ~bit;
	if (waits_for_eoi(a->redir[pin]))
		look(a, pin);
	else if (rose && !(a->redir[pin] & RED_MASKED)) /* masked edges are lost [82093AA 3.2.4] */
		send(a, pin);
}

void ioapic_eoi(void *opaque, uint8_t vector) {
	struct ioapic *a = opaque;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t r = a->redir[pin];
		if ((uint8_t)r != vector || !(r & RED_REMOTE_IRR))
			continue;
		a->redir[pin] &= ~RED_REMOTE_IRR;
		look(a, pin);
	}
}

static uint32_t reg_read(const struct ioapic *a) {
	unsigned n = a->select - REG_REDIR;
	switch (a->select) {
	case REG_ID:
	case REG_ARB:
		return (uint32_t)a->id << 24;
	case REG_VERSION:
		return VERSION;
	default:
		if (a->select < REG_REDIR || n >= 2 * IOAPIC_PINS)
			return 0xffffffff;
		return (uint32_t)(a->redir[n >> 1] >> (n & 1 ? 32 : 0));
	}
}

static void reg_write(struct ioapic *a, uint32_t val) {
	unsigned n = a->select - REG_REDIR;
	if (a->select == REG_ID) {
		a->id = val >> 24 & 0xf;
		return;
	}
	if (a->select < REG_REDIR || n >= 2 * IOAPIC_PINS)
		return;
	lapic_bus_settle(a->bus);
	uint64_t *r = &a->redir[n >> 1];
	uint64_t half = n & 1 ? 0xffffffffull << 32 : 0xffffffffull;
	uint64_t mask = RED_WRITABLE & half;
	*r = (*r & ~mask) | ((uint64_t)val << (n & 1 ? 32 : 0) & mask);
	if (!waits_for_eoi(*r))
		*r &= ~RED_REMOTE_IRR;
	look(a, n >> 1);
}

static uint64_t win_read(void *opaque, uint64_t off, unsigned size) {
	struct ioapic *a = opaque;
	switch (off) {
	case WIN_SELECT:
		return a->select;
	case WIN_DATA:
		return reg_read(a);
	default:
		return 0;
	}
}

static void win_write(void *opaque, uint64_t off, unsigned size, uint64_t val) {
	struct ioapic *a = opaque;
	switch (off) {
	case WIN_SELECT:
		a->select = (uint8_t)val;
		break;
	case WIN_DATA:
		reg_write(a, (uint32_t)val);
		break;
	case WIN_EOI:
		ioapic_eoi(a, (uint8_t)val);
		break;
	default:
		break;
	}
}

const struct io_ops ioapic_ops = {win_read, win_write, 0, 0};

static void reset(void *self) {
	struct ioapic *a = self;
	a->select = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		a->redir[pin] = RED_MASKED;
}

void ioapic_init(struct ioapic *a, struct lapic_bus *bus, uint8_t id) {
	*a = (struct ioapic){.bus = bus, .id = id & 0xf};
	reset(a);
	lapic_bus_add_eoi(bus, ioapic_eoi, a);
}

/* What follows from other fields, whoever wrote them. */
static void settle(struct ioapic *a) {
	a->id &= 0xf;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		a->redir[pin] &= RED_WRITABLE | RED_REMOTE_IRR;
		if (!waits_for_eoi(a->redir[pin]))
			a->redir[pin] &= ~RED_REMOTE_IRR;
	}
}

bool ioapic_note_pin(struct ioapic *a, unsigned pin, bool level) {
	if (pin >= IOAPIC_PINS)
		return false;
	uint32_t before = a->pins, bit = 1u << pin;
	a->pins = level ? before | bit : before & ~bit;
	return a->pins != before;
}

void ioapic_set_image(struct ioapic *a, const struct chips_image *c) {
	a->id = c->ioapic.id;
	a->select = c->ioapic.select;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		a->redir[pin] = c->ioapic.redir[pin];
	settle(a);
}

static void state(struct state_io *io, void *self) {
	struct ioapic *a = self;
	state_u8(io, "id", &a->id);
	state_u8(io, "select", &a->select);
	state_u32(io, "pins", &a->pins);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		state_u64(io, "redir", &a->redir[pin]);
	if (!io->loading)
		return;
	a->pins &= BIT(IOAPIC_PINS) - 1;
	settle(a);
}

const struct device_ops ioapic_device_ops = {
	.name = "ioapic",
	.version = 1,
	.reset = reset,
	.state = state,
};
