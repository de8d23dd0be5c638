/* What is known about a VM: its folder, its definition and, if it runs, what its process says. */
#ifndef CTL_CLI_LOOK_H
#define CTL_CLI_LOOK_H

#include <jansson.h>

#include "ctl/def/def.h"
#include "ctl/store/store.h"

struct look {
	struct store_vm vm;
	struct def def;
	json_t *status;	   /* NULL: it does not run or does not answer */
	json_t *addresses; /* array of strings, from the agent; NULL: not asked or no answer */
	const char *state; /* "running", "paused", "stopped", "died"... */
	bool gone;		   /* removed while it was looked at; all else is empty */
};

/* `addresses`: ask the guest's agent, too, if it answers. */
void look_at(struct look *l, const struct store_vm *vm, bool addresses);
void look_free(struct look *l);
/* Every field is always there; null is what a VM in that state has not. */
json_t *look_json(const struct look *l);
/* One line about the state: "running", "stopped (powered off)", "died (its process is gone)". */
const char *look_state(const struct look *l, char *buf, size_t size);

/* For verbs that take VMs: calls `fn` for each operand, or for all of `all`; the worst exit code.
 */
int look_each(const struct cli_args *a, bool all,
			  int (*fn)(const struct cli_args *, struct store_vm *));

#endif
