/* See merge.h. */
#include "core/net/merge.h"

#include "core/base/string.h"
#include "core/net/packet.h"

#define TCP_ACK 0x10u
#define TCP_PSH 0x08u
#define LARGEST 65535u /* an IP packet's length has 16 bits */

struct segment {
	struct packet p;
	const uint8_t *ip, *tcp;
	size_t head, payload; /* all headers; what follows */
};

/* TCP with data, nothing special about it and nothing behind it. */
static bool parse(struct segment *s, const struct frame *f) {
	struct packet *p = &s->p;
	if (!packet_parse(p, f->data, f->len) || !p->l4 || p->protocol != IP_TCP || p->end != f->len ||
		p->end - p->l4 < TCP_SIZE)
		return false;
	s->ip = f->data + p->l3;
	s->tcp = f->data + p->l4;
	/* Fragments have no l4. No options of IPv4, no extension headers of IPv6. */
	if (p->ip4 ? p->l4 - p->l3 != IP4_SIZE : p->l4 - p->l3 != IP6_SIZE)
		return false;
	size_t size = (s->tcp[12] >> 4) * 4u;
	s->head = p->l4 + size;
	if (size < TCP_SIZE || s->head >= f->len || s->tcp[12] & 0xf)
		return false;
	s->payload = f->len - s->head;
	return (s->tcp[13] & ~TCP_PSH) == TCP_ACK;
}

/* The same but for what may differ: lengths, identification, checksums, sequence, PSH, window. */
static bool same_flow(const struct segment *a, const struct segment *b, const struct frame *fa,
					  const struct frame *fb) {
	if (a->head != b->head || a->p.l3 != b->p.l3 || a->p.ip4 != b->p.ip4 ||
		memcmp(fa->data, fb->data, a->p.l3) != 0)
		return false;
	const uint8_t *x = a->ip, *y = b->ip;
	bool ip = a->p.ip4 ? !memcmp(x, y, 2) && !memcmp(x + 6, y + 6, 4) && !memcmp(x + 12, y + 12, 8)
					   : !memcmp(x, y, 4) && !memcmp(x + 6, y + 6, 34);
	/* Ports; acknowledgement and the length of the header; options. */
	return ip && !memcmp(a->tcp, b->tcp, 4) && !memcmp(a->tcp + 8, b->tcp + 8, 5) &&
		   !memcmp(a->tcp + TCP_SIZE, b->tcp + TCP_SIZE, a->head - a->p.l4 - TCP_SIZE);
}

/* What its checksum shall be computed over is known to be right. */
static bool sound(const struct frame *f, const struct segment *s) {
	if (f->gso == FRAME_GSO_NONE)
		return f->csum_ok && !f->csum;
	return f->gso == (s->p.ip4 ? FRAME_GSO_TCP4 : FRAME_GSO_TCP6) && f->csum && !f->ecn &&
		   f->csum_start == s->p.l4 && f->csum_offset == 16;
}

bool frame_merge(struct frame *f, uint8_t *data, size_t size, const struct frame *next) {
	struct segment a, b;
	if (f->data != data || next->gso != FRAME_GSO_NONE || !parse(&b, next) || !parse(&a, f) ||
		!sound(next, &b) || !sound(f, &a) || !same_flow(&a, &b, f, next))
		return false;
	size_t unit = f->gso == FRAME_GSO_NONE ? a.payload : f->gso_size;
	if (!unit || a.payload % unit || b.payload > unit || unit > UINT16_MAX ||
		f->len + b.payload > size || f->len + b.payload - a.p.l3 > LARGEST ||
		be32_get(b.tcp + 4) != (uint32_t)(be32_get(a.tcp + 4) + a.payload))
		return false;
	memcpy(data + f->len, next->data + b.head, b.payload);
	f->len += b.payload;
	uint8_t *ip = data + a.p.l3, *tcp = data + a.p.l4;
	if (a.p.ip4) {
		be16_put(ip + 2, (uint16_t)(f->len - a.p.l3));
		ip[10] = ip[11] = 0;
		sum_put(ip + 10, sum_fold(sum_add(0, ip, IP4_SIZE)));
	} else {
		be16_put(ip + 4, (uint16_t)(f->len - a.p.l4));
	}
	tcp[13] |= b.tcp[13] & TCP_PSH;
	memcpy(tcp + 14, b.tcp + 14, 2); /* the newer window */
	f->csum = true;
	f->csum_ok = false;
	f->csum_start = (uint16_t)a.p.l4;
	f->csum_offset = 16;
	f->gso = a.p.ip4 ? FRAME_GSO_TCP4 : FRAME_GSO_TCP6;
	f->gso_size = (uint16_t)unit;
	/* The sum of the pseudo header, not complemented, is what stands there meanwhile. */
	struct packet whole = a.p;
	whole.end = f->len;
	sum_put(tcp + 16, (uint16_t)~sum_fold(sum_pseudo(&whole, data, (uint32_t)(f->len - a.p.l4))));
	return true;
}
