/* What options of a machine or VM may say beyond what their kind tells: ranges, and small languages
 * of their own. Used for each value wherever it stands, on a command line or in a definition, so
 * that a file's complaint has line and column. Nothing here looks at files, or at what the host
 * has. */
#include <stdio.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/board/board.h"
#include "ctl/cli/cli.h"
#include "ctl/cli/pick.h"
#include "ctl/proc/limit.h"
#include "host/linux/disk.h"
#include "host/linux/net.h"

static int check_memory(const char *text, struct err *e) {
	uint64_t n = 0;
	cli_read_size(text, &n);
	if (n % 4096 == 0 && n >= BOARD_MEMORY_MIN && n <= BOARD_MEMORY_MAX)
		return 0;
	return err_set(e, ERR_INVAL, "--memory %.60s: a multiple of 4K from %lluM to %lluG", text,
				   (unsigned long long)(BOARD_MEMORY_MIN >> 20),
				   (unsigned long long)(BOARD_MEMORY_MAX >> 30));
}

static int check_net(const char *text, struct err *e) {
	struct host_net_config n = {0};
	struct err why;
	return host_net_read(text, &n, &why) ? err_set(e, ERR_INVAL, "--net %s", why.text) : 0;
}

static int check_net_limit(const char *text, struct err *e) {
	struct host_net_limits l;
	struct err why;
	return host_net_read_limits(text, &l, &why) ? err_set(e, ERR_INVAL, "--net-limit %s", why.text)
												: 0;
}

static int check_disk_limit(const char *text, struct err *e) {
	struct host_disk_limits l;
	struct err why;
	return host_disk_read_limits(text, &l, &why)
			   ? err_set(e, ERR_INVAL, "--disk-limit %s", why.text)
			   : 0;
}

static int check_publish(const char *text, struct err *e) {
	struct host_net_forward f = {0};
	struct err why;
	return host_net_read_forward(text, &f, &why) ? err_set(e, ERR_INVAL, "--publish %s", why.text)
												 : 0;
}

static int check_cpu_limit(const char *text, struct err *e) {
	if (limit_read_percent(text))
		return 0;
	return err_set(e, ERR_INVAL,
				   "--cpu-limit %.60s: not a part of CPUs (examples: 50%%, 150%%, 1.5)", text);
}

/* Whether it works here is asked when a machine is made. */
static int check_engine(const char *text, struct err *e) {
	struct engine_pick pick;
	return strncmp(text, "auto", 4) == 0 ? 0 : pick_engine_named(text, true, &pick, e);
}

static const struct {
	const char *name;
	uint64_t min, max;
} ranges[] = {
	{"cpus", 1, VM_VCPUS},	  {"cpu-shares", 2, 10000},		 {"disk-shares", 2, 10000},
	{"net-shares", 2, 10000}, {"vsock-cid", 3, 4294967294u},
};

static const struct {
	const char *name;
	int (*check)(const char *text, struct err *e);
} languages[] = {
	{"memory", check_memory},		  {"net", check_net},
	{"net-limit", check_net_limit},	  {"publish", check_publish},
	{"disk-limit", check_disk_limit}, {"cpu-limit", check_cpu_limit},
	{"engine", check_engine},
};

static bool is_in(const struct cli_option *table, const struct cli_option *o) {
	for (; table->name; table++)
		if (table == o)
			return true;
	return false;
}

int cli_check_machine(const struct cli_option *o, const char *text, struct err *e) {
	uint64_t n = 0;
	if (!is_in(cli_machine_options, o) && !is_in(cli_vm_options, o))
		return 0;
	for (unsigned i = 0; i < ARRAY_LEN(languages); i++)
		if (strcmp(o->name, languages[i].name) == 0)
			return languages[i].check(text, e);
	for (unsigned i = 0; i < ARRAY_LEN(ranges); i++)
		if (strcmp(o->name, ranges[i].name) == 0 &&
			(!cli_read_number(text, &n) || n < ranges[i].min || n > ranges[i].max))
			return err_set(e, ERR_INVAL, "--%s %.60s: a number from %llu to %llu", o->name, text,
						   (unsigned long long)ranges[i].min, (unsigned long long)ranges[i].max);
	return 0;
}
