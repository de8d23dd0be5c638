/* See msr.h. MSRs that belong to the CPU itself, answered from struct x86_state ([SDM4], [APM2 A]).
 *
 * Left out: performance counters, thermal and power MSRs, machine check banks (MCG_CAP
 * says 0 banks); CPUID hides them and they raise #GP(0). A few MSRs
 * that kernels touch without asking CPUID read as zero and lose what is written. */
#include "core/vm/msr.h"

#include "core/base/bits.h"
#include "core/vm/vm.h"
#include "core/x86/regs.h"

/* MSRs without a name in regs.h. */
enum {
	MSR_PLATFORM_ID = 0x17,
	MSR_EBL_CR_POWERON = 0x2a,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MISC_FEATURES = 0x140,
	MSR_PERF_STATUS = 0x198,
	MSR_DEBUGCTL = 0x1d9,
	MSR_LAST_BRANCH_FROM = 0x1db,
	MSR_LAST_INT_TO = 0x1de,
	MSR_SYSCFG = 0xc0010010,
	MSR_HWCR = 0xc0010015,
	MSR_IORR_FIRST = 0xc0010016,
	MSR_IORR_LAST = 0xc0010019,
	MSR_TOP_MEM = 0xc001001a,
	MSR_TOP_MEM2 = 0xc001001d,
	MSR_NB_CFG = 0xc001001f,
	MSR_INT_PENDING = 0xc0010055,
	MSR_OSVW_LENGTH = 0xc0010140,
	MSR_OSVW_STATUS = 0xc0010141,
	MSR_AMD_LS_CFG = 0xc0011020,
	MSR_AMD_DC_CFG = 0xc0011022,
	MSR_AMD_BU_CFG = 0xc0011023,
	MSR_AMD_DE_CFG = 0xc0011029,
	MSR_AMD_BU_CFG2 = 0xc001102a,
};

#define HWCR_TSC_FREQ_SEL (1ull << 24) /* the TSC counts at P0 frequency: it is invariant */
#define DE_CFG_LFENCE_SERIALIZE (1ull << 1)
#define MTRRCAP (8 | 1ull << 8 | 1ull << 10) /* 8 variable ranges, fixed ranges, WC */
#define MTRR_MEMORY_TYPES 0x73				 /* bitmap: UC WC WT WP WB */
#define PAT_MEMORY_TYPES 0xf3				 /* and UC- */
#define MISC_ENABLE_FIXED 0x1800ull			 /* no BTS, no PEBS */
#define MISC_ENABLE_WRITABLE 1ull			 /* fast strings */

#define SPEC_CTRL_VALID 3ull /* IBRS, STIBP */
/* RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO,
 * FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO */
#define ARCH_CAPABILITIES                                                                          \
	(BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) |  \
	 BIT(20) | BIT(24) | BIT(26) | BIT(27) | BIT(62))

/* Index into mtrr_fixed, or -1. */
static int fixed_mtrr(uint32_t index) {
	if (index == MSR_MTRR_FIX64K_00000)
		return 0;
	if (index == MSR_MTRR_FIX16K_80000 || index == MSR_MTRR_FIX16K_A0000)
		return 1 + (int)(index - MSR_MTRR_FIX16K_80000);
	if (index >= MSR_MTRR_FIX4K_C0000 && index < MSR_MTRR_FIX4K_C0000 + 8)
		return 3 + (int)(index - MSR_MTRR_FIX4K_C0000);
	return -1;
}

/* Whether each of the eight bytes is a memory type of the bitmap. */
static bool types_ok(uint64_t val, unsigned types) {
	for (unsigned n = 0; n < 8; n++) {
		unsigned t = (uint8_t)(val >> (n * 8));
		if (t > 7 || !(types >> t & 1))
			return false;
	}
	return true;
}

static bool type_ok(uint64_t val) {
	return (val & 0xff) < 8 && (MTRR_MEMORY_TYPES >> (val & 7) & 1);
}

/* A whole 64-bit MSR kept in the state, or NULL. *canonical: only canonical addresses fit. */
static uint64_t *plain_msr(struct x86_state *s, uint32_t index, bool *canonical) {
	*canonical = true;
	switch (index) {
	case MSR_SYSENTER_ESP:
		return &s->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &s->sysenter_eip;
	case MSR_LSTAR:
		return &s->lstar;
	case MSR_CSTAR:
		return &s->cstar;
	case MSR_FS_BASE:
		return &s->seg[SEG_FS].base;
	case MSR_GS_BASE:
		return &s->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &s->kernel_gs_base;
	case MSR_STAR:
		*canonical = false;
		return &s->star;
	case MSR_MCG_STATUS:
		*canonical = false;
		return &s->mcg_status;
	default:
		return NULL;
	}
}

/* Read as zero, writes lost; kernels expect them on this vendor. */
static bool ignored_msr(const struct cpuid_policy *p, uint32_t index) {
	if (index >= MSR_LAST_BRANCH_FROM && index <= MSR_LAST_INT_TO)
		return true;
	if (index == MSR_DEBUGCTL)
		return true;
	if (!cpuid_is_amd(p))
		return index == MSR_PLATFORM_ID || index == MSR_EBL_CR_POWERON ||
			   index == MSR_PLATFORM_INFO || index == MSR_MISC_FEATURES || index == MSR_PERF_STATUS;
	switch (index) {
	case MSR_SYSCFG:
	case MSR_TOP_MEM:
	case MSR_TOP_MEM2:
	case MSR_NB_CFG:
	case MSR_INT_PENDING:
	case MSR_OSVW_LENGTH:
	case MSR_OSVW_STATUS:
	case MSR_AMD_LS_CFG:
	case MSR_AMD_DC_CFG:
	case MSR_AMD_BU_CFG:
	case MSR_AMD_BU_CFG2:
		return true;
	default:
		return index >= MSR_IORR_FIRST && index <= MSR_IORR_LAST;
	}
}

static bool rdmsr_mtrr(const struct x86_state *s, uint32_t index, uint64_t *val) {
	int fixed = fixed_mtrr(index);
	if (fixed >= 0) {
		*val = s->mtrr_fixed[fixed];
		return true;
	}
	if (index >= MSR_MTRR_PHYSBASE0 && index < MSR_MTRR_PHYSBASE0 + 16) {
		unsigned n = (index - MSR_MTRR_PHYSBASE0) / 2;
		*val = index & 1 ? s->mtrr_mask[n] : s->mtrr_base[n];
		return true;
	}
	return false;
}

enum msr_answer vcpu_rdmsr(struct vcpu *v, uint32_t index, uint64_t *val) {
	struct x86_state *s = &v->state;
	const struct cpuid_policy *p = v->vm->cpuid;
	bool amd = cpuid_is_amd(p), there = true, canonical;
	const uint64_t *plain = plain_msr(s, index, &canonical);

	if (plain) {
		*val = *plain;
		return MSR_OK;
	}
	*val = 0;
	if (ignored_msr(p, index) || rdmsr_mtrr(s, index, val))
		return MSR_OK;
	switch (index) {
	case MSR_TSC:
		*val = vcpu_tsc(v);
		break;
	case MSR_TSC_ADJUST:
		*val = s->tsc_adjust;
		break;
	case MSR_FEATURE_CONTROL:
		*val = s->feature_control | 1; /* locked, nothing on */
		there = !amd;
		break;
	case MSR_SPEC_CTRL:
		*val = s->spec_ctrl;
		there = cpuid_has(p, X86_FEAT_SPEC_CTRL);
		break;
	case MSR_ARCH_CAPABILITIES:
		*val = ARCH_CAPABILITIES;
		there = cpuid_has(p, X86_FEAT_ARCH_CAPABILITIES);
		break;
	case MSR_BIOS_SIGN_ID: /* microcode new enough that kernels look for no older bugs */
		*val = amd ? 0x01000065 : 0x100000000ull;
		break;
	case MSR_MTRRCAP:
		*val = MTRRCAP;
		break;
	case MSR_MTRR_DEF_TYPE:
		*val = s->mtrr_def_type;
		break;
	case MSR_PAT:
		*val = s->pat;
		break;
	case MSR_SYSENTER_CS:
		*val = s->sysenter_cs;
		break;
	case MSR_MCG_CAP:
		break;
	case MSR_MISC_ENABLE:
		*val = s->misc_enable | MISC_ENABLE_FIXED;
		there = !amd;
		break;
	case MSR_XSS:
		*val = s->xss;
		there = cpuid_has(p, X86_FEAT_XSAVES);
		break;
	case MSR_EFER:
		*val = s->efer;
		break;
	case MSR_SFMASK:
		*val = s->sfmask;
		break;
	case MSR_TSC_AUX:
		*val = s->tsc_aux;
		there = cpuid_has(p, X86_FEAT_RDTSCP);
		break;
	case MSR_HWCR:
		*val = HWCR_TSC_FREQ_SEL;
		there = amd;
		break;
	case MSR_AMD_DE_CFG:
		*val = DE_CFG_LFENCE_SERIALIZE;
		there = amd;
		break;
	default:
		there = false;
	}
	return there ? MSR_OK : MSR_OTHER;
}

static enum msr_answer wrmsr_mtrr(struct vcpu *v, uint32_t index, uint64_t val) {
	struct x86_state *s = &v->state;
	uint64_t beyond = ~(BIT(v->vm->cpuid->phys_bits) - 1);
	int fixed = fixed_mtrr(index);

	if (fixed >= 0) {
		if (!types_ok(val, MTRR_MEMORY_TYPES))
			return MSR_FAULT;
		s->mtrr_fixed[fixed] = val;
		return MSR_OK;
	}
	if (index >= MSR_MTRR_PHYSBASE0 && index < MSR_MTRR_PHYSBASE0 + 16) {
		unsigned n = (index - MSR_MTRR_PHYSBASE0) / 2;
		if (val & beyond)
			return MSR_FAULT;
		if (index & 1) {
			if (val & 0x7ff)
				return MSR_FAULT;
			s->mtrr_mask[n] = val;
		} else {
			if ((val & 0xf00) || !type_ok(val))
				return MSR_FAULT;
			s->mtrr_base[n] = val;
		}
		return MSR_OK;
	}
	if (index == MSR_MTRR_DEF_TYPE) {
		if ((val & ~0xcffull) || !type_ok(val))
			return MSR_FAULT;
		s->mtrr_def_type = val;
		return MSR_OK;
	}
	return MSR_OTHER;
}

enum msr_answer vcpu_wrmsr(struct vcpu *v, uint32_t index, uint64_t val) {
	struct x86_state *s = &v->state;
	const struct cpuid_policy *p = v->vm->cpuid;
	bool amd = cpuid_is_amd(p), canonical;
	uint64_t *plain = plain_msr(s, index, &canonical);

	if (plain) {
		if (canonical && (uint64_t)sext(val, 48) != val)
			return MSR_FAULT;
		*plain = val;
		return MSR_OK;
	}
	if (ignored_msr(p, index))
		return MSR_OK;
	enum msr_answer mtrr = wrmsr_mtrr(v, index, val);
	if (mtrr != MSR_OTHER)
		return mtrr;
	switch (index) {
	case MSR_TSC: /* [SDM3 17.17.3]: TSC_ADJUST moves along */
		vcpu_adjust_tsc(v, val - vcpu_tsc(v));
		return MSR_OK;
	case MSR_TSC_ADJUST:
		vcpu_adjust_tsc(v, val - s->tsc_adjust);
		return MSR_OK;
	case MSR_SPEC_CTRL: /* kept, and without effect: see cpuid.c */
		if (!cpuid_has(p, X86_FEAT_SPEC_CTRL))
			return MSR_OTHER;
		if (val & ~SPEC_CTRL_VALID)
			return MSR_FAULT;
		s->spec_ctrl = val;
		return MSR_OK;
	case MSR_PRED_CMD:
		if (!cpuid_has(p, X86_FEAT_SPEC_CTRL))
			return MSR_OTHER;
		return val & ~1ull ? MSR_FAULT : MSR_OK;
	case MSR_BIOS_SIGN_ID: /* written before CPUID leaf 1 to latch the revision */
		return MSR_OK;
	case MSR_PAT:
		if (!types_ok(val, PAT_MEMORY_TYPES))
			return MSR_FAULT;
		s->pat = val;
		return MSR_OK;
	case MSR_SYSENTER_CS:
		s->sysenter_cs = (uint32_t)val;
		return MSR_OK;
	case MSR_MISC_ENABLE:
		if (amd)
			return MSR_OTHER;
		s->misc_enable = val & MISC_ENABLE_WRITABLE;
		return MSR_OK;
	case MSR_XSS:
		if (!cpuid_has(p, X86_FEAT_XSAVES))
			return MSR_OTHER;
		return val ? MSR_FAULT : MSR_OK;
	case MSR_SFMASK:
		s->sfmask = (uint32_t)val;
		return MSR_OK;
	case MSR_TSC_AUX:
		if (!cpuid_has(p, X86_FEAT_RDTSCP))
			return MSR_OTHER;
		if (val >> 32)
			return MSR_FAULT;
		s->tsc_aux = val;
		return MSR_OK;
	case MSR_HWCR:
	case MSR_AMD_DE_CFG:
		return amd ? MSR_OK : MSR_OTHER;
	case MSR_FEATURE_CONTROL:
	case MSR_MTRRCAP:
	case MSR_MCG_CAP:
	case MSR_ARCH_CAPABILITIES:
		return MSR_FAULT;
	default:
		return MSR_OTHER;
	}
}
