/* See limit.h; the groups themselves are group.c's. */
#include "ctl/proc/limit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "ctl/cli/cli.h"
#include "host/linux/clock.h"

#define CGROUP_PERIOD_US 100000

/* ---- cgroup v2 ----------------------------------------------------------------------- */

void limit_create(struct limit *l, struct loop *loop, const char *id, const char *name,
				  const char *root) {
	*l = (struct limit){.loop = loop, .shares = 100, .name = name};
	group_create(&l->group, id, root);
}

/* systemd is asked for a group only when a value that is not the usual one needs it: an answer
 * takes longer than all the rest of a start. */
static bool write_group(struct limit *l, bool usual, const char *file, const char *text) {
	return (usual || group_ask(&l->group, l->name)) && group_write(&l->group, file, text);
}

/* ---- the duty cycle -------------------------------------------------------------------- */

static void set_throttled(struct limit *l, bool on) {
	if (on == l->throttled)
		return;
	l->throttled = on;
	machine_hold(l->machine, on);
}

/* Each period brings credit, CPU time takes it. A little may be saved up for bursts. */
static void period(void *opaque) {
	struct limit *l = opaque;
	uint64_t now = host_now_ns(), cpu = host_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
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
	if (percent)
		snprintf(text, sizeof(text), "%u %u\n", percent * (CGROUP_PERIOD_US / 100),
				 CGROUP_PERIOD_US);
	else
		snprintf(text, sizeof(text), "max %u\n", CGROUP_PERIOD_US);
	if (write_group(l, !percent, "cpu.max", text)) {
		l->percent = 0;
		if (l->has_timer)
			set_throttled(l, false);
		return "cgroup";
	}
	if (!l->has_timer)
		return "none";
	l->credit_ns = 0;
	l->last_ns = host_now_ns();
	l->last_cpu_ns = host_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
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
	return group_write_text("/proc/self", "autogroup", text);
}

const char *limit_set_shares(struct limit *l, unsigned shares) {
	l->shares = shares;
	/* Also with a control group: the kernel divides each CPU by itself. */
	bool among = l->machine && machine_set_cpu_shares(l->machine, MAX(1u, shares));
	if ((shares == 100 || group_ask(&l->group, l->name)) &&
		group_weigh(&l->group, "cpu.weight", "CPUWeight", MIN(MAX(1u, shares), 10000u)))
		return "cgroup";
	bool session = set_session_nice(nice_of(shares));
	return ((set_nice(nice_of(shares)) || session) && shares <= 100) || among ? "own" : "none";
}

/* io.weight is the kernel's cost model (CONFIG_BLK_CGROUP_IOCOST), the other one that of the BFQ
 * scheduler. Which of them rules is the host's choice, and may be neither. */
const char *limit_set_disk_shares(struct limit *l, unsigned shares) {
	unsigned weight = MIN(MAX(1u, shares), 10000u);
	bool kept = (shares == 100 || group_ask(&l->group, l->name)) &&
				group_weigh(&l->group, "io.weight", "IOWeight", weight);
	/* systemd writes it with the other. */
	if (!l->group.managed)
		kept |= group_weigh(&l->group, "io.bfq.weight", "IOWeight", MIN(weight, 1000u));
	return kept ? "cgroup" : "none";
}

const char *limit_set_memory(struct limit *l, uint64_t bytes) {
	char text[32];
	l->memory = bytes;
	if (bytes)
		snprintf(text, sizeof(text), "%llu\n", (unsigned long long)bytes);
	else
		snprintf(text, sizeof(text), "max\n");
	return write_group(l, !bytes, "memory.high", text) ? "cgroup" : "none";
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
		log_line(LOG_WARN,
				 "memory-limit needs cgroup v2, which is not to be had here: of systemd that is a "
				 "login with $XDG_RUNTIME_DIR and the package dbus-user-session");
}

void limit_destroy(struct limit *l) {
	if (l->has_timer) {
		if (l->throttled)
			set_throttled(l, false);
		loop_timer_destroy(l->loop, &l->timer);
	}
	group_destroy(&l->group);
}
