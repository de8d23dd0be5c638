/* struct x86_state to KVM and back ([KVM api.rst] KVM_SET_REGS and its like). The state is the
 * manuals'; what KVM keeps differently is turned here, so that any engine can go on with it.
 * On the vCPU's thread, or while it does not run; the VM lock is not held. */
#include <errno.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

#define XSAVE_HEADER 512

/* ---- to KVM ------------------------------------------------------------------------------ */

static bool put(struct kvm_cpu *c, unsigned long request, void *arg, const char *what) {
	if (kvm_ioctl(c->fd, request, arg) >= 0)
		return true;
	kvm_report(c, "KVM refuses the %s: %s", what, strerror(errno));
	return false;
}

static struct kvm_segment segment_to_kvm(const struct x86_segment *s) {
	bool unusable = s->attr & SEG_ATTR_UNUSABLE;
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & SEG_ATTR_TYPE,
		.present = (s->attr & SEG_ATTR_P) && !unusable,
		.dpl = s->attr >> SEG_ATTR_DPL_SHIFT & 3,
		.db = !!(s->attr & SEG_ATTR_DB),
		.s = !!(s->attr & SEG_ATTR_S),
		.l = !!(s->attr & SEG_ATTR_L),
		.g = !!(s->attr & SEG_ATTR_G),
		.avl = !!(s->attr & SEG_ATTR_AVL),
		.unusable = unusable,
	};
}

/* CR8 as the guest's local APIC has it. */
static uint8_t cr8(struct kvm_cpu *c) {
	const struct vm *vm = c->e->vm;
	if (c->e->irqs == KVM_IRQS_OFF) /* the lock is not held */
		return vcpu_get_tpr(c->v) >> 4;
	return vm->get_tpr(vm->board, c->v) >> 4;
}

static bool put_sregs(struct kvm_cpu *c) {
	const struct x86_state *s = &c->v->state;
	struct kvm_sregs k = {
		.es = segment_to_kvm(&s->seg[SEG_ES]),
		.cs = segment_to_kvm(&s->seg[SEG_CS]),
		.ss = segment_to_kvm(&s->seg[SEG_SS]),
		.ds = segment_to_kvm(&s->seg[SEG_DS]),
		.fs = segment_to_kvm(&s->seg[SEG_FS]),
		.gs = segment_to_kvm(&s->seg[SEG_GS]),
		.ldt = segment_to_kvm(&s->seg[SEG_LDTR]),
		.tr = segment_to_kvm(&s->seg[SEG_TR]),
		.gdt = {.base = s->gdtr.base, .limit = s->gdtr.limit},
		.idt = {.base = s->idtr.base, .limit = s->idtr.limit},
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = cr8(c),
		.efer = s->efer,
		.apic_base = kvm_apic_base(c),
	};
	return put(c, KVM_SET_SREGS, &k, "segments and control registers");
}

static bool put_regs(struct kvm_cpu *c) {
	const struct x86_state *s = &c->v->state;
	const uint64_t *g = s->gpr;
	struct kvm_regs k = {
		.rax = g[RAX],
		.rbx = g[RBX],
		.rcx = g[RCX],
		.rdx = g[RDX],
		.rsi = g[RSI],
		.rdi = g[RDI],
		.rsp = g[RSP],
		.rbp = g[RBP],
		.r8 = g[R8],
		.r9 = g[R9],
		.r10 = g[R10],
		.r11 = g[R11],
		.r12 = g[R12],
		.r13 = g[R13],
		.r14 = g[R14],
		.r15 = g[R15],
		.rip = s->rip,
		.rflags = s->rflags,
	};
	return put(c, KVM_SET_REGS, &k, "general registers");
}

static bool put_fpu(struct kvm_cpu *c) {
	const struct x86_state *s = &c->v->state;
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = s->xcr0}}};
	struct kvm_xsave k;
	/* Without the feature the guest has no XCR0 that KVM would take. */
	if (cpuid_has(c->v->vm->cpuid, X86_FEAT_XSAVE) && !put(c, KVM_SET_XCRS, &x, "XCR0"))
		return false;
	memset(&k, 0, sizeof(k));
	memcpy(&k, s->xsave, sizeof(s->xsave));
	return put(c, KVM_SET_XSAVE, &k, "FPU state");
}

static bool put_msrs(struct kvm_cpu *c) {
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[KVM_MSRS];
	} k = {0};
	uint64_t *where[KVM_MSRS];
	k.head.nmsrs = kvm_msr_list(c, k.entries, where);
	for (unsigned i = 0; i < k.head.nmsrs; i++)
		k.entries[i].data = *where[i];
	int n = kvm_ioctl(c->fd, KVM_SET_MSRS, &k);
	if (n == (int)k.head.nmsrs)
		return true;
	if (n < 0)
		kvm_report(c, "KVM refuses the MSRs: %s", strerror(errno));
	else /* the first one that it did not take */
		kvm_report(c, "KVM refuses %llx for MSR %x", (unsigned long long)k.entries[n].data,
				   k.entries[n].index);
	return false;
}

static bool put_debug(struct kvm_cpu *c) {
	const struct x86_state *s = &c->v->state;
	struct kvm_debugregs k = {.dr6 = s->dr6, .dr7 = s->dr7};
	memcpy(k.db, s->dr, sizeof(k.db));
	return put(c, KVM_SET_DEBUGREGS, &k, "debug registers");
}

static bool put_events(struct kvm_cpu *c) {
	const struct x86_state *s = &c->v->state;
	const struct x86_event *ev = &s->event;
	struct kvm_vcpu_events k = {.flags =
									KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW};
	if (ev->kind == X86_EVENT_EXCEPTION) {
		k.exception.injected = 1;
		k.exception.nr = ev->vector;
		k.exception.has_error_code = ev->has_error;
		k.exception.error_code = ev->error;
	} else if (ev->kind == X86_EVENT_EXT_INT || ev->kind == X86_EVENT_SOFT_INT) {
		k.interrupt.injected = 1;
		k.interrupt.nr = ev->vector;
		k.interrupt.soft = ev->kind == X86_EVENT_SOFT_INT;
	} else if (ev->kind == X86_EVENT_NMI) {
		k.nmi.injected = 1;
	}
	if (s->shadow & SHADOW_STI)
		k.interrupt.shadow |= KVM_X86_SHADOW_INT_STI;
	if (s->shadow & SHADOW_MOV_SS)
		k.interrupt.shadow |= KVM_X86_SHADOW_INT_MOV_SS;
	k.nmi.masked = s->nmi_masked;
	return put(c, KVM_SET_VCPU_EVENTS, &k, "events in flight");
}

bool kvm_push_state(struct kvm_cpu *c) {
	const struct x86_state *s = &c->v->state;
	if (!put_sregs(c) || !put_fpu(c) || !put_msrs(c) || !put_regs(c) || !put_debug(c) ||
		!put_events(c) || !kvm_push_tsc(c))
		return false;
	c->push = false;
	c->cr8 = cr8(c);
	/* Whether the local APIC lets the 8259 through is KVM's to say. */
	c->ready = c->e->irqs == KVM_IRQS_OFF && (s->rflags & RFLAGS_IF) && !s->shadow &&
			   s->event.kind == X86_EVENT_NONE;
	return true;
}

/* ---- from KVM ---------------------------------------------------------------------------- */

static bool get(struct kvm_cpu *c, unsigned long request, void *arg, const char *what) {
	if (kvm_ioctl(c->fd, request, arg) >= 0)
		return true;
	kvm_report(c, "KVM does not tell the %s: %s", what, strerror(errno));
	return false;
}

static struct x86_segment segment_from_kvm(const struct kvm_segment *k) {
	uint32_t attr = k->type | (uint32_t)k->dpl << SEG_ATTR_DPL_SHIFT;
	attr |= k->s ? SEG_ATTR_S : 0;
	attr |= k->present ? SEG_ATTR_P : 0;
	attr |= k->avl ? SEG_ATTR_AVL : 0;
	attr |= k->l ? SEG_ATTR_L : 0;
	attr |= k->db ? SEG_ATTR_DB : 0;
	attr |= k->g ? SEG_ATTR_G : 0;
	attr |= k->unusable ? SEG_ATTR_UNUSABLE : 0;
	return (struct x86_segment){k->selector, attr, k->limit, k->base};
}

static bool get_sregs(struct kvm_cpu *c) {
	struct x86_state *s = &c->v->state;
	struct kvm_sregs k;
	if (!get(c, KVM_GET_SREGS, &k, "segments and control registers"))
		return false;
	s->seg[SEG_ES] = segment_from_kvm(&k.es);
	s->seg[SEG_CS] = segment_from_kvm(&k.cs);
	s->seg[SEG_SS] = segment_from_kvm(&k.ss);
	s->seg[SEG_DS] = segment_from_kvm(&k.ds);
	s->seg[SEG_FS] = segment_from_kvm(&k.fs);
	s->seg[SEG_GS] = segment_from_kvm(&k.gs);
	s->seg[SEG_LDTR] = segment_from_kvm(&k.ldt);
	s->seg[SEG_TR] = segment_from_kvm(&k.tr);
	s->gdtr = (struct x86_dtable){k.gdt.base, k.gdt.limit};
	s->idtr = (struct x86_dtable){k.idt.base, k.idt.limit};
	s->cr0 = k.cr0;
	s->cr2 = k.cr2;
	s->cr3 = k.cr3;
	s->cr4 = k.cr4;
	s->cr8 = k.cr8;
	s->efer = k.efer;
	return true;
}

static bool get_regs(struct kvm_cpu *c) {
	struct x86_state *s = &c->v->state;
	struct kvm_regs k;
	if (!get(c, KVM_GET_REGS, &k, "general registers"))
		return false;
	const uint64_t g[16] = {k.rax, k.rcx, k.rdx, k.rbx, k.rsp, k.rbp, k.rsi, k.rdi,
							k.r8,  k.r9,  k.r10, k.r11, k.r12, k.r13, k.r14, k.r15};
	memcpy(s->gpr, g, sizeof(g));
	s->rip = k.rip;
	s->rflags = k.rflags;
	return true;
}

static bool get_fpu(struct kvm_cpu *c) {
	struct x86_state *s = &c->v->state;
	struct kvm_xcrs x = {.nr_xcrs = 1};
	struct kvm_xsave k;
	if (cpuid_has(c->v->vm->cpuid, X86_FEAT_XSAVE)) {
		if (!get(c, KVM_GET_XCRS, &x, "XCR0"))
			return false;
		for (unsigned i = 0; i < x.nr_xcrs && i < KVM_MAX_XCRS; i++)
			if (x.xcrs[i].xcr == 0)
				s->xcr0 = x.xcrs[i].value;
	}
	if (!get(c, KVM_GET_XSAVE, &k, "FPU state"))
		return false;
	memcpy(s->xsave, &k, sizeof(s->xsave));
	uint64_t there = le64_get(s->xsave + XSAVE_HEADER);
	le64_put(s->xsave + XSAVE_HEADER, there & (c->v->vm->cpuid->xcr0 | XCR0_X87 | XCR0_SSE));
	memset(s->xsave + XSAVE_HEADER + 8, 0, 56);
	return true;
}

static bool get_msrs(struct kvm_cpu *c) {
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[KVM_MSRS];
	} k = {0};
	uint64_t *where[KVM_MSRS];
	k.head.nmsrs = kvm_msr_list(c, k.entries, where);
	int n = kvm_ioctl(c->fd, KVM_GET_MSRS, &k);
	if (n != (int)k.head.nmsrs) {
		if (n < 0)
			kvm_report(c, "KVM does not tell the MSRs: %s", strerror(errno));
		else
			kvm_report(c, "KVM does not tell MSR %x", k.entries[n].index);
		return false;
	}
	for (unsigned i = 0; i < k.head.nmsrs; i++)
		*where[i] = k.entries[i].data;
	return true;
}

static bool get_debug(struct kvm_cpu *c) {
	struct x86_state *s = &c->v->state;
	struct kvm_debugregs k;
	if (!get(c, KVM_GET_DEBUGREGS, &k, "debug registers"))
		return false;
	memcpy(s->dr, k.db, sizeof(s->dr));
	s->dr6 = k.dr6;
	s->dr7 = k.dr7;
	return true;
}

static void event_from_kvm(struct x86_event *ev, const struct kvm_vcpu_events *k) {
	*ev = (struct x86_event){0};
	if (k->exception.injected || (k->flags & KVM_VCPUEVENT_VALID_PAYLOAD && k->exception.pending))
		*ev = (struct x86_event){X86_EVENT_EXCEPTION, k->exception.nr, k->exception.has_error_code,
								 k->exception.error_code};
	else if (k->nmi.injected)
		*ev = (struct x86_event){.kind = X86_EVENT_NMI, .vector = VEC_NMI};
	else if (k->interrupt.injected)
		*ev = (struct x86_event){.kind = k->interrupt.soft ? X86_EVENT_SOFT_INT : X86_EVENT_EXT_INT,
								 .vector = k->interrupt.nr};
}

/* An NMI that waits in KVM is an event of ours, not a part of the processor. */
static bool take_nmi(struct kvm_cpu *c, struct kvm_vcpu_events *k) {
	if (!k->nmi.pending)
		return true;
	vcpu_post(c->v, EVENT_NMI);
	k->nmi.pending = 0;
	k->flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
	if (kvm_ioctl(c->fd, KVM_SET_VCPU_EVENTS, k) >= 0)
		return true;
	kvm_report(c, "KVM refuses to give its NMI back: %s", strerror(errno));
	return false;
}

static bool get_events(struct kvm_cpu *c) {
	struct x86_state *s = &c->v->state;
	struct kvm_vcpu_events k;
	if (!get(c, KVM_GET_VCPU_EVENTS, &k, "events in flight"))
		return false;
	event_from_kvm(&s->event, &k);
	/* AMD's one shadow bit comes back as both. */
	s->shadow = k.interrupt.shadow & KVM_X86_SHADOW_INT_STI		 ? SHADOW_STI
				: k.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS
																 : 0;
	s->nmi_masked = k.nmi.masked;
	return take_nmi(c, &k);
}

bool kvm_fetch_state(struct kvm_cpu *c) {
	if (!get_sregs(c) || !get_regs(c) || !get_fpu(c) || !get_msrs(c) || !get_debug(c) ||
		!get_events(c))
		return false;
	c->stale = false;
	return true;
}

bool kvm_fetch_halt(struct kvm_cpu *c) {
	struct kvm_regs r;
	struct kvm_vcpu_events ev;
	if (!get(c, KVM_GET_REGS, &r, "general registers") ||
		!get(c, KVM_GET_VCPU_EVENTS, &ev, "events in flight"))
		return false;
	c->v->state.rflags = r.rflags;
	c->v->state.nmi_masked = ev.nmi.masked;
	/* One that could not go in between STI and HLT ends the halt. */
	return take_nmi(c, &ev);
}
