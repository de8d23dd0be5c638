/* What is in front of a frame between two VMs of a named network: what is left to do of it. The
 * fields are little-endian; the sender is another process, which a guest may have taken over. */
#ifndef CORE_NET_LAN_HEAD_H
#define CORE_NET_LAN_HEAD_H

#include "core/base/frame.h"

#define LAN_HEAD 12u

void lan_head_put(uint8_t h[LAN_HEAD], const struct frame *f);
/* Of `len` bytes came the head and `data` behind it. false: that is no frame. */
bool lan_head_read(const uint8_t h[LAN_HEAD], const uint8_t *data, size_t len, struct frame *f);

#endif
