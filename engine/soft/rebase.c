/* Blocks of code that is mapped at several guest addresses: with address space layout
 * randomization each process has a library somewhere else, and half of what a short-lived program
 * executes it executes once. A block of the first tier that was translated for another
 * address is copied, and the places in it that depend on the guest's address or on the block's own
 * are changed. While it is translated these places are noted, for 64-bit user code at addresses
 * that such programs have: far enough from 0 that each address takes the 8-byte form of MOV
 * wherever the code is.
 *
 * test/insn/rebase.c compares copies with what is translated for the same place. */
#include <string.h>

#include "engine/soft/emit.h"

#define LOWEST (1ull << 33)
#define HIGHEST ((1ull << 47) - (1ull << 33))

static unsigned twin_index(const uint8_t *host, uint32_t key) {
	return (unsigned)(((uintptr_t)host ^ key) * 0x9e3779b97f4a7c15ull >> 49) & (JIT_TWINS - 1);
}

static bool is_movable(uint64_t rip, uint32_t key) {
	return rip >= LOWEST && rip < HIGHEST && key & JIT_KEY_USER && !(key & JIT_KEY_LEGACY);
}

bool jit_twin_begin(const struct jit *j, const struct jit_block *draft, struct emit_fixups *f) {
	f->hot = j->hot;
	f->cold = j->cold;
	f->fixed = false;
	f->n = 0;
	return !draft->second && !draft->bytes && is_movable(draft->rip, draft->key) &&
		   !(j->off & JIT_OFF_REBASE);
}

void jit_twin_end(struct jit *j, struct jit_block *b, const struct emit_fixups *f) {
	size_t size = f->n * sizeof(f->at[0]);
	struct jit_fixup *at = f->fixed || b->next_page ? NULL : jit_arena(j, size);
	if (!at)
		return;
	memcpy(at, f->at, size);
	b->fixups = at;
	b->nfixups = f->n;
	j->twins[twin_index(b->host, b->key)] = b;
}

void jit_twin_forget(struct jit *j, const struct jit_block *b) {
	struct jit_block **twin = &j->twins[twin_index(b->host, b->key)];
	if (*twin == b)
		*twin = NULL;
}

/* ---- copying --------------------------------------------------------------------------------- */

struct copy {
	struct jit *j;
	const struct jit_block *from;
	struct jit_block *to;
	uint64_t distance;	/* of guest addresses */
	intptr_t hot, cold; /* of the block's parts */
	bool failed;
};

static bool lies_in(const uint8_t *p, const uint8_t *part, uint32_t len) {
	return p >= part && p < part + len;
}

/* Where code at `p` of the original, or of anybody else, is for the copy. */
static const uint8_t *moved(const struct copy *c, const uint8_t *p) {
	if (lies_in(p, c->from->hot, c->from->hot_len))
		return p + c->hot;
	return lies_in(p, c->from->cold, c->from->cold_len) ? p + c->cold : p;
}

/* New links, none of them linked. */
static bool copy_links(struct copy *c) {
	struct jit_link **end = &c->to->out;
	for (const struct jit_link *l = c->from->out; l; l = l->own_next) {
		struct jit_link *to = jit_arena(c->j, sizeof(*to));
		if (!to)
			return false;
		*to = (struct jit_link){.rip = l->rip + c->distance,
								.host = l->host,
								.plain = l->plain,
								.patch = (uint8_t *)moved(c, l->patch),
								.stub = (uint8_t *)moved(c, l->stub)};
		*end = to;
		end = &to->own_next;
	}
	*end = NULL;
	return true;
}

static struct jit_link *link_like(const struct copy *c, const struct jit_link *link) {
	struct jit_link *to = c->to->out;
	for (const struct jit_link *l = c->from->out; l != link; l = l->own_next)
		to = to->own_next;
	return to;
}

static struct jit_op *copy_op(struct copy *c, const struct jit_op *op) {
	struct jit_op *to = jit_arena(c->j, sizeof(*to));
	if (!to) {
		c->failed = true;
		return NULL;
	}
	*to = *op;
	to->rip += c->distance;
	return to;
}

static void fix(struct copy *c, const struct jit_fixup *f) {
	const uint8_t *from = (f->cold ? c->from->cold : c->from->hot) + f->at;
	uint8_t *to = (uint8_t *)from + (f->cold ? c->cold : c->hot);
	uint64_t v;
	int32_t rel;
	int slot;
	memcpy(&v, from, 8);
	switch ((enum jit_fix)f->kind) {
	case FIX_REL32:
		memcpy(&rel, from, 4);
		jit_put_rel32(to, moved(c, from + 4 + rel), 0);
		return;
	case FIX_ADDRESS:
		v += c->distance;
		break;
	case FIX_NEGATIVE:
		v -= c->distance;
		break;
	case FIX_OP:
		v = (uintptr_t)copy_op(c, (const struct jit_op *)v);
		break;
	case FIX_LINK:
		v = (uintptr_t)link_like(c, (const struct jit_link *)v);
		break;
	case FIX_FAR: /* behind MOV T0, address; JMP or CALL gs:[disp32] */
		memcpy(&v, to - 12, 8);
		slot = jit_far_slot(c->j, v, 1);
		rel = (int32_t)(GS_JIT(far[0]) + 8 * (uint32_t)slot);
		c->failed |= slot < 0;
		memcpy(to, &rel, 4);
		return;
	}
	memcpy(to, &v, 8);
}

struct jit_block *jit_rebase(struct jit *j, const uint8_t *host, uint64_t rip, uint32_t key) {
	const struct jit_block *twin = j->twins[twin_index(host, key)];
	if (!twin || twin->host != host || twin->key != key || !is_movable(rip, key))
		return NULL;
	struct jit_block *b = jit_arena(j, sizeof(*b));
	if (!b || j->hot + twin->hot_len > j->hot_end || j->cold + twin->cold_len + 64 > j->cold_end)
		return NULL;
	struct copy c = {.j = j,
					 .from = twin,
					 .to = b,
					 .distance = rip - twin->rip,
					 .hot = j->hot - twin->hot,
					 .cold = j->cold - twin->cold};
	*b = *twin;
	b->rip = rip;
	b->hash_next = b->page_next = NULL;
	b->incoming = NULL;
	b->samples = 0;
	b->hot = j->hot;
	b->cold = j->cold;
	b->entry += c.hot;
	b->entry_checked += c.cold;
	memcpy(j->hot, twin->hot, twin->hot_len);
	memcpy(j->cold, twin->cold, twin->cold_len);
	if (!copy_links(&c))
		return NULL;
	for (uint32_t n = 0; n < twin->nfixups; n++)
		fix(&c, &twin->fixups[n]);
	for (const struct jit_link *l = b->out; l; l = l->own_next)
		jit_put_rel32(l->patch, l->stub, 0);
	if (c.failed)
		return NULL;
	jit_emitted(j, b);
	j->rebased++;
	j->twins[twin_index(host, key)] = b;
	return b;
}
