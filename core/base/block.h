/* The one interface of disks: requests over bytes. Devices submit them, image formats take
 * them and submit their own to what lies below, hosts carry them out.
 *
 * Nothing here blocks: work is submitted and its completion comes back later, or at once from
 * inside of submit(). */
#ifndef CORE_BASE_BLOCK_H
#define CORE_BASE_BLOCK_H

#include "core/base/types.h"

/* BLOCK_DISCARD is advice: afterwards the bytes read as before or as zeroes. After
 * BLOCK_ZEROES they read as zeroes. BLOCK_FLUSH makes durable all that was done before it
 * was submitted. */
enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_ZEROES };

struct block_segment {
	uint8_t *host;
	uint64_t len;
};

#define BLOCK_SEGMENTS 130 /* 128 data segments and the two ends of an unaligned one */

struct block;

/* Owned by the submitter until `done` ran. */
struct block_request {
	enum block_op op;
	uint64_t offset, len; /* bytes */
	bool fua;			  /* the write must be durable when done */
	unsigned nsegs;		  /* for reads and writes; their lengths make up `len` */
	struct block_segment segs[BLOCK_SEGMENTS];
	void (*done)(struct block_request *r, int error); /* 0 or -ERR_* */
	void *opaque;									  /* the submitter's */
	void *next;										  /* the back end's, while it owns it */
	struct block *gate;								  /* core/block/block.c's */
	int error;										  /* the same, on its way out */
};

/* What a disk is to a device. */
struct block_backend {
	void (*submit)(void *opaque, struct block_request *r);
	void *opaque;
	uint64_t size; /* bytes, a multiple of block_size */
	uint32_t block_size;
	bool read_only, discard;
	char serial[21];
};

#endif
