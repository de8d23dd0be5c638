/* See image.h. */
#include "host/linux/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/linux/inflate.h"

const char *const image_format_names[] = {"raw",  "qcow2", "vmdk", "vhd",
										  "vhdx", "vdi",   "ova",  NULL};

static bool has_suffix(const char *s, const char *suffix) {
	size_t n = strlen(s), k = strlen(suffix);
	return n > k + 1 && s[n - k - 1] == '.' && strcmp(s + n - k, suffix) == 0;
}

static const char *after_prefix(const char *name, const char *format) {
	size_t n = strlen(format);
	return strncmp(name, format, n) == 0 && name[n] == ':' ? name + n + 1 : NULL;
}

/* What the first bytes look like; a file that cannot be read is reported when it is opened. */
static bool looks_like_qcow2(const char *path) {
	uint8_t head[8] = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd >= 0 ? pread(fd, head, sizeof(head), 0) : 0;
	if (fd >= 0)
		close(fd);
	return n == sizeof(head) && qcow2_probe(head, sizeof(head));
}

int image_format_of(const char *name, enum image_format *format, const char **path, struct err *e) {
	for (unsigned i = 0; image_format_names[i]; i++) {
		*path = after_prefix(name, image_format_names[i]);
		*format = (enum image_format)i;
		if (*path)
			return 0;
	}
	*path = name;
	*format = IMAGE_RAW;
	for (unsigned i = IMAGE_QCOW2; image_format_names[i]; i++)
		if (has_suffix(name, image_format_names[i]))
			*format = (enum image_format)i;
	if (*format == IMAGE_RAW && looks_like_qcow2(name))
		return err_set(e, ERR_INVAL,
					   "disk %s looks like qcow2, but its name does not say so, and what it looks "
					   "like may be its guest's doing; use qcow2:%s or raw:%s",
					   name, name, name);
	return 0;
}

static int format_by_name(const char *text, enum image_format *format) {
	for (unsigned i = 0; image_format_names[i]; i++)
		if (strcmp(text, image_format_names[i]) == 0) {
			*format = (enum image_format)i;
			return 0;
		}
	return -ERR_NOTSUP;
}

/* A path relative to the folder of the image that names it. */
static char *beside(const char *image, const char *name) {
	const char *slash = strrchr(image, '/');
	char *s = NULL;
	if (name[0] == '/' || !slash)
		return strdup(name);
	return asprintf(&s, "%.*s/%s", (int)(slash - image), image, name) < 0 ? NULL : s;
}

static int open_one(struct image **out, const char *path, enum image_format format,
					const struct image_options *o, unsigned depth, struct err *e);

static int open_backing(struct image *i, const struct image_options *o, unsigned depth,
						struct err *e) {
	struct image_options below = {
		.read_only = !o->backing_rw, .look = o->look, .direct = o->direct};
	struct qcow2_info info;
	enum image_format format;
	int r = qcow2_read_info(&i->file.gate, &info, e);
	if (r || !info.backing[0])
		return r;
	if (!info.backing_format[0])
		return err_set(e, ERR_INVAL,
					   "%s does not say of which format its backing file %s is; set it with `joist "
					   "disk rebase --unsafe`",
					   i->path, info.backing);
	if (format_by_name(info.backing_format, &format) || format > IMAGE_QCOW2)
		return err_set(e, ERR_NOTSUP, "%s: its backing file has format %s, which is not supported",
					   i->path, info.backing_format);
	if (depth == IMAGE_CHAIN_MAX)
		return err_set(e, ERR_INVAL, "%s: more than %d backing files; are they in a circle?",
					   i->path, IMAGE_CHAIN_MAX);
	char *path = beside(i->path, info.backing);
	if (!path)
		return err_set(e, ERR_NOMEM, "no memory for a path");
	r = open_one(&i->backing, path, format, &below, depth + 1, e);
	free(path);
	return r;
}

int image_about(struct err *e, const char *path, int r) {
	if (!r || !e)
		return r;
	struct err old = *e;
	return err_set(e, -r, "%s: %s", path, old.text);
}

/* The files of a VMDK's descriptor, which lie beside it. */
static int open_extents(struct image *i, const struct import_extent *x, unsigned n,
						const struct disk_file_options *f, struct err *e) {
	struct block *files[IMPORT_EXTENTS] = {NULL};
	i->parts = calloc(n, sizeof(*i->parts));
	if (!i->parts)
		return err_set(e, ERR_NOMEM, "no memory for %u files", n);
	for (unsigned k = 0; k < n; k++)
		i->parts[k].fd = -1;
	i->nparts = n;
	for (unsigned k = 0; k < n; k++) {
		if (x[k].kind == IMPORT_ZERO)
			continue;
		char *path = beside(i->path, x[k].name);
		int r = path ? disk_file_open(&i->parts[k], path, f, e)
					 : err_set(e, ERR_NOMEM, "no memory for a path");
		free(path);
		if (r)
			return r;
		files[k] = &i->parts[k].gate;
	}
	return import_open_extents(&i->import, x, files, n, &host_block, e);
}

/* Another program's image, to be read. */
static int open_import(struct image *i, const struct disk_file_options *f, unsigned disk,
					   struct err *e) {
	static const enum import_format formats[] = {[IMAGE_VMDK] = IMPORT_VMDK,
												 [IMAGE_VHD] = IMPORT_VHD,
												 [IMAGE_VHDX] = IMPORT_VHDX,
												 [IMAGE_VDI] = IMPORT_VDI,
												 [IMAGE_OVA] = IMPORT_VMDK};
	struct block *file = &i->file.gate;
	int r = 0;
	i->top = &i->import;
	if (i->format == IMAGE_OVA) {
		r = import_open_ova(&i->ova, file, disk, &host_block, e);
		file = &i->ova;
	} else if (i->format == IMAGE_VMDK) {
		struct import_extent *x = calloc(IMPORT_EXTENTS, sizeof(*x));
		unsigned n = 0;
		r = x ? import_vmdk_extents(file, &host_block, x, &n, e)
			  : err_set(e, ERR_NOMEM, "no memory");
		if (r == 1)
			r = open_extents(i, x, n, f, e);
		free(x);
	}
	if (!r && !i->import.ops)
		r = import_open(&i->import, file, formats[i->format], &host_block, e);
	return image_about(e, i->path, r);
}

static int open_parts(struct image *i, const struct image_options *o, unsigned depth,
					  struct err *e) {
	if (o->disk && i->format != IMAGE_OVA)
		return err_set(e, ERR_INVAL, "%s: only an .ova has several disks to choose from", i->path);
	if (i->format > IMAGE_QCOW2 && !o->read_only)
		return err_set(e, ERR_NOTSUP,
					   "%s: %s images can only be read; `joist disk convert` makes a "
					   "qcow2 of it",
					   i->path, image_format_names[i->format]);
	struct disk_file_options f = {.read_only = o->read_only,
								  .growable = i->format != IMAGE_RAW,
								  .direct = o->direct,
								  .lock = o->look		 ? DISK_LOCK_NONE
										  : o->read_only ? DISK_LOCK_SHARED
														 : DISK_LOCK_ALONE};
	int r = disk_file_open(&i->file, i->path, &f, e);
	i->top = &i->file.gate;
	if (r || i->format == IMAGE_RAW)
		return r;
	if (i->format > IMAGE_QCOW2)
		return open_import(i, &f, o->disk, e);
	if (!o->alone)
		r = open_backing(i, o, depth, e);
	if (r)
		return i->backing ? r : image_about(e, i->path, r);
	struct qcow2_open_options q = {.read_only = o->read_only,
								   .check = o->check,
								   .discard = true,
								   .backing = i->backing ? i->backing->top : NULL};
	i->top = &i->qcow2;
	return image_about(e, i->path, qcow2_open(&i->qcow2, &i->file.gate, &host_block, &q, e));
}

static int open_one(struct image **out, const char *path, enum image_format format,
					const struct image_options *o, unsigned depth, struct err *e) {
	struct image *i = calloc(1, sizeof(*i));
	if (!i)
		return err_set(e, ERR_NOMEM, "disk %s: no memory", path);
	i->file.fd = -1;
	i->format = format;
	i->path = strdup(path);
	int r =
		i->path ? open_parts(i, o, depth, e) : err_set(e, ERR_NOMEM, "disk %s: no memory", path);
	if (r) {
		image_close(i, NULL);
		return r;
	}
	*out = i;
	return 0;
}

int image_open(struct image **out, const char *name, const struct image_options *o, struct err *e) {
	enum image_format format;
	const char *path;
	int r = image_format_of(name, &format, &path, e);
	return r ? r : open_one(out, path, format, o, 0, e);
}

int image_close(struct image *i, struct err *e) {
	if (!i)
		return 0;
	int r = block_close(&i->qcow2), below;
	block_close(&i->import);
	block_close(&i->ova);
	for (unsigned k = 0; k < i->nparts; k++)
		disk_file_close(&i->parts[k]);
	free(i->parts);
	if (i->file.fd >= 0 && !i->file.gate.read_only && fdatasync(i->file.fd) < 0 && !r)
		r = -errno;
	if (r)
		err_set(e, -r, "disk %s: not all of it could be written: %s", i->path, strerror(-r));
	below = image_close(i->backing, r ? NULL : e);
	disk_file_close(&i->file);
	free(i->path);
	free(i);
	return r ? r : below;
}

void image_set_io(struct image *i, struct disk_io *io) {
	for (; i; i = i->backing)
		i->file.io = io;
}

/* The folder's entry must be durable, too. */
static void sync_folder(const char *path) {
	const char *slash = strrchr(path, '/');
	char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(folder);
}

static int create_file(struct disk_file *f, const char *path, struct err *e) {
	struct disk_file_options o = {.create = true, .growable = true, .lock = DISK_LOCK_ALONE};
	int r = disk_file_open(f, path, &o, e);
	if (r == -EEXIST)
		err_set(e, EEXIST, "%s exists already; nothing was changed", path);
	return r;
}

static int finish_file(struct disk_file *f, const char *path, int r) {
	disk_file_close(f);
	if (r)
		unlink(path);
	else
		sync_folder(path);
	return r;
}

/* The backing image is opened as the new one will see it: what is wrong shows now. */
static int look_at_backing(const char *path, struct qcow2_create_options *o, struct err *e) {
	struct image_options look = {.read_only = true, .look = true};
	enum image_format format;
	struct image *base;
	const char *name;
	char *from_here = beside(path, o->backing);
	if (!from_here)
		return err_set(e, ERR_NOMEM, "no memory for a path");
	int r = o->backing_format ? format_by_name(o->backing_format, &format)
							  : image_format_of(from_here, &format, &name, e);
	if (r && o->backing_format)
		err_set(e, -r, "unknown format %s of backing file %s", o->backing_format, o->backing);
	if (!r)
		r = open_one(&base, from_here, format, &look, 0, e);
	free(from_here);
	if (r)
		return r;
	if (!o->size)
		o->size = base->top->size;
	else if (o->size < base->top->size)
		r = err_set(e, ERR_INVAL,
					"a disk of %llu bytes is smaller than its backing file %s of %llu",
					(unsigned long long)o->size, o->backing, (unsigned long long)base->top->size);
	o->backing_format = image_format_names[format];
	image_close(base, NULL);
	return r;
}

int image_create_qcow2(const char *path, const struct qcow2_create_options *options,
					   struct err *e) {
	struct qcow2_create_options o = *options;
	struct disk_file f;
	/* A prefix belongs to the command line and not into the image. */
	for (unsigned i = 0; o.backing && !o.backing_format && image_format_names[i]; i++) {
		const char *name = after_prefix(o.backing, image_format_names[i]);
		if (name) {
			o.backing = name;
			o.backing_format = image_format_names[i];
		}
	}
	int r = o.backing ? look_at_backing(path, &o, e) : 0;
	if (!r)
		r = create_file(&f, path, e);
	if (r)
		return r;
	return finish_file(&f, path, image_about(e, path, qcow2_create(&f.gate, &host_block, &o, e)));
}

int image_create_raw(const char *path, uint64_t size, struct err *e) {
	struct disk_file f;
	int r = create_file(&f, path, e);
	if (r)
		return r;
	if (ftruncate(f.fd, (off_t)size) < 0 || fsync(f.fd) < 0)
		r = err_set(e, errno, "%s: %s", path, strerror(errno));
	return finish_file(&f, path, r);
}

int image_create_overlay(const char *path, const char *base, uint64_t size, struct err *e) {
	struct qcow2_create_options o = {.size = size, .backing = base};
	return image_create_qcow2(path, &o, e);
}
