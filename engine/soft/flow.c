/* Near control flow: JMP, CALL, RET, Jcc, LOOP, SETcc, CMOVcc. [SDM2] */
#include "engine/soft/alu.h"

static bool condition(uint64_t f, unsigned cond) {
	bool r;
	switch (cond >> 1) {
	case 0:
		r = f & RFLAGS_OF;
		break;
	case 1:
		r = f & RFLAGS_CF;
		break;
	case 2:
		r = f & RFLAGS_ZF;
		break;
	case 3:
		r = f & (RFLAGS_CF | RFLAGS_ZF);
		break;
	case 4:
		r = f & RFLAGS_SF;
		break;
	case 5:
		r = f & RFLAGS_PF;
		break;
	case 6:
		r = !(f & RFLAGS_SF) != !(f & RFLAGS_OF);
		break;
	default:
		r = (f & RFLAGS_ZF) || !(f & RFLAGS_SF) != !(f & RFLAGS_OF);
	}
	return r ^ (cond & 1);
}

static void branch_relative(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_branch(c, (c->next_rip + i->imm) & size_mask(i->opsize));
}

void op_jcc(struct soft_vcpu *c, const struct x86_insn *i) {
	if (condition(c->s->rflags, i->cond))
		branch_relative(c, i);
}

void op_setcc(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_put(c, i, 0, condition(c->s->rflags, i->cond));
}

void op_cmovcc(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t val = fast_get(c, i, 1); /* read, and may fault, in either case */
	if (!condition(c->s->rflags, i->cond))
		val = fast_get(c, i, 0); /* a 32-bit register's upper half is cleared all the same */
	fast_put(c, i, 0, val);
}

void op_jmp(struct soft_vcpu *c, const struct x86_insn *i) {
	if (i->opnd[0].kind == OPND_REL)
		branch_relative(c, i);
	else
		soft_branch(c, fast_get(c, i, 0));
}

void op_call(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t ret = c->next_rip;
	if (i->opnd[0].kind == OPND_REL)
		branch_relative(c, i);
	else
		soft_branch(c, fast_get(c, i, 0));
	soft_push(c, i->opsize, ret);
}

void op_ret(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t sp = soft_sp(c);
	uint64_t rip = fast_read(c, SEG_SS, sp, i->opsize);
	soft_branch(c, rip);
	soft_set_sp(c, sp + i->opsize + (i->nopnds ? (uint16_t)i->imm : 0));
}

/* Decrements the counter register of the address size; true while it is not 0. */
static bool count_down(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t n = (fast_reg(c, RCX, i->addrsize) - 1) & size_mask(i->addrsize);
	fast_set_reg(c, RCX, i->addrsize, n);
	return n != 0;
}

static void loop_while(struct soft_vcpu *c, const struct x86_insn *i, bool cond) {
	uint64_t rcx = c->s->gpr[RCX];
	if (count_down(c, i) && cond) {
		uint64_t after = c->s->gpr[RCX];
		c->s->gpr[RCX] = rcx; /* a branch that faults leaves the counter */
		branch_relative(c, i);
		c->s->gpr[RCX] = after;
	}
}

void op_loop(struct soft_vcpu *c, const struct x86_insn *i) {
	loop_while(c, i, true);
}

void op_loope(struct soft_vcpu *c, const struct x86_insn *i) {
	loop_while(c, i, c->s->rflags & RFLAGS_ZF);
}

void op_loopne(struct soft_vcpu *c, const struct x86_insn *i) {
	loop_while(c, i, !(c->s->rflags & RFLAGS_ZF));
}

void op_jcxz(struct soft_vcpu *c, const struct x86_insn *i) {
	if (!fast_reg(c, RCX, i->addrsize))
		branch_relative(c, i);
}
