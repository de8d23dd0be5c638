/* An Ethernet frame on its way between a network card's model and whoever carries it, with
 * what was left for hardware to do: a checksum to complete, a frame of up to 64 KiB to cut
 * into segments. core/net/offload.h does in software what the other side cannot. */
#ifndef CORE_BASE_FRAME_H
#define CORE_BASE_FRAME_H

#include "core/base/types.h"

#define FRAME_MIN 14u	 /* an Ethernet header */
#define FRAME_MAX 65600u /* an IPv6 packet of the largest size, and two VLAN tags */

enum frame_gso { FRAME_GSO_NONE, FRAME_GSO_TCP4, FRAME_GSO_TCP6, FRAME_GSO_UDP };

/* The bytes stay the caller's. Whoever gets a frame from a guest or another process judges
 * the rest with frame_valid() first. */
struct frame {
	const uint8_t *data; /* from the destination's address on, no frame check sequence */
	size_t len;
	/* The sum of [csum_start, len), in which the field itself counts with what stands there,
	 * goes into the field at csum_start + csum_offset. */
	bool csum;
	bool csum_ok; /* the transport checksum is known to be right; not together with `csum` */
	uint16_t csum_start, csum_offset;
	/* To be cut into segments of gso_size bytes of payload; needs `csum`. */
	enum frame_gso gso;
	uint16_t gso_size;
	bool ecn; /* TCP: CWR belongs to the first segment only */
};

#endif
