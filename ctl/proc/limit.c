/* See limit.h. [Documentation/admin-guide/cgroup-v2.rst of Linux] names the files. */
#include "ctl/proc/limit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "ctl/cli/cli.h"

#define CGROUP_PERIOD_US 100000

/* ---- cgroup v2 ----------------------------------------------------------------------- */

static bool write_text(const char *dir, const char *name, const char *text) {
	char path[600];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text);
}

/* Our own group's folder: the mount of cgroup2 and the line "0::/..." of /proc/self/cgroup. */
static bool find_group(char *dir, size_t size) {
	char line[512], mount[300] = "", own[300] = "";
	FILE *f = fopen("/proc/self/mounts", "re");
	while (f && !mount[0] && fgets(line, sizeof(line), f)) {
		if (!strstr(line, " cgroup2 ") || sscanf(line, "%*s %299s", mount) != 1)
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

/* A group below ours, or beside it: a group with processes cannot hand out controllers, so
 * the session's (systemd's) delegated parent is where siblings may go. */
static bool make_group(struct limit *l, const char *base, const char *id) {
	char pid[24];
	if (snprintf(l->group, sizeof(l->group), "%s/joist-%s", base, id) >= (int)sizeof(l->group))
		return false;
	if (mkdir(l->group, 0755) < 0 && errno != EEXIST)
		return false;
	/* One by one: what is not delegated would be refused with the rest. */
	static const char *const controllers[] = {"+cpu", "+memory", "+io"};
	for (unsigned i = 0; i < ARRAY_LEN(controllers); i++)
		write_text(base, "cgroup.subtree_control", controllers[i]);
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	char max[600];
	snprintf(max, sizeof(max), "%s/cpu.max", l->group);
	if (access(max, W_OK) == 0 && write_text(l->group, "cgroup.procs", pid))
		return true;
	rmdir(l->group);
	return false;
}

void limit_create(struct limit *l, struct loop *loop, const char *id, const char *root) {
	char base[512], *slash;
	*l = (struct limit){.loop = loop, .shares = 100};
	if (root)
		snprintf(base, sizeof(base), "%s", root);
	else if (!find_group(base, sizeof(base)))
		return;
	if (make_group(l, base, id))
		return;
	slash = strrchr(base, '/');
	if (slash && slash != base) {
		*slash = 0;
		if (!root && make_group(l, base, id))
			return;
	}
	l->group[0] = 0;
}

/* ---- the duty cycle -------------------------------------------------------------------- */

static uint64_t clock_ns(clockid_t id) {
	struct timespec t;
	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void set_throttled(struct limit *l, bool on) {
	if (on == l->throttled)
		return;
	l->throttled = on;
	machine_hold(l->machine, on);
}

/* Each period brings credit, CPU time takes it. A little may be saved up for bursts. */
static void period(void *opaque) {
	struct limit *l = opaque;
	uint64_t now = clock_ns(CLOCK_MONOTONIC), cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	int64_t burst = (int64_t)(5 * LIMIT_PERIOD_NS * l->percent / 100);
	if (!l->percent)
		return;
	l->credit_ns += (int64_t)((now - l->last_ns) * l->percent / 100);
	l->credit_ns = MIN(l->credit_ns, burst) - (int64_t)(cpu - l->last_cpu_ns);
	l->periods++;
	if (l->throttled) {
		l->throttled_ns += now - l->last_ns;
		l->throttled_periods++;
	}
	l->last_ns = now;
	l->last_cpu_ns = cpu;
	set_throttled(l, l->credit_ns < 0);
	loop_timer_set(&l->timer, LIMIT_PERIOD_NS);
}

unsigned limit_read_percent(const char *text) {
	char *end;
	if (*text < '0' || *text > '9')
		return 0;
	double v = strtod(text, &end);
	if (strcmp(end, "%") == 0 && v >= 1 && v <= 25600)
		return (unsigned)v;
	if (!*end && v >= 0.01 && v <= 256)
		return (unsigned)(v * 100 + 0.5);
	return 0;
}

void limit_attach(struct limit *l, struct machine *m, struct err *e) {
	l->machine = m;
	l->has_timer = loop_timer_create(l->loop, &l->timer, period, l) == 0;
}

const char *limit_set_cpu(struct limit *l, unsigned percent) {
	char text[64];
	l->percent = percent;
	if (l->machine)
		machine_set_cpu_limit(l->machine, percent);
	if (l->group[0]) {
		if (percent)
			snprintf(text, sizeof(text), "%u %u\n", percent * (CGROUP_PERIOD_US / 100),
					 CGROUP_PERIOD_US);
		else
			snprintf(text, sizeof(text), "max %u\n", CGROUP_PERIOD_US);
		if (write_text(l->group, "cpu.max", text)) {
			l->percent = 0;
			return "cgroup";
		}
	}
	if (!l->has_timer)
		return "none";
	l->credit_ns = 0;
	l->last_ns = clock_ns(CLOCK_MONOTONIC);
	l->last_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (!percent)
		set_throttled(l, false);
	loop_timer_set(&l->timer, percent ? LIMIT_PERIOD_NS : UINT64_MAX);
	return "own";
}

/* A nice level is a factor of 1.25 in CPU time: [man 7 sched]. */
static int nice_of(unsigned shares) {
	int nice = 0;
	for (double s = shares; s < 90 && nice < 19; s *= 1.25)
		nice++;
	return nice;
}

/* Nice levels are a thread's: those of all our vCPUs. */
static bool set_nice(int nice) {
	DIR *d = opendir("/proc/self/task");
	struct dirent *de;
	bool all = d != NULL;
	while (d && (de = readdir(d)) != NULL) {
		char path[300], name[32] = "";
		snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", de->d_name);
		FILE *f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(name, sizeof(name), f) && strncmp(name, "vcpu", 4) == 0 &&
			setpriority(PRIO_PROCESS, (id_t)atoi(de->d_name), nice) < 0)
			all = false;
		fclose(f);
	}
	if (d)
		closedir(d);
	return all;
}

/* Where the kernel groups processes by session ([man 7 sched], "The autogroup feature"), a thread's
 * nice level counts within its session only; each VM is a session, and the group has a level. But
 * one in the foreground of a terminal shares its session with the shell. */
static bool set_session_nice(int nice) {
	char text[16];
	if (getsid(0) != getpid())
		return false;
	snprintf(text, sizeof(text), "%d\n", nice);
	return write_text("/proc/self", "autogroup", text);
}

const char *limit_set_shares(struct limit *l, unsigned shares) {
	char text[32];
	l->shares = shares;
	/* Also with a control group: the kernel divides each CPU by itself. */
	bool among = l->machine && machine_set_cpu_shares(l->machine, MAX(1u, shares));
	snprintf(text, sizeof(text), "%u\n", MAX(1u, shares));
	if (l->group[0] && write_text(l->group, "cpu.weight", text))
		return "cgroup";
	bool session = set_session_nice(nice_of(shares));
	return ((set_nice(nice_of(shares)) || session) && shares <= 100) || among ? "own" : "none";
}

/* io.weight is the kernel's cost model (CONFIG_BLK_CGROUP_IOCOST), the other one that of the BFQ
 * scheduler. Which of them rules is the host's choice, and may be neither. */
const char *limit_set_disk_shares(struct limit *l, unsigned shares) {
	char text[32];
	bool kept = false;
	if (!l->group[0])
		return "none";
	snprintf(text, sizeof(text), "default %u\n", MAX(1u, MIN(shares, 10000u)));
	kept |= write_text(l->group, "io.weight", text);
	snprintf(text, sizeof(text), "default %u\n", MAX(1u, MIN(shares, 1000u)));
	kept |= write_text(l->group, "io.bfq.weight", text);
	return kept ? "cgroup" : "none";
}

const char *limit_set_memory(struct limit *l, uint64_t bytes) {
	char text[32];
	l->memory = bytes;
	if (bytes)
		snprintf(text, sizeof(text), "%llu\n", (unsigned long long)bytes);
	else
		snprintf(text, sizeof(text), "max\n");
	return l->group[0] && write_text(l->group, "memory.high", text) ? "cgroup" : "none";
}

void limit_apply(struct limit *l, const struct limit_wish *w) {
	uint64_t shares = 100, bytes = 0;
	if (w->cpu_limit && strcmp(limit_set_cpu(l, limit_read_percent(w->cpu_limit)), "none") == 0)
		log_line(LOG_WARN, "cpu-limit cannot be kept here");
	if (cli_read_number(w->cpu_shares, &shares) && shares != 100 &&
		strcmp(limit_set_shares(l, (unsigned)shares), "none") == 0)
		log_line(LOG_WARN,
				 "cpu-shares are not kept here: that needs $XDG_RUNTIME_DIR or cgroup v2");
	if (cli_read_number(w->disk_shares, &shares) && shares != 100)
		limit_set_disk_shares(l, (unsigned)shares); /* the ledger has it in any case */
	if (w->memory_limit && cli_read_size(w->memory_limit, &bytes) &&
		strcmp(limit_set_memory(l, bytes), "none") == 0)
		log_line(LOG_WARN, "memory-limit needs cgroup v2, which this user may not use here");
}

void limit_destroy(struct limit *l) {
	if (l->has_timer) {
		if (l->throttled)
			set_throttled(l, false);
		loop_timer_destroy(l->loop, &l->timer);
	}
	/* The group goes when its last process is gone; that is us, so the next start or `rm`
	 * cannot be what cleans up: move out, then remove. */
	if (l->group[0]) {
		char parent[512], pid[24];
		snprintf(parent, sizeof(parent), "%s", l->group);
		char *slash = strrchr(parent, '/');
		if (slash)
			*slash = 0;
		snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
		write_text(parent, "cgroup.procs", pid);
		rmdir(l->group);
	}
}
