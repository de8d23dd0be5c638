/* A guest that never ends, stopped by kicks that come at any time: for tests of what must be true
 * whenever it stands still. */
#ifndef TEST_INSN_KICKS_H
#define TEST_INSN_KICKS_H

#include <pthread.h>

#include "test/insn/bench_vm.h"

struct kicks {
	struct bench_vm *b;
	const char *name;			/* of the test */
	unsigned least_us, more_us; /* from one kick to the next: least, and up to so much more */
	pthread_t thread;
	int stop, armed;
};

/* Its fields above `thread` are the caller's. Exits the program on failure. */
void kicks_start(struct kicks *k);
/* Runs the guest until a kick. Prints what TAP wants and exits the program if it does not run. */
void kicks_run(struct kicks *k);
void kicks_stop(struct kicks *k);

#endif
