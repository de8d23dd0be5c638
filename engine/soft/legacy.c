/* 16- and 32-bit code in the translator, at run time: which of it is translated, and what its
 * blocks depend on. The other half, what is emitted, is tx_legacy.c.
 *
 * Where code runs is named by a "jit address" everywhere in the translator: in 64-bit mode it is
 * RIP, outside of it EIP with CS's base above it (base << 32 | EIP). So a block belongs to its
 * base, near jumps and return addresses are constants in it, and no table has to be cleared when a
 * far jump goes to another segment.
 *
 * The mode key says: the width of code and stack; whether DS, ES and SS are flat (base 0, 4 GiB,
 * writable), which makes their bases and limits nobody's business; whether CS ends at 64 KiB or at
 * 4 GiB. Anything else about segments is looked up when it is used, in struct jit_seg. Whatever
 * loads a segment therefore ends its block, and what comes next begins with a look at the key.
 *
 * All accesses of legacy code are to linear addresses below JIT_LEGACY_END; see there. Registers
 * that translated legacy code starts with have no upper halves: soft_update_mode() clears them when
 * 64-bit mode is left, as [SDM1 3.4.1.1] allows, and no 32-bit instruction makes them anew. */
#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

/* How many offsets of the segment such accesses may have; 0: let the interpreter say. */
static uint64_t reach(const struct soft_vcpu *c, const struct x86_segment *s, bool write) {
	if (soft_protected(c)) {
		bool code = s->attr & 8, rw = s->attr & 2;
		if (s->attr & SEG_ATTR_UNUSABLE || (write ? code || !rw : code && !rw))
			return 0;
	}
	if ((s->attr & 0xc) == 4 && s->attr & SEG_ATTR_S) /* expand-down */
		return 0;
	return (uint64_t)s->limit + 1;
}

bool jit_legacy_ok(const struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	const struct x86_segment *cs = &s->seg[SEG_CS];
	uint64_t upper = 0;
	if (c->soft->jit->off & (c->mode == X86_MODE_32 ? JIT_OFF_32 : JIT_OFF_16))
		return false;
	if (c->mode == X86_MODE_32 && !soft_protected(c)) /* there VEX is something else */
		return false;
	for (unsigned n = 0; n < 8; n++)
		upper |= s->gpr[n];
	return !(upper >> 32) && !(s->rip >> 32) && !(cs->base >> 32) &&
		   (cs->limit == 0xffffffff || cs->limit == 0xffff);
}

uint32_t jit_legacy_key(struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	uint32_t key = c->mode == X86_MODE_32 ? JIT_KEY_32 : JIT_KEY_16 | JIT_KEY_SEGS;
	bool flat = true;
	for (unsigned n = 0; n < 6; n++) {
		struct jit_seg *j = &c->jit.segs[n];
		j->reach[0] = reach(c, &s->seg[n], false);
		j->reach[1] = reach(c, &s->seg[n], true);
		if (n == SEG_DS || n == SEG_ES || n == SEG_SS)
			flat &= !s->seg[n].base && j->reach[0] >> 32 && j->reach[1] >> 32;
	}
	if (c->stack_size == 2)
		key |= JIT_KEY_STACK16 | JIT_KEY_SEGS;
	if (!flat)
		key |= JIT_KEY_SEGS;
	if (s->seg[SEG_CS].limit == 0xffff)
		key |= JIT_KEY_CS64K;
	return key;
}

bool jit_loads_segments(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_MOV_SEG:
		return i->opnd[0].kind == OPND_SEG;
	case X86_OP_POP_SEG:
	case X86_OP_LDS:
	case X86_OP_LES:
	case X86_OP_LSS:
	case X86_OP_LFS:
	case X86_OP_LGS:
	case X86_OP_JMPF:
	case X86_OP_CALLF:
	case X86_OP_RETF:
	case X86_OP_IRET:
	case X86_OP_INT:
	case X86_OP_INT3:
	case X86_OP_INTO:
	case X86_OP_INT1:
		return true;
	default:
		return false;
	}
}

uint64_t jit_address(const struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	return c->mode == X86_MODE_64 ? s->rip : s->seg[SEG_CS].base << 32 | (uint32_t)s->rip;
}

bool jit_fetch_from(const struct soft_vcpu *c, gva_t *gva) {
	const struct x86_state *s = c->s;
	*gva = jit_linear(c->mode != X86_MODE_64, jit_address(c));
	return c->mode == X86_MODE_64 ? soft_canonical(s->rip) : s->rip <= s->seg[SEG_CS].limit;
}

void jit_set_mode(struct soft_vcpu *c, unsigned user, uint32_t key) {
	uint32_t was = c->jit.keys[user];
	if (was == key)
		return;
	c->jit.keys[user] = key;
	jit_jumps_clear_half(c, user);
	/* The TLB of legacy code must not hold what lies beyond its addresses. */
	if (!(was & JIT_KEY_LEGACY) != !(key & JIT_KEY_LEGACY))
		jit_tlb_flush(c, false);
}
