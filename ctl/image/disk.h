/* Disks of new VMs, in their folders. */
#ifndef CTL_IMAGE_DISK_H
#define CTL_IMAGE_DISK_H

#include "core/base/err.h"
#include "core/base/types.h"

const char *disk_file_name(void); /* of a VM's first disk, in its folder */

/* A disk of `size` bytes that starts as what `base` holds, and leaves that alone: it keeps only
 * what is different. `base` must stay where it is. */
int disk_make_overlay(const char *dir, const char *base, uint64_t size, struct err *e);
int disk_make_empty(const char *dir, uint64_t size, struct err *e);

/* The virtual size of a disk file, raw or qcow2 by its name. */
int disk_size(const char *path, uint64_t *size, struct err *e);

/* A copy: shared blocks where the file system can (FICLONE), holes kept where not. `to` must
 * not exist. */
int disk_copy(const char *from, const char *to, struct err *e);

struct vm_image;

/* Do these first 8 bytes of a file say that it is no raw disk? */
bool disk_is_foreign(const uint8_t head[8]);
/* Takes a disk of another format into the image's folder; fills in its file and size. */
int disk_import(struct vm_image *i, const char *path, struct err *e);

#endif
