/* The page walk and the software TLB ([SDM3 4]): 2-level, PAE and 4-level paging with
 * accessed and dirty bits, NX, WP, SMEP, global pages and 4 MiB, 2 MiB, 1 GiB leaves.
 *
 * The TLB is direct-mapped, one set for user and one for supervisor rights. It holds the current
 * address space and what is global; spaces.c has the others. Runs on the vCPU's thread; page tables
 * are read and their A/D bits set with single atomic accesses, as other vCPUs walk them too. */
#include <string.h>

#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

/* In a tag: the page is known, but an access must take the slow path (MMIO, ROM writes,
 * watched data). */
#define TAG_SLOW 2ull

/* INVLPG drops a large page as a whole ([SDM3 4.10.4.1]), but the TLB has it in pieces of 4 KiB:
 * struct soft_large says where there may be some. */
static unsigned region_bit(gva_t gva, unsigned shift, unsigned log2_bits) {
	return (unsigned)((gva >> shift) * 0x9e3779b97f4a7c15ull >> (64 - log2_bits));
}

static struct soft_large *large_of(struct soft_vcpu *c, gva_t gva) {
	return &c->large[gva >> 63];
}

static void note_large(struct soft_vcpu *c, gva_t gva, unsigned shift, bool global) {
	struct soft_large *l = large_of(c, gva);
	unsigned bit = region_bit(gva, 22, SOFT_LARGE_BITS);
	l->any = true;
	l->global |= global;
	if (shift >= 30)
		l->huge |= BIT(region_bit(gva, 30, 6));
	else
		l->large[bit / 64] |= BIT(bit % 64);
}

static void forget_large(struct soft_vcpu *c, bool global_too) {
	for (unsigned half = 0; half < 2; half++) {
		struct soft_large *l = &c->large[half];
		if (l->any && (global_too || !l->global))
			memset(l, 0, sizeof(*l));
	}
}

/* Most flushes are changes of the address space: they find what is not global in a list. */
static void flush_local(struct soft_vcpu *c) {
	for (unsigned n = 0; n < c->nlocal; n++) {
		unsigned user = c->local[n] / SOFT_TLB, i = c->local[n] % SOFT_TLB;
		struct soft_tlb_entry *e = &c->tlb[user][i];
		if (!e->global)
			e->tag[0] = e->tag[1] = e->tag[2] = SOFT_TLB_INVALID;
		if (c->jit.on)
			jit_tlb_drop(c, user, i);
	}
	if (c->jit.on) {
		jit_slots_empty_local(c);
		jit_jumps_flush(c, false);
	}
	forget_large(c, false);
	c->nlocal = 0;
}

void soft_tlb_flush(struct soft_vcpu *c, bool global_too) {
	c->tlb_flushes++;
	if (global_too)
		soft_spaces_drop(c);
	if (!global_too && c->nlocal < SOFT_LOCAL) {
		flush_local(c);
		return;
	}
	for (unsigned user = 0; user < 2; user++)
		for (unsigned i = 0; i < SOFT_TLB; i++) {
			struct soft_tlb_entry *e = &c->tlb[user][i];
			if (global_too || !e->global)
				e->tag[0] = e->tag[1] = e->tag[2] = SOFT_TLB_INVALID;
		}
	c->nlocal = 0;
	if (c->jit.on)
		jit_tlb_flush(c, global_too);
	forget_large(c, global_too);
}

static void flush_pieces(struct soft_vcpu *c, gva_t gva, unsigned shift) {
	if (c->jit.on)
		jit_tlb_flush(c, true);
	for (unsigned user = 0; user < 2; user++)
		for (unsigned i = 0; i < SOFT_TLB; i++) {
			struct soft_tlb_entry *e = &c->tlb[user][i];
			for (unsigned kind = 0; kind < 3; kind++)
				if (((e->tag[kind] ^ gva) >> shift) == 0)
					e->tag[kind] = SOFT_TLB_INVALID;
		}
}

void soft_tlb_flush_page(struct soft_vcpu *c, gva_t gva) {
	const struct soft_large *l = large_of(c, gva);
	unsigned bit = region_bit(gva, 22, SOFT_LARGE_BITS);
	c->tlb_flushes++;
	if (c->jit.on)
		jit_tlb_flush_page(c, gva);
	for (unsigned user = 0; user < 2; user++) {
		struct soft_tlb_entry *e = &c->tlb[user][(gva >> 12) & (SOFT_TLB - 1)];
		e->tag[0] = e->tag[1] = e->tag[2] = SOFT_TLB_INVALID;
	}
	if (!l->any)
		return;
	if (l->huge & BIT(region_bit(gva, 30, 6)))
		flush_pieces(c, gva, 30);
	else if (l->large[bit / 64] & BIT(bit % 64))
		flush_pieces(c, gva, 22);
}

/* What a walk found. */
struct walk {
	gpa_t gpa; /* of the byte */
	bool write, user, nx, global;
	uint64_t *leaf; /* host address of the leaf entry; NULL without paging */
	gpa_t leaf_gpa;
	uint64_t entry; /* the leaf as it was judged */
	bool leaf64, dirty;
	uint8_t shift; /* of the page: 12, 21, 22, 30 */
};

/* Host address of `len` bytes of RAM at gpa for the page walk; NULL if there is none. */
static uint8_t *table_ptr(struct soft_vcpu *c, gpa_t gpa, unsigned len) {
	gpa &= mem_a20_mask(&c->v->vm->mem);
	if (gpa < c->ram.start || gpa + len > c->ram.end) {
		struct mem_range r = mem_find(&c->v->vm->mem, gpa);
		if (!r.region || r.region->kind != MEM_RAM || gpa + len > r.end)
			return NULL;
		c->ram = r;
	}
	return c->ram.region->host + (gpa - c->ram.region->base);
}

static uint64_t max_phys_mask(const struct soft_vcpu *c) {
	return (1ull << c->phys_bits) - 1;
}

/* Sets bits in an entry if it still reads `old`; false: it changed, walk again. */
static bool set_bits(struct soft_vcpu *c, uint64_t *entry, gpa_t gpa, bool is64, uint64_t old,
					 uint64_t set) {
	if ((old & set) == set)
		return true;
	mem_note_dirty(&c->v->vm->mem, gpa, 8);
	if (is64)
		return __atomic_compare_exchange_n(entry, &old, old | set, false, __ATOMIC_SEQ_CST,
										   __ATOMIC_SEQ_CST);
	uint32_t old32 = (uint32_t)old;
	return __atomic_compare_exchange_n((uint32_t *)entry, &old32, (uint32_t)(old | set), false,
									   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Walks for an access; fills *w, or returns the #PF error code bits P and RSVD with `false`. */
static bool walk_once(struct soft_vcpu *c, gva_t gva, bool set_dirty, struct walk *w,
					  uint32_t *error, bool *again) {
	const struct x86_state *s = c->s;
	bool nxe = s->efer & EFER_NXE;
	bool is64 = s->cr4 & CR4_PAE;
	unsigned level, bits_per;
	gpa_t table;

	*error = 0;
	*again = false;
	*w = (struct walk){.write = true, .user = true};
	if (c->long_mode) {
		level = 4;
		table = s->cr3 & max_phys_mask(c) & ~PAGE_MASK;
	} else if (is64) {
		level = 3;
		table = s->cr3 & 0xffffffe0;
	} else {
		level = 2;
		table = s->cr3 & 0xfffff000;
	}
	bits_per = is64 ? 9 : 10;
	for (;; level--) {
		unsigned shift = 12 + (level - 1) * bits_per;
		unsigned index = (unsigned)(gva >> shift) & ((1u << bits_per) - 1);
		bool pdpte = is64 && !c->long_mode && level == 3;
		if (pdpte)
			index &= 3;
		gpa_t entry = table + index * (is64 ? 8 : 4);
		uint8_t *p = table_ptr(c, entry, is64 ? 8 : 4);
		if (!p) { /* tables outside of RAM read as all ones: every reserved bit is set */
			*error = PF_P | PF_RSVD;
			return false;
		}
		uint64_t e = is64 ? __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED)
						  : __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED);
		if (!(e & PTE_P))
			return false;
		bool leaf = level == 1 ||
					((e & PTE_PS) && !pdpte &&
					 (level == 2 ? is64 || (s->cr4 & CR4_PSE) : level == 3 && c->has_1g_pages));
		uint64_t reserved = 0;
		if (is64) {
			reserved = ~max_phys_mask(c) & 0x000fffffffffffffull;
			if (pdpte)
				reserved |= 0xfff00000000001e6ull; /* [SDM3 4.4.1] table 4-8 */
			else if (!c->long_mode)
				reserved |= 0x7ff0000000000000ull;
			if (!nxe)
				reserved |= PTE_NX;
			if (level == 4 || (level == 3 && !pdpte && !leaf))
				reserved |= PTE_PS;
			if (leaf && level > 1)
				reserved |= ((1ull << shift) - 1) & ~0x1fffull;
		} else if (leaf && level == 2) {
			reserved = 1u << 21; /* PSE-36: bits 13..20 are address bits 32..39 */
		}
		if (e & reserved) {
			*error = PF_P | PF_RSVD;
			return false;
		}
		if (!pdpte) {
			w->write &= !!(e & PTE_W);
			w->user &= !!(e & PTE_U);
			w->nx |= is64 && nxe && (e & PTE_NX);
		}
		if (leaf) {
			uint64_t frame_mask = ~((1ull << shift) - 1) & (is64 ? max_phys_mask(c) : 0xffffffff);
			w->gpa = (e & frame_mask) | (gva & ((1ull << shift) - 1));
			if (!is64 && level == 2)
				w->gpa |= (e >> 13 & 0xff) << 32;
			w->global = (e & PTE_G) && (s->cr4 & CR4_PGE);
			w->leaf = (uint64_t *)p;
			w->leaf_gpa = entry;
			w->entry = e;
			w->leaf64 = is64;
			w->shift = (uint8_t)shift;
			w->dirty = (e & PTE_D) || set_dirty;
			/* The caller judges rights before any bit is set in the leaf. */
			return true;
		}
		if (!pdpte && !set_bits(c, (uint64_t *)p, entry, is64, e, PTE_A)) {
			*again = true;
			return false;
		}
		table = is64 ? e & max_phys_mask(c) & ~PAGE_MASK : e & 0xfffff000;
	}
}

static bool allowed(const struct soft_vcpu *c, const struct walk *w, enum soft_access kind,
					bool user) {
	if (user && !w->user)
		return false;
	switch (kind) {
	case ACCESS_WRITE:
		return w->write || (!user && !(c->s->cr0 & CR0_WP));
	case ACCESS_EXEC:
		return !w->nx && !(!user && w->user && (c->s->cr4 & CR4_SMEP));
	default:
		return true;
	}
}

/* Walks, checks rights, sets A and (for writes) D. Raises #PF. */
static void walk(struct soft_vcpu *c, gva_t gva, enum soft_access kind, bool user, struct walk *w) {
	if (!c->paging) {
		*w = (struct walk){.gpa = (uint32_t)gva, .write = true, .user = true, .dirty = true};
		return;
	}
	for (;;) {
		uint32_t error;
		bool again;
		bool found = walk_once(c, gva, kind == ACCESS_WRITE, w, &error, &again);
		if (again)
			continue;
		if (found && !allowed(c, w, kind, user)) {
			found = false;
			error = PF_P;
		}
		if (!found) {
			if (kind == ACCESS_WRITE)
				error |= PF_W;
			if (user)
				error |= PF_U;
			if (kind == ACCESS_EXEC && ((c->s->efer & EFER_NXE) || (c->s->cr4 & CR4_SMEP)))
				error |= PF_I;
			soft_raise_pf(c, gva, error);
		}
		if (set_bits(c, w->leaf, w->leaf_gpa, w->leaf64, w->entry,
					 PTE_A | (kind == ACCESS_WRITE ? PTE_D : 0)))
			return;
	}
}

/* Writes there are seen by the translator first. */
static bool is_code(const struct soft_vcpu *c, gpa_t gpa) {
	return c->soft->jit && jit_is_code_page(c->soft, gpa);
}

void soft_tlb_slow_writes(struct soft_tlb_entry *e) {
	if (e->tag[ACCESS_WRITE] != SOFT_TLB_INVALID) {
		e->tag[ACCESS_WRITE] |= TAG_SLOW;
		e->code = true;
	}
}

const struct soft_tlb_entry *soft_tlb_code_page(const struct soft_vcpu *c, unsigned user,
												gva_t gva) {
	const struct soft_tlb_entry *e = &c->tlb[user][(gva >> 12) & (SOFT_TLB - 1)];
	bool slow = e->tag[ACCESS_WRITE] == ((gva & ~PAGE_MASK) | TAG_SLOW);
	return slow && e->code && e->host && !c->data_breakpoints && is_code(c, e->gpa) ? e : NULL;
}

/* Some bits of a page's host address: enough to find it by, not to know it. */
static uint32_t frame_of(const uint8_t *host) {
	return (uint32_t)((uintptr_t)host >> 12);
}

void soft_tlb_put(struct soft_vcpu *c, unsigned user, unsigned index,
				  const struct soft_tlb_entry *e) {
	c->tlb[user][index] = *e;
	c->tlb_frame[user][index] = frame_of(e->host);
	if (e->shift > 12)
		note_large(c, e->tag[ACCESS_READ] & ~PAGE_MASK, e->shift, false);
	if (c->nlocal < SOFT_LOCAL)
		c->local[c->nlocal++] = (uint16_t)(user * SOFT_TLB + index);
	if (!c->jit.on)
		return;
	jit_tlb_drop(c, user, index);
	if (c->soft->jit->off & JIT_OFF_TLB)
		return;
	if (c->jit.keys[user] & JIT_KEY_LEGACY && e->tag[ACCESS_READ] >= JIT_LEGACY_END)
		return;
	for (unsigned kind = ACCESS_READ; kind <= ACCESS_WRITE; kind++)
		if (!(e->tag[kind] & PAGE_MASK)) {
			uint8_t *host = jit_window_host(c, e->tag[kind], e->host);
			c->jit.tlb[user][kind][index] =
				(struct jit_tlb_entry){e->tag[kind], (uint64_t)(uintptr_t)host - e->tag[kind]};
		}
}

void soft_tlb_purge_writes(struct soft_vcpu *c, const uint8_t *host) {
	uint32_t frame = frame_of(host);
	jit_slots_empty(c);
	soft_spaces_purge_writes(c, host);
	for (unsigned user = 0; user < 2; user++)
		for (unsigned i = 0; i < SOFT_TLB; i++) {
			if (c->tlb_frame[user][i] != frame || c->tlb[user][i].host != host)
				continue;
			soft_tlb_slow_writes(&c->tlb[user][i]);
			c->jit.tlb[user][1][i].tag = SOFT_TLB_INVALID;
		}
}

struct soft_tlb_entry *soft_translate(struct soft_vcpu *c, gva_t gva, enum soft_access kind,
									  bool user) {
	gva_t page = gva & ~PAGE_MASK;
	unsigned index = (gva >> 12) & (SOFT_TLB - 1);
	struct soft_tlb_entry *e = &c->tlb[user][index];
	if ((e->tag[kind] & ~TAG_SLOW) == page) {
		/* The code that made it slow may be gone: then it is a page like any other. */
		if (kind == ACCESS_WRITE && e->code && !is_code(c, e->gpa)) {
			e->code = false;
			e->tag[ACCESS_WRITE] = page | (c->data_breakpoints ? TAG_SLOW : 0);
		}
		return e;
	}

	struct walk w;
	c->tlb_misses++;
	walk(c, gva, kind, user, &w);

	gpa_t gpa = w.gpa & ~PAGE_MASK & mem_a20_mask(&c->v->vm->mem);
	struct mem_range r = c->ram;
	if (gpa < r.start || gpa >= r.end) {
		r = mem_find(&c->v->vm->mem, gpa);
		if (r.region && r.region->kind == MEM_RAM)
			c->ram = r;
	}
	enum mem_kind mem = r.region && r.end - gpa >= PAGE_SIZE ? r.region->kind : MEM_NONE;
	/* The translator's TLB has nothing that is not here: soft_tlb_purge_writes() looks here only.
	 */
	for (unsigned write = 0; write < 2; write++) {
		struct jit_tlb_entry *t = &c->jit.tlb[user][write][index];
		if (t->tag != page)
			t->tag = SOFT_TLB_INVALID;
	}
	e->gpa = gpa;
	e->global = w.global;
	if (!w.global && c->nlocal < SOFT_LOCAL)
		c->local[c->nlocal++] = (uint16_t)(user * SOFT_TLB + index);
	e->shift = w.shift;
	if (w.shift > 12)
		note_large(c, gva, w.shift, w.global);
	e->host = mem == MEM_RAM || mem == MEM_ROM ? r.region->host + (gpa - r.region->base) : NULL;
	c->tlb_frame[user][index] = frame_of(e->host);
	gva_t slow = c->data_breakpoints || !e->host ? TAG_SLOW : 0;
	e->tag[ACCESS_READ] = page | slow;
	e->code = mem == MEM_RAM && is_code(c, gpa);
	/* With tracking, the first write must come here. */
	bool tracked = c->v->vm->mem.dirty != NULL;
	if (tracked && kind == ACCESS_WRITE && mem == MEM_RAM)
		mem_note_dirty(&c->v->vm->mem, gpa, PAGE_SIZE);
	e->tag[ACCESS_WRITE] =
		w.dirty && (kind == ACCESS_WRITE || !tracked) && allowed(c, &w, ACCESS_WRITE, user)
			? page | slow | (mem != MEM_RAM || e->code ? TAG_SLOW : 0)
			: SOFT_TLB_INVALID;
	e->tag[ACCESS_EXEC] =
		allowed(c, &w, ACCESS_EXEC, user) ? page | (e->host ? 0 : TAG_SLOW) : SOFT_TLB_INVALID;
	return e;
}
