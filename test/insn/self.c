/* Guests that rewrite their own code again and again: what comes out is right, and what it costs is
 * counted. Nothing here is about time.
 *
 * Each program runs ROUNDS times around a loop with a store into code and then that code; what it
 * sums up is compared with what it must be. Then the counters: how many blocks were translated and
 * how many killed, which stops the world. Without self-checking blocks (JOIST_SOFT_OFF=self) both
 * are about one a round, which is shown, too, so that the test sees the difference.
 *
 * Usage: self [--verbose] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define RAM 0x100000u
#define CODE 0x10000u
#define TABLES 0x1000u
#define ROUNDS 20000u

/* RCX counts down; RAX is the sum. All begin at a line's beginning. */
__asm__(".pushsection .rodata\n"
		".balign 64\n"
		/* An immediate that takes four values in turn. */
		"forms_code: 1: mov %ecx, %edx; and $3, %edx; mov %edx, 2f+2(%rip)\n"
		"2:	.byte 0x48, 0x05, 0, 0, 0, 0; dec %ecx; jnz 1b; hlt\n"
		"forms_end: .balign 64\n"
		/* One that never is the same again. */
		"count_code: 1: mov %ecx, 2f+2(%rip)\n"
		"2:	.byte 0x48, 0x05, 0, 0, 0, 0; dec %ecx; jnz 1b; hlt\n"
		"count_end: .balign 64\n"
		/* The same of MOV, and of CMP with a register that lives in memory. */
		"load_code: mov %ecx, %r10d\n"
		"1:	mov %r10d, 2f+2(%rip); mov %r10d, 3f+3(%rip); mov %r10d, 4f+3(%rip)\n"
		"2:	.byte 0x41, 0xbb, 0, 0, 0, 0\n"		  /* mov $.., %r11d */
		"3:	.byte 0x49, 0x81, 0xfb, 0, 0, 0, 0\n" /* cmp $.., %r11 */
		"	jne 5f\n"
		"4:	.byte 0x48, 0xc7, 0xc2, 0, 0, 0, 0\n" /* mov $.., %rdx */
		"	add %rdx, %rax; dec %r10d; jnz 1b; hlt\n"
		"5:	ud2\n"
		"load_end: .balign 64\n"
		/* A call that is turned to one of two functions, and flags that live across it. */
		"calls_code: 1: mov %ecx, %edx; and $1, %edx; shl $4, %edx; add $4f-3f, %edx\n"
		"	mov %edx, 2f+1(%rip); cmp $77, %edx; stc\n"
		"2:	.byte 0xe8, 0, 0, 0, 0\n"
		"3:	jnc 5f; dec %ecx; jnz 1b; hlt\n"
		"5:	ud2; .balign 16\n"
		"4:	lea 1(%rax), %rax; ret; .balign 16\n"
		"	lea 100(%rax), %rax; ret\n"
		"calls_end: .balign 64\n"
		/* Flags that only the new code reads: NOP or ADC behind a store. */
		"flags_code: 1: mov %ecx, %edx; and $1, %edx; mov forms(,%rdx,4), %esi\n"
		"	stc; mov %esi, 2f(%rip)\n"
		"2:	.byte 0x90, 0x90, 0x90, 0x90; dec %ecx; jnz 1b; hlt\n"
		"forms = 0x10000 + 9f - flags_code\n"
		".balign 4\n"
		"9:	.byte 0x90, 0x90, 0x90, 0x90, 0x48, 0x83, 0xd0, 0x00\n"
		"flags_end: .balign 64\n"
		/* Data beside code. */
		"data_code: xor %eax, %eax; 1: incq 3f(%rip); dec %ecx; jnz 1b; mov 3f(%rip), %rax; hlt\n"
		"3:	.quad 0\n"
		"data_end: .balign 64\n"
		/* 32 bits, without paging: four values; then ever new ones, of MOV and of ADD, which are
		 * loaded from the code. */
		".code32\n"
		"forms32_code: 1: mov %ecx, %edx; and $3, %edx; mov %edx, 0x10001 + 2f - forms32_code\n"
		"2:	.byte 0x05, 0, 0, 0, 0; dec %ecx; jnz 1b; hlt\n"
		"forms32_end: .balign 64\n"
		"load32_code: 1: mov %ecx, 0x10001 + 2f - load32_code\n"
		"	mov %ecx, 0x10002 + 3f - load32_code\n"
		"2:	.byte 0xba, 0, 0, 0, 0\n" /* mov $.., %edx */
		"	cmp %ecx, %edx; jne 4f\n"
		"3:	.byte 0x81, 0xc0, 0, 0, 0, 0\n" /* add $.., %eax */
		"	dec %ecx; jnz 1b; hlt\n"
		"4:	ud2\n"
		"load32_end: .balign 64\n"
		/* 16 bits in real mode: the same with DS = CS; immediates of 16 bits and of 32. */
		".code16\n"
		"forms16_code: 1: mov %cx, %dx; and $3, %dx; mov %dx, 1 + 2f - forms16_code\n"
		"2:	.byte 0x05, 0, 0; dec %cx; jnz 1b; hlt\n"
		"forms16_end: .balign 64\n"
		"load16_code: 1: mov %ecx, 2 + 2f - load16_code\n"
		"2:	.byte 0x66, 0x05, 0, 0, 0, 0; dec %cx; jnz 1b; hlt\n"
		"load16_end:\n"
		".code64\n"
		".popsection\n");
extern const uint8_t forms_code[], forms_end[], count_code[], count_end[], load_code[], load_end[],
	calls_code[], calls_end[], flags_code[], flags_end[], data_code[], data_end[], forms32_code[],
	forms32_end[], load32_code[], load32_end[], forms16_code[], forms16_end[], load16_code[],
	load16_end[];

static struct counters { uint64_t blocks, killed, self, misses; } counted;

static void take(void *out, const char *name, uint64_t val) {
	struct counters *c = out;
	if (!strcmp(name, "translated_blocks"))
		c->blocks = val;
	else if (!strcmp(name, "blocks_invalidated"))
		c->killed = val;
	else if (!strcmp(name, "self_checking_blocks"))
		c->self = val;
	else if (!strcmp(name, "self_checking_misses"))
		c->misses = val;
}

/* Flat segments of 32 bits without paging, or real mode with CS = DS = CODE >> 4. */
static void legacy(struct bench_vm *b, unsigned bits) {
	struct x86_state *s = &b->cpu->state;
	if (bits == 32) {
		s->cr0 = CR0_PE | CR0_ET | CR0_NE;
		s->seg[SEG_CS] = (struct x86_segment){8, 0xc09b, ~0u, 0};
		s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_ES] = (struct x86_segment){16, 0xc093, ~0u, 0};
		s->rip = CODE;
	} else {
		s->seg[SEG_CS].sel = s->seg[SEG_DS].sel = CODE >> 4;
		s->seg[SEG_CS].base = s->seg[SEG_DS].base = CODE;
		s->rip = 0;
	}
}

/* RAX at the end. `bits`: of the code. */
static uint64_t run(unsigned bits, const uint8_t *code, const uint8_t *end) {
	struct bench_vm b;
	bench_vm_create(&b, RAM, "jit");
	struct x86_state *s = &b.cpu->state;
	memcpy(b.ram + CODE, code, (size_t)(end - code));
	bench_vm_map_large(&b, TABLES, 1);
	if (bits == 64)
		bench_vm_long_mode(&b, TABLES, CODE);
	else
		legacy(&b, bits);
	s->gpr[RCX] = ROUNDS;
	s->gpr[RAX] = s->gpr[RDX] = 0;
	s->gpr[RSP] = bits == 16 ? 0x8000 : 0x80000;
	enum vm_exit_kind kind = bench_vm_run(&b);
	uint64_t sum = kind == EXIT_HALT ? s->gpr[RAX] : ~0ull;
	if (kind != EXIT_HALT)
		printf("# exit %d at %lx\n", kind, s->rip);
	memset(&counted, 0, sizeof(counted));
	b.engine.ops->stats(b.engine.self, take, &counted);
	bench_vm_destroy(&b);
	return sum;
}

static unsigned ntests, nfailed;

static void report(bool ok, const char *name, const char *what) {
	printf("%sok %u - %s, %s\n", ok ? "" : "not ", ++ntests, name, what);
	nfailed += !ok;
}

static void test(unsigned bits, const char *name, const uint8_t *code, const uint8_t *end,
				 uint64_t want, uint64_t most) {
	const char *off[] = {"self", "", "hot", "tier", "link", "jumps", "flags", "block", "tlb"};
	for (unsigned n = 0; n < sizeof(off) / sizeof(off[0]); n++) {
		setenv("JOIST_SOFT_OFF", off[n], 1);
		uint64_t got = run(bits, code, end);
		printf(
			"# %s, off %s: %lu blocks made (%lu check themselves), %lu killed, %lu interpreted\n",
			name, off[n], counted.blocks, counted.self, counted.killed, counted.misses);
		if (got != want)
			printf("# the sum is %lu and should be %lu\n", got, want);
		report(got == want, name, "right");
		if (!strcmp(off[n], "self") && most)
			report(counted.killed > ROUNDS / 2, name, "dear without");
		if (!*off[n] || !strcmp(off[n], "hot"))
			report(counted.blocks <= MAX(most, 100u) && counted.killed <= MAX(most, 100u), name,
				   "cheap");
	}
	unsetenv("JOIST_SOFT_OFF");
}

int main(void) {
	uint64_t sum = (uint64_t)ROUNDS * (ROUNDS + 1) / 2;
	test(64, "four forms", forms_code, forms_end, ROUNDS / 4 * 6, 100);
	test(64, "always another", count_code, count_end, sum, ROUNDS / 50);
	test(64, "always another loaded", load_code, load_end, sum, ROUNDS / 50);
	test(64, "calls", calls_code, calls_end, ROUNDS / 2 * 101, 100);
	test(64, "flags", flags_code, flags_end, ROUNDS / 2, 100);
	test(64, "data beside code", data_code, data_end, ROUNDS, 0);
	test(32, "32 bits, four forms", forms32_code, forms32_end, ROUNDS / 4 * 6, 100);
	test(32, "32 bits, always another", load32_code, load32_end, sum, ROUNDS / 50);
	test(16, "16 bits, four forms", forms16_code, forms16_end, ROUNDS / 4 * 6, 100);
	test(16, "16 bits, always another", load16_code, load16_end, sum, ROUNDS / 50);
	printf("1..%u\n", ntests);
	return nfailed != 0;
}
