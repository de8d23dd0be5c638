/* See look.h. */
#include "ctl/cli/look.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl/wire/wire.h"

#define AGENT_S 2 /* an agent that does not answer costs a look at the VM so long */

static json_t *read_addresses(const struct store_vm *vm) {
	json_t *reply, *list = json_array(), *nic, *address;
	struct err e;
	size_t i, k;
	json_t *ask = json_pack("{s:s, s:s, s:i}", "op", "agent", "execute",
							"guest-network-get-interfaces", "timeout", AGENT_S);
	if (wire_ask(vm, ask, &reply, WIRE_ANSWER_MS, NULL, &e))
		return list;
	json_array_foreach(json_object_get(reply, "return"), i, nic) {
		const char *name = json_string_value(json_object_get(nic, "name"));
		if (!name || strcmp(name, "lo") == 0)
			continue;
		json_array_foreach(json_object_get(nic, "ip-addresses"), k, address) {
			json_t *ip = json_object_get(address, "ip-address");
			const char *text = json_string_value(ip);
			if (text && strncmp(text, "fe80:", 5) != 0)
				json_array_append(list, ip);
		}
	}
	json_decref(reply);
	return list;
}

void look_at(struct look *l, const struct store_vm *vm, bool addresses) {
	char path[PATHS_MAX];
	struct err e;
	*l = (struct look){.vm = *vm, .state = store_phase_name(vm->phase)};
	if (paths_join(path, sizeof(path), vm->dir, "vm.yaml", &e) || def_read(&l->def, path, &e)) {
		l->gone = access(vm->dir, F_OK) < 0;
		if (l->gone)
			return;
		cli_error("%s", e.text);
	}
	if (vm->phase != STORE_RUNNING)
		return;
	if (wire_ask(vm, json_pack("{s:s}", "op", "status"), &l->status, WIRE_ANSWER_MS, NULL, &e)) {
		/* It may have ended while it was asked. */
		if (store_load(&l->vm, &e) == 0 && l->vm.phase != STORE_RUNNING)
			l->state = store_phase_name(l->vm.phase);
		else
			l->state = "not answering";
		return;
	}
	l->state = json_string_value(json_object_get(l->status, "state"));
	if (addresses && json_is_true(json_object_get(l->status, "agent")))
		l->addresses = read_addresses(vm);
}

void look_free(struct look *l) {
	json_decref(l->status);
	json_decref(l->addresses);
	def_free(&l->def);
}

const char *look_state(const struct look *l, char *buf, size_t size) {
	if (l->vm.phase != STORE_STOPPED && l->vm.phase != STORE_DIED)
		return l->state;
	snprintf(buf, size, "%s (%s)", l->state, l->vm.end);
	return buf;
}

static json_t *when(int64_t seconds) {
	char text[40];
	struct tm tm;
	time_t t = (time_t)seconds;
	if (!seconds)
		return json_null();
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
	return json_string(text);
}

static json_t *ports(const struct def *d) {
	json_t *list = json_array();
	for (unsigned i = 0; i < d->n; i++)
		if (strcmp(d->values[i].option->name, "publish") == 0)
			json_array_append_new(list, json_string(d->values[i].text));
	return list;
}

json_t *look_json(const struct look *l) {
	const struct store_vm *v = &l->vm;
	json_t *j = json_pack(
		"{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "name", v->name, "id", v->id, "state", l->state,
		"folder", v->dir, "created", when(v->created), "started", when(v->started), "ended",
		v->phase == STORE_RUNNING ? json_null() : when(v->ended), "definition", def_json(&l->def));
	char status[80];
	const char *image = def_text(&l->def, "image");
	bool stopped = v->phase == STORE_STOPPED, ended = stopped || v->phase == STORE_DIED;
	json_object_set_new(j, "status", json_string(look_state(l, status, sizeof(status))));
	json_object_set_new(j, "image", image ? json_string(image) : json_null());
	json_object_set_new(j, "ports", ports(&l->def));
	json_object_set_new(j, "end", ended ? json_string(v->end) : json_null());
	json_object_set_new(j, "why", ended ? json_string(v->why) : json_null());
	json_object_set_new(j, "exit-code", stopped ? json_integer(v->exit_code) : json_null());
	static const char *const live[] = {"pid",	  "uptime", "cpu-us", "resident", "engine",
									   "console", "agent",	"cpus",	  "memory",	  "throttled-ns"};
	for (unsigned i = 0; i < sizeof(live) / sizeof(live[0]); i++) {
		json_t *val = json_object_get(l->status, live[i]);
		json_object_set_new(j, live[i], val ? json_incref(val) : json_null());
	}
	json_object_set_new(j, "addresses", l->addresses ? json_incref(l->addresses) : json_null());
	return j;
}

int look_each(const struct cli_args *a, bool all,
			  int (*fn)(const struct cli_args *, struct store_vm *)) {
	struct store_list l = {0};
	struct err e;
	int worst = CLI_OK, r;
	if (all && (r = store_list(&l, &e)) != 0)
		return cli_fail(r, &e);
	for (unsigned i = 0; i < l.n; i++) {
		int code = fn(a, &l.vms[i]);
		worst = code ? code : worst;
	}
	store_list_free(&l);
	for (unsigned i = 0; i < a->noperands; i++) {
		struct store_vm vm;
		r = store_find(&vm, a->operands[i], &e);
		int code = r ? cli_fail(r, &e) : fn(a, &vm);
		worst = code ? code : worst;
	}
	return worst;
}
