/* What the machine needs to know of any device: its name, how to reset it, and
 * how to walk its state. Everything else a device gets at creation. */
#ifndef CORE_VM_DEVICE_H
#define CORE_VM_DEVICE_H

#include "core/vm/state.h"

struct device_ops {
	const char *name;								/* the section's name in saved state */
	unsigned version;								/* of the fields; starts at 1 */
	void (*reset)(void *self);						/* power-on and machine reset */
	void (*state)(struct state_io *io, void *self); /* both ways */
	void (*loaded)(
		void *self); /* after all devices are loaded: re-arm timers, lines; may be NULL */
};

struct device {
	const struct device_ops *ops;
	unsigned instance;
	void *self;
};

#endif
