/* Reference counts ([QCOW2 "Host cluster management"]): who takes clusters and gives them back.
 * Counts change in memory; qcow2_commit.c writes them. */
#include "core/block/qcow2_int.h"

uint64_t qcow2_refcount_get(unsigned order, const uint8_t *block, uint64_t i) {
	if (order < 3) {
		unsigned width = 1u << order, per = 8u >> order;
		return block[i / per] >> (i % per * width) & ((1u << width) - 1);
	}
	const uint8_t *p = block + (i << (order - 3));
	switch (order) {
	case 3:
		return *p;
	case 4:
		return be16_get(p);
	case 5:
		return be32_get(p);
	default:
		return be64_get(p);
	}
}

void qcow2_refcount_put(unsigned order, uint8_t *block, uint64_t i, uint64_t val) {
	if (order < 3) {
		unsigned width = 1u << order, per = 8u >> order, shift = (unsigned)(i % per) * width;
		uint8_t mask = (uint8_t)(((1u << width) - 1) << shift);
		block[i / per] = (uint8_t)((block[i / per] & ~mask) | (val << shift & mask));
		return;
	}
	uint8_t *p = block + (i << (order - 3));
	for (unsigned n = 1u << (order - 3); n-- > 0; val >>= 8)
		p[n] = (uint8_t)val;
}

static void put(struct qcow2 *q, struct qcow2_table *t, uint64_t index, uint64_t val) {
	unsigned order = q->h.info.refcount_order;
	qcow2_refcount_put(order, t->data, index, val);
	qcow2_table_dirty(t, index << order >> 3, MAX(1u, 1u << order >> 3));
}

static uint64_t block_of(const struct qcow2 *q, uint64_t n) {
	return n < q->reftable_bytes / 8 ? be64_get(q->reftable + n * 8) & ~511ull : 0;
}

/* A range of clusters without a block is free altogether; its block goes into its first one,
 * and so counts itself. */
static int make_block(struct qcow2 *q, uint64_t n, struct qcow2_table **out) {
	if (n >= q->reftable_bytes / 8)
		return -ERR_NOSPC; /* sized away at open; a file full of leaks gets here all the same */
	int r = qcow2_table_room(q, 1);
	if (r)
		return r;
	uint64_t at = n << (q->refblock_bits + q->cluster_bits);
	struct qcow2_table *t = qcow2_table_make(q, at, true);
	put(q, t, 0, 1);
	be64_put(q->reftable + n * 8, at);
	q->reftable_lo = q->reftable_hi ? MIN(q->reftable_lo, n * 8) : n * 8;
	q->reftable_hi = MAX(q->reftable_hi, n * 8 + 8);
	q->end = MAX(q->end, at + q->cluster);
	*out = t;
	return 0;
}

int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t *host, uint64_t *got) {
	uint64_t per = BIT(q->refblock_bits);
	unsigned order = q->h.info.refcount_order;
	for (;;) {
		uint64_t n = q->free_from >> q->refblock_bits, i = q->free_from & (per - 1);
		struct qcow2_table *t;
		int r = n < q->reftable_bytes / 8 && block_of(q, n)
					? qcow2_table_get(q, block_of(q, n), true, &t)
					: make_block(q, n, &t);
		if (r)
			return r;
		while (i < per && qcow2_refcount_get(order, t->data, i))
			i++;
		q->free_from = (n << q->refblock_bits) + i;
		if (i == per)
			continue;
		*host = q->free_from << q->cluster_bits;
		*got = 0;
		while (i < per && *got < want && !qcow2_refcount_get(order, t->data, i)) {
			qcow2_table_forget(q, (q->free_from + *got) << q->cluster_bits);
			put(q, t, i++, 1);
			++*got;
		}
		q->free_from += *got;
		return 0;
	}
}

/* Nothing in the file or in memory points to these: their counts may go at once. */
int qcow2_unalloc(struct qcow2 *q, uint64_t host, uint64_t n) {
	bool gone;
	for (uint64_t c = host >> q->cluster_bits; n; c++, n--) {
		int r = qcow2_unref(q, c, &gone);
		if (r)
			return r;
	}
	return 0;
}

int qcow2_unref(struct qcow2 *q, uint64_t cluster, bool *gone) {
	struct qcow2_table *t;
	uint64_t n = cluster >> q->refblock_bits, i = cluster & (BIT(q->refblock_bits) - 1);
	*gone = false;
	if (!block_of(q, n))
		return qcow2_bad(q, "no refcount block counts a cluster in use, number", cluster);
	int r = qcow2_table_get(q, block_of(q, n), true, &t);
	if (r)
		return r;
	uint64_t val = qcow2_refcount_get(q->h.info.refcount_order, t->data, i);
	if (!val)
		return qcow2_bad(q, "a cluster in use is counted as free, number", cluster);
	put(q, t, i, val - 1);
	*gone = val == 1;
	if (*gone)
		q->free_from = MIN(q->free_from, cluster);
	return 0;
}

int qcow2_refcount_of(struct qcow2 *q, uint64_t cluster, uint64_t *val) {
	struct qcow2_table *t;
	uint64_t n = cluster >> q->refblock_bits;
	*val = 0;
	if (!block_of(q, n))
		return 0;
	int r = qcow2_table_get(q, block_of(q, n), true, &t);
	if (!r)
		*val = qcow2_refcount_get(q->h.info.refcount_order, t->data,
								  cluster & (BIT(q->refblock_bits) - 1));
	return r;
}

bool qcow2_free_room(const struct qcow2 *q, unsigned n) {
	return q->nfrees + n <= Q_FREES;
}

void qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t len) {
	uint64_t first = offset >> q->cluster_bits, last = (offset + len - 1) >> q->cluster_bits;
	struct qcow2_free *f = q->nfrees ? &q->frees[q->nfrees - 1] : NULL;
	if (f && f->cluster + f->count == first) {
		f->count += last - first + 1;
		return;
	}
	check(q->nfrees < Q_FREES);
	q->frees[q->nfrees++] = (struct qcow2_free){first, last - first + 1};
}

/* All that the file has, and each cluster of the disk once more with its tables. */
uint64_t qcow2_clusters_max(const struct qcow2 *q) {
	uint64_t data = (q->h.info.size >> q->cluster_bits) + 1;
	uint64_t n = (q->end >> q->cluster_bits) + 1 + data + (data >> q->l2_bits) +
				 q->l1_bytes / q->cluster + 3;
	return n + (n >> q->refblock_bits) * 2 + 2;
}

/* Before the first write: a reftable that covers whatever may come, so that none has to grow
 * while a VM runs. The new one lies in the first range that the old one does not cover, with
 * the refcount blocks for itself in front of it. */
int qcow2_grow_reftable(struct qcow2 *q, struct err *e) {
	uint64_t want = (qcow2_clusters_max(q) >> q->refblock_bits) + 2;
	uint64_t have = q->reftable_bytes / 8, per = BIT(q->refblock_bits);
	if (want <= have || have * 8 >= Q_REFTABLE_MAX)
		return 0;
	/* Room for itself, and half as much again, so that this is rare. */
	uint64_t bytes = align_up(MIN((want + want / 2) * 8, (uint64_t)Q_REFTABLE_MAX), q->cluster);
	uint64_t table = bytes >> q->cluster_bits, blocks = 1;
	while (blocks * per < blocks + table)
		blocks++;
	if (have + blocks > bytes / 8)
		return 0;
	uint64_t at = have << (q->refblock_bits + q->cluster_bits);
	uint8_t *neu = q->host->alloc(q->host->opaque, bytes);
	uint8_t *block = neu ? q->host->alloc(q->host->opaque, q->cluster) : NULL;
	int r = block ? 0 : -ERR_NOMEM;
	if (!r)
		memcpy(neu, q->reftable, q->reftable_bytes);
	for (uint64_t b = 0; !r && b < blocks; b++) {
		be64_put(neu + (have + b) * 8, at + (b << q->cluster_bits));
		for (uint64_t i = 0; i < per; i++)
			qcow2_refcount_put(q->h.info.refcount_order, block, i, b * per + i < blocks + table);
		r = block_write_sync(q->file, at + (b << q->cluster_bits), block, q->cluster);
	}
	if (!r)
		r = block_write_sync(q->file, at + (blocks << q->cluster_bits), neu, bytes);
	if (!r)
		r = block_flush_sync(q->file);
	if (block)
		q->host->free(q->host->opaque, block, q->cluster);
	if (r) {
		if (neu)
			q->host->free(q->host->opaque, neu, bytes);
		return block_fail(e, r, "a bigger refcount table cannot be written");
	}
	uint64_t old = q->h.reftable_offset, old_bytes = q->reftable_bytes;
	q->host->free(q->host->opaque, q->reftable, old_bytes);
	q->reftable = neu;
	q->reftable_bytes = bytes;
	q->end = MAX(q->end, at + ((blocks + table) << q->cluster_bits));
	q->h.reftable_offset = at + (blocks << q->cluster_bits);
	q->h.reftable_clusters = (uint32_t)table;
	r = qcow2_header_update(q, e);
	if (!r)
		qcow2_free_later(q, old, old_bytes);
	return r;
}
