/* Reading: piece by piece, each of one kind. Also what surrounds a small write into a cluster
 * that has to be copied. */
#include "core/block/qcow2_int.h"

static void fill(struct qcow2_task *t, const void *from, uint64_t len) {
	block_fill(t->span.to, t->span.base + t->span.pos, from, len);
	t->span.pos += len;
}

static int read_from(struct qcow2_task *t, struct block *b, uint64_t offset, uint64_t len) {
	t->io.nsegs = 0;
	block_slice(&t->io, t->span.to, t->span.base + t->span.pos, len);
	t->io_len = len;
	return qcow2_io(t, b, BLOCK_READ, offset, len);
}

static int read_absent(struct qcow2_task *t, uint64_t offset, uint64_t run) {
	struct block *backing = t->q->backing;
	if (!backing || offset >= backing->size) {
		fill(t, NULL, run);
		return 0;
	}
	return read_from(t, backing, offset, MIN(run, backing->size - offset));
}

/* The compressed bytes are here, or could not be had. */
static int unpack(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	int r = t->error;
	t->error = 0;
	if (!r)
		r = q->host->inflate(q->host->opaque, q->h.info.compression, q->packed_out, q->cluster,
							 q->packed_in, t->io.len);
	q->packed_host = r ? 0 : t->io.offset;
	q->packed_busy = t->unpacking = false;
	qcow2_ready_all(q, &q->packed_wait);
	return r;
}

static int read_packed(struct qcow2_task *t, const struct qcow2_extent *x, uint64_t offset) {
	struct qcow2 *q = t->q;
	if (q->packed_busy) {
		qcow2_list_add(&q->packed_wait, t);
		return Q_WAIT;
	}
	if (q->packed_host == x->host) {
		fill(t, q->packed_out + (offset & (q->cluster - 1)), x->run);
		return 0;
	}
	q->packed_busy = t->unpacking = true;
	q->packed_host = 0;
	t->io.nsegs = 0;
	block_add_segment(&t->io, q->packed_in, x->packed);
	return qcow2_io(t, q->file, BLOCK_READ, x->host, x->packed);
}

int qcow2_read_span(struct qcow2_task *t) {
	struct qcow2_span *s = &t->span;
	int r = t->unpacking ? unpack(t) : t->error;
	t->error = 0;
	if (!r)
		s->pos += t->io_len;
	t->io_len = 0;
	while (!r && s->pos < s->len) {
		struct qcow2_extent x;
		uint64_t offset = s->offset + s->pos;
		r = qcow2_map(t->q, offset, s->len - s->pos, &x);
		if (r)
			break;
		switch (x.kind) {
		case Q_IS_ABSENT:
			r = read_absent(t, offset, x.run);
			break;
		case Q_IS_ZERO:
			fill(t, NULL, x.run);
			break;
		case Q_IS_DATA:
			r = read_from(t, t->q->file, x.host, x.run);
			break;
		case Q_IS_PACKED:
			r = read_packed(t, &x, offset);
			break;
		}
	}
	return r;
}

int qcow2_read_step(struct qcow2_task *t) {
	return qcow2_read_span(t);
}
