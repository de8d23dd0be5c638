/* The 16550A serial port (National Semiconductor PC16550D data sheet). */
#ifndef CORE_CHIP_NS16550_H
#define CORE_CHIP_NS16550_H

#include "core/vm/backend.h"
#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"
#include "core/vm/timer.h"

#define NS16550_FIFO 16

struct ns16550 {
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint8_t lsr_errors; /* OE PE FE BI, until LSR is read */
	uint16_t divisor;
	uint8_t rx[NS16550_FIFO], tx[NS16550_FIFO];
	uint8_t rx_head, rx_len, tx_len;
	bool thre_pending;	/* the THRE interrupt was not acknowledged yet */
	bool timeout;		/* characters wait below the trigger level for four times */
	bool input_refused; /* the back end was told "full" */
	struct vm_timers *timers;
	struct vm_timer rx_timer;
	struct irq_line irq;
	struct char_backend out;
};

/* `out.write` may be NULL: then bytes vanish. */
void ns16550_init(struct ns16550 *u, struct vm_timers *timers, const struct irq_line *irq,
				  const struct char_backend *out);

/* What the port offers to its back end. */
struct char_device ns16550_char_device(struct ns16550 *u);

/* Eight ports. */
extern const struct io_ops ns16550_ops;

extern const struct device_ops ns16550_device_ops;

#endif
