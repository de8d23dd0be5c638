/* The console on pipes: order and completeness through a slow reader, backpressure, input
 * to a device that takes little, the panic line. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/linux/console.h"

static pthread_mutex_t vm_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock(void *opaque) {
	pthread_mutex_lock(&vm_lock);
}

static void unlock(void *opaque) {
	pthread_mutex_unlock(&vm_lock);
}

static const struct vm_host vm = {.lock = lock, .unlock = unlock};

struct fixture {
	struct console c;
	int in[2], out[2]; /* pipes */
	uint8_t got[256];
	size_t ngot, writables, escapes, breaks;
};

/* Takes three bytes at a time and is then full until asked again. */
static size_t receive(void *dev, const uint8_t *buf, size_t len) {
	struct fixture *f = dev;
	size_t n = len < 3 ? len : 3;
	memcpy(f->got + f->ngot, buf, n);
	f->ngot += n;
	return n;
}

static void writable(void *dev) {
	((struct fixture *)dev)->writables++;
}

static void escaped(void *opaque) {
	__atomic_fetch_add(&((struct fixture *)opaque)->escapes, 1, __ATOMIC_RELEASE);
}

static void broken(void *opaque, int error) {
	__atomic_fetch_add(&((struct fixture *)opaque)->breaks, 1, __ATOMIC_RELEASE);
}

/* Until *n, which another thread changes under the VM's lock, has grown to `want`: it only takes
 * long on a host that is busy, so that the time bounds nothing but a failure. Nothing is asserted
 * with the lock held: after a failure it would stay so, and the console's threads hang. */
static bool becomes(const struct fixture *f, const size_t *n, size_t want) {
	struct char_backend b = console_backend((struct console *)&f->c);
	for (unsigned i = 0; i < 60000; i++) {
		lock(NULL);
		bool done = __atomic_load_n(n, __ATOMIC_ACQUIRE) >= want;
		b.readable(b.opaque); /* there is room again for input */
		unlock(NULL);
		if (done)
			return true;
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	return false;
}

static int setup(void **state) {
	struct fixture *f = calloc(1, sizeof(*f));
	assert_int_equal(pipe(f->in), 0);
	assert_int_equal(pipe(f->out), 0);
	f->c.vm = &vm;
	f->c.in = f->in[0];
	f->c.out = f->out[1];
	f->c.escape = true;
	f->c.escaped = escaped;
	f->c.broken = broken;
	f->c.opaque = f;
	assert_int_equal(console_create(&f->c, NULL), 0);
	assert_int_equal(console_start(&f->c, (struct char_device){receive, writable, f}, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state) {
	struct fixture *f = *state;
	console_destroy(&f->c);
	for (int i = 0; i < 2; i++) {
		if (f->in[i] >= 0)
			close(f->in[i]);
		if (f->out[i] >= 0)
			close(f->out[i]);
	}
	free(f);
	return 0;
}

static size_t put(struct fixture *f, const void *buf, size_t len) {
	struct char_backend b = console_backend(&f->c);
	lock(NULL);
	size_t n = b.write(b.opaque, buf, len);
	unlock(NULL);
	return n;
}

static void test_backpressure(void **state) {
	struct fixture *f = *state;
	static uint8_t chunk[1000];
	size_t total = 0;
	/* Nobody reads: the pipe fills, then the ring, then the guest waits. */
	for (int quiet = 0; quiet < 20;) {
		for (size_t i = 0; i < sizeof(chunk); i++)
			chunk[i] = (uint8_t)((total + i) % 251);
		size_t n = put(f, chunk, sizeof(chunk));
		total += n;
		quiet = n ? 0 : quiet + 1;
		if (!n)
			nanosleep(&(struct timespec){0, 5000000}, NULL);
		assert_true(total < 1 << 20);
	}
	assert_true(total >= CONSOLE_RING);
	static uint8_t buf[4096];
	for (size_t at = 0; at < total;) {
		ssize_t n = read(f->out[0], buf, sizeof(buf));
		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++, at++)
			assert_int_equal(buf[i], at % 251);
	}
	assert_true(console_drain(&f->c, 60000));
	assert_true(becomes(f, &f->writables, 1));
}

static void test_input(void **state) {
	struct fixture *f = *state;
	assert_int_equal(write(f->in[1], "hello, guest\x1dnot this", 21), 21);
	assert_true(becomes(f, &f->ngot, 12));
	pthread_join(f->c.in_thread, NULL); /* it ends after the escape key: no more comes */
	f->c.in = -1;
	assert_int_equal(f->ngot, 12);
	assert_memory_equal(f->got, "hello, guest", 12);
	assert_int_equal(f->escapes, 1);
}

static void test_reader_gone(void **state) {
	struct fixture *f = *state;
	close(f->out[0]);
	f->out[0] = -1;
	assert_int_equal(put(f, "x", 1), 1);
	assert_true(becomes(f, &f->breaks, 1));
	assert_int_equal(f->breaks, 1);
	/* From now on output goes nowhere, and never blocks. */
	for (int i = 0; i < 1000; i++)
		assert_int_equal(put(f, "0123456789012345678901234567890123456789", 40), 40);
}

static void test_panic(void **state) {
	struct fixture *f = *state;
	static const char no[] = "he said: Kernel panic - not syncing: no\n[    0.1] Kernel pan\n";
	put(f, no, sizeof(no) - 1);
	assert_null(console_panic(&f->c));
	static const char yes[] = "[    3.141592] Kernel panic - not syncing: No init found.\r\n[ more";
	for (size_t i = 0; i < sizeof(yes) - 1; i++)
		put(f, yes + i, 1);
	assert_string_equal(console_panic(&f->c), "No init found.");
	console_forget(&f->c);
	assert_null(console_panic(&f->c));
	static const char bare[] = "\nKernel panic - not syncing: again\n";
	put(f, bare, sizeof(bare) - 1);
	assert_string_equal(console_panic(&f->c), "again");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_backpressure, setup, teardown),
		cmocka_unit_test_setup_teardown(test_input, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reader_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_panic, setup, teardown),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("host_console", tests, NULL, NULL);
}
