/* A small assembler for the translator: bytes into a buffer, memory operands, GS slots. */
#ifndef ENGINE_SOFT_EMIT_H
#define ENGINE_SOFT_EMIT_H

#include "core/base/string.h"
#include "engine/soft/jit.h"

/* Host registers by number; 16 and more stand for "none". */
#define NOREG 0x10u
#define H_RSP 14u /* where guest RSP lives */
#define T0 10u	  /* scratch */
#define T1 11u

/* Distances from GS, which points to the struct vcpu; the engine's area lies behind it
 * (vcpu_engine_area()). */
#define AREA ((sizeof(struct vcpu) + 63) & ~(size_t)63)
#define GS_STATE(f) ((uint32_t)offsetof(struct vcpu, state.f))
#define GS_GPR(r) ((uint32_t)(offsetof(struct vcpu, state.gpr) + 8 * (r)))
#define GS_SEG(n) ((uint32_t)(offsetof(struct vcpu, state.seg[n].base)))
#define GS_JIT(f) ((uint32_t)(AREA + offsetof(struct soft_vcpu, jit.f)))

/* Where a block's code depends on its own address or on the guest's (rebase.c). */
#define EMIT_FIXUPS 512
struct emit_fixups {
	const uint8_t *hot, *cold; /* where its two parts begin */
	bool fixed;				   /* it depends in a way that is not noted */
	unsigned n;
	struct jit_fixup at[EMIT_FIXUPS];
};

/* Nothing here looks at `end`: whoever emits asks for room first, once for what belongs together.
 * Up to 7 bytes behind what is emitted may be overwritten, too. */
struct emit {
	uint8_t *at, *end;			/* writable addresses */
	struct emit_fixups *fixups; /* or NULL: nobody wants to know */
};

/* What was or will be emitted at `at` is of that kind. */
static inline void emit_note(struct emit_fixups *f, const uint8_t *at, enum jit_fix kind) {
	if (!f)
		return;
	bool cold = at >= f->cold;
	size_t off = (size_t)(at - (cold ? f->cold : f->hot));
	if (f->n == EMIT_FIXUPS || off > UINT16_MAX)
		f->fixed = true;
	else
		f->at[f->n++] = (struct jit_fixup){(uint16_t)off, (uint8_t)kind, cold};
}

static inline bool e_room(const struct emit *e, size_t size) {
	return (size_t)(e->end - e->at) >= size;
}

static inline void e8(struct emit *e, unsigned b) {
	*e->at++ = (uint8_t)b;
}

static inline void e16(struct emit *e, unsigned v) {
	memcpy(e->at, &(uint16_t){(uint16_t)v}, 2);
	e->at += 2;
}

static inline void e32(struct emit *e, uint32_t v) {
	memcpy(e->at, &v, 4);
	e->at += 4;
}

/* The lowest n bytes of v, at most 8, the first one lowest. */
static inline void e_bytes(struct emit *e, unsigned n, uint64_t v) {
	memcpy(e->at, &v, 8);
	e->at += n;
}

/* A memory operand in host terms. */
struct emem {
	unsigned base, index, scale;
	int32_t disp;
};

static inline unsigned rex_bits(bool w, unsigned reg, unsigned index, unsigned base) {
	return (w ? 8 : 0) | (reg & 8) >> 1 | (index != NOREG && index & 8 ? 2 : 0) |
		   (base != NOREG && base & 8 ? 1 : 0);
}

/* The n bytes of `first`, at most 4, then ModRM, SIB and displacement for [base + index << scale +
 * disp]; `reg` is modrm.reg. `short_disp`: a displacement may have 8 bits, which EVEX would scale.
 * Put together in a register: each store through e->at has the compiler load e->at again. */
static inline void e_with_mem(struct emit *e, unsigned n, uint64_t first, unsigned reg,
							  const struct emem *m, bool short_disp) {
	unsigned r = (reg & 7) << 3, index = m->index == NOREG ? 4 : m->index & 7, b = 5, mod, tail;
	bool sib = true;
	int32_t disp = m->disp;
	if (m->base == NOREG) { /* [index << scale + disp32] */
		mod = 0;
		tail = 4;
	} else {
		b = m->base & 7;
		mod = disp == 0 && b != 5 ? 0 : disp == 0 ? 1 : short_disp && disp == (int8_t)disp ? 1 : 2;
		tail = mod == 2 ? 4 : mod;
		sib = m->index != NOREG || b == 4;
	}
	unsigned modrm = mod << 6 | r | (sib ? 4 : b), at = n + 1 + sib;
	first |= (uint64_t)(modrm | (m->scale << 6 | index << 3 | b) << 8) << 8 * n;
	uint8_t *p = e->at;
	memcpy(p, &first, 8);
	memcpy(p + at, &disp, 4);
	e->at = p + at + tail;
}

static inline void e_modrm_mem(struct emit *e, unsigned reg, const struct emem *m,
							   bool short_disp) {
	e_with_mem(e, 0, 0, reg, m, short_disp);
}

/* op reg, [mem] behind 0F, of 32 bits. */
static inline void e_op0f_mem(struct emit *e, unsigned op, unsigned reg, const struct emem *m) {
	unsigned rex = rex_bits(false, reg, m->index, m->base);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, 0x0f);
	e8(e, op);
	e_modrm_mem(e, reg, m, true);
}

/* op reg, [mem] with a one-byte opcode. */
static inline void e_op_mem(struct emit *e, bool w, unsigned op, unsigned reg,
							const struct emem *m) {
	unsigned rex = rex_bits(w, reg, m->index, m->base);
	e_with_mem(e, rex ? 2 : 1, rex ? (0x40 | rex) | op << 8 : op, reg, m, true);
}

static inline void e_lea(struct emit *e, unsigned reg, unsigned base, unsigned index,
						 unsigned scale, int32_t disp) {
	struct emem m = {base, index, scale, disp};
	e_op_mem(e, true, 0x8d, reg, &m);
}

/* op reg, rm (registers): opcode form with modrm.reg = reg. */
static inline void e_op_reg(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm) {
	unsigned rex = rex_bits(w, reg, NOREG, rm), modrm = 0xc0 | (reg & 7) << 3 | (rm & 7);
	if (rex)
		e_bytes(e, 3, (0x40 | rex) | op << 8 | modrm << 16);
	else
		e_bytes(e, 2, op | modrm << 8);
}

static inline void e_mov(struct emit *e, unsigned dst, unsigned src) {
	if (dst != src)
		e_op_reg(e, true, 0x8b, dst, src);
}

/* op reg, gs:[off] / op gs:[off], reg */
static inline void e_op_gs(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t off) {
	unsigned rex = rex_bits(w, reg, NOREG, NOREG), n = rex ? 5 : 4;
	uint32_t rest = (op | ((reg & 7) << 3 | 0x2504) << 8) & 0xffffff;
	uint64_t first = rex ? 0x65 | (0x40 | rex) << 8 | (uint64_t)rest << 16 : 0x65 | rest << 8;
	uint8_t *p = e->at;
	memcpy(p, &first, 8);
	memcpy(p + n, &off, 4);
	e->at = p + n + 4;
}

static inline void e_load_gs(struct emit *e, unsigned reg, uint32_t off) {
	e_op_gs(e, true, 0x8b, reg, off);
}

static inline void e_store_gs(struct emit *e, unsigned reg, uint32_t off) {
	e_op_gs(e, true, 0x89, reg, off);
}

/* op reg, gs:[index + off] */
static inline void e_op_gs_index(struct emit *e, unsigned op, unsigned reg, unsigned index,
								 uint32_t off) {
	unsigned rex = 0x40 | rex_bits(true, reg, NOREG, index);
	e_bytes(e, 8,
			0x65 | rex << 8 | op << 16 | (0x80 | (reg & 7) << 3 | (index & 7)) << 24 |
				(uint64_t)off << 32);
}

/* The shortest MOV of a constant. */
static inline void e_mov_imm(struct emit *e, unsigned reg, uint64_t v) {
	unsigned b = (reg & 8) >> 3, low = reg & 7;
	if (v <= 0xffffffff) {
		if (b)
			e_bytes(e, 6, 0x41 | (0xb8 | low) << 8 | v << 16);
		else
			e_bytes(e, 5, (0xb8 | low) | v << 8);
	} else if ((int64_t)v == (int32_t)v) {
		e_bytes(e, 7, (0x48 | b | 0xc700 | (0xc0 | low) << 16) | v << 24);
	} else {
		uint8_t *p = e->at;
		memcpy(p, &(uint16_t){(uint16_t)(0x48 | b | (0xb8 | low) << 8)}, 2);
		memcpy(p + 2, &v, 8);
		e->at = p + 10;
	}
}

/* The same for one that depends on where the block is, in 8 bytes if it is to be noted. */
static inline void e_mov_place(struct emit *e, unsigned reg, uint64_t v, enum jit_fix kind) {
	e_mov_imm(e, reg, v);
	if (v <= 0xffffffff || (int64_t)v == (int32_t)v) {
		if (e->fixups)
			e->fixups->fixed = true;
	} else {
		emit_note(e->fixups, e->at - 8, kind);
	}
}

/* The n bytes of `first` and a rel32 to an executable address; `exec` is the buffer's distance to
 * it. */
static inline void e_with_rel32(struct emit *e, unsigned n, uint64_t first, const uint8_t *to,
								intptr_t exec) {
	uint8_t *p = e->at;
	emit_note(e->fixups, p + n, FIX_REL32);
	first |= (uint64_t)(uint32_t)(to - (p + n + 4 + exec)) << 8 * n;
	memcpy(p, &first, 8);
	e->at = p + n + 4;
}

static inline void e_jmp(struct emit *e, const uint8_t *to, intptr_t exec) {
	e_with_rel32(e, 1, 0xe9, to, exec);
}

static inline void e_call(struct emit *e, const uint8_t *to, intptr_t exec) {
	e_with_rel32(e, 1, 0xe8, to, exec);
}

/* A jump of two bytes forward (7x, E3 or EB), to where e_lands() is called with what it gives. */
static inline uint8_t *e_jump_short(struct emit *e, unsigned op) {
	e_bytes(e, 2, op);
	return e->at - 1;
}

static inline void e_lands(struct emit *e, uint8_t *at) {
	*at = (uint8_t)(e->at - at - 1);
}

static inline void e_jcc(struct emit *e, unsigned cond, const uint8_t *to, intptr_t exec) {
	e_with_rel32(e, 2, 0x800f | cond << 8, to, exec);
}

#endif
