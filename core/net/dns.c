/* See dns.h. One question, class IN; A gets the address, PTR the name, any other type of a
 * member's name an empty answer (so that a resolver asking for AAAA does not take it for an
 * unknown name). A name of the domain that no member has gets NXDOMAIN: outside nobody knows it. */
#include "core/net/dns.h"

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "core/base/string.h"
#include "core/net/udp.h"

#define HEADER 12u
#define TTL 10u
enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_ANY = 255 };
enum { CLASS_IN = 1 };
enum { RCODE_NXDOMAIN = 3 };
#define FLAG_RESPONSE 0x8000u
#define FLAG_AUTHORITATIVE 0x0400u
#define FLAG_RECURSION 0x0100u
#define FLAG_AVAILABLE 0x0080u
#define OPCODE 0x7800u

struct question {
	char name[256]; /* lower case, dots between, none at the end */
	size_t end;		/* behind name, type and class, in the message */
	uint16_t type;
};

static bool read_question(struct question *q, const uint8_t *msg, size_t len) {
	size_t at = HEADER, n = 0;
	if (len < HEADER || be16_get(msg + 2) & (FLAG_RESPONSE | OPCODE) || be16_get(msg + 4) != 1)
		return false;
	while (at < len && msg[at]) {
		size_t label = msg[at++];
		/* A pointer in the only question would point at nothing. */
		if (label > 63 || label > len - at || n + label + 2 > sizeof(q->name))
			return false;
		if (n)
			q->name[n++] = '.';
		for (; label; label--, at++) {
			char c = (char)msg[at];
			if (c == '.' || c <= ' ')
				return false;
			q->name[n++] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
		}
	}
	q->name[n] = 0;
	if (len < 5 || at > len - 5)
		return false;
	q->type = be16_get(msg + at + 1);
	q->end = at + 5;
	return be16_get(msg + at + 3) == CLASS_IN;
}

/* Cuts ".domain" off; whether it was there. */
static bool cut_domain(char *name, const char *domain) {
	size_t n = str_len(name), d = domain ? str_len(domain) : 0;
	if (!d || n < d + 2 || name[n - d - 1] != '.' || !str_eq(name + n - d, domain))
		return false;
	name[n - d - 1] = 0;
	return true;
}

/* "2.0.89.10.in-addr.arpa" as an address; 0: not one. */
static uint32_t read_reverse(const char *name) {
	uint32_t ip = 0;
	for (unsigned i = 0; i < 4; i++) {
		unsigned v = 0, digits = 0;
		for (; *name >= '0' && *name <= '9' && digits < 3; name++, digits++)
			v = v * 10 + (unsigned)(*name - '0');
		if (!digits || v > 255 || *name++ != '.')
			return 0;
		ip |= (uint32_t)v << (8 * i);
	}
	return str_eq(name, "in-addr.arpa") ? ip : 0;
}

/* A name as labels, the domain behind it; returns the length. */
static size_t put_name(uint8_t *out, const char *name, const char *domain) {
	size_t n = 0;
	for (unsigned part = 0; part < 2; part++) {
		const char *p = part ? domain : name;
		while (p && *p) {
			size_t len = 0;
			while (p[len] && p[len] != '.' && len < 63)
				len++;
			out[n++] = (uint8_t)len;
			memcpy(out + n, p, len);
			n += len;
			p += len + (p[len] == '.');
		}
	}
	out[n++] = 0;
	return n;
}

/* The resource record behind the question. */
static size_t put_record(uint8_t *r, uint16_t type, const void *data, size_t len) {
	be16_put(r, 0xc000 | HEADER); /* the question's name */
	be16_put(r + 2, type);
	be16_put(r + 4, CLASS_IN);
	be32_put(r + 6, TTL);
	be16_put(r + 10, (uint16_t)len);
	memcpy(r + 12, data, len);
	return 12 + len;
}

/* Looks it up; false: not ours. Fills in the answer's data, or leaves *len 0. */
static bool resolve(const struct dns_server *s, struct question *q, uint8_t *data, size_t *len,
					unsigned *rcode) {
	uint32_t ip = q->type == TYPE_PTR ? read_reverse(q->name) : 0;
	*len = 0;
	if (ip) {
		const char *name = s->reverse(s->opaque, ip);
		if (name && str_len(name) < DNS_NAME_MAX && str_len(s->domain) < DNS_NAME_MAX)
			*len = put_name(data, name, s->domain);
		return name != NULL;
	}
	bool ours = cut_domain(q->name, s->domain);
	ip = str_len(q->name) < DNS_NAME_MAX ? s->lookup(s->opaque, q->name) : 0;
	if (ip && (q->type == TYPE_A || q->type == TYPE_ANY)) {
		be32_put(data, ip);
		*len = 4;
	}
	*rcode = ip ? 0 : RCODE_NXDOMAIN;
	return ip || ours;
}

bool dns_serve(const struct dns_server *s, const struct packet *p, const uint8_t *data,
			   uint8_t *out, size_t *out_len) {
	struct question q;
	uint8_t record[2 * DNS_NAME_MAX + 4];
	size_t len;
	unsigned rcode = 0;
	*out_len = 0;
	if (!p->ip4 || p->protocol != IP_UDP || !p->l4 || be16_get(data + p->l4 + 2) != 53 ||
		be32_get(data + p->l3 + 16) != s->address)
		return false;
	const uint8_t *msg = data + p->l4 + UDP_SIZE;
	if (!read_question(&q, msg, p->end - p->l4 - UDP_SIZE))
		return false;
	uint16_t type = q.type == TYPE_PTR ? TYPE_PTR : TYPE_A;
	if (!resolve(s, &q, record, &len, &rcode))
		return false;
	uint8_t *m = out + UDP_PAYLOAD;
	memcpy(m, msg, q.end);
	uint16_t flags = be16_get(msg + 2) & FLAG_RECURSION;
	be16_put(m + 2,
			 (uint16_t)(flags | FLAG_RESPONSE | FLAG_AUTHORITATIVE | FLAG_AVAILABLE | rcode));
	be16_put(m + 6, len ? 1 : 0);
	be32_put(m + 8, 0); /* no authority, no additional records: theirs (EDNS) are not echoed */
	size_t n = q.end;
	if (len)
		n += put_record(m + n, type, record, len);
	struct udp_ends ends = {.from = s->address,
							.to = be32_get(data + p->l3 + 12),
							.from_port = 53,
							.to_port = be16_get(data + p->l4)};
	memcpy(ends.from_mac, data, 6);
	memcpy(ends.to_mac, data + 6, 6);
	*out_len = udp_make(out, &ends, n);
	return true;
}
