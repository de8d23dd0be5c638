/* See disk.h. */
#include "host/linux/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"

#define SECTOR 512u
#define THREADS 2 /* enough to overlap a flush or a slow read with the next request */

struct host_disk {
	struct block_backend backend;
	const struct vm_host *vm;
	int fd;
	bool is_file;
	pthread_mutex_t lock; /* taken after the VM lock; guards the queue */
	pthread_cond_t work;
	struct block_request *first, **last;
	bool quit;
	unsigned nthreads;
	pthread_t threads[THREADS];
};

static int transfer(struct host_disk *d, const struct block_request *r) {
	struct iovec iov[BLOCK_SEGMENTS];
	uint64_t offset = r->offset;
	unsigned first = 0, n = 0;
	for (unsigned i = 0; i < r->nsegs; i++)
		if (r->segs[i].len)
			iov[n++] = (struct iovec){r->segs[i].host, r->segs[i].len};
	while (first < n) {
		int count = (int)(n - first);
		ssize_t done = r->op == BLOCK_READ ? preadv(d->fd, iov + first, count, (off_t)offset)
										   : pwritev2(d->fd, iov + first, count, (off_t)offset,
													  r->fua ? RWF_DSYNC : 0);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (done == 0)
			return -EIO; /* the file got shorter behind our back */
		offset += (uint64_t)done;
		while (done && first < n) {
			size_t step = MIN((size_t)done, iov[first].iov_len);
			iov[first].iov_base = (uint8_t *)iov[first].iov_base + step;
			iov[first].iov_len -= step;
			done -= (ssize_t)step;
			if (!iov[first].iov_len)
				first++;
		}
	}
	return 0;
}

static int write_zeroes(struct host_disk *d, uint64_t offset, uint64_t len) {
	static const uint8_t zero[65536];
	/* A hole in a file reads as zeroes; for a device ZERO_RANGE is the one that promises it. */
	int mode = d->is_file ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
	if (fallocate(d->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0)
		return 0;
	while (len) {
		ssize_t n = pwrite(d->fd, zero, MIN(len, sizeof(zero)), (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* The gate for what a device asks: in range, and as many bytes as it has room for. */
static bool valid(const struct host_disk *d, const struct block_request *r) {
	uint64_t sum = 0;
	if (r->op == BLOCK_FLUSH)
		return true;
	if (r->len > d->backend.size || r->offset > d->backend.size - r->len)
		return false;
	if (r->op != BLOCK_READ && d->backend.read_only)
		return false;
	if (r->op != BLOCK_READ && r->op != BLOCK_WRITE)
		return true;
	if (r->nsegs > BLOCK_SEGMENTS)
		return false;
	for (unsigned i = 0; i < r->nsegs; i++) {
		if (r->segs[i].len > r->len)
			return false;
		sum += r->segs[i].len;
	}
	return sum == r->len;
}

static int serve(struct host_disk *d, const struct block_request *r) {
	if (!valid(d, r))
		return -EINVAL;
	switch (r->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return transfer(d, r);
	case BLOCK_FLUSH:
		return fdatasync(d->fd) < 0 ? -errno : 0;
	case BLOCK_DISCARD:
		/* Advice: that it could not be followed is no error. */
		if (r->len)
			fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset,
					  (off_t)r->len);
		return 0;
	case BLOCK_ZEROES:
		return r->len ? write_zeroes(d, r->offset, r->len) : 0;
	}
	return -EINVAL;
}

static void *worker(void *opaque) {
	struct host_disk *d = opaque;
	pthread_mutex_lock(&d->lock);
	for (;;) {
		while (!d->first && !d->quit)
			pthread_cond_wait(&d->work, &d->lock);
		struct block_request *r = d->first;
		if (!r)
			break;
		d->first = r->next;
		if (!d->first)
			d->last = &d->first;
		pthread_mutex_unlock(&d->lock);
		int error = serve(d, r);
		d->vm->lock(d->vm->opaque);
		r->done(r, error);
		d->vm->unlock(d->vm->opaque);
		pthread_mutex_lock(&d->lock);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

static void submit(void *opaque, struct block_request *r) {
	struct host_disk *d = opaque;
	r->next = NULL;
	pthread_mutex_lock(&d->lock);
	*d->last = r;
	d->last = (struct block_request **)(void *)&r->next;
	pthread_cond_signal(&d->work);
	pthread_mutex_unlock(&d->lock);
}

/* Two VMs on one image destroy it. Open file description locks go away with the
 * descriptor, whatever happens to the process. */
static int lock_image(int fd, const char *path, bool read_only, struct err *e) {
	struct flock l = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, ERR_BUSY, "disk %s is in use by another process", path);
	log_line(LOG_WARN, "disk %s cannot be locked against other users: %s", path, strerror(errno));
	return 0;
}

static int measure(struct host_disk *d, const char *path, struct err *e) {
	struct stat st;
	uint64_t size = 0;
	if (fstat(d->fd, &st) < 0)
		return err_set(e, errno, "disk %s: %s", path, strerror(errno));
	d->is_file = S_ISREG(st.st_mode);
	if (d->is_file)
		size = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return err_set(e, ERR_INVAL, "disk %s is neither a file nor a block device", path);
	else if (ioctl(d->fd, BLKGETSIZE64, &size) < 0)
		return err_set(e, errno, "disk %s: %s", path, strerror(errno));
	if (!size)
		return err_set(e, ERR_INVAL, "disk %s is empty; make room with `truncate -s 1G %s`", path,
					   path);
	if (size % SECTOR)
		return err_set(e, ERR_INVAL,
					   "disk %s: its %llu bytes are no whole number of 512-byte sectors; is the "
					   "image truncated?",
					   path, (unsigned long long)size);
	d->backend.size = size;
	return 0;
}

static int start(struct host_disk *d, const char *path, bool read_only, struct err *e) {
	d->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (d->fd < 0)
		return err_set(e, errno, "disk %s: %s", path, strerror(errno));
	int r = measure(d, path, e);
	if (!r)
		r = lock_image(d->fd, path, read_only, e);
	while (!r && d->nthreads < THREADS) {
		r = -pthread_create(&d->threads[d->nthreads], NULL, worker, d);
		if (r)
			return err_set(e, -r, "disk %s: cannot start a thread: %s", path, strerror(-r));
		d->nthreads++;
	}
	return r;
}

int host_disk_open(struct host_disk **out, const char *path, bool read_only,
				   const struct vm_host *vm, struct err *e) {
	struct host_disk *d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, ERR_NOMEM, "disk %s: no memory", path);
	d->vm = vm;
	d->last = &d->first;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->work, NULL);
	d->backend = (struct block_backend){.submit = submit,
										.opaque = d,
										.block_size = SECTOR,
										.read_only = read_only,
										.discard = !read_only};
	const char *base = strrchr(path, '/');
	snprintf(d->backend.serial, sizeof(d->backend.serial), "%s", base ? base + 1 : path);
	int r = start(d, path, read_only, e);
	if (r) {
		host_disk_close(d);
		return r;
	}
	*out = d;
	return 0;
}

const struct block_backend *host_disk_backend(const struct host_disk *d) {
	return &d->backend;
}

void host_disk_close(struct host_disk *d) {
	pthread_mutex_lock(&d->lock);
	d->quit = true;
	pthread_cond_broadcast(&d->work);
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < d->nthreads; i++)
		pthread_join(d->threads[i], NULL);
	if (d->fd >= 0) {
		if (!d->backend.read_only)
			fdatasync(d->fd);
		close(d->fd);
	}
	pthread_mutex_destroy(&d->lock);
	pthread_cond_destroy(&d->work);
	free(d);
}
