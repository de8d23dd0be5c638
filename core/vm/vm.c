/* The machine's skeleton: what ties memory, devices and vCPUs to one host. */
#include "core/vm/vm.h"

#include "core/base/check.h"
#include "core/base/string.h"

void vm_init(struct vm *vm, const struct vm_host *host, const struct vm_clock *clock) {
	memset(vm, 0, sizeof(*vm));
	vm->host = host;
	vm->clock = *clock;
	mem_init(&vm->mem);
	timers_init(&vm->timers, &vm->clock);
}

void *vm_alloc(struct vm *vm, size_t size) {
	return vm->host->alloc(vm->host->opaque, size);
}

void vm_add_device(struct vm *vm, const struct device_ops *ops, unsigned instance, void *self) {
	check(vm->ndevices < VM_DEVICES);
	vm->devices[vm->ndevices++] = (struct device){ops, instance, self};
}

void vm_reset(struct vm *vm) {
	for (unsigned i = 0; i < vm->ndevices; i++)
		if (vm->devices[i].ops->reset)
			vm->devices[i].ops->reset(vm->devices[i].self);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_reset(vm->vcpus[i], false);
}

void vm_state(struct vm *vm, struct state_io *io) {
	for (unsigned i = 0; i < vm->nvcpus; i++)
		state_section(io, "vcpu", i, VCPU_STATE_VERSION, vcpu_state, vm->vcpus[i]);
	for (unsigned i = 0; i < vm->ndevices; i++) {
		const struct device *d = &vm->devices[i];
		if (d->ops->state)
			state_section(io, d->ops->name, d->instance, d->ops->version, d->ops->state, d->self);
	}
	if (!io->loading || io->error)
		return;
	for (unsigned i = 0; i < vm->ndevices; i++)
		if (vm->devices[i].ops->loaded)
			vm->devices[i].ops->loaded(vm->devices[i].self);
}

void vm_power(struct vm *vm, enum vm_power what) {
	if (vm->host->power)
		vm->host->power(vm->host->opaque, what);
}
