/* Writing. Clusters that are this disk's alone are written in place. For all others new ones
 * are taken, what surrounds the data in them is read (from the old cluster, a compressed one or
 * the backing image), all is written, and only when that is done does the table say so: whoever
 * pulls the plug in between sees the old contents and a leak.
 *
 * Zeroes and discards change the table only, but for parts of clusters, and for version 2,
 * which cannot say "zero". */
#include "core/block/qcow2_int.h"

static void release_bounce(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	if (!t->bounce)
		return;
	q->bounces[q->bounces_free++] = t->bounce;
	t->bounce = NULL;
	struct qcow2_task *w = qcow2_list_take(&q->bounce_wait);
	if (w)
		qcow2_ready(q, w);
}

/* Gets the surroundings' bytes: `len` at guest offset `at`, to `to` in the bounce buffer. */
static void surround(struct qcow2_task *t, uint64_t at, uint64_t len, uint64_t to) {
	t->around.nsegs = 0;
	block_add_segment(&t->around, t->bounce + to, len);
	t->span = (struct qcow2_span){.to = &t->around, .offset = at, .len = len};
}

/* What comes next, in place or not; ends with the phase that follows. */
static int plan(struct qcow2_task *t, uint64_t len) {
	struct qcow2 *q = t->q;
	struct qcow2_extent x;
	uint64_t offset = t->r->offset + t->pos, in = offset & (q->cluster - 1);
	/* Zeroes come from one cluster of them; else as much as one step may change. */
	len = MIN(len, (t->zeroes ? q->cluster : Q_PIECE << q->cluster_bits) - in);
	int r = t->error ? t->error : q->broken;
	if (!r)
		r = qcow2_map(q, offset, len, &x);
	if (r)
		return r;
	t->piece = x.run;
	if (x.kind == Q_IS_DATA && x.copied) {
		t->nclusters = 0;
		t->host = x.host;
		t->head = t->tail = 0;
		t->phase = QP_ALLOC;
		return 0;
	}
	r = qcow2_exclusive(t);
	if (r)
		return r;
	t->head = in;
	t->tail = -(offset + t->piece) & (q->cluster - 1);
	t->surrounded =
		(t->head || t->tail) && !qcow2_reads_zero(q, &x, align_down(offset, q->cluster));
	if (t->surrounded && !t->bounce) {
		if (!q->bounces_free) {
			qcow2_list_add(&q->bounce_wait, t);
			return Q_WAIT;
		}
		t->bounce = q->bounces[--q->bounces_free];
	}
	t->nclusters = (t->head + t->piece + t->tail) >> q->cluster_bits;
	t->phase = QP_ALLOC;
	if (t->surrounded) {
		t->phase = QP_HEAD;
		surround(t, offset - in, t->head, 0);
	}
	return 0;
}

static int read_head(struct qcow2_task *t) {
	int r = qcow2_read_span(t);
	if (r)
		return r;
	uint64_t after = t->r->offset + t->pos + t->piece;
	/* The disk may end in this cluster. */
	uint64_t n = after < t->q->h.info.size ? MIN(t->tail, t->q->h.info.size - after) : 0;
	memset(t->bounce + t->q->cluster, 0, t->tail);
	surround(t, after, n, t->q->cluster);
	t->phase = QP_TAIL;
	return 0;
}

static void add_data(struct qcow2_task *t) {
	if (t->zeroes)
		block_add_segment(&t->io, t->q->zeroes, t->piece);
	else
		block_slice(&t->io, t->r, t->pos, t->piece);
}

static int write_in_place(struct qcow2_task *t) {
	t->io.nsegs = 0;
	add_data(t);
	t->phase = QP_DATA;
	return qcow2_io(t, t->q->file, BLOCK_WRITE, t->host, t->piece);
}

static int write_new(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	struct qcow2_table *l2;
	uint64_t got;
	int r = t->error ? t->error : q->broken;
	if (!r && qcow2_frozen(q))
		r = Q_COMMIT;
	if (!r) /* now, so that nothing but I/O can fail once the data is written */
		r = qcow2_l2_for_write(q, t->r->offset + t->pos, &l2);
	if (!r)
		r = qcow2_alloc(q, t->nclusters, &t->host, &got);
	if (r)
		return r;
	if (got < t->nclusters) {
		t->nclusters = got;
		t->piece = (got << q->cluster_bits) - t->head;
		t->tail = 0;
	}
	/* Past the end of the file all is zero. */
	bool fresh = t->host >= q->end && !t->surrounded;
	q->end = MAX(q->end, t->host + (got << q->cluster_bits));
	t->io.nsegs = 0;
	if (t->head && !fresh)
		block_add_segment(&t->io, t->surrounded ? t->bounce : q->zeroes, t->head);
	add_data(t);
	if (t->tail && !fresh)
		block_add_segment(&t->io, t->surrounded ? t->bounce + q->cluster : q->zeroes, t->tail);
	t->phase = QP_DATA;
	uint64_t skip = fresh ? t->head : 0;
	return qcow2_io(t, q->file, BLOCK_WRITE, t->host + skip,
					fresh ? t->piece : t->head + t->piece + t->tail);
}

static int link(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	struct qcow2_table *l2;
	uint64_t offset = t->r->offset + t->pos, index = qcow2_l2_index(q, offset);
	int r = t->error ? t->error : q->broken;
	if (!r && (qcow2_frozen(q) || !qcow2_free_room(q, 2 * Q_PIECE + 1)))
		r = Q_COMMIT;
	if (!r)
		r = qcow2_l2_for_write(q, offset, &l2);
	if (r)
		return r;
	for (uint64_t i = 0; i < t->nclusters; i++)
		qcow2_l2_set(q, l2, index + i, (t->host + (i << q->cluster_bits)) | Q_COPIED);
	return 0;
}

/* Gives back what was taken for a piece that failed. A damaged image is left as it is. */
static int give_back(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	int r = q->broken || t->error ? 0 : qcow2_frozen(q) ? Q_COMMIT : 0;
	if (!r && !q->broken && !t->error)
		r = qcow2_unalloc(q, t->host, t->nclusters);
	return r > 0 ? r : t->failed;
}

static void piece_done(struct qcow2_task *t) {
	t->pos += t->piece;
	t->nclusters = 0;
	t->phase = QP_MAP;
	release_bounce(t);
}

/* Writes one piece of up to `len` bytes at t->pos, and moves that on. 0: it is done. */
static int write_piece(struct qcow2_task *t, uint64_t len) {
	int r = 0;
	for (;;) {
		switch (t->phase) {
		case QP_MAP:
			r = plan(t, len);
			break;
		case QP_HEAD:
			r = read_head(t);
			break;
		case QP_TAIL:
			r = qcow2_read_span(t);
			if (!r)
				t->phase = QP_ALLOC;
			break;
		case QP_ALLOC:
			r = t->nclusters ? write_new(t) : write_in_place(t);
			break;
		case QP_DATA:
			r = t->error;
			t->error = 0;
			if (!r && t->nclusters) {
				t->phase = QP_LINK;
			} else if (!r) {
				piece_done(t);
				return 0;
			} else if (t->nclusters) {
				t->failed = r;
				t->phase = QP_FREE;
				r = 0;
			}
			break;
		case QP_LINK:
			r = link(t);
			if (!r) {
				piece_done(t);
				return 0;
			}
			if (r < 0) {
				t->failed = r;
				t->error = 0;
				t->phase = QP_FREE;
				r = 0;
			}
			break;
		case QP_FREE:
			r = give_back(t);
			break;
		}
		if (r < 0)
			release_bounce(t);
		if (r)
			return r;
	}
}

int qcow2_write_step(struct qcow2_task *t) {
	if (t->want_commit)
		return t->error;
	while (t->pos < t->r->len) {
		int r = write_piece(t, t->r->len - t->pos);
		if (r)
			return r;
	}
	if (!t->r->fua)
		return 0;
	t->want_commit = true;
	return qcow2_commit_wait(t);
}

/* What whole clusters of this kind become: true, and the entry; false: they stay. */
static bool cleared(const struct qcow2_task *t, const struct qcow2_extent *x, uint64_t offset,
					uint64_t *entry, bool *write) {
	const struct qcow2 *q = t->q;
	bool under = q->backing && offset < q->backing->size;
	bool zeroes = t->r->op == BLOCK_ZEROES;
	*write = false;
	*entry = under ? Q_ZERO : 0;
	if (x->kind == Q_IS_ZERO || (x->kind == Q_IS_ABSENT && !(zeroes && under)))
		return false;
	if (q->h.info.version >= 3 || !under)
		return true;
	*write = zeroes;
	return false;
}

static int clear_clusters(struct qcow2_task *t, uint64_t offset, uint64_t n, uint64_t entry) {
	struct qcow2 *q = t->q;
	struct qcow2_table *l2;
	int r = t->error ? t->error : q->broken;
	if (!r && (qcow2_frozen(q) || !qcow2_free_room(q, 2 * Q_PIECE + 1)))
		r = Q_COMMIT;
	if (!r)
		r = qcow2_l2_for_write(q, offset, &l2);
	for (uint64_t i = 0; !r && i < n; i++)
		qcow2_l2_set(q, l2, qcow2_l2_index(q, offset) + i, entry);
	return r;
}

/* One stretch at t->pos. */
static int clear_some(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	struct qcow2_extent x;
	uint64_t offset = t->r->offset + t->pos, left = t->r->len - t->pos, entry;
	uint64_t in = offset & (q->cluster - 1);
	bool last = offset + left == q->h.info.size; /* what is behind it does not exist */
	bool whole = !in && (left >= q->cluster || last), write;
	uint64_t len =
		whole ? (last ? left : align_down(left, q->cluster)) : MIN(left, q->cluster - in);
	int r = t->error ? t->error : q->broken;
	if (!r)
		r = qcow2_map(q, offset, MIN(len, Q_PIECE << q->cluster_bits), &x);
	if (r)
		return r;
	if (whole && cleared(t, &x, offset, &entry, &write)) {
		r = clear_clusters(t, offset, (x.run + q->cluster - 1) >> q->cluster_bits, entry);
		if (r)
			return r;
	} else if (whole ? write : t->r->op == BLOCK_ZEROES && !qcow2_reads_zero(q, &x, offset)) {
		t->zeroes = true;
		return write_piece(t, x.run);
	}
	t->pos += x.run;
	return 0;
}

int qcow2_clear_step(struct qcow2_task *t) {
	int r = 0;
	while (!r && t->pos < t->r->len)
		r = t->phase == QP_MAP ? clear_some(t) : write_piece(t, 0);
	return r;
}
