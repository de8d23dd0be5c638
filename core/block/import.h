/* Read-only import of other programs' images: VDI (VirtualBox), VHD and VHDX (Hyper-V), VMDK
 * (VMware: sparse, stream-optimized, flat, in one file or several), and OVA, a tar archive with
 * VMDKs in it.
 *
 * For tools, not for VMs: reading blocks, and needs files that complete inside of submit().
 * All tables are read and judged when an image is opened, into one list of where each of its
 * blocks lies; that takes at most IMPORT_MAP_MAX bytes for all files of an image together. A VHDX
 * that was not closed is read as if its log had been replayed; nothing is written.
 *
 * Refused by name: images that are differences to a parent, encrypted ones, VMDKs of ESX's own
 * kinds (VMFSSPARSE, SESPARSE). */
#ifndef CORE_BLOCK_IMPORT_H
#define CORE_BLOCK_IMPORT_H

#include "core/block/block.h"

#define IMPORT_MAP_MAX (128ull << 20)
#define IMPORT_EXTENTS 512 /* files of one image; writers split at 2 GiB */
#define IMPORT_NAME_MAX 255

enum import_format { IMPORT_VMDK, IMPORT_VHD, IMPORT_VHDX, IMPORT_VDI };

enum import_extent_kind { IMPORT_ZERO, IMPORT_FLAT, IMPORT_SPARSE };

/* A file that a VMDK's descriptor names: a plain name in its own folder, never a path. */
struct import_extent {
	enum import_extent_kind kind;
	char name[IMPORT_NAME_MAX + 1]; /* empty for zeroes */
	uint64_t len, offset;			/* bytes of the disk; where in a flat file they begin */
};

/* Opens the image in `file`, growable and read-only, which stays the caller's, and makes `out` its
 * gate. */
int import_open(struct block *out, struct block *file, enum import_format format,
				const struct block_host *host, struct err *e);

/* Of what import_open() opened: whether it was not closed, so that its log was replayed. */
bool import_was_replayed(const struct block *b);

/* Whether a VMDK is a descriptor only (1), or not (0), and if so the files that it names. */
int import_vmdk_extents(struct block *file, const struct block_host *host,
						struct import_extent extents[IMPORT_EXTENTS], unsigned *n, struct err *e);
/* The disk made of these, 1 to IMPORT_EXTENTS of them; files[i], which stay the caller's, are NULL
 * where the extent is zeroes. One that is shorter than the descriptor says is refused by name. */
int import_open_extents(struct block *out, const struct import_extent *extents,
						struct block *const *files, unsigned n, const struct block_host *host,
						struct err *e);

/* Finds a disk in an OVA, and makes `out` a view of that part, or these parts, of the file. `which`
 * counts from 1; 0: the only one. */
int import_open_ova(struct block *out, struct block *file, unsigned which,
					const struct block_host *host, struct err *e);

#endif
