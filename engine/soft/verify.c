/* The code verifier: proves of each emitted block, from its bytes alone, that it can touch nothing
 * but what a check has allowed. It shares no code with the emitter; what it trusts is the decoder
 * (core/x86, compared with Zydis in the tests), the thunks, and jit_fill().
 *
 * What is proved:
 * - Every memory operand is either a read of the guest code that a self-checking block was made
 *   from, at an address that is a constant; or GS-relative in a word of the table in verify_word.c,
 *   in the direction that the table allows; or in the TLB at an index that is provably inside; or
 *   lies, with its whole size, in bytes that a TLB entry of the block's privilege was found to
 *   hold, for writing if it writes.
 * - Every jump goes to an instruction of the block itself, to a thunk that takes such jumps, or
 *   through the tables of jump targets, which hold nothing but entries and thunks. No path runs
 *   out of the block's end. Calls are the same: of thunks, through the tables, or at the patched
 *   places. A ret is allowed anywhere: on the stack of return addresses there are only those of
 *   such calls, behind which nothing is taken for granted.
 * - Thunks get what they expect in R11: a struct jit_op or jit_link of this block, an exit
 *   code, an address of the block's guest code.
 * - No instruction outside of a list: nothing privileged, no system call, no string or stack
 *   instruction, nothing that names host RSP or a segment but GS, nothing that changes GS or the
 *   exception masks of x87 and SSE.
 * - What link_to() patches is the displacement of a jump, aligned so that it changes at once.
 * Not proved: that the code does what the guest's does. That is what test/insn is for.
 *
 * How: an abstract interpretation along the straight line. A value is a linear expression modulo
 * 2^64 over atoms, each a 64-bit unknown; and maybe also (expression >> n) & mask. Known are the
 * values of the registers and of those words. After every call, and at a place that is jumped to,
 * all of them become fresh atoms, which is true whatever path led there. But if all jumps to a
 * place come from straight-line code around it that has no call and no other way in, only what is
 * written in that code is forgotten, and facts that were found in it: a loop keeps what holds
 * before it.
 * Facts:
 *   CMP   the flags compare X & ~0xfff with the tag of TLB table T at index (Y >> 8) & 0xfff0,
 *         where X - Y is a constant below a page;
 *   HIT   ... and they were equal: JNE was not taken. An entry at that index holds no page but one
 *         with these index bits, so X and Y lie in that page, and all between them;
 *   SLOT  the flags compare X - lo with lim, both of slot S; JAE not taken: the S.size bytes from X
 *         lie in the slot (kept until values are forgotten: nothing else changes slots);
 *   and an atom loaded from the addend beside that tag, or of that slot, is worth: Y + addend + d
 * is the host address of guest byte Y + d, for min(0, X - Y) <= d <= max(0, X - Y); for a slot Y is
 * X, and 0 <= d < S.size. An operand is allowed if its address minus one such atom minus Y is a
 * constant d with [d, d + size) in those bounds.
 *
 * verify_int.h says which file does what. Called by the translator on the vCPU's thread when
 * switched on, and by test/insn/verify.c. */
#include <sys/mman.h>

#include "core/base/fmt.h"
#include "core/base/string.h"
#include "engine/soft/verify_int.h"

/* Where instructions begin; the last one must not fall through. */
static bool sweep(struct verifier *v, struct region *r) {
	bool falls = false;
	for (size_t at = 0; at < r->len;) {
		int len = verify_fetch(v, r, at);
		if (len <= 0)
			return false;
		r->marks[at] |= MARK_START | (falls ? MARK_FALLS : 0);
		falls = v->insn.op != X86_OP_JMP && v->insn.op != X86_OP_RET;
		at += (size_t)len;
	}
	return !falls || verify_refuse(v, "runs out of its end");
}

/* Ways in and out that others know: entries, stubs, patched displacements. */
static bool known_places(struct verifier *v) {
	const struct jit_block *b = v->b;
	intptr_t x = v->j->exec;
	v->pc = b->entry - x;
	if (!verify_mark_label(v, b->entry - x, MARK_OUTER) ||
		!verify_mark_label(v, b->entry_checked - x, MARK_OUTER))
		return verify_refuse(v, "entry outside of the block");
	for (const struct jit_link *l = b->out; l; l = l->own_next) {
		size_t off;
		v->pc = l->patch;
		if (!l->stub || !verify_mark_label(v, l->stub, MARK_OUTER))
			return verify_refuse(v, "link without a stub");
		const struct region *r = verify_inside(v, l->patch, &off);
		if (!r || off < 2 || (uintptr_t)l->patch & 3)
			return verify_refuse(v, "patched place outside of the block or not aligned");
		unsigned back = r->marks[off - 1] & MARK_START ? 1 : 2;
		if (!(r->marks[off - back] & MARK_START) || verify_fetch(v, r, off - back) <= 0 ||
			v->insn.imm_off != back || v->insn.imm_len != 4 || !insn_is_relative(&v->insn) ||
			(v->insn.op != X86_OP_JMP && v->insn.op != X86_OP_JCC && v->insn.op != X86_OP_CALL))
			return verify_refuse(v, "patched place is not a jump's");
	}
	return true;
}

static bool walk(struct verifier *v, const struct region *r) {
	verify_forget(v);
	for (size_t at = 0; at < r->len; at += v->insn.len) {
		if (r->marks[at] & MARK_LABEL)
			verify_arrive(v, r, at);
		verify_fetch(v, r, at);
		if (!(insn_is_branch(&v->insn) ? verify_branch(v) : verify_plain(v)))
			return false;
	}
	return true;
}

static bool verify(struct verifier *v) {
	for (unsigned n = 0; n < 2; n++) {
		if (v->region[n].len > MAX_BYTES)
			return verify_refuse(v, "too long to be verified");
		memset(v->region[n].marks, 0, v->region[n].len);
		memset(v->region[n].from, 0xff, 2 * v->region[n].len);
		memset(v->region[n].to, 0, 2 * v->region[n].len);
		memset(v->region[n].sources, 0, v->region[n].len);
	}
	for (unsigned n = 0; n < 2; n++)
		if (!sweep(v, &v->region[n]))
			return false;
	for (unsigned n = 0; n < 2; n++)
		if (!verify_find_labels(v, &v->region[n]))
			return false;
	if (!known_places(v))
		return false;
	verify_check_returns(v);
	return walk(v, &v->region[0]) && walk(v, &v->region[1]);
}

static void dump(const struct verifier *v, const struct region *r, const uint8_t *bad) {
	for (size_t at = 0; at < r->len;) {
		struct x86_insn i;
		char text[96];
		int len = x86_decode(&i, r->at + at, r->len - at, X86_MODE_64);
		if (len <= 0)
			return;
		x86_format(text, sizeof(text), &i, (uintptr_t)(r->at + at));
		log_line(LOG_ERROR, "%s %lx%s %s", r->at + at == bad ? "=>" : "  ",
				 (unsigned long)(uintptr_t)(r->at + at), r->marks[at] & MARK_LABEL ? ":" : " ",
				 text);
		at += (size_t)len;
	}
}

static bool run(struct verifier *v, const struct jit *j, const struct jit_block *b) {
	v->j = j;
	v->b = b;
	v->why = NULL;
	v->pc = NULL;
	v->region[0].at = b->hot;
	v->region[0].len = b->hot_len;
	v->region[1].at = b->cold;
	v->region[1].len = b->cold_len;
	return verify(v);
}

/* Too large for a stack; jit->lock is held while it is used. Made beforehand, since the guest's
 * vector registers may be in place then, which the C library does not keep. */
int jit_verifier_create(struct jit *j) {
	void *v = mmap(NULL, sizeof(struct verifier), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	j->verifier = v != MAP_FAILED ? v : NULL;
	return j->verifier ? 0 : -ERR_NOMEM;
}

void jit_verifier_destroy(struct jit *j) {
	if (j->verifier)
		munmap(j->verifier, sizeof(struct verifier));
}

const char *jit_verify(const struct jit *j, const struct jit_block *b) {
	struct verifier *v = j->verifier;
	return run(v, j, b) ? NULL : v->why;
}

void jit_verify_or_stop(const struct jit *j, const struct jit_block *b) {
	struct verifier *v = j->verifier;
	if (run(v, j, b))
		return;
	log_line(LOG_ERROR, "translated block of guest code at %lx (mode key %x) refused: %s",
			 (unsigned long)b->rip, b->key, v->why);
	const uint8_t *bad = v->pc;
	log_line(LOG_ERROR, "hot:");
	dump(v, &v->region[0], bad);
	log_line(LOG_ERROR, "cold:");
	dump(v, &v->region[1], bad);
	host_ops.bug(__FILE__, __LINE__, "translated code failed its verification");
}
