/* Disks of new VMs, in their folders. */
#ifndef CTL_IMAGE_DISK_H
#define CTL_IMAGE_DISK_H

#include "core/base/err.h"
#include "core/base/types.h"

const char *disk_file_name(void); /* of a VM's first disk, in its folder */

/* A disk of `size` bytes that starts as what `base` holds, and leaves that alone. */
int disk_make_overlay(const char *dir, const char *base, uint64_t size, struct err *e);
int disk_make_empty(const char *dir, uint64_t size, struct err *e);

/* A copy: shared blocks where the file system can (FICLONE), holes kept where not. `to` must
 * not exist. */
int disk_copy(const char *from, const char *to, struct err *e);

#endif
