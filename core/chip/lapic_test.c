#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/chip/lapic.h"
#include "test/unit/fake.h"

#define CPUS 4

struct cpu {
	struct lapic l;
	bool intr;
	unsigned nmis, inits, sipis;
	uint8_t sipi_vector;
	uint64_t tsc_offset;
	struct machine *m;
};

struct machine {
	struct fake_clock clock;
	struct lapic_bus bus;
	struct cpu cpu[CPUS];
	unsigned eois;
	uint8_t eoi_vector;
};

static void on_intr(void *o, bool level) {
	((struct cpu *)o)->intr = level;
}

static void on_nmi(void *o) {
	((struct cpu *)o)->nmis++;
}

static void on_init(void *o) {
	((struct cpu *)o)->inits++;
}

static void on_sipi(void *o, uint8_t vector) {
	struct cpu *c = o;
	c->sipis++;
	c->sipi_vector = vector;
}

static uint64_t on_tsc(void *o) {
	struct cpu *c = o;
	return c->m->clock.now_ns + c->tsc_offset;
}

static void on_eoi(void *o, uint8_t vector) {
	struct machine *m = o;
	m->eois++;
	m->eoi_vector = vector;
}

static uint32_t rd(struct lapic *l, unsigned off) {
	return (uint32_t)lapic_mmio_read(l, off, 4);
}

static void wr(struct lapic *l, unsigned off, uint32_t val) {
	lapic_mmio_write(l, off, 4, val);
}

static int setup(void **state) {
	struct machine *m = calloc(1, sizeof(*m));
	fake_clock_init(&m->clock);
	lapic_bus_init(&m->bus);
	lapic_bus_add_eoi(&m->bus, on_eoi, m);
	for (unsigned i = 0; i < CPUS; i++) {
		struct cpu *c = &m->cpu[i];
		c->m = m;
		struct lapic_out out = {on_intr, on_nmi, on_init, on_sipi, on_tsc, c};
		lapic_init(&c->l, &m->bus, &m->clock.timers, &out, i, i == 0);
		wr(&c->l, 0xf0, 0x1ff);
		wr(&c->l, 0xd0, 1u << (24 + i));
	}
	*state = m;
	return 0;
}

static int teardown(void **state) {
	free(*state);
	return 0;
}

static void ipi(struct lapic *l, uint32_t high, uint32_t low) {
	wr(l, 0x310, high);
	wr(l, 0x300, low);
}

/* Bitmap of CPUs with this vector requested; clears it. */
static unsigned took(struct machine *m, uint8_t vector) {
	unsigned who = 0;
	for (unsigned i = 0; i < CPUS; i++) {
		uint32_t *irr = &m->cpu[i].l.irr[vector >> 5];
		if (*irr >> (vector & 31) & 1)
			who |= 1u << i;
		*irr &= ~(1u << (vector & 31));
	}
	return who;
}

static void to_x2apic(struct lapic *l) {
	assert_true(lapic_wrmsr(l, 0x1b, l->base | APIC_BASE_EXTD));
}

static void test_power_on(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[1].l;
	lapic_device_ops.reset(l);
	assert_int_equal(rd(l, 0x20), 1u << 24);
	assert_int_equal(rd(l, 0x30), 0x01050014);
	assert_int_equal(rd(l, 0xf0), 0xff);
	assert_int_equal(rd(l, 0xe0), 0xffffffff);
	for (unsigned off = 0x320; off <= 0x370; off += 0x10) {
		assert_int_equal(rd(l, off), 0x10000);
		wr(l, off, 0x20); /* masked while the APIC is software-disabled */
		assert_int_equal(rd(l, off), 0x10020);
	}
	uint64_t v;
	assert_true(lapic_rdmsr(l, 0x1b, &v));
	assert_int_equal(v, 0xfee00800);
	assert_true(lapic_rdmsr(&m->cpu[0].l, 0x1b, &v));
	assert_int_equal(v, 0xfee00900);
}

static void test_priority(void **state) {
	struct machine *m = *state;
	struct cpu *c = &m->cpu[0];
	struct lapic *l = &c->l;

	assert_int_equal(lapic_intack(l), -1);
	lapic_accept(l, LAPIC_FIXED, 0x41, false);
	assert_true(c->intr);
	lapic_accept(l, LAPIC_FIXED, 0x52, false);
	lapic_accept(l, LAPIC_FIXED, 0x5f, false);
	assert_int_equal(lapic_intack(l), 0x5f);
	assert_int_equal(rd(l, 0xa0), 0x50);
	/* The same class has to wait. */
	assert_false(c->intr);
	assert_int_equal(lapic_intack(l), -1);
	/* A higher one does not. */
	lapic_accept(l, LAPIC_FIXED, 0x60, false);
	assert_true(c->intr);
	assert_int_equal(lapic_intack(l), 0x60);
	wr(l, 0xb0, 0);
	assert_false(c->intr);
	wr(l, 0xb0, 0);
	assert_int_equal(lapic_intack(l), 0x52);
	wr(l, 0xb0, 0);
	/* TPR holds off its class and those below; CR8 is its upper half. */
	wr(l, 0x80, 0x4f);
	assert_false(c->intr);
	assert_int_equal(rd(l, 0xa0), 0x4f);
	assert_int_equal(lapic_get_cr8(l), 4);
	lapic_set_cr8(l, 3);
	assert_int_equal(rd(l, 0x80), 0x30);
	assert_int_equal(lapic_intack(l), 0x41);
	assert_int_equal(rd(l, 0x120), 1u << 1); /* ISR 5Fh..40h */
	wr(l, 0xb0, 0);
	wr(l, 0xb0, 0); /* with nothing in service */
	assert_int_equal(m->eois, 0);
}

static void test_level_eoi(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[2].l;
	assert_true(lapic_bus_deliver(&m->bus, 2, false, LAPIC_FIXED, 0x77, true));
	assert_int_equal(rd(l, 0x1b0), 1u << 0x17);
	assert_int_equal(lapic_intack(l), 0x77);
	wr(l, 0xb0, 0);
	assert_int_equal(m->eois, 1);
	assert_int_equal(m->eoi_vector, 0x77);
	/* Suppressed broadcasts. */
	wr(l, 0xf0, 0x11ff);
	lapic_bus_deliver(&m->bus, 2, false, LAPIC_FIXED, 0x77, true);
	assert_int_equal(lapic_intack(l), 0x77);
	wr(l, 0xb0, 0);
	assert_int_equal(m->eois, 1);
	/* As an edge the same vector asks nobody. */
	wr(l, 0xf0, 0x1ff);
	lapic_bus_deliver(&m->bus, 2, false, LAPIC_FIXED, 0x77, false);
	assert_int_equal(rd(l, 0x1b0), 0);
	assert_int_equal(lapic_intack(l), 0x77);
	wr(l, 0xb0, 0);
	assert_int_equal(m->eois, 1);
}

static void test_ipi_destinations(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[1].l;

	ipi(l, 2u << 24, 0x30); /* physical */
	assert_int_equal(took(m, 0x30), 4);
	ipi(l, 0xffu << 24, 0x30);
	assert_int_equal(took(m, 0x30), 0xf);
	ipi(l, 9u << 24, 0x30); /* nobody */
	assert_int_equal(took(m, 0x30), 0);
	ipi(l, 5u << 24, 0x830); /* logical, flat */
	assert_int_equal(took(m, 0x30), 5);
	ipi(l, 0xffu << 24, 0x830);
	assert_int_equal(took(m, 0x30), 0xf);
	ipi(l, 0, 0x40030); /* self */
	assert_int_equal(took(m, 0x30), 2);
	ipi(l, 0, 0x80030); /* all */
	assert_int_equal(took(m, 0x30), 0xf);
	ipi(l, 0, 0xc0030); /* all but self */
	assert_int_equal(took(m, 0x30), 0xd);

	for (unsigned i = 0; i < CPUS; i++) { /* clusters: 1 and 2, members 1 and 2 */
		wr(&m->cpu[i].l, 0xe0, 0x0fffffff);
		wr(&m->cpu[i].l, 0xd0, ((1 + i / 2) << 4 | (1 + i % 2)) << 24);
	}
	ipi(l, 0x21u << 24, 0x830);
	assert_int_equal(took(m, 0x30), 4);
	ipi(l, 0x13u << 24, 0x830);
	assert_int_equal(took(m, 0x30), 3);
	ipi(l, 0x33u << 24, 0x830);
	assert_int_equal(took(m, 0x30), 0);

	wr(&m->cpu[3].l, 0xf0, 0xff); /* software-disabled: takes no interrupts */
	ipi(l, 0xffu << 24, 0x30);
	assert_int_equal(took(m, 0x30), 7);
}

static void test_lowest_priority(void **state) {
	struct machine *m = *state;
	unsigned seen = 0;
	wr(&m->cpu[0].l, 0x80, 0x20);
	wr(&m->cpu[1].l, 0x80, 0x10);
	wr(&m->cpu[2].l, 0x80, 0x10);
	wr(&m->cpu[3].l, 0x80, 0x30);
	for (unsigned i = 0; i < 2; i++) {
		ipi(&m->cpu[0].l, 0xfu << 24, 0x930);
		seen |= took(m, 0x30);
	}
	assert_int_equal(seen, 6); /* the two equals take turns */
	ipi(&m->cpu[0].l, 0x9u << 24, 0x930);
	assert_int_equal(took(m, 0x30), 1);
	wr(&m->cpu[1].l, 0xf0, 0xff);
	for (unsigned i = 0; i < 3; i++) {
		ipi(&m->cpu[0].l, 0xfu << 24, 0x930);
		assert_int_equal(took(m, 0x30), 4);
	}
	/* An MSI with the redirection hint is the same. */
	lapic_bus_msi(&m->bus, 0xfee0f00c, 0x30);
	assert_int_equal(took(m, 0x30), 4);
}

static void test_ipi_modes(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[0].l;

	ipi(l, 1u << 24, 0x400);
	assert_int_equal(m->cpu[1].nmis, 1);
	ipi(l, 0, 0xc0200); /* SMI: dropped */
	ipi(l, 0, 0xc0300); /* reserved */
	lapic_accept(&m->cpu[1].l, LAPIC_FIXED, 0x50, false);
	ipi(l, 1u << 24, 0xc500); /* INIT, level assert */
	assert_int_equal(m->cpu[1].inits, 1);
	assert_false(m->cpu[1].intr);
	assert_int_equal(rd(&m->cpu[1].l, 0xf0), 0xff);
	ipi(l, 1u << 24, 0x8500); /* level de-assert: nothing */
	assert_int_equal(m->cpu[1].inits, 1);
	ipi(l, 1u << 24, 0x4500); /* edge */
	assert_int_equal(m->cpu[1].inits, 2);
	ipi(l, 1u << 24, 0x0609);
	assert_int_equal(m->cpu[1].sipis, 1);
	assert_int_equal(m->cpu[1].sipi_vector, 9);
	ipi(l, 0, 0xc4500); /* all but self */
	assert_int_equal(m->cpu[0].inits, 0);
	assert_int_equal(m->cpu[1].inits + m->cpu[2].inits + m->cpu[3].inits, 5);
	ipi(l, 0, 0x700); /* ExtINT to CPU 0 */
	assert_true(m->cpu[0].intr);
	assert_int_equal(lapic_intack(l), LAPIC_EXTINT);
	assert_int_equal(lapic_intack(l), -1);
	ipi(l, 0, 0x44500); /* INIT to oneself, in the middle of the write */
	assert_int_equal(m->cpu[0].inits, 1);
	assert_int_equal(rd(l, 0x300), 0);
}

static void test_errors(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[0].l;

	wr(l, 0x370, 0xfe);
	ipi(l, 0, 0x40005); /* illegal vector */
	assert_int_equal(lapic_intack(l), 0xfe);
	wr(l, 0xb0, 0);
	assert_int_equal(rd(l, 0x280), 0);
	wr(l, 0x280, 0);
	assert_int_equal(rd(l, 0x280), ESR_SEND_ILLEGAL);
	wr(l, 0x280, 0);
	assert_int_equal(rd(l, 0x280), 0);
	assert_false(lapic_bus_deliver(&m->bus, 0, false, LAPIC_FIXED, 3, false));
	assert_int_equal(lapic_intack(l), 0xfe);
	wr(l, 0xb0, 0);
	rd(l, 0x40); /* no register there; not armed again yet, so no interrupt */
	assert_int_equal(lapic_intack(l), -1);
	wr(l, 0x280, 0);
	assert_int_equal(rd(l, 0x280), ESR_RECV_ILLEGAL | ESR_REGISTER);
	/* An error interrupt that is itself an error must end. */
	wr(l, 0x370, 0x05);
	ipi(l, 0, 0x40005);
	wr(l, 0x280, 0);
	assert_int_equal(rd(l, 0x280), ESR_RECV_ILLEGAL | ESR_SEND_ILLEGAL);
}

static void test_lint(void **state) {
	struct machine *m = *state;
	struct cpu *c = &m->cpu[0];
	struct lapic *l = &c->l;

	lapic_device_ops.reset(l);
	lapic_set_lint(l, 0, true);
	assert_false(c->intr); /* masked */
	lapic_virtual_wire(l);
	assert_true(c->intr);
	wr(l, 0x80, 0xff); /* the task priority does not hold ExtINT */
	assert_int_equal(lapic_intack(l), LAPIC_EXTINT);
	assert_true(c->intr); /* until the 8259 lowers it */
	lapic_set_lint(l, 0, false);
	assert_false(c->intr);
	lapic_set_lint(l, 1, true);
	lapic_set_lint(l, 1, true);
	assert_int_equal(c->nmis, 1);
	lapic_set_lint(l, 1, false);
	lapic_set_lint(l, 7, true);

	/* Fixed, level-triggered: remote IRR and another round. */
	wr(l, 0x80, 0);
	wr(l, 0x350, 0x8045);
	lapic_set_lint(l, 0, true);
	assert_int_equal(rd(l, 0x350), 0xc045);
	assert_int_equal(lapic_intack(l), 0x45);
	wr(l, 0xb0, 0);
	assert_int_equal(lapic_intack(l), 0x45);
	lapic_set_lint(l, 0, false);
	wr(l, 0xb0, 0);
	assert_int_equal(rd(l, 0x350), 0x8045);
	assert_int_equal(lapic_intack(l), -1);

	/* Globally disabled: the pins are INTR and NMI. */
	assert_true(lapic_wrmsr(l, 0x1b, 0xfee00100));
	lapic_set_lint(l, 0, true);
	assert_int_equal(lapic_intack(l), LAPIC_EXTINT);
	lapic_set_lint(l, 1, true);
	assert_int_equal(c->nmis, 2);
	assert_int_equal(lapic_mmio_read(l, 0x20, 4), ~0ull);
	wr(l, 0x80, 0x10);
	assert_int_equal(l->tpr, 0);

	/* A performance event masks its entry. */
	struct lapic *p = &m->cpu[1].l;
	wr(p, 0x340, 0x400);
	lapic_local_event(p, LVT_PERF);
	lapic_local_event(p, LVT_PERF);
	assert_int_equal(m->cpu[1].nmis, 1);
	assert_int_equal(rd(p, 0x340), 0x10400);
}

static void test_timer(void **state) {
	struct machine *m = *state;
	struct cpu *c = &m->cpu[0];
	struct lapic *l = &c->l;

	wr(l, 0x320, 0xec); /* one-shot */
	wr(l, 0x3e0, 0xb);	/* by 1 */
	wr(l, 0x380, 1000);
	fake_clock_set(&m->clock, 400);
	assert_int_equal(rd(l, 0x390), 600);
	wr(l, 0x3e0, 0x0); /* by 2: what is left takes twice as long */
	assert_int_equal(rd(l, 0x390), 600);
	fake_clock_set(&m->clock, 1599);
	assert_false(c->intr);
	fake_clock_set(&m->clock, 1600);
	assert_int_equal(lapic_intack(l), 0xec);
	wr(l, 0xb0, 0);
	assert_int_equal(rd(l, 0x390), 0);
	fake_clock_set(&m->clock, 100000);
	assert_false(c->intr);

	wr(l, 0x320, 0x200ec); /* periodic */
	wr(l, 0x3e0, 0xa);	   /* by 128 */
	wr(l, 0x380, 1000);
	for (unsigned i = 1; i < 5; i++) {
		fake_clock_set(&m->clock, 100000 + i * 128000);
		assert_int_equal(lapic_intack(l), 0xec);
		wr(l, 0xb0, 0);
	}
	/* Missed periods come as one, in phase. */
	m->clock.now_ns = 100000 + 9 * 128000 + 5;
	timers_run(&m->clock.timers, m->clock.now_ns);
	assert_int_equal(lapic_intack(l), 0xec);
	wr(l, 0xb0, 0);
	assert_int_equal(l->timer.deadline_ns, 100000 + 10 * 128000);
	wr(l, 0x380, 0);
	assert_false(timer_armed(&l->timer));

	/* A period of one tick must not keep the host busy for ever. */
	wr(l, 0x3e0, 0xb);
	wr(l, 0x380, 1);
	uint64_t from = m->clock.now_ns;
	assert_true(timers_run(&m->clock.timers, from + 1000000) >= from + 1000);
	wr(l, 0x320, 0x300ec); /* masked: it counts on silently */
	lapic_intack(l);
	wr(l, 0xb0, 0);
	fake_clock_set(&m->clock, from + 10000000);
	assert_false(c->intr);
}

static void test_tsc_deadline(void **state) {
	struct machine *m = *state;
	struct cpu *c = &m->cpu[0];
	struct lapic *l = &c->l;
	uint64_t v;

	c->tsc_offset = 1000000;
	assert_true(lapic_wrmsr(l, 0x6e0, 1000500)); /* not in that mode: nothing */
	assert_true(lapic_rdmsr(l, 0x6e0, &v));
	assert_int_equal(v, 0);
	wr(l, 0x320, 0x400ef);
	assert_true(lapic_wrmsr(l, 0x6e0, 1000500));
	assert_true(lapic_rdmsr(l, 0x6e0, &v));
	assert_int_equal(v, 1000500);
	wr(l, 0x380, 77); /* ignored */
	assert_int_equal(rd(l, 0x380), 0);
	fake_clock_set(&m->clock, 499);
	assert_false(c->intr);
	fake_clock_set(&m->clock, 500);
	assert_int_equal(lapic_intack(l), 0xef);
	wr(l, 0xb0, 0);
	assert_true(lapic_rdmsr(l, 0x6e0, &v));
	assert_int_equal(v, 0);

	assert_true(lapic_wrmsr(l, 0x6e0, 5)); /* the past: at once */
	assert_int_equal(lapic_intack(l), 0xef);
	wr(l, 0xb0, 0);

	assert_true(lapic_wrmsr(l, 0x6e0, ~0ull)); /* as good as never */
	fake_clock_set(&m->clock, 1ull << 50);
	assert_false(c->intr);
	assert_true(lapic_wrmsr(l, 0x6e0, 0));
	assert_false(timer_armed(&l->timer));

	/* The TSC moves under an armed deadline. */
	uint64_t now = m->clock.now_ns;
	assert_true(lapic_wrmsr(l, 0x6e0, now + c->tsc_offset + 1000));
	c->tsc_offset -= 1000;
	fake_clock_set(&m->clock, now + 1000);
	assert_false(c->intr);
	c->tsc_offset += 100000;
	lapic_tsc_changed(l);
	assert_int_equal(lapic_intack(l), 0xef);
	wr(l, 0xb0, 0);
	/* Leaving the mode disarms. */
	assert_true(lapic_wrmsr(l, 0x6e0, ~0ull));
	wr(l, 0x320, 0xef);
	assert_false(timer_armed(&l->timer));

	/* Rounding of a slow, odd clock: never early, never lost. */
	m->clock.clock.tsc_khz = 999999;
	wr(l, 0x320, 0x400ef);
	now = m->clock.now_ns;
	assert_true(lapic_wrmsr(l, 0x6e0, now + c->tsc_offset + 12345));
	fake_clock_set(&m->clock, now + 12347);
	assert_int_equal(lapic_intack(l), 0xef);
}

static void test_x2apic(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[2].l;
	uint64_t v;

	assert_false(lapic_rdmsr(l, 0x802, &v)); /* not in x2APIC mode */
	assert_false(lapic_wrmsr(l, 0x80b, 0));
	assert_false(lapic_wrmsr(l, 0x1b, 0xfee00400)); /* EXTD without EN */
	assert_false(lapic_wrmsr(l, 0x1b, 0xfee00801)); /* reserved */
	assert_false(lapic_wrmsr(l, 0x1b, 1ull << 52 | 0xfee00800));
	to_x2apic(l);
	assert_true(lapic_rdmsr(l, 0x802, &v));
	assert_int_equal(v, 2);
	assert_true(lapic_rdmsr(l, 0x80d, &v));
	assert_int_equal(v, 4);
	assert_int_equal(lapic_mmio_read(l, 0x20, 4), ~0ull);
	assert_false(lapic_wrmsr(l, 0x1b, 0xfee00800)); /* back to xAPIC */

	static const uint16_t bad_reads[] = {0x800, 0x801, 0x804, 0x809, 0x80b, 0x80c, 0x80e,
										 0x829, 0x82f, 0x831, 0x83a, 0x83f, 0x840, 0x8ff};
	for (unsigned i = 0; i < sizeof(bad_reads) / sizeof(bad_reads[0]); i++)
		assert_false(lapic_rdmsr(l, bad_reads[i], &v));
	static const uint16_t bad_writes[] = {0x800, 0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810,
										  0x818, 0x820, 0x831, 0x839, 0x83a, 0x8ff};
	for (unsigned i = 0; i < sizeof(bad_writes) / sizeof(bad_writes[0]); i++)
		assert_false(lapic_wrmsr(l, bad_writes[i], 0));
	assert_false(lapic_wrmsr(l, 0x80b, 1));
	assert_false(lapic_wrmsr(l, 0x828, 1));
	assert_false(lapic_wrmsr(l, 0x808, 0x100));
	assert_false(lapic_wrmsr(l, 0x80f, 0x800));
	assert_false(lapic_wrmsr(l, 0x832, 1 << 20));
	assert_false(lapic_wrmsr(l, 0x838, 1ull << 32));
	assert_false(lapic_wrmsr(l, 0x830, 1 << 20));

	assert_true(lapic_wrmsr(l, 0x808, 0x10));
	assert_true(lapic_wrmsr(l, 0x83f, 0x99)); /* self IPI */
	assert_int_equal(lapic_intack(l), 0x99);
	assert_true(lapic_wrmsr(l, 0x80b, 0));
	assert_true(lapic_wrmsr(l, 0x83f, 0x05)); /* illegal vector: an error, not a fault */
	assert_true(lapic_wrmsr(l, 0x828, 0));
	assert_true(lapic_rdmsr(l, 0x828, &v));
	assert_int_equal(v, ESR_SEND_ILLEGAL);

	/* IPIs between the modes. */
	to_x2apic(&m->cpu[3].l);
	assert_true(lapic_wrmsr(l, 0x830, 3ull << 32 | 0x30));
	assert_int_equal(took(m, 0x30), 8);
	assert_true(lapic_wrmsr(l, 0x830, 0xcull << 32 | 0x830));
	assert_int_equal(took(m, 0x30), 0xc); /* logical; the xAPICs have no such bit */
	assert_true(lapic_wrmsr(l, 0x830, 0x1000full << 32 | 0x830));
	assert_int_equal(took(m, 0x30), 0);
	assert_true(lapic_wrmsr(l, 0x830, 0xffffffffull << 32 | 0x30));
	assert_int_equal(took(m, 0x30), 0xf);
	assert_true(lapic_wrmsr(l, 0x830, 0xffull << 32 | 0x30));
	assert_int_equal(took(m, 0x30), 0);
	ipi(&m->cpu[0].l, 0xffu << 24, 0x30);
	assert_int_equal(took(m, 0x30), 0xf);
	lapic_bus_deliver(&m->bus, 0xff, false, LAPIC_FIXED, 0x30, false);
	assert_int_equal(took(m, 0x30), 0xf);
	lapic_bus_deliver(&m->bus, 8, true, LAPIC_FIXED, 0x30, false);
	assert_int_equal(took(m, 0x30), 8);
	/* INIT keeps the mode. */
	assert_true(lapic_wrmsr(l, 0x830, 3ull << 32 | 0x4500));
	assert_int_equal(m->cpu[3].inits, 1);
	assert_true(lapic_rdmsr(&m->cpu[3].l, 0x80d, &v));
	assert_int_equal(v, 8);
	assert_true(lapic_rdmsr(l, 0x830, &v));
	assert_int_equal(v, 3ull << 32 | 0x4500);

	/* Out through disabled; from there x2APIC is one step too far. */
	assert_true(lapic_wrmsr(l, 0x1b, 0xfee00000));
	assert_false(lapic_rdmsr(l, 0x802, &v));
	assert_false(lapic_wrmsr(l, 0x1b, 0xfee00c00));
	assert_true(lapic_wrmsr(l, 0x1b, 0xfee00800));
	assert_int_equal(rd(l, 0x20), 2u << 24);
	assert_int_equal(rd(l, 0xf0), 0xff);
	assert_int_equal(rd(l, 0xd0), 0);
}

static void test_msi(void **state) {
	struct machine *m = *state;
	lapic_bus_msi(&m->bus, 0xfee01000, 0x31);
	assert_int_equal(took(m, 0x31), 2);
	lapic_bus_msi(&m->bus, 0xfee0a004, 0x31);
	assert_int_equal(took(m, 0x31), 0xa);
	lapic_bus_msi(&m->bus, 0xfeeff000, 0x31);
	assert_int_equal(took(m, 0x31), 0xf);
	lapic_bus_msi(&m->bus, 0xfee01000, 0x8031); /* level de-assert */
	assert_int_equal(took(m, 0x31), 0);
	lapic_bus_msi(&m->bus, 0xfee01000, 0xc031);
	assert_int_equal(m->cpu[1].l.tmr[1], 1 << 0x11);
	lapic_bus_msi(&m->bus, 0x1000, 0x31); /* memory */
	lapic_bus_msi(&m->bus, 0x1fee01000, 0x31);
	assert_int_equal(took(m, 0x31), 2);
	lapic_bus_msi(&m->bus, 0xfee01000, 0x400);
	assert_int_equal(m->cpu[1].nmis, 1);
	lapic_bus_msi(&m->bus, 0xfee01000, 0x600); /* no SIPI by MSI */
	assert_int_equal(m->cpu[1].sipis, 0);
}

static void walk(struct state_io *io, struct lapic *l) {
	state_section(io, lapic_device_ops.name, l->id, lapic_device_ops.version,
				  lapic_device_ops.state, l);
}

static void test_state(void **state) {
	struct machine *m = *state;
	struct cpu *c = &m->cpu[0];
	struct lapic *l = &c->l;
	uint8_t buf[4096], again[4096];
	struct state_io io;

	/* In the middle of everything: one in service, one waiting, timer running. */
	lapic_accept(l, LAPIC_FIXED, 0x90, true);
	assert_int_equal(lapic_intack(l), 0x90);
	lapic_accept(l, LAPIC_FIXED, 0x91, false);
	lapic_accept(l, LAPIC_FIXED, 0xa0, false);
	wr(l, 0x350, 0x700);
	wr(l, 0x320, 0xec);
	wr(l, 0x3e0, 0xb);
	wr(l, 0x380, 100000);
	fake_clock_set(&m->clock, 30000);
	state_io_save(&io, buf, sizeof(buf));
	walk(&io, l);
	assert_int_equal(io.error, 0);
	size_t len = io.pos;
	assert_true(len < sizeof(buf));

	lapic_device_ops.reset(l);
	assert_false(c->intr);
	state_io_load(&io, buf, len);
	walk(&io, l);
	assert_int_equal(io.error, 0);
	lapic_device_ops.loaded(l);
	assert_true(c->intr);
	assert_int_equal(rd(l, 0x390), 70000);
	state_io_save(&io, again, sizeof(again));
	walk(&io, l);
	assert_int_equal(io.pos, len);
	assert_memory_equal(buf, again, len);

	assert_int_equal(lapic_intack(l), 0xa0);
	wr(l, 0xb0, 0);
	assert_int_equal(m->eois, 0);
	wr(l, 0xb0, 0);
	assert_int_equal(m->eoi_vector, 0x90);
	assert_int_equal(lapic_intack(l), 0x91);
	wr(l, 0xb0, 0);
	fake_clock_set(&m->clock, 99999);
	assert_false(c->intr);
	fake_clock_set(&m->clock, 100000);
	assert_int_equal(lapic_intack(l), 0xec);

	/* Deadline mode. */
	wr(l, 0xb0, 0);
	wr(l, 0x320, 0x400ef);
	assert_true(lapic_wrmsr(l, 0x6e0, 150000));
	state_io_save(&io, buf, sizeof(buf));
	walk(&io, l);
	len = io.pos;
	lapic_device_ops.reset(l);
	state_io_load(&io, buf, len);
	walk(&io, l);
	lapic_device_ops.loaded(l);
	fake_clock_set(&m->clock, 150000);
	assert_int_equal(lapic_intack(l), 0xef);
}

/* Whatever a stream holds, the APIC that comes out of it survives use. */
static void test_hostile_state(void **state) {
	struct machine *m = *state;
	struct lapic *l = &m->cpu[0].l;
	uint8_t buf[4096], bad[4096];
	struct state_io io;
	uint64_t v;

	state_io_save(&io, buf, sizeof(buf));
	walk(&io, l);
	size_t len = io.pos;
	srand(1);
	for (unsigned i = 0; i < 20000; i++) {
		memcpy(bad, buf, len);
		for (unsigned n = 0; n < 1 + i % 4; n++)
			bad[(size_t)rand() % len] = (uint8_t)rand();
		lapic_device_ops.reset(l);
		state_io_load(&io, bad, len);
		walk(&io, l);
		if (io.error) /* the machine is thrown away then */
			continue;
		lapic_device_ops.loaded(l);
		assert_true(l->irr[0] <= 0xffffffff && !(l->irr[0] & 0xffff));
		lapic_intack(l);
		rd(l, 0x390);
		wr(l, 0xb0, 0);
		lapic_rdmsr(l, 0x839, &v);
		fake_clock_set(&m->clock, m->clock.now_ns + 1000);
	}
}

/* An engine that has the APICs: registers go there and come back, the model stands still. */
static gpa_t sent_addr;
static uint32_t sent_data;

static void take_message(void *opaque, gpa_t addr, uint32_t data) {
	sent_addr = addr;
	sent_data = data;
}

static void take_settle(void *opaque) {
	sent_addr = 0;
}

static void test_image(void **state) {
	static const struct vm_apics apics = {.message = take_message, .settle = take_settle};
	struct machine *m = *state;
	struct lapic *l = &m->cpu[1].l, *other = &m->cpu[2].l;
	struct apic_image a, b;
	wr(l, 0xf0, 0x1ff);
	wr(l, 0x80, 0x5a);
	wr(l, 0xd0, 0x02000000);
	wr(l, 0x320, 0x20041); /* periodic */
	wr(l, 0x3e0, 0xb);
	wr(l, 0x380, 1000000);
	lapic_bus_msi(&m->bus, 0xfee00000 | 1 << 12, 0x4071);
	fake_clock_set(&m->clock, m->clock.now_ns + 250000);
	lapic_get_image(l, &a);
	assert_int_equal(a.regs[0x80], 0x5a);
	assert_int_equal(a.regs[0x232], 0x02); /* IRR of vector 71h */
	assert_int_equal(a.regs[0x390] | a.regs[0x391] << 8 | a.regs[0x392] << 16, 750000);
	bool intr = m->cpu[2].intr;
	m->bus.apics = &apics;
	lapic_set_image(other, &a);
	assert_int_equal(m->cpu[2].intr, intr);	  /* nothing raised ... */
	assert_false(timer_armed(&other->timer)); /* ... nothing armed */
	lapic_device_ops.loaded(other);
	assert_false(timer_armed(&other->timer));
	lapic_get_image(other, &b);
	a.regs[0x23] = b.regs[0x23]; /* the id stays each one's own */
	assert_memory_equal(&a, &b, sizeof(a));
	/* Messages go to the engine as a device would write them. */
	assert_true(lapic_bus_deliver(&m->bus, 3, true, LAPIC_LOWEST, 0x52, true));
	assert_int_equal(sent_addr, 0xfee03004);
	assert_int_equal(sent_data, 0xc152);
	lapic_bus_msi(&m->bus, 0xfee01000, 0x33);
	assert_int_equal(sent_addr, 0xfee01000);
	lapic_bus_settle(&m->bus);
	assert_int_equal(sent_addr, 0);
	/* Back here, all of it lives again. */
	m->bus.apics = NULL;
	lapic_device_ops.loaded(other);
	assert_true(timer_armed(&other->timer));
	assert_true(m->cpu[2].intr);
}

/* Garbage into every register by every way. */
static void test_garbage(void **state) {
	struct machine *m = *state;
	uint64_t v;
	srand(2);
	for (unsigned i = 0; i < 400000; i++) {
		struct lapic *l = &m->cpu[rand() % CPUS].l;
		uint64_t val = (uint64_t)rand() << 33 ^ (uint64_t)rand() << 11 ^ (uint64_t)rand();
		unsigned r = (unsigned)rand();
		if (r & 0x100)
			val &= 0xfff;
		switch (r % 8) {
		case 0:
		case 1:
			lapic_mmio_write(l, (r >> 4 & 0xff) << 4, 4, val);
			break;
		case 2:
			lapic_mmio_write(l, r >> 4 & 0xfff, 1u << (r >> 20 & 3), val);
			lapic_mmio_read(l, r >> 4 & 0xfff, 1u << (r >> 20 & 3));
			break;
		case 3:
			lapic_wrmsr(l, 0x800 + (r >> 4 & 0x3f), val);
			lapic_rdmsr(l, 0x800 + (r >> 4 & 0xff), &v);
			break;
		case 4:
			lapic_wrmsr(l, r & 0x10 ? 0x1b : 0x6e0,
						r & 0x10 ? (val & 0xc00) | 0xfee00000 : m->clock.now_ns + (val & 0xffff));
			break;
		case 5:
			lapic_bus_msi(&m->bus, 0xfee00000 | (val & 0xff00c), (uint32_t)(val >> 20));
			break;
		case 6:
			lapic_set_lint(l, r >> 4 & 1, r >> 5 & 1);
			break;
		case 7:
			lapic_intack(l);
			fake_clock_set(&m->clock, m->clock.now_ns + (r >> 10 & 0xfff));
			break;
		}
		for (unsigned n = 0; n < CPUS; n++)
			assert_int_equal(m->cpu[n].intr, lapic_has_intr(&m->cpu[n].l));
	}
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_power_on),  T(test_priority),		 T(test_level_eoi),
		T(test_lint),	   T(test_ipi_destinations), T(test_lowest_priority),
		T(test_ipi_modes), T(test_errors),			 T(test_timer),
		T(test_msi),	   T(test_tsc_deadline),	 T(test_x2apic),
		T(test_state),	   T(test_hostile_state),	 T(test_garbage),
		T(test_image),
	};
	return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
