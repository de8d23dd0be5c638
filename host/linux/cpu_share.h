/* Keeps a VM's threads to its part of the CPUs while the user's VMs together want more than there
 * are (core/base/turns.h, ledger.h): by the CPUs that they may run on, which each process may
 * choose for itself without any right, and where its part is less than one CPU also by its vCPUs
 * standing still for moments. So a VM with many busy threads leaves a CPU to one with few.
 *
 * What a VM wants is what its threads ran and what they stood in line for, by the files
 * schedstat of /proc/self/task; without them (a kernel without CONFIG_SCHED_INFO), what they ran.
 *
 * A VM that is alone does nothing for this: a descriptor tells when another one comes. Beside
 * others it has a look four times a second when it is idle, eight times when it is not, and once or
 * twice in a period (64 ms) while it keeps to its part. Other programs of the computer are the
 * kernel's business, as before: what they leave is divided. Left out: VMs that their user has bound
 * to different CPUs are divided as if these were the same, and a thread that somebody has
 * bound by itself loses that when its VM has to keep to its part. All from the loop's thread. */
#ifndef HOST_LINUX_CPU_SHARE_H
#define HOST_LINUX_CPU_SHARE_H

#include "host/linux/ledger.h"
#include "host/linux/loop.h"

struct cpu_share;

/* hold(opaque, on): its vCPUs stand still, and go on. The ledger stays the caller's. NULL where
 * nothing can be shared; the other functions take it. */
struct cpu_share *cpu_share_create(struct loop *loop, struct ledger *l,
								   void (*hold)(void *opaque, bool on), void *opaque);
void cpu_share_destroy(struct cpu_share *s);
/* It wants no more than that, in percent of a CPU; 0: no limit. What enforces it is the caller's.
 */
void cpu_share_set_limit(struct cpu_share *s, unsigned percent);

#endif
