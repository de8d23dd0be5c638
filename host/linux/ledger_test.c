/* Two VMs' places in one book: who is alone is not held, who is ahead waits for the other, and what
 * a dead process left there keeps nobody. */
#include <setjmp.h>
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
	assert_int_equal(ledger_disk_begin(a, da, 1 << 20, false), 0);
	pass(10);
	ledger_disk_end(a, da, 1 << 20);
	/* Held by the dead one, but not for long, and from then on not at all. */
	uint64_t wait;
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

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_death),
		cmocka_unit_test(test_net),
		cmocka_unit_test(test_none),
	};
	return cmocka_run_group_tests_name("host_ledger", tests, setup, teardown);
}
