/* joist update: changes a VM's definition, and the VM as far as it can change while it runs. Memory
 * and CPUs can become less than the VM was started with, and again as much; more needs a start. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/look.h"
#include "ctl/proc/limit.h"
#include "ctl/wire/wire.h"

/* Keys that a running VM takes at once. */
static bool is_live(const char *name) {
	return strcmp(name, "cpu-limit") == 0 || strcmp(name, "cpu-shares") == 0 ||
		   strcmp(name, "memory-limit") == 0 || strcmp(name, "memory") == 0 ||
		   strcmp(name, "cpus") == 0 || strcmp(name, "disk-limit") == 0 ||
		   strcmp(name, "net-limit") == 0 || strcmp(name, "disk-shares") == 0 ||
		   strcmp(name, "net-shares") == 0;
}

/* What the process answered about one key, where there is something to say. */
static void tell_how(const struct store_vm *vm, const char *key, const char *how) {
	bool memory = strcmp(key, "memory") == 0;
	if (strcmp(how, "restart") == 0)
		cli_error("--%s takes effect when VM %s is started again: it is more than it has now", key,
				  vm->name);
	else if (strcmp(how, "none") == 0 && memory)
		cli_error("--memory is noted, but VM %s has no balloon that listens: it keeps its memory "
				  "until then or its next start",
				  vm->name);
	else if (strcmp(how, "none") == 0 && strstr(key, "-shares"))
		cli_error("--%s is noted, but VMs share nothing here: that needs $XDG_RUNTIME_DIR", key);
	else if (strcmp(how, "none") == 0)
		cli_error("--%s is noted, but cannot be enforced here: it needs cgroup v2; where systemd "
				  "manages that, a login with $XDG_RUNTIME_DIR and the package dbus-user-session",
				  key);
}

static int tell_process(const struct store_vm *vm, const struct cli_args *a, const struct def *d) {
	const char *limit = def_text(d, "cpu-limit"), *memory = def_text(d, "memory-limit");
	uint64_t shares = 100, bytes = 0;
	json_t *q = json_pack("{s:s}", "op", "update"), *reply, *how;
	struct err e;
	const char *key;
	cli_read_number(def_text(d, "cpu-shares"), &shares);
	if (memory)
		cli_read_size(memory, &bytes);
	if (cli_text(a, "cpu-limit"))
		json_object_set_new(q, "cpu-limit", json_integer(limit ? limit_read_percent(limit) : 0));
	if (cli_text(a, "cpu-shares"))
		json_object_set_new(q, "cpu-shares", json_integer((json_int_t)shares));
	if (cli_text(a, "memory-limit"))
		json_object_set_new(q, "memory-limit", json_integer((json_int_t)bytes));
	if (cli_text(a, "memory"))
		json_object_set_new(q, "memory", json_integer((json_int_t)cli_size(a, "memory")));
	if (cli_text(a, "cpus"))
		json_object_set_new(q, "cpus", json_integer((json_int_t)cli_number(a, "cpus")));
	if (cli_text(a, "disk-limit"))
		json_object_set_new(q, "disk-limit", json_string(cli_text(a, "disk-limit")));
	static const char *const shares_of[] = {"disk-shares", "net-shares"};
	for (unsigned i = 0; i < 2; i++)
		if (cli_text(a, shares_of[i]))
			json_object_set_new(q, shares_of[i],
								json_integer((json_int_t)cli_number(a, shares_of[i])));
	if (cli_text(a, "net-limit"))
		json_object_set_new(q, "net-limit", json_string(cli_text(a, "net-limit")));
	int r = wire_ask(vm, q, &reply, WIRE_ANSWER_MS, NULL, &e);
	if (r)
		return cli_fail(r, &e);
	json_object_foreach(reply, key, how) {
		if (json_is_string(how))
			tell_how(vm, key, json_string_value(how));
	}
	json_decref(reply);
	return CLI_OK;
}

/* As the definition's keys; "none" takes a limit away. */
static int check_values(const struct cli_args *a) {
	struct err e;
	for (unsigned i = 0; i < a->nvalues; i++) {
		const struct cli_value *v = &a->values[i];
		const struct cli_option *key = def_option(v->option->name);
		bool none = v->option->kind == CLI_TEXT && strcmp(v->text, "none") == 0;
		if (key && !none && cli_check_value(key, v->text, &e))
			return cli_usage(a->verb, "%s%s", e.text,
							 v->option->kind == CLI_TEXT ? "; none: no limit" : "");
	}
	return 0;
}

static int update_one(const struct cli_args *a, struct store_vm *vm) {
	char path[PATHS_MAX];
	struct def d = {0};
	struct err e;
	int r = paths_join(path, sizeof(path), vm->dir, "vm.yaml", &e);
	if (r || (r = def_read(&d, path, &e)) != 0)
		return cli_fail(r, &e);
	for (unsigned i = 0; !r && i < a->nvalues; i++) {
		const struct cli_value *v = &a->values[i];
		if (strcmp(v->text, "none") == 0 && v->option->kind == CLI_TEXT)
			def_drop(&d, v->option->name);
		else
			r = def_add(&d, v->option->name, v->text, &e);
		if (!r && vm->phase == STORE_RUNNING && !is_live(v->option->name))
			fprintf(stderr, "joist: --%s takes effect when VM %s is started again\n",
					v->option->name, vm->name);
	}
	if (!r)
		r = def_save(&d, path, &e);
	int code = r ? cli_fail(r, &e) : CLI_OK;
	if (code == CLI_OK && vm->phase == STORE_RUNNING)
		code = tell_process(vm, a, &d);
	def_free(&d);
	return code;
}

static int run(const struct cli_args *a) {
	int r = check_values(a);
	if (r)
		return r;
	if (!a->nvalues)
		return cli_usage(a->verb, "what to change? As --cpu-limit 50%%");
	return look_each(a, false, update_one);
}

static const struct cli_option options[] = {
	{"cpus", 'c', CLI_NUMBER, "N",
	 "Virtual CPUs; until its next start a running VM gets the time of fewer", NULL, NULL, false},
	{"memory", 'm', CLI_SIZE, "SIZE", "Memory of the guest; a running VM gives some back", NULL,
	 NULL, false},
	{"cpu-limit", 0, CLI_TEXT, "PERCENT", "Most CPU time it may take, at once; none: no limit",
	 NULL, NULL, false},
	{"cpu-shares", 0, CLI_NUMBER, "N", "Weight against your other VMs at the CPUs, at once", NULL,
	 NULL, false},
	{"memory-limit", 0, CLI_SIZE, "SIZE", "Memory of the VM's process, at once", NULL, NULL, false},
	{"disk-limit", 0, CLI_TEXT, "RATE[,burst=SIZE][,iops=N]",
	 "Bytes a second that each disk may read and write, at once; none: no limit", NULL, NULL,
	 false},
	{"net-limit", 0, CLI_TEXT, "RATE[,burst=SIZE][,packets=N]",
	 "Bytes a second each network card may send and receive, at once; none: no limit", NULL, NULL,
	 false},
	{"disk-shares", 0, CLI_NUMBER, "N", "Weight against your other VMs at a disk, at once", NULL,
	 NULL, false},
	{"net-shares", 0, CLI_NUMBER, "N", "Weight against your other VMs in the network, at once",
	 NULL, NULL, false},
	{"restart", 0, CLI_CHOICE, "WHEN", "Start it again when it ends", NULL, "no on-failure always",
	 false},
	{0},
};

const struct cli_verb cli_verb_update = {
	.name = "update",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "change VMs, also while they run",
	.about =
		"Changes the definition. Limits hold at once: by cgroup v2 where this user may use it, "
		"else the CPU limit by standing still for a part of the time. CPU shares are kept by "
		"your VMs among themselves: while they want more CPUs than there are, each has its part "
		"of the host's by weight, and what one does not use the others have. Against other "
		"programs they are cgroup v2's weight, or below 100 the nice level. Less memory than a "
		"VM was started with is taken by its balloon, as far and as soon as the guest gives it, "
		"and given back by it; fewer CPUs are a limit of CPU time. More of either takes effect "
		"at the next start, and joist says so.",
	.examples = "  joist update web --cpu-limit 50%\n"
				"  joist update web --memory 512M\n"
				"  joist update db --memory 4G && joist restart db\n",
	.options = options,
	.run = run,
};
