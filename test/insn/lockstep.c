/* The translator against the interpreter: the same random instruction streams in two VMs, from the
 * same state; whenever one stops, both must have stopped there, with equal registers, flags,
 * memory and vector state. Run with each part of the translator switched off, too: the outcome
 * must not change.
 *
 * Usage: lockstep [--count STREAMS] [--first N] [--seed N] [--off PARTS] [--verbose]
 *
 * A stream is 50 to 200 instructions of user mode: random bytes that decode to a form marked
 * NATIVE, most of them with pointers made to fit just before; conditional and other jumps, calls,
 * returns, loops, and stores into the stream itself. A fault stops it at HLT; after the comparison
 * both go on behind the instruction that faulted, so one stream sees many faults.
 *
 * Not compared: flags that the table calls undefined, followed through the stream, which defines
 * them before it reads them; and at a fault those that are dead, because the code behind writes
 * them before it reads any: the translator does not keep these (engine/soft/README.md).
 *
 * Accepted, too: a near jump to an address that is not canonical raises #GP there, not at the
 * jump; both are counted.
 *
 * Accepted, and counted, where a stray store changes the stream itself: flags that were dead by
 * the code as it was.
 *
 * A difference is pinned down by planting INT3 at each instruction of the stream in turn. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/cpuid.h"
#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define CODE 0x10000000ull /* two pages */
#define CODE_SIZE 0x2000u
#define DATA 0x10010000ull /* four pages; before and behind: nothing */
#define DATA_SIZE 0x4000u
#define RODATA 0x10020000ull
#define COUNTER 0x10030000ull /* one page: what is left of the loops */
#define XSTATE 832

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

static void put64(struct bench_vm *b, uint32_t gpa, uint64_t v) {
	memcpy(b->ram + gpa, &v, 8);
}

static void map_page(struct bench_vm *b, gva_t va, uint32_t gpa, uint64_t bits) {
	put64(b, G_PT + (uint32_t)(va >> 12 & 511) * 8, gpa | bits);
}

static void machine_create(struct bench_vm *b, const char *tier) {
	uint64_t user = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	bench_vm_create(b, RAM_SIZE, tier);
	put64(b, G_PML4, G_PDPT | user);
	put64(b, G_PDPT, G_PD | user);
	put64(b, G_PD + (CODE >> 21 & 511) * 8, G_PT | user);
	put64(b, G_PD + (G_SYS >> 21 & 511) * 8, 0 | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
	for (unsigned n = 0; n < 2; n++)
		map_page(b, CODE + n * 4096, G_CODE + n * 4096, user);
	for (unsigned n = 0; n < DATA_SIZE / 4096; n++)
		map_page(b, DATA + n * 4096, G_DATA + n * 4096, user | PTE_NX);
	map_page(b, RODATA, G_RO, (user & ~PTE_W) | PTE_NX);
	map_page(b, COUNTER, G_COUNTER, user | PTE_NX);
	memset(b->ram + G_RO, 0xaa, 4096);
	memset(b->ram + G_HLT, 0xf4, 256);
	put64(b, G_GDT + 0x08, 0x00209a0000000000ull);
	put64(b, G_GDT + 0x10, 0x0000920000000000ull);
	for (unsigned n = 0; n < 256; n++) {
		uint64_t at = G_SYS + G_HLT + n;
		put64(b, G_IDT + n * 16,
			  (at & 0xffff) | 8ull << 16 | 0xeeull << 40 | (at >> 16 & 0xffff) << 48);
		put64(b, G_IDT + n * 16 + 8, at >> 32);
	}
	put64(b, G_TSS + 4, G_SYS + G_STACK);
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
	s->cr3 = G_PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = (struct x86_segment){0x2b, 0xc0f3, 0xffffffff, 0};
	s->seg[SEG_CS] = (struct x86_segment){0x33, 0xa0fb, 0xffffffff, 0};
	s->seg[SEG_FS].base = 0x40;
	s->seg[SEG_GS].base = 0x88;
	s->seg[SEG_TR] = (struct x86_segment){0x18, 0x8b, 0x67, G_SYS + G_TSS};
	s->gdtr = (struct x86_dtable){G_SYS + G_GDT, 0x2f};
	s->idtr = (struct x86_dtable){G_SYS + G_IDT, 0xfff};
	memcpy(s->gpr, p->cpu.gpr, sizeof(s->gpr));
	s->rip = p->cpu.rip;
	s->rflags = p->cpu.rflags;
	s->cr2 = 0;
	memcpy(s->xsave, p->cpu.x, XSTATE);
	memset(s->xsave + 512, 0, 64);
	s->xsave[512] = 7;
}

static void normalise(struct cpu *c) {
	uint64_t bv;
	memcpy(&bv, c->x + 512, 8);
	if (!(bv & 4))
		memset(c->x + 576, 0, 256);
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
	uint64_t frame[6] = {0};
	bool has_error = (1u << out->vector & 0x27d00u) != 0;
	memcpy(frame, b->ram + sp, has_error ? 48 : 40);
	uint64_t *f = has_error ? frame + 1 : frame;
	out->error = has_error ? (uint32_t)frame[0] : 0;
	out->rip = f[0];
	out->rflags = f[2];
	out->gpr[RSP] = f[3];
}

/* ---- making streams ---------------------------------------------------------------------- */

static uint64_t seed_state;

static uint64_t rnd(void) { /* xorshift64* */
	seed_state ^= seed_state >> 12;
	seed_state ^= seed_state << 25;
	seed_state ^= seed_state >> 27;
	return seed_state * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned n) {
	return (unsigned)(rnd() >> 33) % n;
}

static uint64_t edgy(void) {
	switch (below(5)) {
	case 0:
		return 1ull << below(64);
	case 1:
		return (1ull << below(64)) - 1;
	case 2:
		return below(256);
	default:
		return rnd();
	}
}

#define PROTOS 8
static struct form_protos {
	unsigned n;
	uint8_t bytes[PROTOS][16];
} * protos;
static unsigned int_forms[X86_FORM_COUNT], n_int, all_forms[X86_FORM_COUNT], n_all;

static bool usable(const struct x86_insn *i, const struct cpuid_policy *p) {
	const struct x86_form *f = &x86_forms[i->form];
	if (!(f->attr & X86_ATTR_NATIVE) || (f->feature && !cpuid_has(p, f->feature)) ||
		f->attr & X86_ATTR_VSIB || f->cls == X86_CLASS_AVX512 || i->prefix & X86_PFX_EVEX)
		return false;
	switch (i->op) { /* host addresses in memory; control words from anywhere */
	case X86_OP_FNSTENV:
	case X86_OP_FNSAVE:
	case X86_OP_FLDENV:
	case X86_OP_FRSTOR:
	case X86_OP_FXSAVE:
	case X86_OP_FXRSTOR:
	case X86_OP_LDMXCSR:
	case X86_OP_VLDMXCSR:
		return false;
	default:
		return strncmp(f->mnemonic, "xsave", 5) != 0 && strncmp(f->mnemonic, "xrstor", 6) != 0;
	}
}

static void random_bytes(uint8_t *b) {
	unsigned n = 0;
	for (unsigned k = 0; k < 16; k++)
		b[k] = (uint8_t)rnd();
	if (below(3) == 0)
		b[n++] = (uint8_t[]){0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x64, 0x65, 0xf3}[below(8)];
	if (below(8) == 0)
		b[n++] = (uint8_t[]){0x66, 0xf2, 0xf3, 0x64}[below(4)];
	switch (below(8)) {
	case 0:
	case 1:
		break;
	case 2:
		b[n++] = 0x0f;
		break;
	case 3:
		b[n++] = 0x40 + below(16);
		if (below(2))
			b[n++] = 0x0f;
		break;
	case 4:
		if (below(2))
			b[n++] = 0x40 + below(16);
		b[n++] = 0x0f;
		b[n++] = below(2) ? 0x38 : 0x3a;
		break;
	case 5:
		n = 0;
		b[n++] = 0xc5;
		break;
	case 6:
		n = 0;
		b[n++] = 0xc4;
		b[n] = (uint8_t)((b[n] & 0xe0) | (1 + below(3)));
		break;
	default:
		b[n++] = 0xd8 + below(8);
	}
}

static void collect(const struct cpuid_policy *p) {
	protos = calloc(X86_FORM_COUNT, sizeof(*protos));
	for (unsigned k = 0; k < 2500000; k++) {
		uint8_t b[16];
		struct x86_insn i;
		random_bytes(b);
		if (x86_decode(&i, b, 15, X86_MODE_64) <= 0 || !usable(&i, p))
			continue;
		struct form_protos *fp = &protos[i.form];
		memcpy(fp->bytes[fp->n < PROTOS ? fp->n++ : below(PROTOS)], b, 16);
	}
	for (unsigned f = 0; f < X86_FORM_COUNT; f++) {
		if (!protos[f].n)
			continue;
		all_forms[n_all++] = f;
		if (x86_forms[f].cls == X86_CLASS_INT)
			int_forms[n_int++] = f;
	}
}

#define MAX_INSNS 900
static struct stream {
	unsigned n, len;
	struct {
		uint16_t off, undefined; /* flags that are, before it */
		struct x86_insn insn;
	} at[MAX_INSNS];
	unsigned nfix;
	struct {
		unsigned off, target; /* of a rel32 or abs32; an index into `at` */
		bool absolute;
	} fix[MAX_INSNS];
	unsigned patchable[MAX_INSNS], npatchable; /* MOV r32, imm32 */
	uint16_t undefined;
	uint8_t code[CODE_SIZE];
} st;

static void emit(const void *bytes, bool branch) {
	struct x86_insn i;
	static const uint8_t cmp[] = {0x39, 0xc8};
	int len = x86_decode(&i, bytes, 15, X86_MODE_64);
	if (len <= 0 || st.n + 2 >= MAX_INSNS || st.len + 64 > CODE_SIZE)
		return;
	const struct x86_form *f = &x86_forms[i.form];
	if (st.undefined && (branch || st.undefined & f->flags_read)) {
		uint8_t padded[16] = {0};
		memcpy(padded, cmp, 2);
		st.undefined = 0;
		emit(padded, false);
	}
	st.at[st.n].off = (uint16_t)st.len;
	st.at[st.n].undefined = st.undefined;
	st.at[st.n++].insn = i;
	memcpy(st.code + st.len, bytes, (size_t)len);
	st.len += (unsigned)len;
	st.undefined =
		(uint16_t)(((st.undefined & ~f->flags_written) | f->flags_undefined) & RFLAGS_ARITH);
}

static void emit_mov64(unsigned reg, uint64_t v) {
	uint8_t b[16] = {(uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7))};
	memcpy(b + 2, &v, 8);
	emit(b, false);
}

static void emit_mov32(unsigned reg, uint32_t v) {
	uint8_t b[16] = {(uint8_t)(0xb8 | (reg & 7))};
	memcpy(b + 1, &v, 4);
	if (st.n < MAX_INSNS - 4)
		st.patchable[st.npatchable++] = st.len + 1;
	emit(b, false);
}

static gva_t target(unsigned size) {
	size = size ? size : 64;
	switch (below(24)) {
	case 0:
	case 1:
		return DATA + 0x2000 - below(size);
	case 2:
		return DATA + DATA_SIZE - below(size + 1);
	case 3:
		return RODATA + (below(4096) & ~63u);
	case 4:
		return rnd();
	case 5:
	case 6:
	case 7:
		return DATA + below(DATA_SIZE - 128);
	default:
		return DATA + (below(DATA_SIZE - 4096) & ~63u) + 0x800;
	}
}

static void fix_stack(void) {
	if (below(10))
		emit_mov64(RSP, DATA + 0x2000 + (below(64) & ~7u));
}

/* A jump of some kind to the instruction of index `to`. */
static void emit_jump(unsigned kind, unsigned to) {
	uint8_t b[16] = {0};
	unsigned n = 0;
	bool absolute = false;
	switch (kind) {
	case 0: /* jcc */
		b[n++] = 0x0f;
		b[n++] = (uint8_t)(0x80 | below(16));
		break;
	case 1:
		b[n++] = 0xe9;
		break;
	case 2:
		fix_stack();
		b[n++] = 0xe8;
		break;
	case 3: /* push, ret */
		fix_stack();
		b[n++] = 0x68;
		absolute = true;
		break;
	default: /* mov eax, jmp rax or call rax */
		fix_stack();
		b[n++] = 0xb8;
		absolute = true;
	}
	if (st.undefined) { /* so that no CMP comes between */
		static const uint8_t cmp[16] = {0x39, 0xc8};
		emit(cmp, false);
	}
	if (st.n + 8 >= MAX_INSNS || st.len + 128 > CODE_SIZE)
		return;
	st.fix[st.nfix].off = st.len + n;
	st.fix[st.nfix].absolute = absolute;
	st.fix[st.nfix++].target = to;
	emit(b, true);
	static const uint8_t ret[16] = {0xc3}, jmp[16] = {0xff, 0xe0}, call[16] = {0xff, 0xd0};
	if (kind == 3)
		emit(ret, true);
	if (kind > 3)
		emit(kind == 4 ? jmp : call, true);
}

static void emit_loop(void) {
	uint8_t sub[16] = {0x83, 0x2c, 0x25, 0, 0, 0, 0, 1};
	uint32_t at = (uint32_t)COUNTER;
	memcpy(sub + 3, &at, 4);
	unsigned to = st.n - below(st.n < 30 ? st.n : 30);
	emit(sub, false);
	if (st.n + 8 >= MAX_INSNS || st.len + 128 > CODE_SIZE)
		return;
	uint8_t jns[16] = {0x0f, 0x89};
	st.fix[st.nfix].off = st.len + 2;
	st.fix[st.nfix].absolute = false;
	st.fix[st.nfix++].target = to;
	emit(jns, true);
}

/* A store into the immediate of some MOV of the stream. */
static void emit_patch(void) {
	uint8_t b[16] = {0xc6, 0x04, 0x25};
	unsigned off = below(2) && st.npatchable ? st.patchable[below(st.npatchable)] : st.len + 9;
	uint32_t at = (uint32_t)CODE + off + (off == st.len + 9 ? 0 : below(4));
	memcpy(b + 3, &at, 4);
	b[7] = (uint8_t)rnd();
	unsigned before = st.len;
	emit(b, false);
	if (st.len == before + 8)
		emit_mov32(below(3), (uint32_t)rnd());
}

static void emit_random(void) {
	unsigned form = below(10) < 6 ? int_forms[below(n_int)] : all_forms[below(n_all)];
	const struct form_protos *fp = &protos[form];
	uint8_t b[16];
	struct x86_insn i;
	memcpy(b, fp->bytes[below(fp->n)], 16);
	if (x86_decode(&i, b, 15, X86_MODE_64) <= 0)
		return;
	if (i.modrm_off && below(2)) { /* other registers */
		uint8_t old = b[i.modrm_off];
		b[i.modrm_off] = (uint8_t)((old & 0xc0) | (rnd() & 0x3f));
		struct x86_insn j;
		if (x86_decode(&j, b, 15, X86_MODE_64) != i.len || j.form != i.form)
			b[i.modrm_off] = old;
		if (x86_decode(&i, b, 15, X86_MODE_64) <= 0)
			return;
	}
	if (i.imm_off && below(2))
		for (unsigned n = 0; n < i.imm_len; n++)
			b[i.imm_off + n] = (uint8_t)edgy();
	if (x86_decode(&i, b, 15, X86_MODE_64) != i.len)
		return;
	if (x86_forms[form].cls == X86_CLASS_STRING || i.op == X86_OP_XLAT) {
		emit_mov64(RSI, target(16));
		emit_mov64(RDI, target(16));
		emit_mov64(RCX, below(40));
		emit_mov64(RBX, target(16));
	}
	if (x86_forms[form].attr & X86_ATTR_STACK)
		fix_stack();
	for (unsigned n = 0; n < i.nopnds; n++) {
		if (i.opnd[n].kind != OPND_MEM || below(16) == 0)
			continue;
		uint64_t idx = 0;
		gva_t t = target(i.opnd[n].size);
		if (i.index < 16 && i.index != i.base) {
			uint64_t v = below(2) ? below(64) : (uint64_t) - (int64_t)below(64);
			if (i.index == RSP)
				return;
			emit_mov64(i.index, v);
			idx = v << i.scale;
		}
		if (i.base < 16)
			emit_mov64(i.base, t - (uint64_t)i.disp - idx);
		else if (i.base == X86_REG_RIP && i.disp_len == 4) {
			int32_t d = (int32_t)(t - (CODE + st.len + i.len));
			if (st.undefined & x86_forms[i.form].flags_read)
				return; /* a CMP would come between */
			memcpy(b + i.disp_off, &d, 4);
		} else if (i.base == X86_REG_NONE && i.disp_len >= 4 && t < 0x7fffffff) {
			uint64_t d = t - idx;
			memcpy(b + i.disp_off, &d, i.disp_len);
		}
	}
	emit(b, false);
}

static void make_stream(struct point *p) {
	st.n = st.len = st.nfix = st.npatchable = 0;
	st.undefined = 0;
	memset(st.code, 0xcc, sizeof(st.code));
	if (below(4) == 0) /* across the pages */
		for (unsigned n = 0; n < 400; n++)
			st.code[st.len++] = 0x90;
	if (st.len)
		st.len = 4096 - below(200);
	unsigned start = st.len, want = 50 + below(150);
	emit_mov32(RAX, 0);
	while (st.n < want && st.len + 256 < CODE_SIZE) {
		unsigned what = below(100);
		if (what < 8)
			emit_jump(0, st.n + 2 + below(8));
		else if (what < 12)
			emit_jump(1 + below(5), st.n + 4 + below(8));
		else if (what < 15)
			emit_loop();
		else if (what < 17)
			emit_patch();
		else
			emit_random();
	}
	for (unsigned n = 0; n < 14; n++) { /* where the last jumps may go */
		static const uint8_t nop[16] = {0x90};
		emit(nop, false);
	}
	for (unsigned n = 0; n < st.nfix; n++) {
		unsigned t = st.fix[n].target; /* not between a jump and what goes before */
		while (t < st.n && x86_forms[st.at[t].insn.form].attr & X86_ATTR_ENDS)
			t++;
		unsigned to = t < st.n ? st.at[t].off : st.len;
		uint32_t v = st.fix[n].absolute ? (uint32_t)CODE + to : to - (st.fix[n].off + 4);
		memcpy(st.code + st.fix[n].off, &v, 4);
	}
	memset(p, 0, sizeof(*p));
	memcpy(p->code, st.code, CODE_SIZE);
	for (unsigned k = 0; k < DATA_SIZE; k += 8) {
		uint64_t v = edgy();
		memcpy(p->data + k, &v, 8);
	}
	p->counter[0] = (uint8_t)below(24);
	for (unsigned n = 0; n < 16; n++)
		p->cpu.gpr[n] = below(3) ? edgy() : target(8);
	p->cpu.rip = CODE + start;
	p->cpu.rflags = (rnd() & RFLAGS_ARITH) | RFLAGS_FIXED | RFLAGS_IF;
	uint8_t *x = p->cpu.x;
	for (unsigned k = 160; k < XSTATE; k += 8) {
		double d = (double)(int64_t)(rnd() % 4000) - 2000.25;
		uint64_t v = rnd();
		memcpy(x + k, below(2) ? (void *)&d : (void *)&v, 8);
	}
	uint16_t fcw = below(10) ? 0x037f : (uint16_t)(0x340 | below(64));
	uint32_t mxcsr = below(10) ? 0x1f80 : 0x1f80 ^ below(64) << 7;
	memset(x + 416, 0, 160);
	memcpy(x, &fcw, 2);
	memcpy(x + 24, &mxcsr, 4);
	for (unsigned r = 0; r < 8; r++) {
		long double d = (long double)(int64_t)rnd() / 65536.0L;
		memcpy(x + 32 + r * 16, &d, 10);
	}
	x[4] = (uint8_t)rnd();
}

/* ---- comparing ---------------------------------------------------------------------------- */

static unsigned long stops, faults, lost_flags, late, overwrote;

static int index_of(uint64_t rip) {
	for (unsigned n = 0; n < st.n; n++)
		if (CODE + st.at[n].off == rip)
			return (int)n;
	return -1;
}

/* The table has shifts read what they write, as a count of 0 leaves it. */
static uint16_t reads(const struct x86_insn *i) {
	const struct x86_opnd *count = &i->opnd[i->nopnds ? i->nopnds - 1 : 0];
	switch (i->op) {
	case X86_OP_ROL:
	case X86_OP_ROR:
	case X86_OP_SHL:
	case X86_OP_SHR:
	case X86_OP_SAR:
	case X86_OP_SHLD:
	case X86_OP_SHRD:
		if (count->kind == OPND_ONE ||
			(count->kind == OPND_IMM && i->imm & (i->opnd[0].size == 8 ? 63 : 31)))
			return 0;
		/* fall through */
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
		open &= (uint16_t)~reads(i);
		dead |= open & f->flags_written;
		open &= (uint16_t)~f->flags_written;
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
		x86_decode(&i, st.code + st.at[n].off, 15, X86_MODE_64);
		x86_format(text, sizeof(text), &i, CODE + st.at[n].off);
		printf("#   %3u %lx: %s\n", n, (unsigned long)(CODE + st.at[n].off), text);
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
		if (rip - CODE < CODE_SIZE - 15 &&
			x86_decode(&i, p.code + (rip - CODE), 15, X86_MODE_64) > 0)
			x86_format(text, sizeof(text), &i, rip);
		printf("#   %lx %06lx: %s\n", p.cpu.rflags & 0xfff, (unsigned long)rip, text);
		p.cpu.rflags |= RFLAGS_TF;
		run_from(&vms[0], &p, &a);
		p.cpu = a;
		memcpy(p.code, vms[0].ram + G_CODE, CODE_SIZE);
		memcpy(p.data, vms[0].ram + G_DATA, DATA_SIZE);
		memcpy(p.counter, vms[0].ram + G_COUNTER, 8);
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
		if (why && a.vector == 3 && a.rip == CODE + st.at[n].off + 1) {
			printf("#  already before instruction %u: %s\n", n, why);
			list(n > 12 ? n - 12 : 0, n + 1);
			return;
		}
	}
	printf("#  not reproduced with INT3s in between; the way there:\n");
	trace(from, end);
}

/* Some streams never end: a patched jump, say. */
static void on_alarm(int sig) {
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

static bool canonical(uint64_t a) {
	return (a + (1ull << 47)) >> 48 == 0;
}

/* true: the same all along. */
static bool run_stream(bool verbose) {
	static struct point p;
	make_stream(&p);
	for (unsigned turn = 0; turn < 2 * MAX_INSNS; turn++) {
		struct cpu a, b;
		run_from(&vms[0], &p, &a);
		if (a.vector == -100 - EXIT_PREEMPTED)
			return true;
		alarm(10);
		run_from(&vms[1], &p, &b);
		alarm(1);
		const char *why = compare(&a, &b);
		stops++;
		if (why && a.vector == 13 && b.vector == 13 && !canonical(b.rip)) {
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
		p.cpu = a;
		p.cpu.rip = CODE + st.at[at].off + st.at[at].insn.len;
		p.cpu.rflags &= ~(uint64_t)(RFLAGS_RF);
		if (a.vector == 16) /* pending x87 exceptions would come again and again */
			p.cpu.x[2] &= 0x40, p.cpu.x[3] &= 0x7f, p.cpu.x[0] |= 0x3f;
		memcpy(p.code, vms[0].ram + G_CODE, CODE_SIZE);
		memcpy(p.data, vms[0].ram + G_DATA, DATA_SIZE);
		memcpy(p.counter, vms[0].ram + G_COUNTER, 8);
	}
	return true;
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
		{"cache", 4},
		{"link,jumps,flags,block,int,lea,mem,stack,branch,x87,sse,avx,next,system", 10},
	};
	unsigned long count = 2000, first = 0, failed = 0;
	const char *off = NULL;
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
		else if (!strcmp(argv[n], "--verbose"))
			verbose = true;
	}
	signal(SIGALRM, on_alarm);
	setvbuf(stdout, NULL, _IOLBF, 0);
	setenv("JOIST_SOFT_VERIFY", "1", 0);
	seed_state = seed * 0x9e3779b97f4a7c15ull + 1;
	unsigned n_plan = off ? 1 : sizeof(plan) / sizeof(plan[0]);
	printf("1..%u\n", n_plan);
	for (unsigned k = 0; k < n_plan; k++) {
		const char *parts = off ? off : plan[k].off;
		unsigned long n = off ? count : (count * plan[k].share + 99) / 100, bad = 0;
		setenv("JOIST_SOFT_OFF", parts, 1);
		machine_create(&vms[0], "interp");
		machine_create(&vms[1], "jit");
		if (!k)
			collect(vms[0].cpuid);
		stops = faults = lost_flags = late = overwrote = 0;
		for (unsigned long s = first; s < first + n && bad < 5; s++) {
			seed_state = (seed * 1000003 + s) * 0x9e3779b97f4a7c15ull + 1;
			rnd();
			alarm(1);
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
		printf("%s %u - without: %s\n", bad ? "not ok" : "ok", k + 1, *parts ? parts : "nothing");
		failed += bad;
		bench_vm_destroy(&vms[0]);
		bench_vm_destroy(&vms[1]);
	}
	return failed != 0;
}
