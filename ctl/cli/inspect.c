/* joist inspect: everything about VMs, for programs and for making one like it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/cli/look.h"
#include "ctl/cli/template.h"

static int print_template(const char *format, const struct look *l) {
	json_t *j = look_json(l);
	char *text;
	int r = template_expand(format, j, &text);
	json_decref(j);
	if (r)
		return r;
	printf("%s\n", text);
	free(text);
	return CLI_OK;
}

static int run(const struct cli_args *a) {
	const char *format = cli_text(a, "format");
	bool template = format && template_is(format);
	bool yaml = !cli_flag(a, "json") &&
				strcmp(format && !template ? format : cli_text(a, "output"), "yaml") == 0;
	if (format && !template && !yaml && strcmp(format, "json") != 0)
		return cli_usage(
			a->verb, "--format %s: neither json nor yaml nor a template, as '{{.name}}'", format);
	int bad = template ? template_check(format) : CLI_OK;
	if (bad)
		return bad;
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
		else if (template)
			bad = print_template(format, &l);
		else
			json_array_append_new(list, look_json(&l));
		look_free(&l);
		if (bad)
			break;
	}
	/* One VM is an object, several are a list. */
	if (!yaml && !template) {
		json_dumpf(a->noperands == 1 ? json_array_get(list, 0) : list, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(list);
	return bad;
}

static const struct cli_option options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON, which is what it does anyway", NULL, NULL, false},
	{"output", 'o', CLI_CHOICE, "FORMAT", "As JSON, or as a definition for joist create -f", "json",
	 "json yaml", false},
	{"format", 'f', CLI_TEXT, "FORMAT",
	 "The same, or a template: '{{.name}}: {{.state}}' prints fields", NULL, "json yaml", false},
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
		"-f' makes the same VM again.\n\n"
		"A template is text with fields in it: {{.name}}, {{.definition.memory}}, "
		"{{.addresses.0}}, "
		"{{json .ports}}; \\t and \\n are a tab and a new line. The fields are those of the JSON "
		"output, letters count without case and dashes, and some go by the names that docker has "
		"for them, as {{.State.Pid}}. A field that the VM has not in its state is empty. There is "
		"no range and no if: for those give the JSON to jq.",
	.examples = "  joist inspect web | jq .addresses\n"
				"  joist inspect -f '{{.name}} has {{.addresses.0}}' web\n"
				"  joist inspect -o yaml web > web.yaml\n",
	.options = options,
	.run = run,
};
