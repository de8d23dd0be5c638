/* Code that changes itself on one processor: what is stored is what runs next, also within one
 * block, through another mapping, and across pages. [SDM3 8.1.3, 11.6] */
#include "test/guest/guest.h"

extern volatile u64 pml4[512];
static volatile u64 pdpt1[512] __attribute__((aligned(4096)));
static volatile u64 pd1[512] __attribute__((aligned(4096)));
static volatile u64 pt1[512] __attribute__((aligned(4096)));
static volatile u8 page[8192] __attribute__((aligned(4096)));
static volatile u8 seconds[8192] __attribute__((aligned(4096)));

static u32 call(volatile u8 *at) {
	u32 r;
	asm volatile("call *%1" : "=a"(r) : "r"(at) : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
	return r;
}

static void put(volatile u8 *at, const u8 *code, unsigned n) {
	for (unsigned i = 0; i < n; i++)
		at[i] = code[i];
}

/* Pages of code that are mapped now here, now there: each is called through a register, and by a
 * direct jump from another page. `flags`: of their entries. Wrong answers. */
#define MANY 24
static u32 remapped_among_many(u64 flags) {
	static volatile u8 frames[3 * 4096] __attribute__((aligned(4096)));
	volatile u8 *at = (u8 *)0x8000000000 + 16 * 4096, *jumps = at + MANY * 4096;
	u8 code[] = {0xb8, 1, 0, 0, 0, 0xc3}; /* mov $1, %eax; ret */
	u32 seed = 1, bad = 0, shown[MANY] = {0};
	put(frames, code, 6);
	code[1] = 2;
	put(frames + 4096, code, 6);
	pt1[16 + MANY] = (u64)(frames + 2 * 4096) | 3;
	for (u32 n = 0; n < MANY; n++) {
		volatile u8 *jump = frames + 2 * 4096 + 8 * n;
		jump[0] = 0xe9;
		*(volatile u32 *)(jump + 1) = (u32)(at + 4096 * n - (jumps + 8 * n + 5));
		pt1[16 + n] = (u64)frames | flags;
		asm volatile("invlpg (%0)" : : "r"(at + 4096 * n) : "memory");
	}
	for (u32 step = 0; step < 3000; step++) {
		seed = seed * 1664525 + 1013904223;
		u32 n = (seed >> 16) % MANY;
		shown[n] ^= 1;
		pt1[16 + n] = (u64)(frames + 4096 * shown[n]) | flags;
		asm volatile("invlpg (%0)" : : "r"(at + 4096 * n) : "memory");
		for (u32 k = 0; k < 3; k++, n = (n + 7) % MANY) {
			bad += call(at + 4096 * n) != 1 + shown[n];
			bad += call(jumps + 8 * n) != 1 + shown[n];
		}
	}
	return bad;
}

void guest(void) {
	u32 r;
	/* The very next instruction: MOV imm is patched by the one before it. */
	asm volatile("movl $7, 1f + 1(%%rip)\n 1: mov $5, %%eax" : "=a"(r) : : "memory");
	check("the next instruction", r, 7);
	asm volatile("movb $0x90, 1f(%%rip)\n movb $0x90, 1f + 1(%%rip)\n xor %%eax, %%eax\n"
				 "1: inc %%eax\n nop"
				 : "=a"(r)
				 :
				 : "memory", "cc");
	check("removed just ahead", r, 0);
	/* A loop that patches its own body: adds 1, then 2, then 3 ... */
	asm volatile("xor %%eax, %%eax\n mov $10, %%ecx\n"
				 "1: .byte 0x05, 1, 0, 0, 0\n" /* add $1, %eax */
				 "incl 1b + 1(%%rip)\n loop 1b"
				 : "=a"(r)
				 :
				 : "rcx", "memory", "cc");
	check("a loop body", r, 55);
	/* A branch that is turned around. */
	asm volatile("xor %%eax, %%eax\n movb $0x75, 1f(%%rip)\n test %%eax, %%eax\n"
				 "1: jz 2f\n mov $1, %%eax\n 2: nop"
				 : "=a"(r)
				 :
				 : "memory", "cc");
	check("JZ becomes JNZ", r, 1);
	/* REP STOS over the code that follows: two-byte NOPs over two INCs. */
	asm volatile("lea 1f(%%rip), %%rdi\n mov $4, %%ecx\n mov $0x90, %%al\n rep stosb\n"
				 "xor %%eax, %%eax\n 1: inc %%eax\n inc %%eax\n"
				 : "=a"(r)
				 :
				 : "rcx", "rdi", "memory", "cc");
	check("REP STOS over what follows", r, 0);

	static const u8 one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
	put(page, one, 6);
	check("new code", call(page), 1);
	put(page, two, 6);
	check("rewritten", call(page), 2);
	for (u32 i = 0, bad = 0; i < 300; i++) {
		*(volatile u32 *)(page + 1) = i;
		bad += call(page) != i;
		if (i == 299)
			check("300 times", bad, 0);
	}
	/* Across a page boundary, either half. */
	put(page + 4094, one, 6);
	check("code across pages", call(page + 4094), 1);
	page[4095] = 9;
	check("its first half", call(page + 4094), 9);
	*(volatile u8 *)(page + 4096) = 1;
	check("its second half", call(page + 4094), 0x109);

	/* Two mappings of one page: written through one, run through the other. */
	pml4[1] = (u64)pdpt1 | 7;
	pdpt1[0] = (u64)pd1 | 7;
	pd1[0] = (u64)pt1 | 7;
	pt1[0] = (u64)page | 7;
	pt1[1] = (u64)page | 7;
	pt1[2] = (u64)(page + 4096) | 7;
	volatile u8 *alias0 = (u8 *)0x8000000000, *alias1 = alias0 + 4096;
	put(alias0, one, 6);
	check("alias", call(alias1), 1);
	put(alias0, two, 6);
	check("alias rewritten", call(alias1), 2);
	put(page, one, 6);
	check("and through the identity", call(alias1), 1);

	/* The same address shows another page. */
	put(page + 4096, two, 6);
	pt1[1] = (u64)(page + 4096) | 7;
	asm volatile("invlpg (%0)" : : "r"(alias1) : "memory");
	check("remapped", call(alias1), 2);
	pt1[1] = (u64)page | 7;
	set_cr3(get_cr3());
	check("and back", call(alias1), 1);

	/* An instruction across two pages, of which the second one is another, by a jump from the
	 * first. */
	static const u8 first[] = {0x90, 0xb8, 1}; /* nop; mov $.. */
	volatile u8 *across = alias0 + 3 * 4096 + 4093;
	put(page + 4093, first, 3);
	seconds[3] = seconds[4096 + 3] = 0xc3;
	seconds[4096] = 1;
	pt1[3] = (u64)page | 7;
	pt1[4] = (u64)seconds | 7;
	for (u32 i = 0; i < 9; i++)
		r = call(across);
	check("across two mappings", r, 1);
	pt1[4] = (u64)(seconds + 4096) | 7;
	asm volatile("invlpg (%0)" : : "r"(across + 3) : "memory");
	check("the second one remapped", call(across), 0x101);
	pt1[4] = (u64)seconds | 7;
	set_cr3(get_cr3());
	check("and with CR3", call(across), 1);
	seconds[0] = 2;
	check("rewritten there", call(across), 0x201);
	page[4095] = 5;
	check("rewritten before", call(across), 0x205);

	/* A CALL whose return address was patched over meanwhile, and code on the stack. */
	static const u8 patcher[] = {0x48, 0x8b, 0x04, 0x24, /* mov (%rsp), %rax */
								 0xc6, 0x40, 0x01, 0x42, /* movb $0x42, 1(%rax) */
								 0xc3};
	put(page, patcher, sizeof(patcher));
	asm volatile("call *%1\n mov $1, %%al\n movzbl %%al, %%eax" : "=a"(r) : "r"(page) : "memory");
	check("the caller's next instruction", r, 0x42);
	u8 on_stack[] = {0xb8, 0x33, 0, 0, 0, 0xc3};
	check("code on the stack", call(on_stack), 0x33);
	on_stack[1] = 0x34;
	barrier();
	check("changed there", call(on_stack), 0x34);
	check("remapped among many", remapped_among_many(7), 0);
	u64 cr4 = get_cr4();
	set_cr4(cr4 | 0x80); /* PGE */
	check("and global ones", remapped_among_many(0x107), 0);
	set_cr4(cr4);
}
