/* Code that is made while others run it, on several processors: fresh functions from a writer,
 * patching by INT3 as Linux does it, both written through another mapping; IRIW; and one processor
 * that makes new code for ever, more than any cache holds. [SDM3 8.1.3, 8.2.3.7] */
#include "test/guest/guest.h"

#define MAX 4
#define ALIAS 0x8000000000ull /* shows the same 4 MiB as AREA */
#define AREA 0x1000000ull
#define SLOT 32

extern volatile u64 pml4[512];
static volatile u64 pdpt1[512] __attribute__((aligned(4096)));
static volatile u64 pd1[512] __attribute__((aligned(4096)));
static unsigned cpus;
static void (*volatile job)(unsigned cpu);
static volatile u32 round_no, done_count, entered, wrong, seen_breakpoints;

static void ap_loop(unsigned cpu) {
	u32 last = 0;
	lapic_enable();
	for (;;) {
		while (__atomic_load_n(&round_no, __ATOMIC_SEQ_CST) == last)
			asm volatile("pause");
		last++;
		job(cpu);
		__atomic_fetch_add(&done_count, 1, __ATOMIC_SEQ_CST);
	}
}

static void together(void (*f)(unsigned cpu)) {
	job = f;
	done_count = entered = wrong = 0;
	__atomic_fetch_add(&round_no, 1, __ATOMIC_SEQ_CST);
	f(0);
	while (__atomic_load_n(&done_count, __ATOMIC_SEQ_CST) < cpus - 1)
		asm volatile("pause");
}

static void meet(unsigned n) {
	u32 ticket = __atomic_fetch_add(&entered, 1, __ATOMIC_SEQ_CST);
	u32 until = (ticket / n + 1) * n;
	while (__atomic_load_n(&entered, __ATOMIC_SEQ_CST) < until)
		asm volatile("pause");
}

static void serialize(void) {
	u32 r[4];
	cpuid(0, 0, r);
}

static u32 call(u64 at) {
	u32 r;
	asm volatile("call *%1" : "=a"(r) : "r"(at) : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
	return r;
}

/* mov $n, %eax; add $7, %eax; ret */
static void write_function(volatile u8 *at, u32 n) {
	static const u8 code[] = {0xb8, 0, 0, 0, 0, 0x83, 0xc0, 7, 0xc3};
	for (unsigned i = 0; i < sizeof(code); i++)
		at[i] = code[i];
	*(volatile u32 *)(at + 1) = n;
}

/* ---- a writer and its readers, as a JIT's threads */
#define FUNCTIONS 6000
#define RING 64
static volatile struct {
	u64 at;
	u32 n;
} published;
static volatile u32 taken[MAX];

static void jit_threads(unsigned cpu) {
	for (u32 i = 1; i <= FUNCTIONS; i++) {
		u64 offset = (i % RING) * SLOT + (i % RING) / 8 * 4096;
		if (cpu == 0) {
			write_function((volatile u8 *)(ALIAS + offset), i);
			published.at = AREA + offset;
			__atomic_store_n(&published.n, i, __ATOMIC_SEQ_CST);
			for (unsigned k = 1; k < cpus; k++)
				while (taken[k] < i)
					asm volatile("pause");
		} else {
			while (__atomic_load_n(&published.n, __ATOMIC_SEQ_CST) < i)
				asm volatile("pause");
			serialize(); /* the slot had other code */
			if (call(published.at) != i + 7)
				__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
			taken[cpu] = i;
		}
	}
}

/* ---- INT3 first, then the tail, then the first byte: others run either the old or the new */
#define PATCHES 150
static volatile u32 acks, patching, finished;

static void on_sync(struct frame *f) {
	serialize();
	__atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
	lapic_write(0xb0, 0);
}

static void on_breakpoint(struct frame *f) {
	__atomic_fetch_add(&seen_breakpoints, 1, __ATOMIC_SEQ_CST);
	f->ax = 0xffff; /* the MOV under it, done by hand */
	f->ip += 4;
}

static void sync_others(void) {
	acks = 0;
	ipi(0, 0xc4051);
	while (acks < cpus - 1)
		asm volatile("pause");
}

static void patch(unsigned cpu) {
	volatile u8 *alias = (volatile u8 *)(ALIAS + 0x100000);
	u64 at = AREA + 0x100000;
	if (cpu == 0) {
		while (__atomic_load_n(&patching, __ATOMIC_SEQ_CST) < cpus - 1)
			asm volatile("pause");
		for (u32 i = 1; i <= PATCHES; i++) {
			alias[0] = 0xcc;
			sync_others();
			*(volatile u32 *)(alias + 1) = i;
			sync_others();
			alias[0] = 0xb8;
			sync_others();
			if (call(at) != i + 7)
				__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		}
		finished = 1;
		return;
	}
	sti();
	__atomic_fetch_add(&patching, 1, __ATOMIC_SEQ_CST);
	u32 last = 0;
	while (!finished) {
		u32 n = call(at);
		if (n == 0xffff + 7)
			continue;
		if (n < last || n > PATCHES + 7) /* never back, never half of one and half of another */
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		last = n;
	}
	cli();
}

/* ---- independent reads of independent writes: all see the two stores in one order */
#define ROUNDS 5000
static volatile struct {
	u64 v;
	u64 pad[15];
} x, y;
static volatile u8 saw[2][2];

static void iriw(unsigned cpu) {
	for (unsigned i = 0; i < ROUNDS; i++) {
		meet(4);
		switch (cpu) {
		case 0:
			x.v = 1;
			break;
		case 1:
			y.v = 1;
			break;
		case 2:
			saw[0][0] = (u8)x.v;
			saw[0][1] = (u8)y.v;
			break;
		default:
			saw[1][0] = (u8)y.v;
			saw[1][1] = (u8)x.v;
		}
		meet(4);
		if (cpu == 0) {
			if (saw[0][0] && !saw[0][1] && saw[1][0] && !saw[1][1])
				wrong++;
			x.v = y.v = 0;
		}
	}
}

/* ---- for ever: each function is new, in place of one of 4096 */
#define NEW 70000

/* The same with 20 accesses to memory, which are long when translated. */
static void write_long_function(volatile u8 *at, u32 n) {
	write_function(at + 20, n);
	for (unsigned i = 0; i < 20; i += 2) {
		at[i] = 0x50;	  /* push %rax */
		at[i + 1] = 0x59; /* pop %rcx */
	}
}

static void for_ever(void) {
	u32 bad = 0;
	for (u32 i = 0; i < NEW; i++) {
		u64 at = AREA + 0x200000 + (i * 2654435761u >> 20) * 128;
		write_long_function((volatile u8 *)at, i);
		for (unsigned again = 0; again < 2; again++) /* the first time, an engine may not bother */
			bad += call(at) != i + 7;
	}
	check("new code for ever", bad, 0);
}

void guest(void) {
	u32 r[4];
	cpuid(1, 0, r);
	cpus = r[EBX] >> 16 & 0xff;
	pic_mask_all();
	pml4[1] = (u64)pdpt1 | 7;
	pdpt1[0] = (u64)pd1 | 7;
	pd1[0] = AREA | 0x87;
	pd1[1] = (AREA + 0x200000) | 0x87;
	handler[0x51] = on_sync;
	handler[BP] = on_breakpoint;
	if (cpus < 4) {
		for_ever();
		return;
	}
	check("all processors start", start_cpus(cpus, ap_loop), cpus);
	write_function((volatile u8 *)(ALIAS + 0x100000), 0);
	together(jit_threads);
	check("fresh functions through another mapping", wrong, 0);
	together(patch);
	check("patched by INT3", wrong, 0);
	check("and somebody met one", seen_breakpoints != 0, 1);
	together(iriw);
	check("one order of independent writes", wrong, 0);
}
