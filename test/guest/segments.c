/* Protected mode's segments: what may be loaded, limits and types, gates, far transfers and
 * their error codes. [SDM3 5] */
#include "test/guest/guest.h"

/* Selectors of this case, and what lies there. */
enum {
	S_LIMIT = SEL_FREE,		  /* data, base at `area`, limit 1Fh */
	S_RDONLY = SEL_FREE + 8,  /* data, read-only */
	S_DOWN = SEL_FREE + 16,	  /* data, expand-down above FFFh, 16-bit upper bound */
	S_ABSENT = SEL_FREE + 24, /* data, not present */
	S_EXEC = SEL_FREE + 32,	  /* code, not readable */
	S_CONF = SEL_FREE + 40,	  /* code, conforming */
	S_U16 = SEL_FREE + 48,	  /* code, 16 bits, DPL 3 */
	S_GATE = SEL_FREE + 56,	  /* call gate */
	S_CODE_NP = SEL_FREE + 64,
	S_DATA3 = SEL_FREE + 72, /* data, DPL 3, limit 1Fh */
	S_LDT = SEL_FREE + 80,
	S_CODE1 = SEL_FREE + 88, /* code, DPL 1 */
	S_DATA1 = SEL_FREE + 96,
	S_DOWN32 = SEL_FREE + 104,
};

static u8 area[8192] __attribute__((used, aligned(4096)));
static u64 ldt[4] __attribute__((aligned(8)));
static u8 ring1_stack[1024] __attribute__((aligned(16)));

#define SET(sel, value) (gdt[(sel) / 8] = (value))

static u64 gate(u32 target, u16 sel, u8 access, u8 words) {
	return (target & 0xffff) | (u64)sel << 16 | (u64)words << 32 | (u64)access << 40 |
		   (u64)(target >> 16) << 48;
}

#define LOAD(reg, sel) "mov %0, %%" reg, "r"(sel)

static void table(void) {
	u32 base = (u32)area;
	SET(S_LIMIT, desc(base, 0x1f, 0x92, 4));
	SET(S_RDONLY, desc(0, 0xfffff, 0x90, 12));
	SET(S_DOWN, desc(base, 0xfff, 0x96, 0));
	SET(S_DOWN32, desc(base, 0xfff, 0x96, 4));
	SET(S_ABSENT, desc(0, 0xfffff, 0x12, 12));
	SET(S_EXEC, desc(0, 0xfffff, 0x98, 12));
	SET(S_CONF, desc(0, 0xfffff, 0x9e, 12));
	SET(S_U16, desc(0, 0xffff, 0xfa, 0));
	SET(S_CODE_NP, desc(0, 0xfffff, 0x1a, 12));
	SET(S_DATA3, desc(base, 0x1f, 0xf2, 4));
	SET(S_CODE1, desc(0, 0xfffff, 0xba, 12));
	SET(S_DATA1, desc(0, 0xfffff, 0xb2, 12));
}

static void loading(void) {
	FAULTS("null in DS", NONE, 0, "mov %0, %%ds\n mov %1, %%ds", "r"(0), "r"(SEL_DATA));
	FAULTS("null in DS, RPL 3", NONE, 0, "mov %0, %%fs", "r"(3));
	FAULTS("use of it", GP, 0, "mov %%fs:0, %%al");
	FAULTS("null in SS", GP, 0, LOAD("ss", 0));
	FAULTS("SS: data of ring 3", GP, SEL_UDATA & ~3, LOAD("ss", SEL_UDATA));
	FAULTS("SS: RPL is not CPL", GP, SEL_DATA, LOAD("ss", SEL_DATA + 1));
	FAULTS("SS: read-only", GP, S_RDONLY, LOAD("ss", S_RDONLY));
	FAULTS("SS: code", GP, SEL_CODE, LOAD("ss", SEL_CODE));
	SET(S_ABSENT, desc(0, 0xfffff, 0x12, 12));
	FAULTS("SS: not present", SS, S_ABSENT, LOAD("ss", S_ABSENT));
	FAULTS("DS: not present", NP, S_ABSENT, LOAD("ds", S_ABSENT));
	FAULTS("DS: beyond the GDT", GP, 0x200, LOAD("ds", 0x200));
	FAULTS("DS: in no LDT", GP, 4, LOAD("ds", 4));
	FAULTS("DS: a TSS", GP, SEL_TSS, LOAD("ds", SEL_TSS));
	FAULTS("DS: code that cannot be read", GP, S_EXEC, LOAD("ds", S_EXEC));
	FAULTS("DS: readable code", NONE, 0, LOAD("fs", SEL_CODE));
	FAULTS("write through it", GP, 0, "movb $0, %%fs:area");
	FAULTS("DS: RPL weaker than DPL", GP, SEL_DATA, LOAD("ds", SEL_DATA + 3));
	FAULTS("DS: conforming code, any RPL", NONE, 0, LOAD("fs", S_CONF + 3));
	check("accessed bit is set", gdt[S_CONF / 8] >> 40 & 1, 1);
	ldt[1] = desc((u32)area, 0xf, 0x92, 4);
	SET(S_LDT, desc((u32)ldt, sizeof(ldt) - 1, 0x82, 0));
	FAULTS("LLDT of a data segment", GP, SEL_DATA, "lldt %w0", "r"(SEL_DATA));
	FAULTS("LLDT", NONE, 0, "lldt %w0", "r"(S_LDT));
	area[3] = 0x33;
	u32 v;
	asm volatile("mov %1, %%fs\n movzbl %%fs:3, %0" : "=r"(v) : "r"(12));
	check("a segment of the LDT", v, 0x33);
	FAULTS("its limit", GP, 0, "movb %%fs:16, %%al");
	FAULTS("beyond the LDT", GP, 0x24, LOAD("fs", 0x24));
	asm volatile("lldt %w0\n mov %0, %%fs" : : "r"(0));
}

/* A trap puts flat segments back, so each access loads its own. */
#define FS(name, vector, insn, sel) FAULTS(name, vector, 0, "mov %0, %%fs\n" insn, "r"(sel))

static void limits(void) {
	FS("last byte", NONE, "movb $1, %%fs:0x1f", S_LIMIT);
	FS("one beyond", GP, "movb $1, %%fs:0x20", S_LIMIT);
	FS("word over the end", GP, "movw %%fs:0x1f, %%ax", S_LIMIT);
	FS("dword at the end", NONE, "movl %%fs:0x1c, %%eax", S_LIMIT);
	FS("far beyond", GP, "movl %%fs:-4, %%eax", S_LIMIT);
	FS("write to read-only data", GP, "movb $0, %%fs:area", S_RDONLY);
	FS("read of it", NONE, "movb %%fs:area, %%al", S_RDONLY);
	FS("expand-down: inside the limit", GP, "movb %%fs:0xfff, %%al", S_DOWN);
	FS("expand-down: above it", NONE, "movb %%fs:0x1000, %%al", S_DOWN);
	FS("expand-down: FFFF", NONE, "movb %%fs:0xffff, %%al", S_DOWN);
	FS("expand-down: word at FFFF", GP, "movw %%fs:0xffff, %%ax", S_DOWN);
	FS("expand-down: 10000", GP, "movb %%fs:0x10000, %%al", S_DOWN);
	FS("expand-down, 32 bits: 10000", NONE, "movb %%fs:0x10000, %%al", S_DOWN32);
	/* The stack segment's own exception. */
	SET(S_LIMIT, desc(0, 0x7ff, 0x92, 12)); /* 8 MiB, in pages */
	FAULTS("SS: limit in pages", SS, 0, "mov %0, %%ss\n movb %%ss:0x800000, %%al", "r"(S_LIMIT));
	FAULTS("SS: last byte", NONE, 0,
		   "mov %0, %%ss\n movb %%ss:0x7fffff, %%al\n mov $16, %%eax\n mov %%eax, %%ss",
		   "r"(S_LIMIT));
	SET(S_LIMIT, desc((u32)area, 0x1f, 0x92, 4));
	FAULTS("CS is never written", GP, 0, "movb $1, %%cs:area");
	u32 l;
	bool zf;
	asm volatile("lsl %2, %0\n setz %1" : "=r"(l), "=q"(zf) : "r"(S_LIMIT));
	check("LSL", zf ? l : 0, 0x1f);
	asm volatile("lsl %2, %0\n setz %1" : "=r"(l), "=q"(zf) : "r"(SEL_DATA));
	check("LSL of pages", zf ? l : 0, 0xffffffff);
	asm volatile("lar %2, %0\n setz %1" : "=r"(l), "=q"(zf) : "r"(S_RDONLY));
	check("LAR", zf ? l & 0xf0ff00 : 0, 0xc09100);
	asm volatile("lar %2, %0\n setz %1" : "=r"(l), "=q"(zf) : "r"(0x1f8));
	check("LAR of nothing", zf, 0);
	asm volatile("verr %w1\n setz %0" : "=q"(zf) : "r"(S_EXEC));
	check("VERR of execute-only code", zf, 0);
	asm volatile("verw %w1\n setz %0" : "=q"(zf) : "r"(S_DATA3));
	check("VERW", zf, 1);
	asm volatile("verw %w1\n setz %0" : "=q"(zf) : "r"(S_RDONLY));
	check("VERW of read-only data", zf, 0);
	u16 rpl = 8;
	asm volatile("arpl %w2, %w0\n setz %1" : "+r"(rpl), "=q"(zf) : "r"(3));
	check("ARPL", rpl << 4 | zf, 0xb1);
	asm volatile("mov %0, %%fs" : : "r"(0));
}

/* ---- far transfers */
static volatile u32 seen[8];
asm(".pushsection .text\n"
	"far_ret: mov %cs, seen\n lret\n"
	"far_ret3: mov %cs, seen\n mov %ss, seen + 4\n mov %esp, seen + 8\n"
	"	mov (%esp), %eax\n mov %eax, seen + 12\n mov 4(%esp), %eax\n mov %eax, seen + 16\n"
	"	mov 8(%esp), %eax\n mov %eax, seen + 20\n lret $4\n"
	"user_gate: push $0x1234\n lcall *gate_pointer\n"
	"gate_back: mov %esp, %esi\n mov %cs, %ebx\n mov %ds, %edi\n int3\n"
	"user_conf: lcall *conf_pointer\n mov %cs, %ebx\n int3\n"
	"user_kernel: lcall *kernel_pointer\n int3\n"
	"user_ldt: mov $0x23, %eax\n mov %eax, %ss\n mov $0x10, %eax\n mov %eax, %ds\n int3\n"
	"in_ring1: mov %cs, %ebx\n mov %ss, %edx\n mov $5, %ecx\n cli\n int3\n"
	"gate_pointer: .long 0x999, 0x70\n"
	"conf_pointer: .long far_ret, 0x60\n"
	"kernel_pointer: .long far_ret, 0x08\n"
	".popsection");
extern const u8 far_ret[], far_ret3[], user_gate[], gate_back[], user_conf[], user_kernel[],
	user_ldt[], in_ring1[];

#define FAR(name, vector, error, op, sel)                                                          \
	do {                                                                                           \
		far_pointer[0] = (u32)far_ret;                                                             \
		far_pointer[1] = (sel);                                                                    \
		FAULTS(name, vector, error, op " *far_pointer");                                           \
	} while (0)
volatile u32 far_pointer[2];

static void transfers(void) {
	FAR("far CALL", NONE, 0, "lcall", SEL_CODE);
	FAR("far CALL to null", GP, 0, "lcall", 0);
	FAR("far CALL to data", GP, SEL_DATA, "lcall", SEL_DATA);
	FAR("far CALL to ring 3", GP, SEL_UCODE32 & ~3, "lcall", SEL_UCODE32);
	FAR("far CALL, not present", NP, S_CODE_NP, "lcall", S_CODE_NP);
	FAR("far CALL, conforming", NONE, 0, "lcall", S_CONF);
	check("keeps CPL 0 in CS", seen[0], S_CONF);
	FAR("far JMP beyond the GDT", GP, 0x3000, "ljmp", 0x3000);
	SET(S_GATE, gate((u32)far_ret, SEL_CODE, 0x8c, 0));
	FAR("call gate", NONE, 0, "lcall", S_GATE);
	SET(S_GATE, gate((u32)far_ret, SEL_CODE, 0x0c, 0));
	FAR("call gate, not present", NP, S_GATE, "lcall", S_GATE);
	SET(S_GATE, gate((u32)far_ret, SEL_DATA, 0x8c, 0));
	FAR("call gate to data", GP, SEL_DATA, "lcall", S_GATE);
	SET(S_GATE, gate((u32)far_ret, 0, 0x8c, 0));
	FAR("call gate to null", GP, 0, "lcall", S_GATE);
	SET(S_GATE, gate((u32)far_ret, SEL_UCODE32, 0x8c, 0));
	FAR("call gate to ring 3", GP, SEL_UCODE32 & ~3, "lcall", S_GATE);
	SET(S_GATE, gate((u32)far_ret, SEL_CODE, 0x86, 0));
	FAR("call of an interrupt gate", GP, S_GATE, "lcall", S_GATE);
	FAULTS("RETF to ring 3 without its stack", GP, SEL_DATA,
		   "push $0x10\n push $0\n push $0x1b\n push $1f\n lret\n 1:");
	FAULTS("RETF to null", GP, 0, "push $0\n push $1f\n lret\n 1:");
	FAULTS("RETF to absent code", NP, S_CODE_NP, "push %0\n push $1f\n lret\n 1:", "i"(S_CODE_NP));
}

static void rings(void) {
	idt[BP].attr |= GATE_DPL3;
	u32 *pointer = (u32 *)0;
	asm("mov $gate_pointer, %0" : "=r"(pointer));
	((volatile u32 *)pointer)[1] = S_GATE + 3;
	asm("mov $conf_pointer, %0" : "=r"(pointer));
	((volatile u32 *)pointer)[1] = S_CONF;
	SET(S_GATE, gate((u32)far_ret3, SEL_CODE, 0xec, 1));
	user((void (*)(void))(word)user_gate, 0x3002);
	check_trap("call gate from ring 3 and back", BP, 0);
	check("CS inside", seen[0], SEL_CODE);
	check("SS inside", seen[1], SEL_DATA);
	check("stack: ESP0 and five words", tss.esp0 - seen[2], 20);
	check("return address", seen[3], (u32)gate_back);
	check("return CS", seen[4], SEL_UCODE);
	check("one parameter is copied", seen[5], 0x1234);
	check("RETF 4 drops it from both stacks", trap.frame.si, USER_SP);
	check("CS after it", trap.frame.bx, SEL_UCODE);
	check("DS is still ring 3's", trap.frame.di, SEL_UDATA);
	SET(S_GATE, gate((u32)far_ret3, SEL_CODE, 0x8c, 1));
	user((void (*)(void))(word)user_gate, 0x3002);
	check_trap("gate of DPL 0 from ring 3", GP, S_GATE);
	user((void (*)(void))(word)user_conf, 0x3002);
	check_trap("conforming code from ring 3", BP, 0);
	check("runs with CPL 3", seen[0], S_CONF + 3);
	user((void (*)(void))(word)user_kernel, 0x3002);
	check_trap("far CALL to ring 0's code", GP, SEL_CODE);
	user((void (*)(void))(word)user_ldt, 0x3002);
	check_trap("ring 0's data in ring 3", GP, SEL_DATA);

	/* IRET to ring 1 and what it may. */
	const word ring1[] = {S_DATA1 + 1, (word)ring1_stack + 1000, 0x1002, S_CODE1 + 1,
						  (word)in_ring1};
	trap.vector = NONE;
	try_frame(ring1, 5);
	check_trap("ring 1 with IOPL 1 may CLI", BP, 0);
	check("CS of ring 1", trap.frame.bx, S_CODE1 + 1);
	check("SS of ring 1", trap.frame.dx, S_DATA1 + 1);
	check("ring 3's DS stays valid in ring 1", trap.frame.ds, SEL_UDATA);
	const word bad_ss[] = {SEL_DATA, 0x1000, 2, SEL_UCODE, (word)in_ring1};
	trap.vector = NONE;
	try_frame(bad_ss, 5);
	check_trap("IRET with ring 0's SS", GP, SEL_DATA);
	const word bad_cs[] = {SEL_UDATA, 0x1000, 2, SEL_DATA, (word)in_ring1};
	try_frame(bad_cs, 5);
	check_trap("IRET to data", GP, SEL_DATA);
	/* Going outwards, segments that the outer ring may not see become null. */
	asm volatile("mov %0, %%fs" : : "r"(SEL_DATA));
	user((void (*)(void))(word)user_kernel, 0x3002);
	check("IRET nulls ring 0's FS", trap.frame.fs, 0);
}

/* ---- a 16-bit code segment in ring 3 */
static u8 code16[] = {0xb8, 0x34, 0x12,					  /* mov $0x1234, %ax */
					  0x66, 0xbb, 0x78, 0x56, 0x34, 0x12, /* mov $0x12345678, %ebx */
					  0xcc};

static void sixteen(void) {
	/* Its segment's base makes it start at 0. */
	SET(S_U16, desc((u32)code16, sizeof(code16) - 1, 0xfa, 0));
	const word frame[] = {SEL_UDATA, USER_SP, 2, S_U16 + 3, 0};
	trap.vector = NONE;
	try_frame(frame, 5);
	check_trap("16-bit code", BP, 0);
	check("operands of 16 bits", trap.frame.ax & 0xffff, 0x1234);
	check("of 32 with a prefix", trap.frame.bx, 0x12345678);
	SET(S_U16, desc((u32)code16, 7, 0xfa, 0));
	trap.vector = NONE;
	try_frame(frame, 5);
	check_trap("an instruction over the limit", GP, 0);
	check("at its start", trap.frame.ip, 3);
	const word outside[] = {SEL_UDATA, USER_SP, 2, S_U16 + 3, 0x100};
	trap.vector = NONE;
	try_frame(outside, 5);
	check("IRET beyond the limit", trap.vector << 16 | trap.error, GP << 16);
}

static void interrupts(void) {
	idt[0x80].attr = 0x0e00;
	FAULTS("gate not present", NP, 0x80 * 8 + 2, "int $0x80");
	idt[0x80].attr = 0x8c00;
	FAULTS("call gate in the IDT", GP, 0x80 * 8 + 2, "int $0x80");
	idt[0x80].attr = GATE_INT;
	idt[0x80].sel = SEL_DATA;
	FAULTS("gate to data", GP, SEL_DATA, "int $0x80");
	idt[0x80].sel = SEL_UCODE32;
	FAULTS("gate to ring 3", GP, SEL_UCODE32 & ~3, "int $0x80");
	idt[0x80].sel = 0;
	FAULTS("gate to null", GP, 0, "int $0x80");
	idt[0x80].sel = S_CODE_NP;
	FAULTS("gate to an absent segment", NP, S_CODE_NP, "int $0x80");
	idt[UD].sel = S_CODE_NP;
	FAULTS("the same for #UD: EXT", NP, S_CODE_NP + 1, "ud2");
	idt[UD].sel = SEL_CODE;
	FAULTS("BOUND", BR, 0, "mov $5, %%eax\n bound %%eax, far_pointer");
	FAULTS("INTO", OF, 0, "mov $0x7fffffff, %%eax\n inc %%eax\n into");
	FAULTS("AAM 0", DE, 0, "aam $0");
	FAULTS("LDS from a register", UD, 0, ".byte 0xc5, 0xc0");
	FAULTS("SYSCALL without SCE", UD, 0, "syscall");
}

void guest(void) {
	table();
	loading();
	limits();
	transfers();
	rings();
	sixteen();
	interrupts();
}
