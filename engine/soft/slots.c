/* The slots that the second tier's checks look into: each a run of guest pages with one distance
 * between guest and host addresses (jit_vcpu.h).
 *
 * A slot is made from what is in the translator's TLB, so it holds nothing that the TLB does not,
 * and goes when any entry of the TLB goes. Emptying one leaves its addend: code that has passed its
 * check may still be about to use it, and may, until the vCPU leaves the block. Runs on the vCPU's
 * thread, or while the world is stopped. */
#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

#define RUN_PAGES 512 /* to each side */
#define CREDIT_MIN 7
#define CREDIT_MAX 1023
#define THRASH_CYCLES 12000 /* a miss, less than this many cycles after the last one */
#define BAD_PATIENCE (4 * CREDIT_MIN)
#define DENIED_MAX 4

/* What is known of an access, by a hash of its address. */
#define BAD_TIMES 3u /* how often it was given up, up to 2 */
#define BAD_APART 4u /* it reads what it may not write */

unsigned jit_slot_size(unsigned class) {
	return 16u << 2 * class;
}

static uint32_t slot_offset(unsigned user, unsigned write, unsigned class, unsigned n) {
	return (uint32_t)((((user * 2 + write) * JIT_SLOT_CLASSES + class) * JIT_SLOTS + n) *
					  sizeof(struct jit_slot));
}

static unsigned bad_hash(uint64_t rip) {
	return (unsigned)(rip * 0x9e3779b97f4a7c15ull >> 51);
}

uint32_t jit_slot_pick(struct jit *j, const struct jit_block *b, uint64_t rip, unsigned write,
					   unsigned class, bool stack) {
	unsigned n = stack ? 0 : 1 + j->next_slot++ % (JIT_SLOTS - 1);
	uint32_t off = slot_offset(b->key & JIT_KEY_USER ? 1 : 0, write, class, n);
	j->slot_user[off / sizeof(struct jit_slot)] =
		(struct jit_slot_user){b->host, b->rip, rip, b->key};
	return off;
}

bool jit_slot_bad(const struct jit *j, uint64_t rip) {
	return (j->slot_bad[bad_hash(rip)] & BAD_TIMES) > 1;
}

bool jit_slot_apart(const struct jit *j, uint64_t rip) {
	return j->slot_bad[bad_hash(rip)] & BAD_APART;
}

/* The loop has the block made anew (jit_demote()). */
static void give_up(struct soft_vcpu *c, unsigned n, bool denied) {
	struct jit *j = c->soft->jit;
	pthread_mutex_lock(&j->lock);
	const struct jit_slot_user *u = &j->slot_user[n];
	uint8_t *bad = &j->slot_bad[bad_hash(u->access)];
	if (denied && !(*bad & BAD_APART))
		*bad |= BAD_APART;
	else if ((*bad & BAD_TIMES) < 2) /* once, as it may be somebody else who uses the slot */
		(*bad)++;
	c->jit.bad_host = u->host;
	c->jit.bad_rip = u->rip;
	c->jit.bad_key = u->key;
	pthread_mutex_unlock(&j->lock);
	c->jit.slots_bad = true;
	__atomic_store_n(&c->jit.poll, 1, __ATOMIC_SEQ_CST);
}

bool jit_slot_valid(uint32_t off, unsigned user, unsigned *write, unsigned *size) {
	uint32_t n = off / (uint32_t)sizeof(struct jit_slot);
	if (off % sizeof(struct jit_slot) || n >= 4 * JIT_SLOT_CLASSES * JIT_SLOTS)
		return false;
	*size = jit_slot_size(n / JIT_SLOTS % JIT_SLOT_CLASSES);
	n /= JIT_SLOTS * JIT_SLOT_CLASSES;
	*write = n & 1;
	return n >> 1 == user;
}

static void empty(struct jit_slot *s) {
	s->lim = s->lim2 = 0;
	s->credit = 0;
	s->listed = 0;
}

/* Those that stay move together. */
static void empty_some(struct soft_vcpu *c, bool all, bool local, gva_t page) {
	struct jit_vcpu *v = &c->jit;
	unsigned left = 0;
	for (unsigned n = 0; n < v->nslots; n++) {
		struct jit_slot *s = &v->slots[v->slot_list[n]];
		bool has = page - (s->lo & ~PAGE_MASK) < s->lim + JIT_SLOT_SIZE_MAX ||
				   page - (s->lo2 & ~PAGE_MASK) < s->lim2 + JIT_SLOT_SIZE_MAX;
		if (all || (local ? s->listed == SLOT_LOCAL : has))
			empty(s);
		else
			v->slot_list[left++] = v->slot_list[n];
	}
	v->nslots = left;
}

void jit_slots_empty_local(struct soft_vcpu *c) {
	empty_some(c, false, true, 0);
}

void jit_slots_drop(struct soft_vcpu *c, gva_t page) {
	empty_some(c, false, false, page);
}

void jit_slots_empty(struct soft_vcpu *c) {
	empty_some(c, true, false, 0);
}

static bool in_tlb(const struct jit_tlb_entry *tlb, gva_t page, uint64_t addend) {
	const struct jit_tlb_entry *e = &tlb[page >> 12 & (JIT_TLB - 1)];
	return e->tag == page && e->addend == addend;
}

/* Whether the page is known to be mapped alike in all address spaces. */
static bool is_global(const struct soft_vcpu *c, unsigned user, gva_t page) {
	const struct soft_tlb_entry *e = &c->tlb[user][page >> 12 & (SOFT_TLB - 1)];
	return e->global && (e->tag[ACCESS_READ] & ~PAGE_MASK) == page;
}

/* How many misses until the next call: more if they come so thick that filling is in vain. One run
 * of pages after the other is no such case. */
static void set_credit(struct jit_slot *s, gva_t gva, unsigned size) {
	uint64_t now = jit_cycles(), end = s->lo + s->lim + size + PAGE_SIZE;
	uint32_t last = MAX(s->patience, CREDIT_MIN);
	bool thrash = now - s->filled < (uint64_t)last * THRASH_CYCLES;
	if (gva - (s->lo - PAGE_SIZE) < end - (s->lo - PAGE_SIZE))
		thrash = false;
	s->patience = (uint16_t)(thrash ? MIN(2 * last, CREDIT_MAX) : CREDIT_MIN);
	s->credit = s->patience;
	s->filled = now;
}

static void enlist(struct soft_vcpu *c, unsigned n, bool global) {
	struct jit_slot *s = &c->jit.slots[n];
	bool is = s->listed;
	s->listed = global && s->listed != SLOT_LOCAL ? SLOT_GLOBAL : SLOT_LOCAL;
	if (!is)
		c->jit.slot_list[c->jit.nslots++] = (uint16_t)n;
}

/* The slot holds another run: the old one stays beside it. */
static void hold(struct jit_slot *s, gva_t lo, uint64_t lim, uint64_t addend) {
	if (s->lim && s->lo != lo) {
		s->lo2 = s->lo;
		s->lim2 = s->lim;
		s->addend2 = s->addend;
	}
	s->lo = lo;
	s->lim = lim;
	s->addend = addend;
}

/* A page with code in it has no entry for writing, but a slot may hold the lines around gva that
 * no code depends on. Before code is translated from that page again, these slots go. */
static bool hold_lines(struct soft_vcpu *c, unsigned n, gva_t gva, unsigned size, unsigned user) {
	struct jit *j = c->soft->jit;
	struct jit_slot *s = &c->jit.slots[n];
	const struct soft_tlb_entry *e = soft_tlb_code_page(c, user, gva);
	unsigned first = (unsigned)(gva & PAGE_MASK) / 64;
	bool held = false;
	if (!e || (gva & PAGE_MASK) + size > PAGE_SIZE)
		return false;
	pthread_mutex_lock(&j->lock);
	uint64_t lines = j->lines[e->gpa >> 12];
	if (j->code[e->gpa >> 12] != CODE_NONE && !(lines & jit_lines(gva & PAGE_MASK, size))) {
		unsigned lo = first, hi = first;
		while (lo && !(lines >> (lo - 1) & 1))
			lo--;
		while (hi < 63 && !(lines >> (hi + 1) & 1))
			hi++;
		__atomic_store_n(&j->code[e->gpa >> 12], CODE_SHARED, __ATOMIC_RELAXED);
		hold(s, (gva & ~PAGE_MASK) + lo * 64, (hi - lo + 1) * 64 - size + 1,
			 (uint64_t)(uintptr_t)e->host - (gva & ~PAGE_MASK));
		s->credit = CREDIT_MIN;
		enlist(c, n, false);
		held = true;
	}
	pthread_mutex_unlock(&j->lock);
	return held;
}

uint64_t jit_slot_fill(struct vcpu *v, gva_t gva, uint32_t off) {
	struct soft_vcpu *c = v->engine;
	unsigned write, size, user = fast_user(c);
	if (!jit_slot_valid(off, user, &write, &size))
		return 1;
	unsigned n = off / (uint32_t)sizeof(struct jit_slot);
	struct jit_slot *s = &c->jit.slots[n];
	const struct jit_tlb_entry *tlb = c->jit.tlb[user][write];
	gva_t page = gva & ~PAGE_MASK, lo = page, hi = page;
	const struct jit_tlb_entry *e = &tlb[page >> 12 & (JIT_TLB - 1)];
	c->jit.slot_fills++;
	s->credit = 0; /* try again at the next miss: the first tier is about to fill the TLB */
	if (c->soft->jit->off & JIT_OFF_TLB)
		return 1;
	if (e->tag != page) {
		if (write && hold_lines(c, n, gva, size, user))
			return 0;
		/* Of a path that reads here, and may write further on, the check asks for both. */
		bool denied = write && c->jit.tlb[user][0][page >> 12 & (JIT_TLB - 1)].tag == page;
		if (denied && ++s->denied == DENIED_MAX) {
			s->denied = 0;
			give_up(c, n, true);
		}
		return 1;
	}
	set_credit(s, gva, size);
	/* Tests, where everything is hot, want to see windows early. */
	bool eager = c->soft->jit->off & JIT_OFF_TIER;
	bool window = s->patience > CREDIT_MIN || eager;
	if (window && jit_window_open(c, gva)) {
		s->patience = CREDIT_MIN;
		s->credit = 0; /* filled at the next miss */
		return 1;
	}
	/* Also a window that shows nothing new may have taken the place of another, and with it the
	 * entry of a global page, which can lead into the window of another address space. */
	if (e->tag != page) {
		s->credit = 0;
		return 1;
	}
	uint64_t addend = e->addend;
	bool global = is_global(c, user, page); /* then all of it is */
	for (unsigned k = 0; k < RUN_PAGES && in_tlb(tlb, lo - PAGE_SIZE, addend) &&
						 (!global || is_global(c, user, lo - PAGE_SIZE));
		 k++)
		lo -= PAGE_SIZE;
	for (unsigned k = 0; k < RUN_PAGES && in_tlb(tlb, hi + PAGE_SIZE, addend) &&
						 (!global || is_global(c, user, hi + PAGE_SIZE));
		 k++)
		hi += PAGE_SIZE;
	if (s->patience >= BAD_PATIENCE)
		give_up(c, n, false);
	hi += PAGE_SIZE;
	if (hi < lo || gva + size > hi || gva + size < gva)
		return 1;
	hold(s, lo, hi - lo - size + 1, addend);
	enlist(c, n, global);
	return window; /* it may have moved another one, whose pages other slots hold */
}
