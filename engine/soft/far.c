/* Far jumps, calls and returns, call gates, IRET, SYSCALL and SYSENTER ([SDM2],
 * [SDM3 5.8, 6.12, 20.2], [APM2 8]). Runs on the vCPU's thread.
 *
 * Every transfer checks first and loads its registers last; stack memory may have
 * been written when a fault comes, as on a CPU. DEVIATION: SYSRET with a
 * non-canonical RCX raises #GP at CPL 0 for every vendor (AMD's parts raise it at CPL 3), which
 * is the stricter of the two. */
#include "core/x86/cpuid.h"
#include "engine/soft/fast.h"
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

void sys_check_rip(struct soft_vcpu *c, const struct x86_segment *cs, uint64_t rip) {
	if (sys_is_long_code(c, cs) ? !soft_canonical(rip) : rip > cs->limit)
		soft_gp(c, sys_ext(c));
}

void sys_set_code(struct soft_vcpu *c, struct x86_segment cs, uint64_t rip) {
	c->s->seg[SEG_CS] = cs;
	c->next_rip = rip;
	c->leave_block = true;
}

/* CS of real and virtual-8086 mode: only selector and base change. */
static struct x86_segment real_code(struct soft_vcpu *c, uint16_t sel) {
	struct x86_segment cs = c->s->seg[SEG_CS];
	cs.sel = sel;
	cs.base = (uint64_t)sel << 4;
	return cs;
}

/* The operand of a far jump or call: ptr16:16/32 or m16:16/32/64. */
static uint64_t far_target(struct soft_vcpu *c, const struct x86_insn *i, uint16_t *sel) {
	if (i->opnd[0].kind == OPND_FAR) {
		*sel = i->imm2;
		return i->imm & size_mask(i->opsize);
	}
	uint64_t ea = soft_ea(c, i);
	uint64_t off = soft_read(c, i->seg, ea, i->opsize);
	*sel = (uint16_t)soft_read(c, i->seg, (ea + i->opsize) & size_mask(i->addrsize), 2);
	return off;
}

/* Checks a code descriptor as the target of a direct far jump or call, or (gate) through a
 * call gate that keeps the privilege. */
static void check_code(struct soft_vcpu *c, uint16_t sel, const struct sys_desc *d, bool gate) {
	if (!DESC_IS_CODE(d->raw) || sys_bad_long_code(c, d->raw))
		soft_gp(c, SEL_ERR(sel));
	if (DESC_IS_CONFORMING(d->raw)) {
		if (DESC_DPL(d->raw) > c->cpl)
			soft_gp(c, SEL_ERR(sel));
	} else if ((!gate && SEL_RPL(sel) > c->cpl) || DESC_DPL(d->raw) != c->cpl) {
		soft_gp(c, SEL_ERR(sel));
	}
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(sel));
}

static void read_or_gp(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d) {
	if (SEL_IS_NULL(sel))
		soft_gp(c, 0);
	if (!sys_desc_read(c, sel, false, d))
		soft_gp(c, SEL_ERR(sel));
}

static uint16_t with_rpl(uint16_t sel, unsigned rpl) {
	return (uint16_t)((sel & 0xfffcu) | rpl);
}

/* ---- call gates --------------------------------------------------------------------------------
 */

struct gate {
	uint16_t sel;
	uint64_t off;
	uint8_t size; /* 2, 4, 8: of what is pushed */
	uint8_t params;
};

static struct gate read_gate(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d) {
	struct gate g = {.sel = (uint16_t)(d->raw >> 16)};

	if (DESC_DPL(d->raw) < c->cpl || DESC_DPL(d->raw) < SEL_RPL(sel))
		soft_gp(c, SEL_ERR(sel));
	if (c->long_mode) {
		if (!sys_desc_read(c, sel, true, d) || bits(d->high, 44, 40))
			soft_gp(c, SEL_ERR(sel));
	}
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(sel));
	g.off = bits(d->raw, 15, 0);
	g.size = 2;
	g.params = bits(d->raw, 36, 32);
	if (DESC_TYPE(d->raw) == SYS_CALL32) {
		g.size = c->long_mode ? 8 : 4;
		g.off |= bits(d->raw, 63, 48) << 16;
		if (c->long_mode)
			g.off |= bits(d->high, 31, 0) << 32;
	}
	return g;
}

/* The code segment behind a gate; in long mode it must be 64-bit code. */
static void read_gate_target(struct soft_vcpu *c, const struct gate *g, struct sys_desc *d) {
	read_or_gp(c, g->sel, d);
	if (!DESC_IS_CODE(d->raw) || DESC_DPL(d->raw) > c->cpl)
		soft_gp(c, SEL_ERR(g->sel));
	if (c->long_mode && (!DESC_L(d->raw) || DESC_DB(d->raw)))
		soft_gp(c, SEL_ERR(g->sel));
}

static void jump_gate(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d) {
	struct sys_desc code;
	struct gate g = read_gate(c, sel, d);
	read_gate_target(c, &g, &code);
	check_code(c, g.sel, &code, true);
	sys_desc_set(c, &code, 1);
	struct x86_segment cs = sys_desc_segment(&code, with_rpl(g.sel, c->cpl));
	sys_check_rip(c, &cs, g.off);
	sys_set_code(c, cs, g.off);
	soft_update_mode(c);
}

/* A call to more privilege: a new stack from the TSS, with the parameters copied to it. */
static void call_inner(struct soft_vcpu *c, const struct gate *g, struct sys_desc *code) {
	struct x86_state *s = c->s;
	unsigned cpl = DESC_DPL(code->raw);
	struct x86_segment old_ss = s->seg[SEG_SS], ss;
	uint64_t old_sp = s->gpr[RSP], sp;
	struct sys_stack from = sys_stack_current(c);

	if (c->long_mode) {
		sp = sys_tss_rsp(c, cpl);
		ss = sys_null_segment((uint16_t)cpl, cpl);
	} else {
		struct sys_desc d;
		uint16_t ss_sel;
		sys_tss_stack(c, cpl, &ss_sel, &sp);
		sys_check_stack(c, ss_sel, cpl, VEC_TS, &d);
		sys_desc_set(c, &d, 1);
		ss = sys_desc_segment(&d, ss_sel);
	}
	struct sys_stack st = sys_stack_new(ss, sp, cpl, c->long_mode, SEL_ERR(ss.sel));
	struct x86_segment cs = sys_desc_segment(code, with_rpl(g->sel, cpl));
	sys_check_rip(c, &cs, g->off);

	sys_push(c, &st, g->size, old_ss.sel);
	sys_push(c, &st, g->size, old_sp);
	if (!c->long_mode) {
		uint64_t params[31];
		for (unsigned n = 0; n < g->params; n++)
			params[n] = sys_pop(c, &from, g->size);
		for (unsigned n = g->params; n-- > 0;)
			sys_push(c, &st, g->size, params[n]);
	}
	sys_push(c, &st, g->size, s->seg[SEG_CS].sel);
	sys_push(c, &st, g->size, c->next_rip);

	sys_desc_set(c, code, 1);
	s->seg[SEG_SS] = ss;
	sys_set_code(c, cs, g->off);
	sys_stack_commit_sp(c, &st);
	soft_update_mode(c);
}

static void call_gate(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d) {
	struct sys_desc code;
	struct gate g = read_gate(c, sel, d);
	read_gate_target(c, &g, &code);
	if (!DESC_P(code.raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(g.sel));
	if (!DESC_IS_CONFORMING(code.raw) && DESC_DPL(code.raw) < c->cpl) {
		call_inner(c, &g, &code);
		return;
	}
	struct sys_stack st = sys_stack_current(c);
	if (c->long_mode)
		st.width = 8;
	if (c->long_mode && c->stack_size != 8)
		st.sp = c->s->gpr[RSP];
	struct x86_segment cs = sys_desc_segment(&code, with_rpl(g.sel, c->cpl));
	sys_check_rip(c, &cs, g.off);
	sys_push(c, &st, g.size, c->s->seg[SEG_CS].sel);
	sys_push(c, &st, g.size, c->next_rip);
	sys_desc_set(c, &code, 1);
	sys_set_code(c, cs, g.off);
	sys_stack_commit_sp(c, &st);
	soft_update_mode(c);
}

/* JMP or CALL to a system descriptor. */
static void far_system(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d, bool call) {
	unsigned type = DESC_TYPE(d->raw);

	if (type == SYS_CALL32 || (type == SYS_CALL16 && !c->long_mode)) {
		if (call)
			call_gate(c, sel, d);
		else
			jump_gate(c, sel, d);
		return;
	}
	if (c->long_mode || (type != SYS_TASK_GATE && type != SYS_TSS16 && type != SYS_TSS32))
		soft_gp(c, SEL_ERR(sel));
	if (DESC_DPL(d->raw) < c->cpl || DESC_DPL(d->raw) < SEL_RPL(sel))
		soft_gp(c, SEL_ERR(sel));
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(sel));
	enum sys_task_why why = call ? TASK_CALL : TASK_JMP;
	if (type == SYS_TASK_GATE) {
		sys_task_gate(c, (uint16_t)(d->raw >> 16), why, c->next_rip, NULL);
		return;
	}
	if (sel & 4)
		soft_gp(c, SEL_ERR(sel));
	sys_task_switch(c, sel, d, why, c->next_rip, NULL);
}

/* ---- JMP and CALL
 * -------------------------------------------------------------------------------- */

void op_jmpf(struct soft_vcpu *c, const struct x86_insn *i) {
	struct sys_desc d;
	uint16_t sel;
	uint64_t off = far_target(c, i, &sel);

	if (!soft_protected(c)) {
		struct x86_segment cs = real_code(c, sel);
		sys_check_rip(c, &cs, off);
		sys_set_code(c, cs, off);
		return;
	}
	read_or_gp(c, sel, &d);
	if (!DESC_S(d.raw)) {
		far_system(c, sel, &d, false);
		return;
	}
	check_code(c, sel, &d, false);
	struct x86_segment cs = sys_desc_segment(&d, with_rpl(sel, c->cpl));
	sys_check_rip(c, &cs, off);
	sys_desc_set(c, &d, 1);
	sys_set_code(c, cs, off);
	soft_update_mode(c);
}

void op_callf(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_segment cs;
	struct sys_desc d;
	uint16_t sel;
	uint64_t off = far_target(c, i, &sel);
	bool protected = soft_protected(c);

	if (protected) {
		read_or_gp(c, sel, &d);
		if (!DESC_S(d.raw)) {
			far_system(c, sel, &d, true);
			return;
		}
		check_code(c, sel, &d, false);
		cs = sys_desc_segment(&d, with_rpl(sel, c->cpl));
	} else {
		cs = real_code(c, sel);
	}
	struct sys_stack st = sys_stack_current(c);
	sys_check_rip(c, &cs, off);
	sys_push(c, &st, i->opsize, c->s->seg[SEG_CS].sel);
	sys_push(c, &st, i->opsize, c->next_rip);
	if (protected)
		sys_desc_set(c, &d, 1);
	sys_set_code(c, cs, off);
	sys_stack_commit_sp(c, &st);
	soft_update_mode(c);
}

/* ---- returns
 * ------------------------------------------------------------------------------------- */

/* On the way to less privilege, data segments that the new level may not use become null. */
static void drop_inner_segments(struct soft_vcpu *c, unsigned cpl) {
	static const uint8_t segs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	for (unsigned n = 0; n < ARRAY_LEN(segs); n++) {
		struct x86_segment *seg = &c->s->seg[segs[n]];
		bool conforming = (seg->attr & 0xc) == 0xc;
		if (SEL_IS_NULL(seg->sel) || conforming)
			continue;
		if ((seg->attr >> SEG_ATTR_DPL_SHIFT & 3) < cpl)
			*seg = sys_null_segment(0, 0);
	}
}

/* Checks CS for RETF and IRET and reads its descriptor. */
static struct x86_segment return_code(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d) {
	read_or_gp(c, sel, d);
	unsigned rpl = SEL_RPL(sel);
	if (!DESC_IS_CODE(d->raw) || rpl < c->cpl || sys_bad_long_code(c, d->raw))
		soft_gp(c, SEL_ERR(sel));
	if (DESC_IS_CONFORMING(d->raw) ? DESC_DPL(d->raw) > rpl : DESC_DPL(d->raw) != rpl)
		soft_gp(c, SEL_ERR(sel));
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(sel));
	struct x86_segment cs = sys_desc_segment(d, sel);
	return cs;
}

/* Checks SS for a return that pops it. */
static struct x86_segment return_stack(struct soft_vcpu *c, uint16_t sel, unsigned cpl,
									   bool long_code) {
	struct sys_desc d;
	if (SEL_IS_NULL(sel) && long_code && cpl != 3 && SEL_RPL(sel) == cpl)
		return sys_null_segment(sel, cpl);
	sys_check_stack(c, sel, cpl, VEC_GP, &d);
	sys_desc_set(c, &d, 1);
	return sys_desc_segment(&d, sel);
}

/* Loads SS:SP as a return does: only SP if the new stack has 16 bits. */
static void load_return_stack(struct soft_vcpu *c, struct x86_segment ss, uint64_t sp,
							  bool long_code) {
	struct sys_stack st = sys_stack_new(ss, sp, 0, long_code, 0);
	c->s->seg[SEG_SS] = ss;
	sys_stack_commit_sp(c, &st);
}

void op_retf(struct soft_vcpu *c, const struct x86_insn *i) {
	struct sys_stack st = sys_stack_current(c);
	uint64_t extra = i->nopnds && i->opnd[0].kind == OPND_IMM ? i->imm & 0xffff : 0;
	uint64_t rip = sys_pop(c, &st, i->opsize);
	uint16_t sel = (uint16_t)sys_pop(c, &st, i->opsize);
	struct sys_desc d;

	if (!soft_protected(c)) {
		struct x86_segment cs = real_code(c, sel);
		sys_check_rip(c, &cs, rip);
		st.sp += extra;
		sys_set_code(c, cs, rip);
		sys_stack_commit_sp(c, &st);
		return;
	}
	struct x86_segment cs = return_code(c, sel, &d);
	bool long_code = sys_is_long_code(c, &cs);
	unsigned cpl = SEL_RPL(sel);
	st.sp = (st.sp + extra) & size_mask(st.width);
	if (cpl == c->cpl) {
		sys_check_rip(c, &cs, rip);
		sys_desc_set(c, &d, 1);
		sys_set_code(c, cs, rip);
		sys_stack_commit_sp(c, &st);
		soft_update_mode(c);
		return;
	}
	uint64_t sp = sys_pop(c, &st, i->opsize);
	uint16_t ss_sel = (uint16_t)sys_pop(c, &st, i->opsize);
	struct x86_segment ss = return_stack(c, ss_sel, cpl, long_code);
	sys_check_rip(c, &cs, rip);
	sys_desc_set(c, &d, 1);
	sys_set_code(c, cs, rip);
	load_return_stack(c, ss, sp + extra, long_code);
	drop_inner_segments(c, cpl);
	soft_update_mode(c);
}

/* ---- IRET
 * ----------------------------------------------------------------------------------------- */

uint64_t sys_quick_desc(struct soft_vcpu *c, uint16_t sel) {
	uint32_t off = sel & 0xfff8u;
	if (sel & 4 || !off || off + 7 > c->s->gdtr.limit)
		return 0;
	const uint8_t *p = fast_host(c, c->s->gdtr.base + off, 8, ACCESS_READ, false);
	return p ? fast_load(p, 8) : 0;
}

void sys_enter_64(struct soft_vcpu *c, struct x86_segment cs, struct x86_segment ss, unsigned cpl,
				  uint64_t rip) {
	struct x86_state *s = c->s;
	s->seg[SEG_SS] = ss;
	s->seg[SEG_CS] = cs;
	c->cpl = (uint8_t)cpl;
	c->align_check = cpl == 3 && (s->cr0 & CR0_AM) && (s->rflags & RFLAGS_AC);
	c->next_rip = rip;
	c->leave_block = true;
}

#define IRET_FLAGS (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT)

static void iret_real(struct soft_vcpu *c, unsigned size) {
	struct x86_state *s = c->s;
	struct sys_stack st = sys_stack_current(c);
	uint64_t rip = sys_pop(c, &st, size);
	struct x86_segment cs = real_code(c, (uint16_t)sys_pop(c, &st, size));
	uint64_t flags = sys_pop(c, &st, size);
	uint64_t mask = IRET_FLAGS | RFLAGS_IF | RFLAGS_IOPL;

	if (size != 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	if (sys_v86(c)) {
		mask &= ~(uint64_t)RFLAGS_IOPL;
		if (sys_iopl(c) != 3) {
			/* CR4.VME and a 16-bit operand: the caller checked. */
			mask &= ~(uint64_t)RFLAGS_IF;
			if ((flags & RFLAGS_TF) || ((flags & RFLAGS_IF) && (s->rflags & RFLAGS_VIP)))
				soft_gp(c, 0);
			mask |= RFLAGS_VIF;
			flags = (flags & ~(uint64_t)RFLAGS_VIF) | (flags & RFLAGS_IF ? RFLAGS_VIF : 0);
		}
	}
	sys_check_rip(c, &cs, rip);
	sys_set_code(c, cs, rip);
	sys_stack_commit_sp(c, &st);
	soft_set_flags(c, flags, mask);
}

/* Return from CPL 0 to virtual-8086 mode; EIP, CS and EFLAGS are popped. */
static void iret_to_v86(struct soft_vcpu *c, struct sys_stack *st, uint64_t rip, uint16_t cs,
						uint64_t flags) {
	static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	struct x86_state *s = c->s;
	uint16_t sel[ARRAY_LEN(order)];

	uint64_t sp = sys_pop(c, st, 4);
	for (unsigned n = 0; n < ARRAY_LEN(order); n++)
		sel[n] = (uint16_t)sys_pop(c, st, 4);
	if ((rip & 0xffffffff) > 0xffff)
		soft_gp(c, 0);
	for (unsigned n = 0; n < ARRAY_LEN(order); n++)
		s->seg[order[n]] = sys_v86_segment(sel[n]);
	s->gpr[RSP] = (uint32_t)sp;
	sys_set_code(c, sys_v86_segment(cs), rip);
	soft_set_flags(c, flags, ~0ull);
	soft_update_mode(c);
}

static void iret_protected(struct soft_vcpu *c, unsigned size) {
	struct x86_state *s = c->s;
	struct sys_stack st = sys_stack_current(c);
	uint64_t rip = sys_pop(c, &st, size);
	uint16_t sel = (uint16_t)sys_pop(c, &st, size);
	uint64_t flags = sys_pop(c, &st, size);
	struct sys_desc d;

	if (!c->long_mode && size == 4 && (flags & RFLAGS_VM) && c->cpl == 0) {
		iret_to_v86(c, &st, rip, sel, flags);
		return;
	}
	struct x86_segment cs = return_code(c, sel, &d), ss = s->seg[SEG_SS];
	bool long_code = sys_is_long_code(c, &cs);
	unsigned cpl = SEL_RPL(sel);
	bool outer = cpl != c->cpl, pops_stack = outer || c->mode == X86_MODE_64;
	uint64_t sp = 0;
	if (pops_stack) {
		sp = sys_pop(c, &st, size);
		uint16_t ss_sel = (uint16_t)sys_pop(c, &st, size);
		ss = return_stack(c, ss_sel, cpl, long_code);
	}
	sys_check_rip(c, &cs, rip);

	uint64_t mask = IRET_FLAGS;
	if (size != 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	if (c->cpl <= sys_iopl(c))
		mask |= RFLAGS_IF;
	if (c->cpl == 0) {
		mask |= RFLAGS_IOPL;
		if (size != 2)
			mask |= RFLAGS_VIF | RFLAGS_VIP;
	}
	sys_desc_set(c, &d, 1);
	sys_set_code(c, cs, rip);
	if (pops_stack)
		load_return_stack(c, ss, sp, long_code);
	else
		sys_stack_commit_sp(c, &st);
	if (outer)
		drop_inner_segments(c, cpl);
	soft_set_flags(c, flags, mask);
	soft_update_mode(c);
}

/* IRETQ from 64-bit code to 64-bit code with nothing unusual in sight. false: the long way;
 * nothing was changed then. */
static bool iret_quick(struct soft_vcpu *c) {
	struct x86_state *s = c->s;
	uint64_t sp = s->gpr[RSP];
	const uint8_t *p = fast_host(c, sp, 40, ACCESS_READ, fast_user(c));
	if (!p || c->align_check)
		return false;
	uint64_t rip = fast_load(p, 8), flags = fast_load(p + 16, 8);
	uint16_t cs_sel = (uint16_t)fast_load(p + 8, 2), ss_sel = (uint16_t)fast_load(p + 32, 2);
	unsigned cpl = SEL_RPL(cs_sel);
	struct sys_desc d = {.raw = sys_quick_desc(c, cs_sel)};
	/* Present, accessed, code that does not conform, 64-bit, of the level that CS says. */
	if ((d.raw >> 40 & 0x60fd) != (0x2099 | cpl << 5) || cpl < c->cpl || !soft_canonical(rip))
		return false;
	struct x86_segment ss = sys_null_segment(ss_sel, cpl);
	if (!SEL_IS_NULL(ss_sel) || cpl == 3 || SEL_RPL(ss_sel) != cpl) {
		struct sys_desc data = {.raw = sys_quick_desc(c, ss_sel)};
		/* Present, accessed, writable data. */
		if ((data.raw >> 40 & 0x9b) != 0x93 || DESC_DPL(data.raw) != cpl || SEL_RPL(ss_sel) != cpl)
			return false;
		ss = sys_desc_segment(&data, ss_sel);
	}
	uint64_t mask = IRET_FLAGS | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	if (c->cpl <= sys_iopl(c))
		mask |= RFLAGS_IF;
	if (c->cpl == 0)
		mask |= RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP;
	s->gpr[RSP] = fast_load(p + 24, 8);
	if (cpl != c->cpl)
		drop_inner_segments(c, cpl);
	soft_set_flags(c, flags, mask);
	sys_enter_64(c, sys_desc_segment(&d, cs_sel), ss, cpl, rip);
	return true;
}

void op_iret(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;

	if (sys_v86(c) && sys_iopl(c) != 3 && (!(s->cr4 & CR4_VME) || i->opsize != 2))
		soft_gp(c, 0);
	s->nmi_masked = false; /* even if the rest faults ([SDM3 6.7.1]) */
	if (c->mode == X86_MODE_64 && i->opsize == 8 && !(s->rflags & RFLAGS_NT) && iret_quick(c))
		return;
	if (!soft_protected(c)) {
		iret_real(c, i->opsize);
	} else if (s->rflags & RFLAGS_NT) {
		if (c->long_mode)
			soft_gp(c, 0);
		sys_task_return(c);
	} else {
		iret_protected(c, i->opsize);
	}
	c->leave_block = true;
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT
 * ------------------------------------------------------------ */

static void enter(struct soft_vcpu *c, uint16_t cs, uint16_t ss, unsigned cpl, bool long_code,
				  uint64_t rip) {
	c->s->seg[SEG_SS] = sys_flat_data(ss, cpl);
	sys_set_code(c, sys_flat_code(cs, cpl, long_code), rip);
	soft_update_mode(c);
}

/* AMD's parts know SYSCALL in compatibility and legacy mode too; Intel's in 64-bit mode only. */
static void need_syscall(struct soft_vcpu *c) {
	if (!(c->s->efer & EFER_SCE) || (c->mode != X86_MODE_64 && !cpuid_is_amd(c->v->vm->cpuid)))
		soft_ud(c);
}

void op_syscall(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	(void)i;
	need_syscall(c);
	uint16_t cs = (uint16_t)(s->star >> 32) & 0xfffc, ss = (uint16_t)(cs + 8);

	if (c->mode == X86_MODE_64) {
		s->gpr[RCX] = c->next_rip;
		s->gpr[R11] = s->rflags & ~(uint64_t)RFLAGS_RF;
		soft_set_flags(c, 0, s->sfmask | RFLAGS_RF);
		c->single_step = s->rflags & RFLAGS_TF;
		sys_enter_64(c, sys_flat_code(cs, 0, true), sys_flat_data(ss, 0), 0, s->lstar);
	} else if (c->long_mode) {
		uint64_t rip = s->cstar;
		s->gpr[RCX] = c->next_rip;
		s->gpr[R11] = s->rflags & ~(uint64_t)RFLAGS_RF;
		soft_set_flags(c, 0, s->sfmask | RFLAGS_RF);
		c->single_step = s->rflags & RFLAGS_TF;
		enter(c, cs, ss, 0, true, rip);
	} else {
		s->gpr[RCX] = (uint32_t)c->next_rip;
		soft_set_flags(c, 0, RFLAGS_IF | RFLAGS_VM | RFLAGS_RF);
		enter(c, cs, ss, 0, false, (uint32_t)s->star);
	}
}

void op_sysret(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	need_syscall(c);
	if (!(s->cr0 & CR0_PE) || c->cpl)
		soft_gp(c, 0);
	uint16_t base = (uint16_t)(s->star >> 48);
	bool to_64 = i->opsize == 8;
	if (to_64 && !soft_canonical(s->gpr[RCX]))
		soft_gp(c, 0);
	if (c->long_mode)
		soft_set_flags(c, s->gpr[R11], 0x3c7fd7);
	else
		soft_set_flags(c, RFLAGS_IF, RFLAGS_IF);
	if (to_64 && c->mode == X86_MODE_64)
		sys_enter_64(c, sys_flat_code((uint16_t)(base + 16) | 3, 3, true),
					 sys_flat_data((uint16_t)(base + 8) | 3, 3), 3, s->gpr[RCX]);
	else if (to_64)
		enter(c, (uint16_t)(base + 16) | 3, (uint16_t)(base + 8) | 3, 3, true, s->gpr[RCX]);
	else
		enter(c, base | 3, (uint16_t)(base + 8) | 3, 3, false, (uint32_t)s->gpr[RCX]);
}

void op_sysenter(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	(void)i;
	sys_need_feature(c, X86_FEAT_SEP);
	if (c->long_mode && cpuid_is_amd(c->v->vm->cpuid))
		soft_ud(c);
	uint16_t cs = s->sysenter_cs & 0xfffc;
	if (!(s->cr0 & CR0_PE) || !cs)
		soft_gp(c, 0);
	soft_set_flags(c, 0, RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
	s->gpr[RSP] = c->long_mode ? s->sysenter_esp : (uint32_t)s->sysenter_esp;
	enter(c, cs, (uint16_t)(cs + 8), 0, c->long_mode,
		  c->long_mode ? s->sysenter_eip : (uint32_t)s->sysenter_eip);
}

void op_sysexit(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	sys_need_feature(c, X86_FEAT_SEP);
	if (c->long_mode && cpuid_is_amd(c->v->vm->cpuid))
		soft_ud(c);
	uint16_t base = s->sysenter_cs & 0xfffc;
	bool to_64 = i->opsize == 8;
	if (!(s->cr0 & CR0_PE) || c->cpl || !base)
		soft_gp(c, 0);
	if (to_64 && (!soft_canonical(s->gpr[RDX]) || !soft_canonical(s->gpr[RCX])))
		soft_gp(c, 0);
	uint64_t rip = s->gpr[RDX], rsp = s->gpr[RCX];
	unsigned cs = base + (to_64 ? 32 : 16);
	s->gpr[RSP] = to_64 ? rsp : (uint32_t)rsp;
	enter(c, (uint16_t)cs | 3, (uint16_t)(cs + 8) | 3, 3, to_64, to_64 ? rip : (uint32_t)rip);
}
