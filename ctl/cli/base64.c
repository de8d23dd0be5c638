/* Base64, in which the guest agent's protocol carries bytes; see guest.h. */
#include <stdlib.h>
#include <string.h>

#include "ctl/cli/guest.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t len) {
	const uint8_t *p = data;
	char *text = malloc((len + 2) / 3 * 4 + 1), *out = text;
	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;
		v |= i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0;
		v |= i + 2 < len ? p[i + 2] : 0;
		*out++ = digits[v >> 18];
		*out++ = digits[v >> 12 & 63];
		*out++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
		*out++ = i + 2 < len ? digits[v & 63] : '=';
	}
	*out = 0;
	return text;
}

long base64_decode(const char *text, void *buf, size_t size) {
	uint8_t *out = buf;
	uint32_t v = 0;
	unsigned bits = 0;
	size_t n = 0;
	for (; *text && *text != '='; text++) {
		const char *d = strchr(digits, *text);
		if (!d)
			return -1;
		v = v << 6 | (uint32_t)(d - digits);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			if (n == size)
				return -1;
			out[n++] = (uint8_t)(v >> bits);
		}
	}
	return (long)n;
}
