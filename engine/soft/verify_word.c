/* Proves of GS-relative operands without a register that they lie in a word of the table below, in
 * the direction that the table allows, and follows what whole words are loaded and stored: guest
 * registers that live in memory, and what the block keeps there for itself. */
#include "core/base/bits.h"
#include "engine/soft/verify_int.h"

static const struct word {
	uint32_t off;
	uint8_t size, access;
} words[] = {
	{STATE(gpr[0]), 8, OPND_R | OPND_W},  {STATE(gpr[1]), 8, OPND_R | OPND_W},
	{STATE(gpr[2]), 8, OPND_R | OPND_W},  {STATE(gpr[3]), 8, OPND_R | OPND_W},
	{STATE(gpr[4]), 8, OPND_R | OPND_W},  {STATE(gpr[5]), 8, OPND_R | OPND_W},
	{STATE(gpr[6]), 8, OPND_R | OPND_W},  {STATE(gpr[7]), 8, OPND_R | OPND_W},
	{STATE(gpr[8]), 8, OPND_R | OPND_W},  {STATE(gpr[9]), 8, OPND_R | OPND_W},
	{STATE(gpr[10]), 8, OPND_R | OPND_W}, {STATE(gpr[11]), 8, OPND_R | OPND_W},
	{STATE(gpr[12]), 8, OPND_R | OPND_W}, {STATE(gpr[13]), 8, OPND_R | OPND_W},
	{STATE(gpr[14]), 8, OPND_R | OPND_W}, {STATE(gpr[15]), 8, OPND_R | OPND_W},
	{STATE(seg[0].sel), 2, OPND_R},		  {STATE(seg[1].sel), 2, OPND_R},
	{STATE(seg[2].sel), 2, OPND_R},		  {STATE(seg[3].sel), 2, OPND_R},
	{STATE(seg[4].sel), 2, OPND_R},		  {STATE(seg[5].sel), 2, OPND_R},
	{STATE(rip), 8, OPND_R | OPND_W},	  {STATE(seg[SEG_ES].base), 8, OPND_R},
	{STATE(seg[SEG_CS].base), 8, OPND_R}, {STATE(seg[SEG_SS].base), 8, OPND_R},
	{STATE(seg[SEG_DS].base), 8, OPND_R}, {STATE(seg[SEG_FS].base), 8, OPND_R},
	{STATE(seg[SEG_GS].base), 8, OPND_R}, {JIT(segs[0].reach[0]), 8, OPND_R},
	{JIT(segs[0].reach[1]), 8, OPND_R},	  {JIT(segs[1].reach[0]), 8, OPND_R},
	{JIT(segs[1].reach[1]), 8, OPND_R},	  {JIT(segs[2].reach[0]), 8, OPND_R},
	{JIT(segs[2].reach[1]), 8, OPND_R},	  {JIT(segs[3].reach[0]), 8, OPND_R},
	{JIT(segs[3].reach[1]), 8, OPND_R},	  {JIT(segs[4].reach[0]), 8, OPND_R},
	{JIT(segs[4].reach[1]), 8, OPND_R},	  {JIT(segs[5].reach[0]), 8, OPND_R},
	{JIT(segs[5].reach[1]), 8, OPND_R},	  {JIT(tmp), 8, OPND_R | OPND_W},
	{JIT(flags_ax), 8, OPND_R | OPND_W},  {JIT(poll), 4, OPND_R},
	{JIT(held[0]), 8, OPND_R | OPND_W},	  {JIT(held[1]), 8, OPND_R | OPND_W},
	{JIT(held[2]), 8, OPND_R | OPND_W},	  {JIT(held[3]), 8, OPND_R | OPND_W},
	{JIT(held[4]), 8, OPND_R | OPND_W},	  {JIT(held[5]), 8, OPND_R | OPND_W},
	{JIT(held[6]), 8, OPND_R | OPND_W},	  {JIT(held[7]), 8, OPND_R | OPND_W},
	{JIT(held[8]), 8, OPND_R | OPND_W},	  {JIT(held[9]), 8, OPND_R | OPND_W},
	{JIT(held[10]), 8, OPND_R | OPND_W},  {JIT(held[11]), 8, OPND_R | OPND_W},
	{JIT(held[12]), 8, OPND_R | OPND_W},  {JIT(held[13]), 8, OPND_R | OPND_W},
	{JIT(held[14]), 8, OPND_R | OPND_W},  {JIT(held[15]), 8, OPND_R | OPND_W},
	{STATE(rflags), 8, OPND_R},
};
_Static_assert(ARRAY_LEN(words) == WORDS, "struct verifier has room for another number");

int verify_word_of(const struct x86_insn *i, unsigned size, unsigned access) {
	if (i->base != X86_REG_NONE || i->index != X86_REG_NONE)
		return -1;
	for (unsigned n = 0; n < WORDS; n++)
		if ((uint64_t)i->disp >= words[n].off &&
			(uint64_t)i->disp + size <= words[n].off + words[n].size &&
			!(access & ~words[n].access & (OPND_R | OPND_W)))
			return (int)n;
	return -1;
}

/* Loads and stores of whole words are followed. */
bool verify_word_access(struct verifier *v, const struct x86_opnd *m) {
	const struct x86_insn *i = &v->insn;
	int s = verify_word_of(i, m->size, m->access);
	if (s < 0)
		return verify_refuse(v, "GS-relative operand outside of the allowed words");
	if (!v->word_known[s]) {
		v->word[s] = val_of(verify_lin_fresh(v));
		v->word_known[s] = true;
	}
	const struct x86_opnd *a = &i->opnd[0], *b = &i->opnd[1];
	struct val *d = a->kind == OPND_GPR ? &v->reg[a->reg & 15] : NULL;
	if (m->size == 8 && i->op == X86_OP_MOV && d) {
		*d = v->word[s];
		return true;
	}
	bool whole = (uint64_t)i->disp == words[s].off;
	if (i->op == X86_OP_ADD && d && (m->size == 8 || (m->size == 4 && whole))) {
		struct val x = val_of(verify_lin_add(v, &d->lin, &v->word[s].lin, 1));
		*d = m->size == 8 ? x : val_of(verify_val_mask(v, &x, 0xffffffff).lin);
		return true;
	}
	if (m->size == 8 && i->op == X86_OP_MOV && b->kind == OPND_GPR) {
		v->word[s] = v->reg[b->reg];
		return true;
	}
	if (m->access & OPND_W)
		v->word[s] = val_of(verify_lin_fresh(v));
	verify_clobber(v);
	return true;
}
