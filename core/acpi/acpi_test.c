/* Tests of the ACPI tables: checksums and links by our own walk, and everything
 * else by Intel's compiler, which disassembles each table and compiles it again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/acpi/acpi.h"
#include "core/base/le.h"

#define AT 0xe0000u
#define SIZE 0x20000u

static const struct acpi_config pc = {
	.cpus = 4,
	.lapic_base = 0xfee00000,
	.ioapic_base = 0xfec00000,
	.overrides = {{0, 2, 0}, {9, 9, ACPI_IRQ_LEVEL_HIGH}},
	.noverrides = 2,
	.sci = 9,
	.pm1_evt = 0x600,
	.pm1_cnt = 0x604,
	.pm_timer = 0x608,
	.gpe0 = 0x620,
	.gpe0_len = 4,
	.reset_port = 0xcf9,
	.reset_value = 6,
	.s5_type = 5,
	.pci = true,
	.ecam_base = 0xe0000000,
	.mem32 = {0xc0000000, 0x20000000},
	.mem64 = {0x4000000000, 0x1000000000},
	.intx_gsi = {16, 17, 18, 19},
	.intx_irq = {10, 11, 10, 11},
	.serial_port = {0x3f8, 0x2f8},
	.serial_irq = {4, 3},
	.i8042 = true,
	.pit = true,
	.rtc = true,
	.hpet_base = 0xfed00000,
	.hpet_id = 0x8086a201,
	.pvpanic_port = 0x505,
};

static const struct acpi_config micro = {
	.cpus = 64,
	.lapic_base = 0xfee00000,
	.ioapic_base = 0xfec00000,
	.overrides = {{0, 2, 0}},
	.noverrides = 1,
	.sci = 9,
	.pm1_evt = 0x600,
	.pm1_cnt = 0x604,
	.reset_port = 0xcf9,
	.reset_value = 6,
	.s5_type = 5,
	.serial_port = {0x3f8},
	.serial_irq = {4},
	.nvirtio = 3,
	.virtio = {{0xd0000000, 5}, {0xd0001000, 6}, {0xd0002000, 7}},
};

static uint8_t buf[SIZE];

static uint8_t sum(const uint8_t *p, size_t len) {
	uint8_t s = 0;
	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

static uint8_t *at(uint64_t gpa) {
	assert_in_range(gpa, AT, AT + SIZE - 36);
	return buf + (gpa - AT);
}

static uint8_t *table(uint64_t gpa) {
	uint8_t *t = at(gpa);
	uint32_t len = le32_get(t + 4);
	assert_in_range(len, 36, SIZE - (gpa - AT));
	assert_int_equal(sum(t, len), 0);
	return t;
}

/* Calls `each` on every table that a guest would find. */
static void walk(void (*each)(const uint8_t *t, void *arg), void *arg) {
	assert_memory_equal(buf, "RSD PTR ", 8);
	assert_int_equal(sum(buf, 20), 0);
	assert_int_equal(sum(buf, 36), 0);
	uint8_t *rsdt = table(le32_get(buf + 16)), *xsdt = table(le64_get(buf + 24));
	assert_memory_equal(rsdt, "RSDT", 4);
	assert_memory_equal(xsdt, "XSDT", 4);
	unsigned n = (le32_get(xsdt + 4) - 36) / 8;
	assert_int_equal(n, (le32_get(rsdt + 4) - 36) / 4);
	each(rsdt, arg);
	each(xsdt, arg);
	for (unsigned i = 0; i < n; i++) {
		uint64_t gpa = le64_get(xsdt + 36 + 8 * i);
		assert_int_equal(gpa, le32_get(rsdt + 36 + 4 * i));
		uint8_t *t = table(gpa);
		each(t, arg);
		if (!memcmp(t, "FACP", 4)) {
			assert_int_equal(le32_get(t + 4), 276);
			assert_int_equal(le32_get(t + 40), le64_get(t + 140));
			each(table(le32_get(t + 40)), arg);
			assert_int_equal(le32_get(t + 36) % 64, 0);
			assert_memory_equal(at(le32_get(t + 36)), "FACS", 4);
		}
	}
}

static void count(const uint8_t *t, void *arg) {
	(*(unsigned *)arg)++;
}

static void test_walk(void **state) {
	unsigned n = 0;
	int64_t len = acpi_build(&pc, buf, SIZE, AT, NULL);
	assert_true(len > 0 && len <= SIZE);
	walk(count, &n);
	assert_int_equal(n, 8);
	n = 0;
	assert_true(acpi_build(&micro, buf, SIZE, AT, NULL) > 0);
	walk(count, &n);
	assert_int_equal(n, 5);
}

/* Every size that is too small is refused and nothing is written past it. */
static void test_no_room(void **state) {
	int64_t len = acpi_build(&pc, buf, SIZE, AT, NULL);
	struct err e;
	for (int64_t size = 0; size < len; size += size < 300 ? 1 : 37) {
		uint8_t *b = malloc((size_t)size + 1);
		b[size] = 0xa5;
		assert_int_equal(acpi_build(&pc, b, (size_t)size, AT, &e), -ERR_NOSPC);
		assert_int_equal(b[size], 0xa5);
		free(b);
	}
}

struct dump {
	char dir[64];
	unsigned n;
};

static int shell(const char *dir, const char *fmt, const char *arg) {
	char cmd[400], full[512];
	snprintf(cmd, sizeof(cmd), fmt, arg, arg);
	snprintf(full, sizeof(full), "cd %s && %s", dir, cmd);
	return system(full);
}

static void compile(const uint8_t *t, void *arg) {
	struct dump *d = arg;
	char name[32], path[128];
	snprintf(name, sizeof(name), "%.4s%u", (const char *)t, d->n++);
	snprintf(path, sizeof(path), "%s/%s.dat", d->dir, name);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(t, 1, le32_get(t + 4), f), le32_get(t + 4));
	fclose(f);
	int r = shell(d->dir, "iasl -d %s.dat >%s.log 2>&1", name);
	/* Zero errors and zero warnings, and for tables of data the same bytes after the header. */
	r = r ? r : shell(d->dir, "iasl -p again %s.dsl >>%s.log 2>&1", name);
	r = r ? r
		  : shell(d->dir, "grep -q ' 0 Errors, 0 Warnings' %s.log || grep -q 'Maximum' %s.log",
				  name);
	if (!r && memcmp(t, "DSDT", 4))
		r = shell(d->dir, "test -f again.aml && cmp -i 36 %s.dat again.aml", name);
	if (r) {
		shell(d->dir, "cat %s.log; :", name);
		fail_msg("iasl does not like %s", name);
	}
}

static void test_iasl(void **state) {
	if (system("command -v iasl >/dev/null 2>&1")) {
		print_message("SKIP acpi/iasl: iasl is not installed (package acpica-tools)\n");
		skip();
	}
	struct dump d = {.dir = "/tmp/acpi_test.XXXXXX"};
	assert_non_null(mkdtemp(d.dir));
	assert_true(acpi_build(&pc, buf, SIZE, AT, NULL) > 0);
	walk(compile, &d);
	assert_true(acpi_build(&micro, buf, SIZE, AT, NULL) > 0);
	walk(compile, &d);
	shell("/tmp", "rm -rf %s", d.dir);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_walk),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_iasl),
	};
	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
