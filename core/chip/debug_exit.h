/* Two ports for test guests: one that ends the test with a value, one that takes
 * characters. Not a chip of any PC; a board has them only in test mode. */
#ifndef CORE_CHIP_DEBUG_EXIT_H
#define CORE_CHIP_DEBUG_EXIT_H

#include "core/vm/backend.h"
#include "core/vm/io.h"

struct debug_exit {
	void (*done)(void *opaque, uint32_t value); /* may be NULL */
	void *opaque;
	struct char_backend out; /* write may be NULL */
};

void debug_exit_init(struct debug_exit *d, void (*done)(void *opaque, uint32_t value), void *opaque,
					 const struct char_backend *out);

/* Four ports, at F4h by custom: a write of any size calls `done`. */
extern const struct io_ops debug_exit_ops;

/* One port, E9h by custom: writes go to `out`, reads give E9h. */
extern const struct io_ops debug_char_ops;

#endif
