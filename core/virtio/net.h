/* virtio network card. */
#ifndef CORE_VIRTIO_NET_H
#define CORE_VIRTIO_NET_H

#include "core/virtio/device.h"
#include "core/vm/backend.h"

#define VIRTIO_NET_PAIRS 8

struct virtio_net;

struct virtio_net_options {
	struct net_backend backend;
	uint8_t mac[6];
	uint16_t mtu;	/* told to the driver; 0: nothing is said */
	unsigned pairs; /* of receive and transmit queues, 1 to VIRTIO_NET_PAIRS */
};

/* NULL: out of memory. The options are copied. */
struct virtio_net *virtio_net_create(struct vm *vm, const struct virtio_net_options *o);
/* To attach to a transport. */
struct virtio_device *virtio_net_device(struct virtio_net *n);
/* The way in for its back end. The link is up at first. */
struct net_device virtio_net_port(struct virtio_net *n);

#endif
