/* The local APIC's registers as one image, for an engine that has the APIC itself (core/vm/apic.h).
 * The model stands still then: an image taken over arms no timer and raises no interrupt until a
 * loaded state (lapic_device_ops.loaded) says so.
 *
 * DEVIATION: in x2APIC mode the id stands in bits 31:24 as in xAPIC mode, which is how KVM has it
 * where ids are below 255. Errors not yet shown in ESR and an ExtINT message that waits
 * are not part of the image. */
#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/chip/lapic.h"

static void put(struct apic_image *a, unsigned reg, uint32_t val) {
	le32_put(a->regs + reg * 16, val);
}

static uint32_t get(const struct apic_image *a, unsigned reg) {
	return le32_get(a->regs + reg * 16);
}

void lapic_get_image(struct lapic *l, struct apic_image *a) {
	memset(a, 0, sizeof(*a));
	a->base = l->base;
	a->tsc_deadline = lapic_timer_get_deadline(l);
	put(a, LAPIC_REG_ID, l->id << 24);
	put(a, LAPIC_REG_VERSION, LAPIC_VERSION);
	put(a, LAPIC_REG_TPR, l->tpr);
	put(a, LAPIC_REG_PPR, lapic_ppr(l));
	put(a, LAPIC_REG_LDR, l->ldr);
	put(a, LAPIC_REG_DFR, l->dfr);
	put(a, LAPIC_REG_SVR, l->svr);
	put(a, LAPIC_REG_ESR, l->esr);
	put(a, LAPIC_REG_ICR, (uint32_t)l->icr);
	put(a, LAPIC_REG_ICR_HIGH, (uint32_t)(l->icr >> 32));
	for (unsigned i = 0; i < 8; i++) {
		put(a, LAPIC_REG_ISR + i, l->isr[i]);
		put(a, LAPIC_REG_TMR + i, l->tmr[i]);
		put(a, LAPIC_REG_IRR + i, l->irr[i]);
	}
	for (unsigned n = 0; n < LVT_COUNT; n++)
		put(a, LAPIC_REG_LVT + n, l->lvt[n]);
	put(a, LAPIC_REG_TIMER_INITIAL, l->timer_initial);
	put(a, LAPIC_REG_TIMER_CURRENT, lapic_timer_current(l));
	put(a, LAPIC_REG_TIMER_DIVIDE, l->timer_divide);
}

void lapic_stand_still(struct lapic *l) {
	timer_cancel(&l->timer);
}

void lapic_set_image(struct lapic *l, const struct apic_image *a) {
	l->base = a->base;
	l->tpr = get(a, LAPIC_REG_TPR) & 0xff;
	l->ldr = get(a, LAPIC_REG_LDR);
	l->dfr = get(a, LAPIC_REG_DFR) | 0x0fffffff;
	l->svr = get(a, LAPIC_REG_SVR);
	l->esr = get(a, LAPIC_REG_ESR);
	l->icr = get(a, LAPIC_REG_ICR) | (uint64_t)get(a, LAPIC_REG_ICR_HIGH) << 32;
	for (unsigned i = 0; i < 8; i++) {
		l->isr[i] = get(a, LAPIC_REG_ISR + i);
		l->tmr[i] = get(a, LAPIC_REG_TMR + i);
		l->irr[i] = get(a, LAPIC_REG_IRR + i);
	}
	for (unsigned n = 0; n < LVT_COUNT; n++)
		l->lvt[n] = get(a, LAPIC_REG_LVT + n);
	l->timer_initial = get(a, LAPIC_REG_TIMER_INITIAL);
	l->timer_divide = get(a, LAPIC_REG_TIMER_DIVIDE) & 0xb;
	lapic_timer_set_image(l, a->tsc_deadline, get(a, LAPIC_REG_TIMER_CURRENT));
}
