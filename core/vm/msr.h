/* RDMSR and WRMSR of the MSRs that are fields of struct x86_state, the same for every engine.
 * EFER is not here: writing it changes how an engine runs; neither are the board's
 * MSRs (APIC, kvm-clock). On the vCPU's thread, without the VM lock. */
#ifndef CORE_VM_MSR_H
#define CORE_VM_MSR_H

#include "core/vm/vcpu.h"

enum msr_answer {
	MSR_OK,
	MSR_FAULT, /* raise #GP(0) */
	MSR_OTHER, /* not one of these: ask the board, by EXIT_RDMSR or EXIT_WRMSR */
};

enum msr_answer vcpu_rdmsr(struct vcpu *v, uint32_t index, uint64_t *val);
enum msr_answer vcpu_wrmsr(struct vcpu *v, uint32_t index, uint64_t val);

#endif
