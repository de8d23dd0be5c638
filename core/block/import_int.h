/* Between the importers. */
#ifndef CORE_BLOCK_IMPORT_INT_H
#define CORE_BLOCK_IMPORT_INT_H

#include "core/base/be.h"
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/block/import.h"

struct import {
	const struct block_host *host;
	struct block *file;
	uint64_t size; /* of the disk */
	uint64_t unit; /* bytes of a block, a power of two */
	uint64_t units;
	uint64_t *map; /* where each block lies in the file; 0: zeroes */
	bool plain;	   /* all blocks are there, one after the other: 0 means no zeroes */
	bool packed;   /* each lies compressed behind a marker of VMDK */
	uint8_t *in, *out;
	size_t in_size;
	uint64_t out_unit; /* which block is in `out`, plus 1 */
};

/* Takes the list for a disk of `size` bytes in blocks of `unit`, judged. */
int import_make_map(struct import *m, uint64_t size, uint64_t unit, struct err *e);
/* A whole table of the file; host->free() it with the same length. NULL: `e` says why. */
uint8_t *import_table(struct import *m, uint64_t offset, uint64_t len, struct err *e);

int import_vdi(struct import *m, struct err *e);
int import_vhd(struct import *m, struct err *e);
int import_vhdx(struct import *m, struct err *e);
int import_vmdk(struct import *m, struct err *e);

#endif
