/* Who has a file open: told by the links in /proc/PID/fd of the processes that this user may look
 * into. Slow (all of them are read), for an error's path only. Any thread. */
#ifndef HOST_LINUX_HOLDER_H
#define HOST_LINUX_HOLDER_H

#include "core/base/types.h"

/* Does a living process, or this one by another descriptor, have the file of `fd` open? One that is
 * killed or ends lives no more. false also if only processes of others have it, or it has
 * another name there. */
bool holder_lives(int fd);

#endif
