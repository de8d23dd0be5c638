/* Disks made of parts of files: flat VMDKs, and the disk in an OVA (a tar archive,
 * [POSIX.1 ustar]). */
#include "core/block/import_int.h"

#define SECTOR 512u
#define MEMBERS_MAX 1000

struct part {
	struct block *file; /* NULL: zeroes */
	uint64_t start, len, offset;
};

struct parts {
	const struct block_host *host;
	unsigned n;
	struct part p[IMPORT_EXTENTS];
};

static int read_part(const struct part *p, const struct block_request *r, uint64_t pos, uint64_t in,
					 uint64_t len) {
	uint8_t buf[16384];
	if (!p->file) {
		block_fill(r, pos, NULL, len);
		return 0;
	}
	for (uint64_t done = 0; done < len;) {
		uint64_t n = MIN(len - done, sizeof(buf));
		int error = block_read_sync(p->file, p->offset + in + done, buf, n);
		if (error)
			return error;
		block_fill(r, pos + done, buf, n);
		done += n;
	}
	return 0;
}

static void submit(void *self, struct block_request *r) {
	const struct parts *x = self;
	int error = r->op == BLOCK_READ ? 0 : -ERR_PERM;
	for (unsigned i = 0; !error && i < x->n; i++) {
		const struct part *p = &x->p[i];
		uint64_t from = MAX(r->offset, p->start), to = MIN(r->offset + r->len, p->start + p->len);
		if (from < to)
			error = read_part(p, r, from - r->offset, from - p->start, to - from);
	}
	/* Behind the last one: a file, as below a format, has zeroes there. */
	uint64_t end = x->n ? x->p[x->n - 1].start + x->p[x->n - 1].len : 0;
	if (!error && r->offset + r->len > end) {
		uint64_t from = MAX(r->offset, end);
		block_fill(r, from - r->offset, NULL, r->offset + r->len - from);
	}
	block_done(r, error);
}

static int close(void *self) {
	struct parts *x = self;
	x->host->free(x->host->opaque, x, sizeof(*x));
	return 0;
}

static const struct block_ops flat_ops = {"vmdk", submit, NULL, close},
							  ova_ops = {"ova", submit, NULL, close};

static struct parts *make(const struct block_host *host, struct err *e) {
	struct parts *x = host->alloc(host->opaque, sizeof(*x));
	if (x)
		x->host = host;
	else
		err_set(e, ERR_NOMEM, "no memory for an image");
	return x;
}

int import_open_flat(struct block *out, const struct import_extent *extents,
					 struct block *const *files, unsigned n, const struct block_host *host,
					 struct err *e) {
	struct parts *x = make(host, e);
	uint64_t size = 0;
	if (!x)
		return -ERR_NOMEM;
	for (unsigned i = 0; i < n; i++) {
		x->p[x->n++] = (struct part){files[i], size, extents[i].len, extents[i].offset};
		size += extents[i].len;
	}
	*out = (struct block){.ops = &flat_ops, .self = x, .size = size, .read_only = true};
	return 0;
}

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

static bool is_disk(const uint8_t *name) {
	unsigned n = 0;
	while (n < 100 && name[n])
		n++;
	return n > 5 && memcmp(name + n - 5, ".vmdk", 5) == 0;
}

int import_open_ova(struct block *out, struct block *file, const struct block_host *host,
					struct err *e) {
	uint64_t at = 0, len, found = 0, found_len = 0;
	unsigned disks = 0;
	for (unsigned i = 0; i < MEMBERS_MAX && at + SECTOR <= file->size; i++) {
		uint8_t h[SECTOR];
		int r = block_read_sync(file, at, h, sizeof(h));
		if (r)
			return err_set(e, -r, "the archive cannot be read (error %d)", -r);
		if (!h[0])
			break;
		if (memcmp(h + 257, "ustar", 5) != 0 || !octal(h + 124, 12, &len) ||
			len > file->size - at - SECTOR)
			return err_set(e, ERR_INVAL, "this is no OVA archive, or it is damaged at %llu",
						   (unsigned long long)at);
		if ((h[156] == '0' || !h[156]) && is_disk(h)) {
			found = at + SECTOR;
			found_len = len;
			disks++;
		}
		at += SECTOR + align_up(len, SECTOR);
	}
	if (disks != 1)
		return err_set(e, ERR_INVAL,
					   disks
						   ? "the archive has %u disks; unpack it with tar and take them one by one"
						   : "the archive has %u disks that could be imported",
					   disks);
	struct parts *x = make(host, e);
	if (!x)
		return -ERR_NOMEM;
	x->n = 1;
	x->p[0] = (struct part){file, 0, found_len, found};
	*out = (struct block){
		.ops = &ova_ops, .self = x, .size = found_len, .read_only = true, .growable = true};
	return 0;
}
