/* Guests that do what no sane one does. Each image is this file with BAD set to a number; the
 * table says how each must end. What is common: the process goes on, and what is reported before
 * comes out. */
#include "test/guest/guest.h"

static u32 seed = 12345;
static inline u32 rnd(void) {
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

#if BAD == 0 /* triple fault: no IDT at all */
void guest(void) {
	static const u8 none[10] __attribute__((used));
	check("about to fall", 1, 1);
	asm volatile("lidt %0\n int3" : : "m"(*(const char(*)[10])none));
	check("still here", 0, 1);
}
#elif BAD == 1	/* jump to nowhere, with nobody to take the exception's stack */
void guest(void) {
	check("about to jump", 1, 1);
	asm volatile("mov %0, %%rsp\n jmp *%1" : : "r"(0x800000000000ul), "r"(0xd0000000ul));
}
#elif BAD == 2	/* a loop with interrupts off: the runner stops it */
void guest(void) {
	check("about to spin", 1, 1);
	cli();
	for (;;)
		asm volatile("1: jmp 1b");
}
#elif BAD == 3	/* HLT with interrupts off: the same */
void guest(void) {
	check("about to sleep", 1, 1);
	asm volatile("cli\n hlt");
	check("still asleep", 0, 1);
}
#elif BAD == 4	/* REP that never ends, over all of memory */
void guest(void) {
	check("about to repeat", 1, 1);
	for (;;)
		asm volatile("rep lodsb" : : "S"(0x200000ul), "c"(~0ul >> 40) : "rax", "memory");
}
#elif BAD == 5	/* ROM, holes, and the edges of memory */
void guest(void) {
	volatile u32 *rom = (u32 *)0xfffffff0, *hole = (u32 *)0xd0000000;
	*rom = 0x12345678;
	check("ROM or nothing is not written", *rom != 0x12345678, 1);
	*hole = 1;
	check("nothing reads as ones", *hole, 0xffffffff);
	volatile u64 *end = (u64 *)(64ul << 20);
	u64 wide;
	asm volatile("mov -4(%1), %0" : "=r"(wide) : "r"(end));
	check("over the end of memory", wide >> 32, 0xffffffff);
	asm volatile("mov %0, -4(%1)" : : "r"(0x1122334455667788), "r"(end));
	check("the part that is there is written", ((volatile u32 *)end)[-1], 0x55667788);
	asm volatile("lock incl (%0)" : : "r"(hole) : "memory");
	asm volatile("movups (%0), %%xmm0\n movups %%xmm0, (%0)" : : "r"(hole) : "memory");
	asm volatile("rep movsb" : : "S"(hole), "D"(0x300000), "c"(0x10000) : "memory");
	check("copied from nowhere", *(volatile u64 *)0x300000, ~0ul);
	asm volatile("rep stosb" : : "a"(0), "D"(hole), "c"(0x10000) : "memory");
	asm volatile("rep insb" : : "d"(0x80), "D"(0x300000), "c"(64) : "memory");
	/* Code in a hole is all ones: FFh FFh is no instruction. */
	FAULTS("running a hole", UD, 0, "call *%0", "r"(hole));
	FAULTS("running at the end of memory", UD, 0,
		   "movw $0x9090, -2(%0)\n lea -2(%0), %%rax\n"
		   "call *%%rax",
		   "r"(end));
}
#elif BAD == 6	/* 64 KiB out of the serial port as fast as it goes, without looking at it */
void guest(void) {
	check("about to flood", 1, 1);
	for (u32 i = 0; i < 65536; i++)
		out8(0x3f8, i % 64 == 63 ? '\n' : '.');
	print("\n");
	check("flood is over", 1, 1);
}
#elif BAD == 7	/* garbage to every register of every chip */
static bool leave_alone(u16 port) {
	/* Those that end the guest on purpose, and the reports' own. */
	return port == 0xf4 || (port >= 0xf4 && port < 0xf8) || port == 0xe9 || port == 0x64 ||
		   port == 0x92 || port == 0xcf9 || port == 0xcfb || (port >= 0xcf8 && port <= 0xcfb) ||
		   (port >= 0x600 && port < 0x700) || port == 0x505 || (port >= 0x3f8 && port < 0x400) ||
		   port == 0xb2;
}
void guest(void) {
	static const u32 pages[] = {0xfec00000, 0xfed00000, 0xfee00000,
								0xe0000000, 0xe0008000, 0xe00f8000};
	cli();
	for (u32 n = 0; n < 20000; n++) {
		u16 port = (u16)(rnd() % 0x1000);
		if (leave_alone(port) || leave_alone((u16)(port + 1)) || leave_alone((u16)(port + 2)) ||
			leave_alone((u16)(port + 3)))
			continue;
		switch (rnd() % 6) {
		case 0:
			out8(port, (u8)rnd());
			break;
		case 1:
			out16(port, (u16)rnd());
			break;
		case 2:
			out32(port, rnd());
			break;
		case 3:
			in8(port);
			break;
		case 4:
			in16(port);
			break;
		case 5:
			in32(port);
			break;
		}
	}
	check("ports", 1, 1);
	for (u32 n = 0; n < 20000; n++) {
		u32 at = pages[rnd() % 6] + rnd() % 0x1000;
		if ((at & 0xfffff000) == 0xfee00000 && (at & 0xff0) == 0x300)
			continue; /* an INIT or a SIPI to itself is another matter */
		switch (rnd() % 6) {
		case 0:
			*(volatile u8 *)(word)at = (u8)rnd();
			break;
		case 1:
			*(volatile u16 *)(word)at = (u16)rnd();
			break;
		case 2:
			*(volatile u32 *)(word)at = rnd();
			break;
		case 3:
			*(volatile u64 *)(word)at = (u64)rnd() << 32 | rnd();
			break;
		case 4:
			(void)*(volatile u32 *)(word)at;
			break;
		case 5:
			(void)*(volatile u64 *)(word)at;
			break;
		}
	}
	check("memory", 1, 1);
	for (u32 n = 0; n < 20000; n++) {
		static const u32 bases[] = {0x800, 0xc0000080, 0x200, 0x10, 0x170, 0x4b564d00, 0xc0000100};
		u32 index = bases[rnd() % 7] + rnd() % 128;
		if (index == 0x830 || index == 0x83f || (index >= 0xc0000080 && index <= 0xc0000084) ||
			index == 0x1b || (index & ~0x1fu) == 0x4b564d00)
			continue;
		TRY("mov %0, %%ecx\n mov %1, %%eax\n cltd\n wrmsr", "r"(index), "r"(rnd()));
		TRY("mov %0, %%ecx\n rdmsr", "r"(index));
	}
	check("MSRs", 1, 1);
}
#elif BAD == 8	/* resets itself until it has done so three times */
void guest(void) {
	volatile u32 *count = (u32 *)0x80000; /* memory stays over a reset */
	if (*count >> 8 != 0x123456)
		*count = 0x12345600;
	++*count;
	if ((*count & 0xff) < 4) {
		switch (*count & 3) {
		case 1:
			out8(0x64, 0xfe);
			break;
		case 2:
			out8(0xcf9, 2);
			out8(0xcf9, 6);
			break;
		case 3:
			asm volatile("lidt %0\n int3" : : "m"(*(const char(*)[10])0x90000));
			break;
		}
		for (;;)
			asm volatile("hlt");
	}
	check("reset three times", *count & 0xff, 4);
}
#elif BAD == 9	/* ACPI power off */
void guest(void) {
	check("about to go", 1, 1);
	out16((u16)(pm_timer_port - 4), 5 << 10 | 1 << 13);
	for (volatile u32 i = 0; i < 100000000; i++)
		;
	check("still on", 0, 1);
}
#elif BAD == 10 /* random bytes as code in ring 3, which may touch only its own two pages */
#define VIRT 0x8000000000ull
extern volatile u64 pml4[512], pd[2048];
static volatile u64 pdpt1[512] __attribute__((aligned(4096)));
static volatile u64 pd1[512] __attribute__((aligned(4096)));
static volatile u64 pt1[512] __attribute__((aligned(4096)));
static u8 junk[4096] __attribute__((aligned(4096)));
static void tick(struct frame *f) { /* whatever it was doing takes too long */
	lapic_write(0xb0, 0);
	f->ip = 0x700000000000;
	f->cs = SEL_UCODE;
	f->ss = SEL_UDATA;
	f->flags = 2;
}
void guest(void) {
	pic_mask_all();
	lapic_enable();
	handler[0x50] = tick;
	lapic_write(0x320, 0x50);
	lapic_write(0x3e0, 0xb);
	for (unsigned i = 0; i < 2048; i++)
		pd[i] &= ~4ull;
	pml4[1] = (u64)pdpt1 | 7;
	pdpt1[0] = (u64)pd1 | 7;
	pd1[0] = (u64)pt1 | 7;
	pt1[0] = (u64)junk | 7;
	pt1[1] = (u64)user_stack | 7;
	set_cr3(get_cr3());
	idt[BP].attr |= GATE_DPL3;
	for (u32 n = 0; n < 5000; n++) {
		for (u32 i = 0; i < 64; i++)
			junk[i] = (u8)(rnd() >> 11);
		memset(junk + 64, 0xcc, 192);
		lapic_write(0x380, 5000000);
		trap.vector = NONE;
		try_user(VIRT, VIRT + 0x1800, SEL_UCODE, 0x202, rnd() % 2 ? VIRT + 0x1000 : rnd());
		lapic_write(0x380, 0);
	}
	check("random code", 1, 1);
}
#elif BAD == 11 /* the same in ring 0, where it may do anything: it ends in any way but a bad one  \
				 */
static u8 junk[4096] __attribute__((aligned(4096)));
static u8 nmi_stack[4096] __attribute__((aligned(16)));
static void tick(struct frame *f) {
	if (!trap_resume)
		return;
	f->ip = trap_resume;
	f->cs = SEL_CODE;
	f->flags = 2;
	f->sp = trap_sp;
	f->ss = SEL_DATA;
	f->bp = trap_bp;
	trap_resume = 0;
}
void guest(void) {
	seed = SEED;
	handler[NMI] = tick;
	/* NMIs from the PIT end what takes too long, whatever it did to IF. */
	pic_mask_all();
	lapic_enable();
	*(volatile u32 *)0xfec00000 = 0x14;
	*(volatile u32 *)0xfec00010 = 0x400;
	out8(0x43, 0x34);
	out8(0x40, 0);
	out8(0x40, 8); /* 583 Hz */
	for (unsigned i = 0; i < 256; i++)
		idt[i].attr |= i == NMI ? 2 : 1;
	for (u32 n = 0;; n++) {
		if (n % 1000 == 0)
			print("ok a thousand\n");
		for (u32 i = 0; i < 64; i++)
			junk[i] = (u8)(rnd() >> 11);
		memset(junk + 64, 0xcc, 192);
		tss.ist[0] = (word)user_stack + sizeof(user_stack);
		tss.ist[1] = (word)nmi_stack + sizeof(nmi_stack);
		static u32 a, c, d;
		a = rnd();
		c = rnd();
		d = rnd() & 0x3fff;
		TRY("mov %1, %%eax\n mov %2, %%ecx\n mov %3, %%edx\n"
			"push %%rbx\n push %%rsi\n push %%rdi\n call *%0\n"
			"pop %%rdi\n pop %%rsi\n pop %%rbx",
			"r"(junk), "m"(a), "m"(c), "m"(d));
	}
}
#endif
