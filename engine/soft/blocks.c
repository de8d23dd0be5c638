/* The translator's blocks: how they are found, made, linked, made hot, and killed.
 *
 * Blocks are found by (host address, jit address, mode). They are made under jit->lock while
 * others run; invalidating and throwing away happen while the world is stopped. What a dead block
 * leaves behind (its code, its links) stays in place until the whole cache is thrown away, and
 * `epoch` tells who was inside a handler meanwhile not to return into it.
 *
 * A page that code was translated from gets no write entries in any TLB. A store into it takes
 * the slow path, which ends here; what devices write comes through jit_device_wrote(). */
#include <string.h>
#include <sys/mman.h>

#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

#define WRITTEN_MAX 64
#define IDLE_STORES 64
#define LEFT_MAX 400 /* blocks in a page that outlive the death of one */

/* ---- invalidation ----------------------------------------------------------------------- */

/* By the page's guest address, too: programs have one page of a library at many. Blocks of a page
 * are neighbours, so that a small guest touches little of the table. */
static unsigned hash_of(const uint8_t *host, uint64_t rip, uint32_t key) {
	uint64_t h = (uintptr_t)host >> 12 ^ (rip >> 12) * 0xff51afd7ed558ccdull ^ key;
	h *= 0x9e3779b97f4a7c15ull;
	unsigned at = (unsigned)rip;
	return (unsigned)(h >> 40 << 6 ^ ((at ^ at >> 6) & 63)) & (JIT_HASH - 1);
}

/* World stopped. The dummy of a second page stands for its block. */
static void kill_block(struct jit *j, struct jit_block *b) {
	if (b->whole)
		b = b->whole;
	struct jit_block **p = &j->hash[hash_of(b->host, b->rip, b->key)];
	while (*p && *p != b)
		p = &(*p)->hash_next;
	if (*p)
		*p = b->hash_next;
	for (struct jit_link *l = b->incoming; l; l = l->next) {
		jit_put_rel32(l->patch, l->stub + j->exec, j->exec);
		l->to = NULL;
	}
	b->incoming = NULL;
	jit_twin_forget(j, b);
	for (unsigned n = 0; n < j->soft->nvcpus; n++)
		jit_jump_forget(j->soft->vcpus[n], b);
	j->invalidations++;
}

/* ---- which bytes of a page code depends on: to find out costs no more than it is worth ---- */

static void set_bytes(struct jit *j, uint64_t page, uint64_t at, uint64_t len) {
	for (uint64_t end = MIN(at + len, (uint64_t)PAGE_SIZE); at < end; at = (at | 63) + 1) {
		uint64_t last = MIN(end - 1, at | 63);
		j->code_bytes[page][at / 64] |= ~0ull >> (63 - last % 64) & ~0ull << at % 64;
		j->lines[page] |= BIT(at / 64);
	}
}

static bool any_bytes(const struct jit *j, uint64_t page, uint64_t at, uint64_t len) {
	for (uint64_t end = MIN(at + len, (uint64_t)PAGE_SIZE); at < end; at = (at | 63) + 1) {
		uint64_t last = MIN(end - 1, at | 63);
		if (j->code_bytes[page][at / 64] & ~0ull >> (63 - last % 64) & ~0ull << at % 64)
			return true;
	}
	return false;
}

static void depend(struct jit *j, const struct jit_block *b) {
	set_bytes(j, b->page, (uintptr_t)b->host & PAGE_MASK, b->len);
	if (b->peek_from < b->peek_to)
		set_bytes(j, b->page, b->peek_from, b->peek_to - b->peek_from);
}

static void kill_range(struct jit *j, gpa_t gpa, uint64_t len, bool stored) {
	uint64_t page = gpa >> 12;
	if (page >= j->npages)
		return;
	const uint8_t *host = NULL;
	uint64_t start = gpa & PAGE_MASK, end = start + len;
	struct jit_block **p = &j->pages[page];
	bool any = false;
	unsigned left = 0;
	while (*p) {
		struct jit_block *b = *p;
		uint64_t at = (uintptr_t)b->host & PAGE_MASK;
		if ((at < end && start < at + b->len) || (b->peek_from < end && start < b->peek_to)) {
			*p = b->page_next;
			host = b->host - at + start;
			kill_block(j, b);
			any = true;
		} else {
			p = &b->page_next;
			left++;
		}
	}
	if (!any)
		return;
	if (stored)
		jit_self_note_kill(j, host, len);
	/* Code that goes on changing in a page with very many blocks: looking through them each time
	 * would cost more than they are worth. */
	for (; left > LEFT_MAX && j->pages[page]; j->pages[page] = j->pages[page]->page_next)
		kill_block(j, j->pages[page]);
	j->idle[page] = 0;
	for (unsigned n = 0; n < 64; n++)
		if (j->lines[page] & BIT(n))
			j->code_bytes[page][n] = 0;
	j->lines[page] = 0;
	for (const struct jit_block *b = j->pages[page]; b; b = b->page_next)
		depend(j, b);
	__atomic_fetch_add(&j->epoch, 1, __ATOMIC_SEQ_CST);
}

static void discard(struct jit *j, struct jit_block *b) {
	struct jit_block **p = &j->pages[b->page];
	while (*p && *p != b)
		p = &(*p)->page_next;
	if (*p)
		*p = b->page_next;
	kill_block(j, b);
	__atomic_fetch_add(&j->epoch, 1, __ATOMIC_SEQ_CST);
}

void jit_flush_all(struct jit *j) {
	for (unsigned n = 0; n < j->soft->nvcpus; n++)
		jit_jumps_clear(j->soft->vcpus[n]);
	jit_cache_forget(j, false);
	j->flushes++;
}

bool jit_is_code_page(const struct soft *s, gpa_t gpa) {
	return gpa >> 12 < s->jit->npages &&
		   __atomic_load_n(&s->jit->code[gpa >> 12], __ATOMIC_RELAXED);
}

/* Whether code was translated from there. Whoever does that holds the lock, and looks at memory
 * after he has got it. A page whose code is gone stays watched for a while, as code that is patched
 * comes back, and beginning to watch a page is dear. */
static bool is_code(struct jit *j, gpa_t gpa, unsigned len) {
	uint64_t page = gpa >> 12;
	pthread_mutex_lock(&j->lock);
	bool is = any_bytes(j, page, gpa & PAGE_MASK, len);
	if (!j->pages[page] && ++j->idle[page] == IDLE_STORES)
		__atomic_store_n(&j->code[page], CODE_NONE, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&j->lock);
	return is;
}

void jit_code_written(struct soft_vcpu *c, gpa_t gpa, unsigned len) {
	if (!is_code(c->soft->jit, gpa, len))
		return;
	bool alone = c->soft->excl_owner == c;
	if (!alone)
		soft_exclusive_begin(c);
	kill_range(c->soft->jit, gpa, len, true);
	if (!alone)
		soft_exclusive_end(c);
	c->leave_block = true;
}

void jit_device_wrote(struct soft *s, gpa_t gpa, uint64_t len) {
	struct jit *j = s->jit;
	bool any = false;
	for (gpa_t page = gpa & ~PAGE_MASK; page < gpa + len; page += PAGE_SIZE) {
		if (!jit_is_code_page(s, page))
			continue;
		uint32_t n = __atomic_fetch_add(&j->nwritten, 1, __ATOMIC_SEQ_CST);
		if (n < WRITTEN_MAX)
			j->written[n] = page;
		any = true;
	}
	for (unsigned n = 0; any && n < s->nvcpus; n++)
		vcpu_post(s->vcpus[n]->v, EVENT_FLUSH);
}

/* A device wrote there: it is another page now. */
static void forget_page(struct jit *j, gpa_t gpa) {
	kill_range(j, gpa, PAGE_SIZE, false);
	if (!j->pages[gpa >> 12])
		__atomic_store_n(&j->code[gpa >> 12], CODE_NONE, __ATOMIC_RELAXED);
}

void jit_serve_writes(struct soft_vcpu *c) {
	struct jit *j = c->soft->jit;
	soft_exclusive_begin(c);
	uint32_t n = __atomic_exchange_n(&j->nwritten, 0, __ATOMIC_SEQ_CST);
	if (n > WRITTEN_MAX)
		jit_flush_all(j);
	else
		for (uint32_t k = 0; k < n; k++)
			forget_page(j, j->written[k]);
	soft_exclusive_end(c);
}

/* ---- finding and making blocks ---------------------------------------------------------- */

/* The best block there is, or (`plain`) the first tier's. */
static struct jit_block *look_up(const struct jit *j, const uint8_t *host, uint64_t rip,
								 uint32_t key, bool plain) {
	struct jit_block *found = NULL;
	struct jit_block *b = __atomic_load_n(&j->hash[hash_of(host, rip, key)], __ATOMIC_ACQUIRE);
	for (; b; b = b->hash_next) {
		if (b->host != host || b->rip != rip || b->key != key || !jit_self_fits(b))
			continue;
		if (b->second != plain)
			return b;
		if (!b->second)
			found = b;
	}
	return found;
}

void jit_discard(struct soft_vcpu *c, const uint8_t *host, uint64_t rip, uint32_t key) {
	struct jit *j = c->soft->jit;
	soft_exclusive_begin(c);
	pthread_mutex_lock(&j->lock);
	struct jit_block *b = look_up(j, host, rip, key, false);
	if (b)
		discard(j, b);
	pthread_mutex_unlock(&j->lock);
	soft_exclusive_end(c);
}

/* No more writes to the page go unseen, from before the first byte of it is read. */
static void watch_page(struct soft_vcpu *c, const uint8_t *host, gpa_t gpa) {
	struct jit *j = c->soft->jit;
	bool others = c->soft->nvcpus > 1;
	if (others)
		soft_exclusive_begin(c);
	__atomic_store_n(&j->code[gpa >> 12], CODE_YES, __ATOMIC_RELAXED);
	for (unsigned n = 0; n < c->soft->nvcpus; n++)
		soft_tlb_purge_writes(c->soft->vcpus[n], host - (gpa & PAGE_MASK));
	if (others)
		soft_exclusive_end(c);
}

/* World stopped, or the lock held and nobody but the caller in the guest. */
static void end_sharing(struct soft_vcpu *c, gpa_t gpa) {
	struct jit *j = c->soft->jit;
	if (j->code[gpa >> 12] != CODE_SHARED)
		return;
	for (unsigned n = 0; n < c->soft->nvcpus; n++)
		jit_slots_empty(c->soft->vcpus[n]);
	__atomic_store_n(&j->code[gpa >> 12], CODE_YES, __ATOMIC_RELAXED);
}

/* Takes the lock when no slot lets anybody write to these pages (jit_slot_fill()). */
static void lock_pages(struct soft_vcpu *c, gpa_t a, gpa_t b) {
	struct jit *j = c->soft->jit;
	for (;;) {
		pthread_mutex_lock(&j->lock);
		if (j->code[a >> 12] != CODE_SHARED && j->code[b >> 12] != CODE_SHARED)
			return;
		pthread_mutex_unlock(&j->lock);
		soft_exclusive_begin(c);
		end_sharing(c, a);
		end_sharing(c, b);
		soft_exclusive_end(c);
	}
}

/* Makes [at, at + JIT_HUGE) a huge page in both mappings: the code of big programs lies scattered,
 * and each 4 KiB of it would want an entry of the host's TLB. Linux before 6.1 does not do it. */
static bool make_huge(const struct jit *j, uint8_t *at) {
	*(volatile uint8_t *)at = *at; /* of what there is, of one page at least */
	return madvise(at, JIT_HUGE, 25 /* MADV_COLLAPSE */) == 0 &&
		   madvise(at + j->exec, JIT_HUGE, 25) == 0;
}

/* Has the host give memory for what comes next in one go, instead of a fault a page. */
static void get_ready(const struct jit *j, const uint8_t *at, uint8_t **ready, uint8_t *end) {
	if (likely(at + (64u << 10) < *ready) || *ready == end)
		return;
	uint8_t *start = end == j->hot_end ? j->rw : j->cold_start;
	size_t have = (size_t)(*ready - start), left = JIT_HUGE - (uintptr_t)*ready % JIT_HUGE;
	if (left == JIT_HUGE && have && (size_t)(end - *ready) >= JIT_HUGE) {
		if (have == JIT_HUGE)
			make_huge(j, start);
		if (make_huge(j, *ready)) {
			*ready += JIT_HUGE;
			return;
		}
	}
	/* Small ones first: many guests are. */
	size_t piece = MIN(MIN(MAX(have, 64u << 10), 512u << 10), MIN((size_t)(end - *ready), left));
	/* Linux before 5.14 does not know these: then there are faults. */
	madvise(*ready, piece, 23 /* MADV_POPULATE_WRITE */);
	madvise(*ready + j->exec, piece, 22 /* MADV_POPULATE_READ */);
	*ready += piece;
}

static bool cache_full(const struct jit *j) {
	return j->arena_at + (1u << 16) > j->arena_end || j->hot + (1u << 15) > j->hot_end ||
		   j->cold + (1u << 15) > j->cold_end;
}

static void list(struct jit *j, struct jit_block *b, gpa_t gpa) {
	b->page = gpa >> 12;
	b->page_next = j->pages[b->page];
	j->pages[b->page] = b;
	depend(j, b);
}

/* Whoever writes to the second page of a block finds it, too. */
static bool list_second(struct jit *j, struct jit_block *b, gpa_t gpa) {
	struct jit_block *dummy = jit_arena(j, sizeof(*dummy));
	if (!dummy)
		return false;
	*dummy = (struct jit_block){
		.host = b->next_page, .len = X86_MAX_LEN, .peek_from = PAGE_SIZE, .whole = b};
	list(j, dummy, gpa);
	return true;
}

/* A complete block, from now on to be found. Nobody has to tell a self-checking one of stores. */
static void publish(struct jit *j, struct jit_block *b, gpa_t gpa) {
	struct jit_block **head = &j->hash[hash_of(b->host, b->rip, b->key)];
	b->hash_next = *head;
	if (!b->bytes)
		list(j, b, gpa);
	__atomic_store_n(head, b, __ATOMIC_RELEASE);
}

/* ---- self-checking blocks ---------------------------------------------------------------- */

#define VERSIONS_MAX 8

static struct jit_block *first_version(const struct jit *j, const uint8_t *host, uint64_t rip,
									   uint32_t key) {
	struct jit_block *b = __atomic_load_n(&j->hash[hash_of(host, rip, key)], __ATOMIC_ACQUIRE);
	while (b && (b->host != host || b->rip != rip || b->key != key || !b->bytes))
		b = b->hash_next;
	return b ? b->first_version : NULL;
}

/* All versions of the block go. Once the line was found calm (`calm`) it is one again that checks
 * nothing. */
static void discard_versions(struct soft_vcpu *c, const uint8_t *host, uint64_t rip, uint32_t key,
							 bool calm) {
	struct jit *j = c->soft->jit;
	soft_exclusive_begin(c);
	pthread_mutex_lock(&j->lock);
	struct jit_block *b = first_version(j, host, rip, key);
	if (b && calm)
		jit_self_calm(j, b);
	for (; b; b = b->next_version)
		kill_block(j, b);
	__atomic_fetch_add(&j->epoch, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&j->lock);
	soft_exclusive_end(c);
}

/* The block for what is there now; NULL: that shall be interpreted. */
static struct jit_block *make_self(struct soft_vcpu *c, const uint8_t *host, uint32_t key) {
	struct jit *j = c->soft->jit;
	uint64_t rip = jit_address(c);
	pthread_mutex_lock(&j->lock);
	struct jit_block *b = look_up(j, host, rip, key, true), *last = NULL;
	struct jit_block *first = first_version(j, host, rip, key);
	unsigned n = 0;
	for (struct jit_block *k = first; k; k = k->next_version, n++)
		last = k;
	bool restart = false;
	if (!b && n == VERSIONS_MAX) {
		restart = jit_self_miss(j, first);
	} else if (!b) {
		get_ready(j, j->hot, &j->hot_ready, j->hot_end);
		get_ready(j, j->cold, &j->cold_ready, j->cold_end);
		b = jit_self_make(c, host, rip, key, last);
		if (b)
			publish(j, b, 0);
	}
	pthread_mutex_unlock(&j->lock);
	if (restart)
		discard_versions(c, host, rip, key, false);
	return b;
}

/* ---- making ------------------------------------------------------------------------------ */

/* The others go on meanwhile: a block is complete before it can be found, and no world is stopped,
 * so no block killed, while this one is in the guest. */
static struct jit_block *make(struct soft_vcpu *c, const uint8_t *host, gpa_t gpa,
							  const struct jit_span *next, uint32_t key, bool plain) {
	struct jit *j = c->soft->jit;
	uint64_t rip = jit_address(c);
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
	bool self = jit_self_wanted(j, host);
	if (!self && !jit_is_code_page(c->soft, gpa))
		watch_page(c, host, gpa);
	if (next->host && !jit_is_code_page(c->soft, next->gpa))
		watch_page(c, next->host, next->gpa);
	if (unlikely(cache_full(j))) {
		soft_exclusive_begin(c);
		if (cache_full(j))
			jit_flush_all(j);
		soft_exclusive_end(c);
		return make(c, host, gpa, next, key, plain);
	}
	if (self)
		return make_self(c, host, key);
	lock_pages(c, gpa, next->host ? next->gpa : gpa);
	struct jit_block *b = look_up(j, host, rip, key, plain); /* another vCPU was quicker */
	/* While the world was stopped above, another one may have killed what was there. */
	if (!b && jit_is_code_page(c->soft, gpa) &&
		(!next->host || jit_is_code_page(c->soft, next->gpa))) {
		get_ready(j, j->hot, &j->hot_ready, j->hot_end);
		get_ready(j, j->cold, &j->cold_ready, j->cold_end);
		if (j->off & JIT_OFF_TIER && !plain)
			b = jit_translate(c, host, NULL, rip, key, true);
		if (!b)
			b = jit_rebase(j, host, rip, key);
		if (!b)
			b = jit_translate(c, host, next->host, rip, key, false);
		if (b && b->next_page && !list_second(j, b, next->gpa))
			b = NULL;
		if (b)
			publish(j, b, gpa);
	}
	pthread_mutex_unlock(&j->lock);
	return b;
}

/* Whether the vCPU comes to gva for the second time, as far as it remembers. */
static bool comes_again(struct soft_vcpu *c, gva_t gva) {
	uint64_t *seen = &c->jit.behind_stores[gva % JIT_BEHIND];
	bool again = *seen == gva;
	*seen = gva;
	return again;
}

/* The block at RIP; NULL: let the interpreter do it. Raises what fetching raises. */
struct jit_block *jit_block_find(struct soft_vcpu *c, uint32_t key, bool plain, bool *global) {
	gva_t gva;
	if (!jit_fetch_from(c, &gva))
		return NULL;
	struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_EXEC, fast_user(c));
	if (!e->host || e->gpa >> 12 >= c->soft->jit->npages)
		return NULL;
	*global = e->global;
	const uint8_t *host = e->host + (gva & PAGE_MASK);
	gpa_t gpa = e->gpa | (gva & PAGE_MASK);
	struct jit_block *b = look_up(c->soft->jit, host, jit_address(c), key, plain);
	if (!b && c->jit.stored && !comes_again(c, gva))
		return NULL;
	c->jit.stored = false;
	if (!b) {
		struct jit_span next = jit_span_find(c, host, gva);
		b = make(c, host, gpa, &next, key, plain);
	}
	return !b || !b->next_page || jit_span_ready(c, b, gva) ? b
															: jit_block_find(c, key, plain, global);
}

/* ---- the second tier ---------------------------------------------------------------------- */

#define SAMPLES_HOT 2
#define SAMPLES_NEVER 255 /* the second tier cannot have it */

/* World stopped: who jumped to the first tier's block goes to the other one from now on. */
static void replace(struct jit *j, struct jit_block *old, struct jit_block *b) {
	struct jit_link **p = &old->incoming;
	while (*p) {
		struct jit_link *l = *p;
		if (l->plain) {
			p = &l->next;
			continue;
		}
		*p = l->next;
		l->to = b;
		l->next = b->incoming;
		b->incoming = l;
		jit_put_rel32(l->patch, b->entry, j->exec);
	}
	for (unsigned n = 0; n < j->soft->nvcpus; n++)
		jit_jump_forget(j->soft->vcpus[n], old);
}

/* The block that missed its slots too often goes; when it is made again, jit_slot_bad() tells. */
void jit_demote(struct soft_vcpu *c) {
	struct jit *j = c->soft->jit;
	c->jit.slots_bad = false;
	soft_exclusive_begin(c);
	pthread_mutex_lock(&j->lock);
	struct jit_block *b = look_up(j, c->jit.bad_host, c->jit.bad_rip, c->jit.bad_key, false);
	if (b && b->second) {
		discard(j, b);
		struct jit_block *plain = look_up(j, b->host, b->rip, b->key, true);
		if (plain)
			plain->samples = 0;
	}
	pthread_mutex_unlock(&j->lock);
	soft_exclusive_end(c);
}

/* A sample found the vCPU at the block at jit address rip, under c->jit.key. */
void jit_promote(struct soft_vcpu *c, uint64_t rip) {
	struct jit *j = c->soft->jit;
	uint32_t key = c->jit.key;
	gva_t gva = jit_linear(key & JIT_KEY_LEGACY, rip);
	const struct soft_tlb_entry *e = &c->tlb[key & JIT_KEY_USER][(gva >> 12) & (SOFT_TLB - 1)];
	if (e->tag[ACCESS_EXEC] != (gva & ~PAGE_MASK) || !e->host || e->gpa >> 12 >= j->npages)
		return;
	const uint8_t *host = e->host + (gva & PAGE_MASK);
	gpa_t gpa = e->gpa | (gva & PAGE_MASK);
	struct jit_block *b = look_up(j, host, rip, key, false);
	if (b && b->bytes) {
		if (jit_self_sampled(b))
			discard_versions(c, host, rip, key, true);
		return;
	}
	if (!b || b->second || b->samples == SAMPLES_NEVER || ++b->samples < SAMPLES_HOT)
		return;
	soft_exclusive_begin(c);
	pthread_mutex_lock(&j->lock);
	b = look_up(j, host, rip, key, false);
	if (b && !b->second && !b->bytes && !cache_full(j)) {
		end_sharing(c, gpa);
		struct jit_block *hot = jit_translate(c, host, NULL, rip, key, true);
		b->samples = SAMPLES_NEVER;
		if (hot) {
			publish(j, hot, gpa);
			replace(j, b, hot);
			c->jit.promotions++;
			__atomic_fetch_add(&j->promoted, 1, __ATOMIC_RELAXED);
		}
	}
	pthread_mutex_unlock(&j->lock);
	soft_exclusive_end(c);
}

void jit_link_to(struct jit *j, struct jit_link *l, struct jit_block *b) {
	pthread_mutex_lock(&j->lock);
	if (!l->to && !l->changed) { /* that is between two versions of a block */
		if (b->bytes)
			b = b->first_version;
		l->to = b;
		l->next = b->incoming;
		b->incoming = l;
		jit_put_rel32(l->patch, b->entry, j->exec);
	}
	pthread_mutex_unlock(&j->lock);
}
