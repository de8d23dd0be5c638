/* The second tier's memory accesses: many of a block's accesses lie at constant distances from one
 * register value. Such a group is checked once, as a whole, against a slot of the vCPU:
 *
 *     lea  r10, [lowest byte]; sub r10, gs:[slot.lo]; cmp r10, gs:[slot.lim]; jae elsewhere
 *
 * after which each access only adds gs:[slot.addend]. That addend does not depend on the address,
 * so the CPU predicts the branch and goes on: the check costs no latency. A slot holds a run of
 * pages that lie in host memory as they lie in guest memory (slots.c).
 *
 * `elsewhere` is the first tier's block at the same guest instruction: exact, access by access. So
 * a check may be made earlier than its access, and for more bytes, as long as nothing has been
 * executed in between that cannot be executed again: it is made where no flags are needed, before
 * the instruction that makes them.
 *
 * Where slots are missed too often, because the guest's pages lie scattered, jit_slot_bad() knows:
 * such a group is checked by a probe of the TLB, as in the first tier, but once for all of it.
 *
 * In 32-bit code an address may wrap around. Where it is computed in 32 bits (tx_legacy.c) its
 * group has accesses to this very address only; and adding a constant to a register makes a new
 * value, but for what PUSH and POP do to RSP, whose accesses show that it does not wrap.
 *
 * Register values have version numbers. Adding a constant keeps the version and changes `delta`; a
 * handler, the code behind a call, and every label begin new ones, as slots may change there. But a
 * loop without calls changes no slots, and keeps the registers that it does not write: groups that
 * depend on no others are checked once, before it. */
#include "engine/soft/tx.h"

#define REG_FS 16
#define REG_GS 17
#define SPAN_MAX 256

struct scan {
	struct tx *t;
	uint32_t next;
	uint32_t ver[TX_REGS];
	int32_t delta[TX_REGS];
	uint32_t era; /* stands for the constant address */
};

/* The loop from a label to the last branch back to it. */
struct loop {
	int last;		  /* -1: none, or one with calls or another way in */
	uint32_t written; /* registers, as the verifier sees it, too */
};

static void renew(struct scan *s, unsigned reg) {
	s->ver[reg] = ++s->next;
	s->delta[reg] = 0;
}

static void renew_all(struct scan *s) {
	for (unsigned r = 0; r < TX_REGS; r++)
		renew(s, r);
	s->era = ++s->next;
}

/* ---- what instructions do to registers ------------------------------------------------------ */

static void copy_reg(struct scan *s, unsigned to, unsigned from, int64_t add) {
	int64_t delta = s->delta[from] + add;
	if (delta != (int32_t)delta) {
		renew(s, to);
		return;
	}
	s->ver[to] = s->ver[from];
	s->delta[to] = (int32_t)delta;
}

/* d = d + constant, d = another register + constant. */
static bool adds_constant(struct scan *s, const struct x86_insn *i) {
	const struct x86_opnd *a = &i->opnd[0], *b = &i->opnd[1];
	bool legacy = tx_legacy(s->t);
	if (!i->nopnds || a->kind != OPND_GPR || a->size != (legacy ? 4 : 8) ||
		(legacy && i->op != X86_OP_MOV))
		return false;
	switch (i->op) {
	case X86_OP_INC:
	case X86_OP_DEC:
		copy_reg(s, a->reg, a->reg, i->op == X86_OP_INC ? 1 : -1);
		return true;
	case X86_OP_ADD:
	case X86_OP_SUB:
		if (b->kind != OPND_IMM)
			return false;
		copy_reg(s, a->reg, a->reg, i->op == X86_OP_ADD ? (int64_t)i->imm : -(int64_t)i->imm);
		return true;
	case X86_OP_MOV:
		if (b->kind != OPND_GPR)
			return false;
		copy_reg(s, a->reg, b->reg, 0);
		return true;
	case X86_OP_LEA:
		if (i->base >= 16 || i->index < 16 || i->addrsize != 8)
			return false;
		copy_reg(s, a->reg, i->base, i->disp);
		return true;
	default:
		return false;
	}
}

static void written_registers(struct scan *s, const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].access & OPND_W)
			renew(s, i->opnd[n].reg & X86_REG_HIGH ? i->opnd[n].reg & 3 : i->opnd[n].reg);
	/* Operands that the table does not list. */
	switch (i->op) {
	case X86_OP_MUL:
	case X86_OP_IMUL:
	case X86_OP_CMPXCHG:
	case X86_OP_CMPXCHG8B:
	case X86_OP_CMPXCHG16B:
	case X86_OP_CBW:
	case X86_OP_CWD:
	case X86_OP_LAHF:
		renew(s, RAX);
		renew(s, RDX);
		break;
	case X86_OP_PCMPESTRI:
	case X86_OP_PCMPISTRI:
	case X86_OP_VPCMPESTRI:
	case X86_OP_VPCMPISTRI:
		renew(s, RCX);
		break;
	default:
		break;
	}
}

static void execute(struct scan *s, unsigned n) {
	const struct tx *t = s->t;
	const struct x86_insn *i = &t->insn[n];
	if (t->fact[n].call || t->fact[n].quick >= 0) {
		renew_all(s);
		return;
	}
	switch (i->op) {
	case X86_OP_PUSH:
	case X86_OP_PUSH_SEG:
		copy_reg(s, RSP, RSP, -(int64_t)i->opsize);
		break;
	case X86_OP_POP:
		copy_reg(s, RSP, RSP, i->opsize);
		renew(s, i->opnd[0].reg);
		break;
	case X86_OP_LEAVE:
		copy_reg(s, RSP, RBP, i->opsize);
		renew(s, RBP);
		break;
	case X86_OP_CALL:
		renew_all(s);
		break;
	case X86_OP_MOV_SEG:
		if (i->opnd[0].kind == OPND_GPR)
			renew(s, i->opnd[0].reg);
		break;
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
		renew(s, RCX);
		break;
	case X86_OP_LODS:
	case X86_OP_STOS:
	case X86_OP_SCAS:
	case X86_OP_CMPS:
	case X86_OP_MOVS: /* upwards, and not where addresses wrap around: tx_string.c */
		for (unsigned r = RSI; r <= RDI; r++)
			if (tx_string_uses(i, r))
				copy_reg(s, r, r, i->opsize);
		if (i->op == X86_OP_LODS)
			renew(s, RAX);
		break;
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
	case X86_OP_JCXZ:
	case X86_OP_JCC:
	case X86_OP_JMP:
	case X86_OP_RET:
		break;
	default:
		if (!adds_constant(s, i))
			written_registers(s, i);
	}
}

/* ---- loops ---------------------------------------------------------------------------------- */

static bool calls(const struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	return t->fact[n].call || i->op == X86_OP_CALL || t->fact[n].quick >= 0;
}

static struct loop find_loop(const struct scan *s, unsigned head) {
	const struct tx *t = s->t;
	struct loop l = {-1, 1u << RAX | 1u << RCX}; /* flags are put aside and polls made with these */
	int last = -1;
	for (unsigned n = head; n < t->n; n++)
		if (t->target[n] == (int)head)
			last = (int)n;
	for (int n = 0; n < (int)t->n; n++)
		if ((n < (int)head || n > last) && t->target[n] > (int)head && t->target[n] <= last)
			return l;
	struct scan w = *s;
	for (int n = (int)head; n <= last; n++) {
		const struct x86_insn *i = &t->insn[n];
		if (calls(t, (unsigned)n) || t->j->off & JIT_OFF_LOOP)
			return l;
		struct scan before = w;
		execute(&w, (unsigned)n);
		for (unsigned r = 0; r < TX_REGS; r++)
			if (w.ver[r] != before.ver[r] || w.delta[r] != before.delta[r])
				l.written |= 1u << r;
		for (unsigned k = 0; k < i->nopnds; k++)
			if (i->opnd[k].kind == OPND_GPR && i->opnd[k].reg & X86_REG_HIGH)
				l.written |= 1u << (i->opnd[k].reg & 3);
	}
	l.last = last;
	return l;
}

/* Whether the group's address is the same all through the loop. */
static bool invariant(const struct tx_group *g, const struct loop *l) {
	uint32_t reads = (g->base == NOREG ? 0 : 1u << g->base) |
					 (g->index == NOREG ? 0 : 1u << g->index) |
					 (g->seg == NOREG ? 0 : 1u << (g->seg == SEG_FS ? REG_FS : REG_GS));
	return !(reads & l->written);
}

/* ---- groups -----------------------------------------------------------------------------------
 */

static bool same_root(const struct tx_group *a, const struct tx_group *b) {
	return a->base_ver == b->base_ver && a->index_ver == b->index_ver && a->scale == b->scale &&
		   a->seg_ver == b->seg_ver;
}

/* Joins the access [off, off + size) from g's root to a group; the group's number, or -1. */
static int8_t join(struct tx *t, struct tx_group *g, int64_t off, unsigned size, bool write) {
	for (unsigned k = 0; k < t->ngroups; k++) {
		struct tx_group *o = &t->group[k];
		int64_t min = MIN(o->min, off), max = MAX(o->max, off + (int64_t)size);
		if (!same_root(o, g) || max - min > SPAN_MAX || o->exact != g->exact ||
			(o->exact && off != o->min))
			continue;
		if (write && !o->write && jit_slot_apart(t->j, t->rip[o->first])) {
			g->late = true;
			continue;
		}
		o->min = min;
		o->max = max;
		o->write |= write;
		o->naccesses++;
		return (int8_t)k;
	}
	if (t->ngroups == TX_GROUPS)
		return -1;
	g->min = off;
	g->max = off + (int64_t)size;
	g->write = write;
	g->naccesses = 1;
	t->group[t->ngroups] = *g;
	return (int8_t)t->ngroups++;
}

/* The memory operand that a group's check can be for; NULL: there is none. What a bit string
 * accesses lies elsewhere, and it has a check of its own. */
static const struct x86_opnd *checked_operand(const struct x86_insn *i) {
	const struct x86_opnd *o = x86_memory_operand(i);
	if (!o || !o->size || x86_forms[i->form].attr & X86_ATTR_NOMEM_FAULT || i->op == X86_OP_LEA ||
		i->op == X86_OP_NOP || i->op == X86_OP_PREFETCH || tx_is_bit_string(i))
		return NULL;
	return o;
}

static int8_t operand_group(struct scan *s, unsigned n) {
	struct tx *t = s->t;
	const struct x86_insn *i = &t->insn[n];
	const struct x86_opnd *o = checked_operand(i);
	struct tx_group g = {.base = NOREG, .index = NOREG, .seg = NOREG, .first = n};
	int64_t off;
	if (!o || o->size > 64)
		return -1;
	g.exact = tx_legacy(t) && !tx_legacy_plain(t, i);
	if (tx_is_const_ea(i)) {
		off = (int64_t)tx_const_ea(i, t->rip[n]);
		if (tx_legacy(t))
			off = g.exact ? (int32_t)off : (int64_t)(uint32_t)off;
		g.base_ver = s->era;
	} else {
		off = i->disp;
		if (i->base < 16) {
			g.base = i->base;
			g.base_ver = s->ver[i->base];
			off += s->delta[i->base];
		}
		if (i->index < 16) {
			g.index = i->index;
			g.index_ver = s->ver[i->index];
			g.scale = i->scale;
			off += (int64_t)((uint64_t)(int64_t)s->delta[i->index] << i->scale);
		}
	}
	if (i->seg >= SEG_FS || (tx_legacy(t) && i->seg == SEG_CS)) {
		g.seg = i->seg;
		g.seg_ver = s->ver[i->seg == SEG_FS ? REG_FS : REG_GS];
	}
	return join(t, &g, off, o->size, o->access & OPND_W);
}

static int8_t stack_group(struct scan *s, unsigned n) {
	const struct x86_insn *i = &s->t->insn[n];
	unsigned reg = RSP;
	int64_t off = 0;
	bool write = false;
	switch (i->op) {
	case X86_OP_PUSH:
	case X86_OP_PUSH_SEG:
	case X86_OP_CALL:
		off = -(int64_t)i->opsize;
		write = true;
		break;
	case X86_OP_POP:
	case X86_OP_RET:
		break;
	case X86_OP_LEAVE:
		reg = RBP;
		break;
	default:
		return -1;
	}
	struct tx_group g = {
		.base = reg, .index = NOREG, .seg = NOREG, .first = n, .base_ver = s->ver[reg]};
	return join(s->t, &g, off + s->delta[reg], i->opsize, write);
}

/* Of a string instruction's element at `reg`. */
static int8_t string_group(struct scan *s, unsigned n, unsigned reg) {
	const struct x86_insn *i = &s->t->insn[n];
	if (!tx_string_uses(i, reg))
		return -1;
	struct tx_group g = {
		.base = reg, .index = NOREG, .seg = NOREG, .first = n, .base_ver = s->ver[reg]};
	return join(s->t, &g, s->delta[reg], i->opsize, reg == RDI && tx_string_writes(i));
}

static void find_groups_of(struct scan *s, unsigned n) {
	int8_t *of = s->t->groups_of[n];
	of[0] = of[1] = -1;
	if (s->t->fact[n].call)
		return;
	if (s->t->fact[n].string) {
		of[0] = string_group(s, n, RSI);
		of[1] = string_group(s, n, RDI);
	} else {
		of[0] = operand_group(s, n);
		of[1] = stack_group(s, n);
	}
}

/* The constant to add to the registers of the group as they are before instruction n. */
static bool distance(const struct tx *t, const struct tx_group *g, unsigned n, int64_t *d) {
	*d = g->min;
	if (g->base != NOREG) {
		if (t->ver[n][g->base] != g->base_ver)
			return false;
		*d -= t->delta[n][g->base];
	}
	if (g->index != NOREG) {
		if (t->ver[n][g->index] != g->index_ver)
			return false;
		*d -= (int64_t)((uint64_t)(int64_t)t->delta[n][g->index] << g->scale);
	}
	if (g->seg != NOREG && t->ver[n][g->seg == SEG_FS ? REG_FS : REG_GS] != g->seg_ver)
		return false;
	return (g->base == NOREG && g->index == NOREG && g->seg == NOREG) || *d == (int32_t)*d;
}

/* Where to check: before a loop that does not change the address, else as late as possible, but
 * where no flags are needed. */
static bool place(struct tx *t, struct tx_group *g, unsigned era_start, const struct loop *loops,
				  int *held) {
	int64_t d;
	if (!distance(t, g, g->first, &d))
		return false;
	g->check_at = g->first;
	for (unsigned n = g->first + 1; !g->late && n-- > era_start && distance(t, g, n, &d);)
		if (!t->live[n]) {
			g->check_at = n;
			break;
		}
	g->held = -1;
	g->probe = jit_slot_bad(t->j, t->rip[g->first]) && g->max - g->min <= 128 &&
			   (g->naccesses == 1 || *held < JIT_HELD);
	if (g->probe) {
		if (g->naccesses == 1)
			g->check_at = g->first;
		else
			g->held = (*held)++;
		return true;
	}
	for (unsigned n = era_start; !g->late && !g->outside && n <= g->first; n++)
		if (t->label[n] && loops[n].last >= (int)g->first && invariant(g, &loops[n]) &&
			distance(t, g, n, &d)) {
			g->check_at = n;
			g->outside = true;
		}
	g->class = g->max - g->min <= 16 ? 0 : g->max - g->min <= 64 ? 1 : 2;
	g->slot = jit_slot_pick(t->j, t->b, t->rip[g->first], g->write, g->class,
							g->base == RSP && g->index == NOREG);
	return true;
}

/* Whether instruction n has an access that belongs to no group, though it has a check to make. */
static bool left_out(const struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	if (t->fact[n].call)
		return false;
	if (checked_operand(i) && t->groups_of[n][0] < 0)
		return true;
	switch (i->op) {
	case X86_OP_PUSH:
	case X86_OP_PUSH_SEG:
	case X86_OP_POP:
	case X86_OP_CALL:
	case X86_OP_RET:
	case X86_OP_LEAVE:
		return t->groups_of[n][1] < 0;
	case X86_OP_LODS:
	case X86_OP_STOS:
	case X86_OP_SCAS:
	case X86_OP_CMPS:
	case X86_OP_MOVS:
		return t->fact[n].quick < 0 && ((tx_string_uses(i, RSI) && t->groups_of[n][0] < 0) ||
										(tx_string_uses(i, RDI) && t->groups_of[n][1] < 0));
	default:
		return false;
	}
}

unsigned tx_find_groups(struct tx *t) {
	struct scan s;
	unsigned era_start[TX_INSNS], era = 0;
	struct loop loops[TX_INSNS];
	s.t = t;
	s.next = 0;
	renew_all(&s);
	t->ngroups = 0;
	for (unsigned n = 0; n < t->n; n++) {
		uint32_t before = s.era;
		if (t->label[n])
			loops[n] = find_loop(&s, n);
		if (t->label[n] && n && loops[n].last < 0)
			renew_all(&s);
		for (unsigned r = 0; r < TX_REGS && t->label[n] && n; r++)
			if (loops[n].written & 1u << r)
				renew(&s, r);
		memcpy(t->ver[n], s.ver, sizeof(s.ver));
		memcpy(t->delta[n], s.delta, sizeof(s.delta));
		if (s.era != before)
			era = n;
		era_start[n] = era;
		find_groups_of(&s, n);
		before = s.era;
		execute(&s, n);
		if (s.era != before)
			era = n + 1;
	}
	unsigned end = t->n;
	int held = 0;
	for (unsigned k = 0; k < t->ngroups; k++)
		if (!place(t, &t->group[k], era_start[t->group[k].first], loops, &held))
			end = MIN(end, t->group[k].first);
	for (unsigned k = 0; k < t->ngroups; k++)
		for (unsigned m = k + 1; m < t->ngroups; m++)
			if (t->group[m].slot == t->group[k].slot)
				t->group[k].shared = t->group[m].shared = true;
	for (unsigned n = 0; n < end; n++)
		if (left_out(t, n))
			end = n;
	return end;
}

/* ---- emission ---------------------------------------------------------------------------------
 */

/* T0 = linear address of the group's lowest byte; flags are lost. */
void tx_group_address(const struct tx *t, struct emit *e, const struct tx_group *g) {
	int64_t d;
	check(distance(t, g, g->check_at, &d));
	if (g->exact) {
		tx_legacy_group_address(t, e, g, d);
		return;
	}
	if (g->base == NOREG && g->index == NOREG) {
		e_mov_imm(e, T0, (uint64_t)d);
	} else {
		struct x86_insn i = {.base = g->base == NOREG ? X86_REG_NONE : (uint8_t)g->base,
							 .index = g->index == NOREG ? X86_REG_NONE : (uint8_t)g->index,
							 .scale = (uint8_t)g->scale,
							 .disp = d};
		struct emem m = tx_operand(e, &i);
		if (m.index == NOREG && !m.disp)
			e_mov(e, T0, m.base);
		else
			e_op_mem(e, true, 0x8d, T0, &m);
	}
	if (g->seg != NOREG)
		e_op_gs(e, true, 0x03, T0, GS_SEG(g->seg)); /* add */
}

/* Before that: a legacy segment may end below it. */
static void check_segment(struct tx *t, unsigned n, const struct tx_group *g) {
	int64_t d;
	check(distance(t, g, g->check_at, &d));
	if (g->exact && g->seg != NOREG)
		tx_legacy_group_reach(t, n, g, d);
}

static uint32_t slot_at(const struct tx_group *g, size_t field) {
	return GS_JIT(slots) + g->slot + (uint32_t)field;
}

/* T0 = addend for the whole group. */
static void probe_group(struct tx *t, unsigned n, const struct tx_group *g) {
	tx_forget_scratch(t);
	tx_flags_aside(t, n);
	check_segment(t, n, g);
	tx_group_address(t, &t->e, g);
	struct tx_cold *c = tx_add_cold(t);
	*c = (struct tx_cold){.rip = t->rip[n], .kind = COLD_PLAIN, .saved = t->saved && t->live[n]};
	tx_probe(t, (unsigned)(g->max - g->min), g->write, c);
}

void tx_check_groups(struct tx *t, unsigned n, bool outside) {
	struct emit *e = &t->e;
	for (unsigned k = 0; k < t->ngroups; k++) {
		const struct tx_group *g = &t->group[k];
		if (g->check_at != n || g->outside != outside || (g->probe && g->held < 0))
			continue;
		if (g->probe) {
			probe_group(t, n, g);
			e_store_gs(e, T0, GS_JIT(held[0]) + 8 * (uint32_t)g->held);
			t->kept = (int)k;
			continue;
		}
		tx_forget_scratch(t);
		tx_flags_aside(t, n);
		check_segment(t, n, g);
		tx_group_address(t, e, g);
		e_op_gs(e, true, 0x2b, T0, slot_at(g, offsetof(struct jit_slot, lo)));	/* sub */
		e_op_gs(e, true, 0x3b, T0, slot_at(g, offsetof(struct jit_slot, lim))); /* cmp */
		struct tx_cold *c = tx_add_cold(t);
		*c = (struct tx_cold){
			.rip = t->rip[n], .kind = COLD_SLOT, .group = g, .saved = t->saved && t->live[n]};
		e_bytes(e, 2, 0x830f); /* jae */
		c->from = e->at;
		e32(e, 0);
		c->retry = tx_here(t);
	}
}

bool tx_group_addend(struct tx *t, unsigned n, unsigned which) {
	if (t->groups_of[n][which] < 0)
		return false;
	int k = t->groups_of[n][which];
	const struct tx_group *g = &t->group[k];
	if (g->probe && g->held < 0) {
		probe_group(t, n, g);
		return true;
	}
	if (t->kept == k && !tx_legacy(t))
		return true;
	t->kept = k;
	if (g->probe)
		e_load_gs(&t->e, T0, GS_JIT(held[0]) + 8 * (uint32_t)g->held);
	else
		e_load_gs(&t->e, T0, slot_at(g, offsetof(struct jit_slot, addend)));
	return true;
}
