/* The translator against the interpreter: the same random instruction streams in two VMs, from the
 * same state; whenever one stops, both must have stopped there, with equal registers, flags,
 * memory and vector state. Run with each part of the translator switched off, too: the outcome
 * must not change.
 *
 * Usage: lockstep [--count STREAMS] [--first N] [--seed N] [--off PARTS]
 *        [--mode MODE] [--verbose]
 *
 * A stream (stream.c) is 50 to 200 instructions of user mode. A fault stops it at HLT; after the
 * comparison both go on behind the instruction that faulted, so one stream sees many faults. MODE
 * is what the code is written in: 64 (default), compat32 and compat16 in long mode, 32 and 16 in
 * legacy protected mode; -based: with segments that do not begin at 0. Real and virtual-8086 mode
 * are left to vectors286.c and test/guest.
 *
 * Not compared: flags that the table calls undefined, followed through the stream, which defines
 * them before it reads them; and at a fault those that are dead, because the code behind writes
 * them before it reads any: the translator does not keep these (engine/soft/README.md).
 *
 * Accepted, too: a near jump to an address that is not canonical or beyond the code segment raises
 * #GP there, not at the jump; both are counted.
 *
 * Accepted, and counted, where a stray store changes the stream itself: flags that were dead by
 * the code as it was.
 *
 * A difference is pinned down by planting INT3 at each instruction of the stream in turn. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/x86/cpuid.h"
#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"
#include "test/insn/gen.h"
#include "test/insn/stream.h"

#define G_PML4 0x1000u
#define G_PDPT 0x2000u
#define G_PD 0x3000u
#define G_PT 0x4000u
#define G_GDT 0x5000u
#define G_IDT 0x6000u
#define G_HLT 0x7000u
#define G_TSS 0x8000u
#define G_STACK 0xa000u
#define G_CODE 0x10000u
#define G_DATA 0x20000u
#define G_RO 0x30000u
#define G_COUNTER 0x31000u
/* For legacy protected mode. */
#define G_PDPT32 0x40000u
#define G_GDT32 0x41000u
#define G_IDT32 0x42000u
#define G_TSS32 0x43000u
#define G_SYS 0x20000000ull
#define RAM_SIZE 0x100000u

struct cpu {
	uint64_t gpr[16], rip, rflags, cr2;
	uint8_t x[XSTATE] __attribute__((aligned(64)));
	int vector;
	uint32_t error;
};

/* A point that a run can be repeated from. */
struct point {
	struct cpu cpu;
	uint8_t code[CODE_SIZE], data[DATA_SIZE], counter[8];
};

/* ---- the two machines ------------------------------------------------------------------- */

static struct bench_vm vms[2]; /* 0: interpreter, 1: translator */
static unsigned running;

static void map_page(struct bench_vm *b, gva_t va, uint32_t gpa, uint64_t bits) {
	bench_vm_put64(b, G_PT + (uint32_t)(va >> 12 & 511) * 8, gpa | bits);
}

static void machine_create(struct bench_vm *b, const char *tier) {
	uint64_t user = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	bench_vm_create(b, RAM_SIZE, tier);
	bench_vm_put64(b, G_PML4, G_PDPT | user);
	bench_vm_put64(b, G_PDPT, G_PD | user);
	bench_vm_put64(b, G_PD + (CODE >> 21 & 511) * 8, G_PT | user);
	bench_vm_put64(b, G_PD + (G_SYS >> 21 & 511) * 8, 0 | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
	for (unsigned n = 0; n < 2; n++)
		map_page(b, CODE + n * 4096, G_CODE + n * 4096, user);
	for (unsigned n = 0; n < DATA_SIZE / 4096; n++)
		map_page(b, DATA + n * 4096, G_DATA + n * 4096, user | PTE_NX);
	map_page(b, RODATA, G_RO, (user & ~PTE_W) | PTE_NX);
	map_page(b, COUNTER, G_COUNTER, user | PTE_NX);
	memset(b->ram + G_RO, 0xaa, 4096);
	memset(b->ram + G_HLT, 0xf4, 256);
	bench_vm_put64(b, G_GDT + 0x08, 0x00209a0000000000ull);
	bench_vm_put64(b, G_GDT + 0x10, 0x0000920000000000ull);
	for (unsigned n = 0; n < 256; n++) {
		uint64_t at = G_SYS + G_HLT + n;
		bench_vm_put64(b, G_IDT + n * 16,
					   (at & 0xffff) | 8ull << 16 | 0xeeull << 40 | (at >> 16 & 0xffff) << 48);
		bench_vm_put64(b, G_IDT + n * 16 + 8, at >> 32);
	}
	bench_vm_put64(b, G_TSS + 4, G_SYS + G_STACK);
	bench_vm_put64(b, G_PDPT32, G_PD | PTE_P);
	bench_vm_put64(b, G_GDT32 + 0x08, 0x00cf9a000000ffffull);
	bench_vm_put64(b, G_GDT32 + 0x10, 0x00cf92000000ffffull);
	for (unsigned n = 0; n < 256; n++) {
		uint64_t at = G_SYS + G_HLT + n;
		bench_vm_put64(b, G_IDT32 + n * 8,
					   (at & 0xffff) | 8ull << 16 | 0xeeull << 40 | (at >> 16 & 0xffff) << 48);
	}
	bench_vm_put64(b, G_TSS32 + 4, (G_SYS + G_STACK) | 0x10ull << 32); /* ESP0, SS0 */
}

static void load_segments(struct x86_state *s) {
	const struct stream_mode *m = stream_mode;
	bool long_mode = m->long_mode, is_16 = m->mode == X86_MODE_16;
	uint16_t attr = is_16 ? 0x00f3 : 0xc0f3;
	uint32_t limit = is_16 ? 0xffff : 0xffffffff;
	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = (struct x86_segment){0x2b, attr, limit, m->data_base};
	s->seg[SEG_CS] = (struct x86_segment){0x33, is_16 ? 0x00fb : 0xc0fb, limit, m->code_base};
	if (m->mode == X86_MODE_64)
		s->seg[SEG_CS].attr = 0xa0fb;
	s->seg[SEG_FS].base += 0x40;
	s->seg[SEG_GS].base += 0x88;
	s->seg[SEG_TR] = (struct x86_segment){0x18, 0x8b, 0x67, G_SYS + (long_mode ? G_TSS : G_TSS32)};
	s->gdtr = (struct x86_dtable){G_SYS + (long_mode ? G_GDT : G_GDT32), 0x2f};
	s->idtr = (struct x86_dtable){G_SYS + (long_mode ? G_IDT : G_IDT32), long_mode ? 0xfff : 0x7ff};
	s->cr3 = long_mode ? G_PML4 : G_PDPT32;
	s->efer = long_mode ? EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE : EFER_NXE;
}

static void load_point(struct bench_vm *b, const struct point *p) {
	struct x86_state *s = &b->cpu->state;
	if (memcmp(b->ram + G_CODE, p->code, CODE_SIZE) != 0) {
		memcpy(b->ram + G_CODE, p->code, CODE_SIZE);
		mem_written(&b->vm.mem, G_CODE, CODE_SIZE);
	}
	memcpy(b->ram + G_DATA, p->data, DATA_SIZE);
	memcpy(b->ram + G_COUNTER, p->counter, 8);
	s->activity = CPU_RUNNING;
	s->shadow = 0;
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	s->xcr0 =
		XCR0_X87 | XCR0_SSE | XCR0_AVX | (cpuid_has(b->cpuid, X86_FEAT_AVX512F) ? XCR0_AVX512 : 0);
	load_segments(s);
	memcpy(s->gpr, p->cpu.gpr, sizeof(s->gpr));
	s->rip = p->cpu.rip;
	s->rflags = p->cpu.rflags;
	s->cr2 = 0;
	memcpy(s->xsave, p->cpu.x, XSTATE);
	memset(s->xsave + 512, 0, 64);
	s->xsave[512] = (uint8_t)s->xcr0;
}

static void normalise(struct cpu *c) {
	uint64_t bv;
	memcpy(&bv, c->x + 512, 8);
	static const uint16_t parts[8][2] = {
		[2] = {576, 256}, [5] = {1088, 64}, [6] = {1152, 512}, [7] = {1664, 1024}};
	for (unsigned n = 2; n < 8; n++)
		if (!(bv >> n & 1))
			memset(c->x + parts[n][0], 0, parts[n][1]);
	memset(c->x + 832, 0, 1088 - 832);
	if (!(bv & 2))
		memset(c->x + 160, 0, 256);
	if (!(bv & 1)) {
		static const uint8_t init[8] = {0x7f, 3};
		memset(c->x, 0, 24);
		memcpy(c->x, init, 2);
		memset(c->x + 32, 0, 128);
	}
	memset(c->x + 5, 0, 19); /* not FOP, FIP, FDP: addresses of the host's */
	memset(c->x + 28, 0, 4); /* MXCSR_MASK: no state */
	memset(c->x + 512, 0, 64);
	for (unsigned r = 0; r < 8; r++)
		memset(c->x + 32 + r * 16 + 10, 0, 6);
}

static void run_from(struct bench_vm *b, const struct point *p, struct cpu *out) {
	struct x86_state *s = &b->cpu->state;
	running = b == &vms[1];
	load_point(b, p);
	enum vm_exit_kind kind = bench_vm_run(b);
	memset(out, 0, sizeof(*out));
	out->vector = kind == EXIT_HALT ? (int)(s->rip - 1 - G_SYS - G_HLT) : -100 - (int)kind;
	memcpy(out->gpr, s->gpr, sizeof(out->gpr));
	memcpy(out->x, s->xsave, XSTATE);
	out->cr2 = s->cr2;
	normalise(out);
	uint32_t sp = (uint32_t)(s->gpr[RSP] - G_SYS);
	if (kind != EXIT_HALT || out->vector < 0 || out->vector > 31 || sp > RAM_SIZE - 64)
		return;
	uint64_t f[6] = {0};
	bool has_error = (1u << out->vector & 0x27d00u) != 0;
	unsigned size = stream_mode->long_mode ? 8 : 4;
	for (unsigned n = 0; n < 5u + has_error; n++)
		memcpy(&f[n + !has_error], b->ram + sp + n * size, size);
	out->error = (uint32_t)f[0];
	out->rip = f[1];
	out->rflags = f[3];
	out->gpr[RSP] = f[4];
}

static gva_t rip_of(unsigned off) {
	return CODE - stream_mode->code_base + off;
}

/* The interpreter's memory after the fault, the registers with it. */
static void keep(struct point *p, const struct cpu *a) {
	p->cpu = *a;
	memcpy(p->code, vms[0].ram + G_CODE, CODE_SIZE);
	memcpy(p->data, vms[0].ram + G_DATA, DATA_SIZE);
	memcpy(p->counter, vms[0].ram + G_COUNTER, 8);
}

/* ---- comparing ---------------------------------------------------------------------------- */

static unsigned long stops, faults, lost_flags, late, overwrote;

static int index_of(uint64_t rip) {
	for (unsigned n = 0; n < st.n; n++)
		if (rip_of(st.at[n].off) == rip)
			return (int)n;
	return -1;
}

/* What i reads, and what it writes for certain: of shifts and comparing string instructions the
 * table has the one among the other, as a count of 0 leaves the flags. */
static uint16_t reads(const struct x86_insn *i, uint16_t *writes) {
	const struct x86_opnd *count = &i->opnd[i->nopnds ? i->nopnds - 1 : 0];
	*writes = x86_forms[i->form].flags_written;
	switch (i->op) {
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
		if (count->kind != OPND_ONE &&
			(count->kind != OPND_IMM || !(i->imm & (i->opnd[0].size == 8 ? 63 : 31))))
			*writes = 0;
		return 0;
	case X86_OP_RCL:
	case X86_OP_RCR:
		*writes = 0;
		return RFLAGS_CF;
	case X86_OP_SCAS:
	case X86_OP_CMPS: /* what the table has them read is left if they repeat no times */
		if (i->prefix & (X86_PFX_REP | X86_PFX_REPNE))
			*writes = 0;
		return 0;
	default:
		return x86_forms[i->form].flags_read;
	}
}

/* Flags that a fault at instruction n need not have right. */
static uint16_t dead_at(unsigned n) {
	uint16_t dead = 0, open = RFLAGS_ARITH;
	for (; n < st.n && open; n++) {
		const struct x86_insn *i = &st.at[n].insn;
		const struct x86_form *f = &x86_forms[i->form];
		uint16_t writes;
		open &= (uint16_t)~reads(i, &writes);
		dead |= open & writes;
		open &= (uint16_t)~writes;
		if (f->attr & X86_ATTR_ENDS)
			return dead | open;
	}
	return dead;
}

static const char *compare(const struct cpu *a, const struct cpu *b) {
	static char why[200];
	if (a->vector != b->vector || a->error != b->error) {
		snprintf(why, sizeof(why), "vector: interp %d/%x jit %d/%x, rip %lx %lx", a->vector,
				 a->error, b->vector, b->error, a->rip, b->rip);
		return why;
	}
	if (a->rip != b->rip || (a->vector == 14 && a->cr2 != b->cr2)) {
		snprintf(why, sizeof(why), "vector %d, rip: interp %lx jit %lx, cr2 %lx %lx", a->vector,
				 a->rip, b->rip, a->cr2, b->cr2);
		return why;
	}
	for (unsigned n = 0; n < 16; n++)
		if (a->gpr[n] != b->gpr[n]) {
			snprintf(why, sizeof(why), "gpr %u: interp %lx jit %lx; vector %d at %lx", n, a->gpr[n],
					 b->gpr[n], a->vector, a->rip);
			return why;
		}
	int at = index_of(a->rip - (a->vector == 3));
	uint64_t mask = ~0ull;
	if (a->vector != 3)
		at = index_of(a->rip);
	bool known = at >= 0 && !memcmp(vms[0].ram + G_CODE + st.at[at].off, st.code + st.at[at].off,
									st.at[at].insn.len);
	if (known)
		mask &= ~(uint64_t)st.at[at].undefined;
	else /* a stream that patched itself: these are anybody's guess */
		mask &= ~(uint64_t)RFLAGS_ARITH;
	uint64_t differ = (a->rflags ^ b->rflags) & mask;
	if (differ && a->vector != 3 && at >= 0) {
		uint16_t dead = a->vector == 19 || a->vector == 16 ? RFLAGS_ARITH : dead_at((unsigned)at);
		lost_flags += (differ & dead) != 0;
		differ &= ~(uint64_t)dead;
	}
	if (differ) {
		snprintf(why, sizeof(why), "flags: interp %lx jit %lx differ %lx; vector %d at %lx",
				 a->rflags, b->rflags, differ, a->vector, a->rip);
		return why;
	}
	static const struct {
		uint32_t at, len;
	} mem[] = {{G_DATA, DATA_SIZE}, {G_CODE, CODE_SIZE}, {G_COUNTER, 8}, {G_RO, 4096}};
	for (unsigned m = 0; m < 4; m++)
		for (unsigned k = 0; k < mem[m].len; k++)
			if (vms[0].ram[mem[m].at + k] != vms[1].ram[mem[m].at + k]) {
				snprintf(why, sizeof(why), "memory %x: interp %02x jit %02x", mem[m].at + k,
						 vms[0].ram[mem[m].at + k], vms[1].ram[mem[m].at + k]);
				return why;
			}
	for (unsigned k = 0; k < XSTATE; k++)
		if (a->x[k] != b->x[k]) {
			snprintf(why, sizeof(why), "FPU state, byte %u: interp %02x jit %02x", k, a->x[k],
					 b->x[k]);
			return why;
		}
	return NULL;
}

static void list(unsigned from, unsigned to) {
	for (unsigned n = from; n < to && n < st.n; n++) {
		char text[96];
		struct x86_insn i; /* jumps have been filled in since */
		x86_decode(&i, st.code + st.at[n].off, 15, stream_mode->mode);
		x86_format(text, sizeof(text), &i, rip_of(st.at[n].off));
		printf("#   %3u %lx: %s\n", n, (unsigned long)rip_of(st.at[n].off), text);
	}
}

/* What the interpreter executes from there on, one by one. */
static void trace(const struct point *from, uint64_t end) {
	static struct point p;
	p = *from;
	for (unsigned n = 0; n < 2000; n++) {
		struct cpu a;
		struct x86_insn i;
		char text[96] = "?";
		uint64_t rip = p.cpu.rip;
		if (rip - rip_of(0) < CODE_SIZE - 15 &&
			x86_decode(&i, p.code + (rip - rip_of(0)), 15, stream_mode->mode) > 0)
			x86_format(text, sizeof(text), &i, rip);
		printf("#   %lx %06lx: %s\n", p.cpu.rflags & 0xfff, (unsigned long)rip, text);
		p.cpu.rflags |= RFLAGS_TF;
		run_from(&vms[0], &p, &a);
		keep(&p, &a);
		if (a.vector != 1 || a.rip == end)
			return;
	}
}

/* The first instruction before which the two are different. */
static void pin_down(const struct point *from, uint64_t end) {
	static struct point p;
	for (unsigned n = 0; n < st.n; n++) {
		struct cpu a, b;
		p = *from;
		p.code[st.at[n].off] = 0xcc;
		run_from(&vms[0], &p, &a);
		run_from(&vms[1], &p, &b);
		const char *why = compare(&a, &b);
		if (why && a.vector == 3 && a.rip == rip_of(st.at[n].off) + 1) {
			printf("#  already before instruction %u: %s\n", n, why);
			list(n > 12 ? n - 12 : 0, n + 1);
			return;
		}
	}
	printf("#  not reproduced with INT3s in between; the way there:\n");
	trace(from, end);
}

/* Some streams never end: a patched jump, say. By CPU time: a busy host may hold one up for
 * seconds. */
static void stop_after(unsigned seconds) {
	struct itimerval t = {.it_value.tv_sec = seconds};
	setitimer(ITIMER_VIRTUAL, &t, NULL);
}

static void on_time(int sig) {
	vcpu_post(vms[running].cpu, EVENT_KICK);
}

/* The last run changed the stream elsewhere than emit_patch() does. */
static bool overwritten(const struct point *p) {
	static uint8_t now[CODE_SIZE];
	memcpy(now, vms[0].ram + G_CODE, CODE_SIZE);
	for (unsigned n = 0; n < st.npatchable; n++)
		memcpy(now + st.patchable[n], p->code + st.patchable[n], 4);
	return memcmp(now, p->code, CODE_SIZE) != 0;
}

/* No code there: beyond the segment, or not canonical. */
static bool is_beyond(uint64_t rip) {
	if (stream_mode->mode == X86_MODE_64)
		return (rip + (1ull << 47)) >> 48 != 0;
	return rip > vms[0].cpu->state.seg[SEG_CS].limit;
}

/* true: the same all along. */
static bool run_stream(bool verbose) {
	static struct point p;
	static struct stream_start start;
	stream_make(&start);
	memset(&p, 0, sizeof(p));
	memcpy(p.cpu.gpr, start.gpr, sizeof(p.cpu.gpr));
	memcpy(p.cpu.x, start.x, XSTATE);
	memcpy(p.code, st.code, CODE_SIZE);
	memcpy(p.data, start.data, DATA_SIZE);
	memcpy(p.counter, &start.counter, 4);
	p.cpu.rip = start.rip;
	p.cpu.rflags = start.rflags;
	for (unsigned turn = 0; turn < 2 * STREAM_INSNS; turn++) {
		struct cpu a, b;
		run_from(&vms[0], &p, &a);
		if (a.vector == -100 - EXIT_PREEMPTED)
			return true;
		stop_after(10);
		run_from(&vms[1], &p, &b);
		stop_after(1);
		const char *why = compare(&a, &b);
		stops++;
		if (why && a.vector == 13 && b.vector == 13 && is_beyond(b.rip)) {
			late++;
			return true;
		}
		if (why && overwritten(&p)) { /* flags were dead by the code as it was */
			overwrote++;
			return true;
		}
		if (why) {
			printf("# %s; from %lx\n", why, p.cpu.rip);
			pin_down(&p, a.rip);
			return false;
		}
		if (verbose)
			printf("# vector %d at %lx\n", a.vector, a.rip);
		int at = index_of(a.rip);
		if (a.vector == 3 || a.vector < 0 || at < 0)
			return true;
		faults++;
		keep(&p, &a);
		p.cpu.rip = rip_of(st.at[at].off) + st.at[at].insn.len;
		p.cpu.rflags &= ~(uint64_t)(RFLAGS_RF);
		if (a.vector == 16) /* pending x87 exceptions would come again and again */
			p.cpu.x[2] &= 0x40, p.cpu.x[3] &= 0x7f, p.cpu.x[0] |= 0x3f;
	}
	return true;
}

/* What is no fault of the guest's: the host's, mostly an emulator that refuses an instruction. */
static void on_crash(int sig, siginfo_t *si, void *ctx) {
	const uint8_t *at = si->si_addr;
	printf("# the %s got signal %d at %p", running ? "translator" : "interpreter", sig,
		   si->si_addr);
	for (unsigned n = 0; sig == SIGILL && n < 16; n++)
		printf(" %02x", at[n]);
	printf("\nBail out!\n");
	fflush(stdout);
	_exit(1);
}

int main(int argc, char **argv) {
	static const struct {
		const char *off;
		unsigned share; /* of the count, in percent */
	} plan[] = {
		{"", 100},
		{"link", 15},
		{"jumps", 15},
		{"flags", 15},
		{"block", 15},
		{"int", 10},
		{"lea", 10},
		{"mem", 10},
		{"stack", 10},
		{"branch", 10},
		{"x87", 10},
		{"sse", 10},
		{"avx", 10},
		{"tlb", 15},
		{"poll", 15},
		{"next", 10},
		{"system", 15},
		{"ret", 15},
		{"self", 15},
		{"loop", 15},
		{"shape", 5},
		{"tier", 50},
		{"tier,group", 10},
		{"tier,window", 10},
		{"tier,ret,flags", 10},
		{"cache", 4},
		{"link,jumps,flags,block,int,lea,mem,stack,branch,x87,sse,avx,next,system", 10},
	};
	unsigned long count = 2000, first = 0, failed = 0;
	const char *off = NULL, *mode = "64";
	bool verbose = false;
	uint64_t seed = 1;
	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--count") && n + 1 < argc)
			count = strtoul(argv[++n], NULL, 0);
		else if (!strcmp(argv[n], "--seed") && n + 1 < argc)
			seed = strtoul(argv[++n], NULL, 0);
		else if (!strcmp(argv[n], "--first") && n + 1 < argc)
			first = strtoul(argv[++n], NULL, 0);
		else if (!strcmp(argv[n], "--off") && n + 1 < argc)
			off = argv[++n];
		else if (!strcmp(argv[n], "--mode") && n + 1 < argc)
			mode = argv[++n];
		else if (!strcmp(argv[n], "--verbose"))
			verbose = true;
	}
	while (stream_mode->name && strcmp(stream_mode->name, mode) != 0)
		stream_mode++;
	if (!stream_mode->name)
		return fprintf(stderr, "no mode %s; see stream.c\n", mode), 2;
	signal(SIGVTALRM, on_time);
	/* Before the engine's own handler, which passes on what is not its. */
	struct sigaction sa = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO};
	sigaction(SIGILL, &sa, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	setenv("JOIST_SOFT_VERIFY", "1", 0);
	gen_seed = seed * 0x9e3779b97f4a7c15ull + 1;
	unsigned n_plan = off ? 1 : sizeof(plan) / sizeof(plan[0]);
	printf("1..%u\n", n_plan);
	for (unsigned k = 0; k < n_plan; k++) {
		const char *parts = off ? off : plan[k].off;
		unsigned long n = off ? count : (count * plan[k].share + 99) / 100, bad = 0;
		setenv("JOIST_SOFT_OFF", parts, 1);
		machine_create(&vms[0], "interp");
		machine_create(&vms[1], "jit");
		if (!k)
			stream_collect(vms[0].cpuid);
		stops = faults = lost_flags = late = overwrote = 0;
		for (unsigned long s = first; s < first + n && bad < 5; s++) {
			gen_seed = (seed * 1000003 + s) * 0x9e3779b97f4a7c15ull + 1;
			gen_rnd();
			stop_after(1);
			if (!run_stream(verbose)) {
				printf("# that was stream %lu\n", s);
				bad++;
			}
		}
		printf(
			"# %lu streams, %lu stops, %lu faults; dead flags differed %lu times, #GP came behind "
			"the jump %lu times, overwritten code %lu times\n",
			n, stops, faults, lost_flags, late, overwrote);
		if (overwrote > 1 + n / 2000) {
			printf("# that is too often\n");
			bad++;
		}
		printf("%s %u - %s without: %s\n", bad ? "not ok" : "ok", k + 1, mode,
			   *parts ? parts : "nothing");
		failed += bad;
		bench_vm_destroy(&vms[0]);
		bench_vm_destroy(&vms[1]);
	}
	return failed != 0;
}
