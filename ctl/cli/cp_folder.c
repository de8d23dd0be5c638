/* joist cp of folders: as an archive that tar(1) makes at one end and unpacks at the other. It lies
 * on the guest's disk meanwhile, for as long as the copy takes.
 *
 * A file that changes while the guest packs it, as logs do, is tar's exit code 1: what was there of
 * it is copied.
 *
 * What a guest packs is hostile. GNU tar leaves out absolute names and "..", and makes symbolic
 * links last, so that none leads out of the folder; owners are not taken over. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/cli/cp.h"

struct archive {
	char path[64]; /* in the guest */
	json_int_t handle;
};

static int archive_open(struct archive *a, struct wire_client *c, const char *mode, struct err *e) {
	return guest_open(c, a->path, mode, &a->handle, e);
}

static int archive_name(struct archive *a, struct err *e) {
	uint64_t secret;
	if (getrandom(&secret, sizeof(secret), 0) != sizeof(secret))
		return err_set(e, ERR_IO, "the host gives no random numbers");
	snprintf(a->path, sizeof(a->path), "/var/tmp/joist-cp-%016llx.tar", (unsigned long long)secret);
	return 0;
}

/* tar here, with its end `which` (0: it reads, 1: it writes) at the returned pipe. */
static pid_t tar_start(char *const argv[], int which, int *fd, struct err *e) {
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_set(e, errno, "cannot make a pipe: %s", strerror(errno));
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(p[which], which);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(p[which]);
	*fd = p[!which];
	if (pid > 0)
		return pid;
	close(*fd);
	return err_set(e, errno, "cannot run tar: %s", strerror(errno));
}

static int tar_end(pid_t pid, struct err *e) {
	int status = 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(e, ERR_NOTSUP, "there is no tar here");
	return err_set(e, ERR_IO, "tar failed; what it said is above");
}

int cp_folder_in(struct wire_client *c, const char *from, const char *to, struct err *e) {
	char *argv[] = {"tar", "-C", (char *)from, "-cf", "-", ".", NULL};
	struct archive a;
	struct err other;
	int fd, r = archive_name(&a, e);
	if (r)
		return r;
	/* Others in the guest must not read it. */
	r = guest_run(c, json_pack("[s, s, s, s]", "/bin/sh", "-c", "umask 077; : >\"$0\"", a.path), e);
	if (r || (r = archive_open(&a, c, "w", e)) != 0)
		return r;
	pid_t pid = tar_start(argv, 1, &fd, e);
	r = pid < 0 ? (int)pid : guest_write_from(c, a.handle, fd, e);
	if (pid > 0) {
		close(fd);
		int ended = tar_end(pid, r ? &other : e);
		r = r ? r : ended;
	}
	int closed = guest_close(c, a.handle, r ? &other : e);
	r = r ? r : closed;
	if (r == 0)
		r = guest_run(c, json_pack("[s, s, s, s]", "/bin/mkdir", "-p", "--", to), e);
	if (r == 0)
		r = guest_run(
			c,
			json_pack("[s, s, s, s, s, s]", "/bin/tar", "-C", to, "--no-same-owner", "-xf", a.path),
			e);
	guest_run(c, json_pack("[s, s, s]", "/bin/rm", "-f", a.path), &other);
	return r;
}

int cp_folder_out(struct wire_client *c, const char *from, const char *to, struct err *e) {
	char *argv[] = {"tar", "-C", (char *)to, "--no-same-owner", "-xf", "-", NULL};
	struct archive a;
	struct err other;
	int fd, r = archive_name(&a, e);
	if (r)
		return r;
	if (mkdir(to, 0777) < 0 && errno != EEXIST)
		return err_set(e, errno, "cannot make the folder %s: %s", to, strerror(errno));
	r = guest_run(c,
				  json_pack("[s, s, s, s, s]", "/bin/sh", "-c",
							"umask 077; tar -C \"$0\" -cf \"$1\" . || [ $? = 1 ]", from, a.path),
				  e);
	if (r == 0 && (r = archive_open(&a, c, "r", e)) == 0) {
		pid_t pid = tar_start(argv, 0, &fd, e);
		r = pid < 0 ? (int)pid : guest_read_to(c, a.handle, fd, e);
		if (pid > 0) {
			close(fd);
			int ended = tar_end(pid, r ? &other : e);
			r = r ? r : ended;
		}
		guest_close(c, a.handle, &other);
	}
	guest_run(c, json_pack("[s, s, s]", "/bin/rm", "-f", a.path), &other);
	return r;
}
