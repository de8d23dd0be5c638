/* The console with its ports, and the random number device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/console.h"
#include "core/virtio/rng.h"
#include "test/unit/virtio_driver.h"

#define MULTIPORT F(1)

struct wire {
	char out[256];
	size_t len, room;
	unsigned readable;
	struct char_device dev;
	const char *input; /* what is offered on readable */
};

static size_t wire_write(void *opaque, const uint8_t *buf, size_t len) {
	struct wire *w = opaque;
	size_t n = MIN(len, w->room);
	memcpy(w->out + w->len, buf, n);
	w->len += n;
	w->room -= n;
	return n;
}

static void wire_readable(void *opaque) {
	struct wire *w = opaque;
	w->readable++;
	if (w->input && *w->input)
		w->input += w->dev.receive(w->dev.dev, (const uint8_t *)w->input, str_len(w->input));
}

struct rig {
	struct drv d;
	struct wire wire[2];
	struct virtio_console *c;
	struct drv_ring r[6];
};

static struct rig rig;

static void make(struct rig *g) {
	memset(g, 0, sizeof(*g));
	drv_init(&g->d);
	struct virtio_console_port_options ports[2] = {
		{NULL, true, {wire_write, wire_readable, &g->wire[0]}, false},
		{"org.joist.agent", false, {wire_write, wire_readable, &g->wire[1]}, false},
	};
	g->c = virtio_console_create(&g->d.vm, ports, 2);
	for (unsigned i = 0; i < 2; i++) {
		g->wire[i].room = sizeof(g->wire[i].out);
		g->wire[i].dev = virtio_console_port(g->c, i);
	}
	drv_attach(&g->d, virtio_console_device(g->c));
}

static void begin(struct rig *g, uint64_t features) {
	assert_true(drv_handshake(&g->d, features | F_V1));
	for (unsigned i = 0; i < 6; i++)
		drv_ring_init(&g->d, &g->r[i], i, 16);
	drv_driver_ok(&g->d);
}

static int teardown(void **state) {
	drv_free(&rig.d);
	return 0;
}

static bool used(unsigned queue, uint32_t *len) {
	uint16_t id;
	return drv_used(&rig.r[queue], &id, len);
}

static void send_text(unsigned queue, gpa_t at, const char *text) {
	memcpy(rig.d.ram + at, text, str_len(text));
	struct drv_buf b = {at, (uint32_t)str_len(text), false};
	drv_add(&rig.r[queue], &b, 1);
	drv_kick(&rig.r[queue]);
}

static void give_buffer(unsigned queue, gpa_t at, uint32_t len) {
	struct drv_buf b = {at, len, true};
	drv_add(&rig.r[queue], &b, 1);
	drv_kick(&rig.r[queue]);
}

static void control(uint32_t id, uint16_t event, uint16_t value) {
	uint8_t *msg = rig.d.ram + 0x90000;
	uint32_t len;
	le32_put(msg, id);
	le16_put(msg + 4, event);
	le16_put(msg + 6, value);
	struct drv_buf b = {0x90000, 8, false};
	drv_add(&rig.r[3], &b, 1);
	drv_kick(&rig.r[3]);
	assert_true(used(3, &len));
}

static void expect_control(gpa_t at, uint32_t id, uint16_t event, uint16_t value,
						   const char *rest) {
	uint32_t len;
	assert_true(used(2, &len));
	assert_int_equal(len, 8 + str_len(rest));
	assert_int_equal(le32_get(rig.d.ram + at), id);
	assert_int_equal(le16_get(rig.d.ram + at + 4), event);
	assert_int_equal(le16_get(rig.d.ram + at + 6), value);
	assert_memory_equal(rig.d.ram + at + 8, rest, str_len(rest));
}

static void test_output(void **state) {
	make(&rig);
	begin(&rig, 0);
	uint32_t len;
	send_text(1, DRV_DATA, "hello ");
	assert_true(used(1, &len));
	assert_int_equal(len, 0);
	rig.wire[0].room = 3; /* the back end is slow */
	send_text(1, DRV_DATA + 16, "world");
	assert_false(used(1, &len));
	send_text(1, DRV_DATA + 32, "!");
	assert_string_equal(rig.wire[0].out, "hello wor");
	rig.wire[0].room = 1;
	rig.wire[0].dev.writable(rig.wire[0].dev.dev);
	assert_false(used(1, &len));
	rig.wire[0].room = 100;
	rig.wire[0].dev.writable(rig.wire[0].dev.dev);
	assert_true(used(1, &len));
	assert_true(used(1, &len));
	assert_string_equal(rig.wire[0].out, "hello world!");
	/* Other ports' queues are dead without MULTIPORT. */
	send_text(5, DRV_DATA, "x");
	assert_false(used(5, &len));
	/* Reset in the middle of a chain. */
	rig.wire[0].room = 2;
	send_text(1, DRV_DATA, "12345");
	begin(&rig, 0);
	rig.wire[0].room = 100;
	rig.wire[0].dev.writable(rig.wire[0].dev.dev);
	assert_false(used(1, &len));
	assert_string_equal(rig.wire[0].out, "hello world!12");
}

static void test_input(void **state) {
	make(&rig);
	struct wire *w = &rig.wire[0];
	const uint8_t *text = (const uint8_t *)"abcdefgh";
	assert_int_equal(w->dev.receive(w->dev.dev, text, 8), 0); /* nobody there */
	begin(&rig, 0);
	assert_int_equal(w->dev.receive(w->dev.dev, text, 8), 0);
	give_buffer(0, DRV_DATA, 3);
	assert_int_equal(w->readable, 2); /* on DRIVER_OK and now */
	give_buffer(0, DRV_DATA + 16, 3);
	assert_int_equal(w->readable, 2);
	assert_int_equal(w->dev.receive(w->dev.dev, text, 8), 6);
	w->input = "gh";
	give_buffer(0, DRV_DATA + 32, 64);
	assert_int_equal(w->readable, 3);
	uint32_t len;
	assert_true(used(0, &len) && len == 3);
	assert_true(used(0, &len) && len == 3);
	assert_true(used(0, &len) && len == 2);
	assert_false(used(0, &len));
	assert_memory_equal(rig.d.ram + DRV_DATA, "abc", 3);
	assert_memory_equal(rig.d.ram + DRV_DATA + 16, "def", 3);
	assert_memory_equal(rig.d.ram + DRV_DATA + 32, "gh\0", 3);
	/* A buffer that cannot be written. */
	w->dev.receive(w->dev.dev, text, 1);
	struct drv_buf b = {DRV_DATA, 4, false};
	drv_add(&rig.r[0], &b, 1);
	w->dev.receive(w->dev.dev, text, 1);
	assert_true(drv_needs_reset(&rig.d));
}

static void test_multiport(void **state) {
	make(&rig);
	begin(&rig, MULTIPORT);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, DRV_MMIO + 0x104, 4), 2);
	control(0, 0, 1); /* DEVICE_READY, and no buffers yet */
	for (unsigned i = 0; i < 8; i++)
		give_buffer(2, DRV_DATA + 0x100 * i, 64);
	expect_control(DRV_DATA, 0, 1, 0, "");
	expect_control(DRV_DATA + 0x100, 1, 1, 0, "");
	control(0, 3, 1); /* PORT_READY */
	expect_control(DRV_DATA + 0x200, 0, 4, 1, "");
	expect_control(DRV_DATA + 0x300, 0, 6, 1, "");
	control(1, 3, 1);
	expect_control(DRV_DATA + 0x400, 1, 7, 1, "org.joist.agent");
	expect_control(DRV_DATA + 0x500, 1, 6, 1, "");
	/* Input waits until the guest opens the port. */
	struct wire *w = &rig.wire[1];
	give_buffer(4, 0x98000, 16);
	assert_int_equal(w->dev.receive(w->dev.dev, (const uint8_t *)"in", 2), 0);
	w->input = "in";
	control(1, 6, 1);
	uint32_t len;
	assert_true(used(4, &len) && len == 2);
	send_text(5, 0x99000, "out");
	assert_string_equal(w->out, "out");
	/* Nonsense is ignored. */
	control(77, 3, 1);
	control(0xffffffff, 6, 1);
	control(0, 1234, 1);
	assert_false(drv_needs_reset(&rig.d));
	/* The host's end closes and opens. */
	virtio_console_set_open(rig.c, 1, false);
	expect_control(DRV_DATA + 0x600, 1, 6, 0, "");
	virtio_console_set_open(rig.c, 1, true);
	virtio_console_set_open(rig.c, 1, false);
	expect_control(DRV_DATA + 0x700, 1, 6, 1, "");
	give_buffer(2, DRV_DATA + 0x600, 64); /* the last change waited for it */
	expect_control(DRV_DATA + 0x600, 1, 6, 0, "");
	give_buffer(2, DRV_DATA + 0x600, 64);
	/* The terminal's size. */
	virtio_console_resize(rig.c, 80, 25);
	assert_true(used(2, &len) && len == 12);
	assert_int_equal(le16_get(rig.d.ram + DRV_DATA + 0x604), 5);
	assert_int_equal(le32_get(rig.d.ram + DRV_DATA + 0x608), 25 | 80 << 16);
}

static void test_resize(void **state) {
	make(&rig);
	begin(&rig, F(0));
	uint8_t before = (uint8_t)drv_reg(&rig.d, 0xfc);
	virtio_console_resize(rig.c, 132, 43);
	assert_int_equal(drv_reg(&rig.d, 0x60), 2);
	assert_int_not_equal(drv_reg(&rig.d, 0xfc), before);
	assert_int_equal(drv_reg(&rig.d, 0x100), 132 | 43 << 16);
	/* Emergency output works whatever the state. */
	drv_set_reg(&rig.d, 0x70, 0);
	drv_set_reg(&rig.d, 0x108, 'P');
	assert_string_equal(rig.wire[0].out, "P");
}

/* A chain half sent goes on being sent where it is loaded. */
static void test_state(void **state) {
	static uint8_t buf[65536];
	static struct rig other;
	make(&rig);
	begin(&rig, MULTIPORT | F(VIRTIO_F_RING_PACKED));
	rig.wire[0].room = 4;
	send_text(1, DRV_DATA, "half and half");
	size_t size = drv_save(&rig.d, buf, sizeof(buf));
	make(&other);
	memcpy(other.d.ram, rig.d.ram, DRV_RAM);
	memset(other.d.ram + 0x14000, 0, 64); /* the descriptor itself is not looked at again */
	assert_int_equal(drv_load(&other.d, buf, size), 0);
	assert_string_equal(other.wire[0].out, " and half");
	for (size_t i = 0; i < size; i++) {
		virtio_device_reset(other.d.dev);
		other.wire[0].len = 0;
		buf[i] ^= 0x43;
		drv_load(&other.d, buf, size);
		buf[i] ^= 0x43;
	}
	drv_free(&other.d);
}

static void rng_fill(void *opaque, void *buf, size_t len) {
	memset(buf, 0x5a, len);
}

static void test_rng(void **state) {
	memset(&rig, 0, sizeof(rig));
	drv_init(&rig.d);
	struct rng_backend backend = {rng_fill, NULL};
	drv_attach(&rig.d, virtio_rng_create(&rig.d.vm, &backend));
	assert_true(drv_handshake(&rig.d, F_V1));
	drv_ring_init(&rig.d, &rig.r[0], 0, 8);
	drv_driver_ok(&rig.d);
	uint32_t len;
	struct drv_buf b[2] = {{DRV_DATA, 7, true}, {DRV_DATA + 0x10, 3, true}};
	drv_add(&rig.r[0], b, 2);
	drv_kick(&rig.r[0]);
	assert_true(used(0, &len) && len == 10);
	assert_memory_equal(rig.d.ram + DRV_DATA, "ZZZZZZZ\0", 8);
	assert_memory_equal(rig.d.ram + DRV_DATA + 16, "ZZZ\0", 4);
	give_buffer(0, DRV_DATA, 0x20000);
	assert_true(used(0, &len) && len == 4096);
	b[0].write = false;
	drv_add(&rig.r[0], b, 1);
	drv_kick(&rig.r[0]);
	assert_true(drv_needs_reset(&rig.d));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_output, teardown),
		cmocka_unit_test_teardown(test_input, teardown),
		cmocka_unit_test_teardown(test_multiport, teardown),
		cmocka_unit_test_teardown(test_resize, teardown),
		cmocka_unit_test_teardown(test_state, teardown),
		cmocka_unit_test_teardown(test_rng, teardown),
	};
	return cmocka_run_group_tests_name("virtio_console", tests, NULL, NULL);
}
