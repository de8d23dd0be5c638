/* The bus between local APICs: who a message is for, and handing it over
 * ([SDM3 10.6], [SDM3 10.11], [SDM3 10.12.10]).
 *
 * Lowest-priority arbitration takes the APIC with the lowest processor priority;
 * among equals they take turns. SMI is dropped: this machine has no SMM. Called
 * with the VM lock held by APICs, I/O APICs and MSI sources. */
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/chip/lapic.h"

#define BROADCAST 0xffffffffu

/* One message on the bus. */
struct message {
	uint32_t dest; /* BROADCAST, or in the sender's format */
	bool logical, level;
	bool lowest; /* to one of the destinations only */
	enum lapic_mode mode;
	uint8_t vector;
};

void lapic_bus_init(struct lapic_bus *bus) {
	*bus = (struct lapic_bus){.phys_bits = 52};
}

void lapic_bus_add_eoi(struct lapic_bus *bus, void (*eoi)(void *opaque, uint8_t vector),
					   void *opaque) {
	check(bus->neoi < LAPIC_EOI_MAX);
	bus->eoi[bus->neoi].eoi = eoi;
	bus->eoi[bus->neoi].opaque = opaque;
	bus->neoi++;
}

void lapic_send_eoi(struct lapic_bus *bus, uint8_t vector) {
	for (unsigned i = 0; i < bus->neoi; i++)
		bus->eoi[i].eoi(bus->eoi[i].opaque, vector);
}

static bool match_logical(const struct lapic *l, uint32_t dest) {
	if (lapic_x2apic(l)) /* cluster in 31:16, one bit a member ([SDM3 10.12.10.2]) */
		return dest >> 16 == l->ldr >> 16 && (dest & l->ldr & 0xffff);
	if (dest > 0xff)
		return false;
	uint32_t id = l->ldr >> 24;
	if (l->dfr >> 28 == 0xf) /* flat: one bit an APIC */
		return dest & id;
	if (l->dfr >> 28 == 0) /* cluster: number in 7:4, members in 3:0 */
		return dest >> 4 == id >> 4 && (dest & id & 0xf);
	return false;
}

static bool match(const struct lapic *l, const struct message *m) {
	if (!lapic_enabled(l))
		return false;
	if (m->dest == BROADCAST)
		return true;
	return m->logical ? match_logical(l, m->dest) : m->dest == l->id;
}

static bool hand_over(struct lapic *l, const struct message *m) {
	return lapic_accept(l, m->mode, m->vector, m->level);
}

static bool deliver_lowest(struct lapic_bus *bus, const struct message *m,
						   const struct lapic *except) {
	unsigned best = bus->count, best_ppr = 256;
	for (unsigned i = 0; i < bus->count; i++) {
		unsigned n = (bus->last_lowest + 1 + i) % bus->count;
		const struct lapic *l = bus->apic[n];
		if (l == except || !match(l, m) || !(l->svr & SVR_ENABLED))
			continue;
		unsigned ppr = lapic_ppr(l);
		if (ppr < best_ppr) {
			best = n;
			best_ppr = ppr;
		}
	}
	if (best == bus->count)
		return false;
	bus->last_lowest = best;
	return hand_over(bus->apic[best], m);
}

/* To all that match but `except`. */
static bool deliver(struct lapic_bus *bus, const struct message *m, const struct lapic *except) {
	if (m->lowest)
		return deliver_lowest(bus, m, except);
	bool any = false;
	for (unsigned i = 0; i < bus->count; i++)
		if (bus->apic[i] != except && match(bus->apic[i], m))
			any |= hand_over(bus->apic[i], m);
	return any;
}

bool lapic_bus_deliver(struct lapic_bus *bus, uint8_t dest, bool logical, enum lapic_mode mode,
					   uint8_t vector, bool level) {
	if (bus->apics) {
		uint32_t data = vector | (uint32_t)mode << 8 | BIT(14) | (level ? BIT(15) : 0);
		gpa_t addr = LAPIC_DEFAULT_BASE | (gpa_t)dest << 12 | (logical ? BIT(2) : 0);
		bus->apics->message(bus->apics->opaque, addr, data);
		return true;
	}
	struct message m = {
		.dest = dest == 0xff ? BROADCAST : dest,
		.logical = logical,
		.level = level,
		.lowest = mode == LAPIC_LOWEST,
		.mode = mode,
		.vector = vector,
	};
	return deliver(bus, &m, NULL);
}

void lapic_bus_msi(void *opaque, gpa_t addr, uint32_t data) {
	struct lapic_bus *bus = opaque;
	if (addr >> 20 != 0xfee)
		return;
	enum lapic_mode mode = (enum lapic_mode)bits(data, 10, 8);
	bool level = data & BIT(15);
	if (level && !(data & BIT(14))) /* de-assert: nothing to take back */
		return;
	if (mode == LAPIC_SIPI) /* no such message ([SDM3 10.11.2]) */
		return;
	if (bus->apics) {
		bus->apics->message(bus->apics->opaque, addr, data);
		return;
	}
	uint8_t dest = (uint8_t)(addr >> 12);
	struct message m = {
		.dest = dest == 0xff ? BROADCAST : dest,
		.logical = addr & BIT(2),
		.level = level,
		/* The redirection hint makes a fixed message one for the lowest priority. */
		.lowest = mode == LAPIC_LOWEST || (mode == LAPIC_FIXED && (addr & BIT(3))),
		.mode = mode,
		.vector = (uint8_t)data,
	};
	deliver(bus, &m, NULL);
}

void lapic_bus_settle(void *opaque) {
	const struct lapic_bus *bus = opaque;
	if (bus->apics && bus->apics->settle)
		bus->apics->settle(bus->apics->opaque);
}

void lapic_send_ipi(struct lapic *l, uint64_t icr) {
	enum lapic_mode mode = (enum lapic_mode)bits(icr, 10, 8);
	bool level = icr & BIT(15), assert = icr & BIT(14);
	uint32_t dest = (uint32_t)(icr >> 32);
	if (!lapic_x2apic(l))
		dest = dest >> 24 == 0xff ? BROADCAST : dest >> 24;

	/* INIT level de-assert only sets arbitration ids ([SDM3 10.6.1]): nothing to do. */
	if (mode == LAPIC_INIT && level && !assert)
		return;
	if ((mode == LAPIC_FIXED || mode == LAPIC_LOWEST) && (icr & 0xff) < 16) {
		lapic_error(l, ESR_SEND_ILLEGAL);
		return;
	}
	struct message m = {
		.dest = dest,
		.logical = icr & BIT(11),
		.lowest = mode == LAPIC_LOWEST,
		.mode = mode,
		.vector = (uint8_t)icr,
	};
	switch (bits(icr, 19, 18)) {
	case 0:
		deliver(l->bus, &m, NULL);
		break;
	case 1:
		hand_over(l, &m);
		break;
	case 2:
		m.dest = BROADCAST;
		deliver(l->bus, &m, NULL);
		break;
	case 3:
		m.dest = BROADCAST;
		deliver(l->bus, &m, l);
		break;
	}
}
