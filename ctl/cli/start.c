/* joist start and restart. */
#include "ctl/cli/launch.h"
#include "ctl/cli/look.h"

static int start_one(const struct cli_args *a, struct store_vm *vm) {
	struct err e;
	if (vm->phase == STORE_RUNNING) {
		cli_error("VM %s is running already", vm->name);
		return CLI_WRONG_STATE;
	}
	int code = launch_start(vm);
	int r = code ? 0 : store_load(vm, &e);
	if (r)
		return cli_fail(r, &e);
	if (code == CLI_OK && cli_flag(a, "wait"))
		code = launch_wait_agent(vm, cli_nanoseconds(a, "timeout"), cli_flag(a, "quiet"));
	if (code == CLI_OK && cli_flag(a, "attach"))
		code = attach_console(vm, 65536, cli_flag(a, "quiet"));
	return code;
}

/* At login: what --restart always keeps. */
static int start_kept(const struct cli_args *a, struct store_vm *vm) {
	struct look l;
	look_at(&l, vm, false);
	const char *policy = def_text(&l.def, "restart");
	bool wanted = vm->phase != STORE_RUNNING &&
				  (policy[0] == 'a' || (policy[0] == 'o' && vm->phase == STORE_DIED));
	look_free(&l);
	return wanted ? start_one(a, vm) : CLI_OK;
}

static int start(const struct cli_args *a) {
	if (cli_flag(a, "kept"))
		return look_each(a, true, start_kept);
	if (!a->noperands)
		return cli_usage(a->verb, "needs VM...");
	return look_each(a, false, start_one);
}

static const struct cli_option start_options[] = {
	{"attach", 'a', CLI_FLAG, NULL, "Attach the console afterwards", NULL, NULL, false},
	{"wait", 'w', CLI_FLAG, NULL, "Wait until the guest's agent answers", NULL, NULL, false},
	{"timeout", 0, CLI_SECONDS, "TIME", "Wait no longer than this, exit code 124", NULL, NULL,
	 false},
	{"kept", 0, CLI_FLAG, NULL,
	 "Start what --restart keeps: always, and on-failure when it died; for the systemd unit", NULL,
	 NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_start = {
	.name = "start",
	.operands = "VM...",
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "start VMs",
	.about = "Starts each VM in a process of its own and returns when its CPUs run.",
	.options = start_options,
	.run = start,
};

static int restart_one(const struct cli_args *a, struct store_vm *vm) {
	struct err e;
	if (vm->phase == STORE_RUNNING) {
		int code =
			stop_vm(vm, cli_nanoseconds(a, "timeout"), cli_flag(a, "force"), cli_flag(a, "quiet"));
		if (code)
			return code;
	}
	int code = launch_start(vm);
	int r = code ? 0 : store_load(vm, &e);
	if (r)
		return cli_fail(r, &e);
	return code == CLI_OK && cli_flag(a, "wait") ? launch_wait_agent(vm, 0, cli_flag(a, "quiet"))
												 : code;
}

static int restart(const struct cli_args *a) {
	return look_each(a, false, restart_one);
}

static const struct cli_option restart_options[] = {
	{"force", 'f', CLI_FLAG, NULL, "Do not ask the guest, as if the power went", NULL, NULL, false},
	{"timeout", 't', CLI_SECONDS, "TIME", "How long the guest may take to shut down", "60", NULL,
	 false},
	{"wait", 'w', CLI_FLAG, NULL, "Wait until the guest's agent answers", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_restart = {
	.name = "restart",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "stop and start VMs",
	.about = "As stop and then start: changes of the definition take effect.",
	.options = restart_options,
	.run = restart,
};
