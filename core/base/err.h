/* Errors of host and configuration: a negative errno value plus one sentence
 * that says what was wrong, with which value, and what to do. The sentence is
 * made where the cause is known and only handed upwards from there. */
#ifndef CORE_BASE_ERR_H
#define CORE_BASE_ERR_H

#include "core/base/types.h"

/* The values of Linux, so that the hosted side can pass errno through. */
enum {
	ERR_PERM = 1,
	ERR_NOENT = 2,
	ERR_IO = 5,
	ERR_AGAIN = 11,
	ERR_NOMEM = 12,
	ERR_ACCES = 13,
	ERR_BUSY = 16,
	ERR_EXIST = 17,
	ERR_NODEV = 19,
	ERR_INVAL = 22,
	ERR_FBIG = 27,
	ERR_NOSPC = 28,
	ERR_ROFS = 30,
	ERR_RANGE = 34,
	ERR_NOSYS = 38,
	ERR_NOTSUP = 95,
	ERR_STALE = 116,
	ERR_DQUOT = 122,
};

struct err {
	char text[256];
};

/* Writes the sentence into `e` (may be NULL) and returns -code.
 * Formats: %s %d %u %x %c %%, with l/ll/z lengths and 0/width. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
