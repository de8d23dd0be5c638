/* Integer arithmetic and logic: ADD ... CMP, INC, DEC, NEG, NOT, MUL, DIV, shifts,
 * rotates, XADD, CMPXCHG and the decimal adjustments. [SDM2] */
#include "engine/soft/alu.h"

/* ---- two operands --------------------------------------------------------------------- */

#define DEFINE_BINARY(name)                                                                        \
	static uint64_t value_##name(uint64_t a, uint64_t b, unsigned size, uint32_t *flags) {         \
		uint32_t f = *flags;                                                                       \
		BY_SIZE(size, VALUE_##name)                                                                \
		*flags = f;                                                                                \
		return a;                                                                                  \
	}                                                                                              \
	static void locked_##name(uint8_t *p, uint64_t b, unsigned size, uint32_t *flags) {            \
		uint32_t f = *flags;                                                                       \
		BY_SIZE(size, LOCKED_##name)                                                               \
		*flags = f;                                                                                \
	}

#define VALUE_BODY(name, type, sfx, mod)                                                           \
	{                                                                                              \
		type d = (type)a;                                                                          \
		asm(FLAGS_IN name sfx " %" mod "2, %" mod "1" FLAGS_OUT                                    \
			: "+a"(f), "+q"(d)                                                                     \
			: "q"((type)b)                                                                         \
			: "cc");                                                                               \
		a = d;                                                                                     \
	}
#define LOCKED_BODY(name, type, sfx, mod)                                                          \
	asm volatile(FLAGS_IN "lock " name sfx " %" mod "2, %1" FLAGS_OUT                              \
				 : "+a"(f), "+m"(*(type *)p)                                                       \
				 : "q"((type)b)                                                                    \
				 : "cc", "memory")

#define VALUE_add(t, s, m) VALUE_BODY("add", t, s, m)
#define VALUE_or(t, s, m) VALUE_BODY("or", t, s, m)
#define VALUE_adc(t, s, m) VALUE_BODY("adc", t, s, m)
#define VALUE_sbb(t, s, m) VALUE_BODY("sbb", t, s, m)
#define VALUE_and(t, s, m) VALUE_BODY("and", t, s, m)
#define VALUE_sub(t, s, m) VALUE_BODY("sub", t, s, m)
#define VALUE_xor(t, s, m) VALUE_BODY("xor", t, s, m)
#define LOCKED_add(t, s, m) LOCKED_BODY("add", t, s, m)
#define LOCKED_or(t, s, m) LOCKED_BODY("or", t, s, m)
#define LOCKED_adc(t, s, m) LOCKED_BODY("adc", t, s, m)
#define LOCKED_sbb(t, s, m) LOCKED_BODY("sbb", t, s, m)
#define LOCKED_and(t, s, m) LOCKED_BODY("and", t, s, m)
#define LOCKED_sub(t, s, m) LOCKED_BODY("sub", t, s, m)
#define LOCKED_xor(t, s, m) LOCKED_BODY("xor", t, s, m)
DEFINE_BINARY(add)
DEFINE_BINARY(or)
DEFINE_BINARY(adc)
DEFINE_BINARY(sbb)
DEFINE_BINARY(and)
DEFINE_BINARY(sub)
DEFINE_BINARY(xor)

typedef uint64_t value_fn(uint64_t a, uint64_t b, unsigned size, uint32_t *flags);
typedef void locked_fn(uint8_t *p, uint64_t b, unsigned size, uint32_t *flags);

static inline __attribute__((always_inline)) void read_modify_write(struct soft_vcpu *c,
																	const struct x86_insn *i,
																	uint64_t b, value_fn *value,
																	locked_fn *lock) {
	unsigned size = i->opnd[0].size;
	uint32_t flags = flags_to_ax(c->s->rflags);
	struct rmw m;
	if (unlikely(locked(i))) {
		uint64_t off = fast_ea(c, i);
		uint8_t *p = soft_rmw(c, i->seg, off, size);
		if (p) {
			lock(p, b, size, &flags);
			fast_note_store(c, p);
		} else {
			soft_exclusive_begin(c);
			uint64_t a = rmw_begin(c, i, &m);
			rmw_end(c, i, &m, value(a, b, size, &flags));
			soft_exclusive_end(c);
		}
	} else {
		uint64_t a = rmw_begin(c, i, &m);
		rmw_end(c, i, &m, value(a, b, size, &flags));
	}
	flags_from_ax(c, flags);
}

#define BINARY_HANDLER(name)                                                                       \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		read_modify_write(c, i, fast_get(c, i, 1), value_##name, locked_##name);                   \
	}
BINARY_HANDLER(add)
BINARY_HANDLER(or)
BINARY_HANDLER(adc)
BINARY_HANDLER(sbb)
BINARY_HANDLER(and)
BINARY_HANDLER(sub)
BINARY_HANDLER(xor)

void op_cmp(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t a = fast_get(c, i, 0), b = fast_get(c, i, 1);
	uint32_t flags = flags_to_ax(c->s->rflags);
	value_sub(a, b, i->opnd[0].size, &flags);
	flags_from_ax(c, flags);
}

void op_test(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t a = fast_get(c, i, 0), b = fast_get(c, i, 1);
	uint32_t flags = flags_to_ax(c->s->rflags);
	value_and(a, b, i->opnd[0].size, &flags);
	flags_from_ax(c, flags);
}

/* ---- one operand ---------------------------------------------------------------------- */

#define UNARY_VALUE_BODY(name, type, sfx, mod)                                                     \
	{                                                                                              \
		type d = (type)a;                                                                          \
		asm(FLAGS_IN name sfx " %" mod "1" FLAGS_OUT : "+a"(f), "+q"(d) : : "cc");                 \
		a = d;                                                                                     \
	}
#define UNARY_LOCKED_BODY(name, type, sfx, mod)                                                    \
	asm volatile(FLAGS_IN "lock " name sfx " %1" FLAGS_OUT                                         \
				 : "+a"(f), "+m"(*(type *)p)                                                       \
				 :                                                                                 \
				 : "cc", "memory")
#define VALUE_inc(t, s, m) UNARY_VALUE_BODY("inc", t, s, m)
#define VALUE_dec(t, s, m) UNARY_VALUE_BODY("dec", t, s, m)
#define VALUE_neg(t, s, m) UNARY_VALUE_BODY("neg", t, s, m)
#define VALUE_not(t, s, m) UNARY_VALUE_BODY("not", t, s, m)
#define LOCKED_inc(t, s, m) UNARY_LOCKED_BODY("inc", t, s, m)
#define LOCKED_dec(t, s, m) UNARY_LOCKED_BODY("dec", t, s, m)
#define LOCKED_neg(t, s, m) UNARY_LOCKED_BODY("neg", t, s, m)
#define LOCKED_not(t, s, m) UNARY_LOCKED_BODY("not", t, s, m)
DEFINE_BINARY(inc)
DEFINE_BINARY(dec)
DEFINE_BINARY(neg)
DEFINE_BINARY(not )

#define UNARY_HANDLER(name)                                                                        \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		read_modify_write(c, i, 0, value_##name, locked_##name);                                   \
	}
UNARY_HANDLER(inc)
UNARY_HANDLER(dec)
UNARY_HANDLER(neg)
UNARY_HANDLER(not )

/* ---- shifts and rotates --------------------------------------------------------------- */

#define SHIFT_BODY(name, type, sfx, mod)                                                           \
	{                                                                                              \
		type d = (type)a;                                                                          \
		asm(FLAGS_IN name sfx " %%cl, %" mod "1" FLAGS_OUT                                         \
			: "+a"(f), "+q"(d)                                                                     \
			: "c"((uint8_t)b)                                                                      \
			: "cc");                                                                               \
		a = d;                                                                                     \
	}
#define DEFINE_SHIFT(name)                                                                         \
	static uint64_t value_##name(uint64_t a, uint64_t b, unsigned size, uint32_t *flags) {         \
		uint32_t f = *flags;                                                                       \
		BY_SIZE(size, VALUE_##name)                                                                \
		*flags = f;                                                                                \
		return a;                                                                                  \
	}                                                                                              \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t count = fast_get(c, i, 1);                                                        \
		struct rmw m;                                                                              \
		uint64_t a = rmw_begin(c, i, &m);                                                          \
		uint32_t flags = flags_to_ax(c->s->rflags);                                                \
		rmw_end(c, i, &m, value_##name(a, count, i->opnd[0].size, &flags));                        \
		flags_from_ax(c, flags);                                                                   \
	}
#define VALUE_rol(t, s, m) SHIFT_BODY("rol", t, s, m)
#define VALUE_ror(t, s, m) SHIFT_BODY("ror", t, s, m)
#define VALUE_rcl(t, s, m) SHIFT_BODY("rcl", t, s, m)
#define VALUE_rcr(t, s, m) SHIFT_BODY("rcr", t, s, m)
#define VALUE_shl(t, s, m) SHIFT_BODY("shl", t, s, m)
#define VALUE_shr(t, s, m) SHIFT_BODY("shr", t, s, m)
#define VALUE_sar(t, s, m) SHIFT_BODY("sar", t, s, m)
DEFINE_SHIFT(rol)
DEFINE_SHIFT(ror)
DEFINE_SHIFT(rcl)
DEFINE_SHIFT(rcr)
DEFINE_SHIFT(shl)
DEFINE_SHIFT(shr)
DEFINE_SHIFT(sar)

#define DOUBLE_SHIFT(name)                                                                         \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t b = fast_get(c, i, 1), count = fast_get(c, i, 2);                                 \
		struct rmw m;                                                                              \
		uint64_t a = rmw_begin(c, i, &m);                                                          \
		uint32_t f = flags_to_ax(c->s->rflags);                                                    \
		switch (i->opnd[0].size) {                                                                 \
		case 2: {                                                                                  \
			uint16_t d = (uint16_t)a;                                                              \
			asm(FLAGS_IN #name "w %%cl, %w2, %w1" FLAGS_OUT                                        \
				: "+a"(f), "+r"(d)                                                                 \
				: "r"((uint16_t)b), "c"((uint8_t)count)                                            \
				: "cc");                                                                           \
			a = d;                                                                                 \
			break;                                                                                 \
		}                                                                                          \
		case 4: {                                                                                  \
			uint32_t d = (uint32_t)a;                                                              \
			asm(FLAGS_IN #name "l %%cl, %k2, %k1" FLAGS_OUT                                        \
				: "+a"(f), "+r"(d)                                                                 \
				: "r"((uint32_t)b), "c"((uint8_t)count)                                            \
				: "cc");                                                                           \
			a = d;                                                                                 \
			break;                                                                                 \
		}                                                                                          \
		default:                                                                                   \
			asm(FLAGS_IN #name "q %%cl, %q2, %q1" FLAGS_OUT                                        \
				: "+a"(f), "+r"(a)                                                                 \
				: "r"(b), "c"((uint8_t)count)                                                      \
				: "cc");                                                                           \
		}                                                                                          \
		rmw_end(c, i, &m, a);                                                                      \
		flags_from_ax(c, f);                                                                       \
	}
DOUBLE_SHIFT(shld)
DOUBLE_SHIFT(shrd)

/* ---- multiplication and division ------------------------------------------------------ */

/* The wide ones use RDX:RAX themselves, so their flags travel over the stack. */
#define WIDE(insn, type, sfx, mod)                                                                 \
	asm("pushq %3\n\tpopfq\n\t" insn sfx " %" mod "2\n\tpushfq\n\tpopq %3"                         \
		: "+a"(lo), "+d"(hi), "+r"(src), "+r"(f)                                                   \
		:                                                                                          \
		: "cc", "memory")

static void multiply(struct soft_vcpu *c, unsigned size, uint64_t src, bool is_signed) {
	uint64_t lo = c->s->gpr[RAX], hi = c->s->gpr[RDX];
	uint64_t f = (c->s->rflags & RFLAGS_ARITH) | RFLAGS_FIXED;
	/* 8 and 16 bit forms leave the upper halves of RAX and RDX as they are, 32 bit forms
	 * clear them: just what the host does to lo and hi. */
#define MUL_BODY(t, s, m) WIDE("mul", t, s, m)
#define IMUL_BODY(t, s, m) WIDE("imul", t, s, m)
	if (is_signed) {
		BY_SIZE(size, IMUL_BODY)
	} else {
		BY_SIZE(size, MUL_BODY)
	}
	c->s->gpr[RAX] = lo;
	c->s->gpr[RDX] = hi;
	c->s->rflags = (c->s->rflags & ~(uint64_t)RFLAGS_ARITH) | (f & RFLAGS_ARITH);
}

void op_mul(struct soft_vcpu *c, const struct x86_insn *i) {
	multiply(c, i->opnd[0].size, fast_get(c, i, 0), false);
}

void op_imul(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opnd[0].size;
	if (i->nopnds == 1) {
		multiply(c, size, fast_get(c, i, 0), true);
		return;
	}
	uint64_t a = i->nopnds == 2 ? fast_get(c, i, 0) : fast_get(c, i, 2);
	uint64_t b = fast_get(c, i, 1);
	uint32_t f = flags_to_ax(c->s->rflags);
	switch (size) {
	case 2: {
		uint16_t d = (uint16_t)a;
		asm(FLAGS_IN "imulw %w2, %w1" FLAGS_OUT : "+a"(f), "+r"(d) : "r"((uint16_t)b) : "cc");
		a = d;
		break;
	}
	case 4: {
		uint32_t d = (uint32_t)a;
		asm(FLAGS_IN "imull %k2, %k1" FLAGS_OUT : "+a"(f), "+r"(d) : "r"((uint32_t)b) : "cc");
		a = d;
		break;
	}
	default:
		asm(FLAGS_IN "imulq %q2, %q1" FLAGS_OUT : "+a"(f), "+r"(a) : "r"(b) : "cc");
	}
	fast_put(c, i, 0, a);
	flags_from_ax(c, f);
}

static bool divide_faults(uint64_t lo, uint64_t hi, uint64_t src, unsigned size) {
	uint64_t mask = size_mask(size);
	src &= mask;
	if (!src)
		return true;
	return size == 1 ? ((lo & 0xffff) >> 8) >= src : (hi & mask) >= src;
}

static bool signed_divide_faults(uint64_t lo, uint64_t hi, uint64_t src, unsigned size) {
	unsigned n = size * 8;
	int64_t d = sext(src, n);
	if (!d)
		return true;
	__int128 dividend;
	if (size == 1)
		dividend = (int16_t)lo;
	else if (size == 8)
		dividend = (__int128)((unsigned __int128)hi << 64 | lo);
	else
		dividend = sext((hi & size_mask(size)) << n | (lo & size_mask(size)), 2 * n);
	/* |quotient| < 2^(n-1), or exactly -2^(n-1); compared without dividing 128 bits. */
	unsigned __int128 num =
		dividend < 0 ? -(unsigned __int128)dividend : (unsigned __int128)dividend;
	unsigned __int128 den = d < 0 ? 0 - (uint64_t)d : (uint64_t)d;
	bool negative = (dividend < 0) != (d < 0);
	unsigned __int128 limit = (den << (n - 1)) + (negative ? den : 0);
	return num >= limit;
}

static void divide(struct soft_vcpu *c, const struct x86_insn *i, bool is_signed) {
	unsigned size = i->opnd[0].size;
	uint64_t src = fast_get(c, i, 0);
	uint64_t lo = c->s->gpr[RAX], hi = c->s->gpr[RDX];
	uint64_t f = (c->s->rflags & RFLAGS_ARITH) | RFLAGS_FIXED;
	if (is_signed ? signed_divide_faults(lo, hi, src, size) : divide_faults(lo, hi, src, size))
		soft_raise(c, VEC_DE);
#define DIV_BODY(t, s, m) WIDE("div", t, s, m)
#define IDIV_BODY(t, s, m) WIDE("idiv", t, s, m)
	if (is_signed) {
		BY_SIZE(size, IDIV_BODY)
	} else {
		BY_SIZE(size, DIV_BODY)
	}
	c->s->gpr[RAX] = lo;
	c->s->gpr[RDX] = hi;
	c->s->rflags = (c->s->rflags & ~(uint64_t)RFLAGS_ARITH) | (f & RFLAGS_ARITH);
}

void op_div(struct soft_vcpu *c, const struct x86_insn *i) {
	divide(c, i, false);
}

void op_idiv(struct soft_vcpu *c, const struct x86_insn *i) {
	divide(c, i, true);
}

/* ---- exchanges ------------------------------------------------------------------------ */

#define XADD_BODY(type, sfx, mod)                                                                  \
	{                                                                                              \
		type d = (type)b;                                                                          \
		asm volatile(FLAGS_IN "lock xadd" sfx " %" mod "1, %2" FLAGS_OUT                           \
					 : "+a"(f), "+q"(d), "+m"(*(type *)p)                                          \
					 :                                                                             \
					 : "cc", "memory");                                                            \
		b = d;                                                                                     \
	}

void op_xadd(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opnd[0].size;
	uint64_t b = fast_get(c, i, 1);
	uint32_t f = flags_to_ax(c->s->rflags);
	uint8_t *p = NULL;
	struct rmw m;
	if (i->opnd[0].kind == OPND_MEM)
		p = soft_rmw(c, i->seg, fast_ea(c, i), size);
	if (p) { /* always locked: one path, and never weaker than asked */
		BY_SIZE(size, XADD_BODY)
		fast_note_store(c, p);
		fast_set_reg(c, i->opnd[1].reg, size, b);
	} else {
		if (locked(i))
			soft_exclusive_begin(c);
		uint64_t a = rmw_begin(c, i, &m);
		uint64_t sum = value_add(a, b, size, &f);
		/* XADD with one register twice: the sum wins. */
		if (m.memory)
			rmw_end(c, i, &m, sum);
		fast_set_reg(c, i->opnd[1].reg, size, a);
		if (!m.memory)
			rmw_end(c, i, &m, sum);
		if (locked(i))
			soft_exclusive_end(c);
	}
	flags_from_ax(c, f);
}

/* CMPXCHG on host memory; returns what was there. Flags as of CMP accumulator, memory. */
#define CMPXCHG_BODY(type, sfx, mod)                                                               \
	{                                                                                              \
		type expect = (type)old;                                                                   \
		__atomic_compare_exchange_n((type *)p, &expect, (type)val, false, __ATOMIC_SEQ_CST,        \
									__ATOMIC_SEQ_CST);                                             \
		old = expect;                                                                              \
	}

void op_cmpxchg(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opnd[0].size;
	uint64_t val = fast_get(c, i, 1), acc = fast_reg(c, RAX, size), old = acc;
	struct rmw m = {0};
	uint8_t *p = NULL;
	if (i->opnd[0].kind == OPND_MEM)
		p = soft_rmw(c, i->seg, fast_ea(c, i), size);
	if (p) {
		BY_SIZE(size, CMPXCHG_BODY)
		fast_note_store(c, p);
	} else {
		if (locked(i))
			soft_exclusive_begin(c);
		old = rmw_begin(c, i, &m);
		/* Memory is written in either case; a 32-bit register only when equal. */
		if (old == acc || m.memory)
			rmw_end(c, i, &m, old == acc ? val : old);
		if (locked(i))
			soft_exclusive_end(c);
	}
	uint32_t f = flags_to_ax(c->s->rflags);
	value_sub(acc, old, size, &f);
	flags_from_ax(c, f);
	if (old != acc)
		fast_set_reg(c, RAX, size, old);
}

static void set_zf(struct soft_vcpu *c, bool zf) {
	c->s->rflags = (c->s->rflags & ~(uint64_t)RFLAGS_ZF) | (zf ? RFLAGS_ZF : 0);
}

void op_cmpxchg8b(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t *g = c->s->gpr;
	uint64_t off = fast_ea(c, i);
	uint64_t expect = (uint32_t)g[RAX] | g[RDX] << 32, old = expect;
	uint64_t val = (uint32_t)g[RBX] | g[RCX] << 32;
	uint8_t *p = soft_rmw(c, i->seg, off, 8);
	if (p) {
		__atomic_compare_exchange_n((uint64_t *)p, &old, val, false, __ATOMIC_SEQ_CST,
									__ATOMIC_SEQ_CST);
		fast_note_store(c, p);
	} else {
		soft_exclusive_begin(c);
		soft_probe(c, i->seg, off, 8, ACCESS_WRITE);
		old = soft_read(c, i->seg, off, 8);
		soft_write(c, i->seg, off, 8, old == expect ? val : old);
		soft_exclusive_end(c);
	}
	if (old != expect) {
		g[RAX] = (uint32_t)old;
		g[RDX] = old >> 32;
	}
	set_zf(c, old == expect);
}

void op_cmpxchg16b(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t *g = c->s->gpr;
	uint64_t off = fast_ea(c, i);
	/* Misaligned comes before not canonical: #GP for SS too. */
	if (c->mode == X86_MODE_64 && ((off + (i->seg >= SEG_FS ? c->s->seg[i->seg].base : 0)) & 15))
		soft_gp(c, 0);
	if (soft_linear(c, i->seg, off, 16, ACCESS_WRITE) & 15)
		soft_gp(c, 0);
	uint8_t *p = soft_rmw(c, i->seg, off, 16);
	bool equal;
	if (p) {
		uint64_t lo = g[RAX], hi = g[RDX];
		asm volatile("lock cmpxchg16b %1\n\tsete %0"
					 : "=q"(equal), "+m"(*(unsigned __int128 *)p), "+a"(lo), "+d"(hi)
					 : "b"(g[RBX]), "c"(g[RCX])
					 : "cc", "memory");
		fast_note_store(c, p);
		if (!equal) {
			g[RAX] = lo;
			g[RDX] = hi;
		}
	} else {
		uint64_t pair[2];
		soft_exclusive_begin(c);
		soft_probe(c, i->seg, off, 16, ACCESS_WRITE);
		soft_read_bytes(c, i->seg, off, pair, 16);
		equal = pair[0] == g[RAX] && pair[1] == g[RDX];
		if (equal) {
			pair[0] = g[RBX];
			pair[1] = g[RCX];
		}
		soft_write_bytes(c, i->seg, off, pair, 16);
		soft_exclusive_end(c);
		if (!equal) {
			g[RAX] = pair[0];
			g[RDX] = pair[1];
		}
	}
	set_zf(c, equal);
}

/* ---- decimal adjustment (16 and 32-bit modes only) -------------------------------------- */

static void set_szp(struct soft_vcpu *c, uint8_t val, uint64_t others) {
	uint32_t f = 0;
	value_and(val, val, 1, &f);
	uint64_t keep = c->s->rflags & ~(uint64_t)RFLAGS_ARITH;
	c->s->rflags = keep | (f >> 8 & (RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF)) | others;
}

static void decimal_adjust(struct soft_vcpu *c, bool subtract) {
	uint8_t al = (uint8_t)c->s->gpr[RAX], old = al;
	bool cf = c->s->rflags & RFLAGS_CF;
	uint64_t out = 0;
	if ((al & 15) > 9 || (c->s->rflags & RFLAGS_AF)) {
		out |= RFLAGS_AF;
		if (cf || (subtract ? al < 6 : al > 0xf9))
			out |= RFLAGS_CF;
		al = (uint8_t)(subtract ? al - 6 : al + 6);
	}
	if (old > 0x99 || cf) {
		al = (uint8_t)(subtract ? al - 0x60 : al + 0x60);
		out |= RFLAGS_CF;
	} else if (!subtract) {
		out &= ~(uint64_t)RFLAGS_CF;
	}
	fast_set_reg(c, RAX, 1, al);
	set_szp(c, al, out);
}

void op_daa(struct soft_vcpu *c, const struct x86_insn *i) {
	decimal_adjust(c, false);
}

void op_das(struct soft_vcpu *c, const struct x86_insn *i) {
	decimal_adjust(c, true);
}

static void ascii_adjust(struct soft_vcpu *c, int sign) {
	uint16_t ax = (uint16_t)c->s->gpr[RAX];
	uint64_t out = 0;
	if ((ax & 15) > 9 || (c->s->rflags & RFLAGS_AF)) {
		ax = (uint16_t)(ax + sign * 0x106);
		out = RFLAGS_AF | RFLAGS_CF;
	}
	ax &= 0xff0f;
	fast_set_reg(c, RAX, 2, ax);
	set_szp(c, (uint8_t)ax, out);
}

void op_aaa(struct soft_vcpu *c, const struct x86_insn *i) {
	ascii_adjust(c, 1);
}

void op_aas(struct soft_vcpu *c, const struct x86_insn *i) {
	ascii_adjust(c, -1);
}

void op_aam(struct soft_vcpu *c, const struct x86_insn *i) {
	uint8_t al = (uint8_t)c->s->gpr[RAX], base = (uint8_t)i->imm;
	if (!base)
		soft_raise(c, VEC_DE);
	fast_set_reg(c, RAX, 2, (uint64_t)(al / base) << 8 | al % base);
	set_szp(c, al % base, 0);
}

void op_aad(struct soft_vcpu *c, const struct x86_insn *i) {
	uint16_t ax = (uint16_t)c->s->gpr[RAX];
	uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)i->imm);
	fast_set_reg(c, RAX, 2, al);
	set_szp(c, al, 0);
}
