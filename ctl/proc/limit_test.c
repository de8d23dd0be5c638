/* What a limit writes into a control group, here a folder that looks like one; and what
 * texts say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ctl/proc/limit.h"

static void percents(void **state) {
	assert_int_equal(limit_read_percent("150%"), 150);
	assert_int_equal(limit_read_percent("1.5"), 150);
	assert_int_equal(limit_read_percent("2"), 200);
	assert_int_equal(limit_read_percent("0%"), 0);
	assert_int_equal(limit_read_percent("0"), 0);
	assert_int_equal(limit_read_percent("-5%"), 0);
	assert_int_equal(limit_read_percent("5%x"), 0);
	assert_int_equal(limit_read_percent("nan"), 0);
	assert_int_equal(limit_read_percent("1e99"), 0);
	assert_int_equal(limit_read_percent(""), 0);
}

static void touch(const char *dir, const char *name) {
	char path[300];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
}

static void remove_file(const char *dir, const char *name) {
	char path[300];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(unlink(path), 0);
}

static const char *content(const char *dir, const char *name) {
	static char text[100];
	char path[300];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	if (!fgets(text, sizeof(text), f))
		text[0] = 0;
	fclose(f);
	return text;
}

static void control_group(void **state) {
	char root[] = "/tmp/joist-limit-XXXXXX", group[100], command[200], pid[20];
	struct loop loop;
	struct limit l;
	struct err e;
	assert_int_equal(loop_create(&loop, &e), 0);
	assert_non_null(mkdtemp(root));
	touch(root, "cgroup.subtree_control");
	snprintf(group, sizeof(group), "%s/joist-abc", root);
	mkdir(group, 0755);
	static const char *const files[] = {"cpu.max", "cpu.weight", "memory.high", "cgroup.procs",
										"io.weight"};
	for (unsigned i = 0; i < 5; i++)
		touch(group, files[i]);
	limit_create(&l, &loop, "abc", "web", root);
	assert_string_equal(l.group.dir, group);
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	assert_string_equal(content(group, "cgroup.procs"), pid);
	assert_string_equal(limit_set_cpu(&l, 150), "cgroup");
	assert_string_equal(content(group, "cpu.max"), "150000 100000\n");
	assert_string_equal(limit_set_shares(&l, 400), "cgroup");
	assert_string_equal(content(group, "cpu.weight"), "400\n");
	assert_string_equal(limit_set_memory(&l, 1 << 30), "cgroup");
	assert_string_equal(content(group, "memory.high"), "1073741824\n");
	assert_string_equal(limit_set_disk_shares(&l, 300), "cgroup");
	assert_string_equal(content(group, "io.weight"), "default 300\n");
	/* With BFQ, whose weights end earlier; then without any of them. */
	touch(group, "io.bfq.weight");
	assert_string_equal(limit_set_disk_shares(&l, 2000), "cgroup");
	assert_string_equal(content(group, "io.bfq.weight"), "default 1000\n");
	remove_file(group, "io.weight");
	remove_file(group, "io.bfq.weight");
	assert_string_equal(limit_set_disk_shares(&l, 300), "none");
	/* Each was asked for by itself; in a plain file the last ones lie over the first. */
	assert_string_equal(content(root, "cgroup.subtree_control"), "+iomory");
	limit_destroy(&l);
	snprintf(command, sizeof(command), "rm -r %s", root);
	assert_int_equal(system(command), 0);
	loop_destroy(&loop);
}

/* systemd says yes to a weight whose controller its manager does not have. */
static void delegated(void **state) {
	char root[] = "/tmp/joist-limit-XXXXXX", dir[200], command[200];
	assert_non_null(mkdtemp(root));
	snprintf(dir, sizeof(dir), "%s/user@1000.service", root);
	mkdir(dir, 0755);
	assert_false(group_delegated(strcat(dir, "/app.slice/joist-a.scope/joist-a"), "io.weight"));
	snprintf(command, sizeof(command),
			 "echo cpu cpuset iox memory pids >%s/user@1000.service/cgroup.controllers", root);
	assert_int_equal(system(command), 0);
	assert_true(group_delegated(dir, "cpu.weight"));
	assert_false(group_delegated(dir, "io.weight"));
	snprintf(command, sizeof(command),
			 "echo cpu memory io >%s/user@1000.service/cgroup.controllers", root);
	assert_int_equal(system(command), 0);
	assert_true(group_delegated(dir, "io.weight") && group_delegated(dir, "io.bfq.weight"));
	assert_true(group_delegated("/sys/fs/cgroup/system.slice/joist-a.scope", "io.weight"));
	snprintf(command, sizeof(command), "rm -r %s", root);
	assert_int_equal(system(command), 0);
}

static void without_groups(void **state) {
	struct loop loop;
	struct limit l;
	struct err e;
	assert_int_equal(loop_create(&loop, &e), 0);
	limit_create(&l, &loop, "abc", "web", "/nonexistent");
	assert_string_equal(l.group.dir, "");
	assert_string_equal(limit_set_memory(&l, 1), "none");
	assert_string_equal(limit_set_disk_shares(&l, 300), "none");
	limit_destroy(&l);
	loop_destroy(&loop);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(percents),
		cmocka_unit_test(control_group),
		cmocka_unit_test(delegated),
		cmocka_unit_test(without_groups),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
