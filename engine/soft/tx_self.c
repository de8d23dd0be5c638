/* The check that a self-checking block begins with (self.c): are the bytes that it was made from
 * still there? See tx.h. */
#include "engine/soft/tx.h"

bool tx_self_ends(const struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	if (!t->b->bytes)
		return false;
	if (t->fact[n].call || x86_forms[i->form].attr & X86_ATTR_STACK || t->fact[n].quick >= 0 ||
		tx_string_writes(i))
		return true;
	for (unsigned k = 0; k < i->nopnds; k++)
		if (i->opnd[k].kind == OPND_MEM && i->opnd[k].access & OPND_W)
			return true;
	return false;
}

/* cmp [T0 + at], T1 of that size; off to `other` if they differ. */
static void compare(struct tx *t, unsigned at, unsigned size, const uint8_t *other) {
	struct emit *e = &t->e;
	struct emem m = {T0, NOREG, 0, (int32_t)at};
	uint64_t want = 0;
	memcpy(&want, t->b->bytes + at, size);
	e_mov_imm(e, T1, want);
	if (size == 2)
		e8(e, 0x66);
	e_op_mem(e, size == 8, size == 1 ? 0x38 : 0x39, T1, &m);
	e_jcc(e, 5, other, t->j->exec);
}

static void compare_bytes(struct tx *t, unsigned at, unsigned end, const uint8_t *other) {
	unsigned first = at;
	for (; at + 8 <= end; at += 8)
		compare(t, at, 8, other);
	if (at < end && end >= first + 8) {
		compare(t, end - 8, 8, other);
		return;
	}
	for (unsigned size = 4; size; size /= 2)
		if ((end - at) & size) {
			compare(t, at, size, other);
			at += size;
		}
}

/* Whatever the code may be by now, it may want the flags: they are kept in any case. */
void tx_self_entry(struct tx *t) {
	struct emit *e = &t->e;
	struct jit_block *b = t->b;
	const uint8_t *other = tx_here(t);
	tx_restore_flags(e);
	struct jit_link *l = tx_cold_link(t, e, b->rip);
	if (!l)
		return;
	l->plain = false;
	l->changed = true;
	b->changed = l;
	e_mov_imm(e, T1, (uintptr_t)l);
	e_jmp(e, t->j->exit_code, t->j->exec);

	b->entry = tx_here(t);
	tx_save_flags(e);
	e_mov_imm(e, T0, (uintptr_t)b->host);
	for (unsigned at = 0, end; at < b->len; at = end) {
		for (end = at; end < b->len && !(b->loose >> end & 1);)
			end++;
		compare_bytes(t, at, end, other);
		end += end < b->len;
	}
	if (t->live[0])
		tx_restore_flags(e);
}

/* The number of op r, r/m among the eight operations that share their encoding; -1: MOV; -2:
 * another one. */
static int arithmetic(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_MOV:
		return -1;
	case X86_OP_ADD:
		return 0;
	case X86_OP_OR:
		return 1;
	case X86_OP_ADC:
		return 2;
	case X86_OP_SBB:
		return 3;
	case X86_OP_AND:
		return 4;
	case X86_OP_SUB:
		return 5;
	case X86_OP_XOR:
		return 6;
	case X86_OP_CMP:
		return 7;
	default:
		return -2;
	}
}

bool tx_self_loads(const struct tx *t, const struct x86_insn *i) {
	return t->loose && i->nopnds == 2 && i->opnd[0].kind == OPND_GPR && i->opnd[0].size >= 4 &&
		   i->opnd[1].kind == OPND_IMM && i->imm_len >= 4 && arithmetic(i) >= -1;
}

void tx_self_load(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	unsigned d = i->opnd[0].reg, host = tx_resident(d) ? T0 : tx_host_reg(d);
	bool wide = i->opnd[0].size == 8, sign = wide && i->imm_len == 4;
	int op = arithmetic(i);
	struct emem m = {T0, NOREG, 0, 0};
	tx_flags_for(t, n);
	e_mov_imm(e, T0, (uintptr_t)t->b->host + (t->rip[n] - t->b->rip) + i->imm_off);
	e_op_mem(e, wide, sign ? 0x63 : 0x8b, T1, &m); /* movsxd or mov */
	if (op >= 0 && tx_resident(d))
		e_load_gs(e, T0, GS_GPR(d));
	e_op_reg(e, wide, op < 0 ? 0x8b : (unsigned)op << 3 | 3, host, T1);
	if (tx_resident(d) && op != 7)
		e_store_gs(e, T0, GS_GPR(d));
}
