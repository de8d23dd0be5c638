/* The host's ops for core/: log lines to stderr, and the end of the process at a failed
 * check(). Nothing else in host/ ends the process. */
#include "host/linux/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/linux/terminal.h"

static enum log_level log_limit = LOG_WARN;

void log_set_level(enum log_level level) {
	__atomic_store_n(&log_limit, level, __ATOMIC_RELAXED);
}

/* One write, so that lines of several threads do not mix. In raw mode the terminal does
 * not turn a line feed into a new line at the left, hence the carriage returns. */
static void put_line(const char *line) {
	char buf[1200];
	const char *cr = terminal_is_raw() ? "\r" : "";
	int n = snprintf(buf, sizeof(buf), "%sjoist: %s%s\n", cr, line, cr);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(buf))
		n = sizeof(buf) - 1;
	while (write(STDERR_FILENO, buf, (size_t)n) < 0 && errno == EINTR)
		;
}

void log_say(const char *fmt, ...) {
	char line[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	put_line(line);
}

static void log_write(enum log_level level, const char *line) {
	static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
	if (level <= __atomic_load_n(&log_limit, __ATOMIC_RELAXED))
		log_say("%s%s", prefix[level], line);
}

/* A check() failed: state is not what we think it is, so nothing is tidied up but the
 * user's terminal. */
static void __attribute__((noreturn)) bug(const char *file, int line, const char *what) {
	terminal_restore();
	log_say("internal error at %s:%d: %s; please report it", file, line, what);
	abort();
}

const struct host_ops host_ops = {bug, log_write};
