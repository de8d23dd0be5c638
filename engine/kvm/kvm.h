/* The inside of engine kvm, for engine/kvm only: Linux's KVM as the one that runs a guest's
 * instructions ([KVM api.rst]).
 *
 *     kvm.c    engine_kvm: making and ending VMs and vCPUs, kicks, capabilities
 *     slots.c  the address map as KVM's memory slots
 *     dirty.c  what the guest wrote
 *     run.c    KVM_RUN in a loop; exits become the neutral record; interrupts go in
 *     state.c  struct x86_state to and from KVM
 *     tsc.c    its TSC
 *     msr.c    which MSRs KVM keeps, and which come out
 *     apic.c   local APICs in the kernel
 *     routes.c interrupt messages for them: eventfds and routes
 *     chips.c  8259s and I/O APIC there, too
 *     bells.c  doorbells without exits
 *     late.c   writes to index registers without exits, too
 *     cpuid.c  the processor that KVM can show
 *     report.c why KVM could not go on, for people
 *     part.c   parts that can be left out
 *     probe.c  can this host's KVM run stock kernels?
 *
 * A vCPU's state is in v->state or in KVM, whichever is newer (`push`, `stale`); the move is
 * made when someone needs it. */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>

#include "core/vm/vm.h"
#include "engine/engine.h"

#define KVM_SLOTS 64
#define KVM_WHY 240
#define KVM_IOAPIC_BASE 0xfec00000u /* of the one that KVM has in tier kernel */

/* Who has the interrupt controllers. */
enum kvm_irqs {
	KVM_IRQS_OFF,	 /* the board's chips have all of them */
	KVM_IRQS_SPLIT,	 /* KVM has the local APICs, the board 8259s and I/O APIC */
	KVM_IRQS_KERNEL, /* KVM has all of them */
};

/* Messages that KVM knows as level-triggered, one for each pin of an I/O APIC. */
#define KVM_LEVELS 24
struct kvm_level {
	gpa_t addr;
	uint32_t data;
};

#define KVM_CHIP_GSIS (16 + IOAPIC_PINS) /* those of chips.c */

/* An interrupt message that devices send, see routes.c. */
#define KVM_WIRES 64
struct kvm_wire {
	gpa_t addr;
	uint32_t data;
	uint32_t sent; /* without a route; atomic */
	uint64_t last; /* kvm_engine.messages when it was last raised; 0: never used */
	int fd;		   /* eventfd, when bound */
	bool bound;	   /* KVM_IRQFD */
	bool wanted;   /* it is in KVM's table */
	bool routed;   /* a write to fd sends this message; atomic */
};

struct kvm_slot {
	gpa_t gpa;
	uint64_t size; /* 0: not in use */
	uint8_t *host;
	uint32_t flags;
};

/* A doorbell, see bells.c. */
#define KVM_BELLS 256
struct kvm_bell {
	struct mem_region *region; /* NULL: not in use */
	gpa_t gpa;
	uint32_t val;
	int fd; /* eventfd */
	uint8_t size;
};

/* An index register, see late.c. */
#define KVM_LATCHES 4
struct kvm_latch {
	gpa_t gpa;	   /* or port */
	uint32_t size; /* 0: not in use */
	bool port;
};

struct kvm_cpu;

struct kvm_engine {
	struct vm *vm;
	int dev, fd; /* /dev/kvm, the VM */
	size_t run_size;
	enum kvm_irqs irqs;
	bool dirty_rings;
	struct vm_apics apics;
	uint64_t pins; /* counter */

	/* routes.c; under the VM lock, but for what is said there */
	struct kvm_level levels[KVM_LEVELS];
	unsigned next_level;
	struct kvm_wire wires[KVM_WIRES];
	uint64_t raised;			 /* wires whose message has to be sent; atomic */
	struct vm_work sender;		 /* sends them */
	pthread_mutex_t routes_lock; /* KVM's table; taken after the VM lock, or without it */
	bool no_routes;				 /* KVM has none, or none left; atomic */
	uint64_t messages, joined, events, signals, route_changes; /* counters */
	struct kvm_slot slots[KVM_SLOTS];
	bool crowded; /* the map has wanted more; said once */
	struct kvm_cpu *cpus[VM_VCPUS];
	unsigned ncpus;

	uint32_t running; /* vCPUs in kvm_run(); atomic, a futex */
	struct kvm_bell bells[KVM_BELLS];
	bool has_bells, bells_quit; /* the thread is there; shall end */
	pthread_t bells_thread;
	int bells_epoll, bells_wake;
	uint64_t rings; /* counter */

	struct kvm_coalesced_mmio_ring *late; /* in the first vCPU's page; NULL: not used */
	bool late_ports;					  /* KVM can do so for ports, too */
	struct kvm_latch latches[KVM_LATCHES];
	uint64_t late_writes; /* counter */
};

/* In the vCPU's engine area. */
struct kvm_cpu {
	struct vcpu *v;
	struct kvm_engine *e;
	int fd;
	struct kvm_run *run;
	uint64_t apic_base;			/* KVM's, as it made the vCPU */
	struct kvm_dirty_gfn *ring; /* NULL: dirty log */
	uint32_t ring_next;
	bool ring_lost; /* KVM wrote over what was not read */

	bool push;		   /* v->state is newer than KVM's */
	bool stale;		   /* KVM's is newer than v->state */
	bool unfinished;   /* KVM finishes the last exit's instruction when it is entered again */
	bool ready;		   /* an interrupt can go in now */
	bool has_tsc_attr; /* the TSC's offset can be set exactly */
	bool tsc_set;
	uint64_t tsc_offset; /* as last given to KVM, when tsc_set */
	uint8_t cr8;		 /* as KVM has it */
	bool tpr_moved;		 /* the APIC's TPR may differ from cr8 */

	/* Kicks: who wants the vCPU out sets run->immediate_exit, and sends the signal if it may
	 * be inside KVM_RUN. */
	pthread_t thread;
	bool thread_ready;
	uint32_t inside; /* atomic */

	uint64_t entries, windows, injected; /* counters for --engine-stats */
	char why[KVM_WHY];					 /* of EXIT_FAILED */
};

/* ioctl() that goes on after a signal. -1 with errno, as ioctl. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_val(int fd, unsigned long request, unsigned long arg);
/* KVM_CHECK_EXTENSION on the device or the VM. */
int kvm_has(int fd, int cap);
/* Where KVM's device is: $JOIST_KVM, for tests, or /dev/kvm. */
const char *kvm_device(void);
/* Opens it and checks the API's version: a descriptor, or -ERR_* with `e` filled. */
int kvm_open(struct err *e);
/* Lets kvm_kick()'s signal through on this thread and makes it harmless. */
void kvm_signal_ready(void);
#define KVM_KICK_SIGNAL (SIGRTMIN + 0)

/* run.c */
void kvm_run(struct vcpu *v, struct vm_exit *out);

/* state.c: false with c->why filled: KVM refuses. Pushing with the VM lock held, but for
 * KVM_IRQS_OFF. */
bool kvm_push_state(struct kvm_cpu *c);
bool kvm_fetch_state(struct kvm_cpu *c);
/* What a halted vCPU's gate looks at: RFLAGS and nmi_masked. */
bool kvm_fetch_halt(struct kvm_cpu *c);

/* tsc.c */
uint32_t kvm_tsc_scaler(void);
int kvm_tsc_create(struct kvm_cpu *c, struct err *err);
/* Gives KVM the offset that the VM's clock and v->state ask for. */
bool kvm_push_tsc(struct kvm_cpu *c);

/* apic.c */
int kvm_apics_create(struct kvm_engine *e, struct err *err);
void kvm_apics_destroy(struct kvm_engine *e);
/* The controllers that KVM has: all of their state to KVM before a vCPU runs, and back to the
 * board's models. Both take the VM lock and do nothing where it is already; false: c->why. */
bool kvm_chips_in(struct kvm_cpu *c);
bool kvm_chips_out(struct kvm_cpu *c);
/* The models have got another state, whatever KVM has. VM lock held, or nothing else runs. */
void kvm_chips_lost(struct kvm_engine *e);
uint64_t kvm_apic_base(struct kvm_cpu *c); /* VM lock held, but for KVM_IRQS_OFF */

/* routes.c: the first and the last one while nothing else runs, the others with the VM lock held.
 */
void kvm_routes_create(struct kvm_engine *e);
void kvm_raise(struct kvm_engine *e, gpa_t addr, uint32_t data);
void kvm_settle(struct kvm_engine *e);	  /* all that was raised has arrived */
int kvm_set_routes(struct kvm_engine *e); /* as ioctl; KVM's table is what it should be */
void kvm_routes_destroy(struct kvm_engine *e);

/* chips.c: VM lock held */
int kvm_chips_create(struct kvm_engine *e, struct err *err);
unsigned kvm_chip_routes(struct kvm_irq_routing_entry out[KVM_CHIP_GSIS]); /* how many */
bool kvm_push_chips(struct kvm_cpu *c);
bool kvm_fetch_chips(struct kvm_cpu *c);

/* msr.c */
int kvm_msr_filter(struct kvm_engine *e, struct err *err);
void kvm_exit_rdmsr(struct kvm_cpu *c);
void kvm_exit_wrmsr(struct kvm_cpu *c);
unsigned kvm_msr_list(const struct kvm_cpu *c, struct kvm_msr_entry *list, uint64_t **where);
#define KVM_MSRS 16

/* slots.c */
int kvm_update_slots(struct kvm_engine *e);

/* dirty.c: into the bitmap of mem_track(), on the vCPU's thread. */
void kvm_dirty_create(struct kvm_engine *e);
int kvm_dirty_add(struct kvm_cpu *c, struct err *err);
void kvm_dirty_remove(struct kvm_cpu *c);
int kvm_collect_dirty(struct kvm_cpu *c);

/* bells.c: VM lock held in the first one; a vCPU's thread enters before it runs guest code and
 * leaves afterwards, without the lock. */
void kvm_update_bells(struct kvm_engine *e);
void kvm_bells_enter(struct kvm_engine *e);
void kvm_bells_leave(struct kvm_engine *e);
void kvm_bells_destroy(struct kvm_engine *e);

/* late.c: once the first vCPU is there; with the VM lock held; and without, on a vCPU's thread. */
void kvm_late_create(struct kvm_engine *e);
void kvm_update_late(struct kvm_engine *e);
void kvm_serve_late(struct kvm_engine *e);

/* part.c: may this part of KVM be used? */
enum kvm_part {
	KVM_PART_IOEVENTFD,
	KVM_PART_DIRTY_RING,
	KVM_PART_COALESCED,
	KVM_PART_IRQFD,
	KVM_PARTS
};
bool kvm_part(enum kvm_part part);

/* cpuid.c */
int kvm_cpuid_host(struct cpuid_host *h, struct err *e);
int kvm_set_cpuid(struct kvm_cpu *c, struct err *e);

/* report.c: all fill in c->why. The second and the third one are for a guest that was running: they
 * fetch its state, add the code to the sentence and log the registers. */
void kvm_report(struct kvm_cpu *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kvm_report_stuck(struct kvm_cpu *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void kvm_report_internal(struct kvm_cpu *c); /* KVM_EXIT_INTERNAL_ERROR */

/* probe.c */
void kvm_probe(struct engine_probe *p, bool fresh);

#endif
