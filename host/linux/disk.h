/* A raw image file (or block device) as a disk: block_backend over pread and pwrite on a
 * small pool of threads. Requests come in with the VM lock held; their `done` is called
 * from a pool thread that takes that lock. */
#ifndef HOST_LINUX_DISK_H
#define HOST_LINUX_DISK_H

#include "core/base/err.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"

struct host_disk;

/* Opens and locks the image: for us alone when writable, against writers when not. */
int host_disk_open(struct host_disk **out, const char *path, bool read_only,
				   const struct vm_host *vm, struct err *e);
const struct block_backend *host_disk_backend(const struct host_disk *d);

/* Finishes what was submitted (the VM lock must be free), makes it durable, closes. */
void host_disk_close(struct host_disk *d);

#endif
