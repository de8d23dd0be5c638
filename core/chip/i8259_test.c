#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/chip/i8259.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

struct machine {
	struct i8259 p;
	struct fake_irq intr;
};

static uint8_t in(struct i8259 *p, uint16_t port) {
	const struct io_ops *ops = port < 0x80 ? &i8259_master_ops : &i8259_slave_ops;
	return (uint8_t)(port >= 0x4d0 ? i8259_elcr_ops.read(p, port & 1, 1)
								   : ops->read(p, port & 1, 1));
}

static void out(struct i8259 *p, uint16_t port, uint8_t val) {
	const struct io_ops *ops = port < 0x80 ? &i8259_master_ops : &i8259_slave_ops;
	if (port >= 0x4d0)
		i8259_elcr_ops.write(p, port & 1, 1, val);
	else
		ops->write(p, port & 1, 1, val);
}

/* As a PC's software does it. */
static void init(struct i8259 *p, uint8_t icw4) {
	out(p, 0x20, 0x11);
	out(p, 0xa0, 0x11);
	out(p, 0x21, 0x20);
	out(p, 0xa1, 0x28);
	out(p, 0x21, 0x04);
	out(p, 0xa1, 0x02);
	out(p, 0x21, icw4);
	out(p, 0xa1, icw4 & ~0x10);
}

static int setup(void **state) {
	struct machine *m = calloc(1, sizeof(*m));
	fake_irq_init(&m->intr);
	i8259_init(&m->p, &m->intr.line);
	init(&m->p, 1);
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static void pulse(struct i8259 *p, unsigned pin) {
	i8259_set_irq(p, pin, true);
	i8259_set_irq(p, pin, false);
}

static void test_power_on(void **state) {
	struct machine *m = *state;
	i8259_device_ops.reset(&m->p);
	assert_int_equal(in(&m->p, 0x21), 0xff);
	assert_int_equal(in(&m->p, 0xa1), 0xff);
	assert_int_equal(in(&m->p, 0x20), 0);
	assert_int_equal(in(&m->p, 0x4d0), 0);
	pulse(&m->p, 0);
	assert_false(m->intr.level);
}

static void test_probe(void **state) {
	struct machine *m = *state;
	out(&m->p, 0x21, 0xfb);
	out(&m->p, 0xa1, 0xff);
	assert_int_equal(in(&m->p, 0x21), 0xfb);
	assert_int_equal(in(&m->p, 0xa1), 0xff);
}

static void test_init_words(void **state) {
	struct machine *m = *state;
	out(&m->p, 0x21, 0xaa);
	i8259_set_irq(&m->p, 3, true);
	out(&m->p, 0x20, 0x11); /* clears the mask, forgets edges */
	assert_int_equal(in(&m->p, 0x20), 0);
	i8259_set_irq(&m->p, 4, true);
	assert_false(m->intr.level); /* not before the last word */
	out(&m->p, 0x21, 0x47);
	out(&m->p, 0x21, 0x04);
	out(&m->p, 0x21, 0x01);
	assert_int_equal(in(&m->p, 0x21), 0);
	assert_true(m->intr.level);
	assert_int_equal(i8259_intack(&m->p), 0x44);
	/* Without ICW4 the third word is the last; with SNGL the second. */
	out(&m->p, 0x20, 0x10);
	out(&m->p, 0x21, 0x50);
	out(&m->p, 0x21, 0x04);
	out(&m->p, 0x21, 0x99);
	assert_int_equal(in(&m->p, 0x21), 0x99);
	out(&m->p, 0x20, 0x12);
	out(&m->p, 0x21, 0x60);
	out(&m->p, 0x21, 0x77);
	assert_int_equal(in(&m->p, 0x21), 0x77);
}

static void test_edge(void **state) {
	struct machine *m = *state;
	i8259_set_irq(&m->p, 1, true);
	assert_true(m->intr.level);
	assert_int_equal(in(&m->p, 0x20), 0x02);
	assert_int_equal(i8259_intack(&m->p), 0x21);
	assert_false(m->intr.level);
	assert_int_equal(in(&m->p, 0x20), 0);
	out(&m->p, 0x20, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0x02);
	out(&m->p, 0x20, 0x20);
	assert_int_equal(in(&m->p, 0x20), 0);
	assert_false(m->intr.level); /* still high: no new edge */
	i8259_set_irq(&m->p, 1, false);
	i8259_set_irq(&m->p, 1, true);
	assert_true(m->intr.level);
	/* The mask holds it, and gives it back. */
	out(&m->p, 0x21, 0x02);
	assert_false(m->intr.level);
	out(&m->p, 0x21, 0x00);
	assert_true(m->intr.level);
}

static void test_level(void **state) {
	struct machine *m = *state;
	out(&m->p, 0x4d0, 0xff);
	out(&m->p, 0x4d1, 0xff);
	assert_int_equal(in(&m->p, 0x4d0), 0xf8);
	assert_int_equal(in(&m->p, 0x4d1), 0xde);
	i8259_set_irq(&m->p, 5, true);
	assert_int_equal(i8259_intack(&m->p), 0x25);
	assert_int_equal(in(&m->p, 0x20), 0x20);
	out(&m->p, 0x20, 0x65);
	assert_true(m->intr.level); /* still asking */
	i8259_set_irq(&m->p, 5, false);
	assert_false(m->intr.level);
	/* Turning a high pin to level makes it ask. */
	out(&m->p, 0x4d1, 0);
	i8259_set_irq(&m->p, 11, true);
	assert_int_equal(i8259_intack(&m->p), 0x2b);
	out(&m->p, 0xa0, 0x20);
	out(&m->p, 0x20, 0x20);
	assert_false(m->intr.level);
	out(&m->p, 0x4d1, 0x08);
	assert_true(m->intr.level);
}

static void test_priorities(void **state) {
	struct machine *m = *state;
	pulse(&m->p, 6);
	pulse(&m->p, 3);
	assert_int_equal(i8259_intack(&m->p), 0x23);
	pulse(&m->p, 4);
	assert_false(m->intr.level); /* 4 is below 3 in service */
	pulse(&m->p, 1);
	assert_int_equal(i8259_intack(&m->p), 0x21); /* nested */
	out(&m->p, 0x20, 0x20);						 /* ends 1, the highest */
	out(&m->p, 0x20, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0x08);
	out(&m->p, 0x20, 0x63); /* specific */
	assert_int_equal(i8259_intack(&m->p), 0x24);
	out(&m->p, 0x20, 0x20);
	assert_int_equal(i8259_intack(&m->p), 0x26);
}

static void test_rotation(void **state) {
	struct machine *m = *state;
	out(&m->p, 0x20, 0xc3); /* 3 is the lowest: 4 the highest */
	for (unsigned pin = 0; pin < 8; pin++)
		if (pin != 2)
			pulse(&m->p, pin);
	assert_int_equal(i8259_intack(&m->p), 0x24);
	out(&m->p, 0x20, 0xa0); /* ends 4 and makes it the lowest */
	assert_int_equal(m->p.chip[0].lowest, 4);
	assert_int_equal(i8259_intack(&m->p), 0x25);
	out(&m->p, 0x20, 0xe5); /* the same, by name */
	assert_int_equal(m->p.chip[0].lowest, 5);
	assert_int_equal(i8259_intack(&m->p), 0x26);
}

static void test_auto_eoi(void **state) {
	struct machine *m = *state;
	init(&m->p, 3);
	out(&m->p, 0x20, 0x80); /* rotate */
	pulse(&m->p, 0);
	pulse(&m->p, 1);
	assert_int_equal(i8259_intack(&m->p), 0x20);
	out(&m->p, 0x20, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0);
	assert_int_equal(m->p.chip[0].lowest, 0);
	assert_int_equal(i8259_intack(&m->p), 0x21);
	out(&m->p, 0x20, 0x00);
	pulse(&m->p, 7);
	assert_int_equal(i8259_intack(&m->p), 0x27);
	assert_int_equal(m->p.chip[0].lowest, 1);
}

static void test_special_mask(void **state) {
	struct machine *m = *state;
	pulse(&m->p, 3);
	assert_int_equal(i8259_intack(&m->p), 0x23);
	pulse(&m->p, 6);
	assert_false(m->intr.level);
	out(&m->p, 0x21, 0x08);
	out(&m->p, 0x20, 0x68); /* on */
	assert_true(m->intr.level);
	assert_int_equal(i8259_intack(&m->p), 0x26);
	out(&m->p, 0x20, 0x20); /* does not see 3 */
	out(&m->p, 0x20, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0x08);
	pulse(&m->p, 6);
	assert_true(m->intr.level);
	out(&m->p, 0x20, 0x48); /* off */
	assert_false(m->intr.level);
}

static void test_cascade(void **state) {
	struct machine *m = *state;
	i8259_set_irq(&m->p, 2, true); /* no such input */
	i8259_set_irq(&m->p, 16, true);
	i8259_set_irq(&m->p, ~0u, true);
	assert_false(m->intr.level);
	pulse(&m->p, 12);
	assert_true(m->intr.level);
	assert_int_equal(in(&m->p, 0x20), 0x04);
	pulse(&m->p, 3);
	assert_int_equal(i8259_intack(&m->p), 0x2c); /* before 3 */
	out(&m->p, 0x20, 0x0b);
	out(&m->p, 0xa0, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0x04);
	assert_int_equal(in(&m->p, 0xa0), 0x10);
	/* A higher one of the slave waits for the master's EOI. */
	pulse(&m->p, 8);
	assert_false(m->intr.level);
	out(&m->p, 0x20, 0x62);
	assert_int_equal(i8259_intack(&m->p), 0x28);
	out(&m->p, 0xa0, 0x20);
	out(&m->p, 0xa0, 0x20);
	out(&m->p, 0x20, 0x62);
	assert_int_equal(i8259_intack(&m->p), 0x23);
}

static void test_special_fully_nested(void **state) {
	struct machine *m = *state;
	init(&m->p, 0x11);
	pulse(&m->p, 12);
	assert_int_equal(i8259_intack(&m->p), 0x2c);
	pulse(&m->p, 3);
	assert_false(m->intr.level); /* lower than the slave */
	pulse(&m->p, 14);
	assert_false(m->intr.level); /* lower within the slave */
	pulse(&m->p, 8);
	assert_true(m->intr.level);
	assert_int_equal(i8259_intack(&m->p), 0x28);
}

static void test_poll(void **state) {
	struct machine *m = *state;
	out(&m->p, 0x20, 0x0c);
	assert_false(in(&m->p, 0x20) & 0x80);
	assert_int_equal(in(&m->p, 0x20), 0); /* IRR again */
	pulse(&m->p, 4);
	out(&m->p, 0x20, 0x0c);
	assert_int_equal(in(&m->p, 0x20), 0x84);
	assert_false(m->intr.level);
	out(&m->p, 0x20, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0x10);
	pulse(&m->p, 9);
	out(&m->p, 0x20, 0x0c);
	assert_int_equal(in(&m->p, 0x20), 0x82);
	out(&m->p, 0xa0, 0x0c);
	assert_int_equal(in(&m->p, 0xa1), 0x81);
}

static void test_spurious(void **state) {
	struct machine *m = *state;
	assert_int_equal(i8259_intack(&m->p), 0x27);
	out(&m->p, 0x20, 0x0b);
	assert_int_equal(in(&m->p, 0x20), 0); /* not in service */
	out(&m->p, 0x4d0, 0x80);
	i8259_set_irq(&m->p, 7, true);
	i8259_set_irq(&m->p, 7, false);
	assert_false(m->intr.level);
	assert_int_equal(i8259_intack(&m->p), 0x27);
	pulse(&m->p, 14);
	out(&m->p, 0xa1, 0x40);
	assert_false(m->intr.level);
}

static void poke(void *to) {
	struct i8259 *p = to;
	for (unsigned i = 0; i < 20; i++) {
		assert_in_range(i8259_intack(p), 0, 255);
		pulse(p, i);
		out(p, 0x20, 0x20);
		out(p, 0xa0, 0xa0);
	}
	assert_in_range(p->chip[0].lowest, 0, 7);
}

static void test_state(void **state) {
	struct machine *m = *state, other;
	out(&m->p, 0x4d1, 0x08);
	i8259_set_irq(&m->p, 11, true);
	pulse(&m->p, 3);
	out(&m->p, 0x21, 0x01);
	out(&m->p, 0x20, 0xc6);
	assert_int_equal(i8259_intack(&m->p), 0x2b);
	out(&m->p, 0x20, 0x62);
	out(&m->p, 0xa0, 0x11); /* in the middle of an initialization */
	out(&m->p, 0xa1, 0x70);
	fake_irq_init(&other.intr);
	i8259_init(&other.p, &other.intr.line);
	assert_int_equal(copy_device(&i8259_device_ops, &m->p, &other.p), 0);
	assert_int_equal(other.intr.level, m->intr.level);
	struct machine *both[] = {m, &other};
	for (unsigned i = 0; i < 2; i++) {
		struct i8259 *p = &both[i]->p;
		out(p, 0xa1, 0x02);
		out(p, 0xa1, 0x01);
		assert_true(both[i]->intr.level);
		assert_int_equal(i8259_intack(p), 0x73);
		out(p, 0x20, 0x62);
		assert_int_equal(i8259_intack(p), 0x23);
	}
	hurt_device(&i8259_device_ops, &m->p, &other.p, poke);
}

/* An engine that has the pair: pins are only noted, registers come back without them. */
static void test_image(void **state) {
	struct machine *m = *state;
	struct i8259_chip image[2];
	out(&m->p, 0x21, 0x00);
	out(&m->p, 0xa1, 0x00);
	out(&m->p, 0x4d1, 0x02); /* pin 9 is level-triggered */
	assert_true(i8259_note_pin(&m->p, 9, true));
	assert_false(i8259_note_pin(&m->p, 9, true));
	assert_false(i8259_note_pin(&m->p, 2, true)); /* the cascade */
	assert_true(i8259_note_pin(&m->p, 5, true));
	assert_false(m->intr.level);
	image[0] = m->p.chip[0];
	image[1] = m->p.chip[1];
	image[0].irr = 1 << 4; /* an edge that was latched there */
	image[0].lines = 0xff; /* not the engine's to say */
	image[1].elcr = 0xff;
	image[1].lowest = 0xff;
	i8259_set_image(&m->p, image);
	assert_int_equal(m->p.chip[0].lines & (uint8_t) ~(1 << 2), 1 << 5);
	assert_int_equal(m->p.chip[1].elcr, 0xde);
	assert_int_equal(m->p.chip[1].lowest, 7);
	assert_true(m->intr.level);
	assert_int_equal(i8259_intack(&m->p), 0x29); /* by the cascade, before pin 4 */
	out(&m->p, 0xa0, 0x20);
	out(&m->p, 0x20, 0x20);
	i8259_set_irq(&m->p, 9, false);
	assert_int_equal(i8259_intack(&m->p), 0x24);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_init_words, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_priorities, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rotation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_auto_eoi, setup, teardown),
		cmocka_unit_test_setup_teardown(test_special_mask, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cascade, setup, teardown),
		cmocka_unit_test_setup_teardown(test_special_fully_nested, setup, teardown),
		cmocka_unit_test_setup_teardown(test_poll, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spurious, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_image, setup, teardown),
	};
	return cmocka_run_group_tests_name("i8259", tests, NULL, NULL);
}
