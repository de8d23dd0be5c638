/* A whole board saved and loaded, and every way in which a stream can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/board/board.h"
#include "lifecycle/save.h"
#include "test/unit/fake.h"

#define RAM MIB(8)
#define ALLOCS 512
#define STREAM MIB(4)

static struct cpuid_policy policy;

struct machine {
	struct fake_clock clock;
	struct vm_host host;
	struct vm vm;
	struct board *board;
	uint8_t *ram;
	void *allocs[ALLOCS];
	unsigned nallocs;
	uint64_t set_to; /* what set_clock was told */
};

struct stream {
	uint8_t *buf;
	size_t len, pos, limit;
};

static void nothing(void *opaque) {
}

static void *alloc(void *opaque, size_t size) {
	struct machine *m = opaque;
	assert_true(m->nallocs < ALLOCS);
	return m->allocs[m->nallocs++] = calloc(1, size);
}

static struct machine *make(const char *board, unsigned cpus) {
	static const uint8_t hlt[] = {0xf4};
	struct machine *m = calloc(1, sizeof(*m));
	struct err e;
	fake_clock_init(&m->clock);
	m->host = (struct vm_host){.lock = nothing, .unlock = nothing, .alloc = alloc, .opaque = m};
	vm_init(&m->vm, &m->host, &m->clock.clock);
	m->ram = aligned_alloc(4096, RAM);
	memset(m->ram, 0, RAM);
	const struct board_config c = {
		.board = board,
		.memory = RAM,
		.cpus = cpus,
		.cpuid = &policy,
		.kernel = {.data = hlt, .len = sizeof(hlt), .name = "hlt"},
		.force = BOOT_FLAT_LONG64,
	};
	if (board_create(&m->vm, m->ram, &c, &m->board, &e))
		fail_msg("%s", e.text);
	vm_reset(&m->vm);
	return m;
}

static void destroy(struct machine *m) {
	for (unsigned i = 0; i < m->nallocs; i++)
		free(m->allocs[i]);
	free(m->ram);
	free(m);
}

static bool to_buffer(void *opaque, const void *buf, size_t len) {
	struct stream *s = opaque;
	if (len > s->limit - s->len)
		return false;
	memcpy(s->buf + s->len, buf, len);
	s->len += len;
	return true;
}

static bool from_buffer(void *opaque, void *buf, size_t len) {
	struct stream *s = opaque;
	if (len > s->len - s->pos)
		return false;
	memcpy(buf, s->buf + s->pos, len);
	s->pos += len;
	return true;
}

static void set_clock(void *opaque, uint64_t tsc) {
	((struct machine *)opaque)->set_to = tsc;
}

static int load(struct machine *m, struct stream *s, struct err *e) {
	const struct save_stream in = {.read = from_buffer, .opaque = s};
	s->pos = 0;
	return lifecycle_load(&m->vm, NULL, &in, set_clock, m, e);
}

static void save(struct machine *m, struct stream *s) {
	const struct save_stream out = {.write = to_buffer, .opaque = s};
	struct err e = {{0}};
	s->len = 0;
	if (lifecycle_save(&m->vm, NULL, &out, &e))
		fail_msg("%s", e.text);
}

/* A machine with something in all of its parts. */
static struct machine *busy(const char *board) {
	struct machine *m = make(board, 2);
	struct err e;
	assert_int_equal(board_load(m->board, &e), 0);
	for (unsigned i = 0; i < 3000; i++)
		m->ram[MIB(2) + i * 777] = (uint8_t)i;
	m->ram[RAM - 1] = 0xa5;
	m->vm.vcpus[0]->state.gpr[R9] = 0x1122334455667788;
	m->vm.vcpus[0]->state.event = (struct x86_event){X86_EVENT_EXCEPTION, 14, true, 6};
	fake_clock_set(&m->clock, 123456789);
	return m;
}

static int setup(void **state) {
	struct err e;
	struct stream *s = calloc(1, sizeof(*s));
	s->buf = malloc(STREAM);
	s->limit = STREAM;
	*state = s;
	return cpuid_init(&policy, "host", 2, 1000000, &e);
}

static int teardown(void **state) {
	struct stream *s = *state;
	free(s->buf);
	free(s);
	return 0;
}

static void everything_comes_back(void **state) {
	struct stream *s = *state, again = {.buf = malloc(STREAM), .limit = STREAM};
	for (unsigned n = 0; board_names[n]; n++) {
		struct machine *a = busy(board_names[n]), *b = make(board_names[n], 2);
		struct err e = {{0}};
		save(a, s);
		assert_true(s->len < MIB(3)); /* zeros are left out */
		if (load(b, s, &e))
			fail_msg("%s", e.text);
		assert_int_equal(s->pos, s->len);
		assert_int_equal(b->set_to, 123456789);
		assert_memory_equal(a->ram, b->ram, RAM);
		assert_int_equal(b->vm.vcpus[0]->state.gpr[R9], 0x1122334455667788);
		assert_int_equal(b->vm.vcpus[0]->state.event.vector, 14);
		b->clock.now_ns = a->clock.now_ns;
		save(b, &again);
		assert_int_equal(again.len, s->len);
		assert_memory_equal(again.buf, s->buf, s->len);
		destroy(a);
		destroy(b);
	}
	free(again.buf);
}

static void refuse(struct stream *s, const char *board, unsigned cpus, const char *why) {
	struct machine *m = make(board, cpus);
	struct err e = {{0}};
	assert_true(load(m, s, &e) < 0);
	if (!strstr(e.text, why))
		fail_msg("\"%s\" does not say \"%s\"", e.text, why);
	destroy(m);
}

static void what_does_not_fit(void **state) {
	struct stream *s = *state;
	struct machine *a = busy("micro");
	save(a, s);
	destroy(a);
	refuse(s, "micro", 1, "saved with 2 vCPUs, not 1");
	refuse(s, "pc", 2, "does not fit");
	struct cpuid_policy was = policy;
	policy.leaves[3].out[1] ^= 1;
	refuse(s, "micro", 2, "another CPU");
	policy.nleaves--;
	refuse(s, "micro", 2, "another CPU");
	policy = was;
	struct save_info info;
	struct err e = {{0}};
	const struct save_stream in = {.read = from_buffer, .opaque = s};
	s->pos = 0;
	assert_int_equal(lifecycle_peek(&in, &info, &e), 0);
	assert_int_equal(info.cpus, 2);
	assert_int_equal(info.tsc_khz, 1000000);
	s->buf[8] = 9;
	refuse(s, "micro", 2, "format 9");
	s->buf[8] = 1;
	s->buf[16] ^= 1;
	refuse(s, "micro", 2, "kHz");
	s->buf[16] ^= 1;
	s->buf[0] = 'x';
	refuse(s, "micro", 2, "no saved VM");
}

static void cut_short(void **state) {
	struct stream *s = *state;
	struct machine *a = busy("pc");
	save(a, s);
	destroy(a);
	size_t whole = s->len;
	for (size_t n = 0; n < whole; n += 1 + n / 2) {
		s->len = n;
		refuse(s, "pc", 2, "saved VM");
	}
	s->len = whole;
	/* And a disk that is full while saving. */
	struct machine *b = busy("pc");
	const struct save_stream out = {.write = to_buffer, .opaque = s};
	struct err e = {{0}};
	s->len = 0;
	s->limit = 100000;
	assert_int_equal(lifecycle_save(&b->vm, NULL, &out, &e), -ERR_IO);
	s->limit = STREAM;
	destroy(b);
}

/* Any byte changed: refused, mostly by the checksum; with that one made right, refused or loaded,
 * but never worse. */
static void damaged(void **state) {
	struct stream *s = *state;
	struct machine *a = busy("pc");
	save(a, s);
	destroy(a);
	srand(1);
	for (unsigned i = 0; i < 60; i++) {
		size_t at = (size_t)rand() % (i % 2 ? s->len : 20000);
		uint8_t was = s->buf[at];
		s->buf[at] ^= (uint8_t)(1 + rand() % 255);
		refuse(s, "pc", 2, "");
		s->buf[at] = was;
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(everything_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(what_does_not_fit, setup, teardown),
		cmocka_unit_test_setup_teardown(cut_short, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged, setup, teardown),
	};
	return cmocka_run_group_tests_name("save", tests, NULL, NULL);
}
