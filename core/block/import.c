/* What all importers share: reading by a list of blocks; see import.h. */
#include "core/block/import_int.h"

#define TABLE_MAX (64ull << 20)
#define UNIT_MAX (256u << 20)
#define MARKER 12u /* in front of a compressed block: where it belongs, its length */

static int take(struct import *m, void **p, uint64_t len, struct err *e) {
	if (len > *m->room)
		return err_set(e, ERR_FBIG,
					   "the image has too many blocks to import: lists of more than %llu MiB",
					   IMPORT_MAP_MAX >> 20);
	*p = m->host->alloc(m->host->opaque, len);
	if (!*p)
		return err_set(e, ERR_NOMEM, "no memory for the image's tables");
	*m->room -= len;
	return 0;
}

int import_make_map(struct import *m, uint64_t size, uint64_t unit, struct err *e) {
	if (!is_pow2(unit) || unit < 512 || unit > UNIT_MAX)
		return err_set(e, ERR_INVAL, "the image's header is damaged: blocks of %llu bytes",
					   (unsigned long long)unit);
	if (!size || size > BIT(56))
		return err_set(e, ERR_INVAL, "the image's header is damaged: a disk of %llu bytes",
					   (unsigned long long)size);
	m->size = size;
	m->unit = unit;
	m->units = (size + unit - 1) / unit;
	return take(m, (void **)&m->map, m->units * sizeof(*m->map), e);
}

uint8_t *import_table(struct import *m, uint64_t offset, uint64_t len, struct err *e) {
	if (!len || len > TABLE_MAX || offset > m->file->size || len > m->file->size - offset) {
		err_set(e, ERR_INVAL,
				"the image is damaged: a table of %llu bytes at %llu lies outside of it",
				(unsigned long long)len, (unsigned long long)offset);
		return NULL;
	}
	uint8_t *p = m->host->alloc(m->host->opaque, len);
	int r = p ? block_read_sync(m->file, offset, p, len) : -ERR_NOMEM;
	if (!r)
		return p;
	block_fail(e, r, "the image's tables cannot be read");
	if (p)
		m->host->free(m->host->opaque, p, len);
	return NULL;
}

int import_pass(struct block *file, uint64_t at, const struct block_request *r, uint64_t pos,
				uint64_t len) {
	struct block_request q;
	q.op = BLOCK_READ;
	q.offset = at;
	q.len = len;
	q.fua = false;
	q.nsegs = 0;
	block_slice(&q, r, pos, len);
	return block_submit_sync(file, &q);
}

/* Decompresses a block into m->out. */
static int unpack(struct import *m, uint64_t unit) {
	uint64_t at = m->map[unit];
	uint8_t marker[MARKER];
	if (m->out_unit == unit + 1)
		return 0;
	m->out_unit = 0;
	int r = block_read_sync(m->file, at, marker, sizeof(marker));
	uint32_t len = le32_get(marker + 8);
	if (r || len < 3 || len > m->in_size)
		return r ? r : -ERR_IO;
	r = block_read_sync(m->file, at + MARKER, m->in, len);
	if (!r) /* two bytes of zlib's header, then what it is about */
		r = m->host->inflate(m->host->opaque, BLOCK_ZLIB, m->out, m->unit, m->in + 2, len - 2);
	if (!r)
		m->out_unit = unit + 1;
	return r;
}

static int read_piece(struct import *m, const struct block_request *r, uint64_t pos, uint64_t len) {
	uint64_t offset = r->offset + pos, unit = offset / m->unit, in = offset % m->unit;
	if (!m->map[unit] && !m->plain) {
		block_fill(r, pos, NULL, len);
		return 0;
	}
	if (m->packed) {
		int error = unpack(m, unit);
		if (!error)
			block_fill(r, pos, m->out + in, len);
		return error;
	}
	return import_pass(m->file, m->map[unit] + in, r, pos, len);
}

static void submit(void *self, struct block_request *r) {
	struct import *m = self;
	int error = r->op == BLOCK_READ ? 0 : -ERR_PERM;
	for (uint64_t pos = 0; !error && pos < r->len;) {
		uint64_t n = MIN(r->len - pos, m->unit - (r->offset + pos) % m->unit);
		error = read_piece(m, r, pos, n);
		pos += n;
	}
	block_done(r, error);
}

static int map(void *self, uint64_t offset, uint64_t len, uint64_t *run, enum block_state *state) {
	const struct import *m = self;
	uint64_t unit = offset / m->unit;
	*state = m->map[unit] || m->plain ? BLOCK_IS_DATA : BLOCK_IS_ZERO;
	*run = MIN(len, m->unit - offset % m->unit);
	return 0;
}

static void destroy(struct import *m) {
	const struct block_host *h = m->host;
	if (m->map)
		h->free(h->opaque, m->map, m->units * sizeof(*m->map));
	if (m->in)
		h->free(h->opaque, m->in, m->in_size);
	if (m->out)
		h->free(h->opaque, m->out, m->unit);
	block_close(&m->log);
	h->free(h->opaque, m, sizeof(*m));
}

static int close(void *self) {
	destroy(self);
	return 0;
}

static const struct block_ops ops[] = {
	[IMPORT_VMDK] = {"vmdk", submit, map, close},
	[IMPORT_VHD] = {"vhd", submit, map, close},
	[IMPORT_VHDX] = {"vhdx", submit, map, close},
	[IMPORT_VDI] = {"vdi", submit, map, close},
};

static int (*const openers[])(struct import *, struct err *) = {
	[IMPORT_VMDK] = import_vmdk,
	[IMPORT_VHD] = import_vhd,
	[IMPORT_VHDX] = import_vhdx,
	[IMPORT_VDI] = import_vdi,
};

static int take_buffers(struct import *m, struct err *e) {
	if (!m->packed)
		return 0;
	m->in_size = m->unit * 2;
	int r = take(m, (void **)&m->in, m->in_size, e);
	return r ? r : take(m, (void **)&m->out, m->unit, e);
}

/* What lies behind the file's end would read as zeroes. */
static int judge_places(const struct import *m, struct err *e) {
	for (uint64_t i = 0; i < m->units; i++)
		if (m->map[i] >= m->file->size)
			return err_set(
				e, ERR_INVAL,
				"the image is truncated or damaged: its block %llu lies at %llu, and the "
				"file ends at %llu",
				(unsigned long long)i, (unsigned long long)m->map[i],
				(unsigned long long)m->file->size);
	return 0;
}

static int open_with(struct block *out, struct block *file, enum import_format format,
					 const struct block_host *host, uint64_t *room, bool part, struct err *e) {
	struct import *m = host->alloc(host->opaque, sizeof(*m));
	if (!m)
		return err_set(e, ERR_NOMEM, "no memory for an image");
	m->host = host;
	m->file = file;
	m->room = room;
	m->part = part;
	int r = openers[format](m, e);
	if (!r)
		r = judge_places(m, e);
	if (!r)
		r = take_buffers(m, e);
	if (r) {
		destroy(m);
		return r;
	}
	m->room = NULL; /* the caller's */
	*out = (struct block){.ops = &ops[format], .self = m, .size = m->size, .read_only = true};
	return 0;
}

int import_open(struct block *out, struct block *file, enum import_format format,
				const struct block_host *host, struct err *e) {
	uint64_t room = IMPORT_MAP_MAX;
	return open_with(out, file, format, host, &room, false, e);
}

int import_open_part(struct block *out, struct block *file, const struct block_host *host,
					 uint64_t *room, struct err *e) {
	return open_with(out, file, IMPORT_VMDK, host, room, true, e);
}

bool import_was_replayed(const struct block *b) {
	return b->ops == &ops[IMPORT_VHDX] && ((const struct import *)b->self)->log.ops;
}
