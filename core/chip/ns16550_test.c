#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/ns16550.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

struct machine {
	struct fake_clock clock;
	struct fake_irq irq;
	struct ns16550 u;
	char sent[4096];
	size_t nsent, room; /* what the back end still takes */
	const char *more;	/* what it gives when asked */
	unsigned asked;
};

static size_t backend_write(void *opaque, const uint8_t *buf, size_t len) {
	struct machine *m = opaque;
	size_t n = len < m->room ? len : m->room;
	memcpy(m->sent + m->nsent, buf, n);
	m->nsent += n;
	m->room -= n;
	return n;
}

static void backend_readable(void *opaque) {
	struct machine *m = opaque;
	struct char_device d = ns16550_char_device(&m->u);
	m->asked++;
	if (m->more)
		m->more += d.receive(d.dev, (const uint8_t *)m->more, strlen(m->more));
}

static void make(struct machine *m) {
	memset(m, 0, sizeof(*m));
	fake_clock_init(&m->clock);
	fake_irq_init(&m->irq);
	m->room = sizeof(m->sent);
	const struct char_backend b = {backend_write, backend_readable, m};
	ns16550_init(&m->u, &m->clock.timers, &m->irq.line, &b);
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

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

static uint8_t in(struct machine *m, unsigned reg) {
	return (uint8_t)ns16550_ops.read(&m->u, reg, 1);
}

static void out(struct machine *m, unsigned reg, uint8_t val) {
	ns16550_ops.write(&m->u, reg, 1, val);
}

static size_t type(struct machine *m, const char *s) {
	struct char_device d = ns16550_char_device(&m->u);
	return d.receive(d.dev, (const uint8_t *)s, strlen(s));
}

static void test_power_on(void **state) {
	struct machine *m = *state;
	assert_int_equal(in(m, IER), 0);
	assert_int_equal(in(m, IIR), 1);
	assert_int_equal(in(m, LCR), 0);
	assert_int_equal(in(m, MCR), 0);
	assert_int_equal(in(m, LSR), 0x60);
	assert_int_equal(in(m, MSR), 0xb0);
	assert_false(m->irq.level);
}

/* What drivers do to find out what they have. */
static void test_probe(void **state) {
	struct machine *m = *state;
	out(m, IER, 0xff);
	assert_int_equal(in(m, IER), 0x0f);
	out(m, IER, 0);
	out(m, SCR, 0xa5);
	assert_int_equal(in(m, SCR), 0xa5);
	out(m, IIR, 0x01);
	assert_int_equal(in(m, IIR) & 0xc0, 0xc0);
	out(m, IIR, 0x00);
	assert_int_equal(in(m, IIR) & 0xc0, 0);
	out(m, LCR, 0x80);
	out(m, DATA, 0x34);
	out(m, IER, 0x12);
	assert_int_equal(in(m, DATA), 0x34);
	assert_int_equal(in(m, IER), 0x12);
	out(m, LCR, 0x03);
	assert_int_equal(in(m, LCR), 0x03);
	assert_int_equal(in(m, IER), 0);
	out(m, LSR, 0xff);
	out(m, MSR, 0xff);
	assert_int_equal(in(m, LSR), 0x60);
	assert_int_equal(in(m, MSR), 0xb0);
}

static void test_send(void **state) {
	struct machine *m = *state;
	const char *text = "hello";
	for (const char *s = text; *s; s++) {
		assert_int_equal(in(m, LSR) & 0x20, 0x20);
		out(m, DATA, (uint8_t)*s);
	}
	assert_int_equal(m->nsent, 5);
	assert_memory_equal(m->sent, text, 5);
	const struct char_backend nobody = {0};
	ns16550_init(&m->u, &m->clock.timers, &m->irq.line, &nobody);
	out(m, DATA, 'x');
	assert_int_equal(in(m, LSR), 0x60);
}

static void test_send_interrupt(void **state) {
	struct machine *m = *state;
	out(m, IER, 2);				/* enabling it while empty raises it */
	assert_false(m->irq.level); /* OUT2 is the gate */
	out(m, MCR, 8);
	assert_true(m->irq.level);
	assert_int_equal(in(m, IIR), 2); /* reading acknowledges */
	assert_false(m->irq.level);
	assert_int_equal(in(m, IIR), 1);
	out(m, DATA, 'a');
	assert_true(m->irq.level);
	out(m, IER, 0);
	assert_false(m->irq.level);
	in(m, IIR);
	out(m, IER, 2);
	assert_int_equal(in(m, IIR), 2);
	out(m, IER, 2); /* no change, nothing new */
	assert_int_equal(in(m, IIR), 1);
}

/* A full back end: the guest sees it, nothing blocks, no byte is lost. */
static void test_back_pressure(void **state) {
	struct machine *m = *state;
	out(m, IIR, 1);
	out(m, MCR, 8);
	out(m, IER, 2);
	in(m, IIR);
	m->room = 10;
	char expect[200];
	size_t written = 0, turns = 0;
	while (written < sizeof(expect)) {
		if (in(m, LSR) & 0x20) { /* empty: a driver fills the FIFO */
			for (unsigned i = 0; i < 16 && written < sizeof(expect); i++) {
				expect[written] = (char)(written * 7);
				out(m, DATA, (uint8_t)expect[written++]);
			}
			continue;
		}
		assert_false(m->irq.level);
		assert_int_equal(in(m, LSR), 0);
		m->room += turns++ % 9;
		ns16550_char_device(&m->u).writable(&m->u);
		if (in(m, LSR) & 0x20)
			assert_true(m->irq.level);
	}
	m->room = 1000;
	ns16550_char_device(&m->u).writable(&m->u);
	assert_int_equal(m->nsent, sizeof(expect));
	assert_memory_equal(m->sent, expect, sizeof(expect));
	/* A guest that does not look: bytes without room are lost, as on the wire. */
	m->room = 0;
	for (unsigned i = 0; i < 100000; i++)
		out(m, DATA, (uint8_t)i);
	m->room = 1000;
	ns16550_char_device(&m->u).writable(&m->u);
	assert_int_equal(m->nsent, sizeof(expect) + 16);
}

static void test_receive(void **state) {
	struct machine *m = *state;
	out(m, MCR, 8);
	out(m, IER, 1);
	assert_int_equal(type(m, "ab"), 1); /* no FIFO: one */
	assert_true(m->irq.level);
	assert_int_equal(in(m, IIR), 4);
	assert_int_equal(in(m, LSR), 0x61);
	m->more = "b";
	assert_int_equal(in(m, DATA), 'a'); /* room: the back end is asked */
	assert_int_equal(m->asked, 1);
	assert_int_equal(in(m, DATA), 'b');
	assert_false(m->irq.level);
	assert_int_equal(in(m, LSR), 0x60);
	assert_int_equal(in(m, DATA), 0);
}

static void test_receive_fifo(void **state) {
	struct machine *m = *state;
	out(m, MCR, 8);
	out(m, IER, 1);
	out(m, IIR, 0x81); /* trigger at 8 */
	assert_int_equal(type(m, "1234567"), 7);
	assert_false(m->irq.level);
	assert_int_equal(type(m, "8"), 1);
	assert_int_equal(in(m, IIR), 0xc4);
	in(m, DATA);
	assert_int_equal(in(m, IIR), 0xc1);
	assert_int_equal(type(m, "abcdefghijklmn"), 9);
	m->more = "jklmn";
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(m, DATA), "2345678abcdefghi"[i]);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(in(m, DATA), "jklmn"[i]);
	assert_int_equal(in(m, LSR) & 1, 0);
	/* Cleared and switched off, it is empty. */
	type(m, "xyz");
	out(m, IIR, 0x83);
	assert_int_equal(in(m, LSR) & 1, 0);
	type(m, "xyz");
	out(m, IIR, 0);
	assert_int_equal(in(m, LSR) & 1, 0);
}

static void test_timeout(void **state) {
	struct machine *m = *state;
	out(m, LCR, 0x83);
	out(m, DATA, 1); /* 115200 8N1: four characters are 347.2 us */
	out(m, IER, 0);
	out(m, LCR, 0x03);
	out(m, MCR, 8);
	out(m, IER, 1);
	out(m, IIR, 0xc1);
	type(m, "abc");
	fake_clock_set(&m->clock, 347000);
	assert_false(m->irq.level);
	fake_clock_set(&m->clock, 348000);
	assert_true(m->irq.level);
	assert_int_equal(in(m, IIR), 0xcc);
	assert_int_equal(in(m, DATA), 'a');
	assert_false(m->irq.level); /* counts from the last read */
	fake_clock_set(&m->clock, 348000 + 347000);
	assert_false(m->irq.level);
	fake_clock_set(&m->clock, 348000 + 348000);
	assert_int_equal(in(m, IIR), 0xcc);
	in(m, DATA);
	in(m, DATA);
	fake_clock_set(&m->clock, 2000000);
	assert_false(m->irq.level);
}

static void test_loopback(void **state) {
	struct machine *m = *state;
	in(m, MSR);
	out(m, MCR, 0x1a);
	assert_int_equal(in(m, MSR) & 0xf0, 0x90);
	for (unsigned i = 0; i < 16; i++) {
		out(m, MCR, 0x10 | (uint8_t)i);
		uint8_t v = in(m, MSR) >> 4;
		assert_int_equal(v, (i >> 1 & 1) | (i & 1) << 1 | (i & 4) | (i & 8));
	}
	/* Deltas: RI only by its end. */
	out(m, MCR, 0x10);
	in(m, MSR);
	out(m, MCR, 0x17);
	assert_int_equal(in(m, MSR), 0x73);
	out(m, MCR, 0x10);
	assert_int_equal(in(m, MSR), 0x07);
	assert_int_equal(in(m, MSR), 0x00);
	/* Data turns around, and does not leave. */
	assert_int_equal(type(m, "z"), 0);
	out(m, DATA, 0x42);
	assert_int_equal(m->nsent, 0);
	assert_int_equal(in(m, LSR), 0x61);
	assert_int_equal(in(m, DATA), 0x42);
	out(m, DATA, 1);
	out(m, DATA, 2);
	assert_int_equal(in(m, LSR), 0x63); /* overrun */
	assert_int_equal(in(m, LSR), 0x61);
	assert_int_equal(in(m, DATA), 2);
	out(m, LCR, 0x43);
	assert_int_equal(in(m, LSR), 0x71); /* break */
	in(m, DATA);
	/* Outside, the wires are as they were, and input that waited comes. */
	m->more = "z";
	out(m, MCR, 0x0b);
	assert_int_equal(in(m, MSR) & 0xf0, 0xb0);
	assert_int_equal(in(m, DATA), 'z');
}

static void test_priority(void **state) {
	struct machine *m = *state;
	out(m, IER, 0x0f);
	out(m, MCR, 0x10);
	out(m, DATA, 1);
	out(m, DATA, 2);
	in(m, MSR);
	out(m, MCR, 0x11);
	assert_int_equal(in(m, IIR), 6);
	in(m, LSR);
	assert_int_equal(in(m, IIR), 4);
	in(m, DATA);
	assert_int_equal(in(m, IIR), 2);
	assert_int_equal(in(m, IIR), 0);
	in(m, MSR);
	assert_int_equal(in(m, IIR), 1);
	assert_false(m->irq.level); /* in loopback nothing leaves */
}

static void poke(void *to) {
	struct machine *m = (struct machine *)((char *)to - offsetof(struct machine, u));
	m->nsent = 0;
	m->room = 1000;
	for (unsigned i = 0; i < 8; i++) {
		in(m, i);
		out(m, i, (uint8_t)(0x5a + i));
	}
	type(m, "0123456789abcdef0123");
	while (in(m, LSR) & 1)
		in(m, DATA);
	fake_clock_set(&m->clock, m->clock.now_ns + 1000000000);
}

static void test_state(void **state) {
	struct machine *m = *state;
	static struct machine other;
	make(&other);
	out(m, IIR, 0xc1);
	out(m, MCR, 8);
	out(m, IER, 3);
	in(m, IIR);
	type(m, "abc");
	m->room = 0;
	out(m, DATA, 'x');
	out(m, DATA, 'y');
	other.room = 0;
	assert_int_equal(copy_device(&ns16550_device_ops, &m->u, &other.u), 0);
	assert_int_equal(other.irq.level, m->irq.level);
	other.room = 100;
	ns16550_char_device(&other.u).writable(&other.u);
	assert_int_equal(other.nsent, 2);
	assert_memory_equal(other.sent, "xy", 2);
	assert_int_equal(in(&other, IIR), 0xc2);
	fake_clock_set(&other.clock, 10000000);
	assert_int_equal(in(&other, IIR), 0xcc);
	assert_int_equal(in(&other, DATA), 'a');
	hurt_device(&ns16550_device_ops, &m->u, &other.u, poke);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_send, setup, teardown),
		cmocka_unit_test_setup_teardown(test_send_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_back_pressure, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive_fifo, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loopback, setup, teardown),
		cmocka_unit_test_setup_teardown(test_priority, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("ns16550", tests, NULL, NULL);
}
