/* Local APICs in the kernel ("split": the board keeps 8259s and I/O APIC, [KVM api.rst]
 * KVM_CAP_SPLIT_IRQCHIP). IPIs, timer interrupts, EOI and TPR need no exit then, and a halted
 * vCPU waits inside KVM_RUN.
 *
 * Messages of devices and of the I/O APIC go in by KVM_SIGNAL_MSI. For an EOI of a level-triggered
 * vector KVM exits only if its routing table has a message with that vector, so each that is
 * sent is put there first. */
#include <errno.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

#define MSI_LEVEL BIT(15)

_Static_assert(APIC_REGS == KVM_APIC_REG_SIZE, "an image is what KVM takes");

/* Makes KVM know this level-triggered message. VM lock held. */
static void know_level(struct kvm_engine *e, gpa_t addr, uint32_t data) {
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entries[KVM_ROUTES];
	} k = {.head = {.nr = KVM_ROUTES}};
	for (unsigned i = 0; i < KVM_ROUTES; i++)
		if (e->routes[i].data == data && e->routes[i].addr == addr)
			return;
	e->routes[e->next_route] = (struct kvm_route){addr, data};
	e->next_route = (e->next_route + 1) % KVM_ROUTES;
	for (unsigned i = 0; i < KVM_ROUTES; i++)
		k.entries[i] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (uint32_t)e->routes[i].addr,
					  .address_hi = (uint32_t)(e->routes[i].addr >> 32),
					  .data = e->routes[i].data},
		};
	if (kvm_ioctl(e->fd, KVM_SET_GSI_ROUTING, &k) < 0)
		log_line(LOG_ERROR, "KVM refuses an interrupt route: %s", strerror(errno));
}

static void message(void *opaque, gpa_t addr, uint32_t data) {
	struct kvm_engine *e = opaque;
	struct kvm_msi m = {
		.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};
	if (data & MSI_LEVEL)
		know_level(e, addr, data);
	e->messages++;
	/* 0: nobody took it, e.g. an APIC that is off. That is the guest's affair. */
	if (kvm_ioctl(e->fd, KVM_SIGNAL_MSI, &m) < 0)
		log_line(LOG_DEBUG, "KVM refuses an interrupt message: %s", strerror(errno));
}

int kvm_apics_create(struct kvm_engine *e, struct err *err) {
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {KVM_ROUTES}};
	struct vm *vm = e->vm;
	if (!vm->board_apics)
		return err_set(err, ERR_NOTSUP,
					   "this board needs its own interrupt controllers: use "
					   "--engine kvm,off");
	if (kvm_ioctl(e->fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set(err, errno, "KVM has no local APICs to give (%s): use --engine kvm,off",
					   strerror(errno));
	e->apics = (struct vm_apics){message, e};
	vm->apics = &e->apics;
	vm->board_apics->aside(vm->board);
	return 0;
}

void kvm_apics_destroy(struct kvm_engine *e) {
	if (e->vm->apics != &e->apics)
		return;
	e->vm->apics = NULL;
	e->vm->board_apics->aside(e->vm->board);
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

bool kvm_push_apic(struct kvm_cpu *c) {
	struct apic_image a;
	struct kvm_lapic_state k;
	struct kvm_mp_state mp = {KVM_MP_STATE_RUNNABLE};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {{.nmsrs = 1}, {.index = MSR_TSC_DEADLINE}};
	vcpu_get_apic(c->v, &a);
	memcpy(k.regs, a.regs, sizeof(a.regs));
	msr.entry.data = a.tsc_deadline;
	if (kvm_ioctl(c->fd, KVM_SET_LAPIC, &k) < 0)
		return failed(c, "setting its registers");
	if (kvm_ioctl(c->fd, KVM_SET_MSRS, &msr) != 1)
		return failed(c, "setting its deadline");
	for (unsigned i = 0; i < ARRAY_LEN(activities); i++)
		if (activities[i].ours == c->v->state.activity) {
			mp.mp_state = activities[i].kvms;
			break;
		}
	return kvm_ioctl(c->fd, KVM_SET_MP_STATE, &mp) >= 0 || failed(c, "setting its activity");
}

bool kvm_fetch_apic(struct kvm_cpu *c, uint64_t base) {
	struct apic_image a = {.base = base};
	struct kvm_lapic_state k;
	struct kvm_mp_state mp;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {{.nmsrs = 1}, {.index = MSR_TSC_DEADLINE}};
	/* First: this makes KVM take an INIT or SIPI that waits. */
	if (kvm_ioctl(c->fd, KVM_GET_MP_STATE, &mp) < 0)
		return failed(c, "reading its activity");
	if (kvm_ioctl(c->fd, KVM_GET_LAPIC, &k) < 0)
		return failed(c, "reading its registers");
	if (kvm_ioctl(c->fd, KVM_GET_MSRS, &msr) != 1)
		return failed(c, "reading its deadline");
	memcpy(a.regs, k.regs, sizeof(a.regs));
	a.tsc_deadline = msr.entry.data;
	vcpu_set_apic(c->v, &a);
	for (unsigned i = 0; i < ARRAY_LEN(activities); i++)
		if (activities[i].kvms == mp.mp_state)
			c->v->state.activity = activities[i].ours;
	return true;
}

uint64_t kvm_apic_base(struct kvm_cpu *c) {
	struct apic_image a;
	if (c->e->irqs == KVM_IRQS_OFF)
		return c->apic_base;
	vcpu_get_apic(c->v, &a);
	return a.base;
}
