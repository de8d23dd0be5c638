/* Where log lines go, and what happens at a bug of ours. log.c defines this process's
 * `host_ops`. Any thread. */
#ifndef HOST_LINUX_LOG_H
#define HOST_LINUX_LOG_H

#include "core/base/host.h"

/* Lines above `level` are dropped. Starts at LOG_WARN. */
void log_set_level(enum log_level level);

/* "joist: text\n" on stderr in one write, right even while the terminal is raw. */
void log_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
