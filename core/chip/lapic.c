/* The local APIC of one vCPU: registers, priorities, the local vector table and
 * the interrupt output ([SDM3 10], Intel SDM volume 3, order 325384).
 *
 * Modelled: a 2009-or-later APIC, version 14h with six LVT entries, xAPIC and
 * x2APIC, EOI-broadcast suppression. Left out: SMI (no SMM here), CMCI (no machine
 * checks), focus checking, and delivery status (a message is delivered at once).
 *
 * DEVIATION: the APIC id is read-only in xAPIC mode too, as on current processors.
 * DEVIATION: the base address in IA32_APIC_BASE reads back as written, but the page
 * stays where the board routes it; nothing in use moves it.
 *
 * Called by the board on the vCPU's thread (registers, acknowledge), by other APICs
 * and interrupt sources on any thread, always with the VM lock held. */
#include "core/chip/lapic.h"

#include "core/base/bits.h"
#include "core/base/check.h"

#define SVR_BITS 0x13ffu
#define ICR_LOW_BITS 0x000ccfffu /* all but delivery status and reserved */

/* Writable bits of each LVT entry ([SDM3 figure 10-8]); 12 and 14 are read-only. */
static const uint32_t lvt_bits[LVT_COUNT] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,	[LVT_ERROR] = 0x100ff,
};

#define LVT_READ_ONLY (1u << 12 | LVT_REMOTE_IRR)

static void lapic_reset(struct lapic *l, bool init);

static int highest(const uint32_t v[8]) {
	for (int i = 7; i >= 0; i--)
		if (v[i])
			return i * 32 + 31 - __builtin_clz(v[i]);
	return -1;
}

static void set_bit(uint32_t v[8], uint8_t n) {
	v[n >> 5] |= 1u << (n & 31);
}

static void clear_bit(uint32_t v[8], uint8_t n) {
	v[n >> 5] &= ~(1u << (n & 31));
}

static bool test_bit(const uint32_t v[8], uint8_t n) {
	return v[n >> 5] >> (n & 31) & 1;
}

static enum lapic_mode lvt_mode(uint32_t lvt) {
	return (enum lapic_mode)(lvt >> 8 & 7);
}

/* Priorities and the output */

/* [SDM3 10.8.3.1] */
uint8_t lapic_ppr(const struct lapic *l) {
	int isr = highest(l->isr);
	uint32_t class = isr < 0 ? 0 : (uint32_t)isr & 0xf0;
	return (uint8_t)((l->tpr & 0xf0) >= class ? l->tpr : class);
}

/* The highest request that may interrupt now, or -1. */
static int deliverable(const struct lapic *l) {
	int irr = lapic_enabled(l) ? highest(l->irr) : -1;
	return irr >= 0 && irr >> 4 > lapic_ppr(l) >> 4 ? irr : -1;
}

static bool extint_pending(const struct lapic *l) {
	if (!lapic_enabled(l)) /* LINT0 is INTR then ([SDM3 10.4.3]) */
		return l->lint[0];
	if (l->extint)
		return true;
	for (unsigned pin = 0; pin < 2; pin++) {
		uint32_t lvt = l->lvt[LVT_LINT0 + pin];
		if (l->lint[pin] && !(lvt & LVT_MASKED) && lvt_mode(lvt) == LAPIC_EXT)
			return true;
	}
	return false;
}

bool lapic_has_intr(const struct lapic *l) {
	return extint_pending(l) || deliverable(l) >= 0;
}

static void update(struct lapic *l) {
	bool level = lapic_has_intr(l);
	if (level == l->intr)
		return;
	l->intr = level;
	if (l->out.intr)
		l->out.intr(l->out.opaque, level);
}

int lapic_intack(struct lapic *l) {
	int vector = -1;
	if (extint_pending(l)) {
		l->extint = false;
		vector = LAPIC_EXTINT;
	} else if ((vector = deliverable(l)) >= 0) {
		clear_bit(l->irr, (uint8_t)vector);
		set_bit(l->isr, (uint8_t)vector);
	}
	update(l);
	return vector;
}

uint8_t lapic_get_cr8(const struct lapic *l) {
	return (uint8_t)(l->tpr >> 4 & 0xf);
}

void lapic_set_cr8(struct lapic *l, uint8_t cr8) {
	l->tpr = (uint32_t)(cr8 & 0xf) << 4;
	update(l);
}

/* Taking messages */

/* [SDM3 10.5.3]: the error interrupt is armed again by a write to ESR. That also ends the
 * recursion of an error interrupt whose own vector is illegal. */
void lapic_error(struct lapic *l, uint32_t bit) {
	bool armed = !l->esr_pending;
	l->esr_pending |= bit;
	if (armed)
		lapic_local_event(l, LVT_ERROR);
}

bool lapic_accept(struct lapic *l, enum lapic_mode mode, uint8_t vector, bool level) {
	switch (mode) {
	case LAPIC_FIXED:
	case LAPIC_LOWEST:
		if (!(l->svr & SVR_ENABLED)) /* [SDM3 10.4.7.2] */
			return false;
		if (vector < 16) {
			lapic_error(l, ESR_RECV_ILLEGAL);
			return false;
		}
		set_bit(l->irr, vector);
		if (level)
			set_bit(l->tmr, vector);
		else
			clear_bit(l->tmr, vector);
		break;
	case LAPIC_NMI:
		if (l->out.nmi)
			l->out.nmi(l->out.opaque);
		break;
	case LAPIC_INIT:
		lapic_reset(l, true);
		if (l->out.init)
			l->out.init(l->out.opaque);
		break;
	case LAPIC_SIPI:
		if (l->out.sipi)
			l->out.sipi(l->out.opaque, vector);
		break;
	case LAPIC_EXT:
		l->extint = true;
		break;
	case LAPIC_SMI:
		break;
	case LAPIC_RESERVED:
		return false;
	}
	update(l);
	return true;
}

/* An LVT entry's source fired, or is high and level-triggered. */
static void lvt_deliver(struct lapic *l, enum lapic_lvt n) {
	uint32_t lvt = l->lvt[n];
	bool pin = n == LVT_LINT0 || n == LVT_LINT1;
	if (!lapic_enabled(l) || (lvt & LVT_MASKED))
		return;
	enum lapic_mode mode = n == LVT_TIMER || n == LVT_ERROR ? LAPIC_FIXED : lvt_mode(lvt);
	switch (mode) {
	case LAPIC_FIXED: {
		bool level = pin && (lvt & LVT_LEVEL);
		if (level && (lvt & LVT_REMOTE_IRR))
			break;
		if (lapic_accept(l, LAPIC_FIXED, (uint8_t)lvt, level) && level)
			l->lvt[n] |= LVT_REMOTE_IRR;
		break;
	}
	case LAPIC_NMI:
	case LAPIC_INIT:
		lapic_accept(l, mode, 0, false);
		break;
	case LAPIC_EXT: /* a level that extint_pending() looks at */
		update(l);
		break;
	default:
		break;
	}
}

void lapic_local_event(struct lapic *l, enum lapic_lvt n) {
	lvt_deliver(l, n);
	if (n == LVT_PERF) /* [SDM3 10.5.1]: masked by its own delivery */
		l->lvt[n] |= LVT_MASKED;
}

/* A level-triggered LINT entry whose pin is high. */
static bool lint_waits(const struct lapic *l, unsigned pin) {
	uint32_t lvt = l->lvt[LVT_LINT0 + pin];
	return l->lint[pin] && lvt_mode(lvt) == LAPIC_FIXED && (lvt & LVT_LEVEL);
}

void lapic_set_lint(void *opaque, unsigned pin, bool level) {
	struct lapic *l = opaque;
	if (pin > 1 || l->lint[pin] == level)
		return;
	l->lint[pin] = level;
	if (level && lapic_enabled(l))
		lvt_deliver(l, pin ? LVT_LINT1 : LVT_LINT0);
	else if (level && pin) /* disabled: the NMI pin */
		lapic_accept(l, LAPIC_NMI, 0, false);
	update(l);
}

static void eoi(struct lapic *l) {
	int vector = highest(l->isr);
	if (vector < 0)
		return;
	clear_bit(l->isr, (uint8_t)vector);
	if (test_bit(l->tmr, (uint8_t)vector)) {
		for (unsigned pin = 0; pin < 2; pin++) {
			enum lapic_lvt n = pin ? LVT_LINT1 : LVT_LINT0;
			if (!(l->lvt[n] & LVT_REMOTE_IRR) || (l->lvt[n] & 0xff) != (uint32_t)vector)
				continue;
			l->lvt[n] &= ~LVT_REMOTE_IRR;
			if (lint_waits(l, pin))
				lvt_deliver(l, n);
		}
		if (!(l->svr & SVR_NO_EOI_BROADCAST))
			lapic_send_eoi(l->bus, (uint8_t)vector);
	}
	update(l);
}

/* Registers, common to both modes */

/* false: no such register, or not readable in this mode. */
static bool reg_read(struct lapic *l, unsigned reg, uint32_t *val) {
	if (reg >= LAPIC_REG_ISR && reg < LAPIC_REG_ESR) {
		const uint32_t *v = reg < LAPIC_REG_TMR ? l->isr : reg < LAPIC_REG_IRR ? l->tmr : l->irr;
		*val = v[reg & 7];
		return true;
	}
	if (reg >= LAPIC_REG_LVT && reg < LAPIC_REG_LVT + LVT_COUNT) {
		*val = l->lvt[reg - LAPIC_REG_LVT];
		return true;
	}
	switch (reg) {
	case LAPIC_REG_ID:
		*val = lapic_x2apic(l) ? l->id : l->id << 24;
		return true;
	case LAPIC_REG_VERSION:
		*val = LAPIC_VERSION;
		return true;
	case LAPIC_REG_TPR:
		*val = l->tpr;
		return true;
	case LAPIC_REG_APR: /* xAPIC only, as the next */
	case LAPIC_REG_RRD:
		*val = 0;
		return !lapic_x2apic(l);
	case LAPIC_REG_PPR:
		*val = lapic_ppr(l);
		return true;
	case LAPIC_REG_EOI: /* write-only */
		*val = 0;
		return !lapic_x2apic(l);
	case LAPIC_REG_LDR:
		*val = l->ldr;
		return true;
	case LAPIC_REG_DFR:
		*val = l->dfr;
		return !lapic_x2apic(l);
	case LAPIC_REG_SVR:
		*val = l->svr;
		return true;
	case LAPIC_REG_ESR:
		*val = l->esr;
		return true;
	case LAPIC_REG_ICR:
		*val = (uint32_t)l->icr;
		return true;
	case LAPIC_REG_ICR_HIGH:
		*val = (uint32_t)(l->icr >> 32);
		return !lapic_x2apic(l);
	case LAPIC_REG_TIMER_INITIAL:
		*val = l->timer_initial;
		return true;
	case LAPIC_REG_TIMER_CURRENT:
		*val = lapic_timer_current(l);
		return true;
	case LAPIC_REG_TIMER_DIVIDE:
		*val = l->timer_divide;
		return true;
	default:
		*val = 0;
		return false;
	}
}

static void write_lvt(struct lapic *l, enum lapic_lvt n, uint32_t val) {
	uint32_t old = l->lvt[n];
	val = (val & lvt_bits[n]) | (old & LVT_READ_ONLY);
	if (!(l->svr & SVR_ENABLED)) /* mask bits stay set ([SDM3 10.4.7.2]) */
		val |= LVT_MASKED;
	if (!(val & LVT_LEVEL))
		val &= ~LVT_REMOTE_IRR;
	l->lvt[n] = val;
	if (n == LVT_TIMER)
		lapic_timer_mode_changed(l, old);
	if ((n == LVT_LINT0 || n == LVT_LINT1) && lint_waits(l, n - LVT_LINT0))
		lvt_deliver(l, n);
	update(l);
}

static void write_svr(struct lapic *l, uint32_t val) {
	l->svr = val & SVR_BITS;
	if (!(l->svr & SVR_ENABLED))
		for (unsigned n = 0; n < LVT_COUNT; n++)
			l->lvt[n] |= LVT_MASKED;
	update(l);
}

/* false: no such register, or not writable in this mode. */
static bool reg_write(struct lapic *l, unsigned reg, uint32_t val) {
	if (reg >= LAPIC_REG_LVT && reg < LAPIC_REG_LVT + LVT_COUNT) {
		write_lvt(l, (enum lapic_lvt)(reg - LAPIC_REG_LVT), val);
		return true;
	}
	switch (reg) {
	case LAPIC_REG_TPR:
		l->tpr = val & 0xff;
		update(l);
		return true;
	case LAPIC_REG_EOI:
		eoi(l);
		return true;
	case LAPIC_REG_LDR:
		l->ldr = val & 0xff000000;
		return true;
	case LAPIC_REG_DFR:
		l->dfr = val | 0x0fffffff;
		return true;
	case LAPIC_REG_SVR:
		write_svr(l, val);
		return true;
	case LAPIC_REG_ESR: /* shows what came since the last write */
		l->esr = l->esr_pending;
		l->esr_pending = 0;
		return true;
	case LAPIC_REG_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (val & ICR_LOW_BITS);
		lapic_send_ipi(l, l->icr);
		return true;
	case LAPIC_REG_ICR_HIGH:
		l->icr = (uint64_t)(val & 0xff000000) << 32 | (uint32_t)l->icr;
		return true;
	case LAPIC_REG_TIMER_INITIAL:
		lapic_timer_set_initial(l, val);
		return true;
	case LAPIC_REG_TIMER_DIVIDE:
		lapic_timer_set_divide(l, val);
		return true;
	default:
		return false;
	}
}

/* The page. Only aligned 32-bit writes are defined ([SDM3 10.4.1]); others are lost. Reads
 * may take a part of a register. */
uint64_t lapic_mmio_read(struct lapic *l, uint64_t off, unsigned size) {
	uint32_t val;
	if (!lapic_enabled(l) || lapic_x2apic(l))
		return ~0ull;
	if (off >= LAPIC_PAGE || (off & 15) + size > 4)
		return 0;
	if (!reg_read(l, (unsigned)(off >> 4), &val))
		lapic_error(l, ESR_REGISTER);
	return val >> (off & 3) * 8;
}

void lapic_mmio_write(struct lapic *l, uint64_t off, unsigned size, uint64_t val) {
	unsigned reg = (unsigned)(off >> 4);
	if (!lapic_enabled(l) || lapic_x2apic(l) || off >= LAPIC_PAGE || (off & 15) || size != 4)
		return;
	if (reg_write(l, reg, (uint32_t)val))
		return;
	/* Writing a read-only register is lost; an unknown one is an error. */
	uint32_t ignored;
	if (!reg_read(l, reg, &ignored))
		lapic_error(l, ESR_REGISTER);
}

/* The MSRs */

/* IA32_APIC_BASE; the legal moves are in [SDM3 10.12.5]. */
static bool write_base(struct lapic *l, uint64_t val) {
	uint64_t reserved = 0x2ffull | ~(l->bus->phys_bits >= 64 ? ~0ull : BIT(l->bus->phys_bits) - 1);
	bool en = val & APIC_BASE_EN, extd = val & APIC_BASE_EXTD;
	if ((val & reserved) || (extd && !en))
		return false;
	if (lapic_x2apic(l) && en && !extd) /* x2APIC to xAPIC: only through disabled */
		return false;
	if (!lapic_enabled(l) && extd)
		return false;
	bool to_x2apic = extd && !lapic_x2apic(l);
	bool was_enabled = lapic_enabled(l);
	l->base = val;
	if (!en && was_enabled) {
		lapic_reset(l, true);
	} else if (to_x2apic) {
		l->ldr = l->id >> 4 << 16 | 1u << (l->id & 15);
		l->icr = (uint32_t)l->icr;
	}
	update(l);
	return true;
}

/* What a register takes in x2APIC mode; the rest of its 64 bits is reserved. false:
 * it cannot be written. */
static bool x2apic_writable(unsigned reg, uint64_t *bits_allowed) {
	if (reg >= LAPIC_REG_LVT && reg < LAPIC_REG_LVT + LVT_COUNT) {
		*bits_allowed = lvt_bits[reg - LAPIC_REG_LVT] | LVT_READ_ONLY;
		return true;
	}
	switch (reg) {
	case LAPIC_REG_TPR:
	case LAPIC_REG_SELF_IPI:
		*bits_allowed = 0xff;
		return true;
	case LAPIC_REG_EOI:
	case LAPIC_REG_ESR:
		*bits_allowed = 0;
		return true;
	case LAPIC_REG_SVR:
		*bits_allowed = SVR_BITS;
		return true;
	case LAPIC_REG_ICR:
		*bits_allowed = 0xffffffffull << 32 | ICR_LOW_BITS;
		return true;
	case LAPIC_REG_TIMER_INITIAL:
		*bits_allowed = 0xffffffff;
		return true;
	case LAPIC_REG_TIMER_DIVIDE:
		*bits_allowed = 0xb;
		return true;
	default:
		return false;
	}
}

bool lapic_rdmsr(struct lapic *l, uint32_t index, uint64_t *val) {
	uint32_t low;
	if (index == MSR_APIC_BASE) {
		*val = l->base;
		return true;
	}
	if (index == MSR_TSC_DEADLINE) {
		*val = lapic_timer_get_deadline(l);
		return true;
	}
	if (index < MSR_X2APIC_FIRST || index > MSR_X2APIC_LAST || !lapic_x2apic(l))
		return false;
	unsigned reg = index - MSR_X2APIC_FIRST;
	if (!reg_read(l, reg, &low))
		return false;
	*val = reg == LAPIC_REG_ICR ? l->icr : low;
	return true;
}

bool lapic_wrmsr(struct lapic *l, uint32_t index, uint64_t val) {
	uint64_t allowed;
	if (index == MSR_APIC_BASE)
		return write_base(l, val);
	if (index == MSR_TSC_DEADLINE) {
		lapic_timer_set_deadline(l, val);
		return true;
	}
	if (index < MSR_X2APIC_FIRST || index > MSR_X2APIC_LAST || !lapic_x2apic(l))
		return false;
	unsigned reg = index - MSR_X2APIC_FIRST;
	if (!x2apic_writable(reg, &allowed) || (val & ~allowed))
		return false;
	if (reg == LAPIC_REG_ICR) {
		l->icr = val;
		lapic_send_ipi(l, val);
		return true;
	}
	if (reg == LAPIC_REG_SELF_IPI) { /* as an ICR write with the self shorthand */
		lapic_send_ipi(l, (val & 0xff) | 1u << 18);
		return true;
	}
	return reg_write(l, reg, (uint32_t)val);
}

/* Life */

/* INIT (and being disabled) leaves the id and IA32_APIC_BASE alone ([SDM3 10.4.7.3]). */
static void lapic_reset(struct lapic *l, bool init) {
	if (!init)
		l->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (l->bsp ? APIC_BASE_BSP : 0);
	l->tpr = 0;
	l->svr = 0xff;
	l->ldr = lapic_x2apic(l) ? l->id >> 4 << 16 | 1u << (l->id & 15) : 0;
	l->dfr = 0xffffffff;
	l->esr = l->esr_pending = 0;
	l->icr = 0;
	l->extint = false;
	for (unsigned n = 0; n < LVT_COUNT; n++)
		l->lvt[n] = LVT_MASKED;
	for (unsigned i = 0; i < 8; i++)
		l->irr[i] = l->isr[i] = l->tmr[i] = 0;
	lapic_timer_reset(l);
	update(l);
}

void lapic_init(struct lapic *l, struct lapic_bus *bus, struct vm_timers *timers,
				const struct lapic_out *out, uint32_t id, bool bsp) {
	check(bus->count < LAPIC_MAX && id < 0xff);
	*l = (struct lapic){.bus = bus, .out = *out, .timers = timers, .id = id, .bsp = bsp};
	lapic_timer_init(l);
	lapic_reset(l, false);
	bus->apic[bus->count++] = l;
}

void lapic_virtual_wire(struct lapic *l) {
	write_svr(l, SVR_ENABLED | 0xff);
	write_lvt(l, LVT_LINT0, LAPIC_EXT << 8);
	write_lvt(l, LVT_LINT1, LAPIC_NMI << 8);
}

static void reset_device(void *self) {
	lapic_reset(self, false);
}

static void sanitize(struct state_io *io, struct lapic *l) {
	if ((l->base & APIC_BASE_EXTD) && !(l->base & APIC_BASE_EN))
		state_fail(io, "IA32_APIC_BASE has EXTD without EN");
	l->tpr &= 0xff;
	l->svr &= SVR_BITS;
	l->ldr = lapic_x2apic(l) ? l->id >> 4 << 16 | 1u << (l->id & 15) : l->ldr & 0xff000000;
	l->dfr |= 0x0fffffff;
	l->esr &= 0xff;
	l->esr_pending &= 0xff;
	l->icr &= (lapic_x2apic(l) ? 0xffffffffull : 0xff000000ull) << 32 | ICR_LOW_BITS;
	for (unsigned n = 0; n < LVT_COUNT; n++) {
		l->lvt[n] &= lvt_bits[n] | LVT_REMOTE_IRR;
		if (!(l->svr & SVR_ENABLED))
			l->lvt[n] |= LVT_MASKED;
		if (!(l->lvt[n] & LVT_LEVEL))
			l->lvt[n] &= ~LVT_REMOTE_IRR;
	}
	l->irr[0] &= 0xffff0000; /* vectors below 16 are never accepted */
	l->isr[0] &= 0xffff0000;
	l->tmr[0] &= 0xffff0000;
}

static void state(struct state_io *io, void *self) {
	struct lapic *l = self;
	state_u64(io, "base", &l->base);
	state_u32(io, "tpr", &l->tpr);
	state_u32(io, "svr", &l->svr);
	state_u32(io, "ldr", &l->ldr);
	state_u32(io, "dfr", &l->dfr);
	state_u32(io, "esr", &l->esr);
	state_u32(io, "esr_pending", &l->esr_pending);
	state_u64(io, "icr", &l->icr);
	for (unsigned n = 0; n < LVT_COUNT; n++)
		state_u32(io, "lvt", &l->lvt[n]);
	for (unsigned i = 0; i < 8; i++) {
		state_u32(io, "irr", &l->irr[i]);
		state_u32(io, "isr", &l->isr[i]);
		state_u32(io, "tmr", &l->tmr[i]);
	}
	state_bool(io, "lint0", &l->lint[0]);
	state_bool(io, "lint1", &l->lint[1]);
	state_bool(io, "extint", &l->extint);
	lapic_timer_state(io, l);
	if (io->loading)
		sanitize(io, l);
}

static void loaded(void *self) {
	struct lapic *l = self;
	if (l->bus->apics) /* the engine takes the registers from here */
		return;
	lapic_timer_loaded(l);
	l->intr = lapic_has_intr(l);
	if (l->out.intr)
		l->out.intr(l->out.opaque, l->intr);
}

const struct device_ops lapic_device_ops = {
	.name = "lapic",
	.version = 1,
	.reset = reset_device,
	.state = state,
	.loaded = loaded,
};
