#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/i8042.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

struct machine {
	struct fake_irq kbd, aux, a20;
	struct i8042 k;
	unsigned resets;
};

static void do_reset(void *opaque) {
	((struct machine *)opaque)->resets++;
}

static void make(struct machine *m) {
	memset(m, 0, sizeof(*m));
	fake_irq_init(&m->kbd);
	fake_irq_init(&m->aux);
	fake_irq_init(&m->a20);
	const struct i8042_out out = {m->kbd.line, m->aux.line, m->a20.line, do_reset, m};
	i8042_init(&m->k, &out);
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

static uint8_t data(struct machine *m) {
	return (uint8_t)i8042_data_ops.read(&m->k, 0, 1);
}

static uint8_t status(struct machine *m) {
	return (uint8_t)i8042_command_ops.read(&m->k, 0, 1);
}

static void send(struct machine *m, uint8_t val) {
	i8042_data_ops.write(&m->k, 0, 1, val);
}

static void command(struct machine *m, uint8_t val) {
	i8042_command_ops.write(&m->k, 0, 1, val);
}

static void mouse(struct machine *m, uint8_t val) {
	command(m, 0xd4);
	send(m, val);
}

static void set_mode(struct machine *m, uint8_t val) {
	command(m, 0x60);
	send(m, val);
}

/* Exactly these bytes come, from the keyboard's side or the mouse's. */
static void says(struct machine *m, bool aux, size_t n, const uint8_t *bytes) {
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(status(m) & 0x21, aux ? 0x21 : 0x01);
		assert_int_equal(data(m), bytes[i]);
	}
	assert_int_equal(status(m) & 0x21, 0);
}

#define SAYS(m, aux, ...)                                                                          \
	says(m, aux, sizeof((const uint8_t[]){__VA_ARGS__}), (const uint8_t[]){__VA_ARGS__})

static void test_power_on(void **state) {
	struct machine *m = *state;
	assert_int_equal(status(m), 0x14);
	assert_false(m->kbd.level);
	assert_false(m->aux.level);
	assert_true(m->a20.level);
	command(m, 0x20);
	assert_int_equal(status(m), 0x1d); /* the last write was a command */
	SAYS(m, false, 0x65);
	send(m, 0xee);
	assert_int_equal(status(m) & 0x08, 0);
	SAYS(m, false, 0xee);
}

static void test_controller(void **state) {
	struct machine *m = *state;
	command(m, 0xaa);
	SAYS(m, false, 0x55);
	command(m, 0xab);
	SAYS(m, false, 0x00);
	command(m, 0xa9);
	SAYS(m, false, 0x00);
	command(m, 0xa4);
	SAYS(m, false, 0xf1);
	command(m, 0xc0);
	SAYS(m, false, 0x80);
	set_mode(m, 0x47);
	command(m, 0xa7);
	command(m, 0x20);
	SAYS(m, false, 0x67);
	command(m, 0xa8);
	command(m, 0xad);
	command(m, 0x20);
	SAYS(m, false, 0x57);
	command(m, 0xae);
	command(m, 0x20);
	SAYS(m, false, 0x47);
	command(m, 0x7f); /* its RAM */
	send(m, 0xa5);
	command(m, 0x3f);
	SAYS(m, false, 0xa5);
	/* Loops of the output buffer. */
	command(m, 0xd2);
	send(m, 0x12);
	SAYS(m, false, 0x12);
	command(m, 0xd3);
	send(m, 0x5a);
	SAYS(m, true, 0x5a);
	/* Another command ends the wait for a data byte: this one goes to the keyboard. */
	command(m, 0x60);
	command(m, 0xae);
	send(m, 0xee);
	SAYS(m, false, 0xee);
	set_mode(m, 0x40);
	assert_int_equal(status(m) & 4, 0);
	command(m, 0x00);
	command(m, 0xbf);
	assert_int_equal(status(m) & 1, 0);
}

static void test_interrupts(void **state) {
	struct machine *m = *state;
	i8042_key(&m->k, 0x1e, true);
	assert_true(m->kbd.level);
	i8042_key(&m->k, 0x1e, false);
	assert_int_equal(m->kbd.raised, 1);
	assert_int_equal(data(m), 0x1e);
	assert_true(m->kbd.level); /* an edge for each byte */
	assert_int_equal(m->kbd.raised, 2);
	assert_int_equal(data(m), 0x9e);
	assert_false(m->kbd.level);
	assert_int_equal(data(m), 0x9e); /* the buffer keeps it */
	set_mode(m, 0x46);
	i8042_key(&m->k, 0x1e, true);
	assert_false(m->kbd.level);
	set_mode(m, 0x47);
	assert_true(m->kbd.level);
	data(m);
	command(m, 0xd3); /* how drivers look for irq 12 */
	send(m, 0xa5);
	assert_true(m->aux.level);
	assert_false(m->kbd.level);
	data(m);
	assert_false(m->aux.level);
}

static void test_keys(void **state) {
	struct machine *m = *state;
	/* Every key of set 1 comes out as itself through set 2 and the translation. */
	for (uint8_t code = 1; code < 0x59; code++) {
		i8042_key(&m->k, code, true);
		i8042_key(&m->k, code, false);
		SAYS(m, false, code, code | 0x80);
	}
	i8042_key(&m->k, 0xe04b, true);
	i8042_key(&m->k, 0xe04b, false);
	SAYS(m, false, 0xe0, 0x4b, 0xe0, 0xcb);
	i8042_key(&m->k, 0xe11d, true);
	i8042_key(&m->k, 0xe11d, false);
	SAYS(m, false, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
	/* Set 2 as it is. */
	set_mode(m, 0x05);
	i8042_key(&m->k, 0x1e, true);
	i8042_key(&m->k, 0x41, true);
	i8042_key(&m->k, 0xe01d, false);
	SAYS(m, false, 0x1c, 0x83, 0xe0, 0xf0, 0x14);
	i8042_key(&m->k, 0xe11d, true);
	SAYS(m, false, 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
	/* Set 1 from the keyboard itself. */
	send(m, 0xf0);
	send(m, 0x01);
	SAYS(m, false, 0xfa, 0xfa);
	i8042_key(&m->k, 0x1e, true);
	i8042_key(&m->k, 0x1e, false);
	SAYS(m, false, 0x1e, 0x9e);
	send(m, 0xf0);
	send(m, 0x00);
	SAYS(m, false, 0xfa, 0xfa, 0x01);
	send(m, 0xf0);
	send(m, 0x03);
	SAYS(m, false, 0xfa, 0xfe);
	i8042_key(&m->k, 0, true); /* no such keys */
	i8042_key(&m->k, 0xffff, true);
}

static void test_keyboard(void **state) {
	struct machine *m = *state;
	set_mode(m, 0x05);
	send(m, 0xff);
	SAYS(m, false, 0xfa, 0xaa);
	send(m, 0xf2);
	SAYS(m, false, 0xfa, 0xab, 0x83);
	send(m, 0xed);
	SAYS(m, false, 0xfa);
	send(m, 0x07);
	SAYS(m, false, 0xfa);
	assert_int_equal(m->k.k_leds, 7);
	send(m, 0xf3);
	send(m, 0x00);
	SAYS(m, false, 0xfa, 0xfa);
	assert_int_equal(m->k.k_rate, 0);
	send(m, 0xed); /* a command in the argument's place */
	data(m);
	send(m, 0xf4);
	SAYS(m, false, 0xfa);
	send(m, 0xfe);
	SAYS(m, false, 0xfa);
	send(m, 0x12);
	SAYS(m, false, 0xfe);
	send(m, 0xf5);
	SAYS(m, false, 0xfa);
	i8042_key(&m->k, 0x1e, true); /* switched off */
	assert_int_equal(status(m) & 1, 0);
	send(m, 0xf4);
	SAYS(m, false, 0xfa);
	i8042_key(&m->k, 0x1e, true);
	SAYS(m, false, 0x1c);
	send(m, 0xf6);
	SAYS(m, false, 0xfa);
	set_mode(m, 0x45); /* translated, as kernels see it */
	send(m, 0xf2);
	SAYS(m, false, 0xfa, 0xab, 0x41);
	send(m, 0xff);
	SAYS(m, false, 0xfa, 0xaa);
	/* Held off, then let go; answers before keys. */
	command(m, 0xad);
	i8042_key(&m->k, 0x1e, true);
	assert_int_equal(status(m) & 1, 0);
	command(m, 0xae);
	SAYS(m, false, 0x1e);
	i8042_key(&m->k, 0x1e, true);
	i8042_key(&m->k, 0x30, true);
	send(m, 0xed);
	send(m, 0x02);
	SAYS(m, false, 0x1e, 0xfa, 0xfa, 0x30);
}

static void test_flood(void **state) {
	struct machine *m = *state;
	for (unsigned i = 0; i < 1000; i++)
		i8042_key(&m->k, 0xe04b, i & 1);
	unsigned n = 0;
	for (; status(m) & 1; n++)
		assert_int_equal(data(m) & 0x7f, n & 1 ? 0x4b : 0x60);
	assert_in_range(n, 30, I8042_QUEUE + 1);
	for (unsigned i = 0; i < 1000; i++) {
		send(m, 0xf2);
		command(m, 0x20);
		mouse(m, 0xe9);
		i8042_mouse(&m->k, 500, -500, i & 7);
	}
	while (status(m) & 1)
		data(m);
	command(m, 0xaa);
	SAYS(m, false, 0x55);
}

static void test_mouse(void **state) {
	struct machine *m = *state;
	set_mode(m, 0x47);
	mouse(m, 0xff);
	assert_true(m->aux.level);
	SAYS(m, true, 0xfa, 0xaa, 0x00);
	assert_int_equal(m->kbd.raised, 0);
	mouse(m, 0xf2);
	SAYS(m, true, 0xfa, 0x00);
	i8042_mouse(&m->k, 5, 5, 0); /* not enabled */
	assert_int_equal(status(m) & 1, 0);
	mouse(m, 0xe8);
	mouse(m, 3);
	mouse(m, 0xf3);
	mouse(m, 40);
	SAYS(m, true, 0xfa, 0xfa);
	mouse(m, 0xe7);
	mouse(m, 0xf4);
	mouse(m, 0xe9);
	SAYS(m, true, 0xfa, 0xfa, 0x30, 3, 40); /* a command cuts short what was being said */
	mouse(m, 0xe6);
	SAYS(m, true, 0xfa);
	i8042_mouse(&m->k, 5, -3, 1);
	SAYS(m, true, 0x29, 0x05, 0xfd);
	i8042_mouse(&m->k, 0, 0, 1); /* nothing new */
	assert_int_equal(status(m) & 1, 0);
	/* Movement adds up while a packet waits. */
	i8042_mouse(&m->k, 1, 1, 1);
	i8042_mouse(&m->k, 200, 0, 1);
	i8042_mouse(&m->k, 200, 0, 0);
	SAYS(m, true, 0x09, 1, 1, 0x08, 255, 0, 0x08, 145, 0);
	mouse(m, 0xf0); /* remote: on request */
	SAYS(m, true, 0xfa);
	i8042_mouse(&m->k, -1, 0, 2);
	mouse(m, 0xeb);
	SAYS(m, true, 0xfa, 0x1a, 0xff, 0x00);
	mouse(m, 0xea);
	mouse(m, 0xee);
	data(m);
	mouse(m, 0xf2); /* wrapped */
	data(m);
	mouse(m, 0xec);
	while (status(m) & 1)
		data(m);
	mouse(m, 0xf6);
	SAYS(m, true, 0xfa);
	mouse(m, 0xaa);
	SAYS(m, true, 0xfe);
	command(m, 0xa7);
	mouse(m, 0xf2); /* writing switches it on */
	SAYS(m, true, 0xfa, 0x00);
}

static void test_a20_and_reset(void **state) {
	struct machine *m = *state;
	command(m, 0xd0);
	assert_int_equal(data(m) & 3, 3);
	command(m, 0xdd);
	assert_false(m->a20.level);
	assert_false(i8042_a20(&m->k));
	command(m, 0xdf);
	assert_true(m->a20.level);
	command(m, 0xd1);
	send(m, 0xdd);
	assert_false(m->a20.level);
	assert_int_equal(i8042_port92_ops.read(&m->k, 0, 1), 0);
	i8042_port92_ops.write(&m->k, 0, 1, 2);
	assert_true(m->a20.level);
	assert_int_equal(i8042_port92_ops.read(&m->k, 0, 1), 2);
	assert_int_equal(m->resets, 0);
	command(m, 0xfe);
	assert_int_equal(m->resets, 1);
	command(m, 0xff);
	assert_int_equal(m->resets, 1);
	command(m, 0xd1);
	send(m, 0xfe);
	assert_int_equal(m->resets, 2);
	i8042_port92_ops.write(&m->k, 0, 1, 3);
	assert_int_equal(m->resets, 3);
	i8042_port92_ops.write(&m->k, 0, 1, 0);
	i8042_device_ops.reset(&m->k);
	assert_true(m->a20.level);
	assert_int_equal(m->resets, 3);
}

static void poke(void *to) {
	struct machine *m = (struct machine *)((char *)to - offsetof(struct machine, k));
	for (unsigned i = 0; i < 1000 && (status(m) & 1); i++)
		data(m);
	set_mode(m, 0x47);
	send(m, 0xff);
	mouse(m, 0xeb);
	i8042_key(&m->k, 0xe048, true);
	i8042_mouse(&m->k, 300, -300, 5);
	for (unsigned i = 0; i < 1000 && (status(m) & 1); i++)
		data(m);
}

static void test_state(void **state) {
	struct machine *m = *state;
	static struct machine other;
	make(&other);
	set_mode(m, 0x47);
	mouse(m, 0xf4);
	data(m);
	i8042_key(&m->k, 0xe04b, false);
	data(m); /* in the middle of the key */
	i8042_mouse(&m->k, 1, 2, 3);
	command(m, 0xdd);
	command(m, 0xd4); /* a data byte to come */
	assert_int_equal(copy_device(&i8042_device_ops, &m->k, &other.k), 0);
	assert_int_equal(other.kbd.level, m->kbd.level);
	assert_false(other.a20.level);
	assert_int_equal(data(&other), 0xcb);
	SAYS(&other, true, 0x0b, 1, 2);
	send(&other, 0xf2);
	SAYS(&other, true, 0xfa, 0x00);
	hurt_device(&i8042_device_ops, &m->k, &other.k, poke);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_controller, setup, teardown),
		cmocka_unit_test_setup_teardown(test_interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keyboard, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mouse, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a20_and_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
