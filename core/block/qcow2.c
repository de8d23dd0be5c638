/* Opening and closing qcow2 images. */
#include "core/block/qcow2_int.h"

static void *take(struct qcow2 *q, size_t size, bool *ok) {
	void *p = *ok ? q->host->alloc(q->host->opaque, size) : NULL;
	*ok = p;
	return p;
}

static void give(struct qcow2 *q, void *p, size_t size) {
	if (p)
		q->host->free(q->host->opaque, p, size);
}

static void destroy(struct qcow2 *q) {
	for (unsigned i = 0; q->tables && i < q->ntables; i++)
		give(q, q->tables[i].data, q->cluster);
	/* All of them are back in the list. */
	for (unsigned i = 0; q->bounces && i < q->nbounces; i++)
		give(q, q->bounces[i], 2 * q->cluster);
	give(q, q->tables, q->ntables * sizeof(*q->tables));
	give(q, q->bounces, q->nbounces * sizeof(*q->bounces));
	give(q, q->l1, MAX(q->l1_bytes, Q_SECTOR));
	give(q, q->reftable, q->reftable_bytes);
	give(q, q->zeroes, q->cluster);
	give(q, q->packed_in, q->packed_in_size);
	give(q, q->packed_out, q->cluster);
	give(q, q, sizeof(*q));
}

static unsigned clamp(uint64_t v, unsigned lo, unsigned hi) {
	return v < lo ? lo : v > hi ? hi : (unsigned)v;
}

static int take_memory(struct qcow2 *q) {
	bool ok = true;
	/* Not more than there can be. */
	uint64_t want = q->h.l1_entries + (qcow2_clusters_max(q) >> q->refblock_bits) + Q_CACHE_MIN;
	q->ntables = clamp(MIN(Q_CACHE_BYTES / q->cluster, want), Q_CACHE_MIN, Q_CACHE_MAX);
	q->nbounces = clamp(Q_BOUNCE_BYTES / (2 * q->cluster), 2, 16);
	q->packed_in_size = 2 * q->cluster;
	q->tables = take(q, q->ntables * sizeof(*q->tables), &ok);
	q->bounces = take(q, q->nbounces * sizeof(*q->bounces), &ok);
	for (unsigned i = 0; ok && i < q->ntables; i++)
		q->tables[i].data = take(q, q->cluster, &ok);
	for (unsigned i = 0; ok && i < q->nbounces; i++)
		q->bounces[i] = take(q, 2 * q->cluster, &ok);
	q->bounces_free = q->nbounces;
	q->l1 = take(q, MAX(q->l1_bytes, Q_SECTOR), &ok);
	q->reftable = take(q, q->reftable_bytes, &ok);
	q->zeroes = take(q, q->cluster, &ok);
	q->packed_in = take(q, q->packed_in_size, &ok);
	q->packed_out = take(q, q->cluster, &ok);
	return ok ? 0 : -ERR_NOMEM;
}

static int read_header(struct block *file, const struct block_host *host, struct qcow2_header *h,
					   struct err *e) {
	size_t len = (size_t)MIN(file->size, (uint64_t)Q_HEADER_MAX);
	uint8_t *buf = host->alloc(host->opaque, Q_HEADER_MAX);
	if (!buf)
		return err_set(e, ERR_NOMEM, "no memory for an image's header");
	int r = block_read_sync(file, 0, buf, len);
	if (r)
		block_fail(e, r, "the image cannot be read");
	else
		r = qcow2_header_parse(h, buf, len, file->size, e);
	host->free(host->opaque, buf, Q_HEADER_MAX);
	return r;
}

/* Without these counted as used, the first write could land on a table. */
static int judge_counts(struct qcow2 *q, struct err *e) {
	const uint64_t at[] = {0, q->h.l1_offset, q->h.reftable_offset};
	const uint64_t len[] = {1, q->l1_bytes, q->reftable_bytes};
	for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
		for (uint64_t o = 0; o < len[i]; o += q->cluster) {
			uint64_t val;
			int r;
			QCOW2_SYNC(q, r, qcow2_refcount_of(q, (at[i] + o) >> q->cluster_bits, &val));
			if (r || !val)
				return err_set(
					e, ERR_IO,
					"the image's reference counts are wrong, writing to it would destroy "
					"it; repair it with `joist disk check --repair`");
		}
	}
	return 0;
}

static int prepare_writing(struct qcow2 *q, bool check_only, struct err *e) {
	struct qcow2_check_result c;
	int r = 0;
	if (check_only)
		return 0;
	if (q->h.info.corrupt)
		return err_set(e, ERR_IO,
					   "the image is marked as corrupt; try `joist disk check --repair`, or use it "
					   "read-only");
	if (q->h.info.dirty) {
		log_line(LOG_WARN, "qcow2: the image was not closed; its reference counts are rebuilt");
		r = qcow2_check_run(q, true, &c, e);
		if (!r && c.corruptions)
			r = err_set(e, ERR_IO,
						"the image was not closed and is damaged; see `joist disk check`");
	}
	if (!r)
		r = judge_counts(q, e);
	if (!r && q->h.autoclear) {
		q->h.autoclear = 0;
		r = qcow2_header_update(q, e);
	}
	return r ? r : qcow2_grow_reftable(q, e);
}

static int load(struct qcow2 *q, const struct qcow2_open_options *o, struct err *e) {
	int r = take_memory(q);
	if (r)
		return err_set(e, ERR_NOMEM, "no memory for the image's tables");
	for (unsigned i = 0; i < Q_TASKS; i++) {
		q->tasks[i].q = q;
		qcow2_list_add(&q->free_tasks, &q->tasks[i]);
	}
	q->queue_last = &q->queue;
	r = block_read_sync(q->file, q->h.l1_offset, q->l1, q->l1_bytes);
	if (!r)
		r = block_read_sync(q->file, q->h.reftable_offset, q->reftable, q->reftable_bytes);
	if (r)
		return block_fail(e, r, "the image's tables cannot be read");
	return q->read_only ? 0 : prepare_writing(q, o->check, e);
}

static int map(void *self, uint64_t offset, uint64_t len, uint64_t *run, enum block_state *state) {
	struct qcow2 *q = self;
	struct qcow2_extent x;
	int r;
	QCOW2_SYNC(q, r, qcow2_map(q, offset, len, &x));
	if (r)
		return r < 0 ? r : -ERR_IO;
	*run = x.run;
	*state = x.kind == Q_IS_ABSENT ? BLOCK_ABSENT
			 : x.kind == Q_IS_ZERO ? BLOCK_IS_ZERO
								   : BLOCK_IS_DATA;
	return 0;
}

static int close(void *self) {
	struct qcow2 *q = self;
	int r = 0;
	if (!q->read_only) {
		r = qcow2_commit_sync(q);
		if (!r)
			r = block_flush_sync(q->file);
	}
	destroy(q);
	return r;
}

static const struct block_ops ops = {"qcow2", qcow2_submit, map, close};

int qcow2_open(struct block *out, struct block *file, const struct block_host *host,
			   const struct qcow2_open_options *o, struct err *e) {
	struct qcow2_header h;
	int r = read_header(file, host, &h, e);
	if (r)
		return r;
	struct qcow2 *q = host->alloc(host->opaque, sizeof(*q));
	if (!q)
		return err_set(e, ERR_NOMEM, "no memory for an image");
	q->h = h;
	q->host = host;
	q->file = file;
	q->backing = o->backing;
	q->read_only = o->read_only;
	q->discard = o->discard;
	q->cluster_bits = h.info.cluster_bits;
	q->cluster = BIT(q->cluster_bits);
	q->l2_bits = q->cluster_bits - 3;
	q->refblock_bits = q->cluster_bits + 3 - h.info.refcount_order;
	q->csize_shift = 62 - (q->cluster_bits - 8);
	q->csize_mask = BIT(q->cluster_bits - 8) - 1;
	q->l1_bytes = (uint64_t)h.l1_entries * 8;
	q->reftable_bytes = (uint64_t)h.reftable_clusters << q->cluster_bits;
	q->end = file->size;
	r = load(q, o, e);
	if (r) {
		destroy(q);
		return r;
	}
	*out = (struct block){.ops = &ops, .self = q, .size = h.info.size, .read_only = o->read_only};
	q->gate = out;
	return 0;
}

int qcow2_read_info(struct block *file, struct qcow2_info *info, struct err *e) {
	uint8_t buf[4096]; /* what is behind it is at most another extension's business */
	struct qcow2_header h;
	size_t len = (size_t)MIN(file->size, sizeof(buf));
	int r = block_read_sync(file, 0, buf, len);
	if (r)
		return block_fail(e, r, "the image cannot be read");
	r = qcow2_header_parse(&h, buf, len, file->size, e);
	*info = h.info;
	return r;
}

const struct qcow2_info *qcow2_get_info(const struct block *image) {
	check(qcow2_is(image));
	return &((const struct qcow2 *)image->self)->h.info;
}

bool qcow2_is(const struct block *b) {
	return b->ops == &ops;
}
