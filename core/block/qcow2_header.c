/* The header: judged before anything believes it ([QCOW2 "Header"]). */
#include "core/block/qcow2_int.h"

struct feature {
	uint64_t bit;
	const char *what;
};

static const struct feature refused[] = {
	{Q_INCOMPAT_DATA_FILE, "an external data file"},
	{Q_INCOMPAT_EXTENDED_L2, "extended L2 entries (subclusters)"},
};

bool qcow2_probe(const uint8_t *buf, size_t len) {
	return len >= 8 && be32_get(buf) == QCOW2_MAGIC && be32_get(buf + 4) >= 2;
}

/* The name that the image itself gives to an unknown feature, if it is clean text. */
static void feature_name(const uint8_t *table, size_t len, unsigned bit, char out[48]) {
	fmt_text(out, 48, "feature %u", bit);
	for (size_t i = 0; table && i + 48 <= len; i += 48) {
		if (table[i] != 0 || table[i + 1] != bit)
			continue;
		for (unsigned k = 0; k < 46; k++) {
			char c = (char)table[i + 2 + k];
			out[k] = c >= ' ' && c < 127 ? c : 0;
			if (!out[k])
				break;
		}
		out[46] = 0;
		return;
	}
}

static int judge_features(const struct qcow2_header *h, const uint8_t *names, size_t names_len,
						  struct err *e) {
	uint64_t known = Q_INCOMPAT_DIRTY | Q_INCOMPAT_CORRUPT | Q_INCOMPAT_COMPRESSION;
	char name[48];
	for (unsigned i = 0; i < ARRAY_LEN(refused); i++)
		if (h->incompat & refused[i].bit)
			return err_set(e, ERR_NOTSUP, "the image uses %s, which Joist does not support",
						   refused[i].what);
	for (unsigned bit = 0; bit < 64; bit++) {
		if (!(h->incompat & ~known & BIT(bit)))
			continue;
		feature_name(names, names_len, bit, name);
		return err_set(e, ERR_NOTSUP,
					   "the image uses an incompatible feature that Joist does not know: %s", name);
	}
	return 0;
}

static int parse_extensions(struct qcow2_header *h, const uint8_t *buf, size_t len,
							const uint8_t **names, size_t *names_len, struct err *e) {
	size_t at = h->header_len;
	*names = NULL;
	*names_len = 0;
	while (at + 8 <= len) {
		uint32_t type = be32_get(buf + at), n = be32_get(buf + at + 4);
		if (type == QX_END)
			return 0;
		if (n > len - at - 8)
			return err_set(e, ERR_INVAL,
						   "the image's header is damaged: extension %08x of %u bytes does not fit",
						   type, n);
		const uint8_t *data = buf + at + 8;
		if (type == QX_BACKING_FORMAT) {
			if (n > QCOW2_FORMAT_MAX)
				return err_set(e, ERR_INVAL, "the image's backing format has a name of %u bytes",
							   n);
			memcpy(h->info.backing_format, data, n);
			h->info.backing_format[n] = 0;
		} else if (type == QX_FEATURES) {
			*names = data;
			*names_len = n;
		}
		at += 8 + (size_t)align_up(n, 8);
	}
	return 0;
}

static int parse_backing(struct qcow2_header *h, const uint8_t *buf, size_t len, struct err *e) {
	uint64_t at = be64_get(buf + QH_BACKING_OFFSET);
	uint32_t n = be32_get(buf + QH_BACKING_LEN);
	if (!at || !n)
		return 0;
	if (n > QCOW2_NAME_MAX || n > len || at > len - n)
		return err_set(e, ERR_INVAL,
					   "the image's header is damaged: its backing file's name (%u bytes at %llu) "
					   "does not fit",
					   n, (unsigned long long)at);
	memcpy(h->info.backing, buf + at, n);
	h->info.backing[n] = 0;
	if (str_len(h->info.backing) != n)
		return err_set(e, ERR_INVAL, "the image's backing file has a name with a zero in it");
	return 0;
}

static int parse_v3(struct qcow2_header *h, const uint8_t *buf, size_t len, struct err *e) {
	h->info.refcount_order = 4;
	h->header_len = QH_V2_LEN;
	if (h->info.version == 2)
		return 0;
	if (len < QH_COMPRESSION)
		return err_set(e, ERR_INVAL, "the image is truncated: %llu bytes", (unsigned long long)len);
	h->incompat = be64_get(buf + QH_INCOMPAT);
	h->compat = be64_get(buf + QH_COMPAT);
	h->autoclear = be64_get(buf + QH_AUTOCLEAR);
	h->info.refcount_order = be32_get(buf + QH_REFCOUNT_ORDER);
	h->header_len = be32_get(buf + QH_HEADER_LEN);
	if (h->header_len < QH_COMPRESSION || h->header_len > len || h->header_len % 8)
		return err_set(e, ERR_INVAL, "the image's header is damaged: its length is %u",
					   h->header_len);
	if (h->info.refcount_order > 6)
		return err_set(e, ERR_INVAL, "the image's header is damaged: refcount order %u",
					   h->info.refcount_order);
	h->info.lazy_refcounts = h->compat & Q_COMPAT_LAZY;
	h->info.dirty = h->incompat & Q_INCOMPAT_DIRTY;
	h->info.corrupt = h->incompat & Q_INCOMPAT_CORRUPT;
	if (h->incompat & Q_INCOMPAT_COMPRESSION) {
		unsigned type = h->header_len > QH_COMPRESSION ? buf[QH_COMPRESSION] : 0;
		if (type != 1)
			return err_set(e, ERR_NOTSUP,
						   "the image uses compression type %u; Joist knows 0 (zlib) and 1 (zstd)",
						   type);
		h->info.compression = BLOCK_ZSTD;
	}
	return 0;
}

/* The places of the tables: aligned, in the file, and big enough. */
static int judge_tables(const struct qcow2_header *h, uint64_t file_size, struct err *e) {
	uint64_t cluster = BIT(h->info.cluster_bits);
	unsigned l2_shift = 2 * h->info.cluster_bits - 3; /* bytes of the disk that an L2 maps */
	uint64_t need = (h->info.size >> l2_shift) + ((h->info.size & (BIT(l2_shift) - 1)) != 0);
	if ((uint64_t)h->l1_entries * 8 > Q_L1_MAX || need > h->l1_entries)
		return err_set(e, need > Q_L1_MAX / 8 ? ERR_FBIG : ERR_INVAL,
					   "the image's L1 table of %u entries does not go with a disk of %llu bytes",
					   h->l1_entries, (unsigned long long)h->info.size);
	if (h->l1_entries &&
		(h->l1_offset % cluster || h->l1_offset < cluster || h->l1_offset > file_size ||
		 file_size - h->l1_offset < (uint64_t)h->l1_entries * 8))
		return err_set(e, ERR_INVAL, "the image's L1 table at %llu lies outside of the file",
					   (unsigned long long)h->l1_offset);
	uint64_t n = (uint64_t)h->reftable_clusters << h->info.cluster_bits;
	if (!n || n > Q_REFTABLE_MAX || h->reftable_offset % cluster || h->reftable_offset < cluster ||
		h->reftable_offset > file_size || file_size - h->reftable_offset < n)
		return err_set(e, ERR_INVAL,
					   "the image's refcount table (%u clusters at %llu) lies outside of the file",
					   h->reftable_clusters, (unsigned long long)h->reftable_offset);
	if (h->info.snapshots > Q_SNAPSHOTS_MAX)
		return err_set(e, ERR_INVAL, "the image has %u snapshots; at most %u are supported",
					   h->info.snapshots, Q_SNAPSHOTS_MAX);
	return 0;
}

int qcow2_header_parse(struct qcow2_header *h, const uint8_t *buf, size_t len, uint64_t file_size,
					   struct err *e) {
	const uint8_t *names;
	size_t names_len;
	memset(h, 0, sizeof(*h));
	if (!qcow2_probe(buf, len))
		return err_set(e, ERR_INVAL, "this is no qcow2 image");
	h->info.version = be32_get(buf + QH_VERSION);
	if (h->info.version > 3)
		return err_set(e, ERR_NOTSUP, "the image is qcow2 version %u; Joist knows 2 and 3",
					   h->info.version);
	if (len < QH_V2_LEN)
		return err_set(e, ERR_INVAL, "the image is truncated: %llu bytes", (unsigned long long)len);
	h->info.cluster_bits = be32_get(buf + QH_CLUSTER_BITS);
	if (h->info.cluster_bits < 9 || h->info.cluster_bits > 21)
		return err_set(e, ERR_INVAL, "the image's clusters have 2^%u bytes; it must be 2^9 to 2^21",
					   h->info.cluster_bits);
	len = (size_t)MIN(len, BIT(h->info.cluster_bits));
	h->info.size = be64_get(buf + QH_SIZE);
	if (h->info.size > BIT(62))
		return err_set(e, ERR_FBIG, "the image's disk has %llu bytes, which is too many",
					   (unsigned long long)h->info.size);
	h->l1_entries = be32_get(buf + QH_L1_SIZE);
	h->l1_offset = be64_get(buf + QH_L1_OFFSET);
	h->reftable_offset = be64_get(buf + QH_REFTABLE_OFFSET);
	h->reftable_clusters = be32_get(buf + QH_REFTABLE_CLUSTERS);
	h->info.snapshots = be32_get(buf + QH_SNAPSHOTS);
	h->snapshots_offset = be64_get(buf + QH_SNAPSHOTS_OFFSET);
	int r = parse_v3(h, buf, len, e);
	if (!r)
		r = parse_extensions(h, buf, len, &names, &names_len, e);
	if (!r)
		r = judge_features(h, names, names_len, e);
	if (!r && be32_get(buf + QH_CRYPT))
		r = err_set(e, ERR_NOTSUP, "the image is encrypted (%s), which Joist does not support",
					be32_get(buf + QH_CRYPT) == 1 ? "AES" : "LUKS");
	if (!r)
		r = parse_backing(h, buf, len, e);
	return r ? r : judge_tables(h, file_size, e);
}

int qcow2_header_build(const struct qcow2_header *h, uint8_t sector[Q_SECTOR], const uint8_t *extra,
					   size_t extra_len, uint64_t *name_at, struct err *e) {
	size_t at = h->info.version == 2 ? QH_V2_LEN : QH_V3_LEN;
	size_t name = str_len(h->info.backing), format = str_len(h->info.backing_format);
	memset(sector, 0, Q_SECTOR);
	be32_put(sector + QH_MAGIC, QCOW2_MAGIC);
	be32_put(sector + QH_VERSION, h->info.version);
	be32_put(sector + QH_CLUSTER_BITS, h->info.cluster_bits);
	be64_put(sector + QH_SIZE, h->info.size);
	be32_put(sector + QH_L1_SIZE, h->l1_entries);
	be64_put(sector + QH_L1_OFFSET, h->l1_offset);
	be64_put(sector + QH_REFTABLE_OFFSET, h->reftable_offset);
	be32_put(sector + QH_REFTABLE_CLUSTERS, h->reftable_clusters);
	be32_put(sector + QH_SNAPSHOTS, h->info.snapshots);
	be64_put(sector + QH_SNAPSHOTS_OFFSET, h->snapshots_offset);
	if (h->info.version >= 3) {
		be64_put(sector + QH_INCOMPAT, h->incompat);
		be64_put(sector + QH_COMPAT, h->compat);
		be64_put(sector + QH_AUTOCLEAR, h->autoclear);
		be32_put(sector + QH_REFCOUNT_ORDER, h->info.refcount_order);
		be32_put(sector + QH_HEADER_LEN, QH_V3_LEN);
		sector[QH_COMPRESSION] = h->info.compression;
	}
	if (extra_len + at + format + 32 > Q_SECTOR)
		return err_set(e, ERR_INVAL, "the image's header extensions do not fit in one sector");
	if (extra_len)
		memcpy(sector + at, extra, extra_len);
	at += extra_len;
	if (format) {
		be32_put(sector + at, QX_BACKING_FORMAT);
		be32_put(sector + at + 4, (uint32_t)format);
		memcpy(sector + at + 8, h->info.backing_format, format);
		at += 8 + (size_t)align_up(format, 8);
	}
	at += 8; /* QX_END */
	if (!name)
		return 0;
	if (h->info.cluster_bits == 9)
		*name_at = at;
	if (*name_at + name > BIT(h->info.cluster_bits))
		return err_set(e, ERR_INVAL,
					   "the backing file's name does not fit in a cluster of %u bytes",
					   1u << h->info.cluster_bits);
	be64_put(sector + QH_BACKING_OFFSET, *name_at);
	be32_put(sector + QH_BACKING_LEN, (uint32_t)name);
	if (*name_at < Q_SECTOR)
		memcpy(sector + *name_at, h->info.backing, name);
	return 0;
}
