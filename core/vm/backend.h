/* Back ends that devices are given: characters, blocks, random bytes, frames.
 * Nothing here blocks: work is submitted and its completion comes back later (or
 * at once, from inside submit). VM lock held in both directions. */
#ifndef CORE_VM_BACKEND_H
#define CORE_VM_BACKEND_H

#include "core/base/block.h"
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
