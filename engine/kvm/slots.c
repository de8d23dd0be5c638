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
#include "core/base/fmt.h"
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

/* The slots that the map asks for; how many. Only a guest that puts devices all over its memory
 * wants more than there are: the memory left over exits, and is served by core/vm/mem.c. */
static unsigned wanted_slots(struct kvm_engine *e, struct kvm_slot want[KVM_SLOTS]) {
	const struct mem_space *m = &e->vm->mem;
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
		if (n == KVM_SLOTS) {
			if (!e->crowded)
				log_line(LOG_WARN,
						 "the guest's memory is in more than %u pieces: from %llx on it is slow",
						 KVM_SLOTS, (unsigned long long)start);
			e->crowded = true;
			break;
		}
		want[n++] = (struct kvm_slot){.gpa = start,
									  .size = end - start,
									  .host = r->host + (start - r->base),
									  .flags = r->kind == MEM_ROM ? KVM_MEM_READONLY
											   : m->dirty		  ? KVM_MEM_LOG_DIRTY_PAGES
																  : 0};
	}
	return n;
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
	unsigned n = wanted_slots(e, want);
	for (unsigned i = 0; i < KVM_SLOTS; i++) {
		if (!e->slots[i].size || find(want, n, &e->slots[i]))
			continue;
		int r = set_slot(e, i, &none);
		if (r)
			return r;
		/* KVM forgets with it what was written there. */
		if (e->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
			mem_note_dirty(&e->vm->mem, e->slots[i].gpa, e->slots[i].size);
		e->slots[i] = none;
	}
	for (unsigned k = 0; k < n; k++) {
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
