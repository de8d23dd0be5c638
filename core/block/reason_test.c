/* Sentences about a file that gives errors: what could not be done, and why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/block/block.h"
#include "core/block/qcow2.h"

static int answer;

static void submit(void *self, struct block_request *r) {
	block_done(r, answer);
}

static int no_close(void *self) {
	return 0;
}

static void *alloc(void *opaque, size_t size) {
	return calloc(1, size);
}

static void release(void *opaque, void *p, size_t size) {
	free(p);
}

static void an_image_that_cannot_be_read(void **state) {
	static const struct block_ops ops = {.name = "fake", .submit = submit, .close = no_close};
	static const struct block_host host = {.alloc = alloc, .free = release};
	static const struct qcow2_open_options o = {.read_only = true};
	static const struct {
		int code;
		const char *why;
	} list[] = {{ERR_IO, "input/output error"}, {ERR_STALE, "mount that anew"}, {121, "errno 121"}};
	for (unsigned i = 0; i < 3; i++) {
		struct block file = {.ops = &ops, .size = 1 << 20, .growable = true}, image = {0};
		struct err e = {{0}};
		answer = -list[i].code;
		assert_int_equal(qcow2_open(&image, &file, &host, &o, &e), -list[i].code);
		assert_non_null(strstr(e.text, "the image cannot be read: "));
		assert_non_null(strstr(e.text, list[i].why));
		block_close(&image);
	}
}

static void all_fit_a_sentence(void **state) {
	for (int code = 1; code < 200; code++) {
		struct err e = {{0}};
		assert_int_equal(block_fail(&e, -code, "a bigger refcount table cannot be written"), -code);
		assert_in_range(strlen(e.text), 50, 150); /* a path goes in front */
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_image_that_cannot_be_read),
		cmocka_unit_test(all_fit_a_sentence),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
