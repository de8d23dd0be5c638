/* joist inspect: everything about VMs, for programs and for making one like it. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/look.h"

static int run(const struct cli_args *a) {
	bool yaml = !cli_flag(a, "json") && strcmp(cli_text(a, "output"), "yaml") == 0;
	json_t *list = json_array();
	for (unsigned i = 0; i < a->noperands; i++) {
		struct store_vm vm;
		struct look l;
		struct err e;
		int r = store_find(&vm, a->operands[i], &e);
		if (r) {
			json_decref(list);
			return cli_fail(r, &e);
		}
		look_at(&l, &vm, !yaml);
		if (l.gone) {
			json_decref(list);
			return cli_fail(err_set(&e, ERR_NOENT, "VM %s is gone", vm.name), &e);
		}
		if (yaml)
			def_write(&l.def, vm.name, stdout);
		else
			json_array_append_new(list, look_json(&l));
		look_free(&l);
	}
	/* One VM is an object, several are a list. */
	if (!yaml) {
		json_dumpf(a->noperands == 1 ? json_array_get(list, 0) : list, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(list);
	return CLI_OK;
}

static const struct cli_option options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON, which is what it does anyway", NULL, NULL, false},
	{"output", 'o', CLI_CHOICE, "FORMAT", "As JSON, or as a definition for joist create -f", "json",
	 "json yaml", false},
	{0},
};

const struct cli_verb cli_verb_inspect = {
	.name = "inspect",
	.operands = "VM...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "tell everything about VMs",
	.about =
		"Prints definition and state. With -o yaml only the definition, from which 'joist create "
		"-f' makes the same VM again.",
	.examples = "  joist inspect web | jq .addresses\n"
				"  joist inspect -o yaml web > web.yaml\n",
	.options = options,
	.run = run,
};
