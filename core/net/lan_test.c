/* What a named network does by itself: switching, the filter, DHCP, DNS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/net/dhcp.h"
#include "core/net/dns.h"
#include "core/net/filter.h"
#include "core/net/switch.h"
#include "core/net/udp.h"

#define IP(a, b, c, d) ((uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d))

static const uint8_t me[6] = {0x52, 0x54, 0, 0, 0, 1}, peer[6] = {0x52, 0x54, 0, 0, 0, 2};
static const uint8_t gateway[6] = {0x52, 0x55, 10, 89, 0, 1};

static void test_switch(void **state) {
	static struct net_switch s;
	switch_init(&s);
	assert_int_equal(switch_find(&s, me, 0), SWITCH_ALL);
	switch_learn(&s, me, 0, 5);
	switch_learn(&s, peer, 7, 5);
	assert_int_equal(switch_find(&s, me, 6), 0);
	assert_int_equal(switch_find(&s, peer, 6), 7);
	switch_learn(&s, peer, 8, 6); /* it moved */
	assert_int_equal(switch_find(&s, peer, 6), 8);
	assert_int_equal(switch_find(&s, peer, 6 + SWITCH_AGE_NS), SWITCH_ALL);
	switch_forget(&s, 0);
	assert_int_equal(switch_find(&s, me, 6), SWITCH_ALL);
	static const uint8_t all[6] = {255, 255, 255, 255, 255, 255};
	switch_learn(&s, all, 1, 6);
	assert_int_equal(switch_find(&s, all, 6), SWITCH_ALL);
	/* Somebody makes up addresses; the latest of them are known. */
	uint8_t mac[6] = {2};
	for (unsigned i = 0; i < 100000; i++) {
		memcpy(mac + 2, &i, 4);
		switch_learn(&s, mac, 3, 10 + i);
		assert_int_equal(switch_find(&s, mac, 10 + i), 3);
	}
}

static bool sends(const uint8_t *f, size_t len) {
	struct net_identity id = {.ip4 = IP(10, 89, 0, 11)};
	struct net_claims c = {0};
	struct packet p;
	memcpy(id.mac, me, 6);
	return packet_parse(&p, f, len) && net_filter_from_guest(&id, &c, &p, f, len, 0);
}

static bool gets(const uint8_t *f, size_t len) {
	struct net_identity id = {.ip4 = IP(10, 89, 0, 12)};
	struct net_claims c = {0};
	struct packet p;
	memcpy(id.mac, peer, 6);
	return packet_parse(&p, f, len) && net_filter_from_peer(&id, &c, &p, f, len, 0);
}

static size_t datagram(uint8_t *f, uint32_t from, uint16_t from_port, uint16_t to_port) {
	struct udp_ends e = {
		.from = from, .to = IP(10, 89, 0, 12), .from_port = from_port, .to_port = to_port};
	memcpy(e.from_mac, me, 6);
	memcpy(e.to_mac, peer, 6);
	memset(f + UDP_PAYLOAD, 0, 20);
	return udp_make(f, &e, 20);
}

static void test_filter(void **state) {
	uint8_t f[128];
	size_t n = datagram(f, IP(10, 89, 0, 11), 1000, 2000);
	assert_true(sends(f, n) && gets(f, n));
	f[11] = 9; /* another's Ethernet address */
	assert_false(sends(f, n));
	n = datagram(f, IP(10, 89, 0, 12), 1000, 2000); /* another's IP address */
	assert_false(sends(f, n) || gets(f, n));
	n = datagram(f, 0, 1000, 2000);
	assert_false(sends(f, n));
	n = datagram(f, 0, 68, 67);
	assert_true(sends(f, n));
	n = datagram(f, IP(10, 89, 0, 11), 67, 68); /* a second DHCP server */
	assert_false(sends(f, n) || gets(f, n));
	n = datagram(f, IP(10, 89, 0, 11), 1, 2);
	f[14] = 0x43;
	assert_false(sends(f, n));
	/* ARP */
	memset(f, 0, sizeof(f));
	memcpy(f + 6, me, 6);
	be16_put(f + 12, ETHER_ARP);
	memcpy(f + 14 + 8, me, 6);
	be32_put(f + 14 + 14, IP(10, 89, 0, 11));
	assert_true(sends(f, 42) && gets(f, 42));
	assert_false(sends(f, 41));
	be32_put(f + 14 + 14, IP(10, 89, 0, 12));
	assert_false(sends(f, 42) || gets(f, 42));
	be32_put(f + 14 + 14, 0);
	assert_true(sends(f, 42));
	f[14 + 8 + 5] = 7;
	assert_false(sends(f, 42));
	/* IPv6: anything but a router's advertisement. */
	memset(f, 0, sizeof(f));
	memcpy(f + 6, me, 6);
	be16_put(f + 12, ETHER_IP6);
	f[14] = 0x60;
	be16_put(f + 18, 16);
	f[20] = IP_ICMP6;
	f[54] = 133;
	f[62] = f[63] = 1; /* my Ethernet address */
	memcpy(f + 64, me, 6);
	assert_true(sends(f, 70) && gets(f, 70));
	f[54] = 134;
	assert_false(sends(f, 70) || gets(f, 70));
	f[54] = IP_ICMP6; /* behind an extension header, or cut into fragments */
	f[62] = 134;
	f[20] = 60;
	assert_false(sends(f, 70) || gets(f, 70));
	f[20] = 44;
	assert_false(sends(f, 70) || gets(f, 70));
	f[14] = 0x40;
	assert_false(sends(f, 70));
}

static const struct dhcp_server dhcp = {
	.mac = {0x52, 0x55, 10, 89, 0, 1},
	.client = {0x52, 0x54, 0, 0, 0, 1},
	.address = IP(10, 89, 0, 11),
	.mask = 0xffffff00,
	.router = IP(10, 89, 0, 1),
	.dns = IP(10, 89, 0, 2),
	.hostname = "web",
	.domain = "lab.internal",
};

/* A request; returns the message type of the answer, 0 without one. */
static uint8_t ask(uint8_t *f, uint8_t type, uint32_t wanted, uint8_t *out, size_t *len) {
	struct packet p;
	struct udp_ends e = {.to = 0xffffffff, .from_port = 68, .to_port = 67};
	uint8_t *m = f + UDP_PAYLOAD, *o = m + 240;
	memset(m, 0, 300);
	m[0] = m[1] = 1;
	m[2] = 6;
	memcpy(m + 4, "\1\2\3\4", 4);
	memcpy(m + 28, me, 6);
	be32_put(m + 236, 0x63825363);
	*o++ = 0;
	*o++ = 53;
	*o++ = 1;
	*o++ = type;
	if (wanted) {
		*o++ = 50;
		*o++ = 4;
		be32_put(o, wanted);
		o += 4;
	}
	*o++ = 255;
	memcpy(e.from_mac, me, 6);
	memset(e.to_mac, 255, 6);
	size_t n = udp_make(f, &e, 300);
	assert_true(packet_parse(&p, f, n));
	assert_true(dhcp_serve(&dhcp, &p, f, out, len));
	if (!*len)
		return 0;
	assert_true(packet_parse(&p, out, *len) && p.ip4 && p.end == *len);
	assert_int_equal(be16_get(out + p.l4 + 2), 68);
	assert_memory_equal(out, me, 6);
	assert_memory_equal(out + UDP_PAYLOAD + 4, "\1\2\3\4", 4);
	assert_int_equal(out[UDP_PAYLOAD + 240], 53);
	return out[UDP_PAYLOAD + 242];
}

static bool has(const uint8_t *out, size_t len, const char *bytes, size_t n) {
	for (size_t i = 0; i + n <= len; i++) {
		if (!memcmp(out + i, bytes, n))
			return true;
	}
	return false;
}

static void test_dhcp(void **state) {
	uint8_t f[512], out[DHCP_ANSWER_MAX];
	size_t len;
	assert_int_equal(ask(f, 1, 0, out, &len), 2);
	assert_int_equal(be32_get(out + UDP_PAYLOAD + 16), IP(10, 89, 0, 11));
	assert_true(has(out, len, "\1\4\xff\xff\xff\0", 6));
	assert_true(has(out, len, "\3\4\x0a\x59\0\1", 6));
	assert_true(has(out, len, "\6\4\x0a\x59\0\2", 6));
	assert_true(has(out, len, "\x0c\3web", 5));
	assert_true(has(out, len, "\x77\x0e\3lab\x08internal\0", 16));
	assert_int_equal(ask(f, 3, IP(10, 89, 0, 11), out, &len), 5);
	assert_int_equal(ask(f, 3, IP(10, 89, 0, 12), out, &len), 6);
	assert_int_equal(ask(f, 3, 0, out, &len), 6);
	assert_int_equal(ask(f, 8, 0, out, &len), 5);
	assert_int_equal(ask(f, 4, 0, out, &len), 0);
	assert_int_equal(ask(f, 0, 0, out, &len), 0);
	/* Cut anywhere, and options that run over. */
	ask(f, 1, 0, out, &len);
	for (size_t n = 0; n < UDP_PAYLOAD + 300; n++) {
		struct packet p;
		uint8_t g[512];
		memcpy(g, f, n);
		if (n > UDP_PAYLOAD) {
			be16_put(g + 16, (uint16_t)(n - 14));
			be16_put(g + 38, (uint16_t)(n - 34));
		}
		if (packet_parse(&p, g, n))
			dhcp_serve(&dhcp, &p, g, out, &len);
	}
	for (unsigned v = 0; v < 256; v++) {
		struct packet p;
		f[UDP_PAYLOAD + 242] = (uint8_t)v; /* the option's length */
		packet_parse(&p, f, UDP_PAYLOAD + 300);
		dhcp_serve(&dhcp, &p, f, out, &len);
	}
}

static uint32_t lookup(void *opaque, const char *name) {
	return !strcmp(name, "web") ? IP(10, 89, 0, 11) : !strcmp(name, "db") ? IP(10, 89, 0, 12) : 0;
}

static const char *reverse(void *opaque, uint32_t ip) {
	return ip == IP(10, 89, 0, 12) ? "db" : NULL;
}

static const struct dns_server dns = {IP(10, 89, 0, 2), "lab.internal", lookup, reverse, NULL};

/* The question for `name` (labels with lengths), in f; returns what dns_serve() says. */
static bool query(uint8_t *f, const char *name, size_t len, uint16_t type, uint8_t *out,
				  size_t *n) {
	struct packet p;
	struct udp_ends e = {
		.from = IP(10, 89, 0, 11), .to = IP(10, 89, 0, 2), .from_port = 999, .to_port = 53};
	uint8_t *m = f + UDP_PAYLOAD;
	memcpy(e.from_mac, me, 6);
	memcpy(e.to_mac, gateway, 6);
	memcpy(m, "\x12\x34\1\0\0\1\0\0\0\0\0\0", 12);
	memcpy(m + 12, name, len);
	be16_put(m + 12 + len, type);
	be16_put(m + 14 + len, 1);
	assert_true(packet_parse(&p, f, udp_make(f, &e, 16 + len)));
	return dns_serve(&dns, &p, f, out, n);
}

static void test_dns(void **state) {
	uint8_t f[512], out[DNS_ANSWER_MAX], *m = out + UDP_PAYLOAD;
	size_t n;
	struct packet p;
	assert_true(query(f, "\3WEB", 5, 1, out, &n));
	assert_true(packet_parse(&p, out, n) && p.end == n);
	assert_memory_equal(out, me, 6);
	assert_memory_equal(out + 6, gateway, 6);
	assert_int_equal(be16_get(out + p.l4 + 2), 999);
	assert_memory_equal(m, "\x12\x34\x85\x80\0\1\0\1", 8);
	assert_int_equal(be32_get(out + n - 4), IP(10, 89, 0, 11));
	assert_true(query(f, "\2db\3lab\x08internal", 17, 1, out, &n));
	assert_int_equal(be32_get(out + n - 4), IP(10, 89, 0, 12));
	assert_true(query(f, "\2db", 4, 28, out, &n)); /* AAAA: it is there, without one */
	assert_memory_equal(m + 2, "\x85\x80\0\1\0\0", 6);
	assert_true(query(f, "\2no\3lab\x08internal", 17, 1, out, &n));
	assert_memory_equal(m + 2, "\x85\x83\0\1\0\0", 6);
	assert_true(query(f,
					  "\x02"
					  "12\1"
					  "0\2"
					  "89\2"
					  "10\7in-addr\4arpa",
					  25, 12, out, &n));
	assert_memory_equal(out + n - 17, "\2db\3lab\x08internal\0", 17);
	assert_false(query(f, "\7example\3com", 13, 1, out, &n));
	assert_false(query(f, "", 1, 2, out, &n));
	assert_false(query(f,
					   "\x01"
					   "1\1"
					   "0\2"
					   "89\2"
					   "10\7in-addr\4arpa",
					   24, 12, out, &n));
	/* A pointer, labels that run over, control characters. */
	assert_false(query(f, "\xc0\x0c", 2, 1, out, &n));
	assert_false(query(f, "\x3fweb", 5, 1, out, &n));
	assert_false(query(f, "\3w.b", 5, 1, out, &n));
	query(f, "\2db\3lab\x08internal", 17, 1, out, &n);
	for (size_t len = UDP_PAYLOAD; len < UDP_PAYLOAD + 33; len++) {
		uint8_t g[512];
		memcpy(g, f, len);
		be16_put(g + 16, (uint16_t)(len - 14));
		if (packet_parse(&p, g, len))
			assert_false(dns_serve(&dns, &p, g, out, &n));
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_switch),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_dhcp),
		cmocka_unit_test(test_dns),
	};
	return cmocka_run_group_tests_name("net_lan", tests, NULL, NULL);
}
