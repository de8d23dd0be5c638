/* What a guest's network card is plugged into. Each has a thread of its own, on which all that
 * may take time happens: the guest's frames wait for it in a queue, which stops the guest's
 * when full; frames for the guest wait in another, from which they are dropped when it is. Only
 * small frames for another VM of a named network go out at once, when none waits.
 *
 *   user   NAT through libslirp, without any privilege: DHCP, DNS, IPv6, forwarded ports
 *   lan    the same, and a switch that joins it to the user's other VMs in a named network
 *   tap    a tap device, perhaps of a bridge; for who may
 *
 * Functions may be called from any thread without the VM lock unless they say otherwise. */
#ifndef HOST_LINUX_NET_H
#define HOST_LINUX_NET_H

#include <netinet/in.h>

#include "core/base/bucket.h"
#include "core/base/err.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"

struct host_net;
struct ledger;

enum host_net_kind { HOST_NET_NONE, HOST_NET_USER, HOST_NET_LAN, HOST_NET_TAP };

/* A port of the host that leads to one of the guest. */
struct host_net_forward {
	bool udp;
	struct in_addr host, guest; /* guest 0.0.0.0: the address that DHCP gives it */
	uint16_t host_port, guest_port;
};

#define HOST_NET_FORWARDS 64

/* How much may go through, a second and at once: bytes of frames, and frames. The zero value has
 * no limits. */
struct host_net_limits {
	struct rate tx_bytes, tx_frames; /* from the guest */
	struct rate rx_bytes, rx_frames; /* to it */
};

struct host_net_config {
	enum host_net_kind kind;
	char name[64];		  /* lan: of the network; tap: of the device, empty: any new one */
	char bridge[16];	  /* tap: to put it into; empty: none */
	const char *hostname; /* told by DHCP; may be NULL */
	uint8_t mac[6];		  /* all zero: one is made up */
	uint16_t mtu;
	struct host_net_limits limits;
	struct ledger *ledger; /* shares with other VMs; NULL: none. Outlives the network */
	bool loopback;		   /* user: the gateway's address leads to the host's 127.0.0.1 */
};

struct host_net_counters {
	uint64_t tx_frames, tx_bytes, tx_dropped; /* from the guest */
	uint64_t rx_frames, rx_bytes, rx_dropped; /* to it */
	uint64_t tx_now; /* of tx_frames: went out without waking the network's thread */
};

int host_net_create(struct host_net **out, const struct host_net_config *c,
					const struct vm_host *vm, struct err *e);
struct net_backend host_net_backend(struct host_net *n);
void host_net_mac(const struct host_net *n, uint8_t mac[6]);

/* Forwards may be added before and after the start; the host's port is taken at once. */
int host_net_start(struct host_net *n, struct net_device device, struct err *e);
int host_net_add_forward(struct host_net *n, const struct host_net_forward *f, struct err *e);
/* By protocol, host address and host port. */
int host_net_remove_forward(struct host_net *n, const struct host_net_forward *f, struct err *e);
/* Copies up to `max` of them and returns how many there are. */
unsigned host_net_forwards(struct host_net *n, struct host_net_forward *out, unsigned max);

/* From now on; waiting frames are under it, too. */
void host_net_set_limits(struct host_net *n, const struct host_net_limits *limits);

/* Pulls the cable and plugs it in again. After the start; takes the VM lock. */
void host_net_set_link(struct host_net *n, bool up);
bool host_net_link(const struct host_net *n);

/* While paused, nothing is written into the guest's memory. Takes the VM lock. */
void host_net_pause(struct host_net *n, bool paused);

void host_net_counters(struct host_net *n, struct host_net_counters *out);
void host_net_destroy(struct host_net *n);

/* net_text.c: what users write. 0, or -ERR_INVAL with a sentence.
 *   --net KIND[,KEY=VALUE]...: user, none, a network's name, tap[=DEVICE], bridge=BRIDGE, with
 *     mac=52:54:00:.., mtu=N, loopback (user)
 *   --net-limit RATE[,KEY=VALUE]...: bytes a second both ways (10M, 100Mbit), with burst=SIZE,
 *     packets=N a second, packet-burst=N; or "none"
 *   -p [ADDR:]HOST:GUEST[/tcp|/udp]; ADDR is 127.0.0.1 if not given */
int host_net_read(const char *text, struct host_net_config *c, struct err *e);
int host_net_read_limits(const char *text, struct host_net_limits *l, struct err *e);
int host_net_read_forward(const char *text, struct host_net_forward *f, struct err *e);
/* As above, into a buffer of at least HOST_NET_FORWARD_TEXT bytes. */
#define HOST_NET_FORWARD_TEXT 64
void host_net_forward_text(const struct host_net_forward *f, char *text);

#endif
