/* Decompression for image formats: what core/block asks of a host besides files. */
#ifndef HOST_LINUX_INFLATE_H
#define HOST_LINUX_INFLATE_H

#include "core/block/block.h"

/* Memory of malloc(), zlib and zstd. Any thread. */
extern const struct block_host host_block;

#endif
