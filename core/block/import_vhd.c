/* VHD, Virtual PC's and Hyper-V's first: a footer, big-endian, and for dynamic disks a header and a
 * table of blocks. The bitmaps in front of blocks say which sectors were written; the others are
 * zero in the block, too. */
#include "core/block/import_int.h"

#define FOOTER 512u

enum {
	DATA_OFFSET = 16,
	CREATOR = 28,
	SIZE = 48,
	CYLINDERS = 56,
	HEADS = 58,
	SECTORS = 59,
	TYPE = 60
};
enum { TABLE = 16, ENTRIES = 28, BLOCK = 32 };
enum { FIXED = 2, DYNAMIC = 3 };

/* Virtual PC and old writers count in cylinders, whatever the size field says. */
static uint64_t disk_size(const uint8_t *f) {
	uint64_t chs = (uint64_t)(f[CYLINDERS] << 8 | f[CYLINDERS + 1]) * f[HEADS] * f[SECTORS] * 512;
	bool old = memcmp(f + CREATOR, "vpc ", 4) == 0 || memcmp(f + CREATOR, "qemu", 4) == 0;
	return old && chs && chs < 136899993600ull ? chs : be64_get(f + SIZE);
}

static int fixed(struct import *m, const uint8_t *f, struct err *e) {
	uint64_t size = MIN(disk_size(f), m->file->size - FOOTER);
	int r = import_make_map(m, size, 64u << 20, e);
	for (uint64_t i = 0; !r && i < m->units; i++)
		m->map[i] = i * m->unit;
	return r;
}

static int dynamic(struct import *m, const uint8_t *f, struct err *e) {
	uint8_t h[1024];
	int r = block_read_sync(m->file, be64_get(f + DATA_OFFSET), h, sizeof(h));
	if (r || memcmp(h, "cxsparse", 8) != 0)
		return err_set(e, ERR_INVAL, "the image is damaged: its VHD header is missing");
	r = import_make_map(m, disk_size(f), be32_get(h + BLOCK), e);
	if (r)
		return r;
	if (be32_get(h + ENTRIES) < m->units)
		return err_set(e, ERR_INVAL, "the image's table has %u blocks only", be32_get(h + ENTRIES));
	uint8_t *t = import_table(m, be64_get(h + TABLE), m->units * 4, e);
	if (!t)
		return -ERR_INVAL;
	uint64_t bitmap = align_up(m->unit / 512 / 8, 512);
	for (uint64_t i = 0; i < m->units; i++) {
		uint32_t n = be32_get(t + i * 4);
		m->map[i] = n == 0xffffffff ? 0 : n * 512ull + bitmap;
	}
	m->host->free(m->host->opaque, t, m->units * 4);
	return 0;
}

int import_vhd(struct import *m, struct err *e) {
	uint8_t f[FOOTER];
	int r = m->file->size < FOOTER ? -ERR_INVAL
								   : block_read_sync(m->file, m->file->size - FOOTER, f, FOOTER);
	if (!r && memcmp(f, "conectix", 8) != 0) /* a dynamic one has a copy in front */
		r = block_read_sync(m->file, 0, f, FOOTER);
	if (r || memcmp(f, "conectix", 8) != 0)
		return err_set(e, ERR_INVAL, "this is no VHD image");
	switch (be32_get(f + TYPE)) {
	case FIXED:
		m->plain = true;
		return fixed(m, f, e);
	case DYNAMIC:
		return dynamic(m, f, e);
	default:
		return err_set(
			e, ERR_NOTSUP,
			"the image is a VHD of type %u, which depends on another; merge it there first",
			be32_get(f + TYPE));
	}
}
