/* MOVS, CMPS, STOS, LODS, SCAS with their repeat prefixes ([SDM2 REP]).
 *
 * A repetition is restartable by construction: the registers are moved on after each
 * element, so a fault or an interrupt finds them at the element to do next. In
 * plain RAM they are done by the page, MOVS and STOS with the host's own string instructions. */
#include "engine/soft/alu.h"
#include "engine/soft/jit.h"

/* After so many elements a repetition looks for interrupts. */
#define CHUNK 4096

struct string {
	unsigned size, addrsize, src_seg;
	int64_t step;
	bool user;
	bool while_equal; /* CMPS and SCAS: REPE */
};

static struct string string_begin(struct soft_vcpu *c, const struct x86_insn *i) {
	return (struct string){
		.size = i->opsize,
		.addrsize = i->addrsize,
		.src_seg = i->seg_prefix != X86_REG_NONE ? i->seg_prefix : SEG_DS,
		.step = c->s->rflags & RFLAGS_DF ? -(int64_t)i->opsize : i->opsize,
		.user = fast_user(c),
		.while_equal = i->prefix & X86_PFX_REP,
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

/* Elements that can be done in one go: they lie in one page of RAM. */
struct run {
	uint8_t *host;	/* of the first element */
	gpa_t gpa;		/* of the lowest byte */
	uint64_t count; /* 0: go slowly */
	bool code;		/* writes concern the translator */
};

/* The run of up to `count` elements that starts at `off`, upwards or (step < 0) downwards. Raises
 * #PF as its first element would. */
static struct run find_run(struct soft_vcpu *c, const struct string *s, unsigned seg, uint64_t off,
						   uint64_t count, enum soft_access kind) {
	struct run r = {0};
	gva_t gva = fast_linear(c, seg, off, s->size, kind);
	unsigned at = (unsigned)(gva & PAGE_MASK);
	bool down = s->step < 0;
	if (at + s->size > PAGE_SIZE || c->align_check || c->data_breakpoints)
		return r;
	uint64_t in_page = down ? at / s->size + 1 : (PAGE_SIZE - at) / s->size;
	uint64_t in_addr = down ? off / s->size + 1 : (size_mask(s->addrsize) - off) / s->size;
	/* A single element, too: after it the translator knows the page, and goes without the handler.
	 */
	uint64_t n = MIN(MIN(in_page, count), in_addr);
	if (!n)
		return r;
	if (!c->flat) { /* the last element must pass the limit too, or the slow way finds it */
		if (!down && off + n * s->size - 1 > c->s->seg[seg].limit)
			return r;
		if ((c->s->seg[seg].attr & 0xc) == 4)
			return r;
	}
	struct soft_tlb_entry *e = soft_translate(c, gva, kind, s->user);
	if (unlikely(e->tag[kind] != (gva & ~PAGE_MASK))) {
		if (!e->host || !soft_is_ram(c, e->gpa))
			return r;
		r.code = kind == ACCESS_WRITE;
	} else if (c->jit.on) {
		jit_tlb_learn(c, gva, kind == ACCESS_WRITE, e->host);
	}
	r.host = e->host + at;
	r.gpa = (e->gpa | at) - (down ? (n - 1) * s->size : 0);
	r.count = n;
	return r;
}

static void wrote_run(struct soft_vcpu *c, const struct string *s, const struct run *r,
					  uint64_t n) {
	fast_note_store(c, r->host);
	if (unlikely(r->code))
		soft_code_written(c, r->gpa + (s->step < 0 ? (r->count - n) * s->size : 0),
						  (unsigned)(n * s->size));
}

/* The host's REP MOVS and REP STOS of the same element size and direction treat overlaps as the
 * guest's would; std is undone at once, as C code wants it. */
#define REP(insn, outs, ins)                                                                       \
	do {                                                                                           \
		if (s->step > 0)                                                                           \
			asm volatile("rep " insn:outs:ins : "memory");                                         \
		else                                                                                       \
			asm volatile("std\n\trep " insn "\n\tcld" : outs:ins : "memory", "cc");                \
	} while (0)

static uint64_t bulk_movs(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	struct run from = find_run(c, s, s->src_seg, src_off(c, s), count, ACCESS_READ);
	if (!from.count)
		return 0;
	struct run to = find_run(c, s, SEG_ES, dst_off(c, s), from.count, ACCESS_WRITE);
	if (!to.count)
		return 0;
	uint64_t n = to.count, len = n;
	uint8_t *src = from.host, *dst = to.host;
#define MOVS_OUT "+S"(src), "+D"(dst), "+c"(len)
	switch (s->size) {
	case 1:
		REP("movsb", MOVS_OUT, );
		break;
	case 2:
		REP("movsw", MOVS_OUT, );
		break;
	case 4:
		REP("movsl", MOVS_OUT, );
		break;
	default:
		REP("movsq", MOVS_OUT, );
	}
	advance(c, s, RSI, (int64_t)n * s->step);
	advance(c, s, RDI, (int64_t)n * s->step);
	wrote_run(c, s, &to, n);
	return n;
}

static uint64_t bulk_stos(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	struct run to = find_run(c, s, SEG_ES, dst_off(c, s), count, ACCESS_WRITE);
	if (!to.count)
		return 0;
	uint64_t n = to.count, len = n, val = c->s->gpr[RAX];
	uint8_t *dst = to.host;
#define STOS_OUT "+D"(dst), "+c"(len)
	switch (s->size) {
	case 1:
		REP("stosb", STOS_OUT, "a"(val));
		break;
	case 2:
		REP("stosw", STOS_OUT, "a"(val));
		break;
	case 4:
		REP("stosl", STOS_OUT, "a"(val));
		break;
	default:
		REP("stosq", STOS_OUT, "a"(val));
	}
	advance(c, s, RDI, (int64_t)n * s->step);
	wrote_run(c, s, &to, n);
	return n;
}

/* Only the last element's load can be seen. */
static uint64_t bulk_lods(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	struct run from = find_run(c, s, s->src_seg, src_off(c, s), count, ACCESS_READ);
	if (!from.count)
		return 0;
	int64_t n = (int64_t)from.count;
	fast_set_reg(c, RAX, s->size, fast_load(from.host + (n - 1) * s->step, s->size));
	advance(c, s, RSI, n * s->step);
	return from.count;
}

/* Up to the element that ends the repetition, whose flags are the ones that stay. */
static uint64_t bulk_scas(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	struct run to = find_run(c, s, SEG_ES, dst_off(c, s), count, ACCESS_READ);
	if (!to.count)
		return 0;
	uint64_t a = fast_reg(c, RAX, s->size), b;
	int64_t n = 0;
	do {
		b = fast_load(to.host + n * s->step, s->size);
		n++;
	} while ((a == b) == s->while_equal && (uint64_t)n < to.count);
	compare(c, a, b, s->size);
	advance(c, s, RDI, n * s->step);
	return (uint64_t)n;
}

static uint64_t bulk_cmps(struct soft_vcpu *c, const struct string *s, uint64_t count) {
	/* ES:DI first, as above. */
	struct run to = find_run(c, s, SEG_ES, dst_off(c, s), count, ACCESS_READ);
	if (!to.count)
		return 0;
	struct run from = find_run(c, s, s->src_seg, src_off(c, s), to.count, ACCESS_READ);
	if (!from.count)
		return 0;
	uint64_t a, b;
	int64_t n = 0;
	do {
		a = fast_load(from.host + n * s->step, s->size);
		b = fast_load(to.host + n * s->step, s->size);
		n++;
	} while ((a == b) == s->while_equal && (uint64_t)n < from.count);
	compare(c, a, b, s->size);
	advance(c, s, RSI, n * s->step);
	advance(c, s, RDI, n * s->step);
	return (uint64_t)n;
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
		if (bulk && !c->single_step)
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
	repeat(c, i, element_lods, bulk_lods, false);
}

void op_cmps(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_cmps, bulk_cmps, true);
}

void op_scas(struct soft_vcpu *c, const struct x86_insn *i) {
	repeat(c, i, element_scas, bulk_scas, true);
}
