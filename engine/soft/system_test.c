/* The interpreter's system half, handler by handler, on a machine of 2 MiB:
 * gates, stack switches, returns, task switches, double faults, MSRs, ports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/fast.h"
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"
#include "test/unit/fake.h"

#define RAM_SIZE MIB(2)
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS 0x3000u
#define TSS2 0x3800u
#define STACK0 0x8000u
#define STACK3 0x9000u
#define HANDLER 0x5000u

enum {
	CODE0 = 0x08,
	DATA0 = 0x10,
	CODE3 = 0x1b,
	DATA3 = 0x23,
	TSS_SEL = 0x28,
	TSS2_SEL = 0x30,
	TASK_GATE = 0x38,
	CALL_GATE = 0x43,
	CODE64 = 0x50,
	CONFORMING = 0x58,
	GDT_END = 0x60
};

static struct vm vm;
static struct vcpu vcpu;
static struct soft soft;
static struct soft_vcpu *c;
static struct x86_state *s;
static struct mem_region ram;
static struct cpuid_policy policy;
static struct fake_clock fake;
static uint32_t port_seen, port_val;

static void nothing(void *opaque) {
}
static const struct vm_host host = {.lock = nothing, .unlock = nothing};

static uint64_t port_rd(void *dev, uint64_t off, unsigned size) {
	return port_val++;
}
static void port_wr(void *dev, uint64_t off, unsigned size, uint64_t val) {
	port_seen = (uint32_t)val;
}
static const struct io_ops port_ops = {.read = port_rd, .write = port_wr};
static struct port_region port = {.name = "test", .base = 0x60, .size = 8, .ops = &port_ops};

/* ---- guest memory ---- */

static void put(uint32_t at, unsigned size, uint64_t val) {
	memcpy(ram.host + at, &val, size);
}
static uint64_t get(uint32_t at, unsigned size) {
	uint64_t val = 0;
	memcpy(&val, ram.host + at, size);
	return val;
}
static void put_desc(unsigned sel, uint32_t base, uint32_t limit, uint32_t attr) {
	put(GDT + (sel & ~7u), 8,
		(limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xf0ff) << 40 |
			(uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56);
}
static void put_gate(uint32_t at, unsigned type, unsigned sel, uint32_t off, unsigned extra) {
	put(at, 8,
		(off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)extra << 32 |
			(uint64_t)(type | 0x80) << 40 | (uint64_t)(off >> 16) << 48);
}

static struct x86_segment seg_of(unsigned sel) {
	struct sys_desc d;
	assert_true(sys_desc_read(c, (uint16_t)sel, false, &d));
	return sys_desc_segment(&d, (uint16_t)sel);
}

/* ---- running one handler ---- */

static struct x86_insn insn;

/* true: it completed; false: c->event says what it raised. */
static bool try_op(soft_handler *h) {
	if (__builtin_setjmp(c->unwind))
		return false;
	c->next_rip = s->rip + 2;
	h(c, &insn);
	s->rip = c->next_rip;
	return true;
}

static bool try_deliver(const struct soft_event *ev) {
	if (__builtin_setjmp(c->unwind))
		return false;
	c->next_rip = s->rip;
	soft_deliver(c, ev);
	return true;
}

static bool try_load(unsigned seg, unsigned sel) {
	if (__builtin_setjmp(c->unwind))
		return false;
	soft_load_segment(c, seg, (uint16_t)sel);
	return true;
}

/* Delivers what the last handler raised, as the loop does, until it works or all is lost. */
static bool settle(void) {
	for (unsigned n = 0; n < 4; n++) {
		struct soft_event ev = c->event;
		if (try_deliver(&ev))
			return true;
		if (c->unwind_why == UNWIND_SHUTDOWN)
			return false;
	}
	fail();
	return false;
}

#define assert_raises(call, vec, err)                                                              \
	do {                                                                                           \
		assert_false(call);                                                                        \
		assert_int_equal(c->event.vector, vec);                                                    \
		if (c->event.has_error)                                                                    \
			assert_int_equal(c->event.error, err);                                                 \
	} while (0)

/* ---- machines ---- */

static int setup(void **unused) {
	struct err e;
	memset(&vm, 0, sizeof(vm));
	memset(&vcpu, 0, sizeof(vcpu));
	memset(&soft, 0, sizeof(soft));
	fake_clock_init(&fake);
	vm_init(&vm, &host, &fake.clock);
	ram = (struct mem_region){.name = "ram", .size = RAM_SIZE, .kind = MEM_RAM};
	ram.host = aligned_alloc(4096, RAM_SIZE);
	memset(ram.host, 0, RAM_SIZE);
	mem_add(&vm.mem, &ram);
	port.added = false;
	port_add(&vm.mem, &port);
	assert_int_equal(cpuid_init(&policy, "host", 1, 1000000, &e), 0);
	vm.cpuid = &policy;
	vcpu.vm = &vm;
	vm.vcpus[0] = &vcpu;
	vm.nvcpus = 1;
	soft.vm = &vm;
	pthread_mutex_init(&soft.excl_lock, NULL);
	pthread_cond_init(&soft.excl_cond, NULL);
	c = aligned_alloc(64, align_up(sizeof(*c), 64));
	memset(c, 0, sizeof(*c));
	c->v = &vcpu;
	s = c->s = &vcpu.state;
	c->soft = &soft;
	c->delivering = SOFT_VEC_NONE;
	c->phys_bits = 40;
	c->has_1g_pages = true;
	vcpu.engine = c;
	assert_int_equal(soft_fpu_create(c), 0);
	assert_int_equal(soft_spaces_create(c), 0);
	vcpu_reset(&vcpu, false);
	soft_tlb_flush(c, true);
	soft_update_mode(c);
	soft_enter_guest(c);
	insn = (struct x86_insn){.len = 2, .opsize = 4, .addrsize = 4, .seg = SEG_DS};
	insn.seg_prefix = X86_REG_NONE;
	port_val = 1;
	return 0;
}

static int teardown(void **unused) {
	soft_leave_guest(c);
	soft_fpu_destroy(c);
	soft_spaces_destroy(c);
	free(c);
	free(ram.host);
	return 0;
}

static void make_tables(void) {
	put_desc(CODE0, 0, 0xfffff, 0xc09a);
	put_desc(DATA0, 0, 0xfffff, 0xc092);
	put_desc(CODE3, 0, 0xfffff, 0xc0fa);
	put_desc(DATA3, 0, 0xfffff, 0xc0f2);
	put_desc(TSS_SEL, TSS, 0x67 + 32 + 32, 0x89);
	put_desc(TSS2_SEL, TSS2, 0x67, 0x89);
	put_gate(GDT + TASK_GATE, 0x65, TSS2_SEL, 0, 0);
	put_gate(GDT + (CALL_GATE & ~7u), 0x6c, CODE0, HANDLER, 2);
	put_desc(CODE64, 0, 0xfffff, 0xa09a);
	put_desc(CONFORMING, 0, 0xfffff, 0xc09e);
	put(TSS + 4, 4, STACK0);
	put(TSS + 8, 4, DATA0);
	put(TSS + 0x66, 2, 0x68 + 32);
	for (unsigned v = 0; v < 32; v++)
		put_gate(IDT + v * 8, 0x0e, CODE0, HANDLER + v * 16, 0);
	put_gate(IDT + 3 * 8, 0x6e, CODE0, HANDLER, 0);
	put_gate(IDT + 0x80 * 8, 0x6f, CODE0, HANDLER + 0x800, 0);
	s->gdtr = (struct x86_dtable){GDT, GDT_END - 1};
	s->idtr = (struct x86_dtable){IDT, 0x80 * 8 + 7};
}

/* 32-bit protected mode at `cpl` with flat segments. */
static void enter_protected(unsigned cpl) {
	make_tables();
	s->cr0 |= CR0_PE;
	s->seg[SEG_CS] = seg_of(cpl ? CODE3 : CODE0);
	for (unsigned n = 0; n < 6; n++)
		if (n != SEG_CS)
			s->seg[n] = seg_of(cpl ? DATA3 : DATA0);
	put(GDT + TSS_SEL + 5, 1, 0x8b);
	s->seg[SEG_TR] = seg_of(TSS_SEL);
	s->gpr[RSP] = cpl ? STACK3 : STACK0;
	s->rip = 0x4000;
	soft_update_mode(c);
}

/* 64-bit mode, the first 2 MiB identity-mapped for everybody. */
static void enter_long(unsigned cpl) {
	make_tables();
	put_desc(CODE3, 0, 0xfffff, 0xa0fa);
	put(0x10000, 8, 0x11007);
	put(0x11000, 8, 0x12007);
	put(0x12000, 8, 0x87);
	for (unsigned v = 0; v < 32; v++) {
		put_gate(IDT + v * 16, 0x0e, CODE64, HANDLER + v * 16, v == 8 ? 1 : 0);
		put(IDT + v * 16 + 8, 8, 0);
	}
	put_gate(IDT + 3 * 16, 0x6e, CODE64, HANDLER, 0);
	put(TSS + 4, 8, STACK0);
	put(TSS + 0x24, 8, 0x7000);
	s->gdtr = (struct x86_dtable){GDT, GDT_END - 1};
	s->idtr = (struct x86_dtable){IDT, 32 * 16 - 1};
	s->seg[SEG_CS] = seg_of(cpl ? CODE3 : CODE64);
	s->seg[SEG_SS] = seg_of(cpl ? DATA3 : DATA0);
	s->seg[SEG_TR] = (struct x86_segment){TSS_SEL, 0x8b, 0x67, TSS};
	s->cr3 = 0x10000;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE;
	s->cr0 |= CR0_PE | CR0_PG;
	s->gpr[RSP] = cpl ? STACK3 : 0x8008;
	s->rip = 0x4000;
	insn.opsize = insn.addrsize = 8;
	soft_update_mode(c);
}

/* ---- real mode ---- */

static void real_interrupts(void **unused) {
	put(0x21 * 4, 4, 0x12340056);
	s->seg[SEG_SS].sel = 0x100, s->seg[SEG_SS].base = 0x1000;
	s->gpr[RSP] = 0x80;
	s->rip = 0x10;
	s->rflags = 0x202;
	insn.opsize = 2;
	insn.imm = 0x21;
	assert_true(try_op(op_int));
	assert_int_equal(s->seg[SEG_CS].sel, 0x1234);
	assert_int_equal(s->rip, 0x56);
	assert_int_equal(s->rflags, 2);
	assert_int_equal(s->gpr[RSP], 0x7a);
	assert_int_equal(get(0x107a, 2), 0x12);
	assert_int_equal(get(0x107c, 2), 0xf000);
	assert_int_equal(get(0x107e, 2), 0x202);
	assert_true(try_op(op_iret));
	assert_int_equal(s->rip, 0x12);
	assert_int_equal(s->seg[SEG_CS].base, 0xf0000);
	assert_int_equal(s->rflags, 0x202);
	assert_int_equal(s->gpr[RSP], 0x80);
	s->idtr.limit = 0x10; /* too short for the vector and for #GP and #DF */
	assert_raises(try_op(op_int), VEC_GP, 0x21 * 8 + 2);
	assert_false(settle());
}

static void unreal_limits_stay(void **unused) {
	s->seg[SEG_DS].limit = 0xffffffff;
	assert_true(try_load(SEG_DS, 0x1234));
	assert_int_equal(s->seg[SEG_DS].limit, 0xffffffff);
	assert_int_equal(s->seg[SEG_DS].base, 0x12340);
}

/* ---- protected mode ---- */

static void segment_checks(void **unused) {
	enter_protected(3);
	assert_true(try_load(SEG_DS, 3));
	assert_true(s->seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
	assert_raises(try_load(SEG_SS, 0), VEC_GP, 0);
	assert_raises(try_load(SEG_DS, DATA0), VEC_GP, DATA0);
	assert_raises(try_load(SEG_DS, TSS_SEL), VEC_GP, TSS_SEL);
	assert_raises(try_load(SEG_DS, GDT_END), VEC_GP, GDT_END);
	assert_raises(try_load(SEG_DS, 4 | 8), VEC_GP, 4 | 8); /* no LDT */
	assert_raises(try_load(SEG_SS, CODE3), VEC_GP, CODE3 & ~3);
	assert_true(try_load(SEG_DS, CODE3)); /* readable code */
	assert_true(try_load(SEG_ES, CONFORMING));
	assert_true(try_load(SEG_DS, DATA3));
	assert_int_equal(get(GDT + (DATA3 & ~7) + 5, 1), 0xf3); /* accessed */
	put(GDT + (DATA3 & ~7) + 5, 1, 0x72);
	assert_raises(try_load(SEG_DS, DATA3), VEC_NP, DATA3 & ~3);
	assert_raises(try_load(SEG_SS, DATA3), VEC_SS, DATA3 & ~3);
}

static void interrupt_switches_stack(void **unused) {
	enter_protected(3);
	s->rflags = 0x202;
	insn.imm = 0x80;
	assert_true(try_op(op_int));
	assert_int_equal(s->rip, HANDLER + 0x800);
	assert_int_equal(s->seg[SEG_CS].sel, CODE0);
	assert_int_equal(s->seg[SEG_SS].sel, DATA0);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->gpr[RSP], STACK0 - 20);
	assert_int_equal(get(STACK0 - 20, 4), 0x4002);
	assert_int_equal(get(STACK0 - 16, 4), CODE3);
	assert_int_equal(get(STACK0 - 12, 4), 0x202);
	assert_int_equal(get(STACK0 - 8, 4), STACK3);
	assert_int_equal(get(STACK0 - 4, 4), DATA3);
	assert_int_equal(s->rflags, 0x202); /* a trap gate */
	assert_true(try_load(SEG_DS, DATA0));
	assert_true(try_op(op_iret));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->gpr[RSP], STACK3);
	assert_true(s->seg[SEG_DS].attr & SEG_ATTR_UNUSABLE); /* DPL 0 data is gone */
	assert_int_equal(s->seg[SEG_ES].sel, DATA3);
	insn.imm = 0x20;
	assert_raises(try_op(op_int), VEC_GP, 0x20 * 8 + 2); /* not present: type 0 */
	insn.imm = 14;
	assert_raises(try_op(op_int), VEC_GP, 14 * 8 + 2); /* DPL 0 */
	assert_true(settle());
	assert_int_equal(get((uint32_t)s->gpr[RSP], 4), 14 * 8 + 2);
	assert_int_equal(get((uint32_t)s->gpr[RSP] + 12, 4) & RFLAGS_RF, RFLAGS_RF);
}

static void double_and_triple_faults(void **unused) {
	struct soft_event pf = {.vector = VEC_PF, .has_error = true, .error = 2};
	enter_protected(0);
	put_gate(IDT + 14 * 8, 0x0e, 0x70, HANDLER, 0); /* selector beyond the GDT */
	assert_raises(try_deliver(&pf), VEC_GP, 0x70 + 1);
	assert_true(settle());
	assert_int_equal(s->rip, HANDLER + 8 * 16); /* #DF */
	assert_int_equal(get((uint32_t)s->gpr[RSP], 4), 0);
	assert_int_equal(c->delivering, SOFT_VEC_NONE);
	s->idtr.limit = 0;
	assert_false(try_deliver(&pf));
	assert_int_equal(c->event.vector, VEC_GP);
	assert_false(settle());
	assert_int_equal(c->unwind_why, UNWIND_SHUTDOWN);
}

static void call_gate_copies_parameters(void **unused) {
	enter_protected(3);
	put(STACK3, 4, 0x11111111);
	put(STACK3 + 4, 4, 0x22222222);
	insn.opnd[0].kind = OPND_FAR;
	insn.imm2 = CALL_GATE;
	insn.imm = 0xdeadbeef; /* ignored */
	assert_true(try_op(op_callf));
	assert_int_equal(s->rip, HANDLER);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->gpr[RSP], STACK0 - 24);
	assert_int_equal(get(STACK0 - 24, 4), 0x4002);
	assert_int_equal(get(STACK0 - 20, 4), CODE3);
	assert_int_equal(get(STACK0 - 16, 4), 0x11111111);
	assert_int_equal(get(STACK0 - 12, 4), 0x22222222);
	assert_int_equal(get(STACK0 - 8, 4), STACK3);
	assert_int_equal(get(STACK0 - 4, 4), DATA3);
	insn.nopnds = 1;
	insn.opnd[0].kind = OPND_IMM;
	insn.imm = 8;
	assert_true(try_op(op_retf));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->gpr[RSP], STACK3 + 8);
	insn.opnd[0].kind = OPND_FAR;
	insn.imm2 = CALL_GATE; /* a jump may not gain privilege */
	assert_raises(try_op(op_jmpf), VEC_GP, CODE0);
	insn.imm2 = CODE0;
	assert_raises(try_op(op_jmpf), VEC_GP, CODE0);
	insn.imm2 = CONFORMING;
	insn.imm = 0x4444;
	assert_true(try_op(op_jmpf));
	assert_int_equal(s->seg[SEG_CS].sel, CONFORMING | 3);
	assert_int_equal(c->cpl, 3);
}

/* ---- tasks ---- */

static void task_switches_and_returns(void **unused) {
	enter_protected(0);
	put(TSS2 + 0x20, 4, 0x6000);
	put(TSS2 + 0x24, 4, 0x2);
	put(TSS2 + 0x38, 4, 0x7700);
	for (unsigned n = 0; n < 6; n++)
		put(TSS2 + 0x48 + n * 4, 2, n == SEG_CS ? CODE0 : DATA0);
	put(TSS2 + 0x28, 4, 0xabcd);
	s->gpr[RAX] = 0x1234;
	insn.opnd[0].kind = OPND_FAR;
	insn.imm2 = TASK_GATE;
	assert_true(try_op(op_callf));
	assert_int_equal(s->rip, 0x6000);
	assert_int_equal(s->gpr[RAX], 0xabcd);
	assert_int_equal(s->gpr[RSP], 0x7700);
	assert_int_equal(s->seg[SEG_TR].sel, TSS2_SEL);
	assert_true(s->rflags & RFLAGS_NT);
	assert_true(s->cr0 & CR0_TS);
	assert_int_equal(get(TSS2, 2), TSS_SEL);
	assert_int_equal(get(GDT + TSS2_SEL + 5, 1), 0x8b);
	assert_int_equal(get(GDT + TSS_SEL + 5, 1), 0x8b);
	assert_int_equal(get(TSS + 0x20, 4), 0x4002);
	assert_raises(try_op(op_callf), VEC_GP, TSS2_SEL); /* busy: tasks do not recurse */
	assert_true(try_op(op_iret));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(s->gpr[RAX], 0x1234);
	assert_int_equal(s->seg[SEG_TR].sel, TSS_SEL);
	assert_int_equal(get(GDT + TSS2_SEL + 5, 1), 0x89);
	assert_false(s->rflags & RFLAGS_NT);
	assert_int_equal(get(TSS2 + 0x20, 4), 0x6002);

	/* An exception through a task gate pushes its error code on the new stack. */
	struct soft_event gp = {.vector = VEC_GP, .has_error = true, .error = 0x1230};
	put(TSS2 + 0x20, 4, 0x6000);
	put(TSS2 + 0x64, 2, 1); /* and the T bit traps */
	put_gate(IDT + 13 * 8, 0x05, TSS2_SEL, 0, 0);
	assert_raises(try_deliver(&gp), VEC_DB, 0);
	assert_true(s->dr6 & DR6_BT);
	assert_int_equal(get((uint32_t)s->gpr[RSP], 4), 0x1230);
	assert_int_equal(s->rip, 0x6000);

	/* A bad segment is the new task's #TS. */
	enter_protected(0);
	put(TSS2 + 0x64, 2, 0);
	put(TSS2 + 0x48 + SEG_DS * 4, 2, 0x70);
	insn.imm2 = TSS2_SEL;
	assert_raises(try_op(op_jmpf), VEC_TS, 0x70);
	assert_int_equal(s->seg[SEG_TR].sel, TSS2_SEL);
	assert_int_equal(get(GDT + TSS_SEL + 5, 1), 0x89);
	put_desc(TSS_SEL, TSS, 0x66, 0x89);
	insn.imm2 = TSS_SEL;
	assert_raises(try_op(op_jmpf), VEC_TS, TSS_SEL);
}

/* ---- virtual-8086 mode ---- */

static void enter_v86(unsigned iopl) {
	enter_protected(0);
	uint32_t sp = STACK0 - 36;
	const uint32_t frame[] = {
		0x100, 0x400, RFLAGS_VM | RFLAGS_IF | 2 | iopl << 12, 0xf00, 0x900, 0x11, 0x22, 0x33, 0x44};
	for (unsigned n = 0; n < 9; n++)
		put(sp + n * 4, 4, frame[n]);
	s->gpr[RSP] = sp;
	assert_true(try_op(op_iret));
}

static void v86_and_back(void **unused) {
	enter_v86(0);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->mode, X86_MODE_16);
	assert_int_equal(s->seg[SEG_CS].base, 0x4000);
	assert_int_equal(s->seg[SEG_SS].base, 0x9000);
	assert_int_equal(s->seg[SEG_GS].sel, 0x44);
	insn.opsize = 2;
	assert_raises(try_op(op_cli), VEC_GP, 0);
	assert_raises(try_op(op_pushf), VEC_GP, 0);
	assert_raises(try_op(op_iret), VEC_GP, 0);
	insn.imm = 0x21;
	assert_raises(try_op(op_int), VEC_GP, 0);
	assert_true(settle());
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->gpr[RSP], STACK0 - 40);
	assert_int_equal(get(STACK0 - 40, 4), 0);
	assert_int_equal(get(STACK0 - 36, 4), 0x100);
	assert_int_equal(get(STACK0 - 4, 4), 0x44);
	assert_int_equal(get(STACK0 - 16, 4), 0x11);
	assert_true(s->seg[SEG_GS].attr & SEG_ATTR_UNUSABLE);
	assert_false(s->rflags & RFLAGS_VM);
	s->gpr[RSP] += 4;
	insn.opsize = 4;
	assert_true(try_op(op_iret));
	assert_true(s->rflags & RFLAGS_VM);
	assert_int_equal(s->rip, 0x100);
	assert_int_equal(s->gpr[RSP], 0xf00);
}

static void v86_with_vme(void **unused) {
	enter_v86(0);
	s->cr4 |= CR4_VME;
	insn.opsize = 2;
	put(0x21 * 4, 4, 0x02000300);
	assert_true(try_op(op_sti));
	assert_true(s->rflags & RFLAGS_VIF);
	insn.imm = 0x21; /* redirection bitmap is zero: the guest's own table */
	assert_true(try_op(op_int));
	assert_int_equal(s->seg[SEG_CS].sel, 0x200);
	assert_int_equal(s->rip, 0x300);
	assert_false(s->rflags & RFLAGS_VIF);
	assert_true(s->rflags & RFLAGS_VM);
	assert_int_equal(get(0x9000 + 0xefe, 2) & 0x3200, 0x3200);
	assert_true(try_op(op_iret));
	assert_true(s->rflags & RFLAGS_VIF);
	assert_int_equal(s->seg[SEG_CS].sel, 0x400);
	put(TSS + 0x68 + 4, 1, 2); /* not redirected any more: IOPL decides */
	assert_raises(try_op(op_int), VEC_GP, 0);
	s->rflags |= RFLAGS_VIP;
	s->rflags &= ~(uint64_t)RFLAGS_VIF;
	assert_raises(try_op(op_sti), VEC_GP, 0);
}

/* ---- long mode ---- */

static void long_interrupts(void **unused) {
	struct soft_event df = {.vector = VEC_DF, .has_error = true};
	enter_long(3);
	s->rflags = 0x202;
	assert_true(try_op(op_int3));
	assert_int_equal(s->rip, HANDLER);
	assert_int_equal(s->gpr[RSP], STACK0 - 40);
	assert_int_equal(s->seg[SEG_SS].sel, 0);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->mode, X86_MODE_64);
	assert_int_equal(get(STACK0 - 8, 8), DATA3);
	assert_int_equal(get(STACK0 - 16, 8), STACK3);
	assert_true(try_op(op_iret));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->gpr[RSP], STACK3);
	assert_int_equal(s->rip, 0x4002);
	assert_true(try_deliver(&df));
	assert_int_equal(s->gpr[RSP], 0x7000 - 48); /* IST1 */
	s->gpr[RSP] += 8;
	assert_true(try_op(op_iret));

	/* The same privilege: aligned, SS:RSP pushed all the same. */
	s->seg[SEG_CS] = seg_of(CODE64);
	s->seg[SEG_SS] = seg_of(DATA0);
	soft_update_mode(c);
	s->gpr[RSP] = 0x8007;
	assert_true(try_op(op_int3));
	assert_int_equal(s->gpr[RSP], 0x8000 - 40);
	assert_int_equal(s->seg[SEG_SS].sel, DATA0);
	put(0x8000 - 40, 8, 1ull << 50);
	assert_raises(try_op(op_iret), VEC_GP, 0);
	s->rflags |= RFLAGS_NT;
	assert_raises(try_op(op_iret), VEC_GP, 0);
}

static void syscall_and_sysret(void **unused) {
	enter_long(3);
	s->star = (uint64_t)0x0013 << 48 | (uint64_t)CODE64 << 32;
	s->lstar = 0xffff800000001000;
	s->sfmask = RFLAGS_IF | RFLAGS_DF;
	s->rflags = 0x602;
	assert_true(try_op(op_syscall));
	assert_int_equal(s->rip, s->lstar);
	assert_int_equal(s->gpr[RCX], 0x4002);
	assert_int_equal(s->gpr[R11], 0x602);
	assert_int_equal(s->rflags, 2);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(s->seg[SEG_CS].sel, CODE64);
	assert_int_equal(s->seg[SEG_SS].sel, CODE64 + 8);
	assert_true(try_op(op_sysret));
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(s->rflags, 0x602);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(s->seg[SEG_CS].sel, 0x23);
	assert_int_equal(s->seg[SEG_SS].sel, 0x1b);
	assert_int_equal(c->mode, X86_MODE_64);
	assert_raises(try_op(op_sysret), VEC_GP, 0);
	s->efer &= ~EFER_SCE;
	assert_raises(try_op(op_syscall), VEC_UD, 0);
}

static bool try_cr(unsigned n, uint64_t val) {
	insn.opnd[0] = (struct x86_opnd){OPND_CR, (uint8_t)n, 8, OPND_W};
	insn.opnd[1] = (struct x86_opnd){OPND_GPR, RAX, 8, OPND_R};
	s->gpr[RAX] = val;
	return try_op(op_mov_cr);
}

static void control_registers(void **unused) {
	enter_protected(0);
	assert_raises(try_cr(0, CR0_PG), VEC_GP, 0);
	assert_raises(try_cr(0, CR0_PE | CR0_NW), VEC_GP, 0);
	assert_raises(try_cr(4, 1u << 31), VEC_GP, 0);
	assert_raises(try_cr(4, CR4_SMAP), VEC_GP, 0);
	assert_raises(try_cr(4, CR4_PCIDE), VEC_GP, 0);
	assert_raises(try_cr(1, 0), VEC_UD, 0);
	enter_long(0);
	assert_raises(try_cr(4, 0), VEC_GP, 0);
	assert_raises(try_cr(0, CR0_PE), VEC_GP, 0); /* PG off in 64-bit mode */
	assert_raises(try_cr(0, 1ull << 32 | CR0_PE | CR0_PG), VEC_GP, 0);
	assert_raises(try_cr(3, 1ull << 63 | 0x10000), VEC_GP, 0);
	assert_true(try_cr(4, CR4_PAE | CR4_PCIDE));
	assert_true(try_cr(3, 1ull << 63 | 0x10001));
	assert_int_equal(s->cr3, 0x10001);
	assert_raises(try_cr(3, 1ull << 45), VEC_GP, 0);
	assert_raises(try_cr(8, 16), VEC_GP, 0);
	assert_true(try_cr(8, 5));
	assert_int_equal(s->cr8, 5);
	assert_true(try_cr(0, CR0_PE | CR0_PG | CR0_WP));
	assert_int_equal(s->cr0, CR0_PE | CR0_PG | CR0_WP | CR0_ET);
}

static void debug_registers(void **unused) {
	enter_protected(0);
	insn.opnd[0] = (struct x86_opnd){OPND_DR, 7, 4, OPND_W};
	insn.opnd[1] = (struct x86_opnd){OPND_GPR, RAX, 4, OPND_R};
	s->gpr[RAX] = 0xffffffff & ~(uint32_t)DR7_GD;
	assert_true(try_op(op_mov_dr));
	assert_int_equal(s->dr7, 0xffff07ff);
	assert_true(c->data_breakpoints);
	s->dr7 |= DR7_GD;
	assert_raises(try_op(op_mov_dr), VEC_DB, 0);
	assert_true(s->dr6 & DR6_BD);
	s->dr7 = DR7_FIXED;
	s->cr4 |= CR4_DE;
	insn.opnd[0].reg = 4;
	assert_raises(try_op(op_mov_dr), VEC_UD, 0);
}

/* ---- ports and MSRs ---- */

static void port_permission(void **unused) {
	enter_protected(3);
	insn.nopnds = 2;
	insn.opnd[1].kind = OPND_IMM;
	insn.imm = 0x60;
	insn.opsize = 1;
	put(TSS + 0x68 + 32 + 0x60 / 8, 1, 0xfe);
	assert_true(try_op(op_in));
	assert_int_equal(s->gpr[RAX], 1);
	insn.opsize = 2;
	assert_raises(try_op(op_in), VEC_GP, 0);
	insn.imm = 0xff; /* its byte is the last of the TSS, and two are read */
	insn.opsize = 1;
	assert_raises(try_op(op_in), VEC_GP, 0);
	s->rflags |= RFLAGS_IOPL;
	assert_true(try_op(op_in));
	assert_int_equal(s->gpr[RAX] & 0xff, 0xff);
}

static void string_ports_restart(void **unused) {
	enter_protected(0);
	insn.opsize = 4;
	insn.prefix = X86_PFX_REP;
	s->gpr[RCX] = 4;
	s->gpr[RDX] = 0x60;
	s->gpr[RDI] = 0x20000;
	assert_true(try_op(op_ins));
	assert_int_equal(s->gpr[RCX], 0);
	assert_int_equal(s->gpr[RDI], 0x20010);
	assert_int_equal(get(0x2000c, 4), 4);
	assert_int_equal(s->rip, 0x4002);
	/* An event stops it after one element, with RIP still there. */
	vcpu.events = EVENT_KICK;
	s->gpr[RCX] = 4;
	s->gpr[RSI] = 0x20000;
	assert_true(try_op(op_outs));
	assert_int_equal(s->gpr[RCX], 3);
	assert_int_equal(s->rip, 0x4002);
	assert_int_equal(port_seen, 1);
	/* A fault in the middle keeps what was done; the port is not read for nothing. */
	vcpu.events = 0;
	s->seg[SEG_ES].limit = 0x20007;
	s->gpr[RCX] = 4;
	s->gpr[RDI] = 0x20000;
	uint32_t before = port_val;
	assert_raises(try_op(op_ins), VEC_GP, 0);
	assert_int_equal(s->gpr[RCX], 2);
	assert_int_equal(s->gpr[RDI], 0x20008);
	assert_int_equal(port_val, before + 2);
}

static bool try_wrmsr(uint32_t index, uint64_t val) {
	s->gpr[RCX] = index;
	s->gpr[RAX] = (uint32_t)val;
	s->gpr[RDX] = val >> 32;
	return try_op(op_wrmsr);
}
static uint64_t rdmsr(uint32_t index) {
	s->gpr[RCX] = index;
	assert_true(try_op(op_rdmsr));
	return s->gpr[RAX] | s->gpr[RDX] << 32;
}

static void msrs(void **unused) {
	enter_long(0);
	assert_true(try_wrmsr(MSR_LSTAR, 0xffff800000000000));
	assert_int_equal(rdmsr(MSR_LSTAR), 0xffff800000000000);
	assert_raises(try_wrmsr(MSR_LSTAR, 1ull << 47), VEC_GP, 0);
	assert_raises(try_wrmsr(MSR_PAT, 2), VEC_GP, 0);
	assert_true(try_wrmsr(MSR_PAT, 0x0007040600070406));
	assert_raises(try_wrmsr(MSR_EFER, 1ull << 12), VEC_GP, 0);
	assert_raises(try_wrmsr(MSR_EFER, EFER_SCE), VEC_GP, 0); /* LME with paging on */
	assert_true(try_wrmsr(MSR_EFER, EFER_LME | EFER_NXE));
	assert_int_equal(s->efer, EFER_LME | EFER_LMA | EFER_NXE);
	assert_raises(try_wrmsr(MSR_MTRR_DEF_TYPE, 2), VEC_GP, 0);
	assert_true(try_wrmsr(MSR_MTRR_DEF_TYPE, 0xc06));
	assert_raises(try_wrmsr(MSR_MTRR_PHYSBASE0 + 1, 1ull << 46), VEC_GP, 0);
	assert_true(try_wrmsr(0x26f, 0x0606060606060606));
	assert_int_equal(s->mtrr_fixed[10], 0x0606060606060606);
	assert_raises(try_wrmsr(0x12345678, 0), VEC_GP, 0);
	assert_true(try_wrmsr(MSR_TSC, 1000000));
	assert_in_range(rdmsr(MSR_TSC), 1000000, 1000100);
	uint64_t adjust = rdmsr(MSR_TSC_ADJUST);
	assert_true(try_wrmsr(MSR_TSC_ADJUST, adjust + 500));
	assert_in_range(rdmsr(MSR_TSC), 1000500, 1000600);
	s->seg[SEG_SS].attr |= 3 << SEG_ATTR_DPL_SHIFT;
	soft_update_mode(c);
	assert_raises(try_wrmsr(MSR_TSC, 0), VEC_GP, 0);
}

static void flags_by_privilege(void **unused) {
	enter_protected(3);
	s->rflags = 2;
	put(STACK3, 4, 0x003fffd7 & ~RFLAGS_TF);
	assert_true(try_op(op_popf));
	assert_int_equal(s->rflags, (0x244cd7 & ~RFLAGS_IF) | 2); /* no IF, IOPL, VIF, VIP, RF, VM */
	assert_raises(try_op(op_cli), VEC_GP, 0);
	s->cr4 |= CR4_PVI;
	assert_true(try_op(op_sti));
	assert_true(s->rflags & RFLAGS_VIF);
	assert_false(s->rflags & RFLAGS_IF);
	enter_protected(0);
	s->rflags = 2;
	assert_true(try_op(op_sti));
	assert_int_equal(s->shadow, SHADOW_STI);
	s->shadow = 0;
	assert_true(try_op(op_sti));
	assert_int_equal(s->shadow, 0);
}

static bool try_read(gva_t gva) {
	if (__builtin_setjmp(c->unwind))
		return false;
	soft_sys_read(c, gva, 8);
	return true;
}

/* INVLPG of any address of a large page forgets all of it. */
static void invlpg_drops_large_pages(void **unused) {
	enter_long(0);
	assert_true(try_read(0x21000));
	assert_true(try_read(0x150000));
	put(0x12000, 8, 0);
	assert_true(try_read(0x21000)); /* still in the TLB */
	insn.opnd[0].kind = OPND_MEM;
	insn.base = insn.index = X86_REG_NONE;
	insn.disp = 0x20000;
	assert_true(try_op(op_invlpg));
	assert_raises(try_read(0x21000), VEC_PF, 0);
	assert_raises(try_read(0x150000), VEC_PF, 0);
}

/* String instructions by the page do what they do element by element. */
#define STRINGS 0x80000
#define STRINGS_LEN 0x40000

static uint64_t next_random(uint64_t *x) {
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void run_string(soft_handler *h, bool by_element) {
	uint64_t start;
	do {
		start = s->rip;
		c->single_step = by_element;
		assert_true(try_op(h));
	} while (s->rip == start);
	c->single_step = false;
}

static void strings_by_the_page(void **unused) {
	static soft_handler *const ops[] = {op_movs, op_stos, op_lods, op_scas, op_cmps};
	static uint8_t before[STRINGS_LEN], after[STRINGS_LEN];
	uint64_t x = 88172645463325252ull;
	enter_long(0);
	for (unsigned n = 0; n < 2000; n++) {
		soft_handler *h = ops[next_random(&x) % ARRAY_LEN(ops)];
		uint8_t *m = ram.host + STRINGS;
		/* Long stretches of the same, so that comparisons get somewhere. */
		for (unsigned k = 0; k < STRINGS_LEN; k += 8)
			put(STRINGS + k, 8, n % 4 ? 0x4141414141414141ull : 0);
		for (unsigned k = 0; k < 12; k++)
			m[next_random(&x) % STRINGS_LEN] ^= 1;
		insn.opsize = (uint8_t)(1u << next_random(&x) % 4);
		insn.prefix = next_random(&x) % 3 ? X86_PFX_REP : X86_PFX_REPNE;
		insn.seg_prefix = X86_REG_NONE;
		uint64_t rflags = RFLAGS_FIXED | (next_random(&x) & (RFLAGS_DF | RFLAGS_ARITH));
		uint64_t gpr[16] = {0};
		memcpy(gpr, s->gpr, sizeof(gpr));
		gpr[RAX] = next_random(&x) % 4 ? 0x4141414141414141ull : next_random(&x);
		gpr[RCX] = next_random(&x) % 9000;
		gpr[RSI] = STRINGS + STRINGS_LEN / 2 + next_random(&x) % 256;
		gpr[RDI] = STRINGS + STRINGS_LEN / 2 + next_random(&x) % (n % 2 ? 64 : 0x9000);
		gpr[RCX] = MIN(gpr[RCX], (STRINGS_LEN / 2 - 0xa000) / insn.opsize);
		memcpy(before, m, STRINGS_LEN);

		struct x86_state want = *s;
		for (unsigned by_element = 2; by_element-- > 0;) {
			memcpy(m, before, STRINGS_LEN);
			memcpy(s->gpr, gpr, sizeof(gpr));
			s->rflags = rflags;
			s->rip = 0x4000;
			run_string(h, by_element);
			if (by_element) {
				memcpy(after, m, STRINGS_LEN);
				want = *s;
			}
		}
		assert_memory_equal(m, after, STRINGS_LEN);
		assert_memory_equal(s->gpr, want.gpr, sizeof(want.gpr));
		assert_true(s->rflags == want.rflags);
	}
}

/* A page that both address spaces map, each to its own page of RAM. */
#define OWN 0x40000
#define NOFLUSH (1ull << 63)

static bool write_cr3(uint64_t val) {
	if (__builtin_setjmp(c->unwind))
		return false;
	soft_set_cr3(c, val);
	return true;
}

static bool invpcid(unsigned type, unsigned pcid, uint64_t gva) {
	put(0x1ff000, 8, pcid);
	put(0x1ff008, 8, gva);
	s->gpr[RDI] = type;
	insn.opnd[0] = (struct x86_opnd){.kind = OPND_GPR, .reg = RDI, .size = 8};
	insn.base = insn.index = X86_REG_NONE;
	insn.seg = SEG_DS;
	insn.disp = 0x1ff000;
	return try_op(op_invpcid);
}

static uint64_t own(void) {
	return soft_sys_read(c, OWN, 8);
}

/* What is kept over a change of PCIDs, and what ends it. */
static void address_spaces(void **unused) {
	if (!soft_has_feature(c, X86_FEAT_PCID) || !soft_has_feature(c, X86_FEAT_INVPCID))
		skip();
	enter_long(0);
	/* Two spaces, at 10000h and 50000h, of 2 MiB each in pages of 4 KiB. */
	for (unsigned n = 0; n < 2; n++) {
		uint32_t at = n ? 0x50000 : 0x10000;
		put(at, 8, (at + 0x1000) | 7);
		put(at + 0x1000, 8, (at + 0x2000) | 7);
		put(at + 0x2000, 8, (at + 0x3000) | 7);
		for (unsigned p = 0; p < 512; p++)
			put(at + 0x3000 + p * 8, 8, p << 12 | 7);
		put(at + 0x3000 + (OWN >> 12) * 8, 8, (n ? 0x61000u : 0x60000u) | 7);
	}
	put(0x60000, 8, 0xaaaa);
	put(0x61000, 8, 0xbbbb);
	put(0x62000, 8, 0xcccc);
	uint32_t pte = 0x13000 + (OWN >> 12) * 8;
	soft_tlb_flush(c, true);
	soft_set_cr4(c, CR4_PAE | CR4_PCIDE);
	assert_true(write_cr3(0x10001));
	assert_true(own() == 0xaaaa);
	assert_true(write_cr3(0x50002));
	assert_true(own() == 0xbbbb);
	uint64_t misses = c->tlb_misses;
	assert_true(write_cr3(0x10001 | NOFLUSH)); /* it is still there, though its tables changed */
	put(pte, 8, 0x62007);
	assert_true(own() == 0xaaaa);
	assert_true(write_cr3(0x50002 | NOFLUSH));
	assert_true(own() == 0xbbbb);
	assert_int_equal(c->tlb_misses, misses);
	assert_true(write_cr3(0x10001)); /* a flush */
	assert_true(own() == 0xcccc);
	/* From the other space: one address, one context, all. */
	for (unsigned type = 0; type < 4; type++) {
		put(pte, 8, type & 1 ? 0x62007 : 0x60007);
		assert_true(write_cr3(0x50002 | NOFLUSH));
		assert_true(invpcid(type, 1, OWN));
		assert_true(write_cr3(0x10001 | NOFLUSH));
		assert_true(own() == (type & 1 ? 0xcccc : 0xaaaa));
	}
	/* Of the space itself. */
	put(pte, 8, 0x60007);
	assert_true(invpcid(0, 1, OWN));
	assert_true(own() == 0xaaaa);
	/* Another PCID's request leaves this one alone. */
	put(pte, 8, 0x62007);
	assert_true(invpcid(1, 2, 0));
	assert_true(own() == 0xaaaa);
	/* More spaces than there are sets. */
	assert_true(write_cr3(0x10001));
	assert_true(own() == 0xcccc);
	for (unsigned n = 0; n < 3 * SOFT_SPACES; n++) {
		assert_true(write_cr3(0x50010 + n));
		assert_true(own() == 0xbbbb);
	}
	put(pte, 8, 0x60007);
	assert_true(write_cr3(0x10001 | NOFLUSH));
	assert_true(own() == 0xaaaa); /* it was forgotten */
	/* New code: no store from any of them goes unseen. */
	soft_sys_write(c, OWN, 8, 0xaaaa);
	assert_true(write_cr3(0x50002));
	soft_tlb_purge_writes(c, ram.host + 0x60000);
	assert_true(write_cr3(0x10001 | NOFLUSH));
	assert_null(fast_host(c, OWN, 8, ACCESS_WRITE, false));
	assert_non_null(fast_host(c, OWN, 8, ACCESS_READ, false));
}

/* Without A20, physical addresses lose bit 20: of data and, with paging, of tables and pages. */
static void a20_masks_memory(void **unused) {
	put(0x3500, 8, 0x1111);
	put(0x103500, 8, 0x2222);
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x2222);
	mem_set_a20(&vm.mem, false);
	soft_tlb_flush(c, true); /* what engine_soft.mem_changed brings about */
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x1111);
	soft_sys_write(c, 0x103508, 8, 0x3333);
	assert_true(get(0x3508, 8) == 0x3333 && !get(0x103508, 8));
	mem_set_a20(&vm.mem, true);
	soft_tlb_flush(c, true);
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x2222);
	enter_long(0);
	s->cr3 |= 1u << 20; /* wraps to the tables that enter_long() made */
	mem_set_a20(&vm.mem, false);
	soft_tlb_flush(c, true);
	assert_true(try_read(0x150000));
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x1111);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
	const struct CMUnitTest tests[] = {
		T(real_interrupts),
		T(unreal_limits_stay),
		T(segment_checks),
		T(interrupt_switches_stack),
		T(double_and_triple_faults),
		T(call_gate_copies_parameters),
		T(task_switches_and_returns),
		T(v86_and_back),
		T(v86_with_vme),
		T(long_interrupts),
		T(syscall_and_sysret),
		T(control_registers),
		T(debug_registers),
		T(port_permission),
		T(string_ports_restart),
		T(msrs),
		T(flags_by_privilege),
		T(invlpg_drops_large_pages),
		T(strings_by_the_page),
		T(address_spaces),
		T(a20_masks_memory),
	};
	return cmocka_run_group_tests_name("soft_system", tests, NULL, NULL);
}
