#ifndef JOIST_TEST_BENCH_BENCH_H
#define JOIST_TEST_BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

/*
 * One line of the bench set. run() does n operations; the caller chooses n and keeps the time.
 * setup() may be NULL; it returns 0, or -1 where the benchmark cannot run (an instruction that
 * this CPU lacks, a library that was not there at build).
 */
struct bench {
	const char *name;
	int (*setup)(void);
	void (*run)(uint64_t n);
	double ops; /* what one of the n counts as: the elements of an array, say. 0 is 1 */
};

/* Tables end with a NULL name. */
extern const struct bench bench_integer[], bench_memory[], bench_vector[], bench_program[],
	bench_kernel[], bench_legacy[];

/* Results go here, so that the compiler cannot drop what makes them. */
extern volatile uint64_t bench_sink;

/* Pseudo-random numbers that are the same in every run. */
static inline uint64_t bench_random(uint64_t *state) {
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

#endif
