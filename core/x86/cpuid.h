/* The CPUID policy: which processor a guest sees, as data.
 *
 * A policy is made once for a VM from the host's CPUID and a model, and is
 * read-only from then on (any thread). Whatever a policy does not show is not
 * there: engines ask cpuid_has() before they run an instruction. */
#ifndef CORE_X86_CPUID_H
#define CORE_X86_CPUID_H

#include "core/base/err.h"
#include "core/base/types.h"
#include "core/x86/feature.h"

#define CPUID_LEAVES 64

struct cpuid_leaf {
	uint32_t leaf, subleaf;
	uint32_t out[4]; /* EAX EBX ECX EDX */
};

struct cpuid_policy {
	char model[16];
	bool amd; /* vendor: AMD (or Hygon), else treated as Intel */
	unsigned ncpus;
	uint32_t tsc_khz;
	uint8_t phys_bits, virt_bits;
	uint32_t signature; /* leaf 1 EAX; EDX after reset */
	uint64_t xcr0;		/* every bit that XSETBV may set */
	uint32_t max_basic, max_ext;
	unsigned nleaves;
	struct cpuid_leaf leaves[CPUID_LEAVES];
	uint64_t features[(X86_FEAT_COUNT + 63) / 64];
};

/* The processor below: its CPUID, and XCR0 as its OS set it (0: no XSAVE). `strict`: nothing is
 * provided by an engine, what `query` does not show cannot be had. */
struct cpuid_host {
	void (*query)(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
	uint64_t xcr0;
	bool strict;
};

/* Asks the CPU that runs this code. */
struct cpuid_host cpuid_this_host(void);

/* Makes the policy of `model`: "host" (everything that can run here), or "base", "v2", "v3",
 * "v4" (the x86-64 levels, the same on every host of one vendor that has them). 0, or -ERR_*
 * with `e` filled: no such model, or the host lacks a feature of it. */
int cpuid_init(struct cpuid_policy *p, const char *model, unsigned ncpus, uint32_t tsc_khz,
			   struct err *e);
/* The same from a given host, for tests. */
int cpuid_init_from(struct cpuid_policy *p, const struct cpuid_host *host, const char *model,
					unsigned ncpus, uint32_t tsc_khz, struct err *e);

/* The name of model n, or NULL after the last. */
const char *cpuid_model(unsigned n);

/* The registers that some answers follow. */
struct cpuid_dynamic {
	uint64_t cr4, xcr0, xss;
	uint32_t apic_id;
};

/* What CPUID answers. out: EAX EBX ECX EDX. (With a vCPU's state: cpuid_query() in vcpu.h.) */
void cpuid_answer(const struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf,
				  const struct cpuid_dynamic *dyn, uint32_t out[4]);

static inline bool cpuid_has(const struct cpuid_policy *p, enum x86_feature f) {
	return f == X86_FEAT_NONE || (p->features[f / 64] >> (f % 64) & 1);
}

static inline bool cpuid_is_amd(const struct cpuid_policy *p) {
	return p->amd;
}

/* Size of the XSAVE area for the components in `mask` ([SDM1 13.4]): standard or compacted. */
uint32_t cpuid_xsave_size(const struct cpuid_policy *p, uint64_t mask, bool compacted);

#endif
