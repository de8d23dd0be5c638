/* What test guests share: reporting, traps, descriptors, ports.
 *
 * A guest reports one line a check, "ok name" or "FAIL name: got x want y", to port E9h,
 * and ends with done(). The runner (main.c) compares the number of lines with the table's.
 *
 * Any exception that no handler is set for is noted in `trap` and resumes behind the
 * TRY() that was running; without one it ends the guest with a line that says where. */
#ifndef TEST_GUEST_GUEST_H
#define TEST_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long word; /* a general register */

/* ---- reporting (guest.c) */
void print(const char *s);
void print_hex(u64 n);
void check(const char *name, u64 got, u64 want);
void check_range(const char *name, u64 got, u64 low, u64 high); /* low <= got <= high */
void skip(const char *name, const char *why);					/* counts as a check */
void done(void) __attribute__((noreturn));

/* ---- traps */
enum {
	DE = 0,
	DB = 1,
	NMI = 2,
	BP = 3,
	OF = 4,
	BR = 5,
	UD = 6,
	NM = 7,
	DF = 8,
	TS = 10,
	NP = 11,
	SS = 12,
	GP = 13,
	PF = 14,
	MF = 16,
	AC = 17,
	MC = 18,
	XM = 19,
	NONE = 0xfff, /* no trap at all */
};

#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_R 8
#define PF_I 16

struct frame {
#ifdef __x86_64__
	word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
	word di, si, bp, unused, bx, dx, cx, ax, gs, fs, es, ds;
#endif
	word vector, error, ip, cs, flags, sp, ss;
	word v86_es, v86_ds, v86_fs, v86_gs; /* of virtual-8086 mode */
};

/* The last trap that TRY() caught. In 32-bit guests `frame.sp` and on are there only if the
 * privilege changed. */
extern volatile struct trap {
	word vector, error, cr2, dr6;
	struct frame frame;
} trap;
extern word trap_sp, trap_bp, trap_resume;

/* Called instead, with interrupts off; returns to where the trap came from. */
extern void (*volatile handler[256])(struct frame *f);
extern volatile u32 irqs[256]; /* count_irq() counts here */
void count_irq(struct frame *f);

#ifdef __x86_64__
#define TRY(insn, ...)                                                                             \
	do {                                                                                           \
		trap.vector = NONE;                                                                        \
		trap.error = 0;                                                                            \
		asm volatile("mov %%rsp, trap_sp\n mov %%rbp, trap_bp\n movq $987f, trap_resume\n" insn    \
					 "\n987: movq $0, trap_resume"                                                 \
					 :                                                                             \
					 : __VA_ARGS__                                                                 \
					 : "rax", "rcx", "rdx", "memory", "cc");                                       \
	} while (0)
void try_user(word rip, word rsp, word cs, word flags, word arg);
#else
#define TRY(insn, ...)                                                                             \
	do {                                                                                           \
		trap.vector = NONE;                                                                        \
		trap.error = 0;                                                                            \
		asm volatile("mov %%esp, trap_sp\n mov %%ebp, trap_bp\n movl $987f, trap_resume\n" insn    \
					 "\n987: movl $0, trap_resume"                                                 \
					 :                                                                             \
					 : __VA_ARGS__                                                                 \
					 : "eax", "ecx", "edx", "memory", "cc");                                       \
	} while (0)
void try_frame(const word *frame, word n);
#endif
void check_trap(const char *name, unsigned vector, word error);
#define FAULTS(name, vector, error, ...)                                                           \
	do {                                                                                           \
		TRY(__VA_ARGS__);                                                                          \
		check_trap(name, vector, error);                                                           \
	} while (0)

/* Ring 3 at `code` with a stack and flags; returns when it traps. */
void user(void (*code)(void), word flags);
extern u8 user_stack[8192];
#define USER_SP ((word)user_stack + sizeof(user_stack) - 64)

/* ---- descriptors */
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_UCODE32 0x1b
#define SEL_UDATA 0x23
#define SEL_TSS 0x30
#ifdef __x86_64__
#define SEL_UCODE 0x2b
#define SEL_CODE32 0x40
#define SEL_FREE 0x48 /* from here on the GDT is the case's */
#else
#define SEL_UCODE 0x1b
#define SEL_FREE 0x38
#endif
extern volatile u64 gdt[64];
struct gate {
	u16 low, sel, attr, mid;
#ifdef __x86_64__
	u32 high, zero;
#endif
};
extern volatile struct gate idt[256];
extern u16 gdt_pointer[], idt_pointer[];
extern u8 trap_stubs[];

/* access: P, DPL, S, type; flags: 8 = G, 4 = D/B, 2 = L. */
static inline u64 desc(u32 base, u32 limit, u8 access, u8 flags) {
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
		   (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}
void set_gate(unsigned vector, word target, u16 sel, u16 attr);
#define GATE_INT 0x8e00
#define GATE_TRAP 0x8f00
#define GATE_DPL3 0x6000

struct tss {
#ifdef __x86_64__
	u32 reserved0;
	u64 rsp[3], reserved1, ist[7], reserved2;
	u16 reserved3, iomap;
	u8 bitmap[8192 + 1];
} __attribute__((packed));
#else
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
		edi, es, cs, ss, ds, fs, gs, ldt;
	u16 t, iomap;
	u8 redirect[32], bitmap[8192 + 1];
};
#endif
extern struct tss tss;

/* ---- instructions */
static inline void out8(u16 port, u8 v) {
	asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out16(u16 port, u16 v) {
	asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out32(u16 port, u32 v) {
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline u8 in8(u16 port) {
	u8 v;
	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline u16 in16(u16 port) {
	u16 v;
	asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline u32 in32(u16 port) {
	u32 v;
	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline u64 rdmsr(u32 index) {
	u32 lo, hi;
	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index) : "memory");
	return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 index, u64 v) {
	asm volatile("wrmsr" : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline u64 rdtsc(void) {
	u32 lo, hi;
	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}
static inline void cpuid(u32 leaf, u32 subleaf, u32 r[4]) {
	asm volatile("cpuid"
				 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
				 : "a"(leaf), "c"(subleaf));
}
static inline bool has(u32 leaf, unsigned reg, unsigned bit) {
	u32 r[4];
	cpuid(leaf & 0x80000000, 0, r);
	if (leaf > r[0])
		return false;
	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}
enum { EAX, EBX, ECX, EDX };
#define CR_ACCESS(n)                                                                               \
	static inline word get_cr##n(void) {                                                           \
		word v;                                                                                    \
		asm volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                 \
		return v;                                                                                  \
	}                                                                                              \
	static inline void set_cr##n(word v) {                                                         \
		asm volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                     \
	}
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
#ifdef __x86_64__
CR_ACCESS(8)
#endif
#define DR_ACCESS(n)                                                                               \
	static inline word get_dr##n(void) {                                                           \
		word v;                                                                                    \
		asm volatile("mov %%dr" #n ", %0" : "=r"(v) : : "memory");                                 \
		return v;                                                                                  \
	}                                                                                              \
	static inline void set_dr##n(word v) {                                                         \
		asm volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                     \
	}
DR_ACCESS(0)
DR_ACCESS(1)
DR_ACCESS(2)
DR_ACCESS(3)
DR_ACCESS(6)
DR_ACCESS(7)
static inline word get_flags(void) {
	word f;
	asm volatile("pushf\n pop %0" : "=r"(f) : : "memory");
	return f;
}
static inline void set_flags(word f) {
	asm volatile("push %0\n popf" : : "r"(f) : "memory", "cc");
}
#define cli() asm volatile("cli" : : : "memory")
#define sti() asm volatile("sti\n nop" : : : "memory")
#define sti_hlt() asm volatile("sti\n hlt\n cli" : : : "memory")
#define barrier() asm volatile("" : : : "memory")

/* ---- local APIC, in xAPIC mode (apic.c would be one function; it is here) */
#define LAPIC 0xfee00000u
static inline u32 lapic_read(u32 reg) {
	return *(volatile u32 *)(word)(LAPIC + reg);
}
static inline void lapic_write(u32 reg, u32 v) {
	*(volatile u32 *)(word)(LAPIC + reg) = v;
}
void lapic_enable(void);	 /* software enable, LINT0 masked, TPR 0 */
void pic_mask_all(void);	 /* 8259 initialised to vectors 20h-2fh, all masked */
void ipi(u32 dest, u32 low); /* and waits for it to be sent */

/* Starts all others, which call `code` with their number; returns how many came. */
unsigned start_cpus(unsigned cpus, void (*code)(unsigned cpu));
extern volatile u32 ap_count;

/* The PM timer, 3.579545 MHz. */
extern u16 pm_timer_port;
void delay_us(u32 us);

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);

void guest(void); /* the case */

#endif
