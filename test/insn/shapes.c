/* Instructions that are decoded by their shape (core/x86/shape.h) are what the decoder makes of
 * them, and are judged as it would be afresh: random ones, each several times with other
 * displacements and immediates, and this program's own code; in code of 64, 32 and 16 bits, for
 * both tiers.
 *
 * Usage: shapes [--count INSTRUCTIONS] [--seed N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/tx.h"
#include "test/insn/bench_vm.h"
#include "test/insn/gen.h"

#define VARIANTS 6

static struct bench_vm vm;
static unsigned long decoded, known, failed;

static void report(const uint8_t *b, const char *what) {
	if (failed++ > 10)
		return;
	printf("# %s:", what);
	for (unsigned n = 0; n < 16; n++)
		printf(" %02x", b[n]);
	printf("\n");
}

/* Bytes [0, X86_SHAPE_AVAIL) of b. */
static unsigned compare(struct tx *t, const uint8_t *b) {
	struct x86_insn want, got;
	struct jit_fact want_fact, got_fact;
	memset(&want_fact, 0, sizeof(want_fact));
	memset(&got_fact, 0, sizeof(got_fact));
	uint64_t key = x86_shape_key(b, !tx_legacy(t));
	int len = x86_decode(&want, b, X86_SHAPE_AVAIL, tx_mode(t));
	if (len > 0)
		tx_judge(t, &want, &want_fact);
	for (unsigned n = 0; n < 1u << JIT_SHAPE_BITS && key; n++)
		if (t->j->shapes[n].shape.bytes == key &&
			(t->j->shapes[n].key & ~JIT_KEY_SECOND) == t->key) {
			known++;
			break;
		}
	decoded += len > 0;
	if (tx_decode(t, &got, &got_fact, b, X86_SHAPE_AVAIL) != len)
		report(b, "another length");
	else if (len > 0 && memcmp(&want, &got, sizeof(want)))
		report(b, "another instruction");
	else if (len > 0 && memcmp(&want_fact, &got_fact, sizeof(want_fact)))
		report(b, "another judgement");
	return len > 0 ? (unsigned)len : 1;
}

static void random_ones(struct tx *t, unsigned long count) {
	bool mode64 = !tx_legacy(t);
	for (unsigned long n = 0; n < count; n++) {
		uint8_t b[X86_SHAPE_AVAIL];
		gen_bytes(b, mode64);
		for (unsigned k = 16; k < sizeof(b); k++)
			b[k] = (uint8_t)gen_rnd();
		unsigned from = (unsigned)(x86_shape_key(b, mode64) >> 56);
		for (unsigned v = 0; v < VARIANTS; v++) {
			compare(t, b);
			/* Other numbers; or, seldom, anything. */
			uint64_t number = gen_edgy();
			if (gen_below(8))
				memcpy(b + from, &number, 8);
			else
				b[gen_below(8)] = (uint8_t)gen_rnd();
		}
	}
}

static void own_code(struct tx *t) {
	const uint8_t *b = (const uint8_t *)(uintptr_t)random_ones;
	const uint8_t *end = b + (64u << 10);
	extern const char etext[]; /* the linker's */
	if (end > (const uint8_t *)etext - X86_SHAPE_AVAIL)
		end = (const uint8_t *)etext - X86_SHAPE_AVAIL;
	while (b < end)
		b += compare(t, b);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		uint32_t key;
	} modes[] = {
		{"64 bits", JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX},
		{"64 bits, kernel", 0},
		{"32 bits", JIT_KEY_32 | JIT_KEY_FPU | JIT_KEY_AVX},
		{"32 bits, segments", JIT_KEY_32 | JIT_KEY_SEGS | JIT_KEY_USER},
		{"16 bits", JIT_KEY_16 | JIT_KEY_SEGS | JIT_KEY_STACK16 | JIT_KEY_CS64K},
	};
	unsigned long count = 4000;
	for (int n = 1; n + 1 < argc; n += 2)
		if (!strcmp(argv[n], "--count"))
			count = strtoul(argv[n + 1], NULL, 0);
		else if (!strcmp(argv[n], "--seed"))
			gen_seed = strtoull(argv[n + 1], NULL, 0);
	bench_vm_create(&vm, 1u << 20, "jit");
	struct soft_vcpu *c = vm.cpu->engine;
	struct jit *j = c->soft->jit;
	struct tx *t = j->tx;
	t->j = j;
	t->c = c;
	printf("1..%u\n", (unsigned)ARRAY_LEN(modes) * 2);
	bool good = true;
	for (unsigned n = 0; n < ARRAY_LEN(modes) * 2; n++) {
		decoded = known = failed = 0;
		t->key = modes[n / 2].key;
		t->hot = n & 1;
		random_ones(t, count);
		own_code(t);
		bool ok = !failed && known > decoded / 3;
		printf("%s %u - %s, %s: %lu, %lu of them known\n", ok ? "ok" : "not ok", n + 1,
			   modes[n / 2].name, t->hot ? "hot" : "plain", decoded, known);
		good &= ok;
	}
	bench_vm_destroy(&vm);
	return good ? 0 : 1;
}
