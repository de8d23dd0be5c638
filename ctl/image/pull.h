/* Images from files and from the network. */
#ifndef CTL_IMAGE_PULL_H
#define CTL_IMAGE_PULL_H

#include "ctl/image/image.h"

struct import_request {
	const char *name, *disk;			  /* path */
	const char *kernel, *initrd, *append; /* NULL: what is in the disk, and finds its root */
	const char *source, *sha256;		  /* for people; may be NULL */
	bool cloud_init, replace;
	bool no_kernel; /* NULL is none, and nothing is looked for */
};

/* Copies the files into the images. */
int image_import(const struct import_request *q, struct err *e);

struct pull_request {
	const char *what;							   /* a known name or a URL */
	const char *name;							   /* of the image here */
	const char *sha256, *kernel, *initrd, *append; /* for URLs; may be NULL */
	bool replace, quiet;
};

int pull_image(const struct pull_request *q, struct err *e);

#endif
