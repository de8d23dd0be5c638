/* Bit tests, scans and counts, BMI1/2, ADX, CRC32: executed by the host's own instructions. A
 * form reaches this file only if the CPU model, and so the host, has it. */
#include "engine/soft/alu.h"

/* ---- BT, BTS, BTR, BTC ---------------------------------------------------------------- */

#define BIT_REG_BODY(name, type, sfx, mod)                                                         \
	{                                                                                              \
		type d = (type)a;                                                                          \
		asm(FLAGS_IN name sfx " %" mod "2, %" mod "1" FLAGS_OUT                                    \
			: "+a"(f), "+r"(d)                                                                     \
			: "r"((type)bit)                                                                       \
			: "cc");                                                                               \
		a = d;                                                                                     \
		break;                                                                                     \
	}
#define BIT_MEM_BODY(name, type, sfx, mod)                                                         \
	asm volatile(FLAGS_IN "lock " name sfx " %" mod "2, %1" FLAGS_OUT                              \
				 : "+a"(f), "+m"(*(type *)p)                                                       \
				 : "r"((type)bit)                                                                  \
				 : "cc", "memory");                                                                \
	break

#define DEFINE_BIT(name)                                                                           \
	static uint64_t value_##name(uint64_t a, uint64_t bit, unsigned size, uint32_t *flags) {       \
		uint32_t f = *flags;                                                                       \
		switch (size) {                                                                            \
		case 2:                                                                                    \
			BIT_REG_BODY(#name, uint16_t, "w", "w")                                                \
		case 4:                                                                                    \
			BIT_REG_BODY(#name, uint32_t, "l", "k")                                                \
		default:                                                                                   \
			BIT_REG_BODY(#name, uint64_t, "q", "q")                                                \
		}                                                                                          \
		*flags = f;                                                                                \
		return a;                                                                                  \
	}
#define DEFINE_BIT_LOCKED(name)                                                                    \
	static void locked_##name(uint8_t *p, uint64_t bit, unsigned size, uint32_t *flags) {          \
		uint32_t f = *flags;                                                                       \
		switch (size) {                                                                            \
		case 2:                                                                                    \
			BIT_MEM_BODY(#name, uint16_t, "w", "w");                                               \
		case 4:                                                                                    \
			BIT_MEM_BODY(#name, uint32_t, "l", "k");                                               \
		default:                                                                                   \
			BIT_MEM_BODY(#name, uint64_t, "q", "q");                                               \
		}                                                                                          \
		*flags = f;                                                                                \
	}
DEFINE_BIT(bt)
DEFINE_BIT(bts)
DEFINE_BIT(btr)
DEFINE_BIT(btc)
DEFINE_BIT_LOCKED(bts)
DEFINE_BIT_LOCKED(btr)
DEFINE_BIT_LOCKED(btc)

typedef uint64_t bit_fn(uint64_t a, uint64_t bit, unsigned size, uint32_t *flags);
typedef void bit_locked_fn(uint8_t *p, uint64_t bit, unsigned size, uint32_t *flags);

/* With a register offset a memory operand is a bit string: the offset is signed and
 * reaches beyond the addressed word ([SDM2 BT]). */
static inline __attribute__((always_inline)) void
bit_test(struct soft_vcpu *c, const struct x86_insn *i, bit_fn *value, bit_locked_fn *lock) {
	unsigned size = i->opnd[0].size;
	uint64_t bit = fast_get(c, i, 1);
	uint32_t f = flags_to_ax(c->s->rflags);
	if (i->opnd[0].kind != OPND_MEM) {
		uint64_t a = value(fast_reg(c, i->opnd[0].reg, size), bit & (size * 8 - 1), size, &f);
		if (lock)
			fast_set_reg(c, i->opnd[0].reg, size, a);
		flags_from_ax(c, f);
		return;
	}
	uint64_t off = fast_ea(c, i);
	if (i->opnd[1].kind == OPND_GPR) {
		off += (uint64_t)(sext(bit, size * 8) >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;
		off &= size_mask(i->addrsize);
	}
	bit &= size * 8 - 1;
	if (!lock) {
		value(fast_read(c, i->seg, off, size), bit, size, &f);
	} else {
		uint8_t *p = soft_rmw(c, i->seg, off, size);
		if (p && locked(i)) {
			lock(p, bit, size, &f);
			fast_note_store(c, p);
		} else if (p) {
			fast_store(p, size, value(fast_load(p, size), bit, size, &f));
			fast_note_store(c, p);
		} else {
			if (locked(i))
				soft_exclusive_begin(c);
			soft_probe(c, i->seg, off, size, ACCESS_WRITE);
			soft_write(c, i->seg, off, size, value(soft_read(c, i->seg, off, size), bit, size, &f));
			if (locked(i))
				soft_exclusive_end(c);
		}
	}
	flags_from_ax(c, f);
}

void op_bt(struct soft_vcpu *c, const struct x86_insn *i) {
	bit_test(c, i, value_bt, NULL);
}

void op_bts(struct soft_vcpu *c, const struct x86_insn *i) {
	bit_test(c, i, value_bts, locked_bts);
}

void op_btr(struct soft_vcpu *c, const struct x86_insn *i) {
	bit_test(c, i, value_btr, locked_btr);
}

void op_btc(struct soft_vcpu *c, const struct x86_insn *i) {
	bit_test(c, i, value_btc, locked_btc);
}

/* ---- scans and counts ------------------------------------------------------------------- */

/* The destination goes in whole: a scan of 0 leaves it, upper half included, as the host does. */
#define SCAN_BODY(name, type, sfx, mod)                                                            \
	asm(FLAGS_IN name sfx " %" mod "2, %" mod "1" FLAGS_OUT                                        \
		: "+a"(f), "+r"(d)                                                                         \
		: "r"((type)src)                                                                           \
		: "cc");                                                                                   \
	break
#define DEFINE_SCAN(name)                                                                          \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t src = fast_get(c, i, 1);                                                          \
		uint64_t d = c->s->gpr[i->opnd[0].reg];                                                    \
		uint32_t f = flags_to_ax(c->s->rflags);                                                    \
		switch (i->opnd[0].size) {                                                                 \
		case 2:                                                                                    \
			SCAN_BODY(#name, uint16_t, "w", "w");                                                  \
		case 4:                                                                                    \
			SCAN_BODY(#name, uint32_t, "l", "k");                                                  \
		default:                                                                                   \
			SCAN_BODY(#name, uint64_t, "q", "q");                                                  \
		}                                                                                          \
		c->s->gpr[i->opnd[0].reg] = d;                                                             \
		flags_from_ax(c, f);                                                                       \
	}
DEFINE_SCAN(bsf)
DEFINE_SCAN(bsr)
DEFINE_SCAN(tzcnt)
DEFINE_SCAN(lzcnt)
DEFINE_SCAN(popcnt)

/* ---- BMI1, BMI2: VEX forms of 32 and 64 bits ---------------------------------------------- */

#define TWO_SIZES(c, i, body)                                                                      \
	if ((i)->opnd[0].size == 8) {                                                                  \
		body(uint64_t, "q");                                                                       \
	} else {                                                                                       \
		body(uint32_t, "k");                                                                       \
	}

#define BMI3_BODY(name, type, mod)                                                                 \
	{                                                                                              \
		type d;                                                                                    \
		asm(FLAGS_IN name " %" mod "3, %" mod "2, %" mod "1" FLAGS_OUT                             \
			: "+a"(f), "=&r"(d)                                                                    \
			: "r"((type)x), "r"((type)y)                                                           \
			: "cc");                                                                               \
		result = d;                                                                                \
	}
/* AT&T order: name y, x, d is Intel's name d, x, y. */
#define DEFINE_BMI3(name, first, second)                                                           \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t x = fast_get(c, i, first), y = fast_get(c, i, second), result;                    \
		uint32_t f = flags_to_ax(c->s->rflags);                                                    \
		TWO_SIZES(c, i, BODY_##name)                                                               \
		fast_put(c, i, 0, result);                                                                 \
		flags_from_ax(c, f);                                                                       \
	}
#define BODY_andn(t, m) BMI3_BODY("andn", t, m)
#define BODY_pdep(t, m) BMI3_BODY("pdep", t, m)
#define BODY_pext(t, m) BMI3_BODY("pext", t, m)
#define BODY_bextr(t, m) BMI3_BODY("bextr", t, m)
#define BODY_bzhi(t, m) BMI3_BODY("bzhi", t, m)
#define BODY_sarx(t, m) BMI3_BODY("sarx", t, m)
#define BODY_shlx(t, m) BMI3_BODY("shlx", t, m)
#define BODY_shrx(t, m) BMI3_BODY("shrx", t, m)
DEFINE_BMI3(andn, 1, 2)
DEFINE_BMI3(pdep, 1, 2)
DEFINE_BMI3(pext, 1, 2)
/* These name the second source in VEX.vvvv, which Intel writes last. */
#define BMI_SWAPPED(name)                                                                          \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t y = fast_get(c, i, 2), x = fast_get(c, i, 1), result;                             \
		uint32_t f = flags_to_ax(c->s->rflags);                                                    \
		TWO_SIZES(c, i, BODY_##name)                                                               \
		fast_put(c, i, 0, result);                                                                 \
		flags_from_ax(c, f);                                                                       \
	}
BMI_SWAPPED(bextr)
BMI_SWAPPED(bzhi)
BMI_SWAPPED(sarx)
BMI_SWAPPED(shlx)
BMI_SWAPPED(shrx)

#define BMI2_BODY(name, type, mod)                                                                 \
	{                                                                                              \
		type d;                                                                                    \
		asm(FLAGS_IN name " %" mod "2, %" mod "1" FLAGS_OUT                                        \
			: "+a"(f), "=&r"(d)                                                                    \
			: "r"((type)x)                                                                         \
			: "cc");                                                                               \
		result = d;                                                                                \
	}
#define DEFINE_BMI2(name)                                                                          \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t x = fast_get(c, i, 1), result;                                                    \
		uint32_t f = flags_to_ax(c->s->rflags);                                                    \
		TWO_SIZES(c, i, BODY_##name)                                                               \
		fast_put(c, i, 0, result);                                                                 \
		flags_from_ax(c, f);                                                                       \
	}
#define BODY_blsi(t, m) BMI2_BODY("blsi", t, m)
#define BODY_blsmsk(t, m) BMI2_BODY("blsmsk", t, m)
#define BODY_blsr(t, m) BMI2_BODY("blsr", t, m)
DEFINE_BMI2(blsi)
DEFINE_BMI2(blsmsk)
DEFINE_BMI2(blsr)

void op_rorx(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned n = i->opnd[0].size * 8, count = (unsigned)i->imm & (n - 1);
	uint64_t x = fast_get(c, i, 1);
	uint64_t r = count ? x >> count | x << (n - count) : x;
	fast_put(c, i, 0, r & size_mask(i->opnd[0].size));
}

void op_mulx(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned size = i->opnd[0].size;
	unsigned __int128 r = (unsigned __int128)fast_reg(c, RDX, size) * fast_get(c, i, 2);
	fast_put(c, i, 1, (uint64_t)r); /* the high half wins when both name one register */
	fast_put(c, i, 0, (uint64_t)(r >> (size * 8)));
}

static void add_with(struct soft_vcpu *c, const struct x86_insn *i, uint32_t flag) {
	unsigned size = i->opnd[0].size;
	unsigned __int128 sum =
		(unsigned __int128)fast_get(c, i, 0) + fast_get(c, i, 1) + !!(c->s->rflags & flag);
	c->s->rflags &= ~(uint64_t)flag;
	if (sum >> (size * 8))
		c->s->rflags |= flag;
	fast_put(c, i, 0, (uint64_t)sum & size_mask(size));
}

void op_adcx(struct soft_vcpu *c, const struct x86_insn *i) {
	add_with(c, i, RFLAGS_CF);
}

void op_adox(struct soft_vcpu *c, const struct x86_insn *i) {
	add_with(c, i, RFLAGS_OF);
}

void op_crc32(struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t src = fast_get(c, i, 1);
	uint64_t d = fast_reg(c, i->opnd[0].reg, 4);
	switch (i->opnd[1].size) {
	case 1:
		asm("crc32b %b1, %k0" : "+r"(d) : "q"(src));
		break;
	case 2:
		asm("crc32w %w1, %k0" : "+r"(d) : "r"(src));
		break;
	case 4:
		asm("crc32l %k1, %k0" : "+r"(d) : "r"(src));
		break;
	default:
		asm("crc32q %q1, %q0" : "+r"(d) : "r"(src));
	}
	fast_set_reg(c, i->opnd[0].reg, i->opnd[0].size, d);
}

/* ---- random numbers ----------------------------------------------------------------------- */

#define RANDOM(name)                                                                               \
	void op_##name(struct soft_vcpu *c, const struct x86_insn *i) {                                \
		uint64_t val;                                                                              \
		bool ok;                                                                                   \
		asm volatile(#name " %0\n\tsetc %1" : "=r"(val), "=q"(ok) : : "cc");                       \
		c->s->rflags = (c->s->rflags & ~(uint64_t)RFLAGS_ARITH) | (ok ? RFLAGS_CF : 0);            \
		fast_put(c, i, 0, val &size_mask(i->opnd[0].size));                                        \
	}
RANDOM(rdrand)
RANDOM(rdseed)
