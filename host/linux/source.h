/* A kernel or initrd: a file that is read piece by piece where its bytes are wanted, mostly right
 * into guest RAM. It stays open, for the guest's next reset; who changes it meanwhile changes what
 * boots then. */
#ifndef HOST_LINUX_SOURCE_H
#define HOST_LINUX_SOURCE_H

#include "core/base/err.h"
#include "host/linux/ram.h"

struct host_source {
	int fd; /* -1: there is none */
	size_t len;
	const struct host_ram *ram;
};

/* `what` names it in messages: "kernel". A regular file, not empty, nothing bigger than 4 GiB.
 * `ram` is where most of it will go. 0, or -ERR_* with `e` filled. */
int host_source_open(struct host_source *s, const char *path, const char *what,
					 const struct host_ram *ram, struct err *e);
/* [off, off + n) of it; false: not all of it is there (any more). The type fits boot_image.read. */
bool host_source_read(void *source, uint64_t off, void *buf, size_t n);
void host_source_close(struct host_source *s);

#endif
