/* From guest instructions to host code: one basic block of 64-bit mode at a time.
 *
 * Two passes: decode and find out which flags are live before each instruction, then emit.
 * An instruction that works on registers is copied with its registers renamed; one that
 * touches memory gets a TLB probe before it; branches are emitted by hand; everything else is a
 * call of the interpreter's handler. Whatever can fault does so before the instruction has
 * changed anything, with all of the guest's state in place.
 *
 * Called with jit->lock held, on the vCPU's thread, FPU unloaded. */
#include "core/base/check.h"
#include "core/base/string.h"
#include "core/x86/decode_table.h"
#include "engine/soft/emit.h"
#include "engine/soft/fast.h"

#define MAX_INSNS 32
#define MAX_COLD (2 * MAX_INSNS + 4)

/* What waits to be emitted out of line. */
struct cold {
	uint8_t *from;		  /* the rel32 that leads here */
	const uint8_t *retry; /* where the probe begins */
	uint64_t rip;
	const struct x86_insn *insn; /* a probe that missed; NULL: see `kind` */
	enum { COLD_PROBE, COLD_STACK, COLD_INTERP, COLD_POLL, COLD_POLL_RCX, COLD_LINK } kind;
	unsigned size;
	bool write;
	unsigned stack_reg;
	int32_t stack_disp;
	struct jit_link *link;
};

struct tx {
	struct emit e; /* hot */
	struct jit *j;
	struct soft_vcpu *c;
	struct jit_block *b;
	uint32_t key;
	unsigned n;
	struct x86_insn insn[MAX_INSNS];
	bool call[MAX_INSNS];		  /* by its handler */
	uint16_t live[MAX_INSNS + 1]; /* arithmetic flags that are needed before it */
	/* Where the guest's flags are between two instructions: in the host's, or (those of the
	 * host being spoilt by a probe) in jit.flags_ax until somebody wants them. */
	bool saved;
	bool crossing; /* the block's one instruction reaches into the next page */
	unsigned ncold;
	struct cold cold[MAX_COLD];
};

/* ---- judging instructions --------------------------------------------------------------- */

static bool is_memory_form(const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_MEM)
			return true;
	return false;
}

static const struct x86_opnd *memory_operand(const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_MEM)
			return &i->opnd[n];
	return NULL;
}

static bool resident(unsigned reg) { /* lives in memory */
	return reg == R10 || reg == R11 || reg == R14;
}

static unsigned host_reg(unsigned reg) {
	return reg == RSP ? H_RSP : reg;
}

/* Integer instructions that run as themselves. */
static bool copies(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_ADD:
	case X86_OP_OR:
	case X86_OP_ADC:
	case X86_OP_SBB:
	case X86_OP_AND:
	case X86_OP_SUB:
	case X86_OP_XOR:
	case X86_OP_CMP:
	case X86_OP_TEST:
	case X86_OP_NOT:
	case X86_OP_NEG:
	case X86_OP_INC:
	case X86_OP_DEC:
	case X86_OP_MUL:
	case X86_OP_IMUL:
	case X86_OP_MOVZX:
	case X86_OP_MOVSX:
	case X86_OP_MOVSXD:
	case X86_OP_XCHG:
	case X86_OP_XADD:
	case X86_OP_CMPXCHG:
	case X86_OP_CMPXCHG8B:
	case X86_OP_CMPXCHG16B:
	case X86_OP_BSWAP:
	case X86_OP_BSF:
	case X86_OP_BSR:
	case X86_OP_TZCNT:
	case X86_OP_LZCNT:
	case X86_OP_POPCNT:
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_RCL:
	case X86_OP_RCR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
	case X86_OP_CBW:
	case X86_OP_CWD:
	case X86_OP_LAHF:
	case X86_OP_SAHF:
	case X86_OP_CLC:
	case X86_OP_STC:
	case X86_OP_CMC:
	case X86_OP_SETCC:
	case X86_OP_CMOVCC:
	case X86_OP_MOVBE:
	case X86_OP_CRC32:
	case X86_OP_ADCX:
	case X86_OP_ADOX:
	case X86_OP_ANDN:
	case X86_OP_BEXTR:
	case X86_OP_BLSI:
	case X86_OP_BLSMSK:
	case X86_OP_BLSR:
	case X86_OP_BZHI:
	case X86_OP_MULX:
	case X86_OP_PDEP:
	case X86_OP_PEXT:
	case X86_OP_RORX:
	case X86_OP_SARX:
	case X86_OP_SHLX:
	case X86_OP_SHRX:
	case X86_OP_MOVNTI:
	case X86_OP_LFENCE:
	case X86_OP_MFENCE:
	case X86_OP_SFENCE:
		return true;
	case X86_OP_MOV: /* but for the moffs forms */
		return !(i->modrm_off == 0 && is_memory_form(i));
	case X86_OP_BT:
	case X86_OP_BTS:
	case X86_OP_BTR:
	case X86_OP_BTC: /* a register offset reaches beyond the operand */
		return !is_memory_form(i) || i->opnd[1].kind == OPND_IMM;
	default:
		return false;
	}
}

static bool is_vector_class(const struct x86_form *f) {
	return f->cls >= X86_CLASS_X87 && f->cls <= X86_CLASS_AVX;
}

/* A switch says so (README.md). */
static bool switched_off(uint32_t off, const struct x86_insn *i, const struct x86_form *f) {
	if (off & JIT_OFF_MEM && is_memory_form(i) && !(f->attr & X86_ATTR_NOMEM_FAULT))
		return true;
	switch (f->cls) {
	case X86_CLASS_INT:
		if (i->op == X86_OP_PUSH || i->op == X86_OP_POP || i->op == X86_OP_LEAVE)
			return off & JIT_OFF_STACK;
		return off & (i->op == X86_OP_LEA ? JIT_OFF_LEA : JIT_OFF_INT);
	case X86_CLASS_BRANCH:
		return off & JIT_OFF_BRANCH;
	case X86_CLASS_X87:
	case X86_CLASS_MMX:
		return off & JIT_OFF_X87;
	case X86_CLASS_SSE:
		return off & JIT_OFF_SSE;
	case X86_CLASS_AVX:
		return off & JIT_OFF_AVX;
	default:
		return false;
	}
}

/* Whether the instruction is left to its handler. */
static bool needs_call(const struct tx *t, const struct x86_insn *i) {
	const struct x86_form *f = &x86_forms[i->form];
	if (t->j->off && switched_off(t->j->off, i, f))
		return true;
	if (f->feature && !soft_has_feature(t->c, f->feature))
		return true;
	if (i->prefix & X86_PFX_EVEX || f->attr & X86_ATTR_VSIB)
		return true;
	if (is_memory_form(i)) {
		const struct x86_opnd *m = memory_operand(i);
		if (i->addrsize != 8 || (i->seg_prefix != X86_REG_NONE && i->seg < SEG_FS))
			return true;
		if (m->size != 1 && m->size != 2 && m->size != 4 && m->size != 8 && m->size != 10 &&
			m->size != 16 && m->size != 32)
			return i->op != X86_OP_LEA && i->op != X86_OP_NOP && i->op != X86_OP_PREFETCH;
	}
	if (jit_quick(t->j, t->key, i) >= 0)
		return false;
	switch (i->op) {
	case X86_OP_LEA:
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
	case X86_OP_JCC:
		return false;
	case X86_OP_JMP:
	case X86_OP_CALL:
	case X86_OP_RET:
	case X86_OP_PUSH:
	case X86_OP_LEAVE:
		return i->opsize != 8;
	case X86_OP_POP:
		return i->opsize != 8 || is_memory_form(i);
	case X86_OP_FLDCW:
		return true;
	default:
		break;
	}
	if (is_vector_class(f)) {
		if (!(t->key & JIT_KEY_FPU) || (f->cls == X86_CLASS_AVX && !(t->key & JIT_KEY_AVX)))
			return true;
		return soft_handlers[i->op] != NULL;
	}
	return !copies(i);
}

/* ---- flags ------------------------------------------------------------------------------ */

/* A shift or rotation by a constant that is not 0: it writes its flags for certain. */
static bool shifts_surely(const struct x86_insn *i) {
	const struct x86_opnd *count = &i->opnd[i->nopnds - 1];
	if (count->kind == OPND_ONE)
		return true;
	return count->kind == OPND_IMM && (i->imm & (i->opnd[0].size == 8 ? 63 : 31));
}

static uint16_t flags_before(const struct tx *t, const struct x86_insn *i, bool call,
							 uint16_t after) {
	const struct x86_form *f = &x86_forms[i->form];
	uint16_t arith = RFLAGS_ARITH;
	if (call || t->j->off & JIT_OFF_FLAGS)
		return arith; /* a handler may read or push them */
	int quick = jit_quick(t->j, t->key, i);
	if (quick >= 0) /* a division leaves them as they are */
		return quick == QUICK_PUSHF ? arith : after & arith;
	uint16_t killed = f->flags_written, read = f->flags_read;
	switch (i->op) {
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
		/* The table has them read what they write, as a count of 0 leaves it. */
		if (shifts_surely(i)) {
			read = 0;
			break;
		}
		/* fall through */
	case X86_OP_RCL:
	case X86_OP_RCR:
		killed = 0;
		break;
	default:
		break;
	}
	return (uint16_t)(((after & ~killed) | read) & arith);
}

/* Flags that are live at a guest address of the same page, by a short look ahead. */
static uint16_t flags_at(const struct tx *t, uint64_t rip) {
	uint64_t page = t->b->rip & ~PAGE_MASK;
	uint16_t open = RFLAGS_ARITH, live = 0;
	if (t->j->off & JIT_OFF_FLAGS)
		return open;
	for (unsigned n = 0; n < 6 && open; n++) {
		struct x86_insn i;
		if ((rip & ~PAGE_MASK) != page)
			return live | open;
		const uint8_t *host = t->b->host - (t->b->rip - rip);
		int len = x86_decode(&i, host, PAGE_SIZE - (rip & PAGE_MASK), X86_MODE_64);
		if (len <= 0)
			return live | open;
		/* A change of it changes what is dead here. */
		t->b->peek_from = MIN(t->b->peek_from, (uint16_t)(rip & PAGE_MASK));
		t->b->peek_to = MAX(t->b->peek_to, (uint16_t)((rip & PAGE_MASK) + (unsigned)len));
		if (i.op == X86_OP_JMP && i.opnd[0].kind == OPND_REL) {
			rip += (uint64_t)len + i.imm;
			continue;
		}
		if (needs_call(t, &i))
			return live | open;
		uint16_t before = flags_before(t, &i, false, 0);
		live |= before & open;
		open &= flags_before(t, &i, false, RFLAGS_ARITH) & ~before;
		if (x86_forms[i.form].attr & X86_ATTR_ENDS)
			return live | open;
		rip += (uint64_t)len;
	}
	return live | open;
}

static void save_flags(struct tx *t) {
	struct emit *e = &t->e;
	e_store_gs(e, RAX, GS_JIT(save_rax));
	e8(e, 0x9f); /* lahf */
	e8(e, 0x0f); /* seto al */
	e8(e, 0x90);
	e8(e, 0xc0);
	/* 32 bits of which 16 count: a narrower store would not be forwarded to the wider load. */
	e_op_gs(e, false, 0x89, RAX, GS_JIT(flags_ax));
	e_load_gs(e, RAX, GS_JIT(save_rax));
}

static void restore_flags(struct emit *e) {
	e_store_gs(e, RAX, GS_JIT(save_rax));
	e_op_gs(e, false, 0x8b, RAX, GS_JIT(flags_ax));
	e8(e, 0x04); /* add al, 0x7f: OF */
	e8(e, 0x7f);
	e8(e, 0x9e); /* sahf */
	e_load_gs(e, RAX, GS_JIT(save_rax));
}

/* Before a probe, which spoils the host's flags. */
static void flags_aside(struct tx *t, unsigned n) {
	if (t->live[n] && !t->saved) {
		save_flags(t);
		t->saved = true;
	}
}

/* Before instruction n itself: brings the flags back if it reads them or keeps some of them. */
static void flags_for(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	uint16_t read = flags_before(t, i, false, 0);
	uint16_t kept = flags_before(t, i, false, t->live[n + 1]);
	if (!read && !(x86_forms[i->form].flags_written & RFLAGS_ARITH))
		return;
	if (t->saved && (read || kept))
		restore_flags(&t->e);
	t->saved = false;
}

/* Before leaving to code that takes the host's flags. */
static void flags_back(struct tx *t) {
	if (t->saved && t->live[t->n])
		restore_flags(&t->e);
	t->saved = false;
}

/* ---- memory ----------------------------------------------------------------------------- */

static struct cold *add_cold(struct tx *t) {
	check(t->ncold < MAX_COLD);
	struct cold *k = &t->cold[t->ncold++];
	*k = (struct cold){0};
	return k;
}

static uint64_t const_ea(const struct x86_insn *i, uint64_t rip) {
	return (uint64_t)i->disp + (i->base == X86_REG_RIP ? rip + i->len : 0);
}

static bool is_const_ea(const struct x86_insn *i) {
	return i->index >= 16 && i->base >= 16;
}

/* The memory operand's own registers, scale and displacement; residents are loaded: a base into
 * T0, an index into T1. */
static struct emem emit_operand(struct emit *e, const struct x86_insn *i) {
	struct emem m = {NOREG, NOREG, i->scale, (int32_t)i->disp};
	if (i->base < 16) {
		m.base = host_reg(i->base);
		if (resident(i->base)) {
			e_load_gs(e, T0, GS_GPR(i->base));
			m.base = T0;
		}
	}
	if (i->index < 16) {
		m.index = i->index;
		if (resident(i->index)) {
			e_load_gs(e, T1, GS_GPR(i->index));
			m.index = T1;
		}
	}
	return m;
}

/* T0 = linear address of the memory operand. Uses T1; flags are lost with FS and GS. */
static void emit_ea(struct emit *e, const struct x86_insn *i, uint64_t rip) {
	if (is_const_ea(i)) {
		e_mov_imm(e, T0, const_ea(i, rip));
	} else {
		struct emem m = emit_operand(e, i);
		if (m.index == NOREG && !m.disp)
			e_mov(e, T0, m.base);
		else
			e_op_mem(e, true, 0x8d, T0, &m);
	}
	if (i->seg >= SEG_FS)
		e_op_gs(e, true, 0x03, T0, GS_SEG(i->seg)); /* add */
}

/* With the linear address in T0: T0 = addend of its page, or off to cold code. Flags lost. */
static void emit_probe(struct tx *t, unsigned size, bool write, struct cold *k) {
	struct emit *e = &t->e;
	bool user = t->key & JIT_KEY_USER;
	uint32_t tlb = GS_JIT(tlb) + (user ? sizeof(struct jit_tlb_entry) * JIT_TLB * 2 : 0) +
				   (write ? sizeof(struct jit_tlb_entry) * JIT_TLB : 0);
	e_op_reg(e, false, 0x8b, T1, T0); /* mov r11d, r10d */
	e8(e, 0x41);					  /* shr r11d, 8 */
	e8(e, 0xc1);
	e8(e, 0xe8 | (T1 & 7));
	e8(e, 8);
	e8(e, 0x41); /* and r11d, (JIT_TLB - 1) * 16 */
	e8(e, 0x81);
	e8(e, 0xe0 | (T1 & 7));
	e32(e, (JIT_TLB - 1) * 16);
	if (size > 1) { /* a crossing access meets the wrong page in the compare */
		e8(e, 0x49);
		e8(e, 0x83);
		e8(e, 0xc0 | (T0 & 7));
		e8(e, size - 1);
	}
	e8(e, 0x49); /* and r10, -4096 */
	e8(e, 0x81);
	e8(e, 0xe0 | (T0 & 7));
	e32(e, 0xfffff000u);
	e_op_gs_index(e, 0x3b, T0, T1, tlb + offsetof(struct jit_tlb_entry, tag)); /* cmp */
	e8(e, 0x0f);
	e8(e, 0x85); /* jne */
	k->from = e->at;
	e32(e, 0);
	e_op_gs_index(e, 0x8b, T0, T1, tlb + offsetof(struct jit_tlb_entry, addend));
}

static const uint8_t *here(const struct tx *t) {
	return t->e.at + t->j->exec;
}

/* The whole access check of insn's memory operand; afterwards *m addresses it, T1 is free. */
static void emit_access(struct tx *t, unsigned n, uint64_t rip, struct emem *m) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	const struct x86_opnd *o = memory_operand(i);
	bool write = o->access & OPND_W;
	flags_aside(t, n);
	struct cold *k = add_cold(t);
	*k = (struct cold){.retry = here(t),
					   .rip = rip,
					   .insn = i,
					   .kind = COLD_PROBE,
					   .size = o->size,
					   .write = write};
	emit_ea(e, i, rip);
	if (x86_forms[i->form].attr & X86_ATTR_ALIGN && o->size > 1) {
		e8(e, 0x41); /* test r10b, size - 1 */
		e8(e, 0xf6);
		e8(e, 0xc0 | (T0 & 7));
		e8(e, o->size - 1);
		struct cold *a = add_cold(t);
		*a = (struct cold){.rip = rip, .kind = COLD_INTERP};
		e8(e, 0x0f);
		e8(e, 0x85);
		a->from = e->at;
		e32(e, 0);
	}
	emit_probe(t, o->size, write, k);
	if (i->seg >= SEG_FS) {
		e_load_gs(e, T1, GS_SEG(i->seg));
		e_lea(e, T0, T0, T1, 0, 0);
	}
	*m = (struct emem){T0, NOREG, 0, 0};
	if (is_const_ea(i)) {
		uint64_t ea = const_ea(i, rip);
		if ((int64_t)ea == (int32_t)ea) {
			m->disp = (int32_t)ea;
		} else {
			e_mov_imm(e, T1, ea);
			e_lea(e, T0, T0, T1, 0, 0);
		}
	} else {
		m->disp = (int32_t)i->disp;
		if (i->index < 16) {
			if (resident(i->index)) {
				e_load_gs(e, T1, GS_GPR(i->index));
				e_lea(e, T0, T0, T1, i->scale, 0);
			} else {
				m->index = i->index;
				m->scale = i->scale;
			}
		}
		if (i->base < 16 && resident(i->base)) {
			e_load_gs(e, T1, GS_GPR(i->base));
			e_lea(e, T0, T0, T1, 0, 0);
		} else if (i->base < 16) {
			if (m->index == NOREG) {
				m->base = host_reg(i->base);
				m->index = T0;
			} else {
				e_lea(e, T0, T0, host_reg(i->base), 0, 0);
			}
		}
	}
}

/* The same for [reg + disp], 8 bytes, of the stack kind; afterwards [reg + T0 + disp]. */
static void emit_stack_access(struct tx *t, unsigned n, uint64_t rip, unsigned reg, int32_t disp,
							  bool write) {
	struct emit *e = &t->e;
	flags_aside(t, n);
	struct cold *k = add_cold(t);
	*k = (struct cold){.retry = here(t),
					   .rip = rip,
					   .kind = COLD_STACK,
					   .size = 8,
					   .write = write,
					   .stack_reg = reg,
					   .stack_disp = disp};
	if (disp)
		e_lea(e, T0, reg, NOREG, 0, disp);
	else
		e_mov(e, T0, reg);
	emit_probe(t, 8, write, k);
}

/* ---- copying an instruction ------------------------------------------------------------- */

/* Where its GPR operands are encoded, as host registers; NOREG where the field is none. */
struct fields {
	unsigned reg, rm, vvvv, opcode;
	bool high; /* AH, CH, DH or BH: no REX possible */
};

static bool is_prefix(uint8_t b) {
	return b == 0x66 || b == 0x67 || b == 0xf2 || b == 0xf3 || b == 0xf0 || b == 0x2e ||
		   b == 0x36 || b == 0x3e || b == 0x26 || b == 0x64 || b == 0x65;
}

/* Emits the instruction with other registers and, if m is not NULL, another memory operand.
 * false: cannot be encoded (nothing emitted). */
static bool emit_copy(struct emit *e, const struct x86_insn *i, const struct fields *f,
					  const struct emem *m) {
	const uint8_t *raw = i->raw;
	unsigned at = 0;
	bool vex = i->prefix & X86_PFX_VEX;
	unsigned reg = f->reg != NOREG ? f->reg : (i->modrm >> 3 & 7) | (i->rex & 4) << 1;
	unsigned rm = f->rm != NOREG ? f->rm : (i->modrm & 7) | (i->rex & 1) << 3;
	unsigned rex = i->rex & 8;
	if (i->modrm_off) {
		rex |= (reg & 8) >> 1;
		if (m)
			rex |= rex_bits(false, 0, m->index, m->base);
		else
			rex |= (rm & 8) >> 3;
	} else {
		unsigned op = f->opcode != NOREG ? f->opcode : (unsigned)(i->rex & 1) << 3;
		rex |= (op & 8) >> 3;
	}
	if (f->high && rex)
		return false;
	if (vex) {
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
		for (;; at++) {
			if (is_prefix(raw[at])) {
				had_rex = false;
				if (raw[at] == 0x66 || raw[at] == 0xf2 || raw[at] == 0xf3 || raw[at] == 0xf0)
					e8(e, raw[at]);
			} else if ((raw[at] & 0xf0) == 0x40) {
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
		if (at + 1 == opcode_end && f->opcode != NOREG)
			b = (uint8_t)((b & 0xf8) | (f->opcode & 7));
		e8(e, b);
	}
	if (i->modrm_off) {
		if (m)
			e_modrm_mem(e, reg, m);
		else
			e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
	}
	if (i->imm_off)
		for (at = i->imm_off; at < i->len; at++)
			e8(e, raw[at]);
	return true;
}

/* Renames the GPR fields; loads residents into scratch registers. `free_regs`: how many there
 * are (1: T1 only). Stores go to `store`. false: does not fit. */
struct temp {
	unsigned guest, host;
	bool load, store;
};

static bool plan_fields(const struct x86_insn *i, unsigned free_regs, struct fields *f,
						struct temp temps[2], unsigned *ntemps) {
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
		} else if (resident(o->reg)) {
			if (at == AT_FIXED_GPR)
				return false;
			unsigned k = 0;
			while (k < *ntemps && temps[k].guest != o->reg)
				k++;
			if (k == *ntemps) {
				if (k == free_regs)
					return false;
				temps[k] = (struct temp){.guest = o->reg, .host = k ? T0 : T1};
				(*ntemps)++;
			}
			temps[k].load |= (o->access & OPND_R) || o->size < 4;
			temps[k].store |= !!(o->access & OPND_W);
			host = temps[k].host;
		} else {
			host = host_reg(o->reg);
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
	/* SPL..DIL against AH..BH: R14 for RSP changes nothing, but a byte of RSP needs REX. */
	return true;
}

/* false: emit a call instead; then nothing was emitted. */
static bool emit_native(struct tx *t, unsigned n, uint64_t rip) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	struct fields f;
	struct temp temps[2];
	unsigned ntemps;
	bool mem = is_memory_form(i);
	if (!plan_fields(i, mem ? 1 : 2, &f, temps, &ntemps))
		return false;
	if (mem && f.high)
		return false; /* T0 in the address takes a REX */
	if (!mem) {		  /* try it out, so that failing leaves nothing behind */
		uint8_t scratch[32];
		struct emit dry = {scratch, scratch + sizeof(scratch), false};
		if (!emit_copy(&dry, i, &f, NULL))
			return false;
	}
	struct emem m;
	if (mem)
		emit_access(t, n, rip, &m);
	for (unsigned k = 0; k < ntemps; k++)
		if (temps[k].load)
			e_load_gs(e, temps[k].host, GS_GPR(temps[k].guest));
	flags_for(t, n);
	emit_copy(e, i, &f, mem ? &m : NULL);
	for (unsigned k = 0; k < ntemps; k++)
		if (temps[k].store)
			e_store_gs(e, temps[k].host, GS_GPR(temps[k].guest));
	return true;
}

/* ---- calls of handlers ------------------------------------------------------------------ */

static bool emit_call(struct tx *t, unsigned n, uint64_t rip) {
	const struct x86_insn *i = &t->insn[n];
	struct jit_op *op = jit_arena(t->j, sizeof(*op));
	if (!op)
		return false;
	op->insn = *i;
	op->rip = rip;
	op->last = n + 1 == t->n;
	op->handler = t->crossing ? jit_cross_pages : soft_handler_of(t->c, i);
	e_mov_imm(&t->e, T1, (uintptr_t)op);
	e_call(&t->e, t->saved ? t->j->call_saved : t->j->call, t->j->exec);
	t->saved = false;
	return true;
}

/* ---- leaving the block ------------------------------------------------------------------ */

/* To the address in T0, through the vCPU's table of jump targets. The target may want the flags:
 * they go by way of jit.flags_ax, if they are not there already. */
static void emit_indirect(struct tx *t) {
	struct emit *e = &t->e;
	uint32_t jumps =
		GS_JIT(jumps) + (t->key & JIT_KEY_USER ? sizeof(struct jit_jump) * JIT_JUMPS : 0);
	if (!t->saved)
		save_flags(t);
	e_op_reg(e, false, 0x8b, T1, T0); /* index = (rip ^ rip >> 6) * 16 */
	e8(e, 0x41);
	e8(e, 0xc1);
	e8(e, 0xe8 | (T1 & 7));
	e8(e, 6);
	e_op_reg(e, false, 0x33, T1, T0);
	e8(e, 0x41);
	e8(e, 0xc1);
	e8(e, 0xe0 | (T1 & 7));
	e8(e, 4);
	e8(e, 0x41);
	e8(e, 0x81);
	e8(e, 0xe0 | (T1 & 7));
	e32(e, (JIT_JUMPS - 1) * 16);
	e_op_gs_index(e, 0x3b, T0, T1, jumps + offsetof(struct jit_jump, rip));
	e_jcc(e, 5, t->j->miss, t->j->exec);
	e8(e, 0x65); /* jmp gs:[r11 + entry] */
	e8(e, 0x41);
	e8(e, 0xff);
	e8(e, 0xa0 | (T1 & 7));
	e32(e, jumps + offsetof(struct jit_jump, entry));
}

/* A direct jump; `cond` < 16: conditional. The rel32 lies within 4 aligned bytes, so that it
 * can be changed while others execute it. */
static void emit_link(struct tx *t, unsigned cond, uint64_t target, struct jit_link *link) {
	struct emit *e = &t->e;
	unsigned op = cond < 16 ? 2 : 1;
	while (!e->full && (((uintptr_t)e->at + op) & 3))
		e8(e, 0x90);
	if (cond < 16) {
		e8(e, 0x0f);
		e8(e, 0x80 | cond);
	} else {
		e8(e, 0xe9);
	}
	struct cold *k = add_cold(t);
	*k = (struct cold){.from = e->at, .kind = COLD_LINK, .link = link};
	*link = (struct jit_link){.rip = target, .host = t->b->host};
	if ((target & ~PAGE_MASK) == (t->b->rip & ~PAGE_MASK))
		link->patch = e->at;
	e32(e, 0);
}

static void emit_goto(struct tx *t, uint64_t target, struct jit_link *link) {
	flags_back(t);
	emit_link(t, 16, target, link);
}

/* ---- the special ones ------------------------------------------------------------------- */

static void emit_gpr_to(struct emit *e, unsigned host, unsigned guest) {
	if (resident(guest))
		e_load_gs(e, host, GS_GPR(guest));
	else
		e_mov(e, host, host_reg(guest));
}

enum push { PUSH_IMM, PUSH_REG, PUSH_TMP };

static void emit_push_value(struct tx *t, unsigned n, uint64_t rip, enum push what, uint64_t val) {
	struct emit *e = &t->e;
	emit_stack_access(t, n, rip, H_RSP, -8, true);
	struct emem slot = {H_RSP, T0, 0, -8};
	if (what == PUSH_REG && !resident((unsigned)val)) {
		e_op_mem(e, true, 0x89, host_reg((unsigned)val), &slot);
	} else {
		if (what == PUSH_REG)
			e_load_gs(e, T1, GS_GPR(val));
		else if (what == PUSH_TMP)
			e_load_gs(e, T1, GS_JIT(tmp));
		else
			e_mov_imm(e, T1, val);
		e_op_mem(e, true, 0x89, T1, &slot);
	}
	e_lea(e, H_RSP, H_RSP, NOREG, 0, -8);
}

/* tmp = the 8-byte operand 0 from memory. */
static void emit_load_tmp(struct tx *t, unsigned n, uint64_t rip) {
	struct emem m;
	emit_access(t, n, rip, &m);
	e_op_mem(&t->e, true, 0x8b, T1, &m);
	e_store_gs(&t->e, T1, GS_JIT(tmp));
}

static void emit_lea(struct tx *t, unsigned n, uint64_t rip) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	unsigned d = i->opnd[0].reg, size = i->opnd[0].size;
	unsigned host = resident(d) ? T0 : host_reg(d);
	if (i->base == X86_REG_RIP || is_const_ea(i)) {
		uint64_t v = const_ea(i, rip);
		e_mov_imm(e, host, size == 4 ? (uint32_t)v : v);
	} else {
		struct emem m = emit_operand(e, i);
		e_op_mem(e, size == 8, 0x8d, host, &m);
	}
	if (resident(d))
		e_store_gs(e, T0, GS_GPR(d));
}

enum emitted { EMIT_OK, EMIT_END, EMIT_CALL };

/* A call of the thunk that executes the instruction. */
static enum emitted emit_quick(struct tx *t, unsigned n, uint64_t rip) {
	const struct x86_insn *i = &t->insn[n];
	const struct x86_opnd *o = &i->opnd[0];
	struct emit *e = &t->e;
	int quick = jit_quick(t->j, t->key, i);
	unsigned traits = jit_quick_traits(quick);
	/* The instruction behind STI comes before the next look at events: it must be in the block. */
	if (quick == QUICK_STI && n + 1 == t->n)
		return EMIT_CALL;
	if (traits & JIT_QUICK_SPOILS)
		flags_aside(t, n);
	if (traits & JIT_QUICK_OPERAND) {
		if (o->kind == OPND_MEM) {
			struct emem m;
			emit_access(t, n, rip, &m);
			e_op_mem(e, o->size == 8, 0x8b, T1, &m);
		} else {
			emit_gpr_to(e, T1, o->reg);
		}
	}
	e_call(e, t->j->quick[quick], t->j->exec);
	if (traits & JIT_QUICK_FAILS) {
		struct cold *k = add_cold(t);
		*k = (struct cold){.rip = rip, .kind = COLD_INTERP};
		e_op_reg(e, false, 0x85, T0, T0); /* test r10d, r10d */
		e8(e, 0x0f);					  /* jnz */
		e8(e, 0x85);
		k->from = e->at;
		e32(e, 0);
	}
	if (traits & JIT_QUICK_RESULT) {
		if (resident(o->reg))
			e_store_gs(e, T1, GS_GPR(o->reg));
		else
			e_mov(e, host_reg(o->reg), T1);
	}
	if (quick == QUICK_PUSHF)
		emit_push_value(t, n, rip, PUSH_TMP, 0);
	return EMIT_OK;
}

/* Instructions with code of their own. EMIT_END: the block is complete. */
static enum emitted emit_special(struct tx *t, unsigned n, uint64_t rip) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	uint64_t next = rip + i->len;
	switch (i->op) {
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
		return EMIT_OK;
	case X86_OP_LEA:
		if (i->opnd[0].size == 2)
			return EMIT_CALL;
		emit_lea(t, n, rip);
		return EMIT_OK;
	case X86_OP_PUSH:
		if (i->opnd[0].kind == OPND_GPR)
			emit_push_value(t, n, rip, PUSH_REG, i->opnd[0].reg);
		else if (i->opnd[0].kind == OPND_IMM)
			emit_push_value(t, n, rip, PUSH_IMM, i->imm);
		else if (i->opnd[0].kind == OPND_MEM) {
			emit_load_tmp(t, n, rip);
			emit_push_value(t, n, rip, PUSH_TMP, 0);
		} else
			return EMIT_CALL;
		return EMIT_OK;
	case X86_OP_POP: {
		unsigned d = i->opnd[0].reg, host = resident(d) || d == RSP ? T1 : d;
		emit_stack_access(t, n, rip, H_RSP, 0, false);
		struct emem slot = {H_RSP, T0, 0, 0};
		e_op_mem(e, true, 0x8b, host, &slot);
		e_lea(e, H_RSP, H_RSP, NOREG, 0, 8);
		if (d == RSP)
			e_mov(e, H_RSP, T1);
		else if (resident(d))
			e_store_gs(e, T1, GS_GPR(d));
		return EMIT_OK;
	}
	case X86_OP_LEAVE: {
		emit_stack_access(t, n, rip, RBP, 0, false);
		struct emem slot = {RBP, T0, 0, 0};
		e_op_mem(e, true, 0x8b, T1, &slot);
		e_lea(e, H_RSP, RBP, NOREG, 0, 8);
		e_mov(e, RBP, T1);
		return EMIT_OK;
	}
	case X86_OP_JCC:
		flags_for(t, n);
		emit_link(t, i->cond, next + i->imm, &t->b->out[1]);
		emit_goto(t, next, &t->b->out[0]);
		return EMIT_END;
	case X86_OP_JMP:
		if (i->opnd[0].kind == OPND_REL) {
			emit_goto(t, next + i->imm, &t->b->out[0]);
			return EMIT_END;
		}
		if (i->opnd[0].kind == OPND_GPR) {
			emit_gpr_to(e, T0, i->opnd[0].reg);
			emit_indirect(t);
		} else {
			struct emem m;
			emit_access(t, n, rip, &m);
			e_op_mem(e, true, 0x8b, T0, &m);
			emit_indirect(t);
		}
		return EMIT_END;
	case X86_OP_CALL:
		if (i->opnd[0].kind == OPND_REL) {
			emit_push_value(t, n, rip, PUSH_IMM, next);
			emit_goto(t, next + i->imm, &t->b->out[0]);
			return EMIT_END;
		}
		if (i->opnd[0].kind == OPND_GPR) {
			emit_gpr_to(e, T1, i->opnd[0].reg);
			e_store_gs(e, T1, GS_JIT(tmp));
			emit_push_value(t, n, rip, PUSH_IMM, next);
		} else {
			emit_load_tmp(t, n, rip);
			emit_push_value(t, n, rip, PUSH_IMM, next);
		}
		e_load_gs(e, T0, GS_JIT(tmp));
		emit_indirect(t);
		return EMIT_END;
	case X86_OP_RET: {
		emit_stack_access(t, n, rip, H_RSP, 0, false);
		struct emem slot = {H_RSP, T0, 0, 0};
		e_op_mem(e, true, 0x8b, T0, &slot);
		e_lea(e, H_RSP, H_RSP, NOREG, 0, 8 + (i->nopnds ? (uint16_t)i->imm : 0));
		emit_indirect(t);
		return EMIT_END;
	}
	default:
		if (jit_quick(t->j, t->key, i) >= 0)
			return emit_quick(t, n, rip);
		return emit_native(t, n, rip) ? EMIT_OK : EMIT_CALL;
	}
}

/* ---- out of line ------------------------------------------------------------------------ */

static void emit_cold(struct tx *t, struct emit *e, const struct cold *k) {
	struct jit *j = t->j;
	jit_put_rel32(k->from, e->at + j->exec, j->exec);
	switch (k->kind) {
	case COLD_PROBE:
	case COLD_STACK:
		if (k->kind == COLD_PROBE)
			emit_ea(e, k->insn, k->rip);
		else
			e_lea(e, T0, k->stack_reg, NOREG, 0, k->stack_disp);
		e_mov_imm(e, T1, k->rip);
		e_call(e, j->fill[k->write][jit_size_class(k->size)], j->exec);
		e_op_reg(e, false, 0x85, T0, T0); /* test r10d, r10d */
		e_jcc(e, 4, k->retry, j->exec);	  /* jz */
		e_mov_imm(e, T1, JIT_EXIT_INTERP);
		e_jmp(e, j->exit_saved, j->exec);
		break;
	case COLD_INTERP:
		e_mov_imm(e, T1, k->rip);
		e_store_gs(e, T1, GS_STATE(rip));
		e_mov_imm(e, T1, JIT_EXIT_INTERP);
		e_jmp(e, j->exit_saved, j->exec);
		break;
	case COLD_POLL_RCX:
		e_mov(e, RCX, T0);
		/* fall through */
	case COLD_POLL:
		e_mov_imm(e, T1, k->rip);
		e_store_gs(e, T1, GS_STATE(rip));
		e_mov_imm(e, T1, JIT_EXIT_POLL);
		e_jmp(e, j->exit_code, j->exec);
		break;
	case COLD_LINK:
		k->link->stub = e->at;
		if (k->link->patch) {
			e_mov_imm(e, T1, (uintptr_t)k->link);
			e_jmp(e, j->exit_code, j->exec);
		} else { /* to another page: its mapping must be looked up each time */
			struct emit hot = t->e;
			t->e = *e;
			e_mov_imm(&t->e, T0, k->link->rip);
			emit_indirect(t);
			*e = t->e;
			t->e = hot;
		}
		break;
	}
}

/* ---- the whole -------------------------------------------------------------------------- */

/* STI and POPF end an interpreter's block, which looks at events between two of them; here
 * jit_call() sees to that. */
static bool ends_block(const struct x86_insn *i) {
	return x86_forms[i->form].attr & X86_ATTR_ENDS && i->op != X86_OP_STI && i->op != X86_OP_POPF;
}

static void decode_block(struct tx *t) {
	unsigned at = 0, avail = PAGE_SIZE - (unsigned)(t->b->rip & PAGE_MASK);
	while (t->n < MAX_INSNS) {
		struct x86_insn *i = &t->insn[t->n];
		int len = x86_decode(i, t->b->host + at, avail - at, X86_MODE_64);
		if (len == X86_DECODE_SHORT && !t->n) {
			t->crossing = t->call[0] = true;
			*i = (struct x86_insn){.mode = X86_MODE_64};
			at = avail;
			t->n = 1;
		}
		if (len <= 0)
			break;
		t->call[t->n] = needs_call(t, i);
		at += (unsigned)len;
		t->n++;
		if (ends_block(i) || t->j->off & JIT_OFF_BLOCK)
			break;
	}
	t->b->len = (uint16_t)at;
	t->b->ninsns = (uint16_t)t->n;
}

static void find_live_flags(struct tx *t) {
	const struct x86_insn *last = &t->insn[t->n - 1];
	uint64_t next = t->b->rip + t->b->len;
	uint16_t live = RFLAGS_ARITH;
	if (!t->call[t->n - 1]) {
		bool direct = last->nopnds && last->opnd[0].kind == OPND_REL;
		if (last->op == X86_OP_JCC)
			live = flags_at(t, next) | flags_at(t, next + last->imm);
		else if ((last->op == X86_OP_JMP || last->op == X86_OP_CALL) && direct)
			live = flags_at(t, next + last->imm);
		else if (!(x86_forms[last->form].attr & X86_ATTR_ENDS))
			live = flags_at(t, next);
	}
	t->live[t->n] = live;
	for (unsigned n = t->n; n-- > 0;)
		t->live[n] = flags_before(t, &t->insn[n], t->call[n], t->live[n + 1]);
}

static void emit_entry(struct tx *t) {
	struct emit *e = &t->e;
	bool live = t->live[0] != 0;
	t->b->entry_saved = here(t);
	if (live)
		restore_flags(e);
	t->b->entry = here(t);
	struct cold *k = add_cold(t);
	*k = (struct cold){.rip = t->b->rip, .kind = live ? COLD_POLL_RCX : COLD_POLL};
	if (live) { /* a poll that leaves the flags alone */
		e_mov(e, T0, RCX);
		e_op_gs(e, false, 0x8b, RCX, GS_JIT(poll));
		e8(e, 0xe3); /* jrcxz over the jump */
		e8(e, 5);
		e8(e, 0xe9);
		k->from = e->at;
		e32(e, 0);
		e_mov(e, RCX, T0);
	} else {
		e8(e, 0x65); /* cmp dword gs:[poll], 0 */
		e8(e, 0x83);
		e8(e, 0x3c);
		e8(e, 0x25);
		e32(e, GS_JIT(poll));
		e8(e, 0);
		e8(e, 0x0f);
		e8(e, 0x85);
		k->from = e->at;
		e32(e, 0);
	}
}

struct jit_block *jit_translate(struct soft_vcpu *c, const uint8_t *host, uint64_t rip,
								uint32_t key) {
	struct jit *j = c->soft->jit;
	struct jit_block draft = {.host = host, .rip = rip, .key = key, .peek_from = PAGE_SIZE};
	static __thread struct tx tx;
	struct tx *t = &tx;
	t->j = j;
	t->c = c;
	t->b = &draft;
	t->key = key;
	t->n = t->ncold = 0;
	t->saved = t->crossing = false;
	t->e = (struct emit){j->hot, j->hot_end, false};
	decode_block(t);
	struct jit_block *b = t->n ? jit_arena(j, sizeof(*b)) : NULL;
	if (!b)
		return NULL;
	*b = draft;
	t->b = b;
	find_live_flags(t);
	emit_entry(t);

	uint64_t at = rip;
	bool ended = false;
	for (unsigned n = 0; n < t->n && !ended; n++) {
		const struct x86_insn *i = &t->insn[n];
		enum emitted r = t->call[n] ? EMIT_CALL : emit_special(t, n, at);
		if (r == EMIT_CALL) {
			if (!emit_call(t, n, at))
				return NULL;
			if (ends_block(i)) {
				/* It fell through, as CLI does; whatever went elsewhere has left already. */
				emit_goto(t, at + i->len, &b->out[0]);
				ended = true;
			}
		}
		ended |= r == EMIT_END;
		at += i->len;
	}
	if (!ended)
		emit_goto(t, at, &b->out[0]);
	t->saved = false;
	struct emit cold = {j->cold, j->cold_end, false};
	for (unsigned n = 0; n < t->ncold; n++)
		emit_cold(t, &cold, &t->cold[n]);
	if (t->e.full || cold.full)
		return NULL;
	b->hot = j->hot;
	b->hot_len = (uint32_t)(t->e.at - j->hot);
	b->cold = j->cold;
	b->cold_len = (uint32_t)(cold.at - j->cold);
	if (j->verify)
		jit_verify_or_stop(j, b);
	j->bytes += b->hot_len + b->cold_len;
	j->hot = (uint8_t *)align_up((uintptr_t)t->e.at, 16);
	j->cold = cold.at;
	j->blocks++;
	j->insns += t->n;
	return b;
}
