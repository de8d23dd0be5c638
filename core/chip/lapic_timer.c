/* The local APIC's timer: one-shot, periodic and TSC-deadline modes
 * ([SDM3 10.5.4]).
 *
 * A countdown is kept as the VM time of its end, so nothing runs while it counts.
 * The clock in front of the divider is 1 GHz. Called by lapic.c and by the VM's
 * timer queue, with the VM lock held.
 *
 * DEVIATION: periods below TIMER_MIN_PERIOD_NS are stretched to it; no processor
 * could take interrupts that fast, and a guest must not make its host only do timers. */
#include "core/base/bits.h"
#include "core/chip/lapic.h"

#define TIMER_MIN_PERIOD_NS 50000u

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC, TIMER_RESERVED };

static enum timer_mode mode_of(uint32_t lvt) {
	return (enum timer_mode)(lvt >> 17 & 3);
}

/* Divide configuration [3,1:0]: 2, 4, 8, ... 128, and 1 ([SDM3 figure 10-10]). */
static uint64_t tick_ns(const struct lapic *l) {
	unsigned code = (l->timer_divide & 3) | (l->timer_divide >> 1 & 4);
	return (uint64_t)LAPIC_BUS_NS << ((code + 1) & 7);
}

static uint64_t period_ns(const struct lapic *l) {
	return l->timer_initial * tick_ns(l);
}

static uint64_t guest_tsc(const struct lapic *l) {
	if (l->out.tsc)
		return l->out.tsc(l->out.opaque);
	return l->timers->clock->now_tsc(l->timers->clock->opaque);
}

static void stop(struct lapic *l) {
	l->timer_deadline_ns = TIMER_NEVER;
	timer_cancel(&l->timer);
}

static void start(struct lapic *l, uint64_t deadline_ns) {
	l->timer_deadline_ns = deadline_ns;
	timer_arm(l->timers, &l->timer, deadline_ns);
}

/* The VM time at which the guest's TSC reaches the deadline, rounded up. */
static uint64_t tsc_deadline_ns(const struct lapic *l, uint64_t now_tsc) {
	uint64_t khz = l->timers->clock->tsc_khz ? l->timers->clock->tsc_khz : 1000000;
	uint64_t delta = l->tsc_deadline - now_tsc;
	uint64_t ms = delta / khz;
	uint64_t now = timers_now(l->timers);
	uint64_t limit = TIMER_NEVER - 1 - now; /* as good as never: 584 years */

	if (ms >= limit / 1000000)
		return now + limit;
	uint64_t ns = ms * 1000000 + (delta % khz * 1000000 + khz - 1) / khz;
	return now + MIN(ns, limit);
}

/* Arms for the TSC deadline, or fires when it has passed. */
static void arm_deadline(struct lapic *l) {
	uint64_t now_tsc = guest_tsc(l);
	if (now_tsc < l->tsc_deadline) {
		start(l, tsc_deadline_ns(l, now_tsc));
		return;
	}
	l->tsc_deadline = 0;
	stop(l);
	lapic_local_event(l, LVT_TIMER);
}

static void fire(void *opaque) {
	struct lapic *l = opaque;
	uint64_t ended = l->timer_deadline_ns;
	l->timer_deadline_ns = TIMER_NEVER;
	switch (mode_of(l->lvt[LVT_TIMER])) {
	case TIMER_TSC:
		if (l->tsc_deadline)
			arm_deadline(l); /* looks again: the TSC may have been moved */
		return;
	case TIMER_PERIODIC:
		if (l->timer_initial) {
			/* Periods that nobody could see are skipped, the phase is kept. */
			uint64_t period = MAX(period_ns(l), TIMER_MIN_PERIOD_NS);
			uint64_t now = timers_now(l->timers);
			uint64_t missed = now > ended ? (now - ended) / period : 0;
			start(l, ended + (missed + 1) * period);
		}
		break;
	default:
		break;
	}
	/* Last: the interrupt may be an INIT, which resets this timer. */
	lapic_local_event(l, LVT_TIMER);
}

void lapic_timer_init(struct lapic *l) {
	timer_init(&l->timer, fire, l);
	l->timer_deadline_ns = TIMER_NEVER;
}

void lapic_timer_reset(struct lapic *l) {
	stop(l);
	l->tsc_deadline = 0;
	l->timer_initial = 0;
	l->timer_divide = 0;
}

void lapic_timer_set_initial(struct lapic *l, uint32_t count) {
	enum timer_mode mode = mode_of(l->lvt[LVT_TIMER]);
	if (mode == TIMER_TSC) /* ignored ([SDM3 10.5.4.1]) */
		return;
	l->timer_initial = count;
	if (!count || mode == TIMER_RESERVED) {
		stop(l);
		return;
	}
	uint64_t ns = period_ns(l);
	if (mode == TIMER_PERIODIC)
		ns = MAX(ns, TIMER_MIN_PERIOD_NS);
	start(l, timers_now(l->timers) + ns);
}

uint32_t lapic_timer_current(const struct lapic *l) {
	if (l->timer_deadline_ns == TIMER_NEVER || mode_of(l->lvt[LVT_TIMER]) == TIMER_TSC)
		return 0;
	uint64_t now = timers_now(l->timers);
	if (now >= l->timer_deadline_ns)
		return 0;
	uint64_t tick = tick_ns(l);
	uint64_t left = (l->timer_deadline_ns - now + tick - 1) / tick;
	return (uint32_t)MIN(left, l->timer_initial);
}

void lapic_timer_set_divide(struct lapic *l, uint32_t divide) {
	uint32_t left = lapic_timer_current(l);
	l->timer_divide = divide & 0xb;
	/* What is left is counted at the new rate from here on. */
	if (left)
		start(l, timers_now(l->timers) + left * tick_ns(l));
}

void lapic_timer_mode_changed(struct lapic *l, uint32_t old_lvt) {
	enum timer_mode from = mode_of(old_lvt), to = mode_of(l->lvt[LVT_TIMER]);
	/* To or from TSC-deadline mode disarms; one-shot and periodic share a countdown. */
	if (from != to && (from == TIMER_TSC || to == TIMER_TSC || to == TIMER_RESERVED)) {
		l->tsc_deadline = 0;
		stop(l);
	}
}

uint64_t lapic_timer_get_deadline(const struct lapic *l) {
	return mode_of(l->lvt[LVT_TIMER]) == TIMER_TSC ? l->tsc_deadline : 0;
}

void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc) {
	if (!lapic_enabled(l) || mode_of(l->lvt[LVT_TIMER]) != TIMER_TSC)
		return;
	l->tsc_deadline = tsc;
	stop(l);
	if (tsc)
		arm_deadline(l);
}

void lapic_tsc_changed(struct lapic *l) {
	if (l->tsc_deadline)
		lapic_timer_set_deadline(l, l->tsc_deadline);
}

void lapic_timer_state(struct state_io *io, struct lapic *l) {
	state_u64(io, "timer_deadline_ns", &l->timer_deadline_ns);
	state_u64(io, "tsc_deadline", &l->tsc_deadline);
	state_u32(io, "timer_initial", &l->timer_initial);
	state_u32(io, "timer_divide", &l->timer_divide);
	if (!io->loading)
		return;
	timer_cancel(&l->timer);
	l->timer_divide &= 0xb;
}

void lapic_timer_loaded(struct lapic *l) {
	enum timer_mode mode = mode_of(l->lvt[LVT_TIMER]);
	if (mode == TIMER_TSC) {
		l->timer_deadline_ns = TIMER_NEVER;
		if (l->tsc_deadline)
			arm_deadline(l);
		return;
	}
	l->tsc_deadline = 0;
	if (l->timer_deadline_ns == TIMER_NEVER || mode == TIMER_RESERVED) {
		l->timer_deadline_ns = TIMER_NEVER;
		return;
	}
	/* No countdown is longer than its initial count; a stream that says so is bent. */
	uint64_t longest = timers_now(l->timers) + MAX(period_ns(l), TIMER_MIN_PERIOD_NS);
	start(l, MIN(l->timer_deadline_ns, longest));
}

void lapic_timer_set_image(struct lapic *l, uint64_t tsc_deadline, uint32_t current) {
	bool counts = current && mode_of(l->lvt[LVT_TIMER]) != TIMER_TSC;
	timer_cancel(&l->timer);
	l->tsc_deadline = tsc_deadline;
	l->timer_deadline_ns =
		counts ? timers_now(l->timers) + current * tick_ns(l) : (uint64_t)TIMER_NEVER;
}
