/* A file or block device as what lies below an image format: struct block over a descriptor.
 *
 * With no `io`, requests are carried out at once, by the caller's thread: for tools. With one,
 * they go there and come back on the thread that runs it. */
#ifndef HOST_LINUX_DISK_FILE_H
#define HOST_LINUX_DISK_FILE_H

#include "core/block/block.h"

struct disk_io;

struct disk_file {
	struct block gate;
	int fd;		/* -1: closed */
	int direct; /* the same file without the page cache; -1: not wanted */
	bool is_file;
	struct disk_io *io;
};

enum disk_file_lock {
	DISK_LOCK_NONE,	  /* only a look at it */
	DISK_LOCK_SHARED, /* nobody writes meanwhile */
	DISK_LOCK_ALONE,
};

struct disk_file_options {
	bool read_only;
	bool growable; /* a format's; else a disk: its size stays */
	bool create;   /* a new file; one that is there is refused */
	bool direct;   /* what is aligned goes past the page cache */
	enum disk_file_lock lock;
};

/* An image that is in use by another process is -ERR_BUSY. */
int disk_file_open(struct disk_file *f, const char *path, const struct disk_file_options *o,
				   struct err *e);
void disk_file_close(struct disk_file *f);

/* The descriptor for a read or write: the direct one if offset and all segments are multiples of
 * a page, which is what every file system and device accepts. The kernel keeps direct and cached
 * access to one file coherent as long as they do not overlap in time, and no two requests in
 * work do: guests and formats see to that. */
int disk_file_descriptor(const struct disk_file *f, const struct block_request *r);

/* Carries out a request (judged by the gate), blocking. 0 or -errno. Any thread. */
int disk_file_serve(struct disk_file *f, const struct block_request *r);

#endif
