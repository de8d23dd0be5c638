/* What needs no VM: the seed's volume, names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ctl/image/image.h"
#include "ctl/image/iso.h"

static void iso_holds_its_files(void **state) {
	size_t len;
	struct iso_file files[] = {{"user-data", "#cloud-config\n", 14}, {"empty", "", 0}};
	uint8_t *iso = iso_make("cidata", files, 2, &len);
	assert_non_null(iso);
	assert_int_equal(len % 2048, 0);
	assert_memory_equal(iso + 16 * 2048 + 1, "CD001", 5);
	assert_memory_equal(iso + 16 * 2048 + 40, "cidata ", 7);
	assert_int_equal(iso[18 * 2048], 255);
	assert_non_null(memmem(iso, len, "#cloud-config\n", 14));
	assert_non_null(memmem(iso, len, "\0u\0s\0e\0r\0-\0d\0a\0t\0a", 18));
	free(iso);
}

static void names(void **state) {
	assert_true(image_valid_name("debian"));
	assert_true(image_valid_name("debian:12-x"));
	assert_false(image_valid_name(""));
	assert_false(image_valid_name(".hidden"));
	assert_false(image_valid_name("a/b"));
	assert_false(image_valid_name("Upper"));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(iso_holds_its_files),
		cmocka_unit_test(names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
