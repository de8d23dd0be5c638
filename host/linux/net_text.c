/* What users write about networks; see net.h. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fmt.h"
#include "host/linux/limit_text.h"
#include "host/linux/net.h"
#include "host/linux/net_store.h"

#define MTU_MIN 68 /* of IPv4 */
#define MTU_MAX 65535

static bool read_number(const char *text, unsigned long max, unsigned long *n) {
	char *end;
	if (*text < '0' || *text > '9')
		return false;
	*n = strtoul(text, &end, 10);
	return !*end && *n <= max;
}

static bool read_mac(const char *text, uint8_t mac[6]) {
	for (unsigned i = 0; i < 6; i++) {
		unsigned v = 0;
		for (unsigned k = 0; k < 2; k++, text++) {
			const char *digits = "0123456789abcdef", *at = NULL;
			if (*text)
				at = strchr(digits, *text | 0x20);
			if (!at)
				return false;
			v = v * 16 + (unsigned)(at - digits);
		}
		mac[i] = (uint8_t)v;
		if (*text++ != (i < 5 ? ':' : 0))
			return false;
	}
	return !(mac[0] & 1);
}

static int read_key(char *key, struct host_net_config *c, struct err *e) {
	unsigned long n;
	char *value = strchr(key, '=');
	if (value)
		*value++ = 0;
	if (!strcmp(key, "mac")) {
		if (!value || !read_mac(value, c->mac))
			return err_set(e, ERR_INVAL,
						   "mac=%s: not six bytes like 52:54:00:12:34:56, the first even",
						   value ? value : "");
	} else if (!strcmp(key, "mtu")) {
		if (!value || !read_number(value, MTU_MAX, &n) || n < MTU_MIN)
			return err_set(e, ERR_INVAL, "mtu=%s: not a number from %d to %d", value ? value : "",
						   MTU_MIN, MTU_MAX);
		c->mtu = (uint16_t)n;
	} else if (!strcmp(key, "loopback") && c->kind == HOST_NET_USER && !value) {
		c->loopback = true;
	} else {
		return err_set(e, ERR_INVAL,
					   "%s: no such setting of this kind of network; there are mac=, "
					   "mtu=, and loopback of user",
					   key);
	}
	return 0;
}

int host_net_read(const char *text, struct host_net_config *c, struct err *e) {
	char copy[256], *save = NULL;
	if (strlen(text) >= sizeof(copy))
		return err_set(e, ERR_INVAL, "a network's description is too long");
	strcpy(copy, text);
	char *kind = strtok_r(copy, ",", &save), *value = kind ? strchr(kind, '=') : NULL;
	if (value)
		*value++ = 0;
	if (kind && !strcmp(kind, "user") && !value) {
		c->kind = HOST_NET_USER;
	} else if (kind && !strcmp(kind, "none") && !value) {
		c->kind = HOST_NET_NONE;
	} else if (kind && (!strcmp(kind, "tap") || (!strcmp(kind, "bridge") && value))) {
		c->kind = HOST_NET_TAP;
		if (value && (!*value || strlen(value) >= sizeof(c->bridge) || strchr(value, '/')))
			return err_set(e, ERR_INVAL, "%s=%s: not a network device's name", kind, value);
		strcpy(kind[0] == 't' ? c->name : c->bridge, value ? value : "");
	} else if (kind && !value && net_store_valid_name(kind)) {
		c->kind = HOST_NET_LAN;
		strcpy(c->name, kind);
	} else {
		return err_set(e, ERR_INVAL,
					   "%s: no such kind of network; there are user, none, tap[=DEVICE], "
					   "bridge=BRIDGE, and names of networks made with joist network create",
					   kind ? kind : "");
	}
	int r = 0;
	for (char *key; !r && (key = strtok_r(NULL, ",", &save)) != NULL;)
		r = read_key(key, c, e);
	return r;
}

int host_net_read_limits(const char *text, struct host_net_limits *l, struct err *e) {
	struct rate bytes, packets;
	int r = limit_read(text, "packets", "packet-burst", &bytes, &packets, e);
	*l = (struct host_net_limits){bytes, packets, bytes, packets};
	return r;
}

int host_net_read_forward(const char *text, struct host_net_forward *f, struct err *e) {
	char copy[HOST_NET_FORWARD_TEXT];
	unsigned long host, guest;
	*f = (struct host_net_forward){.host.s_addr = htonl(INADDR_LOOPBACK)};
	if (strlen(text) >= sizeof(copy))
		goto bad;
	strcpy(copy, text);
	char *slash = strchr(copy, '/');
	if (slash) {
		*slash++ = 0;
		f->udp = !strcmp(slash, "udp");
		if (!f->udp && strcmp(slash, "tcp") != 0)
			goto bad;
	}
	char *last = strrchr(copy, ':');
	if (!last)
		goto bad;
	*last++ = 0;
	char *first = strrchr(copy, ':');
	if (first) {
		*first++ = 0;
		if (inet_pton(AF_INET, copy, &f->host) != 1)
			goto bad;
	}
	if (!read_number(first ? first : copy, 65535, &host) || !read_number(last, 65535, &guest) ||
		!host || !guest)
		goto bad;
	f->host_port = (uint16_t)host;
	f->guest_port = (uint16_t)guest;
	return 0;
bad:
	return err_set(e, ERR_INVAL,
				   "%s: not [ADDRESS:]HOST:GUEST[/udp] with port numbers from 1 to 65535, like "
				   "8080:80 or 0.0.0.0:5353:53/udp",
				   text);
}

void host_net_forward_text(const struct host_net_forward *f, char *text) {
	char addr[INET_ADDRSTRLEN] = "";
	inet_ntop(AF_INET, &f->host, addr, sizeof(addr));
	fmt_text(text, HOST_NET_FORWARD_TEXT, "%s:%u:%u/%s", addr, f->host_port, f->guest_port,
			 f->udp ? "udp" : "tcp");
}
