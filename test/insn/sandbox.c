/* See sandbox.h. The block lies at its executable address in a guest of its own, in kernel mode,
 * with page tables that map: its code, to be read; the vCPU's state and the engine's words at GS; a
 * stack; and what stands for pages of the guest's guest.
 *
 * Each time that the block has a page looked up, a new one appears: somewhere at random, with
 * nothing around it, read-only unless it was asked for to be written. The TLB or slot gets the
 * distance to it. So an address with the addend of any other page, or of none, is not mapped, and
 * ends the run with a fault that nobody handles. Thunks are a page of HLT: the run stops there and
 * what the thunk does is done here, as badly as its contract allows: calls of C change all
 * registers, slots and TLB entries. What a slot held stays mapped, as memory does. */
#include "test/insn/sandbox.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "core/x86/regs.h"
#include "test/insn/gen.h"

#define RAM_SIZE (16u << 20)
/* Guest-physical. */
#define BOX_HALTS 0x1000u /* all HLT */
#define BOX_READ 0x2000u  /* behind all pages of the guest's guest */
#define BOX_WRITE 0x3000u
#define BOX_STACK 0x4000u
#define BOX_CODE 0x10000u	/* 8 pages for what runs, 8 for what is out of line */
#define BOX_TABLES 0x20000u /* PML4, and the other tables as they are needed */
#define BOX_AREA 0x800000u	/* what lies at GS */
#define CODE_PAGES 8u
/* Addresses. */
#define AT_AREA 0x200000000000ull
#define AT_STACK 0x210000000000ull
#define AT_WINDOWS 0x220000000000ull
#define WINDOWS 0x10000u /* one in four pages is used */

#define AREA_SIZE (AREA + sizeof(struct soft_vcpu))
#define MOST_STOPS 60

static struct bench_vm box;
static uint64_t next_table = BOX_TABLES + PAGE_SIZE;
static unsigned windows[256], nwindows, touched[512], ntouched;
static uint32_t slots[512];
static unsigned nslots;
static char why[160];

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t *entry_of(uint64_t va) {
	uint64_t table = BOX_TABLES;
	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = (uint64_t *)(box.ram + table) + (va >> shift & 511);
		if (!(*e & 1)) {
			check(next_table < BOX_AREA);
			*e = next_table | 3;
			next_table += PAGE_SIZE;
		}
		table = *e & ~0xfffull;
	}
	return (uint64_t *)(box.ram + table) + (va >> 12 & 511);
}

static void map(uint64_t va, uint64_t pa, bool write) {
	*entry_of(va) = pa | 1 | (write ? 2 : 0);
}

/* A page somewhere. */
static uint64_t new_page(bool write) {
	unsigned w = gen_below(WINDOWS);
	uint64_t va = AT_WINDOWS + (uint64_t)w * 4 * PAGE_SIZE;
	if (nwindows < 256)
		windows[nwindows++] = w;
	map(va, write ? BOX_WRITE : BOX_READ, write);
	return va;
}

/* What lies at GS. */
static void *word(uint64_t off) {
	return box.ram + BOX_AREA + off;
}

static void put(uint64_t off, uint64_t v) {
	memcpy(word(off), &v, 8);
}

static uint64_t get(uint64_t off) {
	uint64_t v;
	memcpy(&v, word(off), 8);
	return v;
}

/* A canonical address, mostly near one end of its page. */
static uint64_t any_address(void) {
	uint64_t page = (uint64_t)((int64_t)(gen_rnd() << 16) >> 16) & ~0xfffull;
	switch (gen_below(4)) {
	case 0:
		return page + gen_below(80);
	case 1:
		return page + 4095 - gen_below(80);
	default:
		return page + gen_below(4096);
	}
}

static uint64_t any_value(void) {
	return gen_below(4) ? any_address() : gen_below(40);
}

/* ---- the TLB and slots ----------------------------------------------------------------------- */

static uint64_t tlb_entry(bool write, unsigned index) {
	return GS_JIT(tlb) + ((uint64_t)write * JIT_TLB + index) * sizeof(struct jit_tlb_entry);
}

static void tlb_fill(uint64_t gva, bool write) {
	uint64_t page = gva & ~0xfffull;
	unsigned index = page >> 12 & (JIT_TLB - 1);
	put(tlb_entry(write, index), page);
	put(tlb_entry(write, index) + 8, new_page(write) - page);
	if (ntouched < 512)
		touched[ntouched++] = write * JIT_TLB + index;
}

static void tlb_forget(void) {
	while (ntouched) {
		unsigned n = touched[--ntouched];
		put(tlb_entry(n / JIT_TLB, n % JIT_TLB), SOFT_TLB_INVALID);
	}
}

static void slot_set(uint32_t slot, uint64_t gva) {
	unsigned write, size;
	uint64_t at = GS_JIT(slots) + slot, page = gva & ~0xfffull;
	jit_slot_valid(slot, 0, &write, &size);
	put(at + offsetof(struct jit_slot, lo), page);
	put(at + offsetof(struct jit_slot, lim), PAGE_SIZE - size + 1);
	put(at + offsetof(struct jit_slot, addend), new_page(write) - page);
}

/* Empty ones keep their addend; some hold what nobody asks for. */
static void slots_any(void) {
	for (unsigned n = 0; n < nslots; n++) {
		slot_set(slots[n], any_address());
		if (gen_below(2))
			put(GS_JIT(slots) + slots[n] + offsetof(struct jit_slot, lim), 0);
	}
}

/* Whether the slot holds gva now. */
static bool slot_fill(uint32_t slot, uint64_t gva) {
	unsigned write, size;
	if (!jit_slot_valid(slot, 0, &write, &size) || (gva & 4095) + size > PAGE_SIZE ||
		!gen_below(10))
		return false;
	slot_set(slot, gva);
	return true;
}

static void find_slots(const uint8_t *code, size_t len) {
	struct x86_insn i;
	for (size_t at = 0; at < len; at += i.len) {
		if (x86_decode(&i, code + at, len - at, X86_MODE_64) <= 0)
			return;
		uint64_t off = (uint64_t)i.disp - GS_JIT(slots);
		if (i.seg_prefix == SEG_GS && i.base == X86_REG_NONE && nslots < 512 &&
			off < sizeof(((struct jit_vcpu *)0)->slots))
			slots[nslots++] = (uint32_t)(off - off % sizeof(struct jit_slot));
	}
}

/* ---- thunks ---------------------------------------------------------------------------------- */

static void change_all(struct x86_state *s) {
	for (unsigned r = 0; r < 16; r++) {
		if (r != RSP)
			s->gpr[r] = any_value();
		put(GS_GPR(r), any_value());
	}
	s->rflags = RFLAGS_FIXED | (gen_rnd() & RFLAGS_ARITH);
	tlb_forget();
	slots_any();
}

static void go_back(struct x86_state *s) {
	uint64_t at = s->gpr[RSP] - AT_STACK;
	check(at <= PAGE_SIZE - 8);
	memcpy(&s->rip, box.ram + BOX_STACK + at, 8);
	s->gpr[RSP] += 8;
}

/* The code has come to `at`, in the thunks. 0: and goes on; 1: and has left, as it may; -1: it is
 * no thunk's beginning. */
static int thunk(const struct jit *j, const uint8_t *at, struct x86_state *s) {
	for (unsigned write = 0; write < 2; write++)
		for (unsigned n = 0; n < JIT_SIZES; n++)
			if (at == j->fill[write][n]) {
				static const uint8_t sizes[JIT_SIZES] = {1, 2, 4, 8, 10, 16, 32, 64};
				bool crosses = (s->gpr[R10] & 4095) + sizes[n] > PAGE_SIZE;
				bool fails = crosses || !gen_below(10);
				if (!fails)
					tlb_fill(s->gpr[R10], write);
				s->gpr[R10] = fails;
				go_back(s);
				return 0;
			}
	for (unsigned n = 0; n < 2 * JIT_SLOT_CLASSES; n++)
		if (at == j->slot_turn[0][n & 1][n >> 1]) {
			uint32_t slot = (uint32_t)s->gpr[R11];
			if (slot >= sizeof(((struct jit_vcpu *)0)->slots))
				return -1;
			uint64_t gva = s->gpr[R10] + get(GS_JIT(slots) + slot);
			s->gpr[R10] = !slot_fill(slot, gva);
			go_back(s);
			return 0;
		}
	if (at == j->slot_fill) {
		s->gpr[R10] = !slot_fill((uint32_t)s->gpr[R11], s->gpr[R10]);
		go_back(s);
		return 0;
	}
	for (unsigned n = 0; n < JIT_QUICKS; n++)
		if (at == j->quick[n]) {
			s->gpr[R10] = gen_below(2);
			s->gpr[R11] = any_value();
			go_back(s);
			return 0;
		}
	if (at == j->call || at == j->call_saved || at == j->step_saved) {
		change_all(s);
		go_back(s);
		return 0;
	}
	if (at == j->miss[0] || at == j->ret_miss[0] || at == j->far_miss || at == j->exit_code ||
		at == j->exit_saved)
		return 1;
	return -1;
}

/* ---- running --------------------------------------------------------------------------------- */

/* Some mutants loop for ever, which is no danger: the time is this process's own. */
static void on_limit(int sig) {
	vcpu_post(box.cpu, EVENT_KICK);
}

static void set_limit(long us) {
	struct itimerval limit = {.it_value = {0, us}};
	setitimer(ITIMER_VIRTUAL, &limit, NULL);
}

static void begin(const struct jit *j, const struct jit_block *b, unsigned trial) {
	struct x86_state *s = &box.cpu->state;
	while (nwindows)
		*entry_of(AT_WINDOWS + (uint64_t)windows[--nwindows] * 4 * PAGE_SIZE) = 0;
	bench_vm_long_mode(&box, BOX_TABLES | (trial & 1) << 3,
					   (uintptr_t)b->entry); /* drops the TLB */
	s->idtr.limit = 0;						 /* a fault is the end, and CR2 stays */
	s->seg[SEG_GS].base = AT_AREA;
	change_all(s);
	s->gpr[RSP] = AT_STACK + PAGE_SIZE - 64;
	for (unsigned n = 0; n < 8; n++)
		memcpy(box.ram + BOX_STACK + PAGE_SIZE - 64 + 8 * n, &j->ret_miss[0], 8);
	for (unsigned n = 0; n < PAGE_SIZE; n += 8) {
		uint64_t v = any_value();
		memcpy(box.ram + BOX_READ + n, &v, 8);
		memcpy(box.ram + BOX_WRITE + n, &v, 8);
	}
	put(GS_STATE(rflags), RFLAGS_FIXED | (gen_below(8) ? 0 : RFLAGS_DF));
	put(GS_SEG(SEG_FS), any_address());
	put(GS_SEG(SEG_GS), any_address());
	put(GS_JIT(tmp), any_value());
	put(GS_JIT(flags_ax), gen_rnd());
	*(uint32_t *)word(GS_JIT(poll)) = !gen_below(16);
	for (unsigned n = 0; n < JIT_HELD; n++)
		put(GS_JIT(held[0]) + 8 * n, new_page(true) - any_address());
}

/* One run. NULL: harmless. */
static const char *run(const struct jit *j, const struct jit_block *b) {
	struct x86_state *s = &box.cpu->state;
	const uint8_t *first = j->rw + j->exec, *last = j->hot_start + j->exec;
	for (unsigned stops = 0; stops < MOST_STOPS; stops++) {
		set_limit(3000);
		enum vm_exit_kind kind = bench_vm_run(&box);
		set_limit(0);
		if (kind == EXIT_PREEMPTED)
			return NULL;
		if (kind == EXIT_SHUTDOWN && AT_STACK - s->cr2 <= PAGE_SIZE)
			return NULL; /* calls without end: fault.c makes the stack of returns empty then */
		if (kind != EXIT_HALT) {
			snprintf(why, sizeof(why), "fault (exit %d): address %lx, at %s%+ld, stop %u", kind,
					 (unsigned long)s->cr2, "entry", (long)(s->rip - (uintptr_t)b->entry), stops);
			return why;
		}
		s->activity = CPU_RUNNING;
		const uint8_t *at = (const uint8_t *)(uintptr_t)(s->rip - 1);
		int r = at >= first && at < last ? thunk(j, at, s) : -1;
		if (r < 0) {
			snprintf(why, sizeof(why), "ran to %lx", (unsigned long)s->rip - 1);
			return why;
		}
		if (r)
			return NULL;
	}
	return NULL;
}

static bool ready;

static void map_thunks(const struct jit *j) {
	for (const uint8_t *p = j->rw; p < j->hot_start; p += PAGE_SIZE)
		map((uintptr_t)p + (uintptr_t)j->exec, BOX_HALTS, false);
	for (unsigned n = 0; n < 2 * JIT_JUMPS; n++)
		put(GS_JIT(jumps) + 8ull * n, (uintptr_t)j->miss[0]);
	for (unsigned n = 0; n < JIT_FAR; n++)
		put(GS_JIT(far[0]) + 8ull * n, (uintptr_t)j->far_miss);
	ready = true;
}

const char *sandbox_run(const struct jit *j, const struct jit_block *b, unsigned trials) {
	const char *danger = NULL;
	nslots = 0;
	find_slots(b->hot, b->hot_len);
	find_slots(b->cold, b->cold_len);
	for (unsigned n = 0; n < 2; n++) {
		const uint8_t *code = n ? b->cold : b->hot;
		uint64_t pa = BOX_CODE + n * CODE_PAGES * PAGE_SIZE;
		check(!((uintptr_t)code & 4095) && b->hot_len <= CODE_PAGES * PAGE_SIZE &&
			  b->cold_len <= CODE_PAGES * PAGE_SIZE);
		memset(box.ram + pa, 0xcc, CODE_PAGES * PAGE_SIZE);
		memcpy(box.ram + pa, code, n ? b->cold_len : b->hot_len);
		for (unsigned p = 0; p < CODE_PAGES; p++)
			map((uintptr_t)code + (uintptr_t)j->exec + p * PAGE_SIZE, pa + p * PAGE_SIZE, false);
	}
	if (!ready)
		map_thunks(j);
	mem_written(&box.vm.mem, BOX_CODE, 2 * CODE_PAGES * PAGE_SIZE);
	for (unsigned n = 0; n < trials && !danger; n++) {
		begin(j, b, n);
		danger = run(j, b);
	}
	tlb_forget();
	return danger;
}

void sandbox_create(void) {
	bench_vm_create(&box, RAM_SIZE, "interp");
	check(BOX_AREA + AREA_SIZE <= RAM_SIZE);
	memset(box.ram + BOX_HALTS, 0xf4, PAGE_SIZE);
	for (uint64_t at = 0; at < AREA_SIZE; at += PAGE_SIZE)
		map(AT_AREA + at, BOX_AREA + at, true);
	map(AT_STACK, BOX_STACK, true);
	for (unsigned write = 0; write < 2; write++)
		for (unsigned n = 0; n < JIT_TLB; n++) {
			put(tlb_entry(write, n), SOFT_TLB_INVALID);
			put(tlb_entry(write, n) + 8, gen_rnd());
		}
	signal(SIGVTALRM, on_limit);
}

void sandbox_destroy(void) {
	set_limit(0);
	bench_vm_destroy(&box);
}
