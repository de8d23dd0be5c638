/*
 * The bench set: runs natively on the host and, the same file, in a guest.
 *   bench              all benchmarks
 *   bench -l           their names
 *   bench NAME...      these
 *   bench -s S NAME... each for S seconds, to look at with a profiler
 * Each runs in a process of its own, so that one which dies (an instruction that is missing, a
 * bug of the engine) costs one line. Lines that tools/bench-run reads:
 *   bench: start NAME
 *   bench: NAME NS         nanoseconds an operation: the fastest of some runs, as whatever else
 *                          the host does only ever adds
 *   bench: NAME skip       cannot run here
 *   bench: NAME failed ... died, or took too long
 *   bench: end
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define RUN_NS 5e6	/* one run: short enough to fall between what disturbs it */
#define TOTAL_S 0.3 /* all runs of a benchmark */
#define MIN_RUNS 5
#define LIMIT_S 40 /* then it is given up */

volatile uint64_t bench_sink;

static double total_s = TOTAL_S;

static const struct bench *const tables[] = {bench_integer, bench_memory, bench_vector,
											 bench_program, bench_legacy, bench_kernel};

static double now_ns(void) {
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double time_run(const struct bench *b, uint64_t n) {
	double start = now_ns();

	b->run(n);
	return now_ns() - start;
}

static void measure(const struct bench *b) {
	uint64_t n = 1;
	double ns, best, total;

	if (b->setup && b->setup() < 0) {
		printf("bench: %s skip\n", b->name);
		return;
	}
	/* The first run also warms caches and gets code translated; it counts for nothing. */
	b->run(1);
	while ((ns = time_run(b, n)) < RUN_NS) {
		double factor = ns > RUN_NS / 100 ? RUN_NS / ns * 1.1 : 10;

		n = (uint64_t)((double)n * factor) + 1;
	}
	best = total = ns;
	for (int runs = 1; total < total_s * 1e9 || runs < MIN_RUNS; runs++) {
		ns = time_run(b, n);
		total += ns;
		if (ns < best)
			best = ns;
	}
	printf("bench: %s %.4f\n", b->name, best / (double)n / (b->ops ? b->ops : 1));
}

static void run_apart(const struct bench *b) {
	int status;
	pid_t pid;

	printf("bench: start %s\n", b->name);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(LIMIT_S + (unsigned)total_s);
		measure(b);
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		printf("bench: %s failed to fork\n", b->name);
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		printf("bench: %s failed: no end after %d s\n", b->name, LIMIT_S);
	else if (WIFSIGNALED(status))
		printf("bench: %s failed: signal %d\n", b->name, WTERMSIG(status));
	else if (status)
		printf("bench: %s failed: exit code %d\n", b->name, WEXITSTATUS(status));
	fflush(stdout);
}

static int wanted(const char *name, int argc, char **argv) {
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return 1;
	return argc < 2;
}

int main(int argc, char **argv) {
	int list = argc > 1 && strcmp(argv[1], "-l") == 0;

	if (argc > 1 && strcmp(argv[1], "--nothing") == 0)
		return 0; /* what fork-exec executes */
	if (argc > 2 && strcmp(argv[1], "-s") == 0) {
		total_s = atof(argv[2]);
		argv += 2;
		argc -= 2;
	}
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (const struct bench *b = tables[i]; b->name; b++) {
			if (list)
				puts(b->name);
			else if (wanted(b->name, argc, argv))
				run_apart(b);
		}
	}
	if (!list)
		puts("bench: end");
	return 0;
}
