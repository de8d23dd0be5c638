/* Segment registers and descriptor tables ([SDM3 3.4, 5], [SDM2]): MOV/POP to
 * and from segment registers, LDS and its kin, LGDT..STR, LAR..ARPL, the FS/GS
 * base instructions. Runs on the vCPU's thread.
 *
 * A null selector clears the hidden base too, as Intel's and AMD's since Zen 3 do (CPUID
 * 80000021 EAX bit 6). */
#include "core/x86/cpuid.h"
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

/* In real mode only selector and base change: limits and rights stay ("unreal mode"). */
static void load_real(struct x86_segment *seg, uint16_t sel) {
	seg->sel = sel;
	seg->base = (uint64_t)sel << 4;
	if (seg->attr & SEG_ATTR_UNUSABLE) {
		seg->attr = 0x93;
		seg->limit = 0xffff;
	}
}

static void load_null(struct soft_vcpu *c, unsigned seg, uint16_t sel) {
	if (seg == SEG_SS && (c->mode != X86_MODE_64 || c->cpl == 3 || SEL_RPL(sel) != c->cpl))
		soft_gp(c, 0);
	c->s->seg[seg] = sys_null_segment(sel, seg == SEG_SS ? c->cpl : 0);
}

void soft_load_segment(struct soft_vcpu *c, unsigned seg, uint16_t sel) {
	struct x86_segment *reg = &c->s->seg[seg];
	struct sys_desc d;

	if (!(c->s->cr0 & CR0_PE)) {
		load_real(reg, sel);
	} else if (c->s->rflags & RFLAGS_VM) {
		*reg = sys_v86_segment(sel);
	} else if (SEL_IS_NULL(sel)) {
		load_null(c, seg, sel);
	} else if (seg == SEG_SS) {
		sys_check_stack(c, sel, c->cpl, VEC_GP, &d);
		sys_desc_set(c, &d, 1);
		*reg = sys_desc_segment(&d, sel);
	} else {
		if (!sys_desc_read(c, sel, false, &d) || !DESC_S(d.raw))
			soft_gp(c, SEL_ERR(sel));
		bool code = DESC_IS_CODE(d.raw);
		if (code && !DESC_IS_WRITABLE(d.raw)) /* execute-only */
			soft_gp(c, SEL_ERR(sel));
		if (!(code && DESC_IS_CONFORMING(d.raw)) &&
			(SEL_RPL(sel) > DESC_DPL(d.raw) || c->cpl > DESC_DPL(d.raw)))
			soft_gp(c, SEL_ERR(sel));
		if (!DESC_P(d.raw))
			soft_raise_error(c, VEC_NP, SEL_ERR(sel));
		sys_desc_set(c, &d, 1);
		*reg = sys_desc_segment(&d, sel);
	}
	if (seg == SEG_SS)
		soft_update_mode(c);
}

static void shadow_mov_ss(struct soft_vcpu *c) {
	c->s->shadow |= SHADOW_MOV_SS;
	c->leave_block = true;
}

/* ---- MOV, PUSH, POP, LxS ------------------------------------------------------------------ */

void op_mov_seg(struct soft_vcpu *c, const struct x86_insn *i) {
	if (i->opnd[0].kind != OPND_SEG) {
		soft_put(c, i, 0, c->s->seg[i->opnd[1].reg].sel);
		return;
	}
	unsigned seg = i->opnd[0].reg;
	if (seg == SEG_CS || seg > SEG_GS)
		soft_ud(c);
	soft_load_segment(c, seg, (uint16_t)soft_get(c, i, 1));
	if (seg == SEG_SS)
		shadow_mov_ss(c);
}

/* With a 32-bit operand only the selector's two bytes are stored ([SDM2] PUSH). */
void op_push_seg(struct soft_vcpu *c, const struct x86_insn *i) {
	uint16_t sel = c->s->seg[i->opnd[0].reg].sel;
	if (i->opsize != 4) {
		soft_push(c, i->opsize, sel);
		return;
	}
	uint64_t sp = (soft_sp(c) - 4) & size_mask(c->stack_size);
	soft_write(c, SEG_SS, sp, 2, sel);
	soft_set_sp(c, sp);
}

void op_pop_seg(struct soft_vcpu *c, const struct x86_insn *i) {
	unsigned seg = i->opnd[0].reg;
	uint64_t mask = size_mask(c->stack_size); /* of the old SS */
	uint16_t sel = (uint16_t)soft_read(c, SEG_SS, soft_sp(c), i->opsize);

	soft_load_segment(c, seg, sel);
	uint64_t *rsp = &c->s->gpr[RSP];
	*rsp = (*rsp & ~mask) | ((*rsp + i->opsize) & mask);
	if (seg == SEG_SS)
		shadow_mov_ss(c);
}

static void load_far_pointer(struct soft_vcpu *c, const struct x86_insn *i, unsigned seg) {
	uint64_t ea = soft_ea(c, i);
	uint64_t off = soft_read(c, i->seg, ea, i->opsize);
	uint64_t sel = soft_read(c, i->seg, (ea + i->opsize) & size_mask(i->addrsize), 2);

	soft_load_segment(c, seg, (uint16_t)sel);
	soft_set_reg(c, i->opnd[0].reg, i->opsize, off);
}

void op_lds(struct soft_vcpu *c, const struct x86_insn *i) {
	load_far_pointer(c, i, SEG_DS);
}
void op_les(struct soft_vcpu *c, const struct x86_insn *i) {
	load_far_pointer(c, i, SEG_ES);
}
void op_lfs(struct soft_vcpu *c, const struct x86_insn *i) {
	load_far_pointer(c, i, SEG_FS);
}
void op_lgs(struct soft_vcpu *c, const struct x86_insn *i) {
	load_far_pointer(c, i, SEG_GS);
}
void op_lss(struct soft_vcpu *c, const struct x86_insn *i) {
	load_far_pointer(c, i, SEG_SS);
}

/* ---- LAR, LSL, VERR, VERW, ARPL -------------------------------------------------------------- */

/* Whether a descriptor may be looked at with the current rights. `types`: bitmap of the system
 * types that the instruction knows. */
static bool visible(struct soft_vcpu *c, uint16_t sel, unsigned types, struct sys_desc *d) {
	if (SEL_IS_NULL(sel) || !sys_desc_read(c, sel, false, d))
		return false;
	if (!DESC_S(d->raw)) {
		if (!(types >> DESC_TYPE(d->raw) & 1))
			return false;
	} else if (DESC_IS_CODE(d->raw) && DESC_IS_CONFORMING(d->raw)) {
		return true;
	}
	return c->cpl <= DESC_DPL(d->raw) && SEL_RPL(sel) <= DESC_DPL(d->raw);
}

void op_lar(struct soft_vcpu *c, const struct x86_insn *i) {
	struct sys_desc d;
	sys_need_protected(c);
	uint16_t sel = (uint16_t)soft_get(c, i, 1);
	bool ok = visible(c, sel, c->long_mode ? 0x1a04 : 0x1a3e, &d);
	if (ok)
		/* The limit's bits are undefined by the manual; processors show them. */
		soft_set_reg(c, i->opnd[0].reg, i->opsize, (d.raw >> 32) & 0x00ffff00);
	sys_set_zf(c, ok);
}

void op_lsl(struct soft_vcpu *c, const struct x86_insn *i) {
	struct sys_desc d;
	sys_need_protected(c);
	uint16_t sel = (uint16_t)soft_get(c, i, 1);
	bool ok = visible(c, sel, c->long_mode ? 0x0a04 : 0x0a0e, &d);
	if (ok)
		soft_set_reg(c, i->opnd[0].reg, i->opsize, sys_desc_segment(&d, sel).limit);
	sys_set_zf(c, ok);
}

static void verify(struct soft_vcpu *c, const struct x86_insn *i, bool write) {
	struct sys_desc d;
	sys_need_protected(c);
	uint16_t sel = (uint16_t)soft_get(c, i, 0);
	bool ok = visible(c, sel, 0, &d);
	if (ok && write)
		ok = DESC_IS_DATA(d.raw) && DESC_IS_WRITABLE(d.raw);
	else if (ok)
		ok = DESC_IS_DATA(d.raw) || DESC_IS_WRITABLE(d.raw);
	sys_set_zf(c, ok);
}

void op_verr(struct soft_vcpu *c, const struct x86_insn *i) {
	verify(c, i, false);
}
void op_verw(struct soft_vcpu *c, const struct x86_insn *i) {
	verify(c, i, true);
}

void op_arpl(struct soft_vcpu *c, const struct x86_insn *i) {
	sys_need_protected(c);
	uint64_t dst = soft_get(c, i, 0), src = soft_get(c, i, 1);
	bool lower = SEL_RPL(dst) < SEL_RPL(src);
	if (lower)
		soft_put(c, i, 0, (dst & ~3ull) | SEL_RPL(src));
	sys_set_zf(c, lower);
}

/* ---- descriptor table registers ------------------------------------------------------------- */

static void check_umip(struct soft_vcpu *c) {
	if (c->cpl && (c->s->cr4 & CR4_UMIP))
		soft_gp(c, 0);
}

static void store_table(struct soft_vcpu *c, const struct x86_insn *i, const struct x86_dtable *t) {
	uint8_t buf[10];
	check_umip(c);
	for (unsigned n = 0; n < 2; n++)
		buf[n] = (uint8_t)(t->limit >> (n * 8));
	for (unsigned n = 0; n < 8; n++)
		buf[2 + n] = (uint8_t)(t->base >> (n * 8));
	soft_write_bytes(c, i->seg, soft_ea(c, i), buf, c->mode == X86_MODE_64 ? 10 : 6);
}

static void load_table(struct soft_vcpu *c, const struct x86_insn *i, struct x86_dtable *t) {
	uint8_t buf[10] = {0};
	uint64_t base = 0;

	sys_need_cpl0(c);
	soft_read_bytes(c, i->seg, soft_ea(c, i), buf, c->mode == X86_MODE_64 ? 10 : 6);
	for (unsigned n = 0; n < 8; n++)
		base |= (uint64_t)buf[2 + n] << (n * 8);
	if (c->mode != X86_MODE_64)
		base &= i->opsize == 2 ? 0xffffff : 0xffffffff;
	if (!soft_canonical(base))
		soft_gp(c, 0);
	t->limit = (uint16_t)(buf[0] | buf[1] << 8);
	t->base = base;
}

void op_sgdt(struct soft_vcpu *c, const struct x86_insn *i) {
	store_table(c, i, &c->s->gdtr);
}
void op_sidt(struct soft_vcpu *c, const struct x86_insn *i) {
	store_table(c, i, &c->s->idtr);
}
void op_lgdt(struct soft_vcpu *c, const struct x86_insn *i) {
	load_table(c, i, &c->s->gdtr);
}
void op_lidt(struct soft_vcpu *c, const struct x86_insn *i) {
	load_table(c, i, &c->s->idtr);
}

void op_sldt(struct soft_vcpu *c, const struct x86_insn *i) {
	sys_need_protected(c);
	check_umip(c);
	soft_put(c, i, 0, c->s->seg[SEG_LDTR].sel);
}

void op_str(struct soft_vcpu *c, const struct x86_insn *i) {
	sys_need_protected(c);
	check_umip(c);
	soft_put(c, i, 0, c->s->seg[SEG_TR].sel);
}

/* Reads the system descriptor for LLDT and LTR, with its upper half in long mode. */
static struct x86_segment load_system(struct soft_vcpu *c, uint16_t sel, unsigned types,
									  struct sys_desc *d) {
	if ((sel & 4) || !sys_desc_read(c, sel, c->long_mode, d) || DESC_S(d->raw) ||
		!(types >> DESC_TYPE(d->raw) & 1))
		soft_gp(c, SEL_ERR(sel));
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(sel));
	struct x86_segment seg = sys_desc_segment(d, sel);
	if (c->long_mode) {
		if (bits(d->high, 44, 40))
			soft_gp(c, SEL_ERR(sel));
		seg.base |= d->high << 32;
		if (!soft_canonical(seg.base))
			soft_gp(c, SEL_ERR(sel));
	}
	return seg;
}

void op_lldt(struct soft_vcpu *c, const struct x86_insn *i) {
	struct sys_desc d;
	sys_need_protected(c);
	sys_need_cpl0(c);
	uint16_t sel = (uint16_t)soft_get(c, i, 0);
	if (SEL_IS_NULL(sel))
		c->s->seg[SEG_LDTR] = sys_null_segment(sel, 0);
	else
		c->s->seg[SEG_LDTR] = load_system(c, sel, 1u << SYS_LDT, &d);
}

void op_ltr(struct soft_vcpu *c, const struct x86_insn *i) {
	struct sys_desc d;
	sys_need_protected(c);
	sys_need_cpl0(c);
	uint16_t sel = (uint16_t)soft_get(c, i, 0);
	if (SEL_IS_NULL(sel))
		soft_gp(c, 0);
	struct x86_segment seg =
		load_system(c, sel, 1u << SYS_TSS32 | (c->long_mode ? 0 : 1u << SYS_TSS16), &d);
	sys_desc_set(c, &d, 2);
	seg.attr |= 2;
	c->s->seg[SEG_TR] = seg;
}

void op_smsw(struct soft_vcpu *c, const struct x86_insn *i) {
	check_umip(c);
	soft_put(c, i, 0, c->s->cr0 & size_mask(i->opnd[0].size));
}

/* LMSW can set PE and never clear it. */
void op_lmsw(struct soft_vcpu *c, const struct x86_insn *i) {
	sys_need_cpl0(c);
	uint64_t val = soft_get(c, i, 0);
	soft_set_cr0(c, (c->s->cr0 & ~0xeull) | (val & 0xf));
}

/* ---- FS and GS bases ---------------------------------------------------------------------------
 */

static void need_fsgsbase(struct soft_vcpu *c) {
	if (c->mode != X86_MODE_64 || !(c->s->cr4 & CR4_FSGSBASE))
		soft_ud(c);
}

static void read_base(struct soft_vcpu *c, const struct x86_insn *i, unsigned seg) {
	need_fsgsbase(c);
	soft_set_reg(c, i->opnd[0].reg, i->opnd[0].size, c->s->seg[seg].base);
}

static void write_base(struct soft_vcpu *c, const struct x86_insn *i, unsigned seg) {
	need_fsgsbase(c);
	uint64_t base = soft_reg(c, i->opnd[0].reg, i->opnd[0].size);
	if (!soft_canonical(base))
		soft_gp(c, 0);
	c->s->seg[seg].base = base;
}

void op_rdfsbase(struct soft_vcpu *c, const struct x86_insn *i) {
	read_base(c, i, SEG_FS);
}
void op_rdgsbase(struct soft_vcpu *c, const struct x86_insn *i) {
	read_base(c, i, SEG_GS);
}
void op_wrfsbase(struct soft_vcpu *c, const struct x86_insn *i) {
	write_base(c, i, SEG_FS);
}
void op_wrgsbase(struct soft_vcpu *c, const struct x86_insn *i) {
	write_base(c, i, SEG_GS);
}

void op_swapgs(struct soft_vcpu *c, const struct x86_insn *i) {
	struct x86_state *s = c->s;
	(void)i;
	sys_need_64(c);
	sys_need_cpl0(c);
	uint64_t base = s->seg[SEG_GS].base;
	s->seg[SEG_GS].base = s->kernel_gs_base;
	s->kernel_gs_base = base;
}
