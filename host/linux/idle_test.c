#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/linux/idle.h"

#define LOOK IDLE_LOOK_NS
#define IDLE (LOOK / 100)
#define BUSY (LOOK / 10)

struct vm {
	struct idle w;
	uint64_t now, used;
};

/* How many of `n` looks, between which it used `each`, gave memory back. */
static unsigned looks(struct vm *v, unsigned n, uint64_t each) {
	unsigned trims = 0;
	while (n--) {
		v->now += LOOK;
		v->used += each;
		trims += idle_look(&v->w, v->now, v->used);
	}
	return trims;
}

static void once_an_idle_time(void **state) {
	struct vm v = {.now = 5, .used = 3};
	assert_false(idle_look(&v.w, v.now, v.used));
	assert_int_equal(looks(&v, IDLE_LOOKS - 1, IDLE), 0);
	assert_int_equal(looks(&v, 1, IDLE), 1);
	assert_int_equal(looks(&v, 1000, IDLE), 0);
	/* It works: what it made then goes, too, but not before it is idle for long. */
	assert_int_equal(looks(&v, 1, BUSY), 0);
	assert_int_equal(looks(&v, IDLE_LOOKS - 1, IDLE), 0);
	assert_int_equal(looks(&v, 100, IDLE), 1);
}

static void never_while_it_works(void **state) {
	struct vm v = {.now = 5};
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(looks(&v, IDLE_LOOKS - 1, IDLE), 0);
		assert_int_equal(looks(&v, 1, BUSY), 0);
	}
	/* A look that comes late, with more done in more time. */
	v.now += 9 * LOOK;
	assert_int_equal(looks(&v, 1, 10 * LOOK / IDLE_PART), 0);
	assert_int_equal(v.w.looks, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(once_an_idle_time),
		cmocka_unit_test(never_while_it_works),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
