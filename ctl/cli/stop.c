/* joist stop: asks the guests, then insists. */
#include <stdlib.h>
#include <string.h>

#include "ctl/cli/halt.h"
#include "ctl/cli/look.h"

/* The VMs that are to be stopped. */
struct choice {
	struct store_vm *vms;
	unsigned n;
};

static bool add(struct choice *c, const struct store_vm *vm) {
	for (unsigned i = 0; i < c->n; i++)
		if (strcmp(c->vms[i].id, vm->id) == 0)
			return true; /* named twice */
	struct store_vm *more = realloc(c->vms, (c->n + 1) * sizeof(*more));
	if (!more)
		return false;
	c->vms = more;
	c->vms[c->n++] = *vm;
	return true;
}

static struct choice chosen;

static int choose(const struct cli_args *a, struct store_vm *vm) {
	if (vm->phase == STORE_RUNNING)
		return add(&chosen, vm) ? CLI_OK : CLI_FAILED;
	if (cli_flag(a, "all"))
		return CLI_OK;
	cli_error("VM %s is not running", vm->name);
	return CLI_WRONG_STATE;
}

static int run(const struct cli_args *a) {
	const struct halt_how how = {.timeout_ns = cli_nanoseconds(a, "timeout"),
								 .own_timeout = !cli_text(a, "timeout"),
								 .force = cli_flag(a, "force"),
								 .quiet = cli_flag(a, "quiet")};
	if (!a->noperands && !cli_flag(a, "all"))
		return cli_usage(a->verb, "needs VM..., or --all");
	int code = look_each(a, cli_flag(a, "all"), choose);
	int worst = halt_vms(chosen.vms, chosen.n, &how, NULL);
	free(chosen.vms);
	return worst ? worst : code;
}

static const struct cli_option options[] = {
	{"force", 'f', CLI_FLAG, NULL, "Do not ask the guest, as if the power went", NULL, NULL, false},
	{"timeout", 't', CLI_SECONDS, "TIME",
	 "How long a guest may take before it is forced, else as its --stop-timeout says (60)", NULL,
	 NULL, false},
	{"all", 'a', CLI_FLAG, NULL, "All that run", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_stop = {
	.name = "stop",
	.operands = "VM...",
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "stop VMs",
	.about =
		"Asks the guests to shut down, by their agents and the ACPI power button, all at the same "
		"time. A guest that has not after --timeout loses its power. What it has flushed to its "
		"disks is there at the next start in any case. A paused guest goes on, so that it can "
		"shut down.\n\n"
		"The VM's process keeps the time: who breaks this command off does not take the stop "
		"back. SIGTERM or SIGINT to the process itself does the same, with the VM's "
		"--stop-timeout; a second one takes the power away at once.",
	.options = options,
	.run = run,
};
