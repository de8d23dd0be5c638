/* Does in software what a frame still needs: see core/base/frame.h. Pure. */
#ifndef CORE_NET_OFFLOAD_H
#define CORE_NET_OFFLOAD_H

#include "core/base/frame.h"

/* Judges what came with a frame: its length, a checksum's place inside of it, segments whose
 * kind, headers and checksum agree with what it is. false: not to be sent. */
bool frame_valid(const struct frame *f);

/* Completes the checksum in place (`data` are the frame's bytes, writable). Of a frame to be
 * cut, it becomes that of the whole, as if it were one large packet. */
void frame_complete(struct frame *f, uint8_t *data);

/* Gives the segments of a valid frame with `gso` to `emit`, one by one in `buf`, complete with
 * checksums. `buf` has FRAME_MAX bytes and is not the frame's. */
void frame_segment(const struct frame *f, uint8_t *buf,
				   void (*emit)(void *opaque, const struct frame *segment), void *opaque);

#endif
