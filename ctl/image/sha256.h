/* SHA-256 of a file, for images' checksums [FIPS 180-4]. */
#ifndef CTL_IMAGE_SHA256_H
#define CTL_IMAGE_SHA256_H

#include "core/base/err.h"
#include "core/base/types.h"

/* Lower-case hexadecimal into `hex`. */
int sha256_file(const char *path, char hex[65], struct err *e);
void sha256_hex(const void *data, size_t len, char hex[65]);

#endif
