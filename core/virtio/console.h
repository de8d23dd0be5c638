/* virtio console with several named ports. */
#ifndef CORE_VIRTIO_CONSOLE_H
#define CORE_VIRTIO_CONSOLE_H

#include "core/virtio/device.h"
#include "core/vm/backend.h"

#define VIRTIO_CONSOLE_PORTS 16
#define VIRTIO_CONSOLE_NAME 32

struct virtio_console;

/* Port 0 is what a driver without MULTIPORT sees. */
struct virtio_console_port_options {
	const char *name; /* /dev/virtio-ports/NAME in a Linux guest; NULL: none */
	bool console;	  /* hvcN; otherwise a plain channel */
	struct char_backend backend;
	bool closed; /* nobody is at the host's end yet; see virtio_console_set_open() */
};

/* NULL: out of memory. 1 to VIRTIO_CONSOLE_PORTS ports; the options are copied. */
struct virtio_console *virtio_console_create(struct vm *vm,
											 const struct virtio_console_port_options *ports,
											 unsigned nports);
/* To attach to a transport. */
struct virtio_device *virtio_console_device(struct virtio_console *c);
/* The way in for a port's back end. */
struct char_device virtio_console_port(struct virtio_console *c, unsigned port);
/* Somebody came to the host's end of the port, or left it. A guest that waits for a peer (the
 * QEMU guest agent) sees it; what it writes meanwhile is the back end's to keep or to drop. */
void virtio_console_set_open(struct virtio_console *c, unsigned port, bool open);
/* The terminal of port 0 has another size now. */
void virtio_console_resize(struct virtio_console *c, uint16_t cols, uint16_t rows);

#endif
