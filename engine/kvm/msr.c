/* MSRs. KVM keeps those that the hardware must have; all others come out and are answered as
 * on any engine (core/vm/msr.h, the board), so that a guest sees the same machine. */
#include <errno.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/vm/msr.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

/* What the guest reads and writes without leaving KVM. */
static const struct {
	uint32_t first, count;
	bool apic; /* where KVM has the local APICs */
} inside[] = {
	{MSR_SPEC_CTRL, 2, false}, /* and PRED_CMD */
	{MSR_APIC_BASE, 1, true},  {MSR_TSC_DEADLINE, 1, true}, {MSR_SYSENTER_CS, 3, false},
	{MSR_PAT, 1, false},	   {MSR_XSS, 1, false},			{MSR_EFER, 5, false},
	{MSR_FS_BASE, 4, false},
};

int kvm_msr_filter(struct kvm_engine *e, struct err *err) {
	static uint8_t all[1] = {0xff};
	struct kvm_msr_filter f = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
				 KVM_MSR_EXIT_REASON_FILTER},
	};
	_Static_assert(ARRAY_LEN(inside) <= KVM_MSR_FILTER_MAX_RANGES, "more ranges than KVM takes");
	for (unsigned i = 0, n = 0; i < ARRAY_LEN(inside); i++) {
		if (inside[i].apic && e->irqs == KVM_IRQS_OFF)
			continue;
		f.ranges[n++] =
			(struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
										  .base = inside[i].first,
										  .nmsrs = inside[i].count,
										  .bitmap = all};
	}
	if (kvm_ioctl(e->fd, KVM_ENABLE_CAP, &cap) < 0 ||
		kvm_ioctl(e->fd, KVM_X86_SET_MSR_FILTER, &f) < 0)
		return err_set(err, errno, "KVM refuses to let MSRs out: %s", strerror(errno));
	return 0;
}

void kvm_exit_rdmsr(struct kvm_cpu *c) {
	struct kvm_run *run = c->run;
	uint64_t val = 0;
	enum msr_answer answer = vcpu_rdmsr(c->v, run->msr.index, &val);
	if (answer == MSR_OTHER) {
		struct vm_exit x = {.kind = EXIT_RDMSR};
		x.msr.index = run->msr.index;
		vcpu_exit(c->v, &x);
		answer = x.msr.fault ? MSR_FAULT : MSR_OK;
		val = x.msr.val;
	}
	run->msr.data = val;
	run->msr.error = answer != MSR_OK;
}

void kvm_exit_wrmsr(struct kvm_cpu *c) {
	struct kvm_run *run = c->run;
	enum msr_answer answer = vcpu_wrmsr(c->v, run->msr.index, run->msr.data);
	if (answer == MSR_OTHER) {
		struct vm_exit x = {.kind = EXIT_WRMSR};
		x.msr.index = run->msr.index;
		x.msr.val = run->msr.data;
		vcpu_exit(c->v, &x);
		answer = x.msr.fault ? MSR_FAULT : MSR_OK;
	}
	run->msr.error = answer != MSR_OK;
}

/* The MSRs of struct x86_state that are in KVM, and where in the state each is. */
unsigned kvm_msr_list(const struct kvm_cpu *c, struct kvm_msr_entry *list, uint64_t **where) {
	struct x86_state *s = &c->v->state;
	const struct cpuid_policy *p = c->v->vm->cpuid;
	const struct {
		uint32_t index;
		uint64_t *at;
		enum x86_feature needs;
	} all[KVM_MSRS] = {
		{MSR_SYSENTER_CS, &s->sysenter_cs, X86_FEAT_NONE},
		{MSR_SYSENTER_ESP, &s->sysenter_esp, X86_FEAT_NONE},
		{MSR_SYSENTER_EIP, &s->sysenter_eip, X86_FEAT_NONE},
		{MSR_PAT, &s->pat, X86_FEAT_NONE},
		{MSR_STAR, &s->star, X86_FEAT_NONE},
		{MSR_LSTAR, &s->lstar, X86_FEAT_NONE},
		{MSR_CSTAR, &s->cstar, X86_FEAT_NONE},
		{MSR_SFMASK, &s->sfmask, X86_FEAT_NONE},
		{MSR_KERNEL_GS_BASE, &s->kernel_gs_base, X86_FEAT_NONE},
		{MSR_TSC_AUX, &s->tsc_aux, X86_FEAT_RDTSCP},
		{MSR_SPEC_CTRL, &s->spec_ctrl, X86_FEAT_SPEC_CTRL},
		{MSR_XSS, &s->xss, X86_FEAT_XSAVES},
	};
	unsigned n = 0;
	for (unsigned i = 0; i < KVM_MSRS && all[i].at; i++) {
		if (!cpuid_has(p, all[i].needs))
			continue;
		list[n] = (struct kvm_msr_entry){.index = all[i].index};
		where[n++] = all[i].at;
	}
	return n;
}
