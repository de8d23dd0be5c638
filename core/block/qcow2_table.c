/* The cache of L2 tables and refcount blocks: whole clusters, thrown out least recently used
 * first, except for those that differ from the file. */
#include "core/block/qcow2_int.h"

/* Kept free for what one step needs together: an L2 table and the refcount blocks of two
 * allocations. */
#define SPARE 4

static bool loose(const struct qcow2 *q, const struct qcow2_table *t) {
	return !t->hi && t != q->loading;
}

int qcow2_table_room(struct qcow2 *q, unsigned n) {
	unsigned have = 0;
	for (unsigned i = 0; i < q->ntables && have < n + SPARE; i++)
		have += loose(q, &q->tables[i]);
	return have < n + SPARE ? Q_COMMIT : 0;
}

static struct qcow2_table *find(struct qcow2 *q, uint64_t offset) {
	for (unsigned i = 0; i < q->ntables; i++)
		if (q->tables[i].offset == offset && &q->tables[i] != q->loading)
			return &q->tables[i];
	return NULL;
}

static struct qcow2_table *take(struct qcow2 *q) {
	struct qcow2_table *best = NULL;
	for (unsigned i = 0; i < q->ntables; i++) {
		struct qcow2_table *t = &q->tables[i];
		if (!t->offset && t != q->loading)
			return t;
		if (loose(q, t) && (!best || t->stamp < best->stamp))
			best = t;
	}
	check(best); /* see qcow2_table_room() */
	return best;
}

int qcow2_table_get(struct qcow2 *q, uint64_t offset, bool refcounts, struct qcow2_table **out) {
	if (!offset || offset % q->cluster || offset >= q->end)
		return qcow2_bad(q, refcounts ? "a refcount block lies at" : "an L2 table lies at", offset);
	struct qcow2_table *t = find(q, offset);
	if (!t) {
		q->miss = offset;
		q->miss_refcounts = refcounts;
		return qcow2_table_room(q, 1) ? Q_COMMIT : Q_MISS;
	}
	if (t->refcounts != refcounts)
		return qcow2_bad(q, "an L2 table is a refcount block, too, at", offset);
	t->stamp = ++q->clock;
	*out = t;
	return 0;
}

static struct qcow2_table *prepare(struct qcow2 *q, uint64_t offset, bool refcounts) {
	struct qcow2_table *t = take(q);
	t->offset = offset;
	t->stamp = ++q->clock;
	t->lo = t->hi = 0;
	t->refcounts = refcounts;
	t->fresh = false;
	return t;
}

struct qcow2_table *qcow2_table_make(struct qcow2 *q, uint64_t offset, bool refcounts) {
	qcow2_table_forget(q, offset);
	struct qcow2_table *t = prepare(q, offset, refcounts);
	memset(t->data, 0, q->cluster);
	t->fresh = true;
	qcow2_table_dirty(t, 0, q->cluster);
	return t;
}

/* Its cluster is something else now. */
void qcow2_table_forget(struct qcow2 *q, uint64_t offset) {
	struct qcow2_table *t = find(q, offset);
	if (t) {
		t->offset = 0;
		t->lo = t->hi = 0;
	}
}

void qcow2_table_dirty(struct qcow2_table *t, uint64_t at, uint64_t len) {
	t->lo = t->hi ? (uint32_t)MIN(t->lo, at) : (uint32_t)at;
	t->hi = (uint32_t)MAX(t->hi, at + len);
}

static void loaded(struct block_request *r, int error) {
	struct qcow2 *q = r->opaque;
	struct qcow2_table *t = q->loading;
	q->loading = NULL;
	if (error)
		t->offset = 0;
	if (q->load_for)
		q->load_for->error = error;
	else if (error)
		q->broken = error; /* what a commit wanted to free stays, as a leak */
	if (q->owner)
		qcow2_ready(q, q->owner);
	qcow2_run(q);
}

void qcow2_table_load(struct qcow2 *q, struct qcow2_task *owner) {
	check(!q->loading);
	q->load_for = owner;
	struct qcow2_table *t = prepare(q, q->miss, q->miss_refcounts);
	q->loading = t;
	q->load.op = BLOCK_READ;
	q->load.offset = q->miss;
	q->load.len = q->cluster;
	q->load.nsegs = 0;
	q->load.fua = false;
	block_add_segment(&q->load, t->data, q->cluster);
	q->load.done = loaded;
	q->load.opaque = q;
	block_submit(q->file, &q->load);
}

int qcow2_load_sync(struct qcow2 *q) {
	struct qcow2_table *t = prepare(q, q->miss, q->miss_refcounts);
	int r = block_read_sync(q->file, t->offset, t->data, q->cluster);
	if (r)
		t->offset = 0;
	return r;
}

bool qcow2_dirty(const struct qcow2 *q) {
	if (q->nfrees || q->l1_hi || q->reftable_hi)
		return true;
	for (unsigned i = 0; i < q->ntables; i++)
		if (q->tables[i].hi)
			return true;
	return false;
}
