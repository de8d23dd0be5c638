/* The filter's part for IPv6 (filter.h). A guest makes up its own addresses, so which are its own
 * is told by these rules:
 *   - one that was made of an Ethernet address (EUI-64, [RFC4291 A]) is its owner's, if that is
 *     this guest or has the prefix 52:54 that ours are given;
 *   - ::1 to ::3 of the network's prefix and of fe80:: are the gateway's;
 *   - all others are the first one's who asked for it in the network (claims.h).
 * Neighbour discovery ([RFC4861]) says nothing about others: solicitations and advertisements
 * have the sender's Ethernet address, advertisements are of an address of its own, and nobody
 * redirects. Without a source only those go that ask for an address, or come before there is one.
 *
 * Not held: one who takes an address that nobody uses at the moment; and a whole process that its
 * guest has taken over sends what it likes, of which the others refuse what is in their own names,
 * in the gateway's, or in the name of an address made of another's Ethernet address. */
#ifndef CORE_NET_FILTER6_H
#define CORE_NET_FILTER6_H

#include "core/net/claims.h"
#include "core/net/filter.h"

#define FILTER6_PROBE (ETHER_SIZE + IP6_SIZE + 24u)

/* `p` is a whole IPv6 header's, what only the network plays is gone already. */
bool filter6_from_guest(const struct net_identity *id, struct net_claims *c, const struct packet *p,
						const uint8_t *data, uint64_t now_ns);
bool filter6_from_peer(const struct net_identity *id, struct net_claims *c, const struct packet *p,
					   const uint8_t *data, uint64_t now_ns);

/* Writes the solicitation that is due for an address that the guest uses without having asked: for
 * the other members, not for the guest. Its length, or 0 if none is due. */
size_t filter6_probe(const struct net_identity *id, struct net_claims *c,
					 uint8_t frame[FILTER6_PROBE]);

#endif
