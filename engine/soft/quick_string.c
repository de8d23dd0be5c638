/* REP STOS and REP MOVS, REPE and REPNE SCAS and CMPS without a call of their handler: one thunk
 * for each element size, for user and supervisor code (see quick.c).
 *
 * A thunk for the first two does it with the host's instruction if all of it lies in one page
 * (MOVS: in one page on each side) that the translator's TLB has, upwards, with 64-bit addresses or
 * those of flat 32-bit code. Else T0 != 0, and nothing has changed. Both sides of an overlap in one
 * page have one addend, so the host's instruction sees it as the guest's would: entries of a page
 * change together (windows.c).
 *
 * One that compares does it up to the page's end. If that is where it ends, but for the count, the
 * registers are as far as an interrupted repetition's, and T0 != 0: the handler goes on there. The
 * flags of the last element go to jit.flags_ax. */
#include "engine/soft/emit.h"

#define JE 4
#define JNE 5
#define JA 7

struct fail {
	uint8_t *at[8];
	unsigned n;
};

static void or_fail(struct emit *e, struct fail *f, unsigned cond) {
	e8(e, 0x0f);
	e8(e, 0x80 | cond);
	f->at[f->n++] = e->at;
	e32(e, 0);
}

/* op reg, imm32 with 81 /n */
static void op_imm(struct emit *e, bool w, unsigned n, unsigned reg, uint32_t imm) {
	e_op_reg(e, w, 0x81, n, reg);
	e32(e, imm);
}

#define ADD 0
#define AND 4
#define CMP 7

/* T0 = addend of the page that `reg` points into. */
static void find_addend(struct emit *e, struct fail *f, unsigned reg, bool user, bool write) {
	uint32_t tlb =
		GS_JIT(tlb) + (uint32_t)sizeof(struct jit_tlb_entry) * JIT_TLB * (2u * user + write);
	e_op_reg(e, false, 0x8b, T1, reg);
	e_op_reg(e, false, 0xc1, 5, T1); /* shr r11d, 8 */
	e8(e, 8);
	op_imm(e, false, AND, T1, (JIT_TLB - 1) * 16);
	e_mov(e, T0, reg);
	op_imm(e, true, AND, T0, ~(uint32_t)PAGE_MASK);
	e_op_gs_index(e, 0x3b, T0, T1, tlb + offsetof(struct jit_tlb_entry, tag)); /* cmp */
	or_fail(e, f, JNE);
	e_op_gs_index(e, 0x8b, T0, T1, tlb + offsetof(struct jit_tlb_entry, addend));
}

/* The same if the page holds RCX elements from `reg` on, at most a page of them. */
static void find_page(struct emit *e, struct fail *f, unsigned reg, unsigned log, bool user,
					  bool write) {
	e_op_reg(e, false, 0x8b, T0, reg);
	op_imm(e, false, AND, T0, PAGE_MASK);
	e_lea(e, T0, T0, RCX, log, 0);
	op_imm(e, false, CMP, T0, PAGE_SIZE);
	or_fail(e, f, JA);
	find_addend(e, f, reg, user, write);
}

/* Nothing to do and nothing to fault at, if the count is 0; off where the direction is down. */
static void begin(struct emit *e, struct fail *f) {
	static const uint8_t nothing[] = {
		0xe3, 2,				/* jrcxz over the jump */
		0xeb, 4,				/* jmp over the way out */
		0x45, 0x33, 0xd2, 0xc3, /* xor r10d, r10d; ret */
	};
	for (unsigned n = 0; n < sizeof(nothing); n++)
		e8(e, nothing[n]);
	e_bytes(e, 4, 0x2504f765); /* test dword gs:[rflags], DF */
	e32(e, GS_STATE(rflags));
	e32(e, RFLAGS_DF);
	or_fail(e, f, JNE);
}

/* T0 = 0 and back; what fails arrives behind that, for T0 = 1. */
static void end(struct emit *e, const struct fail *f) {
	e_op_reg(e, false, 0x33, T0, T0);
	e8(e, 0xc3);
	for (unsigned n = 0; n < f->n; n++)
		jit_put_rel32(f->at[n], e->at, 0);
	e_mov_imm(e, T0, 1);
	e8(e, 0xc3);
}

/* The host's instruction. */
static void repeat(struct emit *e, unsigned prefix, unsigned op, unsigned log) {
	e8(e, prefix);
	if (log == 1)
		e8(e, 0x66);
	if (log == 3)
		e8(e, 0x48);
	e8(e, op + (log ? 1 : 0));
}

void jit_emit_string(struct emit *e, unsigned which) {
	bool movs = which & 8, user = which & 4;
	unsigned log = which & 3;
	struct fail f = {.n = 0};
	begin(e, &f);
	op_imm(e, true, CMP, RCX, PAGE_SIZE >> log);
	or_fail(e, &f, JA);
	if (movs) {
		find_page(e, &f, RSI, log, user, false);
		e_store_gs(e, T0, GS_JIT(tmp));
	}
	find_page(e, &f, RDI, log, user, true);
	if (movs) {
		e_load_gs(e, T1, GS_JIT(tmp));
		e_op_reg(e, true, 0x03, RSI, T1); /* add */
	}
	e_op_reg(e, true, 0x03, RDI, T0);
	repeat(e, 0xf3, movs ? 0xa4 : 0xaa, log);
	if (movs)
		e_op_reg(e, true, 0x2b, RSI, T1); /* sub */
	e_op_reg(e, true, 0x2b, RDI, T0);
	end(e, &f);
}

/* T1 = bytes from RDI to its page's end; `both`: or from RSI to its, if that is less. Uses T0. */
static void bytes_left(struct emit *e, bool both) {
	e_op_reg(e, false, 0x8b, T1, RDI);
	op_imm(e, false, AND, T1, PAGE_MASK);
	if (both) {
		e_op_reg(e, false, 0x8b, T0, RSI);
		op_imm(e, false, AND, T0, PAGE_MASK);
		e_op_reg(e, false, 0x3b, T1, T0); /* cmp */
		e_bytes(e, 4, 0xda420f45);		  /* cmovb r11d, r10d */
	}
	e_op_reg(e, false, 0xf7, 3, T1); /* neg */
	op_imm(e, false, ADD, T1, PAGE_SIZE);
}

void jit_emit_compare(struct emit *e, unsigned which) {
	bool repne = which & 16, cmps = which & 8, user = which & 4;
	unsigned log = which & 3;
	struct fail f = {.n = 0};
	begin(e, &f);
	if (cmps) {
		find_addend(e, &f, RSI, user, false);
		e_store_gs(e, T0, GS_JIT(spare[0]));
	}
	find_addend(e, &f, RDI, user, false);
	e_store_gs(e, T0, GS_JIT(tmp));
	bytes_left(e, cmps);
	e_op_reg(e, false, 0xc1, 5, T1); /* shr: elements that lie in the page as a whole */
	e8(e, log);
	e_op_reg(e, false, 0x85, T1, T1);
	or_fail(e, &f, JE);
	e_op_reg(e, true, 0x3b, T1, RCX);	  /* cmp */
	e_bytes(e, 4, 0xd9470f4c);			  /* cmova r11, rcx */
	e_op_reg(e, true, 0x2b, RCX, T1);	  /* sub */
	e_store_gs(e, RCX, GS_JIT(spare[1])); /* what is left for later */
	e_mov(e, RCX, T1);
	e_load_gs(e, T0, GS_JIT(tmp));
	e_op_reg(e, true, 0x03, RDI, T0); /* add */
	if (cmps)
		e_op_gs(e, true, 0x03, RSI, GS_JIT(spare[0]));
	repeat(e, repne ? 0xf2 : 0xf3, cmps ? 0xa6 : 0xae, log);
	e_mov(e, T1, RAX);
	e_bytes(e, 4, 0xc0900f9f); /* lahf; seto al */
	e_op_gs(e, false, 0x89, RAX, GS_JIT(flags_ax));
	e_mov(e, RAX, T1);
	e_op_reg(e, true, 0x2b, RDI, T0); /* sub */
	if (cmps)
		e_op_gs(e, true, 0x2b, RSI, GS_JIT(spare[0]));
	e_op_gs(e, true, 0x03, RCX, GS_JIT(spare[1]));
	uint8_t *done = e_jump_short(e, 0xe3); /* jrcxz */
	e_bytes(e, 4, 0x2504f665);			   /* test byte gs:[flags_ax + 1], ZF */
	e32(e, GS_JIT(flags_ax) + 1);
	e8(e, RFLAGS_ZF);
	or_fail(e, &f, repne ? JE : JNE);
	e_lands(e, done);
	end(e, &f);
}
