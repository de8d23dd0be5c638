/* MOVS, CMPS, STOS, LODS, SCAS with their repeat prefixes ([SDM2 REP]).
 *
 * A repetition is restartable by construction: the registers are moved on after each
 * element, so a fault or an interrupt finds them at the element to do next. Long forward
 * MOVS and STOS in plain RAM are done by the page with the host's own string instructions. */
#include "engine/soft/alu.h"

/* After so many elements a repetition looks for interrupts. */
#define CHUNK 4096

struct string {
	unsigned size, addrsize, src_seg;
	int64_t step;
	bool user;
};

static struct string string_begin(struct soft_vcpu *c, const struct x86_insn *i) {
	return (struct string){
		.size = i->opsize,
		.addrsize = i->addrsize,
		.src_seg = i->seg_prefix != X86_REG_NONE ? i->seg_prefix : SEG_DS,
		.step = c->s->rflags & RFLAGS_DF ? -(int64_t)i->opsize : i->opsize,
		.user = fast_user(c),
	};
}

static void advance(struct soft_vcpu *c, const struct string *s, unsigned reg, int64_t by) {
	uint64_t v = c->s->gpr[reg] + (uint64_t)by;
	fast_set_reg(c, reg, s->addrsize, v & size_mask(s->addrsize));
}

static uint64_t src_off(const struct soft_vcpu *c, const struct string *s) {
	return c->s->gpr[RSI] & size_mask(s->addrsize);
}

static uint64_t dst_off(const struct soft_vcpu *c, const struct string *s) {
	return c->s->gpr[RDI] & size_mask(s->addrsize);
}

static void element_movs(struct soft_vcpu *c, const struct string *s) {
	uint64_t v = fast_read(c, s->src_seg, src_off(c, s), s->size);
	fast_write(c, SEG_ES, dst_off(c, s), s->size, v);
	advance(c, s, RSI, s->step);
	advance(c, s, RDI, s->step);
}

static void element_stos(struct soft_vcpu *c, const struct string *s) {
	fast_write(c, SEG_ES, dst_off(c, s), s->size, fast_reg(c, RAX, s->size));
	advance(c, s, RDI, s->step);
}

static void element_lods(struct soft_vcpu *c, const struct string *s) {
	fast_set_reg(c, RAX, s->size, fast_read(c, s->src_seg, src_off(c, s), s->size));
	advance(c, s, RSI, s->step);
}

#define CMP_BODY(type, sfx, mod)                                                                   \
	asm(FLAGS_IN "cmp" sfx " %" mod "2, %" mod "1" FLAGS_OUT                                       \
		: "+a"(f)                                                                                  \
		: "q"((type)a), "q"((type)b)                                                               \
		: "cc")

static void compare(struct soft_vcpu *c, uint64_t a, uint64_t b, unsigned size) {
	uint32_t f = 0;
	BY_SIZE(size, CMP_BODY)
	flags_from_ax(c, f);
}

static void element_cmps(struct soft_vcpu *c, const struct string *s) {
	/* ES:DI first: where both fault, CPUs report that one. */
	uint64_t b = fast_read(c, SEG_ES, dst_off(c, s), s->size);
	uint64_t a = fast_read(c, s->src_seg, src_off(c, s), s->size);
	compare(c, a, b, s->size);
	advance(c, s, RSI, s->step);
	advance(c, s, RDI, s->step);
}

static void element_scas(struct soft_vcpu *c, const struct string *s) {
	uint64_t b = fast_read(c, SEG_ES, dst_off(c, s), s->size);
	compare(c, fast_reg(c, RAX, s->size), b, s->size);
	advance(c, s, RDI, s->step);
}

/* How many elements from `off` on stay within one page of plain RAM, and where; 0: go slowly. */
static uint64_t run_length(struct soft_vcpu *c, const struct string *s, unsigned seg, uint64_t off,
						   uint64_t count, enum soft_access kind, uint8_t **host) {
	uint64_t in_addr = (size_mask(s->addrsize) - off) / s->size;
	gva_t gva = fast_linear(c, seg, off, s->size, kind);
	uint64_t n = (PAGE_SIZE - (gva & PAGE_MASK)) / s->size;
	n = MIN(MIN(n, count), in_addr);
	if (n < 2)
		return 0;
	if (!c->flat) /* the last element must pass the limit too, or the slow way finds it */
		if (off + n * s->size - 1 > c->s->seg[seg].limit || (c->s->seg[seg].attr & 0xc) == 4)
			return 0;
	*host = fast_host(c, gva, (unsigned)(n * s->size), kind, s->user);
	return *host ? n : 0;
}

static uint64_t bulk_movs(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	uint8_t *src, *dst;
	uint64_t n = run_length(c, s, s->src_seg, src_off(c, s), count, ACCESS_READ, &src);
	if (n)
		n = run_length(c, s, SEG_ES, dst_off(c, s), n, ACCESS_WRITE, &dst);
	if (!n)
		return 0;
	/* Overlap on the host must mean what it means in the guest: byte by byte forward. The
	 * host's REP MOVS of the same element size does just that. */
	uint64_t len = n, *cnt = &len;
	switch (s->size) {
	case 1:
		asm volatile("rep movsb" : "+S"(src), "+D"(dst), "+c"(*cnt) : : "memory");
		break;
	case 2:
		asm volatile("rep movsw" : "+S"(src), "+D"(dst), "+c"(*cnt) : : "memory");
		break;
	case 4:
		asm volatile("rep movsl" : "+S"(src), "+D"(dst), "+c"(*cnt) : : "memory");
		break;
	default:
		asm volatile("rep movsq" : "+S"(src), "+D"(dst), "+c"(*cnt) : : "memory");
	}
	fast_note_store(c, dst - 1);
	advance(c, s, RSI, (int64_t)(n * s->size));
	advance(c, s, RDI, (int64_t)(n * s->size));
	return n;
}

static uint64_t bulk_stos(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	uint8_t *dst;
	uint64_t n = run_length(c, s, SEG_ES, dst_off(c, s), count, ACCESS_WRITE, &dst);
	if (!n)
		return 0;
	uint64_t len = n, val = c->s->gpr[RAX];
	switch (s->size) {
	case 1:
		asm volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(val) : "memory");
		break;
	case 2:
		asm volatile("rep stosw" : "+D"(dst), "+c"(len) : "a"(val) : "memory");
		break;
	case 4:
		asm volatile("rep stosl" : "+D"(dst), "+c"(len) : "a"(val) : "memory");
		break;
	default:
		asm volatile("rep stosq" : "+D"(dst), "+c"(len) : "a"(val) : "memory");
	}
	fast_note_store(c, dst - 1);
	advance(c, s, RDI, (int64_t)(n * s->size));
	return n;
}

typedef void element_fn(struct soft_vcpu *c, const struct string *s);
typedef uint64_t bulk_fn(struct soft_vcpu *c, const struct string *s, uint64_t count);

/* `until`: CMPS and SCAS end on a ZF that their prefix does not want. */
static inline __attribute__((always_inline)) void repeat(struct soft_vcpu *c,
														 const struct x86_insn *i,
														 element_fn *element, bulk_fn *bulk,
														 bool until) {
	struct string s = string_begin(c, i);
	if (!(i->prefix & (X86_PFX_REP | X86_PFX_REPNE))) {
		element(c, &s);
		return;
	}
	uint64_t left = c->single_step ? 1 : CHUNK;
	uint64_t count;
	while ((count = fast_reg(c, RCX, s.addrsize)) != 0) {
		uint64_t done = 0;
		if (bulk && s.step > 0 && !c->single_step)
			done = bulk(c, &s, count);
		if (!done) {
			element(c, &s);
			done = 1;
		}
		fast_set_reg(c, RCX, s.addrsize, count - done);
		if (until) {
			bool zf = c->s->rflags & RFLAGS_ZF;
			if (zf != !!(i->prefix & X86_PFX_REP))
				return;
		}
		left -= MIN(left, done);
		if (!left || c->db_pending) {
			if (count != done) { /* come back to this instruction after a look around */
				c->next_rip = c->s->rip;
			}
			c->leave_block = true;
			return;
		}
	}
}

void op_movs(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_movs, bulk_movs, false);
}

void op_stos(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_stos, bulk_stos, false);
}

void op_lods(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_lods, NULL, false);
}

void op_cmps(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_cmps, NULL, true);
}

void op_scas(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_scas, NULL, true);
}
