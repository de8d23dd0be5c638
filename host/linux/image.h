/* Disk images by name: which format, its whole chain of backing files, locks.
 *
 * Formats are not guessed from what a guest can write. A raw disk's first sector is the
 * guest's: one that writes a qcow2 header there, with a backing file of its choice, would read
 * that file after the next start. So the name decides, and the content may only agree:
 *
 *     raw:FILE, qcow2:FILE   as it says
 *     FILE.qcow2             qcow2, and must be; so with .vmdk .vhd .vhdx .vdi .ova
 *     any other FILE         raw; refused if it looks like qcow2: say which it is
 *
 * A backing file's format is the one that the image above records; an image that records none
 * is refused. */
#ifndef HOST_LINUX_IMAGE_H
#define HOST_LINUX_IMAGE_H

#include "core/block/import.h"
#include "core/block/qcow2.h"
#include "host/linux/disk_file.h"

#define IMAGE_CHAIN_MAX 64 /* backing files below one another */

/* All but the first two are for tools only, and only to be read. */
enum image_format {
	IMAGE_RAW,
	IMAGE_QCOW2,
	IMAGE_VMDK,
	IMAGE_VHD,
	IMAGE_VHDX,
	IMAGE_VDI,
	IMAGE_OVA,
};

struct image {
	enum image_format format;
	char *path; /* without the prefix */
	struct disk_file file;
	struct block qcow2;
	struct block ova, import;
	struct disk_file *parts; /* of a VMDK of several files */
	unsigned nparts;
	struct block *top;	   /* of these: what reads as a disk */
	struct image *backing; /* NULL: none */
};

struct image_options {
	bool read_only;
	bool alone;		 /* without its backing files: for looks at the tables */
	bool look;		 /* no lock: what is seen may change meanwhile */
	bool check;		 /* damaged ones are let in, for qcow2_check() */
	bool direct;	 /* past the page cache, backing files, too */
	unsigned disk;	 /* which of an OVA, from 1; 0: the only one */
	bool backing_rw; /* the first backing file is opened for writing, too */
};

extern const char *const image_format_names[]; /* by enum image_format; NULL ends */

/* `name` with or without a prefix. Requests are carried out at once until image_set_io(). */
int image_open(struct image **out, const char *name, const struct image_options *o, struct err *e);
/* 0, or -errno with `e` filled if what was written may not all be durable. NULL is fine. */
int image_close(struct image *i, struct err *e);
/* Puts "path: " in front of a sentence of core/block if `r` is not 0. Returns r. */
int image_about(struct err *e, const char *path, int r);
/* From now on, all files of the chain do their I/O through `io`; NULL: at once again. */
void image_set_io(struct image *i, struct disk_io *io);

/* Which format `name` is of, and its path behind the prefix. */
int image_format_of(const char *name, enum image_format *format, const char **path, struct err *e);

/* Makes a new qcow2 image; the file must not exist. o->backing, if any, is a name as above,
 * relative to the new image's folder unless absolute; o->size 0: the backing image's. */
int image_create_qcow2(const char *path, const struct qcow2_create_options *o, struct err *e);
int image_create_raw(const char *path, uint64_t size, struct err *e);

/* A new disk over an immutable base, in milliseconds: `path` becomes a qcow2 image whose backing
 * file is `base` (a name as above). size 0: as big as the base, which must not be bigger. */
int image_create_overlay(const char *path, const char *base, uint64_t size, struct err *e);

#endif
