/* Delivery of exceptions and interrupts ([SDM3 6], [SDM3 20.1, 20.3], [APM2 8]):
 * the real-mode table, 16-, 32- and 64-bit gates, task gates, IST, virtual-8086
 * mode with its redirection bitmap, double and triple faults. Also INT n, INT3,
 * INTO and INT1. Runs on the vCPU's thread.
 *
 * A fault during delivery leaves by soft_raise*() with c->delivering still set;
 * the loop then calls soft_deliver() with the new event, which judges the pair. */
#include "engine/soft/fast.h"
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

#define VEC_BENIGN VEC_NMI /* stands in c->delivering for what is no exception */
#define ERR_IDT 2u

static bool is_contributory(uint8_t v) {
	return v == VEC_DE || (v >= VEC_TS && v <= VEC_GP);
}

/* [SDM3 6.15] tables 6-4 and 6-5: what a second event makes of the pair. */
static void combine(struct soft_vcpu *c, struct soft_event *ev) {
	uint8_t first = c->delivering;

	if (first == SOFT_VEC_NONE || ev->kind != EVENT_KIND_EXCEPTION)
		return;
	if (first == VEC_DF) {
		c->delivering = SOFT_VEC_NONE;
		soft_unwind(c, UNWIND_SHUTDOWN);
	}
	if ((is_contributory(first) && is_contributory(ev->vector)) ||
		(first == VEC_PF && (is_contributory(ev->vector) || ev->vector == VEC_PF)))
		*ev = (struct soft_event){.vector = VEC_DF, .has_error = true};
}

/* RIP that goes onto the stack, and RFLAGS: a fault's image has RF set, so that an instruction
 * breakpoint does not hit again. */
static uint64_t return_rip(const struct soft_vcpu *c, const struct soft_event *ev) {
	bool after = ev->kind == EVENT_KIND_SOFT_INT || ev->kind == EVENT_KIND_ICEBP;
	return after ? c->next_rip : c->s->rip;
}

static uint64_t flags_image(const struct soft_vcpu *c, const struct soft_event *ev) {
	uint64_t flags = c->s->rflags;
	if (ev->kind == EVENT_KIND_SOFT_INT || ev->kind == EVENT_KIND_ICEBP)
		flags &= ~(uint64_t)RFLAGS_RF;
	else if (ev->kind == EVENT_KIND_EXCEPTION && ev->vector != VEC_DB)
		flags |= RFLAGS_RF;
	return flags;
}

static void commit(struct soft_vcpu *c, struct x86_segment cs, uint64_t rip, uint64_t clear) {
	soft_set_flags(c, 0, clear);
	sys_set_code(c, cs, rip);
	c->s->rip = rip;
}

/* ---- through 8086-style tables ----------------------------------------------------------------
 */

static void deliver_real(struct soft_vcpu *c, const struct soft_event *ev) {
	struct x86_state *s = c->s;
	unsigned off = ev->vector * 4u;

	if (off + 3 > s->idtr.limit)
		soft_gp(c, off * 2 + ERR_IDT + sys_ext(c));
	uint32_t entry = (uint32_t)soft_sys_read(c, (uint32_t)(s->idtr.base + off), 4);
	struct x86_segment cs = s->seg[SEG_CS];
	cs.sel = (uint16_t)(entry >> 16);
	cs.base = (uint64_t)cs.sel << 4;
	sys_check_rip(c, &cs, entry & 0xffff);

	struct sys_stack st = sys_stack_current(c);
	sys_push(c, &st, 2, s->rflags);
	sys_push(c, &st, 2, s->seg[SEG_CS].sel);
	sys_push(c, &st, 2, return_rip(c, ev));
	sys_stack_commit_sp(c, &st);
	commit(c, cs, entry & 0xffff, RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
}

bool sys_vme_redirected(struct soft_vcpu *c, uint8_t vector) {
	const struct x86_segment *tr = &c->s->seg[SEG_TR];

	if (!(c->s->cr4 & CR4_VME))
		return false;
	if ((tr->attr & SEG_ATTR_TYPE) < SYS_TSS32 || tr->limit < 0x67)
		soft_gp(c, 0);
	uint32_t map = (uint32_t)soft_sys_read(c, (uint32_t)(tr->base + 0x66), 2);
	uint32_t at = map - 32 + vector / 8;
	if (map < 32 || at > tr->limit)
		soft_gp(c, 0);
	return !(soft_sys_read(c, (uint32_t)(tr->base + at), 1) >> (vector & 7) & 1);
}

void sys_deliver_vme(struct soft_vcpu *c, uint8_t vector) {
	struct x86_state *s = c->s;
	uint32_t entry = (uint32_t)soft_read_linear(c, vector * 4u, 4, true);
	uint64_t image = s->rflags, clear = RFLAGS_TF | RFLAGS_RF;
	struct x86_segment cs = s->seg[SEG_CS];

	if (sys_iopl(c) == 3) {
		clear |= RFLAGS_IF;
	} else {
		clear |= RFLAGS_VIF;
		image |= RFLAGS_IOPL;
		image = (image & ~(uint64_t)RFLAGS_IF) | (s->rflags & RFLAGS_VIF ? RFLAGS_IF : 0);
	}
	cs.sel = (uint16_t)(entry >> 16);
	cs.base = (uint64_t)cs.sel << 4;
	struct sys_stack st = sys_stack_current(c);
	sys_push(c, &st, 2, image);
	sys_push(c, &st, 2, s->seg[SEG_CS].sel);
	sys_push(c, &st, 2, c->next_rip);
	sys_stack_commit_sp(c, &st);
	soft_set_flags(c, 0, clear);
	sys_set_code(c, cs, entry & 0xffff);
}

/* ---- through the IDT
 * ------------------------------------------------------------------------------ */

struct idt_gate {
	unsigned type;
	uint16_t sel;
	uint64_t off;
	uint8_t ist;
	uint8_t size; /* of the pushes */
};

static struct idt_gate read_idt(struct soft_vcpu *c, const struct soft_event *ev) {
	const struct x86_state *s = c->s;
	unsigned size = c->long_mode ? 16 : 8, off = ev->vector * size;
	uint32_t err = ev->vector * 8u + ERR_IDT + sys_ext(c);
	struct idt_gate g;

	if (off + size - 1 > s->idtr.limit)
		soft_gp(c, err);
	gva_t at = s->idtr.base + off;
	if (!c->long_mode)
		at = (uint32_t)at;
	uint64_t raw = soft_sys_read(c, at, 8), high = size == 16 ? soft_sys_read(c, at + 8, 8) : 0;
	g.type = DESC_TYPE(raw);
	bool known = g.type == SYS_INT32 || g.type == SYS_TRAP32;
	if (!c->long_mode)
		known |= g.type == SYS_TASK_GATE || g.type == SYS_INT16 || g.type == SYS_TRAP16;
	if (DESC_S(raw) || !known)
		soft_gp(c, err);
	if (ev->kind == EVENT_KIND_SOFT_INT && DESC_DPL(raw) < c->cpl)
		soft_gp(c, err);
	if (!DESC_P(raw))
		soft_raise_error(c, VEC_NP, err);
	g.sel = (uint16_t)(raw >> 16);
	g.off = bits(raw, 15, 0);
	g.size = 2;
	g.ist = 0;
	if (g.type >= SYS_INT32) {
		g.size = c->long_mode ? 8 : 4;
		g.off |= bits(raw, 63, 48) << 16;
	}
	if (c->long_mode) {
		g.off |= (uint64_t)(uint32_t)high << 32;
		g.ist = bits(raw, 34, 32);
	}
	return g;
}

/* The handler's code segment; *inner: it has more privilege. */
static struct x86_segment read_handler(struct soft_vcpu *c, const struct idt_gate *g, bool *inner,
									   struct sys_desc *d) {
	uint32_t err = SEL_ERR(g->sel) | sys_ext(c);
	bool v86 = sys_v86(c);

	if (SEL_IS_NULL(g->sel))
		soft_gp(c, sys_ext(c));
	if (!sys_desc_read(c, g->sel, false, d) || !DESC_IS_CODE(d->raw) || DESC_DPL(d->raw) > c->cpl)
		soft_gp(c, err);
	if (c->long_mode && (!DESC_L(d->raw) || DESC_DB(d->raw)))
		soft_gp(c, err);
	if (!DESC_P(d->raw))
		soft_raise_error(c, VEC_NP, err);
	*inner = !DESC_IS_CONFORMING(d->raw) && DESC_DPL(d->raw) < c->cpl;
	if (v86 && (!*inner || DESC_DPL(d->raw)))
		soft_gp(c, err);
	unsigned cpl = *inner ? DESC_DPL(d->raw) : c->cpl;
	struct x86_segment cs = sys_desc_segment(d, (uint16_t)((g->sel & 0xfffcu) | cpl));
	sys_check_rip(c, &cs, g->off);
	return cs;
}

/* The stack that the handler starts on. */
static struct sys_stack handler_stack(struct soft_vcpu *c, const struct idt_gate *g, bool inner,
									  unsigned cpl) {
	struct x86_segment ss = c->s->seg[SEG_SS];

	if (c->long_mode) {
		uint64_t sp = c->s->gpr[RSP];
		if (g->ist)
			sp = sys_tss_rsp(c, g->ist + 3u);
		else if (inner)
			sp = sys_tss_rsp(c, cpl);
		if (inner)
			ss = sys_null_segment((uint16_t)cpl, cpl);
		return sys_stack_new(ss, sp & ~0xfull, cpl, true, sys_ext(c));
	}
	if (inner) {
		struct sys_desc d;
		uint16_t sel;
		uint64_t sp;
		sys_tss_stack(c, cpl, &sel, &sp);
		sys_check_stack(c, sel, cpl, VEC_TS, &d);
		sys_desc_set(c, &d, 1);
		return sys_stack_new(sys_desc_segment(&d, sel), sp, cpl, false, SEL_ERR(sel) | sys_ext(c));
	}
	return sys_stack_current(c);
}

static void deliver_protected(struct soft_vcpu *c, const struct soft_event *ev) {
	struct x86_state *s = c->s;
	struct idt_gate g = read_idt(c, ev);
	struct sys_desc d;
	bool inner, v86 = sys_v86(c);

	if (g.type == SYS_TASK_GATE) {
		sys_task_gate(c, g.sel, TASK_INT, return_rip(c, ev), ev);
		return;
	}
	struct x86_segment cs = read_handler(c, &g, &inner, &d);
	unsigned cpl = SEL_RPL(cs.sel);
	struct sys_stack st = handler_stack(c, &g, inner, cpl);

	if (v86) {
		sys_push(c, &st, g.size, s->seg[SEG_GS].sel);
		sys_push(c, &st, g.size, s->seg[SEG_FS].sel);
		sys_push(c, &st, g.size, s->seg[SEG_DS].sel);
		sys_push(c, &st, g.size, s->seg[SEG_ES].sel);
	}
	if (inner || c->long_mode) {
		sys_push(c, &st, g.size, s->seg[SEG_SS].sel);
		sys_push(c, &st, g.size, s->gpr[RSP]);
	}
	sys_push(c, &st, g.size, flags_image(c, ev));
	sys_push(c, &st, g.size, s->seg[SEG_CS].sel);
	sys_push(c, &st, g.size, return_rip(c, ev));
	if (ev->has_error)
		sys_push(c, &st, g.size, ev->error);

	/* Nothing below faults. */
	sys_desc_set(c, &d, 1);
	s->seg[SEG_SS] = st.ss;
	if (v86) {
		static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
		for (unsigned n = 0; n < ARRAY_LEN(data); n++)
			s->seg[data[n]] = sys_null_segment(0, 0);
	}
	sys_stack_commit_sp(c, &st);
	uint64_t clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM;
	if (g.type == SYS_INT32 || g.type == SYS_INT16)
		clear |= RFLAGS_IF;
	commit(c, cs, g.off, clear);
	soft_update_mode(c);
}

/* From 64-bit code through a present gate to a 64-bit handler of level 0, everything needed being
 * in the TLB. false: the long way; nothing was changed then. */
static bool deliver_quick(struct soft_vcpu *c, const struct soft_event *ev) {
	struct x86_state *s = c->s;
	unsigned off = ev->vector * 16u, words = ev->has_error ? 6 : 5;
	const struct x86_segment *tr = &s->seg[SEG_TR];
	if (off + 15 > s->idtr.limit || (c->cpl && c->cpl != 3))
		return false;
	const uint8_t *gate = fast_host(c, s->idtr.base + off, 16, ACCESS_READ, false);
	if (!gate)
		return false;
	uint64_t raw = fast_load(gate, 8), high = fast_load(gate + 8, 8);
	unsigned type = DESC_TYPE(raw), ist = (unsigned)bits(raw, 34, 32);
	if (DESC_S(raw) || !DESC_P(raw) || (type != SYS_INT32 && type != SYS_TRAP32) ||
		(ev->kind == EVENT_KIND_SOFT_INT && DESC_DPL(raw) < c->cpl))
		return false;
	uint16_t sel = (uint16_t)(raw >> 16);
	uint64_t rip = bits(raw, 15, 0) | bits(raw, 63, 48) << 16 | (uint64_t)(uint32_t)high << 32;
	struct sys_desc d = {.raw = sys_quick_desc(c, sel)};
	/* Present, accessed, code of level 0 that does not conform, 64-bit. */
	if ((d.raw >> 40 & 0x60fd) != 0x2099 || !soft_canonical(rip))
		return false;
	uint64_t sp = s->gpr[RSP];
	if (ist || c->cpl) {
		uint32_t slot = ist ? 4 + (ist + 3) * 8 : 4;
		const uint8_t *p = fast_host(c, tr->base + slot, 8, ACCESS_READ, false);
		if (!p || slot + 7 > tr->limit)
			return false;
		sp = fast_load(p, 8);
	}
	sp = (sp & ~0xfull) - words * 8;
	uint8_t *frame = fast_host(c, sp, words * 8, ACCESS_WRITE, false);
	if (!frame)
		return false;

	unsigned at = 0;
	if (ev->has_error)
		fast_store(frame + 8 * at++, 8, ev->error);
	fast_store(frame + 8 * at++, 8, return_rip(c, ev));
	fast_store(frame + 8 * at++, 8, s->seg[SEG_CS].sel);
	fast_store(frame + 8 * at++, 8, flags_image(c, ev));
	fast_store(frame + 8 * at++, 8, s->gpr[RSP]);
	fast_store(frame + 8 * at++, 8, s->seg[SEG_SS].sel);
	fast_note_store(c, frame);
	struct x86_segment ss = c->cpl ? sys_null_segment(0, 0) : s->seg[SEG_SS];
	uint64_t clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM;
	if (type == SYS_INT32)
		clear |= RFLAGS_IF;
	s->gpr[RSP] = sp;
	soft_set_flags(c, 0, clear);
	sys_enter_64(c, sys_desc_segment(&d, (uint16_t)(sel & 0xfffcu)), ss, 0, rip);
	s->rip = rip;
	return true;
}

void soft_deliver(struct soft_vcpu *c, const struct soft_event *event) {
	struct soft_event ev = *event; /* often &c->event, which a nested fault overwrites */

	combine(c, &ev);
	c->delivering = ev.kind == EVENT_KIND_EXCEPTION ? ev.vector : VEC_BENIGN;
	c->delivering_ext = ev.kind != EVENT_KIND_SOFT_INT;
	if (ev.kind == EVENT_KIND_NMI)
		c->s->nmi_masked = true;
	if (c->mode == X86_MODE_64 && deliver_quick(c, &ev))
		;
	else if (c->s->cr0 & CR0_PE)
		deliver_protected(c, &ev);
	else
		deliver_real(c, &ev);
	c->delivering = SOFT_VEC_NONE;
	if (ev.vector == VEC_DB && ev.kind != EVENT_KIND_SOFT_INT)
		c->s->dr7 &= ~DR7_GD;
	c->s->shadow = 0;
	c->leave_block = true;
}

/* ---- the instructions
 * ------------------------------------------------------------------------------- */

static void software(struct soft_vcpu *c, enum soft_event_kind kind, uint8_t vector) {
	struct soft_event ev = {.kind = kind, .vector = vector};
	soft_deliver(c, &ev);
	c->single_step = false; /* TF went onto the stack: no trap before the handler's first insn */
}

void op_int(struct soft_vcpu *c, const struct x86_insn *i) {
	uint8_t vector = (uint8_t)i->imm;
	if (sys_v86(c)) {
		if (sys_vme_redirected(c, vector)) {
			sys_deliver_vme(c, vector);
			return;
		}
		if (sys_iopl(c) != 3)
			soft_gp(c, 0);
	}
	software(c, EVENT_KIND_SOFT_INT, vector);
}

void op_int3(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	software(c, EVENT_KIND_SOFT_INT, VEC_BP);
}

void op_into(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	if (c->s->rflags & RFLAGS_OF)
		software(c, EVENT_KIND_SOFT_INT, VEC_OF);
}

void op_int1(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	software(c, EVENT_KIND_ICEBP, VEC_DB);
}
