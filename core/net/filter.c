/* See filter.h. ARP is [RFC826], DHCP's ports [RFC2131] and [RFC8415], router advertisements
 * [RFC4861]. */
#include "core/net/filter.h"

#include "core/base/string.h"
#include "core/net/filter6.h"

#define ARP_SIZE 28u
#define ARP_SENDER_MAC 8
#define ARP_SENDER_IP 14
#define DHCP_SERVER 67u
#define DHCP_CLIENT 68u
#define DHCP6_SERVER 547u
#define ND_FIRST 133u
#define ND_ROUTER_ADVERT 134u
#define ND_LAST 137u

/* What only the network itself may say. A part of a packet is judged by the first one, which is the
 * one with the header, or it is refused ([RFC7112]); neighbour discovery is never sent in parts
 * ([RFC6980]). */
static bool plays_network(const struct packet *p, const uint8_t *data) {
	uint32_t at = p->l4 ? p->l4 : p->first;
	if (!at)
		return p->deep || (p->fragment && !p->later);
	uint16_t from = be16_get(data + at);
	if (p->protocol == IP_UDP)
		return from == (p->ip4 ? DHCP_SERVER : DHCP6_SERVER);
	if (!p->ip6 || p->protocol != IP_ICMP6)
		return false;
	if (p->first)
		return data[at] >= ND_FIRST && data[at] <= ND_LAST;
	return data[at] == ND_ROUTER_ADVERT;
}

static bool dhcp_request(const struct packet *p, const uint8_t *data) {
	return p->l4 && p->protocol == IP_UDP && be16_get(data + p->l4) == DHCP_CLIENT &&
		   be16_get(data + p->l4 + 2) == DHCP_SERVER;
}

static bool arp_ok(const struct net_identity *id, const struct packet *p, const uint8_t *data,
				   size_t len) {
	const uint8_t *arp = data + p->l3;
	if (len - p->l3 < ARP_SIZE || memcmp(arp + ARP_SENDER_MAC, id->mac, 6) != 0)
		return false;
	uint32_t ip = be32_get(arp + ARP_SENDER_IP);
	return !ip || !id->ip4 || ip == id->ip4; /* 0.0.0.0: a probe */
}

bool net_filter_from_guest(const struct net_identity *id, struct net_claims *c,
						   const struct packet *p, const uint8_t *data, size_t len,
						   uint64_t now_ns) {
	if (memcmp(data + 6, id->mac, 6) != 0 || plays_network(p, data))
		return false;
	if (p->type == ETHER_ARP)
		return arp_ok(id, p, data, len);
	if (p->type == ETHER_IP4) {
		if (!p->ip4)
			return false; /* too broken to judge */
		uint32_t ip = be32_get(data + p->l3 + 12);
		return !id->ip4 || ip == id->ip4 || (!ip && dhcp_request(p, data));
	}
	return p->type != ETHER_IP6 || (p->ip6 && filter6_from_guest(id, c, p, data, now_ns));
}

bool net_filter_from_peer(const struct net_identity *id, struct net_claims *c,
						  const struct packet *p, const uint8_t *data, size_t len,
						  uint64_t now_ns) {
	if (!memcmp(data + 6, id->mac, 6) || plays_network(p, data))
		return false;
	if (p->type == ETHER_ARP && len - p->l3 >= ARP_SIZE)
		return be32_get(data + p->l3 + ARP_SENDER_IP) != id->ip4 || !id->ip4;
	if (p->type == ETHER_IP6)
		return p->ip6 && filter6_from_peer(id, c, p, data, now_ns);
	return !p->ip4 || !id->ip4 || be32_get(data + p->l3 + 12) != id->ip4;
}
