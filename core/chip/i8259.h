/* The pair of 8259A interrupt controllers of a PC, with the edge/level registers of
 * the chipsets that hold it (Intel 8259A data sheet, order 231468; ICH9 data sheet
 * 13.4 for ELCR). */
#ifndef CORE_CHIP_I8259_H
#define CORE_CHIP_I8259_H

#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"

#define I8259_PINS 16

struct i8259_chip {
	uint8_t irr, isr, imr;
	uint8_t lines; /* levels of the pins */
	uint8_t elcr;  /* 1: this pin is level-triggered */
	uint8_t icw1, base, icw3, icw4;
	uint8_t init_step; /* the ICW that comes next: 2..4; 0: none */
	uint8_t lowest;	   /* the pin with the lowest priority */
	uint8_t read_isr;  /* what a read of the command port gives: 0 IRR, 1 ISR */
	bool poll;		   /* the next read is a poll */
	bool special_mask; /* ESMM/SMM */
	bool rotate_on_aeoi;
};

struct i8259 {
	struct i8259_chip chip[2]; /* master, slave on the master's pin 2 */
	struct irq_line intr;
};

/* `intr` is the master's INT output. */
void i8259_init(struct i8259 *p, const struct irq_line *intr);

/* An input; the type fits irq_line.set. Pins 0..7 are the master's, 8..15 the slave's;
 * pin 2 is the cascade and is ignored. */
void i8259_set_irq(void *pair, unsigned pin, bool level);

/* The acknowledge cycle: always a vector, the spurious one if nothing is pending. */
int i8259_intack(struct i8259 *p);

/* Register windows; `dev` is the pair. Two ports each: 20h, A0h, 4D0h. */
extern const struct io_ops i8259_master_ops, i8259_slave_ops, i8259_elcr_ops;

extern const struct device_ops i8259_device_ops;

#endif
