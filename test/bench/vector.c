/* Floating point of each generation, and the instructions for AES and SHA. */
#include <cpuid.h>
#include <immintrin.h>
#include <math.h>

#include "bench.h"

static int need_avx2(void) {
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 0 : -1;
}

static int need_aes(void) {
	__builtin_cpu_init();
	return __builtin_cpu_supports("aes") ? 0 : -1;
}

static int need_sha(void) {
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29) ? 0 : -1;
}

#define N 64

static double a[N][N] __attribute__((aligned(64))), b[N][N] __attribute__((aligned(64))),
	c[N][N] __attribute__((aligned(64)));

static void fill(void) {
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = i + j * 0.5;
			b[i][j] = i * 0.25 - j;
		}
}

static int matrix_setup(void) {
	fill();
	return 0;
}

static int matrix_avx2_setup(void) {
	fill();
	return need_avx2();
}

static void matrix_sse2(uint64_t n) {
	for (; n; n--) {
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j += 4) {
				__m128d s = _mm_setzero_pd(), t = _mm_setzero_pd();

				for (int k = 0; k < N; k++) {
					__m128d x = _mm_set1_pd(a[i][k]);

					s = _mm_add_pd(s, _mm_mul_pd(x, _mm_load_pd(&b[k][j])));
					t = _mm_add_pd(t, _mm_mul_pd(x, _mm_load_pd(&b[k][j + 2])));
				}
				_mm_store_pd(&c[i][j], s);
				_mm_store_pd(&c[i][j + 2], t);
			}
		__asm__ volatile("" ::: "memory");
	}
}

static __attribute__((target("avx2,fma"))) void matrix_avx2(uint64_t n) {
	for (; n; n--) {
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j += 8) {
				__m256d s = _mm256_setzero_pd(), t = _mm256_setzero_pd();

				for (int k = 0; k < N; k++) {
					__m256d x = _mm256_set1_pd(a[i][k]);

					s = _mm256_fmadd_pd(x, _mm256_load_pd(&b[k][j]), s);
					t = _mm256_fmadd_pd(x, _mm256_load_pd(&b[k][j + 4]), t);
				}
				_mm256_store_pd(&c[i][j], s);
				_mm256_store_pd(&c[i][j + 4], t);
			}
		__asm__ volatile("" ::: "memory");
	}
}

#define BODIES 5

struct body {
	double x[3], v[3], mass;
};

/* Bodies on rings around a heavy one. Scalar code, as compilers make it. */
static void nbody_run(uint64_t n) {
	struct body bodies[BODIES] = {{{0}, {0}, 40}};
	const double dt = 0.001;

	for (int i = 1; i < BODIES; i++)
		bodies[i] = (struct body){{i * 5, i, 0.1 * i}, {0, 2.5 / i, 0.1}, 0.01 * i};
	for (; n; n--) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++) {
				double d[3], r2 = 0, m;

				for (int k = 0; k < 3; k++) {
					d[k] = bodies[i].x[k] - bodies[j].x[k];
					r2 += d[k] * d[k];
				}
				m = dt / (r2 * sqrt(r2));
				for (int k = 0; k < 3; k++) {
					bodies[i].v[k] -= d[k] * bodies[j].mass * m;
					bodies[j].v[k] += d[k] * bodies[i].mass * m;
				}
			}
		for (int i = 0; i < BODIES; i++)
			for (int k = 0; k < 3; k++)
				bodies[i].x[k] += dt * bodies[i].v[k];
	}
	bench_sink = (uint64_t)(bodies[1].x[0] * 1e6);
}

/* long double is x87. The logistic map, with a square root now and then. */
static void x87_run(uint64_t n) {
	long double x = 0.4L;

	for (; n; n--) {
		for (int i = 0; i < 16; i++)
			x = 3.7L * x * (1.0L - x);
		x = sqrtl(x) * 0.5L + 0.25L;
	}
	bench_sink = (uint64_t)(x * 1e9L);
}

/* One block of CBC a step: each waits for the one before. */
static __attribute__((target("aes"))) void aes_run(uint64_t n) {
	__m128i key[11], x = _mm_set1_epi32(1);

	for (int i = 0; i < 11; i++)
		key[i] = _mm_set_epi64x(0x0123456789abcd * (i + 1), 0x0fedcba9876543 * (i + 3));
	for (; n; n--) {
		x = _mm_xor_si128(x, key[0]);
		for (int i = 1; i < 10; i++)
			x = _mm_aesenc_si128(x, key[i]);
		x = _mm_aesenclast_si128(x, key[10]);
	}
	bench_sink = (uint64_t)_mm_cvtsi128_si64(x);
}

/* The rounds and the message schedule of a block, without loading and byte order. */
static __attribute__((target("sha,sse4.1"))) void sha_run(uint64_t n) {
	__m128i s = _mm_set1_epi32(0x6a09e667), t = _mm_set1_epi32(0x510e527f),
			m[4] = {_mm_set1_epi32(1), _mm_set1_epi32(2), _mm_set1_epi32(3), _mm_set1_epi32(4)};

	for (; n; n--) {
		for (int i = 0; i < 16; i++) {
			__m128i k = _mm_add_epi32(m[i & 3], _mm_set1_epi32(0x428a2f98));

			t = _mm_sha256rnds2_epu32(t, s, k);
			s = _mm_sha256rnds2_epu32(s, t, _mm_shuffle_epi32(k, 0x0e));
			m[i & 3] = _mm_sha256msg2_epu32(
				_mm_add_epi32(_mm_sha256msg1_epu32(m[i & 3], m[(i + 1) & 3]),
							  _mm_alignr_epi8(m[(i + 3) & 3], m[(i + 2) & 3], 4)),
				m[(i + 3) & 3]);
		}
	}
	bench_sink = (uint64_t)_mm_cvtsi128_si64(_mm_add_epi32(s, t));
}

const struct bench bench_vector[] = {
	{"matrix-sse2", matrix_setup, matrix_sse2, N *N *N},
	{"matrix-avx2", matrix_avx2_setup, matrix_avx2, N *N *N},
	{"nbody", NULL, nbody_run, 0},
	{"x87", NULL, x87_run, 17},
	{"aes-ni", need_aes, aes_run, 0},
	{"sha-ni", need_sha, sha_run, 0},
	{NULL, NULL, NULL, 0},
};
