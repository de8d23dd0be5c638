/* Blocks that are copied for another guest address (engine/soft/rebase.c). Code, random and this
 * program's own, is translated for one address, copied for another, and translated for that at the
 * very place of the copy: both must be the same, byte for byte, but for where their links and
 * operations lie, which must be alike, too. The verifier looks at each. Then a guest that has one
 * page at several addresses runs the copies.
 *
 * Usage: rebase [--pages N] [--seed N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "engine/soft/jit.h"
#include "test/insn/bench_vm.h"
#include "test/insn/gen.h"

#define KEY (JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX)
#define RAM (4u << 20)
#define CODE_MAX (64u << 10)

static struct bench_vm vm;
static struct jit *j;
static unsigned long copied, made, failed;

struct place {
	uint8_t *hot, *cold;
};

static void go_to(const struct place *p) {
	j->hot = p->hot;
	j->cold = p->cold;
}

/* Where the copy's and the other's pointer at a fixup lead: what differs, or NULL. */
static const char *differ_behind(const struct jit_fixup *f, const uint8_t *a, const uint8_t *b) {
	void *x, *y;
	memcpy(&x, a, 8);
	memcpy(&y, b, 8);
	if (f->kind == FIX_OP) {
		const struct jit_op *p = x, *q = y;
		return p->handler == q->handler && p->rip == q->rip && p->last == q->last &&
					   !memcmp(&p->insn, &q->insn, sizeof(p->insn))
				   ? NULL
				   : "an operation";
	}
	const struct jit_link *p = x, *q = y;
	return p->rip == q->rip && p->host == q->host && p->patch == q->patch && p->stub == q->stub &&
				   p->plain == q->plain && !p->to && !p->changed
			   ? NULL
			   : "a link";
}

static const char *differ(const struct jit_block *a, const uint8_t *hot, const uint8_t *cold,
						  const struct jit_block *b) {
	static uint8_t part[2][CODE_MAX];
	if (a->rip != b->rip || a->key != b->key || a->len != b->len || a->host != b->host)
		return "the block";
	if (a->peek_from != b->peek_from || a->peek_to != b->peek_to)
		return "what it depends on";
	if (a->hot_len != b->hot_len || a->cold_len != b->cold_len || a->entry != b->entry ||
		a->entry_checked != b->entry_checked || a->hot != b->hot || a->cold != b->cold)
		return "its place";
	if (a->nfixups != b->nfixups || memcmp(a->fixups, b->fixups, b->nfixups * sizeof(b->fixups[0])))
		return "its fixups";
	memcpy(part[0], hot, a->hot_len);
	memcpy(part[1], cold, a->cold_len);
	for (uint32_t n = 0; n < b->nfixups; n++) {
		const struct jit_fixup *f = &b->fixups[n];
		if (f->kind != FIX_OP && f->kind != FIX_LINK)
			continue;
		uint8_t *x = part[f->cold] + f->at;
		const uint8_t *y = (f->cold ? b->cold : b->hot) + f->at;
		const char *what = differ_behind(f, x, y);
		if (what)
			return what;
		memcpy(x, y, 8);
	}
	return memcmp(part[0], b->hot, b->hot_len)	   ? "its code"
		   : memcmp(part[1], b->cold, b->cold_len) ? "its code out of line"
												   : NULL;
}

static uint64_t random_base(void) {
	uint64_t high = gen_below(4) ? 0x7f0000000000ull : 1ull << 33;
	return high + ((uint64_t)gen_below(1u << 20) << 12);
}

/* The block at RAM offset `at`; gives its length. */
static unsigned one(uint32_t at) {
	static uint8_t hot[CODE_MAX], cold[CODE_MAX];
	struct soft_vcpu *c = vm.cpu->engine;
	const uint8_t *host = vm.ram + at;
	uint64_t off = at & PAGE_MASK, from = random_base() + off, to = random_base() + off;
	const struct jit_block *first = jit_translate(c, host, NULL, from, KEY, false);
	made++;
	if (!first)
		return 1;
	struct place place = {j->hot, j->cold};
	const struct jit_block *copy = jit_rebase(j, host, to, KEY);
	if (!copy) /* what depends on its address in other ways; or no more slots for far targets */
		return MAX(first->len, 1);
	copied++;
	memcpy(hot, copy->hot, copy->hot_len);
	memcpy(cold, copy->cold, copy->cold_len);
	go_to(&place);
	const struct jit_block *other = jit_translate(c, host, NULL, to, KEY, false);
	const char *what = !other ? "whether there is one" : differ(copy, hot, cold, other);
	if (what && failed++ < 10) {
		printf("# the copy of the block at %llx for %llx differs in %s:", (unsigned long long)from,
			   (unsigned long long)to, what);
		for (unsigned n = 0; n < first->len; n++)
			printf(" %02x", host[n]);
		printf("\n");
	}
	return MAX(first->len, 1);
}

static void ok(unsigned n, bool good, const char *what) {
	printf("%sok %u - %s: %lu of %lu blocks copied, %lu differ\n", good ? "" : "not ", n, what,
		   copied, made, failed);
}

static void all_of(uint32_t pages) {
	copied = made = failed = 0;
	jit_flush_all(j);
	for (uint32_t at = 0; at < pages * PAGE_SIZE;) {
		if (j->hot + (1u << 16) > j->hot_end || j->cold + (1u << 16) > j->cold_end ||
			j->arena_at + (1u << 18) > j->arena_end)
			jit_flush_all(j);
		at += one(at);
	}
}

/* Streams of instructions, each followed by the next. */
static void fill_random(void) {
	for (uint32_t at = 0; at < RAM - 16;) {
		uint8_t b[16];
		struct x86_insn i;
		gen_bytes(b, true);
		int len = x86_decode(&i, b, 15, X86_MODE_64);
		if (len <= 0)
			continue;
		if (i.mem && gen_below(3) == 0 && i.disp_len == 4)
			b[i.disp_off + 3] = (uint8_t)(0 - gen_below(2)); /* RIP-relative ones nearby, too */
		memcpy(vm.ram + at, b, (size_t)len);
		at += (uint32_t)len;
	}
}

/* Code of ours, as the compiler makes it. */
static uint32_t fill_own(void) {
	uintptr_t start = (uintptr_t)&jit_translate & ~(uintptr_t)PAGE_MASK;
	uint32_t pages = 12;
	memcpy(vm.ram, (const void *)start, pages * PAGE_SIZE);
	return pages;
}

/* ---- a guest that has the same pages at many addresses -------------------------------------- */

/* In user mode, to be entered at each of RCX places, RSI apart: addresses in code, data beside it,
 * a call within the page and one to the next, what they push, and back. RAX sums up. */
__asm__(".pushsection .rodata\n"
		".balign 4096\n"
		"many_code: incq many_data(%rip)\n"
		"	lea many_code(%rip), %rdx; add %rdx, %rax; rol %rax\n"
		"	call 1f; call 3f\n"
		"	add many_data(%rip), %rax\n"
		"	dec %ecx; jz 2f\n"
		"	lea many_code(%rip), %rbx; add %rsi, %rbx; jmp *%rbx\n"
		"1:	mov (%rsp), %rdx; xor %rdx, %rax; rol %rax; ret\n"
		"2:	hlt\n" /* #GP, and no IDT */
		".balign 4096\n"
		"3:	mov (%rsp), %rdx; sub %rdx, %rax; test %edx, %edx; jns 4f; xor $1, %rax; jmp 1b\n"
		"4:	jmp 1b\n"
		".balign 4096\n"
		"many_data: .quad 0\n"
		".balign 4096\n"
		".popsection\n");
extern const uint8_t many_code[];

#define PLACES 100u
#define CODE 0x10000u /* three pages, and one for the stack */
#define TABLES 0x20000u
#define BASE 0x7f1234400000ull
#define USER 7u /* present, writable, user's */

static uint64_t many(const char *tier, uint64_t *rebased) {
	struct bench_vm b;
	bench_vm_create(&b, 1 << 20, tier);
	memcpy(b.ram + CODE, many_code, 3 * PAGE_SIZE);
	bench_vm_put64(&b, TABLES + 8 * (BASE >> 39 & 511), (TABLES + 0x1000) | USER);
	bench_vm_put64(&b, TABLES + 0x1000 + 8 * (BASE >> 30 & 511), (TABLES + 0x2000) | USER);
	bench_vm_put64(&b, TABLES + 0x2000 + 8 * (BASE >> 21 & 511), (TABLES + 0x3000) | USER);
	for (unsigned n = 0; n < 4 * PLACES; n++)
		bench_vm_put64(&b, TABLES + 0x3000 + 8 * n, (CODE + n % 4 * PAGE_SIZE) | USER);
	bench_vm_long_mode(&b, TABLES, BASE);
	struct x86_state *s = &b.cpu->state;
	s->seg[SEG_CS].attr |= 3 << 5;
	s->seg[SEG_SS].attr |= 3 << 5;
	s->gpr[RAX] = 0;
	s->gpr[RCX] = PLACES;
	s->gpr[RSI] = 4 * PAGE_SIZE;
	s->gpr[RSP] = BASE + 4 * PAGE_SIZE;
	uint64_t sum = bench_vm_run(&b) == EXIT_SHUTDOWN && !s->gpr[RCX] ? s->gpr[RAX] : 0;
	*rebased = bench_vm_stat(&b, "rebased_blocks");
	bench_vm_destroy(&b);
	return sum;
}

int main(int argc, char **argv) {
	uint32_t pages = 200;
	gen_seed = 0x9e3779b97f4a7c15ull;
	for (int n = 1; n + 1 < argc; n += 2) {
		if (!strcmp(argv[n], "--pages"))
			pages = (uint32_t)strtoul(argv[n + 1], NULL, 0);
		else if (!strcmp(argv[n], "--seed"))
			gen_seed = strtoul(argv[n + 1], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
	}
	unsetenv("JOIST_SOFT_OFF");
	setenv("JOIST_SOFT_VERIFY", "1", 1);
	bench_vm_create(&vm, RAM, "jit");
	j = ((struct soft_vcpu *)vm.cpu->engine)->soft->jit;
	printf("1..4\n");
	fill_random();
	all_of(MIN(pages, RAM / PAGE_SIZE - 1));
	bool good = !failed && copied > made / 2;
	ok(1, good, "random code");
	uint32_t own = fill_own();
	all_of(own);
	bool good2 = !failed && copied > made / 2;
	ok(2, good2, "our own code");
	const uint8_t *host = vm.ram;
	bool before = jit_translate(vm.cpu->engine, host, NULL, random_base(), KEY, false) &&
				  jit_rebase(j, host, random_base(), KEY);
	jit_trim(j);
	bool good4 = before && !jit_rebase(j, host, random_base(), KEY);
	printf("%sok 3 - nothing is copied from a cache that was given back\n", good4 ? "" : "not ");
	bench_vm_destroy(&vm);
	uint64_t none, rebased, want = many("interp", &none), got = many("jit", &rebased);
	bool good3 = want && got == want && rebased > 6 * PLACES;
	printf("%sok 4 - a guest with %u copies: %llu blocks copied, RAX %llx and %llx\n",
		   good3 ? "" : "not ", PLACES, (unsigned long long)rebased, (unsigned long long)got,
		   (unsigned long long)want);
	return good && good2 && good3 && good4 ? 0 : 1;
}
