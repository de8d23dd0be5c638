/* joist pause and resume: the guest's CPUs and clock stand still meanwhile. */
#include "ctl/cli/look.h"
#include "ctl/wire/wire.h"

static int ask(const struct store_vm *vm, const char *op) {
	struct err e;
	json_t *reply;
	int code = 0, r = wire_ask(vm, json_pack("{s:s}", "op", op), &reply, WIRE_ANSWER_MS, &code, &e);
	json_decref(reply);
	if (!r)
		return CLI_OK;
	int own = cli_fail(r, &e);
	return code ? code : own;
}

static int pause_one(const struct cli_args *a, struct store_vm *vm) {
	return ask(vm, "pause");
}

static int resume_one(const struct cli_args *a, struct store_vm *vm) {
	return ask(vm, "resume");
}

static int pause_vms(const struct cli_args *a) {
	return look_each(a, false, pause_one);
}

static int resume_vms(const struct cli_args *a) {
	return look_each(a, false, resume_one);
}

const struct cli_verb cli_verb_pause = {
	.name = "pause",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "let VMs stand still",
	.about = "Stops the CPUs and the clock of a VM, which keeps its memory.",
	.run = pause_vms,
};

const struct cli_verb cli_verb_resume = {
	.name = "resume",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "let paused VMs go on",
	.about = "Lets a paused VM go on, and sets the guest's clock if its agent answers.",
	.run = resume_vms,
};
