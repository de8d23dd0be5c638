/* See loop.h. epoll, eventfd and timerfd; see their manual pages. */
#include "host/linux/loop.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/base/check.h"

static void on_wake(void *opaque) {
	/* loop_run() looks at `quit` after every batch. */
}

int loop_create(struct loop *l, struct err *e) {
	*l = (struct loop){.epoll = epoll_create1(EPOLL_CLOEXEC)};
	if (l->epoll < 0)
		return err_set(e, errno, "cannot make an event loop: %s", strerror(errno));
	int r = loop_event_create(l, &l->wake, on_wake, l);
	if (r < 0) {
		close(l->epoll);
		return err_set(e, -r, "cannot make an event loop: %s", strerror(-r));
	}
	return 0;
}

void loop_destroy(struct loop *l) {
	loop_event_destroy(l, &l->wake);
	close(l->epoll);
}

void loop_run(struct loop *l) {
	while (!__atomic_load_n(&l->quit, __ATOMIC_ACQUIRE)) {
		/* One event a call: a callback may remove and free any other source. */
		struct epoll_event ev;
		int n = epoll_wait(l->epoll, &ev, 1, -1);
		if (n < 0) {
			check(errno == EINTR);
			continue;
		}
		struct loop_source *s = ev.data.ptr;
		if (n > 0)
			s->ready(s->opaque, ev.events);
	}
	__atomic_store_n(&l->quit, false, __ATOMIC_RELEASE);
}

void loop_quit(struct loop *l) {
	__atomic_store_n(&l->quit, true, __ATOMIC_RELEASE);
	loop_event_signal(&l->wake);
}

int loop_add(struct loop *l, struct loop_source *s, uint32_t events) {
	struct epoll_event ev = {.events = events, .data.ptr = s};
	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &ev) < 0 ? -errno : 0;
}

void loop_change(struct loop *l, struct loop_source *s, uint32_t events) {
	struct epoll_event ev = {.events = events, .data.ptr = s};
	epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &ev);
}

void loop_remove(struct loop *l, struct loop_source *s) {
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
}

/* Takes the count out of an eventfd or timerfd. */
static bool drain(int fd) {
	uint64_t n;
	return read(fd, &n, sizeof(n)) == sizeof(n);
}

static void event_ready(void *opaque, uint32_t events) {
	struct loop_event *ev = opaque;
	if (drain(ev->source.fd))
		ev->ready(ev->opaque);
}

int loop_event_create(struct loop *l, struct loop_event *ev, void (*ready)(void *), void *opaque) {
	ev->source = (struct loop_source){eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), event_ready, ev};
	ev->ready = ready;
	ev->opaque = opaque;
	if (ev->source.fd < 0)
		return -errno;
	int r = loop_add(l, &ev->source, EPOLLIN);
	if (r < 0)
		close(ev->source.fd);
	return r;
}

void loop_event_signal(struct loop_event *ev) {
	uint64_t one = 1;
	/* Fails only when the counter is full, and then the loop wakes anyway. */
	ssize_t n = write(ev->source.fd, &one, sizeof(one));
	(void)n;
}

void loop_event_destroy(struct loop *l, struct loop_event *ev) {
	loop_remove(l, &ev->source);
	close(ev->source.fd);
}

static void timer_ready(void *opaque, uint32_t events) {
	struct loop_timer *t = opaque;
	/* Set again by another thread in between: then there is nothing to read. */
	if (drain(t->source.fd))
		t->ready(t->opaque);
}

int loop_timer_create(struct loop *l, struct loop_timer *t, void (*ready)(void *), void *opaque) {
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	t->source = (struct loop_source){fd, timer_ready, t};
	t->ready = ready;
	t->opaque = opaque;
	if (fd < 0)
		return -errno;
	int r = loop_add(l, &t->source, EPOLLIN);
	if (r < 0)
		close(fd);
	return r;
}

void loop_timer_set(struct loop_timer *t, uint64_t delay_ns) {
	struct itimerspec its = {0};
	if (delay_ns != UINT64_MAX) {
		if (!delay_ns)
			delay_ns = 1; /* zero would disarm */
		its.it_value.tv_sec = (time_t)(delay_ns / 1000000000u);
		its.it_value.tv_nsec = (long)(delay_ns % 1000000000u);
	}
	timerfd_settime(t->source.fd, 0, &its, NULL);
}

void loop_timer_destroy(struct loop *l, struct loop_timer *t) {
	loop_remove(l, &t->source);
	close(t->source.fd);
}
