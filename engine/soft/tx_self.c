/* The check that a self-checking block begins with (self.c): are the bytes that it was made from
 * still there? See tx.h. */
#include "engine/soft/tx.h"

bool tx_self_ends(const struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	if (!t->b->bytes)
		return false;
	if (t->call[n] || x86_forms[i->form].attr & X86_ATTR_STACK || jit_quick(t->j, t->key, i) >= 0)
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
	unsigned at = 0;
	for (; at + 8 <= b->len; at += 8)
		compare(t, at, 8, other);
	if (at < b->len && b->len > 8) {
		compare(t, b->len - 8u, 8, other);
	} else {
		for (unsigned size = 4; size; size /= 2)
			if (b->len & size) {
				compare(t, at, size, other);
				at += size;
			}
	}
	if (t->live[0])
		tx_restore_flags(e);
}
