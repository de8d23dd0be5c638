/* Proves of an instruction that is no jump that it is of the list, that its memory operand is
 * allowed, and says what it does to the registers: exactly where that matters for addresses, else
 * that they are unknown afterwards. What is written though no operand of the decoder's says so is
 * named in implied_writes(). */
#include "engine/soft/verify_int.h"

static bool integer_allowed(unsigned op) {
	switch (op) {
	case X86_OP_ADD:
	case X86_OP_OR:
	case X86_OP_ADC:
	case X86_OP_SBB:
	case X86_OP_AND:
	case X86_OP_SUB:
	case X86_OP_XOR:
	case X86_OP_CMP:
	case X86_OP_TEST:
	case X86_OP_NOT:
	case X86_OP_NEG:
	case X86_OP_INC:
	case X86_OP_DEC:
	case X86_OP_MUL:
	case X86_OP_IMUL:
	case X86_OP_MOV:
	case X86_OP_MOVZX:
	case X86_OP_MOVSX:
	case X86_OP_MOVSXD:
	case X86_OP_MOVBE:
	case X86_OP_MOVNTI:
	case X86_OP_LEA:
	case X86_OP_XCHG:
	case X86_OP_XADD:
	case X86_OP_CMPXCHG:
	case X86_OP_CMPXCHG8B:
	case X86_OP_CMPXCHG16B:
	case X86_OP_BSWAP:
	case X86_OP_BSF:
	case X86_OP_BSR:
	case X86_OP_TZCNT:
	case X86_OP_LZCNT:
	case X86_OP_POPCNT:
	case X86_OP_CRC32:
	case X86_OP_BT:
	case X86_OP_BTS:
	case X86_OP_BTR:
	case X86_OP_BTC:
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_RCL:
	case X86_OP_RCR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
	case X86_OP_CBW:
	case X86_OP_CWD:
	case X86_OP_LAHF:
	case X86_OP_SAHF:
	case X86_OP_CLC:
	case X86_OP_STC:
	case X86_OP_CMC:
	case X86_OP_SETCC:
	case X86_OP_CMOVCC:
	case X86_OP_ADCX:
	case X86_OP_ADOX:
	case X86_OP_ANDN:
	case X86_OP_BEXTR:
	case X86_OP_BLSI:
	case X86_OP_BLSMSK:
	case X86_OP_BLSR:
	case X86_OP_BZHI:
	case X86_OP_MULX:
	case X86_OP_PDEP:
	case X86_OP_PEXT:
	case X86_OP_RORX:
	case X86_OP_SARX:
	case X86_OP_SHLX:
	case X86_OP_SHRX:
	case X86_OP_LFENCE:
	case X86_OP_MFENCE:
	case X86_OP_SFENCE:
	case X86_OP_NOP:
		return true;
	default:
		return false;
	}
}

/* Of the vector classes, what has an operand that is not listed, or unmasks exceptions. */
static bool vector_refused(unsigned op) {
	switch (op) {
	case X86_OP_MASKMOVQ:
	case X86_OP_MASKMOVDQU:
	case X86_OP_VMASKMOVDQU:
	case X86_OP_LDMXCSR:
	case X86_OP_VLDMXCSR:
	case X86_OP_FLDCW:
	case X86_OP_FLDENV:
	case X86_OP_FRSTOR:
	case X86_OP_FXRSTOR:
		return true;
	default:
		return false;
	}
}

static bool listed(const struct x86_insn *i) {
	const struct x86_form *f = &x86_forms[i->form];
	if (f->attr & (X86_ATTR_PRIV | X86_ATTR_STACK | X86_ATTR_VSIB))
		return false;
	if (f->cls >= X86_CLASS_X87 && f->cls <= X86_CLASS_AVX512)
		return !vector_refused(i->op);
	return integer_allowed(i->op);
}

static bool names_rsp(const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].reg == RSP)
			return true;
	return x86_memory_operand(i) && (i->base == RSP || i->index == RSP);
}

/* XCHG AL, AH and the like. */
static bool swap_of_bytes(struct verifier *v) {
	const struct x86_opnd *a = &v->insn.opnd[0], *b = &v->insn.opnd[1];
	if (v->insn.op != X86_OP_XCHG || a->kind != OPND_GPR || b->kind != OPND_GPR || a->size != 1 ||
		(a->reg ^ b->reg) != X86_REG_HIGH)
		return false;
	unsigned r = a->reg & 3;
	uint64_t d;
	if (v->swapped[r].on && verify_lin_diff(v, &v->reg[r].lin, &v->swapped[r].now, &d) && d == 0) {
		v->reg[r] = v->swapped[r].before;
		v->swapped[r].on = false;
	} else {
		v->swapped[r].before = v->reg[r];
		v->reg[r] = val_of(verify_lin_fresh(v));
		v->swapped[r].now = v->reg[r].lin;
		v->swapped[r].on = true;
	}
	return true;
}

/* Guest registers hold sums of at most two unknowns, so that with a base, an index and an addend
 * there is room for all terms of an address; what the sum of more was made of never matters. */
static void set_sum(struct verifier *v, unsigned reg, struct val x) {
	v->reg[reg] = reg != 10 && reg != SCRATCH && x.lin.n > 2 ? val_of(verify_lin_fresh(v)) : x;
}

/* The effects of an instruction on registers, if it is one of those whose result matters. */
static bool modelled(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	const struct x86_opnd *a = &i->opnd[0], *b = &i->opnd[1];
	if (i->nopnds == 1 && (i->op == X86_OP_INC || i->op == X86_OP_DEC) && a->kind == OPND_GPR &&
		a->size == 8) {
		v->reg[a->reg].lin.c += i->op == X86_OP_INC ? 1 : ~0ull;
		v->reg[a->reg].bits = false;
		return true;
	}
	if (swap_of_bytes(v))
		return true;
	if (i->nopnds < 2 || a->kind != OPND_GPR || a->size < 4 || !(a->access & OPND_W))
		return false;
	struct val *d = &v->reg[a->reg];
	bool wide = a->size == 8;
	switch (i->op) {
	case X86_OP_MOV:
		if (b->kind == OPND_IMM)
			*d = val_of(lin_constant(wide ? i->imm : (uint32_t)i->imm));
		else if (b->kind == OPND_GPR)
			*d =
				wide ? val_of(v->reg[b->reg].lin) : verify_val_mask(v, &v->reg[b->reg], 0xffffffff);
		else
			return false;
		return true;
	case X86_OP_MOVZX:
		if (b->kind != OPND_GPR || b->size != 2)
			return false;
		*d = verify_val_mask(v, &v->reg[b->reg], 0xffff);
		return true;
	case X86_OP_LEA: {
		if (i->addrsize != 8 || i->base == X86_REG_RIP)
			return false;
		struct val x = val_of(verify_address(v));
		set_sum(v, a->reg, wide ? x : val_of(verify_val_mask(v, &x, 0xffffffff).lin));
		return true;
	}
	case X86_OP_ADD:
	case X86_OP_SUB: {
		struct lin s = lin_constant(i->imm);
		if (b->kind == OPND_GPR)
			s = v->reg[b->reg].lin;
		else if (b->kind != OPND_IMM)
			return false;
		if (!wide)
			return false;
		set_sum(v, a->reg, val_of(verify_lin_add(v, &d->lin, &s, i->op == X86_OP_ADD ? 1 : ~0ull)));
		return true;
	}
	case X86_OP_AND:
		if (b->kind != OPND_IMM)
			return false;
		*d = verify_val_mask(v, d, wide ? i->imm : (uint32_t)i->imm);
		return true;
	case X86_OP_SHL:
	case X86_OP_SHR: {
		if (b->kind != OPND_IMM && b->kind != OPND_ONE)
			return false;
		unsigned n = (b->kind == OPND_ONE ? 1 : (unsigned)i->imm) & (wide ? 63 : 31);
		struct val x = wide ? *d : verify_val_mask(v, d, 0xffffffff);
		x = verify_val_bits(&x);
		bool left = i->op == X86_OP_SHL;
		x.mask = left ? x.mask << n : x.mask >> n;
		x.shift += left ? -(int)n : (int)n;
		if (x.shift > 63 || x.shift < -63)
			return false;
		*d = verify_val_mask(v, &x, wide ? ~0ull : 0xffffffff);
		return true;
	}
	default:
		return false;
	}
}

/* Registers that are written though no operand of the table says so. */
static unsigned implied_writes(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_PCMPESTRI:
	case X86_OP_PCMPISTRI:
	case X86_OP_VPCMPESTRI:
	case X86_OP_VPCMPISTRI:
		return 1u << RCX;
	case X86_OP_LAHF:
		return 1u << RAX;
	case X86_OP_MUL:
	case X86_OP_IMUL:
	case X86_OP_CMPXCHG:
	case X86_OP_CMPXCHG8B:
	case X86_OP_CMPXCHG16B:
	case X86_OP_CBW:
	case X86_OP_CWD:
		return 1u << RAX | 1u << RDX;
	default:
		return 0;
	}
}

static unsigned register_of(const struct x86_opnd *o) {
	return o->reg & X86_REG_HIGH ? o->reg & 3 : o->reg;
}

unsigned verify_written(const struct x86_insn *i) {
	unsigned regs = implied_writes(i);
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].access & OPND_W)
			regs |= 1u << register_of(&i->opnd[n]);
	return regs;
}

void verify_clobber(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	unsigned implied = implied_writes(i);
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].access & OPND_W)
			v->reg[register_of(&i->opnd[n])] = verify_val_fresh(v, i->opnd[n].size);
	for (unsigned n = 0; n < 16; n++)
		if (implied & 1u << n)
			v->reg[n] = val_of(verify_lin_fresh(v));
}

/* Whether the bit that BT or its like tests lies in the operand: its offset is a constant or has
 * been masked. */
static bool bit_within(const struct verifier *v) {
	const struct x86_opnd *m = &v->insn.opnd[0], *bit = &v->insn.opnd[1];
	if (bit->kind == OPND_IMM)
		return true;
	const struct val *x = &v->reg[bit->reg & 15];
	return bit->kind == OPND_GPR && x->bits && !(x->mask & ~(8ull * m->size - 1));
}

bool verify_plain(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	const struct x86_form *f = &x86_forms[i->form];
	if (!listed(i))
		return verify_refuse(v, "instruction that must not be emitted");
	if (names_rsp(i))
		return verify_refuse(v, "names the host's stack pointer");
	if (i->seg_prefix != X86_REG_NONE && i->seg_prefix != SEG_GS)
		return verify_refuse(v, "segment prefix");
	const struct x86_opnd *m = x86_memory_operand(i);
	if (m && f->attr & X86_ATTR_NOMEM_FAULT)
		m = NULL;
	if (i->op == X86_OP_LEA)
		m = NULL;
	if (!m && i->seg_prefix == SEG_GS)
		return verify_refuse(v, "segment prefix");
	enum pending before = v->pending;
	if (m) {
		if (!m->size || !(m->access & (OPND_R | OPND_W)))
			return verify_refuse(v, "memory operand of unknown size");
		if (i->addrsize != 8 || i->base == X86_REG_RIP)
			return verify_refuse(v, "address that is not of the allowed kinds");
		if ((i->op == X86_OP_BT || i->op == X86_OP_BTS || i->op == X86_OP_BTR ||
			 i->op == X86_OP_BTC) &&
			!bit_within(v))
			return verify_refuse(v, "bit string");
		if (i->seg_prefix == SEG_GS) {
			if (verify_tlb_compare(v) || verify_tlb_addend(v) || verify_slot_operand(v, m))
				return !v->why;
			if (!verify_word_access(v, m))
				return false;
		} else {
			if (!verify_guest_operand(v, m->size, m->access))
				return false;
			verify_clobber(v);
		}
	} else if (!modelled(v)) {
		verify_clobber(v);
	}
	v->pending = f->flags_written || f->flags_undefined ? PENDING_NONE : before;
	return !v->why;
}
