/* See group.h. [Documentation/admin-guide/cgroup-v2.rst of Linux] names the files; properties of
 * a scope are those of org.freedesktop.systemd1(5). busctl(1) sends the message: it comes with
 * systemd, and a library for it would be linked at each start of each command. */
#include "ctl/proc/group.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"

extern char **environ;

bool group_write_text(const char *dir, const char *name, const char *text) {
	char path[GROUP_PATH_MAX + 40];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text);
}

bool group_write(const struct group *g, const char *file, const char *text) {
	return g->dir[0] && group_write_text(g->dir, file, text);
}

/* Our own group's folder: the mount of cgroup2 and the line "0::/..." of /proc/self/cgroup. */
static bool find_own(char *dir, size_t size) {
	char line[GROUP_PATH_MAX], mount[200] = "", own[300] = "";
	FILE *f = fopen("/proc/self/mounts", "re");
	while (f && !mount[0] && fgets(line, sizeof(line), f)) {
		if (!strstr(line, " cgroup2 ") || sscanf(line, "%*s %199s", mount) != 1)
			mount[0] = 0;
	}
	if (f)
		fclose(f);
	f = fopen("/proc/self/cgroup", "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "0::%299s", own) == 1)
			break;
	if (f)
		fclose(f);
	if (!mount[0] || !own[0])
		return false;
	snprintf(dir, size, "%s%s", mount, strcmp(own, "/") == 0 ? "" : own);
	return true;
}

static bool enter(const char *dir) {
	char pid[24];
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	return group_write_text(dir, "cgroup.procs", pid);
}

/* Groups of VMs that are gone: the kernel keeps those that are not empty. */
static void sweep(const char *base) {
	DIR *d = opendir(base);
	struct dirent *de;
	while (d && (de = readdir(d)) != NULL)
		if (strncmp(de->d_name, "joist-", 6) == 0)
			unlinkat(dirfd(d), de->d_name, AT_REMOVEDIR);
	if (d)
		closedir(d);
}

/* A group that holds processes cannot hand out controllers, so the process goes first. */
static bool make_below(struct group *g, const char *base, const char *back) {
	static const char *const controllers[] = {"+cpu", "+memory", "+io"};
	char max[GROUP_PATH_MAX + 40];
	sweep(base);
	if (snprintf(g->dir, sizeof(g->dir), "%s/joist-%s", base, g->id) < (int)sizeof(g->dir) &&
		(mkdir(g->dir, 0755) == 0 || errno == EEXIST)) {
		bool moved = enter(g->dir);
		/* One by one: what is not delegated would be refused with the rest. */
		for (unsigned i = 0; moved && i < ARRAY_LEN(controllers); i++)
			group_write_text(base, "cgroup.subtree_control", controllers[i]);
		snprintf(max, sizeof(max), "%s/cpu.max", g->dir);
		if (moved && access(max, W_OK) == 0)
			return true;
		if (moved)
			enter(back);
		rmdir(g->dir);
	}
	g->dir[0] = 0;
	return false;
}

/* systemd marks what it hands over; that of Debian 12 does not for users, but joist@NAME.service is
 * ours and says Delegate=yes. */
static bool delegated(const char *dir) {
	char value[4] = "";
	const char *slash = strrchr(dir, '/');
	if (slash && strncmp(slash, "/joist@", 7) == 0)
		return true;
	return getxattr(dir, "user.delegate", value, sizeof(value)) == 1 && value[0] == '1';
}

static bool has_systemd(void) {
	return access("/run/systemd/system", F_OK) == 0; /* sd_booted(3) */
}

/* The process was executed anew by --restart and is where it was. */
static bool already_there(struct group *g, const char *own) {
	char name[60];
	const char *slash = strrchr(own, '/');
	snprintf(name, sizeof(name), "joist-%s", g->id);
	if (!slash || strcmp(slash + 1, name) != 0)
		return false;
	snprintf(g->dir, sizeof(g->dir), "%s", own);
	return true;
}

bool group_create(struct group *g, const char *id, const char *root) {
	char own[GROUP_PATH_MAX], parent[GROUP_PATH_MAX];
	bool managed = !root && has_systemd();
	*g = (struct group){.asked = !managed, .managed = managed};
	snprintf(g->id, sizeof(g->id), "%s", id);
	if (root)
		snprintf(own, sizeof(own), "%s", root);
	else if (!find_own(own, sizeof(own)))
		return false;
	if (already_there(g, own))
		return true;
	if ((!managed || delegated(own)) && make_below(g, own, own))
		return true;
	if (root || managed)
		return false;
	snprintf(parent, sizeof(parent), "%s", own);
	char *slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return false;
	*slash = 0;
	return make_below(g, parent, own);
}

/* ---- a scope of systemd's ---------------------------------------------------------------- */

/* Its exit code, or -1. Not fork(): the guest's memory is mapped here. */
static int run_quiet(char *const argv[]) {
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;
	int status = -1;
	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	for (int fd = 0; fd < 3; fd++)
		posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (posix_spawnp(&pid, argv[0], &files, &attr, argv, environ) == 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return status >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool group_delegated(const char *dir, const char *file) {
	char path[GROUP_PATH_MAX + 40], line[300] = "", *save, *word;
	const char *user = strstr(dir, "/user@"), *end = user ? strchr(user + 1, '/') : NULL;
	size_t len = strcspn(file, ".");
	if (!end) /* the system's own manager has all there are */
		return true;
	snprintf(path, sizeof(path), "%.*s/cgroup.controllers", (int)(end - dir), dir);
	FILE *f = fopen(path, "re");
	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = 0;
		fclose(f);
	}
	for (word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		if (strlen(word) == len && strncmp(word, file, len) == 0)
			return true;
	return false;
}

bool group_weigh(const struct group *g, const char *file, const char *property, unsigned weight) {
	char unit[GROUP_PATH_MAX], text[60], *slash;
	if (!g->dir[0])
		return false;
	if (!g->managed) {
		snprintf(text, sizeof(text), "%s%u\n", strncmp(file, "io.", 3) == 0 ? "default " : "",
				 weight);
		return group_write_text(g->dir, file, text);
	}
	/* systemd takes the property also where nothing comes of it. */
	if (!group_delegated(g->dir, file))
		return false;
	snprintf(unit, sizeof(unit), "%s", g->dir);
	if ((slash = strrchr(unit, '/')) != NULL)
		*slash = 0;
	if (!(slash = strrchr(unit, '/')))
		return false;
	snprintf(text, sizeof(text), "%s=%u", property, weight);
	char *argv[] = {"systemctl", geteuid() ? "--user" : "--system",
					"--quiet",	 "--runtime",
					"--",		 "set-property",
					slash + 1,	 text,
					NULL};
	return run_quiet(argv) == 0;
}

/* It is Before=joist.service, so that when the user's manager ends that one's `joist stop --all`
 * comes first. */
static bool start_scope(const struct group *g, const char *name) {
	char unit[60], pid[24], what[100];
	snprintf(unit, sizeof(unit), "joist-%s.scope", g->id);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(what, sizeof(what), "Joist VM %.63s", name);
	char *argv[] = {"busctl",
					geteuid() ? "--user" : "--system",
					"--quiet",
					"--timeout=10",
					"call",
					"org.freedesktop.systemd1",
					"/org/freedesktop/systemd1",
					"org.freedesktop.systemd1.Manager",
					"StartTransientUnit",
					"ssa(sv)a(sa(sv))",
					unit,
					"fail",
					"5",
					"PIDs",
					"au",
					"1",
					pid,
					"Delegate",
					"b",
					"true",
					"Description",
					"s",
					what,
					"CollectMode",
					"s",
					"inactive-or-failed",
					"Before",
					"as",
					"1",
					"joist.service",
					"0",
					NULL};
	return run_quiet(argv) == 0;
}

/* The answer is that there is a job; it is done when the process is there. */
bool group_ask(struct group *g, const char *name) {
	char own[GROUP_PATH_MAX], unit[60];
	if (g->dir[0])
		return true;
	if (g->asked)
		return false;
	g->asked = true;
	snprintf(unit, sizeof(unit), "/joist-%s.scope", g->id);
	if (!start_scope(g, name))
		return false;
	for (unsigned i = 0; i < 200; i++) {
		if (find_own(own, sizeof(own)) && strstr(own, unit))
			return make_below(g, own, own);
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	}
	return false;
}

/* The group goes when its last process is gone; that is us, so move out first. */
void group_destroy(struct group *g) {
	char parent[GROUP_PATH_MAX];
	if (!g->dir[0])
		return;
	snprintf(parent, sizeof(parent), "%s", g->dir);
	char *slash = strrchr(parent, '/');
	if (slash)
		*slash = 0;
	enter(parent);
	rmdir(g->dir);
	g->dir[0] = 0;
}
