/* Disk I/O by io_uring; see disk_io.h. What the kernel does only in part (a short read at the
 * end of a file, a signal) or not at all is done again the slow way, as a whole: requests can
 * be repeated. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/check.h"
#include "host/linux/disk_file.h"
#include "host/linux/disk_io.h"

#define SLOTS 64

struct slot {
	struct disk_file *file;
	struct block_request *r;
	struct slot *next;
	uint64_t want;
	struct iovec iov[BLOCK_SEGMENTS];
};

struct disk_uring {
	struct disk_io io;
	struct io_uring ring;
	int event;
	uint64_t count; /* what a read of the event gave */
	bool armed;		/* such a read is in work */
	struct slot *free;
	struct slot slots[SLOTS];
};

static bool prepare(struct io_uring_sqe *s, struct slot *x) {
	const struct block_request *r = x->r;
	unsigned n = 0;
	x->want = 0;
	switch (r->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		for (unsigned i = 0; i < r->nsegs; i++)
			if (r->segs[i].len)
				x->iov[n++] = (struct iovec){r->segs[i].host, r->segs[i].len};
		x->want = r->len;
		if (r->op == BLOCK_READ)
			io_uring_prep_readv(s, disk_file_descriptor(x->file, r), x->iov, n, r->offset);
		else
			io_uring_prep_writev2(s, disk_file_descriptor(x->file, r), x->iov, n, r->offset,
								  r->fua ? RWF_DSYNC : 0);
		return true;
	case BLOCK_FLUSH:
		io_uring_prep_fsync(s, x->file->fd, IORING_FSYNC_DATASYNC);
		return true;
	case BLOCK_DISCARD:
		io_uring_prep_fallocate(s, x->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
								(off_t)r->offset, (off_t)r->len);
		return true;
	case BLOCK_ZEROES:
		io_uring_prep_fallocate(s, x->file->fd,
								(x->file->is_file ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) |
									FALLOC_FL_KEEP_SIZE,
								(off_t)r->offset, (off_t)r->len);
		return true;
	}
	return false;
}

static void submit(struct disk_io *io, struct disk_file *f, struct block_request *r) {
	struct disk_uring *u = (struct disk_uring *)io;
	struct slot *x = u->free;
	/* SLOTS + 1 entries fit, so there is one whenever there is a slot. */
	struct io_uring_sqe *s = x ? io_uring_get_sqe(&u->ring) : NULL;
	if (!s) {
		block_done(r, disk_file_serve(f, r));
		return;
	}
	u->free = x->next;
	x->file = f;
	x->r = r;
	check(prepare(s, x));
	io_uring_sqe_set_data(s, x);
}

static void complete(struct disk_uring *u, struct slot *x, int result) {
	struct disk_file *f = x->file;
	struct block_request *r = x->r;
	x->next = u->free;
	u->free = x;
	/* A failed flush must not be tried again: the second one succeeds, and says nothing. */
	if (r->op == BLOCK_FLUSH && result < 0)
		block_done(r, result);
	else if (result < 0 || (uint64_t)result != x->want)
		block_done(r, disk_file_serve(f, r));
	else
		block_done(r, 0);
}

static void arm(struct disk_uring *u) {
	struct io_uring_sqe *s = u->armed ? NULL : io_uring_get_sqe(&u->ring);
	if (!s)
		return;
	io_uring_prep_read(s, u->event, &u->count, sizeof(u->count), 0);
	io_uring_sqe_set_data(s, NULL);
	u->armed = true;
}

static void wait(struct disk_io *io, uint64_t limit_ns) {
	struct disk_uring *u = (struct disk_uring *)io;
	struct io_uring_cqe *c;
	arm(u);
	struct __kernel_timespec t = {(int64_t)(limit_ns / 1000000000),
								  (long long)(limit_ns % 1000000000)};
	int r = limit_ns == UINT64_MAX ? io_uring_submit_and_wait(&u->ring, 1)
								   : io_uring_submit_and_wait_timeout(&u->ring, &c, 1, &t, NULL);
	check(r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY || r == -ETIME);
	while (io_uring_peek_cqe(&u->ring, &c) == 0) {
		struct slot *x = io_uring_cqe_get_data(c);
		int result = c->res;
		io_uring_cqe_seen(&u->ring, c);
		if (x)
			complete(u, x, result);
		else
			u->armed = false;
	}
}

static void wake(struct disk_io *io) {
	struct disk_uring *u = (struct disk_uring *)io;
	uint64_t one = 1;
	while (write(u->event, &one, sizeof(one)) < 0 && errno == EINTR) {
	}
}

static void destroy(struct disk_io *io) {
	struct disk_uring *u = (struct disk_uring *)io;
	io_uring_queue_exit(&u->ring);
	close(u->event);
	free(u);
}

static const struct disk_io_ops ops = {"uring", submit, wait, wake, destroy};

static bool supported(struct disk_uring *u) {
	static const uint8_t needed[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
									 IORING_OP_FALLOCATE, IORING_OP_READ};
	struct io_uring_probe *p = io_uring_get_probe_ring(&u->ring);
	bool ok = p;
	for (unsigned i = 0; ok && i < sizeof(needed); i++)
		ok = io_uring_opcode_supported(p, needed[i]);
	if (p)
		io_uring_free_probe(p);
	return ok;
}

int disk_uring_create(struct disk_io **out, struct err *e) {
	struct disk_uring *u = calloc(1, sizeof(*u));
	if (!u)
		return err_set(e, ERR_NOMEM, "no memory for io_uring");
	u->io.ops = &ops;
	int r = io_uring_queue_init(SLOTS * 2, &u->ring, 0);
	if (r < 0) {
		free(u);
		return err_set(e, -r, "io_uring: %s", strerror(-r));
	}
	u->event = eventfd(0, EFD_CLOEXEC);
	if (u->event < 0 || !supported(u)) {
		destroy(&u->io);
		return err_set(e, ERR_NOSYS, "io_uring of this kernel lacks operations");
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		u->slots[i].next = u->free;
		u->free = &u->slots[i];
	}
	*out = &u->io;
	return 0;
}

int disk_io_create(struct disk_io **out, struct err *e) {
	const char *kind = getenv("JOIST_DISK_IO");
	if (kind && strcmp(kind, "uring") == 0)
		return disk_uring_create(out, e);
	if (!kind && disk_uring_create(out, NULL) == 0)
		return 0;
	return disk_threads_create(out, e);
}
