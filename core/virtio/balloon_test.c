/* The balloon: which memory goes back, and nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/balloon.h"
#include "test/unit/virtio_driver.h"

struct rig {
	struct drv d;
	struct virtio_balloon *b;
	struct drv_ring r[3];
	unsigned calls;
	uint8_t *host[32];
	uint64_t len[32];
};

static struct rig rig;

static void discard(void *opaque, uint8_t *host, uint64_t len) {
	struct rig *g = opaque;
	assert_true(g->calls < 32);
	g->host[g->calls] = host;
	g->len[g->calls++] = len;
}

static void make(struct rig *g, uint64_t features) {
	memset(g, 0, sizeof(*g));
	drv_init(&g->d);
	struct balloon_backend be = {discard, g};
	g->b = virtio_balloon_create(&g->d.vm, &be);
	drv_attach(&g->d, virtio_balloon_device(g->b));
	assert_true(drv_handshake(&g->d, features | F_V1));
	for (unsigned i = 0; i < 3; i++)
		drv_ring_init(&g->d, &g->r[i], i, 8);
	drv_driver_ok(&g->d);
}

static int teardown(void **state) {
	drv_free(&rig.d);
	return 0;
}

static void give(unsigned queue, const struct drv_buf *b, unsigned n) {
	uint16_t id;
	uint32_t len;
	drv_add(&rig.r[queue], b, n);
	drv_kick(&rig.r[queue]);
	assert_true(drv_used(&rig.r[queue], &id, &len) && len == 0);
}

static void test_inflate(void **state) {
	static const uint32_t pfns[] = {0x90, 0x91, 0x92, 0xa1, 0xa0, 0xffffffff, 0x200, 0xfffff, 0xb0};
	make(&rig, 0);
	for (unsigned i = 0; i < ARRAY_LEN(pfns); i++)
		le32_put(rig.d.ram + DRV_DATA + 4 * i, pfns[i]);
	struct drv_buf b = {DRV_DATA, sizeof(pfns), false};
	give(0, &b, 1);
	assert_int_equal(rig.calls, 3); /* two runs, what is no RAM or ROM left out, one page */
	assert_ptr_equal(rig.host[0], rig.d.ram + 0x90000);
	assert_int_equal(rig.len[0], 0x3000);
	assert_ptr_equal(rig.host[1], rig.d.ram + 0xa0000);
	assert_int_equal(rig.len[1], 0x2000);
	assert_ptr_equal(rig.host[2], rig.d.ram + 0xb0000);
	give(1, &b, 1);
	b.len = 3; /* less than one number */
	give(0, &b, 1);
	assert_int_equal(rig.calls, 3);
}

static void test_report(void **state) {
	struct virtio_balloon_stats s;
	struct drv_buf b[3] = {
		{0x90000, 0x4000, true}, {0xa0800, 0x1800, true}, {0xb0001, 0x1ffe, true}};
	make(&rig, 0);
	drv_add(&rig.r[2], b, 1);
	drv_kick(&rig.r[2]);
	assert_int_equal(rig.calls, 0); /* not agreed on */
	drv_free(&rig.d);
	make(&rig, F(5));
	give(2, b, 3);
	assert_int_equal(rig.calls, 2);
	assert_ptr_equal(rig.host[0], rig.d.ram + 0x90000);
	assert_int_equal(rig.len[0], 0x4000);
	assert_ptr_equal(rig.host[1], rig.d.ram + 0xa1000); /* the whole page of it */
	assert_int_equal(rig.len[1], 0x1000);
	virtio_balloon_get_stats(rig.b, &s);
	assert_int_equal(s.reported, 0x5000);
}

static void test_target(void **state) {
	static uint8_t buf[65536];
	struct virtio_balloon_stats s;
	make(&rig, 0);
	virtio_balloon_set_target(rig.b, 0x345678);
	assert_int_equal(drv_reg(&rig.d, 0x100), 0x345);
	assert_true(drv_reg(&rig.d, 0x60) & 2);
	drv_set_reg(&rig.d, 0x104, 0x123);
	virtio_balloon_get_stats(rig.b, &s);
	assert_int_equal(s.target, 0x345000);
	assert_int_equal(s.actual, 0x123000);
	size_t size = drv_save(&rig.d, buf, sizeof(buf));
	drv_free(&rig.d);
	make(&rig, 0);
	assert_int_equal(drv_load(&rig.d, buf, size), 0);
	virtio_balloon_get_stats(rig.b, &s);
	assert_int_equal(s.actual, 0x123000);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_inflate, teardown),
		cmocka_unit_test_teardown(test_report, teardown),
		cmocka_unit_test_teardown(test_target, teardown),
	};
	return cmocka_run_group_tests_name("virtio_balloon", tests, NULL, NULL);
}
