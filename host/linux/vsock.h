/* The guest's AF_VSOCK as Unix stream sockets of its host, as Firecracker has it:
 *
 *   host to guest   a client connects to PATH and writes "CONNECT 1234\n"; when a program of
 *                   the guest that listens on port 1234 has accepted, it reads "OK n\n" (n is the
 *                   host's port), and from there on the socket is the stream. Without one it is
 *                   closed.
 *   guest to host   a program of the guest that connects to CID 2, port 1234 gets whoever listens
 *                   at PATH_1234; nobody there: the connection is refused.
 *
 * Each end may shut down what it sends and go on reading.
 *
 * Runs on the loop's thread, and for what the guest does on whichever holds the VM lock; all but
 * the listener is changed under that lock, and descriptors are closed by the loop's thread only. */
#ifndef HOST_LINUX_VSOCK_H
#define HOST_LINUX_VSOCK_H

#include "core/base/err.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"
#include "host/linux/loop.h"

struct host_vsock;

/* Listens at `path`, mode 0600; a socket that nobody listens at any more is replaced. */
int host_vsock_create(struct host_vsock **out, struct loop *l, const char *path,
					  const struct vm_host *vm, struct err *e);
struct vsock_backend host_vsock_backend(struct host_vsock *h);
/* From now on clients are served. */
int host_vsock_start(struct host_vsock *h, struct vsock_device device, struct err *e);
/* Removes the socket, too. */
void host_vsock_destroy(struct host_vsock *h);

#endif
