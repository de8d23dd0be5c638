/* A bandwidth that nobody knows, divided by weights among users that only see what they themselves
 * get through (VMs of one computer and its network). Pure and of integers; the state may lie in
 * memory that the users share.
 *
 * Each user adds up what it moves; each window of time makes rates of it. The capacity is the most
 * that all together moved lately. More than expected raises it at once. While somebody is held by
 * its limit and all of the capacity is moved it grows step by step, since there may be more now;
 * when several are active and nobody is held, it shrinks. Of it, each active user may have its
 * share by weight, or all that the others leave when that is more: beside what they use, a little
 * for them to grow by. Alone there is no limit.
 *
 * Where the others use little, a faster link than before is only found out when they pause. */
#ifndef CORE_BASE_SPLIT_H
#define CORE_BASE_SPLIT_H

#include "core/base/types.h"

#define SPLIT_USERS 64
#define SPLIT_WEIGHT 100
#define SPLIT_WINDOW_NS 50000000ull
#define SPLIT_LEAST 1000000ull /* a second: no limit is less than that */

struct split_user {
	uint64_t weight; /* 0: no user */
	uint64_t moved;	 /* in this window */
	uint64_t rate;	 /* a second, in the last one */
	uint64_t quiet;	 /* windows since it moved anything */
	uint64_t held;	 /* its limit held it back in this window */
};

struct split {
	uint64_t window_ns; /* when this window began */
	uint64_t capacity;	/* a second */
	struct split_user users[SPLIT_USERS];
};

void split_join(struct split *s, unsigned user, uint64_t weight);
void split_set_weight(struct split *s, unsigned user, uint64_t weight);
void split_leave(struct split *s, unsigned user);
void split_moved(struct split *s, unsigned user, uint64_t n, uint64_t now_ns);
void split_held(struct split *s, unsigned user);
/* How much a second this user may move now; 0: no limit. To be asked once a window. */
uint64_t split_limit(struct split *s, unsigned user, uint64_t now_ns);

#endif
