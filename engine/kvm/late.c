/* Writes to index registers (`latch` in core/vm/mem.h) that need no exit ([KVM api.rst]
 * KVM_(UN)REGISTER_COALESCED_MMIO): KVM puts them into a ring and the guest goes on, so an access
 * by index and data is one exit and not two. Where KVM has no such ring, or it is full, they exit
 * as any other write.
 *
 * Every vCPU that comes out of KVM_RUN does first, with the VM lock held, what is in the ring:
 * before its exit is served, and before it stops. So:
 * - A vCPU's own write comes before its later accesses, which need an exit.
 * - Writes of two vCPUs come in the order in which KVM took them, which is that of the guest's
 *   time. Where the guest orders a write of A before an access of B by its own means (a lock),
 *   A's write was in the ring before B could know, and B finds it there or has it served already.
 *   Where it does not, either order is one that hardware can show.
 * - When all vCPUs are out, nothing is left; so whatever state is saved is whole.
 * - Other threads that have the VM lock may come before a write that is still in the ring. What it
 *   changes is no business of theirs: they do not access devices by index and data.
 *
 * KVM takes a write that lies within a latch whole; one that is wider or sticks out exits. That is
 * why PCI's address port, which this would serve best, is left out: a byte written to port CF9h,
 * PC's reset register within its four bytes, would wait as well. */
#include <string.h>

#include "core/base/bits.h"
#include "engine/kvm/kvm.h"

static bool set_zone(struct kvm_engine *e, const struct kvm_latch *l, bool on) {
	struct kvm_coalesced_mmio_zone z = {.addr = l->gpa, .size = l->size, .pio = l->port};
	return kvm_ioctl(e->fd, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &z) >=
		   0;
}

/* The wanted ones, as far as there is room: those of which all is to be reached, and in whose
 * place KVM does not answer itself. */
static unsigned wanted(const struct kvm_engine *e, struct kvm_latch want[KVM_LATCHES]) {
	const struct mem_space *m = &e->vm->mem;
	unsigned n = 0;
	for (unsigned i = 0; i < m->nports && n < KVM_LATCHES; i++)
		if (m->ports[i]->latch && e->late_ports)
			want[n++] = (struct kvm_latch){m->ports[i]->base, m->ports[i]->latch, true};
	for (unsigned i = 0; i < m->nflat && n < KVM_LATCHES; i++) {
		const struct mem_range *at = &m->flat[i];
		const struct mem_region *r = at->region;
		if (r && r->latch && at->start <= r->base && at->end - r->base >= r->latch &&
			!(e->irqs == KVM_IRQS_KERNEL && r->base == KVM_IOAPIC_BASE))
			want[n++] = (struct kvm_latch){r->base, r->latch, false};
	}
	return n;
}

static bool same(const struct kvm_latch *a, const struct kvm_latch *b) {
	return a->gpa == b->gpa && a->size == b->size && a->port == b->port;
}

void kvm_update_late(struct kvm_engine *e) {
	struct kvm_latch want[KVM_LATCHES];
	unsigned n = e->late ? wanted(e, want) : 0;
	for (unsigned i = 0; i < KVM_LATCHES; i++) {
		struct kvm_latch *l = &e->latches[i];
		unsigned k = 0;
		while (k < n && !same(l, &want[k]))
			k++;
		if (l->size && k < n)
			want[k].size = 0; /* there is it */
		else if (l->size && set_zone(e, l, false))
			l->size = 0;
	}
	for (unsigned k = 0, i = 0; k < n; k++) {
		while (want[k].size && i < KVM_LATCHES && e->latches[i].size)
			i++;
		if (want[k].size && i < KVM_LATCHES && set_zone(e, &want[k], true))
			e->latches[i] = want[k];
	}
}

void kvm_late_create(struct kvm_engine *e) {
	size_t page = kvm_part(KVM_PART_COALESCED) ? (size_t)kvm_has(e->fd, KVM_CAP_COALESCED_MMIO) : 0;
	if (!page || (page + 1) * PAGE_SIZE > e->run_size)
		return;
	e->late = (void *)((uint8_t *)e->cpus[0]->run + page * PAGE_SIZE);
	e->late_ports = kvm_has(e->fd, KVM_CAP_COALESCED_PIO);
	kvm_update_late(e);
}

/* VM lock held */
static void serve(struct kvm_engine *e, const struct kvm_coalesced_mmio *w) {
	uint64_t val = 0;
	uint32_t len = MIN(w->len, (uint32_t)sizeof(val));
	memcpy(&val, w->data, len);
	if (w->pio)
		port_write(&e->vm->mem, (uint16_t)w->phys_addr, len, val);
	else
		mem_io_write(&e->vm->mem, w->phys_addr, len, val);
	e->late_writes++;
}

void kvm_serve_late(struct kvm_engine *e) {
	struct kvm_coalesced_mmio_ring *r = e->late;
	struct vm *vm = e->vm;
	/* Without the lock: what this vCPU has to see is there since before it came out. `first` moves
	 * after a write was served and with the lock held, which its exit takes next. */
	if (!r ||
		__atomic_load_n(&r->first, __ATOMIC_ACQUIRE) == __atomic_load_n(&r->last, __ATOMIC_ACQUIRE))
		return;
	vm->host->lock(vm->host->opaque);
	/* No further than this, or another vCPU could keep it here. */
	uint32_t last = __atomic_load_n(&r->last, __ATOMIC_ACQUIRE) % KVM_COALESCED_MMIO_MAX;
	for (uint32_t i = r->first % KVM_COALESCED_MMIO_MAX; i != last;) {
		serve(e, &r->coalesced_mmio[i]);
		i = (i + 1) % KVM_COALESCED_MMIO_MAX;
		__atomic_store_n(&r->first, i, __ATOMIC_RELEASE);
	}
	vm->host->unlock(vm->host->opaque);
}
