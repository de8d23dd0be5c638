/* joist network create, ls, rm: named networks. A network is a folder (host/linux/net_store.h)
 * and has no process; VMs join it with --net NAME. */
#include <jansson.h>
#include <stdio.h>

#include "ctl/cli/cli.h"
#include "ctl/cli/table.h"
#include "host/linux/net_store.h"

static int run_create(const struct cli_args *a) {
	struct err e;
	int r = net_store_create(a->operands[0], cli_text(a, "subnet"), &e);
	return r ? cli_fail(r, &e) : CLI_OK;
}

static int run_rm(const struct cli_args *a) {
	struct err e;
	int code = CLI_OK;
	for (unsigned i = 0; i < a->noperands; i++) {
		int r = net_store_remove(a->operands[i], &e);
		if (r)
			code = cli_fail(r, &e);
	}
	return code;
}

struct listing {
	json_t *json; /* NULL: a table */
	struct table table;
};

static void add(void *out, const char *name, uint32_t subnet, unsigned members) {
	struct listing *l = out;
	char text[24];
	snprintf(text, sizeof(text), "%u.%u.%u.0/24", subnet >> 24, subnet >> 16 & 255,
			 subnet >> 8 & 255);
	if (l->json) {
		json_array_append_new(l->json, json_pack("{s:s, s:s, s:i}", "name", name, "subnet", text,
												 "vms", (int)members));
		return;
	}
	table_cell(&l->table, "%s", name);
	table_cell(&l->table, "%s", text);
	table_cell(&l->table, "%u", members);
}

static int run_ls(const struct cli_args *a) {
	static const char *const heads[] = {"NETWORK", "SUBNET", "VMS"};
	struct listing l = {.json = cli_flag(a, "json") ? json_array() : NULL};
	struct err e;
	if (!l.json)
		table_start(&l.table, 3, heads);
	int r = net_store_list(add, &l, &e);
	if (!l.json) {
		table_print(&l.table);
	} else {
		if (json_dumpf(l.json, stdout, JSON_INDENT(2)) != 0)
			return CLI_FAILED;
		putchar('\n');
		json_decref(l.json);
	}
	return r ? cli_fail(r, &e) : CLI_OK;
}

static const struct cli_option create_options[] = {
	{"subnet", 0, CLI_TEXT, "A.B.C.0/24", "Its addresses, else 10.89.N.0/24 that no other has",
	 NULL, NULL, false},
	{0},
};

static const struct cli_option ls_options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_network_create = {
	.name = "network create",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "",
	.summary = "make a network that joins VMs",
	.about =
		"Makes a network of your VMs. Those that are run with --net NAME get an address by DHCP, "
		"reach one another, by name too (web, or web.NAME.internal), and the world through "
		"NAT. An address stays a VM's own.",
	.examples = "  joist network create lab\n"
				"  joist run -d --name db --net lab ...\n"
				"  joist run -d --name web --net lab -p 8080:80 ...\n",
	.options = create_options,
	.run = run_create,
};

const struct cli_verb cli_verb_network_ls = {
	.name = "network ls",
	.complete = "",
	.summary = "list networks",
	.about = "Lists your networks, their addresses, and how many VMs are in each now.",
	.options = ls_options,
	.run = run_ls,
};

const struct cli_verb cli_verb_network_rm = {
	.name = "network rm",
	.operands = "NAME...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "",
	.summary = "remove networks",
	.about = "Removes networks in which no VM is.",
	.run = run_rm,
};
