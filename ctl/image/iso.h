/* A small ISO 9660 volume with a few files in its root folder, with Joliet names. */
#ifndef CTL_IMAGE_ISO_H
#define CTL_IMAGE_ISO_H

#include "core/base/err.h"
#include "core/base/types.h"

#define ISO_FILES 8

struct iso_file {
	const char *name; /* up to 60 ASCII characters */
	const void *data;
	size_t len;
};

/* The whole volume as bytes, a multiple of 2048, which the caller frees; NULL: no memory. */
uint8_t *iso_make(const char *label, const struct iso_file *files, unsigned n, size_t *len);

#endif
