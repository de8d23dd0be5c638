/* See fake.h. */
#include "test/unit/fake.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/host.h"

char fake_log_last[512];
unsigned fake_log_count;

static __attribute__((noreturn)) void bug(const char *file, int line, const char *what) {
	fprintf(stderr, "BUG %s:%d: %s\n", file, line, what);
	abort();
}

static void log_keep(enum log_level level, const char *line) {
	fake_log_count++;
	snprintf(fake_log_last, sizeof(fake_log_last), "%s", line);
}

const struct host_ops host_ops = {bug, log_keep};

static uint64_t now_ns(void *opaque) {
	return ((struct fake_clock *)opaque)->now_ns;
}

static uint64_t wall_ns(void *opaque) {
	struct fake_clock *f = opaque;
	return f->wall_ns + f->now_ns;
}

void fake_clock_init(struct fake_clock *f) {
	*f = (struct fake_clock){0};
	f->clock = (struct vm_clock){now_ns, now_ns, wall_ns, f, .tsc_khz = 1000000};
	timers_init(&f->timers, &f->clock);
}

void fake_clock_set(struct fake_clock *f, uint64_t to_ns) {
	while (f->timers.first && f->timers.first->deadline_ns <= to_ns) {
		if (f->timers.first->deadline_ns > f->now_ns)
			f->now_ns = f->timers.first->deadline_ns;
		timers_run(&f->timers, f->now_ns);
	}
	f->now_ns = to_ns;
}

static void set(void *opaque, unsigned pin, bool level) {
	struct fake_irq *f = opaque;
	if (level && !f->level)
		f->raised++;
	if (!level && f->level)
		f->lowered++;
	f->level = level;
}

void fake_irq_init(struct fake_irq *f) {
	*f = (struct fake_irq){.line = {set, f, 0}};
}
