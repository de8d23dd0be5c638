/* image_import(); see pull.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/image/boot.h"
#include "ctl/image/disk.h"
#include "ctl/image/pull.h"
#include "host/linux/image.h"

/* Raw disks have no magic; what is not raw is known by its first bytes. */
static int copy_disk(struct vm_image *i, const char *path, struct err *e) {
	uint8_t head[8] = {0};
	char to[PATHS_MAX];
	enum image_format format;
	const char *name;
	struct stat st;
	int r, fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = err_set(e, errno, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return r;
	}
	ssize_t n = pread(fd, head, sizeof(head), 0);
	close(fd);
	if (!S_ISREG(st.st_mode) || n < (ssize_t)sizeof(head))
		return err_set(e, ERR_INVAL, "%s is no disk file", path);
	if (memcmp(head, "QFI\xfb", 4) == 0)
		return disk_import(i, path, e);
	/* An archive and a fixed VHD show what they are elsewhere. Of a name with qcow2's ending the
	 * first bytes decide. */
	bool foreign = image_format_of(path, &format, &name, NULL) == 0 && format > IMAGE_QCOW2;
	if (foreign || disk_is_foreign(head))
		return err_set(e, ERR_NOTSUP,
					   "%s is neither raw nor qcow2: 'joist disk convert' makes a qcow2 file of it",
					   path);
	snprintf(i->disk, sizeof(i->disk), "disk.raw");
	if ((r = paths_join(to, sizeof(to), i->dir, i->disk, e)) != 0 ||
		(r = disk_copy(path, to, e)) != 0)
		return r;
	i->size = align_up((uint64_t)st.st_size, 4096);
	return truncate(to, (off_t)i->size) < 0 ? err_set(e, errno, "%s: %s", to, strerror(errno)) : 0;
}

static int copy_beside(const struct vm_image *i, const char *from, const char *name,
					   struct err *e) {
	char to[PATHS_MAX];
	int r = from ? paths_join(to, sizeof(to), i->dir, name, e) : 0;
	return r || !from ? r : disk_copy(from, to, e);
}

/* Out of the copy, which nobody else writes to. */
static int take_kernel(struct vm_image *i, const struct import_request *q, struct err *e) {
	struct image_options o = {.read_only = true, .look = true};
	char path[PATHS_MAX], name[PATHS_MAX + 8];
	struct boot_found f;
	struct image *disk;
	int r = paths_join(path, sizeof(path), i->dir, i->disk, e);
	if (r)
		return r;
	snprintf(name, sizeof(name), "%s:%s", strcmp(i->disk, "disk.raw") ? "qcow2" : "raw", path);
	if ((r = image_open(&disk, name, &o, e)) != 0)
		return r;
	r = image_about(e, q->source ? q->source : q->disk, boot_take(disk->top, i->dir, &f, e));
	image_close(disk, NULL);
	if (r)
		return r;
	if (!q->append)
		snprintf(i->append, sizeof(i->append), "%s", f.append);
	i->cloud_init |= f.cloud_init;
	return 0;
}

static int add_kernel(struct vm_image *i, const struct import_request *q, struct err *e) {
	int r;
	if (!q->kernel && q->initrd)
		return err_set(e, ERR_INVAL, "--initrd %.100s: of which kernel? give --kernel, too",
					   q->initrd);
	if (!q->kernel && !q->no_kernel)
		return take_kernel(i, q, e);
	if (!q->append)
		snprintf(i->append, sizeof(i->append), "root=/dev/vda rw console=ttyS0");
	if ((r = copy_beside(i, q->kernel, "vmlinuz", e)) != 0)
		return r;
	return copy_beside(i, q->initrd, "initrd", e);
}

int image_import(const struct import_request *q, struct err *e) {
	struct vm_image i;
	/* image_publish() says it, too; here, nothing was copied yet. */
	if (!q->replace && image_find(&i, q->name, e) == 0)
		return err_set(e, ERR_EXIST,
					   "there is an image %s already: 'joist image rm %s', or another --name",
					   q->name, q->name);
	int r = image_begin(&i, q->name, e);
	if (r)
		return r;
	snprintf(i.append, sizeof(i.append), "%s", q->append ? q->append : "");
	snprintf(i.source, sizeof(i.source), "%s", q->source ? q->source : "");
	snprintf(i.sha256, sizeof(i.sha256), "%.64s", q->sha256 ? q->sha256 : "");
	i.cloud_init = q->cloud_init;
	if ((r = copy_disk(&i, q->disk, e)) == 0 && (r = add_kernel(&i, q, e)) == 0)
		r = image_publish(&i, q->replace, e);
	if (r)
		image_abandon(&i);
	return r;
}
