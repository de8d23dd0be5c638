/* Which pages the guest wrote: a copy of its memory that is kept up to date by the bitmap of
 * mem_track() alone must be equal to the memory each time the guest is stopped, with any way of
 * writing: plain stores, across pages, PUSH, locked, REP STOS, into its own code, into page tables
 * by the page walk. The guest never ends; it is stopped by kicks that come at any time. Then
 * tracking is switched off, and on again while translations are warm; at last a device comes and
 * goes in the middle of the memory while the guest runs. Prints TAP.
 *
 *     dirty [--tier jit|interp|kvm] [--rounds N] [--seed N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/regs.h"
#include "test/insn/kicks.h"

#define CODE 0x1000u
#define TABLES 0x10000u /* PML4, PDPT, PD, three PTs */
#define RAM (6u << 20)
#define PAGES (RAM / PAGE_SIZE)
#define DATA 0x200000u
#define WINDOW 0x10000u /* a round's writes go to one of these */
#define WINDOWS 32u
#define OVERLAY 0x500000u /* a page of a device, now and then */
#define PORT 0x80		  /* makes it come and go */

/* RBX: random numbers; RBP: the window; R8: whether the port is used. */
__asm__(".pushsection .rodata\n"
		"guest_code:\n"
		"1:	mov %rbx, %rax; shl $13, %rax; xor %rax, %rbx\n"
		"	mov %rbx, %rax; shr $7, %rax; xor %rax, %rbx\n"
		"	mov %rbx, %rax; shl $17, %rax; xor %rax, %rbx\n"
		"	mov %rbx, %rdi; shr $16, %rdi; and $0xfffb, %edi; add %rbp, %rdi\n"
		"	mov %rbx, %rax; shr $8, %rax; and $7, %eax\n"
		"	cmp $1, %eax; je 3f; cmp $2, %eax; je 4f; cmp $3, %eax; je 5f\n"
		"	cmp $4, %eax; je 6f; cmp $5, %eax; je 7f; cmp $6, %eax; je 8f\n"
		"	mov %rbx, (%rdi); jmp 1b\n"
		"3:	lock xadd %rax, (%rdi); jmp 1b\n"
		"4:	lea 8(%rdi), %rsp; push %rbx; jmp 1b\n"
		"5:	mov %ebx, %ecx; and $0x1ff, %ecx; rep stosb; jmp 1b\n"
		"6:	mov %ebx, patched+1(%rip); jmp 1b\n"
		"8:	test %r8, %r8; je 1b; out %al, $0x80; jmp 1b\n"
		"7:	mov %bl, beside(%rip)\n"
		"patched: mov $0, %eax; jmp 1b\n"
		"	.balign 64\n"
		"beside: .byte 0\n"
		"guest_end:\n"
		".popsection\n");
extern const uint8_t guest_code[], guest_end[];

static struct bench_vm b;
static uint8_t copy[RAM], bitmap[PAGES / 8];
static uint64_t seed = 1;
static unsigned changes; /* of the map */
static struct kicks kicks = {.b = &b, .name = "dirty", .least_us = 20, .more_us = 400};

static uint64_t rng(void) {
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t no_read(void *dev, uint64_t off, unsigned size) {
	return 0;
}

static void no_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
}

static const struct io_ops overlay_ops = {no_read, no_write, 1, 8};
static struct mem_region overlay = {.name = "overlay",
									.base = OVERLAY,
									.size = PAGE_SIZE,
									.kind = MEM_MMIO,
									.priority = 1,
									.ops = &overlay_ops};

static void come_or_go(void *dev, uint64_t off, unsigned size, uint64_t val) {
	if (overlay.added)
		mem_remove(&b.vm.mem, &overlay);
	else
		mem_add(&b.vm.mem, &overlay);
	changes++;
}

static const struct io_ops port_ops = {no_read, come_or_go, 1, 1};
static struct port_region port = {.name = "port", .base = PORT, .size = 1, .ops = &port_ops};

static void prepare(void) {
	struct x86_state *s = &b.cpu->state;
	memcpy(b.ram + CODE, guest_code, (size_t)(guest_end - guest_code));
	bench_vm_put64(&b, TABLES, (TABLES + 0x1000) | 3);
	bench_vm_put64(&b, TABLES + 0x1000, (TABLES + 0x2000) | 3);
	for (unsigned n = 0; n < 3; n++)
		bench_vm_put64(&b, TABLES + 0x2000 + 8 * n, (TABLES + 0x3000 + n * 0x1000) | 3);
	for (unsigned n = 0; n < PAGES; n++)
		bench_vm_put64(&b, TABLES + 0x3000 + 8 * n, n * PAGE_SIZE | 3);
	bench_vm_long_mode(&b, TABLES, CODE);
	s->gpr[RBX] = seed | 1;
	port_add(&b.vm.mem, &port);
}

static void run(void) {
	/* Often the window of before, whose translations are there. */
	if (rng() % 3 == 0)
		b.cpu->state.gpr[RBP] = DATA + rng() % WINDOWS * WINDOW;
	/* A fresh look at the tables now and then, whose A and D bits are cleared. */
	if (rng() % 4 == 0) {
		unsigned n = DATA / PAGE_SIZE + (unsigned)(rng() % (WINDOWS * WINDOW / PAGE_SIZE));
		uint32_t at = TABLES + 0x3000 + 8 * n;
		b.ram[at] &= (uint8_t) ~(PTE_A | PTE_D);
		mem_written(&b.vm.mem, at, 8);
	}
	if (rng() % 8 == 0)
		mem_track(&b.vm.mem, b.vm.mem.dirty, PAGES); /* changes nothing */
	kicks_run(&kicks);
}

/* Brings the copy up to date; the pages that changed unseen. */
static unsigned harvest(unsigned *seen) {
	unsigned missed = 0;
	for (unsigned n = 0; n < PAGES; n++) {
		bool dirty = bitmap[n / 8] >> (n % 8) & 1;
		uint8_t *now = b.ram + n * PAGE_SIZE, *old = copy + n * PAGE_SIZE;
		*seen += dirty;
		if (!dirty && memcmp(now, old, PAGE_SIZE) != 0 && missed++ < 4)
			printf("# page %x changed unseen\n", n);
		memcpy(old, now, PAGE_SIZE);
	}
	memset(bitmap, 0, sizeof(bitmap));
	mem_track(&b.vm.mem, bitmap, PAGES);
	return missed;
}

int main(int argc, char **argv) {
	const char *tier = "jit";
	unsigned rounds = 300, missed = 0, seen = 0, idle = 0, again = 0, seen_again = 0, moved = 0;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--tier"))
			tier = argv[i + 1];
		else if (!strcmp(argv[i], "--rounds"))
			rounds = (unsigned)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 0) | 1;
	}
	/* Whatever its KVM cannot do, this it must. */
	if (!strcmp(tier, "kvm") && !bench_vm_has_kvm())
		return 0;
	bench_vm_create(&b, RAM, tier);
	prepare();
	b.cpu->state.gpr[RBP] = DATA;
	kicks_start(&kicks);
	run(); /* warm */
	memcpy(copy, b.ram, RAM);
	mem_track(&b.vm.mem, bitmap, PAGES);
	for (unsigned n = 0; n < rounds; n++) {
		run();
		missed += harvest(&seen);
	}
	mem_track(&b.vm.mem, NULL, 0);
	for (unsigned n = 0; n < 20; n++)
		run();
	for (unsigned n = 0; n < sizeof(bitmap); n++)
		idle += bitmap[n] != 0;
	memcpy(copy, b.ram, RAM);
	mem_track(&b.vm.mem, bitmap, PAGES);
	for (unsigned n = 0; n < 20; n++) {
		run();
		again += harvest(&seen_again);
	}
	b.cpu->state.gpr[R8] = 1;
	/* A slow processor does little in a round. */
	for (unsigned n = 0; n < rounds || (n < 100 * rounds && changes < 20); n++) {
		run();
		moved += harvest(&seen_again);
	}
	kicks_stop(&kicks);
	bench_vm_destroy(&b);
	/* A round writes a window of 16 pages, its code and its tables: not nearly everything. */
	bool few = seen && seen / rounds < PAGES / 8;
	printf("1..5\n%sok 1 - dirty-complete/%s\n", missed ? "not " : "", tier);
	printf("%sok 2 - dirty-precise/%s\n# %u pages in %u rounds\n", few ? "" : "not ", tier, seen,
		   rounds);
	printf("%sok 3 - dirty-off/%s\n", idle ? "not " : "", tier);
	printf("%sok 4 - dirty-on-again/%s\n", again || !seen_again ? "not " : "", tier);
	bool map = !moved && changes >= 20;
	printf("%sok 5 - dirty-map-changes/%s\n# %u changes\n", map ? "" : "not ", tier, changes);
	return missed || !few || idle || again || !seen_again || !map;
}
