/* The translator's memory accesses: flags put aside before a check that spoils them, the linear
 * address, the probe of the software TLB. See tx.h and README.md, Memory. */
#include "engine/soft/tx.h"

/* ---- flags put aside ---------------------------------------------------------------------- */

void tx_save_flags(struct emit *e) {
	e_mov(e, T1, RAX);
	e_bytes(e, 4, 0xc0900f9f); /* lahf; seto al */
	/* 32 bits of which 16 count: a narrower store would not be forwarded to the wider load. */
	e_op_gs(e, false, 0x89, RAX, GS_JIT(flags_ax));
	e_mov(e, RAX, T1);
}

void tx_restore_flags(struct emit *e) {
	e_mov(e, T1, RAX);
	e_op_gs(e, false, 0x8b, RAX, GS_JIT(flags_ax));
	e_bytes(e, 3, 0x9e7f04); /* add al, 0x7f: OF; sahf */
	e_mov(e, RAX, T1);
}

/* Before a probe, which spoils the host's flags. */
void tx_flags_aside(struct tx *t, unsigned n) {
	if (t->live[n] && !t->saved) {
		tx_save_flags(&t->e);
		t->kept_reg = NOREG;
		t->saved = true;
	}
}

/* Before instruction n itself: brings the flags back if it reads them or keeps some of them. */
void tx_flags_for(struct tx *t, unsigned n) {
	const struct jit_fact *f = &t->fact[n];
	if (!f->reads && !(x86_forms[t->insn[n].form].flags_written & RFLAGS_ARITH))
		return;
	if (t->saved && tx_flags_before(f, t->live[n + 1])) {
		tx_restore_flags(&t->e);
		t->kept_reg = NOREG;
	}
	t->saved = false;
}

void tx_flags_back(struct tx *t, uint16_t live) {
	if (t->saved && live) {
		tx_restore_flags(&t->e);
		t->kept_reg = NOREG;
	}
	t->saved = false;
}

/* ---- memory ----------------------------------------------------------------------------- */

struct tx_cold *tx_add_cold(struct tx *t) {
	check(t->ncold < TX_COLD);
	struct tx_cold *k = &t->cold[t->ncold++];
	return k;
}

uint64_t tx_const_ea(const struct x86_insn *i, uint64_t rip) {
	return (uint64_t)i->disp + (i->base == X86_REG_RIP ? rip + i->len : 0);
}

void tx_mov_const_ea(struct emit *e, unsigned reg, unsigned size, const struct x86_insn *i,
					 uint64_t rip) {
	uint64_t ea = tx_const_ea(i, rip) & size_mask(size);
	if (i->base == X86_REG_RIP)
		e_mov_place(e, reg, ea, FIX_ADDRESS);
	else
		e_mov_imm(e, reg, ea);
}

bool tx_is_const_ea(const struct x86_insn *i) {
	return i->index >= 16 && i->base >= 16;
}

/* The memory operand's own registers, scale and displacement; residents are loaded: a base into
 * T0, an index into T1. */
struct emem tx_operand(struct emit *e, const struct x86_insn *i) {
	struct emem m = {NOREG, NOREG, i->scale, (int32_t)i->disp};
	if (i->base < 16) {
		m.base = tx_host_reg(i->base);
		if (tx_resident(i->base)) {
			e_load_gs(e, T0, GS_GPR(i->base));
			m.base = T0;
		}
	}
	if (i->index < 16) {
		m.index = i->index;
		if (tx_resident(i->index)) {
			e_load_gs(e, T1, GS_GPR(i->index));
			m.index = T1;
		}
	}
	return m;
}

/* T0 = linear address of the memory operand. Uses T1; flags are lost with FS and GS. */
void tx_ea(struct emit *e, const struct x86_insn *i, uint64_t rip) {
	if (tx_is_const_ea(i)) {
		tx_mov_const_ea(e, T0, 8, i, rip);
	} else {
		struct emem m = tx_operand(e, i);
		if (m.index == NOREG && !m.disp)
			e_mov(e, T0, m.base);
		else
			e_op_mem(e, true, 0x8d, T0, &m);
	}
	if (i->seg >= SEG_FS)
		e_op_gs(e, true, 0x03, T0, GS_SEG(i->seg)); /* add */
}

void tx_probe(struct tx *t, unsigned size, bool write, struct tx_cold *k) {
	struct emit *e = &t->e;
	bool user = t->key & JIT_KEY_USER;
	uint32_t tlb = GS_JIT(tlb) + (user ? sizeof(struct jit_tlb_entry) * JIT_TLB * 2 : 0) +
				   (write ? sizeof(struct jit_tlb_entry) * JIT_TLB : 0);
	e_bytes(e, 7, 0x08ebc141da8b45);					   /* mov r11d, r10d; shr r11d, 8 */
	e_bytes(e, 7, 0xe38141 | (JIT_TLB - 1ull) * 16 << 24); /* and r11d, (JIT_TLB - 1) * 16 */
	if (size > 1) /* a crossing access meets the wrong page in the compare */
		e_bytes(e, 4, 0xc28349 | (size - 1) << 24);							   /* add r10, .. */
	e_bytes(e, 7, 0xe28149 | 0xfffff000ull << 24);							   /* and r10, -4096 */
	e_op_gs_index(e, 0x3b, T0, T1, tlb + offsetof(struct jit_tlb_entry, tag)); /* cmp */
	e_bytes(e, 6, 0x850f);													   /* jne */
	k->from = e->at - 4;
	e_op_gs_index(e, 0x8b, T0, T1, tlb + offsetof(struct jit_tlb_entry, addend));
}

/* #GP for an operand that must be aligned is the interpreter's. With the address in T0. */
void tx_check_alignment(struct tx *t, unsigned n) {
	struct emit *e = &t->e;
	const struct x86_opnd *o = x86_memory_operand(&t->insn[n]);
	e_bytes(e, 4, 0xc2f641 | (o->size - 1u) << 24); /* test r10b, size - 1 */
	struct tx_cold *a = tx_add_cold(t);
	*a = (struct tx_cold){.rip = t->rip[n], .kind = COLD_INTERP};
	e_bytes(e, 2, 0x850f);
	a->from = e->at;
	e32(e, 0);
}

void tx_access(struct tx *t, unsigned n, struct emem *m) {
	const struct x86_insn *i = &t->insn[n];
	uint64_t rip = t->rip[n];
	struct emit *e = &t->e;
	const struct x86_opnd *o = x86_memory_operand(i);
	bool write = o->access & OPND_W;
	bool aligned = x86_forms[i->form].attr & X86_ATTR_ALIGN && o->size > 1;
	if (tx_legacy(t)) {
		tx_legacy_access(t, n, m);
		return;
	}
	if (t->groups_of[n][0] >= 0) {
		if (aligned) {
			tx_flags_aside(t, n);
			tx_forget_scratch(t);
			tx_ea(e, i, rip);
			tx_check_alignment(t, n);
		}
		tx_group_addend(t, n, 0);
		tx_address(t, n, m);
		return;
	}
	tx_forget_scratch(t);
	tx_flags_aside(t, n);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.retry = tx_here(t),
						  .rip = rip,
						  .insn = i,
						  .kind = COLD_PROBE,
						  .size = o->size,
						  .write = write};
	tx_ea(e, i, rip);
	if (aligned)
		tx_check_alignment(t, n);
	tx_probe(t, o->size, write, k);
	tx_address(t, n, m);
}

/* T0 += host register << scale, and is no group's addend any more. */
static void add_to_address(struct tx *t, unsigned host, unsigned scale) {
	e_lea(&t->e, T0, T0, host, scale, 0);
	t->kept = -1;
}

/* T1 = the resident register. */
static void load_resident(struct tx *t, unsigned guest) {
	if (t->kept_reg != guest)
		e_load_gs(&t->e, T1, GS_GPR(guest));
	t->kept_reg = guest;
}

void tx_address(struct tx *t, unsigned n, struct emem *m) {
	const struct x86_insn *i = &t->insn[n];
	struct emit *e = &t->e;
	if (i->seg >= SEG_FS) {
		e_load_gs(e, T1, GS_SEG(i->seg));
		t->kept_reg = NOREG;
		add_to_address(t, T1, 0);
	}
	*m = (struct emem){T0, NOREG, 0, 0};
	if (tx_is_const_ea(i)) {
		uint64_t ea = tx_const_ea(i, t->rip[n]);
		if ((int64_t)ea == (int32_t)ea) {
			m->disp = (int32_t)ea;
		} else {
			tx_mov_const_ea(e, T1, 8, i, t->rip[n]);
			t->kept_reg = NOREG;
			add_to_address(t, T1, 0);
		}
	} else {
		m->disp = (int32_t)i->disp;
		if (i->index < 16) {
			if (tx_resident(i->index)) {
				load_resident(t, i->index);
				add_to_address(t, T1, i->scale);
			} else {
				m->index = i->index;
				m->scale = i->scale;
			}
		}
		if (i->base < 16 && tx_resident(i->base)) {
			load_resident(t, i->base);
			if (m->index == NOREG && t->lend && !t->saved) {
				m->base = T1;
				m->index = T0;
			} else {
				add_to_address(t, T1, 0);
			}
		} else if (i->base < 16) {
			if (m->index == NOREG) {
				m->base = tx_host_reg(i->base);
				m->index = T0;
			} else {
				add_to_address(t, tx_host_reg(i->base), 0);
			}
		}
	}
}

void tx_reg_access(struct tx *t, unsigned n, unsigned which, unsigned reg, int32_t disp,
				   unsigned size, bool write) {
	struct emit *e = &t->e;
	if (tx_group_addend(t, n, which))
		return;
	tx_forget_scratch(t);
	tx_flags_aside(t, n);
	struct tx_cold *k = tx_add_cold(t);
	*k = (struct tx_cold){.retry = tx_here(t),
						  .rip = t->rip[n],
						  .kind = COLD_STACK,
						  .size = size,
						  .write = write,
						  .stack_reg = reg,
						  .stack_disp = disp};
	if (disp)
		e_lea(e, T0, reg, NOREG, 0, disp);
	else
		e_mov(e, T0, reg);
	tx_probe(t, size, write, k);
}

void tx_stack_access(struct tx *t, unsigned n, unsigned reg, int32_t disp, bool write) {
	tx_reg_access(t, n, 1, reg, disp, 8, write);
}
