/* Streams of virtio-vsock: both ways to begin one and to end it, credit, and a guest that keeps
 * to nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/vsock.h"
#include "test/unit/virtio_driver.h"

#define CID 7u
#define RX_AT DRV_DATA
#define RX_SIZE 512u
#define TX_AT (DRV_DATA + 0x40000)

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct rig {
	struct drv d;
	struct virtio_vsock *v;
	struct vsock_device dev;
	struct drv_ring r[3];
	/* What the back end saw last. */
	unsigned given, taken; /* buffers to receive, used in turn */
	unsigned connects, connecteds, finishes, closes, readables, conn;
	uint32_t port;
	bool accept, both;
	uint8_t data[VSOCK_WINDOW];
	size_t len;
};

static struct rig rig;
static uint8_t packet[RX_SIZE];

static bool on_connect(void *opaque, unsigned conn, uint32_t port) {
	rig.connects++;
	rig.conn = conn;
	rig.port = port;
	return rig.accept;
}

static void on_connected(void *opaque, unsigned conn) {
	rig.connecteds++;
	assert_int_equal(conn, rig.conn);
}

static void on_write(void *opaque, unsigned conn, const uint8_t *buf, size_t len) {
	assert_int_equal(conn, rig.conn);
	assert_true(len <= sizeof(rig.data) - rig.len);
	memcpy(rig.data + rig.len, buf, len);
	rig.len += len;
}

static void on_finish(void *opaque, unsigned conn, bool both) {
	rig.finishes++;
	rig.both = both;
}

static void on_close(void *opaque, unsigned conn) {
	rig.closes++;
}

static void on_readable(void *opaque, unsigned conn) {
	rig.readables++;
}

static void make(void) {
	struct vsock_backend b = {on_connect, on_connected, on_write, on_finish,
							  on_close,	  on_readable,	&rig};
	memset(&rig, 0, sizeof(rig));
	drv_init(&rig.d);
	rig.accept = true;
	rig.v = virtio_vsock_create(&rig.d.vm, CID, &b);
	rig.dev = virtio_vsock_port(rig.v);
	drv_attach(&rig.d, virtio_vsock_device(rig.v));
}

static void begin(void) {
	assert_true(drv_handshake(&rig.d, F_V1));
	for (unsigned i = 0; i < 3; i++)
		drv_ring_init(&rig.d, &rig.r[i], i, 64);
	drv_driver_ok(&rig.d);
}

static int teardown(void **state) {
	drv_free(&rig.d);
	return 0;
}

static void give(unsigned n) {
	while (n--) {
		struct drv_buf b = {RX_AT + rig.given++ % 64 * RX_SIZE, RX_SIZE, true};
		drv_add(&rig.r[0], &b, 1);
	}
	drv_kick(&rig.r[0]);
}

static void send_raw(uint64_t src, uint64_t dst, uint32_t from, uint32_t to, unsigned type,
					 unsigned op, uint32_t flags, uint32_t room, uint32_t taken, uint32_t len,
					 uint32_t said) {
	uint8_t *h = rig.d.ram + TX_AT;
	uint16_t id;
	uint32_t n;
	memset(h, 0, 44);
	le64_put(h, src);
	le64_put(h + 8, dst);
	le32_put(h + 16, from);
	le32_put(h + 20, to);
	le32_put(h + 24, said);
	le16_put(h + 28, (uint16_t)type);
	le16_put(h + 30, (uint16_t)op);
	le32_put(h + 32, flags);
	le32_put(h + 36, room);
	le32_put(h + 40, taken);
	for (uint32_t i = 0; i < len; i++)
		h[44 + i] = (uint8_t)(i * 7);
	/* Header and bytes may be split anywhere. */
	struct drv_buf b[2] = {{TX_AT, 44 + len / 3, false},
						   {TX_AT + 44 + len / 3, len - len / 3, false}};
	drv_add(&rig.r[1], b, len ? 2 : 1);
	drv_kick(&rig.r[1]);
	while (drv_used(&rig.r[1], &id, &n))
		;
}

static void send(uint32_t from, uint32_t to, unsigned op, uint32_t flags, uint32_t len) {
	send_raw(CID, 2, from, to, 1, op, flags, 1000, 0, len, len);
}

/* The next packet to the guest; its op, or 0. */
static unsigned next(uint32_t *len) {
	uint16_t id;
	uint32_t n;
	if (!drv_used(&rig.r[0], &id, &n))
		return 0;
	memcpy(packet, rig.d.ram + RX_AT + rig.taken++ % 64 * RX_SIZE, sizeof(packet));
	assert_int_equal(le64_get(packet), 2);
	assert_int_equal(le64_get(packet + 8), CID);
	assert_int_equal(n, 44 + le32_get(packet + 24));
	if (len)
		*len = n - 44;
	return le16_get(packet + 30);
}

/* One buffer at a time, so that each packet is seen. */
static void expect(unsigned op, uint32_t host, uint32_t guest) {
	give(1);
	assert_int_equal(next(NULL), op);
	assert_int_equal(le32_get(packet + 16), host);
	assert_int_equal(le32_get(packet + 20), guest);
}

static void test_guest_connects(void **state) {
	make();
	begin();
	assert_int_equal(drv_reg(&rig.d, 0x100), CID);
	send(1000, 80, REQUEST, 0, 0);
	assert_int_equal(rig.port, 80);
	expect(RESPONSE, 80, 1000);
	assert_int_equal(le32_get(packet + 36), VSOCK_WINDOW);
	send(1000, 80, RW, 0, 300);
	assert_int_equal(rig.len, 300);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(rig.data[i], (uint8_t)(i * 7));
	send(1000, 80, CREDIT_REQUEST, 0, 0);
	expect(CREDIT_UPDATE, 80, 1000);
	assert_int_equal(le32_get(packet + 40), 0);
	rig.dev.consumed(rig.dev.dev, rig.conn, 300);
	send(1000, 80, CREDIT_REQUEST, 0, 0);
	expect(CREDIT_UPDATE, 80, 1000);
	assert_int_equal(le32_get(packet + 40), 300);
	/* The guest is through: RST when the back end has passed all on. */
	send(1000, 80, SHUTDOWN, 3, 0);
	assert_true(rig.finishes == 1 && rig.both);
	rig.dev.close(rig.dev.dev, rig.conn, false);
	expect(RST, 80, 1000);
	send(1000, 80, RW, 0, 5);
	expect(RST, 80, 1000); /* of no stream */
	assert_int_equal(rig.closes, 0);
}

static void test_refused(void **state) {
	make();
	begin();
	rig.accept = false;
	send(1000, 80, REQUEST, 0, 0);
	expect(RST, 80, 1000);
	send_raw(CID, 2, 1, 2, 2, REQUEST, 0, 0, 0, 0, 0); /* SEQPACKET */
	expect(RST, 2, 1);
	assert_int_equal(le16_get(packet + 28), 2);
	/* Others' addresses: no answer, no stream. */
	rig.accept = true;
	send_raw(CID + 1, 2, 1000, 80, 1, REQUEST, 0, 0, 0, 0, 0);
	send_raw(CID, 3, 1000, 80, 1, REQUEST, 0, 0, 0, 0, 0);
	send(1, 2, RST, 0, 0);
	give(1);
	assert_int_equal(next(NULL), 0);
	assert_int_equal(rig.connects, 1);
}

static void test_host_connects(void **state) {
	make();
	assert_int_equal(rig.dev.connect(rig.dev.dev, 22), -1); /* no driver */
	begin();
	int conn = rig.dev.connect(rig.dev.dev, 22);
	assert_true(conn >= 0);
	uint32_t port = rig.dev.host_port(rig.dev.dev, (unsigned)conn);
	expect(REQUEST, port, 22);
	assert_int_equal(rig.dev.receive(rig.dev.dev, (unsigned)conn, rig.data, 10), 0);
	rig.conn = (unsigned)conn;
	send(22, port, RESPONSE, 0, 0);
	assert_int_equal(rig.connecteds, 1);
	assert_int_equal(rig.readables, 1); /* it has bytes, as was seen */
	/* 1000 bytes of credit and 468 a packet. */
	give(4);
	memset(rig.data, 0x5a, sizeof(rig.data));
	assert_int_equal(rig.dev.receive(rig.dev.dev, (unsigned)conn, rig.data, 2000), 1000);
	uint32_t len, sum = 0;
	while (next(&len) == RW)
		sum += len;
	assert_int_equal(sum, 1000);
	send_raw(CID, 2, 22, port, 1, CREDIT_UPDATE, 0, 1000, 400, 0, 0);
	assert_int_equal(rig.readables, 2);
	assert_int_equal(rig.dev.receive(rig.dev.dev, (unsigned)conn, rig.data, 1000), 400);
	assert_int_equal(next(&len), RW);
	/* Nonsense credit: more taken than was sent. */
	send_raw(CID, 2, 22, port, 1, CREDIT_UPDATE, 0, 1000, 5000, 0, 0);
	assert_int_equal(rig.dev.receive(rig.dev.dev, (unsigned)conn, rig.data, 1000), 0);
	rig.dev.finish(rig.dev.dev, (unsigned)conn);
	expect(SHUTDOWN, port, 22);
	assert_int_equal(le32_get(packet + 32), 2);
	rig.dev.close(rig.dev.dev, (unsigned)conn, false);
	expect(SHUTDOWN, port, 22);
	assert_int_equal(le32_get(packet + 32), 3);
	send(22, port, RST, 0, 0);
	assert_int_equal(rig.closes, 0);
	/* A port where nobody listens. */
	conn = rig.dev.connect(rig.dev.dev, 23);
	assert_int_not_equal(rig.dev.host_port(rig.dev.dev, (unsigned)conn), port);
	port++;
	expect(REQUEST, port, 23);
	send(23, port, RST, 0, 0);
	assert_int_equal(rig.closes, 1);
}

static void test_too_much(void **state) {
	make();
	begin();
	send(1000, 80, REQUEST, 0, 0);
	expect(RESPONSE, 80, 1000);
	for (unsigned i = 0; i < VSOCK_WINDOW / 1024; i++)
		send(1000, 80, RW, 0, 1024);
	assert_int_equal(rig.len, VSOCK_WINDOW);
	assert_int_equal(rig.closes, 0);
	send(1000, 80, RW, 0, 1);
	assert_int_equal(rig.closes, 1);
	expect(RST, 80, 1000);
	/* Says more than the buffer has. */
	rig.len = 0;
	send(1000, 80, REQUEST, 0, 0);
	expect(RESPONSE, 80, 1000);
	send_raw(CID, 2, 1000, 80, 1, RW, 0, 0, 0, 10, 11);
	expect(RST, 80, 1000);
	assert_true(rig.closes == 2 && rig.len == 0);
	/* Bytes after it said that there are no more. */
	send(1000, 80, REQUEST, 0, 0);
	send(1000, 80, SHUTDOWN, 2, 0);
	assert_true(rig.finishes == 1 && !rig.both);
	send(1000, 80, RW, 0, 1);
	assert_int_equal(rig.closes, 3);
}

/* The window opens before the guest has to stop. */
static void test_credit_is_told(void **state) {
	make();
	begin();
	send(1000, 80, REQUEST, 0, 0);
	expect(RESPONSE, 80, 1000);
	for (unsigned i = 0; i < 16; i++)
		send(1000, 80, RW, 0, 1024);
	give(1);
	rig.dev.consumed(rig.dev.dev, rig.conn, 16383);
	assert_int_equal(next(NULL), 0);
	rig.dev.consumed(rig.dev.dev, rig.conn, 1);
	assert_int_equal(next(NULL), CREDIT_UPDATE);
	assert_int_equal(le32_get(packet + 40), 16384);
}

static void test_many(void **state) {
	make();
	begin();
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		send(1000 + i, 80, REQUEST, 0, 0);
		expect(RESPONSE, 80, 1000 + i);
	}
	send(5000, 80, REQUEST, 0, 0);
	expect(RST, 80, 5000);
	assert_int_equal(rig.dev.connect(rig.dev.dev, 1), -1);
	/* One that the host left and the guest does not let go makes place. */
	rig.dev.close(rig.dev.dev, 9, false);
	expect(SHUTDOWN, 80, 1009);
	send(5000, 80, REQUEST, 0, 0);
	expect(RST, 80, 1009);
	expect(RESPONSE, 80, 5000);
	assert_int_equal(rig.conn, 9);
	/* Answers that nobody takes stop the guest's queue, and nothing is lost. */
	for (unsigned i = 0; i < 60; i++)
		send(i, 1, RW, 0, 0);
	struct drv_buf b = {TX_AT, 44, false};
	for (unsigned i = 0; i < 30; i++)
		drv_add(&rig.r[1], &b, 1);
	drv_kick(&rig.r[1]);
	unsigned answers = 0;
	for (unsigned i = 0; i < 200; i++) {
		give(1);
		answers += next(NULL) == RST;
	}
	assert_int_equal(answers, 90);
	drv_set_reg(&rig.d, 0x70, 0);
	assert_int_equal(rig.closes, VSOCK_CONNS);
}

static void test_small_buffer(void **state) {
	make();
	begin();
	send(1000, 80, REQUEST, 0, 0);
	struct drv_buf b = {RX_AT, 44, true};
	drv_add(&rig.r[0], &b, 1);
	drv_kick(&rig.r[0]);
	assert_true(drv_needs_reset(&rig.d));
}

static void test_loaded(void **state) {
	static uint8_t buf[65536];
	make();
	begin();
	send(1000, 80, REQUEST, 0, 0);
	struct drv_buf event = {DRV_DATA + 0x30000, 8, true};
	drv_add(&rig.r[2], &event, 1);
	drv_kick(&rig.r[2]);
	size_t size = drv_save(&rig.d, buf, sizeof(buf));
	uint16_t id;
	uint32_t len;
	assert_int_equal(drv_load(&rig.d, buf, size), 0);
	assert_int_equal(rig.closes, 1);
	assert_true(drv_used(&rig.r[2], &id, &len));
	assert_int_equal(len, 4);
	assert_int_equal(le32_get(rig.d.ram + DRV_DATA + 0x30000), 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_guest_connects, teardown),
		cmocka_unit_test_teardown(test_refused, teardown),
		cmocka_unit_test_teardown(test_host_connects, teardown),
		cmocka_unit_test_teardown(test_too_much, teardown),
		cmocka_unit_test_teardown(test_credit_is_told, teardown),
		cmocka_unit_test_teardown(test_many, teardown),
		cmocka_unit_test_teardown(test_small_buffer, teardown),
		cmocka_unit_test_teardown(test_loaded, teardown),
	};
	return cmocka_run_group_tests_name("virtio_vsock", tests, NULL, NULL);
}
