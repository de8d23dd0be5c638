/* The 8254 interval timer, and port 61h which gates its third counter and shows its
 * output (Intel 8254 data sheet, order 231164; ICH9 data sheet 13.3 and 13.7.1). */
#ifndef CORE_CHIP_I8254_H
#define CORE_CHIP_I8254_H

#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"
#include "core/vm/timer.h"

#define I8254_HZ 1193182u

struct i8254_counter {
	uint8_t control; /* as written: access 5:4, mode 3:1, BCD 0 */
	bool gate;
	bool programmed;			/* a control word was written since power-on */
	bool null_count;			/* what was written is not in the counting element yet */
	bool loaded;				/* the counting element holds a count */
	bool armed;					/* one-shots: the output event is still to come */
	bool write_high, read_high; /* which byte of a pair is next */
	bool count_latched, status_latched;
	uint8_t low_byte; /* the first of two written */
	uint8_t latched_status;
	uint16_t latch;
	uint16_t reload;	 /* as written, in the counter's own notation */
	uint32_t count;		 /* the count in the element at `start`: 1..65536 (BCD 10000) */
	uint32_t next_count; /* modes 2 and 3: takes over at the end of the period */
	bool next_pending;
	uint64_t start;	 /* PIT ticks: when `count` was in the element */
	uint64_t frozen; /* ticks that had passed when the gate went low */
	bool running;	 /* counting; else `frozen` stands still */
};

struct i8254 {
	struct i8254_counter counter[3];
	struct vm_timers *timers;
	struct vm_timer timer; /* the next edge of counter 0's output */
	struct irq_line irq;
	bool speaker;	/* port 61 bit 1 */
	bool muted;		/* the HPET took irq 0 over */
	bool out0;		/* the level last given to `irq` */
	uint8_t port61; /* bits 3:2, NMI enables, kept only */
};

/* `irq` is counter 0's output. */
void i8254_init(struct i8254 *t, struct vm_timers *timers, const struct irq_line *irq);

/* While `muted`, irq stays low. Fits irq_line.set: the HPET's legacy replacement. */
void i8254_mute(void *i8254, unsigned pin, bool muted);

/* Register windows, `dev` is the chip: four ports at 40h, one at 61h. */
extern const struct io_ops i8254_ops, i8254_port61_ops;

extern const struct device_ops i8254_device_ops;

#endif
