/* The panic notifier, as Linux's driver pvpanic knows it: reading gives the events that
 * the host wants to hear of, writing sets those that happened.
 *
 * Called with the VM lock held, for any vCPU. */
#include "core/chip/pvpanic.h"

#define EVENTS (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

void pvpanic_init(struct pvpanic *p, void (*event)(void *opaque, uint8_t events), void *opaque) {
	*p = (struct pvpanic){event, opaque};
}

static uint64_t port_in(void *dev, uint64_t off, unsigned size) {
	return EVENTS;
}

static void port_out(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct pvpanic *p = dev;
	if ((val & EVENTS) && p->event)
		p->event(p->opaque, (uint8_t)(val & EVENTS));
}

const struct io_ops pvpanic_ops = {port_in, port_out, 1, 1};
