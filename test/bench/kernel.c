/*
 * What the kernel does for programs: system calls, page faults, mappings, processes, switches
 * between two of them. The driver pins this program to one CPU when it runs natively, as the guest
 * has one.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static void getppid_run(uint64_t n) {
	for (; n; n--)
		syscall(SYS_getppid);
}

static void clock_run(uint64_t n) {
	struct timespec t;

	for (; n; n--)
		clock_gettime(CLOCK_MONOTONIC, &t);
	bench_sink = (uint64_t)t.tv_nsec;
}

static char *map(size_t size) {
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

#define PAGES 256

static void page_fault_run(uint64_t n) {
	for (; n; n--) {
		char *p = map(PAGES * 4096);

		madvise(p, PAGES * 4096, MADV_NOHUGEPAGE);
		for (size_t i = 0; i < PAGES; i++)
			p[i * 4096] = 1;
		munmap(p, PAGES * 4096);
	}
}

static void mmap_run(uint64_t n) {
	for (; n; n--) {
		char *p = map(4096);

		*p = 1;
		munmap(p, 4096);
	}
}

static void reap(pid_t pid) {
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		abort();
}

static void fork_run(uint64_t n) {
	for (; n; n--) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		reap(pid);
	}
}

static void fork_exec_run(uint64_t n) {
	for (; n; n--) {
		pid_t pid = fork();

		if (pid == 0) {
			execl("/proc/self/exe", "bench", "--nothing", (char *)NULL);
			_exit(1);
		}
		reap(pid);
	}
}

static int to_child[2], to_parent[2];

/* The other side lives as long as the benchmark: the pipe ends with it. */
static int pipe_setup(void) {
	pid_t pid;
	char c;

	if (pipe(to_child) < 0 || pipe(to_parent) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		close(to_child[1]);
		close(to_parent[0]);
		while (read(to_child[0], &c, 1) == 1)
			if (write(to_parent[1], &c, 1) != 1)
				break;
		_exit(0);
	}
	close(to_child[0]);
	close(to_parent[1]);
	return pid < 0 ? -1 : 0;
}

static void pipe_run(uint64_t n) {
	char c = 'x';

	for (; n; n--)
		if (write(to_child[1], &c, 1) != 1 || read(to_parent[0], &c, 1) != 1)
			abort();
}

/* Whose turn it is: 0 of the main thread, 1 of the other. */
static atomic_uint turn;

static void futex_wait(unsigned while_it_is) {
	while (atomic_load(&turn) == while_it_is)
		syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, while_it_is, NULL, NULL, 0);
}

static void futex_give(unsigned to) {
	atomic_store(&turn, to);
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_other(void *arg) {
	for (;;) {
		futex_wait(0);
		futex_give(0);
	}
	return arg;
}

static int futex_setup(void) {
	pthread_t thread;

	return pthread_create(&thread, NULL, futex_other, NULL) ? -1 : 0;
}

static void futex_run(uint64_t n) {
	for (; n; n--) {
		futex_give(1);
		futex_wait(1);
	}
}

/* What a JIT compiler does that never has its code writable and executable at once: opens an area,
 * writes a function, closes it, and calls this one and some of the others. */
#define JIT_AREA (64 << 10)
#define JIT_PIECE 64

static uint8_t *jit_area;

static void jit_write(size_t at, uint32_t value) {
	jit_area[at] = 0xb8; /* mov $value, %eax; ret */
	memcpy(jit_area + at + 1, &value, 4);
	jit_area[at + 5] = 0xc3;
}

static int jit_setup(void) {
	jit_area = mmap(NULL, JIT_AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (jit_area == MAP_FAILED)
		return -1;
	for (size_t at = 0; at < JIT_AREA; at += JIT_PIECE)
		jit_write(at, (uint32_t)at);
	return 0;
}

static void jit_run(uint64_t n) {
	uint64_t sum = 0;

	for (; n; n--) {
		size_t at = n * JIT_PIECE % JIT_AREA;
		if (mprotect(jit_area, JIT_AREA, PROT_READ | PROT_WRITE))
			return;
		jit_write(at, (uint32_t)n);
		if (mprotect(jit_area, JIT_AREA, PROT_READ | PROT_EXEC))
			return;
		for (unsigned k = 0; k < 32; k++) {
			uint8_t *f = jit_area + (at + k * 7 * JIT_PIECE) % JIT_AREA;
			sum += (uint64_t)((int (*)(void))(uintptr_t)f)();
		}
	}
	bench_sink = sum;
}

const struct bench bench_kernel[] = {
	{"getppid", NULL, getppid_run, 0},
	{"clock_gettime", NULL, clock_run, 0},
	{"page-fault", NULL, page_fault_run, PAGES},
	{"mmap-munmap", NULL, mmap_run, 0},
	{"fork-exit", NULL, fork_run, 0},
	{"fork-exec", NULL, fork_exec_run, 0},
	{"pipe", pipe_setup, pipe_run, 0},
	{"futex", futex_setup, futex_run, 0},
	{"jit", jit_setup, jit_run, 0},
	{NULL, NULL, NULL, 0},
};
