/* See filter.h. ARP is [RFC826], DHCP's ports [RFC2131] and [RFC8415], router advertisements
 * [RFC4861]. */
#include "core/net/filter.h"

#include "core/base/string.h"

#define ARP_SIZE 28u
#define ARP_SENDER_MAC 8
#define ARP_SENDER_IP 14
#define DHCP_SERVER 67u
#define DHCP_CLIENT 68u
#define DHCP6_SERVER 547u
#define ND_ROUTER_ADVERT 134u

/* What only the network itself may say. Fragments could hide it: those of UDP over IPv6 and of
 * ICMPv6 have no business in a local network's own protocols, and are let through only as data
 * of a protocol that is neither. */
static bool plays_network(const struct packet *p, const uint8_t *data) {
	if (!p->l4)
		return p->ip6 && p->fragment && p->protocol == IP_ICMP6;
	uint16_t from = be16_get(data + p->l4);
	if (p->protocol == IP_UDP)
		return from == (p->ip4 ? DHCP_SERVER : DHCP6_SERVER);
	return p->ip6 && p->protocol == IP_ICMP6 && data[p->l4] == ND_ROUTER_ADVERT;
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

bool net_filter_from_guest(const struct net_identity *id, const struct packet *p,
						   const uint8_t *data, size_t len) {
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
	return p->type != ETHER_IP6 || p->ip6;
}

bool net_filter_from_peer(const struct net_identity *id, const struct packet *p,
						  const uint8_t *data, size_t len) {
	if (!memcmp(data + 6, id->mac, 6) || plays_network(p, data))
		return false;
	if (p->type == ETHER_ARP && len - p->l3 >= ARP_SIZE)
		return be32_get(data + p->l3 + ARP_SENDER_IP) != id->ip4 || !id->ip4;
	return !p->ip4 || !id->ip4 || be32_get(data + p->l3 + 12) != id->ip4;
}
