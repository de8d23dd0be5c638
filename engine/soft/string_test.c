/* String instructions by the page against the same element by element. */
#include "core/base/bits.h"
#include "engine/soft/system_fake.h"

/* String instructions by the page do what they do element by element. */
#define STRINGS 0x80000
#define STRINGS_LEN 0x40000

static uint64_t next_random(uint64_t *x) {
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void run_string(soft_handler *h, bool by_element) {
	uint64_t start;
	do {
		start = s->rip;
		c->single_step = by_element;
		assert_true(try_op(h));
	} while (s->rip == start);
	c->single_step = false;
}

static void strings_by_the_page(void **unused) {
	static soft_handler *const ops[] = {op_movs, op_stos, op_lods, op_scas, op_cmps};
	static uint8_t before[STRINGS_LEN], after[STRINGS_LEN];
	uint64_t x = 88172645463325252ull;
	enter_long(0);
	for (unsigned n = 0; n < 2000; n++) {
		soft_handler *h = ops[next_random(&x) % ARRAY_LEN(ops)];
		uint8_t *m = ram.host + STRINGS;
		/* Long stretches of the same, so that comparisons get somewhere. */
		for (unsigned k = 0; k < STRINGS_LEN; k += 8)
			put(STRINGS + k, 8, n % 4 ? 0x4141414141414141ull : 0);
		for (unsigned k = 0; k < 12; k++)
			m[next_random(&x) % STRINGS_LEN] ^= 1;
		insn.opsize = (uint8_t)(1u << next_random(&x) % 4);
		insn.prefix = next_random(&x) % 3 ? X86_PFX_REP : X86_PFX_REPNE;
		insn.seg_prefix = X86_REG_NONE;
		uint64_t rflags = RFLAGS_FIXED | (next_random(&x) & (RFLAGS_DF | RFLAGS_ARITH));
		uint64_t gpr[16] = {0};
		memcpy(gpr, s->gpr, sizeof(gpr));
		gpr[RAX] = next_random(&x) % 4 ? 0x4141414141414141ull : next_random(&x);
		gpr[RCX] = next_random(&x) % 9000;
		gpr[RSI] = STRINGS + STRINGS_LEN / 2 + next_random(&x) % 256;
		gpr[RDI] = STRINGS + STRINGS_LEN / 2 + next_random(&x) % (n % 2 ? 64 : 0x9000);
		gpr[RCX] = MIN(gpr[RCX], (STRINGS_LEN / 2 - 0xa000) / insn.opsize);
		memcpy(before, m, STRINGS_LEN);

		struct x86_state want = *s;
		for (unsigned by_element = 2; by_element-- > 0;) {
			memcpy(m, before, STRINGS_LEN);
			memcpy(s->gpr, gpr, sizeof(gpr));
			s->rflags = rflags;
			s->rip = 0x4000;
			run_string(h, by_element);
			if (by_element) {
				memcpy(after, m, STRINGS_LEN);
				want = *s;
			}
		}
		assert_memory_equal(m, after, STRINGS_LEN);
		assert_memory_equal(s->gpr, want.gpr, sizeof(want.gpr));
		assert_true(s->rflags == want.rflags);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		T(strings_by_the_page),
	};
	return cmocka_run_group_tests_name("soft_string", tests, NULL, NULL);
}
