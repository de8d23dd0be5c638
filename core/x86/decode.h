/* What the two halves of the decoder share: decode.c (prefixes, opcode, form, the rules of VEX and
 * EVEX) and decode_operand.c (memory, operands, immediates). For them alone. */
#ifndef CORE_X86_DECODE_H
#define CORE_X86_DECODE_H

#include "core/x86/decode_table.h"

/* enum x86_seg of core/vm/vcpu.h, which this layer is below of. */
enum { ES, CS, SS, DS, FS, GS };

/* More bytes are needed; not X86_DECODE_SHORT, since 0 is success in here. */
#define X86_DECODE_MORE (-3)

struct x86_decoder {
	struct x86_insn *o;
	const uint8_t *bytes;
	unsigned pos, end;
	int short_code; /* what running out of bytes means */
	uint16_t node;
	uint8_t opcode;
	uint8_t map; /* row of x86_root[] */
	uint8_t pp;	 /* index as in DIM_PP */
	uint8_t l;	 /* VEX.L or EVEX.L'L as encoded */
	bool mode64, has_modrm;
	bool mem;			 /* modrm has a memory operand */
	bool rex_r2, rex_x2; /* EVEX.R' and V', as bits */
	bool any_rex;		 /* makes SPL BPL SIL DIL of AH CH DH BH */
};

static inline bool x86_decoder_has(const struct x86_decoder *d, unsigned n) {
	return d->pos + n <= d->end;
}

/* SIB and displacement of modrm's memory operand; everything but its size. Like all in here they
 * return 0, or what x86_decode is to return. */
int x86_decode_memory(struct x86_decoder *d, bool vsib);

/* Fills in the form's operands, reading immediates. */
int x86_decode_operands(struct x86_decoder *d, const struct x86_dec *dec);

#endif
