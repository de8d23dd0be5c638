/* Makes UDP datagrams over IPv4. */
#ifndef CORE_NET_UDP_H
#define CORE_NET_UDP_H

#include "core/net/packet.h"

#define UDP_PAYLOAD (ETHER_SIZE + IP4_SIZE + UDP_SIZE) /* where it starts */

struct udp_ends {
	uint8_t from_mac[6], to_mac[6];
	uint32_t from, to; /* host order */
	uint16_t from_port, to_port;
};

/* Puts headers in front of the `len` bytes at f + UDP_PAYLOAD; returns the frame's length. */
size_t udp_make(uint8_t *f, const struct udp_ends *ends, size_t len);

#endif
