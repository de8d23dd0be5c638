/* The machine's skeleton: memory, clock, devices and vCPUs, tied together.
 *
 * One lock a VM guards every device, the maps and the timers. It is held
 * whenever code of core/chip, core/pci, core/virtio or core/board runs; an engine
 * executes guest code without it and takes it through vcpu_exit(). */
#ifndef CORE_VM_VM_H
#define CORE_VM_VM_H

#include "core/base/err.h"
#include "core/vm/apic.h"
#include "core/vm/backend.h"
#include "core/vm/device.h"
#include "core/vm/exit.h"
#include "core/vm/irq.h"
#include "core/vm/mem.h"
#include "core/vm/timer.h"
#include "core/vm/vcpu.h"

#define VM_VCPUS 64
#define VM_DEVICES (VM_VCPUS + 64) /* each vCPU has a local APIC */

enum vm_power {
	VM_POWER_OFF, /* ACPI S5 or the like: the guest is done */
	VM_RESET,	  /* keyboard controller, port CF9, ACPI reset, triple fault */
	VM_PANICKED,  /* the guest said so (pvpanic) or can never run again */
};

/* What is done when the VM lock has been given back, because it takes time or wakes those who want
 * the lock first. */
struct vm_work {
	void (*run)(void *opaque);
	void *opaque;
	/* How many threads are between giving the lock back and the end of run(); atomic. Who holds the
	 * lock and sees 0 here knows that nobody is inside, and nobody gets there. */
	uint32_t running;
};

/* What the host lends to one VM. All but `lock`/`unlock` and `kick` are called with the
 * lock held. */
struct vm_host {
	void (*lock)(void *opaque);
	void (*unlock)(void *opaque);
	/* An event was posted to this vCPU: wake it if it waits, make it look if it runs. */
	void (*kick)(void *opaque, unsigned vcpu);
	/* The guest asked for it; takes effect after the current exit. */
	void (*power)(void *opaque, enum vm_power what);
	/* Zeroed memory that lives as long as the VM; only while it is being made. */
	void *(*alloc)(void *opaque, size_t size);
	void *opaque;
	/* Runs `w` once when this thread gives the lock back, on this thread; asked for several times,
	 * once. There is one `w` a VM. NULL: the host has no such thing. */
	void (*after)(void *opaque, struct vm_work *w);
};

struct vm {
	const struct vm_host *host;
	struct vm_clock clock;
	struct vm_timers timers;
	struct mem_space mem;
	struct vcpu *vcpus[VM_VCPUS];
	unsigned nvcpus;
	struct vcpu *current; /* whose exit is being served; NULL: none. VM lock held */
	struct device devices[VM_DEVICES];
	unsigned ndevices;
	const struct cpuid_policy *cpuid; /* what CPUID answers, core/x86/cpuid.h */
	/* MSRs outside the engine: the board's dispatch. false: raise #GP. VM lock held. */
	bool (*rdmsr)(void *board, struct vcpu *v, uint32_t index, uint64_t *val);
	bool (*wrmsr)(void *board, struct vcpu *v, uint32_t index, uint64_t val);
	/* The interrupt acknowledge cycle for vCPU v: a vector, or -1 if none is left. */
	int (*intack)(void *board, struct vcpu *v);
	/* The local APIC's task priority, for CR8 (bits 7:4 of the TPR). NULL: no APIC. */
	uint8_t (*get_tpr)(void *board, struct vcpu *v);
	void (*set_tpr)(void *board, struct vcpu *v, uint8_t tpr);
	/* Vcpu v's TSC was written: deadlines and clocks that count by it have moved. */
	void (*tsc_changed)(void *board, struct vcpu *v);
	const struct vm_apics *apics;			  /* NULL: the board's own chips have the state */
	const struct vm_board_apics *board_apics; /* NULL: it cannot do without them */
	uint64_t (*hypercall)(void *board, struct vcpu *v, uint64_t nr, const uint64_t args[4]);
	void *board;
};

void vm_init(struct vm *vm, const struct vm_host *host, const struct vm_clock *clock);

/* Memory from the host, zeroed; only while the VM is being made. NULL: out of memory. */
void *vm_alloc(struct vm *vm, size_t size);

/* Registers a device for reset and state. */
void vm_add_device(struct vm *vm, const struct device_ops *ops, unsigned instance, void *self);

/* Resets every device and vCPU (vCPU 0 runs from the reset vector, the others wait for
 * SIPI). The board then loads what boots. VM lock held, no vCPU running. */
void vm_reset(struct vm *vm);

/* Walks the state of every device and vCPU; see state.h. */
void vm_state(struct vm *vm, struct state_io *io);

/* Asks the host for a power change. */
void vm_power(struct vm *vm, enum vm_power what);

#endif
