/* Local APICs that an engine has instead of the board: in the kernel, next to the guest. The
 * board's models then stand still and only hold the registers while a vCPU is stopped, in the
 * one format that all engines load and save.
 *
 * An engine that wants them sets vm.apics before the first run; vm.board_apics is the board's side.
 * VM lock held in all calls. */
#ifndef CORE_VM_APIC_H
#define CORE_VM_APIC_H

#include "core/base/types.h"

struct vcpu;

/* One local APIC: registers as 32-bit words 16 bytes apart, as in the page ([SDM3 10.4.1]), and
 * the MSRs beside it. The timer's current count is that of the moment. */
#define APIC_REGS 1024
struct apic_image {
	uint64_t base;		   /* IA32_APIC_BASE */
	uint64_t tsc_deadline; /* IA32_TSC_DEADLINE */
	uint8_t regs[APIC_REGS];
};

/* What the engine offers to the board. */
struct vm_apics {
	/* An interrupt message, as a device or an I/O APIC writes it to memory. */
	void (*message)(void *opaque, gpa_t addr, uint32_t data);
	void *opaque;
};

/* What the board offers to the engine. */
struct vm_board_apics {
	/* Steps aside: from now on messages go to vm.apics. */
	void (*aside)(void *board);
	/* The model's registers, both ways. */
	void (*get)(void *board, struct vcpu *v, struct apic_image *a);
	void (*set)(void *board, struct vcpu *v, const struct apic_image *a);
	/* A level-triggered vector was finished by some vCPU. */
	void (*eoi)(void *board, uint8_t vector);
};

#endif
