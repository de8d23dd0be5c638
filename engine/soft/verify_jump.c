/* Proves of a jump, call or return that it goes to an instruction of the block, to a thunk that
 * takes such jumps and gets what it expects in R11, or through the tables of jump targets. */
#include "engine/soft/verify_int.h"

struct region *verify_inside(struct verifier *v, const uint8_t *target, size_t *off) {
	for (unsigned n = 0; n < 2; n++) {
		struct region *r = &v->region[n];
		if (target >= r->at && target < r->at + r->len) {
			*off = (size_t)(target - r->at);
			return r;
		}
	}
	return NULL;
}

/* Through a table of jump targets: jmp or call gs:[r11 + jumps], gs:[far slot]. */
static bool through_table(const struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	uint32_t user = v->b->key & JIT_KEY_USER ? 1 : 0;
	uint32_t jumps = JIT(jumps) + user * 8 * JIT_JUMPS, far = JIT(far);
	if (i->seg_prefix != SEG_GS || i->addrsize != 8 || i->base == X86_REG_RIP)
		return false;
	if (i->base == X86_REG_NONE && i->index == X86_REG_NONE) {
		uint64_t n = ((uint64_t)i->disp - far) / 8;
		return (uint64_t)i->disp >= far && !(((uint64_t)i->disp - far) & 7) && n < v->j->nfar &&
			   v->j->far_user[n] == user;
	}
	if (i->base >= 16 || i->index != X86_REG_NONE || (uint64_t)i->disp != jumps)
		return false;
	const struct val *x = &v->reg[i->base];
	return x->bits && x->shift == 0 &&
		   !(x->mask & ~verify_lin_zeros(&x->of) & ~(uint64_t)(8 * (JIT_JUMPS - 1)));
}

static bool const_in(const struct verifier *v, uint64_t *c) {
	*c = v->reg[SCRATCH].lin.c;
	return v->reg[SCRATCH].lin.n == 0;
}

static bool in_guest_code(const struct verifier *v, uint64_t rip) {
	uint64_t d = rip - v->b->rip;
	return (v->b->key & JIT_KEY_LEGACY ? (uint32_t)d : d) < v->b->len;
}

static bool exit_argument(const struct verifier *v) {
	uint64_t c;
	if (!const_in(v, &c))
		return false;
	for (const struct jit_link *l = v->b->out; l; l = l->own_next)
		if (c == (uintptr_t)l)
			return true;
	return c <= JIT_EXIT_POLL;
}

static bool call_argument(const struct verifier *v) {
	uint64_t c;
	if (!const_in(v, &c) || c & 15 || c < (uintptr_t)v->j->arena ||
		c + sizeof(struct jit_op) > (uintptr_t)v->j->arena_at)
		return false;
	const struct jit_op *op = (const struct jit_op *)(uintptr_t)c;
	return op->handler && in_guest_code(v, op->rip) &&
		   (uint16_t)(op->rip - v->b->rip) + op->insn.len <= v->b->len;
}

int verify_slot_turn(const struct verifier *v, const uint8_t *target) {
	unsigned user = v->b->key & JIT_KEY_USER ? 1 : 0;
	for (int n = 0; n < 2 * JIT_SLOT_CLASSES; n++)
		if (target == v->j->slot_turn[user][n & 1][n >> 1])
			return n;
	return -1;
}

/* A jump that leaves the block: to thunks that take this kind of it. */
static bool leaves(struct verifier *v, const uint8_t *target) {
	const struct jit *j = v->j;
	unsigned op = v->insn.op;
	uint64_t c;
	unsigned user = v->b->key & JIT_KEY_USER ? 1 : 0;
	if ((target == j->miss[user] || target == j->ret_miss[user]) && op == X86_OP_JMP)
		return true;
	if (op == X86_OP_JMP && (target == j->exit_code || target == j->exit_saved))
		return exit_argument(v) || verify_refuse(v, "leaves with a wrong R11");
	if (op == X86_OP_CALL && (target == j->call || target == j->call_saved))
		return call_argument(v) || verify_refuse(v, "calls a handler with a wrong R11");
	if (op == X86_OP_CALL && target == j->step_saved)
		return (const_in(v, &c) && in_guest_code(v, c)) ||
			   verify_refuse(v, "steps with a wrong R11");
	for (unsigned n = 0; op == X86_OP_CALL && n < 2 * JIT_SIZES; n++)
		if (target == j->fill[n / JIT_SIZES][n % JIT_SIZES])
			return (const_in(v, &c) && in_guest_code(v, c)) ||
				   verify_refuse(v, "fills with a wrong R11");
	unsigned write, size;
	if (op == X86_OP_CALL && target == j->slot_fill)
		return (const_in(v, &c) && c <= UINT32_MAX &&
				jit_slot_valid((uint32_t)c, user, &write, &size)) ||
			   verify_refuse(v, "fills a slot that is none");
	int turn = op == X86_OP_CALL ? verify_slot_turn(v, target) : -1;
	if (turn >= 0)
		return (const_in(v, &c) && c <= UINT32_MAX &&
				jit_slot_valid((uint32_t)c, user, &write, &size) && write == (turn & 1) &&
				size == 16u << 2 * (turn >> 1)) ||
			   verify_refuse(v, "fills a slot that is none of the kind");
	for (unsigned n = 0; op == X86_OP_CALL && n < JIT_QUICKS; n++)
		if (target == j->quick[n])
			return true;
	return verify_refuse(v, "jump to somewhere unknown");
}

/* The instruction is one of the block's patched jumps. */
static bool is_link(const struct verifier *v) {
	for (const struct jit_link *l = v->b->out; l; l = l->own_next)
		if (l->patch == v->pc + v->insn.imm_off)
			return true;
	return false;
}

bool verify_branch(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	size_t off;
	if (i->opsize == 2 || i->prefix & X86_PFX_OPSIZE ||
		(i->prefix & X86_PFX_ADDRSIZE && i->op != X86_OP_JCXZ))
		return verify_refuse(v, "odd jump");
	if (i->op == X86_OP_RET) {
		if (i->len != 1)
			return verify_refuse(v, "odd return");
		verify_forget(v);
		return true;
	}
	if (!insn_is_relative(i)) {
		if ((i->op != X86_OP_JMP && i->op != X86_OP_CALL) || !x86_memory_operand(i) ||
			!through_table(v))
			return verify_refuse(v, "indirect jump");
		verify_forget(v);
		return true;
	}
	const uint8_t *target = v->pc + i->len + (int64_t)i->imm;
	if (verify_inside(v, target, &off)) { /* that it is a beginning is known */
		if (i->op == X86_OP_CALL && !is_link(v))
			return verify_refuse(v, "call within the block");
	} else if (!leaves(v, target + v->j->exec)) {
		return false;
	}
	if (i->op == X86_OP_CALL)
		verify_forget(v);
	if (i->op != X86_OP_JCC)
		return true;							   /* behind a JMP there is nothing, or a label */
	if (i->cond == 5 && v->pending == PENDING_TLB) /* NE was not taken: equal */
		v->hit = v->compared;
	if (i->cond == 3 && v->pending == PENDING_SLOT) /* AE was not taken: below */
		verify_slot_passed(v);
	return true;
}
