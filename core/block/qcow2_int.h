/* Between the files of qcow2:
 *
 *     qcow2_header.c    bytes to a judged header, and back
 *     qcow2.c           open, close, the gate's functions
 *     qcow2_table.c     cache of L2 tables and refcount blocks
 *     qcow2_refcount.c  taking and giving back clusters
 *     qcow2_map.c       from a guest offset to what lies there
 *     qcow2_task.c      a request's way: range locks, waiting for tables and commits
 *     qcow2_read.c, qcow2_write.c   its pieces
 *     qcow2_commit.c    tables to the file in an order that survives power cuts
 *     qcow2_create.c, qcow2_check.c, qcow2_resize.c, qcow2_pack.c   for tools
 *
 * Nothing waits inside a function. What needs a table that is not in memory returns Q_MISS with
 * nothing changed; the task is stopped, the table read, and the function called again. So each
 * step first collects all that it needs, and only then changes anything. */
#ifndef CORE_BLOCK_QCOW2_INT_H
#define CORE_BLOCK_QCOW2_INT_H

#include "core/base/be.h"
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"
#include "core/base/string.h"
#include "core/block/qcow2.h"

#define Q_SECTOR 512u
#define Q_L1_MAX (32u << 20)	  /* bytes */
#define Q_REFTABLE_MAX (8u << 20) /* bytes */
#define Q_SNAPSHOTS_MAX 65536u
#define Q_HEADER_MAX 65536u /* how much of the first cluster is looked at */
#define Q_TASKS 64
#define Q_FREES 1024
#define Q_WRITES 8 /* of a commit, at once */
#define Q_CACHE_BYTES (16u << 20)
#define Q_CACHE_MIN 12
#define Q_CACHE_MAX 256
#define Q_BOUNCE_BYTES (8u << 20)
#define Q_PIECE 256ull /* clusters that one step may change */

/* Besides 0 and -ERR_*: */
#define Q_MISS 1   /* q->miss must be in memory */
#define Q_COMMIT 2 /* a commit must make room */
#define Q_WAIT 3   /* stopped, and will be called again */

/* Bits of L1 and L2 entries ([QCOW2 "Cluster mapping"]). */
#define Q_COPIED (1ull << 63)
#define Q_PACKED (1ull << 62)
#define Q_ZERO 1ull
#define Q_OFFSET 0x00fffffffffffe00ull

#define Q_INCOMPAT_DIRTY 1u
#define Q_INCOMPAT_CORRUPT 2u
#define Q_INCOMPAT_DATA_FILE 4u
#define Q_INCOMPAT_COMPRESSION 8u
#define Q_INCOMPAT_EXTENDED_L2 16u
#define Q_COMPAT_LAZY 1u

/* Offsets of header fields. */
enum {
	QH_MAGIC = 0,
	QH_VERSION = 4,
	QH_BACKING_OFFSET = 8,
	QH_BACKING_LEN = 16,
	QH_CLUSTER_BITS = 20,
	QH_SIZE = 24,
	QH_CRYPT = 32,
	QH_L1_SIZE = 36,
	QH_L1_OFFSET = 40,
	QH_REFTABLE_OFFSET = 48,
	QH_REFTABLE_CLUSTERS = 56,
	QH_SNAPSHOTS = 60,
	QH_SNAPSHOTS_OFFSET = 64,
	QH_V2_LEN = 72,
	QH_INCOMPAT = 72,
	QH_COMPAT = 80,
	QH_AUTOCLEAR = 88,
	QH_REFCOUNT_ORDER = 96,
	QH_HEADER_LEN = 100,
	QH_COMPRESSION = 104,
	QH_V3_LEN = 112,
};

#define QCOW2_MAGIC 0x514649fbu
#define QX_END 0u
#define QX_BACKING_FORMAT 0xe2792acau
#define QX_FEATURES 0x6803f857u

struct qcow2_header {
	struct qcow2_info info;
	uint32_t l1_entries;
	uint64_t l1_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint64_t snapshots_offset;
	uint64_t incompat, compat, autoclear;
	uint32_t header_len;
};

/* A cluster of tables in memory. One that is dirty or being read stays where it is. */
struct qcow2_table {
	uint64_t offset; /* in the file; 0: unused */
	uint8_t *data;
	uint64_t stamp;	 /* when it was used last */
	uint32_t lo, hi; /* bytes [lo, hi) differ from the file's; hi 0: none */
	bool refcounts;	 /* a refcount block, or an L2 table */
	bool fresh;		 /* nothing in the file points to it yet */
};

enum qcow2_kind { Q_IS_ABSENT, Q_IS_ZERO, Q_IS_DATA, Q_IS_PACKED };

/* What lies at a guest offset, and for how many bytes from there it is of the same kind (of
 * data: contiguous in the file). */
struct qcow2_extent {
	enum qcow2_kind kind;
	bool copied;	 /* data that is ours alone: may be written in place */
	uint64_t host;	 /* data: of that very offset; packed: of the compressed bytes */
	uint64_t packed; /* length of these, rounded up to sectors of the file */
	uint64_t run;
};

struct qcow2_task;
typedef int qcow2_step(struct qcow2_task *t); /* 0: done with the request; Q_*; -ERR_* */

/* Where bytes of the guest are wanted: a request's own memory or a buffer of ours. */
struct qcow2_span {
	const struct block_request *to;
	uint64_t offset, len, pos; /* guest offset of the first byte */
	uint64_t base;			   /* where in `to` it lies */
};

enum qcow2_phase { QP_MAP, QP_HEAD, QP_TAIL, QP_ALLOC, QP_DATA, QP_LINK, QP_FREE };

struct qcow2_task {
	struct qcow2 *q;
	struct block_request *r; /* NULL: this task is free */
	qcow2_step *step;
	struct qcow2_task *next; /* in one list, see qcow2_list */
	bool exclusive, locked, want_commit, unpacking;
	uint64_t first, last; /* guest clusters that it locks */
	uint64_t pos;		  /* bytes done */
	int error;			  /* of the I/O that ended last */

	/* reading */
	struct qcow2_span span;
	uint64_t io_len;
	/* writing clusters that must be allocated */
	enum qcow2_phase phase;
	int failed; /* -ERR_*: what was allocated is given back first */
	uint64_t piece, host, nclusters, head, tail;
	bool zeroes;				 /* what is written */
	bool surrounded;			 /* head and tail must be read */
	uint8_t *bounce;			 /* two clusters: what surrounds the data */
	struct block_request around; /* their destination */
	struct block_request io;
};

struct qcow2_list {
	struct qcow2_task *first, *last;
};

struct qcow2_free {
	uint64_t cluster, count;
};

enum qcow2_commit_state {
	QC_IDLE,
	QC_PLAIN,  /* no table differs: a flush of the file is all */
	QC_BLOCKS, /* writing new refcount blocks */
	QC_BLOCKS_FLUSH,
	QC_COUNTS,		 /* writing refcounts, the reftable, new L2 tables */
	QC_COUNTS_FLUSH, /* with the data */
	QC_LINKS,		 /* writing what points to data and to new tables */
	QC_LINKS_FLUSH,
	QC_FREES, /* giving back what nothing points to any more */
};

struct qcow2_commit {
	enum qcow2_commit_state state;
	bool sent;	   /* the requests of this state went out, or all up to `next` */
	bool wanted;   /* to make room, though nobody flushes */
	bool any;	   /* something was written in this state */
	int error;	   /* of a request in this state */
	int result;	   /* of the last commit */
	unsigned next; /* table to look at next */
	unsigned in_work;
	uint64_t gone, gone_count; /* free clusters to be handed to the file system */
	struct block_request io[Q_WRITES];
	bool busy[Q_WRITES];
	struct qcow2_list running, waiting; /* answered by this commit, by the next one */
};

struct qcow2 {
	struct block *gate, *file, *backing;
	const struct block_host *host;
	struct qcow2_header h;
	bool read_only, discard;
	int broken; /* -ERR_*: tables could not be written or make no sense; no more writes */

	unsigned cluster_bits, l2_bits, refblock_bits; /* of bytes; of entries */
	uint64_t cluster, csize_shift, csize_mask;
	uint8_t *l1, *reftable; /* as in the file */
	uint64_t l1_bytes, reftable_bytes;
	uint64_t l1_lo, l1_hi, reftable_lo, reftable_hi; /* what is dirty */
	uint64_t end;									 /* of the file */
	uint64_t free_from;								 /* every cluster below is in use */

	struct qcow2_table *tables;
	unsigned ntables;
	uint64_t clock, miss;
	bool miss_refcounts;
	struct block_request load;
	struct qcow2_table *loading;
	struct qcow2_task *load_for; /* NULL: for a commit */
	struct qcow2_task *owner;	 /* whose tables are being read; one at a time, so that tasks cannot
								  * throw each other's tables out for ever */

	struct qcow2_task tasks[Q_TASKS];
	struct qcow2_list free_tasks, ready, lock_wait, table_wait, bounce_wait, packed_wait, thaw;
	struct block_request *queue, **queue_last; /* requests for which there is no task yet */
	uint8_t **bounces;
	unsigned nbounces, bounces_free;
	uint8_t *zeroes; /* a cluster */

	uint8_t *packed_in, *packed_out; /* a decompressed cluster: */
	uint64_t packed_host;			 /* which one; 0: none */
	bool packed_busy;
	size_t packed_in_size;
	uint64_t pack_at; /* where the next compressed cluster goes; 0: none was written yet */

	struct qcow2_free frees[Q_FREES];
	unsigned nfrees;
	struct qcow2_commit commit;
	bool running; /* in qcow2_run() */
};

/* qcow2_header.c */
int qcow2_header_parse(struct qcow2_header *h, const uint8_t *buf, size_t len, uint64_t file_size,
					   struct err *e);
/* Header, extensions and backing name in `sector` and behind it. Returns 0, or -ERR_INVAL: does
 * not fit. `extra`: extensions to keep; `name_at`: where the name goes, may be in the sector. */
int qcow2_header_build(const struct qcow2_header *h, uint8_t sector[Q_SECTOR], const uint8_t *extra,
					   size_t extra_len, uint64_t *name_at, struct err *e);

/* qcow2_table.c */
int qcow2_table_get(struct qcow2 *q, uint64_t offset, bool refcounts, struct qcow2_table **out);
/* 0: `n` tables can be made now; or Q_COMMIT. */
int qcow2_table_room(struct qcow2 *q, unsigned n);
struct qcow2_table *qcow2_table_make(struct qcow2 *q, uint64_t offset, bool refcounts);
void qcow2_table_forget(struct qcow2 *q, uint64_t offset);
void qcow2_table_dirty(struct qcow2_table *t, uint64_t at, uint64_t len);
/* Reads q->miss for a task, or for the commit (NULL). */
void qcow2_table_load(struct qcow2 *q, struct qcow2_task *t);
int qcow2_load_sync(struct qcow2 *q);
bool qcow2_dirty(const struct qcow2 *q);
/* Calls again and again what may miss; for tools. */
#define QCOW2_SYNC(q, r, call)                                                                     \
	do {                                                                                           \
		while (((r) = (call)) == Q_MISS && ((r) = qcow2_load_sync(q)) == 0) {                      \
		}                                                                                          \
	} while (0)

/* qcow2_refcount.c */
uint64_t qcow2_refcount_get(unsigned order, const uint8_t *block, uint64_t index);
void qcow2_refcount_put(unsigned order, uint8_t *block, uint64_t index, uint64_t val);
/* 1 to `want` contiguous clusters, counted as used. */
int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t *host, uint64_t *got);
/* Gives back what never was pointed to. */
int qcow2_unalloc(struct qcow2 *q, uint64_t host, uint64_t n);
/* One cluster less used; `gone`: by nobody now. */
int qcow2_unref(struct qcow2 *q, uint64_t cluster, bool *gone);
int qcow2_refcount_of(struct qcow2 *q, uint64_t cluster, uint64_t *val);
/* Notes clusters that the file still points to until the next commit. false: no room. */
bool qcow2_free_room(const struct qcow2 *q, unsigned n);
void qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t len);
/* How many clusters the file can come to need. */
uint64_t qcow2_clusters_max(const struct qcow2 *q);
int qcow2_grow_reftable(struct qcow2 *q, struct err *e); /* at open */

/* qcow2_map.c */
int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t len, struct qcow2_extent *x);
bool qcow2_reads_zero(const struct qcow2 *q, const struct qcow2_extent *x, uint64_t offset);
void qcow2_entry(const struct qcow2 *q, uint64_t entry, struct qcow2_extent *x);
/* The L2 table of a guest offset, to be changed: made or copied if need be. */
int qcow2_l2_for_write(struct qcow2 *q, uint64_t offset, struct qcow2_table **out);
uint64_t qcow2_l2_index(const struct qcow2 *q, uint64_t offset);
/* Sets one entry and notes for later what it pointed to. Room for two frees needed. */
void qcow2_l2_set(struct qcow2 *q, struct qcow2_table *t, uint64_t index, uint64_t entry);
int qcow2_bad(struct qcow2 *q, const char *what, uint64_t val); /* the tables make no sense */

/* qcow2_task.c */
void qcow2_submit(void *self, struct block_request *r);
void qcow2_run(struct qcow2 *q);
void qcow2_list_add(struct qcow2_list *l, struct qcow2_task *t);
struct qcow2_task *qcow2_list_take(struct qcow2_list *l);
void qcow2_ready(struct qcow2 *q, struct qcow2_task *t);
void qcow2_ready_all(struct qcow2 *q, struct qcow2_list *l);
/* Sends t->io; the step is called again when it ended. Returns Q_WAIT. */
int qcow2_io(struct qcow2_task *t, struct block *to, enum block_op op, uint64_t offset,
			 uint64_t len);
/* Takes the task's range alone. 0, or Q_WAIT. */
int qcow2_exclusive(struct qcow2_task *t);

/* qcow2_read.c: 0 when the span is filled. */
int qcow2_read_span(struct qcow2_task *t);
qcow2_step qcow2_read_step;
/* qcow2_write.c */
qcow2_step qcow2_write_step, qcow2_clear_step;

/* qcow2_commit.c */
bool qcow2_frozen(const struct qcow2 *q); /* tables must not be changed now */
/* Stops the task until all that is done now is durable. Returns Q_WAIT. */
int qcow2_commit_wait(struct qcow2_task *t);
void qcow2_commit_run(struct qcow2 *q);
int qcow2_commit_sync(struct qcow2 *q);

/* qcow2_check.c */
int qcow2_check_run(struct qcow2 *q, bool repair, struct qcow2_check_result *r, struct err *e);
/* Writes the header's first sector again, from q->h; for tools. */
int qcow2_header_update(struct qcow2 *q, struct err *e);

#endif
