/* VDI, VirtualBox's: a header and a table of blocks, little-endian. */
#include "core/block/import_int.h"

enum {
	SIGNATURE = 0x40,
	VERSION = 0x44,
	TYPE = 0x4c,
	TABLE = 0x154,
	DATA = 0x158,
	SIZE = 0x170,
	BLOCK = 0x178,
	BLOCK_EXTRA = 0x17c,
	BLOCKS = 0x180,
};

#define FREE 0xfffffffeu /* this and above: zeroes */

int import_vdi(struct import *m, struct err *e) {
	uint8_t h[512];
	int r = block_read_sync(m->file, 0, h, sizeof(h));
	if (r || le32_get(h + SIGNATURE) != 0xbeda107f)
		return err_set(e, ERR_INVAL, "this is no VDI image");
	if (le32_get(h + VERSION) >> 16 != 1)
		return err_set(e, ERR_NOTSUP, "the image is VDI version %u; only 1 is supported",
					   le32_get(h + VERSION) >> 16);
	if (le32_get(h + TYPE) != 1 && le32_get(h + TYPE) != 2)
		return err_set(
			e, ERR_NOTSUP,
			"the image is a VDI of type %u, which depends on another; merge it there first",
			le32_get(h + TYPE));
	r = import_make_map(m, le64_get(h + SIZE), le32_get(h + BLOCK), e);
	if (r)
		return r;
	if (m->units > le32_get(h + BLOCKS))
		return err_set(e, ERR_INVAL, "the image's header is damaged: %u blocks",
					   le32_get(h + BLOCKS));
	uint8_t *t = import_table(m, le32_get(h + TABLE), m->units * 4, e);
	if (!t)
		return -ERR_INVAL;
	uint64_t step = m->unit + le32_get(h + BLOCK_EXTRA);
	for (uint64_t i = 0; i < m->units; i++) {
		uint32_t n = le32_get(t + i * 4);
		m->map[i] = n >= FREE ? 0 : le32_get(h + DATA) + n * step + le32_get(h + BLOCK_EXTRA);
	}
	m->host->free(m->host->opaque, t, m->units * 4);
	return 0;
}
