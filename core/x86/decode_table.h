/* What insn_gen.c holds for the decoder alone: lookup trees and operand recipes.
 * Only decode.c, format.c and the generated file include this.
 *
 * x86_root[map][opcode] and the words of x86_tree[] are nodes. A node below
 * X86_NODE is a form (0: no instruction); else its low bits index x86_tree[],
 * where one word says what to look at (enum x86_dim) and the next words are the
 * nodes to go on with. */
#ifndef CORE_X86_DECODE_TABLE_H
#define CORE_X86_DECODE_TABLE_H

#include "core/x86/insn.h"

#define X86_NODE 0x8000u

/* Rows of x86_root[]. */
#define X86_MAP_LEGACY 0 /* one byte, 0f, 0f38, 0f3a */
#define X86_MAP_VEX 3	 /* + 1..3 */
#define X86_MAP_EVEX 6	 /* + 1..7 */
#define X86_MAPS 14

enum x86_dim {
	DIM_MODE,	/* 0: 16 or 32 bits, 1: 64 */
	DIM_PP,		/* none 66 f3 f2 */
	DIM_REG,	/* modrm.reg */
	DIM_MOD,	/* 0: memory, 1: register */
	DIM_RM,		/* modrm.rm */
	DIM_W,		/* REX.W, VEX.W, EVEX.W */
	DIM_L,		/* VEX.L, EVEX.L'L; 3 stays 3 */
	DIM_OPSIZE, /* 2, 4, 8 */
	DIM_REXB,
};

/* Where an operand is encoded. Up to AT_OPCODE_GPR: in a plain register field. */
enum x86_method {
	AT_RM_GPR, /* modrm.rm: register or memory */
	AT_RM_MMX,
	AT_RM_VEC,
	AT_REG_GPR, /* modrm.reg */
	AT_REG_MMX,
	AT_REG_VEC,
	AT_VVVV_GPR,
	AT_VVVV_VEC,
	AT_OPCODE_GPR, /* low three bits of the opcode */
	AT_FIXED_GPR,  /* msize: the register */
	AT_IMM8,	   /* zero-extended */
	AT_IMM8S,	   /* sign-extended */
	AT_IMMZ,	   /* 2 or 4 bytes, sign-extended */
	AT_REL8,
	AT_RELZ,
	AT_RM_MASK,
	AT_REG_MASK,
	AT_REG_SEG,
	AT_REG_CR,
	AT_REG_DR,
	AT_VVVV_MASK,
	AT_IS4_VEC, /* the immediate's high nibble */
	AT_FIXED_SEG,
	AT_FIXED_VEC,
	AT_ST, /* modrm.rm */
	AT_ST0,
	AT_ONE,
	AT_IMM16,
	AT_IMMV, /* 2, 4 or 8 bytes */
	AT_IMM8_2,
	AT_FAR,
	AT_MOFFS,
	AT_VSIB, /* memory; rsize: the index vector, msize: the element */
};

/* Sizes of operands; from SZ_V on they depend on the instruction. */
enum x86_size {
	SZ_0,
	SZ_1,
	SZ_2,
	SZ_4,
	SZ_8,
	SZ_10,
	SZ_16,
	SZ_32,
	SZ_64,
	SZ_V,  /* operand size */
	SZ_Z,  /* 2 or 4 */
	SZ_Y,  /* 4, with W in 64-bit mode 8 */
	SZ_R,  /* 8 in 64-bit mode, else 4 */
	SZ_2V, /* two of operand size */
	SZ_P,  /* far pointer */
	SZ_S,  /* pseudo-descriptor */
	SZ_A,  /* address size */
	SZ_X,  /* vector length */
	SZ_XH, /* a half, a quarter, an eighth of it */
	SZ_XF,
	SZ_XE,
	SZ_ENV,	 /* x87 environment: 14 or 28 */
	SZ_SAVE, /* x87 state: 94 or 108 */
	SZ_DUP,	 /* MOVDDUP's source: 8, or the vector if that is longer than 16 */
};

struct x86_opspec {
	uint8_t at; /* enum x86_method */
	uint8_t access;
	uint8_t rsize; /* enum x86_size as a register */
	uint8_t msize; /* as memory; for AT_FIXED_* the register */
};

#define DEC_MODRM 0x0001u
#define DEC_NOMOD 0x0002u	 /* modrm.mod is taken for 3 */
#define DEC_O8 0x0004u		 /* operand size is a byte */
#define DEC_OZ 0x0008u		 /* operand size is at most 4 */
#define DEC_D64 0x0010u		 /* in 64-bit mode 8, with 66 2 */
#define DEC_F64 0x0020u		 /* in 64-bit mode 8 */
#define DEC_REPOP 0x0040u	 /* F2 or F3 is part of the opcode */
#define DEC_COND 0x0080u	 /* opcode's low nibble is a condition */
#define DEC_VVVV 0x0100u	 /* vvvv is an operand; else it must be 1111 */
#define DEC_K 0x0200u		 /* EVEX.aaa may be non-zero */
#define DEC_Z 0x0400u		 /* EVEX.z may be set */
#define DEC_KREQ 0x0800u	 /* EVEX.aaa must be non-zero */
#define DEC_ER 0x1000u		 /* EVEX.b on registers: static rounding */
#define DEC_SAE 0x2000u		 /* EVEX.b on registers: suppress exceptions */
#define DEC_DISTINCT 0x4000u /* #UD if destination, index and mask are not distinct */
#define DEC_LIG 0x8000u		 /* L is ignored */
#define DEC_VSIB 0x10000u	 /* as X86_ATTR_VSIB, X86_ATTR_LOCK */
#define DEC_LOCK 0x20000u

struct x86_dec {
	uint32_t flags; /* DEC_* */
	uint16_t op;
	uint16_t ops; /* index into x86_opspecs[] */
	uint8_t nopnds;
	uint8_t bcast;	 /* EVEX.b on memory: size of the broadcast element, 0: #UD */
	uint8_t disp8_n; /* EVEX disp8 factor if it is not the memory operand's size */
};

extern const uint16_t x86_root[X86_MAPS][256];
extern const uint16_t x86_tree[];
extern const struct x86_dec x86_decs[X86_FORM_COUNT];
extern const struct x86_opspec x86_opspecs[];

#endif
