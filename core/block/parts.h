/* Partition tables of a disk, to be read: GPT [UEFI 2.10 5.3] and MBR with logical partitions.
 *
 * A disk is hostile: an entry that lies outside of it, or is upside down, counts as damaged and is
 * passed over; sectors read and entries kept have bounds. Left out: the checksums and the second
 * table of a GPT (a table that lies shows by what its partitions hold), sectors of 4096 bytes. */
#ifndef CORE_BLOCK_PARTS_H
#define CORE_BLOCK_PARTS_H

#include "core/block/block.h"

#define PARTS_MAX 128

enum parts_kind { PARTS_NONE, PARTS_MBR, PARTS_GPT };

struct part {
	unsigned number;	  /* as the guest's kernel counts: /dev/vda1 is 1 */
	uint64_t offset, len; /* bytes, within the disk */
};

struct parts {
	enum parts_kind kind;
	unsigned n, damaged;
	struct part part[PARTS_MAX];
};

/* 0, with kind PARTS_NONE where there is no table; or -ERR_*: the disk cannot be read. The block
 * must answer inside of submit(). */
int parts_read(struct block *disk, struct parts *p, struct err *e);

#endif
