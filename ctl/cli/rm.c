/* joist rm: a VM with its disks. joist prune: all that do not run. */
#include <stdio.h>
#include <unistd.h>

#include "ctl/cli/halt.h"
#include "ctl/cli/look.h"
#include "ctl/cli/table.h"

static int remove_one(const struct cli_args *a, struct store_vm *vm) {
	struct err e;
	if (vm->phase == STORE_RUNNING) {
		if (!cli_flag(a, "force")) {
			cli_error("VM %s is running: 'joist stop %s' first, or 'joist rm -f %s'", vm->name,
					  vm->name, vm->name);
			return CLI_WRONG_STATE;
		}
		const struct halt_how how = {.force = true, .quiet = true};
		int code = halt_vms(vm, 1, &how, NULL);
		if (code && store_is_locked(vm))
			return code; /* else it ended by itself meanwhile */
	}
	int r = store_remove(vm, &e);
	return r == -ERR_NOENT && cli_flag(a, "force") ? CLI_OK : r ? cli_fail(r, &e) : CLI_OK;
}

/* With --force it is enough that a VM is not there afterwards, as with rm(1): a script's first line
 * may be "rm -f". It is said all the same, for who has mistyped. */
static int rm(const struct cli_args *a) {
	int worst = CLI_OK;
	for (unsigned i = 0; i < a->noperands; i++) {
		struct store_vm vm;
		struct err e;
		int r = store_find(&vm, a->operands[i], &e);
		int code = r ? cli_fail(r, &e) : remove_one(a, &vm);
		if (r == -ERR_NOENT && cli_flag(a, "force"))
			code = CLI_OK;
		worst = code ? code : worst;
	}
	return worst;
}

static const struct cli_option rm_options[] = {
	{"force", 'f', CLI_FLAG, NULL,
	 "Also if it runs, without asking the guest; none of that name is no failure", NULL, NULL,
	 false},
	{0},
};

const struct cli_verb cli_verb_rm = {
	.name = "rm",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "remove VMs and their disks",
	.about =
		"Removes VMs for good: definition, logs, and the disks that joist made for them. Files "
		"that were given with --disk stay.",
	.options = rm_options,
	.run = rm,
};

static int prune_one(const struct cli_args *a, struct store_vm *vm) {
	struct err e;
	if (vm->phase == STORE_RUNNING)
		return CLI_OK;
	if (!cli_flag(a, "dry-run")) {
		int r = store_remove(vm, &e);
		if (r)
			return cli_fail(r, &e);
	}
	printf("%s\n", vm->name);
	return CLI_OK;
}

static bool confirmed(const struct cli_args *a) {
	char answer[8] = "";
	if (cli_flag(a, "force") || cli_flag(a, "dry-run"))
		return true;
	if (!isatty(STDIN_FILENO))
		return false;
	fprintf(stderr, "This removes all VMs that do not run, with their disks. Go on? [y/N] ");
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int prune(const struct cli_args *a) {
	if (!confirmed(a)) {
		cli_error("nothing is removed; --force does without asking");
		return CLI_FAILED;
	}
	return look_each(a, true, prune_one);
}

static const struct cli_option prune_options[] = {
	{"force", 'f', CLI_FLAG, NULL, "Do not ask", NULL, NULL, false},
	{"dry-run", 0, CLI_FLAG, NULL, "Only print what would go", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_prune = {
	.name = "prune",
	.summary = "remove all VMs that do not run",
	.about = "Removes all VMs that do not run, with their disks, and prints their names.",
	.options = prune_options,
	.run = prune,
};
