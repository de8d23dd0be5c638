/* See udp.h. [RFC791], [RFC768]. */
#include "core/net/udp.h"

#include "core/base/check.h"
#include "core/base/string.h"

size_t udp_make(uint8_t *f, const struct udp_ends *ends, size_t len) {
	struct packet p;
	uint8_t *ip = f + ETHER_SIZE, *udp = ip + IP4_SIZE;
	size_t total = UDP_PAYLOAD + len;
	check(len <= 65507);
	memset(f, 0, UDP_PAYLOAD);
	memcpy(f, ends->to_mac, 6);
	memcpy(f + 6, ends->from_mac, 6);
	be16_put(f + 12, ETHER_IP4);
	ip[0] = 0x45;
	be16_put(ip + 2, (uint16_t)(total - ETHER_SIZE));
	be16_put(ip + 6, 0x4000); /* not to be fragmented */
	ip[8] = 64;
	ip[9] = IP_UDP;
	be32_put(ip + 12, ends->from);
	be32_put(ip + 16, ends->to);
	sum_put(ip + 10, sum_fold(sum_add(0, ip, IP4_SIZE)));
	be16_put(udp, ends->from_port);
	be16_put(udp + 2, ends->to_port);
	be16_put(udp + 4, (uint16_t)(UDP_SIZE + len));
	packet_parse(&p, f, total);
	uint16_t sum =
		sum_fold(sum_add(sum_pseudo(&p, f, (uint32_t)(UDP_SIZE + len)), udp, UDP_SIZE + len));
	sum_put(udp + 6, sum ? sum : 0xffff);
	return total;
}
