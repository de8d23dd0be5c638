/* qcow2 images, version 2 and 3 ([QCOW2]): reading and writing with backing images, zlib and
 * zstd clusters (written by qcow2_write_packed() only), discard, zeroes, resize, check and repair,
 * all refcount widths, images with internal snapshots (which stay untouched).
 *
 * Power cuts. At every moment the file below is an image that opens and holds at least what was
 * flushed. Tables are changed in memory only and written by commits (qcow2_commit.c says in
 * which order); what a cut can leave behind is leaked clusters, which `check` finds.
 *
 * Refused by name: encryption, external data files, extended L2 entries, and what is newer than
 * this. Left out: writing compressed clusters while a VM runs, making or applying internal
 * snapshots. The permission to use lazy refcounts is kept and not used; an image that another
 * program left with the dirty bit has its refcounts rebuilt when it is opened for writing. The
 * corrupt bit: opened read-only, or by check. Persistent bitmaps are not maintained, and marked so,
 * as the standard demands. */
#ifndef CORE_BLOCK_QCOW2_H
#define CORE_BLOCK_QCOW2_H

#include "core/block/block.h"

#define QCOW2_NAME_MAX 1023 /* of a backing file */
#define QCOW2_FORMAT_MAX 15

struct qcow2;

/* What a header says, judged: within the limits of this implementation and of the file. */
struct qcow2_info {
	unsigned version, cluster_bits, refcount_order;
	uint64_t size;
	bool lazy_refcounts, dirty, corrupt;
	enum block_compression compression;
	uint32_t snapshots;
	char backing[QCOW2_NAME_MAX + 1];		   /* empty: none */
	char backing_format[QCOW2_FORMAT_MAX + 1]; /* empty: not said */
};

/* Whether `buf`, the first bytes of a file, is a qcow2 header: by its magic. */
bool qcow2_probe(const uint8_t *buf, size_t len);

/* Reads the header only, e.g. to learn of the backing image before opening. */
int qcow2_read_info(struct block *file, struct qcow2_info *info, struct err *e);

struct qcow2_open_options {
	bool read_only;
	bool check; /* opened only for qcow2_check(): dirty and corrupt images are let in */
	/* Opened already, read-only in effect, stays the caller's; NULL: the image has none, or
	 * only tables are of interest. */
	struct block *backing;
	bool discard; /* hand freed clusters back to the file system */
};

/* Opens the image in `file` (growable; stays the caller's, who closes it after the image) and
 * makes `out` its gate. Blocks. Memory is bounded: at most QCOW2_MEMORY_MAX. */
#define QCOW2_MEMORY_MAX (160ull << 20)
int qcow2_open(struct block *out, struct block *file, const struct block_host *host,
			   const struct qcow2_open_options *o, struct err *e);

struct qcow2_create_options {
	uint64_t size;			 /* a multiple of 512 */
	unsigned version;		 /* 2, 3; 0: 3 */
	unsigned cluster_bits;	 /* 9..21; 0: 16 */
	unsigned refcount_order; /* 0..6 with version 3; by default 4 */
	bool refcount_order_set;
	bool lazy_refcounts, zstd;
	const char *backing, *backing_format; /* NULL: none; both or neither */
};

/* Writes an empty image into `file`, which is empty. It counts as an image once its first
 * sector, which goes last, is there; everything is durable at return. Takes a few writes and
 * two flushes, whatever the size. */
int qcow2_create(struct block *file, const struct block_host *host,
				 const struct qcow2_create_options *o, struct err *e);

/* Below, `image` is what qcow2_open() made. All of it blocks. */

struct qcow2_check_result {
	uint64_t clusters, allocated; /* of the disk */
	uint64_t end;				  /* of what the file is used up to, bytes */
	uint64_t leaks, leaks_fixed;  /* clusters that nothing needs */
	uint64_t wrong, wrong_fixed;  /* reference counts below the truth, and flags that say so */
	uint64_t corruptions;		  /* entries that point nowhere, clusters used twice */
};

/* Walks all tables and compares. With `repair` (image opened for writing) rewrites refcounts and
 * flags; then clears the dirty bit, and the corrupt bit if nothing is left. -ERR_IO: the image
 * could not be read; what is wrong with it is in `r`, not in the return value. */
int qcow2_check(struct block *image, bool repair, struct qcow2_check_result *r, struct err *e);

/* Changes the size; what is cut off is lost, what is new reads as zeroes. */
int qcow2_resize(struct block *image, uint64_t size, struct err *e);

/* Makes another file the backing one, by name (NULL: none); contents are the caller's care. */
int qcow2_set_backing(struct block *image, const char *name, const char *format, struct err *e);

/* Fills a cluster that the image does not hold yet with `len` compressed bytes (less than a
 * cluster), of the kind in the image's qcow2_info; those of a cluster at the disk's end unpack to
 * a whole one, too. -ERR_EXIST: it holds something there. */
int qcow2_write_packed(struct block *image, uint64_t offset, const void *packed, size_t len);
uint64_t qcow2_cluster_size(const struct block *image);

const struct qcow2_info *qcow2_get_info(const struct block *image);

/* Whether a block is a qcow2 image. */
bool qcow2_is(const struct block *b);

#endif
