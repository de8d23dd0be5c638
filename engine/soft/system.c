/* Flags, control and debug registers, time, CPUID and the rest of the privileged
 * instructions ([SDM2], [SDM3 2.5, 17.2, 20.2-20.4]). Runs on the vCPU's thread.
 *
 * Left out: RDPMC (no counters: #GP), MONITOR/MWAIT, RSM, VMX and SVM instructions (CPUID
 * hides them: #UD). Caches are not modelled, so INVD and WBINVD only check privilege. */
#include "core/x86/cpuid.h"
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

/* ---- IF, VIF, PUSHF, POPF ----------------------------------------------------------------------
 */

/* CLI and STI act on IF, on VIF (virtual interrupts), or fault. */
enum if_target { IF_REAL, IF_VIRTUAL };
static enum if_target interrupt_flag(struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	if (!(s->cr0 & CR0_PE) || c->cpl <= sys_iopl(c))
		return IF_REAL;
	if (s->rflags & RFLAGS_VM) {
		if (s->cr4 & CR4_VME)
			return IF_VIRTUAL;
	} else if (c->cpl == 3 && (s->cr4 & CR4_PVI)) {
		return IF_VIRTUAL;
	}
	soft_gp(c, 0);
}

void op_cli(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	c->s->rflags &= ~(uint64_t)(interrupt_flag(c) == IF_REAL ? RFLAGS_IF : RFLAGS_VIF);
}

void op_sti(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	(void)i;
	if (interrupt_flag(c) == IF_VIRTUAL) {
		if (s->rflags & RFLAGS_VIP)
			soft_gp(c, 0);
		s->rflags |= RFLAGS_VIF;
		return;
	}
	if (!(s->rflags & RFLAGS_IF))
		s->shadow |= SHADOW_STI;
	s->rflags |= RFLAGS_IF;
	c->leave_block = true;
}

void op_pushf(struct soft_vcpu *c, const struct x86_insn *i) {
	const struct x86_state *s = c->s;
	uint64_t image = s->rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF);

	if (sys_v86(c) && sys_iopl(c) != 3) {
		if (!(s->cr4 & CR4_VME) || i->opsize != 2)
			soft_gp(c, 0);
		image |= RFLAGS_IOPL;
		image = (image & ~(uint64_t)RFLAGS_IF) | (s->rflags & RFLAGS_VIF ? RFLAGS_IF : 0);
	}
	soft_push(c, i->opsize, image);
}

void op_popf(struct soft_vcpu *c, const struct x86_insn *i) {
	const struct x86_state *s = c->s;
	uint64_t sp = soft_sp(c);
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_RF;
	uint64_t clear = RFLAGS_RF;

	if (i->opsize != 2)
		mask |= RFLAGS_AC | RFLAGS_ID;
	if (sys_v86(c) && sys_iopl(c) != 3) {
		if (!(s->cr4 & CR4_VME) || i->opsize != 2)
			soft_gp(c, 0);
		uint64_t image = soft_read(c, SEG_SS, sp, 2);
		if ((image & RFLAGS_TF) || ((image & RFLAGS_IF) && (s->rflags & RFLAGS_VIP)))
			soft_gp(c, 0);
		soft_set_sp(c, sp + 2);
		soft_set_flags(c, image | (image & RFLAGS_IF ? RFLAGS_VIF : 0), mask | RFLAGS_VIF);
		return;
	}
	if (c->cpl <= sys_iopl(c))
		mask |= RFLAGS_IF;
	if (c->cpl == 0)
		mask |= RFLAGS_IOPL;
	uint64_t image = soft_read(c, SEG_SS, sp, i->opsize);
	soft_set_sp(c, sp + i->opsize);
	soft_set_flags(c, image & ~clear, mask);
}

void op_clac(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_feature(c, X86_FEAT_SMAP);
	if (c->cpl)
		soft_ud(c);
	soft_set_flags(c, 0, RFLAGS_AC);
}

void op_stac(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_feature(c, X86_FEAT_SMAP);
	if (c->cpl)
		soft_ud(c);
	soft_set_flags(c, RFLAGS_AC, RFLAGS_AC);
}

/* ---- control and debug registers
 * ------------------------------------------------------------------ */

static unsigned reg_width(const struct soft_vcpu *c) {
	return c->mode == X86_MODE_64 ? 8 : 4;
}

/* The local APIC's task priority, set first if `set` is not negative. An exit of its own kind. */
static uint8_t local_tpr(struct soft_vcpu *c, int set) {
	soft_fpu_unload(c);
	soft_leave_guest(c);
	if (set >= 0)
		vcpu_set_tpr(c->v, (uint8_t)set);
	uint8_t tpr = set >= 0 ? (uint8_t)set : vcpu_get_tpr(c->v);
	soft_enter_guest(c);
	return tpr;
}

static uint64_t read_cr(struct soft_vcpu *c, unsigned n) {
	const struct x86_state *s = c->s;
	switch (n) {
	case 0:
		return s->cr0;
	case 2:
		return s->cr2;
	case 3:
		return s->cr3;
	case 4:
		return s->cr4;
	default:
		return local_tpr(c, -1) >> 4;
	}
}

static void write_cr(struct soft_vcpu *c, unsigned n, uint64_t val) {
	switch (n) {
	case 0:
		soft_set_cr0(c, val);
		break;
	case 2:
		c->s->cr2 = val;
		break;
	case 3:
		soft_set_cr3(c, val);
		break;
	case 4:
		soft_set_cr4(c, val);
		break;
	default:
		if (val & ~0xfull)
			soft_gp(c, 0);
		local_tpr(c, (int)(val << 4));
		c->leave_block = true;
	}
}

void op_mov_cr(struct soft_vcpu *c, const struct x86_insn *i) {
	bool write = i->opnd[0].kind == OPND_CR;
	unsigned n = i->opnd[write ? 0 : 1].reg, gpr = i->opnd[write ? 1 : 0].reg;

	if (n > 8 || !(0x11d >> n & 1)) /* 0, 2, 3, 4, 8 */
		soft_ud(c);
	sys_need_cpl0(c);
	if (write)
		write_cr(c, n, soft_reg(c, gpr, reg_width(c)));
	else
		soft_set_reg(c, gpr, reg_width(c), read_cr(c, n));
}

void op_clts(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_cpl0(c);
	c->s->cr0 &= ~CR0_TS;
	c->leave_block = true;
}

void op_mov_dr(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	bool write = i->opnd[0].kind == OPND_DR;
	unsigned n = i->opnd[write ? 0 : 1].reg, gpr = i->opnd[write ? 1 : 0].reg;

	if (n > 7)
		soft_ud(c);
	if (n == 4 || n == 5) {
		if (s->cr4 & CR4_DE)
			soft_ud(c);
		n += 2;
	}
	sys_need_cpl0(c);
	if (s->dr7 & DR7_GD) {
		s->dr6 |= DR6_BD;
		soft_raise(c, VEC_DB);
	}
	if (!write) {
		soft_set_reg(c, gpr, reg_width(c), n < 4 ? s->dr[n] : n == 6 ? s->dr6 : s->dr7);
		return;
	}
	uint64_t val = soft_reg(c, gpr, reg_width(c));
	if (n < 4) {
		s->dr[n] = val;
	} else if (val >> 32) {
		soft_gp(c, 0);
	} else if (n == 6) {
		s->dr6 = (val & 0xe00f) | DR6_FIXED;
	} else {
		s->dr7 = (val & 0xffff23ff) | DR7_FIXED;
	}
	soft_update_mode(c); /* data breakpoints */
}

/* ---- caches and translations
 * ------------------------------------------------------------------------- */

void op_invd(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_cpl0(c);
}

void op_wbinvd(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_cpl0(c);
}

void op_invlpg(struct soft_vcpu *c, const struct x86_insn *i) {
	sys_need_cpl0(c);
	gva_t gva = soft_ea(c, i);
	if (!c->flat || i->seg >= SEG_FS)
		gva += c->s->seg[i->seg].base;
	if (c->mode != X86_MODE_64)
		gva = (uint32_t)gva;
	else if (!soft_canonical(gva)) /* no fault: there is nothing to drop */
		return;
	soft_tlb_flush_page(c, gva);
	c->leave_block = true;
}

void op_invpcid(struct soft_vcpu *c, const struct x86_insn *i) {
	uint8_t desc[16];
	uint64_t pcid = 0, gva = 0;

	sys_need_feature(c, X86_FEAT_INVPCID);
	sys_need_cpl0(c);
	uint64_t type = soft_reg(c, i->opnd[0].reg, reg_width(c));
	soft_read_bytes(c, i->seg, soft_ea(c, i), desc, sizeof(desc));
	for (unsigned n = 0; n < 8; n++) {
		pcid |= (uint64_t)desc[n] << (n * 8);
		gva |= (uint64_t)desc[8 + n] << (n * 8);
	}
	if (type > 3 || pcid >> 12)
		soft_gp(c, 0);
	if (type < 2 && pcid && !(c->s->cr4 & CR4_PCIDE))
		soft_gp(c, 0);
	if (type == 0 && !soft_canonical(gva))
		soft_gp(c, 0);
	if (type == 3)
		soft_spaces_drop(c);
	if (type < 2 && pcid != (c->s->cr4 & CR4_PCIDE ? c->s->cr3 & 0xfff : 0))
		soft_space_drop(c, (unsigned)pcid); /* all of it: single pages are not looked for */
	else if (type == 0)
		soft_tlb_flush_page(c, gva);
	else
		soft_tlb_flush(c, type == 2);
	c->leave_block = true;
}

/* ---- HLT, time, identification
 * ---------------------------------------------------------------------- */

void op_hlt(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_cpl0(c);
	c->s->activity = CPU_HALTED;
	c->leave_block = true;
}

static void check_tsd(struct soft_vcpu *c) {
	if ((c->s->cr4 & CR4_TSD) && c->cpl)
		soft_gp(c, 0);
}

static void put_tsc(struct soft_vcpu *c) {
	uint64_t tsc = vcpu_tsc(c->v);
	c->s->gpr[RAX] = (uint32_t)tsc;
	c->s->gpr[RDX] = tsc >> 32;
}

void op_rdtsc(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	check_tsd(c);
	put_tsc(c);
}

void op_rdtscp(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	sys_need_feature(c, X86_FEAT_RDTSCP);
	check_tsd(c);
	put_tsc(c);
	c->s->gpr[RCX] = (uint32_t)c->s->tsc_aux;
}

void op_rdpid(struct soft_vcpu *c, const struct x86_insn *i) {
	sys_need_feature(c, X86_FEAT_RDPID);
	soft_set_reg(c, i->opnd[0].reg, reg_width(c), c->s->tsc_aux);
}

void op_rdpmc(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	soft_gp(c, 0);
}

void op_cpuid(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t *r = c->s->gpr;
	uint32_t out[4];
	(void)i;
	cpuid_query(c->v->vm->cpuid, (uint32_t)r[RAX], (uint32_t)r[RCX], c->s, c->v->id, out);
	r[RAX] = out[0];
	r[RBX] = out[1];
	r[RCX] = out[2];
	r[RDX] = out[3];
}

/* ---- hypercalls
 * ---------------------------------------------------------------------------------------- */

#define HYPERCALL_EPERM ((uint64_t)-1)

/* KVM's convention: number in RAX, arguments in RBX RCX RDX RSI, 32 bits outside of 64-bit
 * mode. VMCALL and VMMCALL are both taken, whatever the vendor. */
void op_vmcall(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t *r = c->s->gpr, mask = size_mask(reg_width(c));
	struct vm_exit *e = &c->exit;
	(void)i;

	sys_need_feature(c, X86_FEAT_HYPERVISOR);
	uint64_t ret = HYPERCALL_EPERM;
	if (c->cpl == 0) {
		*e = (struct vm_exit){.kind = EXIT_HYPERCALL};
		e->hypercall.nr = r[RAX] & mask;
		e->hypercall.args[0] = r[RBX] & mask;
		e->hypercall.args[1] = r[RCX] & mask;
		e->hypercall.args[2] = r[RDX] & mask;
		e->hypercall.args[3] = r[RSI] & mask;
		soft_exit(c);
		ret = e->hypercall.ret;
		c->leave_block = true;
	}
	soft_set_reg(c, RAX, reg_width(c), ret);
}
