/* What needs no VM: checksums against the standard's vectors, the seed's volume, names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ctl/image/image.h"
#include "ctl/image/iso.h"
#include "ctl/image/sha256.h"

static void sha256_vectors(void **state) { /* [FIPS 180-4] examples, and one of many blocks */
	char hex[65];
	static char million[1000000];
	sha256_hex("", 0, hex);
	assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha256_hex("abc", 3, hex);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
	assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	memset(million, 'a', sizeof(million));
	sha256_hex(million, sizeof(million), hex);
	assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

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
		cmocka_unit_test(sha256_vectors),
		cmocka_unit_test(iso_holds_its_files),
		cmocka_unit_test(names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
