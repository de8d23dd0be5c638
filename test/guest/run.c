/* See run.h. */
#include "test/guest/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"

#define SECONDS 30 /* for a case that names no limit */
#define TRIM_NS 1000000
#define STOP_AFTER 1 /* for a case that has to be stopped */

const struct engine_ops *guest_engine(const char *name) {
	for (unsigned i = 0; engines[i]; i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

static void ended(void *opaque, enum machine_end end, const char *why) {
	struct guest_run *r = opaque;
	r->ended = true;
	r->end = end;
	snprintf(r->why, sizeof(r->why), "%s", why);
	if (--*r->running == 0)
		loop_quit(r->loop);
}

/* VM lock held, on a vCPU's thread. */
static void debug_exit(void *opaque, uint32_t code) {
	struct guest_run *r = opaque;
	if (!r->exited)
		r->code = code;
	r->exited = true;
	machine_stop(r->m);
}

static void out_of_time(void *opaque) {
	struct guest_run *r = opaque;
	r->timeout = true;
	machine_stop(r->m);
}

static void trim(void *opaque) {
	struct guest_run *r = opaque;
	if (machine_trim(r->m))
		loop_timer_set(&r->trimmer, TRIM_NS);
}

static int start(struct guest_run *r, struct err *e) {
	char path[512];
	const struct guest_case *c = r->c;
	unsigned seconds = c->seconds ? c->seconds : c->end == END_STOPPED ? STOP_AFTER : SECONDS;
	if (r->patience && c->end != END_STOPPED && c->end != END_ANY)
		seconds *= r->patience;
	snprintf(path, sizeof(path), "%s/%s.bin", r->images, c->image ? c->image : c->name);
	const struct machine_config config = {
		.name = c->name,
		.engine = r->engine,
		.engine_options = {.tier = r->tier},
		.board =
			{
				.board = c->board ? c->board : "pc",
				.memory = MIB((uint64_t)c->memory_mb),
				.cpus = c->cpus,
				.force = c->real ? BOOT_FLAT_REAL : BOOT_FLAT_PROT32,
				.test_ports = true,
				.debug_exit = debug_exit,
				.debug_opaque = r,
			},
		.cpu_model = c->cpu_model ? c->cpu_model : r->cpu_model,
		.kernel = path,
		.in = -1,
		.out = r->out,
		.no_reboot = !c->reboots,
		.ended = ended,
		.opaque = r,
	};
	int ret = machine_create(&r->m, r->loop, &config, e);
	if (ret)
		return ret;
	ret = loop_timer_create(r->loop, &r->timer, out_of_time, r);
	if (ret)
		return err_set(e, -ret, "cannot make a timer: %s", strerror(-ret));
	loop_timer_set(&r->timer, seconds * 1000000000ull);
	ret = loop_timer_create(r->loop, &r->trimmer, trim, r);
	if (ret)
		return err_set(e, -ret, "cannot make a timer: %s", strerror(-ret));
	++*r->running;
	ret = machine_start(r->m, e);
	if (ret)
		--*r->running;
	else if (r->trim)
		loop_timer_set(&r->trimmer, 0);
	return ret;
}

int guest_start(struct guest_run *r, unsigned *running) {
	struct err e = {{0}};
	r->running = running;
	r->out = memfd_create("report", MFD_CLOEXEC);
	if (r->out < 0 || start(r, &e)) {
		snprintf(r->why, sizeof(r->why), "%s", r->out < 0 ? strerror(errno) : e.text);
		r->end = MACHINE_FAILED;
		return -1;
	}
	return 0;
}

static void take_counts(void *out, const char *name, uint64_t val) {
	struct guest_run *r = out;
	if (!strcmp(name, "cache_flushes"))
		r->cache_flushes = val;
	else if (!strcmp(name, "cache_trims"))
		r->cache_trims = val;
}

void guest_finish(struct guest_run *r) {
	struct stat st;
	r->cache_flushes = UINT64_MAX;
	if (r->m) {
		machine_stats(r->m, take_counts, r);
		loop_timer_destroy(r->loop, &r->timer);
		loop_timer_destroy(r->loop, &r->trimmer);
		machine_destroy(r->m);
		r->m = NULL;
	}
	size_t len = fstat(r->out, &st) == 0 ? (size_t)st.st_size : 0;
	r->report = calloc(1, len + 1);
	ssize_t n = pread(r->out, r->report, len, 0);
	r->report[n > 0 ? n : 0] = 0;
	close(r->out);
}

static unsigned count_lines(const char *report, const char *start) {
	unsigned n = 0;
	for (const char *p = report; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
		n += strncmp(p, start, strlen(start)) == 0;
	return n;
}

static const char *end_name(const struct guest_run *r) {
	static const char *const names[] = {"switched off", "reset",   "panicked",
										"failed",		"stopped", "escaped"};
	return r->timeout ? "ran out of time" : r->exited ? "was done" : names[r->end];
}

static bool end_is_right(const struct guest_run *r) {
	switch (r->c->end) {
	case END_DONE:
		return r->exited && !r->code && r->end == MACHINE_STOPPED && !r->timeout;
	case END_RESET:
		return r->end == MACHINE_RESET;
	case END_OFF:
		return r->end == MACHINE_OFF;
	case END_STOPPED:
		return r->timeout && r->end == MACHINE_STOPPED && !r->exited;
	case END_ANY:
		return r->ended && r->end != MACHINE_FAILED;
	}
	return false;
}

const char *guest_judge(const struct guest_run *r, char *buf, unsigned size) {
	unsigned ok = count_lines(r->report, "ok ");
	unsigned skipped = count_lines(r->report, "skip ");
	unsigned failed = count_lines(r->report, "FAIL ") + count_lines(r->report, "UNEXPECTED ");
	if (r->c->end == END_ANY && end_is_right(r))
		return NULL;
	if (failed)
		snprintf(buf, size, "%u of %u checks failed", failed, ok + failed);
	else if (!end_is_right(r))
		snprintf(buf, size, "the guest %s after %u checks%s%s", end_name(r), ok,
				 r->why[0] ? ": " : "", r->why);
	else if (ok + skipped != r->c->checks)
		snprintf(buf, size, "%u checks reported, %u expected", ok + skipped, r->c->checks);
	else if (r->c->flushes && !r->cache_flushes && !r->trim)
		snprintf(buf, size, "the code cache was never full: the case shows nothing");
	else if (r->trim && !r->cache_trims)
		snprintf(buf, size, "nothing was trimmed: the case shows nothing");
	else
		return NULL;
	return buf;
}
