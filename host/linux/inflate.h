/* Compression for image formats, and what core/block asks of a host besides files. */
#ifndef HOST_LINUX_INFLATE_H
#define HOST_LINUX_INFLATE_H

#include "core/block/block.h"

/* Memory of malloc(), zlib and zstd. Any thread. */
extern const struct block_host host_block;

/* A whole stream of `in`, as qcow2 wants it. Its length, or 0: it has no room in out_len. */
size_t host_deflate(enum block_compression type, void *out, size_t out_len, const void *in,
					size_t in_len);

#endif
