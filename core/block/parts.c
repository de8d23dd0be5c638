/* See parts.h. */
#include "core/block/parts.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"

#define SECTOR 512u
#define MBR_TABLE 446
#define MBR_ENTRY 16
#define LOGICAL_MAX 60 /* a chain in a circle ends here */
#define GPT_ENTRY_MIN 128u

static int read_sector(struct block *disk, uint64_t sector, uint8_t buf[SECTOR], struct err *e) {
	if (sector >= disk->size / SECTOR)
		return 1;
	int r = block_read_sync(disk, sector * SECTOR, buf, SECTOR);
	return r ? block_fail(e, r, "reading the partition table") : 0;
}

/* Sectors `first` and `n` of them. */
static void add(struct parts *p, const struct block *disk, unsigned number, uint64_t first,
				uint64_t n) {
	uint64_t all = disk->size / SECTOR;
	if (!first || !n || first >= all || n > all - first) {
		p->damaged++;
		return;
	}
	if (p->n < PARTS_MAX)
		p->part[p->n++] = (struct part){number, first * SECTOR, n * SECTOR};
}

/* ---- MBR ----------------------------------------------------------------------------------- */

static bool is_extended(uint8_t type) {
	return type == 0x05 || type == 0x0f || type == 0x85;
}

/* A boot sector of a file system ends with the same two bytes and has program where the table would
 * be: flags that are neither 0 nor 80h tell. */
static bool is_table(const uint8_t *s) {
	bool any = false;
	if (s[510] != 0x55 || s[511] != 0xaa)
		return false;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = s + MBR_TABLE + i * MBR_ENTRY;
		if (entry[0] & 0x7f)
			return false;
		any |= entry[4] != 0;
	}
	return any;
}

/* Each link holds one partition, relative to itself, and the next link, relative to the first. */
static int read_logical(struct block *disk, struct parts *p, uint64_t first, struct err *e) {
	uint8_t s[SECTOR];
	uint64_t at = first;
	for (unsigned i = 0; i < LOGICAL_MAX; i++) {
		int r = read_sector(disk, at, s, e);
		if (r < 0)
			return r;
		if (r || s[510] != 0x55 || s[511] != 0xaa) {
			p->damaged++;
			return 0;
		}
		const uint8_t *own = s + MBR_TABLE, *next = own + MBR_ENTRY;
		if (own[4])
			add(p, disk, 5 + i, at + le32_get(own + 8), le32_get(own + 12));
		if (!is_extended(next[4]))
			return 0;
		at = first + le32_get(next + 8);
	}
	p->damaged++;
	return 0;
}

static int read_mbr(struct block *disk, struct parts *p, const uint8_t *s, struct err *e) {
	p->kind = PARTS_MBR;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = s + MBR_TABLE + i * MBR_ENTRY;
		if (entry[4] && !is_extended(entry[4]))
			add(p, disk, i + 1, le32_get(entry + 8), le32_get(entry + 12));
	}
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = s + MBR_TABLE + i * MBR_ENTRY;
		if (is_extended(entry[4]))
			return read_logical(disk, p, le32_get(entry + 8), e); /* there can be one */
	}
	return 0;
}

/* ---- GPT ----------------------------------------------------------------------------------- */

static int read_gpt(struct block *disk, struct parts *p, const uint8_t *header, struct err *e) {
	uint64_t at = le64_get(header + 72);
	uint32_t count = MIN(le32_get(header + 80), (uint32_t)PARTS_MAX), size = le32_get(header + 84);
	uint8_t s[SECTOR];
	p->kind = PARTS_GPT;
	/* 128 times a power of two; no writer makes entries that do not fit a sector. */
	if (size < GPT_ENTRY_MIN || size > SECTOR || !is_pow2(size) || at < 2 ||
		at >= disk->size / SECTOR) {
		p->damaged++;
		return 0;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t in = i * size % SECTOR;
		int r = in ? 0 : read_sector(disk, at + i * size / SECTOR, s, e);
		if (r < 0)
			return r;
		if (r) {
			p->damaged++;
			return 0;
		}
		static const uint8_t unused[16];
		uint64_t first = le64_get(s + in + 32), last = le64_get(s + in + 40);
		if (memcmp(s + in, unused, sizeof(unused)) == 0)
			continue;
		if (last < first || last == UINT64_MAX)
			p->damaged++;
		else
			add(p, disk, i + 1, first, last - first + 1);
	}
	return 0;
}

int parts_read(struct block *disk, struct parts *p, struct err *e) {
	uint8_t s[SECTOR], header[SECTOR];
	*p = (struct parts){.kind = PARTS_NONE};
	int r = read_sector(disk, 0, s, e);
	if (r)
		return r < 0 ? r : 0;
	if ((r = read_sector(disk, 1, header, e)) < 0)
		return r;
	if (r == 0 && memcmp(header, "EFI PART", 8) == 0)
		return read_gpt(disk, p, header, e);
	return is_table(s) ? read_mbr(disk, p, s, e) : 0;
}
