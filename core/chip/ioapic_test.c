#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/ioapic.h"
#include "test/unit/fake.h"

struct machine {
	struct fake_clock clock;
	struct lapic_bus bus;
	struct lapic l[2];
	struct ioapic a;
	unsigned nmis;
};

static void on_nmi(void *o) {
	((struct machine *)o)->nmis++;
}

static int setup(void **state) {
	struct machine *m = calloc(1, sizeof(*m));
	fake_clock_init(&m->clock);
	lapic_bus_init(&m->bus);
	struct lapic_out out = {.nmi = on_nmi, .opaque = m};
	for (unsigned i = 0; i < 2; i++) {
		lapic_init(&m->l[i], &m->bus, &m->clock.timers, &out, i, i == 0);
		lapic_mmio_write(&m->l[i], 0xf0, 4, 0x1ff);
		lapic_mmio_write(&m->l[i], 0xd0, 4, 1u << (24 + i));
	}
	ioapic_init(&m->a, &m->bus, 2);
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static uint32_t rd(struct ioapic *a, unsigned reg) {
	ioapic_ops.write(a, 0, 4, reg);
	return (uint32_t)ioapic_ops.read(a, 0x10, 4);
}

static void wr(struct ioapic *a, unsigned reg, uint32_t val) {
	ioapic_ops.write(a, 0, 4, reg);
	ioapic_ops.write(a, 0x10, 4, val);
}

static void redir(struct ioapic *a, unsigned pin, uint32_t high, uint32_t low) {
	wr(a, 0x11 + pin * 2, high);
	wr(a, 0x10 + pin * 2, low);
}

static void eoi(struct lapic *l) {
	lapic_mmio_write(l, 0xb0, 4, 0);
}

static void test_registers(void **state) {
	struct machine *m = *state;
	assert_int_equal(rd(&m->a, 0), 2u << 24);
	assert_int_equal(rd(&m->a, 1), 0x00170020);
	wr(&m->a, 0, 0xffffffff);
	assert_int_equal(rd(&m->a, 0), 0x0f000000);
	assert_int_equal(rd(&m->a, 2), 0x0f000000);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		assert_int_equal(rd(&m->a, 0x10 + pin * 2), 0x10000);
		redir(&m->a, pin, 0xffffffff, 0xffffffff);
		assert_int_equal(rd(&m->a, 0x10 + pin * 2), 0x1afff);
		assert_int_equal(rd(&m->a, 0x11 + pin * 2), 0xff000000);
	}
	assert_int_equal(rd(&m->a, 0x40), 0xffffffff);
	assert_int_equal(ioapic_ops.read(&m->a, 0x0, 4), 0x40);
	ioapic_device_ops.reset(&m->a);
	assert_int_equal(rd(&m->a, 0x10), 0x10000);
}

static void test_edge(void **state) {
	struct machine *m = *state;
	redir(&m->a, 4, 1u << 24, 0x34);
	ioapic_set_pin(&m->a, 4, true);
	ioapic_set_pin(&m->a, 4, true);
	assert_int_equal(lapic_intack(&m->l[1]), 0x34);
	assert_int_equal(lapic_intack(&m->l[1]), -1);
	eoi(&m->l[1]);
	assert_false(lapic_has_intr(&m->l[1]));
	/* A masked edge is lost. */
	ioapic_set_pin(&m->a, 4, false);
	wr(&m->a, 0x18, 0x10034);
	ioapic_set_pin(&m->a, 4, true);
	wr(&m->a, 0x18, 0x34);
	assert_false(lapic_has_intr(&m->l[1]));
	ioapic_set_pin(&m->a, 4, false);
	ioapic_set_pin(&m->a, 4, true);
	assert_true(lapic_has_intr(&m->l[1]));
	ioapic_set_pin(&m->a, 24, true);
	ioapic_set_pin(&m->a, ~0u, true);
}

static void test_level(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->l[0];

	redir(&m->a, 10, 0, 0xa040);
	ioapic_set_pin(&m->a, 10, true);
	assert_int_equal(rd(&m->a, 0x24), 0xe040); /* remote IRR */
	assert_int_equal(lapic_intack(l), 0x40);
	ioapic_set_pin(&m->a, 10, true);
	assert_false(lapic_has_intr(l));
	eoi(l); /* still high: again */
	assert_int_equal(lapic_intack(l), 0x40);
	assert_int_equal(rd(&m->a, 0x24), 0xe040);
	ioapic_set_pin(&m->a, 10, false);
	eoi(l);
	assert_int_equal(rd(&m->a, 0x24), 0xa040);
	assert_false(lapic_has_intr(l));

	/* Masked while high, and unmasked. */
	wr(&m->a, 0x24, 0x1a040);
	ioapic_set_pin(&m->a, 10, true);
	assert_false(lapic_has_intr(l));
	wr(&m->a, 0x24, 0xa040);
	assert_int_equal(lapic_intack(l), 0x40);
	/* Masked while in service: the EOI frees, the unmask sends. */
	wr(&m->a, 0x24, 0x1a040);
	eoi(l);
	assert_int_equal(rd(&m->a, 0x24), 0x1a040);
	assert_false(lapic_has_intr(l));
	wr(&m->a, 0x24, 0xa040);
	assert_true(lapic_has_intr(l));

	/* The EOI register, when broadcasts are suppressed. */
	lapic_mmio_write(l, 0xf0, 4, 0x11ff);
	assert_int_equal(lapic_intack(l), 0x40);
	ioapic_set_pin(&m->a, 10, false);
	eoi(l);
	assert_int_equal(rd(&m->a, 0x24), 0xe040);
	ioapic_ops.write(&m->a, 0x40, 4, 0x41);
	assert_int_equal(rd(&m->a, 0x24), 0xe040);
	ioapic_ops.write(&m->a, 0x40, 4, 0x40);
	assert_int_equal(rd(&m->a, 0x24), 0xa040);

	/* Going through edge-triggered frees a stuck entry. */
	ioapic_set_pin(&m->a, 10, true);
	assert_int_equal(rd(&m->a, 0x24), 0xe040);
	wr(&m->a, 0x24, 0x12040);
	assert_int_equal(rd(&m->a, 0x24), 0x12040);
}

static void test_shared_vector(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->l[0];
	redir(&m->a, 5, 0, 0x8050);
	redir(&m->a, 6, 0, 0x8050);
	ioapic_set_pin(&m->a, 5, true);
	ioapic_set_pin(&m->a, 6, true);
	assert_int_equal(lapic_intack(l), 0x50);
	ioapic_set_pin(&m->a, 5, false);
	eoi(l); /* frees both; 6 asks again */
	assert_int_equal(rd(&m->a, 0x1a), 0x8050);
	assert_int_equal(rd(&m->a, 0x1c), 0xc050);
	assert_int_equal(lapic_intack(l), 0x50);
}

static void test_modes(void **state) {
	struct machine *m = *state;

	redir(&m->a, 3, 1u << 24, 0x0400);
	ioapic_set_pin(&m->a, 3, true);
	assert_int_equal(m->nmis, 1);
	redir(&m->a, 3, 1u << 24, 0x8400); /* NMI is an edge whatever the entry says */
	assert_int_equal(m->nmis, 1);
	ioapic_set_pin(&m->a, 3, false);
	ioapic_set_pin(&m->a, 3, true);
	assert_int_equal(m->nmis, 2);
	assert_int_equal(rd(&m->a, 0x16), 0x8400);

	redir(&m->a, 0, 0, 0x0700);
	ioapic_set_pin(&m->a, 0, true);
	assert_int_equal(lapic_intack(&m->l[0]), LAPIC_EXTINT);
	redir(&m->a, 7, 3u << 24, 0x0860); /* logical, to both */
	ioapic_set_pin(&m->a, 7, true);
	assert_int_equal(lapic_intack(&m->l[0]), 0x60);
	assert_int_equal(lapic_intack(&m->l[1]), 0x60);
	redir(&m->a, 8, 3u << 24, 0x0970); /* to one of them */
	ioapic_set_pin(&m->a, 8, true);
	assert_int_equal(lapic_has_intr(&m->l[0]) + lapic_has_intr(&m->l[1]), 1);
	redir(&m->a, 9, 0, 0x0600); /* there is no SIPI from here */
	ioapic_set_pin(&m->a, 9, true);

	/* Nobody takes it: no remote IRR that nobody could clear. */
	redir(&m->a, 11, 7u << 24, 0x8071);
	ioapic_set_pin(&m->a, 11, true);
	assert_int_equal(rd(&m->a, 0x26), 0x8071);
}

static void walk(struct state_io *io, struct ioapic *a) {
	state_section(io, ioapic_device_ops.name, 0, ioapic_device_ops.version, ioapic_device_ops.state,
				  a);
}

static void test_state(void **state) {
	struct machine *m = *state;
	uint8_t buf[4096];
	struct state_io io;

	redir(&m->a, 10, 0, 0xa040);
	ioapic_set_pin(&m->a, 10, true);
	assert_int_equal(lapic_intack(&m->l[0]), 0x40);
	state_io_save(&io, buf, sizeof(buf));
	walk(&io, &m->a);
	assert_int_equal(io.error, 0);
	size_t len = io.pos;
	ioapic_set_pin(&m->a, 10, false);
	ioapic_device_ops.reset(&m->a);
	state_io_load(&io, buf, len);
	walk(&io, &m->a);
	assert_int_equal(io.error, 0);
	assert_int_equal(rd(&m->a, 0x24), 0xe040);
	eoi(&m->l[0]);
	assert_int_equal(lapic_intack(&m->l[0]), 0x40);

	srand(1);
	for (unsigned i = 0; i < 20000; i++) {
		uint8_t bad[4096];
		memcpy(bad, buf, len);
		for (unsigned n = 0; n < 1 + i % 4; n++)
			bad[(size_t)rand() % len] = (uint8_t)rand();
		state_io_load(&io, bad, len);
		walk(&io, &m->a);
		assert_true(m->a.pins < 1u << IOAPIC_PINS);
		rd(&m->a, m->a.select);
	}
}

static void test_garbage(void **state) {
	struct machine *m = *state;
	srand(3);
	for (unsigned i = 0; i < 200000; i++) {
		unsigned r = (unsigned)rand();
		switch (r % 4) {
		case 0:
			wr(&m->a, r >> 4 & 0xff, (uint32_t)rand() << 16 ^ (uint32_t)rand());
			break;
		case 1:
			ioapic_set_pin(&m->a, r >> 4 & 31, r >> 9 & 1);
			break;
		case 2:
			ioapic_ops.write(&m->a, r >> 4 & 0xfff, 4, (uint64_t)rand());
			ioapic_ops.read(&m->a, r >> 4 & 0xfff, 1);
			break;
		case 3:
			lapic_intack(&m->l[r >> 4 & 1]);
			eoi(&m->l[r >> 5 & 1]);
			break;
		}
	}
}

/* An engine that has the chip: pins are only noted, registers come back without them. */
static void test_image(void **state) {
	struct machine *m = *state;
	struct chips_image c = {.ioapic = {.id = 0xf3, .select = 7, .pins = ~0u}};
	redir(&m->a, 3, 0, 0x8041); /* level */
	assert_true(ioapic_note_pin(&m->a, 3, true));
	assert_false(ioapic_note_pin(&m->a, 3, true));
	assert_false(ioapic_note_pin(&m->a, IOAPIC_PINS, true));
	assert_int_equal(m->l[0].irr[2], 0);
	c.ioapic.redir[3] = 0xc041;					/* sent there: waits for its EOI */
	c.ioapic.redir[4] = 0x4042 | 0x1full << 32; /* an edge has no remote IRR */
	ioapic_set_image(&m->a, &c);
	assert_int_equal(m->a.id, 3);
	assert_int_equal(m->a.select, 7);
	assert_int_equal(m->a.pins, 1 << 3);
	assert_int_equal(m->a.redir[3], 0xc041);
	assert_int_equal(m->a.redir[4], 0x42);
	assert_int_equal(m->l[0].irr[2], 0);
	ioapic_eoi(&m->a, 0x41); /* and the level is still there */
	assert_int_equal(m->l[0].irr[2], 1 << 1);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_registers), T(test_edge),  T(test_level),   T(test_shared_vector),
		T(test_modes),	   T(test_state), T(test_garbage), T(test_image),
	};
	return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
