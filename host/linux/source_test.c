/* Whatever way a file takes into the guest's RAM, its bytes arrive where they were asked for and
 * nowhere else. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/source.h"

#define RAM MIB(16)
#define LEN (MIB(7) + 4321)
#define OLD 0xa5

static char path[] = "/tmp/joist-source-XXXXXX";
static uint8_t *bytes;

static int make_file(void **state) {
	(void)state;
	uint32_t x = 1;
	bytes = malloc(LEN);
	int fd = mkstemp(path);
	if (!bytes || fd < 0)
		return -1;
	for (size_t i = 0; i < LEN; i++)
		bytes[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	ssize_t put = write(fd, bytes, LEN);
	close(fd);
	return put == (ssize_t)LEN ? 0 : -1;
}

static int remove_file(void **state) {
	(void)state;
	unlink(path);
	free(bytes);
	return 0;
}

static bool all(const uint8_t *at, const uint8_t *end, uint8_t value) {
	for (; at < end; at++)
		if (*at != value)
			return false;
	return true;
}

/* Places with no, one and several whole huge pages in them, aligned to nothing. */
static void test_places(void **state) {
	static const struct {
		uint64_t to, off, len;
	} at[] = {
		{0, 0, LEN},
		{MIB(2), 512, MIB(2)},
		{MIB(2) - 1, 3, MIB(2) + 1},
		{MIB(4) + 1, 1, MIB(2)},
		{MIB(1) + 77, 0, LEN},
		{4095, 5000, 2},
		{RAM - LEN, 0, LEN},
		{RAM - MIB(2), 99, MIB(2)},
		{MIB(6), LEN - 100, 100},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		for (int used = 0; used < 2; used++) { /* as after a reset */
			struct host_ram ram;
			struct host_source s;
			assert_int_equal(host_ram_create(&ram, RAM, NULL), 0);
			assert_int_equal(host_source_open(&s, path, "kernel", &ram, NULL), 0);
			if (used)
				memset(ram.base, OLD, RAM);
			uint8_t *to = ram.base + at[i].to;
			assert_true(host_source_read(&s, at[i].off, to, at[i].len));
			assert_memory_equal(to, bytes + at[i].off, at[i].len);
			assert_true(all(ram.base, to, used ? OLD : 0));
			assert_true(all(to + at[i].len, ram.base + RAM, used ? OLD : 0));
			host_source_close(&s);
			host_ram_destroy(&ram);
		}
	}
}

static void test_elsewhere(void **state) {
	struct host_ram ram;
	struct host_source s;
	uint8_t buf[100];
	(void)state;
	assert_int_equal(host_ram_create(&ram, RAM, NULL), 0);
	assert_int_equal(host_source_open(&s, path, "kernel", &ram, NULL), 0);
	assert_true(host_source_read(&s, 12345, buf, sizeof(buf)));
	assert_memory_equal(buf, bytes + 12345, sizeof(buf));
	/* What is not there is missed, also where most of it is. */
	assert_false(host_source_read(&s, LEN - 99, buf, sizeof(buf)));
	assert_false(host_source_read(&s, 1, ram.base, LEN));
	host_source_close(&s);
	host_ram_destroy(&ram);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_elsewhere),
	};
	return cmocka_run_group_tests_name("host/linux/source", tests, make_file, remove_file);
}
