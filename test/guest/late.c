/* Index registers and two processors: the CMOS's port and the I/O APIC's window, which an engine
 * may hold back until somebody needs them (engine/kvm/late.c). A processor writes an index and
 * sends an interrupt; the other one's handler reads the data: the write is done by then, since an
 * OUT and an uncached store are in order with what the processor stores after them
 * [SDM3 8.1.2.2, 8.2.5, 11.3]. Neither needs the engine's help where local APICs are the
 * hardware's. Then both use them under a lock in memory. */
#include "test/guest/guest.h"

#define IOAPIC 0xfec00000ul
#define ROUNDS 2000
#define SECOND 3579545 /* of the PM timer, which counts to 4.7 */

#define CMOS_FREE 0x40 /* 16 bytes that nobody else uses */

static void select_cmos(unsigned n) {
	out8(0x70, (u8)(CMOS_FREE + n));
}
static u32 cmos(void) {
	return in8(0x71);
}
static void select_ioapic(unsigned n) {
	*(volatile u32 *)IOAPIC = 0x10 + 2 * n;
}
static u32 ioapic(void) {
	return *(volatile u32 *)(IOAPIC + 16);
}

static const struct device {
	void (*select)(unsigned n);
	u32 (*data)(void);
	u32 first; /* the data of index n is n more */
} devices[2] = {
	{select_cmos, cmos, 0xa0}, {select_ioapic, ioapic, 0x10060}, /* masked, vectors 60h.. */
};

static void fill(void) {
	for (unsigned n = 0; n < 16; n++) {
		select_cmos(n);
		out8(0x71, (u8)(devices[0].first + n));
		select_ioapic(n);
		*(volatile u32 *)(IOAPIC + 16) = devices[1].first + n;
	}
}

/* ---- an index, then an interrupt */
static const struct device *volatile dev;
static volatile u32 want, wrong, answers, stop, here;

static void answer(struct frame *f) {
	if (dev->data() != want)
		wrong++;
	if (f->vector != NMI)
		lapic_write(0xb0, 0);
	answers++;
}

/* Processor 1: busy at times, halted at times. Its answers count, whatever it does. */
static void second(unsigned cpu) {
	lapic_enable();
	here = 1;
	while (!stop) {
		sti();
		for (unsigned i = 0; i < 200 && !stop; i++)
			asm volatile("pause");
		/* An NMI may come just before the halt; the one after it ends it then. */
		cli();
		if (!stop)
			sti_hlt();
	}
	here = 2;
	while (stop == 1)
		asm volatile("pause");
}

/* At most a second, on a busy host too, but one round at least. How many answers
 * there were beyond one a round. */
static u32 surplus(const struct device *d, u32 icr) {
	u32 began = in32(pm_timer_port), n = 0;
	dev = d;
	wrong = answers = 0;
	do {
		unsigned at = (n * 5 + 3) & 15;
		want = d->first + at;
		d->select(at);
		ipi(1, icr);
		while (answers == n)
			asm volatile("pause");
		n++;
	} while (n < ROUNDS && ((in32(pm_timer_port) - began) & 0xffffff) < SECOND);
	return answers - n;
}

/* ---- a lock */
static volatile u32 lock, turns[2], differs[2];

static void under_lock(unsigned cpu) {
	u32 began = in32(pm_timer_port);
	for (u32 n = 0; n < ROUNDS; n++) {
		const struct device *d = &devices[n & 1];
		unsigned at = (n * 7 + cpu) & 15;
		while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
			asm volatile("pause");
		d->select(at);
		if (d->data() != d->first + at)
			differs[cpu]++;
		__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
		turns[cpu] = n + 1;
		if (((in32(pm_timer_port) - began) & 0xffffff) > SECOND)
			break;
	}
}

static void processor1(unsigned cpu) {
	second(cpu);
	under_lock(1);
	here = 3;
	for (;;)
		asm volatile("cli\n hlt");
}

void guest(void) {
	pic_mask_all();
	handler[0x50] = handler[NMI] = answer;
	fill();
	check("both processors start", start_cpus(2, processor1), 2);
	while (here != 1)
		asm volatile("pause");
	check("CMOS, IPI: an answer a round", surplus(&devices[0], 0x4050), 0);
	check("CMOS, IPI: wrong data", wrong, 0);
	check("CMOS, NMI: an answer a round", surplus(&devices[0], 0x4400), 0);
	check("CMOS, NMI: wrong data", wrong, 0);
	check("I/O APIC, IPI: an answer a round", surplus(&devices[1], 0x4050), 0);
	check("I/O APIC, IPI: wrong data", wrong, 0);
	check("I/O APIC, NMI: an answer a round", surplus(&devices[1], 0x4400), 0);
	check("I/O APIC, NMI: wrong data", wrong, 0);
	stop = 1;
	dev = &devices[0];
	select_cmos(0);
	want = devices[0].first;
	/* Out of its halt. The last NMI may have come just before the halt and this interrupt in its
	 * wake, before the halt too: then it takes another one. */
	for (u32 i = 0; here != 2; i++) {
		if (i % 4096 == 0)
			ipi(1, 0x4050);
		asm volatile("pause");
	}
	stop = 2;
	under_lock(0);
	while (here != 3)
		asm volatile("pause");
	check("with a lock: both had turns", turns[0] && turns[1], 1);
	check("with a lock: wrong data, processor 0", differs[0], 0);
	check("with a lock: wrong data, processor 1", differs[1], 0);
}
