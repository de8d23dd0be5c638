/* New images, and new headers for old ones. */
#include "core/block/qcow2_int.h"

#define NAME_AT 512 /* the backing file's name: behind the header's sector */

/* Clusters in this order: header, refcount table, refcount blocks, L1 table. */
struct layout {
	uint64_t cluster, table, blocks, l1, total;
};

static uint64_t div_up(uint64_t a, uint64_t b) {
	return a / b + (a % b != 0);
}

static void lay_out(struct layout *l, const struct qcow2_header *h) {
	unsigned bits = h->info.cluster_bits;
	uint64_t per = BIT(bits + 3 - h->info.refcount_order);
	l->cluster = BIT(bits);
	l->l1 = MAX(div_up((uint64_t)h->l1_entries * 8, l->cluster), 1);
	/* A refcount table for all clusters that a full disk needs, tables included. */
	uint64_t data = div_up(h->info.size, l->cluster);
	uint64_t all = data + div_up(data, l->cluster / 8) + l->l1 + 64;
	all += div_up(all, per) * 2;
	l->table = div_up((all / per + 4) * 2 * 8, l->cluster);
	l->table = MAX(MIN(l->table, Q_REFTABLE_MAX / l->cluster), 1);
	for (l->blocks = 1;; l->blocks++) {
		l->total = 1 + l->table + l->blocks + l->l1;
		if (l->blocks * per >= l->total)
			return;
	}
}

static int judge(const struct qcow2_create_options *o, struct qcow2_header *h, struct err *e) {
	struct qcow2_info *i = &h->info;
	memset(h, 0, sizeof(*h));
	i->version = o->version ? o->version : 3;
	i->cluster_bits = o->cluster_bits ? o->cluster_bits : 16;
	i->refcount_order = o->refcount_order_set ? o->refcount_order : 4;
	i->size = o->size;
	if (i->version < 2 || i->version > 3)
		return err_set(e, ERR_INVAL, "qcow2 version %u: 2 or 3", i->version);
	if (i->cluster_bits < 9 || i->cluster_bits > 21)
		return err_set(e, ERR_INVAL, "a cluster has 512 bytes to 2 MiB, not 2^%u", i->cluster_bits);
	if (i->refcount_order > 6)
		return err_set(e, ERR_INVAL, "a refcount has 1 to 64 bits, not 2^%u", i->refcount_order);
	if (i->version == 2 && (i->refcount_order != 4 || o->lazy_refcounts || o->zstd))
		return err_set(e, ERR_INVAL,
					   "qcow2 version 2 has 16-bit refcounts, not lazy, and zlib; use version 3");
	if (o->size % Q_SECTOR)
		return err_set(e, ERR_INVAL, "a disk of %llu bytes: not a multiple of 512",
					   (unsigned long long)o->size);
	uint64_t l1 = div_up(o->size, BIT(2 * i->cluster_bits - 3));
	if (l1 > Q_L1_MAX / 8)
		return err_set(e, ERR_FBIG, "a disk of %llu bytes needs clusters bigger than %u bytes",
					   (unsigned long long)o->size, 1u << i->cluster_bits);
	h->l1_entries = (uint32_t)MAX(l1, 1);
	if (!o->backing != !o->backing_format)
		return err_set(e, ERR_INVAL, "a backing file goes with its format");
	if (o->backing) {
		if (str_len(o->backing) > QCOW2_NAME_MAX || str_len(o->backing_format) > QCOW2_FORMAT_MAX)
			return err_set(e, ERR_INVAL, "the backing file's name or format is too long");
		memcpy(i->backing, o->backing, str_len(o->backing) + 1);
		memcpy(i->backing_format, o->backing_format, str_len(o->backing_format) + 1);
	}
	h->compat = o->lazy_refcounts ? Q_COMPAT_LAZY : 0;
	h->incompat = o->zstd ? Q_INCOMPAT_COMPRESSION : 0;
	i->compression = o->zstd ? BLOCK_ZSTD : BLOCK_ZLIB;
	return 0;
}

static int write_tables(struct block *file, const struct layout *l, const struct qcow2_header *h,
						uint8_t *buf) {
	uint64_t per = BIT(h->info.cluster_bits + 3 - h->info.refcount_order);
	uint64_t end = l->total * l->cluster;
	int r = block_write_sync(file, end - Q_SECTOR, buf, Q_SECTOR); /* the end, zeroes */
	for (uint64_t b = 0; !r && b < l->blocks; b++) {
		memset(buf, 0, l->cluster);
		for (uint64_t i = 0; i < per && b * per + i < l->total; i++)
			qcow2_refcount_put(h->info.refcount_order, buf, i, 1);
		r = block_write_sync(file, (1 + l->table + b) * l->cluster, buf, l->cluster);
	}
	for (uint64_t at = 0; !r && at < l->blocks * 8; at += l->cluster) {
		memset(buf, 0, l->cluster);
		for (uint64_t b = at / 8; b < l->blocks && b < (at + l->cluster) / 8; b++)
			be64_put(buf + b * 8 - at, (1 + l->table + b) * l->cluster);
		r = block_write_sync(file, l->cluster + at, buf, l->cluster);
	}
	return r;
}

int qcow2_create(struct block *file, const struct block_host *host,
				 const struct qcow2_create_options *o, struct err *e) {
	struct qcow2_header h;
	struct layout l;
	uint8_t sector[Q_SECTOR];
	uint64_t name_at = NAME_AT;
	int r = judge(o, &h, e);
	if (r)
		return r;
	lay_out(&l, &h);
	h.reftable_offset = l.cluster;
	h.reftable_clusters = (uint32_t)l.table;
	h.l1_offset = (1 + l.table + l.blocks) * l.cluster;
	r = qcow2_header_build(&h, sector, NULL, 0, &name_at, e);
	if (r)
		return r;
	uint8_t *buf = host->alloc(host->opaque, l.cluster);
	if (!buf)
		return err_set(e, ERR_NOMEM, "no memory for a cluster");
	r = write_tables(file, &l, &h, buf);
	host->free(host->opaque, buf, l.cluster);
	if (!r && o->backing && name_at >= Q_SECTOR)
		r = block_write_sync(file, name_at, h.info.backing, str_len(h.info.backing));
	if (!r)
		r = block_flush_sync(file);
	if (!r)
		r = block_write_sync(file, 0, sector, Q_SECTOR);
	if (!r)
		r = block_flush_sync(file);
	return r ? block_fail(e, r, "the image cannot be written") : 0;
}

/* Extensions to keep: all but the ones that are made anew, and the names of features, which only
 * help to word messages. Returns where they end. */
static size_t keep_extensions(const uint8_t *buf, size_t len, size_t at, uint8_t *extra,
							  size_t *extra_len) {
	*extra_len = 0;
	while (at + 8 <= len) {
		uint32_t type = be32_get(buf + at);
		size_t n = 8 + (size_t)align_up(be32_get(buf + at + 4), 8);
		if (type == QX_END)
			return at + 8;
		if (type != QX_BACKING_FORMAT && type != QX_FEATURES && n <= len - at &&
			*extra_len + n <= Q_SECTOR) {
			memcpy(extra + *extra_len, buf + at, n);
			*extra_len += n;
		}
		at += n;
	}
	return MIN(at, len);
}

/* The old name stays whole until the new header points to the new one. */
static uint64_t place_name(const struct qcow2 *q, const uint8_t *old, size_t extensions_end) {
	uint64_t at = be64_get(old + QH_BACKING_OFFSET), len = be32_get(old + QH_BACKING_LEN);
	uint64_t want = str_len(q->h.info.backing);
	if (at >= NAME_AT + want || (at + len <= NAME_AT && extensions_end <= NAME_AT))
		return NAME_AT;
	uint64_t next = align_up(MAX(at + len, extensions_end), Q_SECTOR);
	return next + want <= q->cluster ? next : NAME_AT;
}

static int update(struct qcow2 *q, uint8_t *buf, struct err *e) {
	size_t len = (size_t)MIN(q->cluster, (uint64_t)Q_HEADER_MAX), extra_len;
	uint8_t sector[Q_SECTOR], extra[Q_SECTOR];
	int r = block_read_sync(q->file, 0, buf, len);
	if (r)
		return block_fail(e, r, "the image's header cannot be read");
	size_t end = keep_extensions(buf, len, q->h.header_len, extra, &extra_len);
	uint64_t name_at = place_name(q, buf, end);
	r = qcow2_header_build(&q->h, sector, extra, extra_len, &name_at, e);
	if (r)
		return r;
	if (q->h.info.backing[0] && name_at >= Q_SECTOR)
		r = block_write_sync(q->file, name_at, q->h.info.backing, str_len(q->h.info.backing));
	if (!r)
		r = block_flush_sync(q->file);
	if (!r)
		r = block_write_sync(q->file, 0, sector, Q_SECTOR);
	if (!r)
		r = block_flush_sync(q->file);
	q->h.header_len = q->h.info.version == 2 ? QH_V2_LEN : QH_V3_LEN;
	return r ? block_fail(e, r, "the image's header cannot be written") : 0;
}

int qcow2_header_update(struct qcow2 *q, struct err *e) {
	uint8_t *buf = q->host->alloc(q->host->opaque, Q_HEADER_MAX);
	if (!buf)
		return err_set(e, ERR_NOMEM, "no memory for a header");
	int r = update(q, buf, e);
	q->host->free(q->host->opaque, buf, Q_HEADER_MAX);
	return r;
}
