/* Local APICs in the kernel, [KVM api.rst] KVM_CREATE_IRQCHIP and KVM_CAP_SPLIT_IRQCHIP. IPIs,
 * timer interrupts, EOI and TPR need no exit then, and a halted vCPU waits inside KVM_RUN. Tier
 * "split" leaves the 8259s and the I/O APIC to the board; with "kernel" KVM has those as well
 * (chips.c).
 *
 * Messages of devices and of the I/O APIC go in by routes.c.
 *
 * The state is KVM's from the first vCPU that runs (kvm_chips_in()) until somebody asks for it
 * (kvm_chips_out()), of all APICs and chips at once: what a device sends meanwhile finds it in one
 * place or the other, never in one that is about to be overwritten. */
#include <errno.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

_Static_assert(APIC_REGS == KVM_APIC_REG_SIZE, "an image is what KVM takes");

static void message(void *opaque, gpa_t addr, uint32_t data) {
	kvm_raise(opaque, addr, data);
}

static void settle(void *opaque) {
	kvm_settle(opaque);
}

static void set_apics(struct kvm_engine *e, const struct vm_apics *apics) {
	e->vm->apics = apics;
	e->vm->board_apics->moved(e->vm->board);
}

int kvm_apics_create(struct kvm_engine *e, struct err *err) {
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {KVM_LEVELS}};
	if (!e->vm->board_apics)
		return err_set(err, ERR_NOTSUP,
					   "this board needs its own interrupt controllers: use "
					   "--engine kvm,off");
	e->apics = (struct vm_apics){.message = message, .settle = settle, .opaque = e};
	kvm_routes_create(e);
	if (e->irqs == KVM_IRQS_KERNEL)
		return kvm_chips_create(e, err);
	if (kvm_ioctl(e->fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set(err, errno, "KVM has no local APICs to give (%s): use --engine kvm,off",
					   strerror(errno));
	return 0;
}

void kvm_apics_destroy(struct kvm_engine *e) {
	if (e->vm->apics == &e->apics)
		set_apics(e, NULL);
	if (e->irqs != KVM_IRQS_OFF)
		kvm_routes_destroy(e);
}

/* ---- state ------------------------------------------------------------------------------- */

static const struct {
	enum x86_activity ours;
	uint32_t kvms;
} activities[] = {
	{CPU_RUNNING, KVM_MP_STATE_RUNNABLE},		 {CPU_HALTED, KVM_MP_STATE_HALTED},
	{CPU_WAIT_SIPI, KVM_MP_STATE_INIT_RECEIVED}, {CPU_WAIT_SIPI, KVM_MP_STATE_UNINITIALIZED},
	{CPU_RUNNING, KVM_MP_STATE_SIPI_RECEIVED},
};

static bool failed(struct kvm_cpu *c, const char *what) {
	kvm_report(c, "KVM and vCPU %u's local APIC: %s: %s", c->v->id, what, strerror(errno));
	return false;
}

#define APIC_MSRS 2
struct apic_msrs {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[APIC_MSRS];
};

static bool push_apic(struct kvm_cpu *c) {
	const struct vm *vm = c->e->vm;
	struct apic_image a;
	struct kvm_lapic_state k;
	struct kvm_mp_state mp = {KVM_MP_STATE_RUNNABLE};
	struct apic_msrs msrs = {{.nmsrs = 1}, {{.index = MSR_TSC_DEADLINE}}};
	vm->board_apics->get(vm->board, c->v, &a);
	memcpy(k.regs, a.regs, sizeof(a.regs));
	msrs.entries[0].data = a.tsc_deadline;
	if (kvm_ioctl(c->fd, KVM_SET_LAPIC, &k) < 0)
		return failed(c, "setting its registers");
	errno = EINVAL; /* of MSRs that are refused only the number says so */
	if (kvm_ioctl(c->fd, KVM_SET_MSRS, &msrs) != 1)
		return failed(c, "setting its deadline");
	for (unsigned i = 0; i < ARRAY_LEN(activities); i++)
		if (activities[i].ours == c->v->state.activity) {
			mp.mp_state = activities[i].kvms;
			break;
		}
	return kvm_ioctl(c->fd, KVM_SET_MP_STATE, &mp) >= 0 || failed(c, "setting its activity");
}

static bool fetch_apic(struct kvm_cpu *c) {
	const struct vm *vm = c->e->vm;
	struct apic_image a;
	struct kvm_lapic_state k;
	struct kvm_mp_state mp;
	struct apic_msrs msrs = {{.nmsrs = 2}, {{.index = MSR_TSC_DEADLINE}, {.index = MSR_APIC_BASE}}};
	/* First: this makes KVM take an INIT or SIPI that waits. */
	if (kvm_ioctl(c->fd, KVM_GET_MP_STATE, &mp) < 0)
		return failed(c, "reading its activity");
	if (kvm_ioctl(c->fd, KVM_GET_LAPIC, &k) < 0)
		return failed(c, "reading its registers");
	errno = EINVAL;
	if (kvm_ioctl(c->fd, KVM_GET_MSRS, &msrs) != APIC_MSRS)
		return failed(c, "reading its deadline");
	memcpy(a.regs, k.regs, sizeof(a.regs));
	a.tsc_deadline = msrs.entries[0].data;
	a.base = msrs.entries[1].data;
	vm->board_apics->set(vm->board, c->v, &a);
	for (unsigned i = 0; i < ARRAY_LEN(activities); i++)
		if (activities[i].kvms == mp.mp_state)
			c->v->state.activity = activities[i].ours;
	return true;
}

/* All vCPUs are pushed here, by the thread of one: an APIC can be set only when its processor is.
 */
static bool all_in(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	for (unsigned i = 0; i < e->ncpus; i++) {
		struct kvm_cpu *other = e->cpus[i];
		if ((!other->push || kvm_push_state(other)) && push_apic(other))
			continue;
		if (other != c)
			kvm_report(c, "%s", other->why);
		return false;
	}
	return e->irqs != KVM_IRQS_KERNEL || kvm_push_chips(c);
}

static bool all_out(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	for (unsigned i = 0; i < e->ncpus; i++) {
		if (fetch_apic(e->cpus[i]))
			continue;
		if (e->cpus[i] != c)
			kvm_report(c, "%s", e->cpus[i]->why);
		return false;
	}
	return e->irqs != KVM_IRQS_KERNEL || kvm_fetch_chips(c);
}

bool kvm_chips_in(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	struct vm *vm = e->vm;
	bool ok = true;
	if (e->irqs == KVM_IRQS_OFF)
		return true;
	vm->host->lock(vm->host->opaque);
	if (vm->apics != &e->apics) {
		ok = all_in(c);
		if (ok)
			set_apics(e, &e->apics);
	}
	vm->host->unlock(vm->host->opaque);
	return ok;
}

bool kvm_chips_out(struct kvm_cpu *c) {
	struct kvm_engine *e = c->e;
	struct vm *vm = e->vm;
	bool ok = true;
	if (e->irqs == KVM_IRQS_OFF)
		return true;
	vm->host->lock(vm->host->opaque);
	if (vm->apics == &e->apics) {
		kvm_settle(e);
		ok = all_out(c);
		if (ok)
			set_apics(e, NULL);
	}
	vm->host->unlock(vm->host->opaque);
	return ok;
}

void kvm_chips_lost(struct kvm_engine *e) {
	if (e->vm->apics != &e->apics)
		return;
	kvm_settle(e); /* into the old state */
	set_apics(e, NULL);
}

uint64_t kvm_apic_base(struct kvm_cpu *c) {
	const struct vm *vm = c->e->vm;
	struct apic_image a;
	if (c->e->irqs == KVM_IRQS_OFF)
		return c->apic_base;
	vm->board_apics->get(vm->board, c->v, &a);
	return a.base;
}
