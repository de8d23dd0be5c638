/* See dhcp.h. The lease is for a day and always the same address; a client that wants another
 * one (kept from elsewhere) is told no and asks anew. Options overloaded into `file` and `sname`
 * are not looked at: those we need stand in the options of all clients. */
#include "core/net/dhcp.h"

#include "core/base/bits.h"
#include "core/base/string.h"
#include "core/net/udp.h"

#define LEASE_SECONDS 86400u
#define MAGIC 0x63825363u
#define FLAG_BROADCAST 0x8000u

enum {
	OP = 0,
	HTYPE = 1,
	HLEN = 2,
	XID = 4,
	FLAGS = 10,
	CIADDR = 12,
	YIADDR = 16,
	CHADDR = 28,
	COOKIE = 236,
	OPTIONS = 240
};
enum { DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5, NAK = 6, INFORM = 8 };
enum {
	OPT_PAD = 0,
	OPT_MASK = 1,
	OPT_ROUTER = 3,
	OPT_DNS = 6,
	OPT_HOSTNAME = 12,
	OPT_DOMAIN = 15,
	OPT_MTU = 26,
	OPT_ADDRESS = 50,
	OPT_LEASE = 51,
	OPT_TYPE = 53,
	OPT_SERVER = 54,
	OPT_SEARCH = 119,
	OPT_END = 255,
};

/* An option's bytes, or NULL; `len` is at least `min`. */
static const uint8_t *find(const uint8_t *opt, size_t size, uint8_t code, uint8_t min) {
	for (size_t i = 0; i < size && opt[i] != OPT_END;) {
		if (opt[i] == OPT_PAD) {
			i++;
			continue;
		}
		if (i + 2 > size || opt[i + 1] > size - i - 2)
			return NULL;
		if (opt[i] == code)
			return opt[i + 1] >= min ? opt + i + 2 : NULL;
		i += 2u + opt[i + 1];
	}
	return NULL;
}

static uint8_t *put(uint8_t *o, uint8_t code, const void *data, size_t len) {
	o[0] = code;
	o[1] = (uint8_t)len;
	memcpy(o + 2, data, len);
	return o + 2 + len;
}

static uint8_t *put_u32(uint8_t *o, uint8_t code, uint32_t v) {
	uint8_t b[4];
	be32_put(b, v);
	return put(o, code, b, 4);
}

static uint8_t *put_text(uint8_t *o, uint8_t code, const char *text) {
	return text && *text ? put(o, code, text, MIN(str_len(text), 63u)) : o;
}

/* The domain in DNS's form, not compressed ([RFC3397]): what systemd and others search. */
static uint8_t *put_search(uint8_t *o, const char *domain) {
	uint8_t name[66];
	size_t n = 0;
	while (domain && *domain) {
		size_t len = 0;
		while (domain[len] && domain[len] != '.')
			len++;
		if (!len || n + len + 2 > sizeof(name))
			return o;
		name[n] = (uint8_t)len;
		memcpy(name + n + 1, domain, len);
		n += 1 + len;
		domain += len + (domain[len] == '.');
	}
	if (!n)
		return o;
	name[n++] = 0;
	return put(o, OPT_SEARCH, name, n);
}

/* What to answer with; 0: nothing. */
static uint8_t judge(const struct dhcp_server *s, const uint8_t *msg, const uint8_t *opt,
					 size_t size) {
	const uint8_t *type = find(opt, size, OPT_TYPE, 1), *ip = find(opt, size, OPT_ADDRESS, 4);
	const uint8_t *server = find(opt, size, OPT_SERVER, 4);
	if (!type)
		return 0;
	if (*type == DISCOVER)
		return OFFER;
	if (*type == INFORM)
		return ACK;
	if (*type != REQUEST || (server && be32_get(server) != s->router))
		return 0;
	uint32_t wanted = ip ? be32_get(ip) : be32_get(msg + CIADDR);
	return wanted == s->address ? ACK : NAK;
}

static size_t answer(const struct dhcp_server *s, const uint8_t *msg, uint8_t type, bool inform,
					 uint8_t *out) {
	uint8_t *m = out + UDP_PAYLOAD, *o = m + OPTIONS;
	bool broadcast = be16_get(msg + FLAGS) & FLAG_BROADCAST || type == NAK;
	memset(m, 0, OPTIONS);
	m[OP] = 2;
	m[HTYPE] = 1;
	m[HLEN] = 6;
	memcpy(m + XID, msg + XID, 4);
	memcpy(m + FLAGS, msg + FLAGS, 2);
	memcpy(m + CHADDR, msg + CHADDR, 16);
	be32_put(m + COOKIE, MAGIC);
	if (inform)
		memcpy(m + CIADDR, msg + CIADDR, 4);
	else if (type != NAK)
		be32_put(m + YIADDR, s->address);
	o = put(o, OPT_TYPE, &type, 1);
	o = put_u32(o, OPT_SERVER, s->router);
	if (type != NAK) {
		uint8_t mtu[2];
		be16_put(mtu, s->mtu);
		if (!inform)
			o = put_u32(o, OPT_LEASE, LEASE_SECONDS);
		o = put_u32(o, OPT_MASK, s->mask);
		o = put_u32(o, OPT_ROUTER, s->router);
		o = put_u32(o, OPT_DNS, s->dns);
		o = put_text(o, OPT_HOSTNAME, s->hostname);
		o = put_text(o, OPT_DOMAIN, s->domain);
		o = put_search(o, s->domain);
		if (s->mtu)
			o = put(o, OPT_MTU, mtu, 2);
	}
	*o++ = OPT_END;
	struct udp_ends ends = {.from = s->router,
							.to = broadcast ? 0xffffffffu
								  : inform	? be32_get(msg + CIADDR)
											: s->address,
							.from_port = 67,
							.to_port = 68};
	memcpy(ends.from_mac, s->mac, 6);
	memcpy(ends.to_mac, s->client, 6);
	/* [RFC951] some clients drop what is shorter than a BOOTP message. */
	size_t len = MAX((size_t)(o - m), 300u);
	memset(o, 0, len - (size_t)(o - m));
	return udp_make(out, &ends, len);
}

bool dhcp_serve(const struct dhcp_server *s, const struct packet *p, const uint8_t *data,
				uint8_t *out, size_t *out_len) {
	*out_len = 0;
	if (!p->ip4 || p->protocol != IP_UDP || !p->l4 || be16_get(data + p->l4 + 2) != 67)
		return false;
	const uint8_t *msg = data + p->l4 + UDP_SIZE;
	size_t len = p->end - p->l4 - UDP_SIZE;
	if (len < OPTIONS || msg[OP] != 1 || msg[HTYPE] != 1 || msg[HLEN] != 6 ||
		memcmp(msg + CHADDR, s->client, 6) != 0 || be32_get(msg + COOKIE) != MAGIC)
		return true;
	uint8_t type = judge(s, msg, msg + OPTIONS, len - OPTIONS);
	const uint8_t *asked = find(msg + OPTIONS, len - OPTIONS, OPT_TYPE, 1);
	if (type)
		*out_len = answer(s, msg, type, *asked == INFORM, out);
	return true;
}
