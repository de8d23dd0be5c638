/* The processor that KVM can show ([KVM api.rst] KVM_GET_SUPPORTED_CPUID), as what a CPUID policy
 * is made from, and the policy given to a vCPU. The policy decides; nothing of the host's reaches a
 * guest past it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

#define ENTRIES 256

struct cpuid_list {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[ENTRIES];
};

/* What this host's KVM supports: a fact of the process's life, asked for once. */
static struct cpuid_list supported;
static struct cpuid_host this_host;
static struct err failure;
static int failed;
static pthread_once_t asked = PTHREAD_ONCE_INIT;

/* What is not in KVM's list, but works: the hypervisor bit is ours to show, and the deadline
 * timer is the local APIC's. */
static void add_ours(uint32_t leaf, uint32_t out[4]) {
	if (leaf == 1)
		out[2] |= BIT(31) | BIT(24) | BIT(21);
}

static void query(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
	/* Identity and caches are the host's; KVM's list has them, too, but needs not. */
	if ((leaf >= 0x80000002 && leaf <= 0x80000006) || leaf == 4 || leaf == 0x8000001d) {
		this_host.query(leaf, subleaf, out);
		return;
	}
	memset(out, 0, 4 * sizeof(out[0]));
	for (unsigned i = 0; i < supported.head.nent; i++) {
		const struct kvm_cpuid_entry2 *k = &supported.entries[i];
		bool indexed = k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		if (k->function != leaf || (indexed && k->index != subleaf))
			continue;
		const uint32_t regs[4] = {k->eax, k->ebx, k->ecx, k->edx};
		memcpy(out, regs, sizeof(regs));
		add_ours(leaf, out);
		return;
	}
}

static void ask(void) {
	int fd = kvm_open(&failure);
	if (fd < 0) {
		failed = fd;
		return;
	}
	supported.head.nent = ENTRIES;
	if (kvm_ioctl(fd, KVM_GET_SUPPORTED_CPUID, &supported) < 0)
		failed =
			err_set(&failure, errno, "KVM does not tell what CPU it supports: %s", strerror(errno));
	close(fd);
	this_host = cpuid_this_host();
}

int kvm_cpuid_host(struct cpuid_host *h, struct err *e) {
	uint32_t out[4];
	pthread_once(&asked, ask);
	if (failed)
		return err_set(e, -failed, "%s", failure.text);
	*h = (struct cpuid_host){.query = query, .xcr0 = this_host.xcr0, .strict = true};
	query(0xd, 0, out);
	h->xcr0 &= out[0] | (uint64_t)out[3] << 32;
	return 0;
}

int kvm_set_cpuid(struct kvm_cpu *c, struct err *e) {
	const struct cpuid_policy *p = c->v->vm->cpuid;
	struct cpuid_list *list = calloc(1, sizeof(*list));
	if (!list)
		return err_set(e, ERR_NOMEM, "no memory for vCPU %u's CPUID", c->v->id);
	_Static_assert(CPUID_LEAVES <= ENTRIES, "a policy fits");
	for (unsigned i = 0; i < p->nleaves; i++) {
		const struct cpuid_leaf *l = &p->leaves[i];
		uint32_t out[4];
		cpuid_query(p, l->leaf, l->subleaf, &c->v->state, c->v->id, out);
		bool indexed = l->leaf == 4 || l->leaf == 7 || l->leaf == 0xb || l->leaf == 0xd ||
					   l->leaf == 0x8000001d;
		list->entries[list->head.nent++] = (struct kvm_cpuid_entry2){
			.function = l->leaf,
			.index = l->subleaf,
			.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = out[0],
			.ebx = out[1],
			.ecx = out[2],
			.edx = out[3],
		};
	}
	int r = kvm_ioctl(c->fd, KVM_SET_CPUID2, list);
	int code = errno;
	free(list);
	return r < 0 ? err_set(e, code, "KVM refuses CPU model %s: %s", p->model, strerror(code)) : 0;
}
