#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test/unit/fake.h"

static unsigned order[8], fired;
static struct fake_clock fake;

static void note(void *opaque) {
	order[fired++ & 7] = (unsigned)(uintptr_t)opaque;
}

static int setup(void **state) {
	fake_clock_init(&fake);
	fired = 0;
	return 0;
}

static void fire_in_order(void **state) {
	struct vm_timer a, b, c;
	timer_init(&a, note, (void *)1);
	timer_init(&b, note, (void *)2);
	timer_init(&c, note, (void *)3);
	timer_arm(&fake.timers, &a, 30);
	timer_arm(&fake.timers, &b, 10);
	timer_arm(&fake.timers, &c, 30);
	assert_int_equal(timers_run(&fake.timers, 9), 10);
	assert_int_equal(timers_run(&fake.timers, 29), 30);
	assert_true(timers_run(&fake.timers, 30) == TIMER_NEVER);
	assert_int_equal(fired, 3);
	assert_int_equal(order[0], 2);
	assert_int_equal(order[1], 1);
	assert_int_equal(order[2], 3); /* equal deadlines: the first armed fires first */
}

static void cancel_and_rearm(void **state) {
	struct vm_timer a, b;
	timer_init(&a, note, (void *)1);
	timer_init(&b, note, (void *)2);
	timer_cancel(&a);
	timer_arm(&fake.timers, &a, 10);
	timer_arm(&fake.timers, &b, 20);
	timer_arm(&fake.timers, &a, 30);
	timer_cancel(&b);
	timer_cancel(&b);
	assert_false(timer_armed(&b));
	timers_run(&fake.timers, 25);
	assert_int_equal(fired, 0);
	timer_arm(&fake.timers, &a, TIMER_NEVER);
	assert_null(fake.timers.first);
}

static struct vm_timer again;

static void fire_again(void *opaque) {
	fired++;
	if (fired < 3)
		timer_arm(&fake.timers, &again, again.deadline_ns == TIMER_NEVER ? fired * 10 : 0);
}

static void a_timer_arms_itself(void **state) {
	timer_init(&again, fire_again, NULL);
	timer_arm(&fake.timers, &again, 5);
	timers_run(&fake.timers, 100); /* the second and third are due as well */
	assert_int_equal(fired, 3);
}

static uint64_t told;

static void rearm(void *opaque, uint64_t deadline_ns) {
	told = deadline_ns;
}

static void host_hears_of_earlier(void **state) {
	struct vm_timer a, b;
	timer_init(&a, note, NULL);
	timer_init(&b, note, NULL);
	fake.timers.rearm = rearm;
	timer_arm(&fake.timers, &a, 50);
	assert_int_equal(told, 50);
	timer_arm(&fake.timers, &b, 60);
	assert_int_equal(told, 50);
	timer_arm(&fake.timers, &b, 40);
	assert_int_equal(told, 40);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(fire_in_order, setup),
		cmocka_unit_test_setup(cancel_and_rearm, setup),
		cmocka_unit_test_setup(a_timer_arms_itself, setup),
		cmocka_unit_test_setup(host_hears_of_earlier, setup),
	};
	return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
