/* A whole file as read-only bytes. */
#ifndef HOST_LINUX_FILE_H
#define HOST_LINUX_FILE_H

#include "core/base/err.h"
#include "core/base/types.h"

struct host_file {
	uint8_t *data;
	size_t len;
};

/* `what` names it in messages: "kernel". Nothing bigger than 4 GiB. Copies, so that nobody
 * can change the bytes between two looks at them. */
int host_file_read(struct host_file *f, const char *path, const char *what, struct err *e);
/* Opens it and tells its length: a descriptor, or -ERR_*. The same files are refused. */
int host_file_open(const char *path, const char *what, size_t *len, struct err *e);
void host_file_free(struct host_file *f);

#endif
