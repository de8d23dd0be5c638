/* A DNS server for the names of a network's members ([RFC1035]); all else is for another. */
#ifndef CORE_NET_DNS_H
#define CORE_NET_DNS_H

#include "core/net/packet.h"

#define DNS_NAME_MAX 64 /* of a member, with its end */
#define DNS_ANSWER_MAX 1024u

struct dns_server {
	uint32_t address;	/* its own, host order */
	const char *domain; /* members are found with and without it */
	/* The address of a member (lower case name), or 0. */
	uint32_t (*lookup)(void *opaque, const char *name);
	/* Its name, or NULL. */
	const char *(*reverse)(void *opaque, uint32_t address);
	void *opaque;
};

/* If the frame is a question for a member: true, and the answer's length in *out_len, whose
 * frame is at `out` (DNS_ANSWER_MAX bytes). false: not for us. */
bool dns_serve(const struct dns_server *s, const struct packet *p, const uint8_t *data,
			   uint8_t *out, size_t *out_len);

#endif
