/* The translator's run loop, its code cache and its book-keeping.
 *
 * Blocks are found by (host address, guest address, mode). They are made under jit->lock while
 * others run; invalidating and throwing away happen while the world is stopped. What a dead block
 * leaves behind (its code, its links) stays in place until the whole cache is thrown away, and
 * `epoch` tells who was inside a handler meanwhile not to return into it.
 *
 * A page that code was translated from gets no write entries in any TLB. A store into it takes
 * the slow path, which ends here; what devices write comes through jit_device_wrote(). */
#include "engine/soft/jit.h"

#include <asm/prctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/fmt.h"
#include "engine/soft/fast.h"

#define HASH (1u << 20)
#define ARENA_SMALL (2u << 20)
#define WRITTEN_MAX 64
#define IDLE_STORES 64
#define NO_RIP (1ull << 63) /* not canonical */

/* ---- the cache -------------------------------------------------------------------------- */

void *jit_arena(struct jit *j, size_t size) {
	size = align_up(size, 16);
	if (j->arena_at + size > j->arena_end)
		return NULL;
	void *p = j->arena_at;
	j->arena_at += size;
	return p;
}

static void begin_cache(struct jit *j) {
	j->hot = j->hot_start;
	j->cold = j->cold_start;
	j->arena_at = j->arena;
}

static void reset_cache(struct jit *j) {
	begin_cache(j);
	memset(j->hash, 0, HASH * sizeof(*j->hash));
	memset(j->pages, 0, j->npages * sizeof(*j->pages));
	memset(j->lines, 0, j->npages * sizeof(*j->lines));
	memset(j->code, 0, j->npages);
	jit_far_reset(j);
}

static uint64_t ram_pages(const struct vm *vm) {
	gpa_t end = 0;
	for (unsigned n = 0; n < vm->mem.nflat; n++) {
		const struct mem_range *r = &vm->mem.flat[n];
		if (r->region && r->region->kind == MEM_RAM)
			end = MAX(end, r->end);
	}
	return end >> 12;
}

/* Of `pages`, `lines`, `code` and `idle` together. */
static size_t pages_size(const struct jit *j) {
	return align_up(j->npages * (sizeof(*j->pages) + sizeof(*j->lines) + 2) + 1, PAGE_SIZE);
}

static bool host_has_crc32(void) {
	uint32_t a = 1, b, c = 0, d;
	__asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return c & (1u << 20);
}

int jit_create(struct soft *s, size_t cache_size) {
	struct jit *j = calloc(1, sizeof(*j));
	if (!j)
		return -ERR_NOMEM;
	j->soft = s;
	j->size = cache_size;
	j->arena_size = cache_size / 4 * 3;
	j->verify = getenv("JOIST_SOFT_VERIFY") != NULL;
	j->off = jit_switches();
	j->crc = host_has_crc32();
	int fd = (int)syscall(SYS_memfd_create, "joist-code", 1u /* close on exec */);
	uint8_t *rx = MAP_FAILED;
	j->rw = MAP_FAILED;
	if (fd >= 0 && ftruncate(fd, (off_t)cache_size) == 0) {
		j->rw = mmap(NULL, cache_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		rx = mmap(NULL, cache_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	if (fd >= 0)
		close(fd);
	j->npages = ram_pages(s->vm);
	j->arena = mmap(NULL, j->arena_size, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->hash = calloc(HASH, sizeof(*j->hash));
	j->pages = mmap(NULL, pages_size(j), PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->lines = (uint64_t *)(j->pages + j->npages);
	j->code = (uint8_t *)(j->lines + j->npages);
	j->idle = j->code + j->npages;
	s->jit = j;
	if (j->rw == MAP_FAILED || rx == MAP_FAILED || j->arena == MAP_FAILED || !j->hash ||
		j->pages == MAP_FAILED || jit_far_create(j) || (j->verify && jit_verifier_create(j))) {
		if (rx != MAP_FAILED)
			munmap(rx, cache_size);
		jit_destroy(s);
		return -ERR_NOMEM;
	}
	j->exec = rx - j->rw;
	j->end = j->rw + cache_size;
	j->arena_end = j->arena + j->arena_size;
	pthread_mutex_init(&j->lock, NULL);
	j->hot_end = j->cold_start = j->rw + align_up(cache_size / 2, PAGE_SIZE);
	j->cold_end = j->end;
	j->hot_start = j->hot_ready = j->rw;
	j->cold_ready = j->cold_start;
	/* But the first of it: a guest that does little needs little. */
	madvise(j->arena + ARENA_SMALL, j->arena_size - ARENA_SMALL, MADV_HUGEPAGE);
	jit_emit_thunks(j); /* moves hot_start */
	begin_cache(j);		/* the tables are zero, and need no memory yet */
	if (jit_sampler_create(j))
		log_line(LOG_WARN, "no thread for the sampler: engine soft translates in one tier only");
	return 0;
}

void jit_destroy(struct soft *s) {
	struct jit *j = s->jit;
	if (!j)
		return;
	if (j->exec)
		munmap(j->rw + j->exec, j->size);
	if (j->rw != MAP_FAILED)
		munmap(j->rw, j->size);
	if (j->arena != MAP_FAILED)
		munmap(j->arena, j->arena_size);
	if (j->pages != MAP_FAILED)
		munmap(j->pages, pages_size(j));
	free(j->hash);
	free(j->far_hash);
	jit_verifier_destroy(j);
	free(j);
	s->jit = NULL;
}

/* ---- per vCPU --------------------------------------------------------------------------- */

void jit_tlb_drop(struct soft_vcpu *c, unsigned user, unsigned index) {
	jit_slots_empty(c);
	c->jit.tlb[user][0][index].tag = c->jit.tlb[user][1][index].tag = SOFT_TLB_INVALID;
}

void jit_tlb_flush(struct soft_vcpu *c, bool global_too) {
	for (unsigned user = 0; user < 2; user++)
		for (unsigned n = 0; n < JIT_TLB; n++)
			jit_tlb_drop(c, user, n);
	jit_jumps_flush(c, global_too);
}

void jit_tlb_flush_page(struct soft_vcpu *c, gva_t gva) {
	unsigned n = (gva >> 12) & (JIT_TLB - 1);
	for (unsigned user = 0; user < 2; user++)
		jit_tlb_drop(c, user, n);
	jit_jumps_flush_page(c, gva);
}

int jit_vcpu_init(struct soft_vcpu *c) {
	if (jit_shadow_create(c))
		return -ERR_NOMEM;
	c->jit.on = true;
	c->jit.self = (uintptr_t)c->v;
	const struct jit *j = c->soft->jit;
	for (unsigned n = 0; n < j->nfar; n++)
		c->jit.far[n] = j->far_miss;
	jit_tlb_flush(c, true);
	return 0;
}

void jit_vcpu_destroy(struct soft_vcpu *c) {
	jit_shadow_destroy(c);
	jit_windows_destroy(c);
}

/* ---- invalidation ----------------------------------------------------------------------- */

/* By the page's guest address, too: programs have one page of a library at many. Blocks of a page
 * are neighbours, so that a small guest touches little of the table. */
static unsigned hash_of(const uint8_t *host, uint64_t rip, uint32_t key) {
	uint64_t h = (uintptr_t)host >> 12 ^ (rip >> 12) * 0xff51afd7ed558ccdull ^ key;
	h *= 0x9e3779b97f4a7c15ull;
	unsigned at = (unsigned)rip;
	return (unsigned)(h >> 40 << 6 ^ ((at ^ at >> 6) & 63)) & (HASH - 1);
}

void jit_put_rel32(uint8_t *at, const uint8_t *to, intptr_t exec) {
	int32_t rel = (int32_t)(to - (at + 4 + exec));
	__atomic_store_n((int32_t *)at, rel, __ATOMIC_RELEASE);
}

/* World stopped. */
static void kill_block(struct jit *j, struct jit_block *b) {
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
	for (unsigned n = 0; n < j->soft->nvcpus; n++)
		jit_jump_forget(j->soft->vcpus[n], b);
	j->invalidations++;
}

static uint64_t lines_of(const struct jit_block *b) {
	uint64_t lines = jit_lines((uintptr_t)b->host & PAGE_MASK, b->len);
	if (b->peek_from < b->peek_to)
		lines |= jit_lines(b->peek_from, b->peek_to - b->peek_from);
	return lines;
}

static void kill_range(struct jit *j, gpa_t gpa, uint64_t len) {
	uint64_t page = gpa >> 12;
	if (page >= j->npages)
		return;
	uint64_t start = gpa & PAGE_MASK, end = start + len;
	struct jit_block **p = &j->pages[page];
	bool any = false;
	while (*p) {
		struct jit_block *b = *p;
		uint64_t at = (uintptr_t)b->host & PAGE_MASK;
		if ((at < end && start < at + b->len) || (b->peek_from < end && start < b->peek_to)) {
			*p = b->page_next;
			kill_block(j, b->whole ? b->whole : b);
			any = true;
		} else {
			p = &b->page_next;
		}
	}
	if (!any)
		return;
	j->idle[page] = 0;
	j->lines[page] = 0;
	for (const struct jit_block *b = j->pages[page]; b; b = b->page_next)
		j->lines[page] |= lines_of(b);
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

static void flush_all(struct jit *j) {
	for (unsigned n = 0; n < j->soft->nvcpus; n++)
		jit_jumps_clear(j->soft->vcpus[n]);
	reset_cache(j);
	j->flushes++;
	__atomic_fetch_add(&j->epoch, 1, __ATOMIC_SEQ_CST);
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
	bool is = j->lines[page] & jit_lines(gpa & PAGE_MASK, len);
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
	kill_range(c->soft->jit, gpa, len);
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
	kill_range(j, gpa, PAGE_SIZE);
	if (!j->pages[gpa >> 12])
		__atomic_store_n(&j->code[gpa >> 12], CODE_NONE, __ATOMIC_RELAXED);
}

void jit_serve_writes(struct soft_vcpu *c) {
	struct jit *j = c->soft->jit;
	soft_exclusive_begin(c);
	uint32_t n = __atomic_exchange_n(&j->nwritten, 0, __ATOMIC_SEQ_CST);
	if (n > WRITTEN_MAX)
		flush_all(j);
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
		if (b->host != host || b->rip != rip || b->key != key)
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

/* Has the host give memory for what comes next in one go, instead of a fault a page. */
static void get_ready(const struct jit *j, const uint8_t *at, uint8_t **ready, uint8_t *end) {
	/* Small ones first: many guests are. */
	size_t have = (size_t)(*ready - (end == j->hot_end ? j->rw : j->cold_start));
	size_t piece = MIN(MIN(MAX(have, 64u << 10), 512u << 10), (size_t)(end - *ready));
	if (likely(at + (64u << 10) < *ready) || !piece)
		return;
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
	j->lines[b->page] |= lines_of(b);
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

/* A complete block, from now on to be found. */
static void publish(struct jit *j, struct jit_block *b, gpa_t gpa) {
	struct jit_block **head = &j->hash[hash_of(b->host, b->rip, b->key)];
	b->hash_next = *head;
	list(j, b, gpa);
	__atomic_store_n(head, b, __ATOMIC_RELEASE);
}

/* The others go on meanwhile: a block is complete before it can be found, and no world is stopped,
 * so no block killed, while this one is in the guest. */
static struct jit_block *make(struct soft_vcpu *c, const uint8_t *host, gpa_t gpa,
							  const struct jit_span *next, uint32_t key, bool plain) {
	struct jit *j = c->soft->jit;
	uint64_t rip = jit_address(c);
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
	if (!jit_is_code_page(c->soft, gpa))
		watch_page(c, host, gpa);
	if (next->host && !jit_is_code_page(c->soft, next->gpa))
		watch_page(c, next->host, next->gpa);
	if (unlikely(cache_full(j))) {
		soft_exclusive_begin(c);
		if (cache_full(j))
			flush_all(j);
		soft_exclusive_end(c);
		return make(c, host, gpa, next, key, plain);
	}
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
static struct jit_block *find(struct soft_vcpu *c, uint32_t key, bool plain, bool *global) {
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
	return !b || !b->next_page || jit_span_ready(c, b, gva) ? b : find(c, key, plain, global);
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
static void demote(struct soft_vcpu *c) {
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
static void promote(struct soft_vcpu *c, uint64_t rip) {
	struct jit *j = c->soft->jit;
	uint32_t key = c->jit.key;
	gva_t gva = jit_linear(key & JIT_KEY_LEGACY, rip);
	const struct soft_tlb_entry *e = &c->tlb[key & JIT_KEY_USER][(gva >> 12) & (SOFT_TLB - 1)];
	if (e->tag[ACCESS_EXEC] != (gva & ~PAGE_MASK) || !e->host || e->gpa >> 12 >= j->npages)
		return;
	const uint8_t *host = e->host + (gva & PAGE_MASK);
	gpa_t gpa = e->gpa | (gva & PAGE_MASK);
	struct jit_block *b = look_up(j, host, rip, key, false);
	if (!b || b->second || b->samples == SAMPLES_NEVER || ++b->samples < SAMPLES_HOT)
		return;
	soft_exclusive_begin(c);
	pthread_mutex_lock(&j->lock);
	b = look_up(j, host, rip, key, false);
	if (b && !b->second && !cache_full(j)) {
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

static void link_to(struct jit *j, struct jit_link *l, struct jit_block *b) {
	pthread_mutex_lock(&j->lock);
	if (!l->to) {
		l->to = b;
		l->next = b->incoming;
		b->incoming = l;
		jit_put_rel32(l->patch, b->entry, j->exec);
	}
	pthread_mutex_unlock(&j->lock);
}

/* ---- called from emitted code ------------------------------------------------------------- */

void jit_tlb_learn(struct soft_vcpu *c, gva_t gva, bool write, uint8_t *host) {
	gva_t page = gva & ~PAGE_MASK;
	struct jit_tlb_entry *t = &c->jit.tlb[fast_user(c)][write][(gva >> 12) & (JIT_TLB - 1)];
	if (t->tag == page || c->mode != X86_MODE_64 || c->soft->jit->off & JIT_OFF_TLB)
		return;
	*t = (struct jit_tlb_entry){page, (uintptr_t)jit_window_host(c, page, host) - page};
}

uint64_t jit_fill(struct vcpu *v, gva_t gva, uint32_t what) {
	struct soft_vcpu *c = v->engine;
	unsigned size = what & 0xff;
	enum soft_access kind = what & JIT_FILL_WRITE ? ACCESS_WRITE : ACCESS_READ;
	c->jit.fills++;
	flags_from_ax(c, (uint32_t)c->jit.flags_ax);
	if ((gva & PAGE_MASK) + size > PAGE_SIZE || !soft_canonical(gva) ||
		(c->mode != X86_MODE_64 && gva >= JIT_LEGACY_END))
		return 1;
	bool user = fast_user(c);
	struct soft_tlb_entry *e = soft_translate(c, gva, kind, user);
	gva_t page = gva & ~PAGE_MASK;
	if (e->tag[kind] != page)
		return 1;
	if (c->soft->jit->off & JIT_OFF_TLB)
		jit_tlb_flush(c, true);
	struct jit_tlb_entry *t = &c->jit.tlb[user][kind == ACCESS_WRITE][(gva >> 12) & (JIT_TLB - 1)];
	t->tag = page;
	t->addend = (uint64_t)(uintptr_t)jit_window_host(c, page, e->host) - page;
	soft_fpu_load(c); /* a page walk through a device takes the guest's registers away */
	return 0;
}

/* All exceptions masked, so that vector and x87 code may run as it is; FPU loaded. */
static bool fpu_masked(void) {
	uint32_t mxcsr;
	uint16_t fcw;
	asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(fcw));
	/* and not AMD's MM: alignment checks are emitted */
	return (mxcsr & 0x21f80) == 0x1f80 && (fcw & 0x3f) == 0x3f;
}

static uint32_t current_key(struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	uint32_t key = c->cpl == 3 ? JIT_KEY_USER : 0;
	bool legacy = c->mode != X86_MODE_64;
	if (legacy)
		key |= jit_legacy_key(c);
	if ((s->cr0 & (CR0_EM | CR0_TS)) || !(s->cr4 & CR4_OSFXSR))
		return key;
	if (!c->jit.fpu_known) {
		soft_fpu_load(c);
		c->jit.fpu_masked = fpu_masked();
		if (SOFT_FPU_EAGER)
			soft_fpu_unload(c);
		c->jit.fpu_known = true;
	}
	if (!c->jit.fpu_masked)
		return key;
	if ((s->cr4 & CR4_OSXSAVE) && (s->xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX) &&
		!(legacy && !soft_protected(c)))
		key |= JIT_KEY_AVX;
	return key | JIT_KEY_FPU;
}

/* RF lasts for one instruction and matters to breakpoints only: without any it ends here. */
static void end_resume(struct x86_state *s) {
	if (!(s->dr7 & 0xff))
		s->rflags &= ~(uint64_t)RFLAGS_RF;
}

/* Translated code is made for these. */
static bool can_translate(const struct soft_vcpu *c) {
	return (c->cpl == 0 || c->cpl == 3) && !c->align_check && !(c->s->dr7 & 0xff) &&
		   (c->mode == X86_MODE_64 || jit_legacy_ok(c));
}

/* The stack of return addresses, empty. */
static void start_shadow(struct soft_vcpu *c, unsigned user) {
	*(const uint8_t **)(uintptr_t)c->jit.shadow_top = c->soft->jit->ret_miss[user];
}

/* Where to go on after a handler that went elsewhere or changed something, if that needs no look
 * around: what jit_call() returns. */
static uint64_t next_entry(struct soft_vcpu *c) {
	struct x86_state *s = c->s;
	const struct jit *j = c->soft->jit;
	if (!can_translate(c) || (s->rflags & RFLAGS_TF) || vcpu_events(c->v) ||
		__atomic_load_n(&j->nwritten, __ATOMIC_RELAXED) ||
		(j->off & (JIT_OFF_NEXT | JIT_OFF_CACHE | JIT_OFF_POLL)))
		return 1;
	uint32_t key = current_key(c);
	unsigned user = key & JIT_KEY_USER;
	if (key != c->jit.keys[user])
		return 1;
	const uint8_t *entry = jit_jump_known(c, user, jit_address(c));
	if (!entry)
		return 1;
	end_resume(s);
	c->jit.key = key;
	c->jit.epoch = __atomic_load_n(&j->epoch, __ATOMIC_RELAXED);
	c->jit.direct++;
	start_shadow(c, user);
	return (uintptr_t)entry;
}

/* Instructions after which the loop must choose anew who executes: exception masks, breakpoints. */
bool jit_changes_masks(unsigned op) {
	switch (op) {
	case X86_OP_FLDCW:
	case X86_OP_FLDENV:
	case X86_OP_FRSTOR:
	case X86_OP_FXRSTOR:
	case X86_OP_XRSTOR:
	case X86_OP_XRSTORS:
	case X86_OP_LDMXCSR:
	case X86_OP_VLDMXCSR:
	case X86_OP_MOV_DR:
	case X86_OP_XSETBV:
	case X86_OP_CLTS:
		return true;
	default:
		return false;
	}
}

uint64_t jit_call(struct vcpu *v, const struct jit_op *op) {
	struct soft_vcpu *c = v->engine;
	struct x86_state *s = c->s;
	struct jit *j = c->soft->jit;
	uint64_t next = op->rip + op->insn.len, flushes = c->tlb_flushes;
	bool legacy = op->insn.mode != X86_MODE_64;
	if (legacy)
		next = (uint32_t)next;
	c->jit.calls++;
	flags_from_ax(c, (uint32_t)c->jit.flags_ax);
	s->rip = op->rip;
	c->next_rip = next;
	c->leave_block = false;
	c->code_page = NULL;
	unsigned code = op->insn.op;
	c->jit.calls_of[code]++;
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
	op->handler(c, &op->insn);
	s->rip = c->next_rip;
	c->jit.flags_ax = flags_to_ax(s->rflags);
	/* Interrupts are on again, and none waits: on with the block. The instruction behind STI is
	 * in it, before the next look at events. */
	if ((code == X86_OP_STI || code == X86_OP_POPF) && !op->last && !vcpu_events(v) &&
		!(s->rflags & (RFLAGS_TF | RFLAGS_RF | RFLAGS_AC | RFLAGS_NT))) {
		s->shadow = 0;
		c->leave_block = false;
	}
	if (unlikely(jit_changes_masks(code)))
		c->jit.fpu_known = false;
	soft_fpu_load(c); /* the handler may have taken the guest's registers away */
	if (unlikely(!c->jit.fpu_known || s->activity != CPU_RUNNING || s->shadow ||
				 __atomic_load_n(&c->jit.poll, __ATOMIC_RELAXED)))
		return 1;
	if (unlikely(legacy && jit_loads_segments(&op->insn)))
		return next_entry(c);
	if (likely(!c->leave_block && s->rip == next && c->tlb_flushes == flushes &&
			   __atomic_load_n(&j->epoch, __ATOMIC_RELAXED) == c->jit.epoch))
		return 0;
	return next_entry(c);
}

uint64_t jit_step(struct vcpu *v, uint64_t rip) {
	struct soft_vcpu *c = v->engine;
	struct jit_op op = {.rip = rip, .last = true};
	gva_t gva;
	c->s->rip = rip;
	jit_fetch_from(c, &gva);
	const struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_EXEC, fast_user(c));
	unsigned at = (unsigned)(gva & PAGE_MASK);
	/* It was there when the block was made; another vCPU's store may be on its way here. */
	if (!e->host || x86_decode(&op.insn, e->host + at, PAGE_SIZE - at, c->mode) <= 0) {
		c->jit.fpu_known = false;
		soft_step(c);
		return 1;
	}
	op.handler = soft_handler_of(c, &op.insn);
	return jit_call(v, &op);
}

/* ---- the loop ----------------------------------------------------------------------------- */

/* The interpreter may have changed the exception masks. */
static void interpret(struct soft_vcpu *c, void (*how)(struct soft_vcpu *c)) {
	c->jit.fpu_known = false;
	how(c);
}

typedef uint64_t enter_fn(struct vcpu *v, const uint8_t *entry);

static enum vm_exit_kind loop(struct soft_vcpu *c) {
	struct jit *j = c->soft->jit;
	struct x86_state *s = c->s;
	struct jit_link *link = NULL;
	bool polled = false;
	enum vm_exit_kind kind;
	for (;;) {
		if (unlikely(j->off & JIT_OFF_CACHE) && !polled) {
			soft_exclusive_begin(c);
			flush_all(j);
			soft_exclusive_end(c);
		}
		__atomic_store_n(&c->jit.poll, 0, __ATOMIC_SEQ_CST);
		if (unlikely(__atomic_load_n(&j->nwritten, __ATOMIC_RELAXED)))
			jit_serve_writes(c);
		if (soft_between(c, &kind))
			return kind;
		if (unlikely(c->soft->trace) && soft_trace(c))
			return EXIT_PREEMPTED;
		uint32_t key;
		end_resume(s);
		if (unlikely(soft_must_step(c))) {
			interpret(c, soft_step);
			link = NULL;
			continue;
		}
		if (unlikely(!can_translate(c))) {
			interpret(c, soft_run_block);
			link = NULL;
			continue;
		}
		key = current_key(c);
		uint32_t epoch = __atomic_load_n(&j->epoch, __ATOMIC_SEQ_CST);
		unsigned user = key & JIT_KEY_USER;
		jit_set_mode(c, user, key);
		const uint8_t *entry = link ? NULL : jit_jump_known(c, user, jit_address(c));
		if (!entry) {
			bool global = false;
			struct jit_block *b = find(c, key, link && link->plain, &global);
			if (!b) {
				interpret(c, soft_step);
				link = NULL;
				continue;
			}
			epoch = __atomic_load_n(&j->epoch, __ATOMIC_SEQ_CST);
			/* Only within one page of memory: the mapping may have changed since the exit. */
			if (link && link->rip == jit_address(c) && epoch == c->jit.epoch && key == c->jit.key &&
				((uintptr_t)link->host ^ (uintptr_t)b->host) <= PAGE_MASK) {
				if (!(j->off & JIT_OFF_LINK))
					link_to(j, link, b);
				c->jit.links++;
			} else if (!link && !b->next_page && !(j->off & JIT_OFF_JUMPS)) {
				jit_jump_learn(c, user, b, global);
			}
			entry = b->entry;
		}
		link = NULL;
		c->jit.key = key;
		c->jit.epoch = epoch;
		c->jit.flags_ax = flags_to_ax(s->rflags);
		soft_fpu_load(c);
		c->jit.enters++;
		c->code_page = NULL;
		if (unlikely(j->off & JIT_OFF_POLL))
			__atomic_store_n(&c->jit.poll, !polled, __ATOMIC_SEQ_CST);
		start_shadow(c, user);
		uint64_t code = ((enter_fn *)(uintptr_t)j->enter)(c->v, entry);
		if (SOFT_FPU_EAGER)
			soft_fpu_unload(c);
		flags_from_ax(c, (uint32_t)c->jit.flags_ax);
		polled = code == JIT_EXIT_POLL;
		if (c->mode != X86_MODE_64) /* a jit address */
			s->rip = (uint32_t)s->rip;
		switch (code) {
		case JIT_EXIT_DISPATCH:
			break;
		case JIT_EXIT_INTERP:
			c->jit.interpreted++;
			c->leave_block = false;
			interpret(c, soft_step);
			c->jit.stored = c->leave_block;
			break;
		case JIT_EXIT_POLL:
			c->jit.polls++;
			if (c->jit.slots_bad)
				demote(c);
			if (__atomic_exchange_n(&c->jit.sample, 0, __ATOMIC_RELAXED))
				promote(c, c->jit.tmp);
			break;
		default:
			link = (struct jit_link *)code;
			s->rip = c->mode == X86_MODE_64 ? link->rip : (uint32_t)link->rip;
		}
	}
}

enum vm_exit_kind jit_run(struct soft_vcpu *c) {
	c->jit.fpu_known = false;
	jit_fault_thread(c);
	static __thread struct vcpu *gs_of;
	if (gs_of != c->v) { /* nothing else in a 64-bit Linux process uses GS */
		if (syscall(SYS_arch_prctl, ARCH_SET_GS, c->v) != 0)
			return soft_interp_run(c);
		gs_of = c->v;
	}
	for (;;) {
		if (!__builtin_setjmp(c->unwind))
			return loop(c);
		soft_unwound(c);
	}
}
