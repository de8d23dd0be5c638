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
 * others. The device is kept for it for FAIR_THINK_NS at most, at its own expense, and only if it
 * mostly comes back in that time. [SFQ(D): Jin, Chase, Kaur, "Interposed proportional sharing for a
 * storage service utility"; anticipation: Iyer, Druschel, SOSP 2001] */
#ifndef CORE_BASE_FAIR_H
#define CORE_BASE_FAIR_H

#include "core/base/types.h"

#define FAIR_USERS 128
#define FAIR_WEIGHT 100 /* what is usual; from 1 up */

#define FAIR_WINDOW_NS 2000000ull /* as far ahead may one be */
#define FAIR_THINK_NS 1000000ull
#define FAIR_STEP_NS 200000ull /* who waits looks again so often */
/* Nobody waits longer for one request, whatever the others' state says. */
#define FAIR_LONGEST_NS 100000000ull
/* So much of one user is in the device while another contends, or one request if that is more. */
#define FAIR_DEPTH (1u << 20)
/* What a request costs beside its bytes. */
#define FAIR_REQUEST 16384u

struct fair_user {
	uint64_t device;   /* 0: no user; only those of one device meet */
	uint64_t used_ns;  /* of the device, as with weight FAIR_WEIGHT */
	uint64_t inflight; /* cost of what the device has */
	uint64_t begin_ns; /* since when it has something */
	uint64_t end_ns;   /* when it last finished something */
	uint64_t think_ns; /* what the user mostly takes to come back */
	uint64_t wait_ns;  /* since when it waits; 0: it does not */
	uint64_t weight;
};

struct fair {
	struct fair_user users[FAIR_USERS];
};

void fair_join(struct fair *f, unsigned user, uint64_t device, uint64_t weight, uint64_t now_ns);
void fair_leave(struct fair *f, unsigned user);
void fair_set_weight(struct fair *f, unsigned user, uint64_t weight);

/* May a request of this cost go to the device? 0: yes, and it is counted until fair_end(). Else for
 * how many nanoseconds to wait before asking again; earlier is allowed. */
uint64_t fair_begin(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns);
/* One that cannot wait. */
void fair_begin_now(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns);
void fair_end(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns);

#endif
