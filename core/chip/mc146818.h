/* The MC146818 real-time clock with its CMOS memory, 128 bytes (Motorola MC146818
 * data sheet; ICH9 data sheet 13.6 for the index port). */
#ifndef CORE_CHIP_MC146818_H
#define CORE_CHIP_MC146818_H

#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"
#include "core/vm/timer.h"

#define MC146818_CMOS 128

struct mc146818 {
	uint8_t index;
	bool nmi_masked;			 /* bit 7 of port 70h */
	bool muted;					 /* the HPET took irq 8 over */
	uint8_t cmos[MC146818_CMOS]; /* time bytes only while the clock is stopped (SET) */
	/* The guest's time in seconds since 0000-03-01: (wall_ns + frac_ns) / 1e9 + offset_sec. */
	uint64_t offset_sec, frac_ns;
	uint64_t seen_sec;	   /* the second whose update was noted last */
	uint64_t seen_periods; /* and the period of the periodic flag */
	struct vm_timers *timers;
	struct vm_timer periodic, update;
	struct irq_line irq;
};

/* Time is the clock's wall_ns (UTC) until the guest sets its own. */
void mc146818_init(struct mc146818 *r, struct vm_timers *timers, const struct irq_line *irq);

/* Fills the bytes in which firmware leaves the sizes of memory: `low` bytes of RAM from
 * 0 to at most 4 GiB, `high` bytes above 4 GiB. Survives reset. */
void mc146818_set_memory(struct mc146818 *r, uint64_t low, uint64_t high);

/* A CMOS byte outside of the clock (index 0Eh and up). */
void mc146818_set_cmos(struct mc146818 *r, uint8_t index, uint8_t val);

/* While `muted`, irq stays low. Fits irq_line.set: the HPET's legacy replacement. */
void mc146818_mute(void *mc146818, unsigned pin, bool muted);

/* Two ports: 70h index, 71h data. */
extern const struct io_ops mc146818_ops;

extern const struct device_ops mc146818_device_ops;

#endif
