/* The fake host of unit tests: a settable clock, recorded irq edges, a log that
 * is kept, and a bug() that fails the test. */
#ifndef TEST_UNIT_FAKE_H
#define TEST_UNIT_FAKE_H

#include "core/vm/irq.h"
#include "core/vm/timer.h"

struct fake_clock {
	uint64_t now_ns, wall_ns;
	struct vm_clock clock; /* tsc_khz 1000000: one tick a nanosecond */
	struct vm_timers timers;
};

/* Sets the clock to 0 and makes an empty timer queue on it. */
void fake_clock_init(struct fake_clock *f);

/* Advances time to `now_ns`, firing timers one by one at their own deadlines. */
void fake_clock_set(struct fake_clock *f, uint64_t now_ns);

/* An irq line that counts. */
struct fake_irq {
	bool level;
	unsigned raised, lowered; /* edges */
	struct irq_line line;
};

void fake_irq_init(struct fake_irq *f);

/* The last line given to the log, and how many there were. */
extern char fake_log_last[512];
extern unsigned fake_log_count;

#endif
