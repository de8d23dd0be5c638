/* joist start and restart. */
#include <string.h>

#include "ctl/cli/halt.h"
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

static bool among(const struct store_vm *vms, unsigned n, const struct store_vm *vm) {
	for (unsigned i = 0; i < n; i++)
		if (strcmp(vms[i].id, vm->id) == 0)
			return true;
	return false;
}

static bool failed(const struct store_vm *vms, const int *codes, unsigned n,
				   const struct store_vm *vm) {
	for (unsigned i = 0; i < n; i++)
		if (strcmp(vms[i].id, vm->id) == 0)
			return codes[i] != CLI_OK;
	return false;
}

/* All are stopped together, each is started as soon as all have ended. */
static int restart(const struct cli_args *a) {
	const struct halt_how how = {.timeout_ns = cli_nanoseconds(a, "timeout"),
								 .own_timeout = !cli_text(a, "timeout"),
								 .force = cli_flag(a, "force"),
								 .quiet = cli_flag(a, "quiet")};
	static struct store_vm vms[CLI_OPERANDS], running[CLI_OPERANDS];
	static int codes[CLI_OPERANDS];
	unsigned n = 0, nrunning = 0;
	int worst = CLI_OK;
	struct err e;
	for (unsigned i = 0; i < a->noperands; i++) {
		int r = store_find(&vms[n], a->operands[i], &e);
		if (r)
			worst = cli_fail(r, &e);
		else if (!among(vms, n, &vms[n]))
			n++;
	}
	for (unsigned i = 0; i < n; i++)
		if (vms[i].phase == STORE_RUNNING)
			running[nrunning++] = vms[i];
	int code = halt_vms(running, nrunning, &how, codes);
	worst = code ? code : worst;
	for (unsigned i = 0; i < n; i++) {
		if (failed(running, codes, nrunning, &vms[i]))
			continue;
		code = launch_start(&vms[i]);
		if (code == CLI_OK && cli_flag(a, "wait"))
			code = store_load(&vms[i], &e) ? CLI_FAILED
										   : launch_wait_agent(&vms[i], 0, cli_flag(a, "quiet"));
		worst = code ? code : worst;
	}
	return worst;
}

static const struct cli_option restart_options[] = {
	{"force", 'f', CLI_FLAG, NULL, "Do not ask the guest, as if the power went", NULL, NULL, false},
	{"timeout", 't', CLI_SECONDS, "TIME",
	 "How long a guest may take before it is forced, else as its --stop-timeout says (60)", NULL,
	 NULL, false},
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
