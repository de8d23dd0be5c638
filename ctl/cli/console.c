/* joist console: this terminal as the VM's serial line. */
#include "ctl/cli/launch.h"

static int run(const struct cli_args *a) {
	struct store_vm vm;
	struct err e;
	int r = store_find(&vm, a->operands[0], &e);
	if (r)
		return cli_fail(r, &e);
	return attach_console(&vm, cli_flag(a, "no-replay") ? 0 : 65536, cli_flag(a, "quiet"));
}

static const struct cli_option options[] = {
	{"no-replay", 0, CLI_FLAG, NULL, "Without what was printed before", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No hints on the terminal", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_console = {
	.name = "console",
	.operands = "VM",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "vm",
	.summary = "attach to a VM's console",
	.about =
		"Connects this terminal with the guest's console, after the last 64 KiB that it printed. "
		"Ctrl-] leaves; the VM goes on. Several people may be attached at once: all see "
		"everything, and all may type.",
	.options = options,
	.run = run,
};
