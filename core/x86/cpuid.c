/* Builds and answers the CPUID policy ([SDM2 CPUID], [APM3 E], [KVM-CPUID]).
 *
 * A feature is shown if the model wants it and either the engines provide it by
 * themselves (system features) or the host has it (instructions that run as
 * themselves). Left out on purpose: virtualization, TSX, SGX, MPX, PKU, CET, AMX, user
 * interrupts, LA57, MONITOR, SMAP, performance counters. */
#include "core/x86/cpuid.h"

#include "core/base/bits.h"
#include "core/base/string.h"
#include "core/x86/regs.h"

#define PHYS_BITS_MAX 46
#define LAPIC_HZ 1000000000u /* what our local APIC's timer counts, core/chip/lapic.h */

enum { EAX, EBX, ECX, EDX };

/* ---- which model shows what ------------------------------------------------------------------ */

#define LEVEL_MASK 0x0f /* lowest x86-64 level that has it; 5: model "host" only */
#define OURS 0x10		/* engines provide it, whatever the host */
#define INFORM 0x20		/* says how the host behaves: shown where true, never demanded */
#define AMD_ONLY 0x40
#define INTEL_ONLY 0x80
#define HOST 5

static const uint8_t wanted[X86_FEAT_COUNT] = {
	[X86_FEAT_FPU] = 1 | OURS,
	[X86_FEAT_VME] = 1 | OURS,
	[X86_FEAT_DE] = 1 | OURS,
	[X86_FEAT_PSE] = 1 | OURS,
	[X86_FEAT_TSC] = 1 | OURS,
	[X86_FEAT_MSR] = 1 | OURS,
	[X86_FEAT_PAE] = 1 | OURS,
	[X86_FEAT_MCE] = 1 | OURS,
	[X86_FEAT_CX8] = 1 | OURS,
	[X86_FEAT_APIC] = 1 | OURS,
	[X86_FEAT_SEP] = 1 | OURS,
	[X86_FEAT_MTRR] = 1 | OURS,
	[X86_FEAT_PGE] = 1 | OURS,
	[X86_FEAT_MCA] = 1 | OURS,
	[X86_FEAT_CMOV] = 1 | OURS,
	[X86_FEAT_PAT] = 1 | OURS,
	[X86_FEAT_PSE36] = 1 | OURS,
	[X86_FEAT_CLFLUSH] = 1 | OURS,
	[X86_FEAT_MMX] = 1,
	[X86_FEAT_FXSR] = 1,
	[X86_FEAT_SSE] = 1,
	[X86_FEAT_SSE2] = 1,
	[X86_FEAT_SYSCALL] = 1 | OURS,
	[X86_FEAT_NX] = 1 | OURS,
	[X86_FEAT_LM] = 1 | OURS,
	/* System features that cost nothing, on every model. */
	[X86_FEAT_X2APIC] = 1 | OURS,
	[X86_FEAT_TSC_DEADLINE] = 1 | OURS,
	[X86_FEAT_HYPERVISOR] = 1 | OURS,
	[X86_FEAT_ARAT] = 1 | OURS,
	[X86_FEAT_TSC_ADJUST] = 1 | OURS,
	[X86_FEAT_CONSTANT_TSC] = 1 | OURS | INFORM,
	[X86_FEAT_GBPAGES] = 1 | OURS | INFORM,
	[X86_FEAT_RDTSCP] = 1 | OURS,
	[X86_FEAT_3DNOWPREFETCH] = 1 | OURS,
	[X86_FEAT_TOPOEXT] = 1 | OURS | AMD_ONLY,
	[X86_FEAT_FDP_EXCPTN_ONLY] = 1 | INFORM,
	[X86_FEAT_ZERO_FCS_FDS] = 1 | INFORM,
	[X86_FEAT_XSAVEERPTR] = 1 | INFORM,
	/* What makes kernels leave out mitigations that do not reach the host's CPU from within a
	 * guest of engine soft, and that cost it dearly: page table isolation, return thunks,
	 * retpolines, VERW on each return to user mode. (Engine kvm shows only what KVM allows.) */
	[X86_FEAT_LFENCE_SERIAL] = 1 | OURS | INFORM | AMD_ONLY,
	[X86_FEAT_NULL_SEL_CLR_BASE] = 1 | OURS | INFORM | AMD_ONLY,
	[X86_FEAT_AUTOIBRS] = 1 | OURS | INFORM | AMD_ONLY,
	[X86_FEAT_SRSO_NO] = 1 | OURS | INFORM | AMD_ONLY,
	[X86_FEAT_TSA_SQ_NO] = 1 | OURS | INFORM | AMD_ONLY,
	[X86_FEAT_TSA_L1_NO] = 1 | OURS | INFORM | AMD_ONLY,
	[X86_FEAT_SPEC_CTRL] = 1 | OURS | INFORM | INTEL_ONLY,
	[X86_FEAT_ARCH_CAPABILITIES] = 1 | OURS | INFORM | INTEL_ONLY,
	/* x86-64-v2 */
	[X86_FEAT_CX16] = 2 | OURS,
	[X86_FEAT_LAHF_LM] = 2 | OURS,
	[X86_FEAT_POPCNT] = 2,
	[X86_FEAT_SSE3] = 2,
	[X86_FEAT_SSSE3] = 2,
	[X86_FEAT_SSE41] = 2,
	[X86_FEAT_SSE42] = 2,
	[X86_FEAT_PCID] = 2 | OURS,
	[X86_FEAT_INVPCID] = 2 | OURS,
	[X86_FEAT_SMEP] = 2 | OURS,
	[X86_FEAT_UMIP] = 2 | OURS,
	[X86_FEAT_FSGSBASE] = 2 | OURS,
	[X86_FEAT_ERMS] = 2 | OURS,
	/* x86-64-v3 */
	[X86_FEAT_AVX] = 3,
	[X86_FEAT_AVX2] = 3,
	[X86_FEAT_BMI1] = 3,
	[X86_FEAT_BMI2] = 3,
	[X86_FEAT_F16C] = 3,
	[X86_FEAT_FMA] = 3,
	[X86_FEAT_ABM] = 3,
	[X86_FEAT_MOVBE] = 3,
	[X86_FEAT_XSAVE] = 3,
	/* x86-64-v4 */
	[X86_FEAT_AVX512F] = 4,
	[X86_FEAT_AVX512BW] = 4,
	[X86_FEAT_AVX512CD] = 4,
	[X86_FEAT_AVX512DQ] = 4,
	[X86_FEAT_AVX512VL] = 4,
	/* What this host has on top. */
	[X86_FEAT_RDPID] = HOST | OURS,
	[X86_FEAT_FSRM] = HOST | OURS,
	[X86_FEAT_PCLMULQDQ] = HOST,
	[X86_FEAT_AES] = HOST,
	[X86_FEAT_RDRAND] = HOST,
	[X86_FEAT_RDSEED] = HOST,
	[X86_FEAT_ADX] = HOST,
	[X86_FEAT_SHA] = HOST,
	[X86_FEAT_CLFLUSHOPT] = HOST,
	[X86_FEAT_CLWB] = HOST,
	[X86_FEAT_CLZERO] = HOST,
	[X86_FEAT_GFNI] = HOST,
	[X86_FEAT_VAES] = HOST,
	[X86_FEAT_VPCLMULQDQ] = HOST,
	[X86_FEAT_AVX_VNNI] = HOST,
	[X86_FEAT_AVX_IFMA] = HOST,
	[X86_FEAT_AVX512IFMA] = HOST,
	[X86_FEAT_AVX512VBMI] = HOST,
	[X86_FEAT_AVX512VBMI2] = HOST,
	[X86_FEAT_AVX512VNNI] = HOST,
	[X86_FEAT_AVX512BITALG] = HOST,
	[X86_FEAT_AVX512VPOPCNTDQ] = HOST,
	[X86_FEAT_AVX512VP2INTERSECT] = HOST,
	[X86_FEAT_AVX512FP16] = HOST,
	[X86_FEAT_AVX512BF16] = HOST,
	[X86_FEAT_XSAVEOPT] = HOST,
	[X86_FEAT_XSAVEC] = HOST,
	[X86_FEAT_XGETBV1] = HOST,
	[X86_FEAT_XSAVES] = HOST,
	[X86_FEAT_MMXEXT] = HOST,
	[X86_FEAT_SSE4A] = HOST,
	[X86_FEAT_MISALIGNSSE] = HOST,
};

static const struct {
	char name[8];
	uint8_t level;
} models[] = {{"host", HOST}, {"base", 1}, {"v2", 2}, {"v3", 3}, {"v4", 4}};

/* Where each feature's bit is. */
static const struct place {
	const char *name;
	uint32_t leaf;
	uint8_t subleaf, reg, bit;
} places[X86_FEAT_COUNT] = {
#define PLACE(name, text, leaf, subleaf, reg, bit)                                                 \
	[X86_FEAT_##name] = {text, leaf, subleaf, reg, bit},
	X86_FEATURES(PLACE)
#undef PLACE
};

/* Features that need another one that may be missing; in order, so that chains resolve. */
static const struct {
	uint16_t feature, needs;
} depends[] = {
	{X86_FEAT_XSAVEOPT, X86_FEAT_XSAVE},
	{X86_FEAT_XSAVEC, X86_FEAT_XSAVE},
	{X86_FEAT_XGETBV1, X86_FEAT_XSAVE},
	{X86_FEAT_XSAVES, X86_FEAT_XSAVEC},
	{X86_FEAT_AVX, X86_FEAT_XSAVE},
	{X86_FEAT_AVX2, X86_FEAT_AVX},
	{X86_FEAT_F16C, X86_FEAT_AVX},
	{X86_FEAT_FMA, X86_FEAT_AVX},
	{X86_FEAT_VAES, X86_FEAT_AVX},
	{X86_FEAT_VPCLMULQDQ, X86_FEAT_AVX},
	{X86_FEAT_AVX_VNNI, X86_FEAT_AVX2},
	{X86_FEAT_AVX_IFMA, X86_FEAT_AVX2},
	{X86_FEAT_AVX512F, X86_FEAT_AVX2},
	{X86_FEAT_AVX512BW, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512CD, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512DQ, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512VL, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512IFMA, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512VBMI, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512VBMI2, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512VNNI, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512BITALG, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512VPOPCNTDQ, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512VP2INTERSECT, X86_FEAT_AVX512F},
	{X86_FEAT_AVX512FP16, X86_FEAT_AVX512BW},
	{X86_FEAT_AVX512BF16, X86_FEAT_AVX512BW},
};

const char *cpuid_model(unsigned n) {
	return n < ARRAY_LEN(models) ? models[n].name : NULL;
}

/* ---- the host ---------------------------------------------------------------------------------
 */

static void query_this(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
	__asm__ volatile("cpuid"
					 : "=a"(out[EAX]), "=b"(out[EBX]), "=c"(out[ECX]), "=d"(out[EDX])
					 : "0"(leaf), "2"(subleaf));
}

struct cpuid_host cpuid_this_host(void) {
	struct cpuid_host h = {.query = query_this};
	uint32_t out[4];

	query_this(1, 0, out);
	if (out[ECX] & BIT(27)) { /* OSXSAVE */
		uint32_t lo, hi;
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		h.xcr0 = lo | (uint64_t)hi << 32;
	}
	return h;
}

/* A leaf of the host, zeros beyond its last. */
static void host_leaf(const struct cpuid_host *h, uint32_t leaf, uint32_t subleaf,
					  uint32_t out[4]) {
	h->query(leaf & 0x80000000, 0, out);
	if (out[EAX] < leaf || (out[EAX] ^ leaf) >> 31)
		memset(out, 0, 4 * sizeof(out[0]));
	else
		h->query(leaf, subleaf, out);
}

static bool host_has(const struct cpuid_host *h, unsigned f) {
	uint32_t out[4];
	if (places[f].leaf == 7 && places[f].subleaf == 1) {
		host_leaf(h, 7, 0, out);
		if (out[EAX] < 1)
			return false;
	}
	host_leaf(h, places[f].leaf, places[f].subleaf, out);
	return out[places[f].reg] >> places[f].bit & 1;
}

/* ---- building -----------------------------------------------------------------------------------
 */

static void set(struct cpuid_policy *p, unsigned f, bool on) {
	if (on)
		p->features[f / 64] |= BIT(f % 64);
	else
		p->features[f / 64] &= ~BIT(f % 64);
}

static int choose_features(struct cpuid_policy *p, const struct cpuid_host *h, unsigned level,
						   struct err *e) {
	for (unsigned f = 1; f < X86_FEAT_COUNT; f++) {
		unsigned want = wanted[f] & LEVEL_MASK;
		if (!want || want > level || (wanted[f] & (p->amd ? INTEL_ONLY : AMD_ONLY)))
			continue;
		bool on = ((wanted[f] & OURS) && !h->strict) || host_has(h, f);
		/* State that the host's OS does not switch on cannot be used. */
		if (f == X86_FEAT_XSAVE && !(h->xcr0 & XCR0_SSE))
			on = false;
		if (f == X86_FEAT_AVX && !(h->xcr0 & XCR0_AVX))
			on = false;
		if (f == X86_FEAT_AVX512F && (h->xcr0 & XCR0_AVX512) != XCR0_AVX512)
			on = false;
		if (!on && level != HOST && !(wanted[f] & INFORM))
			return err_set(e, ERR_NOTSUP,
						   "CPU model %s needs %s, which this host does not have; use model "
						   "\"host\" or a lower level",
						   p->model, places[f].name);
		set(p, f, on);
	}
	for (unsigned n = 0; n < ARRAY_LEN(depends); n++)
		if (!cpuid_has(p, depends[n].needs))
			set(p, depends[n].feature, false);
	if (p->ncpus > 1) {
		set(p, X86_FEAT_HT, true);
		set(p, X86_FEAT_CMP_LEGACY, p->amd);
	}
	return 0;
}

static uint32_t *add(struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf) {
	static const uint32_t zero[4];
	for (unsigned n = 0; n < p->nleaves; n++)
		if (p->leaves[n].leaf == leaf && p->leaves[n].subleaf == subleaf)
			return p->leaves[n].out;
	struct cpuid_leaf *l = &p->leaves[p->nleaves++];
	l->leaf = leaf;
	l->subleaf = subleaf;
	memcpy(l->out, zero, sizeof(zero));
	return l->out;
}

static void put(struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
				uint32_t ecx, uint32_t edx) {
	uint32_t *out = add(p, leaf, subleaf);
	out[EAX] |= eax;
	out[EBX] |= ebx;
	out[ECX] |= ecx;
	out[EDX] |= edx;
}

/* log2, rounded up: how many APIC id bits n CPUs take. */
static unsigned id_bits(unsigned n) {
	unsigned b = 0;
	while (1u << b < n)
		b++;
	return b;
}

/* Leaf 0xd. Offsets and sizes are the host's, since XSAVE runs there. */
static void build_xsave(struct cpuid_policy *p, const struct cpuid_host *h) {
	uint32_t out[4];

	p->xcr0 = XCR0_X87 | XCR0_SSE;
	if (!cpuid_has(p, X86_FEAT_XSAVE)) {
		p->xcr0 = XCR0_X87;
		return;
	}
	if (cpuid_has(p, X86_FEAT_AVX))
		p->xcr0 |= XCR0_AVX;
	if (cpuid_has(p, X86_FEAT_AVX512F))
		p->xcr0 |= XCR0_AVX512;
	put(p, 0xd, 0, (uint32_t)p->xcr0, 0, 0, (uint32_t)(p->xcr0 >> 32));
	put(p, 0xd, 1, 0, 0, 0, 0);
	for (unsigned n = 2; n < 63; n++) {
		if (!(p->xcr0 >> n & 1))
			continue;
		host_leaf(h, 0xd, n, out);
		put(p, 0xd, n, out[EAX], out[EBX], out[ECX] & 2, 0);
	}
	put(p, 0xd, 0, 0, 0, cpuid_xsave_size(p, p->xcr0, false), 0);
}

uint32_t cpuid_xsave_size(const struct cpuid_policy *p, uint64_t mask, bool compacted) {
	uint32_t size = 512 + 64;

	for (unsigned n = 0; n < p->nleaves; n++) {
		const struct cpuid_leaf *l = &p->leaves[n];
		if (l->leaf != 0xd || l->subleaf < 2 || !(mask >> l->subleaf & 1))
			continue;
		if (!compacted) {
			size = MAX(size, l->out[EBX] + l->out[EAX]);
		} else {
			if (l->out[ECX] & 2)
				size = (uint32_t)align_up(size, 64);
			size += l->out[EAX];
		}
	}
	return size;
}

/* Cache leaves of the host with the sharing fields of our topology: one core a CPU, all in one
 * package, the last level shared by all. */
static void build_caches(struct cpuid_policy *p, const struct cpuid_host *h) {
	uint32_t out[4], leaf = p->amd ? 0x8000001d : 4;
	uint32_t ids = (1u << id_bits(p->ncpus)) - 1;

	for (unsigned n = 0; n < 8; n++) {
		host_leaf(h, leaf, n, out);
		if (!(out[EAX] & 0x1f))
			break;
		out[EAX] &= 0x3fff;
		if ((out[EAX] >> 5 & 7) >= 3)
			out[EAX] |= (p->amd ? p->ncpus - 1 : ids) << 14;
		if (!p->amd)
			out[EAX] |= MIN(ids, 63u) << 26;
		put(p, leaf, n, out[EAX], out[EBX], out[ECX], out[EDX]);
	}
	put(p, leaf, 8, 0, 0, 0, 0); /* the end, whatever the host says after it */
	if (p->amd) {
		host_leaf(h, 0x80000005, 0, out);
		put(p, 0x80000005, 0, out[EAX], out[EBX], out[ECX], out[EDX]);
		host_leaf(h, 0x80000006, 0, out);
		put(p, 0x80000006, 0, out[EAX], out[EBX], out[ECX], out[EDX]);
	} else {
		put(p, 2, 0, 0x00feff01, 0xf0, 0, 0); /* "see leaf 4", 64-byte prefetch */
		host_leaf(h, 0x80000006, 0, out);
		put(p, 0x80000006, 0, 0, 0, out[ECX], 0);
	}
}

static void build_identity(struct cpuid_policy *p, const struct cpuid_host *h, unsigned level) {
	static const char brands[][48] = {"Joist x86-64 processor", "Joist x86-64-v2 processor",
									  "Joist x86-64-v3 processor", "Joist x86-64-v4 processor"};
	uint32_t out[4];

	host_leaf(h, 0, 0, out);
	put(p, 0, 0, p->max_basic, out[EBX], out[ECX], out[EDX]);
	put(p, 0x80000000, 0, p->max_ext, 0, 0, 0);
	if (p->amd)
		put(p, 0x80000000, 0, 0, out[EBX], out[ECX], out[EDX]);
	for (unsigned n = 0; n < 3; n++) {
		if (level == HOST) {
			host_leaf(h, 0x80000002 + n, 0, out);
		} else {
			memcpy(out, brands[level - 1] + n * 16, 16);
		}
		put(p, 0x80000002 + n, 0, out[0], out[1], out[2], out[3]);
	}
	host_leaf(h, 1, 0, out);
	p->signature = out[EAX];
	if (level != HOST) /* a named model is the same CPU everywhere: Zen 3, Ice Lake */
		p->signature = p->amd ? 0x00a00f11 : 0x000606a6;
}

static void build_leaves(struct cpuid_policy *p, const struct cpuid_host *h, unsigned level) {
	unsigned ids = id_bits(p->ncpus);

	build_identity(p, h, level);
	build_caches(p, h);
	put(p, 1, 0, p->signature, 8u << 8 | (p->ncpus > 1 ? 1u << ids << 16 : 0), 0, 0);
	put(p, 5, 0, 0, 0, 0, 0);
	put(p, 6, 0, 0, 0, 0, 0);
	put(p, 7, 0, 1, 0, 0, 0);
	put(p, 0xb, 0, 0, 1, 0x100, 0);
	put(p, 0xb, 1, ids, p->ncpus, 0x201, 0);
	build_xsave(p, h);
	/* The TSC counts tsc_khz, told as a multiple of the APIC timer's clock. */
	put(p, 0x15, 0, LAPIC_HZ / 1000, p->tsc_khz, LAPIC_HZ, 0);
	put(p, 0x16, 0, p->tsc_khz / 1000, p->tsc_khz / 1000, 100, 0);

	put(p, 0x40000000, 0, 0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d); /* "KVMKVMKVM" */
	/* KVM_FEATURE_CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE_BIT */
	put(p, 0x40000001, 0, BIT(0) | BIT(1) | BIT(3) | BIT(24), 0, 0, 0);
	put(p, 0x40000010, 0, p->tsc_khz, LAPIC_HZ / 1000, 0, 0);

	put(p, 0x80000001, 0, p->amd ? p->signature : 0, 0, 0, 0);
	put(p, 0x80000007, 0, 0, 0, 0, 0);
	put(p, 0x80000008, 0, p->phys_bits | (uint32_t)p->virt_bits << 8, 0, 0, 0);
	if (p->amd) {
		put(p, 0x80000008, 0, 0, 0, (p->ncpus - 1) | ids << 12, 0);
		put(p, 0x8000001e, 0, 0, 0, 0, 0);
	}
	for (unsigned f = 1; f < X86_FEAT_COUNT; f++)
		if (cpuid_has(p, f))
			add(p, places[f].leaf, places[f].subleaf)[places[f].reg] |= 1u << places[f].bit;
	if (p->amd) /* the bits of 1.EDX that AMD repeats */
		add(p, 0x80000001, 0)[EDX] |= add(p, 1, 0)[EDX] & 0x0183f3ff;
}

int cpuid_init_from(struct cpuid_policy *p, const struct cpuid_host *h, const char *model,
					unsigned ncpus, uint32_t tsc_khz, struct err *e) {
	uint32_t out[4];
	unsigned n = 0;

	while (n < ARRAY_LEN(models) && !str_eq(models[n].name, model))
		n++;
	if (n == ARRAY_LEN(models))
		return err_set(e, ERR_INVAL, "no CPU model \"%s\"; there are host, base, v2, v3 and v4",
					   model);
	memset(p, 0, sizeof(*p));
	memcpy(p->model, models[n].name, sizeof(models[n].name));
	p->ncpus = ncpus;
	p->tsc_khz = tsc_khz;
	h->query(0, 0, out);
	p->amd = out[ECX] == 0x444d4163 || out[ECX] == 0x656e6975; /* "cAMD", "uine": Hygon */
	p->max_basic = 0x16;
	p->max_ext = p->amd ? 0x80000021 : 0x80000008;
	host_leaf(h, 0x80000008, 0, out);
	unsigned phys = out[EAX] & 0xff;
	p->phys_bits = (uint8_t)(phys >= 36 && phys < PHYS_BITS_MAX ? phys : PHYS_BITS_MAX);
	p->virt_bits = 48;
	int r = choose_features(p, h, models[n].level, e);
	if (r < 0)
		return r;
	build_leaves(p, h, models[n].level);
	return 0;
}

int cpuid_init(struct cpuid_policy *p, const char *model, unsigned ncpus, uint32_t tsc_khz,
			   struct err *e) {
	struct cpuid_host host = cpuid_this_host();
	return cpuid_init_from(p, &host, model, ncpus, tsc_khz, e);
}

/* ---- answering
 * ------------------------------------------------------------------------------------ */

/* What changes with the CPU and its registers. */
static void fix_dynamic(const struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf,
						const struct cpuid_dynamic *s, uint32_t out[4]) {
	switch (leaf) {
	case 1:
		out[EBX] |= s->apic_id << 24;
		if (s->cr4 & CR4_OSXSAVE)
			out[ECX] |= BIT(27);
		break;
	case 0xb:
		if (subleaf > 1)
			out[ECX] = subleaf & 0xff;
		out[EDX] = s->apic_id;
		break;
	case 0xd:
		if (!cpuid_has(p, X86_FEAT_XSAVE))
			break;
		if (subleaf == 0)
			out[EBX] = cpuid_xsave_size(p, s->xcr0, false);
		else if (subleaf == 1 && cpuid_has(p, X86_FEAT_XSAVEC))
			out[EBX] = cpuid_xsave_size(p, s->xcr0 | s->xss, true);
		break;
	case 0x8000001e:
		out[EAX] = s->apic_id;
		out[EBX] = s->apic_id & 0xff; /* core id; one thread a core */
		break;
	default:
		break;
	}
}

/* Whether ECX selects a subleaf; the others ignore it. */
static bool has_subleaves(uint32_t leaf) {
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d;
}

void cpuid_answer(const struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf,
				  const struct cpuid_dynamic *s, uint32_t out[4]) {
	memset(out, 0, 4 * sizeof(out[0]));
	/* Beyond the last leaf AMD answers zeros, Intel the last basic leaf ([SDM2 CPUID]). */
	bool beyond = leaf < 0x40000000 ? leaf > p->max_basic : leaf >= 0x80000000 && leaf > p->max_ext;
	if (leaf >= 0x40000000 && leaf < 0x80000000 && leaf > 0x400000ff)
		beyond = true;
	if (beyond) {
		if (p->amd)
			return;
		leaf = p->max_basic;
	}
	if (!has_subleaves(leaf))
		subleaf = 0;
	for (unsigned n = 0; n < p->nleaves; n++)
		if (p->leaves[n].leaf == leaf && p->leaves[n].subleaf == subleaf) {
			memcpy(out, p->leaves[n].out, sizeof(p->leaves[n].out));
			break;
		}
	if (p->amd && leaf == 0x8000001e && !cpuid_has(p, X86_FEAT_TOPOEXT))
		return;
	if (leaf == 0x8000001e && !p->amd)
		return;
	fix_dynamic(p, leaf, subleaf, s, out);
}
