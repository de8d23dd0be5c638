/* Long mode: interrupt stacks, SYSCALL, SYSENTER, SWAPGS, IRETQ, compatibility mode, and what
 * the IDT and segments may not be. [SDM3 5.8.7, 6.14] */
#include "test/guest/guest.h"

static u8 ist_stack[4096] __attribute__((aligned(16)));
static volatile word seen[8];

u64 kernel_sp;

/* ---- interrupts */
static word frame_sp;
static void note_frame(struct frame *f) {
	frame_sp = (word)f;
	seen[0] = f->cs;
	seen[1] = f->ss;
	seen[2] = f->sp;
	seen[3] = f->flags;
}

static bool inside(word p, const u8 *stack, unsigned size) {
	return p >= (word)stack && p < (word)stack + size;
}

static void user_int(void) {
	asm volatile("int $0x80\n int3");
}

static void interrupts(void) {
	handler[0x80] = note_frame;
	word sp;
	asm volatile("mov %%rsp, %0\n int $0x80" : "=r"(sp) : : "memory");
	check("INT pushes SS", seen[1], SEL_DATA);
	check("INT pushes RSP", seen[2], sp);
	check("INT pushes CS", seen[0], SEL_CODE);
	/* Five words, error code and vector, and 15 registers; pushed from a multiple of 16. */
	check("stack is aligned before the push", frame_sp + sizeof(struct frame) - 32, (sp & ~15ul));
	asm volatile("sub $8, %%rsp\n int $0x80\n add $8, %%rsp" : : : "memory");
	check("also from an odd one", frame_sp & 15, (sp & ~15ul) & 15 ? 8 : frame_sp & 15);

	tss.ist[2] = (u64)ist_stack + sizeof(ist_stack);
	idt[0x80].attr |= 3;
	asm volatile("int $0x80" : : : "memory");
	check("IST 3", inside(frame_sp, ist_stack, sizeof(ist_stack)), 1);
	idt[0x80].attr &= ~7;

	idt[0x80].attr |= GATE_DPL3;
	idt[BP].attr |= GATE_DPL3;
	user(user_int, 2);
	check_trap("INT from ring 3 came back", BP, 0);
	check("its CS", seen[0], SEL_UCODE);
	check("its SS", seen[1], SEL_UDATA);
	check("its RSP", seen[2], USER_SP);
	idt[0x80].attr &= ~GATE_DPL3;
	user(user_int, 2);
	check_trap("INT against DPL", GP, 0x80 * 8 + 2);
	check("RIP is at the INT", *(u8 *)trap.frame.ip, 0xcd);

	idt[0x80].attr &= ~0x8000;
	FAULTS("gate not present", NP, 0x80 * 8 + 2, "int $0x80");
	idt[0x80].attr |= 0x8000;
	idt[0x80].attr = 0x8500;
	FAULTS("task gate in long mode", GP, 0x80 * 8 + 2, "int $0x80");
	idt[0x80].attr = GATE_INT;
	idt[0x80].sel = SEL_DATA;
	FAULTS("gate to a data segment", GP, SEL_DATA, "int $0x80");
	idt[0x80].sel = SEL_CODE32;
	FAULTS("gate to a 32-bit segment", GP, SEL_CODE32, "int $0x80");
	idt[0x80].sel = 0;
	FAULTS("gate with a null selector", GP, 0, "int $0x80");
	idt[0x80].sel = SEL_CODE;
	idt[0x80].high = 0x8000;
	FAULTS("gate to a non-canonical address", GP, 0, "int $0x80");
	idt[0x80].high = 0;
	idt_pointer[0] = 0x80 * 16 + 14;
	asm volatile("lidt %0" : : "m"(*(const char(*)[10])idt_pointer));
	FAULTS("beyond the IDT's limit", GP, 0x80 * 8 + 2, "int $0x80");
	idt_pointer[0] = 4095;
	asm volatile("lidt %0" : : "m"(*(const char(*)[10])idt_pointer));

	/* A fault while delivering #UD is no double fault, one while delivering #GP is. */
	idt[UD].attr &= ~0x8000;
	FAULTS("#NP for #UD", NP, UD * 8 + 3, "ud2");
	idt[UD].attr |= 0x8000;
	idt[NP].attr &= ~0x8000;
	idt[0x80].attr &= ~0x8000;
	FAULTS("#NP for #NP is #DF", DF, 0, "int $0x80");
	idt[NP].attr |= 0x8000;
	idt[0x80].attr |= 0x8000;
	idt[PF].sel = SEL_DATA;
	FAULTS("#GP for #PF is #DF", DF, 0, "movb (%0), %%al", "r"(0x7000000000ull));
	idt[PF].sel = SEL_CODE;
}

/* ---- IRETQ */
static void iret(void) {
	word sp;
	asm volatile("mov %%rsp, %0\n"
				 "push %1\n push %0\n pushf\n push %2\n pushq $1f\n iretq\n 1:"
				 : "=&r"(sp)
				 : "r"((word)SEL_DATA), "r"((word)SEL_CODE)
				 : "memory");
	check("IRETQ to the same ring", 1, 1);
	FAULTS("IRETQ to a null CS", GP, 0,
		   "mov %%rsp, %%rax\n push $16\n push %%rax\n pushf\n push $0\n push $1f\n iretq\n 1:");
	FAULTS("IRETQ to a data segment", GP, SEL_DATA,
		   "mov %%rsp, %%rax\n push $16\n push %%rax\n pushf\n push $16\n push $1f\n iretq\n 1:");
	FAULTS("IRETQ with SS of the wrong ring", GP, SEL_UDATA & ~3,
		   "mov %%rsp, %%rax\n push $0x23\n push %%rax\n pushf\n push $8\n push $1f\n iretq\n 1:");
	FAULTS("IRETQ beyond the GDT", GP, 64 * 8,
		   "mov %%rsp, %%rax\n push $16\n push %%rax\n pushf\n push $0x200\n push $1f\n iretq\n "
		   "1:");
	FAULTS("IRETQ to a non-canonical RIP", GP, 0,
		   "mov %%rsp, %%rax\n push $16\n push %%rax\n pushf\n push $8\n push %0\n iretq",
		   "r"(0x800000000000ull));
	FAULTS("IRETQ with NT set", GP, 0,
		   "mov %%rsp, %%rax\n push $16\n push %%rax\n pushf\n push $8\n push $1f\n"
		   "pushf\n orl $0x4000, (%%rsp)\n popf\n iretq\n 1:");
	FAULTS("SS may be null in ring 0", NONE, 0,
		   "mov %%rsp, %%rax\n push $0\n push %%rax\n pushf\n push $8\n push $1f\n iretq\n"
		   "1: mov $16, %%eax\n mov %%eax, %%ss");
}

/* ---- SYSCALL, SYSRET */
asm(".pushsection .text\n"
	"syscall_entry: mov %rcx, seen\n mov %r11, seen + 8\n mov %cs, %eax\n mov %rax, seen + 16\n"
	"	mov %ss, %eax\n mov %rax, seen + 24\n pushf\n pop seen + 32\n"
	"	sysretq\n"
	"syscall_stack: mov %rsp, seen + 40\n mov kernel_sp, %rsp\n ud2\n"
	"user_syscall: mov $0x11, %eax\n push $0xad7\n popf\n syscall\n"
	"user_syscall_back: mov %cs, %ebx\n mov %ss, %edx\n pushf\n pop %rsi\n int3\n"
	".popsection");
extern const u8 syscall_entry[], user_syscall[], user_syscall_back[];

static void syscalls(void) {
	wrmsr(0xc0000081, (u64)(SEL_UCODE32) << 48 | (u64)SEL_CODE << 32);
	wrmsr(0xc0000082, (u64)syscall_entry);
	wrmsr(0xc0000084, 0x601);
	FAULTS("SYSCALL without SCE", UD, 0, "syscall");
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	idt[BP].attr |= GATE_DPL3;
	user((void (*)(void))(word)user_syscall, 0x3002);
	check_trap("SYSCALL and back", BP, 0);
	check("RCX is the return address", seen[0], (word)user_syscall_back);
	check("R11 has the flags", seen[1], 0x3ad7);
	check("CS in the kernel", seen[2], SEL_CODE);
	check("SS in the kernel", seen[3], SEL_DATA);
	check("SFMASK clears flags", seen[4] & 0xfff, 0x8d6);
	check("CS after SYSRET", trap.frame.bx, SEL_UCODE);
	check("SS after SYSRET", trap.frame.dx, SEL_UDATA);
	check("flags after SYSRET", trap.frame.si, 0x3ad7);
	user_stack[0] = 0;
	FAULTS("LSTAR must be canonical", GP, 0, "mov $0xc0000082, %%ecx\n mov $0x8000, %%edx\n wrmsr");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
}

static void user_sysret(void) {
	asm volatile("sysretq");
}

static void user_hlt(void) {
	asm volatile("hlt");
}

static void user_port(void) {
	asm volatile("in $0x60, %%al" : : : "rax");
}

static void user_port_e9(void) {
	asm volatile("in $0xe9, %%al\n int3" : : : "rax");
}

static void user_port_e8(void) {
	asm volatile("in $0xe8, %%ax\n int3" : : : "rax");
}

static void user_cli(void) {
	asm volatile("cli\n int3");
}

static void user_swapgs(void) {
	asm volatile("swapgs");
}

static void privileges(void) {
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	user(user_sysret, 2);
	check_trap("SYSRET in ring 3", GP, 0);
	user(user_hlt, 2);
	check_trap("HLT in ring 3", GP, 0);
	user(user_swapgs, 2);
	check_trap("SWAPGS in ring 3", GP, 0);
	user(user_port, 2);
	check_trap("IN in ring 3", GP, 0);
	user(user_port, 0x3002);
	check("IN with IOPL 3", trap.vector == GP, 0);
	tss.bitmap[0xe9 / 8] &= (u8) ~(1 << (0xe9 % 8));
	user(user_port_e9, 2);
	check_trap("IN that the bitmap allows", BP, 0);
	user(user_port_e8, 2);
	check_trap("both bits count", GP, 0);
	tss.bitmap[0xe8 / 8] &= (u8) ~(1 << (0xe8 % 8));
	user(user_port_e8, 2);
	check_trap("both bits clear", BP, 0);
	user(user_cli, 2);
	check_trap("CLI with IOPL 0", GP, 0);
	user(user_cli, 0x3002);
	check_trap("CLI with IOPL 3", BP, 0);
}

/* ---- SYSENTER */
asm(".pushsection .text\n"
	"sysenter_entry: mov %cs, %eax\n mov %rax, seen\n mov %ss, %eax\n mov %rax, seen + 8\n"
	"	mov %rsp, seen + 16\n pushf\n pop seen + 24\n rex.w sysexit\n"
	"user_sysenter: lea 1f(%rip), %rdx\n mov %rsp, %rcx\n pushf\n sysenter\n"
	"1:	mov %cs, %ebx\n mov %ss, %edx\n mov %rsp, %rsi\n int3\n"
	".popsection");
extern const u8 sysenter_entry[], user_sysenter[];

static void sysenters(void) {
	wrmsr(0x174, 0);
	u32 r[4];
	cpuid(0, 0, r);
	if (r[EBX] == 0x68747541) { /* "Auth": AMD has none in long mode [APM2 6.1.3] */
		FAULTS("SYSENTER in long mode on AMD", UD, 0, "sysenter");
		for (unsigned i = 0; i < 8; i++)
			skip("SYSENTER", "an AMD processor has none in long mode");
		return;
	}
	FAULTS("SYSENTER with a null CS", GP, 0, "sysenter");
	wrmsr(0x174, SEL_CODE);
	wrmsr(0x175, (u64)ist_stack + 4096);
	wrmsr(0x176, (u64)sysenter_entry);
	user((void (*)(void))(word)user_sysenter, 0x202);
	check_trap("SYSENTER and back", BP, 0);
	check("CS in the kernel", seen[0], SEL_CODE);
	check("SS in the kernel", seen[1], SEL_DATA);
	check("RSP in the kernel", seen[2], (u64)ist_stack + 4096);
	check("IF is clear", seen[3] & 0x200, 0);
	check("CS after SYSEXIT", trap.frame.bx, SEL_CODE + 32 + 3);
	check("SS after SYSEXIT", trap.frame.dx, SEL_CODE + 40 + 3);
	check("RSP after SYSEXIT", trap.frame.si, USER_SP);
}

/* ---- segments */
static u64 thing[2] __attribute__((used)) = {0x1122334455667788, 0x99};

static void segments(void) {
	u64 v;
	wrmsr(0xc0000101, (u64)thing);
	wrmsr(0xc0000102, (u64)thing + 8);
	asm volatile("mov %%gs:0, %0" : "=r"(v));
	check("GS base", v, thing[0]);
	asm volatile("swapgs\n mov %%gs:0, %0" : "=r"(v));
	check("SWAPGS", v, thing[1]);
	check("swapped back into the MSR", rdmsr(0xc0000102), (u64)thing);
	wrmsr(0xc0000100, (u64)thing - 0x10);
	asm volatile("mov %%fs:0x10, %0" : "=r"(v));
	check("FS base", v, thing[0]);
	asm volatile("mov %%fs:-0x10(%1), %0" : "=r"(v) : "r"(0x20ull));
	check("FS base and an index", v, thing[0]);
	FAULTS("GS base must be canonical", GP, 0,
		   "mov $0xc0000101, %%ecx\n mov $0x8000, %%edx\n wrmsr");
	gdt[SEL_FREE / 8] = desc(0x1000, 0, 0x93, 0);
	FAULTS("DS has no base or limit", NONE, 0,
		   "mov %0, %%ds\n mov thing, %%rax\n mov $16, %%ecx\n mov %%ecx, %%ds", "r"(SEL_FREE));
	asm volatile("mov %0, %%fs" : : "r"(SEL_FREE));
	check("MOV FS loads a 32-bit base", rdmsr(0xc0000100), 0x1000);
	asm volatile("mov %0, %%fs" : : "r"(0));
	if (has(7, EBX, 0)) {
		FAULTS("WRFSBASE without CR4.FSGSBASE", UD, 0, "wrfsbase %0", "r"(0ull));
		set_cr4(get_cr4() | 1 << 16);
		asm volatile("wrfsbase %1\n rdfsbase %0" : "=r"(v) : "r"(0x123456789aull));
		check("WRFSBASE", v, 0x123456789a);
		FAULTS("WRGSBASE, not canonical", GP, 0, "wrgsbase %0", "r"(1ull << 62));
	} else {
		for (unsigned i = 0; i < 3; i++)
			skip("WRFSBASE", "the CPU model has none");
	}
	FAULTS("PUSH ES is gone", UD, 0, ".byte 0x06");
	FAULTS("DAA is gone", UD, 0, ".byte 0x27");
	FAULTS("LDS is a VEX prefix", UD, 0, ".byte 0xc5, 0xff, 0xff, 0xff");
	FAULTS("far JMP with an immediate is gone", UD, 0, ".byte 0xea, 0, 0, 0, 0, 8, 0");
	FAULTS("LTR of a busy TSS", GP, SEL_TSS, "ltr %w0", "r"(SEL_TSS));
	FAULTS("MOV CS", UD, 0, ".byte 0x8e, 0xc8");
	FAULTS("clearing PAE in long mode", GP, 0, "mov %0, %%cr4", "r"(get_cr4() & ~0x20ul));
	FAULTS("changing LME with paging on", GP, 0,
		   "mov $0xc0000080, %%ecx\n rdmsr\n and $~0x100, %%eax\n wrmsr");
	FAULTS("CR0 above bit 31", GP, 0, "mov %0, %%cr0", "r"(get_cr0() | 1ull << 32));
	FAULTS("CR0.PG without PE", GP, 0, "mov %0, %%cr0", "r"(0x80000010ull));
	FAULTS("CR0.NW without CD", GP, 0, "mov %0, %%cr0", "r"(get_cr0() | 1 << 29));
	FAULTS("reserved bit of CR4", GP, 0, "mov %0, %%cr4", "r"(get_cr4() | 1 << 15));
	FAULTS("reserved bit of EFER", GP, 0, "mov $0xc0000080, %%ecx\n rdmsr\n or $2, %%eax\n wrmsr");
	FAULTS("CR8 above 15", GP, 0, "mov %0, %%cr8", "r"(16ull));
	FAULTS("CR1 does not exist", UD, 0, ".byte 0x0f, 0x20, 0xc8");
	FAULTS("unknown MSR", GP, 0, "mov $0x12345678, %%ecx\n rdmsr");
}

/* ---- compatibility mode */
asm(".pushsection .text\n"
	"compat_run:\n"
	"	push %rbx\n mov %rsp, kernel_sp\n"
	"	ljmp *compat_to\n"
	".code32\n"
	"compat_code:\n"
	"	mov $0x12345678, %eax\n inc %eax\n .byte 0x40\n" /* INC EAX, no REX */
	"	mov %eax, seen\n mov %esp, %ecx\n push $7\n sub %esp, %ecx\n mov %ecx, seen + 8\n"
	"	pop %ecx\n ljmp $8, $1f\n"
	".code64\n"
	"1:	mov kernel_sp, %rsp\n pop %rbx\n ret\n"
	".code32\n"
	"user_compat: mov $0x23, %eax\n mov %eax, %ds\n movl $5, seen\n .byte 0x40\n mov %cs, %ebx\n "
	"int3\n"
	".code64\n"
	"compat_to: .long compat_code, 0x40\n"
	".popsection");
void compat_run(void);
extern const u8 user_compat[];

static void compatibility(void) {
	seen[0] = seen[1] = 0;
	compat_run();
	check("32-bit code runs", seen[0], 0x1234567a);
	check("PUSH pushes 4 bytes", seen[1], 4);
	trap.vector = NONE;
	try_user((word)user_compat, USER_SP, SEL_UCODE32, 2, 0);
	check_trap("ring 3 in 32 bits", BP, 0);
	check("its CS", trap.frame.bx, SEL_UCODE32);
	check("INT3 from it pushes 64 bits", trap.frame.sp, USER_SP);
}

/* ---- stacks that cannot be */
static void user_stack_fault(void) {
	asm volatile("mov %0, %%rsp\n push $1" : : "r"(0x800000001000ull));
}

static void user_int3(void) {
	asm volatile("int3");
}

static void stacks(void) {
	user(user_stack_fault, 2);
	check_trap("PUSH to a non-canonical stack", SS, 0);
	u64 rsp0 = tss.rsp[0];
	tss.rsp[0] = 0x800000001000;
	tss.ist[0] = (u64)ist_stack + sizeof(ist_stack);
	idt[SS].attr |= 1;
	idt[DF].attr |= 1;
	idt[BP].attr |= GATE_DPL3;
	user(user_int3, 2);
	check("INT3 to a non-canonical RSP0", trap.vector, SS);
	user(user_int, 2); /* INT 80h is not for ring 3: #GP, and #SS while that is delivered */
	check_trap("#SS for #GP is #DF", DF, 0);
	tss.rsp[0] = rsp0;
	idt[SS].attr &= ~7;
	idt[DF].attr &= ~7;
}

void guest(void) {
	interrupts();
	iret();
	syscalls();
	privileges();
	sysenters();
	segments();
	compatibility();
	stacks();
	FAULTS("leaving paging from 64-bit code", GP, 0, "mov %0, %%cr0", "r"(get_cr0() & 0x7fffffff));
}
