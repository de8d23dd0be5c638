/* The examples of [RFC3720 B.4], and the one that every list of such sums has. */
#include "core/base/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static uint32_t sum(const void *p, size_t len) {
	return ~crc32c_add(CRC32C_START, p, len);
}

static void known(void **state) {
	uint8_t zero[32] = {0}, ones[32], up[32];
	for (unsigned i = 0; i < 32; i++) {
		ones[i] = 0xff;
		up[i] = (uint8_t)i;
	}
	assert_int_equal(sum(zero, 32), 0x8a9136aa);
	assert_int_equal(sum(ones, 32), 0x62a8ab43);
	assert_int_equal(sum(up, 32), 0x46dd794e);
	assert_int_equal(sum("123456789", 9), 0xe3069283);
}

static void in_pieces(void **state) {
	uint32_t crc = CRC32C_START;
	for (const char *p = "123456789"; *p; p++)
		crc = crc32c_add(crc, p, 1);
	assert_int_equal(~crc, 0xe3069283);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known),
		cmocka_unit_test(in_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
