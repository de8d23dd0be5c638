/* Bit and alignment helpers. All are pure; alignments are powers of two. */
#ifndef CORE_BASE_BITS_H
#define CORE_BASE_BITS_H

#include "core/base/types.h"

#define BIT(n) (1ull << (n))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

static inline bool is_pow2(uint64_t v) {
	return v && !(v & (v - 1));
}

static inline uint64_t align_down(uint64_t v, uint64_t align) {
	return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align) {
	return (v + align - 1) & ~(align - 1);
}

/* Mask of the low `bytes` bytes; bytes is 1..8. */
static inline uint64_t size_mask(unsigned bytes) {
	return bytes >= 8 ? ~0ull : (1ull << (bytes * 8)) - 1;
}

/* Sign-extend the low `bits` bits of v; bits is 1..64. */
static inline int64_t sext(uint64_t v, unsigned bits) {
	return (int64_t)(v << (64 - bits)) >> (64 - bits);
}

/* Bits hi..lo of v, shifted down. */
static inline uint64_t bits(uint64_t v, unsigned hi, unsigned lo) {
	return (v >> lo) & (hi - lo >= 63 ? ~0ull : (1ull << (hi - lo + 1)) - 1);
}

#endif
