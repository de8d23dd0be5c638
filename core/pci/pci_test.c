#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/pci/pci.h"
#include "test/unit/fake.h"

#define ECAM 0xe0000000ull
#define RAM_SIZE MIB(1)
#define MSIX_VECTORS 5

struct machine {
	struct mem_space mem;
	struct mem_region ram;
	uint8_t *ram_bytes;
	struct fake_irq intx[4];
	struct pci_bus bus;
	struct pci_device a, b;
	unsigned msis, settles;
	gpa_t msi_addr;
	uint32_t msi_data;
	unsigned writes;
	uint64_t written;
	unsigned cfg_writes;
};

static uint64_t reg_read(void *dev, uint64_t off, unsigned size) {
	return 0xabcd000000000000ull | off;
}

static void reg_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct machine *m = dev;
	m->writes++;
	m->written = val;
}

static const struct io_ops reg_ops = {reg_read, reg_write, 1, 8};

static void on_msi(void *opaque, gpa_t addr, uint32_t data) {
	struct machine *m = opaque;
	m->msis++;
	m->msi_addr = addr;
	m->msi_data = data;
}

static void on_settle(void *opaque) {
	((struct machine *)opaque)->settles++;
}

static int setup(void **state) {
	struct machine *m = calloc(1, sizeof(*m));
	struct irq_line lines[4];
	struct msi_sink sink = {on_msi, m, on_settle};
	mem_init(&m->mem);
	m->ram_bytes = aligned_alloc(4096, RAM_SIZE);
	memset(m->ram_bytes, 0x55, RAM_SIZE);
	m->ram =
		(struct mem_region){.name = "ram", .size = RAM_SIZE, .kind = MEM_RAM, .host = m->ram_bytes};
	mem_add(&m->mem, &m->ram);
	for (unsigned i = 0; i < 4; i++) {
		fake_irq_init(&m->intx[i]);
		lines[i] = m->intx[i].line;
	}
	pci_bus_init(&m->bus, &m->mem, &sink, lines, ECAM);
	m->bus.mmio32_next = 0xc0000000;
	m->bus.mmio32_end = 0xd0000000;
	m->bus.mmio64_next = 0x800000000;
	m->bus.mmio64_end = 0x900000000;
	m->bus.io_next = 0xc000;
	m->bus.io_end = 0xd000;
	m->bus.intx_irq[1] = 11;

	pci_device_init(&m->a, "a", 0x1af4, 0x1041, 0x020000, 1, 0x1af4, 0x41);
	pci_add_bar(&m->a, 0, PCI_BAR_MEM32, 0x4000, &reg_ops, m);
	pci_add_msix(&m->a, 1, MSIX_VECTORS);
	pci_add_bar(&m->a, 2, PCI_BAR_IO, 0x20, &reg_ops, m);
	pci_add_bar(&m->a, 4, PCI_BAR_MEM64, MIB(1), &reg_ops, m);
	pci_bus_add(&m->bus, &m->a, PCI_DEVFN(1, 0));

	pci_device_init(&m->b, "b", 0x1234, 0x5678, 0x010802, 0, 0, 0);
	pci_add_msi(&m->b);
	pci_bus_add(&m->bus, &m->b, PCI_DEVFN(5, 2));
	*state = m;
	return 0;
}

static int teardown(void **state) {
	struct machine *m = *state;
	free(m->ram_bytes);
	free(m);
	return 0;
}

static uint32_t ecam(struct machine *m, uint8_t devfn, unsigned off, unsigned size) {
	return (uint32_t)mem_io_read(&m->mem, ECAM + (devfn << 12) + off, size);
}

static void ecam_set(struct machine *m, uint8_t devfn, unsigned off, unsigned size, uint32_t val) {
	mem_io_write(&m->mem, ECAM + (devfn << 12) + off, size, val);
}

static void select_reg(struct machine *m, unsigned bus, uint8_t devfn, unsigned off) {
	port_write(&m->mem, 0xcf8, 4, 0x80000000 | bus << 16 | devfn << 8 | (off & 0xfc));
}

#define A PCI_DEVFN(1, 0)
#define B PCI_DEVFN(5, 2)

static void test_identity(void **state) {
	struct machine *m = *state;
	assert_int_equal(ecam(m, A, 0, 4), 0x10411af4);
	assert_int_equal(ecam(m, A, 8, 4), 0x02000001);
	assert_int_equal(ecam(m, A, 0x2c, 4), 0x00411af4);
	assert_int_equal(ecam(m, A, 6, 2), 0x10);
	assert_int_equal(ecam(m, A, 0x34, 1), 0x40);
	assert_int_equal(ecam(m, A, 0x40, 2), 0x0011);
	assert_int_equal(ecam(m, B, 0x40, 2), 0x0005);
	assert_int_equal(ecam(m, A, 0x3c, 2), 0x010b);
	assert_int_equal(ecam(m, A, 0x100, 4), 0);
	assert_int_equal(ecam(m, A, 0xffc, 4), 0);
	assert_int_equal(ecam(m, A, 0xffe, 4), 0xffffffff); /* runs into the next function */
	assert_int_equal(ecam(m, PCI_DEVFN(2, 0), 0, 4), 0xffffffff);
	assert_int_equal(ecam(m, 0xff, 0xffc, 4), 0xffffffff);
}

static void test_caps_in_order(void **state) {
	struct pci_device d;
	pci_device_init(&d, "d", 1, 2, 0, 0, 0, 0);
	uint8_t first = pci_add_cap(&d, 9, 17), second = pci_add_cap(&d, 5, 4);
	assert_int_equal(first, 0x40);
	assert_int_equal(second, 0x54);
	assert_int_equal(pci_add_cap(&d, 0x11, 256 - 0x58), 0x58); /* to the very end */
	assert_int_equal(d.cfg[0x34], 0x40);
	assert_int_equal(d.cfg[0x41], 0x54);
	assert_int_equal(d.cfg[0x55], 0x58);
	assert_int_equal(d.cfg[0x59], 0);
}

static void test_functions(void **state) {
	struct machine *m = *state;
	struct pci_device first;
	assert_int_equal(ecam(m, A, 0x0e, 1), 0);
	pci_device_init(&first, "first", 1, 2, 0, 0, 0, 0);
	pci_bus_add(&m->bus, &first, PCI_DEVFN(5, 0));
	assert_int_equal(ecam(m, PCI_DEVFN(5, 0), 0x0e, 1), 0x80);
}

static void test_mechanism1(void **state) {
	struct machine *m = *state;
	assert_int_equal(port_read(&m->mem, 0xcfc, 4), 0xffffffff); /* not enabled */
	select_reg(m, 0, A, 0);
	assert_int_equal(port_read(&m->mem, 0xcf8, 4), 0x80000800);
	assert_int_equal(port_read(&m->mem, 0xcfc, 4), 0x10411af4);
	assert_int_equal(port_read(&m->mem, 0xcfc, 2), 0x1af4);
	assert_int_equal(port_read(&m->mem, 0xcfe, 2), 0x1041);
	assert_int_equal(port_read(&m->mem, 0xcfd, 1), 0x1a);
	assert_int_equal(port_read(&m->mem, 0xcfd, 2), 0x411a);
	/* Narrow accesses to CF8 are somebody else's. */
	port_write(&m->mem, 0xcf8, 1, 0x3c);
	port_write(&m->mem, 0xcf9, 1, 0x06);
	port_write(&m->mem, 0xcf8, 2, 0xffff);
	assert_int_equal(port_read(&m->mem, 0xcf8, 4), 0x80000800);
	assert_int_equal(port_read(&m->mem, 0xcf9, 1), 0xff);
	port_write(&m->mem, 0xcf8, 4, 0xffffffff);
	assert_int_equal(port_read(&m->mem, 0xcf8, 4), 0x80fffffc);
	assert_int_equal(port_read(&m->mem, 0xcfc, 4), 0xffffffff); /* bus 255 */
	select_reg(m, 0, A, 0x3c);
	port_write(&m->mem, 0xcfc, 1, 0x77);
	assert_int_equal(port_read(&m->mem, 0xcfc, 2), 0x0177);
	select_reg(m, 0, A, 0x04);
	port_write(&m->mem, 0xcfd, 1, 0xff);
	assert_int_equal(port_read(&m->mem, 0xcfc, 2), 0x0500);
	select_reg(m, 1, A, 0x04);
	port_write(&m->mem, 0xcfc, 4, 0);
	select_reg(m, 0, A, 0x04);
	assert_int_equal(port_read(&m->mem, 0xcfc, 2), 0x0500);
	select_reg(m, 0, A, 0xfc);
	assert_int_equal(port_read(&m->mem, 0xcfe, 4), 0xffff0000);
}

static void test_sizing(void **state) {
	struct machine *m = *state;
	static const struct {
		unsigned reg;
		uint32_t sized, assigned;
	} bars[] = {
		{0x10, 0xffffc000, 0xc0000000}, {0x14, 0xfffff000, 0xc0004000},
		{0x18, 0xffffffe1, 0x0000c001}, {0x1c, 0, 0},
		{0x20, 0xfff00004, 0x00000004}, {0x24, 0xffffffff, 0x00000008},
	};
	ecam_set(m, A, 4, 2, 7); /* sizing with decoding on must not hurt */
	for (unsigned i = 0; i < ARRAY_LEN(bars); i++) {
		assert_int_equal(ecam(m, A, bars[i].reg, 4), bars[i].assigned);
		ecam_set(m, A, bars[i].reg, 4, 0xffffffff);
		assert_int_equal(ecam(m, A, bars[i].reg, 4), bars[i].sized);
		ecam_set(m, A, bars[i].reg, 4, bars[i].assigned);
		assert_int_equal(ecam(m, A, bars[i].reg, 4), bars[i].assigned);
	}
	assert_int_equal(ecam(m, A, 0x30, 4), 0); /* no ROM */
}

static void test_decoding(void **state) {
	struct machine *m = *state;
	/* Off after reset. */
	assert_int_equal(mem_io_read(&m->mem, 0xc0000010, 4), 0xffffffff);
	assert_int_equal(port_read(&m->mem, 0xc004, 1), 0xff);
	ecam_set(m, A, 4, 2, 2);
	assert_int_equal(mem_io_read(&m->mem, 0xc0000010, 4), 0x10);
	assert_int_equal(mem_io_read(&m->mem, 0x800000020, 8), 0xabcd000000000020);
	assert_int_equal(port_read(&m->mem, 0xc004, 1), 0xff);
	ecam_set(m, A, 4, 2, 1);
	assert_int_equal(mem_io_read(&m->mem, 0xc0000010, 4), 0xffffffff);
	assert_int_equal(port_read(&m->mem, 0xc004, 1), 4);

	/* Moving, live. */
	ecam_set(m, A, 4, 2, 3);
	ecam_set(m, A, 0x10, 4, 0xc8000000);
	assert_int_equal(mem_io_read(&m->mem, 0xc0000010, 4), 0xffffffff);
	assert_int_equal(mem_io_read(&m->mem, 0xc8003ffe, 2), 0x3ffe);
	mem_io_write(&m->mem, 0xc8000000, 4, 0x1234);
	assert_int_equal(m->written, 0x1234);
	ecam_set(m, A, 0x18, 4, 0xd000);
	assert_int_equal(port_read(&m->mem, 0xd01f, 1), 0x1f);
	assert_int_equal(port_read(&m->mem, 0xc01f, 1), 0xff);
	ecam_set(m, A, 0x20, 4, 0xd0000000); /* the 64-bit one, half by half */
	ecam_set(m, A, 0x24, 4, 0);
	assert_int_equal(mem_io_read(&m->mem, 0xd0000020, 2), 0x20);

	/* Reset: where they were, and off. */
	pci_bus_reset(&m->bus);
	assert_int_equal(ecam(m, A, 0x10, 4), 0xc0000000);
	assert_int_equal(ecam(m, A, 0x24, 4), 8);
	assert_int_equal(ecam(m, A, 4, 2), 0);
	assert_int_equal(mem_io_read(&m->mem, 0xc8003ffe, 2), 0xffff);
}

static void test_hostile_bars(void **state) {
	struct machine *m = *state;
	ecam_set(m, A, 4, 2, 3);
	ecam_set(m, A, 0x10, 4, 0x4000); /* over RAM: the RAM answers */
	assert_int_equal(mem_io_read(&m->mem, 0x4000, 4), 0x55555555);
	assert_ptr_equal(mem_segment(&m->mem, 0x4000, 4, true).host, m->ram_bytes + 0x4000);
	ecam_set(m, A, 0x10, 4, RAM_SIZE - 0x4000); /* up to its end */
	assert_int_equal(mem_io_read(&m->mem, RAM_SIZE - 4, 8), 0xffffffff55555555);
	ecam_set(m, A, 0x10, 4, (uint32_t)ECAM); /* over ECAM */
	assert_int_equal(ecam(m, 0, 0, 4), 0xffffffff);
	assert_int_equal(ecam(m, A, 0, 4), 0x10411af4);
	ecam_set(m, A, 0x10, 4, 0);
	assert_false(m->a.bar[0].mem.added);
	ecam_set(m, A, 0x10, 4, 0xffffffff);
	assert_false(m->a.bar[0].mem.added);
	ecam_set(m, A, 0x20, 4, 0xffffffff);
	ecam_set(m, A, 0x24, 4, 0xffffffff);
	assert_false(m->a.bar[4].mem.added);
	ecam_set(m, A, 0x24, 4, 0xfffffffe);
	assert_true(m->a.bar[4].mem.added);
	ecam_set(m, A, 0x18, 4, 0xcf8); /* over the configuration ports: those were first */
	select_reg(m, 0, A, 0);
	assert_int_equal(port_read(&m->mem, 0xcfc, 4), 0x10411af4);
	ecam_set(m, A, 0x18, 4, 0x1c000);
	assert_false(m->a.bar[2].port.added);
	ecam_set(m, A, 0x18, 4, 0xffe0);
	assert_int_equal(port_read(&m->mem, 0xffff, 1), 0x1f);
	/* Two BARs at one place: the one mapped first answers. */
	ecam_set(m, A, 0x10, 4, 0xc9000000);
	ecam_set(m, A, 0x14, 4, 0xc9000000);
	assert_int_equal(mem_io_read(&m->mem, 0xc9000ffc, 4), 0xffc);
}

static void test_windows_full(void **state) {
	struct machine *m = *state;
	static struct pci_device d;
	m->bus.mmio64_next = m->bus.mmio64_end = 0;
	m->bus.mmio32_next = 0xcfff0000;
	m->bus.io_next = 0xcff8;
	pci_device_init(&d, "d", 1, 2, 0, 0, 0, 0);
	pci_add_bar(&d, 0, PCI_BAR_MEM64, 0x8000, &reg_ops, m); /* below 4 GiB then */
	pci_add_bar(&d, 2, PCI_BAR_MEM32, MIB(1), &reg_ops, m); /* nowhere */
	pci_add_bar(&d, 3, PCI_BAR_IO, 16, &reg_ops, m);
	pci_bus_add(&m->bus, &d, PCI_DEVFN(7, 0));
	assert_int_equal(ecam(m, PCI_DEVFN(7, 0), 0x10, 4), 0xcfff0004);
	assert_int_equal(ecam(m, PCI_DEVFN(7, 0), 0x14, 4), 0);
	assert_int_equal(ecam(m, PCI_DEVFN(7, 0), 0x18, 4), 0);
	assert_int_equal(ecam(m, PCI_DEVFN(7, 0), 0x1c, 4), 1);
	ecam_set(m, PCI_DEVFN(7, 0), 4, 2, 3);
	assert_true(d.bar[0].mem.added);
	assert_false(d.bar[2].mem.added);
	assert_false(d.bar[3].port.added);
}

static void test_intx(void **state) {
	struct machine *m = *state;
	struct pci_device shared;
	pci_device_init(&shared, "shared", 1, 2, 0, 0, 0, 0);
	pci_bus_add(&m->bus, &shared, PCI_DEVFN(9, 0));

	pci_set_intx(&m->a, true); /* device 1, pin A: line 1 */
	assert_true(m->intx[1].level);
	assert_int_equal(ecam(m, A, 6, 2), 0x18);
	pci_set_intx(&shared, true); /* device 9: the same */
	pci_set_intx(&shared, true);
	pci_set_intx(&m->a, false);
	assert_true(m->intx[1].level);
	assert_int_equal(ecam(m, A, 6, 2), 0x10);
	ecam_set(m, PCI_DEVFN(9, 0), 4, 2, 0x400); /* disabled */
	assert_false(m->intx[1].level);
	assert_int_equal(ecam(m, PCI_DEVFN(9, 0), 6, 2), 0x08);
	ecam_set(m, PCI_DEVFN(9, 0), 4, 2, 0);
	assert_true(m->intx[1].level);
	pci_bus_reset(&m->bus);
	assert_false(m->intx[1].level);
	assert_int_equal(m->bus.intx_count[1], 0);
	m->b.cfg[PCI_INTERRUPT_PIN] = 0; /* without a pin */
	pci_set_intx(&m->b, true);
	for (unsigned i = 0; i < 4; i++)
		assert_false(m->intx[i].level);
}

static void test_msi(void **state) {
	struct machine *m = *state;
	pci_msi_notify(&m->b);
	assert_int_equal(m->msis, 0);
	assert_int_equal(ecam(m, B, 0x42, 2), 0x0180);
	ecam_set(m, B, 0x44, 4, 0xfee01003);
	assert_int_equal(ecam(m, B, 0x44, 4), 0xfee01000);
	ecam_set(m, B, 0x48, 4, 0);
	ecam_set(m, B, 0x4c, 2, 0x4041);
	ecam_set(m, B, 0x42, 2, 0x0071); /* one vector only, whatever is asked */
	assert_int_equal(ecam(m, B, 0x42, 2), 0x0181);
	assert_true(pci_msi_enabled(&m->b));
	pci_msi_notify(&m->b);
	assert_int_equal(m->msis, 1);
	assert_int_equal(m->msi_addr, 0xfee01000);
	assert_int_equal(m->msi_data, 0x4041);
	ecam_set(m, B, 0x50, 4, 0xffffffff);
	assert_int_equal(ecam(m, B, 0x50, 4), 1);
	pci_msi_notify(&m->b);
	pci_msi_notify(&m->b);
	assert_int_equal(m->msis, 1);
	assert_int_equal(ecam(m, B, 0x54, 4), 1);
	ecam_set(m, B, 0x54, 4, 0); /* read-only */
	assert_int_equal(ecam(m, B, 0x54, 4), 1);
	ecam_set(m, B, 0x50, 4, 0);
	assert_int_equal(m->msis, 2);
	assert_int_equal(ecam(m, B, 0x54, 4), 0);
}

#define TABLE 0xc0004000ull
#define PBA (TABLE + MSIX_VECTORS * 16)

static void entry(struct machine *m, unsigned n, uint64_t addr, uint32_t data, uint32_t ctrl) {
	mem_io_write(&m->mem, TABLE + n * 16, 8, addr);
	mem_io_write(&m->mem, TABLE + n * 16 + 8, 8, (uint64_t)ctrl << 32 | data);
}

static void test_msix(void **state) {
	struct machine *m = *state;
	ecam_set(m, A, 4, 2, 2);
	assert_int_equal(ecam(m, A, 0x42, 2), MSIX_VECTORS - 1);
	assert_int_equal(ecam(m, A, 0x44, 4), 1);
	assert_int_equal(ecam(m, A, 0x48, 4), MSIX_VECTORS * 16 + 1);
	for (unsigned n = 0; n < MSIX_VECTORS; n++)
		assert_int_equal(mem_io_read(&m->mem, TABLE + n * 16 + 12, 4), 1);
	entry(m, 2, 0x1fee01003, 0x4052, 0);
	assert_int_equal(mem_io_read(&m->mem, TABLE + 2 * 16, 8), 0x1fee01000);
	assert_int_equal(mem_io_read(&m->mem, TABLE + 2 * 16 + 8, 4), 0x4052);
	pci_msix_notify(&m->a, 2); /* not enabled */
	m->settles = 0;
	ecam_set(m, A, 0x42, 2, 0xffff);
	assert_int_equal(m->settles, 1);
	assert_int_equal(ecam(m, A, 0x42, 2), 0xc004);
	assert_int_equal(m->msis, 0);
	/* All masked: pending until the mask goes. */
	pci_msix_notify(&m->a, 2);
	pci_msix_notify(&m->a, 3);
	assert_int_equal(mem_io_read(&m->mem, PBA, 8), 0xc);
	ecam_set(m, A, 0x42, 2, 0x8000);
	assert_int_equal(m->msis, 1);
	assert_int_equal(m->msi_addr, 0x1fee01000);
	assert_int_equal(m->msi_data, 0x4052);
	assert_int_equal(mem_io_read(&m->mem, PBA, 4), 8);
	/* One masked. */
	entry(m, 3, 0xfee02000, 0x4053, 0);
	assert_int_equal(m->msis, 2);
	assert_int_equal(m->msi_data, 0x4053);
	unsigned settles = m->settles; /* what is on its way comes before the guest goes on */
	entry(m, 3, 0xfee02000, 0x4053, 1);
	assert_true(m->settles > settles);
	pci_msix_notify(&m->a, 3);
	mem_io_write(&m->mem, PBA, 8, 0); /* read-only */
	assert_int_equal(mem_io_read(&m->mem, PBA, 1), 8);
	assert_int_equal(m->msis, 2);
	pci_msix_notify(&m->a, MSIX_VECTORS);
	pci_msix_notify(&m->a, ~0u);
	/* Odd accesses. */
	assert_int_equal(mem_io_read(&m->mem, TABLE + 2 * 16 + 8, 1), 0x52);
	assert_int_equal(mem_io_read(&m->mem, TABLE + 2 * 16 + 9, 1), 0x40);
	mem_io_write(&m->mem, TABLE + 1, 4, 0x1111);
	for (uint64_t at = TABLE; at < TABLE + 0x1000; at++)
		mem_io_read(&m->mem, at, 8);
	pci_bus_reset(&m->bus);
	assert_false(pci_msix_enabled(&m->a));
	assert_int_equal(m->a.msix.vec[2].ctrl, 1);
	assert_false(m->a.msix.vec[3].pending);
}

static void walk(struct state_io *io, void *self) {
	struct machine *m = self;
	pci_bus_state(io, &m->bus);
	pci_device_state(io, &m->a);
	pci_device_state(io, &m->b);
}

static void test_state(void **state) {
	struct machine *m = *state;
	uint8_t buf[8192], again[8192];
	struct state_io io;

	select_reg(m, 0, A, 0x10);
	ecam_set(m, A, 4, 2, 3);
	ecam_set(m, A, 0x10, 4, 0xc8000000);
	entry(m, 1, 0xfee01000, 0x41, 1);
	ecam_set(m, A, 0x42, 2, 0x8000);
	pci_msix_notify(&m->a, 1);
	ecam_set(m, B, 0x42, 2, 1);
	ecam_set(m, B, 0x50, 4, 1);
	pci_msi_notify(&m->b);
	pci_set_intx(&m->b, true); /* device 5, line 1 */
	state_io_save(&io, buf, sizeof(buf));
	state_section(&io, "pci", 0, 1, walk, m);
	assert_int_equal(io.error, 0);
	size_t len = io.pos;

	pci_bus_reset(&m->bus);
	unsigned raised = m->intx[1].raised;
	state_io_load(&io, buf, len);
	state_section(&io, "pci", 0, 1, walk, m);
	assert_int_equal(io.error, 0);
	state_io_save(&io, again, sizeof(again));
	state_section(&io, "pci", 0, 1, walk, m);
	assert_int_equal(io.pos, len);
	assert_memory_equal(buf, again, len);
	assert_int_equal(port_read(&m->mem, 0xcfc, 4), 0xc8000000);
	assert_int_equal(mem_io_read(&m->mem, 0xc8000010, 4), 0x10);
	assert_int_equal(m->intx[1].raised, raised); /* its receiver has that saved */
	assert_int_equal(m->bus.intx_count[1], 1);
	mem_io_write(&m->mem, TABLE + 16 + 12, 4, 0);
	assert_int_equal(m->msis, 1);
	ecam_set(m, B, 0x50, 4, 0);
	assert_int_equal(m->msis, 2);
	pci_set_intx(&m->b, false);
	assert_int_equal(m->bus.intx_count[1], 0);

	srand(1);
	for (unsigned i = 0; i < 5000; i++) {
		memcpy(again, buf, len);
		for (unsigned n = 0; n < 1 + i % 4; n++)
			again[(size_t)rand() % len] = (uint8_t)rand();
		state_io_load(&io, again, len);
		state_section(&io, "pci", 0, 1, walk, m);
		assert_int_equal(ecam(m, A, 0, 4), 0x10411af4);
		assert_int_equal(m->a.cfg[0x34], 0x40);
		pci_msix_notify(&m->a, 1);
	}
}

/* Garbage into every byte of configuration space, by both ways, then sane again. */
static void test_garbage(void **state) {
	struct machine *m = *state;
	srand(4);
	for (unsigned i = 0; i < 300000; i++) {
		uint32_t r = (uint32_t)rand(), val = (uint32_t)rand() << 16 ^ (uint32_t)rand();
		uint8_t devfn = r & 1 ? A : B;
		unsigned off = r >> 1 & (r & 0x10000 ? 0xfff : 0x7f), size = 1u << (r >> 20 & 3);
		if (r & 0x20000) {
			mem_io_write(&m->mem, ECAM + (devfn << 12) + off, size, val);
			mem_io_read(&m->mem, ECAM + (devfn << 12) + off, size);
		} else {
			port_write(&m->mem, 0xcf8, 4, (val & 0xff0000fc) | 1u << 31 | devfn << 8);
			size = size > 4 ? 4 : size;
			port_write(&m->mem, (uint16_t)(0xcfc + (r >> 8 & 3)), size, val);
			port_read(&m->mem, (uint16_t)(0xcfc + (r >> 8 & 3)), size);
		}
		if (!(i % 64)) {
			pci_msix_notify(&m->a, r % 8);
			pci_msi_notify(&m->b);
			pci_set_intx(r & 4 ? &m->a : &m->b, r & 8);
			for (unsigned line = 0; line < 4; line++)
				assert_int_equal(m->intx[line].level, m->bus.intx_count[line] > 0);
			assert_memory_equal(mem_segment(&m->mem, 0, RAM_SIZE, true).host, m->ram_bytes, 4096);
		}
	}
	assert_int_equal(ecam(m, A, 0, 4), 0x10411af4);
	assert_int_equal(ecam(m, B, 8, 4), 0x01080200);
	for (unsigned i = 0; i < RAM_SIZE; i += 4096)
		assert_int_equal(m->ram_bytes[i], 0x55);
	pci_bus_reset(&m->bus);
	assert_int_equal(ecam(m, A, 0x10, 4), 0xc0000000);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_identity), T(test_caps_in_order), T(test_functions),	   T(test_mechanism1),
		T(test_sizing),	  T(test_decoding),		 T(test_hostile_bars), T(test_windows_full),
		T(test_intx),	  T(test_msi),			 T(test_msix),		   T(test_state),
		T(test_garbage),
	};
	return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
