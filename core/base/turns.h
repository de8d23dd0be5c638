/* On which CPUs who runs when: a computer's CPUs divided by weights among users that have many
 * threads (VMs of one person). Pure and of integers; the state may lie in memory that the users
 * share, so nothing in it is trusted further than to be fair.
 *
 * A kernel's scheduler divides each CPU by itself. Of a group with a busy thread on each of two
 * CPUs half of the weight is on either, so that one with a single thread gets two thirds of the CPU
 * that it is on instead of all of it, and shares it besides. Here the users post how many CPUs they
 * could use. While all of it about fits, everybody is free. Else each gets its part by weight, what
 * one does not want goes to the others, and who wants more than its part keeps to some CPUs: the
 * parts are laid on a line one after the other, a CPU is one unit of it, and in the moment that is
 * the fraction f of a period, CPU c belongs to whoever has the place c + f. So everybody gets
 * exactly its part, and most CPUs have one owner for all of the time [McNaughton, "Scheduling with
 * deadlines and loss functions", 1959: the wrap-around rule]. Who wants no more than its part
 * keeps to the CPUs that these leave, while there are such, and is free to run anywhere else: by
 * itself the kernel does not take it away from a CPU that is full of another one's threads, least
 * of all where other programs are on the rest.
 *
 * No CPU is like the other: one is slower, other programs keep to another. So the line moves on by
 * a CPU each second. Which of them share caches, a core or a memory node is not looked at. */
#ifndef CORE_BASE_TURNS_H
#define CORE_BASE_TURNS_H

#include "core/base/types.h"

#define TURNS_USERS 64
#define TURNS_WEIGHT 100
#define TURNS_CPU 1024u				 /* one CPU */
#define TURNS_GRAIN (TURNS_CPU / 16) /* borders between parts are multiples of it */
#define TURNS_PERIOD_NS 64000000ull
#define TURNS_MOVE_NS (16 * TURNS_PERIOD_NS)
#define TURNS_LEAST_NS (TURNS_PERIOD_NS / 32) /* less than that is not worth going on for */
#define TURNS_FRESH_NS 2000000000ull		  /* who posts nothing for so long is gone */

struct turns_user {
	uint64_t weight;	/* 0: no user */
	uint64_t wants;		/* in TURNS_CPU */
	uint64_t posted_ns; /* when it said so */
};

struct turns {
	struct turns_user users[TURNS_USERS];
};

struct turn {
	bool free;			   /* anywhere; else on `count` CPUs from `first` on, 0: not now */
	unsigned first, count; /* among those that there are; after the last comes the first */
	uint64_t until_ns;	   /* then look again */
};

void turns_join(struct turns *t, unsigned user, uint64_t weight, uint64_t now_ns);
void turns_leave(struct turns *t, unsigned user);
void turns_set_weight(struct turns *t, unsigned user, uint64_t weight);
void turns_post(struct turns *t, unsigned user, uint64_t wants, uint64_t now_ns);

/* Is there anybody else? */
bool turns_met(const struct turns *t, unsigned user, uint64_t now_ns);
/* What a user keeps of itself between two looks; zeroes at first. */
struct turns_own {
	uint64_t at_ns, used_ns; /* the last look, and its CPU time then */
	uint64_t ran_ns;		 /* when it last had a CPU */
	bool held;				 /* it had none since */
	int64_t left_ns;		 /* CPU time that it had and did not use; below 0: used beyond it */
};

/* What is user's now, with `cpus` of them altogether; it has used `used_ns` of CPU time so far, or
 * has stood in line for it where programs that are no users had the CPU.
 *
 * Who has less than a CPU stands still for the rest of each period. But a moment is of no use to
 * who works, waits for an answer and works again, or looks late, as all do on a busy computer, and
 * finds it over; and it moves when others come and go. So who has not used up its part may run on
 * beyond its moment, beside whoever is there, and so may who has had nothing for a period. Nobody
 * stands still longer than a period and as long as it takes to look. */
void turns_look(const struct turns *t, unsigned user, unsigned cpus, uint64_t now_ns,
				uint64_t used_ns, struct turns_own *own, struct turn *out);

#endif
