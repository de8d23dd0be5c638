/* The checked gate in front of every image format and image file.
 *
 *     device -> block (gate) -> qcow2 -> block (gate) -> file of the host
 *                                 `----> block (gate) -> backing image
 *
 * A format or a host implements `struct block_ops` and answers each request exactly once with
 * block_done(). The gate judges every request before it gets there (range, direction, sums of
 * the segments), so that no implementation has to, and holds implementations to the contract:
 * answered once, none in work when closed.
 *
 * One block and all below it belong to one thread, or to a lock of the caller: there is none
 * in here. Nothing in core/block blocks, except for what is called *_sync and what says so
 * (opening, checking, resizing): these are for tools and for the time before a VM runs, and
 * need a file that completes inside of submit(). */
#ifndef CORE_BLOCK_BLOCK_H
#define CORE_BLOCK_BLOCK_H

#include "core/base/block.h"
#include "core/base/err.h"

enum block_compression { BLOCK_ZLIB, BLOCK_ZSTD }; /* BLOCK_ZLIB: raw deflate, no header */

enum block_state {
	BLOCK_ABSENT,  /* not in this image: its backing image's, or zeroes */
	BLOCK_IS_ZERO, /* known to read as zeroes */
	BLOCK_IS_DATA,
};

/* What formats need of the host besides files. */
struct block_host {
	/* Zeroed memory; NULL: none left. Only while an image is opened or a tool runs. */
	void *(*alloc)(void *opaque, size_t size);
	void (*free)(void *opaque, void *p, size_t size);
	/* A whole compressed stream to exactly out_len bytes. 0, or -ERR_*: damaged, or
	 * -ERR_NOTSUP: this host has no such decompressor. The input is hostile. */
	int (*inflate)(void *opaque, enum block_compression type, void *out, size_t out_len,
				   const void *in, size_t in_len);
	void *opaque;
};

struct block_ops {
	const char *name; /* of the format */
	void (*submit)(void *self, struct block_request *r);
	/* For tools; NULL: all is data. Of the `len` bytes at `offset`: how many share one state
	 * (1..len), and which. May block. */
	int (*map)(void *self, uint64_t offset, uint64_t len, uint64_t *run, enum block_state *state);
	/* Makes durable and frees; nothing is in work. 0 or -ERR_* of what could not be written. */
	int (*close)(void *self);
};

struct block {
	const struct block_ops *ops;
	void *self;
	uint64_t size; /* of a growable one: its end so far */
	bool read_only;
	/* A file below a format: reads past its end give zeroes, writes there make it longer. */
	bool growable;
	/* How answers get out; NULL: block_done() calls request.done at once. A host that has to
	 * change threads or take a lock first does it here. */
	void (*finish)(void *opaque, struct block_request *r, int error);
	void *finish_opaque;
	unsigned in_work;
};

/* Sends a request through the gate. A bad one is answered with -ERR_INVAL, a write to what is
 * read-only with -ERR_PERM, nothing touched. */
void block_submit(struct block *b, struct block_request *r);

/* The sentence for a request that was answered with `r` (-ERR_*, or another negative errno of the
 * host): "what: why". Returns r. */
int block_fail(struct err *e, int r, const char *what);

/* For implementations: the answer to a request. */
void block_done(struct block_request *r, int error);

/* Closes the implementation. `b` may be NULL or never opened. */
int block_close(struct block *b);

/* One request, answered when it returns: 0 or -ERR_*. The first takes any, and sets its `done` and
 * `opaque`. A file that answers later has no business here. */
int block_submit_sync(struct block *b, struct block_request *r);
int block_read_sync(struct block *b, uint64_t offset, void *buf, size_t len);
int block_write_sync(struct block *b, uint64_t offset, const void *buf, size_t len);
int block_zeroes_sync(struct block *b, uint64_t offset, uint64_t len);
int block_flush_sync(struct block *b);
int block_map_sync(struct block *b, uint64_t offset, uint64_t len, uint64_t *run,
				   enum block_state *state);

/* Helpers on segments. slice: those of [pos, pos + len) of `in` behind the `n` that `out` has
 * already. */
void block_slice(struct block_request *out, const struct block_request *in, uint64_t pos,
				 uint64_t len);
void block_add_segment(struct block_request *out, void *host, uint64_t len);
/* Copies `len` bytes between a buffer and the segments at `pos`; NULL: zeroes. */
void block_fill(const struct block_request *r, uint64_t pos, const void *from, uint64_t len);

#endif
