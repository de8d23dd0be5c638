/* Integer code that touches little memory: loops, calls, branches, hashes of data. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static void register_loop(uint64_t n) {
	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(n)::"cc");
}

/* Arithmetic with flags that live across instructions: add and adc, rotates, setcc. */
static void alu(uint64_t n) {
	uint64_t a = 1, b = 0x9e3779b97f4a7c15, c = 0;

	for (; n; n--) {
		__asm__ volatile("add %1, %0\n\tadc $0, %2\n\trol $13, %1\n\txor %0, %1\n\tsub %2, %0\n\t"
						 "imul $31, %0, %0"
						 : "+r"(a), "+r"(b), "+r"(c)::"cc");
	}
	bench_sink = a + b + c;
}

static __attribute__((noinline)) uint64_t fib(uint64_t n) {
	/* Not the compiler's idea of fib, which unrolls the recursion: one call a value. */
	__asm__ volatile("" : "+r"(n));
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

#define FIB 20
#define FIB_CALLS 21891

static void fib_run(uint64_t n) {
	for (; n; n--)
		bench_sink = fib(FIB);
}

/* A small machine with a byte code, one switch for all: what interpreters used to be. */
enum { OP_ADD, OP_SUB, OP_XOR, OP_SHL, OP_NOT, OP_SWAP, OP_MUL, OP_DEC, OP_JNZ, OPS };

static uint8_t program[256];

static int switch_setup(void) {
	uint64_t seed = 42;

	for (size_t i = 0; i < sizeof(program) - 2; i++)
		program[i] = bench_random(&seed) >> 32 & 7;
	for (size_t i = 0; i < sizeof(program) - 2; i++)
		if (program[i] == OP_DEC)
			program[i] = OP_ADD;
	program[sizeof(program) - 2] = OP_DEC;
	program[sizeof(program) - 1] = OP_JNZ;
	return 0;
}

static void switch_run(uint64_t n) {
	uint64_t a = 1, b = 3, pc = 0;

	for (;;) {
		switch (program[pc++]) {
		case OP_ADD:
			a += b;
			break;
		case OP_SUB:
			b -= a;
			break;
		case OP_XOR:
			a ^= b >> 3;
			break;
		case OP_SHL:
			a = a << 1 | a >> 63;
			break;
		case OP_NOT:
			a = ~a;
			break;
		case OP_SWAP: {
			uint64_t t = a;

			a = b;
			b = t;
			break;
		}
		case OP_MUL:
			a *= 0x10001;
			break;
		case OP_DEC:
			n--;
			break;
		case OP_JNZ:
			if (!n) {
				bench_sink = a + b;
				return;
			}
			pc = 0;
			break;
		}
	}
}

typedef uint64_t (*step_fn)(uint64_t);

#define STEP(name, what)                                                                           \
	static __attribute__((noinline)) uint64_t name(uint64_t a) {                                   \
		__asm__ volatile("" : "+r"(a));                                                            \
		return what;                                                                               \
	}
STEP(step_0, a + 1)
STEP(step_1, a ^ 0x55)
STEP(step_2, a * 3)
STEP(step_3, a >> 1)
STEP(step_4, a - 7)
STEP(step_5, ~a)
STEP(step_6, a << 1 | 1)
STEP(step_7, a | 4)

static step_fn steps[256];

static int indirect_setup(void) {
	static const step_fn all[] = {step_0, step_1, step_2, step_3, step_4, step_5, step_6, step_7};
	uint64_t seed = 7;

	for (size_t i = 0; i < 256; i++)
		steps[i] = all[bench_random(&seed) >> 32 & 7];
	return 0;
}

static void indirect_run(uint64_t n) {
	uint64_t a = 0;

	for (; n; n--)
		for (size_t i = 0; i < 256; i++)
			a = steps[i](a);
	bench_sink = a;
}

static uint32_t crc_table[256];
static uint8_t data[65536];

static int data_setup(void) {
	uint64_t seed = 99;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = bench_random(&seed) >> 24;
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
		crc_table[i] = c;
	}
	return 0;
}

static void crc32_run(uint64_t n) {
	uint32_t c = ~0u;

	for (; n; n--)
		for (size_t i = 0; i < sizeof(data); i++)
			c = c >> 8 ^ crc_table[(c ^ data[i]) & 255];
	bench_sink = c;
}

/* SHA-256 as FIPS 180-4 writes it. */
static const uint32_t sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, int n) {
	return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t h[8], const uint8_t *p) {
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++, p += 4)
		w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
			   (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t t = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) +
					 ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
		uint32_t u = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) +
					 ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		s[7] = s[6];
		s[6] = s[5];
		s[5] = s[4];
		s[4] = s[3] + t;
		s[3] = s[2];
		s[2] = s[1];
		s[1] = s[0];
		s[0] = t + u;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static void sha256_run(uint64_t n) {
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

	for (; n; n--)
		for (size_t i = 0; i < sizeof(data); i += 64)
			sha256_block(h, data + i);
	bench_sink = h[0];
}

#define SORTED 4096

static int unsorted[SORTED], sorted[SORTED];

static int sort_setup(void) {
	uint64_t seed = 5;

	for (size_t i = 0; i < SORTED; i++)
		unsorted[i] = (int)(bench_random(&seed) >> 32);
	return 0;
}

static int compare(const void *a, const void *b) {
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

static void sort_run(uint64_t n) {
	for (; n; n--) {
		memcpy(sorted, unsorted, sizeof(sorted));
		qsort(sorted, SORTED, sizeof(sorted[0]), compare);
	}
	bench_sink = (uint64_t)sorted[0];
}

/* Code that lies beside its data, as boot loaders and old programs have it: a loop that counts in
 * its own page, and one whose instructions are patched before each run. */
#define ASIDE 2048

static uint8_t *page;

static int page_setup(void) {
	static const uint8_t code[] = {
		0x48, 0xff, 0x86, 0x00, 0x08, 0, 0, /* 1: incq ASIDE(%rsi) */
		0x48, 0xff, 0xcf,					/* dec %rdi */
		0x75, 0xf4,							/* jnz 1b */
		0xb8, 0,	0,	  0,	0,			/* mov $0, %eax */
		0xc3,								/* ret */
	};
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return -1;
	memcpy(page, code, sizeof(code));
	return 0;
}

static int run_page(uint8_t *at, uint64_t n) {
	return ((int (*)(uint64_t, uint8_t *))(uintptr_t)at)(n, page);
}

static void mixed_page(uint64_t n) {
	bench_sink = (uint64_t)run_page(page, n);
}

static void patched_code(uint64_t n) {
	int sum = 0;

	for (; n; n--) {
		*(volatile uint32_t *)(page + 13) = (uint32_t)n;
		sum += run_page(page + 12, 0);
	}
	bench_sink = (uint64_t)sum;
}

const struct bench bench_integer[] = {
	{"register-loop", NULL, register_loop, 0},
	{"alu", NULL, alu, 6},
	{"fib", NULL, fib_run, FIB_CALLS},
	{"switch", switch_setup, switch_run, sizeof(program)},
	{"indirect-call", indirect_setup, indirect_run, 256},
	{"crc32", data_setup, crc32_run, sizeof(data)},
	{"sha256", data_setup, sha256_run, sizeof(data)},
	{"sort", sort_setup, sort_run, SORTED},
	{"mixed-page", page_setup, mixed_page, 0},
	{"patched-code", page_setup, patched_code, 0},
	{NULL, NULL, NULL, 0},
};
