/* Four-level paging: permissions, accessed and dirty bits, page sizes, reserved bits, error
 * codes, and what keeps or drops translations. [SDM3 4.5-4.10] */
#include "test/guest/guest.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

extern volatile u64 pml4[512], pdpt[512];
static volatile u64 pdpt1[512] __attribute__((aligned(4096)));
static volatile u64 pd1[512] __attribute__((aligned(4096)));
static volatile u64 pt1[512] __attribute__((aligned(4096)));
static volatile u64 other_pml4[512] __attribute__((aligned(4096)));
static volatile u8 page_a[4096] __attribute__((aligned(4096)));
static volatile u8 page_b[4096] __attribute__((aligned(4096)));

/* The 2 MiB from 512 GiB on are mapped by pt1. */
#define VIRT 0x8000000000ull
#define AT(n) (VIRT + (n)*4096ull)

static void flush(u64 at) {
	asm volatile("invlpg (%0)" : : "r"(at) : "memory");
}

static void map(unsigned n, volatile void *page, u64 bits) {
	pt1[n] = (u64)page | bits;
	flush(AT(n));
}

static u64 pte(unsigned n) {
	return pt1[n];
}

static u8 read8(u64 at) {
	return *(volatile u8 *)at;
}

static void write8(u64 at, u8 v) {
	*(volatile u8 *)at = v;
}

#define READ "movb (%0), %%al"
#define WRITE "movb $1, (%0)"
#define CALL "call *%0"

static void user_read(void) {
	asm volatile("movb (%0), %%al\n int3" : : "r"(AT(1)) : "rax");
}
static void user_write(void) {
	asm volatile("movb $1, (%0)\n int3" : : "r"(AT(1)) : "rax");
}
static void user_exec(void) {
	asm volatile("jmp *%0" : : "r"(AT(1)));
}

static void user_pf(const char *name, void (*code)(void), unsigned vector, word error) {
	/* INT3 is how ring 3 says that nothing went wrong; its gate needs DPL 3. */
	idt[BP].attr = GATE_INT | GATE_DPL3;
	user(code, 2);
	check_trap(name, vector, error);
}

static void presence(void) {
	FAULTS("not present: read", PF, 0, READ, "r"(AT(0)));
	check("CR2 of a read", trap.cr2, AT(0));
	FAULTS("not present: write", PF, PF_W, "movb $1, 0x123(%0)", "r"(AT(0)));
	check("CR2 of a write", trap.cr2, AT(0) + 0x123);
	FAULTS("not present: fetch", PF, 0, CALL, "r"(AT(0)));
	FAULTS("no PML4 entry", PF, 0, READ, "r"(0x10000000000ull));
	map(0, page_a, P | W);
	FAULTS("crosses into a missing page", PF, 0, "mov (%0), %%rax", "r"(AT(0) + 4092));
	check("CR2 is the second page", trap.cr2, AT(1));
	FAULTS("write crosses into a missing page", PF, PF_W, "movq $-1, (%0)", "r"(AT(0) + 4092));
	check("and nothing was written", read8(AT(0) + 4095), 0);
	FAULTS("not canonical", GP, 0, READ, "r"(0x800000000000ull));
	FAULTS("not canonical, high", GP, 0, READ, "r"(0xffff7fffffffffffull));
	FAULTS("not canonical, through RBP", SS, 0, "mov %0, %%rbp\n mov (%%rbp), %%rax",
		   "r"(0x800000000000ull));
	FAULTS("canonical, high", PF, 0, READ, "r"(0xffff800000000000ull));
}

static void accessed_dirty(void) {
	map(0, page_a, P | W);
	pd1[0] &= ~A;
	pdpt1[0] &= ~A;
	pml4[1] &= ~A;
	flush(AT(0));
	check("A clear before", pte(0) & (A | D), 0);
	read8(AT(0));
	check("read sets A", pte(0) & (A | D), A);
	check("A in all levels", (pd1[0] & A) && (pdpt1[0] & A) && (pml4[1] & A), 1);
	write8(AT(0), 1);
	check("write sets D", pte(0) & (A | D), A | D);
	map(0, page_a, P);
	FAULTS("write to a read-only page", PF, PF_P | PF_W, WRITE, "r"(AT(0)));
	check("sets no D", pte(0) & D, 0);
	map(0, page_a, P | W);
	asm volatile("lock xaddb %%al, (%0)" : : "r"(AT(0)) : "rax", "memory");
	check("locked access sets D", pte(0) & (A | D), A | D);
	map(0, page_a, P | W);
	asm volatile("lock cmpxchgl %%ecx, (%0)" : : "r"(AT(0)), "a"(77) : "memory", "cc");
	check("failed CMPXCHG sets D", pte(0) & (A | D), A | D);
}

static void rights(void) {
	map(1, page_a, P | W);
	user_pf("ring 3 reads a supervisor page", user_read, PF, PF_P | PF_U);
	user_pf("ring 3 writes a supervisor page", user_write, PF, PF_P | PF_U | PF_W);
	map(1, page_a, P | U);
	user_pf("ring 3 reads a read-only page", user_read, BP, 0);
	user_pf("ring 3 writes a read-only page", user_write, PF, PF_P | PF_U | PF_W);
	map(1, page_a, P | W | U);
	user_pf("ring 3 writes", user_write, BP, 0);
	map(1, 0, 0);
	user_pf("ring 3, not present", user_read, PF, PF_U);
	map(1, page_a, P | W | U);
	pml4[1] &= ~U;
	flush(AT(1));
	user_pf("U/S is of all levels", user_read, PF, PF_P | PF_U);
	pml4[1] |= U;
	pdpt1[0] &= ~W;
	flush(AT(1));
	user_pf("R/W is of all levels", user_write, PF, PF_P | PF_U | PF_W);
	pdpt1[0] |= W;
	flush(AT(1));

	map(2, page_a, P);
	FAULTS("ring 0 writes read-only, WP=1", PF, PF_P | PF_W, WRITE, "r"(AT(2)));
	set_cr0(get_cr0() & ~0x10000);
	FAULTS("ring 0 writes read-only, WP=0", NONE, 0, WRITE, "r"(AT(2)));
	check("that sets D", pte(2) & D, D);
	set_cr0(get_cr0() | 0x10000);
	FAULTS("WP=1 again", PF, PF_P | PF_W, WRITE, "r"(AT(2)));
}

static void no_execute(void) {
	page_a[0] = 0xc3;
	map(3, page_a, P | W);
	FAULTS("executes", NONE, 0, CALL, "r"(AT(3)));
	map(3, page_a, P | W | NX);
	FAULTS("NX without NXE is reserved", PF, PF_P | PF_R, READ, "r"(AT(3)));
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	flush(AT(3));
	FAULTS("NX page: read", NONE, 0, READ, "r"(AT(3)));
	FAULTS("NX page: fetch", PF, PF_P | PF_I, CALL, "r"(AT(3)));
	check("CR2 of a fetch", trap.cr2, AT(3));
	FAULTS("not present: fetch with NXE", PF, PF_I, CALL, "r"(AT(9)));
	map(3, page_a, P | W);
	pd1[0] |= NX;
	flush(AT(3));
	FAULTS("NX is of all levels", PF, PF_P | PF_I, CALL, "r"(AT(3)));
	pd1[0] &= ~NX;
	map(1, page_a, P | W | U | NX);
	user_pf("NX in ring 3", user_exec, PF, PF_P | PF_U | PF_I);
}

static void smep(void) {
	if (!has(7, EBX, 7)) {
		for (unsigned i = 0; i < 3; i++)
			skip("SMEP", "the CPU model has none");
		return;
	}
	/* The guest's own code must not be a user page then. */
	for (unsigned i = 0; i < 512; i++)
		((volatile u64 *)(pdpt[0] & ~0xfffull))[i] &= ~U;
	page_a[0] = 0xc3;
	map(4, page_a, P | U);
	set_cr4(get_cr4() | 1 << 20);
	FAULTS("SMEP: ring 0 fetches a user page", PF, PF_P | PF_I, CALL, "r"(AT(4)));
	FAULTS("SMEP: ring 0 reads a user page", NONE, 0, READ, "r"(AT(4)));
	set_cr4(get_cr4() & ~(1ul << 20));
	FAULTS("SMEP off again", NONE, 0, CALL, "r"(AT(4)));
	for (unsigned i = 0; i < 512; i++)
		((volatile u64 *)(pdpt[0] & ~0xfffull))[i] |= U;
	set_cr3(get_cr3());
}

static void smap(void) {
	if (!has(7, EBX, 20)) {
		for (unsigned i = 0; i < 4; i++)
			skip("SMAP", "the CPU model has none");
		return;
	}
	for (unsigned i = 0; i < 512; i++)
		((volatile u64 *)(pdpt[0] & ~0xfffull))[i] &= ~U;
	map(4, page_a, P | W | U);
	set_cr4(get_cr4() | 1 << 21);
	FAULTS("SMAP: ring 0 reads a user page", PF, PF_P, READ, "r"(AT(4)));
	FAULTS("SMAP: ring 0 writes a user page", PF, PF_P | PF_W, WRITE, "r"(AT(4)));
	FAULTS("SMAP: STAC allows it", NONE, 0, "stac\n" WRITE "\n clac", "r"(AT(4)));
	set_cr4(get_cr4() & ~(1ul << 21));
	FAULTS("SMAP off again", NONE, 0, READ, "r"(AT(4)));
	for (unsigned i = 0; i < 512; i++)
		((volatile u64 *)(pdpt[0] & ~0xfffull))[i] |= U;
	set_cr3(get_cr3());
}

static void sizes(void) {
	/* 2 MiB at VIRT + 2 MiB: the guest's first 2 MiB. */
	u64 at = VIRT + 0x200000;
	pd1[1] = 0 | P | W | PS;
	page_a[5] = 0x5a;
	check("2 MiB page", read8(at + (u64)page_a + 5), 0x5a);
	check("its A bit", pd1[1] & (A | D), A);
	write8(at + (u64)page_a + 5, 0x5b);
	check("its D bit", pd1[1] & (A | D), A | D);
	check("wrote through it", page_a[5], 0x5b);
	pd1[1] = 0x2000 | P | W | PS;
	flush(at);
	FAULTS("2 MiB page: reserved bit", PF, PF_P | PF_R, READ, "r"(at));
	pd1[1] = 0;
	if (has(0x80000001, EDX, 26)) {
		u64 giant = VIRT + 0x40000000;
		pdpt1[1] = 0 | P | W | PS;
		check("1 GiB page", read8(giant + (u64)page_a + 5), 0x5b);
		write8(giant + (u64)page_a + 6, 0x77);
		check("its A and D bits", pdpt1[1] & (A | D), A | D);
		pdpt1[1] = 0x200000 | P | W | PS;
		flush(giant);
		FAULTS("1 GiB page: reserved bit", PF, PF_P | PF_R, READ, "r"(giant));
		pdpt1[1] = 0;
	} else {
		for (unsigned i = 0; i < 3; i++)
			skip("1 GiB page", "the CPU model has none");
	}
	/* Bit 51 is above every MAXPHYADDR that we show. */
	map(5, (void *)(1ull << 51), P | W);
	FAULTS("address beyond MAXPHYADDR", PF, PF_P | PF_R, READ, "r"(AT(5)));
	FAULTS("the same, write", PF, PF_P | PF_R | PF_W, WRITE, "r"(AT(5)));
	pml4[2] = (u64)pdpt1 | P | W | PS;
	FAULTS("PS in a PML4 entry", PF, PF_P | PF_R, READ, "r"(VIRT * 2));
	pml4[2] = 0;
}

static void translations(void) {
	page_a[0] = 0xaa;
	page_b[0] = 0xbb;
	map(6, page_a, P | W);
	check("first page", read8(AT(6)), 0xaa);
	map(6, page_b, P | W);
	check("INVLPG", read8(AT(6)), 0xbb);
	pt1[6] = (u64)page_a | P | W;
	set_cr3(get_cr3());
	check("MOV CR3", read8(AT(6)), 0xaa);
	/* A translation that became allowed needs no flush: the fault drops what was kept. */
	map(7, page_a, P);
	read8(AT(7));
	pt1[7] |= W;
	TRY(WRITE, "r"(AT(7))); /* may fault, once */
	FAULTS("a fault forgets the stale translation", NONE, 0, WRITE, "r"(AT(7)));
	page_a[0] = 0xaa;
	/* Not present before: never kept. */
	map(8, 0, 0);
	TRY(READ, "r"(AT(8)));
	pt1[8] = (u64)page_b | P;
	barrier();
	check("no translation is kept for absent pages", read8(AT(8)), 0xbb);

	/* Global pages survive MOV CR3, not INVLPG or a change of CR4.PGE. */
	set_cr4(get_cr4() | 0x80);
	map(9, page_a, P | W | G);
	check("global page", read8(AT(9)), 0xaa);
	pt1[9] = (u64)page_b | P | W | G;
	flush(AT(9));
	check("INVLPG drops global pages", read8(AT(9)), 0xbb);
	pt1[9] = (u64)page_a | P | W | G;
	set_cr4(get_cr4() & ~0x80ul);
	check("so does CR4.PGE", read8(AT(9)), 0xaa);
	set_cr4(get_cr4() | 0x80);
	pt1[9] = (u64)page_b | P | W | G;
	set_cr0(get_cr0() ^ 0x10000);
	set_cr0(get_cr0() ^ 0x10000);
	set_cr4(get_cr4() & ~0x80ul);
	check("off for good", read8(AT(9)), 0xbb);
}

static void invpcid(u64 type, u64 pcid, u64 address) {
	struct {
		u64 pcid, address;
	} d = {pcid, address};
	asm volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}

static void pcids(void) {
	if (!has(1, ECX, 17)) {
		for (unsigned i = 0; i < 11; i++)
			skip("PCID", "the CPU model has none");
		return;
	}
	for (unsigned i = 0; i < 512; i++)
		other_pml4[i] = pml4[i];
	map(10, page_a, P | W);
	FAULTS("PCIDE with a PCID in CR3", GP, 0, "mov %0, %%cr3\n mov %1, %%cr4", "r"((u64)pml4 | 8),
		   "r"(get_cr4() | 1 << 17));
	set_cr3((u64)pml4);
	set_cr4(get_cr4() | 1 << 17);
	FAULTS("PG off with PCIDE", GP, 0, "mov %0, %%cr0", "r"(get_cr0() & 0x7fffffff));
	check("PCID 0", read8(AT(10)), 0xaa);
	set_cr3((u64)other_pml4 | 5);
	check("PCID 5", read8(AT(10)), 0xaa);
	pt1[10] = (u64)page_b | P | W;
	set_cr3((u64)other_pml4 | 5);
	check("MOV CR3 drops its PCID", read8(AT(10)), 0xbb);
	set_cr3((u64)pml4 | 1ull << 63);
	check("CR3 reads without bit 63", get_cr3(), (u64)pml4);
	flush(AT(10));
	check("INVLPG in PCID 0", read8(AT(10)), 0xbb);
	if (!has(7, EBX, 10)) {
		for (unsigned i = 0; i < 4; i++)
			skip("INVPCID", "the CPU model has none");
	} else {
		pt1[10] = (u64)page_a | P | W;
		invpcid(0, 0, AT(10));
		check("INVPCID of an address", read8(AT(10)), 0xaa);
		pt1[10] = (u64)page_b | P | W;
		invpcid(1, 0, 0);
		check("INVPCID of a PCID", read8(AT(10)), 0xbb);
		pt1[10] = (u64)page_a | P | W;
		invpcid(2, 0, 0);
		check("INVPCID of all", read8(AT(10)), 0xaa);
		static const u64 bad[2] = {0, 0};
		FAULTS("INVPCID type 4", GP, 0, "invpcid (%0), %1", "r"(bad), "r"(4ull));
	}
	set_cr3((u64)pml4);
	set_cr4(get_cr4() & ~(1ul << 17));
}

void guest(void) {
	set_cr0(get_cr0() | 0x10000);
	pml4[1] = (u64)pdpt1 | P | W | U;
	pdpt1[0] = (u64)pd1 | P | W | U;
	pd1[0] = (u64)pt1 | P | W | U;
	presence();
	accessed_dirty();
	rights();
	no_execute();
	smep();
	smap();
	sizes();
	map(0, page_a, P);
	translations();
	pcids();
	FAULTS("reserved bits of CR3", GP, 0, "mov %0, %%cr3", "r"((u64)pml4 | 1ull << 63));
}
