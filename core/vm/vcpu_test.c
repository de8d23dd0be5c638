#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/le.h"
#include "core/vm/vm.h"
#include "core/x86/regs.h"
#include "test/unit/fake.h"

static struct vm vm;
static struct vcpu cpus[2];
static struct fake_clock fake;
static unsigned kicks, locked, resets, loads;
static uint8_t chip_reg;

static void lock(void *opaque) {
	assert_int_equal(locked++, 0);
}

static void unlock(void *opaque) {
	assert_int_equal(locked--, 1);
}

static void kick(void *opaque, unsigned vcpu) {
	kicks++;
}

static const struct vm_host host = {.lock = lock, .unlock = unlock, .kick = kick};

static bool rdmsr(void *board, struct vcpu *v, uint32_t index, uint64_t *val) {
	assert_int_equal(locked, 1);
	assert_ptr_equal(vm.current, v);
	*val = index + 1;
	return index != 0x999;
}

static int intack(void *board, struct vcpu *v) {
	return 0x31;
}

static void chip_reset(void *self) {
	resets++;
	chip_reg = 7;
}

static void chip_state(struct state_io *io, void *self) {
	state_u8(io, "reg", &chip_reg);
}

static void chip_loaded(void *self) {
	loads++;
}

static const struct device_ops chip_ops = {"chip", 1, chip_reset, chip_state, chip_loaded};

static int setup(void **state) {
	fake_clock_init(&fake);
	vm_init(&vm, &host, &fake.clock);
	memset(cpus, 0xa5, sizeof(cpus));
	for (unsigned i = 0; i < 2; i++) {
		cpus[i].vm = &vm;
		cpus[i].id = i;
		cpus[i].events = 0;
		vm.vcpus[vm.nvcpus++] = &cpus[i];
	}
	vm.rdmsr = rdmsr;
	vm.intack = intack;
	vm_add_device(&vm, &chip_ops, 0, NULL);
	vm_reset(&vm);
	kicks = locked = loads = 0;
	return 0;
}

static void reset_values(void **state) {
	const struct x86_state *s = &cpus[0].state;
	assert_int_equal(resets > 0 && chip_reg == 7, true);
	assert_true(s->seg[SEG_CS].base + s->rip == 0xfffffff0);
	assert_int_equal(s->seg[SEG_CS].sel, 0xf000);
	assert_true(s->cr0 == 0x60000010);
	assert_true(s->rflags == 2 && s->dr6 == 0xffff0ff0 && s->dr7 == 0x400);
	assert_int_equal(le16_get(s->xsave), 0x37f);
	assert_int_equal(le32_get(s->xsave + 24), 0x1f80);
	assert_int_equal(s->activity, CPU_RUNNING);
	assert_int_equal(cpus[1].state.activity, CPU_WAIT_SIPI);
}

static void init_keeps_the_fpu(void **state) {
	struct x86_state *s = &cpus[1].state;
	s->xsave[160] = 0x77;
	s->pat = 0x1234;
	s->cr0 = CR0_PE | CR0_PG | CR0_NE;
	s->cr3 = 0x1000;
	s->efer = EFER_LME;
	s->sipi_vector = 0x9a;
	s->activity = CPU_HALTED;
	vcpu_reset(&cpus[1], true);
	assert_int_equal(s->xsave[160], 0x77);
	assert_int_equal(s->pat, 0x1234);
	assert_int_equal(s->cr0, CR0_ET); /* CD and NW as they were: clear */
	assert_true(!s->cr3 && !s->efer);
	assert_int_equal(s->activity, CPU_WAIT_SIPI);
	vcpu_start_sipi(&cpus[1], s->sipi_vector);
	assert_int_equal(s->seg[SEG_CS].sel, 0x9a00);
	assert_int_equal(s->seg[SEG_CS].base, 0x9a000);
	assert_true(!s->rip && s->activity == CPU_RUNNING);
}

static void only_new_events_kick(void **state) {
	vcpu_post(&cpus[0], EVENT_INTR);
	vcpu_post(&cpus[0], EVENT_INTR);
	assert_int_equal(kicks, 1);
	vcpu_post(&cpus[0], EVENT_INTR | EVENT_NMI);
	assert_int_equal(kicks, 2);
	vcpu_unpost(&cpus[0], EVENT_INTR);
	assert_int_equal(vcpu_events(&cpus[0]), EVENT_NMI);
}

static void exits_are_served_under_the_lock(void **state) {
	struct vm_exit e = {.kind = EXIT_RDMSR, .msr = {.index = 0x1b}};
	vcpu_exit(&cpus[1], &e);
	assert_true(!e.msr.fault && e.msr.val == 0x1c);
	e.msr.index = 0x999;
	vcpu_exit(&cpus[1], &e);
	assert_true(e.msr.fault);
	e = (struct vm_exit){.kind = EXIT_WRMSR}; /* no board: #GP */
	vcpu_exit(&cpus[1], &e);
	assert_true(e.msr.fault);
	e = (struct vm_exit){.kind = EXIT_PORT, .port = {.port = 0x80, .size = 2}};
	vcpu_exit(&cpus[1], &e);
	assert_int_equal(e.port.val, 0xffff);
	e = (struct vm_exit){.kind = EXIT_MMIO, .mmio = {.gpa = 0xfee00000, .size = 4}};
	vcpu_exit(&cpus[1], &e);
	assert_true(e.mmio.val == 0xffffffff);
	assert_int_equal(cpus[1].exits[EXIT_RDMSR] & 0xff, 0xa5 + 2);
	assert_null(vm.current);
	assert_int_equal(vcpu_intack(&cpus[0]), 0x31);
}

static void cr8_without_an_apic(void **state) {
	vcpu_set_tpr(&cpus[0], 0x50);
	assert_int_equal(cpus[0].state.cr8, 5);
	assert_int_equal(vcpu_get_tpr(&cpus[0]), 0x50);
}

static size_t save(uint8_t **buf) {
	struct state_io io;
	state_io_save(&io, NULL, 0);
	vm_state(&vm, &io);
	size_t len = io.pos;
	*buf = malloc(len);
	state_io_save(&io, *buf, len);
	vm_state(&vm, &io);
	assert_int_equal(io.pos, len);
	return len;
}

static void state_round_trip(void **state) {
	uint8_t *buf, *again;
	struct state_io io;
	struct x86_state *s = &cpus[0].state;
	s->gpr[R15] = 0x1122334455667788;
	s->seg[SEG_TR].base = 0x4444;
	s->mtrr_fixed[10] = 0x0606;
	s->activity = CPU_HALTED;
	s->xsave[2000] = 0x5a;
	vcpu_post(&cpus[0], EVENT_NMI | EVENT_KICK);
	size_t len = save(&buf);
	struct x86_state want = *s;
	vm_reset(&vm);
	chip_reg = 0;
	state_io_load(&io, buf, len);
	vm_state(&vm, &io);
	assert_int_equal(io.error, 0);
	assert_int_equal(loads, 1);
	assert_int_equal(chip_reg, 7);
	assert_memory_equal(s->gpr, want.gpr, sizeof(want.gpr));
	assert_int_equal(s->seg[SEG_TR].base, 0x4444);
	assert_int_equal(s->mtrr_fixed[10], 0x0606);
	assert_int_equal(s->activity, CPU_HALTED);
	assert_int_equal(s->xsave[2000], 0x5a);
	assert_int_equal(vcpu_events(&cpus[0]), EVENT_NMI | EVENT_FLUSH);
	assert_int_equal(save(&again), len);
	assert_memory_equal(buf, again, len);
	free(buf);
	free(again);
}

static void hostile_state_is_refused(void **state) {
	struct x86_state *s = &cpus[0].state;
	uint64_t *fields[] = {&s->cr0, &s->cr4, &s->efer, &s->xcr0};
	const uint64_t bad[] = {CR0_PG, 1ull << 40, EFER_LMA, XCR0_AVX | XCR0_X87};
	for (unsigned i = 0; i < 4; i++) {
		struct state_io io;
		uint8_t *buf;
		vm_reset(&vm);
		*fields[i] = bad[i];
		size_t len = save(&buf);
		vm_reset(&vm);
		state_io_load(&io, buf, len);
		vm_state(&vm, &io);
		assert_true(io.error < 0);
		assert_non_null(strstr(io.err.text, "vcpu: impossible"));
		free(buf);
	}
	/* What can be mended is: reserved bits that a native XRSTOR would fault on. */
	struct state_io io;
	uint8_t *buf;
	vm_reset(&vm);
	memset(s->xsave + 24, 0xff, 4);
	memset(s->xsave + 512, 0xff, 64);
	size_t len = save(&buf);
	state_io_load(&io, buf, len);
	vm_state(&vm, &io);
	assert_int_equal(io.error, 0);
	assert_true(le32_get(s->xsave + 24) == 0x2ffff && le64_get(s->xsave + 512) == 0xe7);
	assert_true(le64_get(s->xsave + 520) == 0);
	free(buf);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(reset_values, setup),
		cmocka_unit_test_setup(init_keeps_the_fpu, setup),
		cmocka_unit_test_setup(only_new_events_kick, setup),
		cmocka_unit_test_setup(exits_are_served_under_the_lock, setup),
		cmocka_unit_test_setup(cr8_without_an_apic, setup),
		cmocka_unit_test_setup(state_round_trip, setup),
		cmocka_unit_test_setup(hostile_state_is_refused, setup),
	};
	return cmocka_run_group_tests_name("vcpu", tests, NULL, NULL);
}
