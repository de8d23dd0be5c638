/* image_import(); see pull.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"
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

int image_import(const struct import_request *q, struct err *e) {
	struct vm_image i;
	int r = image_begin(&i, q->name, e);
	if (r)
		return r;
	snprintf(i.append, sizeof(i.append), "%s", q->append ? q->append : "");
	snprintf(i.source, sizeof(i.source), "%s", q->source ? q->source : "");
	snprintf(i.sha256, sizeof(i.sha256), "%.64s", q->sha256 ? q->sha256 : "");
	i.cloud_init = q->cloud_init;
	if ((r = copy_disk(&i, q->disk, e)) == 0 &&
		(r = copy_beside(&i, q->kernel, "vmlinuz", e)) == 0 &&
		(r = copy_beside(&i, q->initrd, "initrd", e)) == 0)
		r = image_publish(&i, q->replace, e);
	if (r)
		image_abandon(&i);
	return r;
}
