/* Named networks of this user: a folder each, $XDG_DATA_HOME/joist/networks/NAME, and no
 * process behind it. In it:
 *     network   its addresses: "subnet 10.89.3.0/24"
 *     leases    "ADDRESS NAME", a line for each VM that ever was in it; it keeps its address
 *     lock      held (flock) while one of the two is read or changed
 *     10.89...  the sockets of those that are in it now, named by their address
 */
#ifndef HOST_LINUX_NET_STORE_H
#define HOST_LINUX_NET_STORE_H

#include "core/base/err.h"
#include "core/base/types.h"

#define NET_NAME_MAX 64

struct net_store {
	int dir; /* -1: not open */
	char name[NET_NAME_MAX];
	char domain[NET_NAME_MAX + 16]; /* NAME.internal */
	uint32_t subnet;				/* host order; always a /24 */
};

/* A network of this name may be made: a host name's label that is no kind of network. */
bool net_store_valid_name(const char *name);

/* `subnet` is like "10.89.3.0/24", or NULL: one that no other network of the user has. */
int net_store_create(const char *name, const char *subnet, struct err *e);
/* -ERR_BUSY while a VM is in it. */
int net_store_remove(const char *name, struct err *e);
/* Calls `line` for each by name; `members` are those in it now. */
int net_store_list(void (*line)(void *out, const char *name, uint32_t subnet, unsigned members),
				   void *out, struct err *e);

int net_store_open(struct net_store *s, const char *name, struct err *e);
void net_store_close(struct net_store *s);

/* The address of a VM, the same as the last time. A dead one's is taken away when there is no
 * other left. */
int net_store_lease(struct net_store *s, const char *vm, uint32_t *address, struct err *e);
/* 0: no VM of this name. */
uint32_t net_store_lookup(struct net_store *s, const char *vm);
/* false: nobody has this address. */
bool net_store_reverse(struct net_store *s, uint32_t address, char name[NET_NAME_MAX]);

#endif
