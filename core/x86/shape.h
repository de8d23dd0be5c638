/* Instructions by their shape: prefixes, opcode, ModRM and SIB, all but displacement and immediate.
 *
 * Programs use few shapes: whoever keeps decoded ones decodes most instructions by filling in the
 * two numbers. */
#ifndef CORE_X86_SHAPE_H
#define CORE_X86_SHAPE_H

#include "core/base/string.h"
#include "core/x86/insn.h"

/* How many bytes have to be readable at an instruction that is looked up by its shape. */
#define X86_SHAPE_AVAIL 24

enum x86_shape_imm { X86_SHAPE_NO_IMM, X86_SHAPE_UNSIGNED, X86_SHAPE_SIGNED };

struct x86_shape {
	uint64_t bytes; /* x86_shape_key() of all that have it; 0: this is none */
	uint8_t imm;	/* enum x86_shape_imm: how it is extended */
	struct x86_insn insn;
};

/* What such a byte is, in front of or as an opcode. */
#define X86_SHAPE_PREFIX 1u /* 66, F2, F3, LOCK, a segment */
#define X86_SHAPE_REX 2u	/* in 64-bit mode a prefix */
#define X86_SHAPE_ESCAPE 4u /* 0F */
#define X86_SHAPE_VEX 8u	/* in 64-bit mode C4, C5 */
#define X86_SHAPE_MODRM 16u /* it has a ModRM byte; for maps of one byte */
#define X86_SHAPE_MODRM_0F 32u
#define X86_SHAPE_NONE 64u /* not looked at closer */
extern const uint8_t x86_shape_traits[256];

/* The shape of the instruction at p, of which X86_SHAPE_AVAIL bytes can be read: its bytes, and in
 * the highest byte how many; 0: none is known for it. Two instructions of one mode that give the
 * same value, which is not 0, differ in displacement and immediate only, if x86_shape_learn() takes
 * one of them. */
static inline uint64_t x86_shape_key(const uint8_t *p, bool mode64) {
	unsigned at = 0, prefix = mode64 ? X86_SHAPE_PREFIX | X86_SHAPE_REX : X86_SHAPE_PREFIX;
	unsigned t = x86_shape_traits[p[0]], modrm = X86_SHAPE_MODRM;
	while (t & prefix) {
		if (++at > 4)
			return 0;
		t = x86_shape_traits[p[at]];
	}
	if (t & X86_SHAPE_ESCAPE) {
		uint8_t op = p[++at];
		modrm = X86_SHAPE_MODRM_0F;
		t = x86_shape_traits[op];
		if (op == 0x38 || op == 0x3a) {
			at++;
			t = X86_SHAPE_MODRM_0F;
		}
	} else if (t & X86_SHAPE_VEX && mode64) {
		at += p[at] == 0xc5 ? 2 : 3;
		t = X86_SHAPE_MODRM;
	} else if (t & X86_SHAPE_NONE) {
		return 0;
	}
	if (t & modrm) {
		at++;
		at += p[at] < 0xc0 && (p[at] & 7) == 4;
	}
	uint64_t bytes;
	memcpy(&bytes, p, 8);
	return at > 6 ? 0 : (bytes & ~0ull >> (56 - 8 * at)) | (uint64_t)(at + 1) << 56;
}

/* Keeps instruction i, which was decoded from bytes with that key. false: this one cannot be told
 * by its shape. */
bool x86_shape_learn(struct x86_shape *s, const struct x86_insn *i, uint64_t key);

/* *i = the instruction at p, which has the shape s; its length. As x86_decode(). */
static inline unsigned x86_shape_decode(const struct x86_shape *s, struct x86_insn *i,
										const uint8_t *p) {
	const char *from = (const char *)&s->insn;
	memcpy(i, from, 32); /* in pieces that become moves: `rep movs` takes longer */
	memcpy((char *)i + 32, from + 32, 32);
	memcpy((char *)i + 64, from + 64, offsetof(struct x86_insn, raw) - 64);
	uint64_t low, high;
	memcpy(&low, p, 8);
	memcpy(&high, p + 8, 8);
	if (i->len <= 8) {
		low &= ~0ull >> (64 - i->len * 8);
		high = 0;
	} else {
		high &= ~0ull >> (128 - i->len * 8);
	}
	memcpy(i->raw, &low, 8);
	memcpy(i->raw + 8, &high, 8);
	if (i->disp_len) {
		int64_t v;
		unsigned shift = 64 - 8 * i->disp_len;
		memcpy(&v, p + i->disp_off, 8);
		i->disp = (int64_t)((uint64_t)v << shift) >> shift;
	}
	if (s->imm) {
		uint64_t v;
		unsigned shift = 64 - 8 * i->imm_len;
		memcpy(&v, p + i->imm_off, 8);
		v <<= shift;
		i->imm = s->imm == X86_SHAPE_SIGNED ? (uint64_t)((int64_t)v >> shift) : v >> shift;
	}
	return i->len;
}

#endif
