/* See ram.h. */
#include "host/linux/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "core/vm/mem.h"

#define HUGE MIB(2)
#ifndef MADV_COLLAPSE /* the C library's headers may be older than Linux 6.1 */
#define MADV_COLLAPSE 25
#endif

/* A cgroup's own limit, version 2 at the root of the process's view or along its path. */
static uint64_t cgroup_limit(void) {
	char line[512], path[700], *rel = NULL;
	uint64_t limit = UINT64_MAX;
	FILE *f = fopen("/proc/self/cgroup", "re");
	if (!f)
		return limit;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "0::", 3) == 0) {
			rel = line + 3;
			rel[strcspn(rel, "\n")] = 0;
			break;
		}
	}
	fclose(f);
	while (rel) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", rel);
		f = fopen(path, "re");
		if (f) {
			uint64_t v;
			if (fscanf(f, "%" SCNu64, &v) == 1 && v < limit)
				limit = v;
			fclose(f);
		}
		char *slash = strrchr(rel, '/');
		if (!slash || !rel[0])
			break;
		*slash = 0;
	}
	return limit;
}

void host_memory(uint64_t *total, uint64_t *available) {
	char line[128];
	uint64_t kib, ram = 0, swap = 0, avail = 0, swap_free = 0;
	*total = *available = 0;
	FILE *f = fopen("/proc/meminfo", "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemTotal: %" SCNu64, &kib) == 1)
			ram = kib << 10;
		else if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			avail = kib << 10;
		else if (sscanf(line, "SwapTotal: %" SCNu64, &kib) == 1)
			swap = kib << 10;
		else if (sscanf(line, "SwapFree: %" SCNu64, &kib) == 1)
			swap_free = kib << 10;
	}
	fclose(f);
	uint64_t limit = cgroup_limit();
	*total = MIN(ram + swap, limit);
	*available = MIN(avail + swap_free, limit);
}

/* At an address that huge pages can have: the kernel does that by itself only where its
 * shmem_enabled says so. NULL with errno. */
static uint8_t *map_aligned(int fd, uint64_t size) {
	uint64_t room = align_up(size, PAGE_SIZE) + HUGE;
	uint8_t *p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	uint64_t before = -(uintptr_t)p & (HUGE - 1);
	uint64_t after = HUGE - before;
	uint8_t *base = mmap(p + before, size, PROT_READ | PROT_WRITE,
						 MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
	if (base == MAP_FAILED) {
		int code = errno;
		munmap(p, room);
		errno = code;
		return NULL;
	}
	if (before)
		munmap(p, before);
	munmap(p + room - after, after);
	return base;
}

int host_ram_create(struct host_ram *r, uint64_t size, struct err *e) {
	uint64_t total, available;
	*r = (struct host_ram){.fd = -1};
	host_memory(&total, &available);
	/* A guest may be bigger than what is free now, since it uses its memory bit by bit; it
	 * can never be bigger than what there is. */
	if (total && size > total)
		return err_set(e, ERR_NOMEM,
					   "%llu MiB of memory are more than this host has (%llu MiB, %llu MiB of them "
					   "free); give less with --memory",
					   (unsigned long long)(size >> 20), (unsigned long long)(total >> 20),
					   (unsigned long long)(available >> 20));
	if (available && size > available)
		log_line(LOG_WARN, "the guest may use %llu MiB, but only %llu MiB are free on this host",
				 (unsigned long long)(size >> 20), (unsigned long long)(available >> 20));
	r->fd = memfd_create("joist-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->fd < 0)
		return err_set(e, errno, "cannot make guest memory: %s", strerror(errno));
	if (ftruncate(r->fd, (off_t)size) < 0) {
		int code = errno;
		host_ram_destroy(r);
		return err_set(e, code, "cannot make %llu MiB of guest memory: %s",
					   (unsigned long long)(size >> 20), strerror(code));
	}
	/* Whoever gets the descriptor can neither shrink it (that would be SIGBUS here) nor
	 * grow it. */
	fcntl(r->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	uint8_t *p = map_aligned(r->fd, size);
	if (!p) {
		int code = errno;
		host_ram_destroy(r);
		return err_set(
			e, code,
			"cannot map %llu MiB of guest memory: %s; give less with --memory, or look at "
			"`ulimit -v`",
			(unsigned long long)(size >> 20), strerror(code));
	}
	r->base = p;
	r->size = size;
	madvise(p, size, MADV_HUGEPAGE);
	madvise(p, size, MADV_DONTDUMP);
	return 0;
}

void host_ram_discard(struct host_ram *r, uint8_t *at, uint64_t len) {
	/* A hole in the memfd: a shared mapping keeps its pages otherwise. Fails only where that is
	 * not possible, and then the memory just stays ours. */
	madvise(at, len, MADV_REMOVE);
}

size_t host_ram_make_huge(const struct host_ram *r, uint8_t *at, size_t len, uint8_t **huge) {
	uint64_t from = align_up((uint64_t)(at - r->base), HUGE);
	uint64_t to = align_down((uint64_t)(at - r->base) + len, HUGE);
	if (from >= to)
		return 0;
	*huge = r->base + from;
	/* A huge page is made of what there is: of one page at least. */
	for (uint64_t i = from; i < to; i += HUGE)
		*(volatile uint8_t *)(r->base + i) = 0;
	return madvise(*huge, to - from, MADV_COLLAPSE) == 0 ? to - from : 0;
}

uint64_t host_ram_untouched(const struct host_ram *r, const uint8_t *at, uint64_t len) {
	off_t from = at - r->base, data = lseek(r->fd, from, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? len : 0; /* nothing but a hole up to the end, or unknown */
	return MIN((uint64_t)(data - from), len);
}

void host_ram_destroy(struct host_ram *r) {
	if (r->base)
		munmap(r->base, r->size);
	if (r->fd >= 0)
		close(r->fd);
	*r = (struct host_ram){.fd = -1};
}
