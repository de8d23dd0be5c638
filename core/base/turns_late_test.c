/* Users that look late, die, stand still, come and go, on a simulated computer, by seeds: whoever
 * wants to run is never without a CPU for longer than a period and its own lateness, and gets a
 * good part of its share in every second.
 *
 *   turns_late_test [SEEDS [FIRST]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/bits.h"
#include "core/base/turns.h"

#define MS 1000000ull
#define SECOND (1000 * MS)
#define USERS 6
#define SPAN (12 * SECOND)

static unsigned seeds = 3000, first_seed = 1;

enum condition { WELL, STOPPED, DEAD }; /* STOPPED: as by SIGSTOP, it does not even look */

struct user {
	enum condition condition;
	uint64_t until_ns; /* STOPPED */
	unsigned weight;
	uint64_t wants, posted; /* now, and in the book */
	uint64_t posted_ns, wake_ns, seen_ns;
	struct turns_own own;
	uint64_t used;				  /* ever, in TURNS_CPU x ns */
	uint64_t held_since, late_ns; /* of this wake-up */
	struct turn turn;
	uint64_t got, wanted; /* CPU time of this second, in TURNS_CPU x ns */
	bool whole;			  /* it was well, and wanted the same, all of this second */
};

struct world {
	struct turns turns;
	struct user u[USERS];
	unsigned seed, n, cpus, lateness; /* a kind of computer, see late() */
	uint64_t now, x;
};

static uint64_t any(struct world *w, uint64_t below) {
	w->x ^= w->x << 13;
	w->x ^= w->x >> 7;
	w->x ^= w->x << 17;
	return (w->x >> 11) % below;
}

static uint64_t late(struct world *w) {
	switch (w->lateness) {
	case 0:
		return any(w, MS / 10);
	case 1:
		return any(w, 5 * MS);
	case 2: /* longer than the moment of one with a small part */
		return any(w, 60 * MS);
	case 3:
		return 20 * MS + any(w, MS);
	default:
		return any(w, 50) ? any(w, MS) : any(w, 300 * MS);
	}
}

static bool holds(const struct turn *t) {
	return !t->free && !t->count;
}

/* What it could use of what it may use. */
static uint64_t uses(const struct world *w, const struct user *u) {
	uint64_t may = u->turn.free ? w->cpus : u->turn.count;
	return u->condition == WELL ? MIN(u->wants, may * TURNS_CPU) : 0;
}

static void spend(struct world *w, struct user *u) {
	uint64_t used = uses(w, u) * (w->now - u->seen_ns);
	u->used += used;
	u->got += used;
	u->seen_ns = w->now;
}

/* As cpu_share.c does it. */
static void look(struct world *w, unsigned i) {
	struct user *u = &w->u[i];
	spend(w, u);
	bool held = holds(&u->turn);
	if (w->now - u->posted_ns >= TURNS_PERIOD_NS) {
		u->posted = (u->posted + u->wants) / 2;
		u->posted_ns = w->now;
		turns_post(&w->turns, i, u->posted, w->now);
	}
	turns_look(&w->turns, i, w->cpus, w->now, u->used / TURNS_CPU, &u->own, &u->turn);
	assert_true(u->turn.until_ns > w->now);
	/* It was held until now, and had planned to look when a period was over. */
	if (held && u->held_since && w->now - u->held_since > TURNS_PERIOD_NS + u->late_ns)
		fail_msg("seed %u: user %u was held for %u ms", w->seed, i,
				 (unsigned)((w->now - u->held_since) / MS));
	u->held_since = !holds(&u->turn) ? 0 : held && u->held_since ? u->held_since : w->now;
	if (holds(&u->turn) && w->now - u->held_since >= TURNS_PERIOD_NS)
		fail_msg("seed %u: user %u is held for more than a period", w->seed, i);
	u->late_ns = late(w);
	u->wake_ns = MIN(u->turn.until_ns, w->now + 2 * TURNS_PERIOD_NS) + u->late_ns;
}

static void join(struct world *w, unsigned i) {
	struct user *u = &w->u[i];
	*u = (struct user){.weight = 1u << any(w, 11),
					   .wants = any(w, 4) ? any(w, 3 * TURNS_CPU) : 0,
					   .wake_ns = w->now,
					   .seen_ns = w->now,
					   .turn = {.free = true}};
	turns_join(&w->turns, i, u->weight, w->now);
}

/* Something happens to somebody. */
static void event(struct world *w) {
	unsigned i = (unsigned)any(w, w->n);
	struct user *u = &w->u[i];
	spend(w, u);
	u->whole = false;
	switch (any(w, 8)) {
	case 0:
		u->condition = DEAD; /* leaves its last words in the book */
		break;
	case 1:
		if (u->condition == DEAD)
			join(w, i);
		break;
	case 2:
		u->until_ns = w->now + any(w, 4 * SECOND);
		if (u->condition == WELL)
			u->condition = STOPPED;
		break;
	case 3: /* paused, or idle */
		u->wants = 0;
		break;
	case 4:
	case 5:
		u->wants = any(w, 6 * TURNS_CPU);
		break;
	case 6:
		u->weight = 1u << any(w, 11);
		if (u->condition != DEAD)
			turns_set_weight(&w->turns, i, u->weight);
		break;
	default: /* somebody scribbles in a place that is nobody's */
		w->turns.users[USERS + any(w, 2)] =
			(struct turns_user){any(w, 1000), any(w, 9000), w->now - any(w, 9 * SECOND)};
	}
}

/* At the end of a second. Lateness costs, as do moments that move; and a place that somebody has
 * scribbled in takes its part for two seconds. */
static void account(struct world *w) {
	uint64_t weights = 0;
	bool quiet = true;
	for (unsigned i = 0; i < TURNS_USERS; i++)
		weights += w->turns.users[i].weight;
	for (unsigned i = 0; i < w->n; i++)
		quiet &= w->u[i].whole;
	for (unsigned i = 0; i < w->n; i++) {
		struct user *u = &w->u[i];
		spend(w, u);
		uint64_t share = u->weight * w->cpus * TURNS_CPU / weights;
		share = MIN(share, u->wants);
		/* A moment of less than a sixteenth is rounded. */
		uint64_t least = share > TURNS_GRAIN ? (share - TURNS_GRAIN / 2) / 2 : 0;
		if (quiet && u->condition == WELL && u->got / SECOND < least)
			fail_msg("seed %u: user %u of weight %u got %u/1024 CPUs of a second, its share is %u "
					 "(%u CPUs, "
					 "lateness %u)",
					 w->seed, i, u->weight, (unsigned)(u->got / SECOND), (unsigned)share, w->cpus,
					 w->lateness);
		u->got = 0;
		u->whole = true;
	}
}

static void run_seed(unsigned seed) {
	static struct world w;
	memset(&w, 0, sizeof(w));
	w.seed = seed;
	w.x = seed * 0x9e3779b97f4a7c15u + 1;
	w.now = any(&w, 1000) * SECOND + any(&w, SECOND);
	w.n = 2 + (unsigned)any(&w, USERS - 1);
	w.cpus = 1 + (unsigned)any(&w, 4);
	w.lateness = (unsigned)any(&w, 5);
	uint64_t end = w.now + SPAN, second = w.now + SECOND, happens = w.now + any(&w, 3 * SECOND);
	for (unsigned i = 0; i < w.n; i++)
		join(&w, i);
	while (w.now < end) {
		uint64_t next = MIN(second, happens);
		for (unsigned i = 0; i < w.n; i++)
			if (w.u[i].condition == WELL)
				next = MIN(next, w.u[i].wake_ns);
			else if (w.u[i].condition == STOPPED)
				next = MIN(next, w.u[i].until_ns);
		w.now = MAX(w.now, next);
		if (w.now >= second) {
			account(&w);
			second += SECOND;
		}
		if (w.now >= happens) {
			event(&w);
			happens = w.now + any(&w, 3 * SECOND);
		}
		for (unsigned i = 0; i < w.n; i++) {
			struct user *u = &w.u[i];
			if (u->condition == STOPPED && w.now >= u->until_ns) {
				spend(&w, u);
				u->condition = WELL;
				u->whole = false;
				u->held_since = 0; /* it was not the turns that held it */
			}
			if (u->condition == WELL && w.now >= u->wake_ns)
				look(&w, i);
		}
	}
}

static void nobody_is_denied(void **state) {
	for (unsigned i = 0; i < seeds; i++) {
		run_seed(first_seed + i);
	}
}

int main(int argc, char **argv) {
	const struct CMUnitTest tests[] = {cmocka_unit_test(nobody_is_denied)};
	if (argc > 1)
		seeds = (unsigned)atoi(argv[1]);
	if (argc > 2)
		first_seed = (unsigned)atoi(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
