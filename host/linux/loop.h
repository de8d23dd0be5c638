/* The event loop: one thread that waits for file descriptors, timers and calls from other
 * threads. Callbacks run on the loop's thread, without any lock. Sources belong to
 * whoever adds them and must be removed before they are freed. */
#ifndef HOST_LINUX_LOOP_H
#define HOST_LINUX_LOOP_H

#include <sys/epoll.h>

#include "core/base/err.h"
#include "core/base/types.h"

struct loop_source {
	int fd;
	void (*ready)(void *opaque, uint32_t events); /* EPOLLIN ... */
	void *opaque;
};

/* Another thread's way into the loop: signalling it any number of times runs `ready` once
 * or more. */
struct loop_event {
	struct loop_source source;
	void (*ready)(void *opaque);
	void *opaque;
};

/* A one-shot timer on CLOCK_MONOTONIC. May be set from any thread. */
struct loop_timer {
	struct loop_source source;
	void (*ready)(void *opaque);
	void *opaque;
};

struct loop {
	int epoll;
	bool quit;
	struct loop_event wake;
};

int loop_create(struct loop *l, struct err *e);
void loop_destroy(struct loop *l);

/* Runs until loop_quit(). */
void loop_run(struct loop *l);
void loop_quit(struct loop *l); /* any thread */

/* 0 or a negative errno value; EPERM: a file that is always ready. */
int loop_add(struct loop *l, struct loop_source *s, uint32_t events);
/* Waits for other events from now on; any thread that keeps the source alive. */
void loop_change(struct loop *l, struct loop_source *s, uint32_t events);
void loop_remove(struct loop *l, struct loop_source *s);

int loop_event_create(struct loop *l, struct loop_event *ev, void (*ready)(void *), void *opaque);
void loop_event_signal(struct loop_event *ev); /* any thread */
void loop_event_destroy(struct loop *l, struct loop_event *ev);

int loop_timer_create(struct loop *l, struct loop_timer *t, void (*ready)(void *), void *opaque);
void loop_timer_set(struct loop_timer *t, uint64_t delay_ns); /* any thread; UINT64_MAX: never */
void loop_timer_destroy(struct loop *l, struct loop_timer *t);

#endif
