/* The high precision event timer block (IA-PC HPET specification 1.0a): a 64-bit
 * counter at 100 MHz and three comparators. */
#ifndef CORE_CHIP_HPET_H
#define CORE_CHIP_HPET_H

#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"
#include "core/vm/timer.h"

#define HPET_TIMERS 3
#define HPET_SIZE 0x400u
#define HPET_TICK_NS 10u
/* The low half of the capability register, as the ACPI table repeats it: vendor 8086,
 * legacy replacement, 64-bit counter, three timers, revision 1. */
#define HPET_ID 0x8086a201u

struct hpet_out {
	struct irq_line
		gsi;		 /* `pin` is replaced by the pin of the I/O APIC that a timer is routed to */
	uint32_t routes; /* the pins that timers may be routed to */
	struct irq_line irq0, irq8;			/* outputs of timers 0 and 1 with legacy replacement */
	struct irq_line mute_pit, mute_rtc; /* high while legacy replacement is on */
};

struct hpet_timer {
	uint64_t config; /* the writable bits */
	uint64_t compare, period;
	uint64_t last_ns; /* VM clock of the last match */
	uint64_t next_ns; /* VM clock of the next one, or TIMER_NEVER */
	uint64_t due_ns;  /* the same, in saved state only */
	struct vm_timer timer;
	struct hpet *hpet;
};

struct hpet {
	struct hpet_out out;
	struct vm_timers *timers;
	uint64_t config, status;
	uint64_t counter;  /* at start_ns; the value while halted */
	uint64_t start_ns; /* VM clock when the counter began to run */
	struct hpet_timer timer[HPET_TIMERS];
};

void hpet_init(struct hpet *h, struct vm_timers *timers, const struct hpet_out *out);

/* HPET_SIZE bytes of memory. */
extern const struct io_ops hpet_ops;

extern const struct device_ops hpet_device_ops;

#endif
