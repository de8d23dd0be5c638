/* See ledger.h. Places are locked by locks of the open file description on one byte each, which end
 * with the process, however that dies. The book itself has a lock in the shared memory, which is
 * held for a microsecond; one who dies or is stopped with it is waited for a moment and then
 * ignored, since the arithmetic stands any content. */
#include "host/linux/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fair.h"
#include "core/base/split.h"
#include "core/base/turns.h"
#include "host/linux/boot_cache.h"
#include "host/linux/clock.h"

#define NAME "shares-3" /* the number changes with struct book */
#define PLACES SPLIT_USERS
#define DISKS (FAIR_USERS / PLACES) /* devices of one VM; more share the last */
#define LOOK_NS 20000000ull			/* who waits looks so often whether the others live, */
#define LOOK_AFTER_NS 2000000ull /* but not at once: before what it waits for counts as stalled */
#define LOOK_TRIES 16	  /* so often one tries for the book's lock, then looks whose it is */
#define HELD_NS 50000000u /* nobody has that for so long */

struct book {
	uint32_t lock; /* place + 1 of who has it */
	uint32_t unused;
	struct fair disks;
	struct split ways[2];
	struct turns cpus;
};

_Static_assert(TURNS_USERS >= PLACES, "each place is a user of the CPUs");

struct ledger {
	struct book *book;
	int fd;
	unsigned place;
	pthread_mutex_t lock; /* our own threads, before the book's */
	uint64_t devices[DISKS];
	unsigned ndevices;
	unsigned disk_weight;
	uint64_t waits_since, disks_looked_ns, looked_ns;
};

/* Is there another process that has this place? */
static bool lives(struct ledger *l, unsigned place) {
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = place, .l_len = 1};
	return place < PLACES && place != l->place &&
		   (fcntl(l->fd, F_OFD_GETLK, &fl) != 0 || fl.l_type != F_UNLCK);
}

/* It is held for a microsecond. Whose holder is longer away has lost its CPU, or died inside or
 * stands still: it is taken from the latter. That is told by a lock on the file and by time. A
 * number of tries would not do: on a busy computer, each sched_yield() may take milliseconds. */
static void enter(struct ledger *l) {
	uint32_t mine = l->place + 1;
	uint64_t since = 0;
	pthread_mutex_lock(&l->lock);
	for (unsigned i = 1;; i++) {
		uint32_t owner = 0;
		if (__atomic_compare_exchange_n(&l->book->lock, &owner, mine, false, __ATOMIC_ACQUIRE,
										__ATOMIC_RELAXED))
			return;
		if (i % LOOK_TRIES == 0) {
			uint64_t now = host_now_ns();
			since = since ? since : now;
			if ((now - since >= HELD_NS || !lives(l, owner - 1)) &&
				__atomic_compare_exchange_n(&l->book->lock, &owner, mine, false, __ATOMIC_ACQUIRE,
											__ATOMIC_RELAXED))
				return;
		}
		sched_yield();
	}
}

static void leave(struct ledger *l) {
	uint32_t mine = l->place + 1;
	__atomic_compare_exchange_n(&l->book->lock, &mine, 0, false, __ATOMIC_RELEASE,
								__ATOMIC_RELAXED);
	pthread_mutex_unlock(&l->lock);
}

/* ---- places ---------------------------------------------------------------------------- */

static void clear(struct ledger *l, unsigned place) {
	for (unsigned i = 0; i < DISKS; i++)
		fair_leave(&l->book->disks, place * DISKS + i);
	split_leave(&l->book->ways[LEDGER_OUT], place);
	split_leave(&l->book->ways[LEDGER_IN], place);
	turns_leave(&l->book->cpus, place);
}

static bool take_place(struct ledger *l) {
	for (l->place = 0; l->place < PLACES; l->place++) {
		struct flock fl = {
			.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = l->place, .l_len = 1};
		if (fcntl(l->fd, F_OFD_SETLK, &fl) == 0)
			return true;
	}
	return false;
}

/* Those whose process is gone keep nobody waiting. */
static void clear_dead(struct ledger *l) {
	for (unsigned i = 0; i < PLACES; i++)
		if (i != l->place && !lives(l, i))
			clear(l, i);
}

static int open_book(const char *path) {
	char own[512];
	struct stat st;
	if (!path &&
		(!boot_cache_path(own, sizeof(own), "") || (mkdir(own, 0700) < 0 && errno != EEXIST) ||
		 !boot_cache_path(own, sizeof(own), NAME)))
		return -1;
	int fd = open(path ? path : own, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	/* Zeroes are an empty book. It only ever grows: somebody may have it mapped. */
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
		(st.st_size >= (off_t)sizeof(struct book) || ftruncate(fd, sizeof(struct book)) == 0))
		return fd;
	close(fd);
	return -1;
}

struct ledger *ledger_open(const char *path, unsigned disk_weight, unsigned net_weight) {
	struct ledger *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->disk_weight = disk_weight;
	l->fd = open_book(path);
	void *p = MAP_FAILED;
	if (l->fd >= 0 && take_place(l))
		p = mmap(NULL, sizeof(struct book), PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	if (p == MAP_FAILED) {
		if (l->fd >= 0)
			close(l->fd);
		free(l);
		return NULL;
	}
	l->book = p;
	pthread_mutex_init(&l->lock, NULL);
	enter(l);
	clear(l, l->place);
	clear_dead(l);
	split_join(&l->book->ways[LEDGER_OUT], l->place, net_weight);
	split_join(&l->book->ways[LEDGER_IN], l->place, net_weight);
	turns_join(&l->book->cpus, l->place, TURNS_WEIGHT, host_now_ns());
	leave(l);
	return l;
}

void ledger_close(struct ledger *l) {
	if (!l)
		return;
	enter(l);
	clear(l, l->place);
	leave(l);
	munmap(l->book, sizeof(struct book));
	close(l->fd);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

void ledger_set_disk_weight(struct ledger *l, unsigned weight) {
	if (!l)
		return;
	enter(l);
	l->disk_weight = weight;
	for (unsigned i = 0; i < l->ndevices; i++)
		fair_set_weight(&l->book->disks, l->place * DISKS + i, weight);
	leave(l);
}

void ledger_set_net_weight(struct ledger *l, unsigned weight) {
	if (!l)
		return;
	enter(l);
	split_set_weight(&l->book->ways[LEDGER_OUT], l->place, weight);
	split_set_weight(&l->book->ways[LEDGER_IN], l->place, weight);
	leave(l);
}

/* ---- disks ----------------------------------------------------------------------------- */

int ledger_add_disk(struct ledger *l, uint64_t device) {
	if (!l)
		return -1;
	enter(l);
	unsigned i = 0;
	while (i < l->ndevices && l->devices[i] != device)
		i++;
	if (i == l->ndevices && i < DISKS) {
		l->devices[l->ndevices++] = device;
		/* 0 means none in the book. */
		fair_join(&l->book->disks, l->place * DISKS + i, device + 1, l->disk_weight);
	}
	leave(l);
	return (int)MIN(i, DISKS - 1u);
}

bool ledger_disk_near(struct ledger *l, int disk) {
	if (!l || disk < 0)
		return false;
	enter(l);
	bool near = fair_near(&l->book->disks, l->place * DISKS + (unsigned)disk, host_now_ns());
	leave(l);
	return near;
}

uint64_t ledger_disk_begin(struct ledger *l, int disk, uint64_t bytes, bool must) {
	if (!l || disk < 0)
		return 0;
	uint64_t wait = 0, now = host_now_ns();
	unsigned user = l->place * DISKS + (unsigned)disk;
	enter(l);
	if (must)
		fair_begin_now(&l->book->disks, user, bytes + FAIR_REQUEST, now);
	else
		wait = fair_begin(&l->book->disks, user, bytes + FAIR_REQUEST, now);
	if (wait && !l->waits_since)
		l->waits_since = now;
	if (l->waits_since && now - l->waits_since > LOOK_AFTER_NS &&
		now - l->disks_looked_ns > LOOK_NS) {
		l->disks_looked_ns = now;
		clear_dead(l);
	}
	if (!wait)
		l->waits_since = 0;
	leave(l);
	return wait;
}

void ledger_disk_end(struct ledger *l, int disk, uint64_t bytes) {
	if (!l || disk < 0)
		return;
	enter(l);
	fair_end(&l->book->disks, l->place * DISKS + (unsigned)disk, bytes + FAIR_REQUEST,
			 host_now_ns());
	leave(l);
}

/* ---- the network ------------------------------------------------------------------------ */

uint64_t ledger_net_limit(struct ledger *l, enum ledger_way way) {
	if (!l)
		return 0;
	enter(l);
	uint64_t limit = split_limit(&l->book->ways[way], l->place, host_now_ns());
	leave(l);
	return limit;
}

void ledger_net_moved(struct ledger *l, enum ledger_way way, uint64_t bytes) {
	if (!l)
		return;
	enter(l);
	split_moved(&l->book->ways[way], l->place, bytes, host_now_ns());
	leave(l);
}

void ledger_net_held(struct ledger *l, enum ledger_way way) {
	if (!l)
		return;
	enter(l);
	split_held(&l->book->ways[way], l->place);
	leave(l);
}

/* ---- CPUs ------------------------------------------------------------------------------- */

void ledger_set_cpu_weight(struct ledger *l, unsigned weight) {
	if (!l)
		return;
	enter(l);
	turns_set_weight(&l->book->cpus, l->place, weight);
	leave(l);
}

void ledger_cpu_post(struct ledger *l, uint64_t wants) {
	if (!l)
		return;
	enter(l);
	turns_post(&l->book->cpus, l->place, wants, host_now_ns());
	leave(l);
}

bool ledger_cpu_met(struct ledger *l) {
	return l && turns_met(&l->book->cpus, l->place, host_now_ns());
}

void ledger_cpu_look(struct ledger *l, unsigned cpus, uint64_t now, uint64_t used,
					 struct turns_own *own, struct turn *out) {
	enter(l);
	turns_look(&l->book->cpus, l->place, cpus, now, used, own, out);
	if (!out->free && now - l->looked_ns > TURNS_MOVE_NS) {
		l->looked_ns = now;
		clear_dead(l);
	}
	leave(l);
}

static bool book_path(struct ledger *l, char *link, size_t size) {
	return l && snprintf(link, size, "/proc/self/fd/%d", l->fd) < (int)size;
}

int ledger_bell(struct ledger *l) {
	char path[40];
	int fd = book_path(l, path, sizeof(path)) ? inotify_init1(IN_NONBLOCK | IN_CLOEXEC) : -1;
	if (fd >= 0 && inotify_add_watch(fd, path, IN_OPEN) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

void ledger_ring(struct ledger *l) {
	char path[40];
	int fd = book_path(l, path, sizeof(path)) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0)
		close(fd);
}
