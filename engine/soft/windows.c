/* Windows: second mappings of guest RAM, in which pages that lie scattered in it lie side by side
 * as they do in the guest's address space.
 *
 * A slot (slots.c) holds a run of pages with one distance between guest and host addresses. Where a
 * guest's heap lies in 4 KiB pages from all over its memory there are no such runs, and each access
 * would have to look its page up. So where slots are missed much, the pages of the 2 MiB around
 * that the translator's TLB knows are mapped once more, in an area of the host's address space
 * that stands for 1 GiB of the guest's. TLB entries and slots are then made with its addend.
 *
 * What a window shows is a hint and no more: an entry is made with its address only if it shows the
 * page of RAM that the page walk found (`real`). So nobody has to be told when the guest changes
 * its mappings; what changed is mapped anew when it is missed again, under the next rule.
 *
 * Mapping a page costs some 2 us, which pays for pages that stay. So it may take SHARE of the
 * vCPU's time, with some credit for the start. Where the host cannot map RAM twice (it is not
 * shared) or does not want to, there are no windows, and nothing else changes.
 *
 * A vCPU's own; runs on its thread, with the guest's vector registers in place: no C library here
 * but system calls. What shows in a window is changed only when a slot is filled, after which the
 * code goes on in the first tier's block: no addend is in use then. */
#include <sys/mman.h>

#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

#define AREA_SHIFT 30
#define AREA_SIZE (1ull << AREA_SHIFT)
#define AREA_PAGES (AREA_SIZE / PAGE_SIZE)
#define GRANULE (2ull << 20)
#define REAL_SIZE (AREA_PAGES * sizeof(uint8_t *))
#define MAPPED_MAX 40000 /* pages of a VM: each may be a mapping, and Linux allows 65530 */
#define SHARE 32		 /* 1/SHARE of the time */
#define CREDIT 100000000 /* cycles */

struct jit_area {
	gva_t gva;			  /* of its first byte */
	uint64_t space;		  /* the CR3 it was made under; CR3s with user and kernel halves are one */
	uint8_t *base;		  /* NULL: not in use */
	const uint8_t **real; /* by page: what it shows, or NULL */
	uint32_t mapped;
	uint64_t used;
};

struct jit_windows {
	struct jit_area area[JIT_AREAS];
	struct jit_area *last;
	uint32_t mapped;
	bool broken; /* the host does not do it */
	uint64_t clock, since, spent;
};

/* The upper half is the kernel's, mostly one for all. */
static uint64_t space_of(const struct soft_vcpu *c, gva_t gva) {
	return c->paging && !(gva >> 63) ? c->s->cr3 & ~0x1fffull : 1;
}

static struct jit_area *find(const struct soft_vcpu *c, gva_t gva) {
	struct jit_windows *w = c->jit.windows;
	uint64_t space = space_of(c, gva);
	gva &= ~(AREA_SIZE - 1);
	if (w->last->base && w->last->gva == gva && w->last->space == space)
		return w->last;
	for (unsigned n = 0; n < JIT_AREAS; n++) {
		struct jit_area *a = &w->area[n];
		if (a->base && a->gva == gva && a->space == space)
			return w->last = a;
	}
	return NULL;
}

static const uint8_t **real_of(const struct jit_area *a, gva_t gva) {
	return &a->real[gva >> 12 & (AREA_PAGES - 1)];
}

static uint8_t *place_of(const struct jit_area *a, gva_t gva) {
	return a->base + (gva & (AREA_SIZE - 1));
}

uint8_t *jit_window_host(const struct soft_vcpu *c, gva_t page, uint8_t *host) {
	if (!c->jit.windows)
		return host;
	const struct jit_area *a = find(c, page);
	return a && *real_of(a, page) == host ? place_of(a, page) : host;
}

const uint8_t *jit_window_real(const struct soft_vcpu *c, const uint8_t *host) {
	const struct jit_windows *w = c->jit.windows;
	for (unsigned n = 0; w && n < JIT_AREAS; n++) {
		const struct jit_area *a = &w->area[n];
		if (a->base && (size_t)(host - a->base) < AREA_SIZE)
			return a->real[(size_t)(host - a->base) >> 12];
	}
	return host;
}

/* ---- areas ----------------------------------------------------------------------------------- */

static void *reserve(size_t size, int prot) {
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void release(struct jit_area *a) {
	if (a->base)
		munmap(a->base, AREA_SIZE);
	if (a->real)
		munmap(a->real, REAL_SIZE);
	*a = (struct jit_area){0};
}

/* No entry leads there any more. */
static void forget_area(struct soft_vcpu *c, const struct jit_area *a) {
	jit_slots_empty(c);
	for (unsigned user = 0; user < 2; user++)
		for (unsigned n = 0; n < 2 * JIT_TLB; n++) {
			struct jit_tlb_entry *t = &c->jit.tlb[user][n / JIT_TLB][n % JIT_TLB];
			if (t->tag != SOFT_TLB_INVALID && t->tag + t->addend - (uintptr_t)a->base < AREA_SIZE)
				t->tag = SOFT_TLB_INVALID;
		}
}

/* The one used longest ago makes room. */
static struct jit_area *make_area(struct soft_vcpu *c, gva_t gva) {
	struct jit_windows *w = c->jit.windows;
	struct jit_area *a = &w->area[0];
	for (unsigned n = 1; n < JIT_AREAS && a->base; n++)
		if (!w->area[n].base || w->area[n].used < a->used)
			a = &w->area[n];
	if (a->base) {
		forget_area(c, a);
		w->mapped -= a->mapped;
		release(a);
	}
	a->base = reserve(AREA_SIZE, PROT_NONE);
	a->real = reserve(REAL_SIZE, PROT_READ | PROT_WRITE);
	a->gva = gva & ~(AREA_SIZE - 1);
	a->space = space_of(c, gva);
	if (!a->base || !a->real) {
		release(a);
		w->broken = true;
		return NULL;
	}
	return a;
}

/* ---- mapping --------------------------------------------------------------------------------- */

/* The page of RAM that the TLB has at `page`; entries that say otherwise go. */
static const uint8_t *known(struct soft_vcpu *c, gva_t page) {
	const uint8_t *host = NULL;
	for (unsigned n = 0; n < 4; n++) {
		struct jit_tlb_entry *t = &c->jit.tlb[n >> 1][n & 1][page >> 12 & (JIT_TLB - 1)];
		if (t->tag != page)
			continue;
		const uint8_t *h = jit_window_real(c, (const uint8_t *)(uintptr_t)(page + t->addend));
		if (host && h != host)
			t->tag = SOFT_TLB_INVALID;
		else
			host = h;
	}
	return host;
}

/* From now on the TLB has the page in the window, and nothing else leads there. */
static void moved(struct soft_vcpu *c, const struct jit_area *a, gva_t page, const uint8_t *host) {
	uint64_t addend = (uintptr_t)place_of(a, page) - page;
	for (unsigned n = 0; n < 4; n++) {
		struct jit_tlb_entry *t = &c->jit.tlb[n >> 1][n & 1][page >> 12 & (JIT_TLB - 1)];
		if (t->tag != page)
			continue;
		if (t->addend == addend) /* what was there before */
			t->tag = SOFT_TLB_INVALID;
		else if (page + t->addend == (uintptr_t)host)
			t->addend = addend;
	}
	*real_of(a, page) = host;
}

/* How much RAM there is from `host` on in one piece; 0: it is not RAM. */
static size_t ram_from(const struct soft_vcpu *c, const uint8_t *host) {
	const struct mem_space *m = &c->v->vm->mem;
	for (unsigned n = 0; n < m->nflat; n++) {
		const struct mem_range *r = &m->flat[n];
		if (!r->region || r->region->kind != MEM_RAM)
			continue;
		const uint8_t *start = r->region->host + (r->start - r->region->base);
		if ((size_t)(host - start) < r->end - r->start)
			return (size_t)(r->end - r->start) - (size_t)(host - start);
	}
	return 0;
}

/* Shows [host, host + len) at guest address `page`. */
static bool show(struct soft_vcpu *c, struct jit_area *a, gva_t page, const uint8_t *host,
				 size_t len) {
	struct jit_windows *w = c->jit.windows;
	uint8_t *to = place_of(a, page);
	/* An old size of 0: a second mapping of the same memory, if that is shared. */
	if (mremap((void *)(uintptr_t)host, 0, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
		w->broken = true;
		/* What was shown there may be gone. */
		forget_area(c, a);
		w->mapped -= a->mapped;
		release(a);
		return false;
	}
	madvise(to, len, 23 /* MADV_POPULATE_WRITE, since 5.14; else there are faults */);
	for (size_t at = 0; at < len; at += PAGE_SIZE) {
		a->mapped += !*real_of(a, page + at);
		w->mapped += !*real_of(a, page + at);
		moved(c, a, page + at, host + at);
	}
	return true;
}

static bool may_spend(struct jit_windows *w, uint64_t now) {
	uint64_t earned = (now - w->since) / SHARE;
	w->spent -= MIN(w->spent, earned);
	w->since = now;
	return w->spent < CREDIT;
}

/* Shows what the TLB knows of the granule; false: nothing is new. */
static bool map_granule(struct soft_vcpu *c, struct jit_area *a, gva_t gva) {
	struct jit_windows *w = c->jit.windows;
	gva_t start = gva & ~(GRANULE - 1), page = start;
	bool any = false;
	jit_slots_empty(c);
	while (page - start < GRANULE) {
		const uint8_t *host = known(c, page);
		size_t len = PAGE_SIZE, most = host ? ram_from(c, host) : 0;
		if (most < PAGE_SIZE || *real_of(a, page) == host) {
			page += len;
			continue;
		}
		while (page + len - start < GRANULE && len + PAGE_SIZE <= most &&
			   known(c, page + len) == host + len && *real_of(a, page + len) != host + len)
			len += PAGE_SIZE;
		if (w->mapped + len / PAGE_SIZE > MAPPED_MAX / c->soft->nvcpus)
			return any;
		if (!show(c, a, page, host, len))
			return false;
		any = true;
		page += len;
	}
	return any;
}

bool jit_window_open(struct soft_vcpu *c, gva_t gva) {
	if (c->soft->jit->off & (JIT_OFF_WINDOW | JIT_OFF_TLB))
		return false;
	struct jit_windows *w = c->jit.windows;
	uint64_t now = jit_cycles();
	if (!w) {
		w = reserve(sizeof(*w), PROT_READ | PROT_WRITE);
		if (!w)
			return false;
		w->last = &w->area[0];
		w->since = now;
		c->jit.windows = w;
	}
	if (w->broken || !may_spend(w, now))
		return false;
	struct jit_area *a = find(c, gva);
	if (!a)
		a = make_area(c, gva);
	if (!a)
		return false;
	a->used = ++w->clock;
	bool any = map_granule(c, a, gva);
	w->spent += jit_cycles() - now;
	c->jit.windows_opened += any;
	return any;
}

void jit_windows_destroy(struct soft_vcpu *c) {
	struct jit_windows *w = c->jit.windows;
	for (unsigned n = 0; w && n < JIT_AREAS; n++)
		release(&w->area[n]);
	if (w)
		munmap(w, sizeof(*w));
	c->jit.windows = NULL;
}
