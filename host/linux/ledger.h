/* The book in which the VMs of one user keep who used how much of the disks and of the network, and
 * who could use how many CPUs, so that each can hold itself back for the others (core/base/fair.h,
 * split.h, turns.h): a small file in
 * $XDG_RUNTIME_DIR/joist that all map. There is no daemon, and who is alone is held by nothing.
 *
 * A VM has its place as long as its process has a lock on it; what a killed one leaves there is
 * cleared by whoever waits for it. A process that has been taken over by its guest can write what
 * it likes in the book: then shares are unfair, but nobody waits for ever, and no limit is less
 * than SPLIT_LEAST; --disk-limit and --net-limit hold without the book. Any thread. */
#ifndef HOST_LINUX_LEDGER_H
#define HOST_LINUX_LEDGER_H

#include "core/base/turns.h"
#include "core/base/types.h"

struct ledger;

enum ledger_way { LEDGER_OUT, LEDGER_IN }; /* from the guest, to it */

/* `path` NULL: the user's. NULL where there is no such folder, or no place: then nothing is shared,
 * and all functions take the NULL. Weights: 100 is usual. */
struct ledger *ledger_open(const char *path, unsigned disk_weight, unsigned net_weight);
void ledger_close(struct ledger *l);
void ledger_set_disk_weight(struct ledger *l, unsigned weight);
void ledger_set_net_weight(struct ledger *l, unsigned weight);

/* A disk on this device of the host (st_dev); a handle for the next two, -1 if l is NULL. More
 * devices than there is room for share the last handle. */
int ledger_add_disk(struct ledger *l, uint64_t device);
/* Is there another VM near on the same device, so that large requests should go in pieces of
 * FAIR_PIECE
 * ([fair.h])? */
bool ledger_disk_near(struct ledger *l, int disk);
/* 0: a request of so many bytes may go on; else how many nanoseconds to wait. `must`: it
 * goes on in any case. */
uint64_t ledger_disk_begin(struct ledger *l, int disk, uint64_t bytes, bool must);
void ledger_disk_end(struct ledger *l, int disk, uint64_t bytes);

/* How many bytes a second may move this way now; 0: no limit. To be asked every SPLIT_WINDOW_NS. */
uint64_t ledger_net_limit(struct ledger *l, enum ledger_way way);
void ledger_net_moved(struct ledger *l, enum ledger_way way, uint64_t bytes);
void ledger_net_held(struct ledger *l, enum ledger_way way);

/* CPUs, see turns.h. The weight is TURNS_WEIGHT at first. */
void ledger_set_cpu_weight(struct ledger *l, unsigned weight);
void ledger_cpu_post(struct ledger *l, uint64_t wants);
bool ledger_cpu_met(struct ledger *l); /* without a lock or a system call; NULL: false */
/* Where and until when its threads may run. l is not NULL. */
void ledger_cpu_look(struct ledger *l, unsigned cpus, uint64_t now_ns, uint64_t used_ns,
					 struct turns_own *own, struct turn *out);
/* A descriptor that is readable when another VM has come since it was last read; -1: there is
 * none. The caller's. ledger_ring() lets the others' be readable. */
int ledger_bell(struct ledger *l);
void ledger_ring(struct ledger *l);

#endif
