/* Who has a file open: nobody, we twice, a living child, a dead one. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/linux/holder.h"

static void test_holder(void **state) {
	char path[] = "/tmp/joist-holder-XXXXXX", byte;
	int ready[2], fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(pipe(ready), 0);
	assert_false(holder_lives(fd));
	int twice = dup(fd);
	assert_true(holder_lives(fd));
	close(twice);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_true(holder_lives(fd));
	/* From the signal on it does not count, also while it is a zombie. Stopped it cannot have
	 * come to its end when we look. */
	assert_int_equal(kill(child, SIGSTOP), 0);
	assert_int_equal(waitpid(child, NULL, WUNTRACED), child);
	assert_true(holder_lives(fd));
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_false(holder_lives(fd));
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_false(holder_lives(fd));
	unlink(path);
	close(fd);
	close(ready[0]);
	close(ready[1]);
}

int main(void) {
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_holder)};
	return cmocka_run_group_tests_name("host_holder", tests, NULL, NULL);
}
