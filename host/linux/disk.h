/* An image as a VM's disk. A thread of its own runs the image's format and its I/O (disk_io.h),
 * without the VM lock; only completions take it:
 *
 *     vCPU thread, VM lock held    disk thread                          kernel
 *     device: submit -> queue ---> gate -> format -> gate -> file ---> io_uring or threads
 *     device: done   <- VM lock <- gate <- format <- gate <- file <--- */
#ifndef HOST_LINUX_DISK_H
#define HOST_LINUX_DISK_H

#include "core/base/bucket.h"
#include "core/base/err.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"

struct host_disk;
struct ledger;

/* How much a VM may ask of a disk, a second and at once: bytes read and written, and requests. The
 * zero value has no limits. */
struct host_disk_limits {
	struct rate bytes, requests;
};

struct host_disk_options {
	bool read_only;
	bool direct; /* past the host's page cache where a request is aligned */
	struct host_disk_limits limits;
	struct ledger *ledger; /* shares with other VMs; NULL: none. Outlives the disk */
	const char *serial;	   /* up to 20 characters; NULL: made of the file's name */
};

/* Opens and locks the image (image.h says what names are allowed) and its backing files: for us
 * alone when writable, against writers when not. */
int host_disk_open(struct host_disk **out, const char *name, const struct host_disk_options *o,
				   const struct vm_host *vm, struct err *e);
const struct block_backend *host_disk_backend(const struct host_disk *d);

/* From now on, other limits. Any thread. */
void host_disk_set_limits(struct host_disk *d, const struct host_disk_limits *l);
/* "10M,burst=1G,iops=500,iops-burst=1000", "none". */
int host_disk_read_limits(const char *text, struct host_disk_limits *l, struct err *e);

/* Finishes what was submitted (the VM lock must be free), makes it durable, closes. */
void host_disk_close(struct host_disk *d);

#endif
