/* Definitions: what is written reads back as the same, and what is wrong is refused where it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ctl/def/def.h"

static char path[] = "/tmp/joist-def-XXXXXX";

static int read_text(struct def *d, const char *text, struct err *e) {
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	*d = (struct def){0};
	return def_read(d, path, e);
}

static void round_trip(void **state) {
	static const char *const appends[] = {
		"plain", "a: b # c", "\"quoted\" \\ back", "- dash",   "tab\there", "new\nline",
		"true",	 "",		 "\xc3\xa4 utf",	   "'single'", "8080:80",	"~"};
	struct err e;
	for (unsigned i = 0; i < sizeof(appends) / sizeof(appends[0]); i++) {
		struct def a = {0}, b = {0};
		assert_int_equal(def_add(&a, "append", appends[i], &e), 0);
		assert_int_equal(def_add(&a, "disk", "/a.img,ro", &e), 0);
		assert_int_equal(def_add(&a, "disk", "/b, c.img", &e), 0);
		assert_int_equal(def_add(&a, "no-reboot", "", &e), 0);
		assert_int_equal(def_save(&a, path, &e), 0);
		assert_int_equal(def_read(&b, path, &e), 0);
		assert_int_equal(a.n, b.n);
		for (unsigned k = 0; k < a.n; k++) {
			assert_ptr_equal(a.values[k].option, b.values[k].option);
			assert_string_equal(a.values[k].text, b.values[k].text);
		}
		def_free(&a);
		def_free(&b);
	}
}

static void merging(void **state) {
	struct err e;
	struct def d = {0};
	assert_int_equal(def_add(&d, "memory", "1G", &e), 0);
	assert_int_equal(def_add(&d, "memory", "2G", &e), 0); /* one value: the last counts */
	assert_int_equal(d.n, 1);
	assert_string_equal(def_text(&d, "memory"), "2G");
	assert_string_equal(def_text(&d, "cpus"), "1"); /* the preset */
	assert_false(def_has(&d, "cpus"));
	assert_int_not_equal(def_add(&d, "memory", "much", &e), 0);
	assert_string_equal(def_text(&d, "memory"), "2G");
	def_free(&d);
}

static void complaints(void **state) {
	static const struct {
		const char *text, *where;
	} bad[] = {
		{"x: 1\n", ":1:1: unknown key x"},
		{"\n\n  cpuz: 1\n", ":3:3: unknown key cpuz (did you mean cpus?)"},
		{"memory: [1G]\n", ":1:9: one value is wanted for memory"},
		{"disk: [[a]]\n", ":1:8: only plain values"},
		{"? {a: b}\n: c\n", ":1:3: a key is wanted here"},
		{"cpus: !!binary \"MQ==\"\n", NULL}, /* tags do not matter */
		{"append: \"a\\0b\"\n", ":1:9: a null byte"},
		{"cpus: '\n", ":"},
		{"%YAML 9.9\n---\ncpus: 1\n", ":"},
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct def d;
		struct err e = {{0}};
		int r = read_text(&d, bad[i].text, &e);
		if (bad[i].where) {
			assert_int_not_equal(r, 0);
			assert_memory_equal(e.text, path, strlen(path));
			assert_non_null(strstr(e.text, bad[i].where));
		}
		def_free(&d);
	}
}

static void bounded(void **state) {
	struct def d;
	struct err e;
	char *text = malloc(100000);
	strcpy(text, "disk:\n");
	for (unsigned i = 0; i < 1000; i++)
		strcat(text, "  - a.img\n");
	assert_int_not_equal(read_text(&d, text, &e), 0);
	assert_non_null(strstr(e.text, "more than"));
	def_free(&d);
	free(text);
}

/* Files are hostile, too. Seeded, so that a failure comes again; sanitizer builds see more. */
static void mutations(void **state) {
	static const char seed_text[] =
		"joist: 1\nname: web\nmemory: 2G\ndisk:\n  - a.img\n  - \"b,ro\"\n"
		"append: |\n  a\n  b\nno-reboot: true\n'cpus': &x 2\n";
	uint64_t r = 88172645463325252ull;
	for (unsigned i = 0; i < 3000; i++) {
		char text[2 * sizeof(seed_text)];
		struct def d;
		struct err e;
		strcpy(text, seed_text);
		for (unsigned k = 0; k < 1 + i % 6; k++) {
			r ^= r << 13, r ^= r >> 7, r ^= r << 17;
			size_t len = strlen(text), at = r % len, n = (r >> 32) % 12;
			if (r >> 60 < 8)
				text[at] = "\n:-[]{}&*!|>'\"%@`#,? \t\x80\xff\001"[(r >> 40) % 25];
			else if (len + n < sizeof(text) - 1 && at + n < len)
				memmove(text + at + n, text + at, len - at + 1);
			if (!text[0])
				text[0] = ' ';
		}
		if (read_text(&d, text, &e))
			assert_int_not_equal(e.text[0], 0);
		assert_true(d.n <= CLI_VALUES);
		def_free(&d);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip), cmocka_unit_test(merging),   cmocka_unit_test(complaints),
		cmocka_unit_test(bounded),	  cmocka_unit_test(mutations),
	};
	int fd = mkstemp(path);
	if (fd < 0)
		return 1;
	close(fd);
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return r;
}
