/* A DHCP server for one client whose address is known beforehand ([RFC2131], [RFC2132]). */
#ifndef CORE_NET_DHCP_H
#define CORE_NET_DHCP_H

#include "core/net/packet.h"

#define DHCP_ANSWER_MAX 640u

struct dhcp_server {
	uint8_t mac[6];	   /* its own, for the frames */
	uint8_t client[6]; /* whom it serves; others get no answer */
	uint32_t address;  /* the client's; all in host order */
	uint32_t mask, router, dns;
	uint16_t mtu;		  /* 0: nothing is said */
	const char *hostname; /* NULL: nothing is said; up to 63 bytes */
	const char *domain;
};

/* If the frame is a DHCP request of the client: true, and it is to go nowhere else. *out_len is
 * the length of the answer at `out` (DHCP_ANSWER_MAX bytes), or 0: it gets none. */
bool dhcp_serve(const struct dhcp_server *s, const struct packet *p, const uint8_t *data,
				uint8_t *out, size_t *out_len);

#endif
