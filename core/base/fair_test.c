/* Device time by weights, on a simulated device: one server, first come first served, so much a
 * request and so much a byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/bits.h"
#include "core/base/fair.h"

#define TICK 5000ull /* ns */
#define SECOND 1000000000ull
#define QUEUE 256

struct client {
	uint64_t size, think_ns; /* of a request; between an answer and the next */
	unsigned depth, weight;
	uint64_t device;
	bool cuts; /* its requests go in pieces where others are near; those are what is counted */
	/* Measured: */
	unsigned inflight, done;
	uint64_t busy_ns, next_ns, asked_ns, longest_wait_ns;
};

static struct fair fair;
static struct {
	unsigned client[QUEUE];
	uint64_t end[QUEUE]; /* when it is served */
	uint64_t size[QUEUE];
	unsigned head, count;
	uint64_t free_ns;
} device;
static uint64_t now;

/* 1 GB/s and 50 us a request. */
static uint64_t service(uint64_t size) {
	return 50000 + size;
}

static void start(struct client *c, unsigned n) {
	memset(&fair, 0, sizeof(fair));
	memset(&device, 0, sizeof(device));
	for (unsigned i = 0; i < n; i++)
		fair_join(&fair, i, c[i].device ? c[i].device : 1, c[i].weight);
}

static void ask(struct client *c, unsigned i) {
	while (c->inflight < c->depth && c->next_ns <= now && device.count < QUEUE) {
		if (!c->asked_ns)
			c->asked_ns = now;
		uint64_t size = c->cuts && fair_near(&fair, i, now) ? MIN(c->size, FAIR_PIECE) : c->size;
		uint64_t wait = fair_begin(&fair, i, size + FAIR_REQUEST, now);
		if (wait) {
			c->next_ns = now + wait;
			return;
		}
		c->longest_wait_ns = MAX(c->longest_wait_ns, now - c->asked_ns);
		c->asked_ns = 0;
		unsigned at = (device.head + device.count++) % QUEUE;
		device.free_ns = MAX(device.free_ns, now) + service(size);
		device.client[at] = i;
		device.size[at] = size;
		device.end[at] = device.free_ns;
		c->inflight++;
	}
}

static void run(struct client *c, unsigned n, uint64_t ns) {
	for (unsigned i = 0; i < n; i++)
		c[i].done = 0, c[i].busy_ns = c[i].longest_wait_ns = c[i].asked_ns = 0;
	for (uint64_t end = now + ns; now < end; now += TICK) {
		while (device.count && device.end[device.head] <= now) {
			unsigned i = device.client[device.head];
			uint64_t size = device.size[device.head];
			device.head = (device.head + 1) % QUEUE;
			device.count--;
			fair_end(&fair, i, size + FAIR_REQUEST, now);
			c[i].inflight--;
			c[i].done++;
			c[i].busy_ns += service(size);
			c[i].next_ns = now + c[i].think_ns;
		}
		for (unsigned i = 0; i < n; i++)
			ask(&c[i], i);
	}
	/* The rest of what is in the device. */
	for (; device.count; device.count--, device.head = (device.head + 1) % QUEUE) {
		now = MAX(now, device.end[device.head]);
		fair_end(&fair, device.client[device.head], device.size[device.head] + FAIR_REQUEST, now);
		c[device.client[device.head]].inflight--;
	}
}

#define HOG                                                                                        \
	{ .size = 1 << 20, .depth = 32, .weight = 100 }
#define QUIET                                                                                      \
	{ .size = 4096, .depth = 1, .weight = 100, .think_ns = 100000 }

static void test_alone(void **state) {
	struct client c[2] = {HOG, QUIET};
	c[1].depth = 0;
	start(c, 2);
	run(c, 2, SECOND);
	assert_true(c[0].busy_ns > SECOND * 99 / 100);
	assert_int_equal(c[0].longest_wait_ns, 0);
}

/* Without shares the small reads would each wait behind 32 MiB. */
static void test_quiet_reader(void **state) {
	struct client alone[1] = {QUIET}, c[2] = {HOG, QUIET};
	start(alone, 1);
	run(alone, 1, SECOND);
	start(c, 2);
	run(c, 2, SECOND);
	assert_true(c[1].done > alone[0].done * 45 / 100);
	assert_true(c[0].busy_ns > SECOND * 40 / 100);
	assert_int_equal(c[1].longest_wait_ns, 0); /* who is behind never waits */
}

/* With pieces it need not wait longer than for one, and the device is not kept idle for long
 * moments: it is as quick as beside one of its kind, or has half of what it has alone. */
static void test_pieces(void **state) {
	static const uint64_t thinks[] = {10000,  50000,  100000, 200000,
									  300000, 500000, 900000, 3000000};
	for (unsigned k = 0; k < ARRAY_LEN(thinks); k++) {
		struct client alone[1] = {QUIET}, twins[2] = {QUIET, QUIET}, c[2] = {HOG, QUIET};
		alone[0].think_ns = twins[0].think_ns = twins[1].think_ns = c[1].think_ns = thinks[k];
		c[0].cuts = true;
		start(alone, 1);
		run(alone, 1, SECOND);
		start(twins, 2);
		run(twins, 2, SECOND);
		start(c, 2);
		run(c, 2, SECOND);
		assert_true(c[1].done > alone[0].done / 2);
		assert_true(thinks[k] < 200000 || c[1].done > twins[1].done * 90 / 100);
		assert_true(c[0].busy_ns > SECOND * 2 / 5);
	}
}

static void test_weights(void **state) {
	static const unsigned weights[][2] = {{100, 100}, {300, 100}, {50, 100}, {1000, 100}};
	for (unsigned k = 0; k < ARRAY_LEN(weights); k++) {
		struct client c[2] = {HOG, HOG};
		c[0].weight = weights[k][0];
		c[1].weight = weights[k][1];
		c[1].size = 1 << 18;
		start(c, 2);
		run(c, 2, 4 * SECOND);
		uint64_t a = c[0].busy_ns * weights[k][1], b = c[1].busy_ns * weights[k][0];
		assert_true(a > b * 85 / 100 && a < b * 115 / 100);
		assert_true(c[0].busy_ns + c[1].busy_ns > 4 * SECOND * 95 / 100); /* nothing is wasted */
	}
}

/* One that reads now and then is served soon, and costs the other next to nothing. */
static void test_now_and_then(void **state) {
	struct client c[2] = {HOG, QUIET};
	c[1].think_ns = 10000000;
	start(c, 2);
	run(c, 2, 2 * SECOND);
	assert_true(c[0].busy_ns > 2 * SECOND * 85 / 100);
	assert_int_equal(c[1].longest_wait_ns, 0);
}

/* What was used while nobody else was there is forgotten. */
static void test_past(void **state) {
	struct client c[2] = {HOG, QUIET};
	start(c, 2);
	c[1].depth = 0;
	run(c, 2, 5 * SECOND);
	c[0].depth = 0;
	c[1].depth = 1;
	run(c, 2, SECOND);
	c[0].depth = 32;
	run(c, 2, SECOND);
	assert_true(c[0].busy_ns > SECOND * 40 / 100);
	assert_true(c[1].done > 6494 * 40 / 100); /* a second by 154 us */
}

static void test_devices(void **state) {
	struct client c[2] = {HOG, HOG};
	c[0].device = 1;
	c[1].device = 2;
	start(c, 2);
	run(c, 2, SECOND);
	assert_int_equal(c[0].longest_wait_ns, 0);
	assert_int_equal(c[1].longest_wait_ns, 0);
}

/* Whatever the shared state holds, a request goes in the end. */
static void test_damage(void **state) {
	uint32_t seed = 7;
	for (unsigned round = 0; round < 50; round++) {
		uint8_t *p = (uint8_t *)&fair;
		for (size_t i = 0; i < sizeof(fair); i++) {
			seed = seed * 1664525 + 1013904223;
			p[i] = round % 2 ? (uint8_t)(seed >> 24) : 0xff;
		}
		for (unsigned i = 0; i < FAIR_USERS; i++)
			fair.users[i].device = 1;
		uint64_t t = 5 * SECOND, end = t + FAIR_LONGEST_NS + FAIR_STEP_NS, wait;
		fair_join(&fair, 3, 1, 100);
		while ((wait = fair_begin(&fair, 3, 4096, t)) != 0) {
			t += wait;
			assert_true(t <= end);
		}
		fair_end(&fair, 3, 4096, t);
	}
}

/* A request that stands still somewhere keeps nobody waiting, and is not held against its user. */
static void test_stall(void **state) {
	struct client c[2] = {QUIET, QUIET};
	start(c, 2);
	run(c, 2, SECOND);
	uint64_t t = now, begun = t, wait;
	assert_int_equal(fair_begin(&fair, 0, 4096, t), 0); /* and it does not come back */
	while (t < begun + 50000000 && !fair_begin(&fair, 1, 4096, t)) {
		t += 100000;
		fair_end(&fair, 1, 4096, t);
	}
	for (begun = t; (wait = fair_begin(&fair, 1, 4096, t)) != 0; t += wait)
		assert_true(t <= begun + FAIR_STALL_NS + 2 * FAIR_STEP_NS);
	fair_end(&fair, 1, 4096, t);
	uint64_t before = fair.users[0].used_ns;
	fair_end(&fair, 0, 4096, t + SECOND);
	assert_true(fair.users[0].used_ns - before < SECOND / 100);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alone),		 cmocka_unit_test(test_quiet_reader),
		cmocka_unit_test(test_pieces),		 cmocka_unit_test(test_weights),
		cmocka_unit_test(test_now_and_then), cmocka_unit_test(test_past),
		cmocka_unit_test(test_devices),		 cmocka_unit_test(test_damage),
		cmocka_unit_test(test_stall),
	};
	return cmocka_run_group_tests_name("base_fair", tests, NULL, NULL);
}
