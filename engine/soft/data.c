/* Moves, stack, flag bits and the instructions that do (next to) nothing. [SDM2] */
#include <sched.h>

#include "engine/soft/alu.h"

void op_mov(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_put(c, i, 0, fast_get(c, i, 1));
}

void op_movnti(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_put(c, i, 0, fast_get(c, i, 1));
}

void op_movzx(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_put(c, i, 0, fast_get(c, i, 1));
}

void op_movsx(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t v = (uint64_t)sext(fast_get(c, i, 1), i->opnd[1].size * 8);
	fast_put(c, i, 0, v & size_mask(i->opnd[0].size));
}

void op_movsxd(struct soft_vcpu *c, const struct x86_insn *i) {
	op_movsx(c, i);
}

void op_lea(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_put(c, i, 0, fast_ea(c, i) & size_mask(i->opnd[0].size));
}

void op_bswap(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opnd[0].size;
	uint64_t v = fast_get(c, i, 0);
	/* The 16-bit form is undefined; CPUs clear the register. */
	v = size == 8 ? __builtin_bswap64(v) : size == 4 ? __builtin_bswap32((uint32_t)v) : 0;
	fast_put(c, i, 0, v);
}

void op_movbe(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t v = fast_get(c, i, 1);
	switch (i->opnd[0].size) {
	case 2:
		v = __builtin_bswap16((uint16_t)v);
		break;
	case 4:
		v = __builtin_bswap32((uint32_t)v);
		break;
	default:
		v = __builtin_bswap64(v);
	}
	fast_put(c, i, 0, v);
}

#define XCHG_BODY(type, sfx, mod)                                                                  \
	{                                                                                              \
		type d = (type)val;                                                                        \
		asm volatile("xchg" sfx " %" mod "0, %1" : "+q"(d), "+m"(*(type *)p) : : "memory");        \
		val = d;                                                                                   \
	}

/* With memory it is locked whether it says so or not. */
void op_xchg(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned m = i->opnd[0].kind == OPND_MEM ? 0 : 1, r = 1 - m;
	unsigned size = i->opnd[r].size;
	uint64_t val = fast_get(c, i, r);
	if (i->opnd[m].kind == OPND_GPR) {
		uint64_t other = fast_get(c, i, m);
		fast_put(c, i, m, val);
		fast_put(c, i, r, other);
		return;
	}
	uint64_t off = fast_ea(c, i);
	uint8_t *p = soft_rmw(c, i->seg, off, size);
	if (p) {
		BY_SIZE(size, XCHG_BODY)
		fast_note_store(c, p);
	} else {
		soft_exclusive_begin(c);
		soft_probe(c, i->seg, off, size, ACCESS_WRITE);
		uint64_t old = soft_read(c, i->seg, off, size);
		soft_write(c, i->seg, off, size, val);
		val = old;
		soft_exclusive_end(c);
	}
	fast_put(c, i, r, val);
}

void op_cbw(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned half = i->opsize / 2;
	uint64_t v = (uint64_t)sext(fast_reg(c, RAX, half), half * 8);
	fast_set_reg(c, RAX, i->opsize, v & size_mask(i->opsize));
}

void op_cwd(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t sign = (uint64_t)(sext(fast_reg(c, RAX, i->opsize), i->opsize * 8) >> 63);
	fast_set_reg(c, RDX, i->opsize, sign & size_mask(i->opsize));
}

static unsigned data_segment(const struct x86_insn *i) {
	return i->seg_prefix != X86_REG_NONE ? i->seg_prefix : SEG_DS;
}

void op_xlat(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t off = (c->s->gpr[RBX] + (uint8_t)c->s->gpr[RAX]) & size_mask(i->addrsize);
	fast_set_reg(c, RAX, 1, fast_read(c, data_segment(i), off, 1));
}

/* ---- flag bits ------------------------------------------------------------------------ */

#define LAHF_BITS (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF)

void op_lahf(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_set_reg(c, X86_REG_HIGH, 1, (c->s->rflags & LAHF_BITS) | RFLAGS_FIXED);
}

void op_sahf(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t ah = c->s->gpr[RAX] >> 8 & LAHF_BITS;
	c->s->rflags = (c->s->rflags & ~(uint64_t)LAHF_BITS) | ah;
}

void op_salc(struct soft_vcpu *c, const struct x86_insn *i) {
	fast_set_reg(c, RAX, 1, c->s->rflags & RFLAGS_CF ? 0xff : 0);
}

void op_clc(struct soft_vcpu *c, const struct x86_insn *i) {
	c->s->rflags &= ~(uint64_t)RFLAGS_CF;
}

void op_stc(struct soft_vcpu *c, const struct x86_insn *i) {
	c->s->rflags |= RFLAGS_CF;
}

void op_cmc(struct soft_vcpu *c, const struct x86_insn *i) {
	c->s->rflags ^= RFLAGS_CF;
}

void op_cld(struct soft_vcpu *c, const struct x86_insn *i) {
	c->s->rflags &= ~(uint64_t)RFLAGS_DF;
}

void op_std(struct soft_vcpu *c, const struct x86_insn *i) {
	c->s->rflags |= RFLAGS_DF;
}

/* ---- the stack ------------------------------------------------------------------------ */

void op_push(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_push(c, i->opsize, fast_get(c, i, 0));
}

void op_pop(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opsize;
	uint64_t sp = soft_sp(c), old = c->s->gpr[RSP];
	uint64_t val = fast_read(c, SEG_SS, sp, size);
	if (i->opnd[0].kind == OPND_MEM) {
		/* An address that uses RSP is made with the incremented one ([SDM2 POP]). */
		soft_set_sp(c, sp + size);
		uint64_t off = fast_ea(c, i);
		c->s->gpr[RSP] = old;
		fast_write(c, i->seg, off, size, val);
		soft_set_sp(c, sp + size);
	} else {
		soft_set_sp(c, sp + size);
		fast_set_reg(c, i->opnd[0].reg, size, val);
	}
}

void op_pusha(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opsize;
	uint64_t mask = size_mask(c->stack_size), sp = soft_sp(c);
	for (unsigned r = 0; r < 8; r++) {
		uint64_t at = (sp - (r + 1) * size) & mask;
		fast_write(c, SEG_SS, at, size, fast_reg(c, r, size));
	}
	soft_set_sp(c, sp - 8 * size);
}

void op_popa(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opsize;
	uint64_t mask = size_mask(c->stack_size), sp = soft_sp(c), val[8];
	for (unsigned n = 0; n < 8; n++)
		val[n] = fast_read(c, SEG_SS, (sp + n * size) & mask, size);
	soft_set_sp(c, sp + 8 * size);
	for (unsigned n = 0; n < 8; n++)
		if (7 - n != RSP)
			fast_set_reg(c, 7 - n, size, val[n]);
}

void op_enter(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opsize, level = i->imm2 & 31;
	uint64_t mask = size_mask(c->stack_size);
	uint64_t sp = (soft_sp(c) - size) & mask, bp = c->s->gpr[RBP] & mask;
	fast_write(c, SEG_SS, sp, size, fast_reg(c, RBP, size));
	uint64_t frame = sp;
	for (unsigned n = 1; n < level; n++) {
		bp = (bp - size) & mask;
		uint64_t val = fast_read(c, SEG_SS, bp, size);
		sp = (sp - size) & mask;
		fast_write(c, SEG_SS, sp, size, val);
	}
	if (level) {
		sp = (sp - size) & mask;
		fast_write(c, SEG_SS, sp, size, frame);
	}
	sp = (sp - (uint16_t)i->imm) & mask;
	/* The new top must be writable, though nothing is written ([SDM2 ENTER]). */
	soft_probe(c, SEG_SS, sp, size, ACCESS_WRITE);
	fast_set_reg(c, RBP, size, frame);
	soft_set_sp(c, sp);
}

void op_leave(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t bp = c->s->gpr[RBP] & size_mask(c->stack_size);
	uint64_t val = fast_read(c, SEG_SS, bp, i->opsize);
	soft_set_sp(c, bp + i->opsize);
	fast_set_reg(c, RBP, i->opsize, val);
}

/* ---- little or nothing to do ---------------------------------------------------------- */

void op_nop(struct soft_vcpu *c, const struct x86_insn *i) {
}

void op_pause(struct soft_vcpu *c, const struct x86_insn *i) {
	/* Whoever spins waits for another vCPU, which may need this host CPU. */
	if (c->soft->nvcpus > 1 && ++c->pauses % 64 == 0)
		sched_yield();
	c->leave_block = true;
}

void op_lfence(struct soft_vcpu *c, const struct x86_insn *i) {
}

void op_mfence(struct soft_vcpu *c, const struct x86_insn *i) {
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void op_sfence(struct soft_vcpu *c, const struct x86_insn *i) {
}

void op_prefetch(struct soft_vcpu *c, const struct x86_insn *i) {
}

/* Caches are the host's business; the address is still checked as a read. */
void op_clflush(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_probe(c, i->seg, fast_ea(c, i), 1, ACCESS_READ);
}

void op_clflushopt(struct soft_vcpu *c, const struct x86_insn *i) {
	op_clflush(c, i);
}

void op_clwb(struct soft_vcpu *c, const struct x86_insn *i) {
	op_clflush(c, i);
}

void op_clzero(struct soft_vcpu *c, const struct x86_insn *i) {
	static const uint8_t zeroes[64];
	uint64_t off = (c->s->gpr[RAX] & size_mask(i->addrsize)) & ~63ull;
	soft_write_bytes(c, data_segment(i), off, zeroes, 64);
}

void op_ud0(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_ud(c);
}

void op_ud1(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_ud(c);
}

void op_ud2(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_ud(c);
}

void op_bound(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opsize, n = size * 8;
	uint64_t off = fast_ea(c, i);
	int64_t index = sext(fast_reg(c, i->opnd[0].reg, size), n);
	int64_t low = sext(fast_read(c, i->seg, off, size), n);
	int64_t high = sext(fast_read(c, i->seg, (off + size) & size_mask(i->addrsize), size), n);
	if (index < low || index > high)
		soft_raise(c, VEC_BR);
}
