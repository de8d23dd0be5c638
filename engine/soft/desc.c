/* Descriptors and the stacks of far transfers ([SDM3 3.4, 5, 6.8]).
 *
 * Nothing here changes a segment register: callers read and check first, then
 * commit. Runs on the vCPU's thread. */
#include "engine/soft/sys.h"

bool sys_desc_read(struct soft_vcpu *c, uint16_t sel, bool wide, struct sys_desc *d) {
	const struct x86_state *s = c->s;
	uint64_t base = s->gdtr.base, limit = s->gdtr.limit;
	unsigned size = wide ? 16 : 8;
	uint32_t off = sel & 0xfff8u;

	if (sel & 4) {
		const struct x86_segment *ldt = &s->seg[SEG_LDTR];
		if (ldt->attr & SEG_ATTR_UNUSABLE)
			return false;
		base = ldt->base;
		limit = ldt->limit;
	}
	if (off + size - 1 > limit)
		return false;
	d->addr = base + off;
	if (!c->long_mode)
		d->addr = (uint32_t)d->addr;
	d->raw = soft_sys_read(c, d->addr, 8);
	d->high = wide ? soft_sys_read(c, d->addr + 8, 8) : 0;
	return true;
}

struct x86_segment sys_desc_segment(const struct sys_desc *d, uint16_t sel) {
	struct x86_segment seg = {.sel = sel};
	seg.attr = (uint32_t)(d->raw >> 40) & 0xf0ff;
	if (seg.attr & SEG_ATTR_S)
		seg.attr |= 1; /* accessed: whoever loads it sets the bit in memory too */
	seg.limit = (uint32_t)(bits(d->raw, 15, 0) | bits(d->raw, 51, 48) << 16);
	if (seg.attr & SEG_ATTR_G)
		seg.limit = seg.limit << 12 | 0xfff;
	seg.base = bits(d->raw, 39, 16) | bits(d->raw, 63, 56) << 24;
	return seg;
}

/* The write goes straight to RAM as one locked OR, as on a CPU; what is not plain RAM (ROM,
 * pages that hold translated code) takes the ordinary store. */
void sys_desc_set(struct soft_vcpu *c, struct sys_desc *d, uint8_t set) {
	gva_t at = d->addr + 5;
	if (!c->long_mode)
		at = (uint32_t)at;
	if (!(~(d->raw >> 40) & set))
		return;
	d->raw |= (uint64_t)set << 40;
	struct soft_tlb_entry *e = soft_translate(c, at, ACCESS_WRITE, false);
	if (e->host && e->tag[ACCESS_WRITE] == (at & ~PAGE_MASK))
		__atomic_fetch_or(e->host + (at & PAGE_MASK), set, __ATOMIC_SEQ_CST);
	else
		soft_sys_write(c, at, 1, soft_sys_read(c, at, 1) | set);
}

/* An unusable SS still carries the CPL in its DPL. */
struct x86_segment sys_null_segment(uint16_t sel, unsigned dpl) {
	return (struct x86_segment){.sel = sel, .attr = SEG_ATTR_UNUSABLE | dpl << SEG_ATTR_DPL_SHIFT};
}

struct x86_segment sys_flat_code(uint16_t sel, unsigned dpl, bool long_code) {
	uint32_t attr = 0xb | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G | dpl << SEG_ATTR_DPL_SHIFT;
	return (struct x86_segment){
		.sel = sel, .attr = attr | (long_code ? SEG_ATTR_L : SEG_ATTR_DB), .limit = ~0u};
}

struct x86_segment sys_flat_data(uint16_t sel, unsigned dpl) {
	uint32_t attr = 0x3 | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G | SEG_ATTR_DB;
	return (struct x86_segment){.sel = sel, .attr = attr | dpl << SEG_ATTR_DPL_SHIFT, .limit = ~0u};
}

struct x86_segment sys_v86_segment(uint16_t sel) {
	return (struct x86_segment){
		.sel = sel, .attr = 0xf3, .limit = 0xffff, .base = (uint64_t)sel << 4};
}

bool sys_in_limit(const struct x86_segment *seg, uint64_t off, unsigned size) {
	uint64_t last = off + size - 1;
	if ((seg->attr & (SEG_ATTR_S | 0xc)) == (SEG_ATTR_S | 4)) /* data, expand-down */
		return off > seg->limit && last <= (seg->attr & SEG_ATTR_DB ? 0xffffffffu : 0xffffu);
	return last <= seg->limit;
}

void sys_check_stack(struct soft_vcpu *c, uint16_t sel, unsigned cpl, uint8_t vec,
					 struct sys_desc *d) {
	uint32_t ext = sys_ext(c);
	if (SEL_IS_NULL(sel))
		soft_raise_error(c, vec, ext);
	if (!sys_desc_read(c, sel, false, d) || SEL_RPL(sel) != cpl || !DESC_IS_DATA(d->raw) ||
		!DESC_IS_WRITABLE(d->raw) || DESC_DPL(d->raw) != cpl)
		soft_raise_error(c, vec, SEL_ERR(sel) | ext);
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_SS, SEL_ERR(sel) | ext);
}

/* ---- stack frames -------------------------------------------------------------------------- */

struct sys_stack sys_stack_current(struct soft_vcpu *c) {
	return (struct sys_stack){.ss = c->s->seg[SEG_SS],
							  .sp = soft_sp(c),
							  .width = c->stack_size,
							  .user = c->cpl == 3,
							  .err = sys_ext(c)};
}

struct sys_stack sys_stack_new(struct x86_segment ss, uint64_t sp, unsigned cpl, bool long_code,
							   uint32_t err) {
	struct sys_stack st = {.ss = ss, .user = cpl == 3, .err = err};
	st.width = long_code ? 8 : ss.attr & SEG_ATTR_DB ? 4 : 2;
	st.sp = sp & size_mask(st.width);
	return st;
}

static gva_t stack_linear(struct soft_vcpu *c, const struct sys_stack *st, unsigned size) {
	if (st->width == 8) {
		if (!soft_canonical(st->sp) || !soft_canonical(st->sp + size - 1))
			soft_raise_error(c, VEC_SS, st->err);
		return st->sp;
	}
	if ((st->ss.attr & SEG_ATTR_UNUSABLE) || !sys_in_limit(&st->ss, st->sp, size))
		soft_raise_error(c, VEC_SS, st->err);
	return (uint32_t)(st->ss.base + st->sp);
}

void sys_push(struct soft_vcpu *c, struct sys_stack *st, unsigned size, uint64_t val) {
	st->sp = (st->sp - size) & size_mask(st->width);
	soft_write_linear(c, stack_linear(c, st, size), size, val & size_mask(size), st->user);
}

uint64_t sys_pop(struct soft_vcpu *c, struct sys_stack *st, unsigned size) {
	uint64_t val = soft_read_linear(c, stack_linear(c, st, size), size, st->user);
	st->sp = (st->sp + size) & size_mask(st->width);
	return val;
}

void sys_stack_commit_sp(struct soft_vcpu *c, const struct sys_stack *st) {
	uint64_t mask = size_mask(st->width);
	if (st->width == 4)
		c->s->gpr[RSP] = (uint32_t)st->sp;
	else
		c->s->gpr[RSP] = (c->s->gpr[RSP] & ~mask) | (st->sp & mask);
}

void sys_tss_stack(struct soft_vcpu *c, unsigned cpl, uint16_t *ss, uint64_t *sp) {
	const struct x86_segment *tr = &c->s->seg[SEG_TR];
	bool is32 = (tr->attr & SEG_ATTR_TYPE) >= SYS_TSS32;
	uint32_t off = is32 ? cpl * 8 + 4 : cpl * 4 + 2;

	if (off + (is32 ? 5 : 3) > tr->limit)
		soft_raise_error(c, VEC_TS, SEL_ERR(tr->sel) | sys_ext(c));
	*sp = soft_sys_read(c, (uint32_t)(tr->base + off), is32 ? 4 : 2);
	*ss = (uint16_t)soft_sys_read(c, (uint32_t)(tr->base + off + (is32 ? 4 : 2)), 2);
}

uint64_t sys_tss_rsp(struct soft_vcpu *c, unsigned slot) {
	const struct x86_segment *tr = &c->s->seg[SEG_TR];
	uint32_t off = 4 + slot * 8;

	if (off + 7 > tr->limit)
		soft_raise_error(c, VEC_TS, SEL_ERR(tr->sel) | sys_ext(c));
	return soft_sys_read(c, tr->base + off, 8);
}
