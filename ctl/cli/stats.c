/* joist stats: what running VMs use. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/launch.h"
#include "ctl/cli/look.h"
#include "ctl/cli/table.h"
#include "ctl/wire/wire.h"

struct sample {
	struct store_vm vm;
	json_int_t cpu_us;
	json_int_t at_us; /* of the host's monotonic clock, when the VM's process looked */
	json_t *status;
};

static json_int_t field(const struct sample *s, const char *key) {
	return json_integer_value(json_object_get(s->status, key));
}

static void take(struct sample *s) {
	struct err e;
	s->status = NULL;
	if (s->vm.phase != STORE_RUNNING || wire_ask(&s->vm, json_pack("{s:s}", "op", "status"),
												 &s->status, WIRE_ANSWER_MS, NULL, &e) != 0)
		return;
	s->cpu_us = field(s, "cpu-us");
	s->at_us = field(s, "clock-us");
}

/* Percent of one CPU between two samples. */
static double percent(const struct sample *a, const struct sample *b) {
	json_int_t us = b->at_us - a->at_us;
	return a->status && b->status && us > 0 ? 100.0 * (double)(b->cpu_us - a->cpu_us) / (double)us
											: 0;
}

static void add_row(struct table *t, const struct sample *a, const struct sample *b) {
	char resident[24], memory[24], up[24];
	table_cell(t, "%s", b->vm.name);
	table_cell(t, "%.1f%%", percent(a, b));
	table_cell(t, "%s", table_size(resident, (uint64_t)field(b, "resident")));
	table_cell(t, "%s", table_size(memory, (uint64_t)field(b, "memory")));
	table_cell(t, "%s", table_duration(up, field(b, "uptime")));
	table_cell(t, "%.1fs", (double)b->cpu_us / 1e6);
	table_cell(t, "%.1fs", (double)field(b, "throttled-ns") / 1e9);
}

static json_t *counters(const struct store_vm *vm) {
	struct err e;
	json_t *reply, *c = NULL;
	if (wire_ask(vm, json_pack("{s:s}", "op", "counters"), &reply, WIRE_ANSWER_MS, NULL, &e) == 0)
		c = json_incref(json_object_get(reply, "counters"));
	json_decref(reply);
	return c;
}

static int print_json(const struct sample *a, const struct sample *b, unsigned n, bool with) {
	json_t *list = json_array();
	for (unsigned i = 0; i < n; i++) {
		if (!b[i].status)
			continue;
		json_t *j = json_copy(b[i].status), *c = with ? counters(&b[i].vm) : NULL;
		json_object_del(j, "ok");
		json_object_set_new(j, "cpu-percent", json_real(percent(&a[i], &b[i])));
		if (c)
			json_object_set_new(j, "counters", c);
		json_array_append_new(list, j);
	}
	int r = json_dumpf(list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(list);
	return r ? CLI_FAILED : CLI_OK;
}

static int sample_all(const struct cli_args *a, struct sample *s, unsigned max, unsigned *n) {
	struct store_list l;
	struct err e;
	int r;
	*n = 0;
	if (a->noperands) {
		for (unsigned i = 0; i < a->noperands && *n < max; i++) {
			if ((r = store_find(&s[*n].vm, a->operands[i], &e)) != 0)
				return cli_fail(r, &e);
			if (s[*n].vm.phase != STORE_RUNNING) {
				cli_error("VM %s is not running", s[*n].vm.name);
				return CLI_WRONG_STATE;
			}
			take(&s[(*n)++]);
		}
		return 0;
	}
	if ((r = store_list(&l, &e)) != 0)
		return cli_fail(r, &e);
	for (unsigned i = 0; i < l.n && *n < max; i++) {
		if (l.vms[i].phase != STORE_RUNNING)
			continue;
		s[*n].vm = l.vms[i];
		take(&s[(*n)++]);
	}
	store_list_free(&l);
	return 0;
}

static int once(const struct cli_args *a, uint64_t ns) {
	static const char *const heads[] = {"NAME", "CPU",		"RESIDENT", "MEMORY",
										"UP",	"CPU TIME", "THROTTLED"};
	static struct sample first[64], second[64];
	unsigned n;
	struct table t;
	int r = sample_all(a, first, 64, &n);
	if (r)
		return r;
	nanosleep(&(struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)}, NULL);
	memcpy(second, first, sizeof(second));
	for (unsigned i = 0; i < n; i++)
		take(&second[i]);
	if (cli_flag(a, "json")) {
		r = print_json(first, second, n, cli_flag(a, "counters"));
	} else {
		table_start(&t, 7, heads);
		for (unsigned i = 0; i < n; i++)
			add_row(&t, &first[i], &second[i]);
		if (isatty(STDOUT_FILENO) && !cli_flag(a, "no-stream"))
			printf("\033[H\033[J");
		table_print(&t);
	}
	fflush(stdout);
	for (unsigned i = 0; i < n; i++) {
		json_decref(first[i].status);
		json_decref(second[i].status);
	}
	return r;
}

static int run(const struct cli_args *a) {
	uint64_t ns = cli_nanoseconds(a, "interval");
	bool stream = isatty(STDOUT_FILENO) && !cli_flag(a, "no-stream") && !cli_flag(a, "json");
	int r;
	do
		r = once(a, ns ? ns : 1000000000u);
	while (r == CLI_OK && stream);
	return r;
}

static const struct cli_option options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON, once", NULL, NULL, false},
	{"counters", 0, CLI_FLAG, NULL,
	 "With --json: also exits by kind and the engine's counters, for "
	 "which the VM stops for some milliseconds",
	 NULL, NULL, false},
	{"interval", 'i', CLI_SECONDS, "TIME", "Over which CPU use is measured", "1", NULL, false},
	{"no-stream", 0, CLI_FLAG, NULL, "Once also on a terminal", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_stats = {
	.name = "stats",
	.operands = "[VM...]",
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "show what running VMs use",
	.about =
		"Shows CPU use (100% is one CPU of this host), the memory that the VM's process has in "
		"fact, and for how long its CPU limit held it back. On a terminal again and again.",
	.options = options,
	.run = run,
};
