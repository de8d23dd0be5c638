/* Segments of one TCP flow that come one right after the other, made one large frame to be cut
 * again: whoever gets it does its work once instead of forty times. The other way round than
 * frame_segment(), with the same result. Pure. */
#ifndef CORE_NET_MERGE_H
#define CORE_NET_MERGE_H

#include "core/base/frame.h"

/* Appends the payload of `next` to `f`, whose bytes are `data` with room for `size`. false: they do
 * not belong together, nothing has changed. Both checksums have to be known to be right (csum_ok,
 * or a frame that this made). */
bool frame_merge(struct frame *f, uint8_t *data, size_t size, const struct frame *next);

#endif
