/* joist ls and its alias ps: the VMs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/cli/look.h"
#include "ctl/cli/table.h"
#include "ctl/cli/template.h"

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

/* --filter KEY=VALUE. docker says status where we say state. */
static bool read_filter(const char *text, const char **value, char *key) {
	const char *sign = strchr(text, '=');
	if (!sign)
		return false;
	*value = sign + 1;
	size_t n = (size_t)(sign - text);
	if ((n == 5 && memcmp(text, "state", n) == 0) || (n == 6 && memcmp(text, "status", n) == 0))
		*key = 's';
	else if ((n == 4 && memcmp(text, "name", n) == 0) || (n == 5 && memcmp(text, "image", n) == 0))
		*key = text[0];
	else
		return false;
	return true;
}

/* All filters must hold, but one of several of the same key is enough, as with docker. */
static bool passes(const struct cli_args *a, const struct look *l) {
	static const char keys[] = "sni";
	const char *image = def_text(&l->def, "image"), *text, *value;
	for (unsigned k = 0; keys[k]; k++) {
		bool asked = false, good = false;
		for (unsigned i = 0; (text = cli_nth(a, "filter", i)) != NULL; i++) {
			char key;
			if (!read_filter(text, &value, &key) || key != keys[k])
				continue;
			asked = true;
			good = good || (key == 's'	 ? strcmp(l->state, value) == 0
							: key == 'n' ? strstr(l->vm.name, value) != NULL
										 : image && strcmp(image, value) == 0);
		}
		if (asked && !good)
			return false;
	}
	return true;
}

/* Without -a and a filter that says which state, those that do not run are left out; one that
 * died is an accident and shows. */
static bool is_hidden(const struct cli_args *a, const struct store_vm *v) {
	const char *text, *value;
	char key;
	if (cli_flag(a, "all") || v->phase == STORE_RUNNING || v->phase == STORE_DIED)
		return false;
	for (unsigned i = 0; (text = cli_nth(a, "filter", i)) != NULL; i++)
		if (read_filter(text, &value, &key) && key == 's')
			return false;
	return true;
}

static int print_template(const char *format, const struct look *l, struct table *t) {
	json_t *j = look_json(l);
	char *text = NULL;
	int r = t ? template_row(format, j, t) : template_expand(format, j, &text);
	json_decref(j);
	if (text)
		printf("%s\n", text);
	free(text);
	return r;
}

/* For --format with fields in it. */
static int print_templates(const struct cli_args *a, const struct store_list *list) {
	const char *format = cli_text(a, "format");
	bool table = template_is_table(format);
	struct table t = {0};
	int r = table ? template_table(format, &t) : template_check(format);
	for (unsigned i = 0; i < list->n && !r; i++) {
		struct look l;
		if (is_hidden(a, &list->vms[i]))
			continue;
		look_at(&l, &list->vms[i], strcasestr(format, "addr") != NULL);
		if (!l.gone && passes(a, &l))
			r = print_template(format, &l, table ? &t : NULL);
		look_free(&l);
	}
	if (table && !r)
		table_print(&t);
	else
		table_free(&t);
	return r;
}

static int print_all(const struct cli_args *a, const struct store_list *list) {
	static const char *const heads[] = {"NAME",	  "STATE", "IMAGE", "CPUS",
										"MEMORY", "TIME",  "PORTS", "ADDRESSES"};
	const char *format = cli_text(a, "format");
	bool quiet = cli_flag(a, "quiet"), json = cli_flag(a, "json") || format[0] == 'j';
	json_t *out = json ? json_array() : NULL;
	struct table t;
	unsigned hidden = 0;
	if (!quiet && !json)
		table_start(&t, 8, heads);
	for (unsigned i = 0; i < list->n; i++) {
		const struct store_vm *v = &list->vms[i];
		struct look l;
		if (is_hidden(a, v)) {
			hidden++;
			continue;
		}
		if (quiet && !json && !cli_nth(a, "filter", 0)) {
			printf("%s\n", v->name);
			continue;
		}
		look_at(&l, v, !quiet);
		if (l.gone || !passes(a, &l))
			;
		else if (quiet && !json)
			printf("%s\n", v->name);
		else if (json)
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
	if (!quiet && format[0] == 'c') {
		table_print_csv(&t);
	} else if (!quiet) {
		table_print(&t);
		if (hidden)
			fprintf(stderr, "(%u more, not running: joist ls -a)\n", hidden);
	}
	return CLI_OK;
}

static int run(const struct cli_args *a) {
	struct store_list list;
	struct err e;
	const char *text, *value;
	char key;
	for (unsigned i = 0; (text = cli_nth(a, "filter", i)) != NULL; i++)
		if (!read_filter(text, &value, &key))
			return cli_usage(a->verb, "--filter %s: not state=, name= or image= and a value", text);
	const char *format = cli_text(a, "format");
	bool template = template_is(format);
	if (!template && !cli_word_of(format, "table json csv"))
		return cli_usage(a->verb,
						 "--format %s: not table, json or csv, and no template, as '{{.name}}'",
						 format);
	int r = store_list(&list, &e);
	if (r)
		return cli_fail(r, &e);
	r = template && !cli_flag(a, "quiet") && !cli_flag(a, "json") ? print_templates(a, &list)
																  : print_all(a, &list);
	store_list_free(&list);
	return r;
}

static const struct cli_option options[] = {
	{"all", 'a', CLI_FLAG, NULL, "Also those that do not run", NULL, NULL, false},
	{"filter", 'f', CLI_TEXT, "KEY=VALUE",
	 "Only those with state=running (created, paused, stopped, died), name=PART or image=IMAGE",
	 NULL, NULL, true},
	{"format", 0, CLI_TEXT, "FORMAT",
	 "As table, json or csv, or by a template: '{{.name}} {{.state}}', or with heads 'table "
	 "{{.name}}\\t{{.state}}'; 'joist help inspect' has more about them",
	 "table", "table json csv", false},
	{"json", 0, CLI_FLAG, NULL, "The same as --format json", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "Only the names", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_ls = {
	.name = "ls",
	.summary = "list VMs",
	.about = "Lists the VMs that run, and those whose process died; with -a all.",
	.surplus = "'joist inspect VM' is about one, and --filter name=PART about some",
	.options = options,
	.run = run,
};

const struct cli_verb cli_verb_ps = {
	.name = "ps",
	.summary = "the same as ls",
	.about = "Lists the VMs that run, and those whose process died; with -a all.",
	.surplus = "'joist inspect VM' is about one, and --filter name=PART about some",
	.options = options,
	.run = run,
};
