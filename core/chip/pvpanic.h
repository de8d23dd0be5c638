/* The panic notifier that guests know by its ACPI id QEMU0001: one port through which
 * a dying kernel says so. Stateless. */
#ifndef CORE_CHIP_PVPANIC_H
#define CORE_CHIP_PVPANIC_H

#include "core/vm/io.h"

#define PVPANIC_PORT 0x505
#define PVPANIC_PANICKED 1u
#define PVPANIC_CRASH_LOADED 2u /* a crash kernel takes over: the machine goes on */

struct pvpanic {
	void (*event)(void *opaque, uint8_t events); /* PVPANIC_*, at least one; may be NULL */
	void *opaque;
};

void pvpanic_init(struct pvpanic *p, void (*event)(void *opaque, uint8_t events), void *opaque);

/* One port. */
extern const struct io_ops pvpanic_ops;

#endif
