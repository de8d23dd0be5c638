/* Tests of the boards: two machines in one process that do not feel each other,
 * the wires from chip to vCPU, power control, and save/load of everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/board/board.h"
#include "test/unit/fake.h"

#define RAM MIB(16)
#define ALLOCS 512

struct machine {
	struct fake_clock clock;
	struct vm_host host;
	struct vm vm;
	struct board *board;
	struct board_config config;
	struct block_backend disk;
	uint8_t *ram;
	void *allocs[ALLOCS];
	unsigned nallocs, locked, powers, kicks, parts;
	enum vm_power power;
	char out[64];
	size_t nout;
	uint32_t exit_code;
	struct err e;
};

static void lock(void *opaque) {
	struct machine *m = opaque;
	assert_int_equal(m->locked++, 0);
}

static void unlock(void *opaque) {
	struct machine *m = opaque;
	assert_int_equal(--m->locked, 0);
}

static void kick(void *opaque, unsigned vcpu) {
	((struct machine *)opaque)->kicks++;
}

static void power(void *opaque, enum vm_power what) {
	struct machine *m = opaque;
	m->power = what;
	m->powers++;
}

static void *alloc(void *opaque, size_t size) {
	struct machine *m = opaque;
	assert_true(m->nallocs < ALLOCS);
	return m->allocs[m->nallocs++] = calloc(1, size);
}

static size_t out(void *opaque, const uint8_t *buf, size_t len) {
	struct machine *m = opaque;
	size_t n = MIN(len, sizeof(m->out) - 1 - m->nout);
	memcpy(m->out + m->nout, buf, n);
	m->nout += n;
	return len;
}

static void fill(void *opaque, void *buf, size_t len) {
	memset(buf, 0x42, len);
}

static void submit(void *opaque, struct block_request *r) {
	r->done(r, 0);
}

static void debug_exit(void *opaque, uint32_t value) {
	((struct machine *)opaque)->exit_code = value;
}

static const uint8_t hlt[] = {0xf4};

static struct machine *make(const char *board, unsigned cpus) {
	struct machine *m = calloc(1, sizeof(*m));
	fake_clock_init(&m->clock);
	m->host = (struct vm_host){lock, unlock, kick, power, alloc, m, NULL};
	vm_init(&m->vm, &m->host, &m->clock.clock);
	m->ram = aligned_alloc(4096, RAM);
	memset(m->ram, 0, RAM);
	m->disk = (struct block_backend){.submit = submit, .size = MIB(1), .block_size = 512};
	m->config = (struct board_config){
		.board = board,
		.memory = RAM,
		.cpus = cpus,
		.kernel = {.data = hlt, .len = sizeof(hlt), .name = "hlt"},
		.force = BOOT_FLAT_LONG64,
		.serial = {.write = out, .opaque = m},
		.console = {.write = out, .opaque = m},
		.rng = {fill, m},
		.disks = {&m->disk, &m->disk},
		.ndisks = 2,
		.test_ports = true,
		.debug_exit = debug_exit,
		.debug_opaque = m,
	};
	return m;
}

static void start(struct machine *m) {
	if (board_create(&m->vm, m->ram, &m->config, &m->board, &m->e))
		fail_msg("%s", m->e.text);
	vm_reset(&m->vm);
	if (board_load(m->board, &m->e))
		fail_msg("%s", m->e.text);
}

static void destroy(struct machine *m) {
	for (unsigned i = 0; i < m->nallocs; i++)
		free(m->allocs[i]);
	free(m->ram);
	free(m);
}

static uint32_t in(struct machine *m, uint16_t port, uint8_t size) {
	struct vm_exit e = {.kind = EXIT_PORT, .port = {.port = port, .size = size}};
	vcpu_exit(m->vm.vcpus[0], &e);
	return e.port.val;
}

static void outp(struct machine *m, uint16_t port, uint8_t size, uint32_t val) {
	struct vm_exit e = {.kind = EXIT_PORT,
						.port = {.port = port, .size = size, .write = true, .val = val}};
	vcpu_exit(m->vm.vcpus[0], &e);
}

static uint64_t mmio_read(struct machine *m, unsigned cpu, gpa_t gpa, uint8_t size) {
	struct vm_exit e = {.kind = EXIT_MMIO, .mmio = {.gpa = gpa, .size = size}};
	vcpu_exit(m->vm.vcpus[cpu], &e);
	return e.mmio.val;
}

static void mmio_write(struct machine *m, unsigned cpu, gpa_t gpa, uint8_t size, uint64_t val) {
	struct vm_exit e = {.kind = EXIT_MMIO,
						.mmio = {.gpa = gpa, .size = size, .write = true, .val = val}};
	vcpu_exit(m->vm.vcpus[cpu], &e);
}

static bool wrmsr(struct machine *m, unsigned cpu, uint32_t index, uint64_t val) {
	struct vm_exit e = {.kind = EXIT_WRMSR, .msr = {.index = index, .val = val}};
	vcpu_exit(m->vm.vcpus[cpu], &e);
	return !e.msr.fault;
}

static uint64_t rdmsr(struct machine *m, unsigned cpu, uint32_t index) {
	struct vm_exit e = {.kind = EXIT_RDMSR, .msr = {.index = index}};
	vcpu_exit(m->vm.vcpus[cpu], &e);
	assert_false(e.msr.fault);
	return e.msr.val;
}

static void count_parts(void *opaque, const char *name, const char *where) {
	assert_true(strlen(name) > 1 && strlen(where) > 3);
	((struct machine *)opaque)->parts++;
}

static void test_two_machines(void **state) {
	struct machine *a = make("pc", 2), *b = make("micro", 4);
	start(a);
	start(b);
	assert_int_equal(a->vm.nvcpus, 2);
	assert_int_equal(b->vm.nvcpus, 4);
	assert_int_equal(a->vm.vcpus[0]->state.rip, MIB(1));
	assert_int_equal(b->vm.vcpus[3]->state.activity, CPU_WAIT_SIPI);
	outp(a, 0x3f8, 1, 'A');
	outp(b, 0x3f8, 1, 'B');
	fake_clock_set(&a->clock, 1000000000);
	fake_clock_set(&b->clock, 1000000000);
	assert_string_equal(a->out, "A");
	assert_string_equal(b->out, "B");
	outp(a, 0xe9, 1, 'a');
	outp(a, 0xf4, 4, 0x1234);
	assert_string_equal(a->out, "Aa");
	assert_int_equal(a->exit_code, 0x1234);
	assert_int_equal(b->exit_code, 0);
	outp(b, 0xcf9, 1, 6);
	assert_int_equal(b->powers, 1);
	assert_int_equal(a->powers, 0);
	board_list(a->board, count_parts, a);
	board_list(b->board, count_parts, b);
	assert_true(a->parts > b->parts && b->parts >= 10);
	destroy(a);
	assert_int_equal(mmio_read(b, 0, 0xd0000000, 4), 0x74726976); /* still there */
	destroy(b);
}

static void test_bad_config(void **state) {
	struct machine *m = make("pc", 1);
	struct board_config c = m->config;
	c.board = "atari";
	assert_int_equal(board_create(&m->vm, m->ram, &c, &m->board, &m->e), -ERR_INVAL);
	assert_non_null(strstr(m->e.text, "atari"));
	c = m->config;
	c.memory = MIB(1);
	assert_int_equal(board_create(&m->vm, m->ram, &c, &m->board, &m->e), -ERR_RANGE);
	assert_string_equal(m->e.text, "memory of 1 MiB: a guest can have 8 MiB to 256 GiB");
	c.memory = RAM + 1;
	assert_int_equal(board_create(&m->vm, m->ram, &c, &m->board, &m->e), -ERR_INVAL);
	c = m->config;
	c.cpus = 65;
	assert_int_equal(board_create(&m->vm, m->ram, &c, &m->board, &m->e), -ERR_RANGE);
	c.cpus = 0;
	assert_int_equal(board_create(&m->vm, m->ram, &c, &m->board, &m->e), -ERR_RANGE);
	destroy(m);
}

/* Every disk that can be asked for, and the rest: none may run out of room. */
static void test_full(void **state) {
	for (unsigned i = 0; i < 2; i++) {
		struct machine *m = make(board_names[i], VM_VCPUS);
		for (unsigned d = 0; d < BOARD_DISKS; d++)
			m->config.disks[d] = &m->disk;
		m->config.ndisks = BOARD_DISKS;
		start(m);
		destroy(m);
	}
}

static void test_power(void **state) {
	struct machine *m = make("pc", 1);
	start(m);
	outp(m, 0x505, 1, 2);
	assert_int_equal(m->powers, 0);
	assert_int_equal(in(m, 0x505, 1) & 1, 1);
	outp(m, 0x505, 1, 1);
	assert_int_equal(m->power, VM_PANICKED);
	outp(m, 0xcf9, 1, 2);
	assert_int_equal(m->powers, 1);
	outp(m, 0xcf9, 1, 6);
	assert_int_equal(m->powers, 2);
	assert_int_equal(m->power, VM_RESET);
	outp(m, 0x64, 1, 0xfe);
	assert_int_equal(m->powers, 3);
	assert_int_equal(m->power, VM_RESET);
	/* The type of S5 as the DSDT states it: find "_S5_" and its package. */
	uint8_t *s5 = NULL;
	for (uint8_t *p = m->ram + 0xe0000; p < m->ram + 0x100000 - 16 && !s5; p++)
		if (!memcmp(p, "_S5_", 4))
			s5 = p + 4;
	assert_non_null(s5);
	assert_int_equal(s5[0], 0x12);
	uint32_t type = s5[5] == 0x0a ? s5[6] : s5[5];
	outp(m, 0x604, 2, type << 10 | 1u << 13);
	assert_int_equal(m->powers, 4);
	assert_int_equal(m->power, VM_POWER_OFF);
	destroy(m);
}

static void program_pics(struct machine *m) {
	outp(m, 0x20, 1, 0x11);
	outp(m, 0x21, 1, 0x30);
	outp(m, 0x21, 1, 4);
	outp(m, 0x21, 1, 1);
	outp(m, 0xa0, 1, 0x11);
	outp(m, 0xa1, 1, 0x38);
	outp(m, 0xa1, 1, 2);
	outp(m, 0xa1, 1, 1);
	outp(m, 0x21, 1, 0);
	outp(m, 0xa1, 1, 0);
}

/* The timer chip, through the 8259s and LINT0, as an ExtINT of processor 0. */
static void test_virtual_wire(void **state) {
	struct machine *m = make("pc", 2);
	start(m);
	program_pics(m);
	outp(m, 0x43, 1, 0x34);
	outp(m, 0x40, 1, 0xa9);
	outp(m, 0x40, 1, 0x04); /* 1193: a millisecond */
	fake_clock_set(&m->clock, 3000000);
	assert_true(vcpu_events(m->vm.vcpus[0]) & EVENT_INTR);
	assert_false(vcpu_events(m->vm.vcpus[1]) & EVENT_INTR);
	assert_int_equal(vcpu_intack(m->vm.vcpus[0]), 0x30);
	destroy(m);
}

static void ioapic_route(struct machine *m, unsigned pin, uint64_t entry) {
	mmio_write(m, 0, 0xfec00000, 4, 0x10 + 2 * pin);
	mmio_write(m, 0, 0xfec00010, 4, (uint32_t)entry);
	mmio_write(m, 0, 0xfec00000, 4, 0x11 + 2 * pin);
	mmio_write(m, 0, 0xfec00010, 4, entry >> 32);
}

/* COM1's transmitter interrupt at I/O APIC pin 4, and the timer at pin 2, to processor 1;
 * each processor sees its own local APIC in the same page. */
static void test_ioapic(void **state) {
	struct machine *m = make("pc", 2);
	start(m);
	assert_int_equal(mmio_read(m, 0, 0xfee00020, 4), 0);
	assert_int_equal(mmio_read(m, 1, 0xfee00020, 4), 1u << 24);
	mmio_write(m, 1, 0xfee000f0, 4, 0x1ff);
	ioapic_route(m, 4, 0x51 | 1ull << 56);
	outp(m, 0x3fc, 1, 8); /* OUT2 */
	outp(m, 0x3f9, 1, 2);
	fake_clock_set(&m->clock, 1000000);
	assert_true(vcpu_events(m->vm.vcpus[1]) & EVENT_INTR);
	assert_int_equal(vcpu_intack(m->vm.vcpus[1]), 0x51);
	mmio_write(m, 1, 0xfee000b0, 4, 0);
	ioapic_route(m, 2, 0x60 | 1ull << 56);
	outp(m, 0x43, 1, 0x34);
	outp(m, 0x40, 1, 0xa9);
	outp(m, 0x40, 1, 0x04);
	fake_clock_set(&m->clock, 4000000);
	assert_int_equal(vcpu_intack(m->vm.vcpus[1]), 0x60);
	assert_int_equal(vcpu_intack(m->vm.vcpus[0]), -1);
	destroy(m);
}

struct engine_pins {
	uint32_t pic, ioapic; /* levels */
	unsigned calls;
};

static void pic_pin(void *opaque, unsigned pin, bool level) {
	struct engine_pins *p = opaque;
	p->pic = level ? p->pic | 1u << pin : p->pic & ~(1u << pin);
	p->calls++;
}

static void ioapic_pin(void *opaque, unsigned pin, bool level) {
	struct engine_pins *p = opaque;
	p->ioapic = level ? p->ioapic | 1u << pin : p->ioapic & ~(1u << pin);
	p->calls++;
}

/* An engine takes the interrupt controllers over and gives them back: each level of a pin gets
 * there once, and what happened there is in the models afterwards. */
static void test_engine_chips(void **state) {
	struct engine_pins pins = {0};
	const struct vm_apics apics = {.pic_pin = pic_pin, .ioapic_pin = ioapic_pin, .opaque = &pins};
	struct machine *m = make("pc", 2);
	struct chips_image c;
	start(m);
	program_pics(m);
	mmio_write(m, 0, 0xfee000f0, 4, 0x1ff);
	ioapic_route(m, 4, 0x8051); /* level */
	outp(m, 0x21, 1, 0);
	outp(m, 0x3fc, 1, 8);
	outp(m, 0x3f9, 1, 2);
	fake_clock_set(&m->clock, 1000000);
	assert_true(vcpu_events(m->vm.vcpus[0]) & EVENT_INTR);
	m->vm.apics = &apics;
	m->vm.board_apics->moved(m->vm.board);
	assert_false(vcpu_events(m->vm.vcpus[0]) & EVENT_INTR);
	m->vm.board_apics->get_chips(m->vm.board, &c);
	assert_int_equal(c.pic[0].irr, 1 << 4);
	assert_int_equal(c.ioapic.pins, 1 << 4);
	outp(m, 0x3f9, 1, 0); /* the device takes it back */
	outp(m, 0x3f9, 1, 2);
	outp(m, 0x3f9, 1, 0);
	assert_int_equal(pins.calls, 6);
	assert_int_equal(pins.pic | pins.ioapic, 0);
	assert_false(vcpu_events(m->vm.vcpus[0]) & EVENT_INTR);
	/* There, pin 5 had an edge, and the I/O APIC's pin 4 is free again. */
	c.pic[0].irr = 1 << 5;
	c.ioapic.redir[4] &= ~(1ull << 14);
	m->vm.board_apics->set_chips(m->vm.board, &c);
	m->vm.apics = NULL;
	m->vm.board_apics->moved(m->vm.board);
	outp(m, 0x20, 1, 0x0a);
	assert_int_equal(in(m, 0x20, 1) & 0x30, 1 << 5);
	outp(m, 0x3f9, 1, 2);
	fake_clock_set(&m->clock, 2000000);
	assert_int_equal(pins.calls, 6);
	assert_int_equal(in(m, 0x20, 1) & 0x30, 3 << 4);
	destroy(m);
}

static void test_sipi_and_msrs(void **state) {
	struct machine *m = make("micro", 2);
	start(m);
	struct vcpu *ap = m->vm.vcpus[1];
	mmio_write(m, 0, 0xfee000f0, 4, 0x1ff);
	mmio_write(m, 0, 0xfee00310, 4, 1u << 24);
	mmio_write(m, 0, 0xfee00300, 4, 0x4500);
	assert_int_equal(vcpu_events(ap), EVENT_INIT);
	mmio_write(m, 0, 0xfee00300, 4, 0x4608);
	assert_int_equal(vcpu_events(ap), EVENT_INIT | EVENT_SIPI);
	assert_int_equal(ap->state.sipi_vector, 8);
	assert_true(rdmsr(m, 0, 0x1b) & 1 << 8);
	assert_true(wrmsr(m, 0, 0x1b, rdmsr(m, 0, 0x1b) | 1 << 10));
	assert_int_equal(rdmsr(m, 0, 0x802), 0);
	assert_int_equal(mmio_read(m, 0, 0xfee00020, 4), 0xffffffff);
	assert_true(wrmsr(m, 0, 0x4b564d01, 0x5001));
	assert_int_equal(m->ram[0x5000 + 29], 1);
	uint64_t stamp = le64_get(m->ram + 0x5008);
	vcpu_adjust_tsc(m->vm.vcpus[0], 1000);
	assert_int_equal(le64_get(m->ram + 0x5008), stamp + 1000);
	assert_false(wrmsr(m, 0, 0x12345, 1));
	vcpu_set_tpr(m->vm.vcpus[0], 0x50);
	assert_int_equal(vcpu_get_tpr(m->vm.vcpus[0]), 0x50);
	destroy(m);
}

static uint32_t pci_config(struct machine *m, unsigned dev, unsigned off) {
	outp(m, 0xcf8, 4, 0x80000000 | dev << 11 | off);
	return in(m, 0xcfc, 4);
}

static void test_pci(void **state) {
	struct machine *m = make("pc", 1);
	start(m);
	assert_int_equal(pci_config(m, 0, 8) >> 16, 0x0600);
	assert_int_equal(pci_config(m, 0x1f, 8) >> 16, 0x0601);
	assert_int_equal(pci_config(m, 1, 0), 0x10421af4);
	assert_int_equal(pci_config(m, 2, 0), 0x10421af4);
	assert_int_equal(pci_config(m, 3, 0), 0x10431af4);
	assert_int_equal(pci_config(m, 4, 0), 0x10441af4);
	assert_int_equal(pci_config(m, 5, 0), 0xffffffff);
	assert_int_equal(mmio_read(m, 0, 0xe0000000 + (1 << 15), 4), 0x10421af4);
	/* The address port keeps its value although the reset port lies within it. */
	outp(m, 0xcf8, 4, 0x80000800);
	assert_int_equal(in(m, 0xcf9, 1), 0);
	assert_int_equal(in(m, 0xcf8, 4), 0x80000800);
	destroy(m);
}

static uint8_t *save(struct machine *m, size_t *len) {
	struct state_io io;
	state_io_save(&io, NULL, 0);
	vm_state(&m->vm, &io);
	assert_int_equal(io.error, 0);
	uint8_t *x = malloc(io.pos);
	*len = io.pos;
	state_io_save(&io, x, *len);
	vm_state(&m->vm, &io);
	assert_int_equal(io.pos, *len);
	return x;
}

static void restore(struct machine *m, const uint8_t *x, size_t len) {
	struct state_io io;
	state_io_load(&io, x, len);
	vm_state(&m->vm, &io);
	if (io.error)
		fail_msg("%s", io.err.text);
}

static void same(uint8_t *x, const uint8_t *y, size_t len) {
	if (!memcmp(x, y, len))
		return;
	size_t at = 0, from;
	while (x[at] == y[at])
		at++;
	from = at > 60 ? at - 60 : 0;
	for (size_t k = from; k < at; k++) /* names are the readable part */
		x[k] = x[k] < 32 || x[k] > 126 ? '.' : x[k];
	fail_msg("differs at %zu, right after %.*s", at, (int)(at - from), x + from);
}

/* A machine in the middle of work, saved and loaded into another one twice: a load may bring
 * values that mean nothing into their normal form, once. */
static void test_save_load(void **state) {
	for (unsigned i = 0; i < 2; i++) {
		struct machine *a = make(board_names[i], 2), *b = make(board_names[i], 2);
		struct state_io io;
		size_t len, len2;
		start(a);
		start(b);
		program_pics(a);
		outp(a, 0x43, 1, 0x34);
		outp(a, 0x40, 1, 0xa9);
		outp(a, 0x40, 1, 0x04);
		outp(a, 0x3f9, 1, 2);
		mmio_write(a, 0, 0xfee000f0, 4, 0x1ff);
		ioapic_route(a, 4, 0x51);
		wrmsr(a, 1, 0x4b564d01, 0x5001);
		fake_clock_set(&a->clock, 2500000);
		fake_clock_set(&b->clock, 2500000);
		uint8_t *x = save(a, &len);
		restore(b, x, len);
		assert_int_equal(vcpu_events(a->vm.vcpus[0]) & EVENT_INTR, EVENT_INTR);
		assert_int_equal(vcpu_events(b->vm.vcpus[0]) & EVENT_INTR, EVENT_INTR);
		uint8_t *y = save(b, &len2);
		assert_int_equal(len2, len);
		restore(b, y, len);
		uint8_t *z = save(b, &len2);
		assert_int_equal(len2, len);
		same(y, z, len);
		assert_int_equal(vcpu_intack(a->vm.vcpus[0]), vcpu_intack(b->vm.vcpus[0]));
		/* Cut anywhere, it is refused and nothing breaks. */
		for (size_t cut = 0; cut < len; cut += 1 + len / 300) {
			state_io_load(&io, x, cut);
			vm_state(&b->vm, &io);
			assert_true(io.error);
		}
		free(x);
		free(y);
		free(z);
		destroy(a);
		destroy(b);
	}
}

/* A reset in the middle of things brings the first state back. */
static void test_reset(void **state) {
	struct machine *m = make("pc", 2);
	start(m);
	program_pics(m);
	wrmsr(m, 0, 0x1b, rdmsr(m, 0, 0x1b) | 1 << 10);
	outp(m, 0xcfc, 4, 0);
	m->ram[MIB(1)] = 0;
	vm_reset(&m->vm);
	assert_int_equal(board_load(m->board, &m->e), 0);
	assert_int_equal(m->ram[MIB(1)], 0xf4);
	assert_int_equal(mmio_read(m, 1, 0xfee00020, 4), 1u << 24);
	assert_int_equal(vcpu_events(m->vm.vcpus[0]), 0);
	destroy(m);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_two_machines),  cmocka_unit_test(test_bad_config),
		cmocka_unit_test(test_full),		  cmocka_unit_test(test_power),
		cmocka_unit_test(test_virtual_wire),  cmocka_unit_test(test_ioapic),
		cmocka_unit_test(test_sipi_and_msrs), cmocka_unit_test(test_pci),
		cmocka_unit_test(test_save_load),	  cmocka_unit_test(test_reset),
		cmocka_unit_test(test_engine_chips),
	};
	return cmocka_run_group_tests_name("board", tests, NULL, NULL);
}
