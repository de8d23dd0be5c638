/* From guest instructions to host code: in the first tier one basic block at a time;
 * in the second, for what is hot, a path: on behind branches that are not taken and behind calls,
 * along jumps, with loops inside.
 *
 * Two passes: decode and find out which flags are live before each instruction, then emit.
 * An instruction that works on registers is copied with its registers renamed; one that
 * touches memory gets a check before it; branches are emitted by hand; everything else is a
 * call of the interpreter's handler. Whatever can fault does so before the instruction has
 * changed anything, with all of the guest's state in place. The parts are listed in tx.h. */
#include <stdlib.h>

#include "engine/soft/tx.h"

/* More bytes than any instruction takes with all groups that may be checked before it; and than one
 * piece out of line. */
#define INSN_MOST 8192
#define COLD_MOST 512

/* ---- out of line ------------------------------------------------------------------------ */

/* On to the first tier's block. */
static void go_plain(struct tx *t, struct emit *e, uint64_t rip) {
	struct jit_link *l = tx_cold_link(t, e, rip);
	e_mov_place(e, T1, (uintptr_t)l, FIX_LINK);
	e_jmp(e, t->j->exit_code, t->j->exec);
}

/* With the address's distance from the slot's lowest byte in T0. Where other checks of the block
 * rely on the slot, it must stay. */
static void slot_missed(struct tx *t, struct emit *e, const struct tx_cold *k) {
	const struct tx_group *g = k->group;
	if (!g->shared) {
		e_mov_imm(e, T1, g->slot);
		e_call(e, t->j->slot_turn[tx_user(t)][g->write][g->class], t->j->exec);
		e_op_reg(e, false, 0x85, T0, T0);  /* test */
		e_jcc(e, 4, k->retry, t->j->exec); /* jz */
		return;
	}
	e_bytes(e, 4, 0x252c8365); /* sub dword gs:[credit], 1 */
	e32(e, GS_JIT(slots) + g->slot + (uint32_t)offsetof(struct jit_slot, credit));
	e8(e, 1);
	uint8_t *over = e_jump_short(e, 0x79); /* jns */
	tx_group_address(t, e, g);
	e_mov_imm(e, T1, g->slot);
	e_call(e, t->j->slot_fill, t->j->exec);
	e_lands(e, over);
}

static void emit_cold(struct tx *t, struct emit *e, const struct tx_cold *k) {
	struct jit *j = t->j;
	jit_put_rel32(k->from, e->at + j->exec, j->exec);
	emit_note(e->fixups, k->from, FIX_REL32);
	switch ((enum tx_cold_kind)k->kind) {
	case COLD_PROBE:
	case COLD_STACK:
	case COLD_TMP:
		if (k->kind == COLD_TMP)
			e_load_gs(e, T0, GS_JIT(tmp));
		else if (tx_legacy(t) && k->kind == COLD_PROBE)
			tx_legacy_linear(t, e, k->insn);
		else if (tx_legacy(t))
			tx_legacy_stack_linear(t, e, k->stack_reg, k->stack_disp);
		else if (k->kind == COLD_PROBE)
			tx_ea(e, k->insn, k->rip);
		else
			e_lea(e, T0, k->stack_reg, NOREG, 0, k->stack_disp);
		e_mov_place(e, T1, tx_rip(t, k->rip), FIX_ADDRESS);
		e_call(e, j->fill[k->write][jit_size_class(k->size)], j->exec);
		e_op_reg(e, false, 0x85, T0, T0); /* test r10d, r10d */
		e_jcc(e, 4, k->retry, j->exec);	  /* jz */
		if (k->done) {
			e_mov_place(e, T1, tx_rip(t, k->rip), FIX_ADDRESS);
			e_call(e, j->step_saved, j->exec);
			if (!k->saved)
				tx_restore_flags(e);
			e_jmp(e, k->done, j->exec);
			break;
		}
		e_mov_imm(e, T1, JIT_EXIT_INTERP);
		e_jmp(e, j->exit_saved, j->exec);
		break;
	case COLD_INTERP:
		e_mov_place(e, T1, tx_rip(t, k->rip), FIX_ADDRESS);
		e_store_gs(e, T1, GS_STATE(rip));
		e_mov_imm(e, T1, JIT_EXIT_INTERP);
		e_jmp(e, j->exit_saved, j->exec);
		break;
	case COLD_CALL:
		e_mov_place(e, T1, (uintptr_t)k->op, FIX_OP);
		e_call(e, k->saved ? j->call_saved : j->call, j->exec);
		if (k->save)
			tx_save_flags(e);
		e_jmp(e, k->retry, j->exec);
		break;
	case COLD_POLL_RCX:
		e_mov(e, RCX, T0);
		/* fall through */
	case COLD_POLL:
		e_mov_place(e, T1, t->b->rip, FIX_ADDRESS); /* for who asks where we are */
		e_store_gs(e, T1, GS_JIT(tmp));
		e_mov_place(e, T1, tx_rip(t, k->rip), FIX_ADDRESS);
		e_store_gs(e, T1, GS_STATE(rip));
		e_mov_imm(e, T1, JIT_EXIT_POLL);
		e_jmp(e, j->exit_code, j->exec);
		break;
	case COLD_LINK:
		if (!k->link)
			break;
		k->link->stub = e->at;
		e_mov_place(e, T1, (uintptr_t)k->link, FIX_LINK);
		e_jmp(e, j->exit_code, j->exec);
		break;
	case COLD_FAR:
		tx_far_jump(t, e, k->rip, false);
		break;
	case COLD_PLAIN:
		if (k->saved)
			tx_restore_flags(e);
		go_plain(t, e, k->rip);
		break;
	case COLD_SLOT:
		slot_missed(t, e, k);
		if (k->saved)
			tx_restore_flags(e);
		go_plain(t, e, k->rip);
		break;
	}
}

/* ---- the whole -------------------------------------------------------------------------- */

/* The instruction of the block at guest address rip, or -1. */
static int16_t find_insn(const struct tx *t, uint64_t rip) {
	for (unsigned n = 0; n < t->n; n++)
		if (t->rip[n] == rip)
			return (int16_t)n;
	return -1;
}

/* After instruction n: whether the path goes on, and where. */
static bool path_goes_on(struct tx *t, unsigned n, unsigned *at) {
	const struct x86_insn *i = &t->insn[n];
	if (t->j->off & JIT_OFF_BLOCK || (tx_legacy(t) && jit_loads_segments(i)) ||
		(t->b->bytes && tx_self_ends(t, n)))
		return false;
	if (!t->fact[n].ends)
		return true;
	if (!t->hot || t->fact[n].call)
		return false;
	uint64_t target = tx_target(t, i, t->rip[n]);
	bool relative = i->nopnds && i->opnd[0].kind == OPND_REL;
	switch (i->op) {
	case X86_OP_JCC:
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
	case X86_OP_JCXZ:
	case X86_OP_JMP:
		if (relative)
			t->target[n] = find_insn(t, target);
		if (t->target[n] >= 0)
			t->label[t->target[n]] = true;
		if (i->op != X86_OP_JMP)
			return true;
		if (!relative || t->target[n] >= 0 || target < t->rip[n] ||
			!tx_same_page(t, target, t->b->rip))
			return false;
		t->follow[n] = true;
		*at = (unsigned)(target - t->b->rip);
		return true;
	case X86_OP_CALL:
		return !(t->j->off & JIT_OFF_RET);
	default:
		return false;
	}
}

/* The block's one instruction, which reaches into the next page: its length if it can run as
 * itself. */
static int decode_spanning(struct tx *t, struct x86_insn *i, unsigned avail) {
	uint8_t bytes[X86_MAX_LEN];
	int slot = t->b->next_page ? jit_span_slot(t->j, t->b->rip, tx_user(t)) : -1;
	if (slot < 0)
		return X86_DECODE_SHORT;
	t->b->span_slot = (uint32_t)slot;
	for (unsigned n = 0; n < X86_MAX_LEN; n++)
		bytes[n] = n < avail ? t->b->host[n] : t->b->next_page[n - avail];
	int len = x86_decode(i, bytes, X86_MAX_LEN, tx_mode(t));
	if (len <= 0)
		return X86_DECODE_SHORT;
	tx_judge(t, i, &t->fact[0]);
	return t->fact[0].call ? X86_DECODE_SHORT : len;
}

static void decode_block(struct tx *t) {
	unsigned at = 0, reach = 0, avail = PAGE_SIZE - tx_page_offset(t, t->b->rip);
	bool unrest = t->j->unrest && !t->b->bytes;
	if (tx_legacy(t)) { /* not beyond the segment */
		uint64_t end = t->key & JIT_KEY_CS64K ? 0x10000 : 0x100000000;
		avail = (unsigned)MIN((uint64_t)avail, end - (uint32_t)t->b->rip);
	}
	if (t->b->bytes)
		avail = MIN(avail, JIT_SELF_BYTES);
	unsigned most = t->hot ? TX_INSNS : TX_INSNS_PLAIN;
	while (t->n < most) {
		unsigned n = t->n;
		struct x86_insn *i = &t->insn[n];
		int len = tx_decode(t, i, &t->fact[n], t->code + at, avail - at);
		t->rip[n] = t->b->rip + at;
		bool spans = unlikely(len == X86_DECODE_SHORT) && !n && !t->hot;
		if (spans)
			len = decode_spanning(t, i, avail);
		if (spans && len < 0) {
			t->b->next_page = NULL;
			t->crossing = true;
			*i = (struct x86_insn){.mode = (uint8_t)tx_mode(t)};
			t->fact[0] = (struct jit_fact){.quick = -1};
			tx_leave_to_handler(t, 0);
			at = avail;
			t->n = 1;
		}
		if (unlikely(len <= 0) ||
			(unrest && n && jit_restless(t->j, t->b->host + at, (unsigned)len)))
			break;
		if (t->loose && !t->fact[n].call && tx_self_loads(t, i))
			t->b->loose |= ((1ull << i->imm_len) - 1) << (at + i->imm_off);
		t->label[n] = t->follow[n] = false;
		t->target[n] = t->groups_of[n][0] = t->groups_of[n][1] = -1;
		at += (unsigned)len;
		reach = MAX(reach, at);
		t->n++;
		if (spans)
			break;
		t->b->next_page = NULL;
		if (!path_goes_on(t, n, &at))
			break;
	}
	t->b->len = (uint16_t)reach;
	t->rip[t->n] = tx_plus(t, t->b->rip, at);
	if (t->crossing) {
		t->b->len = (uint16_t)at;
		t->label[0] = t->follow[0] = false;
		t->target[0] = t->groups_of[0][0] = t->groups_of[0][1] = -1;
	}
}

/* Leaves out all from instruction n on. */
static void cut(struct tx *t, unsigned n) {
	t->n = n;
	for (unsigned k = 0; k < n; k++) {
		t->label[k] = false;
		if (t->target[k] >= (int)n)
			t->target[k] = -1;
	}
	for (unsigned k = 0; k < n; k++)
		if (t->target[k] >= 0)
			t->label[t->target[k]] = true;
}

/* Flags and groups, which decide how far the block goes. */
static void analyse(struct tx *t) {
	for (;;) {
		tx_find_live_flags(t);
		t->ngroups = 0;
		if (!t->hot || t->j->off & JIT_OFF_GROUP)
			return;
		unsigned n = tx_find_groups(t);
		if (n == t->n)
			return;
		cut(t, n);
		if (!n)
			return;
	}
}

/* Where in the block to look at jit.poll: where no flags are needed, if there is such a place. */
static unsigned poll_at(const struct tx *t) {
	for (unsigned n = 0; n < t->n; n++) {
		/* The instruction behind STI comes before the next look. */
		if (!t->live[n] && !(n && t->insn[n - 1].op == X86_OP_STI))
			return n;
		/* It looks, too, and may be the last; or there is a way out before the look. */
		if (t->fact[n].call || x86_forms[t->insn[n].form].attr & X86_ATTR_ENDS)
			break;
	}
	return 0;
}

static void emit_insns(struct tx *t) {
	unsigned poll = poll_at(t);
	bool ended = false;
	tx_forget_scratch(t);
	t->lend = false;
	for (unsigned n = 0; n < t->n && !ended; n++) {
		const struct x86_insn *i = &t->insn[n];
		if (!e_room(&t->e, INSN_MOST)) {
			t->failed = true;
			return;
		}
		if (t->label[n]) {
			tx_check_groups(t, n, true);
			tx_flags_back(t, t->live[n]);
			t->at[n] = tx_here(t);
			tx_forget_scratch(t);
		}
		if (n == poll || (t->label[n] && n))
			tx_poll(t, n);
		if (t->ngroups)
			tx_check_groups(t, n, false);
		enum tx_emitted r = t->fact[n].call					 ? EMIT_CALL
							: t->fact[n].native && !t->loose ? tx_native(t, n)
															 : tx_special(t, n);
		if (r == EMIT_CALL || !t->fact[n].tidy || t->b->bytes)
			tx_forget_scratch(t);
		if (r == EMIT_CALL) {
			if (t->hot && !t->fact[n].call) { /* then groups end here: once more */
				tx_leave_to_handler(t, n);
				t->again = true;
				return;
			}
			t->failed |= !tx_emit_call(t, n);
			if (t->fact[n].ends || (tx_legacy(t) && jit_loads_segments(i))) {
				/* It fell through, as CLI does; whatever went elsewhere has left already. */
				tx_goto(t, tx_plus(t, t->rip[n], i->len), t->live[n + 1]);
				ended = true;
			}
		}
		ended |= r == EMIT_END;
	}
	if (!ended)
		tx_goto(t, t->rip[t->n], t->live[t->n]);
	t->saved = false;
}

int jit_translator_create(struct jit *j) {
	j->tx = calloc(1, sizeof(*j->tx));
	j->shapes = calloc(1u << JIT_SHAPE_BITS, sizeof(*j->shapes));
	return j->tx && j->shapes ? 0 : -ERR_NOMEM;
}

void jit_translator_destroy(struct jit *j) {
	free(j->tx);
	free(j->shapes);
}

/* With j->lock held: what it works on is the cache's, not the thread's. */
static struct jit_block *translate(struct soft_vcpu *c, struct jit_block *draft, bool loose) {
	struct jit *j = c->soft->jit;
	struct tx *t = j->tx;
	t->j = j;
	t->c = c;
	t->b = draft;
	t->key = draft->key;
	t->hot = draft->second;
	t->code = draft->bytes ? draft->bytes : draft->host;
	t->n = t->ncold = 0;
	t->saved = t->crossing = t->failed = t->again = false;
	t->loose = loose;
	struct emit_fixups *fixups = jit_twin_begin(j, draft, &t->fixups) ? &t->fixups : NULL;
	t->e = (struct emit){j->hot, j->hot_end, fixups};
	decode_block(t);
	if (t->n)
		analyse(t);
	struct jit_block *b = t->n ? jit_arena(j, sizeof(*b)) : NULL;
	if (!b)
		return NULL;
	*b = *draft;
	t->b = b;
	b->entry = tx_here(t);
	if (b->next_page)
		tx_span_entry(t);
	if (b->bytes)
		tx_self_entry(t);
	emit_insns(t);
	while (t->again) {
		t->again = t->saved = false;
		t->ncold = 0;
		t->e.at = j->hot;
		b->out = NULL;
		analyse(t);
		if (!t->n)
			return NULL;
		emit_insns(t);
	}
	struct emit cold = {j->cold, j->cold_end, fixups};
	tx_checked_entry(t, &cold);
	for (unsigned n = 0; n < t->ncold && !t->failed; n++) {
		t->failed |= !e_room(&cold, COLD_MOST);
		emit_cold(t, &cold, &t->cold[n]);
	}
	if (t->failed)
		return NULL;
	b->hot = j->hot;
	b->hot_len = (uint32_t)(t->e.at - j->hot);
	b->cold = j->cold;
	b->cold_len = (uint32_t)(cold.at - j->cold);
	if (fixups)
		jit_twin_end(j, b, fixups);
	jit_emitted(j, b);
	j->insns += t->n;
	return b;
}

struct jit_block *jit_translate(struct soft_vcpu *c, const uint8_t *host, const uint8_t *next_page,
								uint64_t rip, uint32_t key, bool hot) {
	struct jit_block draft = {.host = host,
							  .next_page = next_page,
							  .rip = rip,
							  .key = key,
							  .peek_from = PAGE_SIZE,
							  .second = hot};
	if (hot && key & (JIT_KEY_16 | JIT_KEY_SEGS)) /* not worth it */
		return NULL;
	return translate(c, &draft, false);
}

struct jit_block *jit_translate_self(struct soft_vcpu *c, const uint8_t *bytes, const uint8_t *host,
									 uint64_t rip, uint32_t key, bool loose) {
	struct jit_block draft = {
		.host = host, .bytes = bytes, .rip = rip, .key = key, .peek_from = PAGE_SIZE};
	return translate(c, &draft, loose);
}
