/* Segments made one frame again: what it is cut into is what was merged, whatever the frames are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/net/merge.h"
#include "core/net/offload.h"
#include "core/net/packet.h"

#define UNIT 1000u

static uint8_t data[FRAME_MAX], buf[FRAME_MAX], copy[FRAME_MAX];

/* A segment with `options` bytes of options, complete. */
static struct frame make(uint8_t *to, bool ip4, uint32_t seq, size_t len, unsigned options) {
	size_t l4 = ETHER_SIZE + (ip4 ? IP4_SIZE : IP6_SIZE), head = l4 + TCP_SIZE + options;
	memset(to, 0, head);
	memcpy(to, "\x52\x54\0\1\2\3\x52\x55\x0a\0\2\2", 12);
	be16_put(to + 12, ip4 ? ETHER_IP4 : ETHER_IP6);
	uint8_t *ip = to + ETHER_SIZE, *tcp = to + l4;
	if (ip4) {
		ip[0] = 0x45;
		be16_put(ip + 2, (uint16_t)(head + len - ETHER_SIZE));
		be16_put(ip + 4, (uint16_t)(seq / UNIT));
		ip[8] = 64;
		ip[9] = IP_TCP;
		memcpy(ip + 12, "\x0a\0\2\2\x0a\0\2\x0f", 8);
		sum_put(ip + 10, sum_fold(sum_add(0, ip, IP4_SIZE)));
	} else {
		ip[0] = 0x60;
		be16_put(ip + 4, (uint16_t)(head + len - l4));
		ip[6] = IP_TCP;
		ip[7] = 64;
		for (unsigned i = 8; i < 40; i++)
			ip[i] = (uint8_t)(i * 37);
	}
	be16_put(tcp, 80);
	be16_put(tcp + 2, 0x1234);
	be32_put(tcp + 4, seq);
	be32_put(tcp + 8, 77);
	tcp[12] = (uint8_t)((TCP_SIZE + options) / 4 << 4);
	tcp[13] = 0x10;
	be16_put(tcp + 14, 5000);
	memset(tcp + TCP_SIZE, 1, options);
	for (size_t i = 0; i < len; i++)
		to[head + i] = (uint8_t)((seq + i) * 7 + (seq + i) / 256);
	struct frame f = {.data = to, .len = head + len, .csum = true, .csum_offset = 16};
	f.csum_start = (uint16_t)l4;
	struct packet p;
	assert_true(packet_parse(&p, to, f.len));
	sum_put(tcp + 16, (uint16_t)~sum_fold(sum_pseudo(&p, to, (uint32_t)(f.len - l4))));
	frame_complete(&f, to);
	return f;
}

struct expect {
	uint32_t seq;
	bool ip4;
	size_t left;
	unsigned options, count;
};

static void expect_segment(void *opaque, const struct frame *s) {
	struct expect *e = opaque;
	static uint8_t want[FRAME_MAX];
	size_t len = MIN(e->left, UNIT);
	struct frame f = make(want, e->ip4, e->seq, len, e->options);
	assert_int_equal(s->len, f.len);
	if (e->ip4) { /* the identification counts on from the first */
		memcpy(want + ETHER_SIZE + 4, s->data + ETHER_SIZE + 4, 2);
		sum_put(want + ETHER_SIZE + 10, 0);
		sum_put(want + ETHER_SIZE + 10, sum_fold(sum_add(0, want + ETHER_SIZE, IP4_SIZE)));
	}
	assert_memory_equal(s->data, want, f.len);
	e->seq += (uint32_t)len;
	e->left -= len;
	e->count++;
}

static void test_whole(void **state) {
	static uint8_t next[FRAME_MAX], cut[FRAME_MAX];
	for (unsigned k = 0; k < 4; k++) {
		bool ip4 = k & 1;
		unsigned options = k & 2 ? 12 : 0, count = 1;
		uint32_t seq = 0xffffff00u; /* it wraps */
		struct frame f = make(data, ip4, seq, UNIT, options);
		while (1) {
			struct frame s = make(next, ip4, seq + count * UNIT, UNIT, options);
			if (!frame_merge(&f, data, sizeof(data), &s))
				break;
			count++;
		}
		/* As many as an IP packet holds; then a shorter one is the last. */
		assert_in_range(count, 64, 65);
		assert_true(frame_valid(&f) && f.gso_size == UNIT && f.len <= 65535 + ETHER_SIZE);
		struct frame tail = make(next, ip4, seq + count * UNIT, 100, options);
		assert_true(frame_merge(&f, data, sizeof(data), &tail));
		struct frame behind = make(next, ip4, seq + count * UNIT + 100, 100, options);
		assert_false(frame_merge(&f, data, sizeof(data), &behind));
		struct expect e = {seq, ip4, count * UNIT + 100, options, 0};
		frame_segment(&f, cut, expect_segment, &e);
		assert_int_equal(e.count, count + 1);
	}
}

/* Each way in which two do not belong together; nothing changes then. */
static void test_refused(void **state) {
	static const struct {
		unsigned at;
		uint8_t mask; /* of the second frame */
	} differ[] = {
		{0, 1},		{6, 1},		{13, 8},				/* the card's addresses, type */
		{14, 1},	{15, 4},	{20, 0x40}, {22, 1},	/* header length, TOS, DF, TTL */
		{23, 4},	{26, 1},	{33, 1},				/* protocol, addresses */
		{34, 1},	{37, 1},	{38, 1},	{41, 1},	/* ports, sequence */
		{45, 1},	{46, 0x10}, {46, 1},				/* acknowledgement, length, NS */
		{47, 1},	{47, 2},	{47, 4},	{47, 0x10}, /* FIN, SYN, RST, no ACK */
		{47, 0x20}, {47, 0x40}, {47, 0x80}, {54, 8},	/* URG, ECE, CWR, an option */
	};
	for (unsigned i = 0; i < sizeof(differ) / sizeof(differ[0]); i++) {
		struct frame f = make(data, true, 5, UNIT, 12), was = f;
		struct frame s = make(buf, true, 5 + UNIT, UNIT, 12);
		buf[differ[i].at] ^= differ[i].mask;
		memcpy(copy, data, f.len);
		assert_false(frame_merge(&f, data, sizeof(data), &s));
		assert_memory_equal(&f, &was, sizeof(f));
		assert_memory_equal(data, copy, f.len);
	}
	struct frame f = make(data, true, 5, UNIT, 0), s = make(buf, true, 5 + UNIT, UNIT, 0), t;
#define REFUSED(change) (t = s, change, assert_false(frame_merge(&f, data, sizeof(data), &t)))
	REFUSED(t.csum_ok = false);
	REFUSED(t.csum = true);
	REFUSED((t.gso = FRAME_GSO_TCP4, t.gso_size = 500));
	REFUSED(t.len -= 1);									   /* its IP packet is longer */
	REFUSED(t.len += 1);									   /* and shorter */
	assert_false(frame_merge(&f, data, f.len + UNIT - 1, &s)); /* no room */
	s = make(buf, true, 5 + UNIT, UNIT + 1, 0);
	assert_false(frame_merge(&f, data, sizeof(data), &s)); /* larger than the first */
	s = make(buf, true, 5 + UNIT, 0, 0);
	assert_false(frame_merge(&f, data, sizeof(data), &s)); /* an acknowledgement */
	f.csum_ok = false;
	s = make(buf, true, 5 + UNIT, UNIT, 0);
	assert_false(frame_merge(&f, data, sizeof(data), &s));
}

static unsigned merged;

static void check_segment(void *opaque, const struct frame *s) {
	assert_true(s->len <= FRAME_MAX && frame_valid(s));
}

/* Random damage: what is accepted can be cut. */
static void test_random(void **state) {
	static uint8_t cut[FRAME_MAX];
	srand(1);
	merged = 0;
	for (unsigned i = 0; i < 100000; i++) {
		bool ip4 = rand() % 2;
		unsigned options = rand() % 2 ? 12 : 0;
		struct frame f = make(data, ip4, 5, UNIT / 10, options);
		struct frame s = make(buf, ip4, 5 + UNIT / 10, UNIT / 10, options);
		for (unsigned n = (unsigned)rand() % 3; n; n--) {
			uint8_t bit = (uint8_t)(1u << rand() % 8);
			unsigned at = (unsigned)rand() % 80;
			if (rand() % 2)
				data[at] ^= bit;
			if (rand() % 2)
				buf[at] ^= bit;
		}
		f.len -= rand() % 8 ? 0 : (size_t)rand() % f.len;
		s.len -= rand() % 8 ? 0 : (size_t)rand() % s.len;
		if (!frame_merge(&f, data, sizeof(data), &s))
			continue;
		merged++;
		assert_true(frame_valid(&f));
		frame_segment(&f, cut, check_segment, NULL);
	}
	assert_true(merged > 10000);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests_name("net_merge", tests, NULL, NULL);
}
