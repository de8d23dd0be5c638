/* vsock's sockets against a device that is played here: greetings, both directions, ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/unix.h"
#include "host/linux/vsock.h"

static char dir[] = "/tmp/joist-vsock-XXXXXX";
static char path[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct loop loop;
static pthread_t thread;
static struct host_vsock *h;
static struct vsock_backend backend;

/* The device. All under `lock`. */
static char input[100000];
static size_t len, room;
static uint32_t asked;
static unsigned asks, finishes, closes, resets;
static size_t consumed_bytes;

static void vm_lock(void *opaque) {
	pthread_mutex_lock(&lock);
}

static void vm_unlock(void *opaque) {
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static const struct vm_host vm = {.lock = vm_lock, .unlock = vm_unlock};

static int dev_connect(void *dev, uint32_t port) {
	asked = port;
	asks++;
	return 5;
}

static uint32_t dev_host_port(void *dev, unsigned conn) {
	return 4711;
}

/* A client that writes while the guest reads: each time another piece, so many times. */
static int feeding = -1;
static unsigned pieces;
static const char piece[1000];

static size_t dev_receive(void *dev, unsigned conn, const uint8_t *buf, size_t n) {
	if (pieces) {
		pieces--;
		assert_int_equal(send(feeding, piece, sizeof(piece), MSG_NOSIGNAL), sizeof(piece));
	}
	n = MIN(n, room);
	memcpy(input + len, buf, n);
	len += n;
	room -= n;
	return n;
}

static void dev_consumed(void *dev, unsigned conn, size_t n) {
	consumed_bytes += n;
}

static void dev_finish(void *dev, unsigned conn) {
	finishes++;
}

static void dev_close(void *dev, unsigned conn, bool reset) {
	closes++;
	resets += reset;
}

static void *serve(void *arg) {
	loop_run(&loop);
	return NULL;
}

static int setup(void **state) {
	struct err e;
	struct vsock_device d = {dev_connect, dev_host_port, dev_receive, dev_consumed,
							 dev_finish,  dev_close,	 NULL};
	strcpy(dir, "/tmp/joist-vsock-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/v", dir);
	assert_int_equal(loop_create(&loop, &e), 0);
	assert_int_equal(host_vsock_create(&h, &loop, path, &vm, &e), 0);
	backend = host_vsock_backend(h);
	assert_int_equal(host_vsock_start(h, d, &e), 0);
	len = consumed_bytes = 0;
	room = sizeof(input);
	asks = finishes = closes = resets = 0;
	assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
	return 0;
}

static int teardown(void **state) {
	loop_quit(&loop);
	pthread_join(thread, NULL);
	host_vsock_destroy(h);
	assert_int_equal(access(path, F_OK), -1);
	rmdir(dir);
	loop_destroy(&loop);
	return 0;
}

#define UNTIL(condition)                                                                           \
	do {                                                                                           \
		pthread_mutex_lock(&lock);                                                                 \
		while (!(condition))                                                                       \
			pthread_cond_wait(&changed, &lock);                                                    \
		pthread_mutex_unlock(&lock);                                                               \
	} while (0)

/* As a vCPU's thread calls. */
#define GUEST(call)                                                                                \
	do {                                                                                           \
		vm_lock(NULL);                                                                             \
		call;                                                                                      \
		vm_unlock(NULL);                                                                           \
	} while (0)

static int dial(void) {
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(unix_address(&a, path, "test", NULL), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void put(int fd, const char *text) {
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* A line, or all until the end. */
static void expect(int fd, const char *text) {
	char buf[64] = "";
	for (size_t n = 0; n < strlen(text); n++)
		assert_int_equal(recv(fd, buf + n, 1, 0), 1);
	assert_string_equal(buf, text);
}

static void expect_end(int fd) {
	char c;
	assert_true(recv(fd, &c, 1, 0) <= 0);
	close(fd);
}

static void test_host_to_guest(void **state) {
	int fd = dial();
	put(fd, "CONN");
	put(fd, "ECT 1234\nearly");
	UNTIL(asks == 1);
	assert_int_equal(asked, 1234);
	assert_int_equal(len, 0);
	GUEST(backend.connected(backend.opaque, 5));
	expect(fd, "OK 4711\n");
	UNTIL(len == 5);
	assert_memory_equal(input, "early", 5);
	GUEST(backend.write(backend.opaque, 5, (const uint8_t *)"answer", 6));
	expect(fd, "answer");
	assert_int_equal(consumed_bytes, 6);
	/* Half of it ends; the other half goes on. */
	shutdown(fd, SHUT_WR);
	UNTIL(finishes == 1);
	GUEST(backend.write(backend.opaque, 5, (const uint8_t *)"late", 4));
	GUEST(backend.finish(backend.opaque, 5, true));
	expect(fd, "late");
	expect_end(fd);
	UNTIL(closes == 1);
	assert_int_equal(resets, 0);
}

static void test_bad_greetings(void **state) {
	static const char *const bad[] = {"connect 1\n",
									  "CONNECT\n",
									  "CONNECT 12x\n",
									  "CONNECT -1\n",
									  "CONNECT 4294967295\n",
									  "CONNECT 99999999999999999999999\n",
									  "CONNECT 0000000000000000000000000000000000000001"};
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		int fd = dial();
		put(fd, bad[i]);
		expect_end(fd);
	}
	assert_int_equal(asks, 0);
	/* The guest has nobody there. */
	int fd = dial();
	put(fd, "CONNECT 1\n");
	UNTIL(asks == 1);
	GUEST(backend.close(backend.opaque, 5));
	expect_end(fd);
	/* The client goes before the guest has answered. */
	fd = dial();
	put(fd, "CONNECT 2\n");
	UNTIL(asks == 2);
	close(fd);
	UNTIL(closes == 1);
	assert_int_equal(resets, 1);
}

static void test_guest_to_host(void **state) {
	char name[80];
	struct err e;
	snprintf(name, sizeof(name), "%s_80", path);
	int listener = unix_listen(name, "test", &e);
	assert_true(listener >= 0);
	bool there = true;
	GUEST(there = backend.connect(backend.opaque, 9, 81));
	assert_false(there);
	GUEST(there = backend.connect(backend.opaque, 9, 80));
	assert_true(there);
	int fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	/* More than the socket takes: the rest waits, and is passed on after the guest has gone. */
	static uint8_t data[VSOCK_WINDOW], got[VSOCK_WINDOW];
	size_t sent = 0;
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 13);
	for (bool full = false; !full;) {
		pthread_mutex_lock(&lock);
		size_t before = consumed_bytes;
		full = sent - before + sizeof(data) / 2 > sizeof(data);
		if (!full)
			backend.write(backend.opaque, 9, data, sizeof(data) / 2);
		pthread_mutex_unlock(&lock);
		sent += full ? 0 : sizeof(data) / 2;
	}
	GUEST(backend.close(backend.opaque, 9));
	size_t all = 0;
	ssize_t n;
	while ((n = recv(fd, got, sizeof(got), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(got[i], data[(all + (size_t)i) % (sizeof(data) / 2)]);
		all += (size_t)n;
	}
	assert_int_equal(all, sent);
	assert_int_equal(closes, 0);
	close(fd);
	close(listener);
	unlink(name);
}

/* A guest that does not read: bytes stay with the client, also when it has hung up. */
static void test_slow_guest(void **state) {
	room = 3;
	int fd = dial();
	put(fd, "CONNECT 7\n");
	UNTIL(asks == 1);
	GUEST(backend.connected(backend.opaque, 5));
	expect(fd, "OK 4711\n");
	put(fd, "0123456789");
	UNTIL(len == 3);
	close(fd);
	GUEST(room = 4; backend.readable(backend.opaque, 5));
	UNTIL(len == 7);
	assert_int_equal(closes, 0);
	GUEST(room = 100; backend.readable(backend.opaque, 5));
	UNTIL(closes == 1);
	assert_int_equal(len, 10);
	assert_memory_equal(input, "0123456789", 10);
	assert_int_equal(resets, 0);
}

/* A client that is always quicker: no bytes stay behind when the VM's lock is let go in between. */
static void test_quick_client(void **state) {
	room = sizeof(input);
	int fd = dial();
	put(fd, "CONNECT 7\n");
	UNTIL(asks == 1);
	GUEST(backend.connected(backend.opaque, 5));
	expect(fd, "OK 4711\n");
	GUEST(feeding = fd; pieces = 50);
	put(fd, "x");
	UNTIL(len == 1 + 50 * sizeof(piece));
	close(fd);
	UNTIL(closes == 1);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_host_to_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_greetings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guest_to_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slow_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_quick_client, setup, teardown),
	};
	return cmocka_run_group_tests_name("host_vsock", tests, NULL, NULL);
}
