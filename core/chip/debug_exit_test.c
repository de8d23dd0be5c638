#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/debug_exit.h"

static uint32_t last;
static char text[16];

static void done(void *opaque, uint32_t value) {
	last = value;
}

static size_t take(void *opaque, const uint8_t *buf, size_t len) {
	strncat(text, (const char *)buf, len);
	return len;
}

static void test_exit(void **state) {
	struct debug_exit d;
	const struct char_backend out = {take, NULL, NULL};
	debug_exit_init(&d, done, NULL, &out);
	debug_exit_ops.write(&d, 0, 4, 0x12345678);
	assert_int_equal(last, 0x12345678);
	debug_exit_ops.write(&d, 0, 1, 0xffffff31);
	assert_int_equal(last, 0x31);
	debug_exit_ops.write(&d, 0, 2, 0xffff3132);
	assert_int_equal(last, 0x3132);
	assert_int_equal(debug_exit_ops.read(&d, 0, 4), 0);
}

static void test_char(void **state) {
	struct debug_exit d;
	const struct char_backend out = {take, NULL, NULL}, nobody = {0};
	debug_exit_init(&d, done, NULL, &out);
	assert_int_equal(debug_char_ops.read(&d, 0, 1), 0xe9);
	debug_char_ops.write(&d, 0, 1, 'h');
	debug_char_ops.write(&d, 0, 1, 'i');
	assert_string_equal(text, "hi");
	debug_exit_init(&d, NULL, NULL, &nobody);
	debug_char_ops.write(&d, 0, 1, 'x');
	debug_exit_ops.write(&d, 0, 4, 1);
	assert_string_equal(text, "hi");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exit),
		cmocka_unit_test(test_char),
	};
	return cmocka_run_group_tests_name("debug_exit", tests, NULL, NULL);
}
