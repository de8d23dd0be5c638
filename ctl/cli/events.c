/* joist events: what happens to running VMs, a line each. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/cli/look.h"
#include "ctl/wire/wire.h"

#define WATCHED 64
#define RESCAN_MS 1000

struct watch {
	char id[STORE_ID];
	struct wire_client c;
	bool used;
};

static void print_event(const char *line, bool json) {
	if (json) {
		printf("%s\n", line);
	} else {
		json_t *j = json_loads(line, 0, NULL);
		const char *end = json_string_value(json_object_get(j, "end"));
		const char *why = json_string_value(json_object_get(j, "why"));
		printf("%s %s %s%s%s%s%s\n", json_string_value(json_object_get(j, "time")),
			   json_string_value(json_object_get(j, "vm")),
			   json_string_value(json_object_get(j, "event")), end ? " " : "", end ? end : "",
			   why && why[0] ? ": " : "", why ? why : "");
		json_decref(j);
	}
	fflush(stdout);
}

static bool is_watched(const struct watch *w, const char *id) {
	for (unsigned i = 0; i < WATCHED; i++)
		if (w[i].used && strcmp(w[i].id, id) == 0)
			return true;
	return false;
}

/* VMs that were started since the last look. There is no daemon that would tell. */
static void rescan(struct watch *w, const struct cli_args *a, const char *only, bool first) {
	struct store_list l;
	struct err e;
	json_t *reply;
	if (store_list(&l, &e))
		return;
	for (unsigned i = 0; i < l.n; i++) {
		struct watch *slot = NULL;
		if (l.vms[i].phase != STORE_RUNNING || is_watched(w, l.vms[i].id) ||
			(only && strcmp(only, l.vms[i].id) != 0))
			continue;
		for (unsigned k = 0; !slot && k < WATCHED; k++)
			slot = w[k].used ? NULL : &w[k];
		if (!slot || wire_connect(&slot->c, &l.vms[i], &e))
			continue;
		if (wire_call(&slot->c, json_pack("{s:s}", "op", "events"), &reply, WIRE_ANSWER_MS, NULL,
					  &e)) {
			wire_close(&slot->c);
			continue;
		}
		json_decref(reply);
		slot->used = true;
		strcpy(slot->id, l.vms[i].id);
		if (!first) {
			char line[200], when[40];
			time_t now = time(NULL);
			struct tm tm;
			strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
			snprintf(line, sizeof(line),
					 "{\"time\":\"%s\",\"vm\":\"%s\",\"id\":\"%s\",\"event\":\"started\"}", when,
					 l.vms[i].name, l.vms[i].id);
			print_event(line, cli_flag(a, "json"));
		}
	}
	store_list_free(&l);
}

static int run(const struct cli_args *a) {
	static struct watch w[WATCHED];
	struct store_vm vm;
	struct err e;
	bool first = true;
	int r = a->noperands ? store_find(&vm, a->operands[0], &e) : 0;
	if (r)
		return cli_fail(r, &e);
	for (;; first = false) {
		struct pollfd p[WATCHED];
		rescan(w, a, a->noperands ? vm.id : NULL, first);
		for (unsigned i = 0; i < WATCHED; i++)
			p[i] = (struct pollfd){w[i].used ? w[i].c.fd : -1, POLLIN, 0};
		if (poll(p, WATCHED, RESCAN_MS) < 0 && errno != EINTR)
			return CLI_FAILED;
		for (unsigned i = 0; i < WATCHED; i++) {
			char *line;
			if (!w[i].used || !p[i].revents)
				continue;
			int n = wire_buffer_read(&w[i].c.in, w[i].c.fd);
			while ((line = wire_buffer_line(&w[i].c.in)) != NULL) {
				print_event(line, cli_flag(a, "json"));
				free(line);
			}
			if (n <= 0) {
				wire_close(&w[i].c);
				w[i].used = false;
			}
		}
	}
}

static const struct cli_option options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON, an object a line", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_events = {
	.name = "events",
	.operands = "[VM]",
	.max_operands = 1,
	.complete = "vm",
	.summary = "print what happens to VMs",
	.about = "Prints a line whenever a VM starts, pauses, goes on, is renamed or updated, or ends. "
			 "Goes on until Ctrl-C.",
	.options = options,
	.run = run,
};
