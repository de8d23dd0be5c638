/* See lan_head.h. */
#include "core/net/lan_head.h"

#include "core/base/le.h"
#include "core/net/offload.h"

#define MAGIC 0x314e4a00u /* the last byte is the version */
enum { MAGIC_AT = 0, FLAGS = 4, GSO = 5, GSO_SIZE = 6, START = 8, OFFSET = 10 };
enum { FLAG_CSUM = 1, FLAG_CSUM_OK = 2, FLAG_ECN = 4 };

void lan_head_put(uint8_t h[LAN_HEAD], const struct frame *f) {
	le32_put(h + MAGIC_AT, MAGIC);
	h[FLAGS] = (uint8_t)((f->csum ? FLAG_CSUM : 0) | (f->csum_ok ? FLAG_CSUM_OK : 0) |
						 (f->ecn ? FLAG_ECN : 0));
	h[GSO] = (uint8_t)f->gso;
	le16_put(h + GSO_SIZE, f->gso_size);
	le16_put(h + START, f->csum_start);
	le16_put(h + OFFSET, f->csum_offset);
}

bool lan_head_read(const uint8_t h[LAN_HEAD], const uint8_t *data, size_t len, struct frame *f) {
	if (len < LAN_HEAD || le32_get(h + MAGIC_AT) != MAGIC || h[GSO] > FRAME_GSO_UDP)
		return false;
	*f = (struct frame){.data = data,
						.len = len - LAN_HEAD,
						.csum = h[FLAGS] & FLAG_CSUM,
						.ecn = h[FLAGS] & FLAG_ECN,
						.gso = (enum frame_gso)h[GSO],
						.gso_size = le16_get(h + GSO_SIZE),
						.csum_start = le16_get(h + START),
						.csum_offset = le16_get(h + OFFSET)};
	f->csum_ok = h[FLAGS] & FLAG_CSUM_OK && !f->csum;
	return frame_valid(f);
}
