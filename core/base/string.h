/* The four functions that core/ takes from outside, and the few string helpers
 * that it would otherwise need a C library for. */
#ifndef CORE_BASE_STRING_H
#define CORE_BASE_STRING_H

#include "core/base/types.h"

void *memcpy(void *restrict dst, const void *restrict src, size_t len);
void *memmove(void *dst, const void *src, size_t len);
void *memset(void *dst, int byte, size_t len);
int memcmp(const void *a, const void *b, size_t len);

static inline size_t str_len(const char *s) {
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

static inline bool str_eq(const char *a, const char *b) {
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

#endif
