/* What holds at a place that is jumped to. All that is known is forgotten there, which is right
 * whatever path led there, unless all those jumps are found and stand around it: then it is what
 * the code between writes. Two shapes are known: a loop without calls, and the code of a missed
 * slot, out of line, that calls once and comes back to behind its check. */
#include "core/base/bits.h"
#include "core/base/string.h"
#include "engine/soft/verify_int.h"

int verify_fetch(struct verifier *v, const struct region *r, size_t at) {
	v->pc = r->at + at;
	int len = x86_decode(&v->insn, v->pc, r->len - at, X86_MODE_64);
	if (len <= 0)
		verify_refuse(v, "no instruction");
	return len;
}

bool verify_mark_label(struct verifier *v, const uint8_t *at, unsigned more) {
	size_t off;
	struct region *r = verify_inside(v, at, &off);
	if (!r)
		return false;
	r->marks[off] |= MARK_LABEL | more;
	r->sources[off] += r->sources[off] < 2;
	return r->marks[off] & MARK_START || verify_refuse(v, "jump into the middle of an instruction");
}

/* The code out of line that comes back when a slot has been filled:
 *
 *     mov r11d, slot; call slot_turn; test r10d, r10d; jz back
 *
 * with nothing but a check's JAE leading to its beginning, at `at` (not even the instruction before
 * it goes on there), and `back` right behind that JAE. The thunk makes the slot hold the address
 * that R10 and the slot's lo add up to, so R10 must be what the check compared, which come_back()
 * sees to. It changes R10, R11, the flags and the slot, and then JAE would not have been taken. */
#define MISSED_BYTES 20u

static bool missed_slot(struct verifier *v, size_t at, size_t back, uint32_t *slot) {
	struct region *hot = &v->region[0], *cold = &v->region[1];
	unsigned user = v->b->key & JIT_KEY_USER ? 1 : 0, write, size;
	const uint8_t *p = cold->at + at, *jae = hot->at + back - 6;
	int32_t rel;
	if (at + MISSED_BYTES > cold->len || cold->sources[at] != 1 || cold->marks[at] & MARK_FALLS ||
		back < 6)
		return false;
	for (size_t n = at + 1; n < at + MISSED_BYTES; n++)
		if (cold->marks[n] & MARK_LABEL)
			return false;
	memcpy(&rel, jae + 2, 4);
	if (!(hot->marks[back - 6] & MARK_START) || jae[0] != 0x0f || jae[1] != 0x83 ||
		jae + 6 + rel != p || p[0] != 0x41 || p[1] != 0xbb || p[6] != 0xe8 ||
		memcmp(p + 11, (const uint8_t[]){0x45, 0x85, 0xd2, 0x0f, 0x84}, 5) != 0)
		return false;
	memcpy(slot, p + 2, 4);
	memcpy(&rel, p + 7, 4);
	return verify_slot_turn(v, p + 11 + rel + v->j->exec) >= 0 &&
		   jit_slot_valid(*slot, user, &write, &size);
}

void verify_check_returns(struct verifier *v) {
	struct region *hot = &v->region[0];
	uint32_t slot;
	for (size_t back = 0; back < hot->len; back++)
		if (hot->marks[back] & MARK_RETURN && !missed_slot(v, hot->returns[back], back, &slot))
			hot->marks[back] |= MARK_OUTER;
}

bool verify_find_labels(struct verifier *v, struct region *r) {
	size_t off;
	for (size_t at = 0; at < r->len; at += v->insn.len) {
		verify_fetch(v, r, at);
		if (!insn_is_branch(&v->insn) || !insn_is_relative(&v->insn))
			continue;
		const uint8_t *target = v->pc + v->insn.len + (int64_t)v->insn.imm;
		struct region *to = verify_inside(v, target, &off);
		bool back = to == &v->region[0] && r == &v->region[1] && v->insn.op == X86_OP_JCC &&
					at >= MISSED_BYTES - 6 && !(to->marks[off] & MARK_RETURN);
		if (back)
			to->returns[off] = (uint16_t)(at - (MISSED_BYTES - 6));
		if (to && !verify_mark_label(v, target, to == r ? 0 : back ? MARK_RETURN : MARK_OUTER))
			return false;
		if (to == r) {
			to->from[off] = (uint16_t)MIN(to->from[off], at);
			to->to[off] = (uint16_t)MAX(to->to[off], at + v->insn.len);
		}
	}
	return true;
}

/* Widens [*from, *to) until all jumps to places in it, but for its beginning, come from within;
 * false: they do not. */
static bool widen(struct verifier *v, const struct region *r, size_t *from, size_t *to) {
	for (bool again = true; again;) {
		again = false;
		for (size_t at = *from; at < *to; at += v->insn.len) {
			verify_fetch(v, r, at);
			if (at == *from || !(r->marks[at] & MARK_LABEL))
				continue;
			if (r->marks[at] & MARK_OUTER)
				return false;
			if (r->from[at] >= *from && r->to[at] <= *to)
				continue;
			*from = MIN(*from, r->from[at]);
			*to = MAX(*to, r->to[at]);
			again = true;
			break;
		}
	}
	return true;
}

/* A slot was filled anew: what was loaded from it before goes with no check that is made after. */
static void slot_changed(struct verifier *v, uint32_t slot) {
	for (unsigned n = 0; n < v->natoms; n++)
		if (v->atoms[n].slot == slot && (v->atoms[n].of_slot || v->atoms[n].lo_of))
			v->atoms[n] = (struct atom){0};
}

/* What the code of [from, to) writes, and what is written when a slot is missed there; false: it
 * has a call. */
static bool closed(struct verifier *v, const struct region *r, size_t from, size_t to,
				   unsigned *regs, bool written[WORDS]) {
	uint32_t filled;
	*regs = 0;
	for (size_t at = from; at < to; at += v->insn.len) {
		verify_fetch(v, r, at);
		if (at != from && r->marks[at] & MARK_RETURN) {
			unsigned kept = 0;
			if (!missed_slot(v, r->returns[at], at, &filled))
				return false;
			for (unsigned n = 0; n < v->npassed; n++)
				if (v->passed[n].slot != filled || v->passed[n].pc >= r->at + from)
					v->passed[kept++] = v->passed[n];
			v->npassed = kept;
			slot_changed(v, filled);
			*regs |= 1u << 10 | 1u << 11;
		}
		const struct x86_opnd *m = x86_memory_operand(&v->insn);
		if (insn_is_branch(&v->insn)) {
			if (!insn_is_relative(&v->insn) || v->insn.op == X86_OP_CALL)
				return false;
			continue;
		}
		*regs |= verify_written(&v->insn);
		int word = m && m->access & OPND_W && v->insn.seg_prefix == SEG_GS
					   ? verify_word_of(&v->insn, m->size, OPND_W)
					   : -1;
		if (word >= 0)
			written[word] = true;
	}
	return true;
}

/* What a missed slot's code may have changed; false: it is not the one of the last check. */
static bool come_back(struct verifier *v, const struct region *r, size_t label) {
	uint32_t slot;
	const struct passed *last = &v->passed[v->npassed - 1];
	unsigned kept = 0;
	if (!v->npassed || !missed_slot(v, r->returns[label], label, &slot) || last->slot != slot ||
		last->pc != r->at + label - 6 || last->reg != 10 || !last->intact)
		return false;
	struct passed own = *last;
	slot_changed(v, slot);
	for (unsigned n = 0; n + 1 < v->npassed; n++)
		if (v->passed[n].slot != slot)
			v->passed[kept++] = v->passed[n];
	v->passed[kept++] = own;
	v->npassed = kept;
	v->reg[10] = val_of(verify_lin_fresh(v));
	v->reg[11] = val_of(verify_lin_fresh(v));
	v->pending = PENDING_NONE;
	v->hit.on = false;
	return true;
}

void verify_arrive(struct verifier *v, const struct region *r, size_t label) {
	if (r->marks[label] & MARK_RETURN && !(r->marks[label] & MARK_OUTER)) {
		if (!come_back(v, r, label)) {
			verify_forget(v);
			return;
		}
		if (!r->to[label]) /* from nowhere else */
			return;
	}
	size_t from = MIN(label, r->from[label]), to = MAX(label, r->to[label]);
	bool written[WORDS] = {false};
	unsigned regs, kept = 0;
	if (r->marks[label] & MARK_OUTER || !widen(v, r, &from, &to) ||
		!closed(v, r, from, to, &regs, written)) {
		verify_forget(v);
		return;
	}
	for (unsigned n = 0; n < 16; n++)
		if (regs & 1u << n)
			v->reg[n] = val_of(verify_lin_fresh(v));
	for (unsigned n = 0; n < WORDS; n++)
		v->word_known[n] &= !written[n];
	for (unsigned n = 0; n < v->npassed; n++)
		if (v->passed[n].pc < r->at + from)
			v->passed[kept++] = v->passed[n];
	v->npassed = kept;
	v->pending = PENDING_NONE;
	v->hit.on = false;
	for (unsigned n = 0; n < 4; n++)
		v->swapped[n].on = false;
}
