/* The PCI transport: capabilities, common configuration, MSI-X and INTx, the window
 * in configuration space. The random number device is behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/pci.h"
#include "core/virtio/rng.h"
#include "test/unit/virtio_driver.h"

#define ECAM 0xe0000000ull
#define DEVFN PCI_DEVFN(3, 0)

struct rig {
	struct drv d;
	struct fake_irq intx[4];
	struct pci_bus bus;
	unsigned msis;
	gpa_t msi_addr;
	uint32_t msi_data;
	gpa_t common, notify, isr, config; /* found through the capabilities */
	uint32_t stride;
	unsigned window; /* the PCI_CFG capability */
};

static struct rig rig;

static void on_msi(void *opaque, gpa_t addr, uint32_t data) {
	rig.msis++;
	rig.msi_addr = addr;
	rig.msi_data = data;
}

static void rng_fill(void *opaque, void *buf, size_t len) {
	memset(buf, 0x5a, len);
}

static uint32_t cfg(unsigned off, unsigned size) {
	return (uint32_t)mem_io_read(&rig.d.vm.mem, ECAM + (DEVFN << 12) + off, size);
}

static void set_cfg(unsigned off, unsigned size, uint32_t val) {
	mem_io_write(&rig.d.vm.mem, ECAM + (DEVFN << 12) + off, size, val);
}

static uint32_t reg(unsigned off, unsigned size) {
	return (uint32_t)mem_io_read(&rig.d.vm.mem, rig.common + off, size);
}

static void set_reg(unsigned off, unsigned size, uint64_t val) {
	mem_io_write(&rig.d.vm.mem, rig.common + off, size, val);
}

static gpa_t bar(unsigned n) {
	return cfg(0x10 + 4 * n, 4) & ~0xfu;
}

static void find_caps(void) {
	for (unsigned at = cfg(0x34, 1); at; at = cfg(at + 1, 1)) {
		if (cfg(at, 1) != 9)
			continue;
		gpa_t where = bar(cfg(at + 4, 1)) + cfg(at + 8, 4);
		switch (cfg(at + 3, 1)) {
		case 1:
			rig.common = where;
			break;
		case 2:
			rig.notify = where;
			rig.stride = cfg(at + 16, 4);
			break;
		case 3:
			rig.isr = where;
			break;
		case 4:
			rig.config = where;
			break;
		case 5:
			rig.window = at;
			break;
		}
	}
}

static int setup(void **state) {
	memset(&rig, 0, sizeof(rig));
	drv_init(&rig.d);
	struct irq_line lines[4];
	struct msi_sink sink = {on_msi, NULL, NULL};
	struct rng_backend backend = {rng_fill, NULL};
	for (unsigned i = 0; i < 4; i++) {
		fake_irq_init(&rig.intx[i]);
		lines[i] = rig.intx[i].line;
	}
	pci_bus_init(&rig.bus, &rig.d.vm.mem, &sink, lines, ECAM);
	rig.bus.mmio32_next = 0xc0000000;
	rig.bus.mmio32_end = 0xd0000000;
	rig.d.dev = virtio_rng_create(&rig.d.vm, &backend);
	virtio_pci_create(&rig.d.vm, &rig.bus, rig.d.dev, DEVFN);
	set_cfg(4, 2, 6);
	find_caps();
	return 0;
}

static int teardown(void **state) {
	drv_free(&rig.d);
	return 0;
}

static void start(struct drv_ring *r, bool msix) {
	*r = (struct drv_ring){.d = &rig.d,
						   .size = 8,
						   .desc = 0x10000,
						   .driver = 0x11000,
						   .device = 0x12000,
						   .wrap = true,
						   .used_wrap = true};
	set_reg(0x14, 1, 0);
	set_reg(0x14, 1, 3);
	set_reg(0x08, 4, 1);
	set_reg(0x0c, 4, 1);
	set_reg(0x14, 1, 11);
	assert_int_equal(reg(0x14, 1), 11);
	set_reg(0x10, 2, msix ? 0 : 0xffff);
	set_reg(0x16, 2, 0);
	set_reg(0x18, 2, 8);
	set_reg(0x1a, 2, msix ? 1 : 0xffff);
	set_reg(0x20, 8, r->desc); /* a 64-bit access comes as two */
	set_reg(0x28, 4, (uint32_t)r->driver);
	set_reg(0x30, 4, (uint32_t)r->device);
	set_reg(0x1c, 2, 1);
	assert_int_equal(reg(0x1c, 2), 1);
	set_reg(0x14, 1, 15);
}

static void ring(struct drv_ring *r, uint16_t flags) {
	struct drv_buf b = {DRV_DATA, 16, flags != 0};
	drv_add(r, &b, 1);
	mem_io_write(&rig.d.vm.mem, rig.notify + reg(0x1e, 2) * rig.stride, 2, 0);
}

static void test_identity(void **state) {
	assert_int_equal(cfg(0, 4), 0x10441af4);
	assert_int_equal(cfg(8, 1), 1);
	assert_true(rig.common && rig.notify && rig.isr && rig.config && rig.window);
	assert_int_equal(reg(0x12, 2), 1); /* queues */
	set_reg(0, 4, 1);
	assert_int_equal(reg(4, 4) & 1, 1); /* VERSION_1 */
	set_reg(0, 4, 2);
	assert_int_equal(reg(4, 4), 0);
	assert_int_equal(reg(0x18, 2), 64);
	set_reg(0x16, 2, 1);
	assert_int_equal(reg(0x18, 2), 0); /* no such queue */
}

static void test_intx(void **state) {
	struct drv_ring r;
	uint16_t id;
	uint32_t len;
	struct fake_irq *line = &rig.intx[3];
	start(&r, false);
	ring(&r, 1);
	assert_true(drv_used(&r, &id, &len));
	assert_int_equal(len, 16);
	assert_true(line->level);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, rig.isr, 1), 1);
	assert_false(line->level);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, rig.isr, 1), 0);
	ring(&r, 0); /* not writable: broken */
	assert_int_equal(reg(0x14, 1), 15 | 64);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, rig.isr, 1), 2);
}

static void test_msix(void **state) {
	struct drv_ring r;
	unsigned at = cfg(0x34, 1);
	while (cfg(at, 1) != 0x11)
		at = cfg(at + 1, 1);
	gpa_t table = bar(cfg(at + 4, 4) & 7);
	mem_io_write(&rig.d.vm.mem, table + 16, 4, 0xfee01000);
	mem_io_write(&rig.d.vm.mem, table + 24, 4, 0x55);
	mem_io_write(&rig.d.vm.mem, table + 28, 4, 0);
	set_cfg(at + 2, 2, 0x8000);
	start(&r, true);
	assert_int_equal(reg(0x1a, 2), 1);
	set_reg(0x10, 2, 2); /* there are two vectors: 0 and 1 */
	assert_int_equal(reg(0x10, 2), 0xffff);
	set_reg(0x10, 2, 0);
	ring(&r, 1);
	assert_int_equal(rig.msis, 1);
	assert_int_equal(rig.msi_addr, 0xfee01000);
	assert_int_equal(rig.msi_data, 0x55);
	assert_false(rig.intx[3].level);
	/* The driver masks it: the message waits. */
	mem_io_write(&rig.d.vm.mem, table + 28, 4, 1);
	ring(&r, 1);
	assert_int_equal(rig.msis, 1);
	mem_io_write(&rig.d.vm.mem, table + 28, 4, 0);
	assert_int_equal(rig.msis, 2);
}

/* Firmware that maps no BARs reaches the registers through configuration space. */
static void test_window(void **state) {
	set_cfg(rig.window + 4, 1, 0);
	set_cfg(rig.window + 8, 4, 0x14);
	set_cfg(rig.window + 12, 4, 1);
	set_cfg(rig.window + 16, 1, 3);
	assert_int_equal(reg(0x14, 1), 3);
	assert_int_equal(cfg(rig.window + 16, 1), 3);
	set_cfg(rig.window + 8, 4, 0x12);
	set_cfg(rig.window + 12, 4, 2);
	assert_int_equal(cfg(rig.window + 16, 2), 1);
	/* Nowhere, odd, too long, another BAR: nothing happens. */
	static const uint32_t bad[][3] = {{0, 0x4000, 4}, {0, 0x13, 2},		  {0, 0x10, 8},
									  {1, 0, 4},	  {0, 0xfffffffc, 4}, {0, 0, 0}};
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		set_cfg(rig.window + 4, 1, bad[i][0]);
		set_cfg(rig.window + 8, 4, bad[i][1]);
		set_cfg(rig.window + 12, 4, bad[i][2]);
		set_cfg(rig.window + 16, 4, 0x12345678);
		cfg(rig.window + 16, 4);
	}
	assert_int_equal(reg(0x14, 1), 3);
}

/* Doorbells are known as such from DRIVER_OK until the reset, where the driver finds them. */
static void test_bells(void **state) {
	struct mem_region *r = mem_find(&rig.d.vm.mem, rig.notify).region;
	struct drv_ring ring;
	assert_int_equal(r->nbells, 0);
	start(&ring, true);
	assert_int_equal(r->nbells, 1);
	assert_int_equal(r->base + r->bells[0].off, rig.notify);
	assert_int_equal(r->bells[0].size, 0);
	set_reg(0x14, 1, 0);
	assert_int_equal(r->nbells, 0);
}

static void test_state(void **state) {
	static uint8_t buf[65536];
	struct drv_ring r;
	start(&r, false);
	struct drv_buf b = {DRV_DATA, 16, true};
	ring(&r, 1);
	drv_add(&r, &b, 1);
	uint16_t id;
	uint32_t len;
	assert_true(rig.intx[3].level);
	size_t size = drv_save(&rig.d, buf, sizeof(buf));
	vm_reset(&rig.d.vm);
	set_cfg(4, 2, 6);
	assert_int_equal(reg(0x14, 1), 0);
	assert_false(rig.intx[3].level);
	assert_int_equal(drv_load(&rig.d, buf, size), 0);
	assert_true(drv_used(&r, &id, &len));
	assert_true(drv_used(&r, &id, &len));
	assert_int_equal(reg(0x14, 1), 15);
	for (size_t i = 0; i < size; i++) {
		buf[i] ^= 0x55;
		drv_load(&rig.d, buf, size);
		buf[i] ^= 0x55;
		vm_reset(&rig.d.vm);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_intx, setup, teardown),
		cmocka_unit_test_setup_teardown(test_msix, setup, teardown),
		cmocka_unit_test_setup_teardown(test_window, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bells, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};
	return cmocka_run_group_tests_name("virtio_pci", tests, NULL, NULL);
}
