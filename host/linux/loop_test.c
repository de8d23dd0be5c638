/* Events from other threads, timers, removal from inside a callback. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "host/linux/loop.h"

struct counter {
	struct loop loop;
	struct loop_event event;
	struct loop_timer timer, other;
	unsigned events, timeouts;
};

static void on_event(void *opaque) {
	struct counter *c = opaque;
	c->events++;
	loop_quit(&c->loop);
}

static void on_timer(void *opaque) {
	struct counter *c = opaque;
	if (++c->timeouts == 3)
		loop_quit(&c->loop);
	else
		loop_timer_set(&c->timer, 1000000);
}

static void on_other(void *opaque) {
	fail();
}

static void *signal_it(void *opaque) {
	struct counter *c = opaque;
	loop_event_signal(&c->event);
	return NULL;
}

static void test_events(void **state) {
	struct counter c = {0};
	pthread_t t;
	assert_int_equal(loop_create(&c.loop, NULL), 0);
	assert_int_equal(loop_event_create(&c.loop, &c.event, on_event, &c), 0);
	pthread_create(&t, NULL, signal_it, &c);
	loop_run(&c.loop);
	pthread_join(t, NULL);
	assert_int_equal(c.events, 1);
	/* Signals before the loop runs are not lost, and many are one. */
	for (int i = 0; i < 5; i++)
		loop_event_signal(&c.event);
	loop_run(&c.loop);
	assert_int_equal(c.events, 2);
	loop_event_destroy(&c.loop, &c.event);
	loop_destroy(&c.loop);
}

static void test_timers(void **state) {
	struct counter c = {0};
	assert_int_equal(loop_create(&c.loop, NULL), 0);
	assert_int_equal(loop_timer_create(&c.loop, &c.timer, on_timer, &c), 0);
	assert_int_equal(loop_timer_create(&c.loop, &c.other, on_other, &c), 0);
	loop_timer_set(&c.other, 500000);
	loop_timer_set(&c.other, UINT64_MAX); /* never */
	loop_timer_set(&c.timer, 0);		  /* at once */
	loop_run(&c.loop);
	assert_int_equal(c.timeouts, 3);
	loop_timer_destroy(&c.loop, &c.timer);
	loop_timer_destroy(&c.loop, &c.other);
	loop_destroy(&c.loop);
}

int main(void) {
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_events),
									   cmocka_unit_test(test_timers)};
	return cmocka_run_group_tests_name("host_loop", tests, NULL, NULL);
}
