/* The VM's clock and its timers. All times are nanoseconds of the VM's clock,
 * which stands still while the VM is paused or saved. The host (or a test) sets
 * the clock and calls timers_run(); chips arm and cancel. VM lock held in all
 * calls but the clock's, which may be asked from any thread. */
#ifndef CORE_VM_TIMER_H
#define CORE_VM_TIMER_H

#include "core/base/types.h"

#define TIMER_NEVER UINT64_MAX

/* What the host lends. `now_ns` and `now_tsc` advance together: the guest's TSC (before
 * a vCPU's own TSC_ADJUST) is now_ns scaled by tsc_khz. */
struct vm_clock {
	uint64_t (*now_ns)(void *opaque);
	uint64_t (*now_tsc)(void *opaque);
	uint64_t (*wall_ns)(void *opaque); /* UTC, nanoseconds since 1970 */
	void *opaque;
	uint32_t tsc_khz;
	/* Not 0: the processor's TSC has this frequency and is scaled to tsc_khz. */
	uint32_t tsc_host_khz;
	/* true: now_tsc() is the processor's TSC, scaled, minus *base, until the clock is stopped. NULL
	 * or false: it has nothing to do with it. */
	bool (*tsc_base)(void *opaque, uint64_t *base);
};

struct vm_timer {
	void (*fire)(void *opaque); /* runs disarmed; may arm itself again */
	void *opaque;
	uint64_t deadline_ns;		   /* TIMER_NEVER when not armed */
	struct vm_timer *next, **link; /* the queue's; zero when not armed */
};

struct vm_timers {
	const struct vm_clock *clock;
	struct vm_timer *first; /* by deadline, the earliest first */
	/* Called when the earliest deadline moved to an earlier time; may be NULL. */
	void (*rearm)(void *opaque, uint64_t deadline_ns);
	void *rearm_opaque;
};

void timers_init(struct vm_timers *q, const struct vm_clock *clock);

/* Fires everything due at `now_ns`, earliest first. Returns the next deadline. */
uint64_t timers_run(struct vm_timers *q, uint64_t now_ns);

void timer_init(struct vm_timer *t, void (*fire)(void *opaque), void *opaque);

/* Arms `t` (again); a deadline in the past fires at the next timers_run(). */
void timer_arm(struct vm_timers *q, struct vm_timer *t, uint64_t deadline_ns);

/* Safe on a timer that is not armed. */
void timer_cancel(struct vm_timer *t);

static inline bool timer_armed(const struct vm_timer *t) {
	return t->deadline_ns != TIMER_NEVER;
}

static inline uint64_t timers_now(const struct vm_timers *q) {
	return q->clock->now_ns(q->clock->opaque);
}

#endif
