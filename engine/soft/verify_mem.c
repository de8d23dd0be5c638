/* Proves of the other memory operands that a check allows them: the rules CMP, HIT and SLOT
 * (verify.c says what they are), and what an address must be made of after one of them. */
#include "engine/soft/verify_int.h"

struct lin verify_address(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	struct lin a = lin_constant((uint64_t)i->disp);
	if (i->base < 16)
		a = verify_lin_add(v, &a, &v->reg[i->base].lin, 1);
	if (i->index < 16)
		a = verify_lin_add(v, &a, &v->reg[i->index].lin, 1ull << i->scale);
	return a;
}

/* ---- the TLB ----------------------------------------------------------------------------- */

/* A GS-relative operand within one of the two tables of 16-byte entries. 0 or 8: which half;
 * negative: it is not. */
static int table_half(const struct verifier *v, uint32_t table, unsigned entries) {
	const struct x86_insn *i = &v->insn;
	unsigned r = i->base < 16 ? i->base : i->index;
	if (r >= 16 || (i->base < 16 && i->index < 16) || (i->index < 16 && i->scale) ||
		i->addrsize != 8)
		return -1;
	const struct val *x = &v->reg[r];
	if (!x->bits || x->mask & ~((uint64_t)(entries - 1) << 4))
		return -1;
	uint64_t half = (uint64_t)i->disp - table;
	return half == 0 || half == 8 ? (int)half : -1;
}

static const struct val *table_index(const struct verifier *v) {
	return &v->reg[v->insn.base < 16 ? v->insn.base : v->insn.index];
}

static uint32_t tlb_table(const struct verifier *v, bool write) {
	bool user = v->b->key & JIT_KEY_USER;
	return JIT(tlb) + (uint32_t)((user * 2u + write) * sizeof(struct jit_tlb_entry) * JIT_TLB);
}

/* The compare that begins a guarded access. */
bool verify_tlb_compare(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	bool reg_first = i->op == X86_OP_CMP && i->nopnds == 2 && i->opnd[0].kind == OPND_GPR &&
					 i->opnd[0].size == 8 && i->opnd[1].kind == OPND_MEM;
	if (!reg_first)
		return false;
	for (unsigned write = 0; write < 2; write++) {
		if (table_half(v, tlb_table(v, write), JIT_TLB) != offsetof(struct jit_tlb_entry, tag))
			continue;
		const struct val *x = &v->reg[i->opnd[0].reg], *y = table_index(v);
		v->pending = PENDING_NONE; /* a comparison that proves nothing harms nothing */
		uint64_t d;
		if (x->bits && x->shift == 0 && x->mask == ~(uint64_t)PAGE_MASK && y->bits &&
			y->shift == 8 && y->mask == (JIT_TLB - 1) << 4 &&
			verify_lin_diff(v, &x->of, &y->of, &d) && d + PAGE_MASK <= 2 * PAGE_MASK) {
			int64_t s = (int64_t)d;
			v->pending = PENDING_TLB;
			v->compared = (struct probe){true, write, *y, s < 0 ? s : 0, s > 0 ? s : 0};
		}
		return true;
	}
	return false;
}

/* MOV reg, addend. */
bool verify_tlb_addend(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	if (i->op != X86_OP_MOV || i->opnd[0].kind != OPND_GPR || i->opnd[0].size != 8)
		return false;
	for (unsigned write = 0; write < 2; write++) {
		if (table_half(v, tlb_table(v, write), JIT_TLB) != offsetof(struct jit_tlb_entry, addend))
			continue;
		struct val index = *table_index(v), *to = &v->reg[i->opnd[0].reg];
		*to = val_of(verify_lin_fresh(v));
		if (v->hit.on && v->hit.write == write && verify_val_same(v, &index, &v->hit.index))
			v->atoms[to->lin.atom[0]] = (struct atom){
				.addend = true, .write = write, .y = index.of, .lo = v->hit.lo, .hi = v->hit.hi};
		return true;
	}
	return false;
}

/* ---- slots of the second tier ---------------------------------------------------------------- */

/* A GS-relative operand in a field of a slot of this mode; *slot is the slot, *field where in it.
 */
static bool in_slot(const struct verifier *v, uint32_t *slot, unsigned *field, unsigned *write,
					unsigned *size) {
	const struct x86_insn *i = &v->insn;
	if (i->base != X86_REG_NONE || i->index != X86_REG_NONE || (uint64_t)i->disp < JIT(slots) ||
		(uint64_t)i->disp >= JIT(slots) + sizeof(((struct jit_vcpu *)0)->slots))
		return false;
	uint32_t off = (uint32_t)i->disp - JIT(slots);
	*field = off % sizeof(struct jit_slot);
	*slot = off - *field;
	return jit_slot_valid(*slot, v->b->key & JIT_KEY_USER ? 1 : 0, write, size);
}

/* sub reg, lo: the register holds X - lo. */
static void subtract_lo(struct verifier *v, uint32_t slot) {
	struct val *d = &v->reg[v->insn.opnd[0].reg];
	struct lin lo = verify_lin_fresh(v);
	v->atoms[lo.atom[0]].lo_of = true;
	v->atoms[lo.atom[0]].slot = slot;
	*d = val_of(verify_lin_add(v, &d->lin, &lo, ~0ull));
}

/* cmp reg, lim */
static void compare_lim(struct verifier *v, uint32_t slot) {
	struct lin x = v->reg[v->insn.opnd[0].reg].lin;
	v->pending = PENDING_NONE;
	for (unsigned n = 0; n < x.n; n++) {
		const struct atom *a = &v->atoms[x.atom[n]];
		if (!a->lo_of || a->slot != slot || x.coef[n] != ~0ull)
			continue;
		x.n--;
		x.atom[n] = x.atom[x.n];
		x.coef[n] = x.coef[x.n];
		v->pending = PENDING_SLOT;
		v->slot_compared = (struct passed){.slot = slot,
										   .x = x,
										   .reg = v->insn.opnd[0].reg,
										   .dist = v->reg[v->insn.opnd[0].reg].lin};
		return;
	}
}

/* More than one check may look into one slot: as nothing changes slots, all of them hold. */
void verify_slot_passed(struct verifier *v) {
	if (v->npassed == PASSED)
		verify_refuse(v, "too many checks");
	else {
		struct passed *p = &v->passed[v->npassed++];
		uint64_t d;
		*p = v->slot_compared;
		p->pc = v->pc;
		p->intact = verify_lin_diff(v, &v->reg[p->reg].lin, &p->dist, &d) && !d;
	}
}

/* mov reg, addend */
static void load_slot_addend(struct verifier *v, uint32_t slot, unsigned write, unsigned size) {
	struct val *to = &v->reg[v->insn.opnd[0].reg];
	*to = val_of(verify_lin_fresh(v));
	v->atoms[to->lin.atom[0]] = (struct atom){
		.addend = true, .write = write, .of_slot = true, .slot = slot, .hi = (int64_t)size - 1};
}

/* One of the four things that code does with a slot. */
bool verify_slot_operand(struct verifier *v, const struct x86_opnd *m) {
	const struct x86_insn *i = &v->insn;
	uint32_t slot;
	unsigned field, write, size;
	if (!in_slot(v, &slot, &field, &write, &size))
		return false;
	bool to_reg = i->nopnds == 2 && i->opnd[0].kind == OPND_GPR && i->opnd[0].size == 8 &&
				  i->opnd[1].kind == OPND_MEM;
	if (to_reg && i->op == X86_OP_SUB && field == offsetof(struct jit_slot, lo)) {
		subtract_lo(v, slot);
		v->pending = PENDING_NONE;
	} else if (to_reg && i->op == X86_OP_CMP && field == offsetof(struct jit_slot, lim)) {
		compare_lim(v, slot);
	} else if (to_reg && i->op == X86_OP_MOV && field == offsetof(struct jit_slot, addend)) {
		load_slot_addend(v, slot, write, size);
	} else if (i->op == X86_OP_SUB && m->size == 4 && i->opnd[1].kind == OPND_IMM &&
			   field == offsetof(struct jit_slot, credit)) {
		v->pending = PENDING_NONE;
	} else {
		verify_refuse(v, "odd use of a slot");
	}
	return true;
}

/* ---- operands of the guest ---------------------------------------------------------------- */

/* The distance of address a from one that the addend x is known to be for, to *d. */
static bool distance(struct verifier *v, const struct atom *x, const struct lin *a, unsigned size,
					 uint64_t *d) {
	if (!x->of_slot)
		return verify_lin_diff(v, a, &x->y, d);
	bool any = false;
	for (unsigned n = 0; n < v->npassed; n++) {
		uint64_t here;
		if (v->passed[n].slot != x->slot || !verify_lin_diff(v, a, &v->passed[n].x, &here))
			continue;
		if (!any || ((int64_t)here >= x->lo && (int64_t)here + (int64_t)size - 1 <= x->hi))
			*d = here;
		any = true;
	}
	return any;
}

/* [address, address + size) was checked. */
bool verify_guest_operand(struct verifier *v, unsigned size, unsigned access) {
	struct lin a = verify_address(v);
	uint64_t at = a.c - (uintptr_t)v->b->host;
	if (!a.n && v->b->bytes && !(access & OPND_W) && at < v->b->len && size <= v->b->len - at)
		return true; /* the guest code that the block was made from, to compare it */
	for (unsigned n = 0; n < a.n; n++) {
		const struct atom *x = &v->atoms[a.atom[n]];
		if (!x->addend || a.coef[n] != 1)
			continue;
		struct lin rest = a;
		rest.n--;
		rest.atom[n] = rest.atom[rest.n];
		rest.coef[n] = rest.coef[rest.n];
		uint64_t d;
		if (!distance(v, x, &rest, size, &d))
			continue;
		int64_t s = (int64_t)d;
		if (s < x->lo || s > x->hi || s + (int64_t)size - 1 > x->hi)
			return verify_refuse(v, "memory operand larger than what was checked");
		if (access & OPND_W && !x->write)
			return verify_refuse(v, "write after a check for reading");
		return true;
	}
	return verify_refuse(v, "memory operand without a check");
}
