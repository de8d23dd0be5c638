/* Local APIC and I/O APIC: xAPIC and x2APIC registers, timer modes, priorities, self IPIs, edge
 * and level interrupts. [SDM3 10] [82093AA] */
#include "test/guest/guest.h"

#define IOAPIC 0xfec00000ul
#define MSR_BASE 0x1b
#define MSR_DEADLINE 0x6e0

static u32 ioapic_get(u32 reg) {
	*(volatile u32 *)IOAPIC = reg;
	return *(volatile u32 *)(IOAPIC + 16);
}
static void ioapic_set(u32 reg, u32 v) {
	*(volatile u32 *)IOAPIC = reg;
	*(volatile u32 *)(IOAPIC + 16) = v;
}

static volatile u8 order[16];
static volatile unsigned norder;
static void note(struct frame *f) {
	if (norder < 16)
		order[norder] = (u8)f->vector;
	norder++;
	irqs[f->vector]++;
}
static void note_eoi(struct frame *f) {
	note(f);
	lapic_write(0xb0, 0);
}
static void note_eoi_msr(struct frame *f) {
	note(f);
	wrmsr(0x80b, 0);
}
static void window(void) {
	asm volatile("sti\n nop\n nop\n nop\n nop\n cli" : : : "memory");
}
static void self(u32 vector) {
	ipi(0, 0x40000 | vector);
}
static bool bit(u32 base, u32 vector) {
	return lapic_read(base + vector / 32 * 16) >> vector % 32 & 1;
}
static void forget(void) {
	norder = 0;
	memset((void *)order, 0, sizeof(order));
	memset((void *)irqs, 0, sizeof(irqs));
}

static void registers(void) {
	check("APIC base, BSP, enabled", rdmsr(MSR_BASE), 0xfee00900);
	check("id", lapic_read(0x20) >> 24, 0);
	check("version", lapic_read(0x30) & 0xf0, 0x10);
	lapic_write(0x80, 0x5a);
	check("TPR", lapic_read(0x80), 0x5a);
	check("CR8 is its upper half", get_cr8(), 5);
	set_cr8(9);
	check("and the other way", lapic_read(0x80), 0x90);
	check("PPR", lapic_read(0xa0), 0x90);
	set_cr8(0);
	lapic_write(0x380, 1000);
	check("initial count", lapic_read(0x380), 1000);
	lapic_write(0x380, 0);
	lapic_write(0x320, 0x10000 | 0x44);
	check("LVT timer", lapic_read(0x320), 0x10044);
	lapic_write(0xd0, 0x12ffffff);
	check("LDR", lapic_read(0xd0), 0x12000000);
	lapic_write(0xe0, 0x0fffffff);
	check("DFR", lapic_read(0xe0), 0x0fffffff);
	lapic_write(0xe0, 0xffffffff);
	/* A vector below 16 is an error that the ESR tells after it was written. */
	lapic_write(0x280, 0);
	self(5);
	lapic_write(0x280, 0);
	check("ESR: send illegal vector", lapic_read(0x280) & 0x20, 0x20);
	lapic_write(0x280, 0);
	check("ESR is clear after one more write", lapic_read(0x280), 0);
}

static void priorities(void) {
	for (unsigned v = 0x50; v < 0xa0; v++)
		handler[v] = note_eoi;
	cli();
	forget();
	self(0x51);
	self(0x81);
	self(0x61);
	self(0x81);
	check("IRR", bit(0x200, 0x51) && bit(0x200, 0x61) && bit(0x200, 0x81), 1);
	window();
	check("by priority, once each", order[0] << 16 | order[1] << 8 | order[2], 0x816151);
	check("no more", norder, 3);
	forget();
	set_cr8(6);
	self(0x65);
	self(0x71);
	window();
	check("CR8 holds off its own class", norder, 1);
	check("lets in higher ones", order[0], 0x71);
	set_cr8(0);
	window();
	check("the rest when CR8 falls", order[1], 0x65);

	/* Without EOI: only a higher class interrupts. */
	forget();
	handler[0x71] = note;
	self(0x71);
	window();
	check("ISR", bit(0x100, 0x71), 1);
	check("PPR follows", lapic_read(0xa0), 0x70);
	self(0x75);
	self(0x65);
	self(0x91);
	window();
	check("higher class only", norder << 8 | order[1], 0x291);
	lapic_write(0xb0, 0);
	window();
	check("the rest after EOI", norder << 16 | order[2] << 8 | order[3], 0x47565);
	handler[0x71] = note_eoi;

	/* Disabled by software: nothing comes, LVTs are masked. */
	forget();
	lapic_write(0x320, 0x50);
	lapic_write(0xf0, 0xff);
	check("disabled: LVT masked", lapic_read(0x320) >> 16 & 1, 1);
	self(0x55);
	window();
	check("disabled: nothing accepted", norder, 0);
	lapic_enable();
}

/* ---- timer */
static u32 pm_ticks(void) {
	return in32(pm_timer_port);
}

static u32 bus_khz;
static void calibrate(void) {
	lapic_write(0x3e0, 3); /* by 16 */
	lapic_write(0x320, 0x10000);
	lapic_write(0x380, ~0u);
	u32 from = lapic_read(0x390), start = pm_ticks();
	delay_us(20000);
	u32 ticks = from - lapic_read(0x390), pm = (pm_ticks() - start) & 0xffffff;
	bus_khz = (u32)((u64)ticks * 16 * 3579545 / pm / 1000);
	lapic_write(0x380, 0);
}

static void timer(void) {
	calibrate();
	check_range("bus clock in kHz", bus_khz, 900000, 1100000);
	handler[0x90] = note_eoi;
	forget();
	lapic_write(0x3e0, 0xb); /* by 1 */
	lapic_write(0x320, 0x90);
	u32 start = pm_ticks();
	lapic_write(0x380, bus_khz * 5);
	while (!irqs[0x90])
		sti_hlt();
	check("one shot takes its time", ((pm_ticks() - start) & 0xffffff) >= 17800, 1);
	check("current count is 0 then", lapic_read(0x390), 0);
	delay_us(12000);
	window();
	check("and it is over", irqs[0x90], 1);
	lapic_write(0x320, 0x20090);
	forget();
	start = pm_ticks();
	lapic_write(0x380, bus_khz * 2);
	while (irqs[0x90] < 5)
		sti_hlt();
	check("periodic takes its time", ((pm_ticks() - start) & 0xffffff) >= 35500, 1);
	lapic_write(0x320, 0x30090);
	delay_us(5000);
	forget();
	window();
	check("masked", irqs[0x90] <= 1, 1);
	lapic_write(0x380, 0);
	if (!has(1, ECX, 24)) {
		for (unsigned i = 0; i < 5; i++)
			skip("TSC deadline", "the CPU model has none");
		return;
	}
	lapic_write(0x320, 0x40090);
	forget();
	u64 due = rdtsc() + 10000000;
	wrmsr(MSR_DEADLINE, due);
	check("deadline is armed", rdmsr(MSR_DEADLINE), due);
	while (!irqs[0x90])
		sti_hlt();
	check("TSC deadline", rdtsc() >= due, 1);
	check("disarmed", rdmsr(MSR_DEADLINE), 0);
	forget();
	wrmsr(MSR_DEADLINE, 1);
	window();
	check("one that has passed comes at once", irqs[0x90], 1);
	/* A busy host lets one pass before it is taken back: then the same with a later one. */
	bool early = false;
	for (u64 ahead = 5000000; !early && ahead < 1ull << 36; ahead *= 2) {
		forget();
		due = rdtsc() + ahead;
		wrmsr(MSR_DEADLINE, due);
		wrmsr(MSR_DEADLINE, 0);
		early = rdtsc() < due;
		while (rdtsc() < due)
			;
		delay_us(1000);
		window();
	}
	check("0 disarms", !early || irqs[0x90], 0);
	lapic_write(0x320, 0x10000);
}

/* ---- I/O APIC, with COM1 on pin 4 as the source */
static volatile u32 seen_irr;
static void serial_level(struct frame *f) {
	note(f);
	seen_irr = ioapic_get(0x10 + 2 * 4);
	if (irqs[f->vector] == 3)
		out8(0x3f9, 0); /* no more reason */
	lapic_write(0xb0, 0);
}

static void serial_raise(void) {
	out8(0x3f9, 0);
	out8(0x3fc, 8);
	out8(0x3f9, 2);
	delay_us(200);
}

static void ioapic(void) {
	check("I/O APIC: 24 pins", ioapic_get(1) >> 16 & 0xff, 23);
	ioapic_set(0x10 + 2 * 4, 0x10065);
	ioapic_set(0x11 + 2 * 4, 0x0f000000);
	check("entry, low", ioapic_get(0x10 + 2 * 4), 0x10065);
	check("entry, high", ioapic_get(0x11 + 2 * 4), 0x0f000000);
	ioapic_set(0x11 + 2 * 4, 0);
	forget();
	serial_raise();
	window();
	check("masked edge", norder, 0);
	ioapic_set(0x10 + 2 * 4, 0x65);
	serial_raise();
	window();
	check("edge", irqs[0x65], 1);
	window();
	check("no second one while the line stays up", irqs[0x65], 1);
	out8(0x3f9, 0);
	/* Level: comes again after each EOI until the line falls. */
	handler[0x66] = serial_level;
	ioapic_set(0x10 + 2 * 4, 0x8066);
	forget();
	serial_raise();
	window();
	window();
	window();
	check("level: until the line falls", irqs[0x66], 3);
	check("remote IRR until EOI", seen_irr >> 14 & 1, 1);
	check("clear at last", ioapic_get(0x10 + 2 * 4) >> 14 & 1, 0);
	ioapic_set(0x10 + 2 * 4, 0x18066);
	serial_raise();
	window();
	check("masked level", irqs[0x66], 3);
	forget();
	ioapic_set(0x10 + 2 * 4, 0x8066);
	window();
	check("unmasked while up", irqs[0x66] >= 1, 1);
	out8(0x3f9, 0);
	out8(0x3fc, 0);
	window();
	ioapic_set(0x10 + 2 * 4, 0x10000);
	/* Logical destination, and lowest priority. */
	lapic_write(0xd0, 0x01000000);
	ioapic_set(0x11 + 2 * 4, 0x01000000);
	ioapic_set(0x10 + 2 * 4, 0x965);
	forget();
	serial_raise();
	window();
	check("logical, lowest priority", irqs[0x65], 1);
	ioapic_set(0x10 + 2 * 4, 0x10000);
	out8(0x3f9, 0);
	out8(0x3fc, 0);
}

static void x2apic(void) {
	if (!has(1, ECX, 21)) {
		for (unsigned i = 0; i < 12; i++)
			skip("x2APIC", "the CPU model has none");
		return;
	}
	FAULTS("x2APIC register in xAPIC mode", GP, 0, "mov $0x802, %%ecx\n rdmsr");
	wrmsr(MSR_BASE, rdmsr(MSR_BASE) | 0x400);
	check("id", rdmsr(0x802), 0);
	check("version", rdmsr(0x803) & 0xf0, 0x10);
	check("LDR follows the id", rdmsr(0x80d), 1);
	FAULTS("write to the id", GP, 0, "mov $0x802, %%ecx\n xor %%edx, %%edx\n wrmsr");
	FAULTS("reserved register", GP, 0, "mov $0x80e, %%ecx\n rdmsr");
	FAULTS("EOI of other than 0", GP, 0,
		   "mov $0x80b, %%ecx\n xor %%edx, %%edx\n mov $1, %%eax\n wrmsr");
	FAULTS("reserved bits of the TPR", GP, 0,
		   "mov $0x808, %%ecx\n xor %%edx, %%edx\n mov $0x100, %%eax\n wrmsr");
	handler[0x77] = note_eoi_msr;
	forget();
	wrmsr(0x83f, 0x77); /* self IPI */
	window();
	check("self IPI register", irqs[0x77], 1);
	wrmsr(0x830, 0x77); /* to id 0 */
	window();
	check("ICR in one write", irqs[0x77], 2);
	FAULTS("back to xAPIC mode directly", GP, 0,
		   "mov $0x1b, %%ecx\n rdmsr\n and $~0x400, %%eax\n wrmsr");
	wrmsr(MSR_BASE, rdmsr(MSR_BASE) & ~0xc00ull);
	check("off", rdmsr(MSR_BASE), 0xfee00100);
	wrmsr(MSR_BASE, rdmsr(MSR_BASE) | 0x800);
	check("and on again", lapic_read(0x20), 0);
}

void guest(void) {
	pic_mask_all();
	lapic_enable();
	registers();
	priorities();
	timer();
	ioapic();
	x2apic();
}
