/* The way into the guest and out of it ([KVM api.rst] 5, the kvm_run structure).
 *
 * Interrupt controllers are the board's chips: the engine asks for a vector when KVM says that
 * one can go in, and asks KVM for the next such moment when it cannot. (With the local APICs in the
 * kernel only the 8259's interrupts go this way.) TPR lives in the local
 * APIC's model and, while the guest runs, in KVM's CR8; whoever changed it last wins. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

#define LEAVE (EVENT_KICK | EVENT_INIT | EVENT_SIPI)

/* ---- exits -------------------------------------------------------------------------------- */

/* IN and OUT, a string instruction's as one exit with many elements. */
static void exit_port(struct kvm_cpu *c) {
	const struct kvm_run *run = c->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint8_t size = run->io.size;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;
	check(size == 1 || size == 2 || size == 4);
	check(run->io.data_offset <= c->e->run_size &&
		  (uint64_t)run->io.count * size <= c->e->run_size - run->io.data_offset);
	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		struct vm_exit x = {.kind = EXIT_PORT};
		x.port.port = run->io.port;
		x.port.size = size;
		x.port.write = write;
		if (write)
			memcpy(&x.port.val, data, size);
		vcpu_exit(c->v, &x);
		if (!write)
			memcpy(data, &x.port.val, size);
	}
}

static void exit_mmio(struct kvm_cpu *c) {
	struct kvm_run *run = c->run;
	struct vm_exit x = {.kind = EXIT_MMIO};
	check(run->mmio.len >= 1 && run->mmio.len <= 8);
	x.mmio.gpa = run->mmio.phys_addr;
	x.mmio.size = (uint8_t)run->mmio.len;
	x.mmio.write = run->mmio.is_write;
	if (x.mmio.write)
		memcpy(&x.mmio.val, run->mmio.data, x.mmio.size);
	vcpu_exit(c->v, &x);
	if (!x.mmio.write)
		memcpy(run->mmio.data, &x.mmio.val, x.mmio.size);
	c->tpr_moved = true; /* it may have been the APIC's page */
}

/* Serves what can be served in place. false: run() ends with *kind. */
static bool serve(struct kvm_cpu *c, enum vm_exit_kind *kind) {
	struct kvm_run *run = c->run;
	*kind = EXIT_FAILED;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		c->unfinished = true;
		exit_port(c);
		return true;
	case KVM_EXIT_MMIO:
		c->unfinished = true;
		exit_mmio(c);
		return true;
	case KVM_EXIT_X86_RDMSR:
		c->unfinished = true;
		kvm_exit_rdmsr(c);
		return true;
	case KVM_EXIT_X86_WRMSR:
		c->unfinished = true;
		kvm_exit_wrmsr(c);
		c->tpr_moved = true;
		return true;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		c->windows++;
		return true;
	case KVM_EXIT_DIRTY_RING_FULL:
		*kind = EXIT_PREEMPTED; /* kvm_run() empties it */
		return false;
	case KVM_EXIT_INTR:
	case KVM_EXIT_SET_TPR: /* seen in run->cr8 */
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		vcpu_eoi(c->v, run->eoi.vector);
		return true;
	case KVM_EXIT_HLT:
		c->v->state.activity = CPU_HALTED;
		*kind = kvm_fetch_halt(c) ? EXIT_HALT : EXIT_FAILED;
		return false;
	case KVM_EXIT_DEBUG:
		*kind = EXIT_DEBUG;
		return false;
	case KVM_EXIT_SHUTDOWN:
		if (kvm_fetch_state(c))
			*kind = EXIT_SHUTDOWN;
		c->v->state.activity = CPU_SHUTDOWN;
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		kvm_report_stuck(c, "the processor refuses the guest's state (hardware's reason %llx)",
						 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		kvm_report_internal(c);
		return false;
	case KVM_EXIT_UNKNOWN:
		kvm_report_stuck(c, "KVM reports an exit that it does not know (hardware's reason %llx)",
						 (unsigned long long)run->hw.hardware_exit_reason);
		return false;
	default:
		kvm_report_stuck(c, "KVM's exit %u is new to this version of joist", run->exit_reason);
		return false;
	}
}

/* ---- entry -------------------------------------------------------------------------------- */

static bool refused(struct kvm_cpu *c, const char *what) {
	kvm_report(c, "KVM refuses %s: %s", what, strerror(errno));
	return false;
}

/* NMIs and interrupts that can go in now. */
static bool inject(struct kvm_cpu *c, uint32_t events) {
	struct vcpu *v = c->v;
	struct kvm_run *run = c->run;
	if (events & EVENT_NMI) {
		vcpu_unpost(v, EVENT_NMI);
		if (kvm_ioctl_val(c->fd, KVM_NMI, 0) < 0)
			return refused(c, "an NMI");
	}
	if ((events & EVENT_INTR) && c->ready) {
		int vector = vcpu_intack(v);
		if (vector >= 0) {
			struct kvm_interrupt irq = {.irq = (uint32_t)vector};
			if (kvm_ioctl(c->fd, KVM_INTERRUPT, &irq) < 0)
				return refused(c, "an interrupt");
			c->ready = false;
			c->injected++;
		}
	}
	run->request_interrupt_window = !!(vcpu_events(v) & EVENT_INTR);
	return true;
}

static void sync_tpr(struct kvm_cpu *c) {
	if (c->e->irqs != KVM_IRQS_OFF)
		return;
	if (c->tpr_moved)
		c->cr8 = vcpu_get_tpr(c->v) >> 4;
	c->tpr_moved = false;
	c->run->cr8 = c->cr8;
}

/* Into the guest once. false: it is not to be entered again (c->why). */
static bool enter(struct kvm_cpu *c) {
	struct kvm_run *run = c->run;
	c->entries++;
	int r = ioctl(c->fd, KVM_RUN, 0);
	int code = errno;
	c->stale = true;
	c->unfinished = false;
	kvm_serve_late(c->e);
	c->ready = run->ready_for_interrupt_injection;
	if (c->e->irqs == KVM_IRQS_OFF && run->cr8 != c->cr8) {
		c->cr8 = (uint8_t)run->cr8;
		vcpu_set_tpr(c->v, (uint8_t)(c->cr8 << 4));
	}
	if (r >= 0)
		return true;
	run->exit_reason = KVM_EXIT_INTR;
	if (code == EINTR || code == EAGAIN)
		return true;
	kvm_report_stuck(c, "KVM_RUN fails: %s%s", strerror(code),
					 code == EFAULT ? " (the host has no memory where the guest's should be)" : "");
	return false;
}

/* Lets KVM finish the instruction of the last exit without running another one. */
static bool finish(struct kvm_cpu *c, enum vm_exit_kind *kind) {
	while (c->unfinished) {
		sync_tpr(c);
		__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		if (!enter(c))
			return false;
		/* Some take more than one exit, e.g. a read that crosses a page. */
		if (!serve(c, kind))
			return false;
	}
	return true;
}

static void begin(struct kvm_cpu *c) {
	if (!c->thread_ready || !pthread_equal(c->thread, pthread_self())) {
		c->thread = pthread_self();
		kvm_signal_ready();
		c->thread_ready = true;
	}
	vcpu_unpost(c->v, EVENT_FLUSH); /* translations are the hardware's */
	c->tpr_moved = true;
}

/* EXIT_PREEMPTED, or what ended it otherwise. */
static enum vm_exit_kind loop(struct kvm_cpu *c) {
	enum vm_exit_kind kind = EXIT_FAILED;
	begin(c);
	if (!kvm_chips_in(c) || (c->push && !kvm_push_state(c)) || !kvm_push_tsc(c))
		return EXIT_FAILED;
	for (;;) {
		/* In this order: who posts an event sets the flag after it. */
		__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		__atomic_store_n(&c->inside, 1, __ATOMIC_SEQ_CST);
		uint32_t events = vcpu_events(c->v);
		if (events & LEAVE) {
			__atomic_store_n(&c->inside, 0, __ATOMIC_SEQ_CST);
			return finish(c, &kind) ? EXIT_PREEMPTED : kind;
		}
		sync_tpr(c);
		bool entered = inject(c, events) && kvm_push_tsc(c) && enter(c);
		__atomic_store_n(&c->inside, 0, __ATOMIC_SEQ_CST);
		if (!entered)
			return EXIT_FAILED;
		if (!serve(c, &kind))
			return kind;
	}
}

void kvm_run(struct vcpu *v, struct vm_exit *out) {
	struct kvm_cpu *c = v->engine;
	kvm_bells_enter(c->e);
	out->kind = loop(c);
	kvm_bells_leave(c->e);
	/* Whoever looks at the bitmap does so while no vCPU runs. */
	int r = v->vm->mem.dirty ? kvm_collect_dirty(c) : 0;
	if (r) {
		out->kind = EXIT_FAILED;
		kvm_report(c, "KVM does not tell which memory was written: %s", strerror(-r));
	}
	if (out->kind == EXIT_FAILED)
		out->failed.why = c->why;
}
