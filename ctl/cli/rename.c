/* joist rename: also while it runs. */
#include "ctl/cli/cli.h"
#include "ctl/store/store.h"
#include "ctl/wire/wire.h"

static int run(const struct cli_args *a) {
	struct store_vm vm;
	struct err e;
	const char *name = a->operands[1];
	if (!cli_valid_name(name))
		return cli_usage(a->verb, "%s: not %s", name, cli_kind_text(CLI_NAME));
	int r = store_find(&vm, a->operands[0], &e);
	if (r || (r = store_rename(&vm, name, &e)) != 0)
		return cli_fail(r, &e);
	if (vm.phase == STORE_RUNNING) {
		json_t *reply;
		r = wire_ask(&vm, json_pack("{s:s, s:s}", "op", "renamed", "name", name), &reply,
					 WIRE_ANSWER_MS, NULL, &e);
		json_decref(reply);
		if (r)
			cli_error("renamed, but its process was not told: %s", e.text);
	}
	return CLI_OK;
}

const struct cli_verb cli_verb_rename = {
	.name = "rename",
	.operands = "VM NAME",
	.min_operands = 2,
	.max_operands = 2,
	.complete = "vm",
	.summary = "give a VM another name",
	.about = "Renames a VM, which may be running. The guest keeps its host name.",
	.run = run,
};
