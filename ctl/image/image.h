/* Images: what VMs are made from. A folder each under images/NAME:
 *     image.json            what it is, see below
 *     disk.raw, disk.qcow2  never written to again; VMs get a disk of their own from it
 *     vmlinuz, initrd       of that disk, since Joist boots kernels and has no firmware
 * Files are read-only and the folder appears by one rename(). */
#ifndef CTL_IMAGE_IMAGE_H
#define CTL_IMAGE_IMAGE_H

#include "ctl/def/def.h"
#include "ctl/store/store.h"

struct vm_image {
	char name[STORE_NAME];
	char dir[PATHS_MAX];
	char disk[40];					 /* file in dir; empty: none */
	char append[256];				 /* kernel command line */
	char source[512];				 /* where it came from, for people */
	char sha256[65];				 /* of the disk; empty: not known */
	uint64_t size;					 /* virtual bytes of the disk */
	uint64_t used;					 /* bytes on this host's disk */
	int64_t created;				 /* seconds since 1970 */
	bool kernel, initrd, cloud_init; /* there is a file; it runs cloud-init */
};

struct image_list {
	struct vm_image *images; /* sorted by name */
	unsigned n;
};

bool image_valid_name(const char *text); /* [a-z0-9][a-z0-9.:_-]{0,62} */
int image_list(struct image_list *l, struct err *e);
void image_list_free(struct image_list *l);
int image_find(struct vm_image *i, const char *name, struct err *e); /* with "did you mean" */

/* A folder that becomes an image with image_publish(), or goes with image_abandon(). Fill the
 * folder `dir` and the fields in between. */
int image_begin(struct vm_image *i, const char *name, struct err *e);
int image_publish(struct vm_image *i, bool replace, struct err *e);
void image_abandon(struct vm_image *i);

/* -ERR_BUSY: a VM stands on it. */
int image_remove(struct vm_image *i, struct err *e);

/* Gives a new VM its disk and, for cloud-init, its seed, in folder `dir`. Milliseconds. */
int image_make_disks(const struct def *d, const char *name, const char *dir, struct err *e);
/* In the VM's folder: adds to the definition what its image brings: kernel, disk, seed. */
int image_apply(struct def *d, struct err *e);

#endif
