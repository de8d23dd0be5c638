/* See split.h. */
#include "core/base/split.h"

#include "core/base/bits.h"

#define SECOND 1000000000ull
#define LARGEST (1ull << 40)
#define QUIET_WINDOWS 4 /* as long is one active that moves nothing */

static bool active(const struct split_user *u) {
	return u->weight && u->quiet < QUIET_WINDOWS;
}

/* Ends the window if its time is over. */
static void turn(struct split *s, uint64_t now_ns) {
	if (now_ns < s->window_ns)
		s->window_ns = now_ns; /* no clock of ours: damage */
	uint64_t passed = now_ns - s->window_ns, total = 0;
	unsigned users = 0;
	bool held = false;
	if (passed < SPLIT_WINDOW_NS)
		return;
	passed = MIN(passed, 3600 * SECOND);
	for (unsigned i = 0; i < SPLIT_USERS; i++) {
		struct split_user *u = &s->users[i];
		u->rate = (uint64_t)((unsigned __int128)MIN(u->moved, LARGEST) * SECOND / passed);
		u->quiet = u->moved ? 0 : MIN(u->quiet, LARGEST) + passed / SPLIT_WINDOW_NS;
		held |= u->held != 0;
		u->held = u->moved = 0;
		total += u->rate;
		users += active(u);
	}
	s->window_ns = now_ns;
	s->capacity = MIN(s->capacity, LARGEST);
	if (total > s->capacity)
		s->capacity = total;
	else if (held && total >= s->capacity - s->capacity / 64)
		s->capacity += s->capacity / 64;
	else if (!held && users > 1)
		s->capacity -= s->capacity / 64;
}

void split_join(struct split *s, unsigned user, uint64_t weight) {
	s->users[user] = (struct split_user){.weight = MAX(weight, 1u), .quiet = QUIET_WINDOWS};
}

void split_set_weight(struct split *s, unsigned user, uint64_t weight) {
	s->users[user].weight = MAX(weight, 1u);
}

void split_leave(struct split *s, unsigned user) {
	s->users[user] = (struct split_user){0};
}

void split_moved(struct split *s, unsigned user, uint64_t n, uint64_t now_ns) {
	turn(s, now_ns);
	s->users[user].moved += MIN(n, LARGEST);
}

void split_held(struct split *s, unsigned user) {
	s->users[user].held = 1;
}

uint64_t split_limit(struct split *s, unsigned user, uint64_t now_ns) {
	turn(s, now_ns);
	uint64_t capacity = MIN(s->capacity, LARGEST);
	uint64_t others = 0, weights = 0, own = MIN(s->users[user].weight, LARGEST);
	for (unsigned i = 0; i < SPLIT_USERS; i++) {
		const struct split_user *u = &s->users[i];
		if (i == user || !active(u))
			continue;
		others += MIN(u->rate, LARGEST) + MIN(u->rate, LARGEST) / 4 + capacity / 32;
		weights += MIN(u->weight, LARGEST);
	}
	if (!weights)
		return 0;
	uint64_t share = (uint64_t)((unsigned __int128)capacity * own / (weights + own));
	uint64_t left = capacity > others ? capacity - others : 0;
	return MAX(MAX(share, left), SPLIT_LEAST);
}
