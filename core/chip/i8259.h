/* The pair of 8259A interrupt controllers of a PC, with the edge/level registers of
 * the chipsets that hold it (Intel 8259A data sheet, order 231468; ICH9 data sheet
 * 13.4 for ELCR). */
#ifndef CORE_CHIP_I8259_H
#define CORE_CHIP_I8259_H

#include "core/vm/apic.h"
#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"

#define I8259_PINS 16

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

/* For an engine that has the pair itself (core/vm/apic.h): the model keeps the levels of its pins
 * and does nothing with them; true: it was another one. And registers that come back from there:
 * all but the levels. */
bool i8259_note_pin(struct i8259 *p, unsigned pin, bool level);
void i8259_set_image(struct i8259 *p, const struct i8259_chip image[2]);

/* Register windows; `dev` is the pair. Two ports each: 20h, A0h, 4D0h. */
extern const struct io_ops i8259_master_ops, i8259_slave_ops, i8259_elcr_ops;

extern const struct device_ops i8259_device_ops;

#endif
