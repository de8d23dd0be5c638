/* VMDK, VMware's [VMDK5]: a sparse file, plain or stream-optimized (compressed, its directory
 * behind the data), or a text, the descriptor, that names sparse and flat files. */
#include "core/block/import_int.h"

enum {
	FLAGS = 8,
	CAPACITY = 12,
	GRAIN = 20,
	DESCRIPTOR = 28,
	DESCRIPTOR_LEN = 36,
	TABLE_ENTRIES = 44,
	DIRECTORY = 56,
	ALGORITHM = 77,
};

#define SECTOR 512u
#define F_COMPRESSED (1u << 16)
#define AT_END UINT64_MAX
#define TEXT_MAX (256u << 10) /* a line for each of IMPORT_EXTENTS files */

static const char descriptor_start[] = "# Disk DescriptorFile";

static bool starts(const char *p, const char *end, const char *with) {
	size_t n = str_len(with);
	return (size_t)(end - p) >= n && memcmp(p, with, n) == 0;
}

static const char *next_line(const char *p, const char *end) {
	while (p < end && *p != '\n')
		p++;
	return p < end ? p + 1 : end;
}

/* A difference to another image says so in its descriptor, and so does an encrypted one. */
static int judge_text(const char *p, const char *end, struct err *e) {
	for (; p < end; p = next_line(p, end)) {
		if (starts(p, end, "parentCID=") && !starts(p, end, "parentCID=ffffffff"))
			return err_set(e, ERR_NOTSUP, "the image depends on a parent; merge it there first");
		if (starts(p, end, "encryption."))
			return err_set(e, ERR_NOTSUP, "the image is encrypted; decrypt it there first");
	}
	return 0;
}

/* A sparse file with no descriptor in it is a part of a disk: the next one's blocks would be
 * missing. */
static int judge_descriptor(struct import *m, const uint8_t *h, struct err *e) {
	uint64_t at = le64_get(h + DESCRIPTOR) * SECTOR, len = le64_get(h + DESCRIPTOR_LEN) * SECTOR;
	bool found = false;
	int r = 0;
	if (at && len) {
		len = MIN(len, (uint64_t)TEXT_MAX);
		char *t = (char *)import_table(m, at, len, e);
		if (!t)
			return -ERR_INVAL;
		found = starts(t, t + len, descriptor_start);
		r = judge_text(t, t + len, e);
		m->host->free(m->host->opaque, t, len);
	}
	if (!r && !found && !m->part)
		r = err_set(e, ERR_INVAL,
					"the file is one part of a VMDK of several; name the one that describes them "
					"(disk.vmdk for disk-s001.vmdk)");
	return r;
}

static int read_grains(struct import *m, const uint8_t *h, struct err *e) {
	uint64_t per = le32_get(h + TABLE_ENTRIES), dir_at = le64_get(h + DIRECTORY) * SECTOR;
	if (!per || per > 65536)
		return err_set(e, ERR_INVAL, "the image's header is damaged: grain tables of %llu entries",
					   (unsigned long long)per);
	uint64_t tables = (m->units + per - 1) / per;
	uint8_t *dir = import_table(m, dir_at, tables * 4, e);
	int r = dir ? 0 : -ERR_INVAL;
	for (uint64_t i = 0; !r && i < tables; i++) {
		uint64_t at = le32_get(dir + i * 4), n = MIN(per, m->units - i * per);
		uint8_t *t = at ? import_table(m, at * SECTOR, n * 4, e) : NULL;
		if (at && !t)
			r = -ERR_INVAL;
		for (uint64_t k = 0; t && k < n; k++) { /* 1: a grain of zeroes */
			uint64_t x = le32_get(t + k * 4);
			m->map[i * per + k] = x > 1 ? x * SECTOR : 0;
		}
		if (t)
			m->host->free(m->host->opaque, t, n * 4);
	}
	if (dir)
		m->host->free(m->host->opaque, dir, tables * 4);
	return r;
}

int import_vmdk(struct import *m, struct err *e) {
	uint8_t h[SECTOR];
	int r = block_read_sync(m->file, 0, h, sizeof(h));
	if (r || memcmp(h, "KDMV", 4) != 0)
		return err_set(e, ERR_INVAL, "this is no VMDK image");
	/* Written as a stream: the header that knows is the last sector but one. */
	if (le64_get(h + DIRECTORY) == AT_END) {
		r = m->file->size < 4 * SECTOR
				? -ERR_INVAL
				: block_read_sync(m->file, m->file->size - 2 * SECTOR, h, sizeof(h));
		if (r || memcmp(h, "KDMV", 4) != 0 || le64_get(h + DIRECTORY) == AT_END)
			return err_set(e, ERR_INVAL, "the image is truncated: its end is missing");
	}
	if ((le32_get(h + FLAGS) & F_COMPRESSED) && le16_get(h + ALGORITHM) != 1)
		return err_set(e, ERR_NOTSUP, "the image is compressed by method %u, which is not known",
					   le16_get(h + ALGORITHM));
	m->packed = le32_get(h + FLAGS) & F_COMPRESSED;
	uint64_t capacity = le64_get(h + CAPACITY), grain = le64_get(h + GRAIN);
	if (capacity > BIT(47) || grain > (m->packed ? 4096 : BIT(15)))
		return err_set(e, ERR_INVAL, "the image's header is damaged: grains of %llu sectors",
					   (unsigned long long)grain);
	r = judge_descriptor(m, h, e);
	if (!r)
		r = import_make_map(m, capacity * SECTOR, grain * SECTOR, e);
	return r ? r : read_grains(m, h, e);
}

static const char *number(const char *p, const char *end, uint64_t *n) {
	*n = 0;
	while (p < end && *p == ' ')
		p++;
	while (p < end && *p >= '0' && *p <= '9' && *n < BIT(47))
		*n = *n * 10 + (uint64_t)(*p++ - '0');
	while (p < end && *p == ' ')
		p++;
	return p;
}

static int parse_name(const char *p, const char *end, struct import_extent *x, const char **rest,
					  struct err *e) {
	size_t n = 0;
	if (p == end || *p++ != '"')
		return err_set(e, ERR_INVAL, "the descriptor is damaged: an extent without a name");
	while (p < end && *p != '"' && *p != '\n' && n < IMPORT_NAME_MAX)
		x->name[n++] = *p++;
	if (n == IMPORT_NAME_MAX && p < end && *p != '"')
		return err_set(e, ERR_INVAL, "the descriptor names a file by more than %u characters",
					   IMPORT_NAME_MAX);
	/* A descriptor comes from anywhere: it must not open what it likes. */
	bool bad = p == end || *p != '"' || !n || x->name[0] == '.';
	for (size_t i = 0; i < n; i++)
		bad |= x->name[i] == '/' || !x->name[i];
	if (bad)
		return err_set(e, ERR_INVAL,
					   "the descriptor names a file \"%s\"; only plain names in its own folder are "
					   "opened, no paths and none that begins with a dot",
					   x->name);
	*rest = p + 1;
	return 0;
}

/* RW 2048 FLAT "name" 0, behind its first word */
static int parse_extent(const char *p, const char *end, struct import_extent *x, struct err *e) {
	static const struct {
		const char *word;
		enum import_extent_kind kind;
	} kinds[] = {{"FLAT ", IMPORT_FLAT}, {"VMFS ", IMPORT_FLAT}, {"SPARSE ", IMPORT_SPARSE}};
	uint64_t sectors, offset = 0;
	memset(x, 0, sizeof(*x));
	p = number(p, end, &sectors);
	x->len = sectors * SECTOR;
	if (!sectors || sectors >= BIT(47))
		return err_set(e, ERR_INVAL, "the descriptor is damaged: an extent without a size");
	if (starts(p, end, "ZERO"))
		return 0;
	for (unsigned i = 0; i < ARRAY_LEN(kinds) && !x->kind; i++)
		if (starts(p, end, kinds[i].word)) {
			x->kind = kinds[i].kind;
			p += str_len(kinds[i].word);
		}
	if (!x->kind)
		return err_set(e, ERR_NOTSUP,
					   "the descriptor has an extent that is neither FLAT, VMFS, SPARSE nor ZERO; "
					   "copy the disk there with vmkfstools first");
	int r = parse_name(p, end, x, &p, e);
	if (r || x->kind == IMPORT_SPARSE)
		return r;
	number(p, end, &offset);
	x->offset = offset * SECTOR;
	return 0;
}

static int parse_descriptor(const char *text, const char *end, struct import_extent *extents,
							unsigned *n, struct err *e) {
	static const char *const words[] = {"RW ", "RDONLY ", "NOACCESS "};
	uint64_t size = 0;
	int r = judge_text(text, end, e);
	for (const char *p = text; !r && p < end; p = next_line(p, end)) {
		const char *word = NULL;
		for (unsigned i = 0; i < ARRAY_LEN(words) && !word; i++)
			word = starts(p, end, words[i]) ? words[i] : NULL;
		if (!word)
			continue;
		if (*word == 'N')
			return err_set(e, ERR_NOTSUP, "the descriptor has an extent that nobody may read");
		if (*n == IMPORT_EXTENTS)
			return err_set(e, ERR_FBIG, "the image has more than %u files", IMPORT_EXTENTS);
		r = parse_extent(p + str_len(word), end, &extents[*n], e);
		size += extents[(*n)++].len;
	}
	if (!r && (!*n || size > BIT(56)))
		r = err_set(e, ERR_INVAL,
					*n ? "the descriptor is damaged: a disk that is too big"
					   : "the descriptor names no files");
	return r;
}

int import_vmdk_extents(struct block *file, const struct block_host *host,
						struct import_extent extents[IMPORT_EXTENTS], unsigned *n, struct err *e) {
	char head[sizeof(descriptor_start) - 1];
	*n = 0;
	int r = block_read_sync(file, 0, head, sizeof(head));
	if (r)
		return block_fail(e, r, "the image cannot be read");
	if (memcmp(head, descriptor_start, sizeof(head)) != 0)
		return 0;
	if (file->size > TEXT_MAX)
		return err_set(e, ERR_FBIG, "the descriptor has %llu bytes; the limit is %u",
					   (unsigned long long)file->size, TEXT_MAX);
	size_t len = (size_t)file->size;
	char *text = host->alloc(host->opaque, len);
	r = text ? block_read_sync(file, 0, text, len) : -ERR_NOMEM;
	if (r)
		block_fail(e, r, "the descriptor cannot be read");
	else
		r = parse_descriptor(text, text + len, extents, n, e);
	if (text)
		host->free(host->opaque, text, len);
	return r ? r : 1;
}
