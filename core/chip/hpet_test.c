#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/hpet.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

struct machine {
	struct fake_clock clock;
	struct fake_irq gsi[32], irq0, irq8, mute_pit, mute_rtc;
	struct hpet h;
};

static void set_gsi(void *opaque, unsigned pin, bool level) {
	struct machine *m = opaque;
	assert_in_range(pin, 20, 23);
	irq_set(&m->gsi[pin].line, level);
}

static void make(struct machine *m) {
	memset(m, 0, sizeof(*m));
	fake_clock_init(&m->clock);
	for (unsigned i = 0; i < 32; i++)
		fake_irq_init(&m->gsi[i]);
	fake_irq_init(&m->irq0);
	fake_irq_init(&m->irq8);
	fake_irq_init(&m->mute_pit);
	fake_irq_init(&m->mute_rtc);
	const struct hpet_out out = {{set_gsi, m, 0}, 0xf00000,			m->irq0.line,
								 m->irq8.line,	  m->mute_pit.line, m->mute_rtc.line};
	hpet_init(&m->h, &m->clock.timers, &out);
}

static int setup(void **state) {
	struct machine *m = malloc(sizeof(*m));
	make(m);
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static uint64_t in(struct machine *m, uint64_t off) {
	return hpet_ops.read(&m->h, off, 8);
}

static uint32_t in4(struct machine *m, uint64_t off) {
	return (uint32_t)hpet_ops.read(&m->h, off, 4);
}

static void out(struct machine *m, uint64_t off, uint64_t val) {
	hpet_ops.write(&m->h, off, 8, val);
}

static void out4(struct machine *m, uint64_t off, uint32_t val) {
	hpet_ops.write(&m->h, off, 4, val);
}

#define CONF(n) (0x100 + 0x20 * (n))
#define COMP(n) (0x108 + 0x20 * (n))
#define GSI(n) ((uint64_t)(n) << 9)

static void test_power_on(void **state) {
	struct machine *m = *state;
	assert_int_equal(in(m, 0), 10000000ull << 32 | 0x8086a201);
	assert_int_equal(in4(m, 4), 10000000);
	assert_int_equal(in(m, 0x10), 0);
	assert_int_equal(in(m, 0x20), 0);
	fake_clock_set(&m->clock, 1000000);
	assert_int_equal(in(m, 0xf0), 0); /* halted */
	for (unsigned n = 0; n < 3; n++) {
		assert_int_equal(in(m, CONF(n)), 0xf00000ull << 32 | GSI(20) | 0x30);
		assert_int_equal(in(m, COMP(n)), ~0ull);
		assert_int_equal(in(m, COMP(n) + 8), 0);
	}
	assert_int_equal(in(m, 0x160), 0);
	assert_int_equal(in(m, 0x3f8), 0);
}

static void test_counter(void **state) {
	struct machine *m = *state;
	out(m, 0xf0, 0xfffffff0);
	out4(m, 0x10, 1);
	fake_clock_set(&m->clock, 1009);
	assert_int_equal(in(m, 0xf0), 0xfffffff0ull + 100);
	assert_int_equal(in4(m, 0xf0), 84);
	assert_int_equal(in4(m, 0xf4), 1);
	out4(m, 0x10, 0);
	fake_clock_set(&m->clock, 100000);
	assert_int_equal(in(m, 0xf0), 0xfffffff0ull + 100);
	out4(m, 0xf4, 7); /* halves */
	assert_int_equal(in(m, 0xf0), 7ull << 32 | 84);
	out4(m, 0x10, 1);
	fake_clock_set(&m->clock, 100010);
	assert_int_equal(in(m, 0xf0), (7ull << 32 | 84) + 1);
}

static void test_one_shot(void **state) {
	struct machine *m = *state;
	out(m, CONF(2), GSI(21) | 4);
	out(m, COMP(2), 5000);
	fake_clock_set(&m->clock, 1000000);
	assert_int_equal(m->gsi[21].raised, 0);
	out(m, 0x10, 1);
	fake_clock_set(&m->clock, 1000000 + 49999);
	assert_int_equal(m->gsi[21].raised, 0);
	fake_clock_set(&m->clock, 1000000 + 50000);
	assert_int_equal(m->gsi[21].raised, 1);
	assert_false(m->gsi[21].level); /* an edge */
	assert_int_equal(in(m, 0x20), 0);
	fake_clock_set(&m->clock, 100000000000ull);
	assert_int_equal(m->gsi[21].raised, 1);
	/* In 32 bits it comes around; disabled it is silent. */
	out(m, CONF(2), GSI(21) | 4 | 0x100);
	out4(m, COMP(2), in4(m, 0xf0) + 5000);
	uint64_t from = m->clock.now_ns;
	fake_clock_set(&m->clock, from + 50000);
	assert_int_equal(m->gsi[21].raised, 2);
	fake_clock_set(&m->clock, from + 50000 + 42949672960ull - 10);
	assert_int_equal(m->gsi[21].raised, 2);
	fake_clock_set(&m->clock, from + 50000 + 42949672960ull);
	assert_int_equal(m->gsi[21].raised, 3);
	out(m, CONF(2), GSI(21) | 0x100);
	fake_clock_set(&m->clock, from + 50000 + 3 * 42949672960ull);
	assert_int_equal(m->gsi[21].raised, 3);
}

/* Nothing wakes for a timer whose edges nobody gets, but it goes on all the same. */
static void test_unseen(void **state) {
	struct machine *m = *state;
	out(m, 0x10, 1);
	out(m, CONF(0), GSI(20) | 4 | 8 | 0x40);
	out(m, COMP(0), 1000);
	fake_clock_set(&m->clock, 10000);
	assert_int_equal(m->gsi[20].raised, 1);
	out(m, CONF(0), GSI(20) | 8);
	assert_false(timer_armed(&m->h.timer[0].timer));
	fake_clock_set(&m->clock, 10000 + 5 * 10000 + 1000);
	assert_int_equal(in(m, COMP(0)), 7000);
	assert_false(timer_armed(&m->h.timer[0].timer));
	out(m, CONF(0), GSI(20) | 4 | 8);
	assert_int_equal(m->h.timer[0].timer.deadline_ns, 70000);
	fake_clock_set(&m->clock, 70000);
	assert_int_equal(m->gsi[20].raised, 2);
	/* A level stays in the status register, enabled or not. */
	out(m, CONF(0), GSI(20) | 2 | 8);
	assert_true(timer_armed(&m->h.timer[0].timer));
}

/* The check of kernels after setting a comparator that may have passed already. */
static void test_passed(void **state) {
	struct machine *m = *state;
	out(m, 0x10, 1);
	out(m, CONF(0), GSI(20) | 4 | 0x100);
	fake_clock_set(&m->clock, 1000000);
	out4(m, COMP(0), in4(m, 0xf0)); /* now */
	fake_clock_set(&m->clock, 1000000);
	assert_int_equal(m->gsi[20].raised, 1);
	out4(m, COMP(0), in4(m, 0xf0) - 1); /* just missed: once around */
	fake_clock_set(&m->clock, 2000000000);
	assert_int_equal(m->gsi[20].raised, 1);
}

static void test_level(void **state) {
	struct machine *m = *state;
	out(m, 0x10, 1);
	out(m, CONF(1), GSI(22) | 2); /* level, not enabled: only the status */
	out(m, COMP(1), 5000);
	fake_clock_set(&m->clock, 60000);
	assert_int_equal(in(m, 0x20), 2);
	assert_false(m->gsi[22].level);
	out(m, CONF(1), GSI(22) | 6);
	assert_true(m->gsi[22].level);
	out(m, CONF(1), GSI(23) | 6); /* moves */
	assert_false(m->gsi[22].level);
	assert_true(m->gsi[23].level);
	out(m, 0x20, 1);
	assert_true(m->gsi[23].level);
	out(m, 0x10, 0); /* halted: no interrupts */
	assert_false(m->gsi[23].level);
	out(m, 0x10, 1);
	assert_true(m->gsi[23].level);
	out(m, 0x20, 2);
	assert_false(m->gsi[23].level);
	out(m, CONF(1), GSI(5) | 6); /* a route it does not have */
	assert_int_equal(in(m, CONF(1)) >> 9 & 31, 23);
}

static void test_periodic(void **state) {
	struct machine *m = *state;
	out(m, 0x10, 1);
	fake_clock_set(&m->clock, 500);
	out4(m, CONF(0), GSI(20) | 4 | 8 | 0x40 | 0x100);
	assert_int_equal(in4(m, CONF(0)) & 0x40, 0); /* VAL_SET is write-only */
	out4(m, COMP(0), in4(m, 0xf0) + 100000);
	out4(m, COMP(0), 100000); /* 1 ms */
	for (unsigned i = 1; i <= 100; i++) {
		fake_clock_set(&m->clock, 500 + i * 1000000ull - 10);
		assert_int_equal(m->gsi[20].raised, i - 1);
		fake_clock_set(&m->clock, 500 + i * 1000000ull);
		assert_int_equal(m->gsi[20].raised, i);
		assert_int_equal(in4(m, COMP(0)), 50 + (i + 1) * 100000);
	}
	/* A late host: what was missed is merged, the phase stays. */
	m->clock.now_ns = 500 + 200 * 1000000ull + 300000;
	timers_run(&m->clock.timers, m->clock.now_ns);
	assert_int_equal(m->gsi[20].raised, 101);
	fake_clock_set(&m->clock, 500 + 201 * 1000000ull);
	assert_int_equal(m->gsi[20].raised, 102);
	/* A period of one tick does not stop the world. */
	out4(m, COMP(0), 1);
	unsigned raised = m->gsi[20].raised;
	fake_clock_set(&m->clock, m->clock.now_ns + 100000000);
	assert_in_range(m->gsi[20].raised - raised, 0, 10001);
}

/* The host's loop is late, and the guest changes something else meanwhile. */
static void test_late_host(void **state) {
	struct machine *m = *state;
	out(m, 0x10, 1);
	out(m, CONF(0), GSI(20) | 4);
	out(m, CONF(1), GSI(21) | 6);
	out(m, COMP(0), 1000);
	out(m, COMP(1), 1000);
	m->clock.now_ns = 1000000;
	assert_int_equal(in(m, 0x20), 2);
	out(m, 0xf0, 0);
	assert_int_equal(m->gsi[20].raised, 1);
	assert_true(m->gsi[21].level);
}

static void test_legacy(void **state) {
	struct machine *m = *state;
	assert_false(m->mute_pit.level);
	out(m, 0x10, 3);
	assert_true(m->mute_pit.level);
	assert_true(m->mute_rtc.level);
	for (unsigned n = 0; n < 3; n++) {
		out(m, CONF(n), GSI(20 + n) | 4);
		out(m, COMP(n), 10000);
	}
	fake_clock_set(&m->clock, 100000);
	assert_int_equal(m->irq0.raised, 1);
	assert_int_equal(m->irq8.raised, 1);
	assert_int_equal(m->gsi[20].raised + m->gsi[21].raised, 0);
	assert_int_equal(m->gsi[22].raised, 1);
	out(m, 0x10, 1);
	assert_false(m->mute_pit.level);
	assert_false(m->mute_rtc.level);
	out(m, 0x10, 3);
	hpet_device_ops.reset(&m->h);
	assert_false(m->mute_pit.level);
}

static void poke(void *to) {
	struct machine *m = (struct machine *)((char *)to - offsetof(struct machine, h));
	fake_clock_set(&m->clock, m->clock.now_ns + 100000);
	for (unsigned off = 0; off < HPET_SIZE; off += 8)
		in(m, off);
	out(m, 0x20, 7);
	out(m, 0x10, m->clock.now_ns / 100000 & 3);
}

static void test_state(void **state) {
	struct machine *m = *state;
	static struct machine other;
	make(&other);
	out(m, 0x10, 3);
	out4(m, CONF(0), 4 | 8 | 0x40 | 0x100);
	out4(m, COMP(0), 10000);
	out4(m, COMP(0), 10000);
	out(m, CONF(2), GSI(22) | 6);
	out(m, COMP(2), 1000);
	out(m, CONF(1), GSI(22) | 4);
	fake_clock_set(&m->clock, 1234567);
	out(m, COMP(1), in(m, 0xf0) + 10);
	m->clock.now_ns += 1000; /* due, but nobody looked */
	other.clock.now_ns = m->clock.now_ns;
	assert_int_equal(copy_device(&hpet_device_ops, &m->h, &other.h), 0);
	assert_true(other.mute_pit.level);
	assert_true(other.gsi[22].level);
	fake_clock_set(&other.clock, other.clock.now_ns);
	assert_int_equal(other.irq8.raised, 1);
	assert_int_equal(in(&other, 0xf0), 123556);
	fake_clock_set(&other.clock, 1300000 - 10);
	assert_int_equal(other.irq0.raised, 0);
	fake_clock_set(&other.clock, 1300000);
	assert_int_equal(other.irq0.raised, 1);
	hurt_device(&hpet_device_ops, &m->h, &other.h, poke);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unseen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_passed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_legacy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("hpet", tests, NULL, NULL);
}
