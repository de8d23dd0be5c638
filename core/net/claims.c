/* See claims.h. */
#include "core/net/claims.h"

#include "core/base/string.h"

static struct net_claim *find(struct net_claims *c, const uint8_t ip[16]) {
	for (unsigned i = 0; i < CLAIMS; i++)
		if (c->own[i].there && !memcmp(c->own[i].ip, ip, 16))
			return &c->own[i];
	return NULL;
}

bool claims_hold(struct net_claims *c, const uint8_t ip[16], uint64_t now_ns) {
	struct net_claim *n = find(c, ip);
	if (!n || n->lost || now_ns - n->since_ns < CLAIM_ASKED_NS)
		return false;
	n->used_ns = now_ns;
	return true;
}

void claims_begin(struct net_claims *c, const uint8_t ip[16], bool probe, uint64_t now_ns) {
	struct net_claim *n = find(c, ip);
	if (n && (!n->lost || now_ns - n->since_ns < CLAIM_LOST_NS))
		return;
	for (unsigned i = 0; !n && i < CLAIMS; i++)
		if (!c->own[i].there)
			n = &c->own[i];
	if (!n) { /* the one that was used longest ago */
		n = &c->own[0];
		for (unsigned i = 1; i < CLAIMS; i++)
			if (c->own[i].used_ns < n->used_ns)
				n = &c->own[i];
	}
	*n = (struct net_claim){.since_ns = now_ns, .used_ns = now_ns, .there = true};
	memcpy(n->ip, ip, 16);
	if (!probe)
		return;
	memcpy(c->probe, ip, 16);
	c->probing = true;
}

void claims_object(struct net_claims *c, const uint8_t ip[16], uint64_t now_ns) {
	struct net_claim *n = find(c, ip);
	if (!n || n->lost || now_ns - n->since_ns >= CLAIM_ASKED_NS)
		return;
	n->lost = true;
	n->since_ns = now_ns;
}
