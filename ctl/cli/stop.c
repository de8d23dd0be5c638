/* joist stop: asks the guest, then insists. */
#include <signal.h>
#include <string.h>
#include <time.h>

#include "ctl/cli/launch.h"
#include "ctl/cli/look.h"
#include "ctl/wire/wire.h"

#define FORCE_MS 15000
#define DYING_MS 3000
#define QUIT_TRIES 3

static int ask(const struct store_vm *vm, json_t *q, int *code, struct err *e) {
	json_t *reply;
	*code = CLI_FAILED;
	int r = wire_ask(vm, q, &reply, WIRE_ANSWER_MS, code, e);
	json_decref(reply);
	return r;
}

/* true: it does not run any more. */
static bool wait_end(const struct store_vm *vm, int64_t ms, bool quiet, const char *what) {
	struct progress p;
	int64_t end = progress_now_ms() + ms, shown = 0;
	struct err e;
	bool gone;
	progress_start(&p, what, quiet);
	while (!(gone = !store_is_locked(vm)) && progress_now_ms() < end) {
		if (progress_now_ms() - shown >= 500) {
			json_t *status = NULL;
			shown = progress_now_ms();
			if (p.on && shown - p.start_ms >= 500 &&
				wire_ask(vm, json_pack("{s:s}", "op", "status"), &status, 1000, NULL, &e) == 0)
				progress_show(&p, json_string_value(json_object_get(status, "console")));
			json_decref(status);
		}
		nanosleep(&(struct timespec){0, 20000000}, NULL);
	}
	progress_end(&p);
	return gone;
}

/* By the agent if there is one, since it also works with the keyboard's power key disabled;
 * by the power button else. */
static int ask_guest(const struct store_vm *vm, int *code, struct err *e) {
	json_t *status = NULL, *reply = NULL;
	bool agent =
		wire_ask(vm, json_pack("{s:s}", "op", "status"), &status, WIRE_ANSWER_MS, NULL, e) == 0 &&
		json_is_true(json_object_get(status, "agent"));
	json_decref(status);
	if (agent) {
		/* It answers nothing when it works: the request is what counts. */
		json_t *q = json_pack("{s:s, s:s, s:{s:s}, s:i}", "op", "agent", "execute",
							  "guest-shutdown", "arguments", "mode", "powerdown", "timeout", 2);
		int ignored;
		wire_ask(vm, q, &reply, 3000, &ignored, e);
		json_decref(reply);
	}
	return ask(vm, json_pack("{s:s}", "op", "power-button"), code, e);
}

int stop_vm(const struct store_vm *vm, uint64_t timeout_ns, bool force, bool quiet) {
	struct err e;
	int code, r;
	if (vm->phase != STORE_RUNNING) {
		cli_error("VM %s is not running", vm->name);
		return CLI_WRONG_STATE;
	}
	if (!force && timeout_ns) {
		r = ask_guest(vm, &code, &e);
		if (r && store_is_locked(vm)) {
			cli_error("%s; 'joist stop -f %s' takes the power away", e.text, vm->name);
			return code;
		}
		if (wait_end(vm, (int64_t)(timeout_ns / 1000000), quiet, "the guest shuts down"))
			return CLI_OK;
		cli_error("the guest of VM %s has not shut down in %llu s: taking the power away", vm->name,
				  (unsigned long long)(timeout_ns / 1000000000));
	}
	/* A process that does not answer may be ending by itself just now, or be about to start its VM
	 * again (--restart): then the next try finds it. */
	for (unsigned i = 0; i < QUIT_TRIES; i++) {
		r = ask(vm, json_pack("{s:s}", "op", "quit"), &code, &e);
		if (wait_end(vm, r ? DYING_MS : FORCE_MS, quiet, "the VM ends"))
			return CLI_OK;
		if (!r)
			break;
	}
	/* It holds its lock, and so it is the process that wrote its number down. */
	struct store_vm now = *vm;
	if (force && store_load(&now, &e) == 0 && now.phase == STORE_RUNNING && now.pid > 0 &&
		kill(now.pid, SIGKILL) == 0 && wait_end(vm, FORCE_MS, quiet, "the VM's process ends")) {
		cli_error("the process of VM %s did not answer and is killed", vm->name);
		return CLI_OK;
	}
	if (r) {
		cli_error("%s; its process is %d", e.text, vm->pid);
		return code;
	}
	cli_error("VM %s does not end; its process is %d", vm->name, vm->pid);
	return CLI_TIMEOUT;
}

static int stop_one(const struct cli_args *a, struct store_vm *vm) {
	if (cli_flag(a, "all") && vm->phase != STORE_RUNNING)
		return CLI_OK;
	return stop_vm(vm, cli_nanoseconds(a, "timeout"), cli_flag(a, "force"), cli_flag(a, "quiet"));
}

static int run(const struct cli_args *a) {
	if (!a->noperands && !cli_flag(a, "all"))
		return cli_usage(a->verb, "needs VM..., or --all");
	return look_each(a, cli_flag(a, "all"), stop_one);
}

static const struct cli_option options[] = {
	{"force", 'f', CLI_FLAG, NULL, "Do not ask the guest, as if the power went", NULL, NULL, false},
	{"timeout", 't', CLI_SECONDS, "TIME", "How long the guest may take before it is forced", "60",
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
		"Asks the guest to shut down, by its agent or the ACPI power button. A guest that has "
		"not after --timeout loses its power. What it has flushed to its disks is there at the "
		"next start in any case.",
	.options = options,
	.run = run,
};
