/* The control queue of a virtio network card and the receive filter that it sets
 * ([VIRTIO1.2 5.1.6.5]). A command that is unknown, too short or out of range is answered with
 * VIRTIO_NET_ERR and changes nothing. VM lock held. */
#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/net_int.h"

enum {
	CLASS_RX = 0,
	CLASS_MAC = 1,
	CLASS_VLAN = 2,
	CLASS_ANNOUNCE = 3,
	CLASS_MQ = 4,
	CLASS_OFFLOADS = 5
};
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET, MAC_ADDR_SET };
enum { VLAN_ADD, VLAN_DEL };
enum { ACK_OK = 0, ACK_ERR = 1 };

/* --- the filter --- */

static bool multicast(const uint8_t *mac) {
	return mac[0] & 1;
}

static bool in_table(const uint8_t table[][6], unsigned n, const uint8_t *mac) {
	for (unsigned i = 0; i < n; i++) {
		if (!memcmp(table[i], mac, 6))
			return true;
	}
	return false;
}

bool net_filter_wants(const struct virtio_net *n, const uint8_t *frame, uint16_t vlan) {
	static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	const struct net_filter *f = &n->filter;
	if (f->promisc)
		return true;
	/* [VIRTIO1.2 5.1.6.5.3.1] untagged frames pass whatever the VLANs are */
	if (vlan && virtio_device_has(&n->dev, NET_F_CTRL_VLAN) &&
		!(f->vlans[vlan / 8] >> vlan % 8 & 1))
		return false;
	if (!memcmp(frame, broadcast, 6))
		return !f->nobcast;
	if (multicast(frame))
		return !f->nomulti &&
			   (f->allmulti || f->multi_full || in_table(f->multi, f->nmulti, frame));
	return !f->nouni && (f->alluni || f->uni_full || in_table(f->uni, f->nuni, frame) ||
						 !memcmp(frame, n->dev.config + NET_CONFIG_MAC, 6));
}

void net_filter_reset(struct virtio_net *n) {
	memset(&n->filter, 0, sizeof(n->filter));
	/* A driver that never asks for multicast frames expects to get them: it cannot. */
	n->filter.allmulti = true;
}

static void macs_state(struct state_io *io, const char *name, uint8_t macs[][6], uint8_t *count) {
	state_u8(io, name, count);
	if (*count > NET_MACS) {
		state_fail(io, "a table of too many addresses");
		*count = 0;
	}
	for (unsigned i = 0; i < *count; i++)
		state_bytes(io, "mac", macs[i], 6);
}

void net_filter_state(struct state_io *io, struct net_filter *f) {
	bool *const flags[] = {&f->promisc, &f->allmulti, &f->alluni,	&f->nomulti,
						   &f->nouni,	&f->nobcast,  &f->uni_full, &f->multi_full};
	static const char *const names[] = {"promisc", "allmulti", "alluni",   "nomulti",
										"nouni",   "nobcast",  "uni_full", "multi_full"};
	for (unsigned i = 0; i < ARRAY_LEN(flags); i++)
		state_bool(io, names[i], flags[i]);
	macs_state(io, "unicast", f->uni, &f->nuni);
	macs_state(io, "multicast", f->multi, &f->nmulti);
	state_bytes(io, "vlans", f->vlans, sizeof(f->vlans));
}

/* --- commands; all get the chain and the length of their data, from byte 2 on --- */

static bool set_rx_mode(struct virtio_net *n, uint8_t command, const struct virtq_chain *c) {
	struct net_filter *f = &n->filter;
	uint8_t on;
	if (virtq_chain_read(c, 2, &on, 1) != 1 || on > 1)
		return false;
	if (command > RX_ALLMULTI && !virtio_device_has(&n->dev, NET_F_CTRL_RX_EXTRA))
		return false;
	switch (command) {
	case RX_PROMISC:
		f->promisc = on;
		return true;
	case RX_ALLMULTI:
		f->allmulti = on;
		return true;
	case RX_ALLUNI:
		f->alluni = on;
		return true;
	case RX_NOMULTI:
		f->nomulti = on;
		return true;
	case RX_NOUNI:
		f->nouni = on;
		return true;
	case RX_NOBCAST:
		f->nobcast = on;
		return true;
	default:
		return false;
	}
}

/* One table of addresses at *off; false: it is cut. */
static bool read_table(const struct virtq_chain *c, uint64_t *off, uint8_t macs[][6],
					   uint8_t *count, bool *full) {
	uint8_t entries[4];
	if (virtq_chain_read(c, *off, entries, 4) != 4)
		return false;
	uint64_t n = le32_get(entries);
	if (*off + 4 + n * 6 > c->out_len)
		return false;
	*full = n > NET_MACS;
	*count = *full ? 0 : (uint8_t)n;
	virtq_chain_read(c, *off + 4, macs, *count * 6u);
	*off += 4 + n * 6;
	return true;
}

static bool set_macs(struct virtio_net *n, uint8_t command, const struct virtq_chain *c) {
	struct net_filter *f = &n->filter;
	uint8_t mac[6];
	if (command == MAC_ADDR_SET) {
		if (!virtio_device_has(&n->dev, NET_F_CTRL_MAC_ADDR) || c->out_len != 8 ||
			virtq_chain_read(c, 2, mac, 6) != 6 || multicast(mac))
			return false;
		memcpy(n->dev.config + NET_CONFIG_MAC, mac, 6);
		return true;
	}
	if (command != MAC_TABLE_SET)
		return false;
	/* Judged as a whole before any of it counts. */
	struct net_filter fresh = *f;
	uint64_t off = 2;
	if (!read_table(c, &off, fresh.uni, &fresh.nuni, &fresh.uni_full) ||
		!read_table(c, &off, fresh.multi, &fresh.nmulti, &fresh.multi_full))
		return false;
	*f = fresh;
	return true;
}

static bool set_vlan(struct virtio_net *n, uint8_t command, const struct virtq_chain *c) {
	uint8_t id[2];
	if (command > VLAN_DEL || virtq_chain_read(c, 2, id, 2) != 2 || le16_get(id) > 4095)
		return false;
	uint8_t *byte = &n->filter.vlans[le16_get(id) / 8], bit = (uint8_t)(1u << le16_get(id) % 8);
	*byte = command == VLAN_ADD ? *byte | bit : *byte & (uint8_t)~bit;
	return true;
}

static bool set_pairs(struct virtio_net *n, uint8_t command, const struct virtq_chain *c) {
	uint8_t pairs[2];
	if (command || !virtio_device_has(&n->dev, NET_F_MQ) || virtq_chain_read(c, 2, pairs, 2) != 2)
		return false;
	uint16_t count = le16_get(pairs);
	if (!count || count > n->options.pairs)
		return false;
	n->pairs = count;
	memset(n->flows, 0, sizeof(n->flows));
	return true;
}

static bool set_offloads(struct virtio_net *n, uint8_t command, const struct virtq_chain *c) {
	uint8_t offloads[8];
	if (command || !virtio_device_has(&n->dev, NET_F_CTRL_GUEST_OFFLOADS) ||
		virtq_chain_read(c, 2, offloads, 8) != 8 ||
		le64_get(offloads) & ~(n->dev.driver_features & NET_GUEST_OFFLOADS))
		return false;
	n->guest_offloads = le64_get(offloads);
	return true;
}

static bool acknowledge_announce(struct virtio_net *n, uint8_t command) {
	uint8_t *status = n->dev.config + NET_CONFIG_STATUS;
	if (command || !(*status & NET_STATUS_ANNOUNCE))
		return false;
	*status &= (uint8_t)~NET_STATUS_ANNOUNCE;
	return true;
}

static bool command(struct virtio_net *n, const struct virtq_chain *c) {
	uint8_t head[2];
	if (virtq_chain_read(c, 0, head, 2) != 2)
		return false;
	switch (head[0]) {
	case CLASS_RX:
		return virtio_device_has(&n->dev, NET_F_CTRL_RX) && set_rx_mode(n, head[1], c);
	case CLASS_MAC:
		return set_macs(n, head[1], c);
	case CLASS_VLAN:
		return virtio_device_has(&n->dev, NET_F_CTRL_VLAN) && set_vlan(n, head[1], c);
	case CLASS_ANNOUNCE:
		return acknowledge_announce(n, head[1]);
	case CLASS_MQ:
		return set_pairs(n, head[1], c);
	case CLASS_OFFLOADS:
		return set_offloads(n, head[1], c);
	default:
		return false;
	}
}

void net_control_run(struct virtio_net *n, struct virtqueue *q) {
	while (virtqueue_pop(q, &n->chain)) {
		if (!n->chain.in_len) {
			virtio_device_fail(&n->dev, q->index, "a command without room for its answer");
			return;
		}
		uint8_t ack = command(n, &n->chain) ? ACK_OK : ACK_ERR;
		virtq_chain_write(q, &n->chain, n->chain.in_len - 1, &ack, 1);
		virtqueue_push(q, &n->chain, n->chain.in_len);
	}
	virtqueue_notify(q);
}
