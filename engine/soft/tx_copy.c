/* A guest instruction as host instruction: its bytes with registers renamed and, for a memory
 * operand, the checked address. See tx.h. */
#include "engine/soft/tx.h"

/* Where its GPR operands are encoded, as host registers; NOREG where the field is none. */
struct fields {
	unsigned reg, rm, vvvv, opcode;
	bool high; /* AH, CH, DH or BH: no REX possible */
};

static bool is_prefix(uint8_t b) {
	return b == 0x66 || b == 0x67 || b == 0xf2 || b == 0xf3 || b == 0xf0 || b == 0x2e ||
		   b == 0x36 || b == 0x3e || b == 0x26 || b == 0x64 || b == 0x65;
}

static unsigned reg_field(const struct x86_insn *i, const struct fields *f) {
	return f->reg != NOREG ? f->reg : (i->modrm >> 3 & 7) | (i->rex & 4) << 1;
}

static unsigned rm_field(const struct x86_insn *i, const struct fields *f) {
	return f->rm != NOREG ? f->rm : (i->modrm & 7) | (i->rex & 1) << 3;
}

/* W, R, X and B as they are needed. */
static unsigned rex_of(const struct x86_insn *i, const struct fields *f, const struct emem *m) {
	unsigned rex = i->rex & 8;
	if (!i->modrm_off)
		return rex | (f->opcode != NOREG ? f->opcode >> 3 & 1 : i->rex & 1u);
	rex |= (reg_field(i, f) & 8) >> 1;
	return rex | (m ? rex_bits(false, 0, m->index, m->base) : (rm_field(i, f) & 8) >> 3);
}

static void emit_immediate(struct emit *e, const struct x86_insn *i) {
	if (!i->imm_off)
		return;
	unsigned from = MIN(i->imm_off, sizeof(i->raw) - 8);
	uint64_t imm;
	memcpy(&imm, i->raw + from, 8);
	e_bytes(e, (unsigned)(i->len - i->imm_off), imm >> 8 * (i->imm_off - from));
}

/* Emits the instruction with other registers and, if m is not NULL, another memory operand. */
static void emit_copy(struct emit *e, const struct x86_insn *i, const struct fields *f,
					  const struct emem *m) {
	const uint8_t *raw = i->raw;
	unsigned at = 0, rex = rex_of(i, f, m);
	bool evex = i->prefix & X86_PFX_EVEX;
	if (evex) {
		while (raw[at] != 0x62)
			at++;
		unsigned p0 = raw[at + 1]; /* R, X and B, inverted; below them R' and the map */
		unsigned rxb = (~rex & 7) << 5;
		if (!m && f->rm == NOREG) /* X is the top bit of the vector register */
			rxb = (rxb & 0xa0) | (p0 & 0x40);
		e_bytes(e, 4,
				0x62 | (rxb | (p0 & 0x1f)) << 8 | raw[at + 2] << 16 | (uint32_t)raw[at + 3] << 24);
		at += 4;
	} else if (i->prefix & X86_PFX_VEX) {
		while (raw[at] != 0xc4 && raw[at] != 0xc5)
			at++;
		bool three = raw[at] == 0xc4;
		unsigned map = three ? raw[at + 1] & 31 : 1, last = raw[at + (three ? 2 : 1)];
		unsigned vvvv = f->vvvv != NOREG ? f->vvvv : i->vvvv;
		e8(e, 0xc4);
		e8(e, (~rex & 7) << 5 | map);
		e8(e, (three ? last & 0x80 : 0) | (~vvvv & 15) << 3 | (last & 7));
		at += three ? 3 : 2;
	} else {
		bool had_rex = false; /* one that counts: directly before the opcode */
		bool own = true, opsize = tx_legacy_opsize(i, &own);
		if (opsize)
			e8(e, 0x66);
		for (;; at++) {
			if (is_prefix(raw[at])) {
				had_rex = false;
				if ((raw[at] == 0x66 && own) || raw[at] == 0xf2 || raw[at] == 0xf3 ||
					raw[at] == 0xf0)
					e8(e, raw[at]);
			} else if ((raw[at] & 0xf0) == 0x40 && i->mode == X86_MODE_64) {
				had_rex = true;
			} else {
				break;
			}
		}
		if (rex || (had_rex && !f->high))
			e8(e, 0x40 | rex);
	}
	unsigned opcode_end = i->modrm_off ? i->modrm_off : i->imm_off ? i->imm_off : i->len;
	for (; at < opcode_end; at++) {
		uint8_t b = raw[at];
		if (i->mode != X86_MODE_64 && b == 0x82 && at == i->opcode_off) /* the same as 80 */
			b = 0x80;
		if (at + 1 == opcode_end && f->opcode != NOREG)
			b = (uint8_t)((b & 0xf8) | (f->opcode & 7));
		e8(e, b);
	}
	if (i->modrm_off) {
		if (m)
			e_modrm_mem(e, reg_field(i, f), m, !evex);
		else
			e8(e, 0xc0 | (reg_field(i, f) & 7) << 3 | (rm_field(i, f) & 7));
	}
	emit_immediate(e, i);
}

/* The same for one that is bare (struct jit_fact) and has its operand in memory. */
static void emit_bare(struct emit *e, const struct x86_insn *i, const struct fields *f,
					  const struct emem *m) {
	unsigned had_rex = (i->prefix & X86_PFX_REX) != 0, n = i->modrm_off - had_rex;
	unsigned rex = rex_of(i, f, m);
	uint32_t opcode;
	memcpy(&opcode, i->raw + had_rex, 4);
	opcode &= 0xffffffffu >> (32 - 8 * n);
	bool any = rex || (had_rex && !f->high);
	e_with_mem(e, n + any, any ? 0x40 | rex | (uint64_t)opcode << 8 : opcode, reg_field(i, f), m,
			   true);
	emit_immediate(e, i);
}

/* Renames the GPR fields; loads residents into scratch registers. With an operand in `mem`ory T0
 * addresses it: the second one may be written only, which happens after it was read (MULX). false:
 * does not fit. */
struct temp {
	unsigned guest, host;
	bool load, store;
};

static bool plan_fields(const struct x86_insn *i, bool mem, struct fields *f, struct temp temps[2],
						unsigned *ntemps) {
	const struct x86_dec *dec = &x86_decs[i->form];
	const struct x86_opspec *spec = &x86_opspecs[dec->ops];
	*f = (struct fields){NOREG, NOREG, NOREG, NOREG, false};
	*ntemps = 0;
	for (unsigned n = 0; n < i->nopnds; n++) {
		const struct x86_opnd *o = &i->opnd[n];
		if (o->kind != OPND_GPR)
			continue;
		unsigned at = spec[n].at, host;
		if (o->reg & X86_REG_HIGH) {
			f->high = true;
			host = (o->reg & 3) + 4;
		} else if (tx_resident(o->reg)) {
			if (at == AT_FIXED_GPR)
				return false;
			unsigned k = 0;
			while (k < *ntemps && temps[k].guest != o->reg)
				k++;
			if (k == *ntemps) {
				if (k == 2)
					return false;
				temps[k] = (struct temp){.guest = o->reg, .host = k ? T0 : T1};
				(*ntemps)++;
			}
			temps[k].load |= (o->access & OPND_R) || o->size < 4;
			temps[k].store |= !!(o->access & OPND_W);
			host = temps[k].host;
		} else {
			host = tx_host_reg(o->reg);
		}
		switch (at) {
		case AT_REG_GPR:
			f->reg = host;
			break;
		case AT_RM_GPR:
			f->rm = host;
			break;
		case AT_VVVV_GPR:
			f->vvvv = host;
			break;
		case AT_OPCODE_GPR:
			f->opcode = host;
			break;
		case AT_FIXED_GPR:
			break;
		default:
			return false;
		}
	}
	if (mem && *ntemps == 2 && temps[1].load)
		return false;
	/* SPL..DIL against AH..BH: R14 for RSP changes nothing, but a byte of RSP needs REX. */
	return true;
}

/* The register whose second byte is the operand beside one in memory; NOREG: it names more. */
static unsigned high_operand(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_MOV:
	case X86_OP_ADD:
	case X86_OP_OR:
	case X86_OP_ADC:
	case X86_OP_SBB:
	case X86_OP_AND:
	case X86_OP_SUB:
	case X86_OP_XOR:
	case X86_OP_CMP:
	case X86_OP_TEST:
		break;
	default:
		return NOREG;
	}
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_GPR && i->opnd[n].reg & X86_REG_HIGH)
			return i->opnd[n].reg & 3;
	return NOREG;
}

static void swap_bytes(struct emit *e, unsigned reg) { /* xchg al, ah */
	e8(e, 0x86);
	e8(e, 0xc0 | reg << 3 | (reg + 4));
}

/* MOV A0..A3, whose address is all that they have, as 88..8B. */
static void emit_direct(struct emit *e, const struct x86_insn *i, const struct emem *m) {
	const struct x86_opnd *o = x86_memory_operand(i);
	if (o->size == 2)
		e8(e, 0x66);
	e_op_mem(e, o->size == 8, (o == &i->opnd[0] ? 0x88 : 0x8a) | (o->size > 1), RAX, m);
}

/* ---- bit strings ---------------------------------------------------------------------------- */

/* The bit that counts is in the operand that lies `offset` >> 5 or 6 operands from the one that is
 * named, as [SDM2 BT] has it. Its address is kept in jit.tmp; in the operand itself the host does
 * the rest, which looks at the lowest bits of an offset only, if it is told none that are higher.
 */
static bool bit_string(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	const struct x86_opnd *o = &i->opnd[0];
	struct emit *e = &t->e;
	bool wide = o->size == 8, lock = i->prefix & X86_PFX_LOCK, write = o->access & OPND_W;
	unsigned bit = i->opnd[1].reg, host = tx_host_reg(bit);
	unsigned op = i->op == X86_OP_BT	? 0xa3
				  : i->op == X86_OP_BTS ? 0xab
				  : i->op == X86_OP_BTR ? 0xb3
										: 0xbb;
	if (lock && tx_flags_before(&t->fact[n], t->live[n + 1]))
		return false; /* the offset's lowest bits are taken with AND */
	tx_flags_aside(t, n);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.retry = tx_here(t),
						  .rip = t->rip[n],
						  .kind = t->hot ? COLD_PLAIN : COLD_TMP,
						  .size = o->size,
						  .write = write,
						  .saved = t->hot && t->saved && t->live[n]};
	if (tx_legacy(t))
		tx_legacy_linear(t, e, i);
	else
		tx_ea(e, i, t->rip[n]);
	if (tx_resident(bit))
		e_op_gs(e, true, wide ? 0x8b : 0x63, T1, GS_GPR(bit)); /* mov, movsxd */
	else
		e_op_reg(e, true, wide ? 0x8b : 0x63, T1, host);
	e_op_reg(e, true, 0xc1, 7, T1); /* sar */
	e8(e, wide ? 6 : 5);
	/* Of 32-bit code it wraps around, and had no segment's base added. */
	struct emem bits = {T0, T1, wide ? 3 : 2, 0};
	e_op_mem(e, !tx_legacy(t), 0x8d, T0, &bits);
	e_store_gs(e, T0, GS_JIT(tmp));
	tx_probe(t, o->size, write, k);
	tx_flags_for(t, n); /* takes T1 */
	e_load_gs(e, T1, GS_JIT(tmp));
	e_lea(e, T0, T0, T1, 0, 0);
	struct emem m = {T0, NOREG, 0, 0};
	if (lock) {
		e_op_reg(e, false, 0x8b, T1, host);
		e_op_reg(e, false, 0x83, 4, T1); /* and */
		e8(e, wide ? 63 : 31);
		e_bytes(e, 4, 0x0f00f0 | (0x40 | rex_bits(wide, T1, NOREG, T0)) << 8 | op << 24);
		e_modrm_mem(e, T1, &m, true);
	} else {
		e_op_mem(e, wide, 0x8b, T1, &m);
		if (tx_resident(bit)) {
			host = T0;
			e_load_gs(e, T0, GS_GPR(bit));
		}
		e_bytes(e, 4,
				(0x40 | rex_bits(wide, host, NOREG, T1)) | 0x0f00 | op << 16 |
					(0xc0 | (host & 7) << 3 | (T1 & 7)) << 24);
		if (write)
			e_op_mem(e, wide, 0x89, T1, &m);
	}
	if (!t->hot && !t->b->next_page) {
		k->done = tx_here(t);
		k->saved = t->saved;
	}
	return true;
}

enum tx_emitted tx_native(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	struct fields f;
	struct temp temps[2];
	unsigned ntemps;
	if (t->fact[n].as_is) {
		tx_flags_for(t, n);
		uint64_t raw[2];
		memcpy(raw, i->raw, 16);
		e_bytes(e, MIN(i->len, 8u), raw[0]);
		if (i->len > 8)
			e_bytes(e, i->len - 8u, raw[1]);
		return EMIT_OK;
	}
	if (tx_is_bit_string(i))
		return bit_string(t, n) ? EMIT_OK : EMIT_CALL;
	bool mem = i->mem;
	if (!plan_fields(i, mem, &f, temps, &ntemps))
		return EMIT_CALL;
	unsigned swapped = NOREG; /* its low and high bytes, as T0 in the address takes a REX */
	if (mem && f.high) {
		swapped = high_operand(i);
		if (swapped == NOREG)
			return EMIT_CALL;
		f.high = false;
		f.reg = swapped;
	}
	if (f.high && rex_of(i, &f, NULL)) /* AH..BH and REX do not go together */
		return EMIT_CALL;
	struct emem m;
	unsigned ncold = t->ncold;
	t->lend = mem && !ntemps;
	if (mem)
		tx_access(t, n, &m);
	t->lend = false;
	if (swapped != NOREG && (m.base == swapped || m.index == swapped)) {
		t->kept = -1;
		e_op_mem(e, true, 0x8d, T0, &m);
		m = (struct emem){T0, NOREG, 0, 0};
	}
	tx_flags_for(t, n); /* takes T1 */
	if (swapped != NOREG)
		swap_bytes(e, swapped);
	for (unsigned k = 0; k < ntemps; k++)
		if (temps[k].load && (k || t->kept_reg != temps[k].guest))
			e_load_gs(e, temps[k].host, GS_GPR(temps[k].guest));
	if (ntemps == 2)
		t->kept = -1;
	if (mem && t->fact[n].bare)
		emit_bare(e, i, &f, &m);
	else if (mem && !i->modrm_off)
		emit_direct(e, i, &m);
	else
		emit_copy(e, i, &f, mem ? &m : NULL);
	if (swapped != NOREG)
		swap_bytes(e, swapped);
	for (unsigned k = 0; k < ntemps; k++)
		if (temps[k].store)
			e_store_gs(e, temps[k].host, GS_GPR(temps[k].guest));
	if (ntemps)
		t->kept_reg = temps[0].guest;
	/* Hot blocks rely on checks made before, and other instructions end the block. */
	for (; ncold < t->ncold && !t->hot && !t->b->next_page; ncold++)
		if (t->cold[ncold].kind == COLD_PROBE) {
			t->cold[ncold].done = tx_here(t);
			t->cold[ncold].saved = t->saved;
		}
	return EMIT_OK;
}
