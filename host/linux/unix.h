/* Unix sockets with names in the file system. */
#ifndef HOST_LINUX_UNIX_H
#define HOST_LINUX_UNIX_H

#include <sys/un.h>

#include "core/base/err.h"

/* Fills in an address; -ERR_INVAL: the path is empty or longer than the 107 bytes a socket's
 * may have. `what` names it in the sentence. */
int unix_address(struct sockaddr_un *a, const char *path, const char *what, struct err *e);

/* A non-blocking stream socket that listens at `path` with mode 0600. Replaces a socket that
 * nobody listens at any more; -ERR_BUSY if somebody does, -ERR_EXIST if it is no socket.
 * Returns the descriptor. */
int unix_listen(const char *path, const char *what, struct err *e);

#endif
