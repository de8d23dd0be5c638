/* See fair.h. */
#include "core/base/fair.h"

#include "core/base/bits.h"

#define LONG_THINK_NS (100 * FAIR_THINK_NS)
#define CHARGE_MAX_NS 1000000000ull /* a user that stands still for longer pays no more */
#define SHORT_NS 40000ull			/* what is to be over now may take so long */
#define USUAL_NS 1000000ull			/* that, and four times the usual, a request pays at most */

static bool thinks(const struct fair_user *u, uint64_t now_ns) {
	return u->think_ns <= FAIR_THINK_NS && now_ns - u->end_ns < FAIR_THINK_NS;
}

static bool waits(const struct fair_user *u, uint64_t now_ns) {
	return u->wait_ns && now_ns - u->look_ns < 2 * FAIR_STEP_NS;
}

static bool contends(const struct fair_user *u, uint64_t now_ns) {
	return u->inflight || waits(u, now_ns) || thinks(u, now_ns);
}

static bool near(const struct fair_user *u, uint64_t now_ns) {
	return contends(u, now_ns) || (u->end_ns && now_ns - u->end_ns < FAIR_NEAR_NS);
}

static void charge(struct fair_user *u, uint64_t ns) {
	u->used_ns += MIN(ns, CHARGE_MAX_NS) * FAIR_WEIGHT / MAX(u->weight, 1u);
}

/* When the device last finished something: what it finishes next, it has worked on since then, or
 * since it got it. So each request pays for its own time also where many wait in one queue. */
static uint64_t last_end(const struct fair *f, uint64_t device) {
	uint64_t last = 0;
	for (unsigned i = 0; i < FAIR_USERS; i++)
		if (f->users[i].device == device)
			last = MAX(last, f->users[i].end_ns);
	return last;
}

/* For how long the device stood still for this user, which comes back now, while others waited. */
static uint64_t kept(const struct fair *f, const struct fair_user *u, uint64_t now_ns) {
	uint64_t since = UINT64_MAX;
	for (unsigned i = 0; i < FAIR_USERS; i++) {
		const struct fair_user *o = &f->users[i];
		if (o->device != u->device)
			continue;
		if (o->inflight)
			return 0;
		if (o->wait_ns)
			since = MIN(since, o->wait_ns);
	}
	since = MAX(since, MAX(u->end_ns, last_end(f, u->device)));
	return now_ns > since ? now_ns - since : 0;
}

/* Has had nothing in the device, by its own choice: no more than `behind_ns` is saved up for it.
 * After a pause also nothing is held against it. */
static void arrive(struct fair *f, struct fair_user *u, uint64_t behind_ns, uint64_t now_ns) {
	uint64_t least = UINT64_MAX, most = 0;
	for (unsigned i = 0; i < FAIR_USERS; i++) {
		const struct fair_user *o = &f->users[i];
		if (o == u || o->device != u->device)
			continue;
		most = MAX(most, o->used_ns);
		if (contends(o, now_ns))
			least = MIN(least, o->used_ns);
	}
	if (least == UINT64_MAX)
		u->used_ns = MAX(u->used_ns, most);
	else
		u->used_ns = MAX(u->used_ns, least > behind_ns ? least - behind_ns : 0);
}

void fair_join(struct fair *f, unsigned user, uint64_t device, uint64_t weight) {
	f->users[user] =
		(struct fair_user){.device = device, .weight = weight, .think_ns = LONG_THINK_NS};
}

void fair_leave(struct fair *f, unsigned user) {
	f->users[user] = (struct fair_user){0};
}

void fair_set_weight(struct fair *f, unsigned user, uint64_t weight) {
	f->users[user].weight = weight;
}

/* Does the device stand still for o, which is about to come back and not late, rather than take a
 * request of u's? If it comes in the middle of that one it waits for half of it: only if that is
 * longer than what the device would lose. */
static bool keeps(const struct fair_user *o, const struct fair_user *u, uint64_t now_ns) {
	if (o->inflight || waits(o, now_ns) || !thinks(o, now_ns))
		return o->inflight || waits(o, now_ns);
	uint64_t since = now_ns - o->end_ns;
	return o->think_ns <= since + u->took_ns / 2 && since <= 2 * o->think_ns + SHORT_NS;
}

/* When o's turn is probably over, or used. */
static uint64_t until(const struct fair_user *o, uint64_t now_ns) {
	uint64_t end = o->inflight ? o->begin_ns + o->took_ns : o->end_ns + o->think_ns;
	return end > now_ns ? MAX(MIN(end - now_ns, FAIR_STEP_NS), SHORT_NS) : SHORT_NS;
}

/* Is this user to be held for another? For how long before it looks again; 0: it is not. */
static uint64_t ahead(const struct fair *f, const struct fair_user *u, uint64_t cost,
					  uint64_t now_ns) {
	for (unsigned i = 0; i < FAIR_USERS; i++) {
		const struct fair_user *o = &f->users[i];
		if (o == u || o->device != u->device || !near(o, now_ns))
			continue;
		if (u->inflight && u->inflight + cost > FAIR_DEPTH)
			return FAIR_STEP_NS;
		if (contends(o, now_ns) && u->used_ns > o->used_ns + FAIR_WINDOW_NS &&
			(u->inflight || keeps(o, u, now_ns)))
			return u->inflight || waits(o, now_ns) ? FAIR_STEP_NS : until(o, now_ns);
	}
	return 0;
}

bool fair_near(const struct fair *f, unsigned user, uint64_t now_ns) {
	for (unsigned i = 0; i < FAIR_USERS; i++)
		if (i != user && f->users[i].device == f->users[user].device && near(&f->users[i], now_ns))
			return true;
	return false;
}

void fair_begin_now(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns) {
	struct fair_user *u = &f->users[user];
	if (!u->inflight)
		u->begin_ns = now_ns;
	u->wait_ns = 0;
	u->inflight += cost;
}

uint64_t fair_begin(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns) {
	struct fair_user *u = &f->users[user];
	if (!u->inflight && !u->wait_ns) {
		uint64_t think = now_ns > u->end_ns ? MIN(now_ns - u->end_ns, LONG_THINK_NS) : 0;
		bool soon = thinks(u, now_ns);
		if (soon)
			charge(u, kept(f, u, now_ns));
		arrive(f, u, soon ? FAIR_BEHIND_NS : FAIR_WINDOW_NS, now_ns);
		u->think_ns = (MIN(u->think_ns, LONG_THINK_NS) * 3 + think) / 4;
	}
	uint64_t since = u->wait_ns ? u->wait_ns : now_ns;
	bool stalls = u->wait_ns && now_ns - MAX(since, last_end(f, u->device)) > FAIR_STALL_NS;
	uint64_t wait = ahead(f, u, cost, now_ns);
	if (wait && now_ns - since < FAIR_LONGEST_NS && !stalls) {
		u->wait_ns = MAX(since, 1u);
		u->look_ns = now_ns;
		return wait;
	}
	fair_begin_now(f, user, cost, now_ns);
	return 0;
}

void fair_end(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns) {
	struct fair_user *u = &f->users[user];
	uint64_t since = MAX(u->begin_ns, last_end(f, u->device));
	uint64_t took = now_ns > since ? MIN(now_ns - since, CHARGE_MAX_NS) : 0;
	charge(u, MIN(took, USUAL_NS + 4 * MIN(u->took_ns, CHARGE_MAX_NS)));
	u->took_ns = (MIN(u->took_ns, CHARGE_MAX_NS) * 3 + took) / 4;
	u->inflight -= MIN(cost, u->inflight);
	u->end_ns = now_ns;
}
