/* The gate in front of every engine: checks the contract, and handles for all of
 * them what has nothing to do with executing instructions: INIT, SIPI, waiting.
 *
 * What an engine's run() owes the gate: it returns EXIT_PREEMPTED soon after EVENT_KICK,
 * EVENT_INIT or EVENT_SIPI is posted, and with EXIT_HALT it has brought rflags and nmi_masked
 * up to date. v->state.activity is always up to date between two runs, and run() finds it
 * CPU_RUNNING. */
#include "engine/engine.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/x86/regs.h"

const struct engine_ops *const engines[] = {&engine_kvm, &engine_soft, NULL};

static void changed(void *opaque) {
	struct engine *en = opaque;
	if (en->ops->mem_changed)
		en->ops->mem_changed(en->self);
}

static void bells(void *opaque) {
	struct engine *en = opaque;
	if (en->ops->bells_changed)
		en->ops->bells_changed(en->self);
}

static void written(void *opaque, gpa_t gpa, uint64_t len) {
	struct engine *en = opaque;
	if (en->ops->mem_written)
		en->ops->mem_written(en->self, gpa, len);
}

int engine_cpuid_host(const struct engine_ops *ops, struct cpuid_host *h, struct err *e) {
	*h = cpuid_this_host();
	int r = ops->cpuid_host ? ops->cpuid_host(h, e) : 0;
	check(r || h->query);
	return r;
}

int engine_create(struct engine *en, const struct engine_ops *ops, struct vm *vm,
				  const struct engine_options *o, struct err *e) {
	check(vm->nvcpus >= 1 && vm->nvcpus <= VM_VCPUS && !vm->mem.listener.opaque);
	*en = (struct engine){.ops = ops, .vm = vm};
	int r = ops->create(vm, o, &en->self, e);
	if (r)
		return r;
	en->waits = ops->waits && ops->waits(en->self);
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		r = ops->add_vcpu(en->self, vm->vcpus[i], e);
		if (r) {
			ops->destroy(en->self);
			return r;
		}
	}
	vm->mem.listener = (struct mem_listener){changed, written, bells, en};
	return 0;
}

void engine_destroy(struct engine *en) {
	check(!__atomic_load_n(&en->running, __ATOMIC_ACQUIRE));
	en->vm->mem.listener = (struct mem_listener){0};
	en->ops->destroy(en->self);
	en->self = NULL;
}

void engine_kick(struct engine *en, struct vcpu *v) {
	if (en->ops->kick)
		en->ops->kick(v);
}

static bool is_running(const struct engine *en, const struct vcpu *v) {
	return __atomic_load_n(&en->running, __ATOMIC_ACQUIRE) & BIT(v->id);
}

void engine_get_state(struct engine *en, struct vcpu *v) {
	check(!is_running(en, v));
	if (en->ops->get_state)
		en->ops->get_state(v);
}

void engine_set_state(struct engine *en, struct vcpu *v) {
	check(!is_running(en, v));
	if (en->ops->set_state)
		en->ops->set_state(v);
}

void engine_trim(struct engine *en) {
	check(!__atomic_load_n(&en->running, __ATOMIC_ACQUIRE));
	if (en->ops->trim)
		en->ops->trim(en->self);
}

/* INIT first: one posted together with a SIPI is the usual start of a processor. A SIPI
 * that finds no processor waiting for it is lost ([SDM3 8.4.4.1]). */
static void serve_init(struct engine *en, struct vcpu *v) {
	uint32_t events = vcpu_events(v) & (EVENT_INIT | EVENT_SIPI);
	if (!events)
		return;
	vcpu_unpost(v, events);
	engine_get_state(en, v);
	if (events & EVENT_INIT)
		vcpu_reset(v, true);
	if ((events & EVENT_SIPI) && v->state.activity == CPU_WAIT_SIPI)
		vcpu_start_sipi(v, v->state.sipi_vector);
	engine_set_state(en, v);
}

/* Does a halted processor have a reason to go on? */
static bool wakes(const struct vcpu *v) {
	uint32_t events = vcpu_events(v);
	return ((events & EVENT_INTR) && (v->state.rflags & RFLAGS_IF)) ||
		   ((events & EVENT_NMI) && !v->state.nmi_masked);
}

static void run(struct engine *en, struct vcpu *v, struct vm_exit *out) {
	uint64_t before = __atomic_fetch_or(&en->running, BIT(v->id), __ATOMIC_ACQ_REL);
	check(!(before & BIT(v->id)));
	out->kind = EXIT_KINDS;
	en->ops->run(v, out);
	check(out->kind >= EXIT_HALT && out->kind < EXIT_KINDS);
	check(!(en->waits && out->kind == EXIT_HALT));
	__atomic_fetch_and(&en->running, ~BIT(v->id), __ATOMIC_ACQ_REL);
}

void engine_run(struct engine *en, struct vcpu *v, struct vm_exit *out) {
	check(en->self && v->vm == en->vm && v->id < VM_VCPUS && !is_running(en, v));
	for (;;) {
		serve_init(en, v);
		if (vcpu_events(v) & EVENT_KICK) {
			vcpu_unpost(v, EVENT_KICK);
			out->kind = EXIT_PREEMPTED;
			break;
		}
		check(v->state.activity <= CPU_SHUTDOWN);
		if (v->state.activity == CPU_SHUTDOWN) {
			out->kind = EXIT_SHUTDOWN;
			break;
		}
		if (en->waits) {
			run(en, v, out);
			vcpu_unpost(v, out->kind == EXIT_PREEMPTED ? EVENT_KICK : 0);
			break;
		}
		if (v->state.activity == CPU_WAIT_SIPI || (v->state.activity == CPU_HALTED && !wakes(v))) {
			/* An INIT or SIPI may have come since. */
			if (vcpu_events(v) & (EVENT_INIT | EVENT_SIPI))
				continue;
			out->kind = EXIT_HALT;
			break;
		}
		v->state.activity = CPU_RUNNING;
		run(en, v, out);
		/* What the gate serves itself is none of the caller's business. */
		if (out->kind == EXIT_PREEMPTED && !(vcpu_events(v) & EVENT_KICK) &&
			(vcpu_events(v) & (EVENT_INIT | EVENT_SIPI)))
			continue;
		if (out->kind == EXIT_PREEMPTED)
			vcpu_unpost(v, EVENT_KICK);
		if (out->kind == EXIT_HALT && v->state.activity == CPU_HALTED && wakes(v))
			continue;
		break;
	}
	v->exits[out->kind]++;
}
