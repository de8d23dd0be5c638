/* See filter6.h. */
#include "core/net/filter6.h"

#include "core/base/string.h"

enum {
	MLD_REPORT = 131,
	MLD_DONE = 132,
	ROUTER_SOLICIT = 133,
	NEIGHBOUR_SOLICIT = 135,
	NEIGHBOUR_ADVERT = 136,
	REDIRECT = 137,
	MLD2_REPORT = 143,
};
#define SOURCE 8 /* in the IPv6 header */
#define TARGET 8 /* in a neighbour's message, whose options follow it */
#define ND_SIZE 24u
#define SOLICIT_SIZE 8u
#define OPTION_SOURCE 1
#define OPTION_TARGET 2

static bool is_none(const uint8_t *ip) {
	static const uint8_t none[16];
	return !memcmp(ip, none, 16);
}

static bool is_group(const uint8_t *ip) {
	return ip[0] == 0xff;
}

/* The Ethernet address that it was made of. */
static bool read_mac(const uint8_t *ip, uint8_t mac[6]) {
	if (ip[11] != 0xff || ip[12] != 0xfe)
		return false;
	memcpy(mac, ip + 8, 3);
	memcpy(mac + 3, ip + 13, 3);
	mac[0] ^= 2;
	return true;
}

static bool is_of(const uint8_t *ip, const uint8_t mac[6]) {
	uint8_t made_of[6];
	return read_mac(ip, made_of) && !memcmp(made_of, mac, 6);
}

/* One that nobody but the gateway, or a member with another Ethernet address, has a right to. */
static bool is_taken(const struct net_identity *id, const uint8_t *ip, const uint8_t mac[6]) {
	static const uint8_t zero[7], link[8] = {0xfe, 0x80};
	uint8_t made_of[6];
	if (read_mac(ip, made_of) && memcmp(made_of, mac, 6) != 0 && made_of[0] == 0x52 &&
		made_of[1] == 0x54)
		return true;
	return (!memcmp(ip, link, 8) || !memcmp(ip, id->prefix6, 8)) && !memcmp(ip + 8, zero, 7) &&
		   ip[15] >= 1 && ip[15] <= 3;
}

static bool is_own(const struct net_identity *id, struct net_claims *c, const uint8_t *ip,
				   uint64_t now_ns) {
	return is_of(ip, id->mac) || claims_hold(c, ip, now_ns);
}

/* 0: not one of ICMPv6, or not to be seen from here: fragments of these are gone already. */
static uint8_t message(const struct packet *p, const uint8_t *data) {
	return p->l4 && p->protocol == IP_ICMP6 ? data[p->l4] : 0;
}

/* Is a message of neighbour discovery whole, and does it name no Ethernet address but this one? */
static bool names_only(const struct packet *p, const uint8_t *data, const uint8_t mac[6]) {
	size_t at = p->l4 + (data[p->l4] == ROUTER_SOLICIT ? SOLICIT_SIZE : ND_SIZE);
	while (at + 8 <= p->end) {
		const uint8_t *option = data + at;
		size_t len = option[1] * 8u;
		if (!len || len > p->end - at)
			return false;
		if ((option[0] == OPTION_SOURCE || option[0] == OPTION_TARGET) &&
			(len != 8 || memcmp(option + 2, mac, 6) != 0))
			return false;
		at += len;
	}
	return at == p->end;
}

bool filter6_from_guest(const struct net_identity *id, struct net_claims *c, const struct packet *p,
						const uint8_t *data, uint64_t now_ns) {
	const uint8_t *from = data + p->l3 + SOURCE, *target = data + p->l4 + TARGET;
	uint8_t type = message(p, data);
	bool neighbour = type == NEIGHBOUR_SOLICIT || type == NEIGHBOUR_ADVERT;
	if (is_group(from) || type == REDIRECT)
		return false;
	if ((neighbour || type == ROUTER_SOLICIT) && !names_only(p, data, id->mac))
		return false;
	if (is_none(from)) {
		if (type != NEIGHBOUR_SOLICIT)
			return type == ROUTER_SOLICIT || type == MLD_REPORT || type == MLD_DONE ||
				   type == MLD2_REPORT;
		if (is_none(target) || is_group(target) || is_taken(id, target, id->mac))
			return false;
		if (!is_of(target, id->mac))
			claims_begin(c, target, false, now_ns);
		return true;
	}
	if (is_taken(id, from, id->mac))
		return false;
	if (!is_own(id, c, from, now_ns)) {
		claims_begin(c, from, true, now_ns);
		return false;
	}
	return type != NEIGHBOUR_ADVERT || is_own(id, c, target, now_ns);
}

bool filter6_from_peer(const struct net_identity *id, struct net_claims *c, const struct packet *p,
					   const uint8_t *data, uint64_t now_ns) {
	const uint8_t *from = data + p->l3 + SOURCE, *target = data + p->l4 + TARGET, *mac = data + 6;
	uint8_t type = message(p, data);
	bool neighbour = type == NEIGHBOUR_SOLICIT || type == NEIGHBOUR_ADVERT;
	if (is_group(from) || type == REDIRECT || is_taken(id, from, mac) ||
		is_own(id, c, from, now_ns))
		return false;
	if ((neighbour || type == ROUTER_SOLICIT) && !names_only(p, data, mac))
		return false;
	if (type == NEIGHBOUR_ADVERT && (is_taken(id, target, mac) || is_own(id, c, target, now_ns)))
		return false;
	if (type == NEIGHBOUR_ADVERT || (type == NEIGHBOUR_SOLICIT && is_none(from)))
		claims_object(c, target, now_ns);
	return true;
}

size_t filter6_probe(const struct net_identity *id, struct net_claims *c,
					 uint8_t frame[FILTER6_PROBE]) {
	static const uint8_t group[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
	const uint8_t *ip = c->probe;
	uint8_t *h = frame + ETHER_SIZE, *m = h + IP6_SIZE;
	struct packet p;
	if (!c->probing)
		return 0;
	c->probing = false;
	memset(frame, 0, FILTER6_PROBE);
	frame[0] = frame[1] = 0x33;
	frame[2] = 0xff;
	memcpy(frame + 3, ip + 13, 3);
	memcpy(frame + 6, id->mac, 6);
	be16_put(frame + 12, ETHER_IP6);
	h[0] = 0x60;
	be16_put(h + 4, ND_SIZE);
	h[6] = IP_ICMP6;
	h[7] = 255;
	memcpy(h + 24, group, sizeof(group));
	memcpy(h + 24 + sizeof(group), ip + 13, 3);
	m[0] = NEIGHBOUR_SOLICIT;
	memcpy(m + TARGET, ip, 16);
	if (!packet_parse(&p, frame, FILTER6_PROBE))
		return 0;
	sum_put(m + 2, sum_fold(sum_add(sum_pseudo(&p, frame, ND_SIZE), m, ND_SIZE)));
	return FILTER6_PROBE;
}
