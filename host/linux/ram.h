/* A guest's RAM: a sealed memfd, mapped shared, so that other processes (a back end, a
 * snapshot) can be handed the same pages. Pages come with their first use. */
#ifndef HOST_LINUX_RAM_H
#define HOST_LINUX_RAM_H

#include "core/base/err.h"
#include "core/base/types.h"

struct host_ram {
	uint8_t *base;
	uint64_t size;
	int fd;
};

int host_ram_create(struct host_ram *r, uint64_t size, struct err *e);
/* How many of the `len` bytes from `at` (in the mapping) on have no memory yet: they are zeros. */
uint64_t host_ram_untouched(const struct host_ram *r, const uint8_t *at, uint64_t len);
/* Before [at, at + len) in the mapping is written all over: gives it huge pages where it has room
 * for whole ones. Their contents are lost. How many bytes, from *huge on; 0: none (the kernel has
 * no such page to spare, or is older than 6.1). */
size_t host_ram_make_huge(const struct host_ram *r, uint8_t *at, size_t len, uint8_t **huge);
void host_ram_destroy(struct host_ram *r);

/* Gives whole pages of it back to the host; they read as zero and come again with their next
 * use. [at, at + len) lies in it. */
void host_ram_discard(struct host_ram *r, uint8_t *at, uint64_t len);

/* Bytes that this process can have at all (RAM and swap, cut by its cgroup) and that are
 * free now; 0: unknown. */
void host_memory(uint64_t *total, uint64_t *available);

#endif
