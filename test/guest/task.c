/* Hardware task switching: JMP, CALL, IRET, INT and exceptions through task gates, what is saved
 * and loaded, busy bits, links, and which TSSs are refused. [SDM3 7] */
#include "test/guest/guest.h"

enum {
	T_OTHER = SEL_FREE,		 /* another task */
	T_GATE = SEL_FREE + 8,	 /* task gate to it */
	T_SHORT = SEL_FREE + 16, /* a TSS with too small a limit */
	T_ABSENT = SEL_FREE + 24,
	T_16 = SEL_FREE + 32, /* a 16-bit TSS */
	T_LDT = SEL_FREE + 40,
	S_CODE_NP = SEL_FREE + 48,
	T_MONITOR = SEL_FREE + 56,
};

static volatile struct tss other __attribute__((aligned(4096)));
static u8 other_stack[4096] __attribute__((aligned(16)));
static volatile u16 tss16[22] __attribute__((aligned(64)));
static u64 ldt[2] __attribute__((aligned(8)));

/* What the other task saw. */
volatile u32 seen_flags, seen_cr0, seen_regs[8], seen_tr, seen_ldt, seen_error, runs;
volatile u32 task_jump[2] = {0x12345, T_OTHER}, task_gate[2] = {0x12345, T_GATE},
			 back_jump[2] = {0, SEL_TSS}, jump16[2] = {0, T_16}, jump_short[2] = {0, T_SHORT},
			 jump_absent[2] = {0, T_ABSENT};

asm(".pushsection .text\n"
	/* Notes what it finds and returns; the next time it goes on behind the IRET. */
	"task_iret:\n"
	"	mov %eax, seen_regs\n mov %ecx, seen_regs + 4\n mov %edi, seen_regs + 8\n"
	"	pushf\n pop seen_flags\n mov %cr0, %eax\n mov %eax, seen_cr0\n"
	"	str %eax\n mov %eax, seen_tr\n sldt %eax\n mov %eax, seen_ldt\n"
	"	clts\n incl runs\n iret\n"
	"task_again:\n"
	"	addl $0x100, runs\n iret\n"
	"	jmp task_again\n"
	"task_jmp: incl runs\n clts\n ljmp *back_jump\n"
	"	jmp task_jmp\n"
	"task_error: pop seen_error\n incl runs\n clts\n"
	"	movl $task_resume, tss + 32\n"
	"	iret\n jmp task_error\n"
	"task_resume: jmp *task_resume_to\n"
	"task_monitor: pop seen_error\n clts\n"
	"	andb $~2, gdt + 0x30 + 5\n ljmp *back_jump\n jmp task_monitor\n"
	"task16: .code32\n incl runs\n clts\n ljmp *back_jump\n jmp task16\n"
	".popsection");
extern const u8 task_iret[], task_jmp[], task_error[], task16[], task_monitor[];
u32 task_resume_to;

static void make_other(const u8 *code) {
	memset((void *)&other, 0, 104);
	other.eip = (u32)code;
	other.esp = (u32)other_stack + sizeof(other_stack);
	other.eflags = 2;
	other.cs = SEL_CODE;
	other.ds = other.es = other.ss = other.fs = SEL_DATA;
	other.cr3 = 0;
	other.iomap = 104;
	other.eax = 0x11111111;
	other.ecx = 0x22222222;
	other.edi = 0x33333333;
	gdt[T_OTHER / 8] = desc((u32)&other, 103, 0x89, 0);
	gdt[SEL_TSS / 8] |= 2ull << 40;
	runs = 0;
	if (get_flags() & 0x4000)
		set_flags(2);
}

static bool busy(u16 sel) {
	return gdt[sel / 8] >> 41 & 1;
}

/* After a switch that stayed in the other task: this one's TSS is the current one again. */
static void back(void) {
	gdt[SEL_TSS / 8] &= ~(2ull << 40);
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
}

#define CALL_TASK "lcall *task_jump"

static void calls(void) {
	make_other(task_iret);
	u32 marker = 0x77;
	asm volatile("stc\n" CALL_TASK : "+b"(marker) : : "memory", "cc");
	check("CALL of a TSS runs it", runs, 1);
	check("EAX", seen_regs[0], 0x11111111);
	check("ECX", seen_regs[1], 0x22222222);
	check("EDI", seen_regs[2], 0x33333333);
	check("TR", seen_tr, T_OTHER);
	check("NT is set, and no more", seen_flags, 0x4002);
	check("CR0.TS is set", seen_cr0 & 8, 8);
	check("back link", other.link, SEL_TSS);
	check("IRET frees the other", busy(T_OTHER), 0);
	check("this one is still busy", busy(SEL_TSS), 1);
	check("NT is clear here", get_flags() & 0x4000, 0);
	check("registers are back", marker, 0x77);
	check("carry was saved", tss.eflags & 1, 1);
	check("the other's EIP was saved", other.eip != (u32)task_iret, 1);
	check("the other's EAX was saved", other.eax != 0x11111111, 1);
	check("NT in the saved EFLAGS is clear", other.eflags & 0x4000, 0);
	asm volatile(CALL_TASK : : : "memory", "cc");
	check("it goes on where it was", runs, 0x101);
	gdt[T_GATE / 8] = (u64)T_OTHER << 16 | 0x85ull << 40;
	asm volatile("lcall *task_gate" : : : "memory", "cc");
	check("CALL through a task gate", runs, 0x101 + 0x100);

	/* Nested: the caller is busy, so nobody may call it again. */
	make_other(task_jmp);
	asm volatile("ljmp *task_jump" : : : "memory", "cc");
	check("JMP and JMP back", runs, 1);
	check("JMP frees the old task", busy(T_OTHER), 0);
	check("no NT after JMP", get_flags() & 0x4000, 0);

	u32 tr;
	asm volatile("str %0" : "=r"(tr));
	check("TR is back", tr, SEL_TSS);

	/* LDT and segments of the new task. */
	make_other(task_iret);
	gdt[T_LDT / 8] = desc((u32)ldt, 15, 0x82, 0);
	ldt[1] = desc(0, 0xfffff, 0x92, 12);
	other.ldt = T_LDT;
	other.fs = 12;
	asm volatile(CALL_TASK : : : "memory", "cc");
	check("LDT of the new task", seen_ldt, T_LDT);
	asm volatile("sldt %0" : "=r"(tr));
	check("none here", tr & 0xffff, 0);
	/* TF of the new EFLAGS; the T bit traps. */
	make_other(task_iret);
	other.t = 1;
	FAULTS("T bit: #DB in the new task", DB, 0, CALL_TASK);
	check("DR6.BT", trap.dr6 >> 15 & 1, 1);
	set_dr6(0xffff0ff0);
	back();
}

static void refused(void) {
	make_other(task_iret);
	gdt[T_OTHER / 8] |= 2ull << 40;
	FAULTS("a busy task", GP, T_OTHER, CALL_TASK);
	gdt[T_ABSENT / 8] = desc((u32)&other, 103, 0x09, 0);
	FAULTS("not present", NP, T_ABSENT, "lcall *jump_absent");
	gdt[T_SHORT / 8] = desc((u32)&other, 102, 0x89, 0);
	FAULTS("too short", TS, T_SHORT, "lcall *jump_short");
	gdt[T_GATE / 8] = (u64)T_OTHER << 16 | 0x05ull << 40;
	FAULTS("task gate, not present", NP, T_GATE, "lcall *task_gate");
	gdt[T_GATE / 8] = (u64)SEL_CODE << 16 | 0x85ull << 40;
	FAULTS("task gate to code", GP, SEL_CODE, "lcall *task_gate");
	gdt[T_GATE / 8] = 0ull << 16 | 0x85ull << 40;
	FAULTS("task gate to null", GP, 0, "lcall *task_gate");
	gdt[T_GATE / 8] = (u64)(T_OTHER | 4) << 16 | 0x85ull << 40;
	FAULTS("task gate into the LDT", GP, T_OTHER | 4, "lcall *task_gate");
	FAULTS("LTR of a busy TSS", GP, SEL_TSS, "ltr %w0", "r"(SEL_TSS));
	FAULTS("LTR of code", GP, SEL_CODE, "ltr %w0", "r"(SEL_CODE));
	FAULTS("LTR of null", GP, 0, "ltr %w0", "r"(0));
	FAULTS("LTR, not present", NP, T_ABSENT, "ltr %w0", "r"(T_ABSENT));
	FAULTS("IRET with NT and a link to nothing", TS, SEL_CODE,
		   "movw %0, tss\n pushf\n orl $0x4000, (%%esp)\n popf\n iret", "i"(SEL_CODE));
	FAULTS("IRET with NT to a task that is not busy", TS, T_16,
		   "movw %0, tss\n pushf\n orl $0x4000, (%%esp)\n popf\n iret", "i"(T_16));
}

/* Faults that the new task's own state makes come when it runs already, with whatever part of
 * its state is loaded: only a task of its own can take them. */
static volatile struct tss monitor;
static u8 monitor_stack[1024] __attribute__((aligned(16)));

static void bad(const char *name, unsigned vector, word error) {
	memset((void *)&monitor, 0, 104);
	monitor.eip = (u32)task_monitor;
	monitor.esp = (u32)monitor_stack + sizeof(monitor_stack);
	monitor.eflags = 2;
	monitor.cs = SEL_CODE;
	monitor.ds = monitor.es = monitor.ss = SEL_DATA;
	monitor.iomap = 104;
	gdt[T_MONITOR / 8] = desc((u32)&monitor, 103, 0x89, 0);
	set_gate(vector, 0, T_MONITOR, 0x8500);
	seen_error = 0xffff;
	asm volatile(CALL_TASK : : : "memory", "cc");
	check(name, (u64)seen_error << 32 | monitor.link, (u64)error << 32 | T_OTHER);
	set_gate(vector, (word)trap_stubs + vector * 16, SEL_CODE, GATE_INT);
}

static void bad_state(void) {
	make_other(task_iret);
	other.cs = SEL_DATA;
	bad("CS is data: #TS in the new task", TS, SEL_DATA);
	make_other(task_iret);
	other.cs = 0;
	bad("CS is null", TS, 0);
	make_other(task_iret);
	other.ss = SEL_CODE;
	bad("SS is code", TS, SEL_CODE);
	make_other(task_iret);
	other.ldt = SEL_DATA;
	bad("LDT is data", TS, SEL_DATA);
	make_other(task_iret);
	other.ds = 0x1f8;
	bad("DS is nothing", TS, 0x1f8);
	make_other(task_iret);
	gdt[S_CODE_NP / 8] = desc(0, 0xfffff, 0x1a, 12);
	other.cs = S_CODE_NP;
	bad("CS absent: #NP", NP, S_CODE_NP);
	make_other(task_iret);
	gdt[S_CODE_NP / 8] = desc(0, 0xfffff, 0x12, 12);
	other.ss = S_CODE_NP;
	bad("SS absent: #SS", SS, S_CODE_NP);
}

static void user_int(void) {
	asm volatile("int $0x81\n int3");
}
static void user_gp(void) {
	asm volatile("hlt");
}

static void interrupts(void) {
	/* INT n through a task gate, with and without ring 3. */
	make_other(task_iret);
	set_gate(0x81, 0, T_OTHER, 0xe500);
	asm volatile("int $0x81" : : : "memory", "cc");
	check("INT through a task gate", runs, 1);
	check("link and NT", other.link << 16 | (seen_flags & 0x4000), SEL_TSS << 16 | 0x4000);
	make_other(task_iret);
	idt[BP].attr |= GATE_DPL3;
	user(user_int, 0x202);
	check_trap("from ring 3 and back", BP, 0);
	check("ran once", runs, 1);
	set_gate(0x81, 0, T_OTHER, 0x8500);
	user(user_int, 2);
	check_trap("DPL of the gate counts", GP, 0x81 * 8 + 2);

	/* An exception with an error code: it is pushed on the new task's stack. */
	make_other(task_error);
	set_gate(GP, 0, T_OTHER, 0x8500);
	asm volatile("movl $1f, task_resume_to\n mov %%esp, %%ebx\n mov %0, %%gs\n 1: mov %%ebx, %%esp"
				 :
				 : "r"(0x1f0 | 4)
				 : "ebx", "memory", "cc");
	check("#GP through a task gate", runs, 1);
	check("its error code", seen_error, 0x1f4);
	gdt[T_OTHER / 8] &= ~(2ull << 40);
	set_gate(GP, (word)trap_stubs + GP * 16, SEL_CODE, GATE_INT);
	user(user_gp, 2);
	check_trap("#GP as usual again", GP, 0);

	/* The classic: a stack that cannot take #PF or #GP from ring 3, and #DF in its own task. */
	make_other(task_error);
	set_gate(DF, 0, T_OTHER, 0x8500);
	idt[0x81].attr = GATE_INT | GATE_DPL3;
	idt[0x81].sel = S_CODE_NP;
	gdt[S_CODE_NP / 8] = desc(0, 0xfffff, 0x1a, 12);
	u16 np = idt[NP].sel;
	idt[NP].sel = S_CODE_NP;
	seen_error = 0xffff;
	asm volatile("movl $1f, task_resume_to\n mov %%esp, %%ebx\n int $0x81\n 1: mov %%ebx, %%esp"
				 :
				 :
				 : "ebx", "memory", "cc");
	check("#DF in a task of its own", runs, 1);
	check("its error code is 0", seen_error, 0);
	idt[NP].sel = np;
	set_gate(DF, (word)trap_stubs + DF * 16, SEL_CODE, GATE_INT);
}

static void sixteen(void) {
	/* A TSS of 16 bits has no CR3 and no FS, GS; upper halves are ones. */
	memset((void *)tss16, 0, sizeof(tss16));
	tss16[7] = (u16)(u32)task16;
	make_other(task_jmp);
	gdt[T_16 / 8] = desc((u32)tss16, 43, 0x81, 0);
	gdt[S_CODE_NP / 8] = desc((u32)task16 & 0xffff0000, 0xfffff, 0x9a, 12);
	tss16[8] = 2;
	tss16[13] = (u16)((u32)other_stack + 4096);
	tss16[17] = SEL_DATA;
	tss16[18] = S_CODE_NP;
	tss16[19] = tss16[20] = SEL_DATA;
	asm volatile("ljmp *jump16" : : : "memory", "cc");
	check("a 16-bit TSS", runs, 1);
	check("its IP was saved", tss16[7] != (u16)(u32)task16, 1);
	tss16[21] = 0;
	gdt[T_16 / 8] = desc((u32)tss16, 42, 0x81, 0);
	FAULTS("too short", TS, T_16, "lcall *jump16");
}

void guest(void) {
	calls();
	refused();
	bad_state();
	interrupts();
	sixteen();
}
