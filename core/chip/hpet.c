/* The high precision event timers (IA-PC HPET specification 1.0a, October 2004). The
 * main counter ticks every 10 ns, so that it is the VM's clock divided by ten; matches
 * are timers on that clock.
 *
 * Left out: FSB (MSI) delivery, which the capability bits deny.
 *
 * DEVIATION: periods below MIN_NS get fewer interrupts than they should.
 *
 * Called with the VM lock held: registers for any vCPU, timers by the host's loop. */
#include "core/chip/hpet.h"

#include "core/base/bits.h"

#define MIN_NS 10000 /* a guest must not keep the host busy with timers */
#define PERIOD_FS (HPET_TICK_NS * 1000000ull)

enum { REG_CAP = 0x00, REG_CONFIG = 0x10, REG_STATUS = 0x20, REG_COUNTER = 0xf0, REG_T0 = 0x100 };
enum { T_CONFIG = 0x00, T_COMPARE = 0x08, T_STRIDE = 0x20 };

#define CFG_ENABLE 1u
#define CFG_LEGACY 2u

#define T_LEVEL BIT(1)
#define T_ENABLE BIT(2)
#define T_PERIODIC BIT(3)
#define T_CAPS (BIT(4) | BIT(5)) /* periodic, 64 bits */
#define T_VAL_SET BIT(6)
#define T_32BIT BIT(8)
#define T_ROUTE_SHIFT 9
#define T_ROUTE (31ull << T_ROUTE_SHIFT)
#define T_WRITABLE (T_LEVEL | T_ENABLE | T_PERIODIC | T_VAL_SET | T_32BIT | T_ROUTE)

static uint64_t counter(const struct hpet *h) {
	if (!(h->config & CFG_ENABLE))
		return h->counter;
	uint64_t now = timers_now(h->timers);
	return h->counter + (now > h->start_ns ? now - h->start_ns : 0) / HPET_TICK_NS;
}

static uint64_t mask_of(const struct hpet_timer *t) {
	return t->config & T_32BIT ? 0xffffffffull : ~0ull;
}

static unsigned index_of(const struct hpet_timer *t) {
	return (unsigned)(t - t->hpet->timer);
}

/* ---- outputs ------------------------------------------------------------------------- */

static void drive(const struct hpet_timer *t, bool level) {
	const struct hpet *h = t->hpet;
	unsigned n = index_of(t), route = (unsigned)(t->config >> T_ROUTE_SHIFT & 31);
	if ((h->config & CFG_LEGACY) && n < 2) {
		irq_set(n == 0 ? &h->out.irq0 : &h->out.irq8, level);
	} else if (h->out.routes >> route & 1) {
		struct irq_line line = h->out.gsi;
		line.pin = route;
		irq_set(&line, level);
	}
}

/* What a level-triggered output shows now; an edge-triggered one is low. */
static void show(const struct hpet_timer *t) {
	const struct hpet *h = t->hpet;
	drive(t, (t->config & T_LEVEL) && (t->config & T_ENABLE) && (h->config & CFG_ENABLE) &&
				 (h->status >> index_of(t) & 1));
}

/* ---- matches ------------------------------------------------------------------------- */

/* An edge of a timer that is not enabled leaves no trace, so that nobody has to wake for it: Linux
 * leaves timer 0 with 250 of them a second. */
static bool seen(const struct hpet_timer *t) {
	return t->config & (T_LEVEL | T_ENABLE);
}

/* Notes when it matches next. */
static void expect(struct hpet_timer *t, uint64_t at_ns) {
	t->next_ns = at_ns;
	timer_arm(t->hpet->timers, &t->timer, seen(t) ? at_ns : TIMER_NEVER);
}

/* Finds the next match. `fresh`: one right now still counts. */
static void arm(struct hpet_timer *t, bool fresh) {
	struct hpet *h = t->hpet;
	expect(t, TIMER_NEVER);
	if (!(h->config & CFG_ENABLE))
		return;
	uint64_t now = timers_now(h->timers), mask = mask_of(t);
	uint64_t ahead = (t->compare - counter(h)) & mask;
	if (!ahead && !fresh)
		ahead = mask == ~0ull ? mask : mask + 1; /* once around */
	if (ahead >= (UINT64_MAX - now) / HPET_TICK_NS)
		return; /* not in this machine's life */
	uint64_t phase = (now - MIN(h->start_ns, now)) % HPET_TICK_NS;
	uint64_t at = now - phase + ahead * HPET_TICK_NS;
	if (t->last_ns && at < t->last_ns + MIN_NS)
		at = t->last_ns + MIN_NS;
	expect(t, at);
}

static void match(void *opaque) {
	struct hpet_timer *t = opaque;
	struct hpet *h = t->hpet;
	if (seen(t))
		t->last_ns = timers_now(h->timers);
	if (t->config & T_LEVEL) {
		h->status |= BIT(index_of(t));
		show(t);
	} else if (t->config & T_ENABLE) {
		drive(t, true);
		drive(t, false);
	}
	if ((t->config & T_PERIODIC) && t->period) {
		uint64_t mask = mask_of(t), behind = (counter(h) - t->compare) & mask;
		t->compare = (t->compare + (behind / t->period + 1) * t->period) & mask;
	}
	arm(t, false);
}

/* Notes matches whose time has come before the guest looks or changes what would come
 * next: the host's loop may be late, or was not asked to wake. */
static void catch_up(struct hpet *h) {
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &h->timer[n];
		if (t->next_ns == TIMER_NEVER || t->next_ns > timers_now(h->timers))
			continue;
		timer_cancel(&t->timer);
		match(t);
	}
}

/* ---- registers ----------------------------------------------------------------------- */

static uint64_t read_reg(const struct hpet *h, uint64_t off) {
	switch (off) {
	case REG_CAP:
		return PERIOD_FS << 32 | HPET_ID;
	case REG_CONFIG:
		return h->config;
	case REG_STATUS:
		return h->status;
	case REG_COUNTER:
		return counter(h);
	default:
		break;
	}
	uint64_t n = (off - REG_T0) / T_STRIDE;
	if (off < REG_T0 || n >= HPET_TIMERS)
		return 0;
	const struct hpet_timer *t = &h->timer[n];
	switch ((off - REG_T0) % T_STRIDE) {
	case T_CONFIG:
		return (t->config & ~T_VAL_SET) | T_CAPS | (uint64_t)h->out.routes << 32;
	case T_COMPARE:
		return t->compare;
	default:
		return 0;
	}
}

static void write_config(struct hpet *h, uint64_t val) {
	uint64_t now = counter(h);
	val &= CFG_ENABLE | CFG_LEGACY;
	uint64_t changed = val ^ h->config;
	/* Outputs leave their old wires before the mode changes them. */
	for (unsigned n = 0; changed && n < HPET_TIMERS; n++)
		drive(&h->timer[n], false);
	h->config = val;
	if (changed & CFG_ENABLE) {
		h->counter = now;
		h->start_ns = timers_now(h->timers);
	}
	if (changed & CFG_LEGACY) {
		irq_set(&h->out.mute_pit, val & CFG_LEGACY);
		irq_set(&h->out.mute_rtc, val & CFG_LEGACY);
	}
	for (unsigned n = 0; changed && n < HPET_TIMERS; n++) {
		show(&h->timer[n]);
		if (changed & CFG_ENABLE)
			arm(&h->timer[n], true);
	}
}

static void write_timer_config(struct hpet_timer *t, uint64_t val) {
	const struct hpet *h = t->hpet;
	uint64_t was = t->config;
	val &= T_WRITABLE;
	/* A route that the timer does not have is not taken [HPET 2.3.8]. */
	if (!(h->out.routes >> (val >> T_ROUTE_SHIFT & 31) & 1))
		val = (val & ~T_ROUTE) | (was & T_ROUTE);
	if ((was ^ val) & (T_LEVEL | T_ENABLE | T_ROUTE))
		drive(t, false);
	t->config = val;
	if (val & T_32BIT) {
		t->compare &= 0xffffffff;
		t->period &= 0xffffffff;
	}
	show(t);
	if ((was ^ val) & (T_32BIT | T_PERIODIC))
		arm(t, false);
	else
		expect(t, t->next_ns);
}

/* In periodic mode every write is the period, and with VAL_SET also the first match. */
static void write_compare(struct hpet_timer *t, uint64_t val, uint64_t bytes) {
	uint64_t mask = mask_of(t);
	if (t->config & T_PERIODIC)
		t->period = ((t->period & ~bytes) | (val & bytes)) & mask;
	if (!(t->config & T_PERIODIC) || (t->config & T_VAL_SET))
		t->compare = ((t->compare & ~bytes) | (val & bytes)) & mask;
	t->config &= ~T_VAL_SET;
	arm(t, true);
}

static void write_reg(struct hpet *h, uint64_t off, uint64_t val, uint64_t bytes) {
	switch (off) {
	case REG_CONFIG:
		write_config(h, (h->config & ~bytes) | (val & bytes));
		return;
	case REG_STATUS:
		h->status &= ~(val & bytes);
		for (unsigned n = 0; n < HPET_TIMERS; n++)
			show(&h->timer[n]);
		return;
	case REG_COUNTER:
		/* Only defined while halted; a running counter goes on from there. */
		h->counter = (counter(h) & ~bytes) | (val & bytes);
		h->start_ns = timers_now(h->timers);
		for (unsigned n = 0; n < HPET_TIMERS; n++)
			arm(&h->timer[n], true);
		return;
	default:
		break;
	}
	uint64_t n = (off - REG_T0) / T_STRIDE;
	if (off < REG_T0 || n >= HPET_TIMERS)
		return;
	struct hpet_timer *t = &h->timer[n];
	uint64_t at = (off - REG_T0) % T_STRIDE;
	if (at == T_CONFIG)
		write_timer_config(t, (t->config & ~bytes) | (val & bytes));
	else if (at == T_COMPARE)
		write_compare(t, val, bytes);
}

/* The specification wants aligned accesses of 4 or 8 bytes; others act on those bytes of
 * the register that they start in. */
static uint64_t hpet_read(void *dev, uint64_t off, unsigned size) {
	catch_up(dev);
	return read_reg(dev, off & ~7ull) >> (off & 7) * 8;
}

static void hpet_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	unsigned shift = (off & 7) * 8;
	catch_up(dev);
	write_reg(dev, off & ~7ull, val << shift, size_mask(size) << shift);
}

const struct io_ops hpet_ops = {hpet_read, hpet_write, 0, 0};

/* [HPET 2.3]: halted, no legacy replacement, comparators all ones. */
static void reset(void *self) {
	struct hpet *h = self;
	write_config(h, 0);
	h->status = h->counter = 0;
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &h->timer[n];
		drive(t, false);
		t->config = h->out.routes ? (uint64_t)__builtin_ctz(h->out.routes) << T_ROUTE_SHIFT : 0;
		t->compare = ~0ull;
		t->period = t->last_ns = 0;
		arm(t, false);
	}
}

void hpet_init(struct hpet *h, struct vm_timers *timers, const struct hpet_out *out) {
	*h = (struct hpet){.out = *out, .timers = timers};
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		h->timer[n].hpet = h;
		timer_init(&h->timer[n].timer, match, &h->timer[n]);
	}
	reset(h);
}

static void state(struct state_io *io, void *self) {
	struct hpet *h = self;
	state_u64(io, "config", &h->config);
	state_u64(io, "status", &h->status);
	state_u64(io, "counter", &h->counter);
	state_u64(io, "start_ns", &h->start_ns);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &h->timer[n];
		state_u64(io, "timer_config", &t->config);
		state_u64(io, "compare", &t->compare);
		state_u64(io, "period", &t->period);
		t->due_ns = t->next_ns;
		state_u64(io, "due_ns", &t->due_ns);
		if (!io->loading)
			continue;
		t->config &= T_WRITABLE;
		t->compare &= mask_of(t);
		t->period &= mask_of(t);
		t->last_ns = 0;
	}
	if (!io->loading)
		return;
	h->config &= CFG_ENABLE | CFG_LEGACY;
	h->status &= BIT(HPET_TIMERS) - 1;
}

static void loaded(void *self) {
	struct hpet *h = self;
	irq_set(&h->out.mute_pit, h->config & CFG_LEGACY);
	irq_set(&h->out.mute_rtc, h->config & CFG_LEGACY);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &h->timer[n];
		show(t);
		arm(t, true);
		/* A match whose time had come, but which was not noted yet, is not to be lost. */
		if ((h->config & CFG_ENABLE) && t->due_ns < t->next_ns)
			expect(t, t->due_ns);
	}
}

const struct device_ops hpet_device_ops = {
	.name = "hpet",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
