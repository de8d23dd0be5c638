/* What a chip offers to the bus: a range with reads and writes relative to its
 * start. The same ops serve ports (size 1, 2, 4) and memory (size 1, 2, 4, 8). */
#ifndef CORE_VM_IO_H
#define CORE_VM_IO_H

#include "core/base/types.h"

/* `off` is within the range and so is off + size - 1. Called with the VM lock held.
 * A read returns its value in the low `size` bytes; the rest is ignored. */
struct io_ops {
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t val);
	/* Sizes that the chip takes as they are; accesses of other sizes are split or
	 * widened for it. 0 in both: every size. */
	uint8_t min_size, max_size;
};

#endif
