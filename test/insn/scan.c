/* Repeated SCAS and CMPS over page ends, in both tiers against a model: each size, REPE and REPNE,
 * places where the comparison ends at, before and behind a page's end, counts of 0 and ones that
 * end there, a page that is not mapped; and all flags behind it, also where none are looked at
 * before. Prints TAP.
 *
 * Usage: scan [--count N] [--seed S] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"
#include "test/insn/gen.h"

#define RAM 0x400000u
#define TABLES 0x1000u
#define CODE 0x10000u
#define DATA 0x100000u /* PAGES pages, behind which none is mapped */
#define PAGES 4u
#define STACK 0x90000u
#define FLAGS RFLAGS_ARITH

struct scan {
	bool cmps, repne, carry;
	unsigned size;
	uint64_t rax, rcx, rsi, rdi;
};

struct result {
	bool fault;
	uint64_t rcx, rsi, rdi, flags;
};

static const uint8_t opcodes[2][2] = {{0xae, 0xa6}, {0xaf, 0xa7}};

/* stc or clc; the instruction; pushfq; hlt. Each at a place of its own, as nothing tells the engine
 * that code has been written. */
static uint64_t write_code(uint8_t *ram, const struct scan *s) {
	uint64_t at = CODE + 64 * (s->size * 8 + s->cmps * 4u + s->repne * 2u + s->carry);
	uint8_t *p = ram + at;
	*p++ = s->carry ? 0xf9 : 0xf8;
	*p++ = s->repne ? 0xf2 : 0xf3;
	if (s->size == 2)
		*p++ = 0x66;
	if (s->size == 8)
		*p++ = 0x48;
	*p++ = opcodes[s->size > 1][s->cmps];
	*p++ = 0x9c;
	*p = 0xf4;
	return at;
}

static uint64_t load(const uint8_t *p, unsigned size) {
	uint64_t v = 0;
	memcpy(&v, p, size);
	return v;
}

static uint64_t compare_flags(uint64_t a, uint64_t b, unsigned size) {
	uint64_t top = 1ull << (8 * size - 1), d = (a - b) & (top | (top - 1)), f = 0;
	f |= a < b ? RFLAGS_CF : 0;
	f |= d ? 0 : RFLAGS_ZF;
	f |= d & top ? RFLAGS_SF : 0;
	f |= (a ^ b) & (a ^ d) & top ? RFLAGS_OF : 0;
	f |= (a ^ b ^ d) & 16 ? RFLAGS_AF : 0;
	return f | (__builtin_parity(d & 0xff) ? 0 : RFLAGS_PF);
}

static bool mapped(uint64_t at, unsigned size) {
	return at >= DATA && at + size <= DATA + PAGES * PAGE_SIZE;
}

/* `before`: flags that stay if there is nothing to do. */
static struct result model(const uint8_t *ram, const struct scan *s, uint64_t before) {
	struct result r = {.rcx = s->rcx, .rsi = s->rsi, .rdi = s->rdi, .flags = before};
	while (r.rcx) {
		if (!mapped(r.rdi, s->size) || (s->cmps && !mapped(r.rsi, s->size))) {
			r.fault = true;
			return r;
		}
		uint64_t a = s->cmps ? load(ram + r.rsi, s->size) : load((uint8_t *)&s->rax, s->size);
		uint64_t b = load(ram + r.rdi, s->size);
		r.flags = compare_flags(a, b, s->size);
		r.rcx--;
		r.rdi += s->size;
		r.rsi += s->cmps ? s->size : 0;
		if ((a == b) == s->repne)
			break;
	}
	return r;
}

static bool same(const struct result *a, const struct result *b) {
	return a->fault == b->fault && a->rcx == b->rcx && a->rsi == b->rsi && a->rdi == b->rdi &&
		   a->flags == b->flags;
}

static void make(struct bench_vm *b, const char *tier) {
	bench_vm_create(b, RAM, tier);
	bench_vm_put64(b, TABLES, (TABLES + 0x1000) | 3);
	bench_vm_put64(b, TABLES + 0x1000, (TABLES + 0x2000) | 3);
	bench_vm_put64(b, TABLES + 0x2000, (TABLES + 0x3000) | 3);
	for (uint64_t n = 0; n < (DATA >> 12) + PAGES; n++)
		bench_vm_put64(b, TABLES + 0x3000 + 8 * n, n << 12 | 3);
}

static struct result run(struct bench_vm *b, const struct scan *s) {
	struct x86_state *x = &b->cpu->state;
	bench_vm_long_mode(b, TABLES, write_code(b->ram, s));
	x->gpr[RAX] = s->rax;
	x->gpr[RCX] = s->rcx;
	x->gpr[RSI] = s->rsi;
	x->gpr[RDI] = s->rdi;
	x->gpr[RSP] = STACK;
	/* A fault finds no IDT: shutdown, with the registers as they were. */
	bool fault = bench_vm_run(b) == EXIT_SHUTDOWN;
	return (struct result){fault, x->gpr[RCX], x->gpr[RSI], x->gpr[RDI],
						   fault ? 0 : load(b->ram + STACK - 8, 8) & FLAGS};
}

/* Somewhere near a page's end, and maybe near the end of all. */
static uint64_t place(unsigned size) {
	uint64_t page = DATA + PAGE_SIZE * (1 + gen_below(PAGES)), back = gen_below(40);
	return gen_below(4) ? page - back * (gen_below(2) ? size : 1) : DATA + gen_below(PAGE_SIZE);
}

static struct scan any(struct bench_vm *vms) {
	struct scan s = {.cmps = gen_below(2),
					 .repne = gen_below(2),
					 .carry = gen_below(2),
					 .size = 1u << gen_below(4)};
	s.rdi = place(s.size);
	s.rsi = place(s.size);
	uint32_t how = gen_below(4);
	s.rcx = how == 0 ? gen_below(3) : how == 1 ? ~0ull >> 4 : gen_below(60);
	/* All the same or all different, but for one place. */
	s.rax = gen_below(2) ? 0x0101010101010101 : 0x8002030405060708;
	uint64_t odd = DATA + (s.rdi - DATA + gen_below(80)) % (PAGES * PAGE_SIZE);
	for (unsigned v = 0; v < 2; v++) {
		uint8_t *ram = vms[v].ram;
		memset(ram + DATA, 1, PAGES * PAGE_SIZE);
		ram[odd] = (uint8_t)(s.carry ? 2 : 0x81);
		if (s.repne && s.cmps) /* differ from place to place */
			for (unsigned n = 0; n < PAGES * PAGE_SIZE; n++)
				ram[DATA + n] = (uint8_t)(n * 7 + (n >> 8));
	}
	return s;
}

int main(int argc, char **argv) {
	static const char *const tiers[] = {"interp", "jit"};
	uint32_t count = 4000;
	struct bench_vm vms[2];
	unsigned failed[2] = {0}, faults = 0;
	gen_seed = 0x9e3779b97f4a7c15ull;
	for (int n = 1; n + 1 < argc; n += 2) {
		if (!strcmp(argv[n], "--count"))
			count = (uint32_t)strtoul(argv[n + 1], NULL, 0);
		else if (!strcmp(argv[n], "--seed"))
			gen_seed = strtoul(argv[n + 1], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
	}
	printf("1..2\n");
	for (unsigned v = 0; v < 2; v++)
		make(&vms[v], tiers[v]);
	for (uint32_t n = 0; n < count; n++) {
		struct scan s = any(vms);
		for (unsigned v = 0; v < 2; v++) {
			struct result got = run(&vms[v], &s);
			uint64_t before = (got.flags & (FLAGS & ~RFLAGS_CF)) | (s.carry ? RFLAGS_CF : 0);
			struct result want = model(vms[v].ram, &s, before);
			faults += v && want.fault;
			if (want.fault)
				want.flags = 0;
			if (same(&got, &want) || failed[v]++)
				continue;
			printf("# %s: %s %s size %u rax %lx rcx %lx rsi %lx rdi %lx carry %d\n", tiers[v],
				   s.repne ? "repne" : "repe", s.cmps ? "cmps" : "scas", s.size, s.rax, s.rcx,
				   s.rsi, s.rdi, s.carry);
			printf("# fault %d rcx %lx rsi %lx rdi %lx flags %lx, not %d %lx %lx %lx %lx\n",
				   got.fault, got.rcx, got.rsi, got.rdi, got.flags, want.fault, want.rcx, want.rsi,
				   want.rdi, want.flags);
		}
	}
	for (unsigned v = 0; v < 2; v++)
		printf("%sok %u - repeated comparisons, %s\n", failed[v] ? "not " : "", v + 1, tiers[v]);
	printf("# %u cases, %u of them faults\n", count, faults);
	for (unsigned v = 0; v < 2; v++)
		bench_vm_destroy(&vms[v]);
	return failed[0] || failed[1];
}
