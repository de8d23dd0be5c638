/* Tests of kvmclock: the scale's precision over all frequencies, and the
 * structures as a guest reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/le.h"
#include "core/vm/kvmclock.h"
#include "core/vm/vm.h"
#include "test/unit/fake.h"

/* As a guest computes it. */
static uint64_t scaled(uint64_t delta, uint32_t mul, int8_t shift) {
	delta = shift < 0 ? delta >> -shift : delta << shift;
	return (uint64_t)((unsigned __int128)delta * mul >> 32);
}

static void test_scale(void **state) {
	static const uint32_t khz[] = {1,		1000,	 999999,  1000000, 1000001, 1999999,
								   2000000, 2000001, 2400000, 3000000, 5000000, 4294967295u};
	for (unsigned i = 0; i < sizeof(khz) / sizeof(*khz); i++) {
		uint32_t mul;
		int8_t shift;
		kvmclock_scale(khz[i], &mul, &shift);
		/* A second's worth of ticks is a second, to within a few parts in 10^9. */
		uint64_t ns = scaled((uint64_t)khz[i] * 1000, mul, shift);
		assert_in_range(ns, 1000000000 - 5, 1000000000 + 5);
	}
}

struct guest {
	struct fake_clock clock;
	struct vm_host host;
	struct vm vm;
	struct vcpu vcpu[2];
	struct mem_region ram;
	struct kvmclock k;
};

static int setup(void **state) {
	struct guest *g = aligned_alloc(64, (sizeof(struct guest) + 63) & ~(size_t)63);
	memset(g, 0, sizeof(*g));
	fake_clock_init(&g->clock);
	g->clock.wall_ns = 1700000000ull * 1000000000 + 5;
	vm_init(&g->vm, &g->host, &g->clock.clock);
	for (unsigned i = 0; i < 2; i++) {
		g->vm.vcpus[i] = &g->vcpu[i];
		g->vcpu[i].vm = &g->vm;
		g->vcpu[i].id = i;
	}
	g->vm.nvcpus = 2;
	g->ram =
		(struct mem_region){.name = "ram", .size = 4096, .kind = MEM_RAM, .host = calloc(1, 4096)};
	mem_add(&g->vm.mem, &g->ram);
	fake_clock_set(&g->clock, 1000);
	kvmclock_init(&g->k, &g->vm);
	*state = g;
	return 0;
}

static int teardown(void **state) {
	struct guest *g = *state;
	free(g->ram.host);
	free(g);
	return 0;
}

static uint64_t guest_ns(struct guest *g, unsigned cpu, uint64_t at) {
	const uint8_t *t = g->ram.host + at;
	assert_int_equal(le32_get(t) & 1, 0);
	assert_int_equal(t[29], 1);
	uint64_t delta = vcpu_tsc(&g->vcpu[cpu]) - le64_get(t + 8);
	return le64_get(t + 16) + scaled(delta, le32_get(t + 24), (int8_t)t[28]);
}

static void test_time(void **state) {
	struct guest *g = *state;
	assert_true(kvmclock_wrmsr(&g->k, &g->vcpu[0], 0x4b564d01, 0x101));
	fake_clock_set(&g->clock, 5000);
	g->vcpu[1].state.tsc_offset = 777777;
	assert_true(kvmclock_wrmsr(&g->k, &g->vcpu[1], 0x12, 0x141));
	fake_clock_set(&g->clock, 123456789);
	assert_in_range(guest_ns(g, 0, 0x100), 123456789 - 1, 123456789);
	assert_int_equal(guest_ns(g, 0, 0x100), guest_ns(g, 1, 0x140));
	uint32_t version = le32_get(g->ram.host + 0x140);
	g->vcpu[1].state.tsc_offset = 0;
	kvmclock_tsc_changed(&g->k, &g->vcpu[1]);
	assert_int_equal(guest_ns(g, 0, 0x100), guest_ns(g, 1, 0x140));
	assert_true(le32_get(g->ram.host + 0x140) > version);
	uint64_t val;
	assert_true(kvmclock_rdmsr(&g->k, &g->vcpu[1], 0x4b564d01, &val));
	assert_int_equal(val, 0x141);
	assert_false(kvmclock_wrmsr(&g->k, &g->vcpu[0], 0x4b564d02, 1));
}

static void test_wall(void **state) {
	struct guest *g = *state;
	fake_clock_set(&g->clock, 9000000000);
	assert_true(kvmclock_wrmsr(&g->k, &g->vcpu[0], 0x4b564d00, 0x200));
	assert_int_equal(le32_get(g->ram.host + 0x204), 1700000000);
	assert_int_equal(le32_get(g->ram.host + 0x208), 5);
}

/* Addresses that are not RAM, or only half: nothing happens, nothing is overrun. */
static void test_hostile(void **state) {
	struct guest *g = *state;
	static const uint64_t at[] = {0xff1, 0xffd, 0x1001, UINT64_MAX, UINT64_MAX - 30, 1};
	for (unsigned i = 0; i < sizeof(at) / sizeof(*at); i++) {
		assert_true(kvmclock_wrmsr(&g->k, &g->vcpu[0], 0x4b564d01, at[i] | 1));
		assert_true(kvmclock_wrmsr(&g->k, &g->vcpu[0], 0x4b564d00, at[i]));
	}
}

static void test_state(void **state) {
	struct guest *g = *state;
	uint8_t buf[512];
	struct state_io io;
	kvmclock_wrmsr(&g->k, &g->vcpu[0], 0x4b564d01, 0x101);
	state_io_save(&io, buf, sizeof(buf));
	state_section(&io, "kvmclock", 0, 1, kvmclock_device_ops.state, &g->k);
	assert_true(!io.error && io.pos <= sizeof(buf));
	size_t len = io.pos;
	kvmclock_device_ops.reset(&g->k);
	memset(g->ram.host, 0, 4096);
	/* Loaded where the TSC ticks at 2.5 times the speed of the clock it reads. */
	g->vm.clock.tsc_khz = 400000;
	state_io_load(&io, buf, len);
	state_section(&io, "kvmclock", 0, 1, kvmclock_device_ops.state, &g->k);
	assert_int_equal(io.error, 0);
	kvmclock_device_ops.loaded(&g->k);
	assert_int_equal(guest_ns(g, 0, 0x100), 1000);
	fake_clock_set(&g->clock, 1400);
	assert_in_range(guest_ns(g, 0, 0x100), 1999, 2000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scale), TEST(test_time),	TEST(test_wall),
		TEST(test_hostile),			  TEST(test_state),
	};
	return cmocka_run_group_tests_name("kvmclock", tests, NULL, NULL);
}
