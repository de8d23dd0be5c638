/* Several processors: starting them, IPIs, memory order, locked access, translations that
 * others keep, code that others change. Runs with 2, 4 and 8. [SDM3 8.2, 8.4, 10.6] */
#include "test/guest/guest.h"

#define MAX 8
static unsigned cpus;
static void (*volatile job)(unsigned cpu);
static volatile u32 round_no, done_count, entered;

/* Everybody, this processor as number 0, runs f(cpu), starting as close together as can be. */
static void ap_loop(unsigned cpu) {
	u32 last = 0;
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
	done_count = 0;
	entered = 0;
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

/* ---- IPIs */
static volatile u32 ipis[MAX], nmis[MAX];
static volatile u32 ready, stop;
static unsigned me(void) {
	return lapic_read(0x20) >> 24;
}
static void on_ipi(struct frame *f) {
	__atomic_fetch_add(&ipis[me()], 1, __ATOMIC_SEQ_CST);
	lapic_write(0xb0, 0);
}
static void on_nmi(struct frame *f) {
	__atomic_fetch_add(&nmis[me()], 1, __ATOMIC_SEQ_CST);
}

static u32 sum(volatile u32 *n) {
	u32 s = 0;
	for (unsigned i = 0; i < MAX; i++)
		s += n[i];
	return s;
}

static bool wait_sum(volatile u32 *n, u32 want) {
	for (unsigned i = 0; i < 2000 && sum(n) < want; i++)
		delay_us(1000);
	delay_us(1000);
	return sum(n) == want;
}

static void ipi_target(unsigned cpu) {
	if (cpu == 0) {
		while (ready < cpus - 1)
			;
		u32 before;
		for (unsigned i = 1; i < cpus; i++)
			ipi(i, 0x4050);
		check("fixed IPI to each", wait_sum(ipis, cpus - 1), 1);
		check("each got one", ipis[1], 1);
		before = sum(ipis);
		ipi(0, 0xc4050);
		check("all but self", wait_sum(ipis, before + cpus - 1), 1);
		before = sum(ipis);
		ipi(0, 0x84050);
		sti();
		check("all with self", wait_sum(ipis, before + cpus), 1);
		check("self as well", ipis[0], 1);
		cli();
		before = sum(ipis);
		ipi(0x02, 0x4850); /* logical: processor 1 has bit 1 */
		check("logical destination", wait_sum(ipis, before + 1), 1);
		ipi(0, 0xc4400);
		check("NMI to all others", wait_sum(nmis, cpus - 1), 1);
		before = sum(ipis);
		ipi(0xff, 0x4050);
		sti();
		check("physical broadcast", wait_sum(ipis, before + cpus), 1);
		cli();
		stop = 1;
		ipi(0, 0xc4050);
		return;
	}
	lapic_enable();
	lapic_write(0xd0, 1u << (24 + me()));
	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	while (!stop)
		asm volatile("sti\n hlt\n cli" : : : "memory");
}

/* ---- memory order */
#define ROUNDS 20000

/* On a busy host two processors meet once in a time slice, and so many rounds would take minutes:
 * processor 0 ends them after about a second, between two meetings, so that both see it. */
#define SECOND 3579545 /* of the PM timer, which counts to 4.7 */
static volatile bool enough;
static u32 began;

static void start_rounds(unsigned cpu) {
	if (cpu == 0) {
		began = in32(pm_timer_port);
		enough = false;
	}
}

static void look_at_clock(unsigned round) {
	if (round % 64 == 63 && ((in32(pm_timer_port) - began) & 0xffffff) > SECOND)
		enough = true;
}

static volatile struct {
	u64 v;
	u64 pad[15];
} x, y;
static u8 r0[ROUNDS], r1[ROUNDS];
static volatile u32 forbidden;

static void sb_fence(unsigned cpu) {
	if (cpu > 1)
		return;
	start_rounds(cpu);
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 r;
		meet(2);
		if (enough)
			break;
		if (cpu == 0) {
			asm volatile("movq $1, %1\n mfence\n movq %2, %0" : "=r"(r), "=m"(x.v) : "m"(y.v));
			r0[i] = (u8)r;
		} else {
			asm volatile("movq $1, %1\n mfence\n movq %2, %0" : "=r"(r), "=m"(y.v) : "m"(x.v));
			r1[i] = (u8)r;
		}
		meet(2);
		if (cpu == 0) {
			if (!r0[i] && !r1[i])
				forbidden++;
			x.v = y.v = 0;
			look_at_clock(i);
		}
	}
}

static void sb_lock(unsigned cpu) {
	if (cpu > 1)
		return;
	start_rounds(cpu);
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 r, one = 1;
		meet(2);
		if (enough)
			break;
		if (cpu == 0) {
			asm volatile("xchgq %3, %1\n movq %2, %0" : "=&r"(r), "+m"(x.v), "+m"(y.v), "+r"(one));
			r0[i] = (u8)r;
		} else {
			asm volatile("xchgq %3, %1\n movq %2, %0" : "=&r"(r), "+m"(y.v), "+m"(x.v), "+r"(one));
			r1[i] = (u8)r;
		}
		meet(2);
		if (cpu == 0) {
			if (!r0[i] && !r1[i])
				forbidden++;
			x.v = y.v = 0;
			look_at_clock(i);
		}
	}
}

/* Message passing: once the flag is seen, so is the data. */
static void mp(unsigned cpu) {
	if (cpu > 1)
		return;
	for (u64 i = 1; i <= ROUNDS * 10; i++) {
		if (cpu == 0) {
			x.v = i;
			y.v = i;
		} else {
			u64 flag = y.v, data = x.v;
			if (data < flag)
				forbidden++;
		}
	}
}

/* Load buffering: not both loads see the other's later store. */
static void lb(unsigned cpu) {
	if (cpu > 1)
		return;
	start_rounds(cpu);
	for (unsigned i = 0; i < ROUNDS; i++) {
		meet(2);
		if (enough)
			break;
		if (cpu == 0) {
			r0[i] = (u8)x.v;
			y.v = 1;
		} else {
			r1[i] = (u8)y.v;
			x.v = 1;
		}
		meet(2);
		if (cpu == 0) {
			if (r0[i] && r1[i])
				forbidden++;
			x.v = y.v = 0;
			look_at_clock(i);
		}
	}
}

/* ---- locked access */
#define ADDS 50000
static volatile u64 counter __attribute__((aligned(64)));
static volatile u8 wide[8192] __attribute__((aligned(4096)));
static volatile u64 pair[2] __attribute__((aligned(16)));

static void add_aligned(unsigned cpu) {
	for (unsigned i = 0; i < ADDS; i++)
		asm volatile("lock incq %0" : "+m"(counter));
}

static void add_8(unsigned cpu) {
	for (unsigned i = 0; i < ADDS; i++)
		asm volatile("lock addb $1, %0\n lock xaddw %1, %2"
					 : "+m"(wide[5]), "+r"((u16){1}), "+m"(*(u16 *)(wide + 8)));
}

static void add_split(unsigned cpu) {
	for (unsigned i = 0; i < ADDS / 20; i++)
		asm volatile("lock incl %0" : "+m"(*(u32 *)(wide + 4094)));
}

static void add_line_split(unsigned cpu) {
	for (unsigned i = 0; i < ADDS / 20; i++)
		asm volatile("lock incq %0" : "+m"(*(u64 *)(wide + 61)));
}

static void add_cmpxchg(unsigned cpu) {
	for (unsigned i = 0; i < ADDS / 10; i++) {
		u64 old = counter;
		while (!__atomic_compare_exchange_n(&counter, &old, old + 1, false, __ATOMIC_SEQ_CST,
											__ATOMIC_SEQ_CST))
			;
	}
}

static void add_16b(unsigned cpu) {
	for (unsigned i = 0; i < ADDS / 10; i++) {
		u64 a = pair[0], d = pair[1];
		bool ok;
		do
			asm volatile("lea 1(%%rax), %%rbx\n lea -1(%%rdx), %%rcx\n lock cmpxchg16b %1\n sete %0"
						 : "=q"(ok), "+m"(*(u64(*)[2])pair), "+a"(a), "+d"(d)
						 :
						 : "rbx", "rcx", "cc");
		while (!ok);
	}
}

static void bits(unsigned cpu) {
	for (unsigned i = 0; i < ADDS / 10; i++)
		asm volatile("lock btcq %1, %0" : "+m"(counter) : "r"((u64)cpu));
}

static void lock_spin(unsigned cpu) {
	static volatile u32 lock;
	for (unsigned i = 0; i < ADDS / 20; i++) {
		while (__atomic_exchange_n(&lock, 1, __ATOMIC_SEQ_CST))
			asm volatile("pause");
		counter = counter + 1;
		__atomic_store_n(&lock, 0, __ATOMIC_SEQ_CST);
	}
}

/* ---- translations: a page is remapped, the others are told and must see the new one */
#define VIRT 0x8000000000ull
extern volatile u64 pml4[512];
static volatile u64 pdpt1[512] __attribute__((aligned(4096)));
static volatile u64 pd1[512] __attribute__((aligned(4096)));
static volatile u64 pt1[512] __attribute__((aligned(4096)));
static volatile u64 pages[2][512] __attribute__((aligned(4096)));
static volatile u32 acks, stale;

static void on_shootdown(struct frame *f) {
	asm volatile("invlpg (%0)" : : "r"(VIRT) : "memory");
	__atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
	lapic_write(0xb0, 0);
}

static volatile u64 generation; /* what the page shows after the last completed change */

static void shootdown(unsigned cpu) {
	volatile u64 *p = (volatile u64 *)VIRT;
	if (cpu == 0) {
		while (ready < cpus - 1)
			;
		for (unsigned i = 1; i <= 300; i++) {
			pages[i & 1][0] = i;
			pt1[0] = (u64)pages[i & 1] | 7;
			asm volatile("invlpg (%0)" : : "r"(VIRT) : "memory");
			acks = 0;
			ipi(0, 0xc4051);
			while (acks < cpus - 1)
				;
			__atomic_store_n(&generation, i, __ATOMIC_SEQ_CST);
		}
		stop = 1;
		return;
	}
	sti();
	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	while (!stop) {
		u64 least = __atomic_load_n(&generation, __ATOMIC_SEQ_CST);
		if (*p < least)
			__atomic_fetch_add(&stale, 1, __ATOMIC_SEQ_CST);
	}
	cli();
}

/* ---- code that another processor changes */
static u8 code[64] __attribute__((aligned(64))) = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $0, %eax; ret */
static volatile u32 version, seen_version;

static void cross_modify(unsigned cpu) {
	if (cpu > 1)
		return;
	u32 (*volatile f)(void) = (u32(*)(void))(word)code;
	for (u32 i = 1; i <= 500; i++) {
		if (cpu == 0) {
			*(volatile u32 *)(code + 1) = i; /* inside one aligned 8 bytes */
			__atomic_store_n(&version, i, __ATOMIC_SEQ_CST);
			while (seen_version < i)
				asm volatile("pause");
		} else {
			while (version < i)
				asm volatile("pause");
			u32 r[4];
			cpuid(0, 0, r); /* serializes, as the manual demands */
			if (f() != i)
				stale++;
			seen_version = i;
		}
	}
}

/* A loop in flight is patched to end. It counts: it is known to run before it is patched, and if it
 * has counted far on after that, the write was lost (QEMU does so, where this test runs as well: it
 * drops translations before it writes, and another processor can translate in between) and is made
 * again. */
#define FAR 10000000
static u8 spin[] __attribute__((aligned(64))) = {
	0xff, 0x07, /* 1: incl (%rdi) */
	0xeb, 0xfc, /* jmp 1b */
	0xc3,		/* ret */
};
static volatile u32 spun, ended, lost;
static void stop_loop(unsigned cpu) {
	if (cpu > 1)
		return;
	if (cpu == 1) {
		((void (*)(volatile u32 *))(word)spin)(&spun);
		ended = 1;
		return;
	}
	while (spun < 1000)
		asm volatile("pause");
	delay_us(5000);
	for (u32 at = spun;; at = spun, lost++) {
		((volatile u8 *)spin)[3] = 0; /* jmp to the next instruction */
		while (!ended && spun - at < FAR)
			asm volatile("pause");
		if (ended)
			break;
	}
}

static void order_tests(void) {
	together(sb_fence);
	check("store buffering with MFENCE", forbidden, 0);
	forbidden = 0;
	together(sb_lock);
	check("store buffering with XCHG", forbidden, 0);
	forbidden = 0;
	x.v = y.v = 0;
	together(mp);
	check("message passing", forbidden, 0);
	forbidden = 0;
	x.v = y.v = 0;
	together(lb);
	check("load buffering", forbidden, 0);
}

static void lock_tests(void) {
	together(add_aligned);
	check("LOCK INC", counter, (u64)ADDS * cpus);
	together(add_8);
	check("LOCK ADD of a byte", wide[5], (u8)(ADDS * cpus));
	check("LOCK XADD of a word", *(volatile u16 *)(wide + 8) != 0, 1);
	together(add_split);
	check("LOCK INC across pages", *(volatile u32 *)(wide + 4094), ADDS / 20 * cpus);
	*(volatile u64 *)(wide + 61) = 0;
	together(add_line_split);
	check("LOCK INC across lines", *(volatile u64 *)(wide + 61), ADDS / 20 * cpus);
	counter = 0;
	together(add_cmpxchg);
	check("LOCK CMPXCHG", counter, (u64)ADDS / 10 * cpus);
	together(add_16b);
	check("LOCK CMPXCHG16B, low", pair[0], (u64)ADDS / 10 * cpus);
	check("LOCK CMPXCHG16B, high", pair[1], -((u64)ADDS / 10 * cpus));
	counter = 0;
	together(bits);
	check("LOCK BTC", counter, 0);
	together(lock_spin);
	check("spin lock", counter, ADDS / 20 * cpus);
}

void guest(void) {
	/* How many there are is in CPUID: logical processors of the package. */
	u32 r[4];
	cpuid(1, 0, r);
	cpus = r[EBX] >> 16 & 0xff;
	if (cpus < 2)
		cpus = 2;
	pic_mask_all();
	handler[0x50] = on_ipi;
	handler[0x51] = on_shootdown;
	handler[NMI] = on_nmi;
	pml4[1] = (u64)pdpt1 | 7;
	pdpt1[0] = (u64)pd1 | 7;
	pd1[0] = (u64)pt1 | 7;
	pt1[0] = (u64)pages[0] | 7;
	check("all processors start", start_cpus(cpus, ap_loop), cpus);
	lapic_write(0xd0, 1u << 24);
	together(ipi_target);
	order_tests();
	lock_tests();
	ready = stop = 0;
	together(shootdown);
	check("no stale translation after a shootdown", stale, 0);
	together(cross_modify);
	check("cross-modified code", stale, 0);
	together(stop_loop);
	check("a running loop is patched by one write", lost, 0);
}
