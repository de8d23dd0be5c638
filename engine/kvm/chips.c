/* The 8259 pair and the I/O APIC in the kernel, tier "kernel" ([KVM api.rst] KVM_CREATE_IRQCHIP).
 *
 * Each pin is a GSI of its own: 0..15 the 8259s', from 16 on the I/O APIC's. A board wires one
 * device to both, or PCI's router to one of them, and has the levels; so KVM's own table, in which
 * an ISA irq is one GSI with two ends, is not used.
 *
 * The 8254 stays the board's: KVM's would be another one for saved state, mute it the HPET could
 * not, and it has ticks to re-inject, which the guests of today do not need. A tick costs one
 * ioctl, and kernels leave it for the local APIC's timer as soon as they can.
 *
 * DEVIATION: KVM's 8259s know no ICW1 with level-triggered mode for all pins; its I/O APIC is
 * version 11h, without EOI register. A guest that is moved while it runs may remember the other
 * version; Linux looks at it only when it clears a stuck pin. */
#include <errno.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "engine/kvm/kvm.h"

#define PIC_PINS 16
#define CASCADE_GSI 2
#define ICW1_IC4 BIT(0)
#define ICW4_AEOI BIT(1)
#define ICW4_SFNM BIT(4)

_Static_assert(IOAPIC_PINS == KVM_IOAPIC_NUM_PINS, "the same chip");

/* Pins that ELCR can make level-triggered. */
static const uint8_t elcr_mask[2] = {0xf8, 0xde};

static void set_gsi(struct kvm_engine *e, unsigned gsi, bool level) {
	struct kvm_irq_level l = {.irq = gsi, .level = level};
	e->pins++;
	if (kvm_ioctl(e->fd, KVM_IRQ_LINE, &l) < 0)
		log_line(LOG_ERROR, "KVM refuses interrupt line %u: %s", gsi, strerror(errno));
}

static void pic_pin(void *opaque, unsigned pin, bool level) {
	set_gsi(opaque, pin, level);
}

static void ioapic_pin(void *opaque, unsigned pin, bool level) {
	set_gsi(opaque, PIC_PINS + pin, level);
}

unsigned kvm_chip_routes(struct kvm_irq_routing_entry out[KVM_CHIP_GSIS]) {
	unsigned n = 0;
	for (unsigned gsi = 0; gsi < KVM_CHIP_GSIS; gsi++) {
		if (gsi == CASCADE_GSI)
			continue;
		struct kvm_irq_routing_entry *r = &out[n++];
		*r = (struct kvm_irq_routing_entry){.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP};
		r->u.irqchip.irqchip = gsi >= PIC_PINS ? KVM_IRQCHIP_IOAPIC
							   : gsi >= 8	   ? KVM_IRQCHIP_PIC_SLAVE
											   : KVM_IRQCHIP_PIC_MASTER;
		r->u.irqchip.pin = gsi >= PIC_PINS ? gsi - PIC_PINS : gsi & 7;
	}
	return n;
}

int kvm_chips_create(struct kvm_engine *e, struct err *err) {
	if (kvm_ioctl_val(e->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_set(err, errno,
					   "KVM has no interrupt controllers to give (%s): use --engine kvm,split or "
					   "kvm,off",
					   strerror(errno));
	if (kvm_set_routes(e) < 0)
		return err_set(err, errno, "KVM refuses the board's interrupt lines: %s", strerror(errno));
	e->apics.pic_pin = pic_pin;
	e->apics.ioapic_pin = ioapic_pin;
	return 0;
}

/* ---- state ------------------------------------------------------------------------------- */

static struct kvm_pic_state pic_to_kvm(const struct i8259_chip *c, unsigned n) {
	return (struct kvm_pic_state){
		.last_irr = c->lines,
		.irr = c->irr,
		.imr = c->imr,
		.isr = c->isr,
		.priority_add = (c->lowest + 1) & 7,
		.irq_base = c->base,
		.read_reg_select = c->read_isr,
		.poll = c->poll,
		.special_mask = c->special_mask,
		.init_state = c->init_step ? c->init_step - 1 : 0,
		.auto_eoi = !!(c->icw4 & ICW4_AEOI),
		.rotate_on_auto_eoi = c->rotate_on_aeoi,
		.special_fully_nested_mode = !!(c->icw4 & ICW4_SFNM),
		.init4 = c->icw1 & ICW1_IC4,
		.elcr = c->elcr,
		.elcr_mask = elcr_mask[n],
	};
}

/* What KVM does not keep of the ICWs stays as it was. */
static void pic_from_kvm(struct i8259_chip *c, const struct kvm_pic_state *k) {
	c->irr = k->irr;
	c->imr = k->imr;
	c->isr = k->isr;
	c->elcr = k->elcr;
	c->icw1 = (uint8_t)((c->icw1 & ~ICW1_IC4) | (k->init4 ? ICW1_IC4 : 0));
	c->base = k->irq_base;
	c->icw4 = (uint8_t)((c->icw4 & ~(ICW4_AEOI | ICW4_SFNM)) | (k->auto_eoi ? ICW4_AEOI : 0) |
						(k->special_fully_nested_mode ? ICW4_SFNM : 0));
	c->init_step = k->init_state ? (k->init_state & 3) + 1 : 0;
	c->lowest = (k->priority_add - 1) & 7;
	c->read_isr = k->read_reg_select & 1;
	c->poll = k->poll;
	c->special_mask = k->special_mask;
	c->rotate_on_aeoi = k->rotate_on_auto_eoi;
}

static bool level_triggered(uint64_t redir) {
	return redir & BIT(15);
}

static bool failed(struct kvm_cpu *c, const char *what) {
	kvm_report(c, "KVM does not %s its 8259s or I/O APIC: %s", what, strerror(errno));
	return false;
}

bool kvm_push_chips(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	struct chips_image image;
	struct kvm_irqchip k;
	e->vm->board_apics->get_chips(e->vm->board, &image);
	for (unsigned n = 0; n < 2; n++) {
		k = (struct kvm_irqchip){.chip_id = n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER};
		k.chip.pic = pic_to_kvm(&image.pic[n], n);
		if (kvm_ioctl(e->fd, KVM_SET_IRQCHIP, &k) < 0)
			return failed(c, "take the state of");
	}
	k = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_IOAPIC};
	k.chip.ioapic.base_address = KVM_IOAPIC_BASE;
	k.chip.ioapic.ioregsel = image.ioapic.select;
	k.chip.ioapic.id = image.ioapic.id;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		k.chip.ioapic.redirtbl[pin].bits = image.ioapic.redir[pin];
		/* What stands here is sent; an edge was, when it came. */
		if ((image.ioapic.pins >> pin & 1) && level_triggered(image.ioapic.redir[pin]))
			k.chip.ioapic.irr |= 1u << pin;
	}
	return kvm_ioctl(e->fd, KVM_SET_IRQCHIP, &k) >= 0 || failed(c, "take the state of");
}

bool kvm_fetch_chips(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	struct chips_image image;
	struct kvm_irqchip k;
	e->vm->board_apics->get_chips(e->vm->board, &image);
	for (unsigned n = 0; n < 2; n++) {
		k = (struct kvm_irqchip){.chip_id = n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER};
		if (kvm_ioctl(e->fd, KVM_GET_IRQCHIP, &k) < 0)
			return failed(c, "tell the state of");
		pic_from_kvm(&image.pic[n], &k.chip.pic);
	}
	k = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_IOAPIC};
	if (kvm_ioctl(e->fd, KVM_GET_IRQCHIP, &k) < 0)
		return failed(c, "tell the state of");
	image.ioapic.select = (uint8_t)k.chip.ioapic.ioregsel;
	image.ioapic.id = (uint8_t)k.chip.ioapic.id;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		image.ioapic.redir[pin] = k.chip.ioapic.redirtbl[pin].bits;
	e->vm->board_apics->set_chips(e->vm->board, &image);
	return true;
}
