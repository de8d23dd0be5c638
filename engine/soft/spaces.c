/* Address spaces with their PCIDs ([SDM3 4.10]): what the TLB knows of one that is left is put
 * aside and put back when a CR3 write returns to its PCID without a flush.
 *
 * The TLB proper holds the current PCID's entries and the global ones, so that looking up costs
 * nothing. Its local entries are in a list; a switch moves them (some tens, mostly) between the
 * TLB and one of SOFT_SPACES sets, and likewise the translator's jump targets. What is put aside is
 * as stale or as good as it would be in a tagged TLB: INVLPG does not touch it, INVPCID, flushes of
 * everything and new code pages do. Runs on the vCPU's thread, or while the world is stopped. */
#include <stdlib.h>
#include <string.h>

#include "engine/soft/jit.h"

#define ENTRIES 256 /* the rest is dropped */

struct soft_space {
	bool valid;
	uint16_t pcid, n;
	uint64_t used; /* when, for choosing a victim */
	struct {
		uint16_t slot;
		struct soft_tlb_entry e;
	} entry[ENTRIES];
	struct jit_jumps_kept jumps;
};

int soft_spaces_create(struct soft_vcpu *c) {
	c->spaces = calloc(SOFT_SPACES, sizeof(*c->spaces));
	return c->spaces ? 0 : -ERR_NOMEM;
}

void soft_spaces_destroy(struct soft_vcpu *c) {
	free(c->spaces);
}

static struct soft_space *find(struct soft_vcpu *c, unsigned pcid) {
	for (unsigned n = 0; n < SOFT_SPACES; n++)
		if (c->spaces[n].valid && c->spaces[n].pcid == pcid)
			return &c->spaces[n];
	return NULL;
}

static struct soft_space *victim(struct soft_vcpu *c) {
	struct soft_space *best = &c->spaces[0];
	for (unsigned n = 0; n < SOFT_SPACES; n++) {
		struct soft_space *p = &c->spaces[n];
		if (!p->valid)
			return p;
		if (p->used < best->used)
			best = p;
	}
	return best;
}

static void put_aside(struct soft_vcpu *c, unsigned pcid) {
	struct soft_space *p = find(c, pcid);
	if (!p)
		p = victim(c);
	p->valid = true;
	p->pcid = (uint16_t)pcid;
	p->n = 0;
	p->used = ++c->space_clock;
	if (c->jit.on)
		jit_jumps_save(c, &p->jumps);
	/* The newest first: they are what is needed soonest. */
	for (unsigned n = c->nlocal; n-- > 0 && p->n < ENTRIES;) {
		unsigned slot = c->local[n];
		struct soft_tlb_entry *e = &c->tlb[slot / SOFT_TLB][slot % SOFT_TLB];
		if (e->global || (e->tag[0] & e->tag[1] & e->tag[2] & SOFT_TLB_INVALID))
			continue; /* replaced since, or listed twice */
		p->entry[p->n].slot = (uint16_t)slot;
		p->entry[p->n++].e = *e;
		e->tag[0] = e->tag[1] = e->tag[2] = SOFT_TLB_INVALID;
		if (c->jit.on)
			jit_tlb_drop(c, slot / SOFT_TLB, slot % SOFT_TLB);
	}
}

static void put_back(struct soft_vcpu *c, struct soft_space *p) {
	for (unsigned n = p->n; n-- > 0;)
		soft_tlb_put(c, p->entry[n].slot / SOFT_TLB, p->entry[n].slot % SOFT_TLB, &p->entry[n].e);
	if (c->jit.on)
		jit_jumps_restore(c, &p->jumps);
	p->valid = false; /* the TLB has them, and keeps them current */
	c->space_hits++;
}

void soft_space_switch(struct soft_vcpu *c, unsigned from, unsigned to, bool keep) {
	bool off = c->soft->jit && c->soft->jit->off & JIT_OFF_PCID;
	if (!keep)
		soft_space_drop(c, to);
	/* More local entries than the list holds: nobody knows which. */
	if (from != to && c->nlocal < SOFT_LOCAL && !off)
		put_aside(c, from);
	soft_tlb_flush(c, false);
	struct soft_space *p = keep ? find(c, to) : NULL;
	if (p && from != to)
		put_back(c, p);
}

void soft_space_drop(struct soft_vcpu *c, unsigned pcid) {
	struct soft_space *p = find(c, pcid);
	if (p)
		p->valid = false;
}

void soft_spaces_drop(struct soft_vcpu *c) {
	for (unsigned n = 0; n < SOFT_SPACES; n++)
		c->spaces[n].valid = false;
}

void soft_spaces_purge_writes(struct soft_vcpu *c, const uint8_t *host) {
	for (unsigned n = 0; n < SOFT_SPACES; n++) {
		struct soft_space *p = &c->spaces[n];
		for (unsigned k = 0; p->valid && k < p->n; k++)
			if (p->entry[k].e.host == host)
				soft_tlb_slow_writes(&p->entry[k].e);
	}
}
