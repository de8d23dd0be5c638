/* Check and repair: counts every cluster that the tables use, and compares with the refcounts.
 * Memory: 2 bytes a cluster of the file, at most COUNTS_MAX. */
#include "core/block/qcow2_int.h"

#define COUNTS_MAX (64ull << 20) /* bytes */
#define SNAPSHOT_MAX 4096u		 /* bytes of one entry of the snapshot table */

struct checker {
	struct qcow2 *q;
	uint16_t *count;
	uint64_t n; /* clusters of the file */
	struct qcow2_check_result *r;
	uint8_t *table; /* an L2 table */
	bool active;	/* the L1 table in turn is the disk's, not a snapshot's */
	bool repair;
};

/* False: outside of the file. */
static bool use(struct checker *c, uint64_t offset, uint64_t len) {
	uint64_t first = offset >> c->q->cluster_bits;
	uint64_t last = (offset + len - 1) >> c->q->cluster_bits;
	if (offset + len < offset || last >= c->n) {
		c->r->corruptions++;
		return false;
	}
	for (uint64_t i = first; i <= last; i++)
		if (c->count[i] < UINT16_MAX)
			c->count[i]++;
	return true;
}

static int use_l2(struct checker *c, uint64_t offset) {
	struct qcow2 *q = c->q;
	int r = block_read_sync(q->file, offset, c->table, q->cluster);
	for (uint64_t i = 0; !r && i < BIT(q->l2_bits); i++) {
		struct qcow2_extent x;
		qcow2_entry(q, be64_get(c->table + i * 8), &x);
		if (c->active && x.kind != Q_IS_ABSENT)
			c->r->allocated += x.kind != Q_IS_ZERO;
		if (x.kind == Q_IS_PACKED) {
			/* The last one's sectors may be rounded up past the end of the file. */
			uint64_t end = c->n << q->cluster_bits;
			if (x.host >= end)
				c->r->corruptions++;
			else
				use(c, x.host, MIN(x.packed, end - x.host));
		} else if (x.host) {
			if (x.host % q->cluster)
				c->r->corruptions++;
			else
				use(c, x.host, q->cluster);
		}
	}
	return r;
}

static int use_l1(struct checker *c, const uint8_t *l1, uint64_t entries) {
	int r = 0;
	for (uint64_t i = 0; !r && i < entries; i++) {
		uint64_t l2 = be64_get(l1 + i * 8) & Q_OFFSET;
		if (!l2)
			continue;
		if (l2 % c->q->cluster)
			c->r->corruptions++;
		else if (use(c, l2, c->q->cluster))
			r = use_l2(c, l2);
	}
	return r;
}

static int use_snapshots(struct checker *c) {
	struct qcow2 *q = c->q;
	uint64_t at = q->h.snapshots_offset, bytes;
	int r = 0;
	for (uint32_t i = 0; !r && i < q->h.info.snapshots; i++) {
		uint8_t s[40];
		r = block_read_sync(q->file, at, s, sizeof(s));
		if (r)
			return r;
		uint64_t l1 = be64_get(s), len = 40 + (uint64_t)be32_get(s + 36);
		len = align_up(len + be16_get(s + 12) + be16_get(s + 14), 8);
		bytes = (uint64_t)be32_get(s + 8) * 8;
		at += len;
		if (len > SNAPSHOT_MAX || bytes > Q_L1_MAX || l1 % q->cluster) {
			c->r->corruptions++;
			return 0; /* where the next one lies is unknown */
		}
		if (!bytes || !use(c, l1, bytes))
			continue;
		uint8_t *table = q->host->alloc(q->host->opaque, bytes);
		if (!table)
			return -ERR_NOMEM;
		c->active = false;
		r = block_read_sync(q->file, l1, table, bytes);
		if (!r)
			r = use_l1(c, table, bytes / 8);
		q->host->free(q->host->opaque, table, bytes);
	}
	if (!r && q->h.info.snapshots)
		use(c, q->h.snapshots_offset, at - q->h.snapshots_offset);
	return r;
}

/* Bitmaps of the extension are tables that this does not know: their clusters are no leaks. */
static int use_all(struct checker *c) {
	struct qcow2 *q = c->q;
	use(c, 0, 1);
	use(c, q->h.reftable_offset, q->reftable_bytes);
	for (uint64_t i = 0; i < q->reftable_bytes / 8; i++) {
		uint64_t block = be64_get(q->reftable + i * 8) & ~511ull;
		if (!block)
			continue;
		bool good = block % q->cluster == 0 && use(c, block, q->cluster);
		if (block % q->cluster)
			c->r->corruptions++;
		if (!good && c->repair) { /* repair makes a new one */
			be64_put(q->reftable + i * 8, 0);
			q->reftable_lo = 0;
			q->reftable_hi = q->reftable_bytes;
		}
	}
	if (q->l1_bytes)
		use(c, q->h.l1_offset, q->l1_bytes);
	c->active = true;
	int r = use_l1(c, q->l1, q->l1_bytes / 8);
	return r ? r : use_snapshots(c);
}

static int set_count(struct qcow2 *q, uint64_t cluster, uint64_t val) {
	struct qcow2_table *t;
	uint64_t n = cluster >> q->refblock_bits, i = cluster & (BIT(q->refblock_bits) - 1);
	int r = qcow2_table_get(q, be64_get(q->reftable + n * 8) & ~511ull, true, &t);
	if (r)
		return r;
	qcow2_refcount_put(q->h.info.refcount_order, t->data, i, val);
	qcow2_table_dirty(t, i << q->h.info.refcount_order >> 3,
					  MAX(1u, 1u << q->h.info.refcount_order >> 3));
	return 0;
}

/* A refcount block for range `n`, which has none but needs one: at the end of the file. */
static int new_block(struct checker *c, uint64_t n) {
	struct qcow2 *q = c->q;
	uint64_t at = align_up(q->end, q->cluster);
	if (n >= q->reftable_bytes / 8)
		return -ERR_NOSPC;
	if (at >> (q->cluster_bits + q->refblock_bits) >= q->reftable_bytes / 8)
		return -ERR_NOSPC;
	int r = qcow2_table_room(q, 1);
	if (r)
		return r;
	qcow2_table_make(q, at, true);
	q->end = at + q->cluster;
	be64_put(q->reftable + n * 8, at);
	q->reftable_lo = 0;
	q->reftable_hi = q->reftable_bytes;
	return 0;
}

/* Call what may ask for a commit until it does not. */
#define WITH_COMMIT(q, r, call)                                                                    \
	do {                                                                                           \
		QCOW2_SYNC(q, r, call);                                                                    \
	} while ((r) == Q_COMMIT && ((r) = qcow2_commit_sync(q)) == 0)

static int compare_one(struct checker *c, uint64_t i, uint64_t want) {
	struct qcow2 *q = c->q;
	uint64_t have;
	int r;
	WITH_COMMIT(q, r, qcow2_refcount_of(q, i, &have));
	if (r < 0 || have == want)
		return r;
	if (have > want)
		c->r->leaks++;
	else
		c->r->wrong++;
	if (!c->repair)
		return 0;
	uint64_t n = i >> q->refblock_bits;
	if (n >= q->reftable_bytes / 8)
		return -ERR_NOSPC;
	if (!(be64_get(q->reftable + n * 8) & ~511ull)) {
		WITH_COMMIT(q, r, new_block(c, n)); /* compare() counts it when it gets there */
		if (r)
			return r;
	}
	WITH_COMMIT(q, r, set_count(q, i, want));
	if (r)
		return r;
	if (have > want)
		c->r->leaks_fixed++;
	else
		c->r->wrong_fixed++;
	return 0;
}

static int compare(struct checker *c) {
	struct qcow2 *q = c->q;
	int r = 0;
	for (uint64_t i = 0; !r && i < c->n; i++)
		r = compare_one(c, i, c->count[i]);
	/* Blocks that the repair made lie behind what was counted. Each may need another. */
	for (uint64_t i = c->n; !r && i < align_up(q->end, q->cluster) >> q->cluster_bits; i++) {
		struct qcow2_check_result keep = *c->r;
		r = compare_one(c, i, 1);
		*c->r = keep;
	}
	/* Counted beyond the end of the file: leaks, too. */
	for (uint64_t n = 0; !r && n < q->reftable_bytes / 8; n++) {
		uint64_t per = BIT(q->refblock_bits), end = align_up(q->end, q->cluster) >> q->cluster_bits;
		if ((n + 1) * per <= end || !(be64_get(q->reftable + n * 8) & ~511ull))
			continue;
		for (uint64_t i = MAX(n * per, end); !r && i < (n + 1) * per; i++)
			r = compare_one(c, i, 0);
	}
	return r;
}

/* "Copied" says that the count is 1: right for a writer, or it writes into a snapshot. */
static int check_flags(struct checker *c) {
	struct qcow2 *q = c->q;
	for (uint64_t i = 0; i < q->l1_bytes / 8; i++) {
		uint64_t entry = be64_get(q->l1 + i * 8), l2 = entry & Q_OFFSET;
		if (!l2 || l2 % q->cluster || l2 >> q->cluster_bits >= c->n)
			continue;
		bool one = c->count[l2 >> q->cluster_bits] == 1;
		if (one != !!(entry & Q_COPIED)) {
			c->r->wrong++;
			if (c->repair) {
				be64_put(q->l1 + i * 8, l2 | (one ? Q_COPIED : 0));
				q->l1_lo = 0;
				q->l1_hi = q->l1_bytes;
				c->r->wrong_fixed++;
			}
		}
		struct qcow2_table *t;
		int r;
		WITH_COMMIT(q, r, qcow2_table_get(q, l2, false, &t));
		for (uint64_t k = 0; !r && k < BIT(q->l2_bits); k++) {
			struct qcow2_extent x;
			uint64_t e = be64_get(t->data + k * 8);
			qcow2_entry(q, e, &x);
			if (x.kind == Q_IS_PACKED || !x.host || x.host % q->cluster ||
				x.host >> q->cluster_bits >= c->n)
				continue;
			one = c->count[x.host >> q->cluster_bits] == 1;
			if (one == x.copied)
				continue;
			c->r->wrong++;
			if (c->repair) {
				be64_put(t->data + k * 8, (e & ~Q_COPIED) | (one ? Q_COPIED : 0));
				qcow2_table_dirty(t, k * 8, 8);
				c->r->wrong_fixed++;
			}
		}
		if (r)
			return r;
	}
	return 0;
}

static int finish_repair(struct checker *c, struct err *e) {
	struct qcow2 *q = c->q;
	int r = qcow2_commit_sync(q);
	if (!r)
		r = block_flush_sync(q->file);
	if (r)
		return block_fail(e, r, "the repaired tables cannot be written");
	q->free_from = 0;
	if (!q->h.info.dirty && !q->h.info.corrupt)
		return 0;
	q->h.info.dirty = false;
	q->h.incompat &= ~(uint64_t)Q_INCOMPAT_DIRTY;
	if (!c->r->corruptions) {
		q->h.info.corrupt = false;
		q->h.incompat &= ~(uint64_t)Q_INCOMPAT_CORRUPT;
	}
	return qcow2_header_update(q, e);
}

int qcow2_check_run(struct qcow2 *q, bool repair, struct qcow2_check_result *res, struct err *e) {
	struct checker c = {.q = q, .r = res, .repair = repair && !q->read_only};
	*res = (struct qcow2_check_result){0};
	int r = q->read_only ? 0 : qcow2_commit_sync(q);
	c.n = align_up(q->end, q->cluster) >> q->cluster_bits;
	uint64_t bytes = c.n * sizeof(*c.count);
	if (bytes > COUNTS_MAX)
		return err_set(e, ERR_FBIG, "the image has %llu clusters, too many to check",
					   (unsigned long long)c.n);
	res->clusters = (q->h.info.size + q->cluster - 1) >> q->cluster_bits;
	c.count = q->host->alloc(q->host->opaque, bytes);
	c.table = q->host->alloc(q->host->opaque, q->cluster);
	if (!c.count || !c.table)
		r = -ERR_NOMEM;
	if (!r)
		r = use_all(&c);
	if (!r)
		r = compare(&c);
	if (!r)
		r = check_flags(&c);
	for (uint64_t i = 0; i < c.n; i++)
		if (c.count && c.count[i])
			res->end = (i + 1) << q->cluster_bits;
	if (c.count)
		q->host->free(q->host->opaque, c.count, bytes);
	if (c.table)
		q->host->free(q->host->opaque, c.table, q->cluster);
	if (r)
		return block_fail(e, r, "the image's tables cannot be read");
	return c.repair ? finish_repair(&c, e) : 0;
}

int qcow2_check(struct block *image, bool repair, struct qcow2_check_result *r, struct err *e) {
	check(qcow2_is(image) && !image->in_work);
	return qcow2_check_run(image->self, repair, r, e);
}
