/* Runs one flat guest on a whole machine of host/linux and gives its report. */
#ifndef TEST_GUEST_RUN_H
#define TEST_GUEST_RUN_H

#include "host/linux/machine.h"
#include "test/guest/cases.h"

struct guest_run {
	/* in */
	const struct guest_case *c;
	const char *images; /* directory */
	const struct engine_ops *engine;
	const char *tier; /* NULL: the engine's default */
	const char *cpu_model;
	unsigned patience; /* times the usual limits; 0: 1 */
	bool trim;		   /* the engine gives back its memory all the time */
	struct loop *loop;
	/* out */
	bool ended;
	enum machine_end end;
	bool exited; /* the guest wrote to port F4h ... */
	uint32_t code;
	bool timeout;
	char why[300];
	uint64_t cache_flushes; /* UINT64_MAX: no translator */
	uint64_t cache_trims;
	char *report; /* all that it wrote to its serial port; from malloc */
	/* private */
	struct machine *m;
	struct loop_timer timer, trimmer;
	int out;
	unsigned *running; /* the loop ends when this reaches 0 */
};

/* Makes and starts the guest; run the loop until *running is 0, then collect it. 0, or -1 with
 * `why` filled. */
int guest_start(struct guest_run *r, unsigned *running);
void guest_finish(struct guest_run *r);

/* Compares with the table. NULL: as wanted, else a sentence (static buffer); `why_not` gets
 * failed checks one a line by the caller from the report. */
const char *guest_judge(const struct guest_run *r, char *buf, unsigned size);

const struct engine_ops *guest_engine(const char *name);

#endif
