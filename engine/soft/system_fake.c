/* The machine of system_fake.h. */
#include "engine/soft/system_fake.h"

#include "test/unit/fake.h"

struct vm vm;
struct vcpu vcpu;
struct soft_vcpu *c;
struct x86_state *s;
struct mem_region ram;
struct x86_insn insn;
uint32_t port_seen, port_val;
static struct soft soft;
static struct cpuid_policy policy;
static struct fake_clock fake;

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

void put(uint32_t at, unsigned size, uint64_t val) {
	memcpy(ram.host + at, &val, size);
}
uint64_t get(uint32_t at, unsigned size) {
	uint64_t val = 0;
	memcpy(&val, ram.host + at, size);
	return val;
}
void put_desc(unsigned sel, uint32_t base, uint32_t limit, uint32_t attr) {
	put(GDT + (sel & ~7u), 8,
		(limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xf0ff) << 40 |
			(uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56);
}
void put_gate(uint32_t at, unsigned type, unsigned sel, uint32_t off, unsigned extra) {
	put(at, 8,
		(off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)extra << 32 |
			(uint64_t)(type | 0x80) << 40 | (uint64_t)(off >> 16) << 48);
}

struct x86_segment seg_of(unsigned sel) {
	struct sys_desc d;
	assert_true(sys_desc_read(c, (uint16_t)sel, false, &d));
	return sys_desc_segment(&d, (uint16_t)sel);
}

/* ---- running one handler ---- */

bool try_op(soft_handler *h) {
	if (__builtin_setjmp(c->unwind))
		return false;
	c->next_rip = s->rip + 2;
	h(c, &insn);
	s->rip = c->next_rip;
	return true;
}

bool try_deliver(const struct soft_event *ev) {
	if (__builtin_setjmp(c->unwind))
		return false;
	c->next_rip = s->rip;
	soft_deliver(c, ev);
	return true;
}

bool try_load(unsigned seg, unsigned sel) {
	if (__builtin_setjmp(c->unwind))
		return false;
	soft_load_segment(c, seg, (uint16_t)sel);
	return true;
}

bool settle(void) {
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

/* ---- machines ---- */

int setup(void **unused) {
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

int teardown(void **unused) {
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

void enter_protected(unsigned cpl) {
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

void enter_long(unsigned cpl) {
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
