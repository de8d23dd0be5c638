/* Which guest instructions run as themselves, and which arithmetic flags are needed where: the
 * translator's judgement, before anything is emitted. See tx.h. */
#include "engine/soft/tx.h"

/* ---- judging instructions --------------------------------------------------------------- */

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
	case X86_OP_MOV:
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
	case X86_OP_BT:
	case X86_OP_BTS:
	case X86_OP_BTR:
	case X86_OP_BTC:
		return !tx_is_bit_string(i) || (i->mode != X86_MODE_16 && i->opnd[0].size >= 4 &&
										(i->op == X86_OP_BT || !tx_resident(i->opnd[1].reg)));
	default:
		return false;
	}
}

static bool is_vector_class(const struct x86_form *f) {
	return f->cls >= X86_CLASS_X87 && f->cls <= X86_CLASS_AVX512;
}

/* Whether the mode lets the class run as itself. AVX-512 of legacy code is left to handlers: some
 * bits of its encodings are ignored there. */
static bool class_runs(const struct tx *t, const struct x86_form *f) {
	uint32_t need = f->cls == X86_CLASS_AVX512 ? JIT_KEY_FPU | JIT_KEY_AVX | JIT_KEY_AVX512
					: f->cls == X86_CLASS_AVX  ? JIT_KEY_FPU | JIT_KEY_AVX
											   : JIT_KEY_FPU;
	return (t->key & need) == need && !(f->cls == X86_CLASS_AVX512 && tx_legacy(t));
}

/* With a mask, lanes that are left out are not accessed and cannot fault: the handler's. */
static bool is_masked_access(const struct x86_insn *i) {
	return i->prefix & X86_PFX_EVEX && i->evex & 7 && i->mem;
}

/* A switch says so (README.md). */
static bool switched_off(uint32_t off, const struct x86_insn *i, const struct x86_form *f) {
	if (off & JIT_OFF_MEM && x86_memory_operand(i) && !(f->attr & X86_ATTR_NOMEM_FAULT))
		return true;
	if (off & JIT_OFF_STACK && i->op == X86_OP_PUSH_SEG)
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
	case X86_CLASS_AVX512:
		return off & JIT_OFF_AVX512;
	default:
		return false;
	}
}

/* Whether the instruction is left to its handler; `quick`: jit_quick(). */
static bool needs_call(const struct tx *t, const struct x86_insn *i, int quick) {
	const struct x86_form *f = &x86_forms[i->form];
	if (t->j->off && switched_off(t->j->off, i, f))
		return true;
	if (f->feature && !soft_has_feature(t->c, f->feature))
		return true;
	if (is_masked_access(i) || f->attr & X86_ATTR_VSIB)
		return true;
	if (tx_legacy(t) && tx_legacy_needs_call(t, i))
		return true;
	if (x86_memory_operand(i)) {
		const struct x86_opnd *m = x86_memory_operand(i);
		if (!tx_legacy(t) &&
			(i->addrsize != 8 || (i->seg_prefix != X86_REG_NONE && i->seg < SEG_FS)))
			return true;
		if (m->size != 1 && m->size != 2 && m->size != 4 && m->size != 8 && m->size != 10 &&
			m->size != 16 && m->size != 32 && m->size != 64)
			return i->op != X86_OP_LEA && i->op != X86_OP_NOP && i->op != X86_OP_PREFETCH;
	}
	if (quick >= 0)
		return false;
	switch (i->op) {
	case X86_OP_LEA:
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
	case X86_OP_JCC:
		return false;
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
	case X86_OP_JCXZ: /* CX alone takes more */
		return t->hot && i->addrsize == 2;
	case X86_OP_JMP:
	case X86_OP_CALL:
	case X86_OP_RET:
	case X86_OP_PUSH:
	case X86_OP_LEAVE:
		return !tx_legacy(t) && i->opsize != 8;
	case X86_OP_PUSH_SEG:
		return !tx_legacy(t);
	case X86_OP_MOV_SEG: /* to memory, or to a register, whose upper half is written */
		return i->opnd[0].kind != OPND_MEM && (i->opnd[0].kind != OPND_GPR || i->opnd[0].size == 2);
	case X86_OP_POP:
		return (!tx_legacy(t) && i->opsize != 8) || x86_memory_operand(i) != NULL;
	case X86_OP_FLDCW: /* but for jit_quick() */
		return true;
	case X86_OP_LODS:
	case X86_OP_STOS:
	case X86_OP_SCAS:
	case X86_OP_CMPS:
	case X86_OP_MOVS:
		return !tx_is_string(t, i) || t->j->off & (JIT_OFF_MEM | JIT_OFF_INT);
	default:
		break;
	}
	if (is_vector_class(f)) {
		if (!class_runs(t, f))
			return true;
		return soft_handlers[i->op] != NULL;
	}
	return !copies(i);
}

/* ---- facts ------------------------------------------------------------------------------ */

/* But for those through CF. */
static bool is_shift(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
		return true;
	default:
		return false;
	}
}

/* A shift or rotation by a constant that is not 0: it writes its flags for certain. */
static bool shifts_surely(const struct x86_insn *i) {
	const struct x86_opnd *count = &i->opnd[i->nopnds - 1];
	if (count->kind == OPND_ONE)
		return true;
	return count->kind == OPND_IMM && (i->imm & (i->opnd[0].size == 8 ? 63 : 31));
}

static void judge_flags(struct jit_fact *f, const struct tx *t, const struct x86_insn *i) {
	const struct x86_form *form = &x86_forms[i->form];
	f->reads = f->kills = 0;
	if (f->call || t->j->off & JIT_OFF_FLAGS || f->quick == QUICK_PUSHF) {
		f->reads = RFLAGS_ARITH; /* a handler may read or push them */
		return;
	}
	if (f->quick >= 0) /* a division leaves them as they are */
		return;
	f->reads = form->flags_read & RFLAGS_ARITH;
	f->kills = form->flags_written & RFLAGS_ARITH;
	if (is_shift(i)) { /* the table has them read what they write, as a count of 0 leaves it */
		f->reads = 0;
		if (!shifts_surely(i))
			f->kills = 0;
		return;
	}
	switch (i->op) {
	case X86_OP_SCAS:
	case X86_OP_CMPS: /* what the table has them read is left if they repeat no times */
		f->reads = 0;
		break;
	case X86_OP_RCL:
	case X86_OP_RCR:
		f->reads = RFLAGS_CF;
		f->kills = 0;
		break;
	default:
		break;
	}
}

/* Whether all of its general registers are where the guest's are, so that nothing is renamed. */
static bool is_as_is(const struct x86_insn *i) {
	if (i->mem || i->mode != X86_MODE_64 || i->seg_prefix != X86_REG_NONE)
		return false;
	for (unsigned n = 0; n < i->nopnds; n++) {
		const struct x86_opnd *o = &i->opnd[n];
		if (o->kind == OPND_GPR && !(o->reg & X86_REG_HIGH) &&
			(o->reg == RSP || tx_resident(o->reg)))
			return false;
	}
	return true;
}

static bool is_bare(const struct x86_insn *i) {
	bool rex = i->prefix == X86_PFX_REX;
	unsigned opcode = i->raw[rex];
	return i->mode == X86_MODE_64 && (rex || !i->prefix) && i->modrm_off &&
		   (!rex || (i->raw[0] & 0xf0) == 0x40) &&
		   (opcode == 0x0f || i->opcode_off == rex); /* else a prefix that means nothing */
}

/* Whether tx_special() knows more of it than to hand it to tx_native(). */
static bool has_code_of_its_own(const struct tx *t, const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
	case X86_OP_LEA:
	case X86_OP_PUSH:
	case X86_OP_POP:
	case X86_OP_LEAVE:
	case X86_OP_MOV_SEG:
	case X86_OP_JCC:
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
	case X86_OP_JCXZ:
	case X86_OP_JMP:
	case X86_OP_CALL:
	case X86_OP_RET:
		return true;
	default:
		return tx_legacy(t);
	}
}

/* Whether what t says of T0 and T1 is right behind the instruction. Out of line the first tier
 * comes back from a handler, with anything in them. */
static bool is_tidy(const struct tx *t, const struct x86_insn *i) {
	if (tx_legacy(t) || tx_is_bit_string(i) || (i->mem && !t->hot))
		return false;
	switch (i->op) {
	case X86_OP_PUSH:
	case X86_OP_POP:
	case X86_OP_LEAVE:
		return t->hot;
	case X86_OP_LEA:
		return i->opnd[0].size != 2;
	case X86_OP_CALL:
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
	case X86_OP_JCXZ:
	case X86_OP_MOV_SEG:
		return false;
	default:
		return true;
	}
}

void tx_judge(const struct tx *t, const struct x86_insn *i, struct jit_fact *f) {
	f->quick = (int8_t)jit_quick(t->j, t->key, i);
	f->call = needs_call(t, i, f->quick);
	/* STI and POPF end an interpreter's block, which looks at events between two of them; here
	 * jit_call() sees to that. */
	f->ends =
		x86_forms[i->form].attr & X86_ATTR_ENDS && i->op != X86_OP_STI && i->op != X86_OP_POPF;
	f->string = !f->call && f->quick < 0 && tx_is_string(t, i);
	f->native = !f->call && f->quick < 0 && !f->string && !has_code_of_its_own(t, i);
	f->as_is = f->native && is_as_is(i);
	f->tidy = !f->call && f->quick < 0 && !f->string && is_tidy(t, i);
	f->bare = f->native && is_bare(i);
	judge_flags(f, t, i);
}

void tx_leave_to_handler(struct tx *t, unsigned n) {
	t->fact[n].call = true;
	t->fact[n].reads = RFLAGS_ARITH;
}

/* ---- decoding --------------------------------------------------------------------------- */

/* The shape of the instruction at `host` (*key), and where it is remembered if it is. */
static inline struct jit_shape *place_of_shape(const struct tx *t, const uint8_t *host,
											   unsigned avail, uint64_t *key) {
	*key = 0;
	if (likely(avail >= X86_SHAPE_AVAIL && !(t->j->off & JIT_OFF_SHAPE)))
		*key = x86_shape_key(host, !tx_legacy(t));
	return &t->j->shapes[*key * 0x9e3779b97f4a7c15ull >> (64 - JIT_SHAPE_BITS)];
}

static inline uint32_t shape_mode(const struct tx *t) {
	return t->key | (t->hot ? JIT_KEY_SECOND : 0);
}

static inline bool is_shape(const struct jit_shape *s, uint64_t key, uint32_t mode) {
	return s->shape.bytes == key && s->key == mode && key;
}

int tx_decode(struct tx *t, struct x86_insn *i, struct jit_fact *f, const uint8_t *host,
			  unsigned avail) {
	uint64_t key;
	uint32_t mode = shape_mode(t);
	struct jit_shape *s = place_of_shape(t, host, avail, &key);
	if (likely(is_shape(s, key, mode))) {
		int len = (int)x86_shape_decode(&s->shape, i, host);
		*f = s->fact;
		if (unlikely(s->shifts && !shifts_surely(i)))
			tx_judge(t, i, f);
		return len;
	}
	int len = x86_decode(i, host, avail, tx_mode(t));
	if (len <= 0)
		return len;
	tx_judge(t, i, f);
	bool counts = i->imm_len && is_shift(i); /* by how much is in the number */
	if (key && !(counts && !shifts_surely(i)) && x86_shape_learn(&s->shape, i, key)) {
		s->key = mode;
		s->shifts = counts;
		s->fact = *f;
	}
	return len;
}

/* ---- flags ------------------------------------------------------------------------------ */

/* Flags that are live at a guest address of the same page, by a short look ahead. */
static uint16_t flags_at(struct tx *t, uint64_t rip) {
	uint16_t open = RFLAGS_ARITH, live = 0;
	if (t->j->off & JIT_OFF_FLAGS || t->b->bytes)
		return open;
	for (unsigned n = 0; n < 6 && open; n++) {
		struct x86_insn own;
		struct jit_fact own_fact;
		const struct x86_insn *i = &own;
		const struct jit_fact *f = &own_fact;
		if (!tx_same_page(t, rip, t->b->rip))
			return live | open;
		unsigned at = tx_page_offset(t, rip);
		const uint8_t *host = t->b->host + ((int)at - (int)tx_page_offset(t, t->b->rip));
		uint64_t key;
		const struct jit_shape *s = place_of_shape(t, host, PAGE_SIZE - at, &key);
		int len;
		/* Its numbers are of interest in few of them. */
		if (is_shape(s, key, shape_mode(t)) && !s->shifts && s->shape.insn.op != X86_OP_JMP) {
			i = &s->shape.insn;
			f = &s->fact;
			len = i->len;
		} else {
			len = tx_decode(t, &own, &own_fact, host, PAGE_SIZE - at);
		}
		if (len <= 0 || jit_restless(t->j, host, (unsigned)len))
			return live | open;
		/* A change of it changes what is dead here. */
		t->b->peek_from = MIN(t->b->peek_from, (uint16_t)at);
		t->b->peek_to = MAX(t->b->peek_to, (uint16_t)(at + (unsigned)len));
		if (i->op == X86_OP_JMP && i->opnd[0].kind == OPND_REL) {
			rip = tx_target(t, i, rip);
			continue;
		}
		if (f->call)
			return live | open;
		live |= f->reads & open;
		open &= ~(f->kills | f->reads);
		if (x86_forms[i->form].attr & X86_ATTR_ENDS)
			return live | open;
		rip = tx_plus(t, rip, (uint64_t)len);
	}
	return live | open;
}

static bool is_relative(const struct x86_insn *i) {
	return i->nopnds && i->opnd[0].kind == OPND_REL;
}

bool tx_is_jump_away(const struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	return !t->fact[n].call && !t->follow[n] && (i->op == X86_OP_JMP || i->op == X86_OP_RET);
}

/* Flags that are needed where branch n goes, when that is outside of the block. */
static uint16_t needed_at_target(struct tx *t, unsigned n) {
	const struct x86_insn *i = &t->insn[n];
	return is_relative(i) ? flags_at(t, tx_target(t, i, t->rip[n])) : RFLAGS_ARITH;
}

/* Behind instruction n, given live[n + 1]. */
static uint16_t live_behind(const struct tx *t, unsigned n) {
	uint16_t next = t->live[n + 1];
	if (likely(!t->fact[n].ends || t->fact[n].call))
		return next;
	uint16_t there = t->target[n] >= 0 ? t->live[t->target[n]] : t->needed[n];
	switch (t->insn[n].op) {
	case X86_OP_JCC:
	case X86_OP_LOOP:
	case X86_OP_LOOPE:
	case X86_OP_LOOPNE:
	case X86_OP_JCXZ:
		return next | there;
	case X86_OP_JMP:
		return t->follow[n] ? next : there;
	case X86_OP_CALL:
	case X86_OP_RET:
		return there;
	default:
		return next;
	}
}

void tx_find_live_flags(struct tx *t) {
	for (unsigned n = 0; n < t->n; n++) {
		t->needed[n] = t->live[n] = 0;
		if (t->fact[n].ends && !t->fact[n].call && t->target[n] < 0 && !t->follow[n])
			t->needed[n] = needed_at_target(t, n);
	}
	t->live[t->n] = tx_is_jump_away(t, t->n - 1) ? 0 : flags_at(t, t->rip[t->n]);
	/* Loops within the block: until nothing changes. */
	for (bool again = true; again;) {
		again = false;
		for (unsigned n = t->n; n-- > 0;) {
			uint16_t live = tx_flags_before(&t->fact[n], live_behind(t, n));
			again |= t->label[n] && live != t->live[n];
			t->live[n] = live;
		}
	}
}
