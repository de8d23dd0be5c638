/* Token buckets: rates over time, bursts, debt, changes, numbers at the edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/bucket.h"

#define SECOND 1000000000ull

/* How many of size `n` pass in `ns`, waiting as told. */
static uint64_t run(struct bucket *b, uint64_t *now, uint64_t ns, uint64_t n) {
	uint64_t count = 0, end = *now + ns;
	while (*now < end) {
		uint64_t wait = bucket_wait(b, *now);
		if (wait) {
			*now += wait;
			continue;
		}
		bucket_take(b, n);
		count++;
		assert_true(count < 10000000);
	}
	return count;
}

static void test_rates(void **state) {
	static const uint64_t rates[] = {1, 7, 1000, 125000, 12500000, 1250000000, 1ull << 40};
	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		struct bucket b;
		uint64_t now = 12345, size = rates[i] / 1000 + 1;
		bucket_init(&b, (struct rate){rates[i], size}, now);
		uint64_t n = run(&b, &now, 10 * SECOND, size), want = 10 * rates[i] / size;
		assert_true(n >= want - want / 50 - 1 && n <= want + want / 50 + 3);
	}
}

static void test_burst(void **state) {
	struct bucket b;
	uint64_t now = 0;
	bucket_init(&b, (struct rate){1000, 5000}, now);
	unsigned n = 0;
	while (!bucket_wait(&b, now)) {
		bucket_take(&b, 1000);
		n++;
	}
	assert_int_equal(n, 5);
	/* It fills up again, and not beyond. */
	now += 1000 * SECOND;
	for (n = 0; !bucket_wait(&b, now); n++)
		bucket_take(&b, 1000);
	assert_int_equal(n, 5);
	/* A large one leaves a debt of 64 seconds. */
	now += 6 * SECOND;
	assert_int_equal(bucket_wait(&b, now), 0);
	bucket_take(&b, 69000);
	uint64_t wait = bucket_wait(&b, now);
	assert_true(wait >= 64 * SECOND && wait < 65 * SECOND);
	assert_true(bucket_wait(&b, now + 63 * SECOND) > 0);
	assert_int_equal(bucket_wait(&b, now + wait), 0);
}

static void test_edges(void **state) {
	struct bucket b;
	bucket_init(&b, (struct rate){0, 0}, 0);
	bucket_take(&b, UINT64_MAX);
	assert_int_equal(bucket_wait(&b, 0), 0);
	bucket_init(&b, (struct rate){UINT64_MAX, UINT64_MAX}, 0);
	bucket_take(&b, UINT64_MAX);
	assert_true(bucket_wait(&b, UINT64_MAX) < SECOND);
	bucket_init(&b, (struct rate){1, 0}, SECOND);
	assert_int_equal(bucket_wait(&b, 0), 0); /* a clock that goes back */
	bucket_take(&b, 1);
	assert_true(bucket_wait(&b, 0) > 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_burst),
		cmocka_unit_test(test_edges),
	};
	return cmocka_run_group_tests_name("base_bucket", tests, NULL, NULL);
}
