/* See gen.h. */
#include "test/insn/gen.h"

#include <string.h>

uint64_t gen_seed;

uint64_t gen_rnd(void) { /* xorshift64* */
	gen_seed ^= gen_seed >> 12;
	gen_seed ^= gen_seed << 25;
	gen_seed ^= gen_seed >> 27;
	return gen_seed * 0x2545f4914f6cdd1dull;
}

unsigned gen_below(unsigned n) {
	return (unsigned)(gen_rnd() >> 33) % n;
}

uint64_t gen_edgy(void) {
	switch (gen_below(5)) {
	case 0:
		return 1ull << gen_below(64);
	case 1:
		return (1ull << gen_below(64)) - 1;
	case 2:
		return gen_below(256);
	default:
		return gen_rnd();
	}
}

void gen_bytes(uint8_t *b, bool long_mode) {
	unsigned n = 0;
	for (unsigned k = 0; k < 16; k++)
		b[k] = (uint8_t)gen_rnd();
	if (gen_below(3) == 0)
		b[n++] = (uint8_t[]){0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x64, 0x65, 0xf3}[gen_below(8)];
	if (gen_below(8) == 0)
		b[n++] = (uint8_t[]){0x66, 0xf2, 0xf3, 0x64}[gen_below(4)];
	switch (gen_below(8)) {
	case 0:
	case 1:
		break;
	case 2:
		b[n++] = 0x0f;
		break;
	case 3:
		if (long_mode)
			b[n++] = 0x40 + gen_below(16);
		if (gen_below(2))
			b[n++] = 0x0f;
		break;
	case 4:
		if (long_mode && gen_below(2))
			b[n++] = 0x40 + gen_below(16);
		b[n++] = 0x0f;
		b[n++] = gen_below(2) ? 0x38 : 0x3a;
		break;
	case 5:
		n = 0;
		b[n++] = 0xc5;
		break;
	case 6:
		n = 0;
		b[n++] = 0xc4;
		b[n] = (uint8_t)((b[n] & 0xe0) | (1 + gen_below(3)));
		break;
	default:
		b[n++] = 0xd8 + gen_below(8);
	}
}

void gen_avx512(uint8_t *b, bool long_mode) {
	for (unsigned k = 0; k < 16; k++)
		b[k] = (uint8_t)gen_rnd();
	if (gen_below(8) == 0) {
		b[0] = gen_below(2) ? 0xc5 : 0xc4;
		uint8_t *op = b + (b[0] == 0xc5 ? 2 : 3);
		*op = (uint8_t)((gen_below(2) ? 0x40 : 0x90) + gen_below(16));
		if (b[0] == 0xc4) {
			bool shift = gen_below(4) == 0;
			b[1] = (uint8_t)((b[1] & 0xe0) | (shift ? 3 : 1));
			if (shift)
				*op = (uint8_t)(0x30 + gen_below(4));
		}
		if (gen_below(2)) /* no vvvv */
			op[-1] |= 0x78;
		return;
	}
	b[0] = 0x62;
	b[1] = (uint8_t)((b[1] & 0xf0) | (gen_below(16) ? 1 + gen_below(3) : 5 + gen_below(2)));
	b[2] |= 4;
	if (gen_below(2)) { /* neither vvvv nor its fifth bit */
		b[2] |= 0x78;
		b[3] |= 8;
	}
	if (gen_below(3) == 0) /* no mask */
		b[3] &= 0x78;
	if (gen_below(2)) /* no broadcast or rounding */
		b[3] &= 0xef;
	if (!long_mode) /* or it is BOUND */
		b[1] |= 0xc0;
}

bool gen_bochs_takes(const struct x86_insn *i) {
	struct x86_insn other;
	uint8_t b[16];
	bool evex = i->prefix & X86_PFX_EVEX;
	unsigned w = i->opcode_off - (evex ? 2u : 1u);
	memcpy(b, i->raw, 16);
	if (!evex && (!(i->prefix & X86_PFX_VEX) || b[i->opcode_off - 3] != 0xc4))
		return true;
	if (b[w] & 0x80) {
		b[w] &= 0x7f;
		if (x86_decode(&other, b, i->len, i->mode) == i->len && other.form == i->form)
			return false;
	}
	if (i->op == X86_OP_VPINSRB && evex && i->disp_len == 1)
		return false;
	for (unsigned n = 0; evex && n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->modrm >= 0xc0 && !(b[w - 1] & 0x40))
			return false;
	return true;
}
