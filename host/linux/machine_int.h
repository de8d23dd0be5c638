/* Between machine.c and vcpu_thread.c: the inside of a hosted VM. */
#ifndef HOST_LINUX_MACHINE_INT_H
#define HOST_LINUX_MACHINE_INT_H

#include <pthread.h>

#include "core/x86/cpuid.h"
#include "host/linux/channel.h"
#include "host/linux/clock.h"
#include "host/linux/console.h"
#include "host/linux/cpu_share.h"
#include "host/linux/disk.h"
#include "host/linux/idle.h"
#include "host/linux/machine.h"
#include "host/linux/ram.h"
#include "host/linux/source.h"
#include "host/linux/vsock.h"

struct vcpu_thread {
	struct machine *m;
	unsigned id;
	pthread_t thread;
	bool created;
	/* Counts kicks. Read before engine_run(); a halted vCPU sleeps only while it is the
	 * same, so that no event between the two is missed. A futex word. */
	uint32_t kicks;
	uint32_t sleeping; /* in the futex: a kick must wake it; atomic */
};

struct machine_alloc {
	struct machine_alloc *next;
	size_t size;
};

struct machine {
	struct machine_config config;
	struct loop *loop;
	struct vm_host host;
	struct vm vm;
	struct engine engine;
	struct board *board;
	struct host_clock clock;
	struct cpuid_policy cpuid;
	struct host_ram ram;
	struct host_source kernel, initrd;
	struct host_disk *disks[BOARD_DISKS];
	struct host_channel *channels[BOARD_CHANNELS];
	struct host_net *nets[BOARD_NETS];
	struct host_vsock *vsock;
	struct console console;
	struct loop_timer timer;
	struct loop_event request; /* something below in `park_lock`'s part changed */
	struct machine_alloc *allocs;
	pthread_mutex_t lock;  /* the VM lock */
	uint64_t to_wake;	   /* vCPUs that its holder kicked awake; under it */
	struct vm_work *after; /* what its holder wants done afterwards; NULL: nothing; under it */

	/* Parking: vCPU threads stand still while `hold` is not zero. Taken after the VM lock. */
	pthread_mutex_t park_lock;
	pthread_cond_t park_changed;
	unsigned hold, parked;
	struct ledger *ledger; /* shares with the user's other VMs; NULL: none */
	struct cpu_share *cpu_share;
	struct idle idle;
	unsigned cpu_limit; /* in percent, see machine_set_cpu_limit() */
	unsigned pauses;	/* machine_pause() without its resume; loop's thread only */
	bool quit;
	bool stop_asked, escaped, power_asked, failed;
	enum vm_power power;
	char why[256]; /* the sentence for the end */

	/* It ended by itself, and its output is still being read. Loop's thread only. */
	bool draining;
	enum machine_end end;
	char end_why[256];

	bool has_engine, has_console, has_timer, has_request, started, ended, stuck;
	uint64_t boot_ns;	   /* VM time of the last (re)start */
	unsigned quick_faults; /* triple faults in a row, each soon after a start */
	struct vcpu_thread threads[VM_VCPUS];
};

/* vcpu_thread.c */
int vcpu_threads_start(struct machine *m, struct err *e);
void vcpu_threads_join(struct machine *m);
void vcpu_thread_kick(struct machine *m, unsigned id); /* any thread */
void machine_lock_init(struct machine *m);
void machine_lock(struct machine *m);
void machine_unlock(struct machine *m);
void machine_after(struct machine *m, struct vm_work *w); /* vm_host.after() */

/* machine.c: from a vCPU's thread, without the VM lock. */
void machine_shutdown(struct machine *m, unsigned vcpu); /* a triple fault */
void machine_fail(struct machine *m, unsigned vcpu, const char *why);

#endif
