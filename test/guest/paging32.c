/* Paging of 32-bit guests: two levels with and without 4 MiB pages, PAE. [SDM3 4.3, 4.4] */
#include "test/guest/guest.h"

#define P 1u
#define W 2u
#define U 4u
#define A 0x20u
#define D 0x40u
#define PS 0x80u
#define G 0x100u

static volatile u32 dir[1024] __attribute__((aligned(4096)));
static volatile u32 low[1024] __attribute__((aligned(4096)));
static volatile u32 table[1024] __attribute__((aligned(4096)));
static volatile u64 pae_dirs[4][512] __attribute__((aligned(4096)));
static volatile u64 pae_table[512] __attribute__((aligned(4096)));
static volatile u64 pdpt[4] __attribute__((aligned(32)));
static volatile u8 page_a[4096] __attribute__((aligned(4096)));
static volatile u8 page_b[4096] __attribute__((aligned(4096)));

#define VIRT 0x40000000u /* by `table` */
#define AT(n) (VIRT + (n)*4096u)
#define BIG 0x80000000u

#define READ "movb (%0), %%al"
#define WRITE "movb $1, (%0)"

static void flush(u32 at) {
	asm volatile("invlpg (%0)" : : "r"(at) : "memory");
}
static void map(unsigned n, volatile void *page, u32 bits) {
	table[n] = (u32)page | bits;
	flush(AT(n));
}
static u8 read8(u32 at) {
	return *(volatile u8 *)at;
}

static void user_read(void) {
	asm volatile("movb (%0), %%al\n int3" : : "r"(AT(1)) : "eax");
}
static void user_write(void) {
	asm volatile("movb $1, (%0)\n int3" : : "r"(AT(1)) : "eax");
}

static void two_levels(void) {
	for (unsigned i = 0; i < 1024; i++)
		low[i] = i << 12 | P | W | U;
	dir[0] = (u32)low | P | W | U;
	dir[VIRT >> 22] = (u32)table | P | W | U;
	set_cr3((u32)dir);
	set_cr0(get_cr0() | 0x80010000);
	page_a[0] = 0xaa;
	page_b[0] = 0xbb;
	FAULTS("not present", PF, 0, READ, "r"(AT(0)));
	check("CR2", trap.cr2, AT(0));
	FAULTS("no table", PF, PF_W, WRITE, "r"(BIG + 0x123));
	check("CR2 of a write", trap.cr2, BIG + 0x123);
	map(0, page_a, P | W);
	check("mapped", read8(AT(0)), 0xaa);
	check("A", table[0] & (A | D), A);
	check("A of the table", dir[VIRT >> 22] & A, A);
	*(volatile u8 *)(AT(0) + 1) = 1;
	check("D", table[0] & (A | D), A | D);
	map(0, page_b, P | W);
	check("INVLPG", read8(AT(0)), 0xbb);
	map(0, page_a, P);
	FAULTS("read-only, WP=1", PF, PF_P | PF_W, WRITE, "r"(AT(0)));
	set_cr0(get_cr0() & ~0x10000u);
	FAULTS("read-only, WP=0", NONE, 0, WRITE, "r"(AT(0)));
	page_a[0] = 0xaa;
	set_cr0(get_cr0() | 0x10000);
	idt[BP].attr |= GATE_DPL3;
	map(1, page_a, P | W);
	user(user_read, 2);
	check_trap("ring 3, supervisor page", PF, PF_P | PF_U);
	map(1, page_a, P | U);
	user(user_read, 2);
	check_trap("ring 3 reads", BP, 0);
	user(user_write, 2);
	check_trap("ring 3 writes read-only", PF, PF_P | PF_U | PF_W);
	map(1, page_a, P | W | U);
	dir[VIRT >> 22] &= ~W;
	flush(AT(1));
	user(user_write, 2);
	check_trap("R/W is of both levels", PF, PF_P | PF_U | PF_W);
	dir[VIRT >> 22] |= W;
	flush(AT(1));
	user(user_write, 2);
	check_trap("ring 3 writes", BP, 0);
	FAULTS("crossing into a missing page", PF, PF_W, "movl $1, (%0)", "r"(AT(2) - 2));
	check("CR2 is the second page", trap.cr2, AT(2));
}

static void large_pages(void) {
	page_a[0] = 0xaa;
	/* Without CR4.PSE bit 7 of a directory entry says nothing. */
	dir[BIG >> 22] = (u32)table | P | W | PS;
	check("PS without PSE is ignored", read8(BIG) == 0xaa && !(get_cr4() & 0x10), 1);
	set_cr4(get_cr4() | 0x10);
	dir[BIG >> 22] = 0 | P | W | PS;
	flush(BIG);
	check("4 MiB page", read8(BIG + (u32)page_b), 0xbb);
	check("A", dir[BIG >> 22] & (A | D), A);
	*(volatile u8 *)(BIG + (u32)page_b + 1) = 1;
	check("D", dir[BIG >> 22] & (A | D), A | D);
	dir[BIG >> 22] = 0x200000 | P | W | PS;
	flush(BIG);
	FAULTS("reserved bit", PF, PF_P | PF_R, READ, "r"(BIG));
	/* PSE-36: bits 13 and on are address bits 32 and on; nothing is there. */
	dir[BIG >> 22] = 0x2000 | P | W | PS;
	flush(BIG);
	FAULTS("PSE-36", NONE, 0, READ, "r"(BIG));
	check("nothing answers above 4 GiB", read8(BIG), 0xff);
	set_cr4(get_cr4() | 0x80);
	map(3, page_a, P | W | G);
	read8(AT(3));
	table[3] = (u32)page_b | P | W | G;
	set_cr4(get_cr4() ^ 0x80);
	check("changing PGE flushes global pages", read8(AT(3)), 0xbb);
}

static void pae(void) {
	set_cr0(get_cr0() & 0x7fffffff);
	FAULTS("paging is off", NONE, 0, READ, "r"(BIG));
	for (unsigned i = 0; i < 32; i++)
		pae_dirs[0][i] = (u64)i << 21 | P | W | U | PS;
	pae_dirs[1][0] = (u32)pae_table | P | W | U;
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] = (u32)pae_dirs[i] | P;
	set_cr3((u32)pdpt);
	set_cr4((get_cr4() & ~0x10u) | 0x20);
	pdpt[2] |= 2; /* reserved in an entry of PAE's first level */
	FAULTS("reserved bit in a PDPTE", GP, 0, "mov %0, %%cr0", "r"(get_cr0() | 0x80000000));
	pdpt[2] &= ~2ull;
	set_cr3((u32)pdpt);
	set_cr0(get_cr0() | 0x80000000);
	pae_table[0] = (u32)page_a | P | W;
	check("PAE, 4 KiB", read8(VIRT), 0xaa);
	check("A", pae_table[0] & (A | D), A);
	pae_dirs[1][1] = 0 | P | W | PS;
	check("2 MiB page without PSE",
		  read8(VIRT + 0x200000 + ((u32)page_b & 0x1fffff)) == 0xbb || (u32)page_b >= 0x200000, 1);
	FAULTS("not present", PF, 0, READ, "r"(VIRT + 0x1000));
	FAULTS("above 1 GiB", PF, PF_W, WRITE, "r"(0xc0000000));
	/* The four entries may be kept in the processor, until CR3 is loaded. */
	pdpt[1] = 0;
	set_cr3((u32)pdpt);
	FAULTS("an absent PDPTE", PF, 0, READ, "r"(VIRT));
	pdpt[1] = (u32)pae_dirs[1] | P;
	set_cr3((u32)pdpt);
	pdpt[3] |= 0x20;
	FAULTS("MOV CR3 checks PDPTEs", GP, 0, "mov %0, %%cr3", "r"(pdpt));
	pdpt[3] &= ~0x20ull;
	check("and leaves all as it was", read8(VIRT), 0xaa);
	pae_table[1] = 1ull << 62 | (u32)page_a | P;
	FAULTS("reserved bit 62", PF, PF_P | PF_R, READ, "r"(AT(1)));
	if (has(0x80000001, EDX, 20)) {
		page_a[0] = 0xc3;
		pae_table[2] = 1ull << 63 | (u32)page_a | P;
		FAULTS("NX without NXE is reserved", PF, PF_P | PF_R, READ, "r"(AT(2)));
		wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
		flush(AT(2));
		FAULTS("NX: fetch", PF, PF_P | PF_I, "call *%0", "r"(AT(2)));
		FAULTS("NX: read", NONE, 0, READ, "r"(AT(2)));
	} else {
		for (unsigned i = 0; i < 3; i++)
			skip("NX", "the CPU model has none");
	}
}

void guest(void) {
	two_levels();
	large_pages();
	pae();
}
