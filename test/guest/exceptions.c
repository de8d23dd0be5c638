/* Exceptions in 64-bit mode: vectors, error codes, priorities, where RIP points, debug
 * registers and single steps, interrupt shadows. [SDM3 6.9, 6.15, 17.2, 17.3] */
#include "test/guest/guest.h"

static volatile u64 memory[16] __attribute__((aligned(64)));
static u8 fpu_image[512] __attribute__((used, aligned(64)));

/* Checks vector and error, and that RIP is at the label 2 of the code. */
#define AT_START(name, vector, error, insn, ...)                                                   \
	do {                                                                                           \
		word start_;                                                                               \
		TRY("lea 2f(%%rip), %%rcx\n mov %%rcx, at_start\n" insn, __VA_ARGS__);                     \
		start_ = at_start;                                                                         \
		check_trap(name, vector, error);                                                           \
		check(name ", RIP", trap.frame.ip - start_, 0);                                            \
	} while (0)
word at_start;

static void user_cpuid(void) {
	asm volatile("mov %%cr0, %%rax" : : : "rax");
}

static void plain(void) {
	AT_START("#DE: division by 0", DE, 0, "xor %%edx, %%edx\n 2: divl %%edx", "i"(0));
	AT_START("#DE: quotient too large", DE, 0, "mov $-1, %%edx\n 2: divl %%edx", "i"(0));
	FAULTS("#DE: IDIV of the smallest by -1", DE, 0,
		   "mov $0x80000000, %%eax\n cltd\n mov $-1, %%ecx\n idivl %%ecx");
	FAULTS("AAM is gone", UD, 0, ".byte 0xd4, 0");
	FAULTS("#BP", BP, 0, "int3");
	check("#BP's RIP is behind", *(u8 *)(trap.frame.ip - 1), 0xcc);
	FAULTS("INT 3 of two bytes", BP, 0, ".byte 0xcd, 3");
	FAULTS("INTO is gone", UD, 0, ".byte 0xce");
	FAULTS("BOUND is EVEX", UD, 0, ".byte 0x62, 0xff, 0xff, 0xff, 0xff, 0xff");
	FAULTS("UD1", UD, 0, ".byte 0x0f, 0xb9, 0xc0");
	FAULTS("UD0", UD, 0, ".byte 0x0f, 0xff, 0xc0");
	FAULTS("LOCK of a register", UD, 0, ".byte 0xf0, 0x01, 0xc0");
	FAULTS("LOCK MOV", UD, 0, ".byte 0xf0, 0x89, 0x00");
	FAULTS("LOCK NOP", UD, 0, ".byte 0xf0, 0x90");
	FAULTS("LOCK CMP", UD, 0, "lea memory(%%rip), %%rax\n .byte 0xf0, 0x39, 0x00");
	FAULTS("LOCK BT", UD, 0, "lea memory(%%rip), %%rax\n .byte 0xf0, 0x0f, 0xa3, 0x00");
	FAULTS("LOCK BTS is fine", NONE, 0, "lock btsl $3, memory");
	FAULTS("15 bytes", NONE, 0, ".fill 14, 1, 0x66\n nop");
	FAULTS("16 bytes", GP, 0, ".fill 15, 1, 0x66\n nop");
	FAULTS("CR8 of 256", GP, 0, "mov %0, %%cr8", "r"(0x100ull));
	FAULTS("CMPXCHG16B, not aligned", GP, 0, "lea memory+8(%%rip), %%rax\n cmpxchg16b (%%rax)");
	FAULTS("MOVAPS, not aligned", GP, 0, "lea memory+8(%%rip), %%rax\n movaps (%%rax), %%xmm0");
	FAULTS("MOVUPS, not aligned", NONE, 0, "lea memory+8(%%rip), %%rax\n movups (%%rax), %%xmm0");
	user(user_cpuid, 2);
	check_trap("MOV from CR0 in ring 3", GP, 0);
	FAULTS("RDTSC", NONE, 0, "rdtsc");
	FAULTS("POPF keeps running", NONE, 0, "pushf\n popf");
	FAULTS("IN in ring 0", NONE, 0, "in $0xe9, %%al");
	AT_START("#UD before #PF", UD, 0, "2: .byte 0xf0, 0x8b, 0x04, 0x25, 0, 0, 0, 0x70", "i"(0));
	FAULTS("#GP of a non-canonical JMP", GP, 0, "mov $1, %%eax\n shl $62, %%rax\n jmp *%%rax");
}

/* ---- coprocessor */
static void fpu(void) {
	word cr0 = get_cr0(), cr4 = get_cr4();
	set_cr0((cr0 & ~0xeul) | 0x22); /* NE, MP */
	FAULTS("x87 runs", NONE, 0, "fninit\n fldpi");
	set_cr0(get_cr0() | 8);
	FAULTS("TS: x87", NM, 0, "fnop");
	FAULTS("TS: SSE", NM, 0, "movaps %%xmm0, %%xmm1");
	FAULTS("TS: WAIT with MP", NM, 0, "fwait");
	FAULTS("TS: FXSAVE", NM, 0, "fxsave fpu_image");
	set_cr0(get_cr0() & ~2ul);
	FAULTS("TS: WAIT without MP", NONE, 0, "fwait");
	asm volatile("clts");
	check("CLTS", get_cr0() & 8, 0);
	set_cr0(get_cr0() | 4);
	FAULTS("EM: x87", NM, 0, "fnop");
	FAULTS("EM: SSE", UD, 0, "movaps %%xmm0, %%xmm1");
	FAULTS("EM: WAIT", NONE, 0, "fwait");
	set_cr0((cr0 & ~0xeul) | 0x22);
	set_cr4(cr4 & ~0x200ul);
	FAULTS("no OSFXSR: SSE", UD, 0, "movaps %%xmm0, %%xmm1");
	set_cr4(cr4);
	u16 cw = 0x37b; /* zero divide unmasked */
	asm volatile("fninit\n fldcw %0" : : "m"(cw));
	FAULTS("#MF waits for the next x87", NONE, 0, "fld1\n fldz\n fdivrp");
	FAULTS("#MF", MF, 0, "fnop");
	FAULTS("#MF on WAIT", MF, 0, "fwait");
	FAULTS("FNSTSW does not take it", NONE, 0, "fnstsw %%ax");
	FAULTS("FNCLEX clears it", NONE, 0, "fnclex\n fwait");
	asm volatile("fninit");
	u32 mxcsr = 0x1d80; /* zero divide unmasked */
	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	FAULTS("#XM", XM, 0,
		   "xorps %%xmm1, %%xmm1\n pcmpeqd %%xmm0, %%xmm0\n psrld $25, %%xmm0\n"
		   "pslld $23, %%xmm0\n divps %%xmm1, %%xmm0");
	set_cr4(cr4 & ~0x400ul);
	FAULTS("#UD without OSXMMEXCPT", UD, 0,
		   "xorps %%xmm1, %%xmm1\n pcmpeqd %%xmm0, %%xmm0\n psrld $25, %%xmm0\n"
		   "pslld $23, %%xmm0\n divps %%xmm1, %%xmm0");
	set_cr4(cr4);
	mxcsr = 0x1f80;
	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	static u32 bad_mxcsr __attribute__((used)) = 0x10000;
	FAULTS("LDMXCSR of reserved bits", GP, 0, "ldmxcsr %0", "m"(bad_mxcsr));
	set_cr0(cr0);
}

/* ---- alignment */
static void user_unaligned(void) {
	asm volatile("pushf\n orl $0x40000, (%%rsp)\n popf\n mov 1(%%rsp), %%eax\n int3" : : : "rax");
}

static void user_aligned(void) {
	asm volatile("pushf\n orl $0x40000, (%%rsp)\n popf\n mov 8(%%rsp), %%eax\n int3" : : : "rax");
}

static void user_unaligned_pf(void) {
	asm volatile("pushf\n orl $0x40000, (%%rsp)\n popf\n mov $0x7000000001, %%rcx\n"
				 "mov (%%rcx), %%al"
				 :
				 :
				 : "rax", "rcx");
}

static void alignment(void) {
	idt[BP].attr |= GATE_DPL3;
	user(user_unaligned, 2);
	check_trap("AC without AM", BP, 0);
	set_cr0(get_cr0() | 1 << 18);
	user(user_unaligned, 2);
	check_trap("#AC", AC, 0);
	user(user_aligned, 2);
	check_trap("aligned with AC", BP, 0);
	user(user_unaligned_pf, 2);
	check_trap("a byte is aligned", PF, PF_U);
	FAULTS("no #AC in ring 0", NONE, 0,
		   "pushf\n pushf\n orl $0x40000, (%%rsp)\n popf\n mov 1(%%rsp), %%eax\n popf");
	set_cr0(get_cr0() & ~(1ul << 18));
}

/* ---- debug */
static volatile unsigned steps;
static volatile word step_ip[8], step_dr6;

static void on_step(struct frame *f) {
	if (steps < 8)
		step_ip[steps] = f->ip;
	steps++;
	step_dr6 = get_dr6();
	set_dr6(0xffff0ff0);
	if (steps >= 6)
		f->flags &= ~0x100ul;
}

static void user_gd(void) {
	asm volatile("mov %%dr7, %%rax" : : : "rax");
}

static void single_step(void) {
	u64 rcx = 5;
	handler[DB] = on_step;
	set_dr6(0xffff0ff0);
	steps = 0;
	/* TF is seen after the instruction that follows POPF. */
	asm volatile("pushf\n orl $0x100, (%%rsp)\n popf\n 1: nop\n 2: nop\n 3: nop\n"
				 "pushf\n andl $~0x100, (%%rsp)\n popf\n"
				 "lea 2b(%%rip), %%rax\n mov %%rax, at_start"
				 :
				 :
				 : "rax", "memory", "cc");
	check("single steps", steps, 6);
	check("the first is after one instruction", step_ip[0], at_start);
	check("DR6.BS", step_dr6, 0xffff4ff0);
	steps = 0;
	asm volatile("lea memory(%%rip), %%rdi\n xor %%eax, %%eax\n mov $3, %%ecx\n"
				 "pushf\n orl $0x100, (%%rsp)\n popf\n rep stosb\n"
				 "pushf\n andl $~0x100, (%%rsp)\n popf\n"
				 : "+c"(rcx)
				 :
				 : "rax", "rdi", "memory", "cc");
	check("REP steps by elements", steps, 6);
	check("RIP stays at REP", step_ip[0], step_ip[1]);
	check("and moves on after the last", step_ip[2] - step_ip[1], 2);
	steps = 0;
	asm volatile("mov %%ss, %%ecx\n pushf\n orl $0x100, (%%rsp)\n popf\n 1: mov %%ecx, %%ss\n"
				 "2: nop\n 3: nop\n pushf\n andl $~0x100, (%%rsp)\n popf\n"
				 "lea 3b(%%rip), %%rax\n mov %%rax, at_start"
				 :
				 :
				 : "rax", "rcx", "memory", "cc");
	check("MOV SS holds off the step", step_ip[0], at_start);
	handler[DB] = 0;
	FAULTS("ICEBP", DB, 0, ".byte 0xf1");
	check("ICEBP's RIP is behind", *(u8 *)(trap.frame.ip - 1), 0xf1);
	FAULTS("step over INT clears TF", BP, 0, "pushf\n orl $0x100, (%%rsp)\n popf\n int3");
	check("but the pushed flags have it", trap.frame.flags >> 8 & 1, 1);
}

#define DR7(n, type, len) (3ul << (n)*2 | (type) << (16 + (n)*4) | (len) << (18 + (n)*4) | 0x700)

static volatile unsigned hits;
static void on_hit(struct frame *f) {
	hits++;
	step_ip[0] = f->ip;
	step_dr6 = get_dr6();
	set_dr6(0xffff0ff0);
	f->flags |= 0x10000; /* RF: or the same instruction hits for ever */
}

static void breakpoints(void) {
	word ip;
	handler[DB] = on_hit;
	set_dr6(0xffff0ff0);
	set_dr1((word)memory + 8);
	set_dr7(DR7(1, 1ul, 3ul));
	hits = 0;
	memory[1] = 5;
	check("write breakpoint", hits, 1);
	check("its DR6", step_dr6, 0xffff0ff2);
	(void)memory[1];
	check("not on a read", hits, 1);
	memory[2] = 5;
	check("not next to it", hits, 1);
	((volatile u8 *)memory)[11] = 1;
	check("on one byte inside", hits, 2);
	*(volatile u32 *)((u8 *)memory + 5) = 0;
	check("on the last byte of an access", hits, 3);
	set_dr7(DR7(1, 3ul, 3ul));
	hits = 0;
	(void)memory[1];
	check("read/write breakpoint", hits, 1);
	memory[1] = 7;
	check("on the write too", hits, 2);
	set_dr7(DR7(1, 3ul, 3ul) & ~0xful);
	memory[1] = 7;
	check("disabled", hits, 2);
	asm volatile("lea 1f(%%rip), %0" : "=r"(ip));
	set_dr2(ip);
	hits = 0;
	set_dr7(DR7(2, 0ul, 0ul));
	asm volatile("1: nop");
	set_dr7(0x700);
	asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %%dr2\n mov %1, %%rax\n mov %%rax, %%dr7\n"
				 "1: nop\n mov %2, %%rax\n mov %%rax, %%dr7\n lea 1b(%%rip), %0"
				 : "=r"(ip)
				 : "r"(DR7(2, 0ul, 0ul)), "r"(0x700ul)
				 : "rax", "memory");
	check("execution breakpoint is a fault", step_ip[0], ip);
	check("its DR6 ", step_dr6 & 0xf, 4);
	check("RF lets it go on", hits, 1 + (hits > 1));
	set_cr4(get_cr4() | 8); /* DE */
	set_dr0(0x61);
	set_dr7(DR7(0, 2ul, 0ul));
	hits = 0;
	in8(0x61);
	check("port breakpoint", hits, 1);
	set_dr7(0x700);
	FAULTS("DR4 with DE", UD, 0, "mov %%dr4, %%rax");
	set_cr4(get_cr4() & ~8ul);
	FAULTS("DR4 is DR6 without DE", NONE, 0, "mov %%dr4, %%rax");
	handler[DB] = 0;
	set_dr7(0x2700);
	FAULTS("DR7.GD", DB, 0, "mov %%dr0, %%rax");
	check("DR6.BD", trap.dr6, 0xffff2ff0);
	check("GD is clear in the handler", get_dr7() >> 13 & 1, 0);
	set_dr6(0xffff0ff0);
	set_dr7(0x700);
	user(user_gd, 2);
	check_trap("debug registers in ring 3", GP, 0);
	FAULTS("DR6 above bit 31", GP, 0, "mov %0, %%dr6", "r"(1ull << 40));
}

/* ---- interrupt shadows */
static volatile word irq_ip;
static void note_ip(struct frame *f) {
	irq_ip = f->ip;
	lapic_write(0xb0, 0);
}

static void shadows(void) {
	word want;
	pic_mask_all();
	lapic_enable();
	handler[0x60] = note_ip;
	cli();
	ipi(0, 0x40060);
	asm volatile("lea 1f(%%rip), %0\n sti\n nop\n 1: nop\n cli" : "=r"(want) : : "memory");
	check("STI holds off one instruction", irq_ip, want);
	irq_ip = 0;
	ipi(0, 0x40060);
	asm volatile("sti\n cli" : : : "memory");
	check("STI, CLI lets nothing in", irq_ip, 0);
	asm volatile("sti\n nop\n cli" : : : "memory");
	check("now it comes", irq_ip != 0, 1);
	irq_ip = 0;
	ipi(0, 0x40060);
	asm volatile("mov %%ss, %%eax\n pushf\n orl $0x200, (%%rsp)\n lea 1f(%%rip), %0\n"
				 "popf\n 1: nop\n cli"
				 : "=&r"(want)
				 :
				 : "rax", "memory", "cc");
	check("POPF does not", irq_ip, want);
	ipi(0, 0x40060);
	asm volatile("mov %%ss, %%eax\n sti\n mov %%eax, %%ss\n nop\n 1: nop\n cli\n lea 1b(%%rip), %0"
				 : "=&r"(want)
				 :
				 : "rax", "memory");
	check("STI, MOV SS: after one more", irq_ip == want || irq_ip == want - 1, 1);
	irq_ip = 0;
	ipi(0, 0x40060);
	asm volatile("sti\n hlt\n cli" : : : "memory");
	check("STI, HLT wakes", irq_ip != 0, 1);
}

static volatile unsigned nmis, nmi_depth, nmi_deepest;
static void on_nmi(struct frame *f) {
	nmis++;
	if (++nmi_depth > nmi_deepest)
		nmi_deepest = nmi_depth;
	if (nmis == 1) {
		ipi(0, 0x04400); /* to itself, by physical destination 0 */
		ipi(0, 0x04400);
		for (volatile unsigned i = 0; i < 1000; i++)
			;
	}
	nmi_depth--;
}

static void nmi_iret_inside(struct frame *f) {
	nmis++;
	if (nmis == 1) {
		ipi(0, 0x04400);
		for (volatile unsigned i = 0; i < 1000; i++)
			;
		irq_ip = nmis;
		/* Any IRET ends the blocking, not only the handler's own. */
		asm volatile("mov %%rsp, %%rax\n push $16\n push %%rax\n pushf\n push $8\n push $1f\n"
					 "iretq\n 1:"
					 :
					 :
					 : "rax", "memory");
		step_ip[0] = nmis;
	}
}

static void non_maskable(void) {
	handler[NMI] = on_nmi;
	cli();
	ipi(0, 0x04400);
	asm volatile("nop");
	check("NMI with IF=0, one more is kept", nmis, 2);
	check("never nested", nmi_deepest, 1);
	handler[NMI] = nmi_iret_inside;
	nmis = 0;
	ipi(0, 0x04400);
	check("blocked until IRET", irq_ip, 1);
	check("delivered right after", step_ip[0], 2);
	check("in all", nmis, 2);
	handler[NMI] = 0;
	FAULTS("IRET from here unblocks", NMI, 0,
		   "mov $0xfee00300, %%ecx\n movl $0x4400, (%%rcx)\n"
		   "mov $1000, %%ecx\n 1: loop 1b");
}

void guest(void) {
	plain();
	fpu();
	alignment();
	single_step();
	breakpoints();
	shadows();
	non_maskable();
}
