/* Making images out of Debian's packages, and programs that we run for it. */
#ifndef CTL_IMAGE_BUILD_H
#define CTL_IMAGE_BUILD_H

#include "ctl/image/image.h"

struct build_request {
	const char *name, *release, *mirror, *include; /* the last two may be NULL */
	uint64_t size;								   /* bytes of the disk */
	bool replace, quiet;
};

/* mmdebstrap and mke2fs; no loop device, no mount. As root or, by user namespaces, as anybody. */
int build_debian(const struct build_request *q, struct err *e);

/* Runs a program to its end, its output into the file `log`, showing progress: `what`, and the
 * log's last line, or, if `watch` is given, that file's size (of `total`, if known). Returns its
 * exit code, or -ERR_NOENT: there is no such program. */
int build_run(char *const argv[], const char *log, const char *what, const char *watch,
			  uint64_t total, bool quiet, struct err *e);

#endif
