/* Operands, the stack and near branches: the out-of-line half of fast.h. */
#include "engine/soft/fast.h"

uint64_t soft_ea(struct soft_vcpu *c, const struct x86_insn *i) {
	return fast_ea(c, i);
}

uint64_t soft_reg(const struct soft_vcpu *c, unsigned reg, unsigned size) {
	return fast_reg(c, reg, size);
}

void soft_set_reg(struct soft_vcpu *c, unsigned reg, unsigned size, uint64_t val) {
	fast_set_reg(c, reg, size, val);
}

uint64_t soft_get(struct soft_vcpu *c, const struct x86_insn *i, unsigned n) {
	const struct x86_opnd *o = &i->opnd[n];
	switch (o->kind) {
	case OPND_GPR:
		return fast_reg(c, o->reg, o->size);
	case OPND_MEM:
		return fast_read(c, i->seg, fast_ea(c, i), o->size);
	case OPND_IMM:
	case OPND_REL:
	case OPND_FAR:
		return i->imm;
	case OPND_IMM2:
		return i->imm2;
	case OPND_ONE:
		return 1;
	case OPND_SEG:
		return c->s->seg[o->reg].sel;
	default:
		soft_ud(c);
	}
}

void soft_put(struct soft_vcpu *c, const struct x86_insn *i, unsigned n, uint64_t val) {
	fast_put(c, i, n, val);
}

static uint64_t stack_mask(const struct soft_vcpu *c) {
	return size_mask(c->stack_size);
}

uint64_t soft_sp(const struct soft_vcpu *c) {
	return c->s->gpr[RSP] & stack_mask(c);
}

void soft_set_sp(struct soft_vcpu *c, uint64_t sp) {
	uint64_t mask = stack_mask(c);
	c->s->gpr[RSP] = (c->s->gpr[RSP] & ~mask) | (sp & mask);
}

void soft_push(struct soft_vcpu *c, unsigned size, uint64_t val) {
	uint64_t sp = (c->s->gpr[RSP] - size) & stack_mask(c);
	fast_write(c, SEG_SS, sp, size, val);
	soft_set_sp(c, sp);
}

uint64_t soft_pop(struct soft_vcpu *c, unsigned size) {
	uint64_t sp = soft_sp(c);
	uint64_t val = fast_read(c, SEG_SS, sp, size);
	soft_set_sp(c, sp + size);
	return val;
}

void soft_branch(struct soft_vcpu *c, uint64_t rip) {
	if (c->mode == X86_MODE_64) {
		if (unlikely(!soft_canonical(rip)))
			soft_gp(c, 0);
	} else if (unlikely(rip > c->s->seg[SEG_CS].limit)) {
		soft_gp(c, 0);
	}
	c->next_rip = rip;
}
