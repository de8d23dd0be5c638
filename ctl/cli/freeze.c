/* joist freeze and thaw: the guest's file systems stand still, consistent on the disk, so that an
 * image can be copied while its VM runs. By the guest's agent (guest-fsfreeze-freeze). */
#include <stdio.h>

#include "ctl/cli/guest.h"
#include "ctl/cli/look.h"

static int ask(const struct store_vm *vm, const char *execute, json_int_t *n) {
	struct wire_client c;
	struct err e;
	json_t *result = NULL;
	int r = wire_connect(&c, vm, &e);
	if (r)
		return cli_fail(r, &e);
	r = guest_ask(&c, execute, NULL, &result, &e);
	*n = json_integer_value(result);
	json_decref(result);
	wire_close(&c);
	return r ? cli_fail(r, &e) : CLI_OK;
}

static int freeze_one(const struct cli_args *a, struct store_vm *vm) {
	json_int_t n;
	int code = ask(vm, "guest-fsfreeze-freeze", &n);
	if (code == CLI_OK)
		fprintf(stderr,
				"joist: %lld file systems of VM %s are frozen; 'joist thaw %s' lets them go on\n",
				(long long)n, vm->name, vm->name);
	return code;
}

static int thaw_one(const struct cli_args *a, struct store_vm *vm) {
	json_int_t n;
	int code = ask(vm, "guest-fsfreeze-thaw", &n);
	if (code == CLI_OK && n == 0) {
		cli_error("no file system of VM %s was frozen", vm->name);
		return CLI_WRONG_STATE;
	}
	return code;
}

static int freeze(const struct cli_args *a) {
	return look_each(a, false, freeze_one);
}

static int thaw(const struct cli_args *a) {
	return look_each(a, false, thaw_one);
}

const struct cli_verb cli_verb_freeze = {
	.name = "freeze",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "hold the guest's file systems still for a copy",
	.about =
		"Asks the guest's agent to write out all that its file systems hold in memory and to keep "
		"them still: a copy of the disk made now is whole. Programs that write wait until "
		"'joist thaw'; meanwhile the agent does nothing else.",
	.examples = "  joist freeze db && cp --reflink=auto disk0.qcow2 copy.qcow2; joist thaw db\n",
	.run = freeze,
};

const struct cli_verb cli_verb_thaw = {
	.name = "thaw",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "let frozen file systems go on",
	.about = "Ends what 'joist freeze' began.",
	.run = thaw,
};
