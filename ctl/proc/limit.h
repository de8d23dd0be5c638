/* A VM's share of this host: cgroup v2 where this user may make a group, our own means where
 * not.
 *   cpu-limit    cpu.max; else a duty cycle: vCPUs stand still for the rest of a period in which
 *                the process has used up its time. The guest's clock goes on, as with any
 *                hypervisor that schedules it away.
 *   cpu-shares   among the user's VMs host/linux/cpu_share.h, in any case. Against everything
 *                else cpu.weight, or the nice level of the vCPU threads and, if the session is the
 *                VM's own, of the session's group (lower shares only: an unprivileged process
 *                cannot raise its own).
 *   disk-shares  io.weight and io.bfq.weight, so that they count against other programs too; among
 *                the user's VMs host/linux/ledger.h, in any case.
 *   memory-limit memory.high; no own means.
 * disk-limit is the disk's own (host/linux/disk.h): what io.max could add is nothing, since no
 * request gets past that, and io.max knows neither bursts nor a limit of reads and writes together.
 */
#ifndef CTL_PROC_LIMIT_H
#define CTL_PROC_LIMIT_H

#include "core/base/err.h"
#include "ctl/proc/group.h"
#include "host/linux/loop.h"
#include "host/linux/machine.h"

#define LIMIT_PERIOD_NS 20000000ull

struct limit {
	struct loop *loop;
	struct machine *machine;
	struct loop_timer timer;
	bool has_timer, throttled;
	unsigned percent; /* 0: no limit; 100 is one CPU */
	unsigned shares;
	uint64_t memory; /* bytes; 0: no limit */
	int64_t credit_ns;
	uint64_t last_cpu_ns, last_ns;
	uint64_t throttled_ns, periods, throttled_periods;
	struct group group;
	const char *name; /* the VM's */
};

/* "150%" or "1.5" (CPUs) as percent; 0: not one. */
unsigned limit_read_percent(const char *text);

/* `name` (the VM's, for systemd) stays the caller's; `root` is as group_create()'s. */
void limit_create(struct limit *l, struct loop *loop, const char *id, const char *name,
				  const char *root);
void limit_attach(struct limit *l, struct machine *m, struct err *e);
/* From the loop's thread, at any time. Returns a word for how: "cgroup", "own", "none". */
const char *limit_set_cpu(struct limit *l, unsigned percent);
const char *limit_set_shares(struct limit *l, unsigned shares);
const char *limit_set_disk_shares(struct limit *l, unsigned shares);
const char *limit_set_memory(struct limit *l, uint64_t bytes);
void limit_destroy(struct limit *l);

/* What was asked for when the VM was made: texts as in its definition, NULL for nothing. */
struct limit_wish {
	const char *cpu_limit, *cpu_shares, *disk_shares, *memory_limit;
};
/* Once the machine runs. What cannot be kept here is a warning. */
void limit_apply(struct limit *l, const struct limit_wish *w);

#endif
