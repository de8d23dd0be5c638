/* VHDX, Hyper-V's: two headers, a region table that names the metadata and the block table,
 * little-endian. Checksums are not looked at: what matters is judged. */
#include "core/block/import_int.h"

#define HEADER_1 (64u << 10)
#define HEADER_2 (128u << 10)
#define REGIONS (192u << 10)
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

/* The current header is the one with the higher number; its log must be empty. */
static int judge_log(struct import *m, struct err *e) {
	static const uint8_t none[16];
	uint64_t best = 0;
	bool dirty = false, found = false;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t h[80];
		if (block_read_sync(m->file, i ? HEADER_2 : HEADER_1, h, sizeof(h)) ||
			memcmp(h, "head", 4) != 0)
			continue;
		if (found && le64_get(h + 8) < best)
			continue;
		found = true;
		best = le64_get(h + 8);
		dirty = memcmp(h + 48, none, sizeof(none)) != 0;
	}
	if (!found)
		return err_set(e, ERR_INVAL, "the image is damaged: it has no VHDX header");
	if (dirty)
		return err_set(
			e, ERR_NOTSUP,
			"the image was not closed: its log must be replayed by the program that wrote "
			"it");
	return 0;
}

static int find_regions(struct import *m, struct vhdx *v, struct err *e) {
	uint8_t *t = import_table(m, REGIONS, REGIONS_LEN, e);
	if (!t)
		return -ERR_INVAL;
	uint32_t n = memcmp(t, "regi", 4) == 0 ? le32_get(t + 8) : 0;
	for (uint32_t i = 0; i < MIN(n, 2047u); i++) {
		const uint8_t *x = t + 16 + i * 32;
		if (memcmp(x, bat_id, 16) == 0) {
			v->bat = le64_get(x + 16);
			v->bat_len = le32_get(x + 24);
		} else if (memcmp(x, metadata_id, 16) == 0) {
			v->metadata = le64_get(x + 16);
		}
	}
	m->host->free(m->host->opaque, t, REGIONS_LEN);
	return v->bat && v->metadata ? 0 : err_set(e, ERR_INVAL, "the image's region table is damaged");
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
	r = judge_log(m, e);
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
