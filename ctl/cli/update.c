/* joist update: changes a VM's definition, and the VM as far as it can change while it runs. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/look.h"
#include "ctl/proc/limit.h"
#include "ctl/wire/wire.h"

/* Keys that a running VM takes at once. */
static bool is_live(const char *name) {
	return strcmp(name, "cpu-limit") == 0 || strcmp(name, "cpu-shares") == 0 ||
		   strcmp(name, "memory-limit") == 0;
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
	int r = wire_ask(vm, q, &reply, 5000, NULL, &e);
	if (r)
		return cli_fail(r, &e);
	json_object_foreach(reply, key,
						how) if (json_is_string(how) && strcmp(json_string_value(how), "none") == 0)
		cli_error("--%s is noted, but cannot be enforced here: it needs cgroup v2, which this "
				  "user may not use on this host",
				  key);
	json_decref(reply);
	return CLI_OK;
}

static int check_cpu(const struct cli_args *a) {
	const char *limit = cli_text(a, "cpu-limit");
	uint64_t n = 100;
	if (limit && strcmp(limit, "none") != 0 && !limit_read_percent(limit))
		return cli_usage(a->verb,
						 "--cpu-limit %s: not a part of CPUs (examples: 50%%, 150%%, none)", limit);
	if (cli_text(a, "cpu-shares"))
		n = cli_number(a, "cpu-shares");
	if (n < 2 || n > 10000)
		return cli_usage(a->verb, "--cpu-shares %s: a number from 2 to 10000",
						 cli_text(a, "cpu-shares"));
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
		if (strcmp(v->option->name, "cpu-limit") == 0 && strcmp(v->text, "none") == 0)
			def_drop(&d, "cpu-limit");
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
	int r = check_cpu(a);
	if (r)
		return r;
	if (!a->nvalues)
		return cli_usage(a->verb, "what to change? As --cpu-limit 50%%");
	return look_each(a, false, update_one);
}

static const struct cli_option options[] = {
	{"cpus", 'c', CLI_NUMBER, "N", "Virtual CPUs, from the next start on", NULL, NULL, false},
	{"memory", 'm', CLI_SIZE, "SIZE", "Memory of the guest, from the next start on", NULL, NULL,
	 false},
	{"cpu-limit", 0, CLI_TEXT, "PERCENT", "Most CPU time it may take, at once; none: no limit",
	 NULL, NULL, false},
	{"cpu-shares", 0, CLI_NUMBER, "N", "Weight against other VMs, at once", NULL, NULL, false},
	{"memory-limit", 0, CLI_SIZE, "SIZE", "Memory of the VM's process, at once", NULL, NULL, false},
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
		"Changes the definition. Limits hold at once: by cgroup v2 where this user may use it; "
		"else the CPU limit by standing still for a part of the time, and shares below 100 by "
		"the nice level.",
	.examples = "  joist update web --cpu-limit 50%\n"
				"  joist update db --memory 4G && joist restart db\n",
	.options = options,
	.run = run,
};
