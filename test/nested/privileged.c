/* Random privileged instructions, one at a time, on engine kvm and on soft's interpreter from the
 * same state; afterwards both processors and all of memory must be equal.
 *
 *     privileged [--count N] [--seed N] [--explained FILE] [--verbose]
 *
 * Each snippet is one instruction at CPL 0 or 3 in 64-bit mode with registers that often make
 * sense, and HLT behind it; every exception ends in a HLT of its own, so RIP tells which one came,
 * and the stack its frame. A difference is "INSTRUCTION: FIELD"; FILE explains those that are known
 * (lines "INSTRUCTION: FIELD -- REASON", ANY for all instructions), others fail. Needs a KVM that
 * passes its probe. Prints TAP. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define RAM 0x40000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define GDT 0x5000u
#define IDT 0x6000u
#define STUBS 0x7000u /* one HLT an exception */
#define TSS 0x8000u
#define KSTACK 0xb000u
#define STACK 0xd000u
#define CODE 0x10000u
#define DATA 0x20000u
#define AFTER 0x18000u /* where far jumps and SYSCALL go */
#define DIFFERENCES 400
#define SNIPPET_SECONDS 5

static struct bench_vm soft, kvm;
static uint64_t seed = 1;

static uint64_t rng(void) {
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t pick(const uint64_t *of, unsigned n) {
	return of[rng() % n];
}

/* ---- the guest ---------------------------------------------------------------------------- */

static void put64(uint8_t *ram, uint32_t at, uint64_t v) {
	memcpy(ram + at, &v, 8);
}

static void fill(uint8_t *ram) {
	memset(ram, 0, RAM);
	put64(ram, PML4, PDPT | 7 | PTE_A);
	put64(ram, PDPT, PD | 7 | PTE_A);
	put64(ram, PD, 7 | PTE_PS | PTE_A | PTE_D);
	put64(ram, GDT + 0x08,
		  0x00af9b000000ffff); /* kernel code, data, 32-bit code, user data, code */
	put64(ram, GDT + 0x10, 0x00cf93000000ffff);
	put64(ram, GDT + 0x18, 0x00cffb000000ffff);
	put64(ram, GDT + 0x20, 0x00cff3000000ffff);
	put64(ram, GDT + 0x28, 0x00affb000000ffff);
	put64(ram, GDT + 0x30, 0x00008b0000000067 | (uint64_t)TSS << 16);
	put64(ram, GDT + 0x40, 0x0000890000000067 | (uint64_t)(TSS + 0x100) << 16); /* a free TSS */
	put64(ram, GDT + 0x50, 0x000082000000001f | (uint64_t)(GDT + 0x100) << 16); /* an LDT */
	put64(ram, GDT + 0x60, 0x00cf13000000ffff);									/* not present */
	put64(ram, TSS + 4, KSTACK);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = STUBS + MIN(v, 40u) * 16, dpl = v == 3 || v == 4 || v == 33 ? 3 : 0;
		put64(ram, IDT + v * 16, (at & 0xffff) | 8 << 16 | (0x8e00ull | dpl << 13) << 32);
		ram[at] = 0xf4;
	}
	ram[AFTER] = 0xf4;
	for (unsigned i = 0; i < 512; i++)
		put64(ram, DATA + i * 8, i * 0x0101010101010101ull);
	/* Things to load: descriptor tables, far pointers, IRETQ's frame is on the stack. */
	put64(ram, DATA + 0x00, 0xffffull | (uint64_t)IDT << 16);
	put64(ram, DATA + 0x08, 0);
	put64(ram, DATA + 0x10, 0xffull | (uint64_t)GDT << 16);
	put64(ram, DATA + 0x18, 0);
	put64(ram, DATA + 0x20, AFTER | 8ull << 32);
}

static void common(struct x86_state *s, bool user) {
	s->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE | CR0_MP;
	s->cr2 = 0;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->cr8 = 0;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	for (unsigned n = 0; n < SEG_COUNT; n++)
		s->seg[n] = (struct x86_segment){user ? 0x23 : 0x10, user ? 0xc0f3 : 0xc093, ~0u, 0};
	s->seg[SEG_CS] = (struct x86_segment){user ? 0x2b : 8, user ? 0xa0fb : 0xa09b, ~0u, 0};
	s->seg[SEG_LDTR] = (struct x86_segment){0, SEG_ATTR_UNUSABLE, 0, 0};
	s->seg[SEG_TR] = (struct x86_segment){0x30, 0x8b, 0x67, TSS};
	s->gdtr = (struct x86_dtable){GDT, 0xff};
	s->idtr = (struct x86_dtable){IDT, 0xfff};
	s->dr7 = DR7_FIXED;
	s->dr6 = DR6_FIXED;
	memset(s->dr, 0, sizeof(s->dr));
	s->star = 0x0018000800000000;
	s->lstar = s->cstar = AFTER;
	s->sfmask = 0x700;
	s->kernel_gs_base = DATA + 0x800;
	s->sysenter_cs = s->sysenter_esp = s->sysenter_eip = 0;
	s->tsc_aux = 7;
	s->pat = 0x0007040600070406ull;
	s->activity = CPU_RUNNING;
	s->shadow = 0;
	s->nmi_masked = false;
	s->event = (struct x86_event){0};
	s->rip = CODE;
}

/* ---- snippets ------------------------------------------------------------------------------- */

struct insn {
	const char *name;
	uint8_t len, code[8];
	enum {
		ANY,
		CR0_VALUE,
		CR3_VALUE,
		CR4_VALUE,
		CR8_VALUE,
		DR7_VALUE,
		SELECTOR,
		MSR,
		FLAGS,
		FRAME
	} what;
};

/* Registers: RBX points to data, RAX is the value, RCX the MSR. */
static const struct insn insns[] = {
	{"MOV CR0", 3, {0x0f, 0x22, 0xc0}, CR0_VALUE},
	{"MOV CR2", 3, {0x0f, 0x22, 0xd0}, ANY},
	{"MOV CR3", 3, {0x0f, 0x22, 0xd8}, CR3_VALUE},
	{"MOV CR4", 3, {0x0f, 0x22, 0xe0}, CR4_VALUE},
	{"MOV CR8", 4, {0x44, 0x0f, 0x22, 0xc0}, CR8_VALUE},
	{"MOV from CR0", 3, {0x0f, 0x20, 0xc0}, ANY},
	{"MOV from CR4", 3, {0x0f, 0x20, 0xe0}, ANY},
	{"MOV from CR8", 4, {0x44, 0x0f, 0x20, 0xc0}, ANY},
	{"MOV CR1", 3, {0x0f, 0x22, 0xc8}, ANY},
	{"MOV DR0", 3, {0x0f, 0x23, 0xc0}, ANY},
	{"MOV DR6", 3, {0x0f, 0x23, 0xf0}, ANY},
	{"MOV DR7", 3, {0x0f, 0x23, 0xf8}, DR7_VALUE},
	{"MOV from DR6", 3, {0x0f, 0x21, 0xf0}, ANY},
	{"LMSW", 3, {0x0f, 0x01, 0xf0}, CR0_VALUE},
	{"SMSW", 3, {0x0f, 0x01, 0xe0}, ANY},
	{"CLTS", 2, {0x0f, 0x06}, ANY},
	{"LIDT", 3, {0x0f, 0x01, 0x1b}, ANY},
	{"LGDT", 4, {0x0f, 0x01, 0x53, 0x10}, ANY},
	{"SIDT", 4, {0x0f, 0x01, 0x4b, 0x40}, ANY},
	{"SGDT", 4, {0x0f, 0x01, 0x43, 0x40}, ANY},
	{"LLDT", 3, {0x0f, 0x00, 0xd0}, SELECTOR},
	{"LTR", 3, {0x0f, 0x00, 0xd8}, SELECTOR},
	{"SLDT", 3, {0x0f, 0x00, 0xc0}, ANY},
	{"STR", 3, {0x0f, 0x00, 0xc8}, ANY},
	{"VERR", 3, {0x0f, 0x00, 0xe0}, SELECTOR},
	{"VERW", 3, {0x0f, 0x00, 0xe8}, SELECTOR},
	{"LAR", 3, {0x0f, 0x02, 0xd0}, SELECTOR},
	{"LSL", 3, {0x0f, 0x03, 0xd0}, SELECTOR},
	{"MOV DS", 2, {0x8e, 0xd8}, SELECTOR},
	{"MOV SS", 2, {0x8e, 0xd0}, SELECTOR},
	{"MOV FS", 2, {0x8e, 0xe0}, SELECTOR},
	{"RDMSR", 2, {0x0f, 0x32}, MSR},
	{"WRMSR", 2, {0x0f, 0x30}, MSR},
	{"INVLPG", 3, {0x0f, 0x01, 0x3b}, ANY},
	{"WBINVD", 2, {0x0f, 0x09}, ANY},
	{"SWAPGS", 3, {0x0f, 0x01, 0xf8}, ANY},
	{"CLI", 1, {0xfa}, ANY},
	{"PUSHF", 1, {0x9c}, ANY},
	{"POPF", 1, {0x9d}, FLAGS},
	{"IRETQ", 2, {0x48, 0xcf}, FRAME},
	{"LRET", 2, {0x48, 0xcb}, FRAME},
	{"INT3", 1, {0xcc}, ANY},
	{"INT 33", 2, {0xcd, 33}, ANY},
	{"INT 34", 2, {0xcd, 34}, ANY},
	{"UD2", 2, {0x0f, 0x0b}, ANY},
	{"LJMP", 3, {0xff, 0x6b, 0x20}, ANY},
	{"LCALL", 3, {0xff, 0x5b, 0x20}, ANY},
	{"SYSCALL", 2, {0x0f, 0x05}, ANY},
	{"SYSRET", 3, {0x48, 0x0f, 0x07}, MSR},
	{"XGETBV", 3, {0x0f, 0x01, 0xd0}, MSR},
	{"RDPMC", 2, {0x0f, 0x33}, ANY},
	{"IN", 2, {0xe4, 0x80}, ANY},
	{"OUT", 2, {0xe6, 0x80}, ANY},
	{"HLT", 1, {0xf4}, ANY},
};

static uint64_t value(const struct insn *i) {
	static const uint64_t odd[] = {
		0, 1, ~0ull, 0x8000000000000000, 0x7fffffffffff, 0x800000000000, DATA};
	static const uint64_t sels[] = {0,	  3,	8,	  0x10, 0x13, 0x18, 0x1b,  0x20,
									0x23, 0x2b, 0x30, 0x40, 0x50, 0x60, 0x100, 0xfffc};
	const struct x86_state *s = &soft.cpu->state;
	switch (i->what) {
	case CR0_VALUE:
		return s->cr0 ^ (rng() % 3 ? BIT(rng() % 32) : 0);
	case CR3_VALUE:
		return PML4 | (rng() % 2 ? 0x18 : 0);
	case CR4_VALUE:
		return s->cr4 ^ (rng() % 3 ? BIT(rng() % 24) : 0);
	case CR8_VALUE:
		return rng() % 20;
	case DR7_VALUE:
		return rng() & 0xffff0000ffull & ~0xffull;
	case SELECTOR:
		return pick(sels, ARRAY_LEN(sels));
	case FLAGS:
		return rng() & 0x3f7cff & ~(uint64_t)(RFLAGS_IF | RFLAGS_TF | RFLAGS_VM);
	default:
		return rng() % 3 ? pick(odd, ARRAY_LEN(odd)) : rng();
	}
}

static void prepare(const struct insn *i, bool user) {
	static const uint64_t msrs[] = {MSR_EFER,			MSR_STAR,		  MSR_LSTAR,
									MSR_SFMASK,			MSR_FS_BASE,	  MSR_GS_BASE,
									MSR_KERNEL_GS_BASE, MSR_TSC_AUX,	  MSR_PAT,
									MSR_SYSENTER_CS,	MSR_SYSENTER_EIP, MSR_MTRRCAP,
									MSR_MTRR_DEF_TYPE,	MSR_MISC_ENABLE,  MSR_BIOS_SIGN_ID,
									MSR_MCG_CAP,		0x12345,		  0xc0000200};
	struct x86_state *s = &soft.cpu->state, *k = &kvm.cpu->state;
	fill(soft.ram);
	common(s, user);
	for (unsigned n = 0; n < 16; n++)
		s->gpr[n] = rng() % 4 ? DATA + rng() % 0x800 : rng();
	s->gpr[RBX] = DATA;
	s->gpr[RSP] = user ? STACK : KSTACK - 0x100;
	s->gpr[RAX] = value(i);
	s->gpr[RCX] = i->what == MSR ? pick(msrs, ARRAY_LEN(msrs)) : AFTER;
	if (i->code[0] == 0x48) /* SYSRET, IRETQ and the like go to RCX or the frame */
		s->gpr[RCX] = AFTER;
	s->gpr[RDX] = rng() % 2 ? 0 : s->gpr[RAX] >> 32;
	s->gpr[R11] = RFLAGS_FIXED | (rng() & RFLAGS_ARITH);
	s->rflags = RFLAGS_FIXED | (rng() & RFLAGS_ARITH) | (rng() % 2 ? RFLAGS_IOPL : 0);
	uint64_t frame[5] = {AFTER, rng() % 2 ? 8 : 0x2b, RFLAGS_FIXED | (rng() & 0xcd5), STACK,
						 rng() % 2 ? 0x10 : 0x23};
	if (i->what == FLAGS)
		frame[0] = s->gpr[RAX];
	memcpy(soft.ram + s->gpr[RSP], frame, sizeof(frame));
	memcpy(soft.ram + CODE, i->code, i->len);
	soft.ram[CODE + i->len] = 0xf4;
	memcpy(kvm.ram, soft.ram, RAM);
	uint64_t offset = k->tsc_offset;
	memcpy(k, s, sizeof(*k));
	k->tsc_offset = offset;
	mem_written(&soft.vm.mem, 0, RAM);
}

/* ---- comparing --------------------------------------------------------------------------- */

struct difference {
	char what[64];
	unsigned count;
	uint64_t a, b;
	uint64_t rax, rcx, rdx; /* what the first one began with */
	bool user, explained;
};

static struct difference seen[DIFFERENCES];
static uint64_t began[3];
static unsigned nseen;
static char known[65536];

static bool is_known(const char *insn, const char *field) {
	char exact[80], any[80];
	snprintf(exact, sizeof(exact), "\n%s: %s -- ", insn, field);
	snprintf(any, sizeof(any), "\nANY: %s -- ", field);
	return strstr(known, exact) || strstr(known, any);
}

static void differs(const struct insn *i, bool user, const char *field, uint64_t a, uint64_t b) {
	char name[32], what[64];
	bool msr = !strcmp(i->name, "RDMSR") || !strcmp(i->name, "WRMSR");
	snprintf(name, sizeof(name), "%s", i->name);
	if (msr)
		snprintf(name, sizeof(name), "%s %llx", i->name, (unsigned long long)began[1]);
	snprintf(what, sizeof(what), "%s: %s", name, field);
	for (unsigned n = 0; n < nseen; n++)
		if (!strcmp(seen[n].what, what)) {
			seen[n].count++;
			return;
		}
	if (nseen == DIFFERENCES)
		return;
	struct difference *d = &seen[nseen++];
	memcpy(d->what, what, sizeof(what));
	d->count = 1;
	d->a = a;
	d->b = b;
	d->user = user;
	d->rax = began[0];
	d->rcx = began[1];
	d->rdx = began[2];
	d->explained = is_known(name, field);
}

static void compare(const struct insn *i, bool user, enum vm_exit_kind ka, enum vm_exit_kind kb) {
	static const char *const gprs[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
										 "R8",	"R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
	static const char *const segs[SEG_COUNT] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"};
	const struct x86_state *a = &soft.cpu->state, *b = &kvm.cpu->state;
	if (ka != kb) {
		static unsigned told;
		if (kb == EXIT_FAILED && told++ < 5)
			printf("# %s: %s\n", i->name, kvm.why);
		differs(i, user, "end", ka, kb);
		return;
	}
	if (ka == EXIT_SHUTDOWN) /* AMD's processors have no registers left then */
		return;
	if (a->rip != b->rip) { /* another exception, or none: all else follows from it */
		differs(i, user, "RIP", a->rip, b->rip);
		return;
	}
	for (unsigned n = 0; n < 16; n++)
		if (a->gpr[n] != b->gpr[n])
			differs(i, user, gprs[n], a->gpr[n], b->gpr[n]);
	for (unsigned n = 0; n < SEG_COUNT; n++) {
		const struct x86_segment *x = &a->seg[n], *y = &b->seg[n];
		bool none = (x->attr & y->attr) & SEG_ATTR_UNUSABLE;
		char name[16];
		snprintf(name, sizeof(name), "%s", segs[n]);
		if (x->sel != y->sel)
			differs(i, user, name, x->sel, y->sel);
		else if (!none && (x->base != y->base || x->limit != y->limit || x->attr != y->attr)) {
			snprintf(name, sizeof(name), "%s hidden", segs[n]);
			differs(i, user, name, x->attr, y->attr);
		}
	}
#define FIELD(f, name)                                                                             \
	if (a->f != b->f)                                                                              \
	differs(i, user, name, (uint64_t)a->f, (uint64_t)b->f)
	FIELD(rflags, "RFLAGS");
	FIELD(cr0, "CR0");
	FIELD(cr2, "CR2");
	FIELD(cr3, "CR3");
	FIELD(cr4, "CR4");
	FIELD(efer, "EFER");
	FIELD(dr[0], "DR0");
	FIELD(dr6, "DR6");
	FIELD(dr7, "DR7");
	FIELD(gdtr.base, "GDTR");
	FIELD(gdtr.limit, "GDTR limit");
	FIELD(idtr.base, "IDTR");
	FIELD(idtr.limit, "IDTR limit");
	FIELD(star, "STAR");
	FIELD(lstar, "LSTAR");
	FIELD(sfmask, "SFMASK");
	FIELD(kernel_gs_base, "KERNEL_GS_BASE");
	FIELD(sysenter_cs, "SYSENTER_CS");
	FIELD(sysenter_eip, "SYSENTER_EIP");
	FIELD(pat, "PAT");
	FIELD(tsc_aux, "TSC_AUX");
	FIELD(mtrr_def_type, "MTRR_DEF_TYPE");
	FIELD(shadow, "shadow");
	for (uint32_t at = 0; at < RAM; at += 8)
		if (memcmp(soft.ram + at, kvm.ram + at, 8) != 0) {
			uint64_t x, y;
			memcpy(&x, soft.ram + at, 8);
			memcpy(&y, kvm.ram + at, 8);
			/* A flag of frames, whatever the rest is. */
			if ((x ^ y) == RFLAGS_RF) {
				differs(i, user, "pushed RF", x, y);
				continue;
			}
			differs(i, user, "memory", x, y);
			return;
		}
}

/* Gets a snippet out that never ends; its end then differs. The time is that of the thread that
 * runs them, whose clock this is: a busy host makes none too long. */
static unsigned current;

static void *watch(void *clock) {
	unsigned before = ~0u;
	struct timespec since = {0}, t;
	for (;;) {
		usleep(100000);
		unsigned now = __atomic_load_n(&current, __ATOMIC_RELAXED);
		clock_gettime(*(clockid_t *)clock, &t);
		if (now != before)
			since = t;
		before = now;
		if (t.tv_sec - since.tv_sec < SNIPPET_SECONDS)
			continue;
		since = t;
		vcpu_post(soft.cpu, EVENT_KICK);
		vcpu_post(kvm.cpu, EVENT_KICK);
	}
	return NULL;
}

int main(int argc, char **argv) {
	unsigned count = 2000, unexplained = 0, explained = 0;
	bool verbose = false;
	known[0] = '\n';
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--verbose"))
			verbose = true;
		else if (!strcmp(argv[i], "--count") && i + 1 < argc)
			count = (unsigned)atoi(argv[++i]);
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			seed = strtoull(argv[++i], NULL, 0) | 1;
		else if (!strcmp(argv[i], "--explained") && i + 1 < argc) {
			FILE *f = fopen(argv[++i], "re");
			if (!f || !fread(known + 1, 1, sizeof(known) - 2, f) || getc(f) != EOF)
				return fprintf(stderr, "privileged: cannot read %s, or it is too long\n", argv[i]),
					   2;
			fclose(f);
		} else {
			return fprintf(stderr, "usage: privileged [--count N] [--seed N] [--explained FILE]\n"),
				   2;
		}
	}
	struct engine_probe p = {0};
	engine_kvm.probe(&p, true);
	if (!p.usable) {
		printf("1..0 # SKIP %s\n", p.why);
		return 0;
	}
	bench_vm_create(&kvm, RAM, "kvm");
	bench_vm_create_like(&soft, RAM, "interp", kvm.cpuid);
	pthread_t watcher;
	clockid_t clock;
	if (pthread_getcpuclockid(pthread_self(), &clock) ||
		pthread_create(&watcher, NULL, watch, &clock))
		return fprintf(stderr, "privileged: no thread to watch it\n"), 2;
	for (unsigned n = 0; n < count; n++) {
		const struct insn *i = &insns[rng() % ARRAY_LEN(insns)];
		bool user = rng() % 3 == 0;
		__atomic_store_n(&current, n, __ATOMIC_RELAXED);
		if (verbose && n % 100 == 0)
			fprintf(stderr, "# %u\n", n);
		prepare(i, user);
		began[0] = soft.cpu->state.gpr[RAX];
		began[1] = soft.cpu->state.gpr[RCX];
		began[2] = soft.cpu->state.gpr[RDX];
		enum vm_exit_kind a = bench_vm_run(&soft), b = bench_vm_run(&kvm);
		compare(i, user, a, b);
	}
	for (unsigned n = 0; n < nseen; n++) {
		const struct difference *d = &seen[n];
		unexplained += !d->explained;
		explained += d->explained;
		if (verbose || !d->explained)
			printf(
				"# %s%s: %u times, first soft %llx kvm %llx (CPL %d, rax %llx rcx %llx rdx %llx)\n",
				d->explained ? "explained: " : "", d->what, d->count, (unsigned long long)d->a,
				(unsigned long long)d->b, d->user ? 3 : 0, (unsigned long long)d->rax,
				(unsigned long long)d->rcx, (unsigned long long)d->rdx);
	}
	printf("1..1\n%sok 1 - privileged: %u snippets, %u differences explained, %u not\n",
		   unexplained ? "not " : "", count, explained, unexplained);
	bench_vm_destroy(&soft);
	bench_vm_destroy(&kvm);
	return unexplained != 0;
}
