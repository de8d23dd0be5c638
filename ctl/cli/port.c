/* joist port: forwards of a VM's first network, also while it runs. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/look.h"
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

static void drop(struct def *d, const char *text) {
	struct def keep = {0};
	for (unsigned i = 0; i < d->n; i++)
		if (strcmp(d->values[i].option->name, "publish") != 0 ||
			!same_place(d->values[i].text, text))
			def_add(&keep, d->values[i].option->name, d->values[i].text, NULL);
	def_free(d);
	*d = keep;
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
		if (!r) {
			drop(&d, text);
			if (add)
				r = def_add(&d, "publish", text, &e);
		}
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

static int ls(const struct cli_args *a) {
	char path[PATHS_MAX];
	struct store_vm vm;
	struct def d = {0};
	struct err e;
	json_t *reply = NULL, *list = json_array(), *p;
	size_t k;
	int r = load(a->operands[0], &vm, &d, path, &e);
	if (!r && vm.phase == STORE_RUNNING) {
		r = wire_ask(&vm, json_pack("{s:s}", "op", "port-ls"), &reply, WIRE_ANSWER_MS, NULL, &e);
		if (!r)
			json_array_extend(list, json_object_get(reply, "ports"));
	} else if (!r) {
		for (unsigned i = 0; i < d.n; i++)
			if (strcmp(d.values[i].option->name, "publish") == 0)
				json_array_append_new(list, json_string(d.values[i].text));
	}
	json_decref(reply);
	def_free(&d);
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
	.operands = "VM",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "vm",
	.summary = "list forwarded ports",
	.options = ls_options,
	.run = ls,
};
