/* LODS, STOS, SCAS, CMPS and MOVS without a repeat prefix: each element is a move or a comparison
 * of its own, and steps its registers on. Kernels of 32 bits have their string functions made of
 * these. See tx.h.
 *
 * For addresses that need no segment only: of 64 bits, or of 32 in flat code. Upwards only: the
 * direction flag is looked at each time, since whatever runs between two blocks may change it; with
 * DF the handler executes the element. The repeated ones are in quick_string.c.
 *
 * Both accesses are checked before anything changes: of MOVS the source first, of CMPS the
 * destination, as the handlers do. Between them the first element is in jit.tmp, where the second
 * check takes both scratch registers. An address that was checked is far from where it wraps
 * around, so the registers are stepped on with 64 bits, which the verifier can follow. */
#include "engine/soft/tx.h"

bool tx_is_string(const struct tx *t, const struct x86_insn *i) {
	bool flat = tx_legacy(t) ? !(t->key & (JIT_KEY_16 | JIT_KEY_SEGS)) && i->addrsize == 4
							 : i->addrsize == 8;
	if (!flat || i->seg_prefix != X86_REG_NONE || jit_repeats(i))
		return false;
	return tx_string_uses(i, RSI) || tx_string_uses(i, RDI);
}

bool tx_string_uses(const struct x86_insn *i, unsigned reg) {
	switch (i->op) {
	case X86_OP_LODS:
		return reg == RSI;
	case X86_OP_STOS:
	case X86_OP_SCAS:
		return reg == RDI;
	case X86_OP_CMPS:
	case X86_OP_MOVS:
		return reg == RSI || reg == RDI;
	default:
		return false;
	}
}

bool tx_string_writes(const struct x86_insn *i) {
	return i->op == X86_OP_STOS || i->op == X86_OP_MOVS;
}

/* ---- the direction ------------------------------------------------------------------------- */

/* Whether DF is known to be clear before instruction n: nothing but plain code since CLD or, where
 * a set one leaves the block, since another look at it. */
static bool is_upward(const struct tx *t, unsigned n) {
	while (n && !t->label[n]) {
		n--;
		if (t->fact[n].quick == QUICK_CLD)
			return !t->fact[n].call;
		if (t->fact[n].call || t->fact[n].quick >= 0 || t->insn[n].op == X86_OP_CALL)
			return false;
		if (t->hot && t->fact[n].string)
			return true;
	}
	return false;
}

/* Where DF is set, off to the handler, which comes back behind the instruction (gives its cold
 * code, to be told where that is), or from a hot block to the plain one (gives NULL). */
static struct tx_cold *check_direction(struct tx *t, unsigned n) {
	struct emit *e = &t->e;
	if (is_upward(t, n))
		return NULL;
	tx_flags_aside(t, n);
	e_bytes(e, 4, 0x2504f765); /* test dword gs:[rflags], DF */
	e32(e, GS_STATE(rflags));
	e32(e, RFLAGS_DF);
	struct tx_cold *k = tx_add_cold(t);
	if (t->hot) {
		*k =
			(struct tx_cold){.rip = t->rip[n], .kind = COLD_PLAIN, .saved = t->saved && t->live[n]};
	} else {
		*k = (struct tx_cold){.kind = COLD_CALL, .op = tx_make_op(t, n), .saved = t->saved};
		t->failed |= !k->op;
	}
	e_bytes(e, 2, 0x850f); /* jnz */
	k->from = e->at;
	e32(e, 0);
	return t->hot ? NULL : k;
}

/* ---- the elements -------------------------------------------------------------------------- */

static void access(struct tx *t, unsigned n, unsigned reg) {
	const struct x86_insn *i = &t->insn[n];
	tx_reg_access(t, n, reg == RDI, reg, 0, i->opsize, reg == RDI && tx_string_writes(i));
}

/* op `reg`, the element at `at`; op: its form for bytes. */
static void with_element(struct tx *t, unsigned n, unsigned op, unsigned reg, unsigned at) {
	unsigned size = t->insn[n].opsize;
	struct emem m = {at, T0, 0, 0};
	if (size == 2)
		e8(&t->e, 0x66);
	e_op_mem(&t->e, size == 8, op | (size > 1), reg, &m);
}

/* Whether the check of the access through `reg` leaves T1 alone. */
static bool keeps_scratch(const struct tx *t, unsigned n, unsigned reg) {
	int8_t k = t->groups_of[n][reg == RDI];
	return k >= 0 && !(t->group[k].probe && t->group[k].held < 0);
}

/* T1 = the element at `first`, and the one at `second` is addressed by T0. Flags that are wanted
 * are brought back in between, which takes T1, too. */
static void both(struct tx *t, unsigned n, unsigned first, unsigned second, bool flags) {
	access(t, n, first);
	with_element(t, n, 0x8a, T1, first);
	bool keep = keeps_scratch(t, n, second) && !(flags && t->saved);
	if (!keep)
		e_store_gs(&t->e, T1, GS_JIT(tmp));
	access(t, n, second);
	if (flags)
		tx_flags_for(t, n);
	if (!keep)
		e_load_gs(&t->e, T1, GS_JIT(tmp));
}

void tx_string(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	struct tx_cold *down = check_direction(t, n);
	unsigned ncold = t->ncold;
	switch (i->op) {
	case X86_OP_LODS:
		access(t, n, RSI);
		with_element(t, n, 0x8a, RAX, RSI);
		break;
	case X86_OP_STOS:
		access(t, n, RDI);
		with_element(t, n, 0x88, RAX, RDI);
		break;
	case X86_OP_SCAS:
		access(t, n, RDI);
		tx_flags_for(t, n);
		with_element(t, n, 0x3a, RAX, RDI);
		break;
	case X86_OP_MOVS:
		both(t, n, RSI, RDI, false);
		with_element(t, n, 0x88, T1, RDI);
		break;
	default: /* CMPS */
		both(t, n, RDI, RSI, true);
		with_element(t, n, 0x38, T1, RSI);
	}
	if (tx_string_uses(i, RSI))
		e_lea(e, RSI, RSI, NOREG, 0, i->opsize);
	if (tx_string_uses(i, RDI))
		e_lea(e, RDI, RDI, NOREG, 0, i->opsize);
	if (down)
		down->retry = tx_here(t);
	for (; ncold < t->ncold && !t->hot && !t->b->next_page; ncold++) {
		t->cold[ncold].done = tx_here(t);
		t->cold[ncold].saved = t->saved;
	}
}
