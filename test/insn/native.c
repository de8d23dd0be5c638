/* Every user-mode instruction form, run on the host CPU and in an engine, from the same
 * state; registers, flags, memory, vector state and faults must come out the same.
 *
 * Usage: native [--tier interp] [--count CASES] [--seed N] [--op MNEMONIC] [--mode 32|64]
 *        [--avx512] [--explained FILE] [--verbose]
 *
 * --avx512: only AVX-512's forms. FILE has lines "MNEMONIC: WHAT -- reason": differences of this
 * form whose text begins with WHAT are the host's (an emulator's), and only counted.
 *
 * The host side is a forked child that lives in its signal handlers: each case is put into the
 * ucontext and started by returning from the handler; the INT3 behind the instruction (or its
 * fault) comes back as the next signal with the whole state in hand. The guest side has the
 * same few pages at the same addresses, runs at CPL 3, and its IDT sends every vector to a HLT.
 *
 * Instructions are random bytes that decode to a form marked NATIVE in the table; each form gets
 * the same share. Flags that the table calls undefined are masked, nothing else is. */
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "core/x86/cpuid.h"
#include "core/x86/feature.h"
#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"
#include "test/insn/gen.h"

/* The pages that both sides have, by virtual address. */
#define CODE 0x10000000ull /* two pages, executable, filled with INT3 */
#define DATA 0x10010000ull /* four pages, writable; before and behind: nothing */
#define DATA_SIZE 0x4000ull
#define RODATA 0x10020000ull /* one page, read-only */
#define XSTATE 2688			 /* legacy, header, AVX, AVX-512 where Intel's CPUs have it */

struct cpu {
	uint64_t gpr[16], rip, rflags;
	uint8_t x[XSTATE] __attribute__((aligned(64)));
	int vector; /* 3: the INT3 behind the instruction */
	uint32_t error;
	uint64_t cr2;
};

/* One case and its two outcomes, shared between parent and child. */
struct arena {
	uint8_t code[64];
	uint64_t at; /* where the code goes */
	struct cpu before, after;
	uint8_t data_before[DATA_SIZE], data_after[DATA_SIZE], ro[4096];
	volatile uint32_t turn; /* 0: parent's, 1: child's, 2: end */
};

#define BATCH 256
static struct arena *shared; /* BATCH of them */

/* ---- the host side --------------------------------------------------------------------- */

/* What the cases are written in: 64-bit code, or 32-bit code in compatibility mode. */
static enum x86_mode code_mode = X86_MODE_64;

/* Components of AVX-512 by number: where they are in the guest's image, and in the host's. */
static const struct part {
	uint16_t at, size;
} parts[8] = {[5] = {1088, 64}, [6] = {1152, 512}, [7] = {1664, 1024}};
static uint32_t host_at[8];
static bool have512; /* both sides have it */

static unsigned cursor, batch_len;
static volatile uint32_t *go; /* [0]: 1 = run the batch; [1]: its length */
static uint8_t *handler_stack;

static void start_case(ucontext_t *uc, struct arena *a) {
	memset((void *)CODE, 0xcc, 8192);
	memcpy((void *)a->at, a->code, sizeof(a->code) - 16);
	memcpy((void *)DATA, a->data_before, DATA_SIZE);
	greg_t *g = uc->uc_mcontext.gregs;
	static const int map[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
								REG_RSI, REG_RDI, REG_R8,  REG_R9,	REG_R10, REG_R11,
								REG_R12, REG_R13, REG_R14, REG_R15};
	for (unsigned n = 0; n < 16; n++)
		g[map[n]] = (greg_t)a->before.gpr[n];
	g[REG_RIP] = (greg_t)a->before.rip;
	g[REG_EFL] = (greg_t)a->before.rflags;
	uint16_t cs = code_mode == X86_MODE_64 ? 0x33 : 0x23, ss = 0x2b;
	memcpy((uint8_t *)&g[REG_CSGSFS], &cs, 2);
	memcpy((uint8_t *)&g[REG_CSGSFS] + 6, &ss, 2);
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
	uint8_t keep[48];
	memcpy(keep, fp + 464, 48); /* the kernel's words about the frame */
	memcpy(fp, a->before.x, 512);
	memcpy(fp + 464, keep, 48);
	memcpy(fp + 576, a->before.x + 576, 256);
	uint64_t *bv = (uint64_t *)(fp + 512);
	*bv |= 7;
	for (unsigned n = 5; n < 8 && have512; n++)
		memcpy(fp + host_at[n], a->before.x + parts[n].at, parts[n].size);
	if (have512)
		*bv |= XCR0_AVX512;
}

static void end_case(const ucontext_t *uc, struct arena *a) {
	const greg_t *g = uc->uc_mcontext.gregs;
	static const int map[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
								REG_RSI, REG_RDI, REG_R8,  REG_R9,	REG_R10, REG_R11,
								REG_R12, REG_R13, REG_R14, REG_R15};
	for (unsigned n = 0; n < 16; n++)
		a->after.gpr[n] = (uint64_t)g[map[n]];
	a->after.rip = (uint64_t)g[REG_RIP];
	a->after.rflags = (uint64_t)g[REG_EFL];
	a->after.vector = (int)g[REG_TRAPNO];
	a->after.error = (uint32_t)g[REG_ERR];
	a->after.cr2 = (uint64_t)g[REG_CR2];
	const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
	memcpy(a->after.x, fp, 832);
	for (unsigned n = 5; n < 8 && have512; n++)
		memcpy(a->after.x + parts[n].at, fp + host_at[n], parts[n].size);
	memcpy(a->data_after, (void *)DATA, DATA_SIZE);
}

static void on_signal(int sig, siginfo_t *si, void *ctx) {
	ucontext_t *uc = ctx;
	if (cursor < batch_len)
		end_case(uc, &shared[cursor++]);
	if (cursor >= batch_len) {
		go[0] = 0;
		while (go[0] == 0)
			usleep(20);
		if (go[0] == 2)
			_exit(0);
		batch_len = go[1];
		cursor = go[2];
	}
	shared[cursor].after.vector = -1;
	start_case(uc, &shared[cursor]);
}

static void map_pages(void) {
	int rwx = PROT_READ | PROT_WRITE | PROT_EXEC;
	if (mmap((void *)CODE, 8192, rwx, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
			MAP_FAILED ||
		mmap((void *)DATA, DATA_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
		mmap((void *)RODATA, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			 -1, 0) == MAP_FAILED)
		abort();
	memset((void *)RODATA, 0xaa, 4096);
	mprotect((void *)RODATA, 4096, PROT_READ);
}

static pid_t child;

static void start_child(void) {
	child = fork();
	if (child)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_pages();
	/* 64-bit code does without them, 32-bit code does not. */
	asm volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(0x2b));
	handler_stack = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = {.ss_sp = handler_stack, .ss_size = 1 << 20};
	sigaltstack(&ss, NULL);
	struct sigaction sa = {.sa_sigaction = on_signal,
						   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	int sigs[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
	for (unsigned n = 0; n < 5; n++)
		sigaction(sigs[n], &sa, NULL);
	for (;;)
		asm volatile("int3");
}

/* Runs shared[0..n) on the host; a case that killed the child has vector -1. */
static void run_native(unsigned n) {
	unsigned from = 0;
	while (from < n) {
		go[1] = n;
		go[2] = from;
		go[0] = 1;
		int status;
		bool dead = false;
		while (go[0] == 1)
			if (waitpid(child, &status, WNOHANG) == child) {
				dead = true;
				break;
			} else {
				usleep(20);
			}
		if (!dead)
			return;
		while (from < n && shared[from].after.vector != -1)
			from++;
		shared[from++].after.vector = -2;
		go[0] = 0;
		start_child();
		while (go[0] != 0)
			usleep(20);
	}
}

/* ---- the guest side -------------------------------------------------------------------- */

#define G_PML4 0x1000u /* guest-physical */
#define G_PDPT 0x2000u
#define G_PD 0x3000u
#define G_PT 0x4000u
#define G_GDT 0x5000u
#define G_IDT 0x6000u
#define G_HLT 0x7000u /* 256 x HLT */
#define G_TSS 0x8000u
#define G_STACK 0xa000u /* top of the kernel's stack */
#define G_CODE 0x10000u
#define G_DATA 0x20000u
#define G_RO 0x30000u
#define G_SYS 0x20000000ull /* where the first 64 KiB are mapped for the kernel */
#define RAM_SIZE 0x100000u

static struct bench_vm vm;

static void put64(uint32_t gpa, uint64_t v) {
	memcpy(vm.ram + gpa, &v, 8);
}

static void map_page(gva_t va, uint32_t gpa, uint64_t bits) {
	/* One page table serves CODE .. RODATA, another one (G_PT + 0x1000 is the GDT's) is spared by
	 * mapping G_SYS with a 2 MiB leaf. */
	put64(G_PT + (uint32_t)(va >> 12 & 511) * 8, gpa | bits);
}

static void guest_create(const char *tier) {
	bench_vm_create(&vm, RAM_SIZE, tier);
	uint64_t user = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	put64(G_PML4, G_PDPT | user);
	put64(G_PDPT, G_PD | user);
	put64(G_PD + (CODE >> 21 & 511) * 8, G_PT | user);
	put64(G_PD + (G_SYS >> 21 & 511) * 8, 0 | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
	for (unsigned n = 0; n < 2; n++)
		map_page(CODE + n * 4096, G_CODE + n * 4096, user);
	for (unsigned n = 0; n < DATA_SIZE / 4096; n++)
		map_page(DATA + n * 4096, G_DATA + n * 4096, user | PTE_NX);
	map_page(RODATA, G_RO, (user & ~PTE_W) | PTE_NX);
	memset(vm.ram + G_RO, 0xaa, 4096);
	memset(vm.ram + G_HLT, 0xf4, 256);
	put64(G_GDT + 0x08, 0x00209a0000000000ull); /* kernel code */
	put64(G_GDT + 0x10, 0x0000920000000000ull);
	for (unsigned n = 0; n < 256; n++) {
		uint64_t at = G_SYS + G_HLT + n;
		put64(G_IDT + n * 16,
			  (at & 0xffff) | 8ull << 16 | 0xeeull << 40 | (at >> 16 & 0xffff) << 48);
		put64(G_IDT + n * 16 + 8, at >> 32);
	}
	put64(G_TSS + 4, G_SYS + G_STACK);
}

static void guest_run(struct arena *a, struct cpu *out) {
	struct x86_state *s = &vm.cpu->state;
	memset(vm.ram + G_CODE, 0xcc, 8192);
	memcpy(vm.ram + G_CODE + (a->at - CODE), a->code, sizeof(a->code) - 16);
	memcpy(vm.ram + G_DATA, a->data_before, DATA_SIZE);
	mem_written(&vm.vm.mem, G_CODE, 8192); /* as a device's DMA would */
	s->activity = CPU_RUNNING;
	s->shadow = 0;
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	s->cr3 = G_PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX | (have512 ? XCR0_AVX512 : 0);
	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = (struct x86_segment){0x2b, 0xc0f3, 0xffffffff, 0};
	s->seg[SEG_CS] = code_mode == X86_MODE_64 ? (struct x86_segment){0x33, 0xa0fb, 0xffffffff, 0}
											  : (struct x86_segment){0x23, 0xc0fb, 0xffffffff, 0};
	s->seg[SEG_TR] = (struct x86_segment){0x18, 0x8b, 0x67, G_SYS + G_TSS};
	s->gdtr = (struct x86_dtable){G_SYS + G_GDT, 0x2f};
	s->idtr = (struct x86_dtable){G_SYS + G_IDT, 0xfff};
	memcpy(s->gpr, a->before.gpr, sizeof(s->gpr));
	s->rip = a->before.rip;
	s->rflags = a->before.rflags;
	memcpy(s->xsave, a->before.x, XSTATE);
	memset(s->xsave + 512, 0, 64);
	s->xsave[512] = (uint8_t)s->xcr0;
	s->cr2 = 0;
	enum vm_exit_kind kind = bench_vm_run(&vm);
	memset(out, 0, sizeof(*out));
	out->vector = kind == EXIT_HALT ? (int)(s->rip - 1 - G_SYS - G_HLT) : -100 - (int)kind;
	memcpy(out->gpr, s->gpr, sizeof(out->gpr));
	memcpy(out->x, s->xsave, XSTATE);
	if (kind != EXIT_HALT || out->vector < 0 || out->vector > 255)
		return;
	uint32_t sp = (uint32_t)(s->gpr[RSP] - G_SYS);
	uint64_t frame[6] = {0};
	bool has_error = (1u << out->vector & 0x27d00u) != 0;
	if (sp > RAM_SIZE - 64)
		return;
	memcpy(frame, vm.ram + sp, has_error ? 48 : 40);
	uint64_t *f = has_error ? frame + 1 : frame;
	out->error = has_error ? (uint32_t)frame[0] : 0;
	out->rip = f[0];
	out->rflags = f[2];
	out->gpr[RSP] = f[3];
	out->cr2 = s->cr2;
}

/* ---- making cases ---------------------------------------------------------------------- */

#define PROTOS 16
static struct form_protos {
	unsigned n;
	uint8_t bytes[PROTOS][16];
} * protos;

static bool only512; /* --avx512 */

static bool usable(const struct x86_insn *i, const struct cpuid_policy *p) {
	const struct x86_form *f = &x86_forms[i->form];
	if (only512 && f->cls != X86_CLASS_AVX512)
		return false;
	if (only512 && !gen_bochs_takes(i))
		return false;
	if (!(f->attr & X86_ATTR_NATIVE) || (f->feature && !cpuid_has(p, f->feature)))
		return false;
	if (i->seg_prefix == SEG_FS || i->seg_prefix == SEG_GS)
		return false; /* the host's FS is the C library's */
	if (code_mode != X86_MODE_64 && (i->op == X86_OP_VPEXTRQ || i->op == X86_OP_VPINSRQ))
		return false; /* VEX.W: ignored by Intel's CPUs, refused by AMD's */
	if (i->op == X86_OP_MOVSXD && i->opsize == 2)
		return false; /* reads 2 bytes on Intel's CPUs and 4 on AMD's */
	/* 16-bit addresses reach none of the pages. */
	return i->addrsize != 2 || !i->modrm_off || i->modrm >= 0xc0;
}

static void collect(const struct cpuid_policy *p, const char *only) {
	protos = calloc(X86_FORM_COUNT, sizeof(*protos));
	for (unsigned k = 0; k < (only512 ? 400000 : 12000000); k++) {
		uint8_t b[16];
		struct x86_insn i;
		if (only512 || (have512 && gen_below(4) == 0))
			gen_avx512(b, code_mode == X86_MODE_64);
		else
			gen_bytes(b, code_mode == X86_MODE_64);
		int len = x86_decode(&i, b, 15, code_mode);
		if (len <= 0 || !usable(&i, p))
			continue;
		if (only && strcasecmp(x86_forms[i.form].mnemonic, only) != 0)
			continue;
		struct form_protos *fp = &protos[i.form];
		unsigned slot = fp->n < PROTOS ? fp->n++ : gen_below(PROTOS);
		memcpy(fp->bytes[slot], b, 16);
		memset(fp->bytes[slot] + len, 0xcc, 16 - (unsigned)len);
	}
}

/* Values that find edges more often than random ones do. */
static uint64_t edgy(void) {
	static const uint64_t edges[] = {0,
									 1,
									 2,
									 0x7f,
									 0x80,
									 0xff,
									 0x7fff,
									 0x8000,
									 0xffff,
									 0x7fffffff,
									 0x80000000,
									 0xffffffff,
									 0x7fffffffffffffff,
									 1ull << 63,
									 ~0ull};
	switch (gen_below(4)) {
	case 0:
		return edges[gen_below(sizeof(edges) / 8)];
	case 1:
		return (uint64_t)gen_below(256);
	default:
		return gen_rnd();
	}
}

static gva_t target(unsigned size) {
	if (!size)
		size = 64;
	switch (gen_below(12)) {
	case 0: /* across two pages */
		return DATA + 0x2000 - gen_below(size ? size : 1);
	case 1: /* into nothing behind */
		return DATA + DATA_SIZE - gen_below(size + 1);
	case 2: /* from nothing before */
		return DATA - gen_below(size + 1);
	case 3:
		return RODATA + (gen_below(4096) & ~63u);
	case 4: /* unaligned */
		return DATA + gen_below((unsigned)DATA_SIZE - 128);
	case 5: /* nowhere, or not canonical */
		return code_mode == X86_MODE_64 && gen_below(2) ? gen_rnd() : DATA + 0x100000;
	default:
		return DATA + (gen_below((unsigned)DATA_SIZE - 4096) & ~63u) + 0x800;
	}
}

/* 64 bits of a vector: small floats and doubles, specials, random bits. */
static uint64_t lanes(void) {
	uint64_t v;
	switch (gen_below(5)) {
	case 0: {
		double d = (double)(int64_t)(gen_rnd() % 2000) - 1000.5;
		memcpy(&v, &d, 8);
		return v;
	}
	case 1: {
		float f[2] = {(float)gen_below(1000) / 7, -(float)gen_below(100)};
		memcpy(&v, f, 8);
		return v;
	}
	case 2:
		return (uint64_t[]){0,
							1ull << 63,
							0x7ff0000000000000,
							0x7ff8000000000000,
							0x7ff0000000000001,
							0x0000000000000001,
							0x7f8000017f800000,
							0xff80000000000001}[gen_below(8)];
	default:
		return gen_rnd();
	}
}

/* Masks: all, none, a few, some. `index`: not 0: vectors of small indices of this size instead. */
static void make_avx512(uint8_t *x, unsigned index) {
	for (unsigned k = 0; k < 8; k++) {
		uint64_t v = gen_below(4) ? gen_rnd() : gen_below(2) ? ~0ull : gen_below(8);
		memcpy(x + parts[5].at + k * 8, &v, 8);
	}
	for (unsigned n = 0; n < 512 + 1024; n += 8) {
		uint64_t v = lanes();
		memcpy(x + parts[6].at + n, &v, 8);
	}
	for (unsigned n = 0; index && n < XSTATE; n += 8) {
		uint64_t v = gen_below(64) | (index == 4 ? (uint64_t)gen_below(64) << 32 : 0);
		if ((n >= 160 && n < 416) || (n >= 576 && n < 832) || n >= parts[6].at)
			memcpy(x + n, &v, 8);
	}
}

static void make_fpu(uint8_t *x) {
	for (unsigned n = 0; n < 832; n += 8) {
		uint64_t v = gen_rnd();
		memcpy(x + n, &v, 8);
	}
	for (unsigned r = 0; r < 16; r++)
		for (unsigned k = 0; k < 4; k++) {
			uint8_t *at = x + (k < 2 ? 160 : 576 - 16) + r * 16 + k * 8;
			uint64_t v = lanes();
			memcpy(at, &v, 8);
		}
	uint16_t fcw =
		gen_below(6) ? 0x037f : (uint16_t)(0x0300 | gen_below(16) << 8 | 0x40 | gen_below(64));
	uint16_t fsw = (uint16_t)(gen_below(8) << 11 | (gen_below(4) ? 0 : gen_below(16) << 8));
	memcpy(x, &fcw, 2);
	memcpy(x + 2, &fsw, 2);
	x[4] = gen_below(3) ? (uint8_t)gen_rnd() : 0;
	x[5] = 0;
	memset(x + 6, 0, 18);
	uint32_t mxcsr = 0x1f80 | (gen_below(4) << 13);
	if (gen_below(6) == 0)
		mxcsr ^= (uint32_t)gen_below(64) << 7;
	if (gen_below(8) == 0)
		mxcsr |= 1u << 15 | gen_below(64) | (gen_below(2) << 6);
	memcpy(x + 24, &mxcsr, 4);
	uint32_t mask = 0xffff;
	memcpy(x + 28, &mask, 4);
	for (unsigned r = 0; r < 8; r++) {
		long double d = (long double)(int64_t)gen_rnd() / (gen_below(2) ? 65536.0L : 1.0L);
		uint8_t *at = x + 32 + r * 16;
		if (gen_below(3))
			memcpy(at, &d, 10);
		memset(at + 10, 0, 6);
	}
	memset(x + 416, 0, 160);
}

static unsigned operand_size(const struct x86_insn *i) {
	const struct x86_opnd *m = x86_memory_operand(i);
	return m ? m->size : 0;
}

static bool make_case(struct arena *a, unsigned form) {
	const struct form_protos *fp = &protos[form];
	struct x86_insn i;
	uint8_t bytes[16];
	memcpy(bytes, fp->bytes[gen_below(fp->n)], 16);
	if (x86_decode(&i, bytes, 15, code_mode) <= 0)
		return false;
	if (i.modrm_off && gen_below(2)) { /* other registers */
		uint8_t old = bytes[i.modrm_off];
		bytes[i.modrm_off] = (uint8_t)(old & 0xc0) | (uint8_t)(gen_rnd() & 0x3f);
		struct x86_insn j;
		int len = x86_decode(&j, bytes, 15, code_mode);
		if (len == i.len && j.form == i.form)
			i = j;
		else
			bytes[i.modrm_off] = old;
		if (x86_decode(&i, bytes, 15, code_mode) <= 0)
			return false;
	}
	if (i.imm_off && i.opnd[0].kind != OPND_REL && gen_below(2))
		for (unsigned n = 0; n < i.imm_len; n++)
			bytes[i.imm_off + n] = (uint8_t)edgy();

	memset(&a->before, 0, sizeof(a->before));
	a->at = CODE + 64 + gen_below(16);
	struct cpu *b = &a->before;
	for (unsigned n = 0; n < 16; n++)
		b->gpr[n] = edgy();
	bool string = x86_forms[form].cls == X86_CLASS_STRING;
	if (string || gen_below(3) == 0) {
		b->gpr[RSI] = target(16);
		b->gpr[RDI] = target(16);
		b->gpr[RCX] = gen_below(40);
	}
	b->gpr[RSP] = DATA + 0x2000 + (gen_below(2) ? gen_below(64) : 0);
	b->gpr[RBP] = DATA + 0x1800 + gen_below(128);
	b->gpr[RBX] = gen_below(2) ? target(1) : b->gpr[RBX];
	if (gen_below(12) == 0)
		b->gpr[RSP] = target(8);
	gva_t t = target(operand_size(&i));
	if (i.mem || (i.modrm_off && (bytes[i.modrm_off] >> 6) != 3)) {
		bool vsib = x86_forms[form].attr & X86_ATTR_VSIB;
		uint64_t idx = 0;
		if (i.index < 16 && !vsib) {
			if (gen_below(2))
				b->gpr[i.index] = gen_below(64);
			if (i.index == RSP)
				return false;
			idx = b->gpr[i.index] << i.scale;
		}
		if (i.base < 16 && i.base != i.index)
			b->gpr[i.base] = t - (uint64_t)i.disp - idx;
		else if (i.base == X86_REG_RIP && i.disp_len == 4) {
			int32_t d = (int32_t)(t - (a->at + i.len));
			memcpy(bytes + i.disp_off, &d, 4);
		} else if (i.base == X86_REG_NONE && i.disp_len >= 4 && t < 0x7fffffff) {
			uint64_t d = t - idx;
			memcpy(bytes + i.disp_off, &d, i.disp_len);
		}
	}
	for (unsigned n = 0; n < 16 && code_mode != X86_MODE_64; n++)
		b->gpr[n] = n < 8 ? (uint32_t)b->gpr[n] : 0;
	b->rip = a->at;
	b->rflags = (gen_rnd() & RFLAGS_ARITH) | RFLAGS_FIXED | RFLAGS_IF;
	if (gen_below(4) == 0)
		b->rflags |= RFLAGS_DF;
	make_fpu(b->x);
	if (have512) {
		bool indices = x86_forms[form].cls == X86_CLASS_AVX512 &&
					   (x86_forms[form].attr & X86_ATTR_VSIB) && gen_below(4);
		make_avx512(b->x, !indices ? 0 : i.raw[i.modrm_off - 1] & 1 ? 8 : 4);
	}
	memset(a->code, 0xcc, sizeof(a->code));
	memcpy(a->code, bytes, i.len);
	return true;
}

/* ---- comparing ------------------------------------------------------------------------- */

/* Bits of an XSAVE image that are compared: control and status words, tags, registers; not the
 * instruction and data pointers, which hold the host's addresses. */
static bool same_fpu(const uint8_t *x, const uint8_t *y, const char **what) {
	if (memcmp(x, y, 5) != 0)
		return *what = "fcw/fsw/ftw", false;
	if (memcmp(x + 24, y + 24, 4) != 0)
		return *what = "mxcsr", false;
	for (unsigned r = 0; r < 8; r++)
		if (memcmp(x + 32 + r * 16, y + 32 + r * 16, 10) != 0)
			return *what = "st", false;
	if (memcmp(x + 160, y + 160, 256) != 0)
		return *what = "xmm", false;
	if (memcmp(x + 576, y + 576, 256) != 0)
		return *what = "ymm", false;
	static const char *const names[8] = {[5] = "mask", [6] = "zmm", [7] = "zmm16-31"};
	for (unsigned n = 5; n < 8; n++)
		if (memcmp(x + parts[n].at, y + parts[n].at, parts[n].size) != 0)
			return *what = names[n], false;
	return true;
}

/* An area that XSAVE left in its initial state is not in the image: fill it in. */
static void normalise(struct cpu *c) {
	uint64_t bv;
	memcpy(&bv, c->x + 512, 8);
	if (!(bv & 4))
		memset(c->x + 576, 0, 256);
	for (unsigned n = 5; n < 8; n++)
		if (!(bv >> n & 1))
			memset(c->x + parts[n].at, 0, parts[n].size);
	if (!(bv & 2)) {
		memset(c->x + 160, 0, 256);
	}
	if (!(bv & 1)) {
		static const uint8_t init[8] = {0x7f, 3};
		memset(c->x, 0, 24);
		memcpy(c->x, init, 2);
		memset(c->x + 32, 0, 128);
	}
}

/* Bytes that a case's instruction moves; 0 where the table names no size (FXSAVE ...): many. */
static unsigned size_of_case(const struct arena *a) {
	struct x86_insn i;
	unsigned size = 0;
	if (x86_decode(&i, a->code, 15, code_mode) > 0)
		for (unsigned n = 0; n < i.nopnds; n++)
			if (i.opnd[n].kind == OPND_MEM)
				size = i.opnd[n].size >= 14 && x86_forms[i.form].cls == X86_CLASS_X87
						   ? 512
						   : i.opnd[n].size;
	return size;
}

/* EVEX: the order in which lanes are accessed is the CPU's own. */
static bool has_lanes(const struct arena *a) {
	struct x86_insn i;
	return x86_decode(&i, a->code, 15, code_mode) > 0 && i.prefix & X86_PFX_EVEX;
}

static unsigned long lost_flags, wrapped_pe, over_the_end, partial_popa, zero_fma;

/* `undefined`: flags of the table that are; `lost`: flags that the instruction overwrites, which
 * the translator does not keep for an instruction that faults (engine/soft/README.md). */
static const char *compare(struct arena *a, struct cpu *g, uint16_t undefined, uint16_t lost,
						   unsigned size, bool lanes, const char *name) {
	static char why[160];
	struct cpu *h = &a->after;
	const char *what;
	/* 32-bit code has eight registers, whose upper halves are undefined. */
	for (unsigned n = 0; n < 16 && code_mode != X86_MODE_64; n++) {
		h->gpr[n] = n < 8 ? (uint32_t)h->gpr[n] : 0;
		g->gpr[n] = n < 8 ? (uint32_t)g->gpr[n] : 0;
	}
	/* An operand that runs over the end of 4 GiB: #GP by the limit for us, #PF on this host. */
	if (code_mode != X86_MODE_64 && h->vector == 14 && (g->vector == 13 || g->vector == 12) &&
		(h->cr2 >> 12 == 0xfffff || h->cr2 >> 12 == 0)) {
		over_the_end++;
		return NULL;
	}
	/* A POPA that faults: CPUs may have loaded some registers by then, we have not. */
	if (g->vector != 3 && !strcmp(name, "popa") && h->vector == g->vector) {
		partial_popa++;
		return NULL;
	}
	uint32_t m[2];
	memcpy(&m[0], a->before.x + 24, 4);
	memcpy(&m[1], g->x + 24, 4);
	/* Bochs returns the addend of a product that is 0 without a look at it. A
	 * denormal one is tiny, which is an underflow where that is unmasked. */
	bool fma = only512 && (!strncmp(name, "vfm", 3) || !strncmp(name, "vfn", 3)) &&
			   g->vector == 19 && m[1] & 0x10 && !(m[1] & 0x800);
	if (fma && h->vector == 3 && (m[1] & ~(m[1] >> 7) & 0x3f) == 0x10) {
		zero_fma++;
		return NULL;
	}
	if (h->vector != g->vector) {
		snprintf(why, sizeof(why), "vector: host %d engine %d (mxcsr before %x engine %x)",
				 h->vector, g->vector, m[0], m[1]);
		return why;
	}
	/* Pages that only one side has for its own ends: the host's kernel, our G_SYS. */
	uint32_t bits = h->cr2 >> 47 || h->cr2 >> 21 == G_SYS >> 21 ? 0x1e : 0x1f;
	/* A CPU moves an x87 environment in pieces of its own choice: only the page is defined. */
	uint64_t cr2_mask = size > 32 ? ~0xfffull : ~0ull;
	/* Nor is the order in which lanes are accessed. */
	if (lanes && h->cr2 - g->cr2 + 64 < 128)
		h->cr2 = g->cr2;
	if (g->vector == 14 && (((h->cr2 ^ g->cr2) & cr2_mask) || ((h->error ^ g->error) & bits))) {
		snprintf(why, sizeof(why), "#PF: host %lx/%x engine %lx/%x", h->cr2, h->error, g->cr2,
				 g->error);
		return why;
	}
	if (h->rip != g->rip) {
		snprintf(why, sizeof(why), "rip: host %lx engine %lx", h->rip, g->rip);
		return why;
	}
	for (unsigned n = 0; n < 16; n++)
		if (h->gpr[n] != g->gpr[n]) {
			snprintf(why, sizeof(why), "gpr %u: host %lx engine %lx before %lx", n, h->gpr[n],
					 g->gpr[n], a->before.gpr[n]);
			return why;
		}
	uint64_t mask = (RFLAGS_ARITH | RFLAGS_DF) & ~(uint64_t)undefined;
	if (g->vector != 3 && ((h->rflags ^ g->rflags) & mask & lost)) {
		lost_flags++;
		mask &= ~(uint64_t)lost;
	}
	if ((h->rflags ^ g->rflags) & mask) {
		snprintf(why, sizeof(why), "flags: host %lx engine %lx mask %lx", h->rflags, g->rflags,
				 mask);
		return why;
	}
	if (memcmp(a->data_after, vm.ram + G_DATA, DATA_SIZE) != 0) {
		for (unsigned n = 0; n < DATA_SIZE; n++)
			if (a->data_after[n] != vm.ram[G_DATA + n]) {
				snprintf(why, sizeof(why), "memory +%x: host %02x engine %02x", n, a->data_after[n],
						 vm.ram[G_DATA + n]);
				break;
			}
		return why;
	}
	normalise(h);
	normalise(g);
	/* DEVIATION of ours, counted: with an unmasked overflow or underflow a CPU judges PE by the
	 * result with its exponent wrapped, we by the rounded one. */
	uint32_t mh, mg;
	memcpy(&mh, h->x + 24, 4);
	memcpy(&mg, g->x + 24, 4);
	/* So too for the dot products, which are several operations in one: CPUs stop at the first. */
	bool dot = strstr(name, "dpp") != NULL && g->vector == 19 && !((mh ^ mg) & ~0x3fu);
	if (fma && (mh ^ mg) == 0x10) {
		zero_fma++;
		memcpy(g->x + 24, &mh, 4);
	}
	if (dot || ((mh ^ mg) == 0x20 && (mh & 0x18 & ~(mh >> 7)))) {
		wrapped_pe++;
		memcpy(g->x + 24, &mh, 4);
	}
	if (!same_fpu(h->x, g->x, &what)) {
		snprintf(why, sizeof(why), "fpu state: %s (mxcsr before %x host %x engine %x)", what, m[0],
				 mh, mg);
		return why;
	}
	return NULL;
}

/* ---- what is the host's fault ------------------------------------------------------------ */

static struct explanation {
	char name[24], what[64];
	unsigned long times;
} explanations[64];
static unsigned nexplained;

static void explained_read(const char *path) {
	char line[256];
	FILE *f = fopen(path, "r");
	if (!f) {
		perror(path);
		exit(1);
	}
	while (fgets(line, sizeof(line), f)) {
		struct explanation e = {.times = 0};
		char *why = strstr(line, " -- ");
		if (line[0] == '#' || line[0] == '\n')
			continue;
		if (why)
			*why = 0;
		if (!why || sscanf(line, "%23[^:]: %63[^\n]", e.name, e.what) != 2 ||
			nexplained == sizeof(explanations) / sizeof(*explanations)) {
			fprintf(stderr, "%s: no \"MNEMONIC: WHAT -- reason\", or too many: %s\n", path, line);
			exit(1);
		}
		explanations[nexplained++] = e;
	}
	fclose(f);
}

static bool explained(const char *name, const char *why) {
	for (unsigned n = 0; n < nexplained; n++)
		if (!strcmp(name, explanations[n].name) &&
			!strncmp(why, explanations[n].what, strlen(explanations[n].what)))
			return ++explanations[n].times;
	return false;
}

/* ---- the engine's own crashes ------------------------------------------------------------- */

static const struct arena *current;

static void on_crash(int sig, siginfo_t *si, void *ctx) {
	const ucontext_t *u = ctx;
	const uint8_t *at = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP];
	printf("# the engine got signal %d at %p, address %p:", sig, (const void *)at, si->si_addr);
	for (unsigned n = 0; n < 16; n++)
		printf(" %02x", at[n]);
	printf("\n# the guest's instruction:");
	for (unsigned n = 0; n < 16; n++)
		printf(" %02x", current->code[n]);
	printf("\n1..1\nnot ok 1 - native\n");
	fflush(stdout);
	_exit(1);
}

int main(int argc, char **argv) {
#ifdef __SANITIZE_ADDRESS__
	/* Its shadow memory answers where the guest has nothing. */
	return printf("1..1\nok 1 - native # SKIP the host child has a sanitizer's memory in it\n") < 0;
#endif
	unsigned long count = 100000, failures = 0, cases = 0, killed = 0;
	const char *tier = "interp", *only = NULL;
	bool verbose = false, translated;
	gen_seed = 0x9e3779b97f4a7c15ull;
	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--tier") && n + 1 < argc)
			tier = argv[++n];
		else if (!strcmp(argv[n], "--count") && n + 1 < argc)
			count = strtoul(argv[++n], NULL, 0);
		else if (!strcmp(argv[n], "--seed") && n + 1 < argc)
			gen_seed = strtoul(argv[++n], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
		else if (!strcmp(argv[n], "--op") && n + 1 < argc)
			only = argv[++n];
		else if (!strcmp(argv[n], "--mode") && n + 1 < argc)
			code_mode = strcmp(argv[++n], "32") ? X86_MODE_64 : X86_MODE_32;
		else if (!strcmp(argv[n], "--avx512"))
			only512 = true;
		else if (!strcmp(argv[n], "--explained") && n + 1 < argc)
			explained_read(argv[++n]);
		else if (!strcmp(argv[n], "--verbose"))
			verbose = true;
	}
	translated = strcmp(tier, "interp") != 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared) * BATCH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				  -1, 0);
	go = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* Before the engine's own handler, which passes on what is not its. */
	struct sigaction sa = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
	guest_create(tier);
	have512 = cpuid_has(vm.cpuid, X86_FEAT_AVX512F);
	if (only512 && !have512)
		return printf("1..0 # SKIP native: this CPU has no AVX-512\n"), 0;
	for (unsigned n = 5; n < 8 && have512; n++) {
		unsigned size, c, d;
		__cpuid_count(0xd, n, size, host_at[n], c, d);
	}
	collect(vm.cpuid, only);
	go[0] = 1;
	start_child();
	while (go[0] != 0)
		usleep(20);

	unsigned covered = 0, native_forms = 0;
	unsigned *fails = calloc(X86_FORM_COUNT, sizeof(*fails));
	static unsigned forms[X86_FORM_COUNT + 1];
	for (unsigned f = 0; f < X86_FORM_COUNT; f++) {
		const struct x86_form *form = &x86_forms[f];
		if (!(form->attr & X86_ATTR_NATIVE) ||
			(form->feature && !cpuid_has(vm.cpuid, form->feature)) ||
			(only512 && form->cls != X86_CLASS_AVX512))
			continue;
		native_forms++;
		if (protos[f].n)
			forms[covered++] = f;
		else if (verbose && !only)
			printf("# not reached: %s\n", form->mnemonic);
	}
	if (!covered)
		return printf("1..1\nnot ok 1 - native: no forms\n"), 1;
	while (cases < count) {
		static unsigned of[BATCH];
		unsigned n = 0;
		while (n < BATCH) {
			of[n] = forms[(cases + n) % covered];
			if (!n || gen_below(16) == 0)
				for (unsigned k = 0; k < DATA_SIZE; k += 8) {
					uint64_t v = edgy();
					memcpy(shared[n].data_before + k, &v, 8);
				}
			else
				memcpy(shared[n].data_before, shared[n - 1].data_before, DATA_SIZE);
			for (unsigned tries = 0; !make_case(&shared[n], of[n]) && tries < 50; tries++)
				;
			n++;
		}
		run_native(n);
		for (unsigned k = 0; k < n; k++) {
			struct cpu g;
			cases++;
			if (shared[k].after.vector == -2) { /* killed the child: nothing to compare with */
				killed++;
				continue;
			}
			current = &shared[k];
			guest_run(&shared[k], &g);
			const char *why =
				compare(&shared[k], &g, x86_forms[of[k]].flags_undefined,
						translated ? x86_forms[of[k]].flags_written : 0, size_of_case(&shared[k]),
						has_lanes(&shared[k]), x86_forms[of[k]].mnemonic);
			if (!why || explained(x86_forms[of[k]].mnemonic, why))
				continue;
			failures++;
			if (fails[of[k]]++ < (verbose ? 10 : 1) && failures < 2000) {
				struct x86_insn i;
				char text[96];
				x86_decode(&i, shared[k].code, 15, code_mode);
				x86_format(text, sizeof(text), &i, shared[k].at);
				printf("# %-8s %s | ", x86_forms[of[k]].mnemonic, text);
				for (unsigned m = 0; m < i.len; m++)
					printf("%02x", shared[k].code[m]);
				printf(" | %s\n", why);
			}
		}
	}
	go[0] = 2;
	printf("# %lu cases, %u of %u forms reached, %lu cases killed the host process\n", cases,
		   covered, native_forms, killed);
	if (only512)
		printf("# %lu times an FMA of 0 and a denormal had no underflow\n", zero_fma);
	printf("# %lu times flags beside an unmasked SSE exception differed\n", wrapped_pe);
	if (code_mode != X86_MODE_64)
		printf("# %lu operands over the end of 4 GiB, %lu faulting POPAs not compared\n",
			   over_the_end, partial_popa);
	for (unsigned n = 0; n < nexplained; n++)
		printf("# explained, %lu times: %s: %s\n", explanations[n].times, explanations[n].name,
			   explanations[n].what);
	if (translated)
		printf("# %lu faults with flags that the instruction would have overwritten\n", lost_flags);
	printf("1..1\n%s 1 - native%s%s/%s (%lu of %lu differ)\n", failures ? "not ok" : "ok",
		   code_mode == X86_MODE_64 ? "" : "32", only512 ? "-avx512" : "", tier, failures, cases);
	return failures != 0;
}
