/* Who may use a device next: its time divided by weights among users that each know only their own
 * requests (VMs of one computer and a disk). Pure and of integers; the state may lie in memory
 * that the users share, so nothing in it is trusted further than to be fair.
 *
 * Fair queueing over device time. The time from one answer of the device to the next is charged to
 * the user that got it, divided by the user's weight. Whoever is further ahead than FAIR_WINDOW_NS
 * of somebody who contends waits; who is behind never does. Alone, a user is never held.
 *
 * One that asks again soon after each answer (a program that reads synchronously) contends also in
 * the moment between, or else each of its small requests would wait behind a large one of the
 * others. Large ones therefore go in pieces while others are near (fair_near()), one at a time for
 * who is ahead; and where even a piece takes longer than two such moments, the device is kept for
 * it for FAIR_THINK_NS at most, at its own expense, and only if it mostly comes back in that time.
 * A longer moment is the others': what one does not ask for is not saved up. And a request that
 * takes far longer than its user's mostly do, for a reason that nobody sees here (a file system's
 * journal, the device's own housekeeping), is not held against it. [SFQ(D): Jin, Chase, Kaur,
 * "Interposed proportional sharing for a storage service utility"; anticipation: Iyer, Druschel,
 * SOSP 2001] */
#ifndef CORE_BASE_FAIR_H
#define CORE_BASE_FAIR_H

#include "core/base/types.h"

#define FAIR_USERS 128
#define FAIR_WEIGHT 100 /* what is usual; from 1 up */

#define FAIR_WINDOW_NS 2000000ull			/* as far ahead may one be */
#define FAIR_BEHIND_NS (5 * FAIR_WINDOW_NS) /* and so much one that asks again and again */
#define FAIR_THINK_NS 1000000ull
#define FAIR_STEP_NS                                                                               \
	200000ull /* who waits looks again so often; who has no CPU to do so is away                   \
			   */
/* Nobody waits longer for one request, whatever the others' state says; nor while the device
 * finishes nothing for so long: then what the others have there stands still somewhere before it.
 */
#define FAIR_LONGEST_NS 100000000ull
#define FAIR_STALL_NS 4000000ull
/* While another is near, a larger request should go in pieces of that: some 100 us of a good disk,
 * and still nearly as fast. */
#define FAIR_PIECE (64u << 10)
/* Who had something to do so long ago is still near: its next request may come any time. */
#define FAIR_NEAR_NS 20000000ull
/* So much of one user is in the device while another is near: one piece, or six small ones. */
#define FAIR_DEPTH (128u << 10)
/* What a request costs beside its bytes. */
#define FAIR_REQUEST 16384u

struct fair_user {
	uint64_t device;   /* 0: no user; only those of one device meet */
	uint64_t used_ns;  /* of the device, as with weight FAIR_WEIGHT */
	uint64_t inflight; /* cost of what the device has */
	uint64_t begin_ns; /* since when it has something */
	uint64_t end_ns;   /* when it last finished something */
	uint64_t think_ns; /* what the user mostly takes to come back */
	uint64_t took_ns;  /* what a request of it mostly takes */
	uint64_t wait_ns;  /* since when it waits; 0: it does not */
	uint64_t look_ns;  /* when it last looked, waiting */
	uint64_t weight;
};

struct fair {
	struct fair_user users[FAIR_USERS];
};

void fair_join(struct fair *f, unsigned user, uint64_t device, uint64_t weight);
void fair_leave(struct fair *f, unsigned user);
void fair_set_weight(struct fair *f, unsigned user, uint64_t weight);

/* Is there anybody else who uses the same device now, or did a moment ago? */
bool fair_near(const struct fair *f, unsigned user, uint64_t now_ns);

/* May a request of this cost go to the device? 0: yes, and it is counted until fair_end(). Else for
 * how many nanoseconds to wait before asking again; earlier is allowed. */
uint64_t fair_begin(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns);
/* One that cannot wait. */
void fair_begin_now(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns);
void fair_end(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns);

#endif
