/* Between net.c and net_control.c: the inside of a virtio network card. */
#ifndef CORE_VIRTIO_NET_INT_H
#define CORE_VIRTIO_NET_INT_H

#include "core/virtio/net.h"

#define NET_F_CSUM 0
#define NET_F_GUEST_CSUM 1
#define NET_F_CTRL_GUEST_OFFLOADS 2
#define NET_F_MTU 3
#define NET_F_MAC 5
#define NET_F_GUEST_TSO4 7
#define NET_F_GUEST_TSO6 8
#define NET_F_GUEST_ECN 9
#define NET_F_HOST_TSO4 11
#define NET_F_HOST_TSO6 12
#define NET_F_HOST_ECN 13
#define NET_F_MRG_RXBUF 15
#define NET_F_STATUS 16
#define NET_F_CTRL_VQ 17
#define NET_F_CTRL_RX 18
#define NET_F_CTRL_VLAN 19
#define NET_F_CTRL_RX_EXTRA 20
#define NET_F_GUEST_ANNOUNCE 21
#define NET_F_MQ 22
#define NET_F_CTRL_MAC_ADDR 23
#define NET_F_GUEST_USO4 54
#define NET_F_GUEST_USO6 55
#define NET_F_HOST_USO 56

#define NET_GUEST_OFFLOADS                                                                         \
	(BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) | BIT(NET_F_GUEST_TSO6) |                       \
	 BIT(NET_F_GUEST_ECN) | BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6))

enum { NET_CONFIG_MAC = 0, NET_CONFIG_STATUS = 6, NET_CONFIG_PAIRS = 8, NET_CONFIG_MTU = 10 };

#define NET_STATUS_LINK_UP 1u
#define NET_STATUS_ANNOUNCE 2u

#define NET_MACS 32	  /* of one table; more, and all frames of that kind pass */
#define NET_FLOWS 256 /* slots to remember which queue pair a flow is sent on */
#define NET_MERGE 64  /* buffers that one frame may take */

/* Which frames the driver wants to see ([VIRTIO1.2 5.1.6.5.1] and on). */
struct net_filter {
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	bool uni_full, multi_full; /* the table did not hold all */
	uint8_t nuni, nmulti;
	uint8_t uni[NET_MACS][6], multi[NET_MACS][6];
	uint8_t vlans[512]; /* bit a VLAN */
};

/* An interrupt for frames that were sent, which waits; see conclude() in net.c. */
struct net_owed {
	uint64_t due_ns; /* VM time; 0: none */
	uint64_t bytes;	 /* of those frames */
};

struct virtio_net {
	struct virtio_device dev;
	struct virtio_net_options options;
	uint32_t pairs;			 /* in use */
	uint64_t guest_offloads; /* what the driver takes, by feature bit */
	struct net_filter filter;
	uint32_t tx_waiting; /* queue pairs whose transmit queue waits for the back end */
	bool sending;		 /* inside of the transmit loop */
	struct net_owed owed[VIRTIO_NET_PAIRS];
	uint32_t hurried; /* so many batches whose interrupt does not wait, because one did in vain */
	uint32_t doubt;	  /* how many it will be the next time */
	bool starved;	  /* the back end has frames for which there was no buffer */
	uint8_t flows[NET_FLOWS];
	struct virtq_chain first, chain;
	struct virtq_used used[NET_MERGE];
	uint8_t scratch[FRAME_MAX], segment[FRAME_MAX];
};

/* net_control.c */
void net_control_run(struct virtio_net *n, struct virtqueue *q);
void net_filter_reset(struct virtio_net *n);
bool net_filter_wants(const struct virtio_net *n, const uint8_t *frame, uint16_t vlan);
void net_filter_state(struct state_io *io, struct net_filter *f);

#endif
