/* A small freestanding formatter, for error sentences and log lines. */
#ifndef CORE_BASE_FMT_H
#define CORE_BASE_FMT_H

#include <stdarg.h>

#include "core/base/host.h"
#include "core/base/types.h"

/* As snprintf, for %s %d %i %u %x %X %p %c %% with l/ll/z/j lengths, `0`/`-`
 * flags, width and (for %s) precision. Always terminates when size > 0. Returns the length
 * that the whole text has. */
size_t fmt_text(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
size_t fmt_vtext(char *buf, size_t size, const char *fmt, va_list ap);

/* Formats one line and gives it to the host's log. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
