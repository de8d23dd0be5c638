/* See block.h. */
#include "core/block/block.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/string.h"

#define FILE_END_MAX (1ull << 56) /* what a qcow2 entry can name */

static int judge(const struct block *b, const struct block_request *r) {
	uint64_t sum = 0, limit = b->growable ? FILE_END_MAX : b->size;
	switch (r->op) {
	case BLOCK_FLUSH:
		return 0;
	case BLOCK_READ:
	case BLOCK_WRITE:
		if (r->nsegs > BLOCK_SEGMENTS)
			return -ERR_INVAL;
		for (unsigned i = 0; i < r->nsegs; i++) {
			if (r->segs[i].len > r->len - sum)
				return -ERR_INVAL;
			sum += r->segs[i].len;
		}
		if (sum != r->len)
			return -ERR_INVAL;
		break;
	case BLOCK_DISCARD:
	case BLOCK_ZEROES:
		break;
	default:
		return -ERR_INVAL;
	}
	if (r->len > limit || r->offset > limit - r->len)
		return -ERR_INVAL;
	return r->op != BLOCK_READ && b->read_only ? -ERR_PERM : 0;
}

void block_submit(struct block *b, struct block_request *r) {
	int error = judge(b, r);
	r->gate = b;
	b->in_work++;
	/* Nothing to make durable in what is never written. */
	bool nothing = r->op == BLOCK_FLUSH ? b->read_only : !r->len;
	if (error || nothing)
		block_done(r, error);
	else
		b->ops->submit(b->self, r);
}

void block_done(struct block_request *r, int error) {
	struct block *b = r->gate;
	check(b && b->in_work && error <= 0);
	r->gate = NULL;
	b->in_work--;
	if (b->growable && !error && (r->op == BLOCK_WRITE || r->op == BLOCK_ZEROES))
		b->size = MAX(b->size, r->offset + r->len);
	if (b->finish)
		b->finish(b->finish_opaque, r, error);
	else
		r->done(r, error);
}

int block_close(struct block *b) {
	if (!b || !b->ops)
		return 0;
	check(!b->in_work);
	int r = b->ops->close ? b->ops->close(b->self) : 0;
	b->ops = NULL;
	return r;
}

struct answer {
	bool done;
	int error;
};

static void sync_done(struct block_request *r, int error) {
	struct answer *a = r->opaque;
	a->done = true;
	a->error = error;
}

int block_submit_sync(struct block *b, struct block_request *r) {
	struct answer a = {false, 0};
	r->done = sync_done;
	r->opaque = &a;
	block_submit(b, r);
	check(a.done); /* a file that completes later has no business here */
	return a.error;
}

static int submit_sync(struct block *b, enum block_op op, uint64_t offset, void *buf,
					   uint64_t len) {
	struct block_request r;
	r.op = op;
	r.offset = offset;
	r.len = len;
	r.fua = false;
	r.nsegs = buf ? 1 : 0;
	r.segs[0] = (struct block_segment){buf, len};
	return block_submit_sync(b, &r);
}

int block_read_sync(struct block *b, uint64_t offset, void *buf, size_t len) {
	return submit_sync(b, BLOCK_READ, offset, buf, len);
}

int block_write_sync(struct block *b, uint64_t offset, const void *buf, size_t len) {
	return submit_sync(b, BLOCK_WRITE, offset, (void *)(uintptr_t)buf, len);
}

int block_zeroes_sync(struct block *b, uint64_t offset, uint64_t len) {
	return submit_sync(b, BLOCK_ZEROES, offset, NULL, len);
}

int block_flush_sync(struct block *b) {
	return submit_sync(b, BLOCK_FLUSH, 0, NULL, 0);
}

int block_map_sync(struct block *b, uint64_t offset, uint64_t len, uint64_t *run,
				   enum block_state *state) {
	check(len && len <= b->size && offset <= b->size - len);
	*run = len;
	*state = BLOCK_IS_DATA;
	int r = b->ops->map ? b->ops->map(b->self, offset, len, run, state) : 0;
	check(r || (*run && *run <= len));
	return r;
}

void block_add_segment(struct block_request *out, void *host, uint64_t len) {
	check(out->nsegs < BLOCK_SEGMENTS);
	out->segs[out->nsegs++] = (struct block_segment){host, len};
}

void block_slice(struct block_request *out, const struct block_request *in, uint64_t pos,
				 uint64_t len) {
	for (unsigned i = 0; i < in->nsegs && len; i++) {
		const struct block_segment *s = &in->segs[i];
		if (pos >= s->len) {
			pos -= s->len;
			continue;
		}
		uint64_t n = MIN(s->len - pos, len);
		block_add_segment(out, s->host + pos, n);
		len -= n;
		pos = 0;
	}
	check(!len);
}

void block_fill(const struct block_request *r, uint64_t pos, const void *from, uint64_t len) {
	const uint8_t *src = from;
	for (unsigned i = 0; i < r->nsegs && len; i++) {
		const struct block_segment *s = &r->segs[i];
		if (pos >= s->len) {
			pos -= s->len;
			continue;
		}
		uint64_t n = MIN(s->len - pos, len);
		if (src) {
			memcpy(s->host + pos, src, n);
			src += n;
		} else {
			memset(s->host + pos, 0, n);
		}
		len -= n;
		pos = 0;
	}
}
