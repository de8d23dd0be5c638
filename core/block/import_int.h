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
	uint64_t *room; /* bytes that lists may still take; parts of one image share it */
	uint64_t size;	/* of the disk */
	uint64_t unit;	/* bytes of a block, a power of two */
	uint64_t units;
	uint64_t *map;	   /* where each block lies in the file; 0: zeroes */
	bool plain;		   /* all blocks are there, one after the other: 0 means no zeroes */
	bool part;		   /* of a VMDK of several files */
	bool packed;	   /* each lies compressed behind a marker of VMDK */
	uint8_t *in, *out; /* a packed block, and what it holds */
	size_t in_size;
	uint64_t out_unit; /* which block is in `out`, plus 1 */
	struct block log;  /* of a VHDX that was not closed; `file` is this then */
};

/* import_open() with IMPORT_MAP_MAX given, for one of the parts of a VMDK. */
int import_open_part(struct block *out, struct block *file, const struct block_host *host,
					 uint64_t *room, struct err *e);

/* Reads `len` bytes at `at` of a file into the segments of `r` at `pos`. */
int import_pass(struct block *file, uint64_t at, const struct block_request *r, uint64_t pos,
				uint64_t len);

/* Up to IMPORT_EXTENTS parts of files, to become one gate. add: false if there are that many. */
struct parts;
struct parts *import_parts_make(const struct block_host *host, struct err *e);
bool import_parts_add(struct parts *x, struct block *file, uint64_t offset, uint64_t len);
void import_parts_drop(struct parts *x);
/* Takes them over, as a growable file. */
void import_parts_open_ova(struct block *out, struct parts *x);

/* Takes the list for a disk of `size` bytes in blocks of `unit`, judged. */
int import_make_map(struct import *m, uint64_t size, uint64_t unit, struct err *e);
/* A whole table of the file; host->free() it with the same length. NULL: `e` says why. */
uint8_t *import_table(struct import *m, uint64_t offset, uint64_t len, struct err *e);

int import_vdi(struct import *m, struct err *e);
int import_vhd(struct import *m, struct err *e);
int import_vhdx(struct import *m, struct err *e);
int import_vmdk(struct import *m, struct err *e);

/* The log of `len` bytes at `at`, of what has this GUID: replaces m->file by the file as it is when
 * that is replayed. */
int import_vhdx_replay(struct import *m, uint64_t at, uint32_t len, const uint8_t guid[16],
					   struct err *e);

#endif
