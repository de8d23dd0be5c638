/* See disk.h. A VM's disk is a qcow2 overlay of its image. Images themselves are copies: clones
 * that share all blocks on file systems that can (btrfs, XFS), else of what is not a hole. */
#include "ctl/image/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/image/image.h"
#include "ctl/store/paths.h"
#include "host/linux/image.h"

const char *disk_file_name(void) {
	return "disk0.qcow2";
}

/* [start, end) of one run of data. copy_file_range() stays inside the kernel. */
static int copy_run(int in, int out, off_t start, off_t end) {
	static char buf[1 << 18];
	off_t from = start, to = start;
	while (from < end) {
		ssize_t n = copy_file_range(in, &from, out, &to, (size_t)(end - from), 0);
		if (n > 0)
			continue;
		if (n < 0 && errno == EINTR)
			continue;
		break;
	}
	while (from < end) {
		ssize_t n = pread(in, buf, (size_t)MIN(end - from, (off_t)sizeof(buf)), from);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		ssize_t done = pwrite(out, buf, (size_t)n, from);
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		from += done;
	}
	return 0;
}

static int copy_data(int in, int out) {
	off_t size = lseek(in, 0, SEEK_END), at = 0;
	if (size < 0 || ftruncate(out, size) < 0)
		return -errno;
	while (at < size) {
		off_t start = lseek(in, at, SEEK_DATA);
		if (start < 0)
			return errno == ENXIO ? 0 : -errno; /* holes to the end */
		off_t end = lseek(in, start, SEEK_HOLE);
		if (end < 0)
			return -errno;
		int r = copy_run(in, out, start, end);
		if (r)
			return r;
		at = end;
	}
	return 0;
}

int disk_copy(const char *from, const char *to, struct err *e) {
	int r = 0, in = open(from, O_RDONLY | O_CLOEXEC);
	if (in < 0)
		return err_set(e, errno, "%s: %s", from, strerror(errno));
	int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0) {
		r = err_set(e, errno, "cannot make %s: %s", to, strerror(errno));
		close(in);
		return r;
	}
	if (ioctl(out, FICLONE, in) < 0)
		r = copy_data(in, out);
	if (r == 0 && fsync(out) < 0)
		r = -errno;
	close(in);
	if (close(out) < 0 && r == 0)
		r = -errno;
	if (r) {
		unlink(to);
		return err_set(e, -r, "cannot copy %s to %s: %s", from, to, strerror(-r));
	}
	return 0;
}

bool disk_is_foreign(const uint8_t head[8]) {
	static const char *const magics[] = {"QFI\xfb",	 "KDMV", "vhdxfile",
										 "conectix", "<<< ", /* VDI: "<<< ... Disk Image >>>" */
										 "# Disk D"};		 /* a VMDK of several files */
	for (unsigned i = 0; i < ARRAY_LEN(magics); i++)
		if (memcmp(head, magics[i], strlen(magics[i])) == 0)
			return true;
	return false;
}

int disk_size(const char *path, uint64_t *size, struct err *e) {
	struct image_options o = {.read_only = true, .look = true};
	struct image *i;
	int r = image_open(&i, path, &o, e);
	if (r)
		return r;
	*size = i->top->size;
	return image_close(i, e);
}

/* One with a backing file of its own would depend on a file that is not ours. */
static int check_alone(const char *path, struct err *e) {
	struct image_options o = {.read_only = true, .look = true};
	struct image *i;
	int r = image_open(&i, path, &o, e);
	if (r)
		return r;
	bool alone = !i->backing;
	r = image_close(i, e);
	if (r || alone)
		return r;
	return err_set(e, ERR_NOTSUP,
				   "%s stands on a backing file; 'joist disk convert' makes one that stands alone",
				   path);
}

int disk_import(struct vm_image *i, const char *path, struct err *e) {
	char name[PATHS_MAX + 8], to[PATHS_MAX];
	int r;
	/* The user says that this is a disk, and its own first bytes say which: no guest wrote it
	 * under our hands. */
	snprintf(name, sizeof(name), "qcow2:%s", path);
	if ((r = check_alone(name, e)) != 0 || (r = disk_size(name, &i->size, e)) != 0)
		return r;
	snprintf(i->disk, sizeof(i->disk), "disk.qcow2");
	r = paths_join(to, sizeof(to), i->dir, i->disk, e);
	return r ? r : disk_copy(path, to, e);
}

int disk_make_overlay(const char *dir, const char *base, uint64_t size, struct err *e) {
	char path[PATHS_MAX];
	int r = paths_join(path, sizeof(path), dir, disk_file_name(), e);
	return r ? r : image_create_overlay(path, base, align_up(size, 4096), e);
}

int disk_make_empty(const char *dir, uint64_t size, struct err *e) {
	char path[PATHS_MAX];
	struct qcow2_create_options o = {.size = align_up(size, 4096)};
	int r = paths_join(path, sizeof(path), dir, disk_file_name(), e);
	return r ? r : image_create_qcow2(path, &o, e);
}
