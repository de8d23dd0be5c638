/* A channel's socket: one client at a time, both directions, comings and goings. */
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
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/channel.h"
#include "host/linux/unix.h"

static char dir[] = "/tmp/joist-channel-XXXXXX";
static char path[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct loop loop;

/* The device: takes up to `room` bytes. All under `lock`. */
static char input[256];
static size_t len, room = sizeof(input) - 1;
static unsigned opens, closes, writables;
static bool is_open;

static void vm_lock(void *opaque) {
	pthread_mutex_lock(&lock);
}

static void vm_unlock(void *opaque) {
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static const struct vm_host vm = {.lock = vm_lock, .unlock = vm_unlock};

static size_t receive(void *dev, const uint8_t *buf, size_t n) {
	n = MIN(n, room);
	memcpy(input + len, buf, n);
	len += n;
	room -= n;
	return n;
}

static void writable(void *dev) {
	writables++;
}

static void set_open(void *opaque, unsigned index, bool open) {
	assert_int_equal(index, 3);
	is_open = open;
	(*(open ? &opens : &closes))++;
}

static void *loop_main(void *opaque) {
	loop_run(&loop);
	return NULL;
}

/* Waits, under the lock, for what the loop's thread will do. */
#define wait_until(cond)                                                                           \
	do {                                                                                           \
		vm_lock(NULL);                                                                             \
		while (!(cond))                                                                            \
			pthread_cond_wait(&changed, &lock);                                                    \
		pthread_mutex_unlock(&lock);                                                               \
	} while (0)

static int client(void) {
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(unix_address(&a, path, "test", NULL), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void test_channel(void **state) {
	struct host_channel *c;
	struct err e = {{0}};
	pthread_t thread;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/agent", dir);
	assert_int_equal(loop_create(&loop, &e), 0);
	assert_int_equal(host_channel_create(&c, &loop, path, &vm, &e), 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	struct host_channel *other;
	assert_int_equal(host_channel_create(&other, &loop, path, &vm, &e), -ERR_BUSY);
	struct char_device dev = {receive, writable, NULL};
	assert_int_equal(host_channel_start(c, dev, set_open, NULL, 3, &e), 0);
	pthread_create(&thread, NULL, loop_main, NULL);
	struct char_backend be = host_channel_backend(c);

	/* Nobody there: output is dropped. */
	vm_lock(NULL);
	assert_int_equal(be.write(be.opaque, (const uint8_t *)"lost", 4), 4);
	vm_unlock(NULL);

	int a = client();
	assert_int_equal(write(a, "1", 1), 1);
	wait_until(len == 1); /* the look whether somebody listens was a client, too */
	vm_lock(NULL);
	len = opens = closes = 0;
	room = 3;
	vm_unlock(NULL);
	assert_int_equal(write(a, "hello", 5), 5);
	wait_until(len == 3);
	vm_lock(NULL);
	room = 100;
	be.readable(be.opaque);
	assert_string_equal(input, "hello");
	assert_int_equal(be.write(be.opaque, (const uint8_t *)"answer", 6), 6);
	vm_unlock(NULL);
	char buf[64] = "";
	assert_int_equal(read(a, buf, sizeof(buf)), 6);
	assert_string_equal(buf, "answer");

	/* A client that does not read fills its socket; then the guest waits. */
	static uint8_t much[65536];
	size_t n, sum = 0;
	vm_lock(NULL);
	while ((n = be.write(be.opaque, much, sizeof(much))) == sizeof(much))
		sum += n;
	sum += n;
	writables = 0;
	vm_unlock(NULL);
	while (sum) {
		ssize_t got = read(a, much, MIN(sizeof(much), sum));
		assert_true(got > 0);
		sum -= (size_t)got;
	}
	wait_until(writables > 0);

	/* A second client is served when the first has gone. */
	int b = client();
	assert_int_equal(write(b, " again", 6), 6);
	vm_lock(NULL);
	assert_int_equal(opens, 0);
	assert_int_equal(len, 5);
	vm_unlock(NULL);
	close(a);
	wait_until(len == 11);
	vm_lock(NULL);
	assert_int_equal(opens, 1);
	assert_int_equal(closes, 1);
	assert_string_equal(input, "hello again");
	vm_unlock(NULL);
	close(b);
	wait_until(!is_open);

	loop_quit(&loop);
	pthread_join(thread, NULL);
	host_channel_destroy(c);
	assert_int_equal(access(path, F_OK), -1);
	loop_destroy(&loop);
}

static void test_listen(void **state) {
	struct err e = {{0}};
	char long_path[200];
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = 0;
	assert_int_equal(unix_listen(long_path, "x", &e), -ERR_INVAL);
	assert_int_equal(unix_listen(dir, "x", &e), -ERR_EXIST);
	/* What a process that was killed left behind. */
	int fd = unix_listen(path, "x", &e);
	assert_true(fd >= 0);
	close(fd);
	fd = unix_listen(path, "x", &e);
	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	rmdir(dir);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_channel),
		cmocka_unit_test(test_listen),
	};
	return cmocka_run_group_tests_name("host_channel", tests, NULL, NULL);
}
