#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/bits.h"
#include "core/pci/bridge.h"
#include "test/unit/fake.h"

#define ECAM 0xe0000000ull

struct machine {
	struct mem_space mem;
	struct fake_irq gsi[4], isa[16];
	struct pci_bus bus;
	struct pci_host host;
	struct pci_lpc lpc;
	struct pci_device d;
};

static int setup(void **state) {
	static const uint8_t route[4] = {10, 11, 10, 0x80};
	struct machine *m = calloc(1, sizeof(*m));
	struct irq_line gsi[4], isa[16], pirq[4];
	struct msi_sink none = {0};
	mem_init(&m->mem);
	for (unsigned i = 0; i < 16; i++) {
		fake_irq_init(&m->isa[i]);
		isa[i] = m->isa[i].line;
	}
	for (unsigned i = 0; i < 4; i++) {
		fake_irq_init(&m->gsi[i]);
		gsi[i] = m->gsi[i].line;
		pirq[i] = (struct irq_line){pci_lpc_set_pirq, &m->lpc, i};
	}
	pci_bus_init(&m->bus, &m->mem, &none, pirq, ECAM);
	pci_host_init(&m->host, &m->bus);
	pci_lpc_init(&m->lpc, &m->bus, gsi, isa, route, 0x600);
	pci_device_init(&m->d, "d", 0x1af4, 0x1041, 0x020000, 1, 0, 0);
	pci_bus_add(&m->bus, &m->d, PCI_DEVFN(2, 0));
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static uint32_t rd(struct machine *m, uint8_t devfn, unsigned off, unsigned size) {
	port_write(&m->mem, 0xcf8, 4, 1u << 31 | devfn << 8 | (off & 0xfc));
	return (uint32_t)port_read(&m->mem, (uint16_t)(0xcfc + (off & 3)), size);
}

static void wr(struct machine *m, uint8_t devfn, unsigned off, unsigned size, uint32_t val) {
	port_write(&m->mem, 0xcf8, 4, 1u << 31 | devfn << 8 | (off & 0xfc));
	port_write(&m->mem, (uint16_t)(0xcfc + (off & 3)), size, val);
}

static void test_host(void **state) {
	struct machine *m = *state;
	assert_int_equal(rd(m, 0, 0, 4), 0x29c08086);
	assert_int_equal(rd(m, 0, 8, 4), 0x06000000);
	assert_int_equal(rd(m, 0, 0x60, 4), ECAM | 1);
	assert_int_equal(mem_io_read(&m->mem, ECAM, 4), 0x29c08086);
	/* Moved by firmware, through the window itself. */
	mem_io_write(&m->mem, ECAM + 0x60, 4, 0xb0000001);
	assert_int_equal(mem_io_read(&m->mem, ECAM, 4), 0xffffffff);
	assert_int_equal(mem_io_read(&m->mem, 0xb0000000, 4), 0x29c08086);
	wr(m, 0, 0x60, 4, 0xb0000000);
	assert_int_equal(mem_io_read(&m->mem, 0xb0000000, 4), 0xffffffff);
	wr(m, 0, 0x64, 4, 0xffffffff);
	wr(m, 0, 0x60, 4, 0xffffffff);
	assert_int_equal(mem_io_read(&m->mem, 0xff0000000, 4), 0x29c08086);
	wr(m, 0, 0x60, 4, 0x1); /* at 60 GiB */
	wr(m, 0, 0x64, 4, 0x0); /* at 0 with enable: nowhere */
	assert_false(m->bus.ecam.added);
	wr(m, 0, 0x90, 4, 0xffffffff);
	assert_int_equal(rd(m, 0, 0x90, 4), 0x33333330);
	pci_host_ops.reset(&m->host);
	assert_int_equal(rd(m, 0, 0x90, 4), 0);
	assert_int_equal(mem_io_read(&m->mem, ECAM, 4), 0x29c08086);
}

static void test_lpc(void **state) {
	struct machine *m = *state;
	uint8_t lpc = PCI_LPC_DEVFN;
	assert_int_equal(rd(m, lpc, 0, 4), 0x29188086);
	assert_int_equal(rd(m, lpc, 8, 4), 0x06010002);
	assert_int_equal(rd(m, lpc, 0x40, 4), 0x601);
	assert_int_equal(rd(m, lpc, 0x60, 4), 0x800a0b0a);

	pci_set_intx(&m->d, true); /* device 2: PIRQ C */
	assert_true(m->gsi[2].level);
	assert_true(m->isa[10].level);
	pci_lpc_set_pirq(&m->lpc, 0, true); /* shares irq 10 */
	pci_set_intx(&m->d, false);
	assert_false(m->gsi[2].level);
	assert_true(m->isa[10].level);
	wr(m, lpc, 0x60, 1, 0x05); /* routed elsewhere while high */
	assert_false(m->isa[10].level);
	assert_true(m->isa[5].level);
	wr(m, lpc, 0x60, 1, 0xff);
	assert_int_equal(rd(m, lpc, 0x60, 1), 0x8f);
	assert_false(m->isa[5].level);
	wr(m, lpc, 0x60, 4, 0x00080d02); /* irqs that no PCI interrupt may have */
	for (unsigned i = 0; i < 16; i++)
		assert_false(m->isa[i].level);
	pci_lpc_ops.reset(&m->lpc);
	assert_int_equal(rd(m, lpc, 0x60, 4), 0x800a0b0a);
	assert_true(m->isa[10].level);
	pci_lpc_set_pirq(&m->lpc, 0, false);
	pci_lpc_set_pirq(&m->lpc, 9, true);
	assert_int_equal(m->isa[10].raised, m->isa[10].lowered);
}

static void walk(struct state_io *io, void *self) {
	struct machine *m = self;
	pci_host_ops.state(io, &m->host);
	pci_lpc_ops.state(io, &m->lpc);
}

static void test_state(void **state) {
	struct machine *m = *state;
	uint8_t buf[8192], bad[8192];
	struct state_io io;
	wr(m, 0, 0x60, 4, 0xb0000001);
	wr(m, PCI_LPC_DEVFN, 0x60, 1, 5);
	pci_lpc_set_pirq(&m->lpc, 0, true);
	state_io_save(&io, buf, sizeof(buf));
	state_section(&io, "bridges", 0, 1, walk, m);
	assert_int_equal(io.error, 0);
	size_t len = io.pos;
	pci_lpc_set_pirq(&m->lpc, 0, false);
	pci_host_ops.reset(&m->host);
	pci_lpc_ops.reset(&m->lpc);
	state_io_load(&io, buf, len);
	state_section(&io, "bridges", 0, 1, walk, m);
	assert_int_equal(io.error, 0);
	assert_int_equal(mem_io_read(&m->mem, 0xb0000000, 4), 0x29c08086);
	assert_int_equal(rd(m, PCI_LPC_DEVFN, 0x60, 1), 5);
	assert_true(m->lpc.level[0]);
	assert_int_equal(m->lpc.isa_high, 1 << 5);

	srand(1);
	for (unsigned i = 0; i < 5000; i++) {
		memcpy(bad, buf, len);
		for (unsigned n = 0; n < 1 + i % 4; n++)
			bad[(size_t)rand() % len] = (uint8_t)rand();
		state_io_load(&io, bad, len);
		state_section(&io, "bridges", 0, 1, walk, m);
		pci_lpc_set_pirq(&m->lpc, i & 3, i & 4);
	}
}

static void test_garbage(void **state) {
	struct machine *m = *state;
	srand(2);
	for (unsigned i = 0; i < 100000; i++) {
		uint32_t r = (uint32_t)rand();
		wr(m, r & 1 ? PCI_LPC_DEVFN : 0, r >> 1 & 0xff, 1u << (r >> 9) % 3, (uint32_t)rand() * 3);
		pci_set_intx(&m->d, r >> 12 & 1);
	}
	assert_int_equal(rd(m, 0, 0, 4), 0x29c08086);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {T(test_host), T(test_lpc), T(test_state), T(test_garbage)};
	return cmocka_run_group_tests_name("pci-bridge", tests, NULL, NULL);
}
