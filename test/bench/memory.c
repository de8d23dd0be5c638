/* Memory: streams, pointer chases in each cache, a hash table, a tree, string instructions. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#define ELEMENTS 2048 /* 16 KiB: in L1 */
#define BIG (1 << 20)

static uint64_t *from, *to;

static int arrays_setup(void) {
	from = aligned_alloc(4096, BIG);
	to = aligned_alloc(4096, BIG);
	if (!from || !to)
		return -1;
	memset(from, 1, BIG);
	memset(to, 2, BIG);
	return 0;
}

static void sum_run(uint64_t n) {
	uint64_t sum = 0;

	for (; n; n--)
		for (size_t i = 0; i < ELEMENTS; i++)
			sum += from[i];
	bench_sink = sum;
}

static void copy_run(uint64_t n) {
	for (; n; n--) {
		for (size_t i = 0; i < ELEMENTS; i++)
			to[i] = from[i];
		__asm__ volatile("" ::: "memory");
	}
}

static void memcpy_64(uint64_t n) {
	size_t len = 64;

	for (; n; n--) {
		__asm__ volatile("" : "+r"(len)::"memory");
		memcpy(to, from, len);
	}
}

static void memcpy_1m(uint64_t n) {
	for (; n; n--) {
		memcpy(to, from, BIG);
		__asm__ volatile("" ::: "memory");
	}
}

static void rep_movsb(uint64_t n, size_t len) {
	for (; n; n--) {
		void *d = to, *s = from;
		size_t c = len;

		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
	}
}

static void rep_movsb_64(uint64_t n) {
	rep_movsb(n, 64);
}

static void rep_movsb_4k(uint64_t n) {
	rep_movsb(n, 4096);
}

static void rep_movsb_1m(uint64_t n) {
	rep_movsb(n, BIG);
}

static void rep_stosq(uint64_t n, size_t len) {
	for (; n; n--) {
		void *d = to;
		size_t c = len / 8;

		__asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(n) : "memory");
	}
}

static void rep_stosq_64(uint64_t n) {
	rep_stosq(n, 64);
}

static void rep_stosq_4k(uint64_t n) {
	rep_stosq(n, 4096);
}

/* A ring through all cache lines of a buffer, in an order that no prefetcher guesses. */
static void **chase_at;

static int chase_setup(size_t size) {
	size_t lines = size / 64, *order = malloc(lines * sizeof(*order));
	char *memory = aligned_alloc(4096, size);
	uint64_t seed = 11;

	if (!order || !memory)
		return -1;
	for (size_t i = 0; i < lines; i++)
		order[i] = i;
	for (size_t i = lines - 1; i > 0; i--) {
		size_t j = bench_random(&seed) % (i + 1), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (size_t i = 0; i < lines; i++)
		*(void **)(memory + order[i] * 64) = memory + order[(i + 1) % lines] * 64;
	chase_at = (void **)memory;
	free(order);
	return 0;
}

static int chase_16k(void) {
	return chase_setup(16 << 10);
}

static int chase_512k(void) {
	return chase_setup(512 << 10);
}

static int chase_8m(void) {
	return chase_setup(8 << 20);
}

static void chase_run(uint64_t n) {
	void **p = chase_at;

	for (; n; n--) {
		p = *p;
		__asm__ volatile("" : "+r"(p));
	}
	chase_at = p;
	bench_sink = (uintptr_t)p;
}

#define SLOTS 65536
#define KEYS 40000

static uint64_t slots[SLOTS];

static void hash_run(uint64_t n) {
	uint64_t found = 0;

	for (; n; n--) {
		uint64_t seed = 3;

		memset(slots, 0, sizeof(slots));
		for (int i = 0; i < KEYS; i++) {
			uint64_t key = bench_random(&seed) | 1;
			size_t at = key * 0x9e3779b97f4a7c15 >> 48;

			while (slots[at])
				at = (at + 1) % SLOTS;
			slots[at] = key;
		}
		seed = 3;
		for (int i = 0; i < KEYS; i++) {
			uint64_t key = bench_random(&seed) | 1;
			size_t at = key * 0x9e3779b97f4a7c15 >> 48;

			while (slots[at] != key)
				at = (at + 1) % SLOTS;
			found += at;
		}
	}
	bench_sink = found;
}

#define NODES 4096

struct node {
	struct node *left, *right;
	uint64_t key;
};

static struct node nodes[NODES];

static struct node *tree_insert(struct node *tree, struct node *add) {
	if (!tree)
		return add;
	if (add->key < tree->key)
		tree->left = tree_insert(tree->left, add);
	else
		tree->right = tree_insert(tree->right, add);
	return tree;
}

static uint64_t tree_sum(const struct node *tree) {
	return tree ? tree->key + tree_sum(tree->left) + tree_sum(tree->right) : 0;
}

static void tree_run(uint64_t n) {
	for (; n; n--) {
		struct node *tree = NULL;
		uint64_t seed = 17;

		for (size_t i = 0; i < NODES; i++) {
			nodes[i] = (struct node){NULL, NULL, bench_random(&seed)};
			tree = tree_insert(tree, &nodes[i]);
		}
		bench_sink = tree_sum(tree);
	}
}

const struct bench bench_memory[] = {
	{"sum-loop", arrays_setup, sum_run, ELEMENTS},
	{"copy-loop", arrays_setup, copy_run, ELEMENTS},
	{"chase-16K", chase_16k, chase_run, 0},
	{"chase-512K", chase_512k, chase_run, 0},
	{"chase-8M", chase_8m, chase_run, 0},
	{"hash", NULL, hash_run, 2 * KEYS},
	{"tree", NULL, tree_run, NODES},
	{"memcpy-64", arrays_setup, memcpy_64, 0},
	{"memcpy-1M", arrays_setup, memcpy_1m, 0},
	{"rep-movsb-64", arrays_setup, rep_movsb_64, 0},
	{"rep-movsb-4K", arrays_setup, rep_movsb_4k, 0},
	{"rep-movsb-1M", arrays_setup, rep_movsb_1m, 0},
	{"rep-stosq-64", arrays_setup, rep_stosq_64, 0},
	{"rep-stosq-4K", arrays_setup, rep_stosq_4k, 0},
	{NULL, NULL, NULL, 0},
};
