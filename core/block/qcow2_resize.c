/* Another size, another backing file: for tools, while no VM has the image. */
#include "core/block/qcow2_int.h"

static int cut(struct qcow2 *q, uint64_t size, struct err *e) {
	/* Zeroes first, so that what grows back is not what was there. */
	int r = block_zeroes_sync(q->gate, size, q->h.info.size - size);
	if (!r)
		r = qcow2_commit_sync(q);
	return r ? block_fail(e, r, "the end of the disk cannot be cleared") : 0;
}

/* Contiguous clusters at the end of the file. */
static int take_run(struct qcow2 *q, uint64_t n, uint64_t *host) {
	uint64_t have = 0, at, got;
	*host = 0;
	q->free_from = MAX(q->free_from, (q->end + q->cluster - 1) >> q->cluster_bits);
	while (have < n) {
		int r;
		QCOW2_SYNC(q, r, qcow2_alloc(q, n - have, &at, &got));
		if (r)
			return r < 0 ? r : -ERR_NOMEM;
		if (at != *host + (have << q->cluster_bits)) { /* a refcount block came between: a leak */
			*host = at;
			have = 0;
		}
		have += got;
		q->end = MAX(q->end, at + (got << q->cluster_bits));
	}
	return 0;
}

static int grow_l1(struct qcow2 *q, uint64_t entries, struct err *e) {
	uint64_t bytes = entries * 8, n = (bytes + q->cluster - 1) >> q->cluster_bits, at;
	uint8_t *l1 = q->host->alloc(q->host->opaque, n << q->cluster_bits);
	if (!l1)
		return err_set(e, ERR_NOMEM, "no memory for an L1 table");
	memcpy(l1, q->l1, q->l1_bytes);
	int r = take_run(q, n, &at);
	if (!r)
		r = block_write_sync(q->file, at, l1, n << q->cluster_bits);
	if (!r)
		r = qcow2_commit_sync(q);
	if (!r)
		r = block_flush_sync(q->file);
	q->host->free(q->host->opaque, l1, n << q->cluster_bits);
	if (r)
		return block_fail(e, r, "a bigger L1 table cannot be written");
	l1 = q->host->alloc(q->host->opaque, MAX(bytes, Q_SECTOR));
	if (!l1)
		return err_set(e, ERR_NOMEM, "no memory for an L1 table");
	memcpy(l1, q->l1, q->l1_bytes);
	q->host->free(q->host->opaque, q->l1, MAX(q->l1_bytes, Q_SECTOR));
	if (q->l1_bytes)
		qcow2_free_later(q, q->h.l1_offset, q->l1_bytes);
	q->l1 = l1;
	q->l1_bytes = bytes;
	q->h.l1_offset = at;
	q->h.l1_entries = (uint32_t)entries;
	return 0;
}

int qcow2_resize(struct block *image, uint64_t size, struct err *e) {
	struct qcow2 *q = image->self;
	check(qcow2_is(image) && !image->in_work);
	if (size % Q_SECTOR)
		return err_set(e, ERR_INVAL, "a disk of %llu bytes: not a multiple of 512",
					   (unsigned long long)size);
	unsigned shift = q->cluster_bits + q->l2_bits;
	uint64_t entries = (size >> shift) + ((size & (BIT(shift) - 1)) != 0);
	if (entries > Q_L1_MAX / 8)
		return err_set(e, ERR_FBIG, "a disk of %llu bytes needs clusters bigger than %u bytes",
					   (unsigned long long)size, 1u << q->cluster_bits);
	int r = qcow2_commit_sync(q);
	if (r)
		return block_fail(e, r, "the image cannot be written");
	uint64_t old = q->h.info.size;
	if (size < old) {
		r = cut(q, size, e);
	} else {
		q->h.info.size = size; /* for what the refcount table has to cover */
		r = qcow2_grow_reftable(q, e);
		if (!r && entries > q->h.l1_entries)
			r = grow_l1(q, entries, e);
	}
	q->h.info.size = size;
	if (!r)
		r = qcow2_header_update(q, e);
	if (r) {
		q->h.info.size = old;
		return r;
	}
	image->size = size;
	/* A backing image that is longer than the disk was must not show in what is new. */
	if (size > old && q->backing && q->backing->size > old)
		r = block_zeroes_sync(image, old, MIN(size, q->backing->size) - old);
	if (!r)
		r = qcow2_commit_sync(q);
	return r ? block_fail(e, r, "the image cannot be written") : 0;
}

int qcow2_set_backing(struct block *image, const char *name, const char *format, struct err *e) {
	struct qcow2 *q = image->self;
	check(qcow2_is(image) && !image->in_work && !name == !format);
	if (name && (str_len(name) > QCOW2_NAME_MAX || str_len(format) > QCOW2_FORMAT_MAX))
		return err_set(e, ERR_INVAL, "the backing file's name or format is too long");
	int r = qcow2_commit_sync(q);
	if (r)
		return block_fail(e, r, "the image cannot be written");
	q->h.info.backing[0] = q->h.info.backing_format[0] = 0;
	if (name) {
		memcpy(q->h.info.backing, name, str_len(name) + 1);
		memcpy(q->h.info.backing_format, format, str_len(format) + 1);
	}
	return qcow2_header_update(q, e);
}
