/* The VM's clock on Linux. The host's TSC, where it is invariant, is the one source of
 * both nanoseconds and guest TSC, so the two can never drift apart; else CLOCK_MONOTONIC
 * is. Starts at zero, running; stands still while paused. Reading: any thread. */
#ifndef HOST_LINUX_CLOCK_H
#define HOST_LINUX_CLOCK_H

#include <time.h>

#include "core/base/err.h"
#include "core/vm/timer.h"

enum clock_source { CLOCK_FROM_TSC, CLOCK_FROM_KERNEL };

struct host_clock {
	struct vm_clock clock; /* what the VM is given */
	enum clock_source source;
	uint64_t ns_mult;	 /* nanoseconds a tick, 32.32 fixed point */
	uint64_t ratio;		 /* guest ticks a source tick, 32.32; 0: they are the same */
	uint64_t base;		 /* source ticks, scaled, at guest time zero; atomic */
	uint64_t stopped_at; /* guest ticks; UINT64_MAX while running; atomic */
};

/* `hardware_tsc`: the guest reads the TSC of the hardware, so the clock must count by it. `khz`:
 * what a guest already knows of the TSC's frequency, 0: it is found out. `scaler` tells of what
 * frequency the hardware takes its TSC to be when it scales it for a guest, 0 if it cannot. 0, or
 * -ERR_* with `e` filled: here the TSC has quite another frequency, and nothing scales it. */
int host_clock_init(struct host_clock *c, bool hardware_tsc, uint32_t khz, uint32_t (*scaler)(void),
					struct err *e);
void host_clock_pause(struct host_clock *c);
void host_clock_resume(struct host_clock *c);

/* The guest's ticks are `ticks` now; nobody reads the clock meanwhile. */
void host_clock_set(struct host_clock *c, uint64_t ticks);

/* Nanoseconds by a clock of the kernel's, and by its monotonic one. */
uint64_t host_clock_ns(clockid_t id);
uint64_t host_now_ns(void);

/* How the TSC's frequency was found, for `joist doctor`. */
enum tsc_khz_from { TSC_KHZ_CPUID, TSC_KHZ_HYPERVISOR, TSC_KHZ_MEASURED };
uint32_t host_tsc_khz(enum tsc_khz_from *from);
bool host_tsc_invariant(void);

#endif
