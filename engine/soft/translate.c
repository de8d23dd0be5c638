/* From guest instructions to host code: one basic block of 64-bit mode at a time.
 *
 * Two passes: decode and find out which flags are live before each instruction, then emit.
 * An instruction that works on registers is copied with its registers renamed; one that
 * touches memory gets a check before it; branches are emitted by hand; everything else is a
 * call of the interpreter's handler. Whatever can fault does so before the instruction has
 * changed anything, with all of the guest's state in place. The parts are listed in tx.h. */
#include "engine/soft/tx.h"

/* ---- out of line ------------------------------------------------------------------------ */

static void emit_cold(struct tx *t, struct emit *e, const struct tx_cold *k) {
	struct jit *j = t->j;
	jit_put_rel32(k->from, e->at + j->exec, j->exec);
	switch (k->kind) {
	case COLD_PROBE:
	case COLD_STACK:
		if (k->kind == COLD_PROBE)
			tx_ea(e, k->insn, k->rip);
		else
			e_lea(e, T0, k->stack_reg, NOREG, 0, k->stack_disp);
		e_mov_imm(e, T1, k->rip);
		e_call(e, j->fill[k->write][jit_size_class(k->size)], j->exec);
		e_op_reg(e, false, 0x85, T0, T0); /* test r10d, r10d */
		e_jcc(e, 4, k->retry, j->exec);	  /* jz */
		e_mov_imm(e, T1, JIT_EXIT_INTERP);
		e_jmp(e, j->exit_saved, j->exec);
		break;
	case COLD_INTERP:
		e_mov_imm(e, T1, k->rip);
		e_store_gs(e, T1, GS_STATE(rip));
		e_mov_imm(e, T1, JIT_EXIT_INTERP);
		e_jmp(e, j->exit_saved, j->exec);
		break;
	case COLD_POLL_RCX:
		e_mov(e, RCX, T0);
		/* fall through */
	case COLD_POLL:
		e_mov_imm(e, T1, k->rip);
		e_store_gs(e, T1, GS_STATE(rip));
		e_mov_imm(e, T1, JIT_EXIT_POLL);
		e_jmp(e, j->exit_code, j->exec);
		break;
	case COLD_LINK:
		if (!k->link)
			break;
		k->link->stub = e->at;
		e_mov_imm(e, T1, (uintptr_t)k->link);
		e_jmp(e, j->exit_code, j->exec);
		break;
	case COLD_FAR:
		tx_far_jump(t, e, k->rip, false);
		break;
	}
}

/* ---- the whole -------------------------------------------------------------------------- */

static void decode_block(struct tx *t) {
	unsigned at = 0, avail = PAGE_SIZE - (unsigned)(t->b->rip & PAGE_MASK);
	while (t->n < TX_INSNS) {
		struct x86_insn *i = &t->insn[t->n];
		int len = x86_decode(i, t->b->host + at, avail - at, X86_MODE_64);
		t->rip[t->n] = t->b->rip + at;
		if (len == X86_DECODE_SHORT && !t->n) {
			t->crossing = t->call[0] = true;
			*i = (struct x86_insn){.mode = X86_MODE_64};
			at = avail;
			t->n = 1;
		}
		if (len <= 0)
			break;
		t->call[t->n] = tx_needs_call(t, i);
		at += (unsigned)len;
		t->n++;
		if (tx_ends_block(i) || t->j->off & JIT_OFF_BLOCK)
			break;
	}
	t->rip[t->n] = t->b->rip + at;
	t->b->len = (uint16_t)at;
	t->b->ninsns = (uint16_t)t->n;
}

/* Where in the block to look at jit.poll: where no flags are needed, if there is such a place. */
static unsigned poll_at(const struct tx *t) {
	for (unsigned n = 0; n < t->n; n++) {
		/* The instruction behind STI comes before the next look. */
		if (!t->live[n] && !(n && t->insn[n - 1].op == X86_OP_STI))
			return n;
		if (t->call[n])
			break; /* which looks, too, and may be the last */
	}
	return 0;
}

static void emit_insns(struct tx *t) {
	unsigned poll = poll_at(t);
	bool ended = false;
	for (unsigned n = 0; n < t->n && !ended; n++) {
		const struct x86_insn *i = &t->insn[n];
		if (n == poll)
			tx_poll(t, n);
		enum tx_emitted r = t->call[n] ? EMIT_CALL : tx_special(t, n);
		if (r == EMIT_CALL) {
			t->failed |= !tx_emit_call(t, n);
			if (tx_ends_block(i)) {
				/* It fell through, as CLI does; whatever went elsewhere has left already. */
				tx_goto(t, t->rip[n] + i->len);
				ended = true;
			}
		}
		ended |= r == EMIT_END;
	}
	if (!ended)
		tx_goto(t, t->rip[t->n]);
	t->saved = false;
}

struct jit_block *jit_translate(struct soft_vcpu *c, const uint8_t *host, uint64_t rip,
								uint32_t key) {
	struct jit *j = c->soft->jit;
	struct jit_block draft = {.host = host, .rip = rip, .key = key, .peek_from = PAGE_SIZE};
	static __thread struct tx tx;
	struct tx *t = &tx;
	t->j = j;
	t->c = c;
	t->b = &draft;
	t->key = key;
	t->n = t->ncold = 0;
	t->saved = t->crossing = t->failed = false;
	t->e = (struct emit){j->hot, j->hot_end, false};
	decode_block(t);
	struct jit_block *b = t->n ? jit_arena(j, sizeof(*b)) : NULL;
	if (!b)
		return NULL;
	*b = draft;
	t->b = b;
	tx_find_live_flags(t);
	b->entry = tx_here(t);
	emit_insns(t);
	struct emit cold = {j->cold, j->cold_end, false};
	tx_checked_entry(t, &cold);
	for (unsigned n = 0; n < t->ncold; n++)
		emit_cold(t, &cold, &t->cold[n]);
	if (t->e.full || cold.full || t->failed)
		return NULL;
	b->hot = j->hot;
	b->hot_len = (uint32_t)(t->e.at - j->hot);
	b->cold = j->cold;
	b->cold_len = (uint32_t)(cold.at - j->cold);
	if (j->verify)
		jit_verify_or_stop(j, b);
	j->bytes += b->hot_len + b->cold_len;
	j->hot = (uint8_t *)align_up((uintptr_t)t->e.at, 16);
	j->cold = cold.at;
	j->blocks++;
	j->insns += t->n;
	return b;
}
