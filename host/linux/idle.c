/* See idle.h. */
#include "host/linux/idle.h"

#include "host/linux/clock.h"

bool idle_look(struct idle *w, uint64_t now_ns, uint64_t used_ns) {
	bool idle = w->at_ns && (used_ns - w->used_ns) * IDLE_PART < now_ns - w->at_ns;
	w->at_ns = now_ns;
	w->used_ns = used_ns;
	w->looks = idle ? w->looks + 1 : 0;
	w->trimmed &= idle;
	if (w->trimmed || w->looks < IDLE_LOOKS)
		return false;
	w->trimmed = true;
	return true;
}

static void look(void *opaque) {
	struct idle *w = opaque;
	if (idle_look(w, host_now_ns(), host_clock_ns(CLOCK_PROCESS_CPUTIME_ID)))
		w->trim(w->opaque);
	loop_timer_set(&w->timer, IDLE_LOOK_NS);
}

void idle_start(struct idle *w, struct loop *l, void (*trim)(void *opaque), void *opaque) {
	w->loop = l;
	w->trim = trim;
	w->opaque = opaque;
	w->made = loop_timer_create(l, &w->timer, look, w) == 0;
	if (w->made)
		loop_timer_set(&w->timer, 0);
}

void idle_stop(struct idle *w) {
	if (w->made)
		loop_timer_destroy(w->loop, &w->timer);
	w->made = false;
}
