/* Frames that a guest must not send into a network with others: with somebody else's address,
 * or in the part of the network's own DHCP server or router. */
#ifndef CORE_NET_FILTER_H
#define CORE_NET_FILTER_H

#include "core/net/claims.h"
#include "core/net/packet.h"

struct net_identity {
	uint8_t mac[6];
	uint32_t ip4;		/* host order; 0: not known, any */
	uint8_t prefix6[8]; /* the network's */
};

/* Judges a frame that the guest sends: Ethernet source, ARP sender, IPv4 source (0.0.0.0 only
 * for DHCP and probes), no DHCP or DHCPv6 answers, no router advertisements, and what
 * filter6.h says of IPv6. `c` is zeroes at first; see filter6_probe() for what it asks for. */
bool net_filter_from_guest(const struct net_identity *id, struct net_claims *c,
						   const struct packet *p, const uint8_t *data, size_t len,
						   uint64_t now_ns);

/* Judges one that another guest's process sent to us: the same of the parts that only the
 * network itself plays, and nothing in the name of our own guest. */
bool net_filter_from_peer(const struct net_identity *id, struct net_claims *c,
						  const struct packet *p, const uint8_t *data, size_t len, uint64_t now_ns);

#endif
