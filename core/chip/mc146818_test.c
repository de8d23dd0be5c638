#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/mc146818.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

#define SECOND 1000000000ull
/* 2024-02-28 23:59:50 UTC, a Wednesday */
#define WALL (1709164790ull * SECOND)

struct machine {
	struct fake_clock clock;
	struct fake_irq irq;
	struct mc146818 r;
};

static void make(struct machine *m, uint64_t wall_ns) {
	memset(m, 0, sizeof(*m));
	fake_clock_init(&m->clock);
	m->clock.wall_ns = wall_ns;
	fake_irq_init(&m->irq);
	mc146818_init(&m->r, &m->clock.timers, &m->irq.line);
}

static int setup(void **state) {
	struct machine *m = malloc(sizeof(*m));
	make(m, WALL);
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static uint8_t in(struct machine *m, uint8_t index) {
	mc146818_ops.write(&m->r, 0, 1, index);
	return (uint8_t)mc146818_ops.read(&m->r, 1, 1);
}

static void out(struct machine *m, uint8_t index, uint8_t val) {
	mc146818_ops.write(&m->r, 0, 1, index);
	mc146818_ops.write(&m->r, 1, 1, val);
}

/* cc yy mm dd h m s as the guest reads them */
static void is(struct machine *m, const uint8_t t[7]) {
	static const uint8_t at[7] = {0x32, 9, 8, 7, 4, 2, 0};
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(in(m, at[i]), t[i]);
}

static void set(struct machine *m, const uint8_t t[7]) {
	static const uint8_t at[7] = {0x32, 9, 8, 7, 4, 2, 0};
	for (unsigned i = 0; i < 7; i++)
		out(m, at[i], t[i]);
}

#define TIME(...) ((const uint8_t[7]){__VA_ARGS__})

static void test_power_on(void **state) {
	struct machine *m = *state;
	assert_int_equal(in(m, 0x0a), 0x26);
	assert_int_equal(in(m, 0x0b), 0x02);
	assert_int_equal(in(m, 0x0c), 0x00);
	assert_int_equal(in(m, 0x0d), 0x80);
	assert_int_equal(mc146818_ops.read(&m->r, 0, 1), 0xff);
	assert_false(m->irq.level);
	assert_int_equal(in(m, 6), 4);
	is(m, TIME(0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x50));
}

static void test_runs(void **state) {
	struct machine *m = *state;
	fake_clock_set(&m->clock, 10 * SECOND);
	is(m, TIME(0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00)); /* leap day */
	assert_int_equal(in(m, 6), 5);
	fake_clock_set(&m->clock, (10 + 86400) * SECOND);
	is(m, TIME(0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00));
	fake_clock_set(&m->clock, (10 + 86400 * 306ull) * SECOND - 1);
	is(m, TIME(0x20, 0x24, 0x12, 0x30, 0x23, 0x59, 0x59));
	make(m, 0);
	is(m, TIME(0x19, 0x70, 0x01, 0x01, 0x00, 0x00, 0x00));
	assert_int_equal(in(m, 6), 5); /* Thursday */
	make(m, 4107542399ull * SECOND);
	is(m, TIME(0x21, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59));
	fake_clock_set(&m->clock, SECOND);
	is(m, TIME(0x21, 0x00, 0x03, 0x01, 0x00, 0x00, 0x00)); /* not a leap year */
	make(m, UINT64_MAX);
	in(m, 0); /* nonsense from the host: no harm */
}

static void test_formats(void **state) {
	struct machine *m = *state;
	out(m, 0x0b, 0x06); /* binary, 24 h */
	is(m, TIME(20, 24, 2, 28, 23, 59, 50));
	out(m, 0x0b, 0x04); /* binary, 12 h */
	is(m, TIME(20, 24, 2, 28, 0x80 | 11, 59, 50));
	out(m, 0x0b, 0x00);
	is(m, TIME(0x20, 0x24, 0x02, 0x28, 0x91, 0x59, 0x50));
	fake_clock_set(&m->clock, 10 * SECOND);
	assert_int_equal(in(m, 4), 0x12); /* midnight is 12 am */
	fake_clock_set(&m->clock, (10 + 12 * 3600) * SECOND);
	assert_int_equal(in(m, 4), 0x92);
	fake_clock_set(&m->clock, (10 + 13 * 3600) * SECOND);
	assert_int_equal(in(m, 4), 0x81);
	for (unsigned h = 0; h < 24; h++) { /* what is written comes back */
		uint8_t v = (uint8_t)((h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0));
		out(m, 0x0b, 0x84);
		out(m, 4, v);
		out(m, 0x0b, 0x04);
		assert_int_equal(in(m, 4), v);
		out(m, 0x0b, 0x06);
		assert_int_equal(in(m, 4), h);
	}
}

static void test_set(void **state) {
	struct machine *m = *state;
	fake_clock_set(&m->clock, 300000000);
	out(m, 0x0b, 0x92); /* SET, which clears UIE */
	assert_int_equal(in(m, 0x0b), 0x82);
	set(m, TIME(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58));
	fake_clock_set(&m->clock, 5300000000ull);
	is(m, TIME(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58)); /* stands still */
	assert_int_equal(in(m, 0x0a) & 0x80, 0);
	out(m, 0x0b, 0x02);
	fake_clock_set(&m->clock, 6000000000ull - 1);
	assert_int_equal(in(m, 0), 0x58); /* the fraction went on */
	fake_clock_set(&m->clock, 6000000000ull);
	assert_int_equal(in(m, 0), 0x59);
	fake_clock_set(&m->clock, 7000000000ull);
	is(m, TIME(0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00));
	assert_int_equal(in(m, 6), 7); /* Saturday */
	/* Through the divider, as Linux does it: half a second to the first update. */
	out(m, 0x0b, 0x82);
	out(m, 0x0a, 0x76);
	set(m, TIME(0x20, 0x30, 0x06, 0x15, 0x12, 0x30, 0x00));
	out(m, 0x0b, 0x02);
	fake_clock_set(&m->clock, 9123000000ull);
	is(m, TIME(0x20, 0x30, 0x06, 0x15, 0x12, 0x30, 0x00));
	out(m, 0x0a, 0x26);
	fake_clock_set(&m->clock, 9622999999ull);
	assert_int_equal(in(m, 0), 0x00);
	fake_clock_set(&m->clock, 9623000000ull);
	assert_int_equal(in(m, 0), 0x01);
	/* Without stopping it. */
	out(m, 4, 0x08);
	is(m, TIME(0x20, 0x30, 0x06, 0x15, 0x08, 0x30, 0x01));
}

static void test_nonsense(void **state) {
	struct machine *m = *state;
	for (unsigned v = 0; v < 256; v++) {
		out(m, 0x0b, 0x82);
		for (uint8_t i = 0; i < 10; i++)
			out(m, i, (uint8_t)(v * 31 + i * 7));
		out(m, 0x32, (uint8_t)v);
		out(m, 0x0b, 0x02 | (v & 4));
		assert_in_range(in(m, 8), 1, 0x12);
		assert_in_range(in(m, 7), 1, 0x31);
		assert_in_range(in(m, 0), 0, 0x59);
	}
	out(m, 0x0b, 0x82);
	set(m, TIME(0x20, 0x23, 0x02, 0x31, 0x12, 0x00, 0x00));
	out(m, 0x0b, 0x02);
	is(m, TIME(0x20, 0x23, 0x02, 0x28, 0x12, 0x00, 0x00));
}

static void test_update(void **state) {
	struct machine *m = *state;
	/* UIP for 2228 us before the second changes. */
	fake_clock_set(&m->clock, SECOND - 2228001);
	assert_int_equal(in(m, 0x0a), 0x26);
	fake_clock_set(&m->clock, SECOND - 2228000);
	assert_int_equal(in(m, 0x0a), 0xa6);
	fake_clock_set(&m->clock, SECOND - 1);
	assert_int_equal(in(m, 0x0a), 0xa6);
	assert_int_equal(in(m, 0x0c) & 0x10, 0);
	fake_clock_set(&m->clock, SECOND);
	assert_int_equal(in(m, 0x0a), 0x26);
	assert_int_equal(in(m, 0x0c) & 0x90, 0x10); /* a flag without its interrupt */
	assert_int_equal(in(m, 0x0c) & 0x10, 0);
	assert_int_equal(m->irq.raised, 0);
	out(m, 0x0b, 0x12);
	fake_clock_set(&m->clock, 2 * SECOND - 1);
	assert_false(m->irq.level);
	fake_clock_set(&m->clock, 2 * SECOND);
	assert_true(m->irq.level);
	fake_clock_set(&m->clock, 4 * SECOND);
	assert_int_equal(m->irq.raised, 1);
	assert_int_equal(in(m, 0x0c) & 0x90, 0x90);
	assert_false(m->irq.level);
	for (uint64_t s = 5; s < 100; s++) {
		fake_clock_set(&m->clock, s * SECOND);
		assert_int_equal(in(m, 0x0c) & 0x90, 0x90);
	}
	assert_int_equal(m->irq.raised, 96);
}

static void test_alarm(void **state) {
	struct machine *m = *state;
	out(m, 1, 0x05);
	out(m, 3, 0x01);
	out(m, 5, 0x00);
	out(m, 0x0b, 0x22);
	fake_clock_set(&m->clock, 75 * SECOND - 1);
	assert_int_equal(m->irq.raised, 0);
	fake_clock_set(&m->clock, 75 * SECOND); /* 00:01:05 */
	assert_int_equal(m->irq.raised, 1);
	assert_int_equal(in(m, 0x0c) & 0xb0, 0xb0);
	fake_clock_set(&m->clock, (75 + 86400) * SECOND - 1);
	assert_int_equal(m->irq.raised, 1);
	fake_clock_set(&m->clock, (75 + 86400) * SECOND);
	assert_int_equal(m->irq.raised, 2);
	in(m, 0x0c);
	/* Don't care: every hour, every minute. */
	out(m, 5, 0xff);
	out(m, 3, 0xc0);
	unsigned raised = m->irq.raised;
	uint64_t now = m->clock.now_ns;
	for (unsigned i = 1; i <= 120; i++) {
		fake_clock_set(&m->clock, now + i * 60 * SECOND);
		in(m, 0x0c);
	}
	assert_int_equal(m->irq.raised, raised + 120);
	/* Found out late, with the interrupt off. */
	out(m, 0x0b, 0x02);
	in(m, 0x0c);
	fake_clock_set(&m->clock, m->clock.now_ns + 59 * SECOND);
	assert_int_equal(in(m, 0x0c) & 0xa0, 0);
	fake_clock_set(&m->clock, m->clock.now_ns + SECOND * 86400 * 1000);
	assert_int_equal(in(m, 0x0c) & 0xa0, 0x20);
}

static void test_periodic(void **state) {
	struct machine *m = *state;
	out(m, 0x0b, 0x42);
	for (unsigned i = 1; i <= 1024; i++) {
		fake_clock_set(&m->clock, (i * SECOND + 1023) / 1024);
		assert_true(m->irq.level);
		assert_int_equal(in(m, 0x0c) & 0xc0, 0xc0);
	}
	assert_int_equal(m->irq.raised, 1024);
	static const unsigned hz[16] = {0,	 256, 128, 8192, 4096, 2048, 1024, 512,
									256, 128, 64,  32,	 16,   8,	 4,	   2};
	for (unsigned rs = 0; rs < 16; rs++) {
		out(m, 0x0a, 0x20 | (uint8_t)rs);
		in(m, 0x0c);
		unsigned raised = m->irq.raised;
		uint64_t end = m->clock.now_ns + SECOND;
		while (timer_armed(&m->r.periodic) && m->r.periodic.deadline_ns <= end) {
			fake_clock_set(&m->clock, m->r.periodic.deadline_ns);
			in(m, 0x0c);
		}
		fake_clock_set(&m->clock, end);
		assert_int_equal(m->irq.raised - raised, hz[rs]);
	}
	/* Not read: one interrupt stays. */
	out(m, 0x0a, 0x26);
	unsigned raised = m->irq.raised;
	fake_clock_set(&m->clock, m->clock.now_ns + SECOND);
	assert_int_equal(m->irq.raised, raised + 1);
	/* The flag comes without the interrupt too. */
	out(m, 0x0b, 0x02);
	in(m, 0x0c);
	assert_int_equal(in(m, 0x0c) & 0x40, 0);
	fake_clock_set(&m->clock, m->clock.now_ns + 2000000);
	assert_int_equal(in(m, 0x0c) & 0xc0, 0x40);
}

static void test_memory(void **state) {
	struct machine *m = *state;
	mc146818_set_memory(&m->r, 3ull << 30, 5ull << 30);
	assert_int_equal(in(m, 0x15) | in(m, 0x16) << 8, 640);
	assert_int_equal(in(m, 0x17) | in(m, 0x18) << 8, 0xffff);
	assert_int_equal(in(m, 0x30) | in(m, 0x31) << 8, 0xffff);
	assert_int_equal(in(m, 0x34) | in(m, 0x35) << 8, (3072 - 16) * 16);
	assert_int_equal(in(m, 0x5b) | in(m, 0x5c) << 8 | in(m, 0x5d) << 16, 5 * 1024 * 16);
	mc146818_set_memory(&m->r, 8 << 20, 0);
	assert_int_equal(in(m, 0x17) | in(m, 0x18) << 8, 7 * 1024);
	assert_int_equal(in(m, 0x34) | in(m, 0x35) << 8, 0);
	assert_int_equal(in(m, 0x5b) | in(m, 0x5c) << 8 | in(m, 0x5d) << 16, 0);
	for (uint8_t i = 0x0e; i < 0x80; i++)
		if (i != 0x32) {
			out(m, i, i ^ 0x5a);
			assert_int_equal(in(m, i), i ^ 0x5a);
		}
	mc146818_set_cmos(&m->r, 0x3d, 0x12);
	assert_int_equal(in(m, 0x3d), 0x12);
	mc146818_set_cmos(&m->r, 0x0b, 0xff); /* not memory */
	mc146818_set_cmos(&m->r, 0x80, 0xff);
	assert_int_equal(in(m, 0x0b), 0x02);
	in(m, 0x8f);
	assert_true(m->r.nmi_masked);
	in(m, 0x0f);
	assert_false(m->r.nmi_masked);
	out(m, 0x0b, 0x7a);
	mc146818_device_ops.reset(&m->r);
	assert_int_equal(in(m, 0x3d), 0x12); /* a battery keeps it */
	assert_int_equal(in(m, 0x0b), 0x02);
}

static void test_muted(void **state) {
	struct machine *m = *state;
	mc146818_mute(&m->r, 0, true);
	out(m, 0x0b, 0x42);
	fake_clock_set(&m->clock, SECOND);
	assert_int_equal(m->irq.raised, 0);
	mc146818_mute(&m->r, 0, false);
	assert_true(m->irq.level);
}

static void poke(void *to) {
	struct machine *m = (struct machine *)((char *)to - offsetof(struct machine, r));
	for (uint8_t i = 0; i < 14; i++)
		in(m, i);
	in(m, 0x32);
	out(m, 0, 1);
	fake_clock_set(&m->clock, m->clock.now_ns + 3000000);
	in(m, 0x0c);
}

static void test_state(void **state) {
	struct machine *m = *state;
	static struct machine other;
	make(&other, WALL);
	out(m, 0x0b, 0x82);
	set(m, TIME(0x20, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06));
	out(m, 0x0b, 0x52);
	fake_clock_set(&m->clock, 10 * SECOND + 500000000);
	other.clock.now_ns = m->clock.now_ns;
	assert_int_equal(copy_device(&mc146818_device_ops, &m->r, &other.r), 0);
	assert_true(other.irq.level);
	is(&other, TIME(0x20, 0x01, 0x02, 0x03, 0x04, 0x05, 0x16));
	assert_int_equal(in(&other, 0x0c), 0xd0);
	fake_clock_set(&other.clock, 11 * SECOND);
	assert_int_equal(in(&other, 0x0c), 0xd0);
	hurt_device(&mc146818_device_ops, &m->r, &other.r, poke);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_runs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_formats, setup, teardown),
		cmocka_unit_test_setup_teardown(test_set, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
		cmocka_unit_test_setup_teardown(test_update, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alarm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_muted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("mc146818", tests, NULL, NULL);
}
