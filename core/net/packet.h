/* Where the headers of a frame lie. */
#ifndef CORE_NET_PACKET_H
#define CORE_NET_PACKET_H

#include "core/base/be.h"
#include "core/base/types.h"

#define ETHER_SIZE 14u
#define ETHER_IP4 0x0800u
#define ETHER_ARP 0x0806u
#define ETHER_VLAN 0x8100u
#define ETHER_QINQ 0x88a8u
#define ETHER_IP6 0x86ddu

#define IP_ICMP 1u
#define IP_TCP 6u
#define IP_UDP 17u
#define IP_ICMP6 58u

#define IP4_SIZE 20u /* without options */
#define IP6_SIZE 40u
#define UDP_SIZE 8u
#define TCP_SIZE 20u

/* All offsets are from the start of the frame and inside of it. */
struct packet {
	uint16_t type;	  /* of what follows the VLAN tags */
	uint16_t vlan;	  /* id of the outer tag; 0: none, or only a priority */
	uint32_t l3;	  /* of the network header */
	bool ip4, ip6;	  /* it is one of these, its fixed header whole and of the right version */
	bool fragment;	  /* IP: not the whole packet, so l4 is 0 */
	bool later;		  /* and not the first part of it */
	bool deep;		  /* IPv6: more extension headers than are looked at; l4 is 0 */
	uint8_t protocol; /* IP: of what follows, behind extension headers */
	uint32_t l4;	  /* of the transport header, of which 8 bytes are there; 0: none */
	uint32_t first;	  /* the same of a first fragment */
	size_t end;		  /* of the IP packet by its own length, within the frame */
};

/* false: not even an Ethernet header. What is cut or senseless leaves its fields 0. */
bool packet_parse(struct packet *p, const uint8_t *data, size_t len);

/* The Internet checksum ([RFC1071]) in parts: add areas, each but the last of even length,
 * then fold. Sums are of the bytes as they lie: put the result with sum_put(). */
uint64_t sum_add(uint64_t sum, const uint8_t *p, size_t len);
uint16_t sum_fold(uint64_t sum); /* complemented */
void sum_put(uint8_t *p, uint16_t folded);
/* A number that stands in no header, as it would lie in one: a length, a protocol. */
uint64_t sum_add_be16(uint64_t sum, uint16_t v);
/* The pseudo header of a TCP or UDP packet of `len` bytes with its header. */
uint64_t sum_pseudo(const struct packet *p, const uint8_t *data, uint32_t len);

/* A number for the two ends of a flow that is the same in both directions. */
uint32_t packet_flow(const struct packet *p, const uint8_t *data);

#endif
