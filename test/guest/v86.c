/* Virtual-8086 mode: entering, what is virtual and what traps, interrupts with and without the
 * redirection bitmap, I/O permission. [SDM3 20] */
#include "test/guest/guest.h"

#define CODE 0x10000u /* the 8086 program: 1000:0000 */
#define STACK_SEG 0x2000u
#define VM 0x20000u
#define VIF 0x80000u
#define VIP 0x100000u
#define IF 0x200u
#define IOPL3 0x3000u

static void put(const void *code, unsigned n) {
	memcpy((void *)CODE, code, n);
	((u8 *)CODE)[n] = 0xf4; /* HLT: #GP, the end */
}

/* Runs 8086 code at 1000:0 until something traps out of the mode. */
static void run(word flags) {
	const word frame[] = {0x4000, 0x3000, 0x1234, 0x1000, STACK_SEG, 0xf000, flags | VM, 0x1000, 0};
	/* order: GS FS DS ES SS ESP EFLAGS CS EIP */
	trap.vector = NONE;
	try_frame(frame, 9);
}

#define PROGRAM(...)                                                                               \
	do {                                                                                           \
		static const u8 code_[] = {__VA_ARGS__};                                                   \
		put(code_, sizeof(code_));                                                                 \
	} while (0)

static u8 *linear(u32 seg, u32 off) {
	return (u8 *)(seg * 16 + off);
}

static void vector(unsigned n, u16 seg, u16 off) {
	volatile u16 *ivt = (volatile u16 *)(n * 4 + (word)0);
	asm volatile("" : "+r"(ivt));
	ivt[0] = off;
	ivt[1] = seg;
}

static void basics(void) {
	PROGRAM(0x8c, 0xc8, 0x8c, 0xdb, 0x8c, 0xd1, 0x8c, 0xc2); /* mov ax,cs; bx,ds; cx,ss; dx,es */
	run(IOPL3);
	check_trap("HLT ends it", GP, 0);
	check("VM in the pushed flags", trap.frame.flags & VM, VM);
	check("CS", trap.frame.ax & 0xffff, 0x1000);
	check("DS", trap.frame.bx & 0xffff, 0x1234);
	check("SS", trap.frame.cx & 0xffff, STACK_SEG);
	check("ES", trap.frame.dx & 0xffff, 0x1000);
	check("pushed CS", trap.frame.cs & 0xffff, 0x1000);
	check("pushed SS and SP", (trap.frame.ss & 0xffff) << 16 | (trap.frame.sp & 0xffff),
		  STACK_SEG << 16 | 0xf000);
	check("pushed DS", trap.frame.v86_ds & 0xffff, 0x1234);
	check("pushed ES", trap.frame.v86_es & 0xffff, 0x1000);
	check("pushed FS", trap.frame.v86_fs & 0xffff, 0x3000);
	check("pushed GS", trap.frame.v86_gs & 0xffff, 0x4000);
	check("DS is null in the handler", trap.frame.ds & 0xffff, 0);
	check("EIP at the HLT", trap.frame.ip, 8);
	*linear(0x1234, 5) = 0x99;
	PROGRAM(0xa0, 0x05, 0x00); /* mov al, [5] */
	run(IOPL3);
	check("memory through DS", trap.frame.ax & 0xff, 0x99);
	PROGRAM(0xb8, 0x55, 0x05, 0x8e, 0xd8, 0xc6, 0x06, 0x07, 0x00, 0x42); /* ds=555; [7]=42 */
	run(IOPL3);
	check("MOV DS as in real mode", *linear(0x555, 7), 0x42);
	PROGRAM(0xbb, 0xff, 0xff, 0x8b, 0x07); /* mov bx, ffff; mov ax, [bx] */
	run(IOPL3);
	check_trap("word at FFFF", GP, 0);
	check("at the MOV", trap.frame.ip, 3);
	PROGRAM(0xea, 0x00, 0x01, 0x00, 0x10); /* jmp 1000:0100 */
	*linear(0x1000, 0x100) = 0xf4;
	run(IOPL3);
	check("far JMP", trap.frame.ip, 0x100);
	PROGRAM(0x0f, 0x00, 0xc0); /* sldt */
	run(IOPL3);
	check_trap("SLDT is unknown", UD, 0);
	PROGRAM(0x0f, 0x20, 0xc0); /* mov eax, cr0 */
	run(IOPL3);
	check_trap("MOV from CR0", GP, 0);
	PROGRAM(0x0f, 0x01, 0xe0); /* smsw ax */
	run(IOPL3);
	check("SMSW is allowed", trap.frame.ip, 3);
	PROGRAM(0x0f, 0x0b);
	run(IOPL3);
	check_trap("#UD comes out with VM", UD, 0);
}

static void iopl(void) {
	PROGRAM(0xfa);
	run(IOPL3);
	check("CLI with IOPL 3", trap.frame.ip, 1);
	check("clears IF", trap.frame.flags & IF, 0);
	run(0);
	check("CLI with IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0xfb);
	run(0);
	check("STI with IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0x9c);
	run(0);
	check("PUSHF with IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0x9d);
	run(0);
	check("POPF with IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0xcf);
	run(0);
	check("IRET with IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0xcd, 0x21);
	run(0);
	check("INT with IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0xcc);
	idt[BP].attr |= GATE_DPL3;
	run(0);
	check_trap("INT3 does not mind IOPL", BP, 0);
	idt[0x21].attr |= GATE_DPL3;
	PROGRAM(0xcd, 0x21);
	run(IOPL3);
	check_trap("INT with IOPL 3 goes through the IDT", 0x21, 0);
	idt[0x21].attr &= ~GATE_DPL3;
	run(IOPL3);
	check_trap("against its DPL", GP, 0x21 * 8 + 2);
	/* POPF and IRET do not touch IOPL or VM. */
	PROGRAM(0x68, 0x02, 0x00, 0x9d); /* push 2; popf */
	run(IOPL3);
	check("POPF keeps IOPL", trap.frame.flags & (IOPL3 | VM), IOPL3 | VM);
	PROGRAM(0x68, 0x03, 0x00, 0x68, 0x00, 0x10, 0x68, 0x20, 0x00, 0xcf); /* iret to 1000:20 */
	*linear(0x1000, 0x20) = 0xf4;
	run(IOPL3);
	check("IRET", trap.frame.ip, 0x20);
	check("its flags", trap.frame.flags & (IOPL3 | VM | 1), IOPL3 | VM | 1);
}

static void ports(void) {
	PROGRAM(0xe4, 0xe9); /* in al, e9 */
	run(IOPL3);
	check("IN looks at the bitmap, not at IOPL", trap.vector << 16 | trap.frame.ip, GP << 16);
	tss.bitmap[0xe9 / 8] &= (u8) ~(1 << (0xe9 % 8));
	run(0);
	check("allowed by the bitmap", trap.frame.ip, 2);
	PROGRAM(0xe5, 0xe9); /* in ax, e9 */
	run(0);
	check("a word needs both bits", trap.frame.ip, 0);
	gdt[SEL_TSS / 8] = desc((u32)&tss, offsetof(struct tss, bitmap) + 0xe9 / 8, 0x89, 0);
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
	PROGRAM(0xe4, 0xe9);
	run(0);
	check("two bytes are read: the limit counts", trap.vector << 16 | trap.frame.ip, GP << 16);
	gdt[SEL_TSS / 8] = desc((u32)&tss, sizeof(tss) - 1, 0x89, 0);
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
}

static void vme(void) {
	if (!has(1, EDX, 1)) {
		for (unsigned i = 0; i < 13; i++)
			skip("VME", "the CPU model has none");
		return;
	}
	memset(tss.redirect, 0, sizeof(tss.redirect));
	set_cr4(get_cr4() | 1);
	vector(0x21, 0x1000, 0x200);
	*linear(0x1000, 0x200) = 0xf4;
	PROGRAM(0x90, 0xcd, 0x21);
	run(IOPL3 | IF);
	check("redirected INT", trap.frame.ip, 0x200);
	check("IF is clear in the handler", trap.frame.flags & IF, 0);
	check("three words pushed", trap.frame.sp & 0xffff, 0xf000 - 6);
	check("return address", *(u16 *)linear(STACK_SEG, 0xf000 - 6), 3);
	run(VIF);
	check("IOPL 0: redirected as well", trap.frame.ip, 0x200);
	check("clears VIF instead", trap.frame.flags & (VIF | IF), 0);
	check("pushes VIF as IF, IOPL as 3", *(u16 *)linear(STACK_SEG, 0xf000 - 2) & (IF | IOPL3),
		  IF | IOPL3);
	tss.redirect[0x21 / 8] |= 1 << (0x21 % 8);
	run(0);
	check("not redirected, IOPL 0", trap.vector << 16 | trap.frame.ip, GP << 16 | 1);
	idt[0x21].attr |= GATE_DPL3;
	run(IOPL3);
	check_trap("not redirected, IOPL 3", 0x21, 0);
	PROGRAM(0xfb); /* sti */
	run(0);
	check("STI sets VIF", trap.frame.flags & (VIF | IF), VIF);
	run(VIP);
	check("STI with VIP set", trap.vector << 16 | trap.frame.ip, GP << 16);
	PROGRAM(0xfa);
	run(VIF | IF);
	check("CLI clears VIF", trap.frame.flags & (VIF | IF), IF);
	PROGRAM(0x9c, 0x58); /* pushf; pop ax */
	run(VIF);
	check("PUSHF shows VIF as IF", trap.frame.ax & (IF | IOPL3), IF | IOPL3);
	set_cr4(get_cr4() & ~1u);
}

static volatile word irq_flags, irq_cs;
static void on_irq(struct frame *f) {
	irq_flags = f->flags;
	irq_cs = f->cs;
	lapic_write(0xb0, 0);
}

static void interrupts(void) {
	pic_mask_all();
	lapic_enable();
	handler[0x50] = on_irq;
	ipi(0, 0x40050);
	PROGRAM(0x90, 0x90);
	run(IF);
	check("an interrupt leaves the mode", irq_flags & VM, VM);
	check("with its CS", irq_cs & 0xffff, 0x1000);
	check("and IRET returns to it", trap.vector << 16 | trap.frame.ip, GP << 16 | 2);
	check("DS is as before", trap.frame.v86_ds & 0xffff, 0x1234);
	const word frame[] = {0, 0, 0, 0, STACK_SEG, 0xf000, VM, 0x1000, 0x10000};
	PROGRAM(0x90);
	trap.vector = NONE;
	try_frame(frame, 9);
	check_trap("IRET to EIP above FFFF", GP, 0);
}

void guest(void) {
	basics();
	iopl();
	ports();
	vme();
	interrupts();
}
