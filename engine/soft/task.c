/* The hardware task switch ([SDM3 7]), legacy protected mode only: JMP, CALL,
 * INT and IRET through 16- and 32-bit TSSs and task gates. Runs on the vCPU's
 * thread.
 *
 * Everything of the new TSS is read before anything changes; after the commit
 * point faults belong to the new task, so RIP, the general registers and the
 * selectors are those of the new task by then. */
#include "engine/soft/sys.h"

/* A TSS's dynamic part. */
struct tss {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[6]; /* ES CS SS DS FS GS, as in enum x86_seg */
	uint16_t ldt;
	bool trap;
};

#define TSS32_MIN 0x67u
#define TSS16_MIN 0x2bu

static gva_t at(const struct x86_segment *tr, uint32_t off) {
	return (uint32_t)(tr->base + off);
}

static void read_tss(struct soft_vcpu *c, const struct x86_segment *tr, bool is32, struct tss *t) {
	if (is32) {
		t->cr3 = (uint32_t)soft_sys_read(c, at(tr, 0x1c), 4);
		t->eip = (uint32_t)soft_sys_read(c, at(tr, 0x20), 4);
		t->eflags = (uint32_t)soft_sys_read(c, at(tr, 0x24), 4);
		for (unsigned n = 0; n < 8; n++)
			t->gpr[n] = (uint32_t)soft_sys_read(c, at(tr, 0x28 + n * 4), 4);
		for (unsigned n = 0; n < 6; n++)
			t->seg[n] = (uint16_t)soft_sys_read(c, at(tr, 0x48 + n * 4), 2);
		t->ldt = (uint16_t)soft_sys_read(c, at(tr, 0x60), 2);
		t->trap = soft_sys_read(c, at(tr, 0x64), 2) & 1;
		return;
	}
	t->cr3 = 0;
	t->eip = (uint32_t)soft_sys_read(c, at(tr, 0x0e), 2);
	t->eflags = (uint32_t)soft_sys_read(c, at(tr, 0x10), 2);
	for (unsigned n = 0; n < 8; n++)
		t->gpr[n] = (uint32_t)soft_sys_read(c, at(tr, 0x12 + n * 2), 2) | 0xffff0000u;
	for (unsigned n = 0; n < 4; n++)
		t->seg[n] = (uint16_t)soft_sys_read(c, at(tr, 0x22 + n * 2), 2);
	t->seg[SEG_FS] = t->seg[SEG_GS] = 0;
	t->ldt = (uint16_t)soft_sys_read(c, at(tr, 0x2a), 2);
	t->trap = false;
}

static void save_tss(struct soft_vcpu *c, uint64_t rip, uint64_t flags) {
	const struct x86_state *s = c->s;
	const struct x86_segment *tr = &s->seg[SEG_TR];

	if ((tr->attr & SEG_ATTR_TYPE) >= SYS_TSS32) {
		soft_sys_write(c, at(tr, 0x20), 4, (uint32_t)rip);
		soft_sys_write(c, at(tr, 0x24), 4, (uint32_t)flags);
		for (unsigned n = 0; n < 8; n++)
			soft_sys_write(c, at(tr, 0x28 + n * 4), 4, (uint32_t)s->gpr[n]);
		for (unsigned n = 0; n < 6; n++)
			soft_sys_write(c, at(tr, 0x48 + n * 4), 2, s->seg[n].sel);
		return;
	}
	soft_sys_write(c, at(tr, 0x0e), 2, (uint16_t)rip);
	soft_sys_write(c, at(tr, 0x10), 2, (uint16_t)flags);
	for (unsigned n = 0; n < 8; n++)
		soft_sys_write(c, at(tr, 0x12 + n * 2), 2, (uint16_t)s->gpr[n]);
	for (unsigned n = 0; n < 4; n++)
		soft_sys_write(c, at(tr, 0x22 + n * 2), 2, s->seg[n].sel);
}

/* Clears the busy bit of the current task's descriptor. */
static void clear_busy(struct soft_vcpu *c) {
	struct sys_desc d;
	if (!sys_desc_read(c, c->s->seg[SEG_TR].sel, false, &d))
		return;
	soft_sys_write(c, (uint32_t)(d.addr + 5), 1, (d.raw >> 40) & 0xfd);
}

static void load_ldt(struct soft_vcpu *c, uint16_t sel) {
	struct sys_desc d;
	c->s->seg[SEG_LDTR] = sys_null_segment(sel, 0);
	if (SEL_IS_NULL(sel))
		return;
	if ((sel & 4) || !sys_desc_read(c, sel, false, &d) || DESC_S(d.raw) ||
		DESC_TYPE(d.raw) != SYS_LDT || !DESC_P(d.raw))
		soft_raise_error(c, VEC_TS, SEL_ERR(sel) | sys_ext(c));
	c->s->seg[SEG_LDTR] = sys_desc_segment(&d, sel);
}

static void load_code(struct soft_vcpu *c, uint16_t sel, unsigned cpl) {
	struct sys_desc d;
	uint32_t err = SEL_ERR(sel) | sys_ext(c);

	if (SEL_IS_NULL(sel) || !sys_desc_read(c, sel, false, &d) || !DESC_IS_CODE(d.raw))
		soft_raise_error(c, VEC_TS, err);
	if (DESC_IS_CONFORMING(d.raw) ? DESC_DPL(d.raw) > cpl : DESC_DPL(d.raw) != cpl)
		soft_raise_error(c, VEC_TS, err);
	if (!DESC_P(d.raw))
		soft_raise_error(c, VEC_NP, err);
	sys_desc_set(c, &d, 1);
	c->s->seg[SEG_CS] = sys_desc_segment(&d, sel);
}

static void load_data(struct soft_vcpu *c, unsigned seg, uint16_t sel, unsigned cpl) {
	struct sys_desc d;
	uint32_t err = SEL_ERR(sel) | sys_ext(c);

	if (SEL_IS_NULL(sel))
		return;
	if (!sys_desc_read(c, sel, false, &d) || !DESC_S(d.raw) ||
		(DESC_IS_CODE(d.raw) && !DESC_IS_WRITABLE(d.raw)))
		soft_raise_error(c, VEC_TS, err);
	if (!(DESC_IS_CODE(d.raw) && DESC_IS_CONFORMING(d.raw)) &&
		(SEL_RPL(sel) > DESC_DPL(d.raw) || cpl > DESC_DPL(d.raw)))
		soft_raise_error(c, VEC_TS, err);
	if (!DESC_P(d.raw))
		soft_raise_error(c, VEC_NP, err);
	sys_desc_set(c, &d, 1);
	c->s->seg[seg] = sys_desc_segment(&d, sel);
}

/* After the commit point: the hidden parts, with faults in the new task. */
static void load_segments(struct soft_vcpu *c, const struct tss *t) {
	struct x86_state *s = c->s;
	unsigned cpl = SEL_RPL(t->seg[SEG_CS]);
	struct sys_desc d;

	if (s->rflags & RFLAGS_VM) {
		for (unsigned n = 0; n < 6; n++)
			s->seg[n] = sys_v86_segment(t->seg[n]);
		soft_update_mode(c);
		load_ldt(c, t->ldt);
		return;
	}
	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = sys_null_segment(t->seg[n], cpl);
	soft_update_mode(c);
	load_ldt(c, t->ldt);
	load_code(c, t->seg[SEG_CS], cpl);
	soft_update_mode(c);
	sys_check_stack(c, t->seg[SEG_SS], cpl, VEC_TS, &d);
	sys_desc_set(c, &d, 1);
	s->seg[SEG_SS] = sys_desc_segment(&d, t->seg[SEG_SS]);
	soft_update_mode(c);
	load_data(c, SEG_ES, t->seg[SEG_ES], cpl);
	load_data(c, SEG_DS, t->seg[SEG_DS], cpl);
	load_data(c, SEG_FS, t->seg[SEG_FS], cpl);
	load_data(c, SEG_GS, t->seg[SEG_GS], cpl);
}

void sys_task_switch(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d, enum sys_task_why why,
					 uint64_t rip, const struct soft_event *ev) {
	struct x86_state *s = c->s;
	bool is32 = DESC_TYPE(d->raw) >= SYS_TSS32;
	struct x86_segment tr = sys_desc_segment(d, sel);
	uint64_t flags = s->rflags;
	struct tss t;

	if (tr.limit < (is32 ? TSS32_MIN : TSS16_MIN))
		soft_raise_error(c, VEC_TS, SEL_ERR(sel) | sys_ext(c));
	read_tss(c, &tr, is32, &t);
	bool nests = why == TASK_CALL || why == TASK_INT;
	if (nests)
		soft_probe_linear(c, at(&tr, 0), 2, ACCESS_WRITE, false);
	if (why == TASK_IRET)
		flags &= ~(uint64_t)RFLAGS_NT;
	uint16_t old = s->seg[SEG_TR].sel;
	save_tss(c, rip, flags);
	if (why == TASK_JMP || why == TASK_IRET)
		clear_busy(c);
	if (nests) {
		soft_sys_write(c, at(&tr, 0), 2, old);
		t.eflags |= RFLAGS_NT;
	}
	if (why != TASK_IRET)
		sys_desc_set(c, d, 2);

	/* The commit point. */
	tr.attr |= 2;
	s->seg[SEG_TR] = tr;
	s->cr0 |= CR0_TS;
	if (is32 && c->paging) {
		s->cr3 = t.cr3;
		soft_tlb_flush(c, false);
	}
	for (unsigned n = 0; n < 8; n++)
		s->gpr[n] = t.gpr[n];
	s->rflags = (t.eflags & 0x3f7fd5) | RFLAGS_FIXED;
	s->rip = c->next_rip = t.eip;
	s->dr7 &= ~0x155ull; /* L0-L3 and LE are the task's */
	c->leave_block = true;
	load_segments(c, &t);

	if (ev && ev->has_error) {
		struct sys_stack st = sys_stack_current(c);
		sys_push(c, &st, is32 ? 4 : 2, ev->error);
		sys_stack_commit_sp(c, &st);
	}
	if (t.eip > s->seg[SEG_CS].limit)
		soft_gp(c, sys_ext(c));
	if (t.trap) {
		s->dr6 |= DR6_BT;
		c->delivering = SOFT_VEC_NONE; /* a trap after a switch that succeeded */
		soft_raise(c, VEC_DB);
	}
}

void sys_task_gate(struct soft_vcpu *c, uint16_t sel, enum sys_task_why why, uint64_t rip,
				   const struct soft_event *ev) {
	struct sys_desc d;
	uint32_t err = SEL_ERR(sel) | sys_ext(c);

	if ((sel & 4) || !sys_desc_read(c, sel, false, &d) || DESC_S(d.raw) ||
		(DESC_TYPE(d.raw) != SYS_TSS16 && DESC_TYPE(d.raw) != SYS_TSS32))
		soft_gp(c, err);
	if (!DESC_P(d.raw))
		soft_raise_error(c, VEC_NP, err);
	sys_task_switch(c, sel, &d, why, rip, ev);
}

void sys_task_return(struct soft_vcpu *c) {
	struct sys_desc d;
	uint16_t sel = (uint16_t)soft_sys_read(c, at(&c->s->seg[SEG_TR], 0), 2);

	if ((sel & 4) || !sys_desc_read(c, sel, false, &d) || DESC_S(d.raw) ||
		(DESC_TYPE(d.raw) != SYS_TSS16_BUSY && DESC_TYPE(d.raw) != SYS_TSS32_BUSY))
		soft_raise_error(c, VEC_TS, SEL_ERR(sel));
	if (!DESC_P(d.raw))
		soft_raise_error(c, VEC_NP, SEL_ERR(sel));
	sys_task_switch(c, sel, &d, TASK_IRET, c->next_rip, NULL);
}
