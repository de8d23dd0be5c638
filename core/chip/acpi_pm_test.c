#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/acpi_pm.h"
#include "test/unit/fake.h"
#include "test/unit/round_trip.h"

#define SECOND 1000000000ull
#define S5 5

struct machine {
	struct fake_clock clock;
	struct fake_irq sci;
	struct acpi_pm pm;
	unsigned offs, resets;
};

static void power_off(void *opaque) {
	((struct machine *)opaque)->offs++;
}

static void do_reset(void *opaque) {
	((struct machine *)opaque)->resets++;
}

static void make(struct machine *m, bool acpi_only, bool timer_24bit) {
	memset(m, 0, sizeof(*m));
	fake_clock_init(&m->clock);
	fake_irq_init(&m->sci);
	const struct acpi_pm_config c = {m->sci.line, power_off, do_reset,	 m,
									 S5,		  acpi_only, timer_24bit};
	acpi_pm_init(&m->pm, &m->clock.timers, &c);
}

static int setup(void **state) {
	struct machine *m = malloc(sizeof(*m));
	make(m, true, false);
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static uint32_t in(struct machine *m, unsigned off, unsigned size) {
	return (uint32_t)(acpi_pm_ops.read(&m->pm, off, size) & (0xffffffffull >> (32 - size * 8)));
}

static void out(struct machine *m, unsigned off, unsigned size, uint64_t val) {
	acpi_pm_ops.write(&m->pm, off, size, val);
}

/* Goes to the first nanosecond of a tick. */
static void go(struct machine *m, uint64_t tick) {
	uint64_t s = tick / ACPI_PM_TIMER_HZ, r = tick % ACPI_PM_TIMER_HZ;
	fake_clock_set(&m->clock, s * SECOND + (r * SECOND + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ);
}

static void test_power_on(void **state) {
	struct machine *m = *state;
	assert_int_equal(in(m, 0, 4), 0);
	assert_int_equal(in(m, 4, 2), 1);
	assert_int_equal(in(m, 8, 4), 0);
	assert_int_equal(in(m, 0x20, 4), 0);
	assert_int_equal(in(m, 0x28, 4), 0);
	assert_int_equal(acpi_pm_reset_ops.read(&m->pm, 0, 1), 0);
	make(m, false, false);
	assert_int_equal(in(m, 4, 2), 0);
}

static void test_timer(void **state) {
	struct machine *m = *state;
	go(m, 0x12345678);
	assert_int_equal(in(m, 8, 4), 0x12345678);
	m->clock.now_ns--;
	assert_int_equal(in(m, 8, 4), 0x12345677);
	m->clock.now_ns++;
	assert_int_equal(in(m, 9, 1), 0x56); /* any size */
	assert_int_equal(in(m, 10, 2), 0x1234);
	out(m, 8, 4, 0); /* read-only */
	assert_int_equal(in(m, 8, 4), 0x12345678);
	fake_clock_set(&m->clock, 1000 * SECOND);
	assert_int_equal(in(m, 8, 4), 3579545000u);
	go(m, 0x100000005ull);
	assert_int_equal(in(m, 8, 4), 5);
	make(m, true, true);
	go(m, 0x3000007);
	assert_int_equal(in(m, 8, 4), 7);
}

static void test_overflow(void **state) {
	struct machine *m = *state;
	go(m, 0x7fffffff);
	assert_int_equal(in(m, 0, 2), 0);
	go(m, 0x80000000); /* the top bit changes: a status without its interrupt */
	assert_int_equal(in(m, 0, 2), 1);
	assert_false(m->sci.level);
	out(m, 2, 2, 1);
	assert_true(m->sci.level);
	out(m, 0, 2, 1);
	assert_false(m->sci.level);
	assert_int_equal(in(m, 0, 2), 0);
	go(m, 0xffffffff);
	assert_false(m->sci.level);
	go(m, 0x100000000ull);
	assert_true(m->sci.level);
	make(m, true, true);
	out(m, 2, 2, 1);
	for (unsigned i = 1; i < 20; i++) {
		go(m, i * 0x800000ull - 1);
		assert_false(m->sci.level);
		go(m, i * 0x800000ull);
		assert_true(m->sci.level);
		out(m, 0, 2, 1);
	}
}

static void test_button(void **state) {
	struct machine *m = *state;
	assert_false(acpi_pm_power_button(&m->pm));
	assert_int_equal(in(m, 0, 2), 0x100);
	assert_false(m->sci.level);
	out(m, 2, 2, 0xffff);
	assert_int_equal(in(m, 2, 2), 0x0721);
	assert_true(m->sci.level);
	out(m, 0, 1, 0xff); /* the other byte */
	assert_true(m->sci.level);
	out(m, 0, 2, 0x100);
	assert_false(m->sci.level);
	assert_true(acpi_pm_power_button(&m->pm));
	assert_true(m->sci.level);
	out(m, 0, 4, 0x01000100); /* both registers at once */
	assert_int_equal(in(m, 0, 4), 0x01000000);
}

static void test_enable(void **state) {
	struct machine *m = *state;
	make(m, false, false);
	out(m, 2, 2, 0x100);
	acpi_pm_power_button(&m->pm);
	out(m, 4, 2, 1); /* not the guest's bit */
	assert_int_equal(in(m, 4, 2), 0);
	assert_false(m->sci.level);
	acpi_pm_smi_ops.write(&m->pm, 0, 1, ACPI_PM_SMI_ENABLE);
	assert_int_equal(in(m, 4, 2), 1);
	assert_true(m->sci.level);
	acpi_pm_smi_ops.write(&m->pm, 1, 1, 0x77);
	assert_int_equal(acpi_pm_smi_ops.read(&m->pm, 0, 1), ACPI_PM_SMI_ENABLE);
	assert_int_equal(acpi_pm_smi_ops.read(&m->pm, 1, 1), 0x77);
	acpi_pm_smi_ops.write(&m->pm, 0, 1, ACPI_PM_SMI_DISABLE);
	assert_false(m->sci.level);
	make(m, true, false);
	acpi_pm_smi_ops.write(&m->pm, 0, 1, ACPI_PM_SMI_DISABLE);
	assert_int_equal(in(m, 4, 2), 1);
}

static void test_sleep(void **state) {
	struct machine *m = *state;
	out(m, 4, 2, S5 << 10 | 1); /* the type alone does nothing */
	assert_int_equal(m->offs, 0);
	assert_int_equal(in(m, 4, 2), S5 << 10 | 1);
	out(m, 4, 2, 1 << 10 | 0x2000); /* another state: no */
	assert_int_equal(m->offs, 0);
	out(m, 4, 2, S5 << 10 | 0x2001);
	assert_int_equal(m->offs, 1);
	assert_int_equal(in(m, 4, 2), S5 << 10 | 1); /* SLP_EN reads 0 */
	out(m, 4, 4, S5 << 10 | 0x2001);
	assert_int_equal(m->offs, 2);
	out(m, 5, 1, S5 << 2 | 0x20);
	assert_int_equal(m->offs, 3);
}

static void test_gpe(void **state) {
	struct machine *m = *state;
	acpi_pm_set_gpe(&m->pm, 1, true);
	acpi_pm_set_gpe(&m->pm, 64, true);
	assert_int_equal(in(m, 0x20, 1), 2);
	assert_false(m->sci.level);
	out(m, 0x28, 1, 2);
	assert_true(m->sci.level);
	out(m, 0x20, 1, 2); /* the line is still up */
	assert_true(m->sci.level);
	acpi_pm_set_gpe(&m->pm, 1, false);
	assert_true(m->sci.level);
	out(m, 0x20, 1, 2);
	assert_false(m->sci.level);
	acpi_pm_set_gpe(&m->pm, 63, true);
	acpi_pm_set_gpe(&m->pm, 63, false);
	assert_int_equal(in(m, 0x27, 1), 0x80);
	out(m, 0x2c, 4, 0x80000000);
	assert_true(m->sci.level);
	assert_int_equal(in(m, 0x2c, 4), 0x80000000);
	out(m, 0x24, 4, 0x80000000);
	assert_false(m->sci.level);
	for (unsigned off = 0; off < ACPI_PM_SIZE; off++) /* the rest is quiet */
		if (off >= 0x0c && off != 0x2f && off != 0x28) {
			assert_int_equal(in(m, off, 1), 0);
			out(m, off & ~0x20u, 1, 0);
		}
}

static void test_reset_register(void **state) {
	struct machine *m = *state;
	acpi_pm_reset_ops.write(&m->pm, 0, 1, 0x02);
	assert_int_equal(m->resets, 0);
	assert_int_equal(acpi_pm_reset_ops.read(&m->pm, 0, 1), 0x02);
	acpi_pm_reset_ops.write(&m->pm, 0, 1, 0x06);
	assert_int_equal(m->resets, 1);
	acpi_pm_reset_ops.write(&m->pm, 0, 1, 0x06); /* no new edge */
	assert_int_equal(m->resets, 1);
	acpi_pm_device_ops.reset(&m->pm);
	assert_int_equal(acpi_pm_reset_ops.read(&m->pm, 0, 1), 0);
	acpi_pm_reset_ops.write(&m->pm, 0, 1, 0x0e);
	assert_int_equal(m->resets, 2);
	acpi_pm_reset_ops.write(&m->pm, 0, 1, 0xf1);
	assert_int_equal(acpi_pm_reset_ops.read(&m->pm, 0, 1), 0);
}

static void poke(void *to) {
	struct machine *m = (struct machine *)((char *)to - offsetof(struct machine, pm));
	in(m, 0, 4);
	in(m, 8, 4);
	acpi_pm_power_button(&m->pm);
	out(m, 2, 2, 0x101);
	fake_clock_set(&m->clock, m->clock.now_ns + 1000);
	out(m, 0, 2, 0xffff);
}

static void test_state(void **state) {
	struct machine *m = *state;
	static struct machine other;
	make(&other, true, false);
	out(m, 2, 2, 0x101);
	out(m, 0x28, 1, 4);
	acpi_pm_power_button(&m->pm);
	acpi_pm_set_gpe(&m->pm, 2, true);
	go(m, 0x70000000);
	other.clock.now_ns = m->clock.now_ns;
	assert_int_equal(copy_device(&acpi_pm_device_ops, &m->pm, &other.pm), 0);
	assert_true(other.sci.level);
	out(&other, 0, 2, 0x100);
	acpi_pm_set_gpe(&other.pm, 2, false);
	out(&other, 0x20, 1, 4);
	assert_false(other.sci.level);
	go(&other, 0x80000000);
	assert_true(other.sci.level);
	hurt_device(&acpi_pm_device_ops, &m->pm, &other.pm, poke);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overflow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_button, setup, teardown),
		cmocka_unit_test_setup_teardown(test_enable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sleep, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gpe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_register, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("acpi_pm", tests, NULL, NULL);
}
