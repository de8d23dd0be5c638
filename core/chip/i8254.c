/* The 8254 interval timer (Intel 8254 data sheet, order 231164) and port 61h (ICH9
 * data sheet 13.7.1). Nothing is counted: a counter remembers when it was loaded, and
 * counts and outputs are computed from the VM's clock when somebody looks. Only the
 * edges of counter 0's output need a timer.
 *
 * Left out: the sources of NMI in port 61h (bits 7:6 read 0, their enables are only
 * kept), and counter 1's refresh request; bit 4 toggles as if it had the usual count.
 *
 * DEVIATION: periods shorter than MIN_NS get fewer interrupts than they should; the
 * one-tick low pulses of modes 2, 4 and 5 on irq 0 end in the moment they begin.
 *
 * Called with the VM lock held: ports for any vCPU, the timer by the host's loop. */
#include "core/chip/i8254.h"

#include "core/base/bits.h"

#define SECOND_NS 1000000000ull
#define REFRESH_TICKS 18 /* half a period of port 61 bit 4: 15 us */
#define MIN_NS 10000	 /* a guest must not keep the host busy with timers */
#define TICKS_MAX (UINT64_MAX / SECOND_NS * I8254_HZ)

#define PORT61_GATE2 0x01u
#define PORT61_SPEAKER 0x02u
#define PORT61_ENABLES 0x0cu
#define PORT61_REFRESH 0x10u
#define PORT61_OUT2 0x20u

/* ---- time --------------------------------------------------------------------------- */

static uint64_t ticks_of(uint64_t ns) {
	return ns / SECOND_NS * I8254_HZ + ns % SECOND_NS * I8254_HZ / SECOND_NS;
}

/* The first nanosecond of a tick. */
static uint64_t ns_of(uint64_t ticks) {
	return ticks / I8254_HZ * SECOND_NS + (ticks % I8254_HZ * SECOND_NS + I8254_HZ - 1) / I8254_HZ;
}

static uint64_t now_of(const struct i8254 *t) {
	return ticks_of(timers_now(t->timers));
}

/* ---- one counter -------------------------------------------------------------------- */

static unsigned mode_of(const struct i8254_counter *c) {
	unsigned mode = c->control >> 1 & 7;
	return mode > 5 ? mode - 4 : mode;
}

static uint64_t elapsed(const struct i8254_counter *c, uint64_t now) {
	if (!c->running)
		return c->frozen;
	return now > c->start ? now - c->start : 0;
}

/* Where in its period mode 3 is: output high below high_ticks(), then low. */
static uint32_t high_ticks(const struct i8254_counter *c) {
	return (c->count + 1) / 2;
}

static uint32_t square_position(const struct i8254_counter *c, uint64_t e) {
	return (uint32_t)((e + (c->low_half ? high_ticks(c) : 0)) % c->count);
}

static bool output(const struct i8254_counter *c, uint64_t now) {
	unsigned mode = mode_of(c);
	if (!c->loaded)
		return mode != 0;
	if (c->running && now < c->start)
		return c->out_before;
	uint64_t e = elapsed(c, now);
	switch (mode) {
	case 0:
		return e >= c->count;
	case 1:
		return e >= c->count;
	case 2:
		return !c->running || e % c->count != c->count - 1;
	case 3:
		return !c->running || square_position(c, e) < high_ticks(c);
	default:
		return e != c->count;
	}
}

static uint16_t bcd_of(uint32_t v) {
	return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint16_t v) {
	return (v & 15u) + (v >> 4 & 15u) * 10 + (v >> 8 & 15u) * 100 + (v >> 12 & 15u) * 1000;
}

/* What the counting element holds, in the counter's notation. */
static uint16_t element(const struct i8254_counter *c, uint64_t now) {
	uint64_t e = elapsed(c, now);
	uint32_t modulus = c->control & 1 ? 10000 : 65536;
	uint32_t n = c->count, v;
	if (!n)
		return 0;
	if (mode_of(c) == 2) {
		v = n - (uint32_t)(e % n);
	} else if (mode_of(c) == 3) {
		/* Counts down by two in each half, from an even number [8254 p.12]. */
		uint32_t at = square_position(c, e), high = high_ticks(c);
		v = (n & ~1u) - 2 * (at < high ? at : at - high);
	} else {
		v = n + modulus - (uint32_t)(e % modulus);
	}
	v %= modulus;
	return c->control & 1 ? bcd_of(v) : (uint16_t)v;
}

/* Lets a count that waited for the end of a period take over. */
static void settle(struct i8254_counter *c, uint64_t now) {
	if (!c->next_pending || !c->running || now < c->switch_at)
		return;
	bool was_high = output(c, c->switch_at - 1);
	c->low_half = mode_of(c) == 3 && was_high;
	c->start = c->switch_at;
	c->count = c->reload;
	c->next_pending = false;
}

/* The element takes `reload` with the next clock. */
static void load(struct i8254_counter *c, uint64_t now) {
	unsigned mode = mode_of(c);
	c->out_before = output(c, now);
	c->count = c->reload;
	c->start = now + 1;
	c->frozen = 0;
	c->loaded = true;
	c->running = c->gate || mode == 1 || mode == 5;
	c->waiting = c->next_pending = c->low_half = false;
}

static void freeze(struct i8254_counter *c, uint64_t now) {
	c->frozen = elapsed(c, now);
	c->running = false;
}

static void set_gate(struct i8254_counter *c, bool gate, uint64_t now) {
	unsigned mode = mode_of(c);
	settle(c, now);
	if (gate == c->gate)
		return;
	c->gate = gate;
	if (mode == 1 || mode == 5) {
		if (gate && c->reload)
			load(c, now);
	} else if (!gate) {
		freeze(c, now);
	} else if (c->loaded && (mode == 2 || mode == 3)) {
		load(c, now);
	} else if (c->loaded) { /* modes 0 and 4 go on where they were */
		c->start = now - MIN(c->frozen, now);
		c->running = true;
	}
}

static void write_control(struct i8254_counter *c, uint8_t val, uint64_t now) {
	uint16_t was = element(c, now);
	uint32_t count = c->control & 1 ? from_bcd(was) : was;
	c->count = count ? count : 65536;
	c->frozen = 0;
	c->control = val & 0x3f;
	c->loaded = c->running = c->waiting = c->next_pending = c->low_half = false;
	c->write_high = c->read_high = c->count_latched = c->status_latched = false;
	c->reload = 0;
}

static void count_written(struct i8254_counter *c, uint16_t val, uint64_t now) {
	unsigned mode = mode_of(c);
	bool first = !c->loaded;
	c->reload = c->control & 1 ? from_bcd(val) : val;
	if (!c->reload)
		c->reload = c->control & 1 ? 10000 : 65536;
	if (mode == 1 || mode == 5) {
		c->waiting = true;
	} else if (first || mode == 0 || mode == 4) {
		load(c, now);
	} else if (!c->running) { /* the gate will trigger */
		c->waiting = true;
	} else if (now < c->start) {
		c->count = c->reload;
	} else if (!c->next_pending) {
		uint64_t e = elapsed(c, now);
		uint32_t left = c->count - (uint32_t)(e % c->count);
		if (mode == 3) {
			uint32_t at = square_position(c, e), high = high_ticks(c);
			left = at < high ? high - at : c->count - at;
		}
		c->switch_at = now + left;
		c->next_pending = true;
	}
}

static void write_count(struct i8254_counter *c, uint8_t val, uint64_t now) {
	settle(c, now);
	switch (c->control >> 4 & 3) {
	case 1:
		count_written(c, val, now);
		break;
	case 2:
		count_written(c, (uint16_t)(val << 8), now);
		break;
	case 3:
		if (!c->write_high) {
			c->low_byte = val;
			/* The first byte stops mode 0 and lowers its output [8254 p.9]. */
			if (mode_of(c) == 0) {
				freeze(c, now);
				c->loaded = false;
			}
		} else {
			count_written(c, (uint16_t)(val << 8 | c->low_byte), now);
		}
		c->write_high = !c->write_high;
		break;
	default: /* no control word yet */
		break;
	}
}

static void latch_count(struct i8254_counter *c, uint64_t now) {
	if (c->count_latched)
		return;
	c->latch = element(c, now);
	c->count_latched = true;
	c->read_high = false;
}

static void latch_status(struct i8254_counter *c, uint64_t now) {
	if (c->status_latched)
		return;
	bool null = !c->loaded || c->waiting || c->next_pending || (c->running && now < c->start);
	c->latched_status = (uint8_t)(output(c, now) << 7 | null << 6 | c->control);
	c->status_latched = true;
}

static uint8_t read_count(struct i8254_counter *c, uint64_t now) {
	settle(c, now);
	if (c->status_latched) {
		c->status_latched = false;
		return c->latched_status;
	}
	uint16_t v = c->count_latched ? c->latch : element(c, now);
	unsigned access = c->control >> 4 & 3;
	bool high = access == 2 || (access == 3 && c->read_high);
	if (access == 3)
		c->read_high = !c->read_high;
	if (access != 3 || high)
		c->count_latched = false;
	return (uint8_t)(high ? v >> 8 : v);
}

/* The next tick after `now` at which irq 0 has something to do; 0: none. */
static uint64_t next_edge(const struct i8254_counter *c, uint64_t now) {
	if (!c->loaded || !c->running)
		return 0;
	now = MAX(now, c->start);
	uint64_t e = elapsed(c, now), edge;
	switch (mode_of(c)) {
	case 0:
	case 1:
		edge = c->start + c->count;
		return edge > now ? edge : 0;
	case 2:
		edge = now + c->count - e % c->count;
		break;
	case 3: {
		uint32_t at = square_position(c, e), high = high_ticks(c);
		edge = now + (at < high && high < c->count ? high - at : c->count - at);
		break;
	}
	default:
		edge = c->start + c->count + 1;
		return edge > now ? edge : 0;
	}
	return c->next_pending ? MIN(edge, c->switch_at) : edge;
}

/* ---- the chip ----------------------------------------------------------------------- */

static void update(struct i8254 *t) {
	struct i8254_counter *c = &t->counter[0];
	uint64_t now_ns = timers_now(t->timers), now = ticks_of(now_ns);
	settle(c, now);
	t->out0 = output(c, now);
	if (!t->muted) /* else the line is the HPET's */
		irq_set(&t->irq, t->out0);
	uint64_t edge = next_edge(c, now);
	if (!edge) {
		timer_cancel(&t->timer);
		return;
	}
	uint64_t at = ns_of(edge);
	if (t->last_edge_ns && at < t->last_edge_ns + MIN_NS)
		at = t->last_edge_ns + MIN_NS;
	timer_arm(t->timers, &t->timer, MAX(at, now_ns + 1));
}

static void edge_due(void *opaque) {
	struct i8254 *t = opaque;
	struct i8254_counter *c = &t->counter[0];
	uint64_t now_ns = timers_now(t->timers), now = ticks_of(now_ns);
	unsigned mode = mode_of(c);
	settle(c, now);
	t->last_edge_ns = now_ns;
	/* The low tick of these modes was not worth a timer of its own. */
	bool pulses = mode == 2 || ((mode == 4 || mode == 5) && elapsed(c, now) > c->count);
	if (pulses && !t->muted)
		irq_set(&t->irq, false);
	update(t);
}

/* Notes an edge whose time has come before the guest changes what would come next: the
 * host's loop may be late. */
static void catch_up(struct i8254 *t) {
	if (!timer_armed(&t->timer) || t->timer.deadline_ns > timers_now(t->timers))
		return;
	timer_cancel(&t->timer);
	edge_due(t);
}

void i8254_mute(void *opaque, unsigned pin, bool muted) {
	struct i8254 *t = opaque;
	catch_up(t);
	if (muted && !t->muted)
		irq_set(&t->irq, false);
	t->muted = muted;
	update(t);
}

static void read_back(struct i8254 *t, uint8_t val, uint64_t now) {
	for (unsigned i = 0; i < 3; i++) {
		if (!(val >> (i + 1) & 1))
			continue;
		struct i8254_counter *c = &t->counter[i];
		settle(c, now);
		if (!(val & 0x20))
			latch_count(c, now);
		if (!(val & 0x10))
			latch_status(c, now);
	}
}

static uint64_t pit_read(void *dev, uint64_t off, unsigned size) {
	struct i8254 *t = dev;
	if (off > 2)
		return 0xff; /* the control register cannot be read */
	return read_count(&t->counter[off], now_of(t));
}

static void pit_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct i8254 *t = dev;
	uint64_t now = now_of(t);
	unsigned n = val >> 6 & 3;
	catch_up(t);
	if (off < 3) {
		write_count(&t->counter[off], (uint8_t)val, now);
	} else if (n == 3) {
		read_back(t, (uint8_t)val, now);
		return;
	} else if (!(val & 0x30)) {
		settle(&t->counter[n], now);
		latch_count(&t->counter[n], now);
		return;
	} else {
		settle(&t->counter[n], now);
		write_control(&t->counter[n], (uint8_t)val, now);
	}
	update(t);
}

static uint64_t port61_read(void *dev, uint64_t off, unsigned size) {
	struct i8254 *t = dev;
	struct i8254_counter *c = &t->counter[2];
	uint64_t now = now_of(t);
	settle(c, now);
	return t->port61 | (c->gate ? PORT61_GATE2 : 0) |
		   (now / REFRESH_TICKS & 1 ? PORT61_REFRESH : 0) | (output(c, now) ? PORT61_OUT2 : 0);
}

static void port61_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct i8254 *t = dev;
	t->port61 = val & (PORT61_SPEAKER | PORT61_ENABLES);
	set_gate(&t->counter[2], val & PORT61_GATE2, now_of(t));
}

const struct io_ops i8254_ops = {pit_read, pit_write, 1, 1};
const struct io_ops i8254_port61_ops = {port61_read, port61_write, 1, 1};

/* Undefined in the data sheet: here counters are idle in mode 0 with no count, so the
 * output is low and no interrupt comes before firmware or a kernel programs one. */
static void reset(void *self) {
	struct i8254 *t = self;
	for (unsigned i = 0; i < 3; i++)
		t->counter[i] = (struct i8254_counter){.control = 0x30, .gate = i < 2, .count = 65536};
	t->port61 = 0;
	t->muted = false;
	t->last_edge_ns = 0;
	update(t);
}

void i8254_init(struct i8254 *t, struct vm_timers *timers, const struct irq_line *irq) {
	*t = (struct i8254){.timers = timers, .irq = *irq};
	timer_init(&t->timer, edge_due, t);
	reset(t);
}

static void counter_state(struct state_io *io, struct i8254_counter *c, unsigned n) {
	state_u8(io, "control", &c->control);
	state_bool(io, "gate", &c->gate);
	state_bool(io, "loaded", &c->loaded);
	state_bool(io, "running", &c->running);
	state_bool(io, "waiting", &c->waiting);
	state_bool(io, "next_pending", &c->next_pending);
	state_bool(io, "low_half", &c->low_half);
	state_bool(io, "out_before", &c->out_before);
	state_bool(io, "write_high", &c->write_high);
	state_bool(io, "read_high", &c->read_high);
	state_bool(io, "count_latched", &c->count_latched);
	state_bool(io, "status_latched", &c->status_latched);
	state_u8(io, "low_byte", &c->low_byte);
	state_u8(io, "latched_status", &c->latched_status);
	state_u16(io, "latch", &c->latch);
	state_u32(io, "reload", &c->reload);
	state_u32(io, "count", &c->count);
	state_u64(io, "start", &c->start);
	state_u64(io, "switch_at", &c->switch_at);
	state_u64(io, "frozen", &c->frozen);
	if (!io->loading)
		return;
	if (!c->count || c->count > 65536 || c->reload > 65536)
		state_fail(io, "a count is out of range");
	c->count = MIN(MAX(c->count, 1u), 65536u);
	c->reload = MIN(c->reload, 65536u);
	c->control &= 0x3f;
	c->gate |= n < 2;
	c->next_pending &= c->reload && (mode_of(c) == 2 || mode_of(c) == 3);
	c->start = MIN(c->start, TICKS_MAX);
	c->switch_at = MIN(c->switch_at, TICKS_MAX);
	if (c->next_pending)
		c->switch_at = MAX(c->switch_at, c->start + 1);
	c->frozen = MIN(c->frozen, TICKS_MAX);
	/* Only a written count can be in the element. */
	c->loaded &= c->reload != 0;
	c->running &= c->loaded;
}

static void state(struct state_io *io, void *self) {
	struct i8254 *t = self;
	for (unsigned i = 0; i < 3; i++)
		counter_state(io, &t->counter[i], i);
	state_u8(io, "port61", &t->port61);
	state_bool(io, "muted", &t->muted);
	t->due_ns = t->timer.deadline_ns;
	state_u64(io, "due_ns", &t->due_ns);
	if (!io->loading)
		return;
	t->port61 &= PORT61_SPEAKER | PORT61_ENABLES;
	t->last_edge_ns = 0;
}

static void loaded(void *self) {
	struct i8254 *t = self;
	update(t);
	/* An edge whose time had come, but which was not noted yet, is not to be lost. */
	if (t->counter[0].running && t->due_ns < t->timer.deadline_ns)
		timer_arm(t->timers, &t->timer, t->due_ns);
}

const struct device_ops i8254_device_ops = {
	.name = "i8254",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
