/* See disk_file.h. */
#include "host/linux/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "host/linux/disk_io.h"
#include "host/linux/holder.h"

#define SECTOR 512u

#define DIRECT_ALIGN 4096u

int disk_file_descriptor(const struct disk_file *f, const struct block_request *r) {
	uint64_t all = r->offset;
	if (f->direct < 0)
		return f->fd;
	for (unsigned i = 0; i < r->nsegs; i++)
		all |= (uintptr_t)r->segs[i].host | r->segs[i].len;
	return all % DIRECT_ALIGN ? f->fd : f->direct;
}

static int transfer(struct disk_file *f, const struct block_request *r) {
	struct iovec iov[BLOCK_SEGMENTS];
	int fd = disk_file_descriptor(f, r);
	uint64_t offset = r->offset;
	unsigned first = 0, n = 0;
	for (unsigned i = 0; i < r->nsegs; i++)
		if (r->segs[i].len)
			iov[n++] = (struct iovec){r->segs[i].host, r->segs[i].len};
	while (first < n) {
		int count = (int)(n - first);
		ssize_t done = r->op == BLOCK_READ ? preadv(fd, iov + first, count, (off_t)offset)
										   : pwritev2(fd, iov + first, count, (off_t)offset,
													  r->fua ? RWF_DSYNC : 0);
		if (done < 0 && errno == EINTR)
			continue;
		/* The end of a file need not be aligned, and what is left of a short transfer neither. */
		if (done < 0 && errno == EINVAL && fd != f->fd) {
			fd = f->fd;
			continue;
		}
		if (done < 0)
			return -errno;
		if (done == 0 && r->op == BLOCK_READ && f->gate.growable) {
			for (; first < n; first++)
				memset(iov[first].iov_base, 0, iov[first].iov_len);
			return 0;
		}
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

static int write_zeroes(struct disk_file *f, uint64_t offset, uint64_t len) {
	static const uint8_t zero[65536];
	/* A hole in a file reads as zeroes; for a device ZERO_RANGE is the one that promises it. */
	int mode = f->is_file ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
	if (fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0)
		return 0;
	while (len) {
		ssize_t n = pwrite(f->fd, zero, MIN(len, sizeof(zero)), (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int disk_file_serve(struct disk_file *f, const struct block_request *r) {
	switch (r->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return transfer(f, r);
	case BLOCK_FLUSH:
		return fdatasync(f->fd) < 0 ? -errno : 0;
	case BLOCK_DISCARD:
		/* Advice: that it could not be followed is no error. */
		fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset,
				  (off_t)r->len);
		return 0;
	case BLOCK_ZEROES:
		return write_zeroes(f, r->offset, r->len);
	}
	return -EINVAL;
}

static void submit(void *self, struct block_request *r) {
	struct disk_file *f = self;
	if (f->io)
		disk_io_submit(f->io, f, r);
	else
		block_done(r, disk_file_serve(f, r));
}

/* Holes, for tools that copy. */
static int map(void *self, uint64_t offset, uint64_t len, uint64_t *run, enum block_state *state) {
	struct disk_file *f = self;
	off_t data = lseek(f->fd, (off_t)offset, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return 0; /* such a thing is not known here: all is data */
	if (data < 0 || (uint64_t)data >= offset + len) {
		*state = BLOCK_IS_ZERO;
		return 0;
	}
	if ((uint64_t)data > offset) {
		*state = BLOCK_IS_ZERO;
		*run = (uint64_t)data - offset;
		return 0;
	}
	off_t hole = lseek(f->fd, (off_t)offset, SEEK_HOLE);
	if (hole > data)
		*run = MIN(len, (uint64_t)hole - offset);
	return 0;
}

static const struct block_ops ops = {"raw", submit, map, NULL};

/* Two VMs on one image destroy it. Open file description locks go away with the
 * descriptor, whatever happens to the process: a moment after that, when it was killed and the
 * kernel still takes it, and what it had asked of io_uring, apart. Whoever starts its VM again in
 * this moment waits: while the image is locked and no living process has it open. (Or one that we
 * may not look into: then the wait is in vain.) */
#define LOCK_TRIES 50
#define LOCK_STEP_NS 20000000

static int lock_image(int fd, const char *path, enum disk_file_lock lock, struct err *e) {
	struct flock l = {.l_type = lock == DISK_LOCK_ALONE ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
	if (lock == DISK_LOCK_NONE)
		return 0;
	int r = fcntl(fd, F_OFD_SETLK, &l);
	bool lives = false;
	for (unsigned i = 0; r < 0 && (errno == EAGAIN || errno == EACCES) && i < LOCK_TRIES && !lives;
		 i++) {
		lives = holder_lives(fd);
		if (!lives)
			nanosleep(&(struct timespec){0, LOCK_STEP_NS}, NULL);
		r = fcntl(fd, F_OFD_SETLK, &l); /* after the look: it may have ended before that */
	}
	if (r == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, ERR_BUSY, "disk %s is in use by another process", path);
	log_line(LOG_WARN, "disk %s cannot be locked against other users: %s", path, strerror(errno));
	return 0;
}

static int measure(struct disk_file *f, const char *path, const struct disk_file_options *o,
				   struct err *e) {
	struct stat st;
	uint64_t size = 0;
	if (fstat(f->fd, &st) < 0)
		return err_set(e, errno, "disk %s: %s", path, strerror(errno));
	f->is_file = S_ISREG(st.st_mode);
	if (f->is_file)
		size = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return err_set(e, ERR_INVAL, "disk %s is neither a file nor a block device", path);
	else if (ioctl(f->fd, BLKGETSIZE64, &size) < 0)
		return err_set(e, errno, "disk %s: %s", path, strerror(errno));
	f->gate.size = size;
	if (o->growable || o->create)
		return 0;
	if (!size)
		return err_set(e, ERR_INVAL, "disk %s is empty; make room with `truncate -s 1G %s`", path,
					   path);
	if (size % SECTOR)
		return err_set(e, ERR_INVAL,
					   "disk %s: its %llu bytes are no whole number of 512-byte sectors; is the "
					   "image truncated?",
					   path, (unsigned long long)size);
	return 0;
}

int disk_file_open(struct disk_file *f, const char *path, const struct disk_file_options *o,
				   struct err *e) {
	int flags = (o->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
	*f = (struct disk_file){
		.gate = {.ops = &ops, .self = f, .read_only = o->read_only, .growable = o->growable},
		.direct = -1};
	f->fd = open(path, flags | (o->create ? O_CREAT | O_EXCL : 0), 0644);
	if (f->fd < 0)
		return err_set(e, errno, "disk %s: %s", path, strerror(errno));
	int r = measure(f, path, o, e);
	if (!r)
		r = lock_image(f->fd, path, o->lock, e);
	if (!r && o->direct && (f->direct = open(path, flags | O_DIRECT)) < 0)
		r = errno == EINVAL ? err_set(e, ERR_NOTSUP,
									  "disk %s: its file system cannot go past the page cache; "
									  "leave cache=none away",
									  path)
							: err_set(e, errno, "disk %s: %s", path, strerror(errno));
	if (r)
		disk_file_close(f);
	return r;
}

void disk_file_close(struct disk_file *f) {
	if (f->fd >= 0 && f->direct >= 0)
		close(f->direct);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = f->direct = -1;
}
