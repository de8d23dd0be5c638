/* Which engine runs a VM: the first in engines[] whose probe says that it works here. */
#ifndef CTL_CLI_PICK_H
#define CTL_CLI_PICK_H

#include "engine/engine.h"

#define PICK_ENGINES 8

struct engine_choice {
	const struct engine_ops *ops; /* NULL: none works */
	char why[380];				  /* a sentence */
	unsigned n;					  /* as many probes as engines[] has entries */
	struct engine_probe probes[PICK_ENGINES];
};

/* `fresh`: every engine is tried now; else what was found since the host booted may do. */
void pick_engine(struct engine_choice *c, bool fresh);

struct engine_pick {
	const struct engine_ops *ops;
	const char *tier;
	char why[380]; /* what to tell the user: "auto" did not take the best engine; or empty */
};

/* "auto", or an engine's name, with its tier after a comma: "soft,interp". `force`: one that is
 * named is not probed. 0, or -ERR_*. `pick->tier` points into `text`. */
int pick_engine_named(const char *text, bool force, struct engine_pick *pick, struct err *e);

#endif
