/* Finds headers in frames ([RFC791], [RFC8200], IEEE 802.1Q) and sums up checksums
 * ([RFC1071]). Pure; every offset is checked against the frame's length before it is used. */
#include "core/net/packet.h"

#include "core/base/bits.h"
#include "core/base/string.h"

#define VLAN_TAGS 2
#define IP6_EXTENSIONS 8

enum { IP6_HOP_BY_HOP = 0, IP6_ROUTING = 43, IP6_FRAGMENT = 44, IP6_DESTINATION = 60 };

static void set_l4(struct packet *p, size_t at) {
	if (at + UDP_SIZE > p->end || p->later)
		return;
	if (p->fragment)
		p->first = (uint32_t)at;
	else
		p->l4 = (uint32_t)at;
}

static void parse_ip4(struct packet *p, const uint8_t *data, size_t len) {
	const uint8_t *h = data + p->l3;
	if (len - p->l3 < IP4_SIZE || h[0] >> 4 != 4)
		return;
	size_t header = (h[0] & 15u) * 4u, total = be16_get(h + 2);
	if (header < IP4_SIZE || total < header || total > len - p->l3)
		return;
	p->ip4 = true;
	p->end = p->l3 + total;
	p->protocol = h[9];
	p->fragment = be16_get(h + 6) & 0x3fff; /* an offset, or more to come */
	p->later = be16_get(h + 6) & 0x1fff;
	set_l4(p, p->l3 + header);
}

static void parse_ip6(struct packet *p, const uint8_t *data, size_t len) {
	const uint8_t *h = data + p->l3;
	if (len - p->l3 < IP6_SIZE || h[0] >> 4 != 6)
		return;
	size_t at = p->l3 + IP6_SIZE, payload = be16_get(h + 4);
	if (payload > len - at)
		return;
	p->ip6 = true;
	p->end = at + payload;
	p->protocol = h[6];
	for (unsigned i = 0;; i++) {
		bool fragment = p->protocol == IP6_FRAGMENT;
		if (!fragment && p->protocol != IP6_HOP_BY_HOP && p->protocol != IP6_ROUTING &&
			p->protocol != IP6_DESTINATION)
			break;
		p->fragment |= fragment;
		p->deep = i == IP6_EXTENSIONS;
		if (p->deep || at + 8 > p->end)
			return;
		p->protocol = data[at];
		p->later = fragment && be16_get(data + at + 2) >> 3;
		if (p->later)
			return;
		at += fragment ? 8u : 8u + data[at + 1] * 8u;
	}
	set_l4(p, at);
}

bool packet_parse(struct packet *p, const uint8_t *data, size_t len) {
	*p = (struct packet){0};
	if (len < ETHER_SIZE)
		return false;
	size_t at = ETHER_SIZE;
	p->type = be16_get(data + 12);
	for (unsigned i = 0; i < VLAN_TAGS && (p->type == ETHER_VLAN || p->type == ETHER_QINQ); i++) {
		if (at + 4 > len)
			break;
		if (!i)
			p->vlan = be16_get(data + at) & 0xfff;
		p->type = be16_get(data + at + 2);
		at += 4;
	}
	p->l3 = (uint32_t)at;
	if (p->type == ETHER_IP4)
		parse_ip4(p, data, len);
	else if (p->type == ETHER_IP6)
		parse_ip6(p, data, len);
	return true;
}

/* One's complement sums do not care for the order of bytes, if all is read and written in the
 * same: eight at a time in the host's. */
uint64_t sum_add(uint64_t sum, const uint8_t *p, size_t len) {
	uint64_t even = 0, odd = 0, word;
	for (; len >= 8; len -= 8, p += 8) {
		memcpy(&word, p, 8);
		even += word & 0xffffffffu;
		odd += word >> 32;
	}
	word = 0;
	for (size_t i = 0; i < len; i++)
		word |= (uint64_t)p[i] << (8 * i);
	sum = (sum & 0xffffffffu) + (sum >> 32);
	even = (even & 0xffffffffu) + (even >> 32);
	odd = (odd & 0xffffffffu) + (odd >> 32);
	return sum + even + odd + (word & 0xffffffffu) + (word >> 32);
}

uint16_t sum_fold(uint64_t sum) {
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

void sum_put(uint8_t *p, uint16_t folded) {
	p[0] = (uint8_t)folded;
	p[1] = (uint8_t)(folded >> 8);
}

uint64_t sum_add_be16(uint64_t sum, uint16_t v) {
	return sum + (uint16_t)(v << 8 | v >> 8);
}

uint64_t sum_pseudo(const struct packet *p, const uint8_t *data, uint32_t len) {
	uint64_t sum = p->ip4 ? sum_add(0, data + p->l3 + 12, 8) : sum_add(0, data + p->l3 + 8, 32);
	sum = sum_add_be16(sum, (uint16_t)(len >> 16));
	sum = sum_add_be16(sum, (uint16_t)len);
	return sum_add_be16(sum, p->protocol);
}

uint32_t packet_flow(const struct packet *p, const uint8_t *data) {
	uint32_t h = 0;
	if (p->ip4)
		h = be32_get(data + p->l3 + 12) ^ be32_get(data + p->l3 + 16);
	for (unsigned i = 8; p->ip6 && i < 40; i += 4)
		h ^= be32_get(data + p->l3 + i);
	if (p->l4 && (p->protocol == IP_TCP || p->protocol == IP_UDP))
		h ^= (uint32_t)(be16_get(data + p->l4) ^ be16_get(data + p->l4 + 2)) << 7;
	h ^= h >> 16;
	h *= 0x85ebca6bu;
	return h ^ h >> 13;
}
