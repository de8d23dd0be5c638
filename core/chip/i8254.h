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
	bool loaded;	   /* a count was written since the control word, and triggered if need be */
	bool running;	   /* counts since `start`; else stands still at `frozen` */
	bool waiting;	   /* a count was written that the next trigger loads */
	bool next_pending; /* modes 2, 3: `reload` takes over at `switch_at` */
	bool low_half;	   /* mode 3: the half that began at `start` has the output low */
	bool out_before;   /* the output until `start` */
	bool write_high, read_high; /* which byte of a pair comes next */
	bool count_latched, status_latched;
	uint8_t low_byte; /* the first of two written */
	uint8_t latched_status;
	uint16_t latch;
	uint32_t reload; /* the count written last: 1..65536; 0: none yet */
	uint32_t count;	 /* what the element held at `start` */
	/* All in ticks of I8254_HZ since the VM's clock was 0. */
	uint64_t start, switch_at, frozen;
};

struct i8254 {
	struct i8254_counter counter[3];
	struct vm_timers *timers;
	struct vm_timer timer; /* the next edge of counter 0's output */
	struct irq_line irq;
	bool muted;			   /* the HPET took irq 0 over */
	bool out0;			   /* counter 0's output as last seen */
	uint8_t port61;		   /* speaker and NMI enables, as written */
	uint64_t last_edge_ns; /* when the timer ran last */
	uint64_t due_ns;	   /* its deadline, in saved state only */
};

/* `irq` is counter 0's output. */
void i8254_init(struct i8254 *t, struct vm_timers *timers, const struct irq_line *irq);

/* While `muted`, irq stays low. Fits irq_line.set: the HPET's legacy replacement. */
void i8254_mute(void *i8254, unsigned pin, bool muted);

/* Register windows, `dev` is the chip: four ports at 40h, one at 61h. */
extern const struct io_ops i8254_ops, i8254_port61_ops;

extern const struct device_ops i8254_device_ops;

#endif
