/* The guest-physical map as KVM's memory slots: RAM as it is, ROM read-only, all else exits.
 *
 * DEVIATION: the A20 wire (mem_set_a20()) has no effect, hardware translates as it always does.
 *
 * KVM cannot change a slot's place while guests run; a slot that changed is taken away and made
 * again. A vCPU that touches such memory in between exits with MMIO and is served from the
 * same bytes by core/vm/mem.c. */
#include <errno.h>
#include <string.h>

#include "core/base/bits.h"
#include "engine/kvm/kvm.h"

static int set_slot(struct kvm_engine *e, unsigned n, const struct kvm_slot *s) {
	struct kvm_userspace_memory_region r = {
		.slot = n,
		.flags = s->flags,
		.guest_phys_addr = s->gpa,
		.memory_size = s->size,
		.userspace_addr = (uintptr_t)s->host,
	};
	return kvm_ioctl(e->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

/* The slots that the map asks for; how many, or -ERR_NOSPC. */
static int wanted_slots(const struct mem_space *m, struct kvm_slot want[KVM_SLOTS]) {
	unsigned n = 0;
	for (unsigned i = 0; i < m->nflat; i++) {
		const struct mem_range *at = &m->flat[i];
		const struct mem_region *r = at->region;
		if (!r || (r->kind != MEM_RAM && r->kind != MEM_ROM))
			continue;
		/* A page that a chip has a part of exits as a whole. */
		gpa_t start = align_up(at->start, PAGE_SIZE), end = align_down(at->end, PAGE_SIZE);
		if (start >= end)
			continue;
		if (n == KVM_SLOTS)
			return -ERR_NOSPC;
		want[n++] = (struct kvm_slot){.gpa = start,
									  .size = end - start,
									  .host = r->host + (start - r->base),
									  .flags = r->kind == MEM_ROM ? KVM_MEM_READONLY
											   : m->dirty		  ? KVM_MEM_LOG_DIRTY_PAGES
																  : 0};
	}
	return (int)n;
}

/* The same memory; whether its writes are logged can be changed in place. */
static bool same(const struct kvm_slot *a, const struct kvm_slot *b) {
	return a->gpa == b->gpa && a->size == b->size && a->host == b->host &&
		   !((a->flags ^ b->flags) & KVM_MEM_READONLY);
}

static struct kvm_slot *find(struct kvm_slot *list, unsigned n, const struct kvm_slot *s) {
	for (unsigned i = 0; i < n; i++)
		if (same(&list[i], s))
			return &list[i];
	return NULL;
}

int kvm_update_slots(struct kvm_engine *e) {
	struct kvm_slot want[KVM_SLOTS], none = {0};
	int n = wanted_slots(&e->vm->mem, want);
	if (n < 0)
		return n;
	for (unsigned i = 0; i < KVM_SLOTS; i++) {
		if (!e->slots[i].size || find(want, (unsigned)n, &e->slots[i]))
			continue;
		int r = set_slot(e, i, &none);
		if (r)
			return r;
		/* KVM forgets with it what was written there. */
		if (e->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
			mem_note_dirty(&e->vm->mem, e->slots[i].gpa, e->slots[i].size);
		e->slots[i] = none;
	}
	for (int k = 0; k < n; k++) {
		const struct kvm_slot *old = find(e->slots, KVM_SLOTS, &want[k]);
		if (old && old->flags == want[k].flags)
			continue;
		/* KVM_SLOTS of both kinds are enough: what is not wanted is gone. */
		unsigned i = old ? (unsigned)(old - e->slots) : 0;
		while (!old && e->slots[i].size)
			i++;
		int r = set_slot(e, i, &want[k]);
		if (r)
			return r;
		e->slots[i] = want[k];
	}
	return 0;
}
