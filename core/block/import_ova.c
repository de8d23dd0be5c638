/* The disks in an OVA [OVF1.1 5.3, 7.1]: a tar archive [POSIX.1 ustar] with an OVF, which nobody
 * needs here, and VMDKs. One that was cut into chunks has members disk.vmdk.000000000 and so on, in
 * order. */
#include "core/block/import_int.h"

#define SECTOR 512u
#define MEMBERS_MAX 1000
#define NAME_MAX 100
#define CHUNK_DIGITS 9

enum { SIZE = 124, TYPE = 156, MAGIC = 257 };

struct member {
	char name[NAME_MAX + 1]; /* of a chunk: the disk's */
	uint64_t at, len;
	bool packed;	/* gzip, which OVF allows */
	uint32_t chunk; /* NOT_CHUNKED: the whole disk */
};

#define NOT_CHUNKED UINT32_MAX

struct search {
	struct block *file;
	struct parts *parts;
	unsigned which, disks; /* wanted, and found so far */
	struct member last;	   /* the newest disk, or its newest chunk */
	char first[NAME_MAX + 1];
};

static bool octal(const uint8_t *p, unsigned n, uint64_t *val) {
	*val = 0;
	while (n && *p == ' ')
		p++, n--;
	for (; n && *p >= '0' && *p <= '7'; p++, n--)
		*val = *val << 3 | (uint64_t)(*p - '0');
	if (n == 12 && (*p & 0x80)) { /* base 256, of what is bigger than 8 GiB */
		for (unsigned i = 4; i < 12; i++)
			*val = *val << 8 | p[i];
		return !(*val >> 56);
	}
	return !n || *p == ' ' || !*p;
}

/* Cuts `ending` off; false: it has none. */
static bool cut(char *name, const char *ending) {
	size_t n = str_len(name), k = str_len(ending);
	if (n <= k || memcmp(name + n - k, ending, k) != 0)
		return false;
	name[n - k] = 0;
	return true;
}

static uint32_t cut_chunk(char *name) {
	size_t n = str_len(name);
	uint32_t val = 0;
	if (n < CHUNK_DIGITS + 2 || name[n - CHUNK_DIGITS - 1] != '.')
		return NOT_CHUNKED;
	for (size_t i = n - CHUNK_DIGITS; i < n; i++) {
		if (name[i] < '0' || name[i] > '9')
			return NOT_CHUNKED;
		val = val * 10 + (uint32_t)(name[i] - '0');
	}
	name[n - CHUNK_DIGITS - 1] = 0;
	return val;
}

static bool is_disk(const uint8_t *h, struct member *m) {
	memset(m->name, 0, sizeof(m->name));
	memcpy(m->name, h, NAME_MAX);
	m->chunk = cut_chunk(m->name);
	m->packed = cut(m->name, ".gz");
	return (h[TYPE] == '0' || !h[TYPE]) && cut(m->name, ".vmdk");
}

/* A disk, a first chunk, or the next chunk of the disk before it. */
static int take_disk(struct search *s, const struct member *m, struct err *e) {
	bool whole = m->chunk == NOT_CHUNKED;
	if (whole || !m->chunk)
		s->disks++;
	else if (!s->disks || s->last.chunk + 1 != m->chunk || !str_eq(s->last.name, m->name))
		return err_set(
			e, ERR_INVAL,
			"the archive is damaged: chunk %u of %s.vmdk does not follow the one before it",
			m->chunk, m->name);
	s->last = *m;
	if (s->disks == 1)
		memcpy(s->first, m->name, sizeof(s->first));
	if (s->disks != MAX(s->which, 1u))
		return 0;
	if (m->packed)
		return err_set(e, ERR_NOTSUP,
					   "%s.vmdk.gz in the archive is compressed; unpack it with tar and gunzip",
					   m->name);
	if (!import_parts_add(s->parts, s->file, m->at, m->len))
		return err_set(e, ERR_FBIG, "the archive has a disk of more than %u chunks",
					   IMPORT_EXTENTS);
	return 0;
}

static int search(struct search *s, struct err *e) {
	uint64_t at = 0, size = s->file->size;
	int r = 0;
	for (unsigned i = 0; !r && at < size && SECTOR <= size - at; i++) {
		uint8_t h[SECTOR];
		struct member m;
		r = block_read_sync(s->file, at, h, sizeof(h));
		if (r)
			return block_fail(e, r, "the archive cannot be read");
		if (!h[0])
			break;
		if (i == MEMBERS_MAX)
			return err_set(e, ERR_FBIG, "the archive has more than %u members", MEMBERS_MAX);
		m.at = at + SECTOR;
		if (memcmp(h + MAGIC, "ustar", 5) != 0 || !octal(h + SIZE, 12, &m.len) ||
			m.len > size - m.at)
			return err_set(e, ERR_INVAL, "this is no OVA archive, or it is damaged at %llu",
						   (unsigned long long)at);
		if (is_disk(h, &m))
			r = take_disk(s, &m, e);
		at = m.at + align_up(m.len, SECTOR);
	}
	return r;
}

static int judge(const struct search *s, struct err *e) {
	if (!s->disks)
		return err_set(e, ERR_INVAL, "the archive has no disk that could be imported, no .vmdk");
	if (s->which > s->disks)
		return err_set(e, ERR_INVAL, "the archive has no disk %u; it has %u", s->which, s->disks);
	if (!s->which && s->disks > 1)
		return err_set(e, ERR_INVAL,
					   "the archive has %u disks, %s.vmdk to %s.vmdk; say which one, --disk 1 to "
					   "--disk %u",
					   s->disks, s->first, s->last.name, s->disks);
	return 0;
}

int import_open_ova(struct block *out, struct block *file, unsigned which,
					const struct block_host *host, struct err *e) {
	struct search s = {.file = file, .parts = import_parts_make(host, e), .which = which};
	if (!s.parts)
		return -ERR_NOMEM;
	int r = search(&s, e);
	if (!r)
		r = judge(&s, e);
	if (r)
		import_parts_drop(s.parts);
	else
		import_parts_open_ova(out, s.parts);
	return r;
}
