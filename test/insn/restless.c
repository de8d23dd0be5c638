/* Self-checking blocks (engine/soft/self.c) and what comes from outside of the guest's code: pages
 * that a device writes, also while the guest runs in them; the bitmap of dirty pages, switched on
 * and off while there are such blocks; and code that is quiet again, which gets ordinary blocks.
 * self.c is of guests alone. Each test shows by the engine's counters that it was there. Nothing is
 * judged by time: who waits counts the guest's rounds. Prints TAP. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define RAM 0x200000u
#define TABLES 0x1000u
#define CODE 0x10000u
#define SEEN 0x80000u /* what the guest has read; and how often */
#define STACK 0x90000u
#define PORT 0x80
#define WARM 2000u	 /* rounds in which the guest writes its code itself */
#define DEVICE 1000u /* ... and the device does */
#define PAGES 16u
#define LOOP (CODE + PAGES * PAGE_SIZE)
#define VALUES 3000u
#define PATIENCE 1000000u /* rounds of the guest that may pass until it sees a value */

__asm__(".pushsection .rodata\n"
		".balign 64\n"
		/* RCX rounds with a store into `add`, RDX in all; in the others a device writes there. */
		"port_code: 1: jrcxz 2f; mov %ecx, %esi; and $3, %esi; mov %esi, port_imm(%rip)\n"
		"	dec %ecx; jmp 3f\n"
		"2:	out %al, $0x80\n"
		"3:	.byte 0x48, 0x05\n" /* add $.., %rax */
		"port_imm: .long 0; call *%rbp; dec %edx; jnz 1b; hlt\n"
		"port_ret: ret\n"
		".balign 64\n"
		/* Instead of port_ret, in a line where only the device writes. */
		"port_far: .byte 0x48, 0x81, 0xc3\n" /* add $.., %rbx */
		"port_other: .long 0; ret\n"
		"port_end: .balign 64\n"
		/* RCX rounds of its own, then until it reads -1. */
		"thread_code: 1: mov %ecx, 2f+1(%rip)\n"
		"2:	.byte 0xb8\n"
		"thread_mov: .long 0; mov %eax, 0x80000; incl 0x80004\n"
		"	jrcxz 3f; dec %ecx; jmp 1b\n"
		"3:	cmp $-1, %eax; jne 2b; hlt\n"
		"thread_end: .balign 64\n"
		/* RCX rounds of its own, RBX rounds that only read; RBP: calm_add. The rounds of both kinds
		 * are of the same blocks, so the jump there is one that none is made across. */
		"calm_code: 1: jrcxz 2f; mov %ecx, 2f+2(%rip); dec %ecx; jmp *%rbp\n"
		"2: calm_add: .byte 0x48, 0x05, 0, 0, 0, 0\n"
		"	dec %rbx; jns 2b; test %ecx, %ecx; jnz 1b; hlt\n"
		"calm_end: .balign 64\n"
		/* In a page of its own, so that the page at RDI has only blocks that check themselves: RCX
		 * rounds with a store of R8, one more each time, there and then its code; RBP: dirty_back.
		 * The page is read first, so that not every look-up is one for writing. */
		"dirty_loop: 1: mov (%rdi), %r9d; mov %r8d, 2(%rdi); inc %r8d; jmp *%rdi\n"
		"dirty_back: dec %ecx; jnz 1b; hlt\n"
		"dirty_code: .byte 0x48, 0x05, 0, 0, 0, 0\n" /* add $.., %rax */
		"	.byte 0x48, 0x81, 0xc3\n"				 /* add $.., %rbx: a device's */
		"dirty_add: .long 0; jmp *%rbp\n"
		"dirty_end:\n"
		".popsection\n");
extern const uint8_t port_code[], port_end[], thread_code[], thread_end[], calm_code[], calm_end[],
	dirty_loop[], dirty_back[], dirty_code[], dirty_end[], port_imm[], port_ret[], port_far[],
	port_other[], thread_mov[], calm_add[], dirty_add[];

static struct bench_vm b;
static unsigned ntests, nfailed;

static void report(bool ok, const char *name, const char *what) {
	printf("%sok %u - %s, %s\n", ok ? "" : "not ", ++ntests, name, what);
	nfailed += !ok;
}

static void create(const uint8_t *code, const uint8_t *end) {
	bench_vm_create(&b, RAM, "jit");
	memcpy(b.ram + CODE, code, (size_t)(end - code));
	bench_vm_map_large(&b, TABLES, 1);
	bench_vm_long_mode(&b, TABLES, CODE);
	memset(b.cpu->state.gpr, 0, sizeof(b.cpu->state.gpr));
	b.cpu->state.gpr[RSP] = STACK;
}

/* From the code's beginning to its HLT. */
static bool run(uint64_t rip) {
	b.cpu->state.activity = CPU_RUNNING; /* it was halted */
	b.cpu->state.rip = rip;
	enum vm_exit_kind kind = bench_vm_run(&b);
	if (kind != EXIT_HALT)
		printf("# exit %d at %lx\n", kind, b.cpu->state.rip);
	return kind == EXIT_HALT;
}

static uint64_t stat(const char *name) {
	return bench_vm_stat(&b, name);
}

static void say(const char *name) {
	printf("# %s: %lu blocks check themselves, %lu killed, %lu misses, %lu calmed\n", name,
		   stat("self_checking_blocks"), stat("blocks_invalidated"), stat("self_checking_misses"),
		   stat("self_checking_calmed"));
}

/* ---- a device, between two instructions ---------------------------------------------------- */

static unsigned written, forms;
static bool both;

static uint64_t no_read(void *dev, uint64_t off, unsigned size) {
	return 0;
}

static void dma(void *dev, uint64_t off, unsigned size, uint64_t val) {
	uint32_t imm = 1000 + written++ % forms;
	mem_write(&b.vm.mem, CODE + (gpa_t)(port_imm - port_code), &imm, 4);
	if (both)
		mem_write(&b.vm.mem, CODE + (gpa_t)(port_other - port_code), &imm, 4);
}

static const struct io_ops port_ops = {no_read, dma, 1, 1};
static struct port_region port = {.name = "port", .base = PORT, .size = 1, .ops = &port_ops};

static void device(const char *name, unsigned nforms, bool other_line) {
	struct x86_state *s;
	uint64_t want = 0, other = 0;
	written = 0;
	forms = nforms;
	both = other_line;
	setenv("JOIST_SOFT_OFF", "hot", 1); /* and nothing is calm */
	create(port_code, port_end);
	s = &b.cpu->state;
	port.added = false;
	port_add(&b.vm.mem, &port);
	s->gpr[RCX] = WARM;
	s->gpr[RDX] = WARM;
	s->gpr[RBP] = CODE + (uint64_t)((both ? port_far : port_ret) - port_code);
	bool ok = run(CODE);
	uint64_t killed = stat("blocks_invalidated"), self = stat("self_checking_blocks");
	for (unsigned n = 0; n < WARM; n++)
		want += (n + 1) & 3;
	s->gpr[RDX] = DEVICE;
	ok &= run(CODE);
	for (unsigned n = 0; n < DEVICE; n++) {
		want += 1000 + n % nforms;
		other += both ? 1000 + n % nforms : 0;
	}
	say(name);
	killed = stat("blocks_invalidated") - killed;
	report(ok && s->gpr[RAX] == want && s->gpr[RBX] == other && written == DEVICE, name, "right");
	report(self > 0 && stat("self_checking_blocks") < self + 64, name, "checks itself");
	/* Only what does not check itself must be killed, and that it must. */
	report(both ? killed >= DEVICE / 2 : killed < 64, name, "kills");
	bench_vm_destroy(&b);
	unsetenv("JOIST_SOFT_OFF");
}

/* ---- a device's thread -------------------------------------------------------------------- */

static uint32_t seen(unsigned n) {
	return __atomic_load_n((uint32_t *)(b.ram + SEEN) + n, __ATOMIC_ACQUIRE);
}

/* Writes each value once the guest has read the one before. */
static void *writer(void *arg) {
	bool *late = arg;
	while ((seen(1) < WARM || seen(0) != 0) && !*late) {
		sched_yield();
		*late = seen(1) > WARM + PATIENCE;
	}
	for (uint32_t k = 1; k <= VALUES + 1 && !*late; k++) {
		uint32_t val = k <= VALUES ? k : ~0u, from = seen(1);
		b.host.lock(NULL);
		mem_write(&b.vm.mem, CODE + (gpa_t)(thread_mov - thread_code), &val, 4);
		b.host.unlock(NULL);
		while (seen(0) != val && !*late) {
			sched_yield();
			*late = seen(1) - from > PATIENCE && seen(0) != val;
		}
	}
	if (*late)
		vcpu_post(b.cpu, EVENT_KICK);
	return NULL;
}

static void thread(const char *name, const char *off, bool calm) {
	pthread_t t;
	bool late = false;
	setenv("JOIST_SOFT_OFF", off, 1);
	create(thread_code, thread_end);
	bench_vm_lock(&b);
	b.cpu->state.gpr[RCX] = WARM;
	if (pthread_create(&t, NULL, writer, &late))
		exit(2);
	bool ok = run(CODE);
	pthread_join(t, NULL);
	say(name);
	report(ok && !late, name, "seen");
	report(stat("self_checking_blocks") > 0, name, "checks itself");
	if (!calm)
		report(stat("blocks_invalidated") < VALUES / 10, name, "cheap");
	bench_vm_destroy(&b);
	unsetenv("JOIST_SOFT_OFF");
}

/* ---- code that is quiet again -------------------------------------------------------------- */

static void calm(void) {
	const char *name = "calm";
	create(calm_code, calm_end);
	struct x86_state *s = &b.cpu->state;
	s->gpr[RCX] = WARM;
	s->gpr[RBP] = CODE + (uint64_t)(calm_add - calm_code);
	bool ok = run(CODE);
	uint64_t self = stat("self_checking_blocks");
	report(ok && self > 0, name, "restless at first");
	/* The immediate is 1 now. It takes as many samples as it takes. */
	for (unsigned n = 0; n < 4000 && ok && !stat("self_checking_calmed"); n++) {
		s->gpr[RAX] = 0;
		s->gpr[RBX] = 3000000;
		ok = run(CODE) && s->gpr[RAX] == 3000001;
	}
	say(name);
	report(ok && stat("self_checking_calmed") > 0, name, "found");
	/* Ordinary blocks now: a store kills them. */
	uint64_t killed = stat("blocks_invalidated");
	self = stat("self_checking_blocks");
	s->gpr[RAX] = 0;
	s->gpr[RBX] = 0;
	ok = run(CODE) && s->gpr[RAX] == 1;
	report(ok && stat("self_checking_blocks") == self && stat("blocks_invalidated") == killed, name,
		   "ordinary blocks");
	s->gpr[RAX] = 0;
	s->gpr[RBX] = 0;
	s->gpr[RCX] = 1;
	ok = run(CODE) && s->gpr[RAX] == 1;
	report(ok && stat("blocks_invalidated") > killed, name, "that stores kill");
	/* And as restless as it was. */
	self = stat("self_checking_blocks");
	killed = stat("blocks_invalidated");
	s->gpr[RAX] = 0;
	s->gpr[RBX] = 0;
	s->gpr[RCX] = WARM;
	ok = run(CODE) && s->gpr[RAX] == (uint64_t)WARM * (WARM + 1) / 2;
	say(name);
	report(ok && stat("self_checking_blocks") > self &&
			   stat("blocks_invalidated") < killed + WARM / 10,
		   name, "restless again");
	bench_vm_destroy(&b);
}

/* ---- dirty pages --------------------------------------------------------------------------- */

static uint8_t copy[RAM], bitmap[RAM / PAGE_SIZE / 8];
static uint64_t seed = 0x9e3779b97f4a7c15ull;

static unsigned rnd(unsigned n) {
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed >> 20) % n;
}

/* Pages that changed unseen; *marked: those that were said to have. */
static unsigned harvest(unsigned *marked) {
	unsigned missed = 0;
	for (unsigned n = 0; n < RAM / PAGE_SIZE; n++) {
		bool dirty = bitmap[n / 8] >> n % 8 & 1;
		uint32_t at = n * PAGE_SIZE;
		*marked += dirty;
		missed += !dirty && memcmp(b.ram + at, copy + at, PAGE_SIZE) != 0;
	}
	memset(bitmap, 0, sizeof(bitmap));
	memcpy(copy, b.ram, RAM);
	return missed;
}

static uint64_t stores;
static uint32_t others[PAGES]; /* the device's immediate of each page */

/* Some rounds in one page: the sums are right. */
static bool run_page(unsigned n, unsigned rounds) {
	struct x86_state *s = &b.cpu->state;
	s->gpr[RAX] = s->gpr[RBX] = 0;
	s->gpr[RCX] = rounds;
	s->gpr[RDI] = CODE + n * PAGE_SIZE;
	s->gpr[RBP] = LOOP + (uint64_t)(dirty_back - dirty_loop);
	stores += rounds;
	/* Never what was there before. */
	uint64_t first = s->gpr[R8] = 1 + rnd(1u << 30);
	return run(LOOP) && s->gpr[RAX] == first * rounds + (uint64_t)rounds * (rounds - 1) / 2 &&
		   s->gpr[RBX] == (uint64_t)others[n] * rounds;
}

static void dirty(const char *name, const char *off) {
	unsigned missed = 0, most = 0, marked, ran = 0, idle = 0;
	bool ok = true;
	setenv("JOIST_SOFT_OFF", off, 1);
	create(dirty_code, dirty_end);
	memcpy(b.ram + LOOP, dirty_loop, (size_t)(dirty_code - dirty_loop));
	for (unsigned n = 0; n < PAGES; n++) {
		memcpy(b.ram + CODE + n * PAGE_SIZE, dirty_code, (size_t)(dirty_end - dirty_code));
		others[n] = 0;
	}
	for (unsigned n = 0; n < PAGES; n++)
		ok &= run_page(n, WARM);
	uint64_t self = stat("self_checking_blocks"), killed = stat("blocks_invalidated");
	report(ok && self >= PAGES, name, "restless at first");
	uint64_t calls = stat("handler_calls");
	stores = 0;
	for (unsigned n = 0; n < 600 && ok; n++) {
		bool on = n / 20 % 3 != 2; /* sometimes nobody looks */
		if (n % 20 == 0)
			memcpy(copy, b.ram, RAM);
		mem_track(&b.vm.mem, on ? bitmap : NULL, RAM / PAGE_SIZE);
		unsigned pages = 1 + rnd(4);
		for (unsigned k = 0; k < pages; k++) {
			unsigned p = rnd(PAGES);
			if (rnd(4) == 0) {
				others[p] = rnd(100000);
				mem_write(&b.vm.mem, CODE + p * PAGE_SIZE + (gpa_t)(dirty_add - dirty_code),
						  &others[p], 4);
			}
			ok &= run_page(p, 1 + rnd(30));
		}
		marked = 0;
		if (on) {
			missed += harvest(&marked);
			ran += marked > 0;
			most = MAX(most, marked);
		}
		for (unsigned k = 0; k < sizeof(bitmap); k++)
			idle += bitmap[k];
	}
	say(name);
	report(ok, name, "right");
	report(!missed && ran, name, "complete");
	/* Four pages, and the tables that lead there. */
	report(most <= 4 + 3 && !idle, name, "precise");
	/* A page of such blocks is not watched: few stores are left to C. */
	calls = stat("handler_calls") - calls;
	printf("# %s: %lu stores, %lu calls of C\n", name, stores, calls);
	if (*off)
		report(stat("blocks_invalidated") - killed < 100 && calls < stores / 4, name,
			   "checks itself");
	bench_vm_destroy(&b);
	unsetenv("JOIST_SOFT_OFF");
}

int main(void) {
	setvbuf(stdout, NULL, _IOLBF, 0); /* what was said before a limit is reached is not lost */
	device("device, four forms", 4, false);
	device("device, always another", DEVICE, false);
	device("device, two lines", 4, true);
	thread("thread", "hot", false);
	thread("thread, with samples", "", true);
	dirty("dirty", "hot");
	dirty("dirty, with samples", "");
	calm();
	printf("1..%u\n", ntests);
	return nfailed != 0;
}
