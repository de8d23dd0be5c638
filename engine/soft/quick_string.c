/* REP STOS and REP MOVS without a call of their handler: one thunk for each element size, for user
 * and supervisor code (see quick.c).
 *
 * A thunk does it with the host's instruction if all of it lies in one page (MOVS: in one page on
 * each side) that the translator's TLB has, upwards, with 64-bit addresses or those of flat 32-bit
 * code. Else T0 != 0, and nothing has changed. Both sides of an overlap in one page have one
 * addend, so the host's instruction sees it as the guest's would: entries of a page change together
 * (windows.c). */
#include "engine/soft/emit.h"

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

#define AND 4
#define CMP 7

/* T0 = addend of the page that holds RCX elements from `reg` on, at most a page of them. */
static void find_page(struct emit *e, struct fail *f, unsigned reg, unsigned log, bool user,
					  bool write) {
	uint32_t tlb =
		GS_JIT(tlb) + (uint32_t)sizeof(struct jit_tlb_entry) * JIT_TLB * (2u * user + write);
	e_op_reg(e, false, 0x8b, T0, reg);
	op_imm(e, false, AND, T0, PAGE_MASK);
	e_lea(e, T0, T0, RCX, log, 0);
	op_imm(e, false, CMP, T0, PAGE_SIZE);
	or_fail(e, f, JA);
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

void jit_emit_string(struct emit *e, unsigned which) {
	bool movs = which & 8, user = which & 4;
	unsigned log = which & 3;
	struct fail f = {.n = 0};
	static const uint8_t nothing[] = {
		0xe3, 2,				/* jrcxz over the jump: nothing to do, nothing to fault at */
		0xeb, 4,				/* jmp over the way out */
		0x45, 0x33, 0xd2, 0xc3, /* xor r10d, r10d; ret */
	};
	for (unsigned n = 0; n < sizeof(nothing); n++)
		e8(e, nothing[n]);
	e8(e, 0x65); /* test dword gs:[rflags], DF */
	e8(e, 0xf7);
	e8(e, 0x04);
	e8(e, 0x25);
	e32(e, GS_STATE(rflags));
	e32(e, RFLAGS_DF);
	or_fail(e, &f, JNE);
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
	e8(e, 0xf3);
	if (log == 1)
		e8(e, 0x66);
	if (log == 3)
		e8(e, 0x48);
	e8(e, (movs ? 0xa4u : 0xaau) + (log ? 1 : 0));
	if (movs)
		e_op_reg(e, true, 0x2b, RSI, T1); /* sub */
	e_op_reg(e, true, 0x2b, RDI, T0);
	e_op_reg(e, false, 0x33, T0, T0);
	e8(e, 0xc3);
	for (unsigned n = 0; n < f.n; n++)
		jit_put_rel32(f.at[n], e->at, 0);
	e_mov_imm(e, T0, 1);
	e8(e, 0xc3);
}
