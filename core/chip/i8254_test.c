#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/chip/i8254.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

struct machine {
	struct fake_clock clock;
	struct fake_irq irq;
	struct i8254 t;
};

static void make(struct machine *m) {
	fake_clock_init(&m->clock);
	fake_irq_init(&m->irq);
	i8254_init(&m->t, &m->clock.timers, &m->irq.line);
}

static int setup(void **state) {
	struct machine *m = calloc(1, sizeof(*m));
	make(m);
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

/* Goes to the first nanosecond of a PIT tick. */
static void go(struct machine *m, uint64_t tick) {
	fake_clock_set(&m->clock, (tick * 1000000000ull + I8254_HZ - 1) / I8254_HZ);
}

static uint8_t in(struct machine *m, uint16_t port) {
	if (port == 0x61)
		return (uint8_t)i8254_port61_ops.read(&m->t, 0, 1);
	return (uint8_t)i8254_ops.read(&m->t, port - 0x40, 1);
}

static void out(struct machine *m, uint16_t port, uint8_t val) {
	if (port == 0x61)
		i8254_port61_ops.write(&m->t, 0, 1, val);
	else
		i8254_ops.write(&m->t, port - 0x40, 1, val);
}

static void program(struct machine *m, unsigned n, unsigned mode, uint16_t count) {
	out(m, 0x43, (uint8_t)(n << 6 | 0x30 | mode << 1));
	out(m, 0x40 + n, (uint8_t)count);
	out(m, 0x40 + n, (uint8_t)(count >> 8));
}

static uint16_t count(struct machine *m, unsigned n) {
	out(m, 0x43, (uint8_t)(n << 6));
	uint8_t low = in(m, 0x40 + n);
	return (uint16_t)(low | in(m, 0x40 + n) << 8);
}

static uint8_t status(struct machine *m, unsigned n) {
	out(m, 0x43, (uint8_t)(0xe0 | 2 << n));
	return in(m, 0x40 + n);
}

static bool out2(struct machine *m) {
	return in(m, 0x61) & 0x20;
}

static void test_power_on(void **state) {
	struct machine *m = *state;
	fake_clock_set(&m->clock, 3600000000000ull);
	assert_int_equal(m->irq.raised, 0);
	assert_false(timer_armed(&m->t.timer));
	assert_int_equal(in(m, 0x61) & ~0x10, 0);
	assert_int_equal(in(m, 0x43), 0xff);
}

static void test_mode0(void **state) {
	struct machine *m = *state;
	go(m, 100);
	program(m, 0, 0, 1000);
	assert_int_equal(status(m, 0), 0x70); /* output low, null count */
	go(m, 101);
	assert_int_equal(status(m, 0), 0x30);
	assert_int_equal(count(m, 0), 1000);
	go(m, 600);
	assert_int_equal(count(m, 0), 501);
	go(m, 1100);
	assert_int_equal(m->irq.raised, 0);
	assert_int_equal(count(m, 0), 1);
	go(m, 1101); /* N + 1 after the write */
	assert_int_equal(m->irq.raised, 1);
	assert_int_equal(status(m, 0), 0xb0);
	assert_int_equal(count(m, 0), 0);
	go(m, 1102);
	assert_int_equal(count(m, 0), 0xffff); /* goes on */
	go(m, 200000);
	assert_int_equal(m->irq.raised, 1);
	assert_true(m->irq.level);
	/* The first byte stops it and lowers the output. */
	out(m, 0x40, 50);
	assert_false(m->irq.level);
	go(m, 300000);
	assert_false(m->irq.level);
	out(m, 0x40, 0);
	go(m, 300050);
	assert_false(m->irq.level);
	go(m, 300051);
	assert_true(m->irq.level);
	/* A control word lowers it too. */
	out(m, 0x43, 0x30);
	assert_false(m->irq.level);
}

static void test_mode2(void **state) {
	struct machine *m = *state;
	program(m, 0, 2, 1000);
	assert_true(m->irq.level);
	go(m, 1);
	assert_int_equal(count(m, 0), 1000);
	go(m, 1000);
	assert_int_equal(count(m, 0), 1);
	assert_int_equal(status(m, 0) & 0x80, 0); /* the low tick */
	unsigned raised = m->irq.raised;
	go(m, 1001);
	assert_int_equal(m->irq.raised, raised + 1);
	assert_int_equal(count(m, 0), 1000);
	assert_int_equal(status(m, 0), 0xb4);
	go(m, 1001 + 50 * 1000);
	assert_int_equal(m->irq.raised, raised + 51);
	/* A new count waits for the end of the period. */
	go(m, 1001 + 50 * 1000 + 300);
	out(m, 0x40, 0xd0);
	out(m, 0x40, 0x07);
	assert_int_equal(status(m, 0), 0xf4);
	assert_int_equal(count(m, 0), 700);
	go(m, 1001 + 51 * 1000);
	assert_int_equal(m->irq.raised, raised + 52);
	assert_int_equal(count(m, 0), 2000);
	assert_int_equal(status(m, 0), 0xb4);
	go(m, 1001 + 51 * 1000 + 1999);
	assert_int_equal(m->irq.raised, raised + 52);
	go(m, 1001 + 51 * 1000 + 2000);
	assert_int_equal(m->irq.raised, raised + 53);
}

/* 18.2 a second, for a day: not one is lost or too many. */
static void test_rate(void **state) {
	struct machine *m = *state;
	program(m, 0, 3, 0);
	fake_clock_set(&m->clock, 86400000000000ull);
	assert_int_equal(m->irq.raised, 1 + (86400ull * I8254_HZ - 1) / 65536);
}

static void test_mode3(void **state) {
	struct machine *m = *state;
	program(m, 0, 3, 100);
	go(m, 1);
	assert_int_equal(count(m, 0), 100);
	go(m, 2);
	assert_int_equal(count(m, 0), 98);
	go(m, 50);
	assert_true(m->irq.level);
	assert_int_equal(count(m, 0), 2);
	go(m, 51);
	assert_false(m->irq.level);
	assert_int_equal(count(m, 0), 100);
	go(m, 101);
	assert_true(m->irq.level);
	/* Odd: high for one tick more. */
	program(m, 0, 3, 101);
	uint64_t start = 102;
	go(m, start + 50);
	assert_true(m->irq.level);
	go(m, start + 51);
	assert_false(m->irq.level);
	go(m, start + 100);
	assert_false(m->irq.level);
	go(m, start + 101);
	assert_true(m->irq.level);
	/* A new count takes over at the end of the half. */
	go(m, start + 111);
	out(m, 0x40, 60);
	out(m, 0x40, 0);
	go(m, start + 101 + 50);
	assert_true(m->irq.level);
	go(m, start + 101 + 51);
	assert_false(m->irq.level);
	go(m, start + 101 + 51 + 29);
	assert_false(m->irq.level);
	go(m, start + 101 + 51 + 30);
	assert_true(m->irq.level);
}

static void test_mode4(void **state) {
	struct machine *m = *state;
	program(m, 0, 4, 500);
	assert_true(m->irq.level);
	unsigned raised = m->irq.raised;
	go(m, 501);
	assert_int_equal(status(m, 0) & 0x80, 0);
	go(m, 502);
	assert_int_equal(status(m, 0) & 0x80, 0x80);
	assert_int_equal(m->irq.raised, raised + 1);
	go(m, 200000);
	assert_int_equal(m->irq.raised, raised + 1);
	/* Written again, it strobes again: one-shot clock events do that. */
	out(m, 0x40, 100);
	out(m, 0x40, 0);
	go(m, 200102);
	assert_int_equal(m->irq.raised, raised + 2);
}

static void test_mode1(void **state) {
	struct machine *m = *state;
	program(m, 2, 1, 100);
	assert_true(out2(m));
	go(m, 50);
	assert_true(out2(m));
	assert_int_equal(status(m, 2), 0xf2);
	out(m, 0x61, 1);
	assert_true(out2(m));
	go(m, 51);
	assert_false(out2(m));
	assert_int_equal(status(m, 2), 0x32);
	go(m, 101);
	out(m, 0x61, 0); /* the gate's end does not matter */
	out(m, 0x61, 1); /* triggers again */
	go(m, 151);
	assert_false(out2(m));
	go(m, 201);
	assert_false(out2(m));
	go(m, 202);
	assert_true(out2(m));
	/* A new count works from the next trigger on. */
	out(m, 0x42, 10);
	out(m, 0x42, 0);
	go(m, 300);
	assert_true(out2(m));
	out(m, 0x61, 0);
	out(m, 0x61, 1);
	go(m, 310);
	assert_false(out2(m));
	go(m, 311);
	assert_true(out2(m));
}

static void test_mode5(void **state) {
	struct machine *m = *state;
	program(m, 2, 5, 100);
	go(m, 500);
	assert_true(out2(m));
	out(m, 0x61, 1);
	go(m, 600);
	assert_true(out2(m));
	go(m, 601);
	assert_false(out2(m));
	go(m, 602);
	assert_true(out2(m));
}

static void test_gate(void **state) {
	struct machine *m = *state;
	program(m, 2, 0, 1000);
	go(m, 500);
	assert_int_equal(count(m, 2), 1000); /* gate low: loaded, not counting */
	out(m, 0x61, 1);
	go(m, 600);
	assert_int_equal(count(m, 2), 900);
	out(m, 0x61, 0);
	go(m, 700);
	assert_int_equal(count(m, 2), 900);
	out(m, 0x61, 1);
	go(m, 1599);
	assert_false(out2(m));
	go(m, 1600);
	assert_true(out2(m));
	/* Modes 2 and 3: low forces the output high, rising starts again. */
	program(m, 2, 3, 100);
	go(m, 1600 + 61);
	assert_false(out2(m));
	out(m, 0x61, 0);
	assert_true(out2(m));
	go(m, 1800);
	out(m, 0x61, 1);
	go(m, 1801);
	assert_int_equal(count(m, 2), 100);
	go(m, 1850);
	assert_true(out2(m));
	go(m, 1851);
	assert_false(out2(m));
}

/* How kernels measure the TSC: gate on, 50 ms in mode 0, wait for the output. */
static void test_calibration(void **state) {
	struct machine *m = *state;
	for (unsigned i = 0; i < 50; i++) {
		uint64_t start = 1000000 + i * 977777777ull;
		fake_clock_set(&m->clock, start);
		out(m, 0x61, (in(m, 0x61) & ~2) | 1);
		program(m, 2, 0, 59659);
		uint64_t low = start, high = start + 60000000;
		while (low + 1 < high) { /* the first nanosecond at which it shows */
			uint64_t mid = (low + high) / 2;
			m->clock.now_ns = mid;
			if (out2(m))
				high = mid;
			else
				low = mid;
		}
		/* 59659 ticks and up to two for synchronization. */
		assert_in_range(high - start, 49999912, 49999912 + 1700);
		m->clock.now_ns = start + 70000000;
	}
	/* The quick way: watch the high byte go by. */
	fake_clock_set(&m->clock, 1000000000000ull);
	program(m, 2, 0, 0xffff);
	uint64_t first = 0;
	for (unsigned i = 0; i < 20; i++) {
		uint64_t from = m->clock.now_ns;
		uint8_t msb = (uint8_t)(0xff - i);
		while (in(m, 0x42), in(m, 0x42) == msb)
			fake_clock_set(&m->clock, m->clock.now_ns + 500);
		if (i)
			assert_in_range(m->clock.now_ns - from, 214553 - 600, 214553 + 600);
		else
			first = m->clock.now_ns;
	}
	assert_in_range((m->clock.now_ns - first) / 19, 214553 - 60, 214553 + 60);
}

static void test_bcd_and_access(void **state) {
	struct machine *m = *state;
	out(m, 0x61, 1);
	out(m, 0x43, 0xb5); /* counter 2, both bytes, mode 2, BCD */
	out(m, 0x42, 0x00);
	out(m, 0x42, 0x10);
	go(m, 1);
	assert_int_equal(count(m, 2), 0x1000);
	go(m, 2);
	assert_int_equal(count(m, 2), 0x0999);
	go(m, 1000);
	assert_int_equal(count(m, 2), 0x0001);
	go(m, 1001);
	assert_int_equal(count(m, 2), 0x1000);
	out(m, 0x43, 0xb1); /* mode 0: 0 is 10000 and 9999 follows 0 */
	out(m, 0x42, 0);
	out(m, 0x42, 0);
	go(m, 1003);
	assert_int_equal(count(m, 2), 0x9999);
	go(m, 1002 + 10001);
	assert_int_equal(count(m, 2), 0x9999);
	/* Only the low byte, only the high byte. */
	out(m, 0x43, 0x94);
	out(m, 0x42, 0x80);
	go(m, 20000);
	assert_in_range(in(m, 0x42), 1, 0x80);
	out(m, 0x43, 0xa0);
	out(m, 0x42, 0x80);
	go(m, 20001 + 11 * 256 + 5);
	assert_int_equal(in(m, 0x42), 0x80 - 12);
	assert_int_equal(in(m, 0x42), 0x80 - 12);
}

static void test_latches(void **state) {
	struct machine *m = *state;
	program(m, 0, 2, 0);
	go(m, 0x1000 + 1);
	out(m, 0x43, 0x00);
	go(m, 0x2000);
	out(m, 0x43, 0x00); /* ignored: one is latched */
	assert_int_equal(in(m, 0x40), 0x00);
	assert_int_equal(in(m, 0x40), 0xf0);
	assert_int_equal(in(m, 0x40), 0x01); /* live again */
	in(m, 0x40);
	/* Read-back of status and count: the status first. */
	go(m, 0x3001);
	out(m, 0x43, 0xc2);
	go(m, 0x4000);
	assert_int_equal(in(m, 0x40), 0xb4);
	assert_int_equal(in(m, 0x40), 0x00);
	assert_int_equal(in(m, 0x40), 0xd0);
	/* Of several counters at once. */
	program(m, 1, 2, 18);
	out(m, 0x43, 0xd6);
	assert_int_equal(in(m, 0x40), 0x01);
	assert_int_equal(in(m, 0x40), 0xc0);
	assert_int_equal(in(m, 0x41), 18);
}

static void test_port61(void **state) {
	struct machine *m = *state;
	out(m, 0x61, 0xff);
	assert_int_equal(in(m, 0x61) & ~0x10, 0x0f);
	unsigned changes = 0;
	uint8_t was = in(m, 0x61) & 0x10;
	for (uint64_t ns = 0; ns < 1000000; ns += 500) {
		fake_clock_set(&m->clock, ns);
		uint8_t now = in(m, 0x61) & 0x10;
		changes += now != was;
		was = now;
	}
	assert_in_range(changes, 65, 67); /* every 15.085 us */
	out(m, 0x61, 0);
	assert_int_equal(in(m, 0x61) & ~0x10, 0);
}

static void test_muted(void **state) {
	struct machine *m = *state;
	program(m, 0, 2, 1193);
	i8254_mute(&m->t, 0, true);
	unsigned raised = m->irq.raised;
	assert_false(m->irq.level);
	go(m, 100000);
	assert_int_equal(m->irq.raised, raised);
	i8254_mute(&m->t, 0, false);
	go(m, 200000);
	assert_true(m->irq.raised > raised + 80);
}

/* The host's loop is late, and the guest writes to another counter meanwhile. */
static void test_late_host(void **state) {
	struct machine *m = *state;
	program(m, 0, 4, 500);
	unsigned raised = m->irq.raised;
	m->clock.now_ns = 10000000;
	program(m, 2, 0, 100);
	assert_int_equal(m->irq.raised, raised + 1);
	fake_clock_set(&m->clock, 20000000);
	assert_int_equal(m->irq.raised, raised + 1);
	program(m, 0, 4, 500);
	m->clock.now_ns = 30000000;
	program(m, 0, 4, 500); /* and to the same one */
	assert_int_equal(m->irq.raised, raised + 2);
	fake_clock_set(&m->clock, 40000000);
	assert_int_equal(m->irq.raised, raised + 3);
}

/* The host must not spend its life on a guest's whim. */
static void test_shortest_period(void **state) {
	struct machine *m = *state;
	for (unsigned mode = 2; mode <= 3; mode++)
		for (uint16_t n = 1; n < 4; n++) {
			program(m, 0, mode, n);
			unsigned raised = m->irq.raised;
			fake_clock_set(&m->clock, m->clock.now_ns + 10000000);
			assert_in_range(m->irq.raised - raised, 0, 1001);
		}
	program(m, 0, 2, 1193); /* works again */
	unsigned raised = m->irq.raised;
	fake_clock_set(&m->clock, m->clock.now_ns + 100000000);
	assert_in_range(m->irq.raised - raised, 99, 101);
}

static void poke(void *to) {
	struct machine *m = (struct machine *)((char *)to - offsetof(struct machine, t));
	fake_clock_set(&m->clock, m->clock.now_ns + 100000);
	for (unsigned n = 0; n < 3; n++) {
		count(m, n);
		status(m, n);
		in(m, 0x40 + n);
	}
	in(m, 0x61);
	out(m, 0x61, m->clock.now_ns & 1);
}

static void test_state(void **state) {
	struct machine *m = *state;
	static struct machine other;
	make(&other);
	program(m, 0, 2, 1000);
	out(m, 0x61, 1);
	program(m, 2, 0, 50000);
	go(m, 10300);
	out(m, 0x40, 0xd0); /* half of a new count */
	out(m, 0x43, 0x80); /* latched, half read */
	in(m, 0x42);
	other.clock.now_ns = m->clock.now_ns;
	assert_int_equal(copy_device(&i8254_device_ops, &m->t, &other.t), 0);
	struct machine *both[] = {m, &other};
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(in(both[i], 0x42), (50001 - 10300) >> 8);
		out(both[i], 0x40, 0x07);
		unsigned raised = both[i]->irq.raised;
		go(both[i], 11001);
		assert_int_equal(both[i]->irq.raised, raised + 1);
		go(both[i], 13000);
		assert_int_equal(both[i]->irq.raised, raised + 1);
		go(both[i], 13001);
		assert_int_equal(both[i]->irq.raised, raised + 2);
		assert_int_equal(count(both[i], 2), 50001 - 13001);
		assert_int_equal(status(both[i], 0), 0xb4);
	}
	/* A strobe that was due when the state was taken is not lost. */
	program(m, 0, 4, 100);
	m->clock.now_ns += 1000000;
	other.clock.now_ns = m->clock.now_ns;
	assert_int_equal(copy_device(&i8254_device_ops, &m->t, &other.t), 0);
	unsigned raised = other.irq.raised;
	fake_clock_set(&other.clock, other.clock.now_ns);
	assert_int_equal(other.irq.raised, raised + 1);
	program(m, 0, 2, 1000);
	hurt_device(&i8254_device_ops, &m->t, &other.t, poke);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode0, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode1, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode3, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode4, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode5, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_calibration, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bcd_and_access, setup, teardown),
		cmocka_unit_test_setup_teardown(test_latches, setup, teardown),
		cmocka_unit_test_setup_teardown(test_port61, setup, teardown),
		cmocka_unit_test_setup_teardown(test_muted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shortest_period, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("i8254", tests, NULL, NULL);
}
