/* Where translated code finds its way: each vCPU's tables of jump targets.
 *
 * An entry holds for the mappings of the moment: it goes when the TLB entry of its code would go.
 * Three tables (jit_vcpu.h): `jumps` for indirect branches and returns that lost their pair, `far`
 * with a slot for each address that code of another page jumps to directly, and `targets` for
 * what the first two miss. C fills them here; emitted code and thunks only read. */
#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "engine/soft/jit.h"

/* Not canonical; in legacy modes EIP 0 of a segment at 2 GiB, which is not learnt. A jump there
 * leads to C all the same. */
#define NO_RIP (1ull << 63)
#define FAR_HASH (2 * JIT_FAR)
#define VAIN_LOOKS 64

struct jit_far {
	uint64_t rip;
	uint32_t slot; /* + 1; 0: free */
	uint32_t user;
};

/* ---- far targets --------------------------------------------------------------------------- */

int jit_far_create(struct jit *j) {
	j->far_hash = calloc(FAR_HASH, sizeof(*j->far_hash));
	return j->far_hash ? 0 : -ERR_NOMEM;
}

void jit_far_reset(struct jit *j) {
	if (j->nfar)
		memset(j->far_hash, 0, FAR_HASH * sizeof(*j->far_hash));
	j->nfar = 0;
}

/* Where the pair stands, or would (*slot is 0 then). Without the lock another vCPU may be about to
 * fill the free place with another pair: `slot` is looked at once. */
static struct jit_far *far_find(const struct jit *j, uint64_t rip, unsigned user, uint32_t *slot) {
	uint32_t h = (uint32_t)((rip + user) * 0x9e3779b97f4a7c15ull >> 40);
	for (;; h++) {
		struct jit_far *f = &j->far_hash[h & (FAR_HASH - 1)];
		*slot = __atomic_load_n(&f->slot, __ATOMIC_ACQUIRE);
		if (!*slot || (f->rip == rip && f->user == user))
			return f;
	}
}

/* As `user` of the hash, for slots that are about the second page of an instruction. */
#define SPAN 2u

static int make_slot(struct jit *j, uint64_t rip, unsigned user) {
	uint32_t slot;
	struct jit_far *f = far_find(j, rip, user, &slot);
	if (!slot) {
		if (j->nfar == JIT_FAR)
			return -1;
		j->far_user[j->nfar] = user & 1;
		for (unsigned n = 0; n < j->soft->nvcpus; n++)
			j->soft->vcpus[n]->jit.far[j->nfar] = j->far_miss;
		f->rip = rip;
		f->user = user;
		slot = ++j->nfar;
		__atomic_store_n(&f->slot, slot, __ATOMIC_RELEASE); /* others may be looking */
	}
	return (int)slot - 1;
}

int jit_far_slot(struct jit *j, uint64_t rip, unsigned user) {
	return make_slot(j, rip, user);
}

int jit_span_slot(struct jit *j, uint64_t rip, unsigned user) {
	return make_slot(j, rip, user | SPAN);
}

/* ---- the three tables ------------------------------------------------------------------------ */

static unsigned jump_index(const struct jit *j, uint64_t rip) {
	uint64_t h = rip;
	if (j->crc) {
		h = 0;
		__asm__("crc32q %1, %0" : "+r"(h) : "r"(rip));
	}
	return (unsigned)h & (JIT_JUMPS - 1);
}

static unsigned target_index(uint64_t rip) {
	return (unsigned)(rip ^ (uint32_t)rip >> 6) & (JIT_TARGETS - 1);
}

/* ---- pages with entries ---- */

/* The halves of the address space do not meet: a kernel's many pages are no user page's bad luck.
 */
static unsigned page_bit(gva_t gva) {
	uint64_t hash = (gva >> 12) * 0x9e3779b97f4a7c15ull >> (65 - JIT_PAGE_BITS);
	return (unsigned)(hash << 1 | gva >> 63);
}

static bool has_page(const uint64_t *pages, gva_t gva) {
	unsigned bit = page_bit(gva);
	return pages[bit / 64] & BIT(bit % 64);
}

static void note_page(struct soft_vcpu *c, gva_t gva, bool global) {
	unsigned bit = page_bit(gva);
	(global ? c->jit.global_pages : c->jit.jump_pages)[bit / 64] |= BIT(bit % 64);
}

static void clear_entry(struct soft_vcpu *c, unsigned user, enum jit_table table, unsigned n) {
	const struct jit *j = c->soft->jit;
	switch (table) {
	case JIT_TABLE_JUMPS:
		c->jit.jumps[user][n] = j->miss[user];
		break;
	case JIT_TABLE_TARGETS:
		c->jit.targets[user][n] = (struct jit_target){NO_RIP, j->far_miss};
		break;
	case JIT_TABLE_FAR:
		c->jit.far[n] = j->far_miss;
		break;
	}
}

static void clear_all(struct soft_vcpu *c, unsigned user) {
	const struct jit *j = c->soft->jit;
	for (unsigned n = 0; n < JIT_JUMPS; n++)
		clear_entry(c, user, JIT_TABLE_JUMPS, n);
	for (unsigned n = 0; n < JIT_TARGETS; n++)
		clear_entry(c, user, JIT_TABLE_TARGETS, n);
	for (unsigned n = 0; n < j->nfar; n++)
		if (j->far_user[n] == user)
			clear_entry(c, user, JIT_TABLE_FAR, n);
	c->jit.touched[user].n = 0;
}

void jit_jumps_clear_half(struct soft_vcpu *c, unsigned user) {
	clear_all(c, user);
	c->jit.jump_clears++;
}

void jit_jumps_clear(struct soft_vcpu *c) {
	clear_all(c, 0);
	clear_all(c, 1);
	memset(c->jit.jump_pages, 0, sizeof(c->jit.jump_pages));
	memset(c->jit.global_pages, 0, sizeof(c->jit.global_pages));
	c->jit.vain_looks = 0;
	c->jit.jump_clears++;
}

static void clear_local(struct soft_vcpu *c, unsigned user) {
	struct jit_touched *t = &c->jit.touched[user];
	if (t->n > JIT_TOUCHED) {
		clear_all(c, user);
		return;
	}
	for (unsigned n = 0; n < t->n; n++)
		clear_entry(c, user, (enum jit_table)t->entry[n].table, t->entry[n].index);
	t->n = 0;
}

/* Those of one page; false: there were none. An entry that has become another page's meanwhile
 * goes, too, and is learnt again. */
static bool clear_page(struct soft_vcpu *c, unsigned user, uint32_t page) {
	struct jit_touched *t = &c->jit.touched[user];
	uint32_t left = 0;
	if (t->n > JIT_TOUCHED) {
		clear_all(c, user);
		return true;
	}
	for (uint32_t n = 0; n < t->n; n++)
		if (t->entry[n].page == page)
			clear_entry(c, user, (enum jit_table)t->entry[n].table, t->entry[n].index);
		else
			t->entry[left++] = t->entry[n];
	bool any = left < t->n;
	t->n = left;
	return any;
}

void jit_jumps_flush(struct soft_vcpu *c, bool global_too) {
	if (global_too) {
		jit_jumps_clear(c);
	} else {
		clear_local(c, 0);
		clear_local(c, 1);
	}
}

void jit_jumps_flush_page(struct soft_vcpu *c, gva_t gva) {
	if (has_page(c->jit.global_pages, gva)) {
		jit_jumps_clear(c);
		return;
	}
	if (!has_page(c->jit.jump_pages, gva))
		return;
	bool any = clear_page(c, 0, (uint32_t)(gva >> 12));
	any |= clear_page(c, 1, (uint32_t)(gva >> 12));
	if (any)
		c->jit.vain_looks = 0;
	else if (++c->jit.vain_looks == VAIN_LOOKS)
		jit_jumps_clear(c); /* and the bitmap begins anew */
}

static void touch(struct soft_vcpu *c, unsigned user, enum jit_table table, unsigned n, gva_t gva) {
	struct jit_touched *t = &c->jit.touched[user];
	if (t->n >= JIT_TOUCHED) {
		t->n = JIT_TOUCHED + 1;
		return;
	}
	t->entry[t->n].table = (uint16_t)table;
	t->entry[t->n].index = (uint16_t)n;
	t->entry[t->n++].page = (uint32_t)(gva >> 12);
}

static void learn_far(struct soft_vcpu *c, unsigned user, uint64_t rip, const uint8_t *entry,
					  bool global) {
	uint32_t slot;
	far_find(c->soft->jit, rip, user, &slot);
	if (!slot || c->jit.far[slot - 1] == entry)
		return;
	c->jit.far[slot - 1] = entry;
	if (!global)
		touch(c, user, JIT_TABLE_FAR, slot - 1,
			  jit_linear(c->jit.keys[user] & JIT_KEY_LEGACY, rip));
}

const uint8_t *jit_jump_known(struct soft_vcpu *c, unsigned user, uint64_t rip) {
	unsigned n = target_index(rip);
	const struct jit_target *t = &c->jit.targets[user][n];
	if (t->rip != rip || rip == NO_RIP)
		return NULL;
	learn_far(c, user, rip, t->entry, c->jit.target_global[user][n]);
	return t->entry;
}

void jit_span_learn(struct soft_vcpu *c, const struct jit_block *b, gva_t second, bool global) {
	unsigned user = b->key & JIT_KEY_USER ? 1 : 0;
	if (c->jit.far[b->span_slot] == b->span_body)
		return;
	global &= !user;
	note_page(c, second, global);
	c->jit.far[b->span_slot] = b->span_body;
	if (!global)
		touch(c, user, JIT_TABLE_FAR, b->span_slot, second);
}

void jit_jump_learn(struct soft_vcpu *c, unsigned user, const struct jit_block *b, bool global) {
	const struct jit *j = c->soft->jit;
	unsigned jump = jump_index(j, b->rip), target = target_index(b->rip);
	gva_t gva = jit_linear(b->key & JIT_KEY_LEGACY, b->rip);
	if (b->rip == NO_RIP)
		return;
	global &= !user;
	note_page(c, gva, global);
	c->jit.jumps[user][jump] = b->entry_checked;
	c->jit.targets[user][target] = (struct jit_target){b->rip, b->entry};
	c->jit.target_global[user][target] = global;
	learn_far(c, user, b->rip, b->entry, global);
	if (global)
		return;
	touch(c, user, JIT_TABLE_JUMPS, jump, gva);
	touch(c, user, JIT_TABLE_TARGETS, target, gva);
}

void jit_jump_forget(struct soft_vcpu *c, const struct jit_block *b) {
	const struct jit *j = c->soft->jit;
	unsigned user = b->key & JIT_KEY_USER ? 1 : 0;
	unsigned jump = jump_index(j, b->rip), target = target_index(b->rip);
	uint32_t slot;
	far_find(j, b->rip, user, &slot);
	if (c->jit.jumps[user][jump] == b->entry_checked)
		clear_entry(c, user, JIT_TABLE_JUMPS, jump);
	if (c->jit.targets[user][target].entry == b->entry)
		clear_entry(c, user, JIT_TABLE_TARGETS, target);
	if (slot && c->jit.far[slot - 1] == b->entry)
		clear_entry(c, user, JIT_TABLE_FAR, slot - 1);
	if (b->next_page && c->jit.far[b->span_slot] == b->span_body)
		clear_entry(c, user, JIT_TABLE_FAR, b->span_slot);
}

/* ---- address spaces that are left (spaces.c) ------------------------------------------------- */

void jit_jumps_save(struct soft_vcpu *c, struct jit_jumps_kept *k) {
	k->n = 0;
	k->epoch = c->soft->jit->epoch;
	k->clears = c->jit.jump_clears;
	for (unsigned user = 0; user < 2; user++) {
		const struct jit_touched *t = &c->jit.touched[user];
		if (t->n > JIT_TOUCHED)
			continue;
		/* The newest first: they are what is needed soonest. */
		for (unsigned n = t->n; n-- > 0 && k->n < JIT_KEPT; k->n++) {
			unsigned i = t->entry[n].index;
			struct jit_kept *e = &k->entry[k->n];
			e->user = (uint8_t)user;
			e->table = (uint8_t)t->entry[n].table;
			e->index = (uint16_t)i;
			e->page = t->entry[n].page;
			switch ((enum jit_table)e->table) {
			case JIT_TABLE_JUMPS:
				e->entry = c->jit.jumps[user][i];
				break;
			case JIT_TABLE_TARGETS:
				e->rip = c->jit.targets[user][i].rip;
				e->entry = c->jit.targets[user][i].entry;
				break;
			case JIT_TABLE_FAR:
				e->entry = c->jit.far[i];
				break;
			}
		}
	}
}

void jit_jumps_restore(struct soft_vcpu *c, const struct jit_jumps_kept *k) {
	/* A block was killed since, or the filter of pages does not know of these. */
	if (k->epoch != c->soft->jit->epoch || k->clears != c->jit.jump_clears)
		return;
	for (unsigned n = k->n; n-- > 0;) {
		const struct jit_kept *e = &k->entry[n];
		switch ((enum jit_table)e->table) {
		case JIT_TABLE_JUMPS:
			c->jit.jumps[e->user][e->index] = e->entry;
			break;
		case JIT_TABLE_TARGETS:
			c->jit.targets[e->user][e->index] = (struct jit_target){e->rip, e->entry};
			c->jit.target_global[e->user][e->index] = false;
			break;
		case JIT_TABLE_FAR:
			c->jit.far[e->index] = e->entry;
			break;
		}
		touch(c, e->user, (enum jit_table)e->table, e->index, (gva_t)e->page << 12);
	}
}
