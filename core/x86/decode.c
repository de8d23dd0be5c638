/* The instruction decoder: bytes to struct x86_insn [SDM2 2], [APM3 1].
 *
 * Prefixes, then a walk through the generated trees (core/x86/decode_table.h) to a form, then
 * ModRM, SIB and displacement, then the form's operand recipe. XOP, 3DNow!, MPX, CET and AMX
 * are not in the table: they are #UD, or the NOPs that older CPUs see in them.
 * Pure: called from any thread with any bytes. */
#include "core/x86/decode.h"
#include "core/base/string.h"

enum prefix_kind { P_NONE, P_SEG, P_OPSIZE, P_ADDRSIZE, P_LOCK, P_REPNE, P_REP, P_REX, P_VEX };

static const uint8_t prefix_kinds[256] = {
	[0x26] = P_SEG, [0x2e] = P_SEG,			 [0x36] = P_SEG,	  [0x3e] = P_SEG,  [0x64] = P_SEG,
	[0x65] = P_SEG, [0x66] = P_OPSIZE,		 [0x67] = P_ADDRSIZE, [0xf0] = P_LOCK, [0xf2] = P_REPNE,
	[0xf3] = P_REP, [0x40 ... 0x4f] = P_REX, [0x62] = P_VEX,	  [0xc4] = P_VEX,  [0xc5] = P_VEX,
};

/* ---- prefixes -------------------------------------------------------------------------- */

static int vex_prefix(struct x86_decoder *d, uint8_t first) {
	struct x86_insn *o = d->o;
	if (o->prefix & (X86_PFX_LOCK | X86_PFX_REP | X86_PFX_REPNE | X86_PFX_OPSIZE | X86_PFX_REX))
		return X86_DECODE_UD;
	unsigned n = first == 0xc5 ? 1 : first == 0xc4 ? 2 : 3;
	if (!x86_decoder_has(d, n + 1))
		return d->short_code;
	const uint8_t *p = d->bytes + d->pos;
	uint8_t p0 = p[0], p1 = p[n == 1 ? 0 : 1];
	d->pos += n;
	o->prefix |= n == 3 ? X86_PFX_EVEX : X86_PFX_VEX;
	d->pp = p1 & 3;
	o->vvvv = ~p1 >> 3 & 15;
	if (n == 1) {
		o->rex = ~p0 >> 5 & 4;
		d->map = X86_MAP_VEX + 1;
		d->l = p0 >> 2 & 1;
	} else {
		o->rex = (~p0 >> 5 & 7) | (p1 >> 4 & 8);
		d->map = (uint8_t)((n == 2 ? X86_MAP_VEX : X86_MAP_EVEX) + (p0 & (n == 2 ? 31 : 7)));
		d->l = p1 >> 2 & 1;
	}
	if (n == 2 && (d->map < X86_MAP_VEX + 1 || d->map > X86_MAP_VEX + 3))
		return X86_DECODE_UD;
	if (n == 3) {
		uint8_t p2 = p[2];
		if (p0 & 8 || !(p1 & 4) || !(p0 & 7))
			return X86_DECODE_UD;
		d->l = p2 >> 5 & 3;
		d->rex_r2 = !(p0 & 0x10);
		d->rex_x2 = !(p2 & 8);
		o->evex = (p2 & 7) | (p2 >> 7 & 1) << 3 | (p2 >> 4 & 1) << 4;
	}
	if (!d->mode64) {
		/* Only eight registers; R and X are 1 by necessity, the rest is ignored. */
		o->rex &= 8;
		d->rex_r2 = false;
	}
	return 0;
}

/* Reads prefixes and opcode; sets d->node. Returns 0 or a result. */
static int prefixes(struct x86_decoder *d) {
	struct x86_insn *o = d->o;
	const uint8_t *p = d->bytes;
	unsigned pos = 0, end = d->end;
	uint8_t seg = X86_REG_NONE, rex = 0, pp = 0, b;
	bool has_rex = false;

	for (;; pos++) {
		if (pos >= end)
			return d->short_code;
		b = p[pos];
		uint8_t kind = prefix_kinds[b];
		if (kind == P_NONE)
			break;
		if (kind == P_REX) {
			if (!d->mode64)
				break;
			rex = b & 15;
			has_rex = true;
			continue;
		}
		if (kind == P_VEX) {
			if (d->mode64)
				break;
			/* LES, LDS or BOUND if the next byte is a ModRM with a memory operand. */
			if (pos + 1 >= end)
				return d->short_code;
			if (p[pos + 1] < 0xc0)
				kind = P_NONE;
			break;
		}
		/* REX counts only directly before the opcode. */
		rex = 0;
		has_rex = false;
		switch (kind) {
		case P_SEG:
			if (b >= 0x64)
				seg = b == 0x64 ? FS : GS;
			else if (!d->mode64) /* where these four mean nothing, not even "no FS" */
				seg = (b >> 3) & 3;
			break;
		case P_OPSIZE:
			o->prefix |= X86_PFX_OPSIZE;
			break;
		case P_ADDRSIZE:
			o->prefix |= X86_PFX_ADDRSIZE;
			break;
		case P_LOCK:
			o->prefix |= X86_PFX_LOCK;
			break;
		case P_REPNE:
			o->prefix = (o->prefix & (uint8_t)~X86_PFX_REP) | X86_PFX_REPNE;
			pp = 3;
			break;
		case P_REP:
			o->prefix = (o->prefix & (uint8_t)~X86_PFX_REPNE) | X86_PFX_REP;
			pp = 2;
			break;
		}
	}
	o->seg_prefix = seg;
	o->rex = rex;
	d->pp = pp ? pp : o->prefix & X86_PFX_OPSIZE ? 1 : 0;
	if (has_rex) {
		o->prefix |= X86_PFX_REX;
		d->any_rex = true;
	}
	pos++;
	if (b == 0x0f) {
		d->map = 1;
		if (pos >= end)
			return d->short_code;
		b = p[pos++];
		if (b == 0x38 || b == 0x3a) {
			d->map = b == 0x38 ? 2 : 3;
			if (pos >= end)
				return d->short_code;
			b = p[pos++];
		}
	} else if (prefix_kinds[b] == P_VEX && (d->mode64 || p[pos] >= 0xc0)) {
		d->pos = pos;
		int rc = vex_prefix(d, b);
		if (rc)
			return rc;
		pos = d->pos;
		b = p[pos++];
	}
	d->opcode = b;
	d->pos = pos;
	o->opcode_off = (uint8_t)(pos - 1);
	d->node = x86_root[d->map][b];
	return d->node ? 0 : X86_DECODE_UD;
}

/* ---- the form -------------------------------------------------------------------------- */

static int need_modrm(struct x86_decoder *d) {
	if (d->has_modrm)
		return 0;
	if (!x86_decoder_has(d, 1))
		return d->short_code;
	d->has_modrm = true;
	d->o->modrm_off = (uint8_t)d->pos;
	d->o->modrm = d->bytes[d->pos++];
	return 0;
}

/* Walks the tree from d->node to a form. */
static int find_form(struct x86_decoder *d) {
	struct x86_insn *o = d->o;
	unsigned node = d->node;
	while (node & X86_NODE) {
		const uint16_t *t = &x86_tree[node & ~X86_NODE];
		unsigned n;
		switch (*t) {
		case DIM_MODE:
			n = d->mode64;
			break;
		case DIM_PP:
			n = d->pp;
			break;
		case DIM_W:
			n = o->rex >> 3;
			break;
		case DIM_L:
			n = d->l;
			if (o->evex & 0x10) { /* on registers L'L is a rounding mode, the length 512 */
				int rc = need_modrm(d);
				if (rc)
					return rc;
				if (o->modrm >= 0xc0)
					n = 2;
			}
			break;
		case DIM_OPSIZE:
			n = o->opsize >> 2;
			break;
		case DIM_REXB:
			n = o->rex & 1;
			break;
		default: {
			int rc = need_modrm(d);
			if (rc)
				return rc;
			n = *t == DIM_REG ? o->modrm >> 3 & 7 : *t == DIM_RM ? o->modrm & 7 : o->modrm >= 0xc0;
		}
		}
		node = t[1 + n];
	}
	o->form = (uint16_t)node;
	return node ? 0 : X86_DECODE_UD;
}

/* ---- VEX and EVEX rules ----------------------------------------------------------------- */

/* What the payload bits may say for this form; also settles the vector length. */
static int vector_rules(struct x86_decoder *d, const struct x86_dec *dec) {
	struct x86_insn *o = d->o;
	bool evex = o->prefix & X86_PFX_EVEX, mem = o->modrm < 0xc0;
	unsigned aaa = o->evex & 7, flags = dec->flags;
	bool vsib = flags & DEC_VSIB;

	if (!(flags & DEC_VVVV) && (o->vvvv || (d->rex_x2 && !vsib)))
		return X86_DECODE_UD;
	if (!d->mode64) {
		if (d->rex_x2)
			return X86_DECODE_UD;
		o->vvvv &= 7;
	}
	o->vl = flags & DEC_LIG ? 0 : d->l;
	if (!evex)
		return 0;
	if (flags & DEC_VVVV && !vsib && d->rex_x2)
		o->vvvv |= 16;
	if (o->evex & 0x10) {
		if (mem ? !dec->bcast : !(flags & (DEC_ER | DEC_SAE)))
			return X86_DECODE_UD;
		if (!mem && !(flags & DEC_LIG))
			o->vl = 2;
	}
	if (d->l == 3 && (mem || !(o->evex & 0x10)))
		return X86_DECODE_UD;
	if (aaa ? !(flags & DEC_K) : flags & DEC_KREQ)
		return X86_DECODE_UD;
	if (o->evex & 8 && (!(flags & DEC_Z) || !aaa))
		return X86_DECODE_UD;
	return 0;
}

/* Gathers: destination, index and mask must differ [SDM2 VGATHERDPS]. Complex products of half
 * precision: the destination must not be a source [SDM2 VFMULCPH]. */
static bool not_distinct(const struct x86_insn *o) {
	unsigned dest = o->opnd[0].reg, index = o->index;
	if (!(x86_decs[o->form].flags & DEC_VSIB))
		return dest == o->opnd[1].reg || (o->opnd[2].kind == OPND_VEC && dest == o->opnd[2].reg);
	if (o->prefix & X86_PFX_EVEX)
		return dest == index;
	return dest == index || dest == o->opnd[2].reg || index == o->opnd[2].reg;
}

static int vector_operands_done(struct x86_decoder *d, const struct x86_dec *dec) {
	struct x86_insn *o = d->o;
	if (dec->flags & DEC_DISTINCT && not_distinct(o))
		return X86_DECODE_UD;
	if (!(o->prefix & X86_PFX_EVEX))
		return 0;
	if ((o->evex & 15) - 1u < 7 && o->opnd[0].kind == OPND_VEC && o->opnd[0].access & OPND_W)
		o->opnd[0].access |= OPND_R; /* merging */
	if (o->modrm >= 0xc0)
		return 0;
	for (unsigned n = 0; n < o->nopnds; n++) {
		struct x86_opnd *op = &o->opnd[n];
		if (op->kind != OPND_MEM)
			continue;
		if (o->evex & 8 && op->access & OPND_W)
			return X86_DECODE_UD;
		if (o->evex & 0x10)
			op->size = dec->bcast;
		/* disp8 counts memory operands [SDM2 2.7.5]. */
		if (o->disp_len == 1)
			o->disp *= o->evex & 0x10 || !dec->disp8_n ? op->size : dec->disp8_n;
	}
	return 0;
}

/* memset in pieces that the compiler turns into plain stores: `rep stos` costs a fifth of a
 * decode. */
static inline void clear(struct x86_insn *o) {
	char *p = (char *)o;
	memset(p, 0, 32);
	memset(p + 32, 0, offsetof(struct x86_insn, raw) - 32);
	memset(p + offsetof(struct x86_insn, raw), 0, sizeof(*o) - offsetof(struct x86_insn, raw));
}

/* Fills in o->raw: the first len bytes, then zeroes. */
static inline void keep_bytes(struct x86_insn *o, const uint8_t *bytes, size_t avail) {
	if (avail < sizeof(o->raw)) {
		for (unsigned n = 0; n < o->len; n++)
			o->raw[n] = bytes[n];
		return;
	}
	uint64_t low, high = 0;
	memcpy(&low, bytes, 8);
	if (o->len <= 8) {
		low &= ~0ull >> (64 - o->len * 8);
	} else {
		memcpy(&high, bytes + 8, 8);
		high &= ~0ull >> (128 - o->len * 8);
	}
	memcpy(o->raw, &low, 8);
	memcpy(o->raw + 8, &high, 8);
}

/* ---- the whole ------------------------------------------------------------------------- */

static int decode(struct x86_insn *o, const uint8_t *bytes, size_t avail, enum x86_mode mode) {
	/* Address size << 4 | operand size, by X86_PFX_OPSIZE, X86_PFX_ADDRSIZE and W. */
	static const uint8_t sizes[3][8] = {
		[X86_MODE_16] = {0x22, 0x24, 0x42, 0x44, 0x22, 0x24, 0x42, 0x44},
		[X86_MODE_32] = {0x44, 0x42, 0x24, 0x22, 0x44, 0x42, 0x24, 0x22},
		[X86_MODE_64] = {0x84, 0x82, 0x44, 0x42, 0x88, 0x88, 0x48, 0x48},
	};
	struct x86_decoder d;
	d.o = o;
	d.bytes = bytes;
	d.end = avail < X86_MAX_LEN ? (unsigned)avail : X86_MAX_LEN;
	d.short_code = avail < X86_MAX_LEN ? X86_DECODE_MORE : X86_DECODE_LONG;
	d.map = X86_MAP_LEGACY;
	d.l = 0;
	d.mode64 = mode == X86_MODE_64;
	d.has_modrm = d.mem = d.any_rex = d.rex_r2 = d.rex_x2 = false;
	clear(o);
	o->mode = (uint8_t)mode;
	o->base = o->index = X86_REG_NONE;

	int rc = prefixes(&d);
	if (rc)
		return rc;
	unsigned size = sizes[mode][(o->prefix >> 3 & 3) | (o->rex & 8) >> 1];
	o->addrsize = size >> 4;
	o->opsize = size & 15;
	rc = find_form(&d);
	if (rc)
		return rc;

	const struct x86_dec *dec = &x86_decs[o->form];
	unsigned flags = dec->flags;
	o->op = dec->op;
	o->seg = o->seg_prefix != X86_REG_NONE ? o->seg_prefix : DS;
	if (flags & (DEC_O8 | DEC_OZ | DEC_D64 | DEC_F64 | DEC_REPOP | DEC_COND)) {
		if (flags & DEC_O8)
			o->opsize = 1;
		else if (flags & DEC_OZ)
			o->opsize = o->opsize == 2 ? 2 : 4;
		else if (d.mode64 && (flags & DEC_F64 || (flags & DEC_D64 && o->opsize == 4)))
			o->opsize = 8;
		if (flags & DEC_REPOP)
			o->prefix &= (uint8_t) ~(X86_PFX_REP | X86_PFX_REPNE);
		if (flags & DEC_COND)
			o->cond = d.opcode & 15;
	}
	if (flags & DEC_MODRM) {
		rc = need_modrm(&d);
		if (rc)
			return rc;
		if (o->modrm < 0xc0 && !(flags & DEC_NOMOD)) {
			d.mem = true;
			rc = x86_decode_memory(&d, flags & DEC_VSIB);
			if (rc)
				return rc;
		}
	}
	bool vector = o->prefix & (X86_PFX_VEX | X86_PFX_EVEX);
	if (vector) {
		rc = vector_rules(&d, dec);
		if (rc)
			return rc;
	}
	rc = x86_decode_operands(&d, dec);
	if (rc)
		return rc;
	if (vector) {
		rc = vector_operands_done(&d, dec);
		if (rc)
			return rc;
	} else if (o->prefix & X86_PFX_LOCK && (!(flags & DEC_LOCK) || o->opnd[0].kind != OPND_MEM)) {
		return X86_DECODE_UD;
	}
	o->len = (uint8_t)d.pos;
	keep_bytes(o, bytes, avail);
	return o->len;
}

int x86_decode(struct x86_insn *out, const uint8_t *bytes, size_t avail, enum x86_mode mode) {
	int rc = decode(out, bytes, avail, mode);
	return rc == X86_DECODE_MORE ? X86_DECODE_SHORT : rc;
}
