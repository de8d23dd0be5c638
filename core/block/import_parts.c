/* Disks made of parts of files, one after the other: VMDKs of several files, and the disk in an
 * OVA (import_ova.c). */
#include "core/block/import_int.h"

struct part {
	struct block *file; /* NULL: zeroes */
	uint64_t start, len, offset;
	struct block sparse; /* opened here over a file; `file` is this then */
};

struct parts {
	const struct block_host *host;
	unsigned n;
	struct part p[IMPORT_EXTENTS];
};

static void submit(void *self, struct block_request *r) {
	const struct parts *x = self;
	uint64_t pos = 0;
	int error = r->op == BLOCK_READ ? 0 : -ERR_PERM;
	for (unsigned i = 0; !error && i < x->n && pos < r->len; i++) {
		const struct part *p = &x->p[i];
		uint64_t at = r->offset + pos, n = MIN(r->len - pos, p->start + p->len - at);
		if (at >= p->start + p->len)
			continue;
		if (p->file)
			error = import_pass(p->file, p->offset + (at - p->start), r, pos, n);
		else
			block_fill(r, pos, NULL, n);
		pos += n;
	}
	/* Behind the last one: a file, as below a format, has zeroes there. */
	if (!error)
		block_fill(r, pos, NULL, r->len - pos);
	block_done(r, error);
}

static int map(void *self, uint64_t offset, uint64_t len, uint64_t *run, enum block_state *state) {
	const struct parts *x = self;
	for (unsigned i = 0; i < x->n; i++) {
		const struct part *p = &x->p[i];
		if (offset >= p->start + p->len)
			continue;
		*run = MIN(len, p->start + p->len - offset);
		*state = BLOCK_IS_ZERO;
		if (p->file)
			return block_map_sync(p->file, p->offset + (offset - p->start), *run, run, state);
		return 0;
	}
	return 0;
}

static int close(void *self) {
	struct parts *x = self;
	for (unsigned i = 0; i < x->n; i++)
		block_close(&x->p[i].sparse);
	x->host->free(x->host->opaque, x, sizeof(*x));
	return 0;
}

static const struct block_ops extents_ops = {"vmdk", submit, map, close},
							  ova_ops = {"ova", submit, map, close};

struct parts *import_parts_make(const struct block_host *host, struct err *e) {
	struct parts *x = host->alloc(host->opaque, sizeof(*x));
	if (x)
		x->host = host;
	else
		err_set(e, ERR_NOMEM, "no memory for an image");
	return x;
}

static uint64_t end_of(const struct parts *x) {
	return x->n ? x->p[x->n - 1].start + x->p[x->n - 1].len : 0;
}

bool import_parts_add(struct parts *x, struct block *file, uint64_t offset, uint64_t len) {
	if (x->n == IMPORT_EXTENTS)
		return false;
	struct part *p = &x->p[x->n];
	*p = (struct part){.file = file, .start = end_of(x), .len = len, .offset = offset};
	x->n++;
	return true;
}

void import_parts_drop(struct parts *x) {
	close(x);
}

void import_parts_open_ova(struct block *out, struct parts *x) {
	*out = (struct block){
		.ops = &ova_ops, .self = x, .size = end_of(x), .read_only = true, .growable = true};
}

/* What the descriptor says of a file must be in it: else the rest would be zeroes. */
static int judge_len(const struct import_extent *x, const struct part *p, struct err *e) {
	if (p->len <= p->file->size && p->offset <= p->file->size - p->len)
		return 0;
	return err_set(e, ERR_INVAL,
				   "\"%s\" is too short: %llu bytes at %llu of it belong to the disk, and it has "
				   "%llu",
				   x->name, (unsigned long long)p->len, (unsigned long long)p->offset,
				   (unsigned long long)p->file->size);
}

static int open_extent(struct part *p, const struct import_extent *x, const struct block_host *host,
					   uint64_t *room, struct err *e) {
	if (x->kind == IMPORT_ZERO)
		return 0;
	if (x->kind == IMPORT_SPARSE) {
		struct err why = {{0}};
		int r = import_open_part(&p->sparse, p->file, host, room, &why);
		if (r)
			return err_set(e, -r, "\"%s\": %s", x->name, why.text);
		p->file = &p->sparse;
	}
	return judge_len(x, p, e);
}

int import_open_extents(struct block *out, const struct import_extent *extents,
						struct block *const *files, unsigned n, const struct block_host *host,
						struct err *e) {
	struct parts *x = import_parts_make(host, e);
	uint64_t room = IMPORT_MAP_MAX;
	int r = x ? 0 : -ERR_NOMEM;
	for (unsigned i = 0; !r && i < n; i++) {
		check(import_parts_add(x, files[i], extents[i].offset, extents[i].len));
		r = open_extent(&x->p[i], &extents[i], host, &room, e);
	}
	if (r) {
		if (x)
			close(x);
		return r;
	}
	*out = (struct block){.ops = &extents_ops, .self = x, .size = end_of(x), .read_only = true};
	return 0;
}
