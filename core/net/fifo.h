/* Frames that wait, in one piece of memory, first in first out. Each lies in one piece; what
 * is empty starts at the beginning again, so a queue that is mostly empty touches few pages.
 * No lock inside. */
#ifndef CORE_NET_FIFO_H
#define CORE_NET_FIFO_H

#include "core/base/frame.h"

#define FIFO_NO_ROOM SIZE_MAX
#define FIFO_SIZE_MIN (2 * (FRAME_MAX + 128u))

struct frame_fifo {
	uint8_t *buf;
	size_t size;
	size_t head, tail;	 /* the first frame, and where the next one goes */
	size_t end;			 /* of what is used at the top, when the tail is below the head */
	size_t last;		 /* the one that was appended last */
	size_t room;		 /* that fifo_room() has promised, or FIFO_NO_ROOM */
	size_t count, bytes; /* frames, and the bytes of all of them */
};

/* `buf` is the caller's, aligned to 16, and has at least FIFO_SIZE_MIN bytes. */
void fifo_init(struct frame_fifo *q, uint8_t *buf, size_t size);

/* Where the next frame may be written, FRAME_MAX bytes, or NULL: full. The place stays the
 * same until fifo_commit(), whatever is taken out meanwhile. */
uint8_t *fifo_room(struct frame_fifo *q);

/* Appends a frame whose bytes are where fifo_room() said. */
void fifo_commit(struct frame_fifo *q, const struct frame *f);

/* Nothing comes to where fifo_room() said after all. */
void fifo_refuse(struct frame_fifo *q);

/* Copies a frame; false: full. */
bool fifo_push(struct frame_fifo *q, const struct frame *f);

/* The last frame and how large it may become; false: none, or a place behind it is promised. */
bool fifo_last(const struct frame_fifo *q, struct frame *f, size_t *size);
/* It has grown where it is, and is `f` now. */
void fifo_grow(struct frame_fifo *q, const struct frame *f);

/* The first frame, which stays until fifo_pop(); false: empty. Its bytes may be changed. */
bool fifo_peek(const struct frame_fifo *q, struct frame *f);
void fifo_pop(struct frame_fifo *q);

#endif
