/* Between net.c and the kinds of network (net_user.c ...). All of a link's functions run on the
 * network's thread but create() and destroy(), which run while there is none. */
#ifndef HOST_LINUX_NET_INT_H
#define HOST_LINUX_NET_INT_H

#include <poll.h>
#include <pthread.h>

#include "core/net/fifo.h"
#include "host/linux/net.h"

/* Descriptors to wait for. */
struct net_poll {
	struct pollfd *fds;
	unsigned n, size;
	int64_t timeout_ns; /* -1: for ever */
};
/* Returns an index into `fds`; -1: out of memory. */
int net_poll_add(struct net_poll *p, int fd, short events);
void net_poll_within(struct net_poll *p, int64_t ns);

struct net_link_ops {
	/* A frame of the guest, judged but with checksum and segments left to do; the bytes are
	 * the link's to change. false: it has no room, and comes again soon. */
	bool (*send)(void *self, const struct frame *f, uint8_t *data);
	/* The same for a small frame, on a vCPU's thread while the network's sleeps, with the network's
	 * lock: only what is done at once and calls nobody. false: send() shall do it. May be NULL. */
	bool (*send_now)(void *self, const struct frame *f, uint8_t *data);
	void (*fill)(void *self, struct net_poll *p);
	void (*ready)(void *self, const struct net_poll *p, bool failed);
	int (*add_forward)(void *self, const struct host_net_forward *f, struct err *e);
	int (*remove_forward)(void *self, const struct host_net_forward *f, struct err *e);
	void (*destroy)(void *self);
};

struct net_link {
	const struct net_link_ops *ops;
	void *self;
};

/* For links: a frame for the guest. Dropped if too many wait. */
void net_to_guest(struct host_net *n, const struct frame *f);
/* The same without a copy: FRAME_MAX bytes, or NULL when too many wait; then the frame that is
 * there, or NULL. Nothing else goes to the guest in between. */
uint8_t *net_guest_room(struct host_net *n);
void net_guest_commit(struct host_net *n, const struct frame *f);

/* The addresses of a libslirp (network order), and who gets what it sends. */
struct net_user_config {
	uint32_t network, gateway, dns, guest; /* a /24 */
	uint16_t prefix;					   /* the fourth group of fd6a:6f69:7374:x::/64 */
	bool no_dhcp;
	void (*deliver)(void *opaque, const struct frame *f);
	void *opaque;
};
int net_user_create(struct net_link *out, const struct net_user_config *u,
					const struct host_net_config *c, struct err *e);
/* Those of a network for one guest: 10.0.2.0/24. */
struct net_user_config net_user_alone(struct host_net *n);

/* Fills in the card's address if none is given. */
int net_lan_create(struct net_link *out, struct host_net *n, struct host_net_config *c,
				   struct err *e);
int net_tap_create(struct net_link *out, struct host_net *n, const struct host_net_config *c,
				   struct err *e);

#endif
