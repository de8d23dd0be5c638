/* See fifo.h. A frame is a struct frame and its bytes behind it, rounded up. */
#include "core/net/fifo.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/string.h"

#define HEAD align_up(sizeof(struct frame), 16)
#define NEED (HEAD + FRAME_MAX)

static size_t length(const struct frame *f) {
	return (size_t)align_up(HEAD + f->len, 16);
}

void fifo_init(struct frame_fifo *q, uint8_t *buf, size_t size) {
	check(size >= FIFO_SIZE_MIN && !((uintptr_t)buf & 15));
	*q =
		(struct frame_fifo){.buf = buf, .size = (size_t)align_down(size, 16), .room = FIFO_NO_ROOM};
}

/* The place of the next frame, or FIFO_NO_ROOM. */
static size_t place(const struct frame_fifo *q) {
	if (q->count && q->tail <= q->head)
		return q->head - q->tail >= NEED ? q->tail : FIFO_NO_ROOM;
	if (q->size - q->tail >= NEED)
		return q->tail;
	return q->head >= NEED ? 0 : FIFO_NO_ROOM;
}

uint8_t *fifo_room(struct frame_fifo *q) {
	if (q->room == FIFO_NO_ROOM)
		q->room = place(q);
	return q->room == FIFO_NO_ROOM ? NULL : q->buf + q->room + HEAD;
}

void fifo_commit(struct frame_fifo *q, const struct frame *f) {
	size_t at = q->room;
	check(at != FIFO_NO_ROOM && f->data == q->buf + at + HEAD && f->len <= FRAME_MAX);
	if (at < q->tail)
		q->end = q->tail; /* it goes on at the bottom */
	q->room = FIFO_NO_ROOM;
	memcpy(q->buf + at, f, sizeof(*f));
	q->last = at;
	q->tail = at + length(f);
	q->count++;
	q->bytes += f->len;
}

void fifo_refuse(struct frame_fifo *q) {
	q->room = FIFO_NO_ROOM;
}

bool fifo_push(struct frame_fifo *q, const struct frame *f) {
	uint8_t *room = fifo_room(q);
	struct frame copy = *f;
	if (!room)
		return false;
	memcpy(room, f->data, f->len);
	copy.data = room;
	fifo_commit(q, &copy);
	return true;
}

bool fifo_last(const struct frame_fifo *q, struct frame *f, size_t *size) {
	if (!q->count || q->room != FIFO_NO_ROOM)
		return false;
	memcpy(f, q->buf + q->last, sizeof(*f));
	*size = (q->tail <= q->head ? q->head : q->size) - q->last - HEAD;
	return true;
}

void fifo_grow(struct frame_fifo *q, const struct frame *f) {
	struct frame was;
	size_t size;
	check(fifo_last(q, &was, &size) && f->data == was.data && f->len >= was.len && f->len <= size);
	memcpy(q->buf + q->last, f, sizeof(*f));
	q->tail = q->last + length(f);
	q->bytes += f->len - was.len;
}

bool fifo_peek(const struct frame_fifo *q, struct frame *f) {
	if (!q->count)
		return false;
	memcpy(f, q->buf + q->head, sizeof(*f));
	return true;
}

void fifo_pop(struct frame_fifo *q) {
	struct frame f;
	check(fifo_peek(q, &f));
	q->bytes -= f.len;
	if (!--q->count) {
		q->head = q->tail = q->room == FIFO_NO_ROOM ? 0 : q->room;
		q->end = 0;
		return;
	}
	q->head += length(&f);
	if (q->end && q->head == q->end)
		q->head = q->end = 0;
}
