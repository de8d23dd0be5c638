/* VHDX, Hyper-V's [MS-VHDX]: two headers, a region table that names the metadata and the block
 * table, little-endian. If the image was not closed, all behind the headers is read as it is when
 * its log is replayed (import_vhdx_log.c). */
#include "core/base/crc32c.h"
#include "core/block/import_int.h"

#define HEADER_1 (64u << 10)
#define HEADER_2 (128u << 10)
#define REGIONS_1 (192u << 10)
#define REGIONS_2 (256u << 10)
#define REGIONS_LEN (64u << 10)
#define METADATA_LEN (64u << 10)
#define MIB_MASK (~0xfffffull)

enum block_entry { ABSENT = 0, UNDEFINED = 1, ZERO = 2, UNMAPPED = 3, PRESENT = 6, PARTLY = 7 };

static const uint8_t bat_id[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
								   0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
static const uint8_t metadata_id[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
										0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
static const uint8_t parameters_id[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
										  0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
static const uint8_t size_id[16] = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
									0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8};
static const uint8_t sector_id[16] = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
									  0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f};

struct vhdx {
	uint64_t bat, bat_len, metadata, size;
	uint32_t block, flags, sector;
};

/* [MS-VHDX 2.2.2] */
enum header {
	H_NUMBER = 8,
	H_LOG_GUID = 48,
	H_LOG_VERSION = 64,
	H_VERSION = 66,
	H_LOG_LEN = 68,
	H_LOG = 72,
	H_LEN = 4096,
};

/* Whether a structure with its sum behind the signature is whole. */
static bool is_whole(const uint8_t *p, size_t len, const char *signature) {
	static const uint8_t none[4];
	uint32_t crc = crc32c_add(crc32c_add(CRC32C_START, p, 4), none, 4);
	return memcmp(p, signature, 4) == 0 && ~crc32c_add(crc, p + 8, len - 8) == le32_get(p + 4);
}

/* The current header is the whole one with the higher number. */
static int find_header(struct import *m, uint8_t best[H_LEN], struct err *e) {
	uint8_t h[H_LEN];
	bool found = false;
	for (unsigned i = 0; i < 2; i++) {
		if (block_read_sync(m->file, i ? HEADER_2 : HEADER_1, h, H_LEN) ||
			!is_whole(h, H_LEN, "head") ||
			(found && le64_get(h + H_NUMBER) < le64_get(best + H_NUMBER)))
			continue;
		found = true;
		memcpy(best, h, H_LEN);
	}
	if (!found)
		return err_set(e, ERR_INVAL, "the image is damaged: it has no whole VHDX header");
	if (le16_get(best + H_VERSION) != 1)
		return err_set(e, ERR_NOTSUP, "the image is VHDX version %u; only 1 is supported",
					   le16_get(best + H_VERSION));
	return 0;
}

static int read_header(struct import *m, struct err *e) {
	static const uint8_t none[16];
	uint8_t h[H_LEN];
	int r = find_header(m, h, e);
	if (r || memcmp(h + H_LOG_GUID, none, sizeof(none)) == 0)
		return r;
	if (le16_get(h + H_LOG_VERSION) != 0)
		return err_set(
			e, ERR_NOTSUP,
			"the image was not closed, and its log is of version %u, which is not known; "
			"open and close it once with the program that wrote it",
			le16_get(h + H_LOG_VERSION));
	return import_vhdx_replay(m, le64_get(h + H_LOG), le32_get(h + H_LOG_LEN), h + H_LOG_GUID, e);
}

/* There are two of them, the same. */
static uint8_t *region_table(struct import *m, struct err *e) {
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *t = import_table(m, i ? REGIONS_2 : REGIONS_1, REGIONS_LEN, e);
		if (t && is_whole(t, REGIONS_LEN, "regi"))
			return t;
		if (t)
			m->host->free(m->host->opaque, t, REGIONS_LEN);
	}
	err_set(e, ERR_INVAL, "the image is damaged: it has no whole region table");
	return NULL;
}

static int find_regions(struct import *m, struct vhdx *v, struct err *e) {
	uint8_t *t = region_table(m, e);
	int r = 0;
	if (!t)
		return -ERR_INVAL;
	uint32_t n = le32_get(t + 8);
	for (uint32_t i = 0; i < MIN(n, 2047u); i++) {
		const uint8_t *x = t + 16 + i * 32;
		if (memcmp(x, bat_id, 16) == 0) {
			v->bat = le64_get(x + 16);
			v->bat_len = le32_get(x + 24);
		} else if (memcmp(x, metadata_id, 16) == 0) {
			v->metadata = le64_get(x + 16);
		} else if (le32_get(x + 28) & 1) { /* required */
			r = err_set(e, ERR_NOTSUP,
						"the image has a region of an unknown kind that it requires");
		}
	}
	m->host->free(m->host->opaque, t, REGIONS_LEN);
	if (!r && (!v->bat || !v->metadata))
		r = err_set(e, ERR_INVAL, "the image's region table is damaged");
	return r;
}

static int read_metadata(struct import *m, struct vhdx *v, struct err *e) {
	uint8_t *t = import_table(m, v->metadata, METADATA_LEN, e);
	int r = 0;
	if (!t)
		return -ERR_INVAL;
	uint32_t n = memcmp(t, "metadata", 8) == 0 ? le16_get(t + 10) : 0;
	for (uint32_t i = 0; !r && i < MIN(n, 2047u); i++) {
		const uint8_t *x = t + 32 + i * 32;
		uint8_t item[8] = {0};
		r = block_read_sync(m->file, v->metadata + le32_get(x + 16), item, sizeof(item));
		if (memcmp(x, parameters_id, 16) == 0) {
			v->block = le32_get(item);
			v->flags = le32_get(item + 4);
		} else if (memcmp(x, size_id, 16) == 0) {
			v->size = le64_get(item);
		} else if (memcmp(x, sector_id, 16) == 0) {
			v->sector = le32_get(item);
		}
	}
	m->host->free(m->host->opaque, t, METADATA_LEN);
	if (!r && (v->sector != 512 && v->sector != 4096))
		r = err_set(e, ERR_INVAL, "the image's metadata are damaged: sectors of %u bytes",
					v->sector);
	return r;
}

int import_vhdx(struct import *m, struct err *e) {
	struct vhdx v = {0};
	uint8_t magic[8];
	int r = block_read_sync(m->file, 0, magic, sizeof(magic));
	if (r || memcmp(magic, "vhdxfile", 8) != 0)
		return err_set(e, ERR_INVAL, "this is no VHDX image");
	r = read_header(m, e);
	if (!r)
		r = find_regions(m, &v, e);
	if (!r)
		r = read_metadata(m, &v, e);
	if (!r && (v.flags & 2))
		r = err_set(e, ERR_NOTSUP, "the image depends on a parent; merge it there first");
	if (!r)
		r = import_make_map(m, v.size, v.block, e);
	if (r)
		return r;
	/* After each so many entries one is of a bitmap, which only images with a parent use. */
	uint64_t ratio = ((uint64_t)v.sector << 23) / m->unit;
	if (!ratio)
		return err_set(e, ERR_INVAL, "the image's header is damaged: blocks of %u bytes", v.block);
	uint64_t entries = m->units + (m->units - 1) / ratio;
	if (entries * 8 > v.bat_len)
		return err_set(e, ERR_INVAL, "the image's block table is too short");
	uint8_t *t = import_table(m, v.bat, entries * 8, e);
	if (!t)
		return -ERR_INVAL;
	for (uint64_t i = 0; !r && i < m->units; i++) {
		uint64_t x = le64_get(t + (i + i / ratio) * 8);
		enum block_entry kind = x & 7;
		if (kind == PRESENT)
			m->map[i] = x & MIB_MASK;
		else if (kind == PARTLY || kind == 4 || kind == 5)
			r = err_set(e, ERR_INVAL, "the image's block table is damaged: an entry of kind %u",
						kind);
	}
	m->host->free(m->host->opaque, t, entries * 8);
	return r;
}
