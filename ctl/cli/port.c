/* joist port: forwards of a VM's first network, also while it runs. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/look.h"
#include "ctl/cli/table.h"
#include "ctl/wire/wire.h"
#include "host/linux/net.h"

static int load(const char *name, struct store_vm *vm, struct def *d, char *path, struct err *e) {
	int r = store_find(vm, name, e);
	if (r || (r = paths_join(path, PATHS_MAX, vm->dir, "vm.yaml", e)) != 0)
		return r;
	return def_read(d, path, e);
}

/* Same place of the host: protocol, address and port. */
static bool same_place(const char *a, const char *b) {
	struct host_net_forward x = {0}, y = {0};
	return !host_net_read_forward(a, &x, NULL) && !host_net_read_forward(b, &y, NULL) &&
		   x.udp == y.udp && x.host.s_addr == y.host.s_addr && x.host_port == y.host_port;
}

/* How many there were. */
static unsigned drop(struct def *d, const char *text) {
	struct def keep = {0};
	unsigned n = d->n;
	for (unsigned i = 0; i < d->n; i++)
		if (strcmp(d->values[i].option->name, "publish") != 0 ||
			!same_place(d->values[i].text, text))
			def_add(&keep, d->values[i].option->name, d->values[i].text, NULL);
	n -= keep.n;
	def_free(d);
	*d = keep;
	return n;
}

/* The running VM first: what it refuses is not written down. */
static int change(const struct cli_args *a, const char *op, bool add) {
	char path[PATHS_MAX];
	struct store_vm vm;
	struct def d = {0};
	struct err e;
	int code = 0, r = load(a->operands[0], &vm, &d, path, &e);
	for (unsigned i = 1; !r && i < a->noperands; i++) {
		const char *text = a->operands[i];
		struct host_net_forward f = {0};
		char rest[80];
		/* For rm the host's port is enough. */
		if (!add && !strchr(text, ':')) {
			snprintf(rest, sizeof(rest), "%.*s:1%s", (int)strcspn(text, "/"), text,
					 text + strcspn(text, "/"));
			text = rest;
		}
		if (host_net_read_forward(text, &f, &e)) {
			def_free(&d);
			return cli_usage(a->verb, "%s", e.text);
		}
		if (vm.phase == STORE_RUNNING) {
			json_t *reply;
			r = wire_ask(&vm, json_pack("{s:s, s:s}", "op", op, "port", text), &reply,
						 WIRE_ANSWER_MS, &code, &e);
			json_decref(reply);
		}
		if (r)
			break;
		unsigned dropped = drop(&d, text);
		if (add)
			r = def_add(&d, "publish", text, &e);
		else if (!dropped && vm.phase != STORE_RUNNING)
			r = err_set(&e, ERR_NOENT, "VM %s forwards no port %s; 'joist port ls %s' lists them",
						vm.name, a->operands[i], vm.name);
	}
	if (!r)
		r = def_save(&d, path, &e);
	def_free(&d);
	if (!r)
		return CLI_OK;
	int own = cli_fail(r, &e);
	return code ? code : own;
}

static int add(const struct cli_args *a) {
	return change(a, "port-add", true);
}

static int rm(const struct cli_args *a) {
	return change(a, "port-rm", false);
}

/* What a VM forwards now, or would if it ran, added to `list`. */
static int ports_of(const char *name, json_t *list, struct err *e) {
	char path[PATHS_MAX];
	struct store_vm vm;
	struct def d = {0};
	json_t *reply = NULL;
	int r = load(name, &vm, &d, path, e);
	if (!r && vm.phase == STORE_RUNNING) {
		r = wire_ask(&vm, json_pack("{s:s}", "op", "port-ls"), &reply, WIRE_ANSWER_MS, NULL, e);
		if (!r)
			json_array_extend(list, json_object_get(reply, "ports"));
	} else if (!r) {
		for (unsigned i = 0; i < d.n; i++)
			if (strcmp(d.values[i].option->name, "publish") == 0)
				json_array_append_new(list, json_string(d.values[i].text));
	}
	json_decref(reply);
	def_free(&d);
	return r;
}

/* Of all VMs, as a table: who has port 8080? */
static int ls_all(bool json) {
	static const char *const heads[] = {"VM", "STATE", "PORT"};
	struct store_list l;
	struct table t;
	struct err e;
	json_t *all = json_object(), *p;
	size_t k;
	int r = store_list(&l, &e);
	if (r) {
		json_decref(all);
		return cli_fail(r, &e);
	}
	table_start(&t, 3, heads);
	for (unsigned i = 0; i < l.n; i++) {
		json_t *list = json_array();
		if (ports_of(l.vms[i].name, list, &e) == 0) {
			json_array_foreach(list, k, p) {
				table_cell(&t, "%s", l.vms[i].name);
				table_cell(&t, "%s", store_phase_name(l.vms[i].phase));
				table_cell(&t, "%s", json_string_value(p));
			}
			json_object_set(all, l.vms[i].name, list);
		}
		json_decref(list);
	}
	store_list_free(&l);
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
		table_free(&t);
	} else {
		table_print(&t);
	}
	json_decref(all);
	return CLI_OK;
}

static int ls(const struct cli_args *a) {
	struct err e;
	size_t k;
	if (!a->noperands)
		return ls_all(cli_flag(a, "json"));
	json_t *list = json_array(), *p;
	int r = ports_of(a->operands[0], list, &e);
	if (!r && cli_flag(a, "json")) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (!r) {
		json_array_foreach(list, k, p) printf("%s\n", json_string_value(p));
	}
	json_decref(list);
	return r ? cli_fail(r, &e) : CLI_OK;
}

const struct cli_verb cli_verb_port_add = {
	.name = "port add",
	.operands = "VM [ADDR:]HOST:GUEST[/udp]...",
	.min_operands = 2,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "forward ports of this host to the guest",
	.about =
		"Forwards ports, at once if the VM runs, and at its later starts. ADDR is 127.0.0.1 if "
		"not given.",
	.examples = "  joist port add web 8443:443 0.0.0.0:8080:80\n",
	.run = add,
};

const struct cli_verb cli_verb_port_rm = {
	.name = "port rm",
	.operands = "VM [ADDR:]HOST[:GUEST][/udp]...",
	.min_operands = 2,
	.max_operands = CLI_OPERANDS,
	.complete = "vm",
	.summary = "end forwards",
	.about = "Ends forwards of these ports of the host.",
	.run = rm,
};

static const struct cli_option ls_options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_port_ls = {
	.name = "port ls",
	.operands = "[VM]",
	.max_operands = 1,
	.complete = "vm",
	.summary = "list forwarded ports",
	.about =
		"Lists the ports that a VM forwards now or, if it does not run, will; without VM those "
		"of all.",
	.options = ls_options,
	.run = ls,
};
