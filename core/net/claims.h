/* Which IPv6 addresses a guest has a right to in a network with others: first come, first served,
 * as a switch can tell by listening to duplicate address detection ([RFC6620], FCFS SAVI, with
 * [RFC4862 5.4]). A claim that nobody objects to for half a second stands; it is forgotten only for
 * newer ones. There is no timer: a claim's age says what it is. Pure. */
#ifndef CORE_NET_CLAIMS_H
#define CORE_NET_CLAIMS_H

#include "core/base/types.h"

#define CLAIMS 32 /* more than Linux gives a card by itself: 16 and those made by hand */
#define CLAIM_ASKED_NS 500000000ull /* TENT_LT of [RFC6620] */
#define CLAIM_LOST_NS 2000000000ull /* before it may be asked for again */

struct net_claim {
	uint8_t ip[16];
	uint64_t since_ns, used_ns;
	bool there, lost; /* lost: somebody objected */
};

struct net_claims {
	struct net_claim own[CLAIMS];
	uint8_t probe[16]; /* ask the others for it: the guest did not do so itself */
	bool probing;
};

/* Does it stand? */
bool claims_hold(struct net_claims *c, const uint8_t ip[16], uint64_t now_ns);
/* The guest asks for it, or (`probe`) uses it without having asked. Nothing happens to one that is
 * there already. */
void claims_begin(struct net_claims *c, const uint8_t ip[16], bool probe, uint64_t now_ns);
/* Somebody else has it, or asks for it, too. A claim that stands is not touched. */
void claims_object(struct net_claims *c, const uint8_t ip[16], uint64_t now_ns);

#endif
