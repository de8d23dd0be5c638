/* See guest.h. */
#include "test/guest/guest.h"

volatile struct trap trap;
word trap_sp, trap_bp, trap_resume;
void (*volatile handler[256])(struct frame *f);
volatile u32 irqs[256];
volatile struct gate idt[256] __attribute__((aligned(4096)));
struct tss tss __attribute__((aligned(4096)));
u8 user_stack[8192] __attribute__((aligned(16)));
u16 pm_timer_port = 0x608;

void guest_main(void);
void trap_entry(struct frame *f);
void trap_leave(struct frame *f) __attribute__((noreturn));
void ap_main(unsigned cpu);
extern const u8 ap_start[], ap_end[];

void print(const char *s) {
	while (*s)
		out8(0xe9, (u8)*s++);
}

void print_hex(u64 n) {
	unsigned shift = 60;
	while (shift && !(n >> shift & 0xf))
		shift -= 4;
	for (;; shift -= 4) {
		out8(0xe9, (u8) "0123456789abcdef"[n >> shift & 0xf]);
		if (!shift)
			return;
	}
}

void check(const char *name, u64 got, u64 want) {
	if (got == want) {
		print("ok ");
		print(name);
	} else {
		print("FAIL ");
		print(name);
		print(": got ");
		print_hex(got);
		print(" want ");
		print_hex(want);
	}
	print("\n");
}

void check_range(const char *name, u64 got, u64 low, u64 high) {
	if (got >= low && got <= high) {
		check(name, 0, 0);
		return;
	}
	print("FAIL ");
	print(name);
	print(": got ");
	print_hex(got);
	print(" want ");
	print_hex(low);
	print(" to ");
	print_hex(high);
	print("\n");
}

void skip(const char *name, const char *why) {
	print("skip ");
	print(name);
	print(": ");
	print(why);
	print("\n");
}

void check_trap(const char *name, unsigned vector, word error) {
	/* One number, so that a failure shows both: vector, then eight digits of error code. */
	check(name, (u64)trap.vector << 32 | (u32)trap.error, (u64)vector << 32 | (u32)error);
}

void done(void) {
	out32(0xf4, 0);
	for (;;)
		asm volatile("cli\n hlt");
}

void count_irq(struct frame *f) {
	irqs[f->vector]++;
}

void trap_entry(struct frame *f) {
	if (handler[f->vector]) {
		handler[f->vector](f);
		return;
	}
	word *to = (word *)&trap.frame, *from = (word *)f;
	for (unsigned i = 0; i < sizeof(*f) / sizeof(word); i++)
		to[i] = from[i];
	trap.vector = f->vector;
	trap.error = f->error;
	trap.cr2 = get_cr2();
	trap.dr6 = get_dr6();
	if (trap_resume)
		trap_leave(f);
	print("UNEXPECTED trap ");
	print_hex(f->vector);
	print(" error ");
	print_hex(f->error);
	print(" at ");
	print_hex(f->cs);
	print(":");
	print_hex(f->ip);
	print(" cr2 ");
	print_hex(trap.cr2);
	print("\n");
	done();
}

void set_gate(unsigned vector, word target, u16 sel, u16 attr) {
	idt[vector].low = (u16)target;
	idt[vector].mid = (u16)(target >> 16);
	idt[vector].sel = sel;
	idt[vector].attr = attr;
#ifdef __x86_64__
	idt[vector].high = (u32)(target >> 32);
	idt[vector].zero = 0;
#endif
}

void user(void (*code)(void), word flags) {
	trap.vector = NONE;
	trap.error = 0;
#ifdef __x86_64__
	try_user((word)code, USER_SP, SEL_UCODE, flags, 0);
#else
	const word frame[] = {SEL_UDATA, USER_SP, flags, SEL_UCODE, (word)code};
	try_frame(frame, 5);
#endif
}

static u8 ring0_stack[16384] __attribute__((aligned(16)));

static void set_tss(void) {
	word base = (word)&tss;
	word top = (word)ring0_stack + sizeof(ring0_stack);
	gdt[SEL_TSS / 8] = desc((u32)base, sizeof(tss) - 1, 0x89, 0);
#ifdef __x86_64__
	gdt[SEL_TSS / 8 + 1] = base >> 32;
	tss.rsp[0] = top;
	tss.iomap = offsetof(struct tss, bitmap);
#else
	tss.esp0 = top;
	tss.ss0 = SEL_DATA;
	tss.iomap = offsetof(struct tss, bitmap);
#endif
	memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
}

void guest_main(void) {
	for (unsigned i = 0; i < 256; i++)
		set_gate(i, (word)trap_stubs + i * 16, SEL_CODE, GATE_INT);
	asm volatile("lidt %0" : : "m"(*(const char(*)[10])idt_pointer));
	set_tss();
	guest();
	done();
}

void lapic_enable(void) {
	lapic_write(0x350, 0x10000);
	lapic_write(0x80, 0);
	lapic_write(0xf0, 0x1ff);
}

void pic_mask_all(void) {
	out8(0x20, 0x11);
	out8(0xa0, 0x11);
	out8(0x21, 0x20);
	out8(0xa1, 0x28);
	out8(0x21, 4);
	out8(0xa1, 2);
	out8(0x21, 1);
	out8(0xa1, 1);
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
}

void ipi(u32 dest, u32 low) {
	lapic_write(0x310, dest << 24);
	lapic_write(0x300, low);
	while (lapic_read(0x300) & 0x1000)
		;
}

static void (*volatile ap_code)(unsigned cpu);
static volatile u32 ap_here;

void ap_main(unsigned cpu) {
	__atomic_fetch_add(&ap_here, 1, __ATOMIC_SEQ_CST);
	ap_code(cpu);
}

unsigned start_cpus(unsigned cpus, void (*code)(unsigned cpu)) {
	ap_code = code;
	memcpy((void *)0x8000, ap_start, (size_t)(ap_end - ap_start));
	lapic_enable();
	ipi(0, 0xc4500); /* INIT to all but self */
	delay_us(10000);
	ipi(0, 0xc4608);
	for (unsigned i = 0; i < 1000 && ap_here + 1 < cpus; i++)
		delay_us(1000);
	return ap_here + 1;
}

void delay_us(u32 us) {
	u32 ticks = us * 3 + us / 2 + us / 16 + us / 64 + 2, start = in32(pm_timer_port);
	while (((in32(pm_timer_port) - start) & 0xffffff) < ticks)
		;
}

void *memset(void *p, int c, size_t n) {
	u8 *b = p;
	while (n--)
		*b++ = (u8)c;
	return p;
}

void *memcpy(void *d, const void *s, size_t n) {
	u8 *to = d;
	const u8 *from = s;
	while (n--)
		*to++ = *from++;
	return d;
}

int memcmp(const void *a, const void *b, size_t n) {
	const u8 *x = a, *y = b;
	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x < *y ? -1 : 1;
	return 0;
}
