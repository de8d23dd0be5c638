/* Whose IPv6 addresses are whose in a network of guests, and what of neighbour discovery passes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/net/filter6.h"

#define SECOND 1000000000ull

static const struct net_identity me = {{0x52, 0x54, 0, 0, 0, 1}, 0, {0xfd, 0x6a, 0, 0, 0, 0, 0, 7}};
static const uint8_t peer[6] = {0x52, 0x54, 0, 0, 0, 2};
static struct net_claims claims;
static uint64_t now;

/* An address by its last bytes: prefix fe80::/64, or the network's. */
static const uint8_t *ip(bool link, uint32_t high, uint32_t low) {
	static uint8_t ring[8][16];
	static unsigned at;
	uint8_t *a = ring[at++ % 8];
	memset(a, 0, 16);
	if (link)
		a[0] = 0xfe, a[1] = 0x80;
	else
		memcpy(a, me.prefix6, 8);
	be32_put(a + 8, high);
	be32_put(a + 12, low);
	return a;
}

#define MINE ip(true, 0x505400ff, 0xfe000001)
#define PEERS ip(true, 0x505400ff, 0xfe000002)
#define RANDOM ip(false, 0x12345678, 0x9abcdef0)
#define NONE ((const uint8_t[16]){0})

static uint8_t f[200];

/* A frame of `mac` from `from`; the message's type, its target, and an option with an Ethernet
 * address (NULL: none). */
static size_t make(const uint8_t *mac, const uint8_t *from, uint8_t type, const uint8_t *target,
				   const uint8_t *option) {
	uint8_t *h = f + ETHER_SIZE, *m = h + IP6_SIZE;
	size_t n = 24 + (option ? 8 : 0);
	memset(f, 0, sizeof(f));
	memcpy(f + 6, mac, 6);
	be16_put(f + 12, ETHER_IP6);
	h[0] = 0x60;
	be16_put(h + 4, (uint16_t)n);
	h[6] = IP_ICMP6;
	h[7] = 255;
	memcpy(h + 8, from, 16);
	memcpy(h + 24, ip(true, 9, 9), 16);
	m[0] = type;
	if (target)
		memcpy(m + 8, target, 16);
	if (option) {
		m[24] = type == 136 ? 2 : 1;
		m[25] = 1;
		memcpy(m + 26, option, 6);
	}
	return ETHER_SIZE + IP6_SIZE + n;
}

static bool sends(size_t len) {
	struct packet p;
	return packet_parse(&p, f, len) && net_filter_from_guest(&me, &claims, &p, f, len, now);
}

static bool gets(size_t len) {
	struct packet p;
	return packet_parse(&p, f, len) && net_filter_from_peer(&me, &claims, &p, f, len, now);
}

#define ECHO 128
#define SOLICIT 135
#define ADVERT 136

static int setup(void **state) {
	memset(&claims, 0, sizeof(claims));
	now = SECOND;
	return 0;
}

static void made_of_ethernet(void **state) {
	assert_true(sends(make(me.mac, MINE, ECHO, NULL, NULL)));
	assert_true(sends(make(me.mac, ip(false, 0x505400ff, 0xfe000001), ECHO, NULL, NULL)));
	/* Another's, the gateway's, a group's: never, and nobody is asked. */
	uint8_t never[5][16] = {[4] = {0xff, 2, [15] = 1}};
	memcpy(never[0], PEERS, 16);
	memcpy(never[1], ip(true, 0, 2), 16);
	memcpy(never[2], ip(false, 0, 2), 16);
	memcpy(never[3], ip(false, 0, 3), 16);
	for (unsigned i = 0; i < ARRAY_LEN(never); i++)
		for (unsigned k = 0; k < 3; k++, now += SECOND) {
			assert_false(sends(make(me.mac, never[i], ECHO, NULL, NULL)));
			assert_false(sends(make(me.mac, NONE, SOLICIT, never[i], NULL)));
			assert_false(claims.probing);
		}
	/* Peers' processes, too. */
	assert_true(gets(make(peer, PEERS, ECHO, NULL, NULL)));
	assert_false(gets(make(peer, MINE, ECHO, NULL, NULL)));
	assert_false(gets(make(peer, ip(false, 0, 2), ECHO, NULL, NULL)));
	assert_false(gets(make(peer, ip(true, 0x505400ff, 0xfe000003), ECHO, NULL, NULL)));
}

static void asked_for(void **state) {
	assert_true(sends(make(me.mac, NONE, SOLICIT, RANDOM, NULL)));
	assert_false(sends(make(me.mac, RANDOM, ECHO, NULL, NULL))); /* not yet */
	assert_false(claims.probing);
	now += CLAIM_ASKED_NS;
	assert_true(sends(make(me.mac, RANDOM, ECHO, NULL, NULL)));
	/* From now on it is nobody else's. */
	assert_false(gets(make(peer, RANDOM, ECHO, NULL, NULL)));
	assert_false(gets(make(peer, PEERS, ADVERT, RANDOM, peer)));
	assert_true(gets(make(peer, NONE, SOLICIT, RANDOM, NULL))); /* our guest says so itself */
	assert_true(sends(make(me.mac, RANDOM, ADVERT, RANDOM, me.mac)));
}

static void somebody_has_it(void **state) {
	assert_true(sends(make(me.mac, NONE, SOLICIT, RANDOM, NULL)));
	now += CLAIM_ASKED_NS / 2;
	assert_true(gets(make(peer, RANDOM, ADVERT, RANDOM, peer)));
	now += CLAIM_ASKED_NS;
	assert_false(sends(make(me.mac, RANDOM, ECHO, NULL, NULL)));
	assert_false(claims.probing); /* not again at once */
	assert_false(sends(make(me.mac, MINE, ADVERT, RANDOM, me.mac)));
	assert_true(gets(make(peer, RANDOM, ECHO, NULL, NULL)));
	now += CLAIM_LOST_NS;
	assert_false(sends(make(me.mac, RANDOM, ECHO, NULL, NULL)));
	assert_true(claims.probing);
}

/* One who does not ask is asked for. */
static void never_asked(void **state) {
	uint8_t probe[FILTER6_PROBE];
	struct packet p;
	assert_int_equal(filter6_probe(&me, &claims, probe), 0);
	assert_false(sends(make(me.mac, RANDOM, ECHO, NULL, NULL)));
	assert_int_equal(filter6_probe(&me, &claims, probe), FILTER6_PROBE);
	assert_int_equal(filter6_probe(&me, &claims, probe), 0);
	assert_true(packet_parse(&p, probe, FILTER6_PROBE) && p.l4 && p.protocol == IP_ICMP6);
	assert_int_equal(sum_fold(sum_add(sum_pseudo(&p, probe, 24), probe + p.l4, 24)), 0);
	assert_memory_equal(probe, ((const uint8_t[]){0x33, 0x33, 0xff, 0xbc, 0xde, 0xf0}), 6);
	assert_memory_equal(probe + p.l4 + 8, RANDOM, 16);
	/* What a member's filter says of it. */
	const struct net_identity other = {{0x52, 0x54, 0, 0, 0, 2}, 0, {0}};
	struct net_claims c = {0};
	assert_true(net_filter_from_peer(&other, &c, &p, probe, FILTER6_PROBE, now));
	now += CLAIM_ASKED_NS;
	assert_true(sends(make(me.mac, RANDOM, ECHO, NULL, NULL)));
	/* Many of them: the newest are held, those in use last longest. */
	for (uint32_t i = 0; i < 1000; i++, now += SECOND) {
		assert_false(sends(make(me.mac, ip(false, 77, 100 + i), ECHO, NULL, NULL)));
		assert_true(sends(make(me.mac, RANDOM, ECHO, NULL, NULL)));
	}
	assert_true(sends(make(me.mac, ip(false, 77, 1099), ECHO, NULL, NULL)));
	assert_false(sends(make(me.mac, ip(false, 77, 100), ECHO, NULL, NULL)));
}

static void neighbours(void **state) {
	assert_true(sends(make(me.mac, MINE, SOLICIT, PEERS, me.mac)));
	assert_false(sends(make(me.mac, MINE, SOLICIT, PEERS, peer)));
	assert_true(sends(make(me.mac, MINE, ADVERT, MINE, me.mac)));
	assert_false(sends(make(me.mac, MINE, ADVERT, MINE, peer)));
	assert_false(sends(make(me.mac, MINE, ADVERT, PEERS, me.mac)));
	assert_false(sends(make(me.mac, MINE, 137, PEERS, NULL))); /* redirect */
	assert_true(gets(make(peer, PEERS, ADVERT, PEERS, peer)));
	assert_false(gets(make(peer, PEERS, ADVERT, PEERS, me.mac)));
	assert_false(gets(make(peer, PEERS, ADVERT, MINE, peer)));
	assert_false(gets(make(peer, PEERS, ADVERT, ip(true, 0, 2), peer)));
	assert_false(gets(make(peer, PEERS, 137, PEERS, NULL)));
	/* Without a source. */
	assert_true(sends(make(me.mac, NONE, 143, NULL, NULL)));
	assert_false(sends(make(me.mac, NONE, ECHO, NULL, NULL)));
	assert_false(sends(make(me.mac, NONE, ADVERT, MINE, NULL)));
	/* Options that end nowhere, and a message cut anywhere. */
	size_t n = make(me.mac, MINE, SOLICIT, PEERS, me.mac);
	f[ETHER_SIZE + IP6_SIZE + 25] = 0;
	assert_false(sends(n));
	f[ETHER_SIZE + IP6_SIZE + 25] = 2;
	assert_false(sends(n));
	for (unsigned k = 8; k < 32; k++) {
		make(me.mac, MINE, SOLICIT, PEERS, me.mac);
		be16_put(f + 18, (uint16_t)k);
		assert_int_equal(sends(ETHER_SIZE + IP6_SIZE + k), k == 24);
	}
}

/* The message behind `count` extension headers, the last of which is a fragment's (-1: none is). */
static size_t behind(unsigned count, int offset, uint8_t type) {
	uint8_t *h = f + ETHER_SIZE, *m = h + IP6_SIZE;
	make(me.mac, MINE, type, MINE, NULL);
	memset(m, 0, 8 * count + 24);
	h[6] = count == 1 && offset >= 0 ? 44 : 60;
	for (unsigned i = 0; i < count; i++, m += 8) {
		bool last = i + 1 == count;
		*m = last ? IP_ICMP6 : i + 2 == count && offset >= 0 ? 44 : 60;
		if (last && offset >= 0)
			be16_put(m + 2, (uint16_t)(offset << 3 | 1));
	}
	*m = type;
	memcpy(m + 8, MINE, 16);
	be16_put(h + 4, (uint16_t)(8 * count + 24));
	return ETHER_SIZE + IP6_SIZE + 8 * count + 24;
}

static void hidden(void **state) {
	for (unsigned n = 1; n < 14; n++) {
		assert_false(sends(behind(n, -1, 134)) || gets(behind(n, -1, 134)));
		assert_int_equal(sends(behind(n, -1, ECHO)), n <= 8);
		/* In parts: an echo may be, neighbour discovery not; what has no header goes with it. */
		assert_int_equal(sends(behind(n, 0, ECHO)), n <= 8);
		for (uint8_t t = 133; t <= 137; t++)
			assert_false(sends(behind(n, 0, t)));
	}
	assert_true(sends(behind(1, 100, 134)));
	size_t len = behind(1, 0, ECHO);
	be16_put(f + 18, 8 + 4); /* so short that the type is in the next one */
	assert_false(sends(len - 20));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(made_of_ethernet, setup), cmocka_unit_test_setup(asked_for, setup),
		cmocka_unit_test_setup(somebody_has_it, setup),	 cmocka_unit_test_setup(never_asked, setup),
		cmocka_unit_test_setup(neighbours, setup),		 cmocka_unit_test_setup(hidden, setup),
	};
	return cmocka_run_group_tests_name("net_filter6", tests, NULL, NULL);
}
