/* RDMSR and WRMSR ([SDM4], [APM2 A]). Most MSRs are core/vm/msr.c's, the same for every
 * engine; EFER is ours, and what neither knows (APIC, kvm-clock) the board's. Runs on the vCPU's
 * thread. */
#include "core/vm/msr.h"

#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

void op_rdmsr(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	uint32_t index = (uint32_t)s->gpr[RCX];
	uint64_t val;
	(void)i;

	sys_need_cpl0(c);
	enum msr_answer answer = vcpu_rdmsr(c->v, index, &val);
	if (answer == MSR_FAULT)
		soft_gp(c, 0);
	if (answer == MSR_OTHER) {
		c->exit = (struct vm_exit){.kind = EXIT_RDMSR};
		c->exit.msr.index = index;
		soft_exit(c);
		if (c->exit.msr.fault)
			soft_gp(c, 0);
		val = c->exit.msr.val;
	}
	s->gpr[RAX] = (uint32_t)val;
	s->gpr[RDX] = val >> 32;
}

void op_wrmsr(struct soft_vcpu *c, const struct x86_insn *i) {
	const struct x86_state *s = c->s;
	uint32_t index = (uint32_t)s->gpr[RCX];
	uint64_t val = (uint32_t)s->gpr[RAX] | s->gpr[RDX] << 32;
	(void)i;

	sys_need_cpl0(c);
	c->leave_block = true;
	if (index == MSR_EFER) {
		soft_set_efer(c, val);
		return;
	}
	enum msr_answer answer = vcpu_wrmsr(c->v, index, val);
	if (answer == MSR_FAULT)
		soft_gp(c, 0);
	if (answer == MSR_OK)
		return;
	c->exit = (struct vm_exit){.kind = EXIT_WRMSR};
	c->exit.msr.index = index;
	c->exit.msr.val = val;
	soft_exit(c);
	if (c->exit.msr.fault)
		soft_gp(c, 0);
}
