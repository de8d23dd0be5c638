/* The network card: frames both ways, headers judged, buffers merged, the control queue. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/net.h"
#include "core/virtio/net_int.h"
#include "test/unit/virtio_driver.h"

#define HDR 12u
#define PAIRS 2
#define CONTROL 4 /* queue, with MQ */

struct rig {
	struct drv d;
	struct virtio_net *n;
	struct net_device port;
	struct drv_ring r[5];
	uint8_t room[FRAME_MAX];
	bool full;
	unsigned sent, readable;
	uint64_t flush_ns;
	struct frame last;
};

static struct rig rig;
static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static uint8_t *net_room(void *opaque) {
	struct rig *g = opaque;
	return g->full ? NULL : g->room;
}

static void net_send(void *opaque, const struct frame *f) {
	struct rig *g = opaque;
	g->sent++;
	g->last = *f;
}

static void net_kick(void *opaque, uint64_t flush_ns) {
	((struct rig *)opaque)->flush_ns = flush_ns;
}

static void net_readable(void *opaque) {
	((struct rig *)opaque)->readable++;
}

static void make(struct rig *g) {
	memset(g, 0, sizeof(*g));
	drv_init(&g->d);
	struct virtio_net_options o = {
		.backend = {net_room, net_send, net_kick, net_readable, g}, .mtu = 1400, .pairs = PAIRS};
	memcpy(o.mac, mac, 6);
	g->n = virtio_net_create(&g->d.vm, &o);
	g->port = virtio_net_port(g->n);
	drv_attach(&g->d, virtio_net_device(g->n));
}

static void begin(struct rig *g, uint64_t features) {
	assert_true(drv_handshake(&g->d, features | F_V1));
	for (unsigned i = 0; i < 5; i++)
		drv_ring_init(&g->d, &g->r[i], i, 32);
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

static void put_frame(uint8_t *f, const uint8_t *dst, size_t len) {
	for (size_t i = 0; i < len; i++)
		f[i] = (uint8_t)(i * 3 + 1);
	memcpy(f, dst, 6);
	memcpy(f + 6, "\x02\x00\x00\x00\x00\x09\x88\xb5", 8); /* a type for experiments */
}

/* Sends header and frame, cut in odd places; the chain comes back at once. */
static void send(unsigned queue, const uint8_t header[HDR], size_t len) {
	uint8_t *p = rig.d.ram + DRV_DATA;
	uint32_t n;
	memcpy(p, header, HDR);
	put_frame(p + HDR, mac, len);
	struct drv_buf b[3] = {{DRV_DATA, 5, false},
						   {DRV_DATA + 5, 20, false},
						   {DRV_DATA + 25, (uint32_t)(HDR + len - 25), false}};
	drv_add(&rig.r[queue], b, 3);
	drv_kick(&rig.r[queue]);
	if (!rig.full && !drv_needs_reset(&rig.d))
		assert_true(used(queue, &n) && n == 0);
}

static void buffer(unsigned queue, gpa_t at, uint32_t len) {
	struct drv_buf b = {at, len, true};
	drv_add(&rig.r[queue], &b, 1);
}

static bool receive(const uint8_t *dst, size_t len) {
	static uint8_t f[FRAME_MAX];
	put_frame(f, dst, len);
	bool taken = rig.port.receive(rig.port.dev, &(struct frame){.data = f, .len = len});
	rig.port.flush(rig.port.dev);
	return taken;
}

/* Has the device interrupted, for a queue, since the last time that this was asked? */
static bool interrupted(struct rig *g) {
	uint32_t isr = drv_reg(&g->d, 0x60);
	drv_set_reg(&g->d, 0x64, isr);
	return isr & 1;
}

/* A command on the control queue; returns its acknowledgement. */
static uint8_t control(unsigned queue, uint8_t class, uint8_t cmd, const void *data, uint32_t len) {
	uint8_t *p = rig.d.ram + 0x90000;
	uint32_t n;
	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	p[0x800] = 0x55;
	struct drv_buf b[2] = {{0x90000, 2 + len, false}, {0x90800, 1, true}};
	drv_add(&rig.r[queue], b, 2);
	drv_kick(&rig.r[queue]);
	assert_true(used(queue, &n) && n == 1);
	return p[0x800];
}

static void test_config(void **state) {
	make(&rig);
	assert_int_equal(drv_reg(&rig.d, 0x100), le32_get(mac));
	assert_int_equal(drv_reg(&rig.d, 0x104) & 0xffff, le16_get(mac + 4));
	assert_int_equal(drv_reg(&rig.d, 0x104) >> 16, 1); /* link up */
	assert_int_equal(drv_reg(&rig.d, 0x108), PAIRS | 1400 << 16);
	begin(&rig, F(16));
	rig.port.set_link(rig.port.dev, false);
	assert_int_equal(drv_reg(&rig.d, 0x104) >> 16, 0);
	assert_true(drv_reg(&rig.d, 0x60) & 2);
	uint8_t header[HDR] = {0};
	send(1, header, 60);
	assert_int_equal(rig.sent, 0); /* no cable */
	buffer(0, 0xa0000, 2048);
	assert_true(receive(mac, 60)); /* dropped */
	uint32_t n;
	assert_false(used(0, &n));
	rig.port.set_link(rig.port.dev, true);
	send(1, header, 60);
	assert_int_equal(rig.sent, 1);
}

static void test_send(void **state) {
	make(&rig);
	begin(&rig, F(0) | F(11) | F(13));
	uint8_t header[HDR] = {0};
	send(1, header, 700);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(rig.last.len, 700);
	assert_memory_equal(rig.room, rig.d.ram + DRV_DATA + HDR, 700);
	assert_false(rig.last.csum);
	send(1, header, 14);
	assert_int_equal(rig.sent, 2);
	/* A checksum to complete: where it is said to be, or the frame is dropped. */
	header[0] = 1;
	le16_put(header + 6, 34);
	le16_put(header + 8, 16);
	send(1, header, 100);
	assert_int_equal(rig.sent, 3);
	assert_true(rig.last.csum && rig.last.csum_start == 34 && rig.last.csum_offset == 16);
	send(1, header, 51);
	le16_put(header + 6, 0xffff);
	le16_put(header + 8, 0xffff);
	send(1, header, 100);
	/* Segments that were not agreed on, or of what is no TCP. */
	le16_put(header + 6, 34);
	le16_put(header + 8, 16);
	le16_put(header + 4, 1000);
	for (unsigned type = 1; type < 256; type++) {
		header[1] = (uint8_t)type;
		send(1, header, 3000);
	}
	assert_int_equal(rig.sent, 3);
	/* A frame that is too short, or longer than any. */
	memset(header, 0, sizeof(header));
	send(1, header, 13);
	struct drv_buf b[2] = {{DRV_DATA, 0x40000, false}, {DRV_DATA, 16, false}};
	uint32_t n;
	memset(rig.d.ram + DRV_DATA, 0, HDR);
	drv_add(&rig.r[1], b, 2);
	drv_kick(&rig.r[1]);
	assert_true(used(1, &n));
	assert_int_equal(rig.sent, 3);
	assert_false(drv_needs_reset(&rig.d));
	/* Not even a header. */
	b[0].len = 11;
	drv_add(&rig.r[1], b, 1);
	drv_kick(&rig.r[1]);
	assert_true(drv_needs_reset(&rig.d));
}

/* A full back end stops the queue until it says so. */
static void test_backpressure(void **state) {
	make(&rig);
	begin(&rig, 0);
	uint8_t header[HDR] = {0};
	uint32_t n;
	rig.full = true;
	for (unsigned i = 0; i < 5; i++)
		send(1, header, 60);
	assert_int_equal(rig.sent, 0);
	assert_false(used(1, &n));
	rig.full = false;
	rig.port.writable(rig.port.dev);
	assert_int_equal(rig.sent, 5);
	for (unsigned i = 0; i < 5; i++)
		assert_true(used(1, &n));
}

static void test_receive(void **state) {
	make(&rig);
	uint32_t n;
	assert_true(receive(mac, 60)); /* no driver: dropped */
	begin(&rig, 0);
	assert_false(receive(mac, 60)); /* no buffer */
	buffer(0, 0xa0000, 100);
	drv_kick(&rig.r[0]);
	assert_int_equal(rig.readable, 1);
	buffer(0, 0xa1000, 2048);
	/* Without merging a frame that does not fit is lost, and the buffer is not. */
	assert_true(receive(mac, 500));
	assert_false(used(0, &n));
	assert_true(receive(mac, 80));
	assert_true(used(0, &n) && n == HDR + 80);
	assert_int_equal(le16_get(rig.d.ram + 0xa0000 + 10), 1);
	assert_memory_equal(rig.d.ram + 0xa0000 + HDR, mac, 6);
	assert_true(receive(mac, 1500));
	assert_true(used(0, &n) && n == HDR + 1500);
	assert_false(receive(mac, 60));
	/* A buffer of a header's size fits nothing. */
	buffer(0, 0xa0000, HDR);
	assert_true(receive(mac, 60));
	assert_true(drv_needs_reset(&rig.d));
}

static void merged(uint64_t features) {
	make(&rig);
	begin(&rig, F(15) | features);
	uint32_t n;
	for (unsigned i = 0; i < 3; i++)
		buffer(0, 0xa0000 + 0x1000 * i, 100);
	assert_false(receive(mac, 400)); /* 288 bytes fit; nothing is used */
	assert_false(used(0, &n));
	buffer(0, 0xa3000, 200);
	assert_true(receive(mac, 400));
	static const uint32_t lens[] = {100, 100, 100, 112};
	static uint8_t want[400];
	put_frame(want, mac, sizeof(want));
	for (unsigned i = 0, off = 0; i < 4; i++) {
		assert_true(used(0, &n));
		assert_int_equal(n, lens[i]);
		unsigned head = i ? 0 : HDR;
		assert_memory_equal(rig.d.ram + 0xa0000 + 0x1000 * i + head, want + off, n - head);
		off += n - head;
	}
	assert_int_equal(le16_get(rig.d.ram + 0xa0000 + 10), 4);
	assert_false(used(0, &n));
	/* Around the ring's end, many times. */
	for (unsigned i = 0; i < 100; i++) {
		for (unsigned k = 0; k < 5; k++)
			buffer(0, 0xa0000 + 0x1000 * k, 64);
		assert_true(receive(mac, 5 * 64 - HDR));
		for (unsigned k = 0; k < 5; k++)
			assert_true(used(0, &n) && n == 64);
	}
}

static void test_merge(void **state) {
	merged(0);
	drv_free(&rig.d);
	merged(F(VIRTIO_F_RING_PACKED));
	drv_free(&rig.d);
	merged(F(VIRTIO_F_EVENT_IDX));
}

/* A frame of 3 segments from another guest on the host: whole, cut, or with its checksum. */
static void test_receive_offload(void **state) {
	static uint8_t f[FRAME_MAX];
	memset(f, 0, 200);
	memcpy(f, mac, 6);
	memcpy(f + 12, "\x08\x00\x45\x00", 4);
	f[16] = (40 + 2500) >> 8;
	f[17] = (40 + 2500) & 255;
	f[23] = 6;
	memcpy(f + 26, "\x0a\0\0\1\x0a\0\0\2", 8);
	f[34 + 12] = 0x50;
	struct frame frame = {.data = f,
						  .len = 54 + 2500,
						  .csum = true,
						  .csum_start = 34,
						  .csum_offset = 16,
						  .gso = FRAME_GSO_TCP4,
						  .gso_size = 1000};
	uint32_t n;
	const uint8_t *h = rig.d.ram;
	make(&rig);
	begin(&rig, F(1) | F(7));
	h = rig.d.ram + 0xa0000;
	buffer(0, 0xa0000, 4096);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_true(used(0, &n) && n == HDR + frame.len);
	assert_int_equal(h[0], 1);
	assert_int_equal(h[1], 1);
	assert_int_equal(le16_get(h + 2), 54);
	assert_int_equal(le16_get(h + 4), 1000);
	assert_int_equal(le16_get(h + 6), 34);
	assert_int_equal(le16_get(h + 8), 16);
	begin(&rig, 0);
	for (unsigned i = 0; i < 3; i++)
		buffer(0, 0xa0000 + i * 0x1000, 2048);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_true(used(0, &n) && n == HDR + 1054);
	assert_true(used(0, &n) && n == HDR + 1054);
	assert_true(used(0, &n) && n == HDR + 554);
	assert_int_equal(h[0] | h[1], 0);
	/* Room for two of three: the third is lost, as on a wire. */
	buffer(0, 0xa0000, 2048);
	buffer(0, 0xa1000, 2048);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_true(used(0, &n) && used(0, &n));
	/* A checksum alone. */
	frame.gso = FRAME_GSO_NONE;
	frame.len = 60;
	f[16] = 0;
	f[17] = 46;
	f[34 + 16] = f[34 + 17] = 0;
	buffer(0, 0xa0000, 2048);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_true(used(0, &n) && n == HDR + 60);
	assert_int_equal(h[0], 0);
	assert_int_not_equal(le16_get(h + HDR + 34 + 16), 0);
	/* Known to be right: said to a driver that wants to know. */
	frame.csum = false;
	frame.csum_ok = true;
	begin(&rig, F(1));
	buffer(0, 0xa0000, 2048);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_int_equal(h[0], 2);
}

static bool gets(const uint8_t *dst) {
	uint32_t n;
	buffer(0, 0xa0000, 256);
	assert_true(receive(dst, 60));
	bool got = used(0, &n);
	if (!got) { /* take the buffer back with a frame for us */
		assert_true(receive((const uint8_t *)rig.n->dev.config, 60));
		assert_true(used(0, &n));
	}
	return got;
}

static void wait_ns(uint64_t ns) {
	fake_clock_set(&rig.d.time, rig.d.time.now_ns + ns);
	rig.flush_ns = rig.port.flush(rig.port.dev);
}

/* Interrupts for what was sent, with an event index: where the driver wants the next one. */
static void sent_interrupts(uint64_t format) {
	const uint8_t h[HDR] = {0};
	make(&rig);
	begin(&rig, F(15) | F(VIRTIO_F_EVENT_IDX) | format);
	/* The driver looks in time by itself: none at all. */
	for (unsigned i = 0; i < 100; i++) {
		drv_set_used_event(&rig.r[1], 1);
		send(1, h, 60);
		assert_true(rig.flush_ns && rig.flush_ns <= 1000000);
		assert_int_equal(rig.port.flush(rig.port.dev), rig.flush_ns);
		drv_set_used_event(&rig.r[1], 1);
		wait_ns(100000);
		assert_int_equal(rig.flush_ns, UINT64_MAX);
	}
	assert_false(interrupted(&rig));
	/* It does not: one, when it is due, and not before; several frames are one case. */
	drv_set_used_event(&rig.r[1], 1);
	send(1, h, 60);
	wait_ns(600000);
	send(1, h, 60);
	assert_true(rig.flush_ns <= 400000 && !interrupted(&rig));
	wait_ns(rig.flush_ns);
	assert_true(interrupted(&rig) && rig.flush_ns == UINT64_MAX);
	/* Then they come at once for a while, and more of them after the next time in vain. */
	unsigned at_once[2] = {0};
	for (unsigned i = 0; i < 2; i++) {
		for (;; at_once[i]++) {
			drv_set_used_event(&rig.r[1], 1);
			send(1, h, 60);
			if (!interrupted(&rig))
				break;
			assert_int_equal(rig.flush_ns, UINT64_MAX);
		}
		wait_ns(1000000);
		assert_true(interrupted(&rig));
	}
	assert_true(at_once[0] >= 16 && at_once[1] == 2 * at_once[0]);
	while (rig.n->hurried)
		send(1, h, 60);
	/* Much is told at once: in bytes, or frames. */
	interrupted(&rig);
	drv_set_used_event(&rig.r[1], 1);
	send(1, h, 20000);
	assert_true(interrupted(&rig) && rig.flush_ns == UINT64_MAX);
	unsigned count = 0;
	for (drv_set_used_event(&rig.r[1], 1); !interrupted(&rig); count++)
		send(1, h, 60);
	assert_in_range(count, 4, 20);
	/* Who wants none gets none, and a reset forgets all. */
	drv_set_used_event(&rig.r[1], 30);
	send(1, h, 60);
	assert_int_equal(rig.flush_ns, UINT64_MAX);
	drv_set_used_event(&rig.r[1], 1);
	send(1, h, 60);
	assert_true(rig.flush_ns <= 1000000);
	drv_set_reg(&rig.d, 0x70, 0);
	wait_ns(2000000);
	assert_true(!interrupted(&rig) && rig.flush_ns == UINT64_MAX);
}

static void test_sent_interrupts(void **state) {
	sent_interrupts(0);
	teardown(NULL);
	sent_interrupts(F(VIRTIO_F_RING_PACKED));
}

static void test_filter(void **state) {
	static const uint8_t all[6] = {255, 255, 255, 255, 255, 255}, other[6] = {2, 2, 2, 2, 2, 2},
						 multi[6] = {1, 0, 0x5e, 0, 0, 1}, multi2[6] = {1, 0, 0x5e, 0, 0, 2};
	static const uint8_t on = 1, off = 0;
	make(&rig);
	begin(&rig, F(17) | F(18) | F(20) | F(23));
	assert_true(gets(mac) && gets(all) && gets(multi) && !gets(other));
	assert_int_equal(control(2, 0, 0, &on, 1), 0);
	assert_true(gets(other));
	assert_int_equal(control(2, 0, 0, &off, 1), 0);
	assert_int_equal(control(2, 0, 1, &off, 1), 0);
	assert_false(gets(multi));
	uint8_t table[20] = {1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
	assert_int_equal(control(2, 1, 0, table, 20), 0);
	assert_true(gets(other) && gets(multi) && !gets(multi2));
	/* Cut, or with a count that wraps: refused as a whole. */
	assert_int_equal(control(2, 1, 0, table, 19), 1);
	memset(table, 0xff, 4);
	assert_int_equal(control(2, 1, 0, table, 20), 1);
	assert_true(gets(other));
	/* More than fit: all of that kind pass. */
	uint8_t many[4 + 6 * 40 + 4] = {40};
	assert_int_equal(control(2, 1, 0, many, sizeof(many)), 0);
	assert_true(gets(other) && !gets(multi));
	assert_int_equal(control(2, 0, 5, &on, 1), 0);
	assert_false(gets(all));
	/* Another address. */
	memset(many, 0, sizeof(many));
	assert_int_equal(control(2, 1, 0, many, 8), 0);
	assert_int_equal(control(2, 1, 1, other, 6), 0);
	assert_true(gets(other) && !gets(mac));
	assert_int_equal(control(2, 1, 1, multi, 6), 1);
	/* Nonsense. */
	assert_int_equal(control(2, 0, 6, &on, 1), 1);
	assert_int_equal(control(2, 0, 0, "\2", 1), 1);
	assert_int_equal(control(2, 9, 0, &on, 1), 1);
	assert_int_equal(control(2, 2, 0, "\1\0", 2), 1); /* VLANs were not agreed on */
	assert_int_equal(control(2, 3, 0, "", 0), 1);
}

static void test_vlan(void **state) {
	make(&rig);
	begin(&rig, F(17) | F(19));
	uint8_t f[60];
	uint32_t n;
	put_frame(f, mac, sizeof(f));
	memcpy(f + 12, "\x81\x00\x00\x05", 4);
	struct frame frame = {.data = f, .len = sizeof(f)};
	buffer(0, 0xa0000, 256);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_false(used(0, &n));
	assert_int_equal(control(2, 2, 0, "\x05\x00", 2), 0);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_true(used(0, &n));
	assert_int_equal(control(2, 2, 0, "\x00\x10", 2), 1);
	assert_int_equal(control(2, 2, 1, "\x05\x00", 2), 0);
	buffer(0, 0xa0000, 256);
	assert_true(rig.port.receive(rig.port.dev, &frame));
	assert_false(used(0, &n));
}

static void test_pairs(void **state) {
	make(&rig);
	begin(&rig, F(17) | F(22));
	uint8_t header[HDR] = {0};
	uint32_t n;
	struct drv_buf b = {DRV_DATA, 100, false};
	drv_add(&rig.r[3], &b, 1);
	drv_kick(&rig.r[3]);
	assert_false(used(3, &n)); /* not in use yet */
	assert_int_equal(control(CONTROL, 4, 0, "\3\0", 2), 1);
	assert_int_equal(control(CONTROL, 4, 0, "\0\0", 2), 1);
	assert_int_equal(control(CONTROL, 4, 0, "\2\0", 2), 0);
	drv_kick(&rig.r[3]);
	assert_true(used(3, &n));
	/* Answers come where the flow was sent. */
	for (unsigned pair = 0; pair < 2; pair++) {
		buffer(0, 0xa0000, 2048);
		buffer(2, 0xa1000, 2048);
		send(2 * pair + 1, header, 100);
		assert_true(rig.port.receive(rig.port.dev, &rig.last));
		rig.port.flush(rig.port.dev);
		assert_true(used(2 * pair, &n));
		assert_false(used(2 - 2 * pair, &n));
	}
}

static void test_guest_offloads(void **state) {
	make(&rig);
	begin(&rig, F(1) | F(2) | F(7) | F(17));
	uint8_t set[8];
	le64_put(set, F(7) | F(8));
	assert_int_equal(control(2, 5, 0, set, 8), 1); /* TSO6 was not agreed on */
	le64_put(set, 0);
	assert_int_equal(control(2, 5, 0, set, 8), 0);
	assert_int_equal(rig.n->guest_offloads, 0);
	assert_int_equal(control(2, 5, 0, set, 7), 1);
}

static void test_state(void **state) {
	static uint8_t buf[65536];
	static struct rig other;
	make(&rig);
	begin(&rig, F(15) | F(16) | F(17) | F(21) | F(22) | F(23) | F(VIRTIO_F_RING_PACKED));
	assert_int_equal(control(CONTROL, 4, 0, "\2\0", 2), 0);
	assert_int_equal(control(CONTROL, 1, 1, "\2\2\2\2\2\2", 6), 0);
	buffer(0, 0xa0000, 256);
	interrupted(&rig); /* by commands */
	send(1, (const uint8_t[HDR]){0}, 60);
	assert_false(interrupted(&rig)); /* it waits, and is not lost */
	size_t size = drv_save(&rig.d, buf, sizeof(buf));
	make(&other);
	memcpy(other.d.ram, rig.d.ram, DRV_RAM);
	assert_int_equal(drv_load(&other.d, buf, size), 0);
	assert_int_equal(other.n->pairs, 2);
	assert_true(interrupted(&other));
	assert_int_equal(drv_reg(&other.d, 0x100), 0x02020202);
	assert_int_equal(drv_reg(&other.d, 0x104) >> 16, 3); /* to announce itself */
	struct rig *was = &other;
	uint8_t f[60];
	put_frame(f, (const uint8_t *)"\2\2\2\2\2\2", 60);
	assert_true(was->port.receive(was->port.dev, &(struct frame){.data = f, .len = 60}));
	/* Damage is refused or harmless. */
	for (size_t i = 0; i < size; i++) {
		virtio_device_reset(other.d.dev);
		buf[i] ^= 0x43;
		drv_load(&other.d, buf, size);
		was->port.receive(was->port.dev, &(struct frame){.data = f, .len = 60});
		was->port.flush(was->port.dev);
		was->port.writable(was->port.dev);
		buf[i] ^= 0x43;
	}
	drv_free(&other.d);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_config, teardown),
		cmocka_unit_test_teardown(test_send, teardown),
		cmocka_unit_test_teardown(test_backpressure, teardown),
		cmocka_unit_test_teardown(test_receive, teardown),
		cmocka_unit_test_teardown(test_merge, teardown),
		cmocka_unit_test_teardown(test_receive_offload, teardown),
		cmocka_unit_test_teardown(test_sent_interrupts, teardown),
		cmocka_unit_test_teardown(test_filter, teardown),
		cmocka_unit_test_teardown(test_vlan, teardown),
		cmocka_unit_test_teardown(test_pairs, teardown),
		cmocka_unit_test_teardown(test_guest_offloads, teardown),
		cmocka_unit_test_teardown(test_state, teardown),
	};
	return cmocka_run_group_tests_name("virtio_net", tests, NULL, NULL);
}
