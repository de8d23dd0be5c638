/* Kernel and initial RAM disk out of a disk itself. */
#ifndef CTL_IMAGE_BOOT_H
#define CTL_IMAGE_BOOT_H

#include "core/block/block.h"

struct boot_found {
	char append[256];			   /* a command line that finds the root file system */
	char kernel[300], initrd[300]; /* where they lay, for people */
	bool cloud_init;			   /* the root file system has it */
};

/* Copies the newest kernel of the disk and its initial RAM disk to `dir`, as vmlinuz and initrd.
 * The sentence of an error says what was found instead. `disk` must answer inside of submit(). */
int boot_take(struct block *disk, const char *dir, struct boot_found *f, struct err *e);

#endif
