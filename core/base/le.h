/* Unaligned little-endian loads and stores, for bytes that come from outside
 * (images, descriptors, streams). Guest RAM is read with core/vm/mem.h. */
#ifndef CORE_BASE_LE_H
#define CORE_BASE_LE_H

#include "core/base/types.h"

static inline uint16_t le16_get(const void *p) {
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t le32_get(const void *p) {
	const uint8_t *b = p;
	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t le64_get(const void *p) {
	const uint8_t *b = p;
	return le32_get(b) | (uint64_t)le32_get(b + 4) << 32;
}

static inline void le16_put(void *p, uint16_t v) {
	uint8_t *b = p;
	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

static inline void le32_put(void *p, uint32_t v) {
	le16_put(p, (uint16_t)v);
	le16_put((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

static inline void le64_put(void *p, uint64_t v) {
	le32_put(p, (uint32_t)v);
	le32_put((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

#endif
