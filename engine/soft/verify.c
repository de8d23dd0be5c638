/* The code verifier: proves of each emitted block, from its bytes alone, that it can touch nothing
 * but what a check has allowed. It shares no code with the emitter; what it trusts is the decoder
 * (core/x86, compared with Zydis in the tests), the thunks, and jit_fill().
 *
 * What is proved:
 * - Every memory operand is either a read of the guest code that a self-checking block was made
 *   from, at an address that is a constant; or GS-relative in a slot of the table below, in the
 * direction that the table allows; or in the TLB at an index that is provably inside; or lies, with
 * its whole size, in bytes that a TLB entry of the block's privilege was found to hold, for writing
 *   if it writes.
 * - Every jump goes to an instruction of the block itself, to a thunk that takes such jumps, or
 *   through the tables of jump targets, which hold nothing but entries and thunks. No path runs
 *   out of the block's end. Calls are the same: of thunks, through the tables, or at the patched
 *   places. A ret is allowed anywhere: on the stack of return addresses there are only those of
 *   such calls, behind which nothing is taken for granted.
 * - Thunks get what they expect in R11: a struct jit_op or jit_link of this block, an exit
 *   code, an address of the block's guest code.
 * - No instruction outside of a list: nothing privileged, no system call, no string or stack
 *   instruction, nothing that names host RSP or a segment but GS, nothing that changes GS or the
 *   exception masks of x87 and SSE.
 * - What link_to() patches is the displacement of a jump, aligned so that it changes at once.
 * Not proved: that the code does what the guest's does. That is what test/insn is for.
 *
 * How: an abstract interpretation along the straight line. A value is a linear expression modulo
 * 2^64 over atoms, each a 64-bit unknown; and maybe also (expression >> n) & mask. Known are the
 * values of the registers and of the slots. After every call, and at a place that is jumped to, all
 * of them become fresh atoms, which is true whatever path led there. But if all jumps to a place
 * come from straight-line code around it that has no call and no other way in, only what is written
 * in that code is forgotten, and facts that were found in it: a loop keeps what holds before it.
 * Facts:
 *   CMP   the flags compare X & ~0xfff with the tag of TLB table T at index (Y >> 8) & 0x3ff0,
 *         where X - Y is a constant below a page;
 *   HIT   ... and they were equal: JNE was not taken. An entry at that index holds no page but one
 *         with these index bits, so X and Y lie in that page, and all between them;
 *   SLOT  the flags compare X - lo with lim, both of slot S; JAE not taken: the S.size bytes from X
 *         lie in the slot (kept until values are forgotten: nothing else changes slots);
 *   and an atom loaded from the addend beside that tag, or of that slot, is worth: Y + addend + d
 * is the host address of guest byte Y + d, for min(0, X - Y) <= d <= max(0, X - Y); for a slot Y is
 * X, and 0 <= d < S.size. An operand is allowed if its address minus one such atom minus Y is a
 * constant d with [d, d + size) in those bounds.
 *
 * Called by the translator on the vCPU's thread when switched on, and by test/insn/verify.c. */
#include <sys/mman.h>

#include "core/base/check.h"
#include "core/base/fmt.h"
#include "core/base/string.h"
#include "engine/soft/jit.h"

#define AREA ((sizeof(struct vcpu) + 63) & ~(size_t)63)
#define STATE(f) ((uint32_t)offsetof(struct vcpu, state.f))
#define JIT(f) ((uint32_t)(AREA + offsetof(struct soft_vcpu, jit.f)))

#define SCRATCH 11 /* R11 */
#define MAX_BYTES 16384
#define MAX_ATOMS 8192
#define TERMS 5

/* ---- slots: what may be reached at a fixed distance from GS ------------------------------- */

static const struct slot {
	uint32_t off;
	uint8_t size, access;
} slots[] = {
	{STATE(gpr[0]), 8, OPND_R | OPND_W},  {STATE(gpr[1]), 8, OPND_R | OPND_W},
	{STATE(gpr[2]), 8, OPND_R | OPND_W},  {STATE(gpr[3]), 8, OPND_R | OPND_W},
	{STATE(gpr[4]), 8, OPND_R | OPND_W},  {STATE(gpr[5]), 8, OPND_R | OPND_W},
	{STATE(gpr[6]), 8, OPND_R | OPND_W},  {STATE(gpr[7]), 8, OPND_R | OPND_W},
	{STATE(gpr[8]), 8, OPND_R | OPND_W},  {STATE(gpr[9]), 8, OPND_R | OPND_W},
	{STATE(gpr[10]), 8, OPND_R | OPND_W}, {STATE(gpr[11]), 8, OPND_R | OPND_W},
	{STATE(gpr[12]), 8, OPND_R | OPND_W}, {STATE(gpr[13]), 8, OPND_R | OPND_W},
	{STATE(gpr[14]), 8, OPND_R | OPND_W}, {STATE(gpr[15]), 8, OPND_R | OPND_W},
	{STATE(seg[0].sel), 2, OPND_R},		  {STATE(seg[1].sel), 2, OPND_R},
	{STATE(seg[2].sel), 2, OPND_R},		  {STATE(seg[3].sel), 2, OPND_R},
	{STATE(seg[4].sel), 2, OPND_R},		  {STATE(seg[5].sel), 2, OPND_R},
	{STATE(rip), 8, OPND_R | OPND_W},	  {STATE(seg[SEG_ES].base), 8, OPND_R},
	{STATE(seg[SEG_CS].base), 8, OPND_R}, {STATE(seg[SEG_SS].base), 8, OPND_R},
	{STATE(seg[SEG_DS].base), 8, OPND_R}, {STATE(seg[SEG_FS].base), 8, OPND_R},
	{STATE(seg[SEG_GS].base), 8, OPND_R}, {JIT(segs[0].reach[0]), 8, OPND_R},
	{JIT(segs[0].reach[1]), 8, OPND_R},	  {JIT(segs[1].reach[0]), 8, OPND_R},
	{JIT(segs[1].reach[1]), 8, OPND_R},	  {JIT(segs[2].reach[0]), 8, OPND_R},
	{JIT(segs[2].reach[1]), 8, OPND_R},	  {JIT(segs[3].reach[0]), 8, OPND_R},
	{JIT(segs[3].reach[1]), 8, OPND_R},	  {JIT(segs[4].reach[0]), 8, OPND_R},
	{JIT(segs[4].reach[1]), 8, OPND_R},	  {JIT(segs[5].reach[0]), 8, OPND_R},
	{JIT(segs[5].reach[1]), 8, OPND_R},	  {JIT(tmp), 8, OPND_R | OPND_W},
	{JIT(flags_ax), 8, OPND_R | OPND_W},  {JIT(poll), 4, OPND_R},
	{JIT(held[0]), 8, OPND_R | OPND_W},	  {JIT(held[1]), 8, OPND_R | OPND_W},
	{JIT(held[2]), 8, OPND_R | OPND_W},	  {JIT(held[3]), 8, OPND_R | OPND_W},
	{JIT(held[4]), 8, OPND_R | OPND_W},	  {JIT(held[5]), 8, OPND_R | OPND_W},
	{JIT(held[6]), 8, OPND_R | OPND_W},	  {JIT(held[7]), 8, OPND_R | OPND_W},
	{JIT(held[8]), 8, OPND_R | OPND_W},	  {JIT(held[9]), 8, OPND_R | OPND_W},
	{JIT(held[10]), 8, OPND_R | OPND_W},  {JIT(held[11]), 8, OPND_R | OPND_W},
	{JIT(held[12]), 8, OPND_R | OPND_W},  {JIT(held[13]), 8, OPND_R | OPND_W},
	{JIT(held[14]), 8, OPND_R | OPND_W},  {JIT(held[15]), 8, OPND_R | OPND_W},
};
#define SLOTS (sizeof(slots) / sizeof(slots[0]))

/* ---- values ------------------------------------------------------------------------------ */

struct lin {
	uint8_t n;
	uint16_t atom[TERMS];
	uint64_t coef[TERMS];
	uint64_t c;
};

struct val {
	struct lin lin;
	bool bits; /* also: (of >> shift) & mask; shift < 0: to the left */
	int shift;
	uint64_t mask;
	struct lin of;
};

/* A place in the TLB, and which bytes around Y it stands for once its tag has matched. */
struct probe {
	bool on, write;
	struct val index;
	int64_t lo, hi;
};

struct atom {
	bool addend, write;
	bool lo_of;	  /* loaded from slot's lo */
	bool of_slot; /* the slot's addend: y is any address that passed its check */
	bool part;	  /* is (of >> shift) & mask, for which there is no other atom */
	int shift;
	uint64_t mask;
	struct lin of;
	uint32_t slot;
	struct lin y;
	int64_t lo, hi;
};

/* A slot whose check has passed for the bytes from x on. */
struct passed {
	uint32_t slot;
	struct lin x;
	unsigned reg;	   /* that was compared */
	const uint8_t *pc; /* of the branch that was not taken */
};
#define PASSED 128
#define MAX_PARTS 64

struct region {
	const uint8_t *at; /* writable address */
	size_t len;
	uint8_t marks[MAX_BYTES];
	/* Of a label: the first and the end of the last jump to it from its own region. */
	uint16_t from[MAX_BYTES], to[MAX_BYTES];
	uint8_t sources[MAX_BYTES];	 /* how many jumps go there, up to 2 */
	uint16_t returns[MAX_BYTES]; /* with MARK_RETURN: where the other region jumps back here */
};
#define MARK_START 1u
#define MARK_LABEL 2u
#define MARK_OUTER 4u  /* jumped to from elsewhere, too */
#define MARK_RETURN 8u /* a missed slot's code comes back to behind the check (missed_slot()) */

enum pending { PENDING_NONE, PENDING_TLB, PENDING_SLOT };

struct verifier {
	const struct jit *j;
	const struct jit_block *b;
	struct region region[2];
	unsigned natoms;
	struct atom atoms[MAX_ATOMS];
	unsigned nparts;
	uint16_t parts[MAX_PARTS];

	struct val reg[16], slot[SLOTS], blank[16];
	bool blank_made;
	bool slot_known[SLOTS];
	enum pending pending; /* what the flags say */
	struct probe compared;
	struct probe hit;
	struct passed slot_compared, passed[PASSED];
	unsigned npassed;
	struct {
		bool on;
		struct lin now;
		struct val before;
	} swapped[4]; /* RAX..RBX with their low bytes exchanged: doing it again undoes it */

	const uint8_t *pc; /* writable address of the instruction, and of the next one */
	struct x86_insn insn;
	const char *why;
};

static bool refuse(struct verifier *v, const char *why) {
	if (!v->why)
		v->why = why;
	return false;
}

static struct lin constant(uint64_t c) {
	return (struct lin){.c = c};
}

static struct lin fresh_lin(struct verifier *v) {
	if (v->natoms == MAX_ATOMS) {
		refuse(v, "too long to be verified");
		return constant(0); /* refused anyway */
	}
	v->atoms[v->natoms] = (struct atom){0};
	return (struct lin){.n = 1, .atom = {(uint16_t)v->natoms++}, .coef = {1}};
}

static struct val fresh(struct verifier *v, unsigned size) {
	struct val x = {.lin = fresh_lin(v)};
	if (size == 4) { /* the upper half is 0 */
		x.of = x.lin;
		x.bits = true;
		x.mask = 0xffffffff;
	}
	return x;
}

static struct val value(struct lin l) {
	return (struct val){.lin = l};
}

/* x + k * y; too many terms: an unknown. */
static struct lin lin_add(struct verifier *v, const struct lin *x, const struct lin *y,
						  uint64_t k) {
	struct lin r = *x;
	r.c += k * y->c;
	for (unsigned n = 0; n < y->n; n++) {
		unsigned m = 0;
		while (m < r.n && r.atom[m] != y->atom[n])
			m++;
		if (m == TERMS)
			return fresh_lin(v);
		if (m == r.n) {
			r.atom[r.n] = y->atom[n];
			r.coef[r.n++] = 0;
		}
		r.coef[m] += k * y->coef[n];
		if (!r.coef[m]) {
			r.n--;
			r.atom[m] = r.atom[r.n];
			r.coef[m] = r.coef[r.n];
		}
	}
	return r;
}

/* Whether x - y is a constant, which goes to *d. */
static bool lin_diff(struct verifier *v, const struct lin *x, const struct lin *y, uint64_t *d) {
	struct lin r = lin_add(v, x, y, ~0ull);
	*d = r.c;
	return r.n == 0;
}

static bool same_bits(struct verifier *v, const struct val *x, const struct val *y) {
	uint64_t d;
	if (lin_diff(v, &x->lin, &y->lin, &d) && d == 0)
		return true;
	return x->bits && y->bits && x->shift == y->shift && x->mask == y->mask &&
		   lin_diff(v, &x->of, &y->of, &d) && d == 0;
}

static struct val bits_of(const struct val *x) {
	struct val r = *x;
	if (!r.bits) {
		r.bits = true;
		r.of = r.lin;
		r.mask = ~0ull;
		r.shift = 0;
	}
	return r;
}

/* The same bits of the same expression are the same atom, so that an address that is computed anew
 * is known to be the one that was checked. */
static struct lin part_lin(struct verifier *v, const struct val *x) {
	uint64_t d;
	for (unsigned n = 0; n < v->nparts; n++) {
		const struct atom *a = &v->atoms[v->parts[n]];
		if (a->shift == x->shift && a->mask == x->mask && lin_diff(v, &a->of, &x->of, &d) && !d)
			return (struct lin){.n = 1, .atom = {v->parts[n]}, .coef = {1}};
	}
	struct lin r = fresh_lin(v);
	if (r.n && v->nparts < MAX_PARTS) {
		struct atom *a = &v->atoms[r.atom[0]];
		a->part = true;
		a->shift = x->shift;
		a->mask = x->mask;
		a->of = x->of;
		v->parts[v->nparts++] = r.atom[0];
	}
	return r;
}

static struct val masked(struct verifier *v, const struct val *x, uint64_t mask) {
	struct val r = bits_of(x);
	r.mask &= mask;
	r.lin = part_lin(v, &r);
	return r;
}

/* The first 16 atoms are what the registers hold when nothing is known. */
static void forget_all(struct verifier *v) {
	if (!v->blank_made) {
		v->natoms = 0;
		for (unsigned n = 0; n < 16; n++)
			v->blank[n] = value(fresh_lin(v));
		v->blank_made = true;
	}
	v->natoms = 16;
	v->nparts = 0;
	memcpy(v->reg, v->blank, sizeof(v->reg));
	memset(v->slot_known, 0, sizeof(v->slot_known));
	v->pending = PENDING_NONE;
	v->hit.on = false;
	v->npassed = 0;
	for (unsigned n = 0; n < 4; n++)
		v->swapped[n].on = false;
}

/* ---- memory operands --------------------------------------------------------------------- */

static const struct x86_opnd *memory_operand(const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_MEM)
			return &i->opnd[n];
	return NULL;
}

static struct lin address(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	struct lin a = constant((uint64_t)i->disp);
	if (i->base < 16)
		a = lin_add(v, &a, &v->reg[i->base].lin, 1);
	if (i->index < 16)
		a = lin_add(v, &a, &v->reg[i->index].lin, 1ull << i->scale);
	return a;
}

/* The slot that a GS-relative operand lies in, or -1. */
static int slot_of(const struct x86_insn *i, unsigned size, unsigned access) {
	if (i->base != X86_REG_NONE || i->index != X86_REG_NONE)
		return -1;
	for (unsigned n = 0; n < SLOTS; n++)
		if ((uint64_t)i->disp >= slots[n].off &&
			(uint64_t)i->disp + size <= slots[n].off + slots[n].size &&
			!(access & ~slots[n].access & (OPND_R | OPND_W)))
			return (int)n;
	return -1;
}

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

/* Low bits that are 0 whatever the unknowns are. */
static uint64_t known_zeros(const struct lin *x) {
	uint64_t all = x->c;
	for (unsigned n = 0; n < x->n; n++)
		all |= x->coef[n];
	return all ? (all & -all) - 1 : ~0ull;
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
		   !(x->mask & ~known_zeros(&x->of) & ~(uint64_t)(8 * (JIT_JUMPS - 1)));
}

/* The distance of address a from one that the addend x is known to be for, to *d. */
static bool distance(struct verifier *v, const struct atom *x, const struct lin *a, unsigned size,
					 uint64_t *d) {
	if (!x->of_slot)
		return lin_diff(v, a, &x->y, d);
	bool any = false;
	for (unsigned n = 0; n < v->npassed; n++) {
		uint64_t here;
		if (v->passed[n].slot != x->slot || !lin_diff(v, a, &v->passed[n].x, &here))
			continue;
		if (!any || ((int64_t)here >= x->lo && (int64_t)here + (int64_t)size - 1 <= x->hi))
			*d = here;
		any = true;
	}
	return any;
}

/* [address, address + size) was checked. */
static bool proved(struct verifier *v, unsigned size, unsigned access) {
	struct lin a = address(v);
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
			return refuse(v, "memory operand larger than what was checked");
		if (access & OPND_W && !x->write)
			return refuse(v, "write after a check for reading");
		return true;
	}
	return refuse(v, "memory operand without a check");
}

/* The compare that begins a guarded access. */
static bool compare_with_table(struct verifier *v) {
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
			y->shift == 8 && y->mask == (JIT_TLB - 1) << 4 && lin_diff(v, &x->of, &y->of, &d) &&
			d + PAGE_MASK <= 2 * PAGE_MASK) {
			int64_t s = (int64_t)d;
			v->pending = PENDING_TLB;
			v->compared = (struct probe){true, write, *y, s < 0 ? s : 0, s > 0 ? s : 0};
		}
		return true;
	}
	return false;
}

/* MOV reg, addend. */
static bool load_addend(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	if (i->op != X86_OP_MOV || i->opnd[0].kind != OPND_GPR || i->opnd[0].size != 8)
		return false;
	for (unsigned write = 0; write < 2; write++) {
		if (table_half(v, tlb_table(v, write), JIT_TLB) != offsetof(struct jit_tlb_entry, addend))
			continue;
		struct val index = *table_index(v), *to = &v->reg[i->opnd[0].reg];
		*to = value(fresh_lin(v));
		if (v->hit.on && v->hit.write == write && same_bits(v, &index, &v->hit.index))
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
	struct lin lo = fresh_lin(v);
	v->atoms[lo.atom[0]].lo_of = true;
	v->atoms[lo.atom[0]].slot = slot;
	*d = value(lin_add(v, &d->lin, &lo, ~0ull));
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
		v->slot_compared = (struct passed){.slot = slot, .x = x, .reg = v->insn.opnd[0].reg};
		return;
	}
}

/* More than one check may look into one slot: as nothing changes slots, all of them hold. */
static void check_passed(struct verifier *v) {
	if (v->npassed == PASSED)
		refuse(v, "too many checks");
	else {
		v->passed[v->npassed] = v->slot_compared;
		v->passed[v->npassed++].pc = v->pc;
	}
}

/* mov reg, addend */
static void load_slot_addend(struct verifier *v, uint32_t slot, unsigned write, unsigned size) {
	struct val *to = &v->reg[v->insn.opnd[0].reg];
	*to = value(fresh_lin(v));
	v->atoms[to->lin.atom[0]] = (struct atom){
		.addend = true, .write = write, .of_slot = true, .slot = slot, .hi = (int64_t)size - 1};
}

/* One of the four things that code does with a slot. */
static bool slot_operand(struct verifier *v, const struct x86_opnd *m) {
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
		refuse(v, "odd use of a slot");
	}
	return true;
}

/* ---- instructions ------------------------------------------------------------------------ */

static bool integer_allowed(unsigned op) {
	switch (op) {
	case X86_OP_ADD:
	case X86_OP_OR:
	case X86_OP_ADC:
	case X86_OP_SBB:
	case X86_OP_AND:
	case X86_OP_SUB:
	case X86_OP_XOR:
	case X86_OP_CMP:
	case X86_OP_TEST:
	case X86_OP_NOT:
	case X86_OP_NEG:
	case X86_OP_INC:
	case X86_OP_DEC:
	case X86_OP_MUL:
	case X86_OP_IMUL:
	case X86_OP_MOV:
	case X86_OP_MOVZX:
	case X86_OP_MOVSX:
	case X86_OP_MOVSXD:
	case X86_OP_MOVBE:
	case X86_OP_MOVNTI:
	case X86_OP_LEA:
	case X86_OP_XCHG:
	case X86_OP_XADD:
	case X86_OP_CMPXCHG:
	case X86_OP_CMPXCHG8B:
	case X86_OP_CMPXCHG16B:
	case X86_OP_BSWAP:
	case X86_OP_BSF:
	case X86_OP_BSR:
	case X86_OP_TZCNT:
	case X86_OP_LZCNT:
	case X86_OP_POPCNT:
	case X86_OP_CRC32:
	case X86_OP_BT:
	case X86_OP_BTS:
	case X86_OP_BTR:
	case X86_OP_BTC:
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_RCL:
	case X86_OP_RCR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
	case X86_OP_CBW:
	case X86_OP_CWD:
	case X86_OP_LAHF:
	case X86_OP_SAHF:
	case X86_OP_CLC:
	case X86_OP_STC:
	case X86_OP_CMC:
	case X86_OP_SETCC:
	case X86_OP_CMOVCC:
	case X86_OP_ADCX:
	case X86_OP_ADOX:
	case X86_OP_ANDN:
	case X86_OP_BEXTR:
	case X86_OP_BLSI:
	case X86_OP_BLSMSK:
	case X86_OP_BLSR:
	case X86_OP_BZHI:
	case X86_OP_MULX:
	case X86_OP_PDEP:
	case X86_OP_PEXT:
	case X86_OP_RORX:
	case X86_OP_SARX:
	case X86_OP_SHLX:
	case X86_OP_SHRX:
	case X86_OP_LFENCE:
	case X86_OP_MFENCE:
	case X86_OP_SFENCE:
	case X86_OP_NOP:
		return true;
	default:
		return false;
	}
}

/* Of the vector classes, what has an operand that is not listed, or unmasks exceptions. */
static bool vector_refused(unsigned op) {
	switch (op) {
	case X86_OP_MASKMOVQ:
	case X86_OP_MASKMOVDQU:
	case X86_OP_VMASKMOVDQU:
	case X86_OP_LDMXCSR:
	case X86_OP_VLDMXCSR:
	case X86_OP_FLDCW:
	case X86_OP_FLDENV:
	case X86_OP_FRSTOR:
	case X86_OP_FXRSTOR:
		return true;
	default:
		return false;
	}
}

static bool listed(const struct x86_insn *i) {
	const struct x86_form *f = &x86_forms[i->form];
	if (f->attr & (X86_ATTR_PRIV | X86_ATTR_STACK | X86_ATTR_VSIB))
		return false;
	if (f->cls >= X86_CLASS_X87 && f->cls <= X86_CLASS_AVX512)
		return !vector_refused(i->op);
	return integer_allowed(i->op);
}

static bool names_rsp(const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].reg == RSP)
			return true;
	return memory_operand(i) && (i->base == RSP || i->index == RSP);
}

/* XCHG AL, AH and the like. */
static bool swap_of_bytes(struct verifier *v) {
	const struct x86_opnd *a = &v->insn.opnd[0], *b = &v->insn.opnd[1];
	if (v->insn.op != X86_OP_XCHG || a->kind != OPND_GPR || b->kind != OPND_GPR || a->size != 1 ||
		(a->reg ^ b->reg) != X86_REG_HIGH)
		return false;
	unsigned r = a->reg & 3;
	uint64_t d;
	if (v->swapped[r].on && lin_diff(v, &v->reg[r].lin, &v->swapped[r].now, &d) && d == 0) {
		v->reg[r] = v->swapped[r].before;
		v->swapped[r].on = false;
	} else {
		v->swapped[r].before = v->reg[r];
		v->reg[r] = value(fresh_lin(v));
		v->swapped[r].now = v->reg[r].lin;
		v->swapped[r].on = true;
	}
	return true;
}

/* Guest registers hold sums of at most two unknowns, so that with a base, an index and an addend
 * there is room for all terms of an address; what the sum of more was made of never matters. */
static void set_sum(struct verifier *v, unsigned reg, struct val x) {
	v->reg[reg] = reg != 10 && reg != SCRATCH && x.lin.n > 2 ? value(fresh_lin(v)) : x;
}

/* The effects of an instruction on registers, if it is one of those whose result matters. */
static bool modelled(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	const struct x86_opnd *a = &i->opnd[0], *b = &i->opnd[1];
	if (i->nopnds == 1 && (i->op == X86_OP_INC || i->op == X86_OP_DEC) && a->kind == OPND_GPR &&
		a->size == 8) {
		v->reg[a->reg].lin.c += i->op == X86_OP_INC ? 1 : ~0ull;
		v->reg[a->reg].bits = false;
		return true;
	}
	if (swap_of_bytes(v))
		return true;
	if (i->nopnds < 2 || a->kind != OPND_GPR || a->size < 4 || !(a->access & OPND_W))
		return false;
	struct val *d = &v->reg[a->reg];
	bool wide = a->size == 8;
	switch (i->op) {
	case X86_OP_MOV:
		if (b->kind == OPND_IMM)
			*d = value(constant(wide ? i->imm : (uint32_t)i->imm));
		else if (b->kind == OPND_GPR)
			*d = wide ? value(v->reg[b->reg].lin) : masked(v, &v->reg[b->reg], 0xffffffff);
		else
			return false;
		return true;
	case X86_OP_MOVZX:
		if (b->kind != OPND_GPR || b->size != 2)
			return false;
		*d = masked(v, &v->reg[b->reg], 0xffff);
		return true;
	case X86_OP_LEA: {
		if (i->addrsize != 8 || i->base == X86_REG_RIP)
			return false;
		struct val x = value(address(v));
		set_sum(v, a->reg, wide ? x : value(masked(v, &x, 0xffffffff).lin));
		return true;
	}
	case X86_OP_ADD:
	case X86_OP_SUB: {
		struct lin s = constant(i->imm);
		if (b->kind == OPND_GPR)
			s = v->reg[b->reg].lin;
		else if (b->kind != OPND_IMM)
			return false;
		if (!wide)
			return false;
		set_sum(v, a->reg, value(lin_add(v, &d->lin, &s, i->op == X86_OP_ADD ? 1 : ~0ull)));
		return true;
	}
	case X86_OP_AND:
		if (b->kind != OPND_IMM)
			return false;
		*d = masked(v, d, wide ? i->imm : (uint32_t)i->imm);
		return true;
	case X86_OP_SHL:
	case X86_OP_SHR: {
		if (b->kind != OPND_IMM && b->kind != OPND_ONE)
			return false;
		unsigned n = (b->kind == OPND_ONE ? 1 : (unsigned)i->imm) & (wide ? 63 : 31);
		struct val x = wide ? *d : masked(v, d, 0xffffffff);
		x = bits_of(&x);
		bool left = i->op == X86_OP_SHL;
		x.mask = left ? x.mask << n : x.mask >> n;
		x.shift += left ? -(int)n : (int)n;
		if (x.shift > 63 || x.shift < -63)
			return false;
		*d = masked(v, &x, wide ? ~0ull : 0xffffffff);
		return true;
	}
	default:
		return false;
	}
}

/* Registers that are written though no operand of the table says so. */
static unsigned implied_writes(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_PCMPESTRI:
	case X86_OP_PCMPISTRI:
	case X86_OP_VPCMPESTRI:
	case X86_OP_VPCMPISTRI:
		return 1u << RCX;
	case X86_OP_LAHF:
		return 1u << RAX;
	case X86_OP_MUL:
	case X86_OP_IMUL:
	case X86_OP_CMPXCHG:
	case X86_OP_CMPXCHG8B:
	case X86_OP_CMPXCHG16B:
	case X86_OP_CBW:
	case X86_OP_CWD:
		return 1u << RAX | 1u << RDX;
	default:
		return 0;
	}
}

static unsigned register_of(const struct x86_opnd *o) {
	return o->reg & X86_REG_HIGH ? o->reg & 3 : o->reg;
}

static unsigned written_registers(const struct x86_insn *i) {
	unsigned regs = implied_writes(i);
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].access & OPND_W)
			regs |= 1u << register_of(&i->opnd[n]);
	return regs;
}

static void clobber_registers(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	unsigned implied = implied_writes(i);
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].access & OPND_W)
			v->reg[register_of(&i->opnd[n])] = fresh(v, i->opnd[n].size);
	for (unsigned n = 0; n < 16; n++)
		if (implied & 1u << n)
			v->reg[n] = value(fresh_lin(v));
}

/* An operand in a GS slot: loads and stores of whole slots are followed. */
static bool slot_access(struct verifier *v, const struct x86_opnd *m) {
	const struct x86_insn *i = &v->insn;
	int s = slot_of(i, m->size, m->access);
	if (s < 0)
		return refuse(v, "GS-relative operand outside of the allowed slots");
	if (!v->slot_known[s]) {
		v->slot[s] = value(fresh_lin(v));
		v->slot_known[s] = true;
	}
	const struct x86_opnd *a = &i->opnd[0], *b = &i->opnd[1];
	struct val *d = a->kind == OPND_GPR ? &v->reg[a->reg & 15] : NULL;
	if (m->size == 8 && i->op == X86_OP_MOV && d) {
		*d = v->slot[s];
		return true;
	}
	bool whole = (uint64_t)i->disp == slots[s].off;
	if (i->op == X86_OP_ADD && d && (m->size == 8 || (m->size == 4 && whole))) {
		struct val x = value(lin_add(v, &d->lin, &v->slot[s].lin, 1));
		*d = m->size == 8 ? x : value(masked(v, &x, 0xffffffff).lin);
		return true;
	}
	if (m->size == 8 && i->op == X86_OP_MOV && b->kind == OPND_GPR) {
		v->slot[s] = v->reg[b->reg];
		return true;
	}
	if (m->access & OPND_W)
		v->slot[s] = value(fresh_lin(v));
	clobber_registers(v);
	return true;
}

/* Whether the bit that BT or its like tests lies in the operand: its offset is a constant or has
 * been masked. */
static bool bit_within(const struct verifier *v) {
	const struct x86_opnd *m = &v->insn.opnd[0], *bit = &v->insn.opnd[1];
	if (bit->kind == OPND_IMM)
		return true;
	const struct val *x = &v->reg[bit->reg & 15];
	return bit->kind == OPND_GPR && x->bits && !(x->mask & ~(8ull * m->size - 1));
}

static bool plain(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	const struct x86_form *f = &x86_forms[i->form];
	if (!listed(i))
		return refuse(v, "instruction that must not be emitted");
	if (names_rsp(i))
		return refuse(v, "names the host's stack pointer");
	if (i->seg_prefix != X86_REG_NONE && i->seg_prefix != SEG_GS)
		return refuse(v, "segment prefix");
	const struct x86_opnd *m = memory_operand(i);
	if (m && f->attr & X86_ATTR_NOMEM_FAULT)
		m = NULL;
	if (i->op == X86_OP_LEA)
		m = NULL;
	if (!m && i->seg_prefix == SEG_GS)
		return refuse(v, "segment prefix");
	enum pending before = v->pending;
	if (m) {
		if (!m->size || !(m->access & (OPND_R | OPND_W)))
			return refuse(v, "memory operand of unknown size");
		if (i->addrsize != 8 || i->base == X86_REG_RIP)
			return refuse(v, "address that is not of the allowed kinds");
		if ((i->op == X86_OP_BT || i->op == X86_OP_BTS || i->op == X86_OP_BTR ||
			 i->op == X86_OP_BTC) &&
			!bit_within(v))
			return refuse(v, "bit string");
		if (i->seg_prefix == SEG_GS) {
			if (compare_with_table(v) || load_addend(v) || slot_operand(v, m))
				return !v->why;
			if (!slot_access(v, m))
				return false;
		} else {
			if (!proved(v, m->size, m->access))
				return false;
			clobber_registers(v);
		}
	} else if (!modelled(v)) {
		clobber_registers(v);
	}
	v->pending = f->flags_written || f->flags_undefined ? PENDING_NONE : before;
	return !v->why;
}

/* ---- jumps ------------------------------------------------------------------------------- */

static bool is_relative(const struct x86_insn *i) {
	return i->nopnds && i->opnd[0].kind == OPND_REL;
}

/* Within the block: the region and the offset; NULL: elsewhere. */
static struct region *inside(struct verifier *v, const uint8_t *target, size_t *off) {
	for (unsigned n = 0; n < 2; n++) {
		struct region *r = &v->region[n];
		if (target >= r->at && target < r->at + r->len) {
			*off = (size_t)(target - r->at);
			return r;
		}
	}
	return NULL;
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

/* The thunk for missed slots at an executable address: class << 1 | write; -1: it is none. */
static int slot_turn(const struct verifier *v, const uint8_t *target) {
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
		return exit_argument(v) || refuse(v, "leaves with a wrong R11");
	if (op == X86_OP_CALL && (target == j->call || target == j->call_saved))
		return call_argument(v) || refuse(v, "calls a handler with a wrong R11");
	if (op == X86_OP_CALL && target == j->step_saved)
		return (const_in(v, &c) && in_guest_code(v, c)) || refuse(v, "steps with a wrong R11");
	for (unsigned n = 0; op == X86_OP_CALL && n < 2 * JIT_SIZES; n++)
		if (target == j->fill[n / JIT_SIZES][n % JIT_SIZES])
			return (const_in(v, &c) && in_guest_code(v, c)) || refuse(v, "fills with a wrong R11");
	unsigned write, size;
	if (op == X86_OP_CALL && target == j->slot_fill)
		return (const_in(v, &c) && c <= UINT32_MAX &&
				jit_slot_valid((uint32_t)c, user, &write, &size)) ||
			   refuse(v, "fills a slot that is none");
	int turn = op == X86_OP_CALL ? slot_turn(v, target) : -1;
	if (turn >= 0)
		return (const_in(v, &c) && c <= UINT32_MAX &&
				jit_slot_valid((uint32_t)c, user, &write, &size) && write == (turn & 1) &&
				size == 16u << 2 * (turn >> 1)) ||
			   refuse(v, "fills a slot that is none of the kind");
	for (unsigned n = 0; op == X86_OP_CALL && n < JIT_QUICKS; n++)
		if (target == j->quick[n])
			return true;
	return refuse(v, "jump to somewhere unknown");
}

/* The instruction is one of the block's patched jumps. */
static bool is_link(const struct verifier *v) {
	for (const struct jit_link *l = v->b->out; l; l = l->own_next)
		if (l->patch == v->pc + v->insn.imm_off)
			return true;
	return false;
}

static bool branch(struct verifier *v) {
	const struct x86_insn *i = &v->insn;
	size_t off;
	if (i->opsize == 2 || i->prefix & X86_PFX_OPSIZE ||
		(i->prefix & X86_PFX_ADDRSIZE && i->op != X86_OP_JCXZ))
		return refuse(v, "odd jump");
	if (i->op == X86_OP_RET) {
		if (i->len != 1)
			return refuse(v, "odd return");
		forget_all(v);
		return true;
	}
	if (!is_relative(i)) {
		if ((i->op != X86_OP_JMP && i->op != X86_OP_CALL) || !memory_operand(i) ||
			!through_table(v))
			return refuse(v, "indirect jump");
		forget_all(v);
		return true;
	}
	const uint8_t *target = v->pc + i->len + (int64_t)i->imm;
	if (inside(v, target, &off)) { /* that it is a beginning is known */
		if (i->op == X86_OP_CALL && !is_link(v))
			return refuse(v, "call within the block");
	} else if (!leaves(v, target + v->j->exec)) {
		return false;
	}
	if (i->op == X86_OP_CALL)
		forget_all(v);
	if (i->op != X86_OP_JCC)
		return true;							   /* behind a JMP there is nothing, or a label */
	if (i->cond == 5 && v->pending == PENDING_TLB) /* NE was not taken: equal */
		v->hit = v->compared;
	if (i->cond == 3 && v->pending == PENDING_SLOT) /* AE was not taken: below */
		check_passed(v);
	return true;
}

static bool is_branch(const struct x86_insn *i) {
	return i->op == X86_OP_JMP || i->op == X86_OP_CALL || i->op == X86_OP_JCC ||
		   i->op == X86_OP_JCXZ || i->op == X86_OP_RET;
}

/* ---- the whole --------------------------------------------------------------------------- */

static int fetch(struct verifier *v, const struct region *r, size_t at) {
	v->pc = r->at + at;
	int len = x86_decode(&v->insn, v->pc, r->len - at, X86_MODE_64);
	if (len <= 0)
		refuse(v, "no instruction");
	return len;
}

/* Where instructions begin; the last one must not fall through. */
static bool sweep(struct verifier *v, struct region *r) {
	bool falls = false;
	for (size_t at = 0; at < r->len;) {
		int len = fetch(v, r, at);
		if (len <= 0)
			return false;
		r->marks[at] |= MARK_START;
		falls = v->insn.op != X86_OP_JMP && v->insn.op != X86_OP_RET;
		at += (size_t)len;
	}
	return !falls || refuse(v, "runs out of its end");
}

static bool mark_label(struct verifier *v, const uint8_t *at, unsigned more) {
	size_t off;
	struct region *r = inside(v, at, &off);
	if (!r)
		return false;
	r->marks[off] |= MARK_LABEL | more;
	r->sources[off] += r->sources[off] < 2;
	return r->marks[off] & MARK_START || refuse(v, "jump into the middle of an instruction");
}

/* The code out of line that comes back when a slot has been filled:
 *
 *     mov r11d, slot; call slot_turn; test r10d, r10d; jz back
 *
 * with nothing but a check's JAE leading to its beginning, at `at`, and `back` right behind that
 * JAE. The thunk changes R10, R11, the flags and the slot, and then JAE would not have been taken.
 */
#define MISSED_BYTES 20u

static bool missed_slot(struct verifier *v, size_t at, size_t back, uint32_t *slot) {
	struct region *hot = &v->region[0], *cold = &v->region[1];
	unsigned user = v->b->key & JIT_KEY_USER ? 1 : 0, write, size;
	const uint8_t *p = cold->at + at, *jae = hot->at + back - 6;
	int32_t rel;
	if (at + MISSED_BYTES > cold->len || cold->sources[at] != 1 || back < 6)
		return false;
	for (size_t n = at + 1; n < at + MISSED_BYTES; n++)
		if (cold->marks[n] & MARK_LABEL)
			return false;
	memcpy(&rel, jae + 2, 4);
	if (!(hot->marks[back - 6] & MARK_START) || jae[0] != 0x0f || jae[1] != 0x83 ||
		jae + 6 + rel != p || p[0] != 0x41 || p[1] != 0xbb || p[6] != 0xe8 ||
		memcmp(p + 11, (const uint8_t[]){0x45, 0x85, 0xd2, 0x0f, 0x84}, 5) != 0)
		return false;
	memcpy(slot, p + 2, 4);
	memcpy(&rel, p + 7, 4);
	return slot_turn(v, p + 11 + rel + v->j->exec) >= 0 &&
		   jit_slot_valid(*slot, user, &write, &size);
}

/* Once all labels are known. */
static void check_returns(struct verifier *v) {
	struct region *hot = &v->region[0];
	uint32_t slot;
	for (size_t back = 0; back < hot->len; back++)
		if (hot->marks[back] & MARK_RETURN && !missed_slot(v, hot->returns[back], back, &slot))
			hot->marks[back] |= MARK_OUTER;
}

static bool find_labels(struct verifier *v, struct region *r) {
	size_t off;
	for (size_t at = 0; at < r->len; at += v->insn.len) {
		fetch(v, r, at);
		if (!is_branch(&v->insn) || !is_relative(&v->insn))
			continue;
		const uint8_t *target = v->pc + v->insn.len + (int64_t)v->insn.imm;
		struct region *to = inside(v, target, &off);
		bool back = to == &v->region[0] && r == &v->region[1] && v->insn.op == X86_OP_JCC &&
					at >= MISSED_BYTES - 6 && !(to->marks[off] & MARK_RETURN);
		if (back)
			to->returns[off] = (uint16_t)(at - (MISSED_BYTES - 6));
		if (to && !mark_label(v, target, to == r ? 0 : back ? MARK_RETURN : MARK_OUTER))
			return false;
		if (to == r) {
			to->from[off] = (uint16_t)MIN(to->from[off], at);
			to->to[off] = (uint16_t)MAX(to->to[off], at + v->insn.len);
		}
	}
	return true;
}

/* Ways in and out that others know: entries, stubs, patched displacements. */
static bool known_places(struct verifier *v) {
	const struct jit_block *b = v->b;
	intptr_t x = v->j->exec;
	v->pc = b->entry - x;
	if (!mark_label(v, b->entry - x, MARK_OUTER) ||
		!mark_label(v, b->entry_checked - x, MARK_OUTER))
		return refuse(v, "entry outside of the block");
	for (const struct jit_link *l = b->out; l; l = l->own_next) {
		size_t off;
		v->pc = l->patch;
		if (!l->stub || !mark_label(v, l->stub, MARK_OUTER))
			return refuse(v, "link without a stub");
		const struct region *r = inside(v, l->patch, &off);
		if (!r || off < 2 || (uintptr_t)l->patch & 3)
			return refuse(v, "patched place outside of the block or not aligned");
		unsigned back = r->marks[off - 1] & MARK_START ? 1 : 2;
		if (!(r->marks[off - back] & MARK_START) || fetch(v, r, off - back) <= 0 ||
			v->insn.imm_off != back || v->insn.imm_len != 4 || !is_relative(&v->insn) ||
			(v->insn.op != X86_OP_JMP && v->insn.op != X86_OP_JCC && v->insn.op != X86_OP_CALL))
			return refuse(v, "patched place is not a jump's");
	}
	return true;
}

/* Widens [*from, *to) until all jumps to places in it, but for its beginning, come from within;
 * false: they do not. */
static bool widen(struct verifier *v, const struct region *r, size_t *from, size_t *to) {
	for (bool again = true; again;) {
		again = false;
		for (size_t at = *from; at < *to; at += v->insn.len) {
			fetch(v, r, at);
			if (at == *from || !(r->marks[at] & MARK_LABEL))
				continue;
			if (r->marks[at] & MARK_OUTER)
				return false;
			if (r->from[at] >= *from && r->to[at] <= *to)
				continue;
			*from = MIN(*from, r->from[at]);
			*to = MAX(*to, r->to[at]);
			again = true;
			break;
		}
	}
	return true;
}

/* What the code of [from, to) writes, and what is written when a slot is missed there; false: it
 * has a call. */
static bool closed(struct verifier *v, const struct region *r, size_t from, size_t to,
				   unsigned *regs, bool written[SLOTS]) {
	uint32_t filled;
	*regs = 0;
	for (size_t at = from; at < to; at += v->insn.len) {
		fetch(v, r, at);
		if (at != from && r->marks[at] & MARK_RETURN) {
			unsigned kept = 0;
			if (!missed_slot(v, r->returns[at], at, &filled))
				return false;
			for (unsigned n = 0; n < v->npassed; n++)
				if (v->passed[n].slot != filled || v->passed[n].pc >= r->at + from)
					v->passed[kept++] = v->passed[n];
			v->npassed = kept;
			*regs |= 1u << 10 | 1u << 11;
		}
		const struct x86_opnd *m = memory_operand(&v->insn);
		if (is_branch(&v->insn)) {
			if (!is_relative(&v->insn) || v->insn.op == X86_OP_CALL)
				return false;
			continue;
		}
		*regs |= written_registers(&v->insn);
		int slot = m && m->access & OPND_W && v->insn.seg_prefix == SEG_GS
					   ? slot_of(&v->insn, m->size, OPND_W)
					   : -1;
		if (slot >= 0)
			written[slot] = true;
	}
	return true;
}

/* What a missed slot's code may have changed; false: it is not the one of the last check. */
static bool come_back(struct verifier *v, const struct region *r, size_t label) {
	uint32_t slot;
	const struct passed *last = &v->passed[v->npassed - 1];
	unsigned kept = 0;
	if (!v->npassed || !missed_slot(v, r->returns[label], label, &slot) || last->slot != slot ||
		last->pc != r->at + label - 6 || last->reg != 10)
		return false;
	struct passed own = *last;
	for (unsigned n = 0; n + 1 < v->npassed; n++)
		if (v->passed[n].slot != slot)
			v->passed[kept++] = v->passed[n];
	v->passed[kept++] = own;
	v->npassed = kept;
	v->reg[10] = value(fresh_lin(v));
	v->reg[11] = value(fresh_lin(v));
	v->pending = PENDING_NONE;
	v->hit.on = false;
	return true;
}

static void arrive(struct verifier *v, const struct region *r, size_t label) {
	if (r->marks[label] & MARK_RETURN && !(r->marks[label] & MARK_OUTER)) {
		if (!come_back(v, r, label)) {
			forget_all(v);
			return;
		}
		if (!r->to[label]) /* from nowhere else */
			return;
	}
	size_t from = MIN(label, r->from[label]), to = MAX(label, r->to[label]);
	bool written[SLOTS] = {false};
	unsigned regs, kept = 0;
	if (r->marks[label] & MARK_OUTER || !widen(v, r, &from, &to) ||
		!closed(v, r, from, to, &regs, written)) {
		forget_all(v);
		return;
	}
	for (unsigned n = 0; n < 16; n++)
		if (regs & 1u << n)
			v->reg[n] = value(fresh_lin(v));
	for (unsigned n = 0; n < SLOTS; n++)
		v->slot_known[n] &= !written[n];
	for (unsigned n = 0; n < v->npassed; n++)
		if (v->passed[n].pc < r->at + from)
			v->passed[kept++] = v->passed[n];
	v->npassed = kept;
	v->pending = PENDING_NONE;
	v->hit.on = false;
	for (unsigned n = 0; n < 4; n++)
		v->swapped[n].on = false;
}

static bool walk(struct verifier *v, const struct region *r) {
	forget_all(v);
	for (size_t at = 0; at < r->len; at += v->insn.len) {
		if (r->marks[at] & MARK_LABEL)
			arrive(v, r, at);
		fetch(v, r, at);
		if (!(is_branch(&v->insn) ? branch(v) : plain(v)))
			return false;
	}
	return true;
}

static bool verify(struct verifier *v) {
	for (unsigned n = 0; n < 2; n++) {
		if (v->region[n].len > MAX_BYTES)
			return refuse(v, "too long to be verified");
		memset(v->region[n].marks, 0, v->region[n].len);
		memset(v->region[n].from, 0xff, 2 * v->region[n].len);
		memset(v->region[n].to, 0, 2 * v->region[n].len);
		memset(v->region[n].sources, 0, v->region[n].len);
	}
	for (unsigned n = 0; n < 2; n++)
		if (!sweep(v, &v->region[n]))
			return false;
	for (unsigned n = 0; n < 2; n++)
		if (!find_labels(v, &v->region[n]))
			return false;
	if (!known_places(v))
		return false;
	check_returns(v);
	return walk(v, &v->region[0]) && walk(v, &v->region[1]);
}

static void dump(const struct verifier *v, const struct region *r, const uint8_t *bad) {
	for (size_t at = 0; at < r->len;) {
		struct x86_insn i;
		char text[96];
		int len = x86_decode(&i, r->at + at, r->len - at, X86_MODE_64);
		if (len <= 0)
			return;
		x86_format(text, sizeof(text), &i, (uintptr_t)(r->at + at));
		log_line(LOG_ERROR, "%s %lx%s %s", r->at + at == bad ? "=>" : "  ",
				 (unsigned long)(uintptr_t)(r->at + at), r->marks[at] & MARK_LABEL ? ":" : " ",
				 text);
		at += (size_t)len;
	}
}

static bool run(struct verifier *v, const struct jit *j, const struct jit_block *b) {
	v->j = j;
	v->b = b;
	v->why = NULL;
	v->pc = NULL;
	v->region[0].at = b->hot;
	v->region[0].len = b->hot_len;
	v->region[1].at = b->cold;
	v->region[1].len = b->cold_len;
	return verify(v);
}

/* Too large for a stack; jit->lock is held while it is used. Made beforehand, since the guest's
 * vector registers may be in place then, which the C library does not keep. */
int jit_verifier_create(struct jit *j) {
	void *v = mmap(NULL, sizeof(struct verifier), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	j->verifier = v != MAP_FAILED ? v : NULL;
	return j->verifier ? 0 : -ERR_NOMEM;
}

void jit_verifier_destroy(struct jit *j) {
	if (j->verifier)
		munmap(j->verifier, sizeof(struct verifier));
}

const char *jit_verify(const struct jit *j, const struct jit_block *b) {
	struct verifier *v = j->verifier;
	return run(v, j, b) ? NULL : v->why;
}

void jit_verify_or_stop(const struct jit *j, const struct jit_block *b) {
	struct verifier *v = j->verifier;
	if (run(v, j, b))
		return;
	log_line(LOG_ERROR, "translated block of guest code at %lx (mode key %x) refused: %s",
			 (unsigned long)b->rip, b->key, v->why);
	const uint8_t *bad = v->pc;
	log_line(LOG_ERROR, "hot:");
	dump(v, &v->region[0], bad);
	log_line(LOG_ERROR, "cold:");
	dump(v, &v->region[1], bad);
	host_ops.bug(__FILE__, __LINE__, "translated code failed its verification");
}
