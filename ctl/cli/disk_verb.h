/* Shared by the verbs of `joist disk`. */
#ifndef CTL_CLI_DISK_VERB_H
#define CTL_CLI_DISK_VERB_H

#include "ctl/cli/cli.h"
#include "ctl/cli/launch.h"
#include "host/linux/image.h"

/* Prints the error; the exit code. */
int disk_fail(int r, const struct err *e);

/* FILE as FORMAT:FILE, for options that name the format; `format` may be NULL. */
#define DISK_NAME 4096
int disk_named(char name[DISK_NAME], const char *format, const char *file, struct err *e);

/* A disk read and written piece by piece, with a progress bar. */
struct disk_copy {
	struct progress bar;
	uint64_t done, total;
	uint8_t *buf;
};

#define DISK_COPY_STEP (1u << 20)

int disk_copy_start(struct disk_copy *c, const char *what, uint64_t total, bool quiet,
					struct err *e);
void disk_copy_show(struct disk_copy *c, uint64_t done);
void disk_copy_end(struct disk_copy *c);

/* Copies [offset, offset + len) of `from` to `to`; zeroes become zeroes and cost no room.
 * `clean`: `to` reads as zeroes there already. Nothing is read of `from` past its end. */
int disk_copy_range(struct disk_copy *c, struct block *from, struct block *to, uint64_t offset,
					uint64_t len, bool clean, struct err *e);

#endif
