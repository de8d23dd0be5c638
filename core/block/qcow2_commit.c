/* Commits: what changed in memory goes to the file, for a flush or to make room. Tables do not
 * change meanwhile (who wants to, waits; reads and writes in place go on). The order:
 *
 *   1  new refcount blocks                                            flush, if there are any
 *   2  refcounts, the refcount table, new L2 tables (with the data)   flush
 *   3  L2 tables and L1 entries that point to all that                flush
 *   4  counts of what was pointed to before go down, in memory; the next commit writes them
 *
 * So whatever a table in the file points to is there and counted, at every moment, in whatever
 * order the file system writes between two flushes: entries are 8 bytes and lie in one sector.
 * A cluster is taken again only after step 3 of the commit after which nothing points to it. A
 * power cut costs at most leaks. (A crash between 3 and 4 leaks what was to be freed.)
 *
 * A write that fails leaves its tables dirty, and the next commit tries again: a full disk may
 * get room. A flush that fails is final: nobody knows what the file has. */
#include "core/block/qcow2_int.h"

bool qcow2_frozen(const struct qcow2 *q) {
	return q->commit.state > QC_PLAIN;
}

int qcow2_commit_wait(struct qcow2_task *t) {
	qcow2_list_add(&t->q->commit.waiting, t);
	return Q_WAIT;
}

static void enter(struct qcow2_commit *c, enum qcow2_commit_state state) {
	c->state = state;
	c->sent = c->any = false;
	c->next = 0;
	c->error = 0;
}

static void io_done(struct block_request *r, int error) {
	struct qcow2 *q = r->opaque;
	struct qcow2_commit *c = &q->commit;
	c->busy[r - c->io] = false;
	c->in_work--;
	if (error && !c->error)
		c->error = error;
	qcow2_run(q);
}

static void send(struct qcow2 *q, enum block_op op, uint64_t offset, void *buf, uint64_t len) {
	struct qcow2_commit *c = &q->commit;
	unsigned i = 0;
	while (c->busy[i])
		i++;
	struct block_request *r = &c->io[i];
	c->busy[i] = true;
	c->in_work++;
	r->op = op;
	r->offset = offset;
	r->len = len;
	r->fua = false;
	r->nsegs = 0;
	if (buf)
		block_add_segment(r, buf, len);
	r->done = io_done;
	r->opaque = q;
	block_submit(q->file, r);
}

static bool wanted_now(const struct qcow2 *q, const struct qcow2_table *t) {
	switch (q->commit.state) {
	case QC_BLOCKS:
		return t->hi && t->refcounts && t->fresh;
	case QC_COUNTS:
		return t->hi && (t->refcounts || t->fresh);
	default:
		return t->hi;
	}
}

/* Whole sectors: whoever pulls the plug tears none. */
static void send_part(struct qcow2 *q, uint64_t offset, uint8_t *data, uint64_t lo, uint64_t hi,
					  uint64_t size) {
	lo = align_down(lo, Q_SECTOR);
	hi = MIN(align_up(hi, Q_SECTOR), size);
	send(q, BLOCK_WRITE, offset + lo, data + lo, hi - lo);
}

static void send_table(struct qcow2 *q, struct qcow2_table *t) {
	send_part(q, t->offset, t->data, t->lo, t->hi, q->cluster);
}

/* True when all writes of this state have come back. */
static bool written(struct qcow2 *q) {
	struct qcow2_commit *c = &q->commit;
	if (!c->sent && !c->next) {
		if (c->state == QC_COUNTS && q->reftable_hi) {
			c->any = true;
			send_part(q, q->h.reftable_offset, q->reftable, q->reftable_lo, q->reftable_hi,
					  q->reftable_bytes);
		}
		if (c->state == QC_LINKS && q->l1_hi) {
			c->any = true;
			send_part(q, q->h.l1_offset, q->l1, q->l1_lo, q->l1_hi, q->l1_bytes);
		}
	}
	for (; c->next < q->ntables && c->in_work < Q_WRITES; c->next++) {
		if (!wanted_now(q, &q->tables[c->next]))
			continue;
		c->any = true;
		send_table(q, &q->tables[c->next]);
	}
	c->sent = c->next == q->ntables;
	return c->sent && !c->in_work;
}

static void mark_clean(struct qcow2 *q) {
	for (unsigned i = 0; i < q->ntables; i++) {
		struct qcow2_table *t = &q->tables[i];
		if (!wanted_now(q, t))
			continue;
		t->lo = t->hi = 0;
		t->fresh = false;
	}
	if (q->commit.state == QC_COUNTS)
		q->reftable_lo = q->reftable_hi = 0;
	if (q->commit.state == QC_LINKS)
		q->l1_lo = q->l1_hi = 0;
}

static void answer(struct qcow2 *q, int error) {
	struct qcow2_task *t;
	while ((t = qcow2_list_take(&q->commit.running)) != NULL) {
		t->error = error;
		qcow2_ready(q, t);
	}
}

static void finish(struct qcow2 *q, int error) {
	struct qcow2_task *t;
	answer(q, error);
	q->commit.result = error;
	enter(&q->commit, QC_IDLE);
	while ((t = qcow2_list_take(&q->thaw)) != NULL) {
		t->error = error;
		qcow2_ready(q, t);
	}
}

/* One flush: true when it has come back. */
static bool flushed(struct qcow2 *q) {
	struct qcow2_commit *c = &q->commit;
	if (!c->sent) {
		c->sent = true;
		send(q, BLOCK_FLUSH, 0, NULL, 0);
	}
	if (c->in_work)
		return false;
	if (c->error)
		q->broken = c->error;
	return true;
}

static bool links_left(const struct qcow2 *q) {
	for (unsigned i = 0; i < q->ntables; i++)
		if (q->tables[i].hi)
			return true;
	return q->l1_hi;
}

/* Counts down one cluster after the other, from the end. 0: all are free. */
static int free_some(struct qcow2 *q) {
	struct qcow2_commit *c = &q->commit;
	while (q->nfrees || c->gone_count) {
		struct qcow2_free *f = q->nfrees ? &q->frees[q->nfrees - 1] : NULL;
		bool gone;
		if (c->in_work)
			return Q_WAIT;
		if (c->gone_count && (!f || f->cluster + f->count != c->gone)) {
			uint64_t n = c->gone_count;
			c->gone_count = 0;
			send(q, BLOCK_DISCARD, c->gone << q->cluster_bits, NULL, n << q->cluster_bits);
			continue;
		}
		int r = qcow2_unref(q, f->cluster + f->count - 1, &gone);
		if (r == Q_MISS && q->broken) {
			q->nfrees = 0; /* it could not be read */
			continue;
		}
		if (r == Q_MISS && !q->loading) {
			qcow2_table_load(q, NULL);
			if (!q->loading) /* a file that completes at once */
				continue;
		}
		if (r > 0)
			return r == Q_MISS ? Q_WAIT : r;
		f->count--;
		if (r == 0 && gone && q->discard) {
			c->gone = f->cluster + f->count;
			c->gone_count++;
		}
		if (!f->count)
			q->nfrees--;
	}
	return c->in_work ? Q_WAIT : 0;
}

static void begin(struct qcow2 *q) {
	struct qcow2_commit *c = &q->commit;
	c->wanted = false;
	c->running = c->waiting;
	c->waiting = (struct qcow2_list){NULL, NULL};
	if (q->broken)
		finish(q, q->broken);
	else
		enter(c, qcow2_dirty(q) ? QC_BLOCKS : QC_PLAIN);
}

/* Moves on as far as it goes. False: it waits. */
static bool advance(struct qcow2 *q) {
	struct qcow2_commit *c = &q->commit;
	int r;
	switch (c->state) {
	case QC_IDLE:
		if (!c->waiting.first && !c->wanted)
			return false;
		begin(q);
		return true;
	case QC_PLAIN:
		if (!flushed(q))
			return false;
		finish(q, c->error);
		return true;
	case QC_BLOCKS:
	case QC_COUNTS:
	case QC_LINKS:
		if (!written(q))
			return false;
		if (c->error) {
			finish(q, c->error);
			return true;
		}
		mark_clean(q);
		/* Step 1 is rare. Step 2's flush is for the data, too. */
		enter(c, c->state == QC_BLOCKS && !c->any ? QC_COUNTS : c->state + 1);
		return true;
	case QC_BLOCKS_FLUSH:
	case QC_COUNTS_FLUSH:
	case QC_LINKS_FLUSH:
		if (!flushed(q))
			return false;
		if (c->error) {
			finish(q, c->error);
			return true;
		}
		enter(c, c->state == QC_COUNTS_FLUSH && !links_left(q) ? QC_FREES : c->state + 1);
		if (c->state == QC_FREES)
			answer(q, 0);
		return true;
	case QC_FREES:
		r = free_some(q);
		if (r == Q_WAIT)
			return false;
		if (r == Q_COMMIT)
			enter(c, QC_BLOCKS); /* so many blocks changed that they must be written first */
		else
			finish(q, 0);
		return true;
	}
	unreachable();
}

void qcow2_commit_run(struct qcow2 *q) {
	while (advance(q)) {
	}
}

int qcow2_commit_sync(struct qcow2 *q) {
	int r = q->broken;
	/* The second time for the counts that went down. */
	for (unsigned i = 0; !r && i < 3 && qcow2_dirty(q); i++) {
		q->commit.wanted = true;
		qcow2_run(q);
		check(q->commit.state == QC_IDLE);
		r = q->commit.result;
	}
	return r;
}
