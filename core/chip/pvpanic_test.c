#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/chip/pvpanic.h"

static unsigned calls;
static uint8_t last;

static void event(void *opaque, uint8_t events) {
	calls++;
	last = events;
}

static void test_events(void **state) {
	struct pvpanic p;
	pvpanic_init(&p, event, NULL);
	assert_int_equal(pvpanic_ops.read(&p, 0, 1), 3);
	pvpanic_ops.write(&p, 0, 1, 0);
	pvpanic_ops.write(&p, 0, 1, 0xfc);
	assert_int_equal(calls, 0);
	pvpanic_ops.write(&p, 0, 1, 0xff);
	assert_int_equal(last, 3);
	pvpanic_ops.write(&p, 0, 1, 1);
	assert_int_equal(last, PVPANIC_PANICKED);
	pvpanic_ops.write(&p, 0, 1, 2);
	assert_int_equal(last, PVPANIC_CRASH_LOADED);
	assert_int_equal(calls, 3);
	pvpanic_init(&p, NULL, NULL);
	pvpanic_ops.write(&p, 0, 1, 1);
}

int main(void) {
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_events)};
	return cmocka_run_group_tests_name("pvpanic", tests, NULL, NULL);
}
