/* Where a learning switch sends a frame: the addresses that it has seen, and at which port.
 * An address that is silent for five minutes, or gives way to others in its part of the
 * table, is unknown again: then the frame goes to all ports. */
#ifndef CORE_NET_SWITCH_H
#define CORE_NET_SWITCH_H

#include "core/base/types.h"

#define SWITCH_ALL (-1)
#define SWITCH_SETS 64
#define SWITCH_WAYS 4 /* a sender of many addresses displaces few of the others */
#define SWITCH_AGE_NS 300000000000ull

struct switch_entry {
	uint8_t mac[6];
	int port; /* SWITCH_ALL: free */
	uint64_t seen_ns;
};

struct net_switch {
	struct switch_entry entry[SWITCH_SETS][SWITCH_WAYS];
};

void switch_init(struct net_switch *s);
/* A frame with this source came in at `port` (0 and on). Group addresses are not learned. */
void switch_learn(struct net_switch *s, const uint8_t mac[6], int port, uint64_t now_ns);
/* The port of a destination, or SWITCH_ALL. */
int switch_find(const struct net_switch *s, const uint8_t mac[6], uint64_t now_ns);
/* Whoever was at `port` has gone. */
void switch_forget(struct net_switch *s, int port);

#endif
