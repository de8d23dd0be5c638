/* See iso.h. [ECMA-119] 2nd edition for the volume, the Joliet Specification (Microsoft, 1995) for
 * the second tree with real names, which Linux prefers. Left out: folders, times (all
 * are 1970-01-01), path tables of more than the root. */
#include "ctl/image/iso.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"

#define SECTOR 2048u

/* Where things lie. Path tables are a sector each: little and big endian, of both trees. */
enum { PRIMARY = 16, JOLIET, END, TABLES, ROOT = TABLES + 4, JOLIET_ROOT, DATA };

static void both16(uint8_t *p, unsigned v) { /* [ECMA-119 7.2.3] */
	p[0] = p[3] = (uint8_t)v;
	p[1] = p[2] = (uint8_t)(v >> 8);
}

static void both32(uint8_t *p, uint32_t v) { /* [ECMA-119 7.3.3] */
	for (unsigned i = 0; i < 4; i++)
		p[i] = p[7 - i] = (uint8_t)(v >> 8 * i);
}

static size_t ucs2(uint8_t *p, const char *text) {
	size_t n = 0;
	for (; *text; text++) {
		p[n++] = 0;
		p[n++] = (uint8_t)*text;
	}
	return n;
}

/* A directory record [ECMA-119 9.1]; returns its length. */
static unsigned record(uint8_t *p, uint32_t at, uint32_t len, bool folder, const uint8_t *id,
					   size_t id_len) {
	unsigned n = (unsigned)align_up(33 + id_len, 2);
	p[0] = (uint8_t)n;
	both32(p + 2, at);
	both32(p + 10, len);
	p[18] = 70; /* years since 1900 */
	p[19] = p[20] = 1;
	p[25] = folder ? 2 : 0;
	both16(p + 28, 1);
	p[32] = (uint8_t)id_len;
	memcpy(p + 33, id, id_len);
	return n;
}

/* "user-data" as USER_DAT.;1 would clash with others: numbered names, nobody reads them. */
static size_t plain_name(uint8_t *p, unsigned i) {
	memcpy(p, "FILE0.;1", 8);
	p[4] = (uint8_t)('0' + i);
	return 8;
}

static void directory(uint8_t *dir, uint32_t self, const struct iso_file *files, unsigned n,
					  bool joliet) {
	uint8_t id[128], dot = 0, dotdot = 1;
	uint32_t at = DATA;
	dir += record(dir, self, SECTOR, true, &dot, 1);
	dir += record(dir, self, SECTOR, true, &dotdot, 1);
	for (unsigned i = 0; i < n; i++) {
		size_t len = joliet ? ucs2(id, files[i].name) : plain_name(id, i);
		dir += record(dir, at, (uint32_t)files[i].len, false, id, len);
		at += (uint32_t)(align_up(files[i].len, SECTOR) / SECTOR);
	}
}

/* A path table with the root alone [ECMA-119 9.4]. */
static void path_table(uint8_t *p, uint32_t root, bool big) {
	p[0] = 1;
	for (unsigned i = 0; i < 4; i++)
		p[2 + i] = (uint8_t)(root >> 8 * (big ? 3 - i : i));
	p[big ? 7 : 6] = 1;
}

static void date(uint8_t *p) { /* not specified: [ECMA-119 8.4.26.1] */
	memset(p, '0', 16);
}

static void text_field(uint8_t *p, size_t size, const char *text, bool joliet) {
	if (joliet) {
		for (size_t i = 0; i + 1 < size; i += 2) {
			p[i] = 0;
			p[i + 1] = ' ';
		}
		ucs2(p, text);
	} else {
		memset(p, ' ', size);
		memcpy(p, text, strlen(text));
	}
}

/* A primary or supplementary volume descriptor [ECMA-119 8.4, 8.5]. */
static void descriptor(uint8_t *p, const char *label, uint32_t sectors, bool joliet) {
	uint8_t dot = 0;
	uint32_t tables = TABLES + (joliet ? 2 : 0), root = joliet ? JOLIET_ROOT : ROOT;
	p[0] = joliet ? 2 : 1;
	memcpy(p + 1, "CD001\1", 6);
	text_field(p + 8, 32, "", joliet);
	text_field(p + 40, 32, label, joliet);
	both32(p + 80, sectors);
	if (joliet)
		memcpy(p + 88, "%/E", 3); /* UCS-2 level 3 */
	both16(p + 120, 1);
	both16(p + 124, 1);
	both16(p + 128, SECTOR);
	both32(p + 132, 10); /* bytes of a path table */
	for (unsigned i = 0; i < 4; i++) {
		p[140 + i] = (uint8_t)(tables >> 8 * i);
		p[151 - i] = (uint8_t)((tables + 1) >> 8 * i);
	}
	record(p + 156, root, SECTOR, true, &dot, 1);
	for (unsigned at = 190; at < 813; at += 128)
		text_field(p + at, MIN(128u, 813 - at), "", joliet);
	for (unsigned i = 0; i < 4; i++)
		date(p + 813 + 17 * i);
	p[881] = 1;
}

uint8_t *iso_make(const char *label, const struct iso_file *files, unsigned n, size_t *len) {
	size_t sectors = DATA;
	for (unsigned i = 0; i < n; i++)
		sectors += align_up(files[i].len, SECTOR) / SECTOR;
	uint8_t *iso = calloc(sectors, SECTOR);
	if (!iso || n > ISO_FILES) {
		free(iso);
		return NULL;
	}
	descriptor(iso + PRIMARY * SECTOR, label, (uint32_t)sectors, false);
	descriptor(iso + JOLIET * SECTOR, label, (uint32_t)sectors, true);
	memcpy(iso + END * SECTOR,
		   "\xff"
		   "CD001\1",
		   7);
	for (unsigned i = 0; i < 4; i++)
		path_table(iso + (TABLES + i) * SECTOR, i < 2 ? ROOT : JOLIET_ROOT, i % 2);
	directory(iso + ROOT * SECTOR, ROOT, files, n, false);
	directory(iso + JOLIET_ROOT * SECTOR, JOLIET_ROOT, files, n, true);
	uint8_t *at = iso + DATA * SECTOR;
	for (unsigned i = 0; i < n; i++) {
		memcpy(at, files[i].data, files[i].len);
		at += align_up(files[i].len, SECTOR);
	}
	*len = sectors * SECTOR;
	return iso;
}
