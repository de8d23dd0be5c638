/* See cpu_share.h. */
#include "host/linux/cpu_share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/clock.h"

#define IDLE_NS 250000000ull
#define BUSY_NS (2 * TURNS_PERIOD_NS)
#define IDLE (TURNS_CPU / 32) /* so little is not looked at closer */

struct cpu_share {
	struct loop *loop;
	struct ledger *ledger;
	void (*hold)(void *opaque, bool on);
	void *opaque;
	struct loop_timer timer;
	struct loop_source bell;

	struct turn turn; /* what is in force */
	bool held;
	cpu_set_t all;		 /* what it may use when it is free */
	uint64_t held_since; /* since this sample, or 0 */
	/* For the turns: what it used, or stood in line for where others used it. */
	struct turns_own own;
	uint64_t used_ns, used_wanted_ns, used_at_ns; /* the sum; its threads' when it was looked at */

	/* The last sample. */
	uint64_t at_ns, cpu_ns, wanted_ns; /* wanted_ns 0: threads were not looked at */
	uint64_t held_ns;				   /* stood still since */
	uint64_t wants, posted_ns;
	uint64_t most; /* that it may want */
};

/* ---- what it wants ---------------------------------------------------------------------- */

static void for_threads(void (*fn)(void *opaque, int tid), void *opaque) {
	DIR *d = opendir("/proc/self/task");
	struct dirent *de;
	while (d && (de = readdir(d)) != NULL)
		if (de->d_name[0] != '.')
			fn(opaque, atoi(de->d_name));
	if (d)
		closedir(d);
}

static void add_wanted(void *sum, int tid) {
	char path[64], text[80];
	unsigned long long ran, in_line;
	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return;
	text[n] = 0;
	if (sscanf(text, "%llu %llu", &ran, &in_line) == 2)
		*(uint64_t *)sum += ran + in_line;
}

static void sample(struct cpu_share *s, uint64_t now) {
	uint64_t cpu = host_clock_ns(CLOCK_PROCESS_CPUTIME_ID), wanted = 0;
	if (s->held_since) {
		s->held_ns += now - s->held_since;
		s->held_since = now;
	}
	uint64_t span = now - s->at_ns - MIN(s->held_ns, now - s->at_ns);
	/* Nearly all of the time it stood still: what it wanted before stands. */
	if (span < TURNS_PERIOD_NS / 64)
		return;
	uint64_t used = (cpu - s->cpu_ns) * TURNS_CPU / span, wants = used;
	if (used > IDLE || !s->turn.free) {
		for_threads(add_wanted, &wanted);
		/* One that ended took its sum along. */
		if (s->wanted_ns && wanted > s->wanted_ns)
			wants = MAX(used, (wanted - s->wanted_ns) * TURNS_CPU / span);
	}
	/* Under a limit of its own its threads still stand in line while they may run. */
	s->wants = (s->wants + MIN(wants, s->most)) / 2;
	s->at_ns = now;
	s->cpu_ns = cpu;
	s->wanted_ns = wanted;
	s->held_ns = 0;
}

/* Only what it did not even want is left of its part: what other programs took is theirs. */
static uint64_t used(struct cpu_share *s, uint64_t now) {
	uint64_t wanted = 0;
	if (!s->turn.free)
		for_threads(add_wanted, &wanted);
	if (!wanted)
		wanted = host_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	/* It was free, or a thread has ended. */
	if (s->used_at_ns && wanted > s->used_wanted_ns)
		s->used_ns += MIN(wanted - s->used_wanted_ns, now - s->used_at_ns);
	s->used_wanted_ns = wanted;
	s->used_at_ns = s->turn.free ? 0 : now;
	return s->used_ns;
}

/* ---- what it gets ------------------------------------------------------------------------ */

static void confine(void *set, int tid) {
	sched_setaffinity(tid, sizeof(cpu_set_t), set);
}

static void set_held(struct cpu_share *s, bool on, uint64_t now) {
	if (on == s->held)
		return;
	s->held = on;
	if (!on)
		s->held_ns += now - s->held_since;
	s->held_since = on ? now : 0;
	s->hold(s->opaque, on);
}

static void apply(struct cpu_share *s, const struct turn *t, uint64_t now) {
	cpu_set_t set;
	unsigned n = 0, cpus = (unsigned)CPU_COUNT(&s->all);
	bool changed =
		t->free != s->turn.free || t->first != s->turn.first || t->count != s->turn.count;
	s->turn = *t;
	if (!changed)
		return;
	CPU_ZERO(&set);
	for (unsigned i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &s->all) && (n++ + cpus - t->first) % cpus < t->count)
			CPU_SET(i, &set);
	/* Standing still it stays where it was. */
	if (t->free || t->count)
		for_threads(confine, t->free ? &s->all : &set);
	/* A thread that began meanwhile has what the one had that made it. */
	if (t->free)
		for_threads(confine, &s->all);
	set_held(s, !t->free && !t->count, now);
}

static void look(void *opaque) {
	struct cpu_share *s = opaque;
	struct turn turn = {.free = true};
	uint64_t now = host_now_ns(), next = UINT64_MAX;
	/* The others think that it is gone, or do not know of it yet: each that wakes wakes all. */
	bool gone = now - s->posted_ns >= TURNS_FRESH_NS;
	if (gone || now - s->posted_ns >= TURNS_PERIOD_NS) {
		/* Somebody may have bound the process elsewhere. */
		if (s->turn.free)
			sched_getaffinity(0, sizeof(s->all), &s->all);
		sample(s, now);
		ledger_cpu_post(s->ledger, s->wants);
		s->posted_ns = now;
	}
	if (gone)
		ledger_ring(s->ledger);
	if (ledger_cpu_met(s->ledger)) {
		ledger_cpu_look(s->ledger, (unsigned)CPU_COUNT(&s->all), now, used(s, now), &s->own, &turn);
		next = !turn.free ? turn.until_ns - now : s->wants > IDLE ? BUSY_NS : IDLE_NS;
	}
	apply(s, &turn, now);
	loop_timer_set(&s->timer, next);
}

static void on_bell(void *opaque, uint32_t events) {
	struct cpu_share *s = opaque;
	char text[1024];
	while (read(s->bell.fd, text, sizeof(text)) > 0)
		;
	loop_timer_set(&s->timer, 0);
}

struct cpu_share *cpu_share_create(struct loop *loop, struct ledger *l,
								   void (*hold)(void *opaque, bool on), void *opaque) {
	struct cpu_share *s = l ? calloc(1, sizeof(*s)) : NULL;
	if (!s)
		return NULL;
	*s = (struct cpu_share){.loop = loop,
							.ledger = l,
							.hold = hold,
							.opaque = opaque,
							.turn = {.free = true},
							.most = UINT64_MAX,
							.bell = {.fd = ledger_bell(l), .ready = on_bell, .opaque = s},
							.at_ns = host_now_ns(),
							.cpu_ns = host_clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
	/* More CPUs than the set has room for: nothing is shared. */
	if (sched_getaffinity(0, sizeof(s->all), &s->all) == 0 && s->bell.fd >= 0 &&
		loop_timer_create(loop, &s->timer, look, s) == 0) {
		if (loop_add(loop, &s->bell, EPOLLIN) == 0) {
			loop_timer_set(&s->timer, 0);
			return s;
		}
		loop_timer_destroy(loop, &s->timer);
	}
	if (s->bell.fd >= 0)
		close(s->bell.fd);
	free(s);
	return NULL;
}

void cpu_share_destroy(struct cpu_share *s) {
	if (!s)
		return;
	set_held(s, false, host_now_ns());
	loop_timer_destroy(s->loop, &s->timer);
	loop_remove(s->loop, &s->bell);
	close(s->bell.fd);
	free(s);
}

void cpu_share_set_limit(struct cpu_share *s, unsigned percent) {
	if (s)
		s->most = percent ? (uint64_t)percent * TURNS_CPU / 100 : UINT64_MAX;
}
