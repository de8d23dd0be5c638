/* See fair.h. */
#include "core/base/fair.h"

#include "core/base/bits.h"

#define LONG_THINK_NS (100 * FAIR_THINK_NS)
#define CHARGE_MAX_NS 1000000000ull /* a user that stands still for longer pays no more */

static bool thinks(const struct fair_user *u, uint64_t now_ns) {
	return u->think_ns <= FAIR_THINK_NS && now_ns - u->end_ns < FAIR_THINK_NS;
}

static bool contends(const struct fair_user *u, uint64_t now_ns) {
	return u->inflight || u->wait_ns || thinks(u, now_ns);
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

/* After a pause: nothing is saved up for it, and nothing held against it. */
static void arrive(struct fair *f, struct fair_user *u, uint64_t now_ns) {
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
		u->used_ns = MAX(u->used_ns, least > FAIR_WINDOW_NS ? least - FAIR_WINDOW_NS : 0);
}

void fair_join(struct fair *f, unsigned user, uint64_t device, uint64_t weight, uint64_t now_ns) {
	f->users[user] = (struct fair_user){
		.device = device, .weight = weight, .end_ns = now_ns, .think_ns = LONG_THINK_NS};
}

void fair_leave(struct fair *f, unsigned user) {
	f->users[user] = (struct fair_user){0};
}

void fair_set_weight(struct fair *f, unsigned user, uint64_t weight) {
	f->users[user].weight = weight;
}

/* Is this user to be held for another? */
static bool ahead(const struct fair *f, const struct fair_user *u, uint64_t cost, uint64_t now_ns) {
	for (unsigned i = 0; i < FAIR_USERS; i++) {
		const struct fair_user *o = &f->users[i];
		if (o == u || o->device != u->device || !contends(o, now_ns))
			continue;
		if (u->used_ns > o->used_ns + FAIR_WINDOW_NS ||
			(u->inflight && u->inflight + cost > FAIR_DEPTH))
			return true;
	}
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
		if (thinks(u, now_ns))
			charge(u, kept(f, u, now_ns));
		else
			arrive(f, u, now_ns);
		u->think_ns = (MIN(u->think_ns, LONG_THINK_NS) * 3 + think) / 4;
	}
	uint64_t since = u->wait_ns ? u->wait_ns : now_ns;
	if (ahead(f, u, cost, now_ns) && now_ns - since < FAIR_LONGEST_NS) {
		u->wait_ns = MAX(since, 1u);
		return FAIR_STEP_NS;
	}
	fair_begin_now(f, user, cost, now_ns);
	return 0;
}

void fair_end(struct fair *f, unsigned user, uint64_t cost, uint64_t now_ns) {
	struct fair_user *u = &f->users[user];
	uint64_t since = MAX(u->begin_ns, last_end(f, u->device));
	charge(u, now_ns > since ? now_ns - since : 0);
	u->inflight -= MIN(cost, u->inflight);
	u->end_ns = now_ns;
}
