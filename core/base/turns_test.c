/* Who runs where, on a simulated computer: its time goes on in steps of a millisecond, and what a
 * user gets is added up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/bits.h"
#include "core/base/turns.h"

#define MS 1000000ull
#define SPAN 640 /* ms: twenty periods */

struct user {
	unsigned weight, wants; /* in TURNS_CPU */
	unsigned got;			/* of a CPU in a thousand, on average */
	unsigned changes;		/* of what it may use, in all of the span */
	bool free;				/* always; or had a CPU always */
	bool ran;
};

static struct turns turns;
static uint64_t now;

static void start(const struct user *u, unsigned n) {
	memset(&turns, 0, sizeof(turns));
	now = 12345 * MS;
	for (unsigned i = 0; i < n; i++)
		turns_join(&turns, i, u[i].weight, now);
}

/* No CPU is ever two users' that keep to theirs, and all of them are somebody's. */
static void run(struct user *u, unsigned n, unsigned cpus) {
	unsigned sum[TURNS_USERS] = {0};
	struct turn last[TURNS_USERS];
	static struct turns_own own[TURNS_USERS];
	uint64_t used[TURNS_USERS] = {0};
	memset(own, 0, sizeof(own));
	memset(last, 0, sizeof(last));
	for (unsigned i = 0; i < n; i++)
		u[i].changes = 0, u[i].ran = true;
	for (unsigned ms = 0; ms < SPAN; ms++, now += MS) {
		uint64_t owned = 0;
		for (unsigned i = 0; i < n; i++)
			turns_post(&turns, i, u[i].wants, now);
		for (unsigned i = 0; i < n; i++) {
			struct turn t;
			turns_look(&turns, i, cpus, now, used[i], &own[i], &t);
			used[i] += MIN(u[i].wants, (t.free ? cpus : t.count) * TURNS_CPU) * MS / TURNS_CPU;
			assert_true(t.until_ns > now && t.until_ns <= now + TURNS_PERIOD_NS);
			u[i].free = t.free;
			u[i].ran &= t.free || t.count;
			if (ms &&
				(t.free != last[i].free || t.first != last[i].first || t.count != last[i].count)) {
				assert_true(last[i].free || last[i].until_ns <= now); /* it was told so */
				u[i].changes++;
			}
			if (t.free != last[i].free || t.until_ns > last[i].until_ns)
				last[i] = t;
			if (t.free)
				continue;
			assert_true(t.first < cpus && t.count <= cpus);
			for (unsigned c = t.first; c < t.first + t.count; c++) {
				assert_false(owned & BIT(c % cpus));
				owned |= BIT(c % cpus);
			}
			sum[i] += t.count;
		}
	}
	for (unsigned i = 0; i < n; i++)
		u[i].got = sum[i] * 1000 / SPAN;
}

static void near(unsigned got, unsigned want) {
	assert_in_range(got, want - want / 12, want + want / 12);
}

static void alone(void **state) {
	struct user u[] = {{.weight = 100, .wants = 9 * TURNS_CPU}};
	start(u, 1);
	assert_false(turns_met(&turns, 0, now));
	run(u, 1, 2);
	/* All there is, which is the same as being free. */
	assert_true(u[0].free || u[0].got == 2000);
}

static void hog_and_quiet(void **state) {
	struct user u[] = {{.weight = 100, .wants = 1 * TURNS_CPU},
					   {.weight = 100, .wants = 4 * TURNS_CPU}};
	start(u, 2);
	run(u, 2, 2);
	assert_true(u[0].ran);
	assert_int_equal(u[0].got, 1000); /* the CPU that the hog leaves */
	assert_int_equal(u[1].got, 1000);
	assert_true(u[1].changes <= 1); /* the same one for a second */
	/* The quiet one uses a quarter: the hog has the rest, and not more. */
	u[0].wants = TURNS_CPU / 4;
	run(u, 2, 2);
	assert_true(u[0].ran);
	near(u[1].got, 1750);
	/* Two with a thread each, and a little beside: the kernel does that well. */
	u[0].wants = u[1].wants = TURNS_CPU + TURNS_CPU / 20;
	run(u, 2, 2);
	assert_true(u[0].free && u[1].free);
	u[1].wants = 4 * TURNS_CPU;
	/* And nothing: the hog is free. */
	u[0].wants = 0;
	run(u, 2, 2);
	assert_true(u[1].free || u[1].got == 2000);
}

static void by_weight(void **state) {
	struct user u[] = {{.weight = 100, .wants = 2 * TURNS_CPU},
					   {.weight = 300, .wants = 2 * TURNS_CPU}};
	start(u, 2);
	run(u, 2, 2);
	near(u[0].got, 500);
	near(u[1].got, 1500);
	turns_set_weight(&turns, 0, 900);
	run(u, 2, 2);
	near(u[0].got, 1500);
	near(u[1].got, 500);
	/* Many on few. */
	struct user five[5];
	for (unsigned i = 0; i < 5; i++)
		five[i] = (struct user){.weight = 100, .wants = TURNS_CPU};
	start(five, 5);
	run(five, 5, 2);
	for (unsigned i = 0; i < 5; i++)
		near(five[i].got, 406); /* 400, in sixteenths of a CPU */
}

static void no_want_is_overlooked(void **state) {
	/* 48 on two CPUs have less than a sixteenth each: some are held, none for ever. */
	struct user u[48];
	unsigned least = 2000;
	for (unsigned i = 0; i < 48; i++)
		u[i] = (struct user){.weight = 100, .wants = TURNS_CPU};
	start(u, 48);
	run(u, 48, 2);
	for (unsigned i = 0; i < 48; i++)
		least = MIN(least, u[i].free ? 2000 : u[i].got);
	assert_true(least > 0);
}

static void who_is_gone(void **state) {
	struct user u[] = {{.weight = 100, .wants = 2 * TURNS_CPU},
					   {.weight = 100, .wants = 2 * TURNS_CPU}};
	struct turn t;
	struct turns_own own = {0};
	start(u, 2);
	run(u, 2, 2);
	near(u[0].got, 1000);
	assert_true(turns_met(&turns, 0, now));
	/* One posts nothing any more. */
	now += TURNS_FRESH_NS;
	turns_post(&turns, 0, 2 * TURNS_CPU, now);
	assert_false(turns_met(&turns, 0, now));
	turns_look(&turns, 0, 2, now, 0, &own, &t);
	assert_true(t.free);
	/* One that leaves is gone at once, and one that is none has nothing to keep to. */
	start(u, 2);
	turns_leave(&turns, 1);
	assert_false(turns_met(&turns, 0, now));
	turns_look(&turns, 1, 2, now, 0, &own, &t);
	assert_true(t.free);
}

/* One that works for `on` ms of each `of`, among hogs that want all CPUs: how many of its ms of
 * work it had to wait with, and how often it began with that. */
struct waits {
	unsigned ms, starts, woke;
};

static struct waits sleeper(unsigned hogs, unsigned cpus, unsigned on, unsigned of) {
	static struct turns_own own[TURNS_USERS];
	struct user u[TURNS_USERS] = {{.weight = 100}};
	struct waits w = {0};
	uint64_t used[TURNS_USERS] = {0}, wants = 0, worked = 0, posted = 0;
	bool held = false;
	unsigned left = 0; /* of the work of this time */
	for (unsigned i = 1; i <= hogs; i++)
		u[i] = (struct user){.weight = 100, .wants = 2 * cpus * TURNS_CPU};
	memset(own, 0, sizeof(own));
	start(u, hogs + 1);
	for (unsigned ms = 0; ms < 100 * of; ms++, now += MS) {
		struct turn t;
		if (ms % of == 0) {
			left += on;
			w.woke++;
		}
		if (now - posted >= TURNS_PERIOD_NS) { /* as cpu_share.c does it */
			wants = (wants + worked * TURNS_CPU * MS / (now - MIN(posted, now - 1))) / 2;
			worked = 0;
			posted = now;
			turns_post(&turns, 0, wants, now);
		}
		for (unsigned i = 1; i <= hogs; i++) {
			turns_post(&turns, i, u[i].wants, now);
			turns_look(&turns, i, cpus, now, used[i], &own[i], &t);
			used[i] += (t.free ? cpus : t.count) * MS;
		}
		turns_look(&turns, 0, cpus, now, used[0], &own[0], &t);
		held = !t.free && !t.count;
		w.ms += left && held;
		w.starts += ms % of == 0 && held;
		if (left && !held) {
			left--;
			worked++;
			used[0] += MS;
		}
	}
	return w;
}

/* Who sleeps most of the time waits for no turn when it wakes, nor before it has worked for longer
 * than its part of a period is. */
static void sleepers_do_not_wait(void **state) {
	static const unsigned work[][2] = {{1, 1000}, {1, 10}, {5, 100}, {20, 200}, {10, 40}};
	for (unsigned hogs = 1; hogs <= 4; hogs += 3)
		for (unsigned i = 0; i < sizeof(work) / sizeof(work[0]); i++) {
			struct waits w = sleeper(hogs, 2, work[i][0], work[i][1]);
			assert_int_equal(w.woke, 100);
			assert_int_equal(w.starts, 0);
			assert_int_equal(w.ms, 0);
		}
	/* With four hogs that is 2/5 of a CPU. Longer pieces wait in their middle, a millisecond of 60.
	 */
	struct waits w = sleeper(4, 2, 60, 1000);
	assert_int_equal(w.starts, 0);
	assert_true(w.ms <= w.woke);
	/* And one that wants more than its share all the time has no more than that. */
	assert_true(sleeper(4, 2, 60, 64).ms > 0);
}

/* The book is the users' own memory: whatever is in it, nothing is divided by zero, no CPU is named
 * that there is not, and the time to look again comes. */
static void any_content(void **state) {
	uint64_t x = 88172645463325252u;
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t *p = (uint64_t *)&turns;
		for (unsigned i = 0; i < sizeof(turns) / 8; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			p[i] = x >> (x % 64);
		}
		for (unsigned i = 0; i < TURNS_USERS; i++)
			if (x >> i & 1)
				turns.users[i].posted_ns = now - (x >> 40);
		unsigned cpus = 1 + (unsigned)(x % 300);
		struct turn t;
		struct turns_own own = {x >> 9, x >> 3, x, x & 2, (int64_t)x};
		turns_look(&turns, (unsigned)(x % TURNS_USERS), cpus, now, x % 5 ? now : x, &own, &t);
		assert_true(t.free || (t.first < cpus && t.count <= cpus));
		assert_true(t.until_ns > now && t.until_ns <= now + TURNS_PERIOD_NS);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alone),	   cmocka_unit_test(hog_and_quiet),
		cmocka_unit_test(by_weight),   cmocka_unit_test(no_want_is_overlooked),
		cmocka_unit_test(who_is_gone), cmocka_unit_test(sleepers_do_not_wait),
		cmocka_unit_test(any_content),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
