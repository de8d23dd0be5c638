/* A decoded instruction, and what the instruction table says of its form.
 *
 * core/x86/insn.tab describes every instruction once; tools/insngen.py turns it
 * into insn_gen.h (enum x86_op) and insn_gen.c (the decoder's maps and
 * x86_forms[]). Decoder, interpreter, translator and tests all read these. */
#ifndef CORE_X86_INSN_H
#define CORE_X86_INSN_H

#include "core/base/types.h"
#include "core/x86/insn_gen.h" /* enum x86_op: X86_OP_ADD ..., X86_OP_COUNT, X86_FORM_COUNT */

enum x86_mode { X86_MODE_16, X86_MODE_32, X86_MODE_64 };

#define X86_MAX_LEN 15

/* Register numbers beyond the sixteen. */
#define X86_REG_NONE 0xff
#define X86_REG_RIP 0x20  /* base of a RIP-relative operand */
#define X86_REG_HIGH 0x10 /* AH CH DH BH are X86_REG_HIGH + 0..3 */

enum x86_opnd_kind {
	OPND_NONE,
	OPND_GPR,  /* reg; size 1, 2, 4, 8; size 1: maybe X86_REG_HIGH + n */
	OPND_MEM,  /* the insn's one memory operand; size 0: no data access or size of its own */
	OPND_IMM,  /* insn.imm, sign- or zero-extended to 64 bits as the form wants */
	OPND_IMM2, /* insn.imm2: ENTER's level, EXTRQ/INSERTQ's second byte */
	OPND_REL,  /* insn.imm, sign-extended: relative to the next instruction */
	OPND_FAR,  /* insn.imm2:insn.imm */
	OPND_SEG,  /* reg: enum x86_seg */
	OPND_CR,
	OPND_DR,
	OPND_ST, /* x87 stack register, relative to the top */
	OPND_MMX,
	OPND_VEC, /* xmm/ymm/zmm by size 16, 32, 64; also for scalars, where size is that of the data */
	OPND_MASK, /* k0-k7 */
	OPND_ONE,  /* the constant 1 of D0/D1 shifts */
};

#define OPND_R 1u /* access bits */
#define OPND_W 2u

struct x86_opnd {
	uint8_t kind, reg, size, access;
};

#define X86_OPNDS 4

/* insn.prefix bits */
#define X86_PFX_LOCK 0x01u
#define X86_PFX_REP 0x02u	/* F3, when it is not part of the opcode */
#define X86_PFX_REPNE 0x04u /* F2, when it is not part of the opcode */
#define X86_PFX_OPSIZE 0x08u
#define X86_PFX_ADDRSIZE 0x10u
#define X86_PFX_REX 0x20u
#define X86_PFX_VEX 0x40u
#define X86_PFX_EVEX 0x80u

struct x86_insn {
	uint16_t op;	  /* enum x86_op */
	uint16_t form;	  /* index into x86_forms[] */
	uint8_t len;	  /* bytes, 1..15 */
	uint8_t mode;	  /* enum x86_mode it was decoded for */
	uint8_t opsize;	  /* effective operand size of the instruction: 1, 2, 4, 8 */
	uint8_t addrsize; /* 2, 4, 8 */
	uint8_t prefix;	  /* X86_PFX_* */
	uint8_t rex;	  /* W R X B in bits 3..0, also from VEX/EVEX */
	uint8_t cond;	  /* for JCC, SETCC, CMOVCC: the condition, 0..15 */
	uint8_t modrm;
	uint8_t nopnds;
	uint8_t mem; /* number of the memory operand, from 1; 0: there is none */
	/* The memory operand, if one operand is OPND_MEM. */
	uint8_t seg;			/* effective segment, default or prefix: enum x86_seg */
	uint8_t seg_prefix;		/* the segment prefix as given, or X86_REG_NONE */
	uint8_t base, index;	/* 0..15, X86_REG_RIP (base only), X86_REG_NONE */
	uint8_t scale;			/* shift, 0..3 */
	uint8_t vvvv, vl, evex; /* VEX/EVEX: second source, length 0..2, aaa | z << 3 | b << 4 */
	/* Offsets within the instruction; 0 = absent (but for opcode_off). For re-encoding. */
	uint8_t opcode_off, modrm_off, disp_off, disp_len, imm_off, imm_len;
	uint16_t imm2;
	int64_t disp;
	uint64_t imm;
	struct x86_opnd opnd[X86_OPNDS];
	/* The bytes themselves, zero from `len` on: what runs as itself is re-encoded from them. */
	uint8_t raw[16];
};

/* The memory operand of a decoded instruction; NULL: it has none. */
static inline const struct x86_opnd *x86_memory_operand(const struct x86_insn *i) {
	return i->mem ? &i->opnd[i->mem - 1] : NULL;
}

/* How an engine may run a form. */
enum x86_class {
	X86_CLASS_INT,	  /* integer, unprivileged, runs as itself */
	X86_CLASS_BRANCH, /* changes RIP within the segment */
	X86_CLASS_STRING,
	X86_CLASS_X87,
	X86_CLASS_MMX,
	X86_CLASS_SSE,
	X86_CLASS_AVX,
	X86_CLASS_AVX512,
	X86_CLASS_SYSTEM, /* far transfers, segments, privileged, I/O, serialising */
};

/* form.attr bits */
#define X86_ATTR_LOCK 0x0001u		 /* LOCK is legal with a memory destination */
#define X86_ATTR_PRIV 0x0002u		 /* CPL 0 only, else #GP(0) */
#define X86_ATTR_ALIGN 0x0004u		 /* memory operand must be aligned to its size, else #GP(0) */
#define X86_ATTR_NOMEM_FAULT 0x0008u /* address only, never accessed: LEA, NOP, PREFETCH */
#define X86_ATTR_ENDS 0x0010u		 /* ends a basic block */
#define X86_ATTR_UNDOC 0x0020u
#define X86_ATTR_VSIB 0x0040u
#define X86_ATTR_STACK 0x0080u	/* implicit stack access */
#define X86_ATTR_NATIVE 0x0100u /* user-mode deterministic: the host CPU is its oracle */
#define X86_ATTR_REP 0x0200u	/* REP/REPE/REPNE repeat it */
#define X86_ATTR_D64 0x0400u	/* 64-bit operand by default in 64-bit mode */

/* Flag masks are those of RFLAGS. */
struct x86_form {
	const char *mnemonic;
	uint16_t op;
	uint16_t attr;
	uint8_t cls;	 /* enum x86_class */
	uint8_t feature; /* enum x86_feature that CPUID must show, 0: none */
	uint16_t flags_read, flags_written, flags_undefined; /* written includes undefined */
};

extern const struct x86_form x86_forms[X86_FORM_COUNT];

/* Results of x86_decode other than a length. */
#define X86_DECODE_SHORT 0	 /* `avail` bytes do not hold the whole instruction */
#define X86_DECODE_UD (-1)	 /* no such instruction in this mode: #UD */
#define X86_DECODE_LONG (-2) /* longer than 15 bytes: #GP(0) */

/* Decodes one instruction from bytes[0..avail). Pure; any bytes are fine. Returns its length, or
 * one of the above (then *out is undefined). CPUID gating, privilege and mode-dependent #UD that
 * needs CPU state (e.g. real-mode VEX) are the caller's; LOCK legality is decided here. */
int x86_decode(struct x86_insn *out, const uint8_t *bytes, size_t avail, enum x86_mode mode);

/* Intel-syntax text of a decoded instruction at `rip`, for traces and reports. Returns length. */
size_t x86_format(char *buf, size_t size, const struct x86_insn *insn, uint64_t rip);

#endif
