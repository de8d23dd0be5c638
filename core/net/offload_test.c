/* Headers, checksums, segments: against sums made byte by byte, and against frames that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/net/offload.h"
#include "core/net/packet.h"

static uint8_t data[FRAME_MAX], buf[FRAME_MAX], joined[FRAME_MAX];

/* [RFC1071] as it is written down. */
static uint16_t simple_sum(uint32_t sum, const uint8_t *p, size_t len) {
	for (size_t i = 0; i < len; i++)
		sum += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint16_t l4_sum(const uint8_t *f, size_t l3, size_t l4, size_t end) {
	bool ip4 = f[l3] >> 4 == 4;
	uint8_t pseudo[40] = {0};
	memcpy(pseudo, f + l3 + (ip4 ? 12 : 8), ip4 ? 8 : 32);
	be32_put(pseudo + 32, (uint32_t)(end - l4));
	pseudo[39] = ip4 ? f[l3 + 9] : f[l3 + 6];
	return simple_sum(simple_sum(0, pseudo, 40), f + l4, end - l4);
}

/* A frame with `len` bytes of payload; its checksum field holds the pseudo header's sum. */
static struct frame make(bool ip4, bool udp, unsigned vlan, size_t len) {
	memset(data, 0, 200);
	size_t l3 = ETHER_SIZE + (vlan ? 4 : 0), l4 = l3 + (ip4 ? IP4_SIZE : IP6_SIZE);
	size_t head = l4 + (udp ? UDP_SIZE : TCP_SIZE + 4);
	if (vlan) {
		be16_put(data + 12, ETHER_VLAN);
		be16_put(data + 14, (uint16_t)vlan);
	}
	be16_put(data + l3 - 2, ip4 ? ETHER_IP4 : ETHER_IP6);
	if (ip4) {
		data[l3] = 0x45;
		be16_put(data + l3 + 2, (uint16_t)(head + len - l3));
		be16_put(data + l3 + 4, 0xfffe); /* the id wraps */
		data[l3 + 9] = udp ? IP_UDP : IP_TCP;
		memcpy(data + l3 + 12, "\x0a\x00\x02\x0f\xc0\xa8\x01\x02", 8);
	} else {
		data[l3] = 0x60;
		be16_put(data + l3 + 4, (uint16_t)(head + len - l4));
		data[l3 + 6] = udp ? IP_UDP : IP_TCP;
		for (unsigned i = 8; i < 40; i++)
			data[l3 + i] = (uint8_t)(i * 37);
	}
	be16_put(data + l4, 0x1234);
	be16_put(data + l4 + 2, 80);
	if (udp) {
		be16_put(data + l4 + 4, (uint16_t)(len + UDP_SIZE));
	} else {
		be32_put(data + l4 + 4, 0xfffffff0u);
		data[l4 + 12] = (TCP_SIZE + 4) / 4 << 4;
		data[l4 + 13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR ACK PSH FIN */
	}
	for (size_t i = 0; i < len; i++)
		data[head + i] = (uint8_t)(i * 7 + i / 256);
	struct packet p;
	assert_true(packet_parse(&p, data, head + len));
	assert_int_equal(p.l3, l3);
	assert_int_equal(p.l4, l4);
	assert_int_equal(p.end, head + len);
	assert_int_equal(p.vlan, vlan);
	uint16_t offset = udp ? 6 : 16;
	uint64_t sum = sum_pseudo(&p, data, (uint32_t)(head + len - l4));
	sum_put(data + l4 + offset, (uint16_t)~sum_fold(sum));
	return (struct frame){.data = data,
						  .len = head + len,
						  .csum = true,
						  .csum_start = (uint16_t)l4,
						  .csum_offset = offset};
}

static void test_sum(void **state) {
	srand(1);
	for (unsigned round = 0; round < 2000; round++) {
		size_t len = (size_t)rand() % 100, cut = len ? (size_t)rand() % len & ~1ul : 0;
		for (size_t i = 0; i < len; i++)
			buf[i] = rand() % 4 ? 0xff : (uint8_t)rand();
		uint16_t want = (uint16_t)~simple_sum(0, buf, len);
		uint8_t out[2];
		sum_put(out, sum_fold(sum_add(sum_add(0, buf, cut), buf + cut, len - cut)));
		assert_int_equal(be16_get(out), want);
	}
	/* The largest sum there can be. */
	memset(buf, 0xff, FRAME_MAX);
	assert_int_equal(sum_fold(sum_add(0, buf, FRAME_MAX)), 0);
}

static void test_complete(void **state) {
	for (unsigned k = 0; k < 8; k++) {
		for (size_t len = 0; len < 1450; len += 1 + len / 3) {
			struct frame f = make(k & 1, k & 2, k & 4 ? 77 : 0, len);
			size_t l3 = k & 4 ? 18 : 14;
			assert_true(frame_valid(&f));
			frame_complete(&f, data);
			assert_false(f.csum);
			assert_true(f.csum_ok);
			assert_int_equal(l4_sum(data, l3, f.csum_start, f.len), 0xffff);
		}
	}
	/* [RFC768] a sum of 0 is sent as ffff. */
	struct frame f = make(true, true, 0, 2);
	frame_complete(&f, data);
	uint16_t sum = be16_get(data + 34 + 6);
	f = make(true, true, 0, 2);
	uint16_t old = be16_get(data + 42);
	be16_put(data + 42, (uint16_t)simple_sum((uint32_t)old + sum, NULL, 0));
	frame_complete(&f, data);
	assert_int_equal(be16_get(data + 34 + 6), 0xffff);
}

struct cut {
	const struct frame *f;
	size_t head, len, max;
	unsigned n;
	uint8_t flags; /* of all, or-ed; without the last one's */
	uint8_t last_flags, first_flags;
};

static void take(void *opaque, const struct frame *s) {
	struct cut *c = opaque;
	struct packet p;
	assert_true(packet_parse(&p, s->data, s->len));
	assert_int_equal(p.end, s->len);
	assert_true(p.l4 && s->len - c->head <= c->max && s->csum_ok && !s->csum);
	assert_int_equal(l4_sum(s->data, p.l3, p.l4, s->len), 0xffff);
	if (p.ip4) {
		assert_int_equal(simple_sum(0, s->data + p.l3, IP4_SIZE), 0xffff);
		assert_int_equal(be16_get(s->data + p.l3 + 4), (uint16_t)(0xfffe + c->n));
	}
	if (p.protocol == IP_TCP) {
		assert_int_equal(be32_get(s->data + p.l4 + 4), (uint32_t)(0xfffffff0u + c->len));
		c->flags |= c->last_flags;
		c->last_flags = s->data[p.l4 + 13];
		if (!c->n)
			c->first_flags = c->last_flags;
	} else {
		assert_int_equal(be16_get(s->data + p.l4 + 4), s->len - p.l4);
	}
	memcpy(joined + c->len, s->data + c->head, s->len - c->head);
	c->len += s->len - c->head;
	c->n++;
}

static void test_segment(void **state) {
	static const size_t lens[] = {1, 999, 1000, 1001, 30000, 65000};
	for (unsigned k = 0; k < 8; k++) {
		for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
			bool ip4 = k & 1, udp = k & 2;
			struct frame f = make(ip4, udp, k & 4 ? 5 : 0, lens[i]);
			f.gso = udp ? FRAME_GSO_UDP : ip4 ? FRAME_GSO_TCP4 : FRAME_GSO_TCP6;
			f.gso_size = 1000;
			f.ecn = true;
			assert_true(frame_valid(&f));
			struct cut c = {.f = &f, .head = f.len - lens[i], .max = 1000};
			frame_segment(&f, buf, take, &c);
			assert_int_equal(c.n, (lens[i] + 999) / 1000);
			assert_int_equal(c.len, lens[i]);
			assert_memory_equal(joined, data + c.head, lens[i]);
			if (udp)
				continue;
			assert_int_equal(c.last_flags & 0x09, 0x09); /* PSH and FIN at the end only */
			assert_int_equal(c.flags & 0x09, 0);
			assert_true(c.first_flags & 0x80); /* CWR in front only */
			assert_true(c.n == 1 || !(c.last_flags & 0x80));
			/* As one large packet. */
			frame_complete(&f, data);
			assert_int_equal(l4_sum(data, k & 4 ? 18 : 14, f.csum_start, f.len), 0xffff);
		}
	}
}

static void test_invalid(void **state) {
	struct frame f = make(true, false, 0, 100), g = f;
	g.gso = FRAME_GSO_TCP4;
	g.gso_size = 50;
	assert_true(frame_valid(&g));
#define REFUSED(change)                                                                            \
	do {                                                                                           \
		struct frame was = g;                                                                      \
		change;                                                                                    \
		assert_false(frame_valid(&g));                                                             \
		g = was;                                                                                   \
	} while (0)
	REFUSED(g.gso_size = 0);
	REFUSED(g.csum = false);
	REFUSED(g.csum_start = 14);
	REFUSED(g.csum_offset = 6);
	REFUSED(g.csum_start = 0xffff);
	REFUSED(g.gso = FRAME_GSO_TCP6);
	REFUSED(g.gso = FRAME_GSO_UDP);
	REFUSED(g.len = 13);
	REFUSED(g.len = 40);
	REFUSED(g.len--);
	data[14] = 0x44; /* a header shorter than a header */
	REFUSED((void)0);
	data[14] = 0x4f;
	REFUSED((void)0);
	data[14] = 0x45;
	data[20] = 0x20; /* a fragment */
	REFUSED((void)0);
	data[20] = 0;
	data[34 + 12] = 0x40; /* TCP's length: too short, too long */
	REFUSED((void)0);
	g = make(true, false, 0, 10);
	g.gso = FRAME_GSO_TCP4;
	g.gso_size = 5;
	data[34 + 12] = 0xf0;
	REFUSED((void)0);
	g = f;
	g.csum_start = 0xfff0;
	g.csum_offset = 0xfff0;
	assert_false(frame_valid(&g));
}

/* Extension headers that lead nowhere, at every length. */
static void test_ip6_extensions(void **state) {
	struct packet p;
	struct frame f = make(false, true, 0, 64);
	data[20] = 0; /* hop by hop */
	data[54] = IP_UDP;
	data[55] = 1; /* 16 bytes of it */
	assert_true(packet_parse(&p, data, f.len));
	assert_int_equal(p.protocol, IP_UDP);
	assert_int_equal(p.l4, 54 + 16);
	data[55] = 0xff;
	assert_true(packet_parse(&p, data, f.len));
	assert_int_equal(p.l4, 0);
	data[20] = 44; /* fragment */
	assert_true(packet_parse(&p, data, f.len));
	assert_true(p.fragment && !p.l4);
	memset(data + 54, 0, 64);
	data[20] = 60;
	for (size_t len = 0; len <= f.len; len++) {
		memcpy(buf, data, len);
		packet_parse(&p, buf, len);
		assert_true(p.end <= len && p.l4 <= len);
	}
}

static void test_flow(void **state) {
	struct packet p;
	struct frame f = make(true, false, 0, 0);
	packet_parse(&p, data, f.len);
	uint32_t there = packet_flow(&p, data);
	memcpy(data + 26, "\xc0\xa8\x01\x02\x0a\x00\x02\x0f\x00\x50\x12\x34", 12);
	assert_int_equal(packet_flow(&p, data), there);
	data[35]++;
	assert_int_not_equal(packet_flow(&p, data), there);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sum),
		cmocka_unit_test(test_complete),
		cmocka_unit_test(test_segment),
		cmocka_unit_test(test_invalid),
		cmocka_unit_test(test_ip6_extensions),
		cmocka_unit_test(test_flow),
	};
	return cmocka_run_group_tests_name("net_offload", tests, NULL, NULL);
}
