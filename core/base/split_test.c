/* Bandwidth by weights, on a simulated link: what fits goes through, in proportion to how hard each
 * user presses; time goes on in steps of a millisecond. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/bits.h"
#include "core/base/split.h"

#define MS 1000000ull

struct sender {
	uint64_t wants;	  /* a second */
	unsigned presses; /* its part of a full link, as TCP's flows have */
	unsigned weight;
	uint64_t limit, moved;
};

static struct split split;
static uint64_t now, capacity; /* of the link, a second */

static void start(struct sender *u, unsigned n) {
	memset(&split, 0, sizeof(split));
	for (unsigned i = 0; i < n; i++)
		split_join(&split, i, u[i].weight);
}

static void step(struct sender *u, unsigned n) {
	uint64_t presses = 0, left = capacity / 1000, asks[8], got[8] = {0};
	for (unsigned i = 0; i < n; i++) {
		u[i].limit = split_limit(&split, i, now);
		asks[i] = (u[i].limit ? MIN(u[i].limit, u[i].wants) : u[i].wants) / 1000;
	}
	/* Those that want less than their part leave the rest to the others. */
	for (unsigned round = 0; round < 8 && left; round++) {
		uint64_t spread = left;
		presses = 0;
		for (unsigned i = 0; i < n; i++)
			presses += got[i] < asks[i] ? u[i].presses : 0;
		for (unsigned i = 0; presses && i < n; i++) {
			uint64_t more = MIN(asks[i] - got[i], spread * u[i].presses / presses);
			got[i] += more;
			left -= more;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		u[i].moved += got[i];
		if (got[i] == asks[i] && asks[i] < u[i].wants / 1000)
			split_held(&split, i);
		split_moved(&split, i, got[i], now);
	}
	now += MS;
}

static void run(struct sender *u, unsigned n, unsigned ms) {
	for (unsigned i = 0; i < n; i++)
		u[i].moved = 0;
	for (unsigned t = 0; t < ms; t++)
		step(u, n);
}

static void test_alone(void **state) {
	struct sender u[2] = {{1ull << 36, 1, 100, 0, 0}, {0, 1, 100, 0, 0}};
	capacity = 100000000;
	start(u, 2);
	run(u, 2, 2000);
	assert_int_equal(u[0].limit, 0);
	assert_true(u[0].moved > 199000000);
}

/* A hundred connections against one. */
static void test_greedy(void **state) {
	static const unsigned weights[][2] = {{100, 100}, {300, 100}, {100, 300}};
	for (unsigned k = 0; k < ARRAY_LEN(weights); k++) {
		struct sender u[2] = {{1ull << 36, 99, weights[k][0], 0, 0},
							  {1ull << 36, 1, weights[k][1], 0, 0}};
		capacity = 100000000;
		start(u, 2);
		run(u, 2, 5000); /* it has to find out first */
		run(u, 2, 5000);
		uint64_t a = u[0].moved * weights[k][1], b = u[1].moved * weights[k][0];
		assert_true(a < b * 120 / 100 && b < a * 120 / 100);
		assert_true(u[0].moved + u[1].moved > 450000000); /* of 500 */
	}
}

/* One that wants less than its share gets it, and the other what is left. */
static void test_modest(void **state) {
	struct sender u[2] = {{1ull << 36, 99, 100, 0, 0}, {20000000, 1, 100, 0, 0}};
	capacity = 100000000;
	start(u, 2);
	run(u, 2, 5000);
	run(u, 2, 5000);
	assert_true(u[1].moved > 95000000);
	assert_true(u[0].moved > 350000000);
}

/* The link gets slower, and faster again. */
static void test_change(void **state) {
	struct sender u[2] = {{1ull << 36, 9, 100, 0, 0}, {1ull << 36, 1, 100, 0, 0}};
	static const uint64_t links[] = {100000000, 20000000, 200000000};
	start(u, 2);
	for (unsigned k = 0; k < ARRAY_LEN(links); k++) {
		capacity = links[k];
		run(u, 2, 10000);
		run(u, 2, 5000);
		assert_true(u[0].moved + u[1].moved > capacity * 5 * 85 / 100);
		assert_true(u[1].moved > capacity * 5 * 35 / 100);
	}
	u[1].wants = 0;
	run(u, 2, 1000);
	run(u, 2, 1000);
	assert_true(u[0].moved > capacity * 99 / 100);
}

static void test_damage(void **state) {
	uint32_t seed = 3;
	for (unsigned round = 0; round < 200; round++) {
		uint8_t *p = (uint8_t *)&split;
		for (size_t i = 0; i < sizeof(split); i++) {
			seed = seed * 1664525 + 1013904223;
			p[i] = round % 2 ? (uint8_t)(seed >> 24) : 0xff;
		}
		split_join(&split, 5, 100);
		for (unsigned t = 0; t < 300; t++) {
			uint64_t limit = split_limit(&split, 5, now += MS);
			assert_true(!limit || limit >= SPLIT_LEAST);
			split_moved(&split, 5, 1000000, now);
		}
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alone),  cmocka_unit_test(test_greedy), cmocka_unit_test(test_modest),
		cmocka_unit_test(test_change), cmocka_unit_test(test_damage),
	};
	return cmocka_run_group_tests_name("base_split", tests, NULL, NULL);
}
