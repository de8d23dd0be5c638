/* A tap device of the kernel ([tuntap.rst] of Linux), one that exists or a new one, perhaps put
 * into a bridge. Needs CAP_NET_ADMIN, unless the device exists and belongs to the user. The
 * kernel takes and gives frames with a virtio header, so nothing is cut or summed up here.
 *
 * The guest may only use its own Ethernet address; which IP addresses it has is not known. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "core/base/le.h"
#include "core/net/offload.h"
#include "core/net/packet.h"
#include "host/linux/net_int.h"

#define HEADER 12
#define BATCH 16

struct net_tap {
	struct host_net *net;
	int fd, index;
	uint8_t buf[HEADER + FRAME_MAX];
};

static bool tap_send(void *self, const struct frame *f, uint8_t *data) {
	struct net_tap *t = self;
	struct packet p;
	uint8_t h[HEADER] = {0}, mac[6];
	host_net_mac(t->net, mac);
	if (!packet_parse(&p, data, f->len) || memcmp(data + 6, mac, 6) != 0)
		return true;
	if (f->csum) {
		h[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		le16_put(h + 6, f->csum_start);
		le16_put(h + 8, f->csum_offset);
	}
	struct frame whole = *f;
	if (f->gso == FRAME_GSO_UDP) { /* older kernels refuse it: as one datagram, which IP cuts */
		frame_complete(&whole, data);
		h[0] = 0;
	} else if (f->gso != FRAME_GSO_NONE) {
		h[1] = f->gso == FRAME_GSO_TCP4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		if (f->ecn)
			h[1] |= VIRTIO_NET_HDR_GSO_ECN;
		le16_put(h + 2, (uint16_t)(p.l4 + (data[p.l4 + 12] >> 4) * 4u));
		le16_put(h + 4, f->gso_size);
	}
	struct iovec iov[2] = {{h, HEADER}, {data, f->len}};
	return writev(t->fd, iov, 2) >= 0 || (errno != EAGAIN && errno != ENOBUFS);
}

static bool read_header(const uint8_t *h, struct frame *f) {
	f->csum = h[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->csum_ok = h[0] & VIRTIO_NET_HDR_F_DATA_VALID && !f->csum;
	f->csum_start = le16_get(h + 6);
	f->csum_offset = le16_get(h + 8);
	f->gso_size = le16_get(h + 4);
	f->ecn = h[1] & VIRTIO_NET_HDR_GSO_ECN;
	switch (h[1] & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		break;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		f->gso = FRAME_GSO_TCP4;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		f->gso = FRAME_GSO_TCP6;
		break;
	default:
		return false;
	}
	return frame_valid(f);
}

static void tap_fill(void *self, struct net_poll *p) {
	struct net_tap *t = self;
	t->index = net_poll_add(p, t->fd, POLLIN);
}

static void tap_ready(void *self, const struct net_poll *p, bool failed) {
	struct net_tap *t = self;
	for (unsigned i = 0; !failed && i < BATCH && t->index >= 0 && p->fds[t->index].revents; i++) {
		ssize_t n = read(t->fd, t->buf, sizeof(t->buf));
		if (n < HEADER)
			break;
		struct frame f = {.data = t->buf + HEADER, .len = (size_t)n - HEADER};
		if (read_header(t->buf, &f))
			net_to_guest(t->net, &f);
	}
}

static void tap_destroy(void *self) {
	struct net_tap *t = self;
	if (t->fd >= 0)
		close(t->fd);
	free(t);
}

static const struct net_link_ops ops = {
	.send = tap_send,
	.fill = tap_fill,
	.ready = tap_ready,
	.destroy = tap_destroy,
};

static int refused(int error, const char *what, const char *name, struct err *e) {
	if (error == EPERM || error == EACCES)
		return err_set(
			e, ERR_NOTSUP,
			"network tap: this user may not %s%s; let root make one for it (ip tuntap add "
			"dev NAME mode tap user USER), or use user or a named network",
			what, name);
	return err_set(e, error, "network tap: cannot %s%s: %s", what, name, strerror(error));
}

/* Up, and into its bridge. A device that was there already is left as it is. */
static int set_up(const char *device, const char *bridge, struct err *e) {
	struct ifreq r = {0};
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), error = 0;
	if (s < 0)
		return refused(errno, "configure ", device, e);
	fmt_text(r.ifr_name, IFNAMSIZ, "%s", device);
	if (ioctl(s, SIOCGIFFLAGS, &r) < 0)
		error = errno;
	r.ifr_flags |= IFF_UP;
	if (!error && ioctl(s, SIOCSIFFLAGS, &r) < 0)
		error = errno;
	if (!error && bridge[0]) {
		struct ifreq b = {.ifr_ifindex = (int)if_nametoindex(device)};
		fmt_text(b.ifr_name, IFNAMSIZ, "%s", bridge);
		if (ioctl(s, SIOCBRADDIF, &b) < 0)
			error = errno;
	}
	close(s);
	return error ? refused(error, bridge[0] ? "join bridge " : "configure ",
						   bridge[0] ? bridge : device, e)
				 : 0;
}

static int open_device(struct net_tap *t, const struct host_net_config *c, struct err *e) {
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int header = HEADER;
	t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->fd < 0)
		return refused(errno, "open /dev/net/tun", "", e);
	bool exists = c->name[0] && if_nametoindex(c->name);
	fmt_text(r.ifr_name, IFNAMSIZ, "%s", c->name[0] ? c->name : "joist%d");
	if (ioctl(t->fd, TUNSETIFF, &r) < 0)
		return refused(errno, c->name[0] ? "use device " : "make a device", c->name, e);
	if (ioctl(t->fd, TUNSETVNETHDRSZ, &header) < 0)
		return refused(errno, "set up device ", r.ifr_name, e);
	ioctl(t->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
	return exists && !c->bridge[0] ? 0 : set_up(r.ifr_name, c->bridge, e);
}

int net_tap_create(struct net_link *out, struct host_net *n, const struct host_net_config *c,
				   struct err *e) {
	struct net_tap *t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(e, ERR_NOMEM, "no memory for a network");
	t->net = n;
	int r = open_device(t, c, e);
	if (r) {
		tap_destroy(t);
		return r;
	}
	*out = (struct net_link){&ops, t};
	return 0;
}
