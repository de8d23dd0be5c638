/* A named port of virtio-console as a Unix stream socket: what a program on the host writes
 * into it the guest reads from /dev/virtio-ports/NAME, and back. The QEMU guest agent speaks
 * over one (org.qemu.guest_agent.0).
 *
 * One client at a time; others wait in the listen queue until it has gone. What the guest
 * writes while nobody is there is dropped, as is what a client left unread: the next one starts
 * afresh. The guest is told when somebody comes and goes.
 *
 * Runs on the loop's thread and, for the guest's output, on whichever holds the VM lock;
 * the client's descriptor changes under that lock only. */
#ifndef HOST_LINUX_CHANNEL_H
#define HOST_LINUX_CHANNEL_H

#include "core/base/err.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"
#include "host/linux/loop.h"

struct host_channel;

/* Listens at `path`, mode 0600; a socket that nobody listens at any more is replaced. */
int host_channel_create(struct host_channel **out, struct loop *l, const char *path,
						const struct vm_host *vm, struct err *e);
struct char_backend host_channel_backend(struct host_channel *c);

/* From now on clients are served. `set_open` is called with the VM lock held. */
int host_channel_start(struct host_channel *c, struct char_device device,
					   void (*set_open)(void *opaque, unsigned index, bool open), void *opaque,
					   unsigned index, struct err *e);

/* Removes the socket, too. */
void host_channel_destroy(struct host_channel *c);

#endif
