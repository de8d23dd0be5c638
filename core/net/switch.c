/* See switch.h. */
#include "core/net/switch.h"

#include "core/base/string.h"

static unsigned set_of(const uint8_t mac[6]) {
	uint32_t h = 0;
	for (unsigned i = 0; i < 6; i++)
		h = (h ^ mac[i]) * 0x01000193u;
	return (h ^ h >> 16) % SWITCH_SETS;
}

void switch_init(struct net_switch *s) {
	for (unsigned i = 0; i < SWITCH_SETS; i++)
		for (unsigned k = 0; k < SWITCH_WAYS; k++)
			s->entry[i][k] = (struct switch_entry){.port = SWITCH_ALL};
}

void switch_learn(struct net_switch *s, const uint8_t mac[6], int port, uint64_t now_ns) {
	struct switch_entry *set = s->entry[set_of(mac)], *oldest = set;
	if (mac[0] & 1)
		return;
	for (unsigned i = 0; i < SWITCH_WAYS; i++) {
		if (set[i].port != SWITCH_ALL && !memcmp(set[i].mac, mac, 6)) {
			oldest = &set[i];
			break;
		}
		if (set[i].port == SWITCH_ALL ||
			(oldest->port != SWITCH_ALL && set[i].seen_ns < oldest->seen_ns))
			oldest = &set[i];
	}
	memcpy(oldest->mac, mac, 6);
	oldest->port = port;
	oldest->seen_ns = now_ns;
}

int switch_find(const struct net_switch *s, const uint8_t mac[6], uint64_t now_ns) {
	const struct switch_entry *set = s->entry[set_of(mac)];
	for (unsigned i = 0; i < SWITCH_WAYS; i++) {
		if (set[i].port != SWITCH_ALL && !memcmp(set[i].mac, mac, 6) &&
			now_ns - set[i].seen_ns < SWITCH_AGE_NS)
			return set[i].port;
	}
	return SWITCH_ALL;
}

void switch_forget(struct net_switch *s, int port) {
	for (unsigned i = 0; i < SWITCH_SETS; i++)
		for (unsigned k = 0; k < SWITCH_WAYS; k++)
			if (s->entry[i][k].port == port)
				s->entry[i][k].port = SWITCH_ALL;
}
