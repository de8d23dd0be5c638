/* The console for many: what newcomers see, what the log keeps, what the last line is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ctl/proc/hub.h"

struct seen {
	size_t len;
	uint8_t last;
};

static void output(void *opaque, const uint8_t *data, size_t len) {
	struct seen *s = opaque;
	s->len += len;
	s->last = data[len - 1];
}

static uint8_t replay[HUB_RING];
static size_t replay_len;

static void part(void *opaque, const void *data, size_t len) {
	memcpy(replay + replay_len, data, len);
	replay_len += len;
}

static off_t size_of(const char *name) {
	struct stat st;
	return stat(name, &st) == 0 ? st.st_size : -1;
}

static void print(struct hub *h, const void *data, size_t len) {
	assert_int_equal(write(h->machine_end, data, len), len);
	hub_drain(h);
}

static void start(struct loop *l, struct hub *h, struct seen *s) {
	struct err e;
	assert_int_equal(loop_create(l, &e), 0);
	assert_int_equal(hub_create(h, l, output, s, &e), 0);
}

static void last_lines(void **state) {
	static struct hub h;
	struct loop l;
	struct seen s = {0};
	start(&l, &h, &s);
	assert_string_equal(hub_last_line(&h), "");
	static const char text[] = "first\r\n  \x1b[1;32mgreen\x1b[0m text\r\n\r\nunfinished";
	print(&h, text, sizeof(text) - 1);
	assert_string_equal(hub_last_line(&h), "green text");
	print(&h, "\n\x1b[2J\x1b[H\x07\x01", 10);
	assert_string_equal(hub_last_line(&h), "unfinished");
	hub_destroy(&h);
	loop_destroy(&l);
	unlink("serial.log");
}

static void ring_and_log(void **state) {
	static struct hub h;
	static uint8_t block[4096];
	struct loop l;
	struct seen s = {0};
	const uint64_t total = HUB_LOG_MAX + (1 << 20);
	start(&l, &h, &s);
	for (uint64_t n = 0; n < total; n += sizeof(block)) {
		memset(block, (int)(n / sizeof(block)), sizeof(block));
		print(&h, block, sizeof(block));
	}
	assert_int_equal(s.len, total);
	/* The newest bytes, in order. */
	replay_len = 0;
	hub_replay(&h, SIZE_MAX, part, NULL);
	assert_int_equal(replay_len, HUB_RING);
	for (size_t i = 0; i < HUB_RING; i++)
		assert_int_equal(replay[i], (uint8_t)((total - HUB_RING + i) / sizeof(block)));
	replay_len = 0;
	hub_replay(&h, 10, part, NULL);
	assert_int_equal(replay_len, 10);
	assert_int_equal(replay[9], s.last);
	/* The log turned over once and lost nothing. */
	assert_int_equal(size_of("serial.log.1"), HUB_LOG_MAX);
	assert_int_equal(size_of("serial.log") + size_of("serial.log.1"), total);
	hub_destroy(&h);
	/* The next start goes on behind it. */
	assert_int_equal(hub_create(&h, &l, output, &s, NULL), 0);
	print(&h, "x", 1);
	assert_int_equal(size_of("serial.log") + size_of("serial.log.1"), total + 1);
	hub_destroy(&h);
	loop_destroy(&l);
	unlink("serial.log");
	unlink("serial.log.1");
}

static void typing(void **state) {
	static struct hub h;
	struct loop l;
	struct seen s = {0};
	char buf[16] = "";
	start(&l, &h, &s);
	hub_type(&h, "keys", 4);
	assert_int_equal(read(h.machine_end, buf, sizeof(buf)), 4);
	assert_string_equal(buf, "keys");
	/* A guest that takes nothing blocks nobody. */
	static char much[1 << 20];
	for (unsigned i = 0; i < 8; i++)
		hub_type(&h, much, sizeof(much));
	hub_destroy(&h);
	loop_destroy(&l);
	unlink("serial.log");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(last_lines),
		cmocka_unit_test(ring_and_log),
		cmocka_unit_test(typing),
	};
	char folder[] = "/tmp/joist-hub-XXXXXX";
	if (!mkdtemp(folder) || chdir(folder) < 0)
		return 1;
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(folder);
	return r;
}
