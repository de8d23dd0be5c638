/* joist logs: what the guest printed on its console, or what the VM's process had to say. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/cli.h"
#include "ctl/store/store.h"

/* The offset where the last `lines` lines begin. */
static off_t tail_of(int fd, off_t size, uint64_t lines) {
	char buf[4096];
	off_t at = size;
	while (at > 0) {
		off_t from = at > (off_t)sizeof(buf) ? at - (off_t)sizeof(buf) : 0;
		ssize_t n = pread(fd, buf, (size_t)(at - from), from);
		if (n <= 0)
			break;
		for (ssize_t i = n; i-- > 0;)
			if (buf[i] == '\n' && from + i + 1 < size && lines-- == 0)
				return from + i + 1;
		at = from;
	}
	return 0;
}

static bool copy_from(int fd, off_t *at) {
	char buf[8192];
	ssize_t n;
	while ((n = pread(fd, buf, sizeof(buf), *at)) > 0) {
		if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
			return false;
		*at += n;
	}
	return fflush(stdout) == 0;
}

/* Goes on until the VM has ended and all is printed; also over a rotation of the file. */
static int follow(const struct store_vm *vm, const char *path, int fd, off_t at) {
	for (;;) {
		bool alive = store_is_locked(vm);
		struct stat now, ours;
		if (!copy_from(fd, &at))
			return CLI_FAILED;
		if (stat(path, &now) == 0 && fstat(fd, &ours) == 0 && now.st_ino != ours.st_ino) {
			int next = open(path, O_RDONLY | O_CLOEXEC);
			if (next >= 0) {
				copy_from(fd, &at);
				close(fd);
				fd = next;
				at = 0;
				continue;
			}
		}
		if (!alive)
			return CLI_OK;
		nanosleep(&(struct timespec){0, 100000000}, NULL);
	}
}

static int run(const struct cli_args *a) {
	struct store_vm vm;
	struct err e;
	char path[PATHS_MAX], old[PATHS_MAX + 4];
	struct stat st;
	int r = store_find(&vm, a->operands[0], &e);
	const char *name = cli_flag(a, "process") ? "vm.log" : "serial.log";
	if (r || (r = paths_join(path, sizeof(path), vm.dir, name, &e)) != 0)
		return cli_fail(r, &e);
	bool tail = cli_text(a, "tail") != NULL;
	snprintf(old, sizeof(old), "%s.1", path);
	int fd = tail ? -1 : open(old, O_RDONLY | O_CLOEXEC);
	off_t at = 0;
	if (fd >= 0) {
		copy_from(fd, &at);
		close(fd);
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return CLI_OK; /* nothing was ever printed */
	if (fd < 0 || fstat(fd, &st) < 0) {
		cli_error("%s: %s", path, strerror(errno));
		return CLI_FAILED;
	}
	at = tail ? tail_of(fd, st.st_size, cli_number(a, "tail")) : 0;
	if (cli_flag(a, "follow"))
		return follow(&vm, path, fd, at);
	r = copy_from(fd, &at) ? CLI_OK : CLI_FAILED;
	close(fd);
	if (vm.phase == STORE_DIED)
		cli_error("VM %s has died (%s): %s", vm.name, vm.end, vm.why);
	return r;
}

static const struct cli_option options[] = {
	{"follow", 'f', CLI_FLAG, NULL, "Go on until the VM ends", NULL, NULL, false},
	{"tail", 'n', CLI_NUMBER, "N", "Only the last lines", NULL, NULL, false},
	{"process", 0, CLI_FLAG, NULL, "What the VM's process said, instead of the guest", NULL, NULL,
	 false},
	{0},
};

const struct cli_verb cli_verb_logs = {
	.name = "logs",
	.operands = "VM",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "vm",
	.summary = "print what a VM's console printed",
	.about = "Prints the guest's console from its log, whether the VM runs or not. The log is kept "
			 "over starts and rotated: the newest 4 to 8 MiB are there.",
	.options = options,
	.run = run,
};
