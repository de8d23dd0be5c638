/* Back ends that devices are given: characters, blocks, random bytes, frames,
 * streams.
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
	/* Takes the frame that was put there; the bytes were a guest's: judged by frame_valid(). It may
	 * wait for kick(). */
	void (*send)(void *opaque, const struct frame *f);
	/* After one or several send. net_device.flush is to be called after `flush_ns`, or earlier if
	 * it is called anyway; UINT64_MAX: need not. */
	void (*kick)(void *opaque, uint64_t flush_ns);
	/* The device can take frames again after net_device.receive said no. */
	void (*readable)(void *opaque);
	void *opaque;
};

/* The other direction: what a network card offers to its back end. */
struct net_device {
	/* false: no room now. A frame that nobody wants (another address, link down, no driver) is
	 * dropped, which counts as taken. */
	bool (*receive)(void *dev, const struct frame *f);
	/* After one or several receive, and when kick() asked for it: tells the guest. Returns after
	 * how many ns to call again, as kick() does. */
	uint64_t (*flush)(void *dev);
	void (*writable)(void *dev);
	void (*set_link)(void *dev, bool up);
	void *dev;
};

/* Streams between the guest and its host, numbered 0 to VSOCK_CONNS - 1 by the device. A number is
 * free again after close(), whichever side called it. */
#define VSOCK_CONNS 64
#define VSOCK_WINDOW 65536u /* bytes that the guest may send ahead of vsock_device.consumed */

struct vsock_backend {
	/* The guest connects to the host's `port`. false: nobody is there. Does not call in. */
	bool (*connect)(void *opaque, unsigned conn, uint32_t port);
	/* What vsock_device.connect asked for: the guest has accepted. */
	void (*connected)(void *opaque, unsigned conn);
	/* Bytes from the guest; all of them are taken. Never more than VSOCK_WINDOW wait there. */
	void (*write)(void *opaque, unsigned conn, const uint8_t *buf, size_t len);
	/* The guest will send no more; `both`: nor take any more. What waits is still passed on, then
	 * (`both`) the back end closes. */
	void (*finish)(void *opaque, unsigned conn, bool both);
	/* The stream is over at once: reset by the guest or with it. */
	void (*close)(void *opaque, unsigned conn);
	/* The guest can take bytes again after vsock_device.receive took less than it was offered. */
	void (*readable)(void *opaque, unsigned conn);
	void *opaque;
};

/* The other direction. */
struct vsock_device {
	/* Connects to the guest's `port`; returns the stream's number, -1: none is free, or the
	 * guest has no driver. */
	int (*connect)(void *dev, uint32_t port);
	/* The host's port of a stream. */
	uint32_t (*host_port)(void *dev, unsigned conn);
	/* Bytes for the guest; returns how many it took. */
	size_t (*receive)(void *dev, unsigned conn, const uint8_t *buf, size_t len);
	/* So many bytes of the guest's have been passed on. */
	void (*consumed)(void *dev, unsigned conn, size_t len);
	/* The host will send no more. */
	void (*finish)(void *dev, unsigned conn);
	/* The stream is over. `reset`: something is lost, or it never came to be. */
	void (*close)(void *dev, unsigned conn, bool reset);
	void *dev;
};

#endif
