/* Translating 16- and 32-bit code: what differs from 64-bit code. See tx.h and README.md, 16 and 32
 * bits; legacy.c is the half of it at run time.
 *
 * Addresses. Registers have no upper halves, so a base and a small displacement make an address of
 * 64 bits that is either the right one or, if it has wrapped around, one that the TLB never holds:
 * such an operand is addressed as in 64-bit code. Everything else (an index, a segment with a base,
 * 16 bits) is computed in full, once for the check and once more for the access:
 *
 *     lea r10d, [EA]; movzx r10d, r10w; [lea r11, [r10+size]; cmp r11, gs:[reach]; ja interp]
 *     add r10d, gs:[base]; (probe); lea r11d, [EA]; add r11d, gs:[base]; add r10, r11
 *
 * Stack accesses are the same with SS. What is not done here is the interpreter's: each access
 * beyond the reach of a segment, what wraps around within an operand. */
#include "engine/soft/tx.h"

#define NEAR_DISP 0x4000

/* ---- which ----------------------------------------------------------------------------------- */

/* Whether accesses through the segment need its base and limit. */
static bool segmented(const struct tx *t, unsigned seg) {
	return t->key & JIT_KEY_SEGS || (seg != SEG_DS && seg != SEG_ES && seg != SEG_SS);
}

static bool vex_needs_call(const struct x86_insn *i) {
	const struct x86_opspec *spec = &x86_opspecs[x86_decs[i->form].ops];
	const struct x86_opnd *m = x86_memory_operand(i);
	bool wide = i->rex & 8; /* VEX.W, which here does not make a general operand one of 64 bits */
	if (i->mode == X86_MODE_16) /* maybe real mode, which has no VEX */
		return true;
	if (i->op == X86_OP_VZEROALL || i->op == X86_OP_VZEROUPPER) /* of eight registers */
		return true;
	if (wide && (i->op == X86_OP_VPCMPESTRI || i->op == X86_OP_VPCMPESTRM || (m && m->size < 16)))
		return true;
	for (unsigned n = 0; n < i->nopnds; n++) {
		if (wide && i->opnd[n].kind == OPND_GPR)
			return true;
		if (spec[n].at == AT_IS4_VEC && i->raw[i->len - 1] & 0x80) /* a bit that is ignored here */
			return true;
	}
	return false;
}

bool tx_legacy_needs_call(const struct tx *t, const struct x86_insn *i) {
	const struct x86_opnd *m = x86_memory_operand(i);
	if (i->prefix & X86_PFX_VEX && vex_needs_call(i))
		return true;
	/* 16-bit addresses without a segment base are rare. */
	if (m && i->addrsize == 2 && !(t->key & JIT_KEY_SEGS) && i->op != X86_OP_LEA)
		return true;
	if (tx_is_bit_string(i) && (segmented(t, i->seg) || i->addrsize != 4))
		return true;
	switch (i->op) {
	case X86_OP_ADCX: /* prefix 66 is no operand size there */
	case X86_OP_ADOX:
	case X86_OP_MOVNTI:
	case X86_OP_LFENCE:
	case X86_OP_MFENCE:
	case X86_OP_SFENCE:
	case X86_OP_CMPXCHG8B:
		return i->mode == X86_MODE_16;
	case X86_OP_LEAVE:
		return i->opsize != (t->key & JIT_KEY_STACK16 ? 2 : 4);
	default:
		return false;
	}
}

bool tx_legacy_opsize(const struct x86_insn *i, bool *own) {
	unsigned cls = x86_forms[i->form].cls;
	if (i->mode != X86_MODE_16 || (cls != X86_CLASS_INT && cls != X86_CLASS_X87))
		return false;
	*own = false;
	return cls == X86_CLASS_INT && i->opsize == 2;
}

/* ---- addresses ------------------------------------------------------------------------------- */

bool tx_legacy_plain(const struct tx *t, const struct x86_insn *i) {
	if (segmented(t, i->seg) || i->addrsize != 4)
		return false;
	return tx_is_const_ea(i) ||
		   (i->base < 16 && i->index >= 16 && i->disp > -NEAR_DISP && i->disp < NEAR_DISP);
}

static void lea32(struct emit *e, unsigned reg, const struct emem *m) {
	e_op_mem(e, false, 0x8d, reg, m);
}

static void movzx16(struct emit *e, unsigned reg, unsigned from) {
	unsigned rex = rex_bits(false, reg, NOREG, from);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, 0x0f);
	e8(e, 0xb7);
	e8(e, 0xc0 | (reg & 7) << 3 | (from & 7));
}

/* reg = the operand's offset. */
static void offset_to(struct emit *e, unsigned reg, const struct x86_insn *i) {
	if (tx_is_const_ea(i)) {
		e_mov_imm(e, reg, i->addrsize == 2 ? (uint16_t)i->disp : (uint32_t)i->disp);
		return;
	}
	struct emem m = tx_operand(e, i);
	lea32(e, reg, &m);
	if (i->addrsize == 2)
		movzx16(e, reg, reg);
}

static void add_base(struct emit *e, unsigned reg, unsigned seg) {
	e_op_gs(e, false, 0x03, reg, GS_SEG(seg));
}

void tx_legacy_linear(const struct tx *t, struct emit *e, const struct x86_insn *i) {
	if (tx_legacy_plain(t, i) && !tx_is_const_ea(i)) {
		e_lea(e, T0, tx_host_reg(i->base), NOREG, 0, (int32_t)i->disp);
		return;
	}
	offset_to(e, T0, i);
	if (segmented(t, i->seg))
		add_base(e, T0, i->seg);
}

/* reg = linear address of an operand of 32-bit code that is computed in 32 bits; flags stay. */
static void linear_to(const struct tx *t, struct emit *e, unsigned reg, const struct x86_insn *i) {
	if (!segmented(t, i->seg)) {
		offset_to(e, reg, i);
		return;
	}
	e_load_gs(e, reg, GS_SEG(i->seg));
	struct emem m = {reg, NOREG, i->scale, (int32_t)i->disp};
	if (i->base < 16 && i->index < 16) {
		struct emem first = {reg, tx_host_reg(i->base), 0, 0};
		lea32(e, reg, &first);
		m.index = tx_host_reg(i->index);
	} else if (i->base < 16) {
		m.index = tx_host_reg(i->base);
		m.scale = 0;
	} else if (i->index < 16) {
		m.index = tx_host_reg(i->index);
	}
	lea32(e, reg, &m);
}

static struct x86_insn group_insn(const struct tx_group *g, int64_t d) {
	return (struct x86_insn){.base = g->base == NOREG ? X86_REG_NONE : (uint8_t)g->base,
							 .index = g->index == NOREG ? X86_REG_NONE : (uint8_t)g->index,
							 .scale = (uint8_t)g->scale,
							 .seg = g->seg == NOREG ? SEG_DS : (uint8_t)g->seg,
							 .addrsize = 4,
							 .disp = d};
}

void tx_legacy_group_address(const struct tx *t, struct emit *e, const struct tx_group *g,
							 int64_t d) {
	struct x86_insn i = group_insn(g, d);
	linear_to(t, e, T0, &i);
}

/* The offset in T0 must be one that the segment has, with `size` bytes behind it; else off to k. */
static void compare_reach(struct emit *e, unsigned seg, unsigned size, bool write,
						  struct tx_cold *k) {
	e_lea(e, T1, T0, NOREG, 0, (int32_t)size);
	e_op_gs(e, true, 0x3b, T1, GS_JIT(segs[seg].reach[write]));
	e8(e, 0x0f);
	e8(e, 0x87); /* ja */
	k->from = e->at;
	e32(e, 0);
}

/* The same for instruction n: else it is the interpreter's. */
static void check_reach(struct tx *t, unsigned n, unsigned seg, unsigned size, bool write) {
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.rip = t->rip[n], .kind = COLD_INTERP};
	compare_reach(&t->e, seg, size, write, k);
}

void tx_legacy_group_reach(struct tx *t, unsigned n, const struct tx_group *g, int64_t d) {
	struct x86_insn i = group_insn(g, d);
	offset_to(&t->e, T0, &i);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.rip = t->rip[n], .kind = COLD_PLAIN, .saved = t->saved && t->live[n]};
	compare_reach(&t->e, g->seg, (unsigned)(g->max - g->min), g->write, k);
}

/* With the addend of its page in T0: *m addresses the operand. T1 is free then; flags are lost, but
 * for the second tier's. */
static void address(struct tx *t, const struct x86_insn *i, struct emem *m) {
	struct emit *e = &t->e;
	*m = (struct emem){T0, NOREG, 0, 0};
	if (tx_legacy_plain(t, i) && !tx_is_const_ea(i)) {
		*m = (struct emem){tx_host_reg(i->base), T0, 0, (int32_t)i->disp};
	} else if (tx_is_const_ea(i) && !segmented(t, i->seg) && i->addrsize == 4 &&
			   (uint32_t)i->disp < 0x80000000u) {
		m->disp = (int32_t)i->disp;
	} else {
		if (t->hot) {
			linear_to(t, e, T1, i);
		} else {
			offset_to(e, T1, i);
			if (segmented(t, i->seg))
				add_base(e, T1, i->seg);
		}
		e_lea(e, T0, T0, T1, 0, 0);
	}
}

void tx_legacy_access(struct tx *t, unsigned n, struct emem *m) {
	const struct x86_insn *i = &t->insn[n];
	const struct x86_opnd *o = x86_memory_operand(i);
	struct emit *e = &t->e;
	bool write = o->access & OPND_W;
	bool aligned = x86_forms[i->form].attr & X86_ATTR_ALIGN && o->size > 1;
	if (t->groups_of[n][0] >= 0) {
		if (aligned) {
			tx_flags_aside(t, n);
			tx_legacy_linear(t, e, i);
			tx_check_alignment(t, n);
		}
		tx_group_addend(t, n, 0);
		address(t, i, m);
		return;
	}
	tx_flags_aside(t, n);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.retry = tx_here(t),
						  .rip = t->rip[n],
						  .insn = i,
						  .kind = COLD_PROBE,
						  .size = o->size,
						  .write = write};
	if (segmented(t, i->seg)) {
		offset_to(e, T0, i);
		check_reach(t, n, i->seg, o->size, write);
		if (t->hot)
			linear_to(t, e, T0, i);
		else
			add_base(e, T0, i->seg);
	} else {
		tx_legacy_linear(t, e, i);
	}
	if (aligned)
		tx_check_alignment(t, n);
	tx_probe(t, o->size, write, k);
	address(t, i, m);
}

/* ---- the stack ------------------------------------------------------------------------------- */

static bool is_sp16(const struct tx *t) {
	return t->key & JIT_KEY_STACK16;
}

static void stack_offset_to(const struct tx *t, struct emit *e, unsigned to, unsigned reg,
							int32_t disp) {
	struct emem m = {reg, NOREG, 0, disp};
	lea32(e, to, &m);
	if (is_sp16(t))
		movzx16(e, to, to);
}

void tx_legacy_stack_linear(const struct tx *t, struct emit *e, unsigned reg, int32_t disp) {
	if (!(t->key & JIT_KEY_SEGS)) {
		e_lea(e, T0, reg, NOREG, 0, disp);
		return;
	}
	stack_offset_to(t, e, T0, reg, disp);
	add_base(e, T0, SEG_SS);
}

/* The check of `size` bytes at SS:[reg + disp]; *m addresses them, T1 is free. */
static void stack_access(struct tx *t, unsigned n, unsigned reg, int32_t disp, unsigned size,
						 bool write, struct emem *m) {
	struct emit *e = &t->e;
	if (tx_group_addend(t, n, 1)) {
		*m = (struct emem){reg, T0, 0, disp};
		return;
	}
	tx_flags_aside(t, n);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.retry = tx_here(t),
						  .rip = t->rip[n],
						  .kind = COLD_STACK,
						  .size = size,
						  .write = write,
						  .stack_reg = reg,
						  .stack_disp = disp};
	if (!(t->key & JIT_KEY_SEGS)) {
		e_lea(e, T0, reg, NOREG, 0, disp);
		tx_probe(t, size, write, k);
		*m = (struct emem){reg, T0, 0, disp};
		return;
	}
	stack_offset_to(t, e, T0, reg, disp);
	check_reach(t, n, SEG_SS, size, write);
	add_base(e, T0, SEG_SS);
	tx_probe(t, size, write, k);
	stack_offset_to(t, e, T1, reg, disp);
	add_base(e, T1, SEG_SS);
	e_lea(e, T0, T0, T1, 0, 0);
	*m = (struct emem){T0, NOREG, 0, 0};
}

/* The stack pointer = from + by, in its width; T1 is lost. In the second tier it is that of an
 * access that was checked, so it does not wrap, and the verifier can follow it. */
static void set_sp(struct tx *t, unsigned from, int32_t by) {
	struct emit *e = &t->e;
	struct emem m = {from, NOREG, 0, by};
	if (t->hot && by <= 4) {
		e_lea(e, H_RSP, from, NOREG, 0, by);
		return;
	}
	if (!is_sp16(t)) {
		lea32(e, H_RSP, &m);
		return;
	}
	lea32(e, T1, &m);
	e8(e, 0x66); /* mov r14w, r11w */
	e_op_reg(e, false, 0x89, T1, H_RSP);
}

/* op reg, [m] of 2 or 4 bytes. */
static void op_sized(struct emit *e, unsigned size, unsigned op, unsigned reg,
					 const struct emem *m) {
	if (size == 2)
		e8(e, 0x66);
	e_op_mem(e, false, op, reg, m);
}

/* reg = [m], of 2 or 4 bytes, zero-extended. */
static void load(struct emit *e, unsigned size, unsigned reg, const struct emem *m) {
	if (size == 4) {
		e_op_mem(e, false, 0x8b, reg, m);
		return;
	}
	unsigned rex = rex_bits(false, reg, m->index, m->base);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, 0x0f);
	e8(e, 0xb7);
	e_modrm_mem(e, reg, m, true);
}

static void push_imm(struct tx *t, unsigned n, unsigned size, uint64_t val) {
	struct emem m;
	stack_access(t, n, H_RSP, -(int32_t)size, size, true, &m);
	op_sized(&t->e, size, 0xc7, 0, &m);
	if (size == 2)
		e16(&t->e, (unsigned)val);
	else
		e32(&t->e, (uint32_t)val);
	set_sp(t, H_RSP, -(int32_t)size);
}

/* Of 4 bytes the lower two are written. */
static void push_selector(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	int32_t size = i->opsize;
	struct emem m;
	stack_access(t, n, H_RSP, -size, 2, true, &m);
	tx_load_selector(&t->e, T1, i->opnd[0].reg);
	op_sized(&t->e, 2, 0x89, T1, &m);
	set_sp(t, H_RSP, -size);
}

static void push_reg(struct tx *t, unsigned n, unsigned size, unsigned reg) {
	struct emem m;
	stack_access(t, n, H_RSP, -(int32_t)size, size, true, &m);
	op_sized(&t->e, size, 0x89, tx_host_reg(reg), &m);
	set_sp(t, H_RSP, -(int32_t)size);
}

void tx_legacy_push_tmp(struct tx *t, unsigned n) {
	unsigned size = t->insn[n].opsize;
	struct emem m;
	stack_access(t, n, H_RSP, -(int32_t)size, size, true, &m);
	e_load_gs(&t->e, T1, GS_JIT(tmp));
	op_sized(&t->e, size, 0x89, T1, &m);
	set_sp(t, H_RSP, -(int32_t)size);
}

/* jit.tmp = operand 0, zero-extended. */
static void operand_to_tmp(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	struct emem m;
	if (i->opnd[0].kind == OPND_MEM) {
		tx_legacy_access(t, n, &m);
		load(e, i->opsize, T1, &m);
	} else if (i->opsize == 2) {
		movzx16(e, T1, tx_host_reg(i->opnd[0].reg));
	} else {
		e_mov(e, T1, tx_host_reg(i->opnd[0].reg));
	}
	e_store_gs(e, T1, GS_JIT(tmp));
}

static void pop(struct tx *t, unsigned n) {
	struct emit *e = &t->e;
	unsigned d = t->insn[n].opnd[0].reg, size = t->insn[n].opsize;
	struct emem m;
	stack_access(t, n, H_RSP, 0, size, false, &m);
	if (d != RSP) {
		op_sized(e, size, 0x8b, d, &m);
		set_sp(t, H_RSP, (int32_t)size);
		return;
	}
	load(e, size, T0, &m);
	if (size == 2 && !is_sp16(t))
		set_sp(t, H_RSP, (int32_t)size);
	if (size == 2)
		e8(e, 0x66);
	e_op_reg(e, false, 0x89, T0, H_RSP);
}

static void leave(struct tx *t, unsigned n) {
	struct emit *e = &t->e;
	unsigned size = t->insn[n].opsize; /* that of the stack pointer */
	struct emem m;
	stack_access(t, n, RBP, 0, size, false, &m);
	load(e, size, T0, &m);
	set_sp(t, RBP, (int32_t)size);
	if (size == 2)
		e8(e, 0x66);
	e_op_reg(e, false, 0x89, T0, RBP);
}

/* ---- branches -------------------------------------------------------------------------------- */

/* T0 = the jit address of the offset in T0. Uses T1. */
static void to_address(struct tx *t) {
	uint64_t base = t->b->rip & ~0xffffffffull;
	if (!base)
		return;
	e_mov_imm(&t->e, T1, base);
	e_lea(&t->e, T0, T0, T1, 0, 0);
}

static enum tx_emitted call(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	uint64_t next = tx_plus(t, t->rip[n], i->len);
	bool direct = i->opnd[0].kind == OPND_REL, paired = !(t->j->off & JIT_OFF_RET);
	if (!direct)
		operand_to_tmp(t, n);
	push_imm(t, n, i->opsize, next);
	tx_flags_back(t, t->needed[n]);
	if (direct) {
		tx_jump_to(t, paired ? TX_JUMP_CALL : TX_JUMP_ALWAYS, tx_target(t, i, t->rip[n]));
	} else {
		e_load_gs(e, T0, GS_JIT(tmp));
		to_address(t);
		tx_look_up(t, paired);
	}
	if (!paired)
		return EMIT_END;
	tx_expect(e, next, t->j->ret_miss[tx_user(t)], t->j->exec);
	return EMIT_OK;
}

static enum tx_emitted ret(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	struct emem m;
	stack_access(t, n, H_RSP, 0, i->opsize, false, &m);
	load(e, i->opsize, T0, &m);
	set_sp(t, H_RSP, i->opsize + (i->nopnds ? (uint16_t)i->imm : 0));
	to_address(t);
	tx_flags_back(t, RFLAGS_ARITH);
	if (t->j->off & JIT_OFF_RET)
		tx_look_up(t, false);
	else
		e8(e, 0xc3);
	return EMIT_END;
}

static enum tx_emitted jump(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	struct emem m;
	if (i->opnd[0].kind == OPND_REL)
		return TX_NOT_SPECIAL;
	if (i->opnd[0].kind == OPND_MEM) {
		tx_legacy_access(t, n, &m);
		load(e, i->opsize, T0, &m);
	} else if (i->opsize == 2) {
		movzx16(e, T0, tx_host_reg(i->opnd[0].reg));
	} else {
		e_mov(e, T0, tx_host_reg(i->opnd[0].reg));
	}
	to_address(t);
	tx_flags_back(t, RFLAGS_ARITH);
	tx_look_up(t, false);
	return EMIT_END;
}

/* ---- encodings that 64-bit code does not have --------------------------------------------------
 */

static enum tx_emitted lea(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	unsigned d = tx_host_reg(i->opnd[0].reg);
	if (i->opnd[0].size == 2) {
		offset_to(e, T0, i);
		e8(e, 0x66); /* mov d, r10w */
		e_op_reg(e, false, 0x89, T0, d);
	} else {
		offset_to(e, d, i);
	}
	return EMIT_OK;
}

/* INC and DEC 40..4F, as FF. */
static enum tx_emitted inc_dec(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	if (i->modrm_off)
		return TX_NOT_SPECIAL;
	tx_flags_for(t, n);
	if (i->opsize == 2)
		e8(&t->e, 0x66);
	e_op_reg(&t->e, false, 0xff, i->op == X86_OP_DEC, tx_host_reg(i->opnd[0].reg));
	return EMIT_OK;
}

/* MOV between registers keeps upper halves that are 0; MOV A0..A3 as 88..8B. */
static enum tx_emitted mov(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	const struct x86_opnd *a = &i->opnd[0], *b = &i->opnd[1];
	struct emit *e = &t->e;
	struct emem m;
	if (a->kind == OPND_GPR && b->kind == OPND_GPR && a->size == 4) {
		e_mov(e, tx_host_reg(a->reg), tx_host_reg(b->reg));
		return EMIT_OK;
	}
	const struct x86_opnd *o = x86_memory_operand(i);
	if (!o || i->modrm_off)
		return TX_NOT_SPECIAL;
	tx_legacy_access(t, n, &m);
	if (o->size == 2)
		e8(e, 0x66);
	e_op_mem(e, false, (o == a ? 0x88 : 0x8a) | (o->size > 1), RAX, &m);
	return EMIT_OK;
}

enum tx_emitted tx_legacy_special(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	switch (i->op) {
	case X86_OP_LEA:
		return lea(t, n);
	case X86_OP_MOV:
		return mov(t, n);
	case X86_OP_INC:
	case X86_OP_DEC:
		return inc_dec(t, n);
	case X86_OP_PUSH:
		if (i->opnd[0].kind == OPND_GPR) {
			push_reg(t, n, i->opsize, i->opnd[0].reg);
		} else if (i->opnd[0].kind == OPND_IMM) {
			push_imm(t, n, i->opsize, i->imm);
		} else if (i->opnd[0].kind == OPND_MEM) {
			operand_to_tmp(t, n);
			tx_legacy_push_tmp(t, n);
		} else {
			return EMIT_CALL;
		}
		return EMIT_OK;
	case X86_OP_PUSH_SEG:
		push_selector(t, n);
		return EMIT_OK;
	case X86_OP_POP:
		pop(t, n);
		return EMIT_OK;
	case X86_OP_LEAVE:
		leave(t, n);
		return EMIT_OK;
	case X86_OP_CALL:
		return call(t, n);
	case X86_OP_RET:
		return ret(t, n);
	case X86_OP_JMP:
		return jump(t, n);
	default:
		return TX_NOT_SPECIAL;
	}
}
