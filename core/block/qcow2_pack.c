/* Compressed clusters, written one after the other: for tools that fill a new image. They lie
 * packed, several in a cluster of the file or across two that are neighbours; each counts one for
 * every cluster of the file that it touches ([QCOW2 "Compressed clusters"]). */
#include "core/block/qcow2_int.h"

static int ref(struct qcow2 *q, uint64_t cluster) {
	struct qcow2_table *t;
	uint64_t val,
		max = q->h.info.refcount_order < 6 ? BIT(BIT(q->h.info.refcount_order)) - 1 : UINT64_MAX;
	int r;
	QCOW2_SYNC(q, r, qcow2_refcount_of(q, cluster, &val));
	if (r)
		return r;
	if (val >= max)
		return -ERR_RANGE;
	uint64_t i = cluster & (BIT(q->refblock_bits) - 1);
	unsigned order = q->h.info.refcount_order;
	uint64_t block = be64_get(q->reftable + (cluster >> q->refblock_bits) * 8) & ~511ull;
	QCOW2_SYNC(q, r, qcow2_table_get(q, block, true, &t));
	if (r)
		return r;
	qcow2_refcount_put(order, t->data, i, val + 1);
	qcow2_table_dirty(t, i << order >> 3, MAX(1u, 1u << order >> 3));
	return 0;
}

/* A cluster more for what comes. If it is the neighbour of the one in work, that one's rest is
 * used, else it is left empty. */
static int more(struct qcow2 *q, uint64_t len) {
	uint64_t at, got, room = -q->pack_at & (q->cluster - 1);
	int r;
	if (len <= room)
		return 0;
	QCOW2_SYNC(q, r, qcow2_alloc(q, 1, &at, &got));
	if (r)
		return r;
	q->end = MAX(q->end, at + q->cluster);
	if (!room || at != q->pack_at + room)
		q->pack_at = at;
	return 0;
}

static int write(struct qcow2 *q, uint64_t offset, const void *packed, size_t len) {
	struct qcow2_table *l2;
	static const uint8_t zero[Q_SECTOR];
	int r;
	/* Before anything is taken: what may miss, and what is not for this. */
	QCOW2_SYNC(q, r, qcow2_l2_for_write(q, offset, &l2));
	if (!r && be64_get(l2->data + qcow2_l2_index(q, offset) * 8))
		r = -ERR_EXIST;
	bool started = (q->pack_at & (q->cluster - 1)) != 0;
	uint64_t before = q->pack_at;
	if (!r)
		r = more(q, len);
	if (!r && started && q->pack_at == before)
		r = ref(q, q->pack_at >> q->cluster_bits);
	if (r)
		return r;
	uint64_t at = q->pack_at, end = at + len;
	if (at >> q->csize_shift)
		return -ERR_FBIG;
	r = block_write_sync(q->file, at, packed, len);
	if (!r && end % Q_SECTOR) /* whole sectors are read */
		r = block_write_sync(q->file, end, zero, Q_SECTOR - end % Q_SECTOR);
	if (r)
		return r;
	q->pack_at = end;
	q->packed_host = 0;
	QCOW2_SYNC(q, r, qcow2_l2_for_write(q, offset, &l2));
	if (r)
		return r;
	uint64_t sectors = (end - 1) / Q_SECTOR - at / Q_SECTOR;
	qcow2_l2_set(q, l2, qcow2_l2_index(q, offset), Q_PACKED | sectors << q->csize_shift | at);
	return 0;
}

int qcow2_write_packed(struct block *image, uint64_t offset, const void *packed, size_t len) {
	struct qcow2 *q = image->self;
	check(qcow2_is(image) && !image->in_work && !q->read_only);
	check(offset % q->cluster == 0 && offset < q->h.info.size && len && len < q->cluster);
	/* What a step changes at most must find room in the cache. */
	int r = q->broken;
	if (!r && (qcow2_table_room(q, 4) || !qcow2_free_room(q, 2)))
		r = qcow2_commit_sync(q);
	r = r ? r : write(q, offset, packed, len);
	return r > 0 ? -ERR_NOMEM : r;
}

uint64_t qcow2_cluster_size(const struct block *image) {
	return ((const struct qcow2 *)image->self)->cluster;
}
