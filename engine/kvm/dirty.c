/* Which pages the guest wrote, for mem_track(): noted whenever a vCPU comes out of kvm_run().
 *
 * By KVM's dirty rings where it has them ([KVM api.rst] KVM_CAP_DIRTY_LOG_RING): a vCPU's own list
 * of pages, so that the cost is that of what was written. Else by its dirty log, a bitmap of all
 * memory that is copied each time. A VM has one or the other for all of its life. Of a slot that
 * is taken away all counts as written (slots.c).
 *
 * KVM lets a vCPU out before its ring is full, and keeps some room for what it writes itself. One
 * that emulates code in a row does not, and overwrites what nobody has read: seen with a
 * paravirtual KVM. So rings are for a KVM that passes the probe; and where one is found full,
 * all memory counts as written from then on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "engine/kvm/kvm.h"

/* Entries a vCPU: 64 KiB of the kernel's memory. The vCPU comes out when it is nearly full. */
#define RING 4096u

/* Before there are vCPUs. */
void kvm_dirty_create(struct kvm_engine *e) {
	const int caps[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};
	struct engine_probe p = {0};
	if (!kvm_part(KVM_PART_DIRTY_RING))
		return;
	kvm_probe(&p, false);
	for (unsigned i = 0; i < ARRAY_LEN(caps) && p.usable; i++) {
		struct kvm_enable_cap cap = {.cap = (uint32_t)caps[i],
									 .args = {RING * sizeof(struct kvm_dirty_gfn)}};
		if ((unsigned)kvm_has(e->fd, caps[i]) < cap.args[0] ||
			kvm_ioctl(e->fd, KVM_ENABLE_CAP, &cap) < 0)
			continue;
		e->dirty_rings = true;
		return;
	}
}

int kvm_dirty_add(struct kvm_cpu *c, struct err *err) {
	if (!c->e->dirty_rings)
		return 0;
	c->ring = mmap(NULL, RING * sizeof(*c->ring), PROT_READ | PROT_WRITE, MAP_SHARED, c->fd,
				   KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)PAGE_SIZE);
	if (c->ring != MAP_FAILED)
		return 0;
	c->ring = NULL;
	return err_set(err, errno, "cannot map vCPU %u's dirty ring: %s", c->v->id, strerror(errno));
}

void kvm_dirty_remove(struct kvm_cpu *c) {
	if (c->ring)
		munmap(c->ring, RING * sizeof(*c->ring));
}

static void note(struct mem_space *m, const struct kvm_slot *s, uint64_t page) {
	if (page < s->size / PAGE_SIZE)
		mem_note_dirty(m, s->gpa + page * PAGE_SIZE, PAGE_SIZE);
}

/* What this vCPU wrote. Entries are KVM's until they are marked, and after the reset again. */
static int collect_ring(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	unsigned n = 0;
	for (; n < RING; n++) {
		struct kvm_dirty_gfn *g = &c->ring[c->ring_next % RING];
		if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		if (g->slot < KVM_SLOTS)
			note(&e->vm->mem, &e->slots[g->slot], g->offset);
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		c->ring_next++;
	}
	int r = n && kvm_ioctl_val(e->fd, KVM_RESET_DIRTY_RINGS, 0) < 0 ? -errno : 0;
	if (n == RING && !c->ring_lost)
		log_line(LOG_ERROR, "vCPU %u: KVM has overrun its dirty ring; all memory counts as written",
				 c->v->id);
	c->ring_lost |= n == RING;
	for (unsigned i = 0; i < KVM_SLOTS && c->ring_lost; i++)
		if (e->slots[i].size && (e->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES))
			mem_note_dirty(&e->vm->mem, e->slots[i].gpa, e->slots[i].size);
	return r;
}

static int collect_log(struct kvm_engine *e, unsigned slot) {
	const struct kvm_slot *s = &e->slots[slot];
	uint64_t words = (s->size / PAGE_SIZE + 63) / 64;
	uint64_t *bits = calloc(words, 8);
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bits};
	int r = bits ? 0 : -ERR_NOMEM;
	if (bits && kvm_ioctl(e->fd, KVM_GET_DIRTY_LOG, &log) < 0)
		r = -errno;
	for (uint64_t i = 0; !r && i < words; i++)
		for (uint64_t word = bits[i]; word; word &= word - 1)
			note(&e->vm->mem, s, i * 64 + (unsigned)__builtin_ctzll(word));
	free(bits);
	return r;
}

int kvm_collect_dirty(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	struct vm *vm = e->vm;
	int r = 0;
	vm->host->lock(vm->host->opaque); /* the slots stay what they are */
	if (c->ring)
		r = collect_ring(c);
	for (unsigned i = 0; i < KVM_SLOTS && !r && !c->ring; i++)
		if (e->slots[i].size && (e->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES))
			r = collect_log(e, i);
	vm->host->unlock(vm->host->opaque);
	return r;
}
