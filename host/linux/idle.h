/* When a VM has done next to nothing for half a minute: then what it keeps only to be quick, above
 * all translated code, is given back to the host, and made again from the little that it still
 * runs. Not again before it has worked meanwhile. */
#ifndef HOST_LINUX_IDLE_H
#define HOST_LINUX_IDLE_H

#include "host/linux/loop.h"

#define IDLE_LOOK_NS 10000000000ull /* a look costs a wake-up, and an idle VM shall have few */
#define IDLE_LOOKS 3				/* in a row */
#define IDLE_PART 50				/* below 1/50 of a CPU it is idle */

struct idle {
	struct loop *loop;
	struct loop_timer timer;
	void (*trim)(void *opaque);
	void *opaque;
	bool made;
	/* The rule's. */
	uint64_t at_ns, used_ns;
	unsigned looks; /* that found it idle, one after the other */
	bool trimmed;	/* and nothing done since */
};

/* The rule: it is `now_ns` and the process has had `used_ns` of CPU time. true: give back now. */
bool idle_look(struct idle *w, uint64_t now_ns, uint64_t used_ns);

/* trim(opaque) is called from the loop's thread. `w` is zero before, and the caller's; a host that
 * has no timer left watches nothing. */
void idle_start(struct idle *w, struct loop *l, void (*trim)(void *opaque), void *opaque);
void idle_stop(struct idle *w);

#endif
