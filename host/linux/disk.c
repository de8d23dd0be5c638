/* See disk.h. */
#include "host/linux/disk.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "core/base/bits.h"
#include "core/base/fair.h"
#include "core/base/fmt.h"
#include "host/linux/clock.h"
#include "host/linux/disk_io.h"
#include "host/linux/image.h"
#include "host/linux/ledger.h"
#include "host/linux/limit_text.h"

#define SECTOR 512u
#define PIECES 2 /* in work at once; fair.h allows one, unless the others go away meanwhile */

struct requests {
	struct block_request *first, *last;
};

struct host_disk {
	struct block_backend backend;
	const struct vm_host *vm;
	struct image *image;
	struct ledger *ledger;
	int share; /* in it */
	struct disk_io *io;
	pthread_mutex_t lock; /* taken after the VM lock; guards the next four */
	struct requests incoming;
	bool quit;
	struct host_disk_limits limits;
	bool new_limits;
	/* The disk's thread only: */
	struct requests finished, held; /* held: waits for the limits */
	struct bucket bytes, requests;
	struct cut {
		struct block_request *whole; /* its pieces are being sent, or are in work; NULL: none */
		uint64_t pos;				 /* so much of it was sent */
		int error;
		struct block_request *spare[PIECES];
		unsigned nspare;
	} cut;
	bool has_thread;
	pthread_t thread;
};

static void add(struct requests *q, struct block_request *r) {
	r->next = NULL;
	if (q->first)
		q->last->next = r;
	else
		q->first = r;
	q->last = r;
}

static uint64_t bytes_of(const struct block_request *r) {
	return r->op == BLOCK_READ || r->op == BLOCK_WRITE ? r->len : 0;
}

/* Out of the gate: kept, so that several share one turn of the VM lock. */
static void finish(void *opaque, struct block_request *r, int error) {
	struct host_disk *d = opaque;
	struct cut *c = &d->cut;
	ledger_disk_end(d->ledger, d->share, bytes_of(r));
	if (r->opaque == c) {
		c->spare[c->nspare++] = r;
		c->error = c->error ? c->error : error;
		if (c->pos < c->whole->len || c->nspare < PIECES)
			return;
		r = c->whole;
		error = c->error;
		c->whole = NULL;
	}
	r->error = error;
	add(&d->finished, r);
}

/* ---- pieces ----------------------------------------------------------------------------- */

/* A large request that would keep the device from the other VMs' goes in pieces (core/base/fair.h),
 * one such request at a time. A device promises its driver no more than that sectors are whole. */
static bool is_cut(struct host_disk *d, const struct block_request *r) {
	if (d->cut.whole == r)
		return true;
	return bytes_of(r) > FAIR_PIECE && ledger_disk_near(d->ledger, d->share);
}

/* How much of the first one that is held goes next; 0: its turn comes when a piece is done. */
static uint64_t next_bytes(struct host_disk *d, const struct block_request *r, bool cut) {
	struct cut *c = &d->cut;
	if (!cut)
		return bytes_of(r);
	if ((c->whole && c->whole != r) || !c->nspare)
		return 0;
	return MIN(r->len - (c->whole ? c->pos : 0), FAIR_PIECE);
}

static void send_piece(struct host_disk *d, struct block_request *r, uint64_t len) {
	struct cut *c = &d->cut;
	if (c->whole != r) {
		c->whole = r;
		c->pos = 0;
		c->error = 0;
	}
	struct block_request *p = c->spare[--c->nspare];
	p->op = r->op;
	p->offset = r->offset + c->pos;
	p->len = len;
	p->fua = r->fua;
	p->nsegs = 0;
	p->opaque = c;
	block_slice(p, r, c->pos, len);
	c->pos += len;
	if (c->pos == r->len)
		d->held.first = r->next;
	block_submit(d->image->top, p);
}

static void answer(struct host_disk *d) {
	struct block_request *r = d->finished.first;
	d->finished.first = NULL;
	if (!r)
		return;
	d->vm->lock(d->vm->opaque);
	while (r) {
		struct block_request *next = r->next;
		r->done(r, r->error);
		r = next;
	}
	d->vm->unlock(d->vm->opaque);
}

/* Sends on what the limits and the other VMs' shares allow, in order; returns for how long the rest
 * has to wait. What is still there when the VM has ended goes at once. */
static uint64_t send_held(struct host_disk *d, bool quit) {
	bool limited = d->bytes.limit.rate || d->requests.limit.rate;
	while (d->held.first) {
		struct block_request *r = d->held.first;
		if (limited && !quit) {
			uint64_t now = host_now_ns();
			uint64_t wait = MAX(bucket_wait(&d->bytes, now), bucket_wait(&d->requests, now));
			if (wait)
				return wait;
		}
		bool cut = is_cut(d, r), first = d->cut.whole != r;
		uint64_t len = next_bytes(d, r, cut);
		if (cut && !len)
			break;
		uint64_t wait = ledger_disk_begin(d->ledger, d->share, len, quit);
		if (wait)
			return wait;
		bucket_take(&d->requests, first);
		bucket_take(&d->bytes, len);
		if (cut) {
			send_piece(d, r, len);
		} else {
			d->held.first = r->next;
			block_submit(d->image->top, r);
		}
	}
	return UINT64_MAX;
}

static void *run(void *opaque) {
	struct host_disk *d = opaque;
	for (;;) {
		pthread_mutex_lock(&d->lock);
		struct block_request *r = d->incoming.first;
		bool quit = d->quit, fresh = d->new_limits;
		struct host_disk_limits l = d->limits;
		d->incoming.first = NULL;
		d->new_limits = false;
		pthread_mutex_unlock(&d->lock);
		if (fresh) {
			bucket_init(&d->bytes, l.bytes, host_now_ns());
			bucket_init(&d->requests, l.requests, host_now_ns());
		}
		for (struct block_request *next; r; r = next) {
			next = r->next;
			add(&d->held, r);
		}
		uint64_t wait_ns = send_held(d, quit);
		if (d->finished.first) {
			answer(d); /* which may bring new requests */
			continue;
		}
		if (quit && !d->image->top->in_work)
			return NULL;
		d->io->ops->wait(d->io, wait_ns);
	}
}

static void submit(void *opaque, struct block_request *r) {
	struct host_disk *d = opaque;
	pthread_mutex_lock(&d->lock);
	bool first = !d->incoming.first;
	add(&d->incoming, r);
	pthread_mutex_unlock(&d->lock);
	if (first)
		d->io->ops->wake(d->io);
}

static int start(struct host_disk *d, const char *name, const struct host_disk_options *o,
				 struct err *e) {
	struct image_options io = {.read_only = o->read_only, .direct = o->direct};
	int r = image_open(&d->image, name, &io, e);
	if (!r && d->image->format > IMAGE_QCOW2) /* importers block */
		r = err_set(e, ERR_NOTSUP, "disk %s is for import only; `joist disk convert` it to qcow2",
					name);
	if (!r)
		r = disk_io_create(&d->io, e);
	if (r)
		return r;
	struct block *top = d->image->top;
	/* A device counts in sectors; the rest of an odd image is out of its reach. */
	d->backend = (struct block_backend){.submit = submit,
										.opaque = d,
										.size = top->size / SECTOR * SECTOR,
										.block_size = SECTOR,
										.read_only = o->read_only,
										.discard = !o->read_only};
	if (!d->backend.size)
		return err_set(e, ERR_INVAL, "disk %s is empty; `joist disk resize` makes it bigger",
					   d->image->path);
	const char *base = strrchr(d->image->path, '/');
	snprintf(d->backend.serial, sizeof(d->backend.serial), "%s",
			 o->serial ? o->serial
			 : base	   ? base + 1
					   : d->image->path);
	d->limits = o->limits;
	d->new_limits = true;
	struct stat st;
	d->ledger = o->ledger;
	d->share = stat(d->image->path, &st) == 0 ? ledger_add_disk(d->ledger, st.st_dev) : -1;
	for (; d->ledger && d->cut.nspare < PIECES; d->cut.nspare++) {
		d->cut.spare[d->cut.nspare] = malloc(sizeof(struct block_request));
		if (!d->cut.spare[d->cut.nspare])
			return err_set(e, ERR_NOMEM, "disk %s: no memory", name);
	}
	image_set_io(d->image, d->io);
	top->finish = finish;
	top->finish_opaque = d;
	r = pthread_create(&d->thread, NULL, run, d);
	if (r)
		return err_set(e, r, "disk %s: cannot start a thread: %s", name, strerror(r));
	d->has_thread = true;
	pthread_setname_np(d->thread, "disk");
	return 0;
}

int host_disk_open(struct host_disk **out, const char *name, const struct host_disk_options *o,
				   const struct vm_host *vm, struct err *e) {
	struct host_disk *d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, ERR_NOMEM, "disk %s: no memory", name);
	d->vm = vm;
	pthread_mutex_init(&d->lock, NULL);
	int r = start(d, name, o, e);
	if (r) {
		host_disk_close(d);
		return r;
	}
	*out = d;
	return 0;
}

void host_disk_set_limits(struct host_disk *d, const struct host_disk_limits *l) {
	pthread_mutex_lock(&d->lock);
	d->limits = *l;
	d->new_limits = true;
	pthread_mutex_unlock(&d->lock);
	d->io->ops->wake(d->io);
}

int host_disk_read_limits(const char *text, struct host_disk_limits *l, struct err *e) {
	return limit_read(text, "iops", "iops-burst", &l->bytes, &l->requests, e);
}

const struct block_backend *host_disk_backend(const struct host_disk *d) {
	return &d->backend;
}

void host_disk_close(struct host_disk *d) {
	struct err e = {{0}};
	if (d->has_thread) {
		pthread_mutex_lock(&d->lock);
		d->quit = true;
		pthread_mutex_unlock(&d->lock);
		d->io->ops->wake(d->io);
		pthread_join(d->thread, NULL);
	}
	if (d->image) {
		d->image->top->finish = NULL;
		image_set_io(d->image, NULL);
	}
	if (image_close(d->image, &e))
		log_line(LOG_ERROR, "%s", e.text);
	if (d->io)
		d->io->ops->destroy(d->io);
	while (d->cut.nspare)
		free(d->cut.spare[--d->cut.nspare]);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
