/* The pair of 8259A interrupt controllers (Intel 8259A data sheet, order 231468),
 * with ELCR ports 4D0h/4D1h (ICH9 data sheet 13.4.3).
 *
 * Left out: buffered mode, MCS-80 call sequences (vectors are 8086 style whatever ICW4
 * says), and single mode: the cascade of a PC is wired for good, ICW3 is only kept.
 *
 * DEVIATION: an edge stays latched when its line falls before the acknowledge; real
 * chips drop it and may answer with the spurious vector. Devices here may pulse.
 * The cascade pin follows the slave's output, as a level.
 *
 * Called with the VM lock held: ports for any vCPU, pins by devices, i8259_intack by the
 * board for the vCPU whose LINT0 the output drives. */
#include "core/chip/i8259.h"

#include "core/base/bits.h"

#define CASCADE 2
#define SPURIOUS 7

#define ICW1_MARK 0x10u
#define ICW1_IC4 0x01u
#define ICW1_SNGL 0x02u
#define ICW1_LTIM 0x08u
#define ICW4_AEOI 0x02u
#define ICW4_SFNM 0x10u
#define OCW3_MARK 0x08u
#define OCW3_POLL 0x04u

/* Pins that ELCR can make level-triggered: not the timer, keyboard, cascade, RTC, FPU. */
static const uint8_t elcr_mask[2] = {0xf8, 0xde};

static uint8_t level_pins(const struct i8259_chip *c) {
	return c->icw1 & ICW1_LTIM ? 0xff : c->elcr;
}

/* 0 is the highest. */
static unsigned priority(const struct i8259_chip *c, unsigned pin) {
	return (pin - c->lowest - 1) & 7;
}

/* The pin of highest priority in the set, or -1. */
static int first_pin(const struct i8259_chip *c, uint8_t set) {
	for (unsigned i = 1; set && i <= 8; i++) {
		unsigned pin = (c->lowest + i) & 7;
		if (set >> pin & 1)
			return (int)pin;
	}
	return -1;
}

/* The pin that the chip asks for with its INT output, or -1. */
static int request(const struct i8259_chip *c, bool master) {
	int pin = c->init_step ? -1 : first_pin(c, c->irr & (uint8_t)~c->imr);
	if (pin < 0)
		return -1;
	/* In special mask mode a masked level in service holds nobody off [8259A p.15]. */
	int busy = first_pin(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
	if (busy < 0 || priority(c, (unsigned)pin) < priority(c, (unsigned)busy))
		return pin;
	/* Special fully nested: the slave may interrupt its own service [8259A p.17]. */
	if (master && (c->icw4 & ICW4_SFNM) && pin == CASCADE && busy == CASCADE)
		return pin;
	return -1;
}

static void set_pin(struct i8259_chip *c, unsigned pin, bool level, bool follow) {
	uint8_t bit = (uint8_t)(1u << pin);
	bool rose = level && !(c->lines & bit);
	c->lines = level ? c->lines | bit : c->lines & (uint8_t)~bit;
	if (follow || (level_pins(c) & bit))
		c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
	else if (rose)
		c->irr |= bit;
}

static void update(struct i8259 *p) {
	set_pin(&p->chip[0], CASCADE, request(&p->chip[1], false) >= 0, true);
	irq_set(&p->intr, request(&p->chip[0], true) >= 0);
}

void i8259_set_irq(void *opaque, unsigned pin, bool level) {
	struct i8259 *p = opaque;
	if (pin >= I8259_PINS || pin == CASCADE)
		return;
	set_pin(&p->chip[pin >> 3], pin & 7, level, false);
	update(p);
}

static void serve(struct i8259_chip *c, unsigned pin) {
	uint8_t bit = (uint8_t)(1u << pin);
	if (!(level_pins(c) & bit))
		c->irr &= (uint8_t)~bit;
	if (!(c->icw4 & ICW4_AEOI))
		c->isr |= bit;
	else if (c->rotate_on_aeoi)
		c->lowest = (uint8_t)pin;
}

int i8259_intack(struct i8259 *p) {
	struct i8259_chip *c = &p->chip[0];
	int pin = request(c, true);
	if (pin >= 0)
		serve(c, (unsigned)pin);
	if (pin == CASCADE) {
		c = &p->chip[1];
		pin = request(c, false);
		if (pin >= 0)
			serve(c, (unsigned)pin);
	}
	update(p);
	return c->base | (pin >= 0 ? pin : SPURIOUS);
}

static uint8_t poll(struct i8259 *p, unsigned n) {
	struct i8259_chip *c = &p->chip[n];
	int pin = request(c, n == 0);
	c->poll = false;
	if (pin < 0)
		return SPURIOUS;
	serve(c, (unsigned)pin);
	update(p);
	return (uint8_t)(0x80 | pin);
}

static void start_init(struct i8259_chip *c, uint8_t icw1) {
	c->icw1 = icw1;
	c->init_step = 2;
	c->imr = c->isr = 0;
	/* Edges need a new transition; levels are still there [8259A p.10]. */
	c->irr = c->lines & level_pins(c);
	c->lowest = 7;
	c->read_isr = 0;
	c->poll = c->special_mask = c->rotate_on_aeoi = false;
	c->icw4 = 0;
}

static void write_ocw2(struct i8259_chip *c, uint8_t val) {
	unsigned level = val & 7;
	/* A non-specific EOI does not see what special mask mode hides [8259A p.15]. */
	int top = first_pin(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
	switch (val >> 5) {
	case 0:
		c->rotate_on_aeoi = false;
		break;
	case 4:
		c->rotate_on_aeoi = true;
		break;
	case 1: /* non-specific EOI, */
	case 5: /* and rotate */
		if (top < 0)
			break;
		c->isr &= (uint8_t) ~(1u << top);
		if (val >> 5 == 5)
			c->lowest = (uint8_t)top;
		break;
	case 7: /* specific EOI and rotate, */
		c->lowest = (uint8_t)level;
		/* fallthrough */
	case 3: /* or without */
		c->isr &= (uint8_t) ~(1u << level);
		break;
	case 6:
		c->lowest = (uint8_t)level;
		break;
	default:
		break;
	}
}

static void write_ocw3(struct i8259_chip *c, uint8_t val) {
	if (val & OCW3_POLL)
		c->poll = true;
	else if (val & 2)
		c->read_isr = val & 1;
	if (val & 0x40)
		c->special_mask = val & 0x20;
}

static void write_data(struct i8259_chip *c, uint8_t val) {
	switch (c->init_step) {
	case 2:
		c->base = val & 0xf8;
		c->init_step = c->icw1 & ICW1_SNGL ? (c->icw1 & ICW1_IC4 ? 4 : 0) : 3;
		break;
	case 3:
		c->icw3 = val;
		c->init_step = c->icw1 & ICW1_IC4 ? 4 : 0;
		break;
	case 4:
		c->icw4 = val & 0x1f;
		c->init_step = 0;
		break;
	default:
		c->imr = val;
		break;
	}
}

static uint64_t chip_read(struct i8259 *p, unsigned n, uint64_t off) {
	struct i8259_chip *c = &p->chip[n];
	if (c->poll)
		return poll(p, n);
	if (off)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static void chip_write(struct i8259 *p, unsigned n, uint64_t off, uint8_t val) {
	struct i8259_chip *c = &p->chip[n];
	if (off)
		write_data(c, val);
	else if (val & ICW1_MARK)
		start_init(c, val);
	else if (val & OCW3_MARK)
		write_ocw3(c, val);
	else
		write_ocw2(c, val);
	update(p);
}

static uint64_t master_read(void *dev, uint64_t off, unsigned size) {
	return chip_read(dev, 0, off);
}

static void master_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	chip_write(dev, 0, off, (uint8_t)val);
}

static uint64_t slave_read(void *dev, uint64_t off, unsigned size) {
	return chip_read(dev, 1, off);
}

static void slave_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	chip_write(dev, 1, off, (uint8_t)val);
}

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size) {
	return ((struct i8259 *)dev)->chip[off & 1].elcr;
}

static void elcr_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct i8259 *p = dev;
	struct i8259_chip *c = &p->chip[off & 1];
	uint8_t old = level_pins(c);
	c->elcr = (uint8_t)val & elcr_mask[off & 1];
	/* A pin that becomes level-triggered shows its level. */
	uint8_t turned = level_pins(c) & (uint8_t)~old;
	c->irr = (uint8_t)((c->irr & ~turned) | (c->lines & turned));
	update(p);
}

bool i8259_note_pin(struct i8259 *p, unsigned pin, bool level) {
	if (pin >= I8259_PINS || pin == CASCADE)
		return false;
	struct i8259_chip *c = &p->chip[pin >> 3];
	uint8_t before = c->lines, bit = (uint8_t)(1u << (pin & 7));
	c->lines = level ? c->lines | bit : c->lines & (uint8_t)~bit;
	return c->lines != before;
}

/* What follows from other fields, whoever wrote them. */
static void settle(struct i8259_chip *c, unsigned n) {
	c->elcr &= elcr_mask[n];
	c->base &= 0xf8;
	c->icw4 &= 0x1f;
	c->lowest &= 7;
	c->read_isr &= 1;
	uint8_t level = level_pins(c);
	c->irr = (uint8_t)((c->irr & ~level) | (c->lines & level));
}

void i8259_set_image(struct i8259 *p, const struct i8259_chip image[2]) {
	for (unsigned n = 0; n < 2; n++) {
		uint8_t lines = p->chip[n].lines;
		p->chip[n] = image[n];
		p->chip[n].lines = lines;
		settle(&p->chip[n], n);
	}
	update(p);
}

const struct io_ops i8259_master_ops = {master_read, master_write, 1, 1};
const struct io_ops i8259_slave_ops = {slave_read, slave_write, 1, 1};
const struct io_ops i8259_elcr_ops = {elcr_read, elcr_write, 1, 1};

/* The data sheet has no power-on values: nothing works before ICW1. Everything masked is
 * what does no harm. The lines keep their levels: their drivers are reset on their own. */
static void reset(void *self) {
	struct i8259 *p = self;
	for (unsigned n = 0; n < 2; n++)
		p->chip[n] = (struct i8259_chip){.imr = 0xff, .lowest = 7, .lines = p->chip[n].lines};
	update(p);
}

void i8259_init(struct i8259 *p, const struct irq_line *intr) {
	*p = (struct i8259){.intr = *intr};
	reset(p);
}

static void chip_state(struct state_io *io, struct i8259_chip *c, unsigned n) {
	state_u8(io, "irr", &c->irr);
	state_u8(io, "isr", &c->isr);
	state_u8(io, "imr", &c->imr);
	state_u8(io, "lines", &c->lines);
	state_u8(io, "elcr", &c->elcr);
	state_u8(io, "icw1", &c->icw1);
	state_u8(io, "base", &c->base);
	state_u8(io, "icw3", &c->icw3);
	state_u8(io, "icw4", &c->icw4);
	state_u8(io, "init_step", &c->init_step);
	state_u8(io, "lowest", &c->lowest);
	state_u8(io, "read_isr", &c->read_isr);
	state_bool(io, "poll", &c->poll);
	state_bool(io, "special_mask", &c->special_mask);
	state_bool(io, "rotate_on_aeoi", &c->rotate_on_aeoi);
	if (!io->loading)
		return;
	if (c->init_step == 1 || c->init_step > 4)
		state_fail(io, "no such step of initialization");
	c->init_step &= 7;
	settle(c, n);
}

static void state(struct state_io *io, void *self) {
	struct i8259 *p = self;
	for (unsigned n = 0; n < 2; n++)
		chip_state(io, &p->chip[n], n);
}

static void loaded(void *self) {
	update(self);
}

const struct device_ops i8259_device_ops = {
	.name = "i8259",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
