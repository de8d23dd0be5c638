/* Back ends that devices are given: characters, blocks, random bytes, frames.
 * Nothing here blocks: work is submitted and its completion comes back later (or
 * at once, from inside submit). VM lock held in both directions. */
#ifndef CORE_VM_BACKEND_H
#define CORE_VM_BACKEND_H

#include "core/base/frame.h"
#include "core/base/types.h"

/* Bytes out of a serial port or console. */
struct char_backend {
	/* Takes up to len bytes, returns how many; 0 means full: `writable` of the device
	 * is called when there is room again. */
	size_t (*write)(void *opaque, const uint8_t *buf, size_t len);
	/* The device can take input again after char_device.receive returned less than
	 * it was offered. May be NULL. */
	void (*readable)(void *opaque);
	void *opaque;
};

/* The other direction: what a serial-like device offers to its back end. */
struct char_device {
	size_t (*receive)(void *dev, const uint8_t *buf, size_t len); /* returns how many it took */
	void (*writable)(void *dev);								  /* may be NULL */
	void *dev;
};

struct rng_backend {
	void (*fill)(void *opaque, void *buf, size_t len);
	void *opaque;
};

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_ZEROES };

struct block_segment {
	uint8_t *host;
	uint64_t len;
};

#define BLOCK_SEGMENTS 130 /* 128 data segments and the two ends of an unaligned one */

/* Owned by the submitter until `done` ran. */
struct block_request {
	enum block_op op;
	uint64_t offset, len; /* bytes */
	bool fua;			  /* the write must be durable when done */
	unsigned nsegs;
	struct block_segment segs[BLOCK_SEGMENTS];
	void (*done)(struct block_request *r, int error); /* 0 or -ERR_* */
	void *opaque;									  /* the submitter's */
	void *next;										  /* the back end's, while it owns it */
};

struct block_backend {
	void (*submit)(void *opaque, struct block_request *r);
	void *opaque;
	uint64_t size; /* bytes, a multiple of block_size */
	uint32_t block_size;
	bool read_only, discard;
	char serial[21];
};

/* Frames out of a network card. */
struct net_backend {
	/* Where the device may put its next frame: FRAME_MAX bytes; or NULL: full, `writable` of
	 * the device is called when there is room again. */
	uint8_t *(*room)(void *opaque);
	/* Takes the frame that was put there; the bytes were a guest's: judged by frame_valid(). */
	void (*send)(void *opaque, const struct frame *f);
	/* The device can take frames again after net_device.receive said no. */
	void (*readable)(void *opaque);
	void *opaque;
};

/* The other direction: what a network card offers to its back end. */
struct net_device {
	/* false: no room now. A frame that nobody wants (another address, link down, no driver) is
	 * dropped, which counts as taken. */
	bool (*receive)(void *dev, const struct frame *f);
	void (*flush)(void *dev); /* after one or several receive: tell the guest */
	void (*writable)(void *dev);
	void (*set_link)(void *dev, bool up);
	void *dev;
};

#endif
