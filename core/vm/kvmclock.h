/* KVM's paravirtual clock ([KVM x86/msr.rst] MSR_KVM_WALL_CLOCK_NEW,
 * MSR_KVM_SYSTEM_TIME_NEW and their old numbers): the guest names a place in its
 * memory, and finds there how to turn its TSC into nanoseconds.
 *
 * All vCPUs share one reference pair of TSC and time, and guest TSCs tick at a
 * constant rate, so readings never go backwards between vCPUs and the "stable" flag
 * is true. Nothing needs updating while the VM runs. A board calls the MSR functions;
 * VM lock held. */
#ifndef CORE_VM_KVMCLOCK_H
#define CORE_VM_KVMCLOCK_H

#include "core/base/types.h"
#include "core/vm/device.h"

#define KVMCLOCK_VCPUS 64

struct vm;
struct vcpu;

struct kvmclock {
	struct vm *vm;
	uint64_t ref_tsc, ref_ns; /* the pair: VM's TSC (offset 0) and its clock */
	uint64_t wall;			  /* the MSRs as written */
	uint64_t system[KVMCLOCK_VCPUS];
};

void kvmclock_init(struct kvmclock *k, struct vm *vm);

/* false: not an MSR of the clock's. */
bool kvmclock_rdmsr(struct kvmclock *k, struct vcpu *v, uint32_t index, uint64_t *val);
bool kvmclock_wrmsr(struct kvmclock *k, struct vcpu *v, uint32_t index, uint64_t val);

/* This vCPU's TSC was written: its offset changed. */
void kvmclock_tsc_changed(struct kvmclock *k, struct vcpu *v);

/* How TSC ticks become nanoseconds: shift left by `shift` (right if negative), then take
 * the upper part of the product with mul, a 32-bit fraction. tsc_khz is not 0. */
void kvmclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift);

extern const struct device_ops kvmclock_device_ops;

#endif
