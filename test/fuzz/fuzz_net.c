/* Frames from a guest or from another process: the parsers and judges of core/net. Whatever
 * comes, nothing may be read behind the frame, and each answer is a frame itself. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/net/dhcp.h"
#include "core/net/dns.h"
#include "core/net/filter.h"
#include "core/net/filter6.h"
#include "core/net/lan_head.h"
#include "core/net/merge.h"
#include "core/net/offload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint32_t lookup(void *opaque, const char *name) {
	return strlen(name) % 3 ? 0x0a590010 : 0;
}

static const char *reverse(void *opaque, uint32_t address) {
	return address & 1 ? "name" : NULL;
}

static void check_answer(const uint8_t *out, size_t len, size_t max) {
	struct packet p;
	if (len > max || (len && (!packet_parse(&p, out, len) || !p.ip4 || !p.l4 || p.end != len)))
		abort();
}

static void on_segment(void *opaque, const struct frame *s) {
	struct packet p;
	if (s->len > FRAME_MAX || !packet_parse(&p, s->data, s->len) || p.end != s->len)
		abort();
}

/* A datagram of another VM's process, its head as it came: what is taken can be cut, completed and
 * sent on as it is. */
static void from_peer(const uint8_t *input, size_t size) {
	static uint8_t out[FRAME_MAX];
	uint8_t head[LAN_HEAD] = {0, 'J', 'N', '1'}, again[LAN_HEAD];
	size_t len = MIN(size - LAN_HEAD, (size_t)FRAME_MAX);
	memcpy(head + (input[0] & 3 ? 4 : 0), input, LAN_HEAD - 4);
	uint8_t *data = malloc(len ? len : 1);
	memcpy(data, input + LAN_HEAD, len);
	struct frame f, same;
	if (lan_head_read(head, data, LAN_HEAD + len, &f)) {
		lan_head_put(again, &f);
		if (f.data != data || f.len != len || !frame_valid(&f) ||
			!lan_head_read(again, data, LAN_HEAD + len, &same) || same.csum != f.csum ||
			same.csum_ok != f.csum_ok || same.gso != f.gso || same.gso_size != f.gso_size)
			abort();
		if (f.gso != FRAME_GSO_NONE)
			frame_segment(&f, out, on_segment, NULL);
		frame_complete(&f, data);
	}
	free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
	static const struct dhcp_server dhcp = {.client = {0x52, 0x54, 0, 0, 0, 1},
											.address = 0x0a590011,
											.router = 0x0a590001,
											.dns = 0x0a590002,
											.mtu = 1400,
											.hostname = "web",
											.domain = "lab.internal"};
	static const struct dns_server dns = {0x0a590002, "lab.internal", lookup, reverse, NULL};
	static struct net_claims claims;
	static uint64_t now;
	static const struct net_identity id = {{0x52, 0x54, 0, 0, 0, 1}, 0x0a590011};
	static uint8_t out[FRAME_MAX];
	if (size < 8)
		return 0;
	if (size >= LAN_HEAD)
		from_peer(input, size);
	size_t len = MIN(size - 8, (size_t)FRAME_MAX), n;
	uint8_t *data = malloc(len ? len : 1); /* of its own, so that ASan sees its ends */
	memcpy(data, input + 8, len);
	struct frame f = {.data = data,
					  .len = len,
					  .csum = input[0] & 1,
					  .ecn = input[0] & 2,
					  .csum_start = input[1],
					  .csum_offset = input[2],
					  .gso = (enum frame_gso)(input[3] & 3),
					  .gso_size = (uint16_t)(input[4] | input[5] << 8)};
	struct packet p;
	if (packet_parse(&p, data, len)) {
		/* Some hundred frames see one set of claims, which age by the way. */
		bool guest =
			net_filter_from_guest(&id, &claims, &p, data, len, now += input[7] * 4000000ull);
		if (guest && p.ip6 && (data[p.l3 + 8] == 0xff || p.deep))
			abort();
		net_filter_from_peer(&id, &claims, &p, data, len, now);
		if (filter6_probe(&id, &claims, out) &&
			(!packet_parse(&p, out, FILTER6_PROBE) || !p.l4 || p.end != FILTER6_PROBE))
			abort();
		packet_parse(&p, data, len);
		packet_flow(&p, data);
		if (dhcp_serve(&dhcp, &p, data, out, &n))
			check_answer(out, n, DHCP_ANSWER_MAX);
		if (dns_serve(&dns, &p, data, out, &n))
			check_answer(out, n, DNS_ANSWER_MAX);
	}
	/* Two halves, of which the first may be one that was judged: what comes of them can be cut. */
	static uint8_t room[FRAME_MAX];
	size_t half = MIN(len / 2, (size_t)input[6] * 16);
	struct frame a = f, b = {.data = data + half, .len = len - half, .csum_ok = true};
	memcpy(room, data, half);
	a.data = room;
	a.len = half;
	if (input[0] & 4)
		a = (struct frame){.data = room, .len = half, .csum_ok = true};
	if (((input[0] & 4) || frame_valid(&a)) && frame_merge(&a, room, sizeof(room), &b)) {
		if (!frame_valid(&a))
			abort();
		frame_segment(&a, out, on_segment, NULL);
	}
	if (frame_valid(&f)) {
		if (f.gso != FRAME_GSO_NONE)
			frame_segment(&f, out, on_segment, NULL);
		frame_complete(&f, data);
	}
	free(data);
	return 0;
}
