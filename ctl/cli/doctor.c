/* joist doctor: what this host offers, which engine `joist run` would take, and why. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "ctl/cli/cli.h"
#include "ctl/cli/pick.h"
#include "host/linux/facts.h"

#define COLUMN 31 /* where values start */

static const char *const status_names[] = {"info", "ok", "warning", "bad"};
static const char *const status_marks[] = {"    ", "ok  ", "warn", "BAD "};

static void print_text(const struct host_facts *f, const struct engine_choice *c) {
	for (unsigned i = 0; i < f->n; i++) {
		const struct host_fact *x = &f->facts[i];
		printf("%s  %-24s %s\n", status_marks[x->status], x->name, x->value);
		if (x->hint[0])
			printf("      %-24s -> %s\n", "", x->hint);
	}
	printf("      %-*s", COLUMN - 7, "cpu-features");
	for (unsigned i = 0, at = COLUMN; i < f->nfeatures; i++) {
		at += (unsigned)strlen(f->features[i]) + 1;
		if (at > 100) {
			printf("\n%*s", COLUMN - 1, "");
			at = COLUMN + (unsigned)strlen(f->features[i]) + 1;
		}
		printf(" %s", f->features[i]);
	}
	putchar('\n');
	for (unsigned i = 0; i < c->n; i++) {
		const struct engine_probe *p = &c->probes[i];
		printf("%s  engine %-17s %s\n", p->usable ? "ok  " : "no  ", engines[i]->name,
			   p->usable ? "usable" : p->why);
		for (unsigned k = 0; k < p->nfindings; k++)
			printf("      %-24s %s%s: %s\n", "", p->findings[k].ok ? "" : "! ", p->findings[k].what,
				   p->findings[k].found);
	}
	printf("\n%s\n", c->why);
}

static int print_json(const struct host_facts *f, const struct engine_choice *c) {
	json_t *facts = json_object(), *features = json_array(), *list = json_array();
	for (unsigned i = 0; i < f->n; i++) {
		const struct host_fact *x = &f->facts[i];
		json_t *o = json_pack("{s:s, s:s}", "status", status_names[x->status], "value", x->value);
		if (x->hint[0])
			json_object_set_new(o, "hint", json_string(x->hint));
		json_object_set_new(facts, x->name, o);
	}
	for (unsigned i = 0; i < f->nfeatures; i++)
		json_array_append_new(features, json_string(f->features[i]));
	for (unsigned i = 0; i < c->n; i++) {
		const struct engine_probe *p = &c->probes[i];
		json_t *findings = json_array();
		for (unsigned k = 0; k < p->nfindings; k++)
			json_array_append_new(findings,
								  json_pack("{s:b, s:s, s:s}", "ok", p->findings[k].ok, "what",
											p->findings[k].what, "found", p->findings[k].found));
		json_array_append_new(list,
							  json_pack("{s:s, s:b, s:s, s:o}", "name", engines[i]->name, "usable",
										p->usable, "why", p->why, "findings", findings));
	}
	json_t *j = json_pack("{s:s, s:o, s:o, s:o, s:s?, s:s}", "version", JOIST_VERSION, "host",
						  facts, "cpu_features", features, "engines", list, "engine",
						  c->ops ? c->ops->name : NULL, "why", c->why);
	int r = j ? json_dumpf(j, stdout, JSON_INDENT(2)) : -1;
	json_decref(j);
	putchar('\n');
	return r;
}

static int run(const struct cli_args *a) {
	struct host_facts f;
	struct engine_choice c;
	host_facts_collect(&f);
	pick_engine(&c, true);
	if (!cli_flag(a, "json"))
		print_text(&f, &c);
	else if (print_json(&f, &c) != 0)
		return CLI_FAILED;
	return c.ops ? CLI_OK : CLI_NO_CAPABILITY;
}

static const struct cli_option options[] = {
	{.name = "json", .kind = CLI_FLAG, .help = "Print JSON"},
	{0},
};

const struct cli_verb cli_verb_doctor = {
	.name = "doctor",
	.summary = "tell what this host offers and which engine would run",
	.about = "Looks at the CPU, its clock, KVM, limits and memory by trying them, and says "
			 "which engine 'joist run --engine auto' takes and why. Exit code 5 if no engine "
			 "works here.",
	.options = options,
	.run = run,
};
