/* One interrupt wire. A chip drives the lines it was given and knows nothing of
 * what is behind them; only a board connects the two ends. */
#ifndef CORE_VM_IRQ_H
#define CORE_VM_IRQ_H

#include "core/base/types.h"

/* Called with the VM lock held. `level` is the state of the wire, active = true;
 * repeated calls with the same level are allowed and mean nothing new. */
typedef void irq_set_fn(void *opaque, unsigned pin, bool level);

struct irq_line {
	irq_set_fn *set; /* NULL: not connected */
	void *opaque;
	unsigned pin;
};

static inline void irq_set(const struct irq_line *line, bool level) {
	if (line->set)
		line->set(line->opaque, line->pin, level);
}

/* An edge: up and down again. */
static inline void irq_pulse(const struct irq_line *line) {
	irq_set(line, true);
	irq_set(line, false);
}

/* Where message-signalled interrupts go (a write of `data` to `addr`, [SDM3 11.11]). */
struct msi_sink {
	void (*send)(void *opaque, gpa_t addr, uint32_t data);
	void *opaque;
	/* Waits for those that are on their way: a source that was masked sends nothing afterwards.
	 * NULL: send() delivers at once. */
	void (*settle)(void *opaque);
};

static inline void msi_send(const struct msi_sink *sink, gpa_t addr, uint32_t data) {
	if (sink->send)
		sink->send(sink->opaque, addr, data);
}

static inline void msi_settle(const struct msi_sink *sink) {
	if (sink->settle)
		sink->settle(sink->opaque);
}

#endif
