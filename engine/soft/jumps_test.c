/* The tables of jump targets, while another vCPU adds to what they are found by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>

#include "core/base/check.h"
#include "engine/soft/jit.h"
#include "engine/soft/soft.h"

#define ROUNDS 40
#define HASH (2 * JIT_FAR)
#define FAR_MISS ((const uint8_t *)1)

/* A target's block, as the tables have it: its address says whose it is. */
static const uint8_t *entry_of(uint64_t rip) {
	return (const uint8_t *)(uintptr_t)(rip + 16);
}

static uint64_t rip_of(unsigned n) {
	return 0xffffffff81000000ull + n * 16ull;
}

static struct soft soft;
static struct jit *j;
static uint32_t round_of_maker, round_of_learner, made; /* atomic */
static uint64_t rival[HASH]; /* for a place of the hash, an address that never has a slot */

/* As far_find() has it. */
static unsigned place_of(uint64_t rip) {
	return (unsigned)(rip * 0x9e3779b97f4a7c15ull >> 40) & (HASH - 1);
}

/* Translates, so to speak: new slots, as a block that jumps there asks for them. */
static void *maker(void *unused) {
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		while (__atomic_load_n(&round_of_learner, __ATOMIC_ACQUIRE) < round)
			__builtin_ia32_pause();
		for (unsigned n = 0; n < JIT_FAR; n++) {
			__atomic_store_n(&made, n, __ATOMIC_RELEASE);
			jit_far_slot(j, rip_of(n), 0);
		}
		__atomic_store_n(&round_of_maker, round, __ATOMIC_RELEASE);
	}
	return unused;
}

/* A slot is some target's alone, whatever another vCPU learns while it is made. */
static void a_slot_leads_to_its_own_target(void **unused) {
	struct soft_vcpu *c = calloc(1, sizeof(*c));
	j = calloc(1, sizeof(*j));
	assert_true(c && j);
	c->soft = &soft;
	soft.jit = j;
	soft.vcpus[0] = c;
	soft.nvcpus = 1;
	j->soft = &soft;
	j->far_miss = FAR_MISS;
	assert_int_equal(jit_far_create(j), 0);
	for (unsigned n = JIT_FAR, found = 0; found < HASH; n++)
		if (!rival[place_of(rip_of(n))]) {
			rival[place_of(rip_of(n))] = rip_of(n);
			found++;
		}
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, maker, NULL), 0);
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		jit_far_reset(j);
		__atomic_store_n(&round_of_learner, round, __ATOMIC_RELEASE);
		struct jit_block b = {.key = 0};
		while (__atomic_load_n(&round_of_maker, __ATOMIC_ACQUIRE) < round) {
			/* What has no slot, just where the other thread makes one: nothing is to be learnt. */
			b.rip = rival[place_of(rip_of(__atomic_load_n(&made, __ATOMIC_ACQUIRE)))];
			b.entry = entry_of(b.rip);
			jit_jump_learn(c, 0, &b, true);
		}
		for (unsigned n = 0; n < JIT_FAR; n++) {
			int slot = jit_far_slot(j, rip_of(n), 0);
			assert_in_range(slot, 0, JIT_FAR - 1);
			assert_ptr_equal(c->jit.far[slot], FAR_MISS);
		}
	}
	pthread_join(thread, NULL);
	free(j->far_hash);
	free(j);
	free(c);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slot_leads_to_its_own_target),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
