/* Checksum and segmentation in software, for whoever promised them to a guest or was promised
 * them by one. TCP as [RFC9293] and [RFC3168] want its segments, UDP datagrams as Linux's
 * UDP_SEGMENT cuts them. */
#include "core/net/offload.h"

#include "core/base/bits.h"
#include "core/base/string.h"
#include "core/net/packet.h"

#define TCP_FIN 0x01u
#define TCP_PSH 0x08u
#define TCP_CWR 0x80u

/* The length of all headers of a frame to be cut; 0: it cannot be. */
static size_t headers(const struct frame *f, const struct packet *p) {
	bool udp = f->gso == FRAME_GSO_UDP;
	if (!p->l4 || p->protocol != (udp ? IP_UDP : IP_TCP))
		return 0;
	if (f->gso == FRAME_GSO_TCP4 ? !p->ip4 : f->gso == FRAME_GSO_TCP6 && !p->ip6)
		return 0;
	if (udp)
		return p->l4 + UDP_SIZE;
	if (p->end - p->l4 < TCP_SIZE)
		return 0;
	size_t size = (f->data[p->l4 + 12] >> 4) * 4u;
	return size >= TCP_SIZE && size <= p->end - p->l4 ? p->l4 + size : 0;
}

bool frame_valid(const struct frame *f) {
	struct packet p;
	if (f->len < FRAME_MIN || f->len > FRAME_MAX)
		return false;
	if (f->csum && (size_t)f->csum_start + f->csum_offset + 2 > f->len)
		return false;
	if (f->gso == FRAME_GSO_NONE)
		return true;
	if (!f->csum || !f->gso_size || !packet_parse(&p, f->data, f->len))
		return false;
	/* Nothing behind the packet: it would be cut into segments, too. */
	return headers(f, &p) && p.l4 == f->csum_start && p.end == f->len &&
		   f->csum_offset == (f->gso == FRAME_GSO_UDP ? 6 : 16);
}

/* [RFC768] a UDP checksum of 0 means that there is none. */
static void put_sum(uint8_t *field, uint64_t sum, bool udp) {
	uint16_t folded = sum_fold(sum);
	sum_put(field, folded || !udp ? folded : 0xffff);
}

/* The transport checksum of data[l4..end), from its start on. */
static void put_l4_sum(const struct packet *p, uint8_t *data, size_t end) {
	bool udp = p->protocol == IP_UDP;
	uint8_t *field = data + p->l4 + (udp ? 6 : 16);
	field[0] = field[1] = 0;
	uint64_t sum = sum_pseudo(p, data, (uint32_t)(end - p->l4));
	put_sum(field, sum_add(sum, data + p->l4, end - p->l4), udp);
}

void frame_complete(struct frame *f, uint8_t *data) {
	struct packet p;
	f->data = data;
	if (f->gso != FRAME_GSO_NONE && packet_parse(&p, data, f->len)) {
		put_l4_sum(&p, data, f->len);
		if (p.ip4) { /* some leave it for the hardware, too */
			data[p.l3 + 10] = data[p.l3 + 11] = 0;
			sum_put(data + p.l3 + 10, sum_fold(sum_add(0, data + p.l3, (data[p.l3] & 15u) * 4u)));
		}
	} else if (f->csum) {
		/* 6: where UDP has its field. TCP's and ICMP's may well be 0. */
		put_sum(data + f->csum_start + f->csum_offset,
				sum_add(0, data + f->csum_start, f->len - f->csum_start), f->csum_offset == 6);
	}
	f->csum = false;
	f->gso = FRAME_GSO_NONE;
	f->csum_ok = true;
}

/* Makes the headers in `buf` those of segment `i`, whose payload starts at byte `off` of all. */
static void set_headers(const struct frame *f, const struct packet *p, uint8_t *buf, size_t len,
						unsigned i, size_t off, bool last) {
	uint8_t *ip = buf + p->l3, *l4 = buf + p->l4;
	if (p->ip4) {
		be16_put(ip + 2, (uint16_t)(len - p->l3));
		be16_put(ip + 4, (uint16_t)(be16_get(f->data + p->l3 + 4) + i));
		ip[10] = ip[11] = 0;
		sum_put(ip + 10, sum_fold(sum_add(0, ip, p->l4 - p->l3)));
	} else {
		be16_put(ip + 4, (uint16_t)(len - p->l3 - IP6_SIZE));
	}
	if (p->protocol == IP_UDP) {
		be16_put(l4 + 4, (uint16_t)(len - p->l4));
	} else {
		be32_put(l4 + 4, be32_get(f->data + p->l4 + 4) + (uint32_t)off);
		if (!last)
			l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		if (i && f->ecn)
			l4[13] &= (uint8_t)~TCP_CWR;
	}
	put_l4_sum(p, buf, len);
}

void frame_segment(const struct frame *f, uint8_t *buf,
				   void (*emit)(void *opaque, const struct frame *segment), void *opaque) {
	struct packet p;
	packet_parse(&p, f->data, f->len);
	size_t head = headers(f, &p), left = f->len - head, off = 0;
	for (unsigned i = 0; i == 0 || left; i++) {
		size_t n = MIN(left, (size_t)f->gso_size);
		memcpy(buf, f->data, head);
		memcpy(buf + head, f->data + head + off, n);
		left -= n;
		set_headers(f, &p, buf, head + n, i, off, !left);
		off += n;
		emit(opaque, &(struct frame){.data = buf, .len = head + n, .csum_ok = true});
	}
}
