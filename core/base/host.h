/* The host's ops struct: with memcpy, memmove, memset and memcmp the only
 * symbols that core/ leaves undefined. Each host (host/linux, host/metal, a
 * test's fake) defines `host_ops` once. */
#ifndef CORE_BASE_HOST_H
#define CORE_BASE_HOST_H

#include "core/base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct host_ops {
	/* Our own bug: report it and stop this VM. Never returns. */
	void (*bug)(const char *file, int line, const char *what) __attribute__((noreturn));
	/* One finished line, no newline at its end. Callable from any thread. */
	void (*log)(enum log_level level, const char *line);
};

extern const struct host_ops host_ops;

#endif
