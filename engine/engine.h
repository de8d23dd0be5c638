/* The engine contract: who runs a guest's instructions.
 *
 * Callers use the engine_* functions only; they are the gate that checks the
 * contract once for every engine, in every build (engine.c). An engine sees
 * core/base, core/x86 and core/vm, never a chip and never another engine.
 *
 * Threads: engine_run() is called by one thread a vCPU, always the same one. Kicks
 * come from any thread. Everything else is called while no vCPU runs. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "core/vm/vm.h"

struct engine;

struct engine_options {
	/* How the engine is to be: NULL = its default. For soft: "interp" (which part of it runs code),
	 * "cache=64M" (for translated code); for kvm: who has the interrupt controllers. */
	const char *tier;
	bool stats;
};

/* One line of a probe's report, for `joist doctor`. */
struct engine_finding {
	bool ok;
	char what[64];	 /* "open /dev/kvm" */
	char found[160]; /* "permission denied: add yourself to group kvm" */
};

struct engine_probe {
	bool usable;
	unsigned nfindings;
	struct engine_finding findings[16];
	char why[200]; /* the one sentence for `auto`, when not usable */
};

struct engine_ops {
	const char *name;
	bool hardware_tsc; /* the guest's RDTSC is the hardware's: the VM's clock must count by it */
	/* Does it work on this host? `fresh`: try it now, else what was found since the host booted
	 * may do. */
	void (*probe)(struct engine_probe *p, bool fresh);
	/* The frequency in kHz that the hardware takes its TSC to have when it scales it to a guest's;
	 * 0: it cannot scale. NULL where there is no hardware_tsc: any frequency is as good. */
	uint32_t (*tsc_scaler)(void);
	/* The processor that guests of this engine can be given. NULL: this host's. */
	int (*cpuid_host)(struct cpuid_host *h, struct err *e);
	int (*create)(struct vm *vm, const struct engine_options *o, void **self, struct err *e);
	void (*destroy)(void *self);
	int (*add_vcpu)(void *self, struct vcpu *v, struct err *e);
	void (*run)(struct vcpu *v, struct vm_exit *out);
	void (*kick)(struct vcpu *v); /* make run() return EXIT_PREEMPTED soon */
	/* true: it has the local APICs (core/vm/apic.h). INIT, SIPI and waiting happen inside run()
	 * then, and v->state.activity is as old as the rest of the state. NULL: false. */
	bool (*waits)(void *self);
	void (*get_state)(struct vcpu *v); /* engine -> v->state; VM lock not held */
	void (*set_state)(struct vcpu *v); /* v->state -> engine */
	void (*mem_changed)(void *self);   /* the address map changed; VM lock held, any thread */
	void (*bells_changed)(void *self); /* see mem_set_bells(); VM lock held */
	void (*mem_written)(void *self, gpa_t gpa, uint64_t len); /* a device wrote RAM */
	/* Gives back memory that it needs only to be quick, and can fill again. NULL: it has none. */
	void (*trim)(void *self);
	void (*stats)(void *self, void (*line)(void *out, const char *name, uint64_t val), void *out);
};

extern const struct engine_ops engine_kvm, engine_soft;

/* All engines of this build, best first; ends with NULL. */
extern const struct engine_ops *const engines[];

struct engine {
	const struct engine_ops *ops;
	struct vm *vm;
	void *self;
	bool waits;		  /* ops->waits() said so */
	uint64_t running; /* vCPUs inside run(), by id; atomic */
};

/* The processor from which a CPUID policy for this engine is made. */
int engine_cpuid_host(const struct engine_ops *ops, struct cpuid_host *h, struct err *e);

/* Binds an engine to a VM whose memory map and vCPUs exist, and that has had none: the vCPUs'
 * engine areas are as vcpu_create() made them. 0, or -ERR_* with `e` filled. */
int engine_create(struct engine *en, const struct engine_ops *ops, struct vm *vm,
				  const struct engine_options *o, struct err *e);
void engine_destroy(struct engine *en);

/* Runs the vCPU until someone outside has to act; `out->kind` is one of the second group of
 * enum vm_exit_kind. Handles INIT, SIPI and wait states for every engine. */
void engine_run(struct engine *en, struct vcpu *v, struct vm_exit *out);

void engine_kick(struct engine *en, struct vcpu *v);
void engine_get_state(struct engine *en, struct vcpu *v);
void engine_set_state(struct engine *en, struct vcpu *v);
/* For a VM that has long been idle: gives back memory that its engine needs only to be quick. What
 * the guest does next is slower for a while, and the same. */
void engine_trim(struct engine *en);

#endif
