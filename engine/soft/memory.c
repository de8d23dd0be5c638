/* memcpy, memmove, memset and memcmp for the whole program, in general registers only.
 *
 * The guest's vector state stays in the host's registers while the engine and core/ run
 * (fpu.c). The C library's versions use vector registers, and compilers insert calls of
 * them at will, so the program brings its own. The host's string instructions are as good from a
 * few dozen bytes on. Left out of sanitizer builds, which bring theirs: there the FPU is unloaded
 * after each instruction (native.c), and meson.build defines SOFT_FPU_EAGER. */
#include <stddef.h>
#include <stdint.h>

#ifndef SOFT_FPU_EAGER

void *memcpy(void *restrict dst, const void *restrict src, size_t len);
void *memmove(void *dst, const void *src, size_t len);
void *memset(void *dst, int byte, size_t len);
int memcmp(const void *a, const void *b, size_t len);

typedef uint64_t word __attribute__((may_alias, aligned(1)));
typedef uint32_t half __attribute__((may_alias, aligned(1)));

/* Up to 16 bytes as two overlapping pieces. */
static inline void copy_short(uint8_t *d, const uint8_t *s, size_t len) {
	if (len >= 8) {
		uint64_t a = *(const word *)s, b = *(const word *)(s + len - 8);
		*(word *)d = a;
		*(word *)(d + len - 8) = b;
	} else if (len >= 4) {
		uint32_t a = *(const half *)s, b = *(const half *)(s + len - 4);
		*(half *)d = a;
		*(half *)(d + len - 4) = b;
	} else if (len) {
		uint8_t a = s[0], b = s[len / 2], c = s[len - 1];
		d[0] = a;
		d[len / 2] = b;
		d[len - 1] = c;
	}
}

void *memcpy(void *restrict dst, const void *restrict src, size_t len) {
	void *d = dst;
	if (len <= 16)
		copy_short(dst, src, len);
	else
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(len) : : "memory");
	return dst;
}

void *memmove(void *dst, const void *src, size_t len) {
	if (len <= 16) {
		copy_short(dst, src, len);
	} else if ((uintptr_t)dst - (uintptr_t)src >= len) {
		void *d = dst;
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(len) : : "memory");
	} else {
		uint8_t *d = (uint8_t *)dst + len - 1;
		const uint8_t *s = (const uint8_t *)src + len - 1;
		__asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(d), "+S"(s), "+c"(len) : : "memory");
	}
	return dst;
}

void *memset(void *dst, int byte, size_t len) {
	void *d = dst;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(len) : "a"(byte) : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t len) {
	const uint8_t *x = a, *y = b;
	for (; len >= 8 && *(const word *)x == *(const word *)y; len -= 8, x += 8, y += 8)
		;
	for (; len; len--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

#endif
