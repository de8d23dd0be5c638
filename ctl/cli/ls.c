/* joist ls and its alias ps: the VMs. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ctl/cli/look.h"
#include "ctl/cli/table.h"

static const char *list_text(const json_t *list, char *buf, size_t size) {
	size_t i, at = 0;
	const json_t *x;
	buf[0] = 0;
	json_array_foreach((json_t *)list, i, x) {
		int n = snprintf(buf + at, size - at, "%s%s", i ? "," : "", json_string_value(x));
		if (n < 0 || (size_t)n >= size - at)
			break;
		at += (size_t)n;
	}
	return buf[0] ? buf : "-";
}

static void ports_text(const struct def *d, char *buf, size_t size) {
	size_t at = 0;
	snprintf(buf, size, "-");
	for (unsigned i = 0; i < d->n; i++) {
		if (strcmp(d->values[i].option->name, "publish") != 0)
			continue;
		int n = snprintf(buf + at, size - at, "%s%s", at ? "," : "", d->values[i].text);
		if (n < 0 || (size_t)n >= size - at)
			return;
		at += (size_t)n;
	}
}

static void add_row(struct table *t, const struct look *l) {
	char state[80], age[24], ports[120], addresses[120];
	const struct store_vm *v = &l->vm;
	int64_t now = time(NULL);
	const char *image = def_text(&l->def, "image"), *kernel = def_text(&l->def, "kernel");
	table_cell(t, "%s", v->name);
	table_cell(t, "%s", look_state(l, state, sizeof(state)));
	const char *slash = kernel ? strrchr(kernel, '/') : NULL;
	table_cell(t, "%s", image ? image : slash ? slash + 1 : kernel ? kernel : "-");
	table_cell(t, "%s", def_text(&l->def, "cpus"));
	table_cell(t, "%s", def_text(&l->def, "memory"));
	if (v->phase == STORE_RUNNING)
		table_cell(t, "up %s", table_duration(age, now - v->started));
	else
		table_cell(t, "%s ago", table_duration(age, now - (v->ended ? v->ended : v->created)));
	ports_text(&l->def, ports, sizeof(ports));
	table_cell(t, "%s", ports);
	table_cell(t, "%s", list_text(l->addresses, addresses, sizeof(addresses)));
}

static int print_all(const struct cli_args *a, const struct store_list *list) {
	static const char *const heads[] = {"NAME",	  "STATE", "IMAGE", "CPUS",
										"MEMORY", "TIME",  "PORTS", "ADDRESSES"};
	bool all = cli_flag(a, "all"), quiet = cli_flag(a, "quiet"), json = cli_flag(a, "json");
	json_t *out = json ? json_array() : NULL;
	struct table t;
	unsigned hidden = 0;
	if (!quiet && !json)
		table_start(&t, 8, heads);
	for (unsigned i = 0; i < list->n; i++) {
		const struct store_vm *v = &list->vms[i];
		struct look l;
		/* One that died is an accident and shows. */
		if (!all && v->phase != STORE_RUNNING && v->phase != STORE_DIED) {
			hidden++;
			continue;
		}
		if (quiet && !json) {
			printf("%s\n", v->name);
			continue;
		}
		look_at(&l, v, true);
		if (json)
			json_array_append_new(out, look_json(&l));
		else
			add_row(&t, &l);
		look_free(&l);
	}
	if (json) {
		int r = json_dumpf(out, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(out);
		return r ? CLI_FAILED : CLI_OK;
	}
	if (!quiet) {
		table_print(&t);
		if (hidden)
			fprintf(stderr, "(%u more, not running: joist ls -a)\n", hidden);
	}
	return CLI_OK;
}

static int run(const struct cli_args *a) {
	struct store_list list;
	struct err e;
	int r = store_list(&list, &e);
	if (r)
		return cli_fail(r, &e);
	r = print_all(a, &list);
	store_list_free(&list);
	return r;
}

static const struct cli_option options[] = {
	{"all", 'a', CLI_FLAG, NULL, "Also those that do not run", NULL, NULL, false},
	{"json", 0, CLI_FLAG, NULL, "Print JSON", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "Only the names", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_ls = {
	.name = "ls",
	.summary = "list VMs",
	.about = "Lists the VMs that run, and those whose process died; with -a all.",
	.options = options,
	.run = run,
};

const struct cli_verb cli_verb_ps = {
	.name = "ps",
	.summary = "the same as ls",
	.about = "Lists the VMs that run, and those whose process died; with -a all.",
	.options = options,
	.run = run,
};
