/* The interpreter, handler by handler: interrupts and system calls of long mode, control and debug
 * registers, flags, ports and MSRs. */
#include "engine/soft/system_fake.h"

/* ---- long mode ---- */

static void long_interrupts(void **unused) {
	struct soft_event df = {.vector = VEC_DF, .has_error = true};
	enter_long(3);
	s->rflags = 0x202;
	assert_true(try_op(op_int3));
	assert_int_equal(s->rip, HANDLER);
	assert_int_equal(s->gpr[RSP], STACK0 - 40);
	assert_int_equal(s->seg[SEG_SS].sel, 0);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->mode, X86_MODE_64);
	assert_int_equal(get(STACK0 - 8, 8), DATA3);
	assert_int_equal(get(STACK0 - 16, 8), STACK3);
	assert_true(try_op(op_iret));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->gpr[RSP], STACK3);
	assert_int_equal(s->rip, 0x4002);
	assert_true(try_deliver(&df));
	assert_int_equal(s->gpr[RSP], 0x7000 - 48); /* IST1 */
	s->gpr[RSP] += 8;
	assert_true(try_op(op_iret));

	/* The same privilege: aligned, SS:RSP pushed all the same. */
	s->seg[SEG_CS] = seg_of(CODE64);
	s->seg[SEG_SS] = seg_of(DATA0);
	soft_update_mode(c);
	s->gpr[RSP] = 0x8007;
	assert_true(try_op(op_int3));
	assert_int_equal(s->gpr[RSP], 0x8000 - 40);
	assert_int_equal(s->seg[SEG_SS].sel, DATA0);
	put(0x8000 - 40, 8, 1ull << 50);
	assert_raises(try_op(op_iret), VEC_GP, 0);
	s->rflags |= RFLAGS_NT;
	assert_raises(try_op(op_iret), VEC_GP, 0);
}

static void syscall_and_sysret(void **unused) {
	enter_long(3);
	s->star = (uint64_t)0x0013 << 48 | (uint64_t)CODE64 << 32;
	s->lstar = 0xffff800000001000;
	s->sfmask = RFLAGS_IF | RFLAGS_DF;
	s->rflags = 0x602;
	assert_true(try_op(op_syscall));
	assert_int_equal(s->rip, s->lstar);
	assert_int_equal(s->gpr[RCX], 0x4002);
	assert_int_equal(s->gpr[R11], 0x602);
	assert_int_equal(s->rflags, 2);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->seg[SEG_CS].sel, CODE64);
	assert_int_equal(s->seg[SEG_SS].sel, CODE64 + 8);
	assert_true(try_op(op_sysret));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(s->rflags, 0x602);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->seg[SEG_CS].sel, 0x23);
	assert_int_equal(s->seg[SEG_SS].sel, 0x1b);
	assert_int_equal(c->mode, X86_MODE_64);
	assert_raises(try_op(op_sysret), VEC_GP, 0);
	s->efer &= ~EFER_SCE;
	assert_raises(try_op(op_syscall), VEC_UD, 0);
}

static bool try_cr(unsigned n, uint64_t val) {
	insn.opnd[0] = (struct x86_opnd){OPND_CR, (uint8_t)n, 8, OPND_W};
	insn.opnd[1] = (struct x86_opnd){OPND_GPR, RAX, 8, OPND_R};
	s->gpr[RAX] = val;
	return try_op(op_mov_cr);
}

static void control_registers(void **unused) {
	enter_protected(0);
	assert_raises(try_cr(0, CR0_PG), VEC_GP, 0);
	assert_raises(try_cr(0, CR0_PE | CR0_NW), VEC_GP, 0);
	assert_raises(try_cr(4, 1u << 31), VEC_GP, 0);
	assert_raises(try_cr(4, CR4_SMAP), VEC_GP, 0);
	assert_raises(try_cr(4, CR4_PCIDE), VEC_GP, 0);
	assert_raises(try_cr(1, 0), VEC_UD, 0);
	enter_long(0);
	assert_raises(try_cr(4, 0), VEC_GP, 0);
	assert_raises(try_cr(0, CR0_PE), VEC_GP, 0); /* PG off in 64-bit mode */
	assert_raises(try_cr(0, 1ull << 32 | CR0_PE | CR0_PG), VEC_GP, 0);
	assert_raises(try_cr(3, 1ull << 63 | 0x10000), VEC_GP, 0);
	assert_true(try_cr(4, CR4_PAE | CR4_PCIDE));
	assert_true(try_cr(3, 1ull << 63 | 0x10001));
	assert_int_equal(s->cr3, 0x10001);
	assert_raises(try_cr(3, 1ull << 45), VEC_GP, 0);
	assert_raises(try_cr(8, 16), VEC_GP, 0);
	assert_true(try_cr(8, 5));
	assert_int_equal(s->cr8, 5);
	assert_true(try_cr(0, CR0_PE | CR0_PG | CR0_WP));
	assert_int_equal(s->cr0, CR0_PE | CR0_PG | CR0_WP | CR0_ET);
}

static void debug_registers(void **unused) {
	enter_protected(0);
	insn.opnd[0] = (struct x86_opnd){OPND_DR, 7, 4, OPND_W};
	insn.opnd[1] = (struct x86_opnd){OPND_GPR, RAX, 4, OPND_R};
	s->gpr[RAX] = 0xffffffff & ~(uint32_t)DR7_GD;
	assert_true(try_op(op_mov_dr));
	assert_int_equal(s->dr7, 0xffff07ff);
	assert_true(c->data_breakpoints);
	s->dr7 |= DR7_GD;
	assert_raises(try_op(op_mov_dr), VEC_DB, 0);
	assert_true(s->dr6 & DR6_BD);
	s->dr7 = DR7_FIXED;
	s->cr4 |= CR4_DE;
	insn.opnd[0].reg = 4;
	assert_raises(try_op(op_mov_dr), VEC_UD, 0);
}

/* ---- ports and MSRs ---- */

static void port_permission(void **unused) {
	enter_protected(3);
	insn.nopnds = 2;
	insn.opnd[1].kind = OPND_IMM;
	insn.imm = 0x60;
	insn.opsize = 1;
	put(TSS + 0x68 + 32 + 0x60 / 8, 1, 0xfe);
	assert_true(try_op(op_in));
	assert_int_equal(s->gpr[RAX], 1);
	insn.opsize = 2;
	assert_raises(try_op(op_in), VEC_GP, 0);
	insn.imm = 0xff; /* its byte is the last of the TSS, and two are read */
	insn.opsize = 1;
	assert_raises(try_op(op_in), VEC_GP, 0);
	s->rflags |= RFLAGS_IOPL;
	assert_true(try_op(op_in));
	assert_int_equal(s->gpr[RAX] & 0xff, 0xff);
}

static void string_ports_restart(void **unused) {
	enter_protected(0);
	insn.opsize = 4;
	insn.prefix = X86_PFX_REP;
	s->gpr[RCX] = 4;
	s->gpr[RDX] = 0x60;
	s->gpr[RDI] = 0x20000;
	assert_true(try_op(op_ins));
	assert_int_equal(s->gpr[RCX], 0);
	assert_int_equal(s->gpr[RDI], 0x20010);
	assert_int_equal(get(0x2000c, 4), 4);
	assert_int_equal(s->rip, 0x4002);
	/* An event stops it after one element, with RIP still there. */
	vcpu.events = EVENT_KICK;
	s->gpr[RCX] = 4;
	s->gpr[RSI] = 0x20000;
	assert_true(try_op(op_outs));
	assert_int_equal(s->gpr[RCX], 3);
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(port_seen, 1);
	/* A fault in the middle keeps what was done; the port is not read for nothing. */
	vcpu.events = 0;
	s->seg[SEG_ES].limit = 0x20007;
	s->gpr[RCX] = 4;
	s->gpr[RDI] = 0x20000;
	uint32_t before = port_val;
	assert_raises(try_op(op_ins), VEC_GP, 0);
	assert_int_equal(s->gpr[RCX], 2);
	assert_int_equal(s->gpr[RDI], 0x20008);
	assert_int_equal(port_val, before + 2);
}

static bool try_wrmsr(uint32_t index, uint64_t val) {
	s->gpr[RCX] = index;
	s->gpr[RAX] = (uint32_t)val;
	s->gpr[RDX] = val >> 32;
	return try_op(op_wrmsr);
}
static uint64_t rdmsr(uint32_t index) {
	s->gpr[RCX] = index;
	assert_true(try_op(op_rdmsr));
	return s->gpr[RAX] | s->gpr[RDX] << 32;
}

static void msrs(void **unused) {
	enter_long(0);
	assert_true(try_wrmsr(MSR_LSTAR, 0xffff800000000000));
	assert_int_equal(rdmsr(MSR_LSTAR), 0xffff800000000000);
	assert_raises(try_wrmsr(MSR_LSTAR, 1ull << 47), VEC_GP, 0);
	assert_raises(try_wrmsr(MSR_PAT, 2), VEC_GP, 0);
	assert_true(try_wrmsr(MSR_PAT, 0x0007040600070406));
	assert_raises(try_wrmsr(MSR_EFER, 1ull << 12), VEC_GP, 0);
	assert_raises(try_wrmsr(MSR_EFER, EFER_SCE), VEC_GP, 0); /* LME with paging on */
	assert_true(try_wrmsr(MSR_EFER, EFER_LME | EFER_NXE));
	assert_int_equal(s->efer, EFER_LME | EFER_LMA | EFER_NXE);
	assert_raises(try_wrmsr(MSR_MTRR_DEF_TYPE, 2), VEC_GP, 0);
	assert_true(try_wrmsr(MSR_MTRR_DEF_TYPE, 0xc06));
	assert_raises(try_wrmsr(MSR_MTRR_PHYSBASE0 + 1, 1ull << 46), VEC_GP, 0);
	assert_true(try_wrmsr(0x26f, 0x0606060606060606));
	assert_int_equal(s->mtrr_fixed[10], 0x0606060606060606);
	assert_raises(try_wrmsr(0x12345678, 0), VEC_GP, 0);
	assert_true(try_wrmsr(MSR_TSC, 1000000));
	assert_in_range(rdmsr(MSR_TSC), 1000000, 1000100);
	uint64_t adjust = rdmsr(MSR_TSC_ADJUST);
	assert_true(try_wrmsr(MSR_TSC_ADJUST, adjust + 500));
	assert_in_range(rdmsr(MSR_TSC), 1000500, 1000600);
	s->seg[SEG_SS].attr |= 3 << SEG_ATTR_DPL_SHIFT;
	soft_update_mode(c);
	assert_raises(try_wrmsr(MSR_TSC, 0), VEC_GP, 0);
}

static void flags_by_privilege(void **unused) {
	enter_protected(3);
	s->rflags = 2;
	put(STACK3, 4, 0x003fffd7 & ~RFLAGS_TF);
	assert_true(try_op(op_popf));
	assert_int_equal(s->rflags, (0x244cd7 & ~RFLAGS_IF) | 2); /* no IF, IOPL, VIF, VIP, RF, VM */
	assert_raises(try_op(op_cli), VEC_GP, 0);
	s->cr4 |= CR4_PVI;
	assert_true(try_op(op_sti));
	assert_true(s->rflags & RFLAGS_VIF);
	assert_false(s->rflags & RFLAGS_IF);
	enter_protected(0);
	s->rflags = 2;
	assert_true(try_op(op_sti));
	assert_int_equal(s->shadow, SHADOW_STI);
	s->shadow = 0;
	assert_true(try_op(op_sti));
	assert_int_equal(s->shadow, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		T(long_interrupts),
		T(syscall_and_sysret),
		T(control_registers),
		T(debug_registers),
		T(port_permission),
		T(string_ports_restart),
		T(msrs),
		T(flags_by_privilege),
	};
	return cmocka_run_group_tests_name("soft_system", tests, NULL, NULL);
}
