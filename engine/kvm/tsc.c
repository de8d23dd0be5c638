/* The TSC that guests read: the hardware's, moved by an offset that the VM's clock gives, and
 * scaled where a guest knows another frequency than this host has ([KVM api.rst] KVM_SET_TSC_KHZ).
 * It is never set by writing it, where KVM takes the offset: all vCPUs stay in step to the tick. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

/* KVM tells the kernel's idea of the TSC's frequency by what a new vCPU has. */
uint32_t kvm_tsc_scaler(void) {
	int khz = 0, dev = kvm_open(NULL);
	int vm = dev >= 0 ? kvm_ioctl_val(dev, KVM_CREATE_VM, 0) : -1;
	int vcpu = vm >= 0 && kvm_has(vm, KVM_CAP_TSC_CONTROL) && kvm_has(vm, KVM_CAP_GET_TSC_KHZ)
				   ? kvm_ioctl_val(vm, KVM_CREATE_VCPU, 0)
				   : -1;
	if (vcpu >= 0)
		khz = kvm_ioctl_val(vcpu, KVM_GET_TSC_KHZ, 0);
	if (vcpu >= 0)
		close(vcpu);
	if (vm >= 0)
		close(vm);
	if (dev >= 0)
		close(dev);
	return khz > 0 ? (uint32_t)khz : 0;
}

int kvm_tsc_create(struct kvm_cpu *c, struct err *err) {
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET};
	const struct vm_clock *clock = &c->v->vm->clock;
	c->has_tsc_attr = kvm_ioctl(c->fd, KVM_HAS_DEVICE_ATTR, &a) == 0;
	if (!clock->tsc_host_khz || kvm_ioctl_val(c->fd, KVM_SET_TSC_KHZ, clock->tsc_khz) >= 0)
		return 0;
	return err_set(err, errno, "KVM cannot scale the TSC from %u to %u kHz: %s",
				   clock->tsc_host_khz, clock->tsc_khz, strerror(errno));
}

/* The offset, or where KVM takes none the TSC. */
static bool put(struct kvm_cpu *c, uint64_t offset) {
	struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} k = {{.nmsrs = 1}, {.index = MSR_TSC}};
	if (c->has_tsc_attr)
		return kvm_ioctl(c->fd, KVM_SET_DEVICE_ATTR, &a) >= 0;
	k.entry.data = vcpu_tsc(c->v);
	errno = EINVAL; /* a refused MSR is none that was set, no error */
	return kvm_ioctl(c->fd, KVM_SET_MSRS, &k) == 1;
}

bool kvm_push_tsc(struct kvm_cpu *c) {
	const struct vm_clock *clock = &c->v->vm->clock;
	uint64_t base = 0;
	if (clock->tsc_base)
		clock->tsc_base(clock->opaque, &base);
	uint64_t offset = c->v->state.tsc_offset - base;
	if (c->tsc_set && offset == c->tsc_offset)
		return true;
	if (!put(c, offset)) {
		kvm_report(c, "KVM refuses the TSC's offset %llx: %s", (unsigned long long)offset,
				   strerror(errno));
		return false;
	}
	c->tsc_offset = offset;
	c->tsc_set = true;
	return true;
}
