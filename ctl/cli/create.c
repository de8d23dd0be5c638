/* joist create: a VM that does not run yet. joist validate: only the checks. */
#include <stdio.h>

#include "ctl/cli/launch.h"
#include "ctl/def/def.h"

static int create(const struct cli_args *a) {
	struct store_vm vm;
	int code = launch_make(a, &vm);
	if (code == CLI_OK)
		printf("%s\n", vm.name);
	return code;
}

static const struct cli_option options[] = {
	{"file", 'f', CLI_FILE, "FILE",
	 "Take the definition from a YAML file (-: standard input), options override it", NULL, NULL,
	 false},
	{0},
};

const struct cli_verb cli_verb_create = {
	.name = "create",
	.operands = "[IMAGE|KERNEL]",
	.max_operands = 1,
	.complete = "image",
	.summary = "make a VM without starting it",
	.about =
		"Makes a VM and prints its name. Everything that stands on the command line may stand "
		"in the file, under the same name: \"memory: 2G\", \"disk: [a.img, \\\"b.img,ro\\\"]\". "
		"'joist inspect -o yaml' prints such a file.",
	.examples = "  joist create --name db debian -m 2G --disk-size 20G\n"
				"  joist create -f vm.yaml\n",
	.options = options,
	.shared = {cli_machine_options, cli_vm_options},
	.run = create,
};

static int validate(const struct cli_args *a) {
	struct def d = {0};
	struct err e;
	int r = def_read(&d, a->operands[0], &e);
	def_free(&d);
	if (r) {
		int code = cli_fail(r, &e);
		return r == -ERR_INVAL ? CLI_USAGE : code;
	}
	printf("%s: no complaint\n", a->operands[0]);
	return CLI_OK;
}

const struct cli_verb cli_verb_validate = {
	.name = "validate",
	.operands = "FILE",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "check a definition file",
	.about = "Reads a YAML definition as 'joist create -f' does; complaints say line and column.",
	.run = validate,
};
