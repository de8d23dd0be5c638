/* Two VMs' places in one book: who is alone is not held, who is ahead waits for the other, and what
 * a dead process left there keeps nobody. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fair.h"
#include "host/linux/ledger.h"

static char path[] = "/tmp/joist-ledger-XXXXXX";

static int setup(void **state) {
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	return 0;
}

static int teardown(void **state) {
	return unlink(path);
}

static void pass(long ms) {
	nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

static void test_disks(void **state) {
	struct ledger *a = ledger_open(path, 100, 100), *b = ledger_open(path, 100, 100);
	assert_non_null(a);
	assert_non_null(b);
	int da = ledger_add_disk(a, 7), db = ledger_add_disk(b, 7);
	assert_int_equal(ledger_add_disk(a, 7), da); /* two disks there are one user */
	assert_true(da >= 0 && db >= 0);
	/* Alone, as much as one likes. */
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(ledger_disk_begin(a, da, 1 << 20, false), 0);
	pass(10);
	/* The other comes: it never waits, and who has had 10 ms does. */
	assert_int_equal(ledger_disk_begin(b, db, 4096, false), 0);
	assert_true(ledger_disk_begin(a, da, 1 << 20, false) > 0);
	assert_int_equal(ledger_disk_begin(a, da, 1 << 20, true), 0); /* one that must */
	for (unsigned i = 0; i < 65; i++)
		ledger_disk_end(a, da, 1 << 20);
	ledger_disk_end(b, db, 4096);
	ledger_close(b);
	assert_int_equal(ledger_disk_begin(a, da, 1 << 20, false), 0);
	ledger_disk_end(a, da, 1 << 20);
	ledger_close(a);
}

static void test_death(void **state) {
	struct ledger *a = ledger_open(path, 100, 100);
	int da = ledger_add_disk(a, 7), status;
	pid_t pid = fork();
	if (pid == 0) { /* dies with a request in the disk */
		struct ledger *b = ledger_open(path, 100, 100);
		_exit(b && ledger_disk_begin(b, ledger_add_disk(b, 7), 4096, false) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	uint64_t wait;
	for (unsigned i = 0; ledger_disk_begin(a, da, 1 << 20, false) == 0; i++) {
		assert_true(i < 10);
		pass(10);
		ledger_disk_end(a, da, 1 << 20);
	}
	/* Held by the dead one, but not for long, and from then on not at all. */
	for (unsigned i = 0; (wait = ledger_disk_begin(a, da, 1 << 20, false)) != 0; i++) {
		assert_true(i < 10000);
		pass(1);
	}
	pass(10);
	ledger_disk_end(a, da, 1 << 20);
	assert_int_equal(ledger_disk_begin(a, da, 1 << 20, false), 0);
	ledger_close(a);
}

static void test_net(void **state) {
	struct ledger *a = ledger_open(path, 100, 100), *b = ledger_open(path, 100, 300);
	assert_int_equal(ledger_net_limit(a, LEDGER_OUT), 0);
	ledger_net_moved(a, LEDGER_OUT, 100 << 20);
	pass(60);
	assert_int_equal(ledger_net_limit(a, LEDGER_OUT), 0); /* alone */
	/* Again when this thread stood still for so long that they no longer count as active. */
	uint64_t la = 0, lb = 0;
	for (unsigned i = 0; i < 100 && (!la || !lb); i++) {
		ledger_net_moved(a, LEDGER_OUT, 100 << 20);
		ledger_net_moved(b, LEDGER_OUT, 100 << 20);
		pass(60);
		la = ledger_net_limit(a, LEDGER_OUT);
		lb = ledger_net_limit(b, LEDGER_OUT);
	}
	assert_true(la > 0 && lb > la);
	assert_int_equal(ledger_net_limit(a, LEDGER_IN), 0);
	ledger_close(b);
	assert_int_equal(ledger_net_limit(a, LEDGER_OUT), 0);
	ledger_close(a);
}

static void test_none(void **state) {
	assert_null(ledger_open("/nonexistent/book", 100, 100));
	assert_int_equal(ledger_add_disk(NULL, 7), -1);
	assert_int_equal(ledger_disk_begin(NULL, -1, 1, false), 0);
	ledger_disk_end(NULL, -1, 1);
	assert_int_equal(ledger_net_limit(NULL, LEDGER_IN), 0);
	ledger_close(NULL);
}

static bool rung(int bell) {
	char text[1024];
	bool any = false;
	while (read(bell, text, sizeof(text)) > 0)
		any = true;
	return any;
}

static void test_cpus(void **state) {
	struct ledger *a = ledger_open(path, 100, 100);
	struct turn t;
	struct turns_own own = {0};
	struct timespec ts;
	assert_non_null(a);
	assert_false(ledger_cpu_met(a));
	int bell = ledger_bell(a);
	assert_true(bell >= 0);
	assert_false(rung(bell));
	/* Another one comes: the bell rings, and both want all. */
	struct ledger *b = ledger_open(path, 100, 100);
	assert_non_null(b);
	assert_true(rung(bell));
	assert_true(ledger_cpu_met(a) && ledger_cpu_met(b));
	ledger_cpu_post(a, 2 * TURNS_CPU);
	ledger_cpu_post(b, 2 * TURNS_CPU);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	uint64_t now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	ledger_cpu_look(a, 2, now, 0, &own, &t);
	assert_false(t.free);
	unsigned first = t.first;
	assert_int_equal(t.count, 1);
	ledger_cpu_look(b, 2, now, 0, &own, &t);
	assert_false(t.free);
	assert_int_equal(t.first, 1 - first);
	assert_int_equal(t.count, 1);
	ledger_set_cpu_weight(b, 1000000); /* at once */
	ledger_cpu_look(b, 2, now, 0, &own, &t);
	assert_true(t.free || t.count == 2);
	ledger_ring(b);
	assert_true(rung(bell));
	ledger_close(b);
	assert_false(ledger_cpu_met(a));
	ledger_cpu_look(a, 2, now, 0, &own, &t);
	assert_true(t.free);
	close(bell);
	ledger_close(a);
	assert_false(ledger_cpu_met(NULL));
	assert_int_equal(ledger_bell(NULL), -1);
}

/* A process that is killed leaves its wish in the book; who is held by that looks, and is free. */
static void test_dead_wants_nothing(void **state) {
	struct ledger *a = ledger_open(path, 100, 100);
	int ready[2];
	char byte;
	struct turn t;
	struct turns_own own = {0};
	struct timespec ts;
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct ledger *c = ledger_open(path, 100, 100);
		ledger_cpu_post(c, 64 * TURNS_CPU);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	ledger_cpu_post(a, 64 * TURNS_CPU);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	uint64_t now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	ledger_cpu_look(a, 2, now, 0, &own, &t); /* finds it out */
	ledger_cpu_look(a, 2, now, 0, &own, &t);
	assert_true(t.free);
	assert_false(ledger_cpu_met(a));
	close(ready[0]);
	close(ready[1]);
	ledger_close(a);
}

/* Who died with the book's lock, or left a number there that is nobody's, stops nobody. */
static void test_dead_has_the_lock(void **state) {
	struct ledger *a = ledger_open(path, 100, 100), *b = ledger_open(path, 100, 100);
	int fd = open(path, O_RDWR);
	/* Nobody's places, none at all, the own one from somebody before; b's, who stands still. */
	const uint32_t owners[] = {60, 64, 65, UINT32_MAX, 1, 2};
	for (unsigned i = 0; i < sizeof(owners) / sizeof(owners[0]); i++) {
		uint32_t lock = owners[i];
		assert_int_equal(pwrite(fd, &lock, 4, 0), 4);
		ledger_set_cpu_weight(a, 100);
		assert_int_equal(pread(fd, &lock, 4, 0), 4);
		assert_int_equal(lock, 0);
	}
	close(fd);
	ledger_close(a);
	ledger_close(b);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_death),
		cmocka_unit_test(test_net),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_cpus),
		cmocka_unit_test(test_dead_wants_nothing),
		cmocka_unit_test(test_dead_has_the_lock),
	};
	return cmocka_run_group_tests_name("host_ledger", tests, setup, teardown);
}
