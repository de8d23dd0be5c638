/* User mode NAT: libslirp is the guest's gateway and speaks to the world through the host's
 * ordinary sockets. 10.0.2.0/24 as everywhere with slirp: gateway .2, DNS .3, the guest .15;
 * IPv6 in fd6a:6f69:7374::/64 by router advertisement.
 *
 * The guest is hostile. What the host serves on its loopback device is not for it: 10.0.2.2
 * leads there only if asked for, and 127.0.0.0/8 or ::1 as a destination never does (libslirp
 * would connect). TFTP, SMB and protocol emulation of libslirp are off.
 *
 * libslirp takes packets of any size, so frames to be cut are given to it whole.
 * It has variables of its own that all instances share: one lock for all of them. */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/fmt.h"
#include "core/net/offload.h"
#include "core/net/packet.h"
#include "host/linux/clock.h"
#include "host/linux/net_int.h"

#define TIMERS 4

struct net_user;

struct user_timer {
	bool used;
	SlirpTimerId id;
	void *cb_opaque;
	int64_t at_ms; /* -1: not set */
};

struct net_user {
	struct net_user_config config;
	Slirp *slirp;
	struct user_timer timers[TIMERS];
	struct net_poll *filling;
	const struct net_poll *filled;
	bool warned;
};

static pthread_mutex_t slirp_lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t now_ns(void *opaque) {
	return (int64_t)host_now_ns();
}

/* --- libslirp's callbacks --- */

static ssize_t on_packet(const void *buf, size_t len, void *opaque) {
	struct net_user *u = opaque;
	if (len <= FRAME_MAX)
		u->config.deliver(u->config.opaque,
						  &(struct frame){.data = buf, .len = len, .csum_ok = true});
	return (ssize_t)len;
}

static void on_guest_error(const char *msg, void *opaque) {
	struct net_user *u = opaque;
	if (!u->warned)
		log_line(LOG_WARN, "network: the guest sent what libslirp cannot serve: %s", msg);
	u->warned = true;
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque) {
	struct net_user *u = opaque;
	for (unsigned i = 0; i < TIMERS; i++) {
		if (u->timers[i].used)
			continue;
		u->timers[i] = (struct user_timer){true, id, cb_opaque, -1};
		return &u->timers[i];
	}
	return NULL;
}

static void timer_free(void *timer, void *opaque) {
	struct user_timer *t = timer;
	if (t)
		t->used = false;
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque) {
	struct user_timer *t = timer;
	if (t)
		t->at_ms = expire_ms;
}

static void on_poll_fd(int fd, void *opaque) {
}

static void on_notify(void *opaque) {
	/* Only called on this thread, which looks again before it sleeps. */
}

static const SlirpCb callbacks = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = now_ns,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = on_poll_fd,
	.unregister_poll_fd = on_poll_fd,
	.notify = on_notify,
	.timer_new_opaque = timer_new,
};

static int on_add_poll(int fd, int events, void *opaque) {
	struct net_user *u = opaque;
	short e = 0;
	if (events & SLIRP_POLL_IN)
		e |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		e |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		e |= POLLPRI;
	return net_poll_add(u->filling, fd, e);
}

static int on_get_revents(int idx, void *opaque) {
	struct net_user *u = opaque;
	short e = idx >= 0 ? u->filled->fds[idx].revents : 0;
	int events = 0;
	if (e & POLLIN)
		events |= SLIRP_POLL_IN;
	if (e & POLLOUT)
		events |= SLIRP_POLL_OUT;
	if (e & POLLPRI)
		events |= SLIRP_POLL_PRI;
	if (e & (POLLERR | POLLNVAL))
		events |= SLIRP_POLL_ERR;
	if (e & POLLHUP)
		events |= SLIRP_POLL_HUP;
	return events;
}

/* --- the link --- */

/* Destinations that no guest has any business with. */
static bool forbidden(const uint8_t *data, size_t len) {
	static const uint8_t zero[10], mapped[2] = {0xff, 0xff};
	struct packet p;
	if (!packet_parse(&p, data, len))
		return true;
	if (p.ip4) /* 0.0.0.0/8 is the host itself to Linux, as 127.0.0.0/8 is */
		return data[p.l3 + 16] == 127 || data[p.l3 + 16] == 0;
	if (p.ip6) { /* ::1, ::, and IPv4 addresses in disguise */
		const uint8_t *dst = data + p.l3 + 24;
		return !memcmp(dst, zero, 10) &&
			   (!memcmp(dst + 10, mapped, 2) || !memcmp(dst + 10, zero, 2));
	}
	return false;
}

static bool user_send(void *self, const struct frame *f, uint8_t *data) {
	struct net_user *u = self;
	struct frame whole = *f;
	if (forbidden(data, f->len))
		return true;
	frame_complete(&whole, data);
	pthread_mutex_lock(&slirp_lock);
	slirp_input(u->slirp, data, (int)whole.len);
	pthread_mutex_unlock(&slirp_lock);
	return true;
}

static void user_fill(void *self, struct net_poll *p) {
	struct net_user *u = self;
	uint32_t timeout = UINT32_MAX;
	u->filling = p;
	pthread_mutex_lock(&slirp_lock);
	slirp_pollfds_fill(u->slirp, &timeout, on_add_poll, u);
	pthread_mutex_unlock(&slirp_lock);
	if (timeout != UINT32_MAX)
		net_poll_within(p, (int64_t)timeout * 1000000);
	for (unsigned i = 0; i < TIMERS; i++)
		if (u->timers[i].used && u->timers[i].at_ms >= 0)
			net_poll_within(p, u->timers[i].at_ms * 1000000 - now_ns(NULL));
}

static void user_ready(void *self, const struct net_poll *p, bool failed) {
	struct net_user *u = self;
	u->filled = p;
	pthread_mutex_lock(&slirp_lock);
	for (unsigned i = 0; i < TIMERS; i++) {
		struct user_timer *t = &u->timers[i];
		if (t->used && t->at_ms >= 0 && t->at_ms <= now_ns(NULL) / 1000000) {
			t->at_ms = -1;
			slirp_handle_timer(u->slirp, t->id, t->cb_opaque);
		}
	}
	slirp_pollfds_poll(u->slirp, failed, on_get_revents, u);
	pthread_mutex_unlock(&slirp_lock);
}

static int user_add_forward(void *self, const struct host_net_forward *f, struct err *e) {
	struct net_user *u = self;
	char text[HOST_NET_FORWARD_TEXT];
	pthread_mutex_lock(&slirp_lock);
	errno = 0;
	int r = slirp_add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port);
	int error = errno ? errno : EADDRINUSE;
	pthread_mutex_unlock(&slirp_lock);
	if (r >= 0)
		return 0;
	host_net_forward_text(f, text);
	if (error == EADDRINUSE)
		return err_set(e, error, "forward %s: port %u of the host is in use by another program",
					   text, f->host_port);
	if (error == EACCES)
		return err_set(e, error,
					   "forward %s: port %u of the host is for privileged programs; take "
					   "one from 1024 on",
					   text, f->host_port);
	return err_set(e, error, "forward %s: %s", text, strerror(error));
}

static int user_remove_forward(void *self, const struct host_net_forward *f, struct err *e) {
	struct net_user *u = self;
	pthread_mutex_lock(&slirp_lock);
	int r = slirp_remove_hostfwd(u->slirp, f->udp, f->host, f->host_port);
	pthread_mutex_unlock(&slirp_lock);
	return r < 0 ? err_set(e, ERR_NOENT, "port %u of the host is not forwarded", f->host_port) : 0;
}

static void user_destroy(void *self) {
	struct net_user *u = self;
	pthread_mutex_lock(&slirp_lock);
	slirp_cleanup(u->slirp);
	pthread_mutex_unlock(&slirp_lock);
	free(u);
}

static const struct net_link_ops ops = {
	.send = user_send,
	.fill = user_fill,
	.ready = user_ready,
	.add_forward = user_add_forward,
	.remove_forward = user_remove_forward,
	.destroy = user_destroy,
};

static void to_guest(void *opaque, const struct frame *f) {
	net_to_guest(opaque, f);
}

struct net_user_config net_user_alone(struct host_net *n) {
	return (struct net_user_config){.network = inet_addr("10.0.2.0"),
									.gateway = inet_addr("10.0.2.2"),
									.dns = inet_addr("10.0.2.3"),
									.guest = inet_addr("10.0.2.15"),
									.deliver = to_guest,
									.opaque = n};
}

static struct in6_addr address6(uint16_t prefix, uint8_t host) {
	struct in6_addr a = {{{0xfd, 0x6a, 0x6f, 0x69, 0x73, 0x74}}};
	a.s6_addr[6] = (uint8_t)(prefix >> 8);
	a.s6_addr[7] = (uint8_t)prefix;
	a.s6_addr[15] = host;
	return a;
}

int net_user_create(struct net_link *out, const struct net_user_config *config,
					const struct host_net_config *c, struct err *e) {
	struct net_user *u = calloc(1, sizeof(*u));
	if (!u)
		return err_set(e, ERR_NOMEM, "no memory for a network");
	u->config = *config;
	SlirpConfig s = {
		.version = 4,
		.in_enabled = true,
		.vnetwork.s_addr = config->network,
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = config->gateway,
		.vdhcp_start.s_addr = config->guest,
		.vnameserver.s_addr = config->dns,
		.in6_enabled = true,
		.vprefix_len = 64,
		.vprefix_addr6 = address6(config->prefix, 0),
		.vhost6 = address6(config->prefix, 2),
		.vnameserver6 = address6(config->prefix, 3),
		.vhostname = c->hostname,
		.if_mtu = 1500,
		.if_mru = 1500,
		.disable_host_loopback = !c->loopback,
		.disable_dhcp = config->no_dhcp,
	};
	pthread_mutex_lock(&slirp_lock);
	u->slirp = slirp_new(&s, &callbacks, u);
	pthread_mutex_unlock(&slirp_lock);
	if (!u->slirp) {
		free(u);
		return err_set(e, ERR_NOMEM, "cannot make a user mode network with libslirp %s",
					   slirp_version_string());
	}
	*out = (struct net_link){&ops, u};
	return 0;
}
