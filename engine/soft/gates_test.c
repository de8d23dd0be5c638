/* The interpreter, handler by handler: interrupts, gates, stack switches, segments, tasks and
 * virtual-8086 mode, outside of long mode. */
#include "engine/soft/system_fake.h"

/* ---- real mode ---- */

static void real_interrupts(void **unused) {
	put(0x21 * 4, 4, 0x12340056);
	s->seg[SEG_SS].sel = 0x100, s->seg[SEG_SS].base = 0x1000;
	s->gpr[RSP] = 0x80;
	s->rip = 0x10;
	s->rflags = 0x202;
	insn.opsize = 2;
	insn.imm = 0x21;
	assert_true(try_op(op_int));
	assert_int_equal(s->seg[SEG_CS].sel, 0x1234);
	assert_int_equal(s->rip, 0x56);
	assert_int_equal(s->rflags, 2);
	assert_int_equal(s->gpr[RSP], 0x7a);
	assert_int_equal(get(0x107a, 2), 0x12);
	assert_int_equal(get(0x107c, 2), 0xf000);
	assert_int_equal(get(0x107e, 2), 0x202);
	assert_true(try_op(op_iret));
	assert_int_equal(s->rip, 0x12);
	assert_int_equal(s->seg[SEG_CS].base, 0xf0000);
	assert_int_equal(s->rflags, 0x202);
	assert_int_equal(s->gpr[RSP], 0x80);
	s->idtr.limit = 0x10; /* too short for the vector and for #GP and #DF */
	assert_raises(try_op(op_int), VEC_GP, 0x21 * 8 + 2);
	assert_false(settle());
}

static void unreal_limits_stay(void **unused) {
	s->seg[SEG_DS].limit = 0xffffffff;
	assert_true(try_load(SEG_DS, 0x1234));
	assert_int_equal(s->seg[SEG_DS].limit, 0xffffffff);
	assert_int_equal(s->seg[SEG_DS].base, 0x12340);
}

/* ---- protected mode ---- */

static void segment_checks(void **unused) {
	enter_protected(3);
	assert_true(try_load(SEG_DS, 3));
	assert_true(s->seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
	assert_raises(try_load(SEG_SS, 0), VEC_GP, 0);
	assert_raises(try_load(SEG_DS, DATA0), VEC_GP, DATA0);
	assert_raises(try_load(SEG_DS, TSS_SEL), VEC_GP, TSS_SEL);
	assert_raises(try_load(SEG_DS, GDT_END), VEC_GP, GDT_END);
	assert_raises(try_load(SEG_DS, 4 | 8), VEC_GP, 4 | 8); /* no LDT */
	assert_raises(try_load(SEG_SS, CODE3), VEC_GP, CODE3 & ~3);
	assert_true(try_load(SEG_DS, CODE3)); /* readable code */
	assert_true(try_load(SEG_ES, CONFORMING));
	assert_true(try_load(SEG_DS, DATA3));
	assert_int_equal(get(GDT + (DATA3 & ~7) + 5, 1), 0xf3); /* accessed */
	put(GDT + (DATA3 & ~7) + 5, 1, 0x72);
	assert_raises(try_load(SEG_DS, DATA3), VEC_NP, DATA3 & ~3);
	assert_raises(try_load(SEG_SS, DATA3), VEC_SS, DATA3 & ~3);
}

static void interrupt_switches_stack(void **unused) {
	enter_protected(3);
	s->rflags = 0x202;
	insn.imm = 0x80;
	assert_true(try_op(op_int));
	assert_int_equal(s->rip, HANDLER + 0x800);
	assert_int_equal(s->seg[SEG_CS].sel, CODE0);
	assert_int_equal(s->seg[SEG_SS].sel, DATA0);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->gpr[RSP], STACK0 - 20);
	assert_int_equal(get(STACK0 - 20, 4), 0x4002);
	assert_int_equal(get(STACK0 - 16, 4), CODE3);
	assert_int_equal(get(STACK0 - 12, 4), 0x202);
	assert_int_equal(get(STACK0 - 8, 4), STACK3);
	assert_int_equal(get(STACK0 - 4, 4), DATA3);
	assert_int_equal(s->rflags, 0x202); /* a trap gate */
	assert_true(try_load(SEG_DS, DATA0));
	assert_true(try_op(op_iret));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->gpr[RSP], STACK3);
	assert_true(s->seg[SEG_DS].attr & SEG_ATTR_UNUSABLE); /* DPL 0 data is gone */
	assert_int_equal(s->seg[SEG_ES].sel, DATA3);
	insn.imm = 0x20;
	assert_raises(try_op(op_int), VEC_GP, 0x20 * 8 + 2); /* not present: type 0 */
	insn.imm = 14;
	assert_raises(try_op(op_int), VEC_GP, 14 * 8 + 2); /* DPL 0 */
	assert_true(settle());
	assert_int_equal(get((uint32_t)s->gpr[RSP], 4), 14 * 8 + 2);
	assert_int_equal(get((uint32_t)s->gpr[RSP] + 12, 4) & RFLAGS_RF, RFLAGS_RF);
}

static void double_and_triple_faults(void **unused) {
	struct soft_event pf = {.vector = VEC_PF, .has_error = true, .error = 2};
	enter_protected(0);
	put_gate(IDT + 14 * 8, 0x0e, 0x70, HANDLER, 0); /* selector beyond the GDT */
	assert_raises(try_deliver(&pf), VEC_GP, 0x70 + 1);
	assert_true(settle());
	assert_int_equal(s->rip, HANDLER + 8 * 16); /* #DF */
	assert_int_equal(get((uint32_t)s->gpr[RSP], 4), 0);
	assert_int_equal(c->delivering, SOFT_VEC_NONE);
	s->idtr.limit = 0;
	assert_false(try_deliver(&pf));
	assert_int_equal(c->event.vector, VEC_GP);
	assert_false(settle());
	assert_int_equal(c->unwind_why, UNWIND_SHUTDOWN);
}

static void call_gate_copies_parameters(void **unused) {
	enter_protected(3);
	put(STACK3, 4, 0x11111111);
	put(STACK3 + 4, 4, 0x22222222);
	insn.opnd[0].kind = OPND_FAR;
	insn.imm2 = CALL_GATE;
	insn.imm = 0xdeadbeef; /* ignored */
	assert_true(try_op(op_callf));
	assert_int_equal(s->rip, HANDLER);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->gpr[RSP], STACK0 - 24);
	assert_int_equal(get(STACK0 - 24, 4), 0x4002);
	assert_int_equal(get(STACK0 - 20, 4), CODE3);
	assert_int_equal(get(STACK0 - 16, 4), 0x11111111);
	assert_int_equal(get(STACK0 - 12, 4), 0x22222222);
	assert_int_equal(get(STACK0 - 8, 4), STACK3);
	assert_int_equal(get(STACK0 - 4, 4), DATA3);
	insn.nopnds = 1;
	insn.opnd[0].kind = OPND_IMM;
	insn.imm = 8;
	assert_true(try_op(op_retf));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->gpr[RSP], STACK3 + 8);
	insn.opnd[0].kind = OPND_FAR;
	insn.imm2 = CALL_GATE; /* a jump may not gain privilege */
	assert_raises(try_op(op_jmpf), VEC_GP, CODE0);
	insn.imm2 = CODE0;
	assert_raises(try_op(op_jmpf), VEC_GP, CODE0);
	insn.imm2 = CONFORMING;
	insn.imm = 0x4444;
	assert_true(try_op(op_jmpf));
	assert_int_equal(s->seg[SEG_CS].sel, CONFORMING | 3);
	assert_int_equal(c->cpl, 3);
}

/* ---- tasks ---- */

static void task_switches_and_returns(void **unused) {
	enter_protected(0);
	put(TSS2 + 0x20, 4, 0x6000);
	put(TSS2 + 0x24, 4, 0x2);
	put(TSS2 + 0x38, 4, 0x7700);
	for (unsigned n = 0; n < 6; n++)
		put(TSS2 + 0x48 + n * 4, 2, n == SEG_CS ? CODE0 : DATA0);
	put(TSS2 + 0x28, 4, 0xabcd);
	s->gpr[RAX] = 0x1234;
	insn.opnd[0].kind = OPND_FAR;
	insn.imm2 = TASK_GATE;
	assert_true(try_op(op_callf));
	assert_int_equal(s->rip, 0x6000);
	assert_int_equal(s->gpr[RAX], 0xabcd);
	assert_int_equal(s->gpr[RSP], 0x7700);
	assert_int_equal(s->seg[SEG_TR].sel, TSS2_SEL);
	assert_true(s->rflags & RFLAGS_NT);
	assert_true(s->cr0 & CR0_TS);
	assert_int_equal(get(TSS2, 2), TSS_SEL);
	assert_int_equal(get(GDT + TSS2_SEL + 5, 1), 0x8b);
	assert_int_equal(get(GDT + TSS_SEL + 5, 1), 0x8b);
	assert_int_equal(get(TSS + 0x20, 4), 0x4002);
	assert_raises(try_op(op_callf), VEC_GP, TSS2_SEL); /* busy: tasks do not recurse */
	assert_true(try_op(op_iret));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(s->gpr[RAX], 0x1234);
	assert_int_equal(s->seg[SEG_TR].sel, TSS_SEL);
	assert_int_equal(get(GDT + TSS2_SEL + 5, 1), 0x89);
	assert_false(s->rflags & RFLAGS_NT);
	assert_int_equal(get(TSS2 + 0x20, 4), 0x6002);

	/* An exception through a task gate pushes its error code on the new stack. */
	struct soft_event gp = {.vector = VEC_GP, .has_error = true, .error = 0x1230};
	put(TSS2 + 0x20, 4, 0x6000);
	put(TSS2 + 0x64, 2, 1); /* and the T bit traps */
	put_gate(IDT + 13 * 8, 0x05, TSS2_SEL, 0, 0);
	assert_raises(try_deliver(&gp), VEC_DB, 0);
	assert_true(s->dr6 & DR6_BT);
	assert_int_equal(get((uint32_t)s->gpr[RSP], 4), 0x1230);
	assert_int_equal(s->rip, 0x6000);

	/* A bad segment is the new task's #TS. */
	enter_protected(0);
	put(TSS2 + 0x64, 2, 0);
	put(TSS2 + 0x48 + SEG_DS * 4, 2, 0x70);
	insn.imm2 = TSS2_SEL;
	assert_raises(try_op(op_jmpf), VEC_TS, 0x70);
	assert_int_equal(s->seg[SEG_TR].sel, TSS2_SEL);
	assert_int_equal(get(GDT + TSS_SEL + 5, 1), 0x89);
	put_desc(TSS_SEL, TSS, 0x66, 0x89);
	insn.imm2 = TSS_SEL;
	assert_raises(try_op(op_jmpf), VEC_TS, TSS_SEL);
}

/* ---- virtual-8086 mode ---- */

static void enter_v86(unsigned iopl) {
	enter_protected(0);
	uint32_t sp = STACK0 - 36;
	const uint32_t frame[] = {
		0x100, 0x400, RFLAGS_VM | RFLAGS_IF | 2 | iopl << 12, 0xf00, 0x900, 0x11, 0x22, 0x33, 0x44};
	for (unsigned n = 0; n < 9; n++)
		put(sp + n * 4, 4, frame[n]);
	s->gpr[RSP] = sp;
	assert_true(try_op(op_iret));
}

static void v86_and_back(void **unused) {
	enter_v86(0);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->mode, X86_MODE_16);
	assert_int_equal(s->seg[SEG_CS].base, 0x4000);
	assert_int_equal(s->seg[SEG_SS].base, 0x9000);
	assert_int_equal(s->seg[SEG_GS].sel, 0x44);
	insn.opsize = 2;
	assert_raises(try_op(op_cli), VEC_GP, 0);
	assert_raises(try_op(op_pushf), VEC_GP, 0);
	assert_raises(try_op(op_iret), VEC_GP, 0);
	insn.imm = 0x21;
	assert_raises(try_op(op_int), VEC_GP, 0);
	assert_true(settle());
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->gpr[RSP], STACK0 - 40);
	assert_int_equal(get(STACK0 - 40, 4), 0);
	assert_int_equal(get(STACK0 - 36, 4), 0x100);
	assert_int_equal(get(STACK0 - 4, 4), 0x44);
	assert_int_equal(get(STACK0 - 16, 4), 0x11);
	assert_true(s->seg[SEG_GS].attr & SEG_ATTR_UNUSABLE);
	assert_false(s->rflags & RFLAGS_VM);
	s->gpr[RSP] += 4;
	insn.opsize = 4;
	assert_true(try_op(op_iret));
	assert_true(s->rflags & RFLAGS_VM);
	assert_int_equal(s->rip, 0x100);
	assert_int_equal(s->gpr[RSP], 0xf00);
}

static void v86_with_vme(void **unused) {
	enter_v86(0);
	s->cr4 |= CR4_VME;
	insn.opsize = 2;
	put(0x21 * 4, 4, 0x02000300);
	assert_true(try_op(op_sti));
	assert_true(s->rflags & RFLAGS_VIF);
	insn.imm = 0x21; /* redirection bitmap is zero: the guest's own table */
	assert_true(try_op(op_int));
	assert_int_equal(s->seg[SEG_CS].sel, 0x200);
	assert_int_equal(s->rip, 0x300);
	assert_false(s->rflags & RFLAGS_VIF);
	assert_true(s->rflags & RFLAGS_VM);
	assert_int_equal(get(0x9000 + 0xefe, 2) & 0x3200, 0x3200);
	assert_true(try_op(op_iret));
	assert_true(s->rflags & RFLAGS_VIF);
	assert_int_equal(s->seg[SEG_CS].sel, 0x400);
	put(TSS + 0x68 + 4, 1, 2); /* not redirected any more: IOPL decides */
	assert_raises(try_op(op_int), VEC_GP, 0);
	s->rflags |= RFLAGS_VIP;
	s->rflags &= ~(uint64_t)RFLAGS_VIF;
	assert_raises(try_op(op_sti), VEC_GP, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		T(real_interrupts),
		T(unreal_limits_stay),
		T(segment_checks),
		T(interrupt_switches_stack),
		T(double_and_triple_faults),
		T(call_gate_copies_parameters),
		T(task_switches_and_returns),
		T(v86_and_back),
		T(v86_with_vme),
	};
	return cmocka_run_group_tests_name("soft_gates", tests, NULL, NULL);
}
