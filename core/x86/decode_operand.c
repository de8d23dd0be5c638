/* The second half of the instruction decoder: effective addresses, displacements, immediates and
 * the operand recipes of the table [SDM2 2.1.5, 2.2.1.3, 2.7.5]. Called by decode.c only. */
#include "core/base/le.h"
#include "core/x86/decode.h"

/* ---- sizes ----------------------------------------------------------------------------- */

static unsigned dynamic_size(const struct x86_decoder *d, unsigned code) {
	const struct x86_insn *o = d->o;
	unsigned vec = 16u << o->vl;
	switch (code) {
	case SZ_Z:
		return o->opsize == 2 ? 2 : 4;
	case SZ_Y:
		return d->mode64 && o->rex & 8 ? 8 : 4;
	case SZ_R:
		return d->mode64 ? 8 : 4;
	case SZ_2V:
		return o->opsize * 2u;
	case SZ_P:
		return o->opsize + 2u;
	case SZ_S:
		return d->mode64 ? 10 : 6;
	case SZ_A:
		return o->addrsize;
	case SZ_X:
		return vec;
	case SZ_XH:
		return vec / 2;
	case SZ_XF:
		return vec / 4;
	case SZ_XE:
		return vec / 8;
	case SZ_ENV:
		return o->opsize == 2 ? 14 : 28;
	case SZ_SAVE:
		return o->opsize == 2 ? 94 : 108;
	default: /* SZ_DUP */
		return vec == 16 ? 8 : vec;
	}
}

static inline unsigned size_of(const struct x86_decoder *d, unsigned code) {
	static const uint8_t fixed[SZ_V] = {0, 1, 2, 4, 8, 10, 16, 32, 64};
	if (code < SZ_V)
		return fixed[code];
	return code == SZ_V ? d->o->opsize : dynamic_size(d, code);
}

/* ---- memory operands -------------------------------------------------------------------- */

static int displacement(struct x86_decoder *d, unsigned len) {
	struct x86_insn *o = d->o;
	if (!x86_decoder_has(d, len))
		return d->short_code;
	const uint8_t *p = d->bytes + d->pos;
	o->disp = len == 1 ? (int8_t)p[0] : len == 2 ? (int16_t)le16_get(p) : (int32_t)le32_get(p);
	o->disp_off = (uint8_t)d->pos;
	o->disp_len = (uint8_t)len;
	d->pos += len;
	return 0;
}

static int memory16(struct x86_decoder *d, unsigned mod, unsigned rm, bool *ss) {
	static const uint8_t bases[8] = {3, 3, 5, 5, 6, 7, 5, 3};
	static const uint8_t indexes[8] = {
		6, 7, 6, 7, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE};
	struct x86_insn *o = d->o;
	if (mod == 0 && rm == 6)
		return displacement(d, 2);
	o->base = bases[rm];
	o->index = indexes[rm];
	*ss = o->base == 5;
	return mod ? displacement(d, mod) : 0;
}

int x86_decode_memory(struct x86_decoder *d, bool vsib) {
	struct x86_insn *o = d->o;
	unsigned mod = o->modrm >> 6, rm = o->modrm & 7, disp_len = mod == 1 ? 1 : mod == 2 ? 4 : 0;
	bool ss = false;
	int rc = 0;

	if (o->addrsize == 2) {
		if (vsib)
			return X86_DECODE_UD;
		rc = memory16(d, mod, rm, &ss);
	} else {
		if (rm == 4) {
			if (!x86_decoder_has(d, 1))
				return d->short_code;
			uint8_t sib = d->bytes[d->pos++];
			unsigned base = sib & 7, index = (sib >> 3 & 7) | (o->rex & 2) << 2;
			o->scale = sib >> 6;
			if (vsib)
				o->index = (uint8_t)(index | (d->rex_x2 ? 16 : 0));
			else if (index != 4)
				o->index = (uint8_t)index;
			if (base == 5 && mod == 0) {
				disp_len = 4;
			} else {
				o->base = (uint8_t)(base | (o->rex & 1) << 3);
				ss = o->base == 4 || o->base == 5;
			}
		} else if (vsib) {
			return X86_DECODE_UD;
		} else if (rm == 5 && mod == 0) {
			disp_len = 4;
			if (d->mode64)
				o->base = X86_REG_RIP;
		} else {
			o->base = (uint8_t)(rm | (o->rex & 1) << 3);
			ss = o->base == 5;
		}
		if (disp_len)
			rc = displacement(d, disp_len);
	}
	o->seg = o->seg_prefix != X86_REG_NONE ? o->seg_prefix : ss ? SS : DS;
	return rc;
}

/* ---- operands -------------------------------------------------------------------------- */

static inline int immediate(struct x86_decoder *d, unsigned len, uint64_t *val) {
	if (!x86_decoder_has(d, len))
		return d->short_code;
	const uint8_t *p = d->bytes + d->pos;
	switch (len) {
	case 1:
		*val = p[0];
		break;
	case 2:
		*val = le16_get(p);
		break;
	case 4:
		*val = le32_get(p);
		break;
	default:
		*val = le64_get(p);
		break;
	}
	if (!d->o->imm_len)
		d->o->imm_off = (uint8_t)d->pos;
	d->o->imm_len += (uint8_t)len;
	d->pos += len;
	return 0;
}

static inline uint64_t sign_extend(uint64_t val, unsigned bytes) {
	unsigned shift = 64 - bytes * 8;
	return (uint64_t)((int64_t)(val << shift) >> shift);
}

static int far_operand(struct x86_decoder *d) {
	uint64_t val = 0;
	int rc = immediate(d, d->o->opsize == 2 ? 2 : 4, &d->o->imm);
	if (!rc)
		rc = immediate(d, 2, &val);
	if (!rc)
		d->o->imm2 = (uint16_t)val;
	return rc;
}

static int moffs(struct x86_decoder *d) {
	struct x86_insn *o = d->o;
	if (!x86_decoder_has(d, o->addrsize))
		return d->short_code;
	const uint8_t *p = d->bytes + d->pos;
	o->disp_off = (uint8_t)d->pos;
	o->disp_len = o->addrsize;
	o->disp = o->addrsize == 2	 ? (int64_t)le16_get(p)
			  : o->addrsize == 4 ? (int64_t)le32_get(p)
								 : (int64_t)le64_get(p);
	o->seg = o->seg_prefix != X86_REG_NONE ? o->seg_prefix : DS;
	d->pos += o->addrsize;
	return 0;
}

/* Operands that are not plain registers of modrm: one call for each, rarer than those. */
static int odd_operand(struct x86_decoder *d, const struct x86_opspec *s, struct x86_opnd *op) {
	struct x86_insn *o = d->o;
	unsigned reg = (o->modrm >> 3 & 7) | (o->rex & 4) << 1;
	uint64_t val = 0;
	int rc = 0;
	switch (s->at) {
	case AT_REG_SEG:
		op->kind = OPND_SEG;
		op->reg = reg & 7;
		if (op->reg > GS || (op->reg == CS && s->access & OPND_W))
			return X86_DECODE_UD;
		break;
	case AT_REG_CR:
		op->kind = OPND_CR;
		op->reg = (uint8_t)reg;
		if (!(0x11d >> reg & 1)) /* 0 2 3 4 8 */
			return X86_DECODE_UD;
		break;
	case AT_REG_DR:
		op->kind = OPND_DR;
		op->reg = (uint8_t)reg;
		if (reg > 7)
			return X86_DECODE_UD;
		break;
	case AT_REG_MASK:
		op->kind = OPND_MASK;
		op->reg = (uint8_t)reg;
		if (reg > 7 || d->rex_r2)
			return X86_DECODE_UD;
		break;
	case AT_RM_MASK:
		if (o->modrm < 0xc0) {
			op->kind = OPND_MEM;
			op->size = (uint8_t)size_of(d, s->msize);
			break;
		}
		op->kind = OPND_MASK;
		op->reg = o->modrm & 7;
		break;
	case AT_VVVV_MASK:
		op->kind = OPND_MASK;
		op->reg = o->vvvv;
		if (o->vvvv > 7)
			return X86_DECODE_UD;
		break;
	case AT_IS4_VEC:
		op->kind = OPND_VEC;
		rc = immediate(d, 1, &o->imm);
		op->reg = (uint8_t)(o->imm >> 4 & (d->mode64 ? 15 : 7));
		break;
	case AT_FIXED_SEG:
		op->kind = OPND_SEG;
		op->reg = s->msize;
		break;
	case AT_FIXED_VEC:
		op->kind = OPND_VEC;
		op->reg = s->msize;
		break;
	case AT_ST:
		op->kind = OPND_ST;
		op->reg = o->modrm & 7;
		break;
	case AT_ST0:
		op->kind = OPND_ST;
		op->reg = 0;
		break;
	case AT_ONE:
		op->kind = OPND_ONE;
		break;
	case AT_IMM16:
		op->kind = OPND_IMM;
		rc = immediate(d, 2, &o->imm);
		break;
	case AT_IMMV:
		op->kind = OPND_IMM;
		rc = immediate(d, o->opsize, &o->imm);
		break;
	case AT_IMM8_2:
		op->kind = OPND_IMM2;
		rc = immediate(d, 1, &val);
		if (!rc)
			o->imm2 = (uint16_t)val;
		break;
	case AT_FAR:
		op->kind = OPND_FAR;
		rc = far_operand(d);
		break;
	case AT_MOFFS:
		op->kind = OPND_MEM;
		op->size = (uint8_t)size_of(d, s->msize);
		rc = moffs(d);
		break;
	case AT_VSIB: /* reg: size of the index vector */
		op->kind = OPND_MEM;
		op->reg = op->size;
		op->size = (uint8_t)size_of(d, s->msize);
		break;
	}
	return rc;
}

/* One of the plain register fields, or modrm's memory operand. */
static inline int register_operand(struct x86_decoder *d, const struct x86_opspec *s,
								   struct x86_opnd *op) {
	static const uint8_t kinds[] = {
		[AT_RM_GPR] = OPND_GPR,	  [AT_RM_MMX] = OPND_MMX,	[AT_RM_VEC] = OPND_VEC,
		[AT_REG_GPR] = OPND_GPR,  [AT_REG_MMX] = OPND_MMX,	[AT_REG_VEC] = OPND_VEC,
		[AT_VVVV_GPR] = OPND_GPR, [AT_VVVV_VEC] = OPND_VEC, [AT_OPCODE_GPR] = OPND_GPR,
	};
	const struct x86_insn *o = d->o;
	unsigned reg, at = s->at, rex = o->rex;
	if (at <= AT_RM_VEC) {
		if (d->mem) {
			op->kind = OPND_MEM;
			op->size = (uint8_t)size_of(d, s->msize);
			return 0;
		}
		reg = (o->modrm & 7) | (rex & 1) << 3;
		if (o->prefix & X86_PFX_EVEX && at == AT_RM_VEC)
			reg |= (rex & 2) << 3;
	} else if (at <= AT_REG_VEC) {
		reg = (o->modrm >> 3 & 7) | (rex & 4) << 1;
		if (d->rex_r2) {
			if (at != AT_REG_VEC)
				return X86_DECODE_UD;
			reg |= 16;
		}
	} else if (at == AT_OPCODE_GPR) {
		reg = (d->opcode & 7) | (rex & 1) << 3;
	} else {
		reg = o->vvvv;
	}
	op->kind = kinds[at];
	op->size = (uint8_t)size_of(d, s->rsize);
	if (op->kind == OPND_MMX)
		reg &= 7;
	if (op->size == 1 && reg - 4 < 4 && !d->any_rex && op->kind == OPND_GPR)
		reg += X86_REG_HIGH - 4;
	op->reg = (uint8_t)reg;
	return 0;
}

static inline int operand(struct x86_decoder *d, const struct x86_opspec *s, struct x86_opnd *op) {
	struct x86_insn *o = d->o;
	int rc;
	op->access = s->access;
	if (s->at <= AT_OPCODE_GPR)
		return register_operand(d, s, op);
	op->size = (uint8_t)size_of(d, s->rsize);
	switch (s->at) {
	case AT_FIXED_GPR:
		op->kind = OPND_GPR;
		op->reg = s->msize;
		return 0;
	case AT_IMM8:
		op->kind = OPND_IMM;
		return immediate(d, 1, &o->imm);
	case AT_IMM8S:
	case AT_REL8:
		op->kind = s->at == AT_IMM8S ? OPND_IMM : OPND_REL;
		rc = immediate(d, 1, &o->imm);
		o->imm = sign_extend(o->imm, 1);
		return rc;
	case AT_IMMZ:
	case AT_RELZ: {
		unsigned len = o->opsize == 2 ? 2 : 4;
		op->kind = s->at == AT_IMMZ ? OPND_IMM : OPND_REL;
		rc = immediate(d, len, &o->imm);
		o->imm = sign_extend(o->imm, len);
		return rc;
	}
	default:
		return odd_operand(d, s, op);
	}
}

int x86_decode_operands(struct x86_decoder *d, const struct x86_dec *dec) {
	const struct x86_opspec *spec = &x86_opspecs[dec->ops];
	struct x86_insn *o = d->o;
	o->nopnds = dec->nopnds;
	for (unsigned n = 0; n < dec->nopnds; n++) {
		int rc = operand(d, &spec[n], &o->opnd[n]);
		if (rc)
			return rc;
		if (o->opnd[n].kind == OPND_MEM)
			o->mem = (uint8_t)(n + 1);
	}
	return 0;
}
