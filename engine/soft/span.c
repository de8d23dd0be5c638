/* Instructions that begin in one page and end in the next.
 *
 * Such an instruction is a block of its own, of the first tier. What it depends on is the bytes of
 * both pages, in whose lists it is, and that the second page is mapped where it was. The first page
 * needs no check: whoever comes from it knows it. For the second one the block begins with a jump
 * through a slot of jit.far[], which leads on if the vCPU has looked (jit_span_ready()) and nothing
 * was flushed since, and else to C. The tables of jump targets do not know these blocks.
 *
 * What its handler would have to do is fetched anew each time by jit_cross_pages(). */
#include <string.h>

#include "core/base/check.h"
#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

#define NO_RIP (1ull << 63) /* not canonical */

/* ---- translated ------------------------------------------------------------------------------ */

struct jit_span jit_span_find(struct soft_vcpu *c, const uint8_t *host, gva_t gva) {
	struct jit_span none = {NULL, 0};
	unsigned first = PAGE_SIZE - (unsigned)(gva & PAGE_MASK);
	struct x86_insn i;
	if (first >= X86_MAX_LEN || x86_decode(&i, host, first, c->mode) != X86_DECODE_SHORT)
		return none;
	/* Of legacy code, what neither wraps around nor comes near the segment's end. */
	if (c->mode == X86_MODE_64
			? !soft_canonical(gva + first)
			: (gva + first) >> 32 || c->s->rip + X86_MAX_LEN - 1 > c->s->seg[SEG_CS].limit)
		return none;
	const struct soft_tlb_entry *e = soft_translate(c, gva + first, ACCESS_EXEC, fast_user(c));
	if (!e->host || !soft_is_ram(c, e->gpa) || e->gpa >> 12 >= c->soft->jit->npages)
		return none;
	return (struct jit_span){e->host, e->gpa};
}

bool jit_span_ready(struct soft_vcpu *c, const struct jit_block *b, gva_t gva) {
	gva_t second = (gva & ~PAGE_MASK) + PAGE_SIZE;
	const struct soft_tlb_entry *e = soft_translate(c, second, ACCESS_EXEC, fast_user(c));
	if (e->host == b->next_page) {
		jit_span_learn(c, b, second, e->global);
		return true;
	}
	jit_discard(c, b->host, b->rip, b->key);
	return false;
}

/* ---- not translated -------------------------------------------------------------------------- */

static void step_instead(struct soft_vcpu *c) {
	c->jit.fpu_known = false;
	soft_step(c);
}

void jit_cross_pages(struct soft_vcpu *c, const struct x86_insn *nothing) {
	uint64_t rip = c->s->rip;
	gva_t gva = jit_linear(c->mode != X86_MODE_64, jit_address(c));
	struct jit_crossing *x = &c->jit.crossings[(gva >> 12) % JIT_CROSSINGS];
	uint8_t bytes[X86_MAX_LEN];
	bool user = fast_user(c), legacy = c->mode != X86_MODE_64;
	unsigned first = PAGE_SIZE - (unsigned)(gva & PAGE_MASK);
	struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_EXEC, user);
	const uint8_t *host = e->host;
	if (legacy && rip + X86_MAX_LEN - 1 > c->s->seg[SEG_CS].limit) { /* or across its end */
		step_instead(c);
		return;
	}
	check(first < X86_MAX_LEN);
	if (!legacy && !soft_canonical(rip + first))
		soft_gp(c, 0);
	e = soft_translate(c, legacy ? (uint32_t)(gva + first) : gva + first, ACCESS_EXEC, user);
	if (!host || !e->host) { /* code outside of memory */
		step_instead(c);
		return;
	}
	fast_copy(bytes, host + (gva & PAGE_MASK), first);
	fast_copy(bytes + first, e->host, X86_MAX_LEN - first);
	if (x->rip != gva || x->insn.mode != c->mode || memcmp(x->insn.raw, bytes, x->insn.len) != 0) {
		x->rip = NO_RIP;
		int len = x86_decode(&x->insn, bytes, X86_MAX_LEN, c->mode);
		if (len == X86_DECODE_UD)
			soft_ud(c);
		if (len <= 0)
			soft_gp(c, 0);
		x->handler = soft_handler_of(c, &x->insn);
		x->rip = gva;
	}
	c->next_rip = legacy ? (uint32_t)(rip + x->insn.len) : rip + x->insn.len;
	if (jit_changes_masks(x->insn.op))
		c->jit.fpu_known = false;
	x->handler(c, &x->insn);
}
