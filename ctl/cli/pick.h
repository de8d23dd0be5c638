/* Which engine runs a VM: the first in engines[] whose probe says that it works here. */
#ifndef CTL_CLI_PICK_H
#define CTL_CLI_PICK_H

#include "engine/engine.h"

#define PICK_ENGINES 8

struct engine_choice {
	const struct engine_ops *ops; /* NULL: none works */
	char why[320];				  /* a sentence */
	unsigned n;					  /* as many probes as engines[] has entries */
	struct engine_probe probes[PICK_ENGINES];
};

void pick_engine(struct engine_choice *c);

/* "auto", or an engine's name, with its tier after a comma: "soft,interp". 0, or -ERR_*.
 * `tier` points into `text`. */
int pick_engine_named(const char *text, const struct engine_ops **ops, const char **tier,
					  struct err *e);

#endif
