/* See turns.h. */
#include "core/base/turns.h"

#include "core/base/bits.h"

#define LARGEST (1u << 20) /* of weights, CPUs and wants in CPUs */

#define SLACK 16 /* so much of all is not worth the trouble: single threads, one on each CPU */
#define ROOM 4	 /* so much of its wish one has beside it, to grow and not to meet others */

struct part {
	uint32_t weight; /* 0: none */
	uint64_t wants, has;
	bool held; /* has less than it wants */
};

static bool fresh(const struct turns_user *u, uint64_t now_ns) {
	/* Who posts while another looks is a little ahead; far ahead is damage. */
	uint64_t apart = u->posted_ns > now_ns ? u->posted_ns - now_ns : now_ns - u->posted_ns;
	return u->weight && apart < TURNS_FRESH_NS;
}

void turns_join(struct turns *t, unsigned user, uint64_t weight, uint64_t now_ns) {
	t->users[user] = (struct turns_user){.weight = MAX(weight, 1u), .posted_ns = now_ns};
}

void turns_leave(struct turns *t, unsigned user) {
	t->users[user] = (struct turns_user){0};
}

void turns_set_weight(struct turns *t, unsigned user, uint64_t weight) {
	t->users[user].weight = MAX(weight, 1u);
}

void turns_post(struct turns *t, unsigned user, uint64_t wants, uint64_t now_ns) {
	t->users[user].wants = wants;
	t->users[user].posted_ns = now_ns;
}

bool turns_met(const struct turns *t, unsigned user, uint64_t now_ns) {
	for (unsigned i = 0; i < TURNS_USERS; i++)
		if (i != user && fresh(&t->users[i], now_ns))
			return true;
	return false;
}

/* Who wants no more than its share of what is left gets that; the rest is divided again, until
 * only such are left as want more. */
static void divide(struct part *p, uint64_t left) {
	bool again = true;
	while (again) {
		uint64_t weights = 0, given = 0;
		again = false;
		for (unsigned i = 0; i < TURNS_USERS; i++)
			weights += p[i].held ? p[i].weight : 0;
		for (unsigned i = 0; i < TURNS_USERS; i++) {
			if (!p[i].held)
				continue;
			p[i].has = left * p[i].weight / weights;
			if (p[i].wants > p[i].has)
				continue;
			p[i].has = p[i].wants;
			p[i].held = false;
			given += p[i].has;
			again = true;
		}
		left -= MIN(given, left);
	}
}

static uint64_t border(uint64_t at) {
	return (at + TURNS_GRAIN / 2) / TURNS_GRAIN * TURNS_GRAIN;
}

/* The CPUs before place `at` of the line in the moment `phase`. */
static unsigned before(uint64_t at, uint64_t phase) {
	return at > phase ? (unsigned)((at - phase + TURNS_CPU - 1) / TURNS_CPU) : 0;
}

/* What a part of a CPU is in a time. */
static int64_t part_ns(uint64_t part, uint64_t ns) {
	return (int64_t)(MIN(ns, TURNS_PERIOD_NS) * MIN(part, TURNS_CPU) / TURNS_CPU);
}

/* Counts what it had and used since the last look; no more than a period's is remembered. */
static void account(struct turns_own *own, uint64_t part, uint64_t now_ns, uint64_t used_ns) {
	int64_t most = part_ns(part, TURNS_PERIOD_NS), used;
	used = (int64_t)MIN(used_ns - MIN(own->used_ns, used_ns), TURNS_PERIOD_NS);
	own->left_ns += part_ns(part, now_ns - MIN(own->at_ns, now_ns)) - used;
	own->left_ns = MAX(MIN(own->left_ns, most), -most);
}

/* Of `cpus`, from which one on the line begins in this second. */
static void move(unsigned cpus, uint64_t now_ns, struct turn *out) {
	out->first = (unsigned)((out->first + now_ns / TURNS_MOVE_NS) % MAX(cpus, 1u));
}

/* Outside of its moment, which begins at `start` of the line: stands still, or goes on where its
 * moment is, too, for what it has left beyond what has come since the last one ended, `ago`.
 * `out->until_ns` is when the next one comes. */
static void go_on(const struct turns_own *own, uint64_t start, uint64_t part, uint64_t ago,
				  uint64_t now_ns, unsigned cpus, struct turn *out) {
	uint64_t late = own->ran_ns + TURNS_PERIOD_NS;
	int64_t left = own->left_ns - part_ns(part, ago * TURNS_PERIOD_NS / TURNS_CPU);
	if (now_ns >= late)
		left = MAX(left, part_ns(part, TURNS_PERIOD_NS));
	if (left < (int64_t)TURNS_LEAST_NS) {
		out->until_ns = MIN(out->until_ns, late);
		return;
	}
	out->first = (unsigned)(start / TURNS_CPU);
	out->count = 1;
	move(cpus, now_ns, out);
	out->until_ns = MIN(out->until_ns, now_ns + (uint64_t)left);
}

/* The CPUs of a piece of the line now, and when that changes: where the phase passes one of its
 * ends.
 */
static void place(uint64_t start, uint64_t end, unsigned cpus, uint64_t phase, uint64_t now_ns,
				  struct turn *out) {
	uint64_t next = TURNS_CPU;
	if (start >= end)
		return;
	out->first = before(start, phase);
	out->count = before(end, phase) - out->first;
	move(cpus, now_ns, out);
	if (start % TURNS_CPU > phase)
		next = start % TURNS_CPU;
	if (end % TURNS_CPU > phase)
		next = MIN(next, end % TURNS_CPU);
	out->until_ns =
		now_ns - now_ns % TURNS_PERIOD_NS + (next * TURNS_PERIOD_NS + TURNS_CPU - 1) / TURNS_CPU;
}

void turns_look(const struct turns *t, unsigned user, unsigned cpus, uint64_t now_ns,
				uint64_t used_ns, struct turns_own *own, struct turn *out) {
	struct part parts[TURNS_USERS];
	uint64_t start = 0, end, sum = 0,
			 phase = now_ns % TURNS_PERIOD_NS * TURNS_CPU / TURNS_PERIOD_NS;
	uint64_t capacity = (uint64_t)MIN(cpus, LARGEST) * TURNS_CPU;
	struct turns_own was =
		own->at_ns ? *own : (struct turns_own){.at_ns = now_ns, .used_ns = used_ns};
	*own = (struct turns_own){.at_ns = now_ns, .used_ns = used_ns, .ran_ns = now_ns};
	for (unsigned i = 0; i < TURNS_USERS; i++) {
		struct turns_user u = t->users[i]; /* once: others write there */
		parts[i] = (struct part){0};
		if (!fresh(&u, now_ns))
			continue;
		parts[i].held = true;
		parts[i].weight = (uint32_t)MIN(u.weight, LARGEST);
		parts[i].wants = MIN(u.wants, capacity);
		sum += parts[i].wants;
	}
	*out = (struct turn){.free = true, .until_ns = now_ns + TURNS_PERIOD_NS};
	if (sum <= capacity + capacity / SLACK || !parts[user].weight)
		return;
	uint64_t wants = parts[user].wants, all = 0;
	for (unsigned i = 0; i < TURNS_USERS; i++)
		parts[i].wants += parts[i].wants / ROOM;
	divide(parts, capacity);
	/* Those that keep to theirs come first on the line. */
	for (unsigned i = 0; i < TURNS_USERS; i++) {
		start += parts[i].held && i < user ? parts[i].has : 0;
		all += parts[i].held ? parts[i].has : 0;
	}
	end = border(start + parts[user].has);
	start = border(start);
	/* Who has what it wants, if not the room beside it, need not keep to its place on the line. But
	 * the kernel leaves it on a CPU that is full of another one's threads as long as it runs there
	 * now and then, so as long as there is a place for it, it is told. */
	if (!parts[user].held || wants <= parts[user].has + parts[user].has / SLACK) {
		if (!parts[user].held)
			start = border(all), end = capacity;
		if (wants > TURNS_GRAIN)
			place(start, end, cpus, phase, now_ns, out);
		out->free = !out->count;
		return;
	}
	if (start >= end)
		return; /* so small that the kernel may see to it: nobody is held for all of the time */
	account(&was, end - start, now_ns, used_ns);
	own->left_ns = was.left_ns;
	out->free = false; /* so there are CPUs */
	place(start, end, cpus, phase, now_ns, out);
	if (!was.held)
		was.ran_ns = now_ns;
	if (!out->count)
		go_on(&was, start, end - start, (phase + TURNS_CPU - end % TURNS_CPU) % TURNS_CPU, now_ns,
			  cpus, out);
	own->held = !out->count;
	own->ran_ns = own->held ? was.ran_ns : now_ns;
}
