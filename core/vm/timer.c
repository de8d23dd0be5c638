/* The VM's timer queue: a sorted list. A PC has a dozen timers, most of them
 * idle, so a list beats a heap in time as well as in lines. */
#include "core/vm/timer.h"

#include "core/base/check.h"

void timers_init(struct vm_timers *q, const struct vm_clock *clock) {
	*q = (struct vm_timers){.clock = clock};
}

void timer_init(struct vm_timer *t, void (*fire)(void *opaque), void *opaque) {
	*t = (struct vm_timer){.fire = fire, .opaque = opaque, .deadline_ns = TIMER_NEVER};
}

void timer_cancel(struct vm_timer *t) {
	if (!timer_armed(t))
		return;
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->next = NULL;
	t->link = NULL;
	t->deadline_ns = TIMER_NEVER;
}

void timer_arm(struct vm_timers *q, struct vm_timer *t, uint64_t deadline_ns) {
	timer_cancel(t);
	if (deadline_ns == TIMER_NEVER)
		return;
	struct vm_timer **at = &q->first;
	while (*at && (*at)->deadline_ns <= deadline_ns)
		at = &(*at)->next;
	t->deadline_ns = deadline_ns;
	t->next = *at;
	t->link = at;
	if (t->next)
		t->next->link = &t->next;
	*at = t;
	if (at == &q->first && q->rearm)
		q->rearm(q->rearm_opaque, deadline_ns);
}

uint64_t timers_run(struct vm_timers *q, uint64_t now_ns) {
	while (q->first && q->first->deadline_ns <= now_ns) {
		struct vm_timer *t = q->first;
		timer_cancel(t);
		t->fire(t->opaque);
	}
	return q->first ? q->first->deadline_ns : TIMER_NEVER;
}
