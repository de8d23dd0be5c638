/* A hosted VM: the process model of the Linux host. One machine has
 *   - the loop's thread (the caller's): timers, power changes, the end;
 *   - a thread a vCPU: engine_run() in a loop, sleeping while the guest halts;
 *   - two threads of its console, two of each disk.
 * No global state: several machines may share one loop.
 *
 *     loop_create(&loop); machine_create(&m, &loop, &config, &err); machine_start(m, &err);
 *     loop_run(&loop);     // until config.ended calls loop_quit()
 *     machine_destroy(m);
 *
 * All functions are for the loop's thread, except machine_stop(). */
#ifndef HOST_LINUX_MACHINE_H
#define HOST_LINUX_MACHINE_H

#include "core/board/board.h"
#include "engine/engine.h"
#include "host/linux/disk.h"
#include "host/linux/loop.h"
#include "host/linux/net.h"

struct machine;

enum machine_end {
	MACHINE_OFF,	  /* the guest powered off */
	MACHINE_RESET,	  /* the guest asked for a reset and no_reboot is set */
	MACHINE_PANICKED, /* the guest's kernel panicked, or it can never run again */
	MACHINE_FAILED,	  /* our side cannot go on */
	MACHINE_STOPPED,  /* machine_stop() */
	MACHINE_ESCAPED,  /* the user typed the escape key */
};

struct machine_disk {
	const char *path; /* an image's name, see image.h */
	struct host_disk_options options;
	bool nvme; /* on an NVMe controller of its own; else virtio-blk */
};

/* A virtio port of the guest as a Unix socket; see channel.h. */
struct machine_channel {
	const char *name; /* /dev/virtio-ports/NAME */
	const char *path;
};

struct machine_net {
	struct host_net_config config;
	struct host_net_forward forwards[HOST_NET_FORWARDS];
	unsigned nforwards;
};

struct machine_config {
	const char *name;
	const struct engine_ops *engine;
	struct engine_options engine_options;
	/* board, cpus, memory, append, and the test fields; images, back ends and the CPUID
	 * policy are filled in here, from the fields below. */
	struct board_config board;
	const char *cpu_model;		 /* see cpuid_init() */
	const char *kernel, *initrd; /* paths; NULL: none */
	struct machine_disk disks[BOARD_DISKS];
	unsigned ndisks;
	struct machine_channel channels[BOARD_CHANNELS];
	unsigned nchannels;
	struct machine_net nets[BOARD_NETS];
	unsigned nnets;
	unsigned disk_shares, net_shares; /* weights among the user's VMs, see ledger.h; 0: 100 */
	const char *vsock;				  /* Unix socket of virtio-vsock, see vsock.h; NULL: none */
	uint32_t vsock_cid;
	int in, out;		 /* console's descriptors; -1: none */
	bool virtio_console; /* on the virtio console instead of COM1 */
	bool escape;		 /* Ctrl-] in the input ends the machine */
	bool no_reboot;
	bool no_balloon;
	/* The CPU and its TSC are such that every engine of this host can go on with the VM. */
	bool portable;
	uint32_t tsc_khz; /* as in the saved state to be restored; 0: this host's */
	/* Instead of booting, brings the VM into a saved state. On the loop's thread, vCPUs not yet
	 * running, without the VM lock. NULL: boot. */
	int (*restore)(void *opaque, struct machine *m, struct err *e);

	/* Called once, on the loop's thread, vCPUs standing still. `why` is a sentence or
	 * empty. Calls loop_quit(), usually; must not destroy the machine. */
	void (*ended)(void *opaque, enum machine_end end, const char *why);
	void *opaque;
};

int machine_create(struct machine **out, struct loop *l, const struct machine_config *c,
				   struct err *e);
int machine_start(struct machine *m, struct err *e);

/* Ends it soon with MACHINE_STOPPED; any thread. */
void machine_stop(struct machine *m);

/* Presses the ACPI power button; what follows is the guest's decision. false: nothing in it
 * listens, now. */
bool machine_power_button(struct machine *m);

/* Stops all vCPUs and the clock between two instructions, and lets them go on. Pauses nest.
 * false: some vCPU did not stop in time, and the machine is failing. */
bool machine_pause(struct machine *m);
void machine_resume(struct machine *m);

/* Keeps the vCPUs from running while the guest's clock goes on, as a scheduler does, and lets
 * them go again. Does not wait for them to stand still. */
void machine_hold(struct machine *m, bool on);

/* Gives memory back to the host that the VM needs only to be quick (engine_trim()): done by itself
 * when the guest is idle for long. false: some vCPU did not stop in time. From the loop's thread.
 */
bool machine_trim(struct machine *m);

/* For what needs the machine itself: vm and engine of snapshots, board of the power button. */
struct vm *machine_vm(struct machine *m);
struct engine *machine_engine(struct machine *m);
/* The VM's clock shows `tsc` ticks; for config.restore. The type fits lifecycle_load(). */
void machine_set_clock(void *machine, uint64_t tsc);
/* RAM without memory behind it yet; the type fits save_stream.untouched. */
uint64_t machine_untouched(void *machine, const uint8_t *at, uint64_t len);
struct board *machine_board(struct machine *m);
/* Asks the guest to do with `bytes` of its memory (virtio-balloon), and how far that is: what it
 * can use now, and what it has reported as free since its start. Take the VM lock. false: nobody in
 * the guest listens (yet). */
bool machine_set_memory(struct machine *m, uint64_t bytes);
void machine_memory(struct machine *m, uint64_t *usable, uint64_t *reported);
/* Disk `i`, to change its limits; NULL: there is no such disk. */
struct host_disk *machine_disk(struct machine *m, unsigned i);
/* Other weights than those it was made with. false: there is nothing to share here. */
bool machine_set_cpu_shares(struct machine *m, unsigned weight); /* once started */
/* Not enforced: what others may count on that it leaves them. 0: nothing. */
void machine_set_cpu_limit(struct machine *m, unsigned percent);
bool machine_set_disk_shares(struct machine *m, unsigned weight);
bool machine_set_net_shares(struct machine *m, unsigned weight);
/* What network card `i` is plugged into, to look at and to change while the VM runs; NULL:
 * there is no such card. */
struct host_net *machine_net(struct machine *m, unsigned i);

/* Engine counters and exits by kind, one call a line; machine paused or ended. */
void machine_stats(struct machine *m, void (*line)(void *out, const char *name, uint64_t val),
				   void *out);

void machine_destroy(struct machine *m);

#endif
