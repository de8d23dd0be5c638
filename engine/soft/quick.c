/* System instructions, and divisions, that need neither their handler nor the way to it: a call of
 * a thunk that works on the vCPU's state with the guest's registers where they are.
 *
 * A thunk gets its operand in T1 and gives its result there. It may spoil T0, T1 and the host's
 * flags, nothing else. One that cannot do it (privilege, an exception, events that wait) says so by
 * T0 != 0, before it has changed anything; then the interpreter executes the instruction.
 * Supervisor code is of CPL 0: translated code of CPL 1 and 2 does not exist. The verifier takes
 * calls of thunks as they are, so what these do is to be read here. */
#include "engine/soft/emit.h"

#define SPOILS JIT_QUICK_SPOILS
#define FAILS JIT_QUICK_FAILS
#define OPERAND JIT_QUICK_OPERAND
#define RESULT JIT_QUICK_RESULT
#define KERNEL 16u /* supervisor code only */
#define EAGER 32u  /* calls C: not where C code uses vector registers */

static const uint8_t traits[JIT_QUICKS] = {
	[QUICK_CLI] = SPOILS | KERNEL,
	[QUICK_STI] = SPOILS | FAILS | KERNEL,
	[QUICK_CLD] = SPOILS,
	[QUICK_STD] = SPOILS,
	[QUICK_SWAPGS] = KERNEL,
	[QUICK_PUSHF] = SPOILS,
	[QUICK_RDTSC] = SPOILS | FAILS | EAGER,
	[QUICK_RDTSCP] = SPOILS | FAILS | EAGER,
	[QUICK_DIV32] = SPOILS | FAILS | OPERAND,
	[QUICK_DIV64] = SPOILS | FAILS | OPERAND,
	[QUICK_IDIV32] = SPOILS | FAILS | OPERAND,
	[QUICK_IDIV64] = SPOILS | FAILS | OPERAND,
	[QUICK_DIV32_FLAGS] = SPOILS | FAILS | OPERAND,
	[QUICK_DIV64_FLAGS] = SPOILS | FAILS | OPERAND,
	[QUICK_IDIV32_FLAGS] = SPOILS | FAILS | OPERAND,
	[QUICK_IDIV64_FLAGS] = SPOILS | FAILS | OPERAND,
	[QUICK_RDFSBASE] = SPOILS | FAILS | RESULT,
	[QUICK_RDGSBASE] = SPOILS | FAILS | RESULT,
	[QUICK_WRFSBASE] = SPOILS | FAILS | OPERAND,
	[QUICK_WRGSBASE] = SPOILS | FAILS | OPERAND,
	[QUICK_CR0] = RESULT | KERNEL,
	[QUICK_CR2] = RESULT | KERNEL,
	[QUICK_CR3] = RESULT | KERNEL,
	[QUICK_CR4] = RESULT | KERNEL,
	[QUICK_FLDCW] = SPOILS | FAILS | OPERAND,
	[QUICK_LDMXCSR] = SPOILS | FAILS | OPERAND,
	[QUICK_STRING... QUICK_COMPARE - 1] = SPOILS | JIT_QUICK_CALLS,
	[QUICK_COMPARE... JIT_QUICKS - 1] = SPOILS | JIT_QUICK_CALLS | JIT_QUICK_FLAGS,
};

/* ---- which --------------------------------------------------------------------------------- */

/* The first one for that operation, plus 1. */
const uint8_t jit_quick_ops[X86_OP_COUNT] = {
	[X86_OP_CLI] = QUICK_CLI + 1,			[X86_OP_STI] = QUICK_STI + 1,
	[X86_OP_CLD] = QUICK_CLD + 1,			[X86_OP_STD] = QUICK_STD + 1,
	[X86_OP_SWAPGS] = QUICK_SWAPGS + 1,		[X86_OP_PUSHF] = QUICK_PUSHF + 1,
	[X86_OP_RDTSC] = QUICK_RDTSC + 1,		[X86_OP_RDTSCP] = QUICK_RDTSCP + 1,
	[X86_OP_DIV] = QUICK_DIV32 + 1,			[X86_OP_IDIV] = QUICK_IDIV32 + 1,
	[X86_OP_RDFSBASE] = QUICK_RDFSBASE + 1, [X86_OP_RDGSBASE] = QUICK_RDGSBASE + 1,
	[X86_OP_WRFSBASE] = QUICK_WRFSBASE + 1, [X86_OP_WRGSBASE] = QUICK_WRGSBASE + 1,
	[X86_OP_MOV_CR] = QUICK_CR0 + 1,		[X86_OP_STOS] = QUICK_STRING + 1,
	[X86_OP_MOVS] = QUICK_STRING + 1,		[X86_OP_SCAS] = QUICK_COMPARE + 1,
	[X86_OP_CMPS] = QUICK_COMPARE + 1,		[X86_OP_FLDCW] = QUICK_FLDCW + 1,
	[X86_OP_LDMXCSR] = QUICK_LDMXCSR + 1,
};

static int by_op(const struct x86_insn *i) {
	bool wide = i->opnd[0].size == 8;
	int first = jit_quick_ops[i->op] - 1;
	switch (i->op) {
	case X86_OP_DIV:
	case X86_OP_IDIV:
		return i->opnd[0].size < 4 ? -1 : first + wide;
	case X86_OP_RDFSBASE:
	case X86_OP_RDGSBASE:
	case X86_OP_WRFSBASE:
	case X86_OP_WRGSBASE:
		return wide ? first : -1;
	case X86_OP_MOV_CR: {
		static const int8_t of[] = {QUICK_CR0, -1, QUICK_CR2, QUICK_CR3, QUICK_CR4};
		unsigned n = i->opnd[1].reg;
		return i->opnd[1].kind == OPND_CR && n < sizeof(of) ? of[n] : -1;
	}
	default:
		return first;
	}
}

static int string_op(uint32_t key, const struct x86_insn *i) {
	/* In flat 32-bit code registers have no upper halves, and nothing in the TLB can wrap around.
	 */
	bool flat = key & JIT_KEY_LEGACY ? !(key & (JIT_KEY_16 | JIT_KEY_SEGS)) && i->addrsize == 4
									 : i->addrsize == 8;
	if (!flat || i->seg_prefix != X86_REG_NONE || !(i->prefix & (X86_PFX_REP | X86_PFX_REPNE)))
		return -1;
	unsigned which = (key & JIT_KEY_USER ? 4 : 0) + (unsigned)__builtin_ctz(i->opsize);
	if (i->op == X86_OP_STOS || i->op == X86_OP_MOVS)
		return (int)(QUICK_STRING + (i->op == X86_OP_MOVS ? 8 : 0) + which);
	return (int)(QUICK_COMPARE + (i->prefix & X86_PFX_REP ? 0 : 16) +
				 (i->op == X86_OP_CMPS ? 8 : 0) + which);
}

int jit_quick_which(const struct jit *j, uint32_t key, const struct x86_insn *i) {
	if (j->off & JIT_OFF_SYSTEM)
		return -1;
	if (i->op == X86_OP_STOS || i->op == X86_OP_MOVS || i->op == X86_OP_SCAS ||
		i->op == X86_OP_CMPS)
		return string_op(key, i);
	int q = by_op(i);
	/* Virtual-8086 mode is a matter of IOPL. */
	if (q == QUICK_PUSHF &&
		(key & JIT_KEY_LEGACY ? key & JIT_KEY_16 && key & JIT_KEY_USER : i->opsize != 8))
		return -1;
	if (q == QUICK_SWAPGS && key & JIT_KEY_LEGACY)
		return -1;
	if ((q == QUICK_FLDCW || q == QUICK_LDMXCSR) && !(key & JIT_KEY_FPU))
		return -1;
	if (q < 0 || (traits[q] & KERNEL && key & JIT_KEY_USER) ||
		(traits[q] & EAGER && SOFT_FPU_EAGER))
		return -1;
	return q;
}

uint8_t jit_quick_traits(int q) {
	return traits[q];
}

/* ---- the thunks ---------------------------------------------------------------------------- */

/* op dword gs:[off], imm with 81 /n */
static void op_gs_imm(struct emit *e, unsigned n, uint32_t off, uint32_t imm) {
	e8(e, 0x65);
	e8(e, 0x81);
	e8(e, n << 3 | 4);
	e8(e, 0x25);
	e32(e, off);
	e32(e, imm);
}

/* op r32, imm8 with 83 /n */
static void op_imm8(struct emit *e, bool w, unsigned n, unsigned reg, unsigned imm) {
	e_op_reg(e, w, 0x83, n, reg);
	e8(e, imm);
}

static void shift(struct emit *e, bool w, unsigned n, unsigned reg, unsigned by) {
	e_op_reg(e, w, 0xc1, n, reg);
	e8(e, by);
}

#define JE 0x74
#define JNE 0x75
#define JAE 0x73
#define JBE 0x76
#define ADD 0
#define OR 1
#define AND 4
#define CMP 7
#define SHL 4
#define SHR 5
#define SAR 7

static void ret(struct emit *e) {
	e8(e, 0xc3);
}

/* Success; then what `fails` jumps lead to. */
static void finish(struct emit *e, uint8_t *const *fails, unsigned n) {
	e_op_reg(e, false, 0x33, T0, T0); /* xor r10d, r10d */
	ret(e);
	for (unsigned k = 0; k < n; k++)
		e_lands(e, fails[k]);
	e_mov_imm(e, T0, 1);
	ret(e);
}

static void emit_flag(struct emit *e, bool set, uint32_t flag) {
	op_gs_imm(e, set ? OR : AND, GS_STATE(rflags), set ? flag : ~flag);
	ret(e);
}

/* No events wait: then the shadow of STI hides nothing. */
static void emit_sti(struct emit *e) {
	op_gs_imm(e, CMP, (uint32_t)offsetof(struct vcpu, events), 0);
	uint8_t *fail = e_jump_short(e, JNE);
	op_gs_imm(e, OR, GS_STATE(rflags), RFLAGS_IF);
	finish(e, &fail, 1);
}

static void emit_swapgs(struct emit *e) {
	e_load_gs(e, T0, GS_SEG(SEG_GS));
	e_load_gs(e, T1, GS_STATE(kernel_gs_base));
	e_store_gs(e, T1, GS_SEG(SEG_GS));
	e_store_gs(e, T0, GS_STATE(kernel_gs_base));
	ret(e);
}

/* jit.tmp = the image; arithmetic flags are in jit.flags_ax: OF in bit 0, the others in bits 8..15.
 */
static void emit_pushf(struct emit *e) {
	e_op_gs(e, false, 0x8b, T0, GS_JIT(flags_ax));
	e_op_reg(e, false, 0x8b, T1, T0);
	op_imm8(e, false, AND, T1, 1);
	shift(e, false, SHL, T1, 11);
	shift(e, false, SHR, T0, 8);
	e8(e, 0x41); /* and r10d, SF ZF AF PF CF */
	e8(e, 0x81);
	e8(e, 0xe2);
	e32(e, 0xd5);
	e_op_reg(e, false, 0x0b, T1, T0); /* or r11d, r10d */
	e_op_gs(e, false, 0x8b, T0, GS_STATE(rflags));
	e8(e, 0x41); /* and r10d, .. */
	e8(e, 0x81);
	e8(e, 0xe2);
	e32(e, ~(uint32_t)(RFLAGS_ARITH | RFLAGS_RF | RFLAGS_VM));
	e_op_reg(e, false, 0x0b, T1, T0);
	e_store_gs(e, T1, GS_JIT(tmp));
	ret(e);
}

/* vcpu_tsc() in C, which keeps all but these. */
static void emit_rdtsc(struct emit *e, bool aux) {
	static const uint8_t lost[] = {RCX, RSI, RDI, R8, R9};
	uint8_t *fail;
	e8(e, 0x65); /* test dword gs:[cr4], TSD */
	e8(e, 0xf7);
	e8(e, 0x04);
	e8(e, 0x25);
	e32(e, GS_STATE(cr4));
	e32(e, (uint32_t)CR4_TSD);
	fail = e_jump_short(e, JNE);
	for (unsigned n = 0; n < sizeof(lost); n++)
		e_store_gs(e, lost[n], GS_GPR(lost[n]));
	e_store_gs(e, 4, GS_JIT(shadow_rsp));
	e_load_gs(e, 4, GS_JIT(host_rsp));
	e_load_gs(e, RDI, GS_JIT(self));
	e_mov_imm(e, RAX, (uintptr_t)vcpu_tsc);
	e8(e, 0xff); /* call rax */
	e8(e, 0xd0);
	e_load_gs(e, 4, GS_JIT(shadow_rsp));
	e_mov(e, RDX, RAX);
	shift(e, true, SHR, RDX, 32);
	e_op_reg(e, false, 0x8b, RAX, RAX);
	for (unsigned n = 0; n < sizeof(lost); n++)
		e_load_gs(e, lost[n], GS_GPR(lost[n]));
	if (aux)
		e_op_gs(e, false, 0x8b, RCX, GS_STATE(tsc_aux));
	finish(e, &fail, 1);
}

/* Unsigned: no overflow, and no zero, if the upper half is below the divisor. Signed: if the
 * dividend is a sign-extended single one and the divisor neither 0 nor -1; others are rare. */
static void emit_divide(struct emit *e, bool wide, bool is_signed, bool flags) {
	uint8_t *fails[2];
	unsigned n = 0;
	if (is_signed) {
		e_op_reg(e, wide, 0x8b, T0, RAX);
		shift(e, wide, SAR, T0, wide ? 63 : 31);
		e_op_reg(e, wide, 0x3b, T0, RDX);
		fails[n++] = e_jump_short(e, JNE);
		struct emem m = {T1, NOREG, 0, 1};
		e_op_mem(e, wide, 0x8d, T0, &m);
		op_imm8(e, wide, CMP, T0, 1);
		fails[n++] = e_jump_short(e, JBE);
	} else {
		e_op_reg(e, wide, 0x3b, RDX, T1);
		fails[n++] = e_jump_short(e, JAE);
	}
	if (flags) { /* what a division makes of them, the host's CPU knows */
		e_mov(e, T0, RAX);
		e_op_gs(e, false, 0x8b, RAX, GS_JIT(flags_ax));
		e8(e, 0x04); /* add al, 0x7f: OF */
		e8(e, 0x7f);
		e8(e, 0x9e); /* sahf */
		e_mov(e, RAX, T0);
	}
	e8(e, wide ? 0x49 : 0x41); /* div r11 */
	e8(e, 0xf7);
	e8(e, 0xc0 | (is_signed ? 7u : 6u) << 3 | (T1 & 7));
	if (flags) {
		e_mov(e, T0, RAX);
		e8(e, 0x9f); /* lahf */
		e8(e, 0x0f); /* seto al */
		e8(e, 0x90);
		e8(e, 0xc0);
		e_op_gs(e, false, 0x89, RAX, GS_JIT(flags_ax));
		e_mov(e, RAX, T0);
	}
	finish(e, fails, n);
}

static void emit_base(struct emit *e, unsigned seg, bool write) {
	uint8_t *fails[2];
	unsigned n = 0;
	e8(e, 0x65); /* test dword gs:[cr4], FSGSBASE */
	e8(e, 0xf7);
	e8(e, 0x04);
	e8(e, 0x25);
	e32(e, GS_STATE(cr4));
	e32(e, (uint32_t)CR4_FSGSBASE);
	fails[n++] = e_jump_short(e, JE);
	if (write) {
		e_mov(e, T0, T1);
		shift(e, true, SAR, T0, 47);
		op_imm8(e, true, ADD, T0, 1);
		op_imm8(e, true, CMP, T0, 1);
		fails[n++] = e_jump_short(e, 0x77); /* ja: not canonical */
		e_store_gs(e, T1, GS_SEG(seg));
	} else {
		e_load_gs(e, T1, GS_SEG(seg));
	}
	finish(e, fails, n);
}

static void emit_cr(struct emit *e, uint32_t off) {
	e_load_gs(e, T1, off);
	ret(e);
}

/* A control word that leaves all exceptions masked, as they are while translated code of the key
 * runs: T1 & mask is then `masked`. Denormals as zeros are left to the handler, which knows whether
 * the host's CPU has them. */
static void emit_control(struct emit *e, bool sse) {
	e_op_reg(e, false, 0x8b, T0, T1);
	e_op_reg(e, false, 0x81, AND, T0);
	e32(e, sse ? 0xffff1fc0 : 0x3f);
	e_op_reg(e, false, 0x81, CMP, T0);
	e32(e, sse ? 0x1f80 : 0x3f);
	uint8_t *fail = e_jump_short(e, JNE);
	e_store_gs(e, T1, GS_JIT(tmp));
	e8(e, 0x65);
	if (sse)
		e8(e, 0x0f);
	e_bytes(e, 3, sse ? 0x2514ae : 0x252cd9); /* ldmxcsr, fldcw gs:[tmp] */
	e32(e, GS_JIT(tmp));
	finish(e, &fail, 1);
}

void jit_emit_quick(struct emit *e, struct jit *j) {
	for (unsigned q = 0; q < JIT_QUICKS; q++) {
		j->quick[q] = e->at + j->exec;
		if (q >= QUICK_COMPARE) {
			jit_emit_compare(e, q - QUICK_COMPARE);
			continue;
		}
		if (q >= QUICK_STRING) {
			jit_emit_string(e, q - QUICK_STRING);
			continue;
		}
		switch ((enum jit_quick)q) {
		case QUICK_CLI:
		case QUICK_CLD:
		case QUICK_STD:
			emit_flag(e, q == QUICK_STD, q == QUICK_CLI ? RFLAGS_IF : RFLAGS_DF);
			break;
		case QUICK_STI:
			emit_sti(e);
			break;
		case QUICK_SWAPGS:
			emit_swapgs(e);
			break;
		case QUICK_PUSHF:
			emit_pushf(e);
			break;
		case QUICK_RDTSC:
		case QUICK_RDTSCP:
			emit_rdtsc(e, q == QUICK_RDTSCP);
			break;
		case QUICK_DIV32:
		case QUICK_DIV64:
			emit_divide(e, q == QUICK_DIV64, false, false);
			break;
		case QUICK_IDIV32:
		case QUICK_IDIV64:
			emit_divide(e, q == QUICK_IDIV64, true, false);
			break;
		case QUICK_DIV32_FLAGS:
		case QUICK_DIV64_FLAGS:
			emit_divide(e, q == QUICK_DIV64_FLAGS, false, true);
			break;
		case QUICK_IDIV32_FLAGS:
		case QUICK_IDIV64_FLAGS:
			emit_divide(e, q == QUICK_IDIV64_FLAGS, true, true);
			break;
		case QUICK_RDFSBASE:
		case QUICK_RDGSBASE:
			emit_base(e, q == QUICK_RDFSBASE ? SEG_FS : SEG_GS, false);
			break;
		case QUICK_WRFSBASE:
		case QUICK_WRGSBASE:
			emit_base(e, q == QUICK_WRFSBASE ? SEG_FS : SEG_GS, true);
			break;
		case QUICK_CR0:
			emit_cr(e, GS_STATE(cr0));
			break;
		case QUICK_CR2:
			emit_cr(e, GS_STATE(cr2));
			break;
		case QUICK_CR3:
			emit_cr(e, GS_STATE(cr3));
			break;
		case QUICK_CR4:
			emit_cr(e, GS_STATE(cr4));
			break;
		case QUICK_FLDCW:
		case QUICK_LDMXCSR:
			emit_control(e, q == QUICK_LDMXCSR);
			break;
		case QUICK_STRING:
		case QUICK_COMPARE:
		case JIT_QUICKS:
			break;
		}
	}
}
