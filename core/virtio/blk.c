/* virtio block device, id 2 ([VIRTIO1.2 5.2]): SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY,
 * CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES; requests IN, OUT, FLUSH, GET_ID, DISCARD and
 * WRITE_ZEROES, of any framing ([VIRTIO1.2 2.7.4]): the header is the first 16 readable
 * bytes, the status the last writable one.
 *
 * Requests come from a pool made with the device; when it is empty, queues wait until one
 * comes back. A request is the back end's until its completion, even if the driver resets
 * the device meanwhile: it is then an orphan, touches no ring when it ends, and the
 * device's status does not read 0 before it has (device.c). What was in work when the
 * machine was saved is executed again after the load.
 *
 * Left out: geometry, SIZE_MAX, lifetime, secure erase, zoned. VM lock held; back ends may
 * complete from inside of submit(). */
#include "core/virtio/blk.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/vm/vm.h"

#define F_SEG_MAX 2
#define F_RO 5
#define F_BLK_SIZE 6
#define F_FLUSH 9
#define F_TOPOLOGY 10
#define F_CONFIG_WCE 11
#define F_MQ 12
#define F_DISCARD 13
#define F_WRITE_ZEROES 14

enum {
	CONFIG_CAPACITY = 0,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXP = 24,
	CONFIG_MIN_IO = 26,
	CONFIG_WRITEBACK = 32,
	CONFIG_NUM_QUEUES = 34,
	CONFIG_MAX_DISCARD_SECTORS = 36,
	CONFIG_MAX_DISCARD_SEG = 40,
	CONFIG_DISCARD_ALIGNMENT = 44,
	CONFIG_MAX_ZEROES_SECTORS = 48,
	CONFIG_MAX_ZEROES_SEG = 52,
	CONFIG_ZEROES_MAY_UNMAP = 56,
};

enum request_type {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};

enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define SECTOR 512u
#define HEADER_SIZE 16u
#define RANGE_SIZE 16u /* of discard and write zeroes: sector u64, sectors u32, flags u32 */
#define RANGE_UNMAP 1u
#define ID_SIZE 20u

#define QUEUE_SIZE 256
#define REQUESTS 64
#define DATA_SEGS 128u				 /* to the back end at once; it may add two, backend.h */
#define SEG_MAX (DATA_SEGS - 2)		 /* offered: so that header and status fit in 128 too */
#define PIECE_MAX (16u << 20)		 /* bytes to the back end at once */
#define RANGE_SECTORS_MAX (1u << 22) /* 2 GiB */

enum request_owner {
	FREE,
	IN_WORK, /* the back end's */
	ORPHAN,	 /* the back end's, but the driver has reset the device */
	LOADED,	 /* from a saved state, to be started */
};

struct blk_request {
	struct block_request io;
	struct virtio_blk *blk;
	struct virtqueue *q;
	struct blk_request *next; /* in the pool */
	enum request_owner owner;
	uint64_t offset; /* on the disk, where its data starts */
	uint64_t total;	 /* bytes of data */
	uint64_t pos;	 /* of which are done */
	struct virtq_chain chain;
};

struct virtio_blk {
	struct virtio_device dev;
	const struct block_backend *backend;
	struct blk_request *pool;
	bool running;	  /* inside of a queue's loop: completions leave queues to it */
	uint32_t stalled; /* queues that wait for a request, a bit each */
	struct blk_request requests[REQUESTS];
};

static void run_queue(struct virtio_blk *b, struct virtqueue *q);

static struct blk_request *request_take(struct virtio_blk *b) {
	struct blk_request *r = b->pool;
	b->pool = r->next;
	return r;
}

static void request_free(struct blk_request *r) {
	r->owner = FREE;
	r->next = r->blk->pool;
	r->blk->pool = r;
}

/* Answers and gives the chain back. All of it counts as written: the status comes last. */
static void finish(struct blk_request *r, uint8_t status) {
	virtq_chain_write(r->q, &r->chain, r->chain.in_len - 1, &status, 1);
	virtqueue_push(r->q, &r->chain, r->chain.in_len);
	request_free(r);
}

static bool writes(const struct blk_request *r) {
	return r->io.op == BLOCK_WRITE;
}

/* Fills the back end's list with data from r->pos on; returns how many bytes it holds.
 * What does not fit is cut at a block, or at least a sector. */
static uint64_t gather(struct blk_request *r) {
	const struct virtq_chain *c = &r->chain;
	unsigned first = writes(r) ? 0 : c->nout, end = writes(r) ? c->nout : c->nout + c->nin;
	uint64_t skip = r->pos + (writes(r) ? HEADER_SIZE : 0);
	uint64_t want = MIN(r->total - r->pos, (uint64_t)PIECE_MAX), got = 0;
	struct block_request *io = &r->io;
	io->nsegs = 0;
	for (unsigned i = first; i < end && got < want && io->nsegs < DATA_SEGS; i++) {
		const struct virtq_segment *s = &c->seg[i];
		if (skip >= s->len) {
			skip -= s->len;
			continue;
		}
		uint64_t n = MIN(s->len - skip, want - got);
		io->segs[io->nsegs++] = (struct block_segment){s->host + skip, n};
		got += n;
		skip = 0;
	}
	if (got == r->total - r->pos)
		return got;
	uint32_t block = r->blk->backend->block_size;
	uint64_t keep = align_down(got, got >= block ? block : SECTOR);
	while (got > keep) {
		struct block_segment *last = &io->segs[io->nsegs - 1];
		uint64_t cut = MIN(last->len, got - keep);
		last->len -= cut;
		got -= cut;
		if (!last->len)
			io->nsegs--;
	}
	return got;
}

static void submit(struct blk_request *r, enum block_op op, uint64_t offset, uint64_t len) {
	r->io.op = op;
	r->io.offset = offset;
	r->io.len = len;
	r->owner = IN_WORK;
	r->blk->backend->submit(r->blk->backend->opaque, &r->io);
}

static void submit_data(struct blk_request *r) {
	uint64_t n = gather(r);
	if (n)
		submit(r, r->io.op, r->offset + r->pos, n);
	else /* 128 segments that do not make up one sector */
		finish(r, S_IOERR);
}

/* The back end wrote guest memory, successfully or not. */
static void mark_read(struct blk_request *r) {
	const struct virtq_chain *c = &r->chain;
	uint64_t skip = r->pos, left = r->io.len;
	for (unsigned i = c->nout; i < (unsigned)c->nout + c->nin && left; i++) {
		const struct virtq_segment *s = &c->seg[i];
		if (skip >= s->len) {
			skip -= s->len;
			continue;
		}
		uint64_t n = MIN(s->len - skip, left);
		mem_written(r->blk->dev.mem, s->gpa + skip, n);
		left -= n;
		skip = 0;
	}
}

static void run_stalled(struct virtio_blk *b) {
	while (b->stalled && b->pool) {
		unsigned i = (unsigned)__builtin_ctz(b->stalled);
		b->stalled &= b->stalled - 1;
		virtqueue_refresh(&b->dev.vq[i]);
		run_queue(b, &b->dev.vq[i]);
	}
}

static void done(struct block_request *io, int error) {
	struct blk_request *r = io->opaque;
	struct virtio_blk *b = r->blk;
	struct virtqueue *q = r->q;
	check(r->owner == IN_WORK || r->owner == ORPHAN);
	if (io->op == BLOCK_READ)
		mark_read(r);
	if (r->owner == ORPHAN) {
		request_free(r);
	} else if (error) {
		finish(r, error == -ERR_NOTSUP ? S_UNSUPP : S_IOERR);
	} else {
		r->pos += io->len;
		if (r->pos < r->total)
			submit_data(r); /* it may be over, and `r` free, when this returns */
		else
			finish(r, S_OK);
	}
	if (b->running)
		return;
	virtqueue_notify(q);
	run_stalled(b);
}

static bool in_range(const struct virtio_blk *b, uint64_t sector, uint64_t bytes) {
	uint64_t sectors = b->backend->size / SECTOR;
	return !(bytes % SECTOR) && sector <= sectors && bytes / SECTOR <= sectors - sector;
}

static void start_data(struct blk_request *r, enum block_op op, uint64_t sector, uint64_t bytes) {
	const struct virtio_blk *b = r->blk;
	bool write = op == BLOCK_WRITE;
	if (!in_range(b, sector, bytes) || (write && b->backend->read_only)) {
		finish(r, S_IOERR);
		return;
	}
	/* [VIRTIO1.2 5.2.6.2] without a flush command, or told to, every write is durable */
	r->io.fua =
		write && (!virtio_device_has(&b->dev, F_FLUSH) ||
				  (virtio_device_has(&b->dev, F_CONFIG_WCE) && !b->dev.config[CONFIG_WRITEBACK]));
	r->io.op = op;
	r->offset = sector * SECTOR;
	r->total = bytes;
	if (bytes)
		submit_data(r);
	else
		finish(r, S_OK);
}

/* Discard and write zeroes: one range, as offered. */
static void start_range(struct blk_request *r, bool discard) {
	const struct virtio_blk *b = r->blk;
	uint8_t range[RANGE_SIZE];
	if (!virtio_device_has(&b->dev, discard ? F_DISCARD : F_WRITE_ZEROES)) {
		finish(r, S_UNSUPP);
		return;
	}
	if (r->chain.out_len != HEADER_SIZE + RANGE_SIZE ||
		virtq_chain_read(&r->chain, HEADER_SIZE, range, sizeof(range)) != sizeof(range)) {
		finish(r, S_IOERR);
		return;
	}
	uint64_t sector = le64_get(range);
	uint32_t sectors = le32_get(range + 8), flags = le32_get(range + 12);
	if (flags & ~(discard ? 0 : RANGE_UNMAP)) { /* [VIRTIO1.2 5.2.6.2] unknown flags */
		finish(r, S_UNSUPP);
		return;
	}
	if (sectors > RANGE_SECTORS_MAX || !in_range(b, sector, (uint64_t)sectors * SECTOR) ||
		b->backend->read_only) {
		finish(r, S_IOERR);
		return;
	}
	if (!sectors) {
		finish(r, S_OK);
		return;
	}
	r->io.nsegs = 0;
	r->io.fua = false;
	r->total = (uint64_t)sectors * SECTOR;
	submit(r, discard ? BLOCK_DISCARD : BLOCK_ZEROES, sector * SECTOR, r->total);
}

static void start_get_id(struct blk_request *r) {
	uint8_t id[ID_SIZE] = {0};
	memcpy(id, r->blk->backend->serial, MIN(str_len(r->blk->backend->serial), sizeof(id)));
	virtq_chain_write(r->q, &r->chain, 0, id, (size_t)MIN(r->chain.in_len - 1, ID_SIZE));
	finish(r, S_OK);
}

/* Judges a request and sends it on its way; it may be answered when this returns. */
static void start(struct blk_request *r) {
	uint8_t header[HEADER_SIZE];
	struct virtq_chain *c = &r->chain;
	r->pos = r->total = 0;
	if (!c->in_len || virtq_chain_read(c, 0, header, sizeof(header)) != sizeof(header)) {
		virtio_device_fail(&r->blk->dev, r->q->index, "a request without header or status");
		request_free(r);
		return;
	}
	uint64_t sector = le64_get(header + 8);
	switch (le32_get(header)) {
	case T_IN:
		start_data(r, BLOCK_READ, sector, c->in_len - 1);
		break;
	case T_OUT:
		start_data(r, BLOCK_WRITE, sector, c->out_len - HEADER_SIZE);
		break;
	case T_FLUSH:
		r->io.nsegs = 0;
		r->io.fua = false;
		submit(r, BLOCK_FLUSH, 0, 0);
		break;
	case T_GET_ID:
		start_get_id(r);
		break;
	case T_DISCARD:
		start_range(r, true);
		break;
	case T_WRITE_ZEROES:
		start_range(r, false);
		break;
	default:
		finish(r, S_UNSUPP);
		break;
	}
}

static void run_queue(struct virtio_blk *b, struct virtqueue *q) {
	if (b->running)
		return;
	b->running = true;
	for (;;) {
		if (!b->pool) {
			b->stalled |= 1u << q->index;
			break;
		}
		if (!virtqueue_pop(q, &b->pool->chain))
			break;
		struct blk_request *r = request_take(b);
		r->q = q;
		start(r);
	}
	b->running = false;
	virtqueue_notify(q);
}

static void notify(void *self, unsigned queue) {
	struct virtio_blk *b = self;
	run_queue(b, &b->dev.vq[queue]);
}

static void config_write(void *self, unsigned off, unsigned size, uint32_t val) {
	struct virtio_blk *b = self;
	if (off == CONFIG_WRITEBACK && size == 1 && virtio_device_has(&b->dev, F_CONFIG_WCE))
		b->dev.config[CONFIG_WRITEBACK] = val & 1;
}

static void reset(void *self) {
	struct virtio_blk *b = self;
	for (unsigned i = 0; i < REQUESTS; i++) {
		struct blk_request *r = &b->requests[i];
		if (r->owner == IN_WORK)
			r->owner = ORPHAN;
		else if (r->owner == LOADED)
			request_free(r);
	}
	b->stalled = 0;
	b->dev.config[CONFIG_WRITEBACK] = 1;
}

static bool busy(void *self) {
	struct virtio_blk *b = self;
	for (unsigned i = 0; i < REQUESTS; i++) {
		if (b->requests[i].owner == IN_WORK || b->requests[i].owner == ORPHAN)
			return true;
	}
	return false;
}

/* Only the chain of a request in work goes out: it is executed again from its start. */
static void request_state(struct state_io *io, struct virtio_blk *b, struct blk_request *r) {
	uint32_t queue = io->loading ? 0 : r->q->index;
	if (io->loading)
		r->owner = LOADED; /* even if the rest fails: it is not in the pool */
	state_u32_below(io, "queue", &queue, b->dev.nvq);
	if (io->error)
		return;
	r->q = &b->dev.vq[queue];
	virtq_chain_state(io, r->q, &r->chain);
}

static void state(struct state_io *io, void *self) {
	struct virtio_blk *b = self;
	uint32_t count = 0;
	state_u8(io, "writeback", &b->dev.config[CONFIG_WRITEBACK]);
	for (unsigned i = 0; i < REQUESTS; i++) {
		enum request_owner owner = b->requests[i].owner;
		if (io->loading && owner == LOADED)
			request_free(&b->requests[i]);
		else if (owner == IN_WORK || owner == LOADED)
			count++;
	}
	state_u32_below(io, "requests", &count, REQUESTS + 1);
	if (io->error)
		return;
	if (io->loading) {
		b->dev.config[CONFIG_WRITEBACK] &= 1;
		b->stalled = 0;
		for (; count && !io->error; count--)
			request_state(io, b, request_take(b));
		return;
	}
	for (unsigned i = 0; i < REQUESTS; i++) {
		if (b->requests[i].owner == IN_WORK || b->requests[i].owner == LOADED)
			request_state(io, b, &b->requests[i]);
	}
}

static void loaded(void *self) {
	struct virtio_blk *b = self;
	for (unsigned i = 0; i < REQUESTS; i++) {
		struct blk_request *r = &b->requests[i];
		if (r->owner != LOADED)
			continue;
		if (!virtio_device_live(&b->dev) || !virtq_chain_resolve(r->q, &r->chain)) {
			request_free(r);
			continue;
		}
		b->running = true;
		start(r);
		b->running = false;
	}
	for (unsigned i = 0; i < b->dev.nvq; i++)
		virtqueue_notify(&b->dev.vq[i]);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.notify = notify,
	.config_write = config_write,
	.reset = reset,
	.busy = busy,
	.state = state,
	.loaded = loaded,
};

static void fill_config(struct virtio_blk *b, unsigned nqueues) {
	uint8_t *c = b->dev.config;
	uint32_t block = b->backend->block_size;
	le64_put(c + CONFIG_CAPACITY, b->backend->size / SECTOR);
	le32_put(c + CONFIG_SEG_MAX, SEG_MAX);
	/* What is addressed stays the sector; larger blocks are told as the physical ones. */
	le32_put(c + CONFIG_BLK_SIZE, SECTOR);
	c[CONFIG_PHYSICAL_EXP] = (uint8_t)__builtin_ctz(block / SECTOR);
	le16_put(c + CONFIG_MIN_IO, (uint16_t)(block / SECTOR));
	c[CONFIG_WRITEBACK] = 1;
	le16_put(c + CONFIG_NUM_QUEUES, (uint16_t)nqueues);
	le32_put(c + CONFIG_MAX_DISCARD_SECTORS, RANGE_SECTORS_MAX);
	le32_put(c + CONFIG_MAX_DISCARD_SEG, 1);
	le32_put(c + CONFIG_DISCARD_ALIGNMENT, block / SECTOR);
	le32_put(c + CONFIG_MAX_ZEROES_SECTORS, RANGE_SECTORS_MAX);
	le32_put(c + CONFIG_MAX_ZEROES_SEG, 1);
	c[CONFIG_ZEROES_MAY_UNMAP] = b->backend->discard;
}

struct virtio_device *virtio_blk_create(struct vm *vm, const struct block_backend *backend,
										unsigned nqueues) {
	check(nqueues >= 1 && nqueues <= VIRTIO_BLK_QUEUES);
	check(is_pow2(backend->block_size) && backend->block_size >= SECTOR);
	uint64_t features = BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY) |
						BIT(F_CONFIG_WCE) | BIT(F_MQ);
	if (backend->read_only)
		features |= BIT(F_RO);
	else
		features |= BIT(F_WRITE_ZEROES) | (backend->discard ? BIT(F_DISCARD) : 0);
	struct virtio_blk *b = vm_alloc(vm, sizeof(*b));
	if (!b || !virtio_device_init(&b->dev, vm, &ops, b, features, nqueues, QUEUE_SIZE))
		return NULL;
	b->backend = backend;
	for (unsigned i = 0; i < REQUESTS; i++) {
		struct blk_request *r = &b->requests[i];
		r->blk = b;
		r->io.opaque = r;
		r->io.done = done;
		request_free(r);
	}
	fill_config(b, nqueues);
	return &b->dev;
}
