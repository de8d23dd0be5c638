/* CR0, CR3, CR4, EFER and RFLAGS: what may be written ([SDM3 2.5], [SDM3 4.1],
 * [APM2 3.1]) and what follows from a change: the mode, the CPL, stale
 * translations. Runs on the vCPU's thread. */
#include "core/x86/cpuid.h"
#include "engine/soft/sys.h"

#define CR0_VALID                                                                                  \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define RFLAGS_VALID 0x3f7fd5ull
#define CR3_NOFLUSH (1ull << 63)

bool soft_has_feature(const struct soft_vcpu *c, unsigned feature) {
	return cpuid_has(c->v->vm->cpuid, feature);
}

/* A data breakpoint is enabled: R/W field 1 (write) or 3 (read or write) ([SDM3 17.2.4]). */
static bool watches_data(uint64_t dr7) {
	for (unsigned n = 0; n < 4; n++)
		if ((dr7 >> (n * 2) & 3) && (dr7 >> (16 + n * 4) & 1))
			return true;
	return false;
}

/* 64-bit mode is left: the upper halves are not preserved ([SDM1 3.4.1.1]). */
static void drop_upper_halves(struct x86_state *s) {
	for (unsigned n = 0; n < 8; n++)
		s->gpr[n] = (uint32_t)s->gpr[n];
}

void soft_update_mode(struct soft_vcpu *c) {
	struct x86_state *s = c->s;
	enum x86_mode before = c->mode;
	const struct x86_segment *cs = &s->seg[SEG_CS], *ss = &s->seg[SEG_SS];

	c->long_mode = s->efer & EFER_LMA;
	c->paging = s->cr0 & CR0_PG;
	if (!(s->cr0 & CR0_PE))
		c->cpl = 0;
	else if (s->rflags & RFLAGS_VM)
		c->cpl = 3;
	else
		c->cpl = ss->attr >> SEG_ATTR_DPL_SHIFT & 3;
	if (c->long_mode && (cs->attr & SEG_ATTR_L)) {
		c->mode = X86_MODE_64;
		c->stack_size = 8;
	} else {
		c->mode = cs->attr & SEG_ATTR_DB ? X86_MODE_32 : X86_MODE_16;
		c->stack_size = ss->attr & SEG_ATTR_DB ? 4 : 2;
	}
	if (before == X86_MODE_64 && c->mode != X86_MODE_64)
		drop_upper_halves(s);
	c->flat = c->mode == X86_MODE_64;
	c->align_check = c->cpl == 3 && (s->cr0 & CR0_AM) && (s->rflags & RFLAGS_AC);
	bool watch = (s->dr7 & 0xff) && watches_data(s->dr7);
	if (watch != c->data_breakpoints) {
		c->data_breakpoints = watch;
		soft_tlb_flush(c, true); /* its tags say which accesses may go straight to memory */
	}
	c->leave_block = true;
}

/* The four PDPTEs of PAE paging are checked when they would be loaded ([SDM3 4.4.1]); the walk
 * reads them from memory each time. DEVIATION: they are not cached between CR3 writes, so a
 * guest that changes one without reloading CR3 sees the change early. */
static void check_pdptes(struct soft_vcpu *c, uint64_t cr3) {
	uint64_t reserved = 0x1e6ull | ~((1ull << c->phys_bits) - 1);
	struct mem_segment m = mem_segment(&c->v->vm->mem, cr3 & 0xffffffe0, 32, false);

	if (!m.host || m.len < 32)
		return;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t e = __atomic_load_n((uint64_t *)m.host + i, __ATOMIC_RELAXED);
		if ((e & PTE_P) && (e & reserved))
			soft_gp(c, 0);
	}
}

void soft_set_cr0(struct soft_vcpu *c, uint64_t val) {
	struct x86_state *s = c->s;
	uint64_t efer = s->efer;

	if (val >> 32)
		soft_gp(c, 0);
	val = (val & CR0_VALID) | CR0_ET;
	if (((val & CR0_PG) && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
		soft_gp(c, 0);
	uint64_t changed = val ^ s->cr0;
	if ((changed & val & CR0_PG) && (efer & EFER_LME)) {
		unsigned tss = s->seg[SEG_TR].attr & SEG_ATTR_TYPE;
		if (!(s->cr4 & CR4_PAE) || (s->seg[SEG_CS].attr & SEG_ATTR_L) || tss == SYS_TSS16 ||
			tss == SYS_TSS16_BUSY)
			soft_gp(c, 0);
		efer |= EFER_LMA;
	} else if ((changed & CR0_PG) && !(val & CR0_PG)) {
		if (c->mode == X86_MODE_64 || (s->cr4 & CR4_PCIDE))
			soft_gp(c, 0);
		efer &= ~EFER_LMA;
	}
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && (val & CR0_PG) && (s->cr4 & CR4_PAE) &&
		!(efer & EFER_LMA))
		check_pdptes(c, s->cr3);

	s->cr0 = val;
	s->efer = efer;
	/* The CPL of a new protected mode is 0, whatever SS was loaded with in real mode. */
	if (changed & CR0_PE)
		s->seg[SEG_SS].attr &= ~(3u << SEG_ATTR_DPL_SHIFT);
	if (changed & (CR0_PG | CR0_PE | CR0_WP))
		soft_tlb_flush(c, true);
	soft_update_mode(c);
}

void soft_set_cr3(struct soft_vcpu *c, uint64_t val) {
	struct x86_state *s = c->s;

	if (c->long_mode) {
		uint64_t reserved = ~((1ull << c->phys_bits) - 1);
		if (s->cr4 & CR4_PCIDE)
			reserved &= ~CR3_NOFLUSH;
		if (val & reserved)
			soft_gp(c, 0);
	} else {
		val = (uint32_t)val;
		if (c->paging && (s->cr4 & CR4_PAE))
			check_pdptes(c, val);
	}
	bool keep = val & CR3_NOFLUSH; /* with CR4.PCIDE only */
	uint64_t old = s->cr3;
	s->cr3 = val & ~CR3_NOFLUSH;
	if (!(s->cr4 & CR4_PCIDE))
		soft_tlb_flush(c, false);
	else if (!keep || old != s->cr3)
		soft_space_switch(c, old & 0xfff, s->cr3 & 0xfff, keep);
	c->leave_block = true;
}

static uint64_t cr4_valid(const struct soft_vcpu *c) {
	static const struct {
		uint64_t bits;
		uint16_t feature;
	} gated[] = {
		{CR4_VME | CR4_PVI, X86_FEAT_VME},
		{CR4_TSD, X86_FEAT_TSC},
		{CR4_DE, X86_FEAT_DE},
		{CR4_PSE, X86_FEAT_PSE},
		{CR4_PAE, X86_FEAT_PAE},
		{CR4_MCE, X86_FEAT_MCE},
		{CR4_PGE, X86_FEAT_PGE},
		{CR4_OSFXSR, X86_FEAT_FXSR},
		{CR4_OSXMMEXCPT, X86_FEAT_SSE},
		{CR4_UMIP, X86_FEAT_UMIP},
		{CR4_FSGSBASE, X86_FEAT_FSGSBASE},
		{CR4_PCIDE, X86_FEAT_PCID},
		{CR4_OSXSAVE, X86_FEAT_XSAVE},
		{CR4_SMEP, X86_FEAT_SMEP},
		{CR4_SMAP, X86_FEAT_SMAP},
	};
	uint64_t valid = CR4_PCE; /* settable on every CPU since the Pentium MMX; RDPMC faults anyway */
	for (unsigned i = 0; i < ARRAY_LEN(gated); i++)
		if (soft_has_feature(c, gated[i].feature))
			valid |= gated[i].bits;
	return valid;
}

void soft_set_cr4(struct soft_vcpu *c, uint64_t val) {
	struct x86_state *s = c->s;
	uint64_t changed = val ^ s->cr4;

	if (val & ~cr4_valid(c))
		soft_gp(c, 0);
	if (c->long_mode && !(val & CR4_PAE))
		soft_gp(c, 0);
	if ((changed & val & CR4_PCIDE) && (!c->long_mode || (s->cr3 & 0xfff)))
		soft_gp(c, 0);
	if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && c->paging && (val & CR4_PAE) &&
		!c->long_mode)
		check_pdptes(c, s->cr3);

	s->cr4 = val;
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
		soft_tlb_flush(c, true);
	soft_update_mode(c);
}

void soft_set_efer(struct soft_vcpu *c, uint64_t val) {
	struct x86_state *s = c->s;
	uint64_t valid = EFER_LMA;

	if (soft_has_feature(c, X86_FEAT_SYSCALL))
		valid |= EFER_SCE;
	if (soft_has_feature(c, X86_FEAT_LM))
		valid |= EFER_LME;
	if (soft_has_feature(c, X86_FEAT_NX))
		valid |= EFER_NXE;
	if (soft_has_feature(c, X86_FEAT_FXSR_OPT))
		valid |= EFER_FFXSR;
	if (soft_has_feature(c, X86_FEAT_AUTOIBRS))
		valid |= EFER_AIBRSE;
	if (val & ~valid)
		soft_gp(c, 0);
	if (((val ^ s->efer) & EFER_LME) && c->paging)
		soft_gp(c, 0);
	val = (val & ~EFER_LMA) | (s->efer & EFER_LMA); /* LMA follows CR0.PG and LME only */
	if ((val ^ s->efer) & EFER_NXE)
		soft_tlb_flush(c, true);
	s->efer = val;
	soft_update_mode(c);
}

void soft_set_flags(struct soft_vcpu *c, uint64_t val, uint64_t mask) {
	struct x86_state *s = c->s;
	uint64_t old = s->rflags;

	mask &= RFLAGS_VALID;
	s->rflags = (((old & ~mask) | (val & mask)) & RFLAGS_VALID) | RFLAGS_FIXED;
	uint64_t changed = old ^ s->rflags;
	if (changed & (RFLAGS_AC | RFLAGS_VM)) {
		/* With SMAP, AC decides what a supervisor access may touch. */
		if ((changed & RFLAGS_AC) && (s->cr4 & CR4_SMAP))
			soft_tlb_flush(c, true);
		soft_update_mode(c);
	}
	if (changed & (RFLAGS_TF | RFLAGS_IF | RFLAGS_RF | RFLAGS_VIP | RFLAGS_VIF))
		c->leave_block = true;
}
