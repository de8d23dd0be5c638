/* From an offset on the disk to what lies there ([QCOW2 "Cluster mapping"]). */
#include "core/block/qcow2_int.h"

int qcow2_bad(struct qcow2 *q, const char *what, uint64_t val) {
	if (!q->broken) {
		log_line(LOG_ERROR, "qcow2: the image is damaged: %s %llu; run `joist disk check` on it",
				 what, (unsigned long long)val);
		q->broken = -ERR_IO;
	}
	return -ERR_IO;
}

uint64_t qcow2_l2_index(const struct qcow2 *q, uint64_t offset) {
	return offset >> q->cluster_bits & (BIT(q->l2_bits) - 1);
}

void qcow2_entry(const struct qcow2 *q, uint64_t entry, struct qcow2_extent *x) {
	x->copied = entry & Q_COPIED;
	x->host = entry & Q_OFFSET;
	x->packed = 0;
	if (entry & Q_PACKED) {
		x->kind = Q_IS_PACKED;
		x->host = entry & (BIT(q->csize_shift) - 1);
		uint64_t sectors = (entry >> q->csize_shift & q->csize_mask) + 1;
		x->packed = sectors * Q_SECTOR - x->host % Q_SECTOR;
	} else if (q->h.info.version >= 3 && (entry & Q_ZERO)) {
		x->kind = Q_IS_ZERO;
	} else {
		x->kind = x->host ? Q_IS_DATA : Q_IS_ABSENT;
	}
}

/* Whether an entry names places that exist. The file of a compressed cluster may end in it. */
static bool sane(const struct qcow2 *q, const struct qcow2_extent *x) {
	if (x->kind == Q_IS_PACKED)
		return x->host && x->host < q->end;
	return x->kind != Q_IS_DATA || (x->host % q->cluster == 0 && x->host < q->end);
}

static bool joins(const struct qcow2 *q, const struct qcow2_extent *a, uint64_t clusters,
				  const struct qcow2_extent *b) {
	if (a->kind != b->kind || a->kind == Q_IS_PACKED)
		return false;
	return a->kind != Q_IS_DATA ||
		   (a->copied == b->copied && b->host == a->host + (clusters << q->cluster_bits));
}

int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t len, struct qcow2_extent *x) {
	uint64_t in = offset & (q->cluster - 1), index = qcow2_l2_index(q, offset);
	uint64_t n = MIN((in + len + q->cluster - 1) >> q->cluster_bits, BIT(q->l2_bits) - index);
	uint64_t l1 = offset >> (q->cluster_bits + q->l2_bits), got = 1;
	check(l1 < q->l1_bytes / 8);
	uint64_t l2 = be64_get(q->l1 + l1 * 8) & Q_OFFSET;
	if (!l2) {
		*x = (struct qcow2_extent){.kind = Q_IS_ABSENT};
		got = n;
	} else {
		struct qcow2_table *t;
		int r = qcow2_table_get(q, l2, false, &t);
		if (r)
			return r;
		qcow2_entry(q, be64_get(t->data + index * 8), x);
		if (!sane(q, x))
			return qcow2_bad(q, "a cluster lies at", x->host);
		for (; got < n; got++) {
			struct qcow2_extent y;
			qcow2_entry(q, be64_get(t->data + (index + got) * 8), &y);
			if (!joins(q, x, got, &y) || !sane(q, &y))
				break;
		}
	}
	x->run = MIN((got << q->cluster_bits) - in, len);
	if (x->kind == Q_IS_DATA)
		x->host += in;
	return 0;
}

bool qcow2_reads_zero(const struct qcow2 *q, const struct qcow2_extent *x, uint64_t offset) {
	if (x->kind == Q_IS_ABSENT)
		return !q->backing || offset >= q->backing->size;
	return x->kind == Q_IS_ZERO;
}

static void set_l1(struct qcow2 *q, uint64_t l1, uint64_t entry) {
	be64_put(q->l1 + l1 * 8, entry);
	q->l1_lo = q->l1_hi ? MIN(q->l1_lo, l1 * 8) : l1 * 8;
	q->l1_hi = MAX(q->l1_hi, l1 * 8 + 8);
}

int qcow2_l2_for_write(struct qcow2 *q, uint64_t offset, struct qcow2_table **out) {
	uint64_t l1 = offset >> (q->cluster_bits + q->l2_bits), host, got;
	uint64_t entry = be64_get(q->l1 + l1 * 8), old = entry & Q_OFFSET;
	struct qcow2_table *from = NULL;
	int r = old ? qcow2_table_get(q, old, false, &from) : 0;
	if (r)
		return r;
	if (old && (entry & Q_COPIED)) {
		*out = from;
		return 0;
	}
	/* None yet, or one that a snapshot needs as it is: its clusters are counted for both. Two
	 * tables can be made here, the second one is a refcount block. */
	if (!qcow2_free_room(q, 1))
		return Q_COMMIT;
	r = qcow2_table_room(q, 2);
	if (!r)
		r = qcow2_alloc(q, 1, &host, &got);
	if (r)
		return r;
	q->end = MAX(q->end, host + q->cluster);
	struct qcow2_table *t = qcow2_table_make(q, host, false);
	if (old) {
		memcpy(t->data, from->data, q->cluster);
		qcow2_free_later(q, old, q->cluster);
	}
	set_l1(q, l1, host | Q_COPIED);
	*out = t;
	return 0;
}

void qcow2_l2_set(struct qcow2 *q, struct qcow2_table *t, uint64_t index, uint64_t entry) {
	struct qcow2_extent x;
	qcow2_entry(q, be64_get(t->data + index * 8), &x);
	if (x.kind == Q_IS_PACKED)
		qcow2_free_later(q, x.host, x.packed);
	else if (x.host)
		qcow2_free_later(q, x.host, q->cluster);
	be64_put(t->data + index * 8, entry);
	qcow2_table_dirty(t, index * 8, 8);
}
