/* How the requests of one disk reach the kernel without anybody waiting for them: io_uring, or
 * where that is forbidden (containers, seccomp) a few threads. One thread runs it, the disk's:
 * it submits, and gets completions in disk_io_wait(). */
#ifndef HOST_LINUX_DISK_IO_H
#define HOST_LINUX_DISK_IO_H

#include "core/block/block.h"

struct disk_file;
struct disk_io;

struct disk_io_ops {
	const char *name;
	void (*submit)(struct disk_io *io, struct disk_file *f, struct block_request *r);
	/* Answers what has completed; sleeps until something did, somebody woke it, or this time is
	 * over (UINT64_MAX: never). */
	void (*wait)(struct disk_io *io, uint64_t limit_ns);
	void (*wake)(struct disk_io *io); /* any thread; not lost if nobody waits yet */
	void (*destroy)(struct disk_io *io);
};

struct disk_io {
	const struct disk_io_ops *ops;
};

/* The best that works here. The environment variable JOIST_DISK_IO (uring, threads) decides
 * otherwise, for tests. */
int disk_io_create(struct disk_io **out, struct err *e);
int disk_uring_create(struct disk_io **out, struct err *e);
int disk_threads_create(struct disk_io **out, struct err *e);

static inline void disk_io_submit(struct disk_io *io, struct disk_file *f,
								  struct block_request *r) {
	io->ops->submit(io, f, r);
}

#endif
