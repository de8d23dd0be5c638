/* A small assembler for the translator: bytes into a buffer, memory operands, GS slots. */
#ifndef ENGINE_SOFT_EMIT_H
#define ENGINE_SOFT_EMIT_H

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

struct emit {
	uint8_t *at, *end; /* writable addresses */
	bool full;
};

static inline void e8(struct emit *e, unsigned b) {
	if (e->at < e->end)
		*e->at++ = (uint8_t)b;
	else
		e->full = true;
}

static inline void e16(struct emit *e, unsigned v) {
	e8(e, v);
	e8(e, v >> 8);
}

static inline void e32(struct emit *e, uint32_t v) {
	e16(e, v);
	e16(e, v >> 16);
}

static inline void e64(struct emit *e, uint64_t v) {
	e32(e, (uint32_t)v);
	e32(e, (uint32_t)(v >> 32));
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

/* ModRM, SIB and displacement for [base + index << scale + disp]; `reg` is modrm.reg. */
static inline void e_modrm_mem(struct emit *e, unsigned reg, const struct emem *m) {
	unsigned r = (reg & 7) << 3;
	if (m->base == NOREG) { /* [index << scale + disp32] */
		e8(e, r | 4);
		e8(e, m->scale << 6 | (m->index == NOREG ? 4 : m->index & 7) << 3 | 5);
		e32(e, (uint32_t)m->disp);
		return;
	}
	unsigned b = m->base & 7;
	unsigned mod = m->disp == 0 && b != 5 ? 0 : m->disp == (int8_t)m->disp ? 1 : 2;
	if (m->index == NOREG && b != 4) {
		e8(e, mod << 6 | r | b);
	} else {
		e8(e, mod << 6 | r | 4);
		e8(e, m->scale << 6 | (m->index == NOREG ? 4 : m->index & 7) << 3 | b);
	}
	if (mod == 1)
		e8(e, (uint32_t)m->disp);
	else if (mod == 2)
		e32(e, (uint32_t)m->disp);
}

/* op reg, [mem] with a one-byte opcode. */
static inline void e_op_mem(struct emit *e, bool w, unsigned op, unsigned reg,
							const struct emem *m) {
	unsigned rex = rex_bits(w, reg, m->index, m->base);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, op);
	e_modrm_mem(e, reg, m);
}

static inline void e_lea(struct emit *e, unsigned reg, unsigned base, unsigned index,
						 unsigned scale, int32_t disp) {
	struct emem m = {base, index, scale, disp};
	e_op_mem(e, true, 0x8d, reg, &m);
}

/* op reg, rm (registers): opcode form with modrm.reg = reg. */
static inline void e_op_reg(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm) {
	unsigned rex = rex_bits(w, reg, NOREG, rm);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, op);
	e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void e_mov(struct emit *e, unsigned dst, unsigned src) {
	if (dst != src)
		e_op_reg(e, true, 0x8b, dst, src);
}

/* op reg, gs:[off] / op gs:[off], reg */
static inline void e_op_gs(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t off) {
	e8(e, 0x65);
	unsigned rex = rex_bits(w, reg, NOREG, NOREG);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, op);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, 0x25);
	e32(e, off);
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
	e8(e, 0x65);
	e8(e, 0x40 | rex_bits(true, reg, NOREG, index));
	e8(e, op);
	e8(e, 0x80 | (reg & 7) << 3 | (index & 7));
	e32(e, off);
}

/* The shortest MOV of a constant. */
static inline void e_mov_imm(struct emit *e, unsigned reg, uint64_t v) {
	if (v <= 0xffffffff) {
		if (reg & 8)
			e8(e, 0x41);
		e8(e, 0xb8 | (reg & 7));
		e32(e, (uint32_t)v);
	} else if ((int64_t)v == (int32_t)v) {
		e8(e, 0x48 | (reg & 8) >> 3);
		e8(e, 0xc7);
		e8(e, 0xc0 | (reg & 7));
		e32(e, (uint32_t)v);
	} else {
		e8(e, 0x48 | (reg & 8) >> 3);
		e8(e, 0xb8 | (reg & 7));
		e64(e, v);
	}
}

/* jmp/call rel32 to an executable address; `exec` is the buffer's distance to it. */
static inline void e_rel32(struct emit *e, const uint8_t *to, intptr_t exec) {
	e32(e, (uint32_t)(to - (e->at + 4 + exec)));
}

static inline void e_jmp(struct emit *e, const uint8_t *to, intptr_t exec) {
	e8(e, 0xe9);
	e_rel32(e, to, exec);
}

static inline void e_call(struct emit *e, const uint8_t *to, intptr_t exec) {
	e8(e, 0xe8);
	e_rel32(e, to, exec);
}

static inline void e_jcc(struct emit *e, unsigned cond, const uint8_t *to, intptr_t exec) {
	e8(e, 0x0f);
	e8(e, 0x80 | cond);
	e_rel32(e, to, exec);
}

#endif
