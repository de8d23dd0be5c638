/* The clock goes, stands still, and its two faces agree. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/linux/boot_cache.h"
#include "host/linux/clock.h"

static uint64_t ns(struct host_clock *c) {
	return c->clock.now_ns(c->clock.opaque);
}

static uint64_t tsc(struct host_clock *c) {
	return c->clock.now_tsc(c->clock.opaque);
}

static void wait_ms(long ms) {
	nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

static void test_advances(void **state) {
	struct host_clock c;
	struct timespec a, b;
	assert_int_equal(host_clock_init(&c, false, 0, NULL, NULL), 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	uint64_t start = ns(&c);
	assert_true(start < 1000000000);
	wait_ms(50);
	uint64_t took = ns(&c) - start;
	clock_gettime(CLOCK_MONOTONIC, &b);
	uint64_t real =
		(uint64_t)(b.tv_sec - a.tv_sec) * 1000000000u + (uint64_t)b.tv_nsec - (uint64_t)a.tv_nsec;
	/* Within two in a thousand and what lies between the readings. */
	assert_true(took <= real + real / 500);
	assert_true(took >= 50000000 - 50000000 / 500);
}

static void test_stands_still(void **state) {
	struct host_clock c;
	assert_int_equal(host_clock_init(&c, false, 0, NULL, NULL), 0);
	wait_ms(5);
	host_clock_pause(&c);
	uint64_t at = ns(&c), ticks = tsc(&c);
	/* Ticks at the same moment, scaled, are the nanoseconds. */
	uint64_t scaled = (uint64_t)((unsigned __int128)ticks * 1000000 / c.clock.tsc_khz);
	assert_true(at <= scaled + 1 && scaled <= at + at / 1000000 + 1);
	wait_ms(20);
	assert_int_equal(ns(&c), at);
	assert_int_equal(tsc(&c), ticks);
	host_clock_resume(&c);
	uint64_t after = ns(&c);
	assert_true(after >= at && after < at + 15000000);
	host_clock_resume(&c); /* resuming a running clock does nothing */
	assert_true(ns(&c) >= after);
}

static uint32_t scales_by;

static uint32_t scaler(void) {
	return scales_by;
}

/* A guest that knows another frequency gets it, where that is possible. */
static void test_scaled(void **state) {
	struct host_clock c;
	struct err e = {{0}};
	assert_int_equal(host_clock_init(&c, false, 0, NULL, NULL), 0);
	uint32_t here = c.clock.tsc_khz;
	assert_int_equal(c.clock.tsc_host_khz, 0);
	assert_int_equal(host_clock_init(&c, false, here, scaler, &e), 0);
	assert_int_equal(c.clock.tsc_host_khz, 0);
	assert_true(host_clock_init(&c, false, here / 2, NULL, &e) < 0);
	assert_non_null(strstr(e.text, "cannot scale it"));
	scales_by = 0;
	assert_true(host_clock_init(&c, false, here / 2, scaler, &e) < 0);
	scales_by = here;
	for (unsigned i = 0; i < 2; i++) {
		struct timespec a, b;
		uint32_t khz = i ? here / 4 * 5 : here / 2;
		assert_int_equal(host_clock_init(&c, false, khz, scaler, &e), 0);
		assert_int_equal(c.clock.tsc_khz, khz);
		assert_int_equal(c.clock.tsc_host_khz, here);
		clock_gettime(CLOCK_MONOTONIC, &a);
		uint64_t ticks = tsc(&c), start = ns(&c);
		wait_ms(50);
		uint64_t took = ns(&c) - start;
		ticks = tsc(&c) - ticks;
		clock_gettime(CLOCK_MONOTONIC, &b);
		uint64_t real = (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000u + (uint64_t)b.tv_nsec -
						(uint64_t)a.tv_nsec;
		assert_true(took <= real + real / 500 && took >= 50000000 - 50000000 / 500);
		assert_true(ticks * 1000000 / khz + 1000 >= took);
		assert_true(ticks * 1000000 / khz <= real + real / 500);
	}
}

/* Facts of this boot come back; those of another one, or of nobody, do not. */
static void boot_cache(void **state) {
	char dir[] = "/tmp/joist-test-XXXXXX", path[64], text[32];
	assert_non_null(mkdtemp(dir));
	setenv("XDG_RUNTIME_DIR", dir, 1);
	assert_false(boot_cache_get("fact", text, sizeof(text)));
	boot_cache_put("fact", "first");
	boot_cache_put("fact", "a b 3");
	assert_true(boot_cache_get("fact", text, sizeof(text)));
	assert_string_equal(text, "a b 3");
	assert_false(boot_cache_get("fact", text, 3)); /* no room: rather nothing than a part */
	snprintf(path, sizeof(path), "%s/joist/fact", dir);
	FILE *f = fopen(path, "w");
	fputs("00000000-0000-0000-0000-000000000000 old\n", f);
	fclose(f);
	assert_false(boot_cache_get("fact", text, sizeof(text)));
	unlink(path);
	assert_int_equal(symlink("/proc/sys/kernel/random/boot_id", path), 0);
	assert_false(boot_cache_get("fact", text, sizeof(text)));
	unlink(path);
	snprintf(path, sizeof(path), "%s/joist", dir);
	rmdir(path);
	rmdir(dir);
	setenv("XDG_RUNTIME_DIR", "relative", 1);
	boot_cache_put("fact", "lost");
	assert_false(boot_cache_get("fact", text, sizeof(text)));
	unsetenv("XDG_RUNTIME_DIR");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_advances),
		cmocka_unit_test(test_stands_still),
		cmocka_unit_test(test_scaled),
		cmocka_unit_test(boot_cache),
	};
	return cmocka_run_group_tests_name("host_clock", tests, NULL, NULL);
}
