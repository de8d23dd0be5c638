/* The translator's control flow: calls of handlers, branches, the stack instructions that go with
 * them, the ways into and out of a block. See tx.h and README.md, Jumps.
 *
 * A guest's near CALL is a host call, whose return address lies on the vCPU's shadow stack; its RET
 * is a host ret, so that the CPU predicts it. The guest's own return address is what counts: it
 * travels in T0, and the code behind the call compares. Nothing here changes the host's flags
 * but on purpose. */
#include "engine/soft/tx.h"

/* ---- calls of handlers ------------------------------------------------------------------ */

const struct jit_op *tx_make_op(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct jit_op *op = jit_arena(t->j, sizeof(*op));
	if (!op)
		return NULL;
	op->insn = *i;
	op->rip = tx_rip(t, t->rip[n]);
	op->last = n + 1 == t->n;
	op->handler = t->crossing ? jit_cross_pages : soft_handler_of(t->c, i);
	return op;
}

bool tx_emit_call(struct tx *t, unsigned n) {
	const struct jit_op *op = tx_make_op(t, n);
	if (!op)
		return false;
	e_mov_place(&t->e, T1, (uintptr_t)op, FIX_OP);
	e_call(&t->e, t->saved ? t->j->call_saved : t->j->call, t->j->exec);
	t->saved = false;
	return true;
}

/* ---- where to ---------------------------------------------------------------------------- */

/* jmp or call gs:[reg + off]; reg NOREG: gs:[off] */
static void indirect_gs(struct emit *e, bool call, unsigned reg, uint32_t off) {
	unsigned op = (call ? 2 : 4) << 3;
	if (reg == NOREG)
		e_bytes(e, 4, 0x2504ff65 | op << 16);
	else
		e_bytes(e, 4, 0x80ff4165 | (op | (reg & 7)) << 24);
	e32(e, off);
}

/* The table's index is a hash that changes no flags; whoever is in the table compares T0 with its
 * own address. */
void tx_look_up(struct tx *t, bool call) {
	struct emit *e = &t->e;
	jit_emit_jump_index(e, t->j);
	indirect_gs(e, call, T1, GS_JIT(jumps) + tx_user(t) * (uint32_t)sizeof(t->c->jit.jumps[0]));
}

/* To an address whose page may be mapped elsewhere next time: a slot of its own in each vCPU, which
 * is filled for the current mappings only. */
void tx_far_jump(struct tx *t, struct emit *e, uint64_t target, bool call) {
	int slot = jit_far_slot(t->j, target, tx_user(t));
	e_mov_place(e, T0, target, FIX_ADDRESS);
	if (slot >= 0) {
		indirect_gs(e, call, NOREG, GS_JIT(far[0]) + 8 * (uint32_t)slot);
		emit_note(e->fixups, e->at - 4, FIX_FAR);
	} else {
		struct emit hot = t->e;
		t->e = *e;
		tx_look_up(t, call);
		*e = t->e;
		t->e = hot;
	}
}

/* A direct jump. Within the page: its rel32 lies within 4 aligned bytes, so that it can be changed
 * while others execute it. */
void tx_jump_to(struct tx *t, unsigned how, uint64_t target) {
	struct emit *e = &t->e;
	bool near = tx_same_page(t, target, t->b->rip);
	if (!near && how >= TX_JUMP_ALWAYS) {
		struct emit hot = *e;
		tx_far_jump(t, &hot, target, how == TX_JUMP_CALL);
		*e = hot;
		return;
	}
	unsigned op = how < TX_JUMP_ASIDE ? 2 : 1;
	while (near && (((uintptr_t)e->at + op) & 3))
		e8(e, 0x90);
	if (how < TX_JUMP_ASIDE)
		e_bytes(e, 2, 0x800f | how << 8);
	else
		e8(e, how == TX_JUMP_CALL ? 0xe8 : 0xe9);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.from = e->at, .kind = near ? COLD_LINK : COLD_FAR, .rip = target};
	if (near) {
		struct jit_link *l = k->link = jit_arena(t->j, sizeof(*l));
		if (l) {
			*l = (struct jit_link){
				.rip = target, .host = t->b->host, .patch = e->at, .own_next = t->b->out};
			t->b->out = l;
		} else {
			t->failed = true;
		}
	}
	e32(e, 0);
}

void tx_goto(struct tx *t, uint64_t target, uint16_t live) {
	tx_flags_back(t, live);
	tx_jump_to(t, TX_JUMP_ALWAYS, target);
}

/* The way to the first tier's block at `target`, for code out of line. NULL: no room. */
struct jit_link *tx_cold_link(struct tx *t, struct emit *e, uint64_t target) {
	struct jit_link *l = jit_arena(t->j, sizeof(*l));
	while (((uintptr_t)e->at + 1) & 3)
		e8(e, 0x90);
	if (!l) {
		t->failed = true;
		return NULL;
	}
	e8(e, 0xe9);
	*l = (struct jit_link){
		.rip = target, .host = t->b->host, .patch = e->at, .own_next = t->b->out, .plain = true};
	t->b->out = l;
	e32(e, 0); /* the stub is right behind */
	l->stub = e->at;
	return l;
}

/* ---- ways in ----------------------------------------------------------------------------- */

void tx_expect(struct emit *e, uint64_t rip, const uint8_t *other, intptr_t exec) {
	const uint32_t exchange = 0xcb8749; /* xchg r11, rcx */
	int64_t neg = -(int64_t)rip;
	if (neg == (int32_t)neg) {
		e_lea(e, T1, T0, NOREG, 0, (int32_t)neg);
	} else {
		e_mov_place(e, T1, (uint64_t)neg, FIX_NEGATIVE);
		e_lea(e, T1, T1, T0, 0, 0);
	}
	e_bytes(e, 3, exchange);
	e_bytes(e, 2, 0x08e3); /* jrcxz over the other way */
	e_bytes(e, 3, exchange);
	e_jmp(e, other, exec);
	e_mov(e, RCX, T1);
}

void tx_checked_entry(struct tx *t, struct emit *e) {
	t->b->entry_checked = e->at + t->j->exec;
	tx_expect(e, t->b->rip, t->j->miss[tx_user(t)], t->j->exec);
	e_jmp(e, t->b->entry, t->j->exec);
}

void tx_span_entry(struct tx *t) {
	struct emit *e = &t->e;
	e_mov_imm(e, T0, t->b->rip);
	indirect_gs(e, false, NOREG, GS_JIT(far[0]) + 8 * t->b->span_slot);
	t->b->span_body = tx_here(t);
}

/* A look at jit.poll before instruction n. */
void tx_poll(struct tx *t, unsigned n) {
	struct emit *e = &t->e;
	bool live = t->live[n] && !t->saved;
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.rip = t->rip[n], .kind = live ? COLD_POLL_RCX : COLD_POLL};
	if (live) { /* one that leaves the flags alone */
		t->kept = -1;
		e_mov(e, T0, RCX);
		e_op_gs(e, false, 0x8b, RCX, GS_JIT(poll));
		e_bytes(e, 3, 0xe905e3); /* jrcxz over the jump */
		k->from = e->at;
		e32(e, 0);
		e_mov(e, RCX, T0);
	} else {
		e_bytes(e, 4, 0x253c8365); /* cmp dword gs:[poll], 0 */
		e32(e, GS_JIT(poll));
		e_bytes(e, 3, 0x850f00); /* jne */
		k->from = e->at;
		e32(e, 0);
	}
}

/* ---- the stack --------------------------------------------------------------------------- */

static void gpr_to(struct emit *e, unsigned host, unsigned guest) {
	if (tx_resident(guest))
		e_load_gs(e, host, GS_GPR(guest));
	else
		e_mov(e, host, tx_host_reg(guest));
}

enum push { PUSH_IMM, PUSH_REG, PUSH_TMP };

static void push_value(struct tx *t, unsigned n, enum push what, uint64_t val) {
	struct emit *e = &t->e;
	tx_stack_access(t, n, H_RSP, -8, true);
	struct emem slot = {H_RSP, T0, 0, -8};
	if (what == PUSH_IMM && (int64_t)val == (int32_t)val) {
		e_op_mem(e, true, 0xc7, 0, &slot);
		e32(e, (uint32_t)val);
	} else if (what == PUSH_REG && !tx_resident((unsigned)val)) {
		e_op_mem(e, true, 0x89, tx_host_reg((unsigned)val), &slot);
	} else {
		t->kept_reg = NOREG;
		if (what == PUSH_REG)
			e_load_gs(e, T1, GS_GPR(val));
		else if (what == PUSH_TMP)
			e_load_gs(e, T1, GS_JIT(tmp));
		else
			e_mov_place(e, T1, val, FIX_ADDRESS); /* of 8 bytes: the return address */
		e_op_mem(e, true, 0x89, T1, &slot);
	}
	e_lea(e, H_RSP, H_RSP, NOREG, 0, -8);
}

/* tmp = the 8-byte operand 0 from memory. */
static void load_tmp(struct tx *t, unsigned n) {
	struct emem m;
	tx_access(t, n, &m);
	t->kept_reg = NOREG;
	e_op_mem(&t->e, true, 0x8b, T1, &m);
	e_store_gs(&t->e, T1, GS_JIT(tmp));
}

static void pop(struct tx *t, unsigned n) {
	struct emit *e = &t->e;
	unsigned d = t->insn[n].opnd[0].reg, host = tx_resident(d) || d == RSP ? T1 : d;
	tx_stack_access(t, n, H_RSP, 0, false);
	struct emem slot = {H_RSP, T0, 0, 0};
	e_op_mem(e, true, 0x8b, host, &slot);
	if (host == T1)
		t->kept_reg = tx_resident(d) ? d : NOREG;
	e_lea(e, H_RSP, H_RSP, NOREG, 0, 8);
	if (d == RSP)
		e_mov(e, H_RSP, T1);
	else if (tx_resident(d))
		e_store_gs(e, T1, GS_GPR(d));
}

/* ---- branches ---------------------------------------------------------------------------- */

static enum tx_emitted call(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	uint64_t next = t->rip[n] + i->len;
	bool direct = i->opnd[0].kind == OPND_REL, paired = !(t->j->off & JIT_OFF_RET);
	if (i->opnd[0].kind == OPND_GPR) {
		gpr_to(e, T1, i->opnd[0].reg);
		e_store_gs(e, T1, GS_JIT(tmp));
	} else if (!direct) {
		load_tmp(t, n);
	}
	push_value(t, n, PUSH_IMM, next);
	tx_flags_back(t, t->needed[n]);
	if (direct) {
		tx_jump_to(t, paired ? TX_JUMP_CALL : TX_JUMP_ALWAYS, next + i->imm);
	} else {
		e_load_gs(e, T0, GS_JIT(tmp));
		tx_look_up(t, paired);
	}
	if (!paired)
		return EMIT_END;
	tx_expect(e, next, t->j->ret_miss[tx_user(t)], t->j->exec);
	return EMIT_OK;
}

static void ret(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	tx_stack_access(t, n, H_RSP, 0, false);
	struct emem slot = {H_RSP, T0, 0, 0};
	e_op_mem(e, true, 0x8b, T0, &slot);
	e_lea(e, H_RSP, H_RSP, NOREG, 0, 8 + (i->nopnds ? (uint16_t)i->imm : 0));
	tx_flags_back(t, RFLAGS_ARITH);
	if (t->j->off & JIT_OFF_RET)
		tx_look_up(t, false);
	else
		e8(e, 0xc3);
}

static void jump(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	if (t->target[n] >= 0) {
		tx_flags_back(t, t->live[t->target[n]]);
		e_jmp(e, t->at[t->target[n]], t->j->exec);
		return;
	}
	if (i->opnd[0].kind == OPND_REL) {
		tx_goto(t, tx_target(t, i, t->rip[n]), t->needed[n]);
		return;
	}
	if (i->opnd[0].kind == OPND_GPR) {
		gpr_to(e, T0, i->opnd[0].reg);
	} else {
		struct emem m;
		tx_access(t, n, &m);
		e_op_mem(e, true, 0x8b, T0, &m);
	}
	tx_flags_back(t, RFLAGS_ARITH);
	tx_look_up(t, false);
}

static void xchg_rcx_t0(struct emit *e) {
	e_bytes(e, 3, 0xca8749);
}

/* Where branch n goes, on condition `how` or TX_JUMP_ASIDE. */
static void go(struct tx *t, unsigned n, unsigned how) {
	if (t->target[n] < 0)
		tx_jump_to(t, how, tx_target(t, &t->insn[n], t->rip[n]));
	else if (how < TX_JUMP_ASIDE)
		e_jcc(&t->e, how, t->at[t->target[n]], t->j->exec);
	else
		e_jmp(&t->e, t->at[t->target[n]], t->j->exec);
}

/* JCXZ, LOOP, LOOPE, LOOPNE: with the host's JRCXZ, which can only go a short way. CX alone is
 * looked at in T0's place. */
static void count_and_jump(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	bool here = t->target[n] >= 0, word = i->addrsize == 2, loop = i->op != X86_OP_JCXZ;
	unsigned how = i->op == X86_OP_LOOPE ? 4 : i->op == X86_OP_LOOPNE ? 5 : TX_JUMP_ASIDE;
	uint16_t there = here ? t->live[t->target[n]] : t->needed[n];
	tx_flags_back(t, there | t->live[n + 1] | x86_forms[i->form].flags_read);
	if (loop && word) {
		e_bytes(e, 4, 0xff518d44); /* lea r10d, [rcx - 1] */
		e_bytes(e, 4, 0xd1894466); /* mov cx, r10w */
	} else if (loop) {
		struct emem less = {RCX, NOREG, 0, -1};
		e_op_mem(e, i->addrsize == 8, 0x8d, RCX, &less);
	}
	if (word) {
		e_bytes(e, 4, 0xd1b70f44); /* movzx r10d, cx */
		xchg_rcx_t0(e);
	}
	if (!loop && i->addrsize == 4)
		e8(e, 0x67);
	uint8_t *zero = e_jump_short(e, 0xe3), *end = NULL;
	if (word)
		xchg_rcx_t0(e);
	if (loop)
		go(t, n, how);
	if (!loop || word)
		end = e_jump_short(e, 0xeb);
	e_lands(e, zero);
	if (word)
		xchg_rcx_t0(e);
	if (!loop)
		go(t, n, how);
	if (end)
		e_lands(e, end);
}

/* A call of the thunk that executes the instruction. */
static enum tx_emitted quick_thunk(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	const struct x86_opnd *o = &i->opnd[0];
	struct emit *e = &t->e;
	int quick = t->fact[n].quick;
	unsigned traits = jit_quick_traits(quick);
	if (quick >= QUICK_DIV32 && quick <= QUICK_IDIV64 && t->live[n + 1])
		quick += QUICK_DIV32_FLAGS - QUICK_DIV32;
	/* The instruction behind STI comes before the next look at events: it must be in the block. */
	if (quick == QUICK_STI && n + 1 == t->n)
		return EMIT_CALL;
	if (traits & JIT_QUICK_SPOILS)
		tx_flags_aside(t, n);
	if (traits & JIT_QUICK_OPERAND) {
		if (o->kind == OPND_MEM) {
			struct emem m;
			tx_access(t, n, &m);
			if (o->size == 2) /* movzx r11d, .. */
				e_op0f_mem(e, 0xb7, T1, &m);
			else
				e_op_mem(e, o->size == 8, 0x8b, T1, &m);
		} else {
			gpr_to(e, T1, o->reg);
		}
	}
	e_call(e, t->j->quick[quick], t->j->exec);
	if (traits & JIT_QUICK_FAILS) {
		struct tx_cold *k = tx_add_cold(t);
		*k = (struct tx_cold){.rip = t->rip[n], .kind = COLD_INTERP};
		e_op_reg(e, false, 0x85, T0, T0); /* test r10d, r10d */
		e_bytes(e, 2, 0x850f);			  /* jnz */
		k->from = e->at;
		e32(e, 0);
	}
	if (traits & JIT_QUICK_CALLS) {
		struct tx_cold *k = tx_add_cold(t);
		*k = (struct tx_cold){.kind = COLD_CALL,
							  .op = tx_make_op(t, n),
							  .saved = t->saved,
							  .save = t->saved && traits & JIT_QUICK_FLAGS};
		t->failed |= !k->op;
		e_op_reg(e, false, 0x85, T0, T0);
		e_bytes(e, 2, 0x850f); /* jnz */
		k->from = e->at;
		e32(e, 0);
		k->retry = tx_here(t);
	}
	if (traits & JIT_QUICK_RESULT) {
		if (tx_resident(o->reg))
			e_store_gs(e, T1, GS_GPR(o->reg));
		else
			e_op_reg(e, o->size == 8, 0x8b, tx_host_reg(o->reg), T1); /* mov */
	}
	if (quick == QUICK_PUSHF)
		tx_legacy(t) ? tx_legacy_push_tmp(t, n) : push_value(t, n, PUSH_TMP, 0);
	return EMIT_OK;
}

/* ---- instructions with code of their own --------------------------------------------------- */

static void lea(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	unsigned d = i->opnd[0].reg, size = i->opnd[0].size;
	unsigned host = tx_resident(d) ? T0 : tx_host_reg(d);
	if (tx_is_const_ea(i)) {
		tx_mov_const_ea(e, host, size, i, t->rip[n]);
	} else {
		struct emem m = tx_operand(e, i);
		if (m.base == T0)
			t->kept = -1;
		if (m.index == T1)
			t->kept_reg = i->index;
		e_op_mem(e, size == 8, 0x8d, host, &m);
	}
	if (tx_resident(d)) {
		t->kept = -1;
		t->kept_reg = t->kept_reg == d ? NOREG : t->kept_reg;
		e_store_gs(e, T0, GS_GPR(d));
	}
}

void tx_load_selector(struct emit *e, unsigned host, unsigned seg) {
	e8(e, 0x65);
	if (host & 8)
		e8(e, 0x44);
	e_bytes(e, 2, 0xb70f);
	e_bytes(e, 2, (host & 7) << 3 | 0x2504);
	e32(e, GS_STATE(seg[seg].sel));
}

/* A selector into a register or memory. */
static void mov_from_segment(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	unsigned d = i->opnd[0].reg, host = tx_resident(d) ? T0 : tx_host_reg(d);
	if (i->opnd[0].kind == OPND_MEM) {
		struct emem m;
		tx_access(t, n, &m);
		tx_load_selector(e, T1, i->opnd[1].reg);
		e8(e, 0x66);
		e_op_mem(e, false, 0x89, T1, &m);
		return;
	}
	tx_load_selector(e, host, i->opnd[1].reg);
	if (tx_resident(d))
		e_store_gs(e, T0, GS_GPR(d));
}

/* EMIT_END: the block is complete. */
enum tx_emitted tx_special(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	if (tx_legacy(t)) {
		enum tx_emitted r = tx_legacy_special(t, n);
		if (r != TX_NOT_SPECIAL)
			return r;
	}
	if (t->loose && tx_self_loads(t, i)) {
		tx_self_load(t, n);
		return EMIT_OK;
	}
	switch (i->op) {
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
		return EMIT_OK;
	case X86_OP_LEA:
		if (i->opnd[0].size == 2)
			return EMIT_CALL;
		lea(t, n);
		return EMIT_OK;
	case X86_OP_PUSH:
		if (i->opnd[0].kind == OPND_GPR)
			push_value(t, n, PUSH_REG, i->opnd[0].reg);
		else if (i->opnd[0].kind == OPND_IMM)
			push_value(t, n, PUSH_IMM, i->imm);
		else if (i->opnd[0].kind == OPND_MEM) {
			load_tmp(t, n);
			push_value(t, n, PUSH_TMP, 0);
		} else
			return EMIT_CALL;
		return EMIT_OK;
	case X86_OP_POP:
		pop(t, n);
		return EMIT_OK;
	case X86_OP_LEAVE: {
		tx_stack_access(t, n, RBP, 0, false);
		struct emem slot = {RBP, T0, 0, 0};
		t->kept_reg = NOREG;
		e_op_mem(e, true, 0x8b, T1, &slot);
		e_lea(e, H_RSP, RBP, NOREG, 0, 8);
		e_mov(e, RBP, T1);
		return EMIT_OK;
	}
	case X86_OP_MOV_SEG:
		mov_from_segment(t, n);
		return EMIT_OK;
	case X86_OP_JCC:
		tx_flags_for(t, n);
		go(t, n, i->cond);
		return EMIT_OK;
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
	case X86_OP_JCXZ:
		count_and_jump(t, n);
		return EMIT_OK;
	case X86_OP_JMP:
		if (t->follow[n])
			return EMIT_OK;
		jump(t, n);
		return EMIT_END;
	case X86_OP_CALL:
		return call(t, n);
	case X86_OP_RET:
		ret(t, n);
		return EMIT_END;
	default:
		if (t->fact[n].quick >= 0)
			return quick_thunk(t, n);
		if (t->fact[n].string) {
			tx_string(t, n);
			return EMIT_OK;
		}
		return tx_native(t, n);
	}
}
