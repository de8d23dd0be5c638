#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/le.h"
#include "core/vm/state.h"

struct thing {
	uint8_t a;
	uint16_t b;
	uint32_t c, index;
	uint64_t d;
	bool e;
	uint8_t raw[5];
};

static void walk(struct state_io *io, void *self) {
	struct thing *t = self;
	state_u8(io, "a", &t->a);
	state_u16(io, "b", &t->b);
	state_u32(io, "c", &t->c);
	state_u64(io, "d", &t->d);
	state_bool(io, "e", &t->e);
	state_bytes(io, "raw", t->raw, sizeof(t->raw));
	state_u32_below(io, "index", &t->index, 4);
}

static void walk_renamed(struct state_io *io, void *self) {
	struct thing *t = self;
	state_u8(io, "other", &t->a);
}

static void walk_wrong_kind(struct state_io *io, void *self) {
	struct thing *t = self;
	state_bool(io, "a", &t->e);
}

static void walk_wrong_size(struct state_io *io, void *self) {
	struct thing *t = self;
	state_u16(io, "a", &t->b);
}

static void walk_short(struct state_io *io, void *self) {
	struct thing *t = self;
	state_u8(io, "a", &t->a);
}

static const struct thing sample = {1, 0x2233, 0x44556677, 3, 0x8899aabbccddeeffull, true, "abcd"};
static uint8_t buf[512];
static size_t len;

static int save(void **state) {
	struct thing t = sample;
	struct state_io io;
	state_io_save(&io, NULL, 0);
	state_section(&io, "thing", 7, 2, walk, &t);
	len = io.pos;
	memset(buf, 0xee, sizeof(buf));
	state_io_save(&io, buf, sizeof(buf));
	state_section(&io, "thing", 7, 2, walk, &t);
	return io.error || io.pos != len || buf[len] != 0xee;
}

static int load(struct thing *t, struct state_io *io, size_t n, const char *name, unsigned inst,
				unsigned version, void (*with)(struct state_io *, void *)) {
	uint8_t *exact = malloc(n ? n : 1); /* so that sanitizers see any read past the end */
	memcpy(exact, buf, n);
	state_io_load(io, exact, n);
	state_section(io, name, inst, version, with, t);
	free(exact);
	return io->error;
}

static void round_trip(void **state) {
	struct thing t = {0};
	struct state_io io;
	assert_int_equal(load(&t, &io, len, "thing", 7, 3, walk), 0);
	assert_int_equal(io.version, 2);
	assert_int_equal(io.pos, len);
	assert_int_equal(t.a, sample.a);
	assert_int_equal(t.b, sample.b);
	assert_int_equal(t.c, sample.c);
	assert_true(t.d == sample.d && t.e);
	assert_memory_equal(t.raw, sample.raw, 5);
	assert_int_equal(t.index, 3);
}

static void mismatches_are_refused(void **state) {
	struct thing t = {0};
	struct state_io io;
	assert_true(load(&t, &io, len, "thing", 7, 2, walk_renamed) < 0);
	assert_non_null(strstr(io.err.text, "thing.other"));
	assert_true(load(&t, &io, len, "thing", 7, 2, walk_wrong_kind) < 0);
	assert_true(load(&t, &io, len, "thing", 7, 2, walk_wrong_size) < 0);
	assert_true(load(&t, &io, len, "thing", 7, 2, walk_short) < 0);
	assert_true(load(&t, &io, len, "thong", 7, 2, walk) < 0);
	assert_true(load(&t, &io, len, "thing", 6, 2, walk) < 0);
	assert_true(load(&t, &io, len, "thing", 7, 1, walk) < 0);
	assert_non_null(strstr(io.err.text, "newer"));
}

static void truncation_is_refused(void **state) {
	for (size_t n = 0; n < len; n++) {
		struct thing t = {0};
		struct state_io io;
		assert_true(load(&t, &io, n, "thing", 7, 2, walk) < 0);
		assert_true(io.pos <= n);
	}
}

static void damage_never_harms(void **state) {
	/* Every byte set to every edge value: refused or loaded, never out of bounds. */
	static const uint8_t values[] = {0, 1, 4, 0x7f, 0x80, 0xff};
	for (size_t at = 0; at < len; at++) {
		for (size_t k = 0; k < sizeof(values); k++) {
			uint8_t old = buf[at];
			struct thing t = {0};
			struct state_io io;
			buf[at] = values[k];
			load(&t, &io, len, "thing", 7, 2, walk);
			buf[at] = old;
			assert_true(t.index < 4);
			assert_true(io.pos <= len);
		}
	}
}

static void limits_are_kept(void **state) {
	struct thing t = {0};
	struct state_io io;
	le32_put(buf + len - 4, 4);
	assert_true(load(&t, &io, len, "thing", 7, 2, walk) < 0);
	assert_int_equal(t.index, 0);
}

static void errors_stick(void **state) {
	struct thing t = {0};
	struct state_io io;
	state_io_load(&io, buf, len);
	state_fail(&io, "no");
	state_fail(&io, "again");
	state_section(&io, "thing", 7, 2, walk, &t);
	assert_non_null(strstr(io.err.text, ": no"));
	assert_int_equal(io.pos, 0);
	assert_int_equal(t.a, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(round_trip, save),
		cmocka_unit_test_setup(mismatches_are_refused, save),
		cmocka_unit_test_setup(truncation_is_refused, save),
		cmocka_unit_test_setup(damage_never_harms, save),
		cmocka_unit_test_setup(limits_are_kept, save),
		cmocka_unit_test_setup(errors_stick, save),
	};
	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
