/* Read-only import of other programs' images: VDI (VirtualBox), VHD and VHDX (Hyper-V), VMDK
 * (VMware: monolithic sparse, stream-optimized, flat), and OVA, a tar archive with a VMDK in it.
 *
 * For tools, not for VMs: reading blocks, and needs files that complete inside of submit().
 * All tables are read and judged when an image is opened, into one list of where each of its
 * blocks lies; that takes at most IMPORT_MAP_MAX bytes.
 *
 * Refused by name: images that are differences to a parent, encrypted ones, VHDX with a log that
 * was not replayed, VMDK of several sparse files. */
#ifndef CORE_BLOCK_IMPORT_H
#define CORE_BLOCK_IMPORT_H

#include "core/block/block.h"

#define IMPORT_MAP_MAX (128ull << 20)
#define IMPORT_EXTENTS 64
#define IMPORT_NAME_MAX 255

enum import_format { IMPORT_VMDK, IMPORT_VHD, IMPORT_VHDX, IMPORT_VDI };

/* A file that a flat VMDK's descriptor names: beside it, never a path. */
struct import_extent {
	char name[IMPORT_NAME_MAX + 1]; /* empty: zeroes */
	uint64_t len, offset;			/* bytes of the disk; where in the file they begin */
};

/* Opens the image in `file`, growable and read-only, which stays the caller's, and makes `out` its
 * gate. */
int import_open(struct block *out, struct block *file, enum import_format format,
				const struct block_host *host, struct err *e);

/* Whether a VMDK is a descriptor only (1), or not (0), and if so the files that it names. */
int import_vmdk_extents(struct block *file, struct import_extent extents[IMPORT_EXTENTS],
						unsigned *n, struct err *e);
/* The disk made of these; files[i] is NULL where the extent is zeroes. */
int import_open_flat(struct block *out, const struct import_extent *extents,
					 struct block *const *files, unsigned n, const struct block_host *host,
					 struct err *e);

/* Finds the disk in an OVA, and makes `out` a view of that part of the file. */
int import_open_ova(struct block *out, struct block *file, const struct block_host *host,
					struct err *e);

#endif
