/* Which instructions can be told by their shape; see shape.h. */
#include "core/x86/shape.h"

#include "core/x86/decode_table.h"

#define P X86_SHAPE_PREFIX
#define R X86_SHAPE_REX
#define V X86_SHAPE_VEX
#define M X86_SHAPE_MODRM
#define F X86_SHAPE_MODRM_0F
#define N X86_SHAPE_NONE

/* [SDM2 A.3]. Where it has a ModRM byte too few nothing is learnt; one too many makes shapes that
 * differ in what does not matter. */
const uint8_t x86_shape_traits[256] = {
	[0x00 ... 0x03] = M | F,
	[0x08 ... 0x0b] = M,
	[0x0d] = F,
	[0x0f] = X86_SHAPE_ESCAPE,
	[0x10 ... 0x13] = M | F,
	[0x14 ... 0x17] = F,
	[0x18 ... 0x1b] = M | F,
	[0x1c ... 0x1f] = F,
	[0x20 ... 0x23] = M | F,
	[0x24 ... 0x25] = F,
	[0x26] = P | F,
	[0x27] = F,
	[0x28 ... 0x2b] = M | F,
	[0x2c ... 0x2d] = F,
	[0x2e] = P | F,
	[0x2f] = F,
	[0x30 ... 0x33] = M,
	[0x36] = P,
	[0x38 ... 0x3b] = M,
	[0x3e] = P,
	[0x40 ... 0x4f] = R | F,
	[0x50 ... 0x61] = F,
	[0x62] = N | F,
	[0x63] = M | F,
	[0x64 ... 0x66] = P | F,
	[0x67] = N | F,
	[0x68] = F,
	[0x69] = M | F,
	[0x6a] = F,
	[0x6b] = M | F,
	[0x6c ... 0x76] = F,
	[0x78 ... 0x7f] = F,
	[0x80 ... 0x8f] = M,
	[0x90 ... 0x9f] = F,
	[0xa3 ... 0xa7] = F,
	[0xab ... 0xbf] = F,
	[0xc0 ... 0xc1] = M | F,
	[0xc2 ... 0xc3] = F,
	[0xc4 ... 0xc5] = V | M | F,
	[0xc6 ... 0xc7] = M | F,
	[0xd0 ... 0xd3] = M | F,
	[0xd4 ... 0xd7] = F,
	[0xd8 ... 0xdf] = M | F,
	[0xe0 ... 0xef] = F,
	[0xf0] = P | F,
	[0xf1] = F,
	[0xf2 ... 0xf3] = P | F,
	[0xf4 ... 0xf5] = F,
	[0xf6 ... 0xf7] = M | F,
	[0xf8 ... 0xfd] = F,
	[0xfe ... 0xff] = M | F,
};

#undef P
#undef R
#undef V
#undef M
#undef F
#undef N

/* How the form's immediate becomes insn.imm; -1: there is more to it. */
static int immediate(const struct x86_insn *i) {
	const struct x86_opspec *spec = &x86_opspecs[x86_decs[i->form].ops];
	int how = X86_SHAPE_NO_IMM;
	for (unsigned n = 0; n < i->nopnds; n++) {
		int one;
		switch (spec[n].at) {
		case AT_IMM8:
		case AT_IMM16:
		case AT_IMMV:
			one = X86_SHAPE_UNSIGNED;
			break;
		case AT_IMM8S:
		case AT_IMMZ:
		case AT_REL8:
		case AT_RELZ:
			one = X86_SHAPE_SIGNED;
			break;
		case AT_IMM8_2:
		case AT_IS4_VEC:
		case AT_FAR:
		case AT_MOFFS:
			return -1;
		default:
			continue;
		}
		if (how != X86_SHAPE_NO_IMM)
			return -1;
		how = one;
	}
	return how;
}

bool x86_shape_learn(struct x86_shape *s, const struct x86_insn *i, uint64_t key) {
	unsigned need = i->opcode_off + 1u;
	int imm = immediate(i);
	if (i->modrm_off) {
		need = i->modrm_off + 1u;
		need += i->modrm < 0xc0 && (i->modrm & 7) == 4 && i->addrsize != 2;
	}
	/* A displacement of EVEX counts operands. */
	if (need > key >> 56 || imm < 0 || i->prefix & X86_PFX_EVEX)
		return false;
	s->bytes = key;
	s->imm = (uint8_t)imm;
	s->insn = *i;
	return true;
}
