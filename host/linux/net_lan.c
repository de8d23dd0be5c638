/* A named network: the VMs of one user in one switch, without a process of its own. Each VM's
 * network has a datagram socket in the network's folder (net_store.h) and is a port of the
 * switch that all of them together are: it learns which address is behind which socket and
 * sends frames straight there, those for all to every socket in the folder. Frames travel with
 * what is left to do of them, so between two VMs nothing is cut and no sum is made.
 *
 * The network's services are in each process, too, for its own guest only: DHCP (the address
 * that the folder's leases say), DNS for the members' names, and libslirp as the gateway to
 * everywhere else. Nobody needs to run before or after anybody else.
 *
 * Hostile are the guest, whose frames are filtered before anybody sees them (core/net/filter.h),
 * and the processes of other VMs, which a guest of theirs may have taken over: what comes from
 * a socket is judged as if it came from a guest. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/net/dhcp.h"
#include "core/net/dns.h"
#include "core/net/filter.h"
#include "core/net/filter6.h"
#include "core/net/lan_head.h"
#include "core/net/switch.h"
#include "host/linux/clock.h"
#include "host/linux/net_int.h"
#include "host/linux/net_store.h"
#include "host/linux/unix.h"

#define GATEWAY 1
#define DNS 2
#define BATCH 6
/* So long a frame waits for a peer that takes nothing; then it is dropped, and what follows without
 * a wait until the peer takes something. Longer than a VM waits for its turn on a busy host. */
#define PATIENCE_NS 500000000ull

struct net_lan {
	struct host_net *net;
	struct net_store store;
	struct net_identity id;
	struct net_claims claims;
	struct net_link gateway;
	char hostname[NET_NAME_MAX];
	struct dhcp_server dhcp;
	struct dns_server dns;
	char reversed[NET_NAME_MAX]; /* what reverse() found last */
	int fd;						 /* -1: none yet */
	int index;					 /* of it in the poll */
	uint64_t busy_since;		 /* a frame waits for a peer; 0: none does */
	bool stuck[256];			 /* peers for which one has waited in vain */
	struct net_switch sw;
	uint8_t peers[256]; /* who had a socket when the folder was looked at */
	struct timespec looked;
	/* What comes in one go; the first one's bytes, when there is room, where they go to. */
	uint8_t heads[BATCH][LAN_HEAD];
	uint8_t frames[BATCH][FRAME_MAX];
	uint8_t answer[DNS_ANSWER_MAX];
};

/* The name of member `host`'s socket, short wherever the folder lies. */
static void address_of(const struct net_lan *l, unsigned host, struct sockaddr_un *a) {
	uint32_t net = l->store.subnet;
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%u.%u.%u.%u", l->store.dir,
			 net >> 24, net >> 16 & 255, net >> 8 & 255, host);
}

/* --- to others --- */

/* Who is there: looks into the folder when it has changed. */
static void look(struct net_lan *l) {
	struct stat st;
	if (fstat(l->store.dir, &st) == 0 && st.st_mtim.tv_sec == l->looked.tv_sec &&
		st.st_mtim.tv_nsec == l->looked.tv_nsec)
		return;
	l->looked = st.st_mtim;
	int copy = openat(l->store.dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	memset(l->peers, 0, sizeof(l->peers));
	for (struct dirent *entry; d && (entry = readdir(d)) != NULL;) {
		struct in_addr a;
		if (inet_pton(AF_INET, entry->d_name, &a) == 1 &&
			(ntohl(a.s_addr) & ~255u) == l->store.subnet)
			l->peers[ntohl(a.s_addr) & 255] = 1;
	}
	l->peers[l->id.ip4 & 255] = 0;
	if (d)
		closedir(d);
	else if (copy >= 0)
		close(copy);
}

/* false: it has no room now. */
static bool send_to(struct net_lan *l, unsigned host, const struct frame *f) {
	struct sockaddr_un a;
	uint8_t h[LAN_HEAD];
	address_of(l, host, &a);
	lan_head_put(h, f);
	struct iovec iov[2] = {{h, sizeof(h)}, {(uint8_t *)(uintptr_t)f->data, f->len}};
	struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof(a), .msg_iov = iov, .msg_iovlen = 2};
	if (sendmsg(l->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	if (errno == EAGAIN || errno == ENOBUFS)
		return false;
	if (errno == ECONNREFUSED || errno == ENOENT) /* it ended, or was killed */
		switch_forget(&l->sw, (int)host);
	if (errno == ECONNREFUSED)
		unlink(a.sun_path);
	return true;
}

static void send_to_all(struct net_lan *l, const struct frame *f) {
	look(l);
	for (unsigned i = 0; i < 256; i++)
		if (l->peers[i])
			send_to(l, i, f);
}

/* One peer's queue is full: the guest's frames wait for it, once. false: wait. */
static bool send_to_one(struct net_lan *l, unsigned host, const struct frame *f) {
	bool sent = send_to(l, host, f);
	uint64_t now = sent ? 0 : host_now_ns();
	if (!sent && !l->stuck[host]) {
		if (!l->busy_since)
			l->busy_since = now;
		if (now - l->busy_since < PATIENCE_NS)
			return false;
	}
	l->stuck[host] = !sent;
	l->busy_since = 0;
	return true;
}

/* --- what the guest sends --- */

static bool for_gateway(const struct net_lan *l, const struct packet *p, const uint8_t *data) {
	/* libslirp's own addresses: 52:55 and its IPv4, 52:56 for IPv6's router. */
	if (data[0] == 0x52 && (data[1] == 0x55 || data[1] == 0x56))
		return true;
	if (p->type == ETHER_ARP) { /* the filter saw that it is whole */
		uint32_t target = be32_get(data + p->l3 + 24);
		return target == (l->store.subnet | GATEWAY) || target == (l->store.subnet | DNS);
	}
	return p->ip6 && p->protocol == IP_ICMP6 && p->l4 &&
		   data[p->l4] == 133; /* router solicitation */
}

/* The network's own services. */
static bool serve(struct net_lan *l, const struct packet *p, const uint8_t *data) {
	size_t len;
	if (!dhcp_serve(&l->dhcp, p, data, l->answer, &len) &&
		!dns_serve(&l->dns, p, data, l->answer, &len))
		return false;
	if (len)
		net_to_guest(l->net, &(struct frame){.data = l->answer, .len = len, .csum_ok = true});
	return true;
}

static bool passes(struct net_lan *l, struct packet *p, const struct frame *f,
				   const uint8_t *data) {
	return packet_parse(p, data, f->len) &&
		   net_filter_from_guest(&l->id, &l->claims, p, data, f->len, host_now_ns());
}

static bool lan_send(void *self, const struct frame *f, uint8_t *data) {
	struct net_lan *l = self;
	struct packet p;
	bool may = passes(l, &p, f, data);
	uint8_t probe[FILTER6_PROBE];
	struct frame ask = {.data = probe, .len = filter6_probe(&l->id, &l->claims, probe)};
	if (ask.len)
		send_to_all(l, &ask);
	if (!may || serve(l, &p, data))
		return true;
	bool gateway = for_gateway(l, &p, data);
	if (!gateway) {
		int port = data[0] & 1 ? SWITCH_ALL : switch_find(&l->sw, data, host_now_ns());
		if (port != SWITCH_ALL)
			return send_to_one(l, (unsigned)port, f);
		send_to_all(l, f);
	}
	/* Neighbour discovery asks for the gateway, too. After all others: it changes the bytes. */
	if (gateway || (p.ip6 && data[0] & 1))
		l->gateway.ops->send(l->gateway.self, f, data);
	return true;
}

static bool lan_send_now(void *self, const struct frame *f, uint8_t *data) {
	struct net_lan *l = self;
	struct packet p;
	if (!passes(l, &p, f, data))
		return !l->claims.probing; /* as lan_send(): dropped */
	if (data[0] & 1 || for_gateway(l, &p, data) || l->busy_since)
		return false;
	int port = switch_find(&l->sw, data, host_now_ns());
	return port != SWITCH_ALL && send_to(l, (unsigned)port, f);
}

/* --- what comes --- */

static void from_gateway(void *opaque, const struct frame *f) {
	struct net_lan *l = opaque;
	net_to_guest(l->net, f);
}

/* Whose socket a datagram came from; 0: nobody of this network. */
static unsigned sender(const struct net_lan *l, const struct sockaddr_un *a, socklen_t len) {
	char path[sizeof(a->sun_path) + 1] = "";
	struct in_addr ip;
	if (len <= offsetof(struct sockaddr_un, sun_path) || len > sizeof(*a))
		return 0;
	memcpy(path, a->sun_path, len - offsetof(struct sockaddr_un, sun_path));
	const char *name = strrchr(path, '/');
	if (!name || inet_pton(AF_INET, name + 1, &ip) != 1 ||
		(ntohl(ip.s_addr) & ~255u) != l->store.subnet)
		return 0;
	return ntohl(ip.s_addr) & 255;
}

/* Is it for the guest? */
static bool from_peer(struct net_lan *l, unsigned host, const struct frame *f) {
	struct packet p;
	if (!packet_parse(&p, f->data, f->len) ||
		!net_filter_from_peer(&l->id, &l->claims, &p, f->data, f->len, host_now_ns()))
		return false;
	switch_learn(&l->sw, f->data + 6, (int)host, host_now_ns());
	return f->data[0] & 1 || !memcmp(f->data, l->id.mac, 6);
}

/* Up to BATCH datagrams by one system call. The first one, mostly the only one, is received where
 * it waits for the guest, unless it may be joined to the one before it (core/net/merge.h). */
static void receive(struct net_lan *l) {
	struct sockaddr_un from[BATCH];
	struct iovec iov[BATCH][2];
	struct mmsghdr m[BATCH];
	uint8_t *room = net_guest_room(l->net);
	for (unsigned i = 0; i < BATCH; i++) {
		iov[i][0] = (struct iovec){l->heads[i], LAN_HEAD};
		iov[i][1] = (struct iovec){!i && room ? room : l->frames[i], FRAME_MAX};
		m[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &from[i],
											.msg_namelen = sizeof(from[i]),
											.msg_iov = iov[i],
											.msg_iovlen = 2}};
	}
	int n = recvmmsg(l->fd, m, BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < MAX(n, 1); i++) {
		struct frame f;
		unsigned host = n > 0 && !(m[i].msg_hdr.msg_flags & MSG_TRUNC)
							? sender(l, &from[i], m[i].msg_hdr.msg_namelen)
							: 0;
		bool take = host && lan_head_read(l->heads[i], iov[i][1].iov_base, m[i].msg_len, &f) &&
					from_peer(l, host, &f);
		bool there = !i && room;
		if (there && take && !f.csum_ok) {
			net_guest_commit(l->net, &f);
			continue;
		}
		if (there) {
			net_guest_commit(l->net, NULL);
			if (take)
				f.data = memcpy(l->frames[0], f.data, f.len);
		}
		if (take)
			net_to_guest(l->net, &f);
	}
}

static void lan_fill(void *self, struct net_poll *p) {
	struct net_lan *l = self;
	l->index = net_poll_add(p, l->fd, POLLIN);
	l->gateway.ops->fill(l->gateway.self, p);
}

static void lan_ready(void *self, const struct net_poll *p, bool failed) {
	struct net_lan *l = self;
	if (!failed && l->index >= 0 && p->fds[l->index].revents)
		receive(l);
	l->gateway.ops->ready(l->gateway.self, p, failed);
}

static int lan_add_forward(void *self, const struct host_net_forward *f, struct err *e) {
	struct net_lan *l = self;
	return l->gateway.ops->add_forward(l->gateway.self, f, e);
}

static int lan_remove_forward(void *self, const struct host_net_forward *f, struct err *e) {
	struct net_lan *l = self;
	return l->gateway.ops->remove_forward(l->gateway.self, f, e);
}

/* --- making and ending --- */

static void lan_destroy(void *self) {
	struct net_lan *l = self;
	struct sockaddr_un a;
	if (l->gateway.ops)
		l->gateway.ops->destroy(l->gateway.self);
	if (l->fd >= 0) {
		address_of(l, l->id.ip4 & 255, &a);
		unlink(a.sun_path);
		close(l->fd);
	}
	net_store_close(&l->store);
	free(l);
}

static const struct net_link_ops ops = {
	.send = lan_send,
	.send_now = lan_send_now,
	.fill = lan_fill,
	.ready = lan_ready,
	.add_forward = lan_add_forward,
	.remove_forward = lan_remove_forward,
	.destroy = lan_destroy,
};

static uint32_t lookup(void *opaque, const char *name) {
	return net_store_lookup(&((struct net_lan *)opaque)->store, name);
}

static const char *reverse(void *opaque, uint32_t address) {
	struct net_lan *l = opaque;
	return net_store_reverse(&l->store, address, l->reversed) ? l->reversed : NULL;
}

static int open_socket(struct net_lan *l, struct err *e) {
	struct sockaddr_un a;
	address_of(l, l->id.ip4 & 255, &a);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, errno, "network %s: cannot make a socket: %s", l->store.name,
					   strerror(errno));
	/* A socket of this name: of a VM that was killed, or of one that runs. */
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
		close(fd);
		return err_set(e, ERR_BUSY, "network %s: VM %s is in it already", l->store.name,
					   l->hostname);
	}
	unlink(a.sun_path);
	int size = 4 << 20; /* as much as the host allows */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	fchmod(fd, 0600);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		int r = err_set(e, errno, "network %s: cannot bind its socket: %s", l->store.name,
						strerror(errno));
		close(fd);
		return r;
	}
	l->fd = fd;
	return 0;
}

static void make_services(struct net_lan *l, const struct host_net_config *c) {
	uint32_t net = l->store.subnet, gateway = net | GATEWAY;
	l->dhcp = (struct dhcp_server){.mac = {0x52, 0x55},
								   .address = l->id.ip4,
								   .mask = 0xffffff00,
								   .router = gateway,
								   .dns = net | DNS,
								   .mtu = c->mtu,
								   .hostname = c->hostname,
								   .domain = l->store.domain};
	be32_put(l->dhcp.mac + 2, gateway);
	memcpy(l->dhcp.client, l->id.mac, 6);
	l->dns = (struct dns_server){net | DNS, l->store.domain, lookup, reverse, l};
}

static int make(struct net_lan *l, struct host_net_config *c, struct err *e) {
	static const uint8_t none[6];
	int r = net_store_open(&l->store, c->name, e);
	if (r)
		return r;
	if (c->hostname)
		snprintf(l->hostname, sizeof(l->hostname), "%s", c->hostname);
	else /* nobody will ask for this one */
		snprintf(l->hostname, sizeof(l->hostname), "unnamed_%d", getpid());
	r = net_store_lease(&l->store, l->hostname, &l->id.ip4, e);
	if (r)
		return r;
	if (!memcmp(c->mac, none, 6)) { /* stays the VM's, as the address does */
		c->mac[0] = 0x52;
		c->mac[1] = 0x54;
		be32_put(c->mac + 2, l->id.ip4);
	}
	memcpy(l->id.mac, c->mac, 6);
	make_services(l, c);
	r = open_socket(l, e);
	if (r)
		return r;
	uint32_t net = l->store.subnet;
	be32_put(l->id.prefix6, 0xfd6a6f69);
	be32_put(l->id.prefix6 + 4, 0x73740000 | (uint16_t)(net >> 8));
	struct net_user_config u = {.network = htonl(net),
								.gateway = htonl(net | GATEWAY),
								.dns = htonl(net | DNS),
								.guest = htonl(l->id.ip4),
								.prefix = (uint16_t)(net >> 8),
								.no_dhcp = true,
								.deliver = from_gateway,
								.opaque = l};
	return net_user_create(&l->gateway, &u, c, e);
}

int net_lan_create(struct net_link *out, struct host_net *n, struct host_net_config *c,
				   struct err *e) {
	struct net_lan *l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(e, ERR_NOMEM, "no memory for a network");
	l->net = n;
	l->fd = -1;
	l->store.dir = -1;
	switch_init(&l->sw);
	int r = make(l, c, e);
	if (r) {
		lan_destroy(l);
		return r;
	}
	*out = (struct net_link){&ops, l};
	return 0;
}
