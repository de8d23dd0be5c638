/* FXSAVE, the XSAVE family, MXCSR and XCR0, on the saved image [SDM1 13].
 *
 * Left out: supervisor components (CPUID offers none, so IA32_XSS is 0) and the
 * modified optimisation of XSAVEOPT and XSAVES, which software cannot rely on. */
#include "core/base/le.h"
#include "core/x86/feature.h"
#include "engine/soft/fpu.h"

/* Where a component is in the standard format and how long it is. */
struct part {
	uint16_t offset, size;
};
static const struct part parts[XS_PARTS] = {
	[2] = {XS_YMMH, 256}, [5] = {XS_K, 64}, [6] = {XS_ZMMH, 512}, [7] = {XS_ZMM16, 1024}};

#define COMPACTED BIT(63)

static unsigned vec_regs(const struct soft_vcpu *c) {
	return c->mode == X86_MODE_64 ? 16 : 8;
}

/* Bytes of a component that this mode can see: registers above 7 belong to 64-bit mode. */
static unsigned part_bytes(const struct soft_vcpu *c, unsigned n) {
	if (c->mode == X86_MODE_64 || n == 5)
		return parts[n].size;
	return n == 7 ? 0 : parts[n].size / 2;
}

static bool is_wide(const struct soft_vcpu *c, const struct x86_insn *i) {
	return c->mode == X86_MODE_64 && (i->rex & 8);
}

/* The area's 32-bit pointers have a selector above them, which reads as zero. */
static void pointers_out(uint8_t *area, bool wide) {
	if (wide)
		return;
	le32_put(area + XS_FIP + 4, 0);
	le32_put(area + XS_FDP + 4, 0);
}

static void check_xsave(struct soft_vcpu *c, const struct x86_insn *i, unsigned feature) {
	(void)i;
	if (!soft_has_feature(c, feature) || !(c->s->cr4 & CR4_OSXSAVE))
		soft_ud(c);
	if (c->s->cr0 & CR0_TS)
		soft_raise(c, VEC_NM);
}

static uint64_t aligned_ea(struct soft_vcpu *c, const struct x86_insn *i, unsigned align,
						   unsigned len, enum soft_access kind) {
	uint64_t off = fast_ea(c, i);
	gva_t gva = fast_linear(c, i->seg, off, len, kind);
	if (gva & (align - 1))
		soft_gp(c, 0);
	return off;
}

/* ---- FXSAVE, FXRSTOR ------------------------------------------------------------------------ */

static void check_fxsave(struct soft_vcpu *c) {
	if (!soft_has_feature(c, X86_FEAT_FXSR))
		soft_ud(c);
	if (c->s->cr0 & (CR0_EM | CR0_TS))
		soft_raise(c, VEC_NM);
}

void op_fxsave(struct soft_vcpu *c, const struct x86_insn *i) {
	check_fxsave(c);
	uint64_t off = aligned_ea(c, i, 16, 512, ACCESS_WRITE);
	uint8_t area[XS_LEGACY];
	soft_probe(c, i->seg, off, 512, ACCESS_WRITE);
	fpu_copy(area, fpu_image(c), sizeof(area));
	pointers_out(area, is_wide(c, i));
	le32_put(area + XS_MXCSR_MASK, fpu_mxcsr_valid(c));
	unsigned len = c->s->cr4 & CR4_OSFXSR ? XS_XMM + vec_regs(c) * 16 : XS_XMM;
	soft_write_bytes(c, i->seg, off, area, len);
}

/* The x87 part of an area into the image. */
static void x87_in(uint8_t *image, const uint8_t *area, bool wide) {
	fpu_copy(image, area, XS_MXCSR);
	fpu_copy(image + XS_ST, area + XS_ST, XS_XMM - XS_ST);
	image[5] = 0;
	le16_put(image + XS_FOP, le16_get(area + XS_FOP) & 0x7ff);
	if (!wide) {
		le32_put(image + XS_FIP + 4, 0);
		le32_put(image + XS_FDP + 4, 0);
	}
}

void op_fxrstor(struct soft_vcpu *c, const struct x86_insn *i) {
	check_fxsave(c);
	uint64_t off = aligned_ea(c, i, 16, 512, ACCESS_READ);
	uint8_t area[XS_LEGACY];
	uint8_t *image = fpu_image(c);
	soft_read_bytes(c, i->seg, off, area, sizeof(area));
	uint32_t mxcsr = le32_get(area + XS_MXCSR);
	bool sse = c->s->cr4 & CR4_OSFXSR;
	if (sse && (mxcsr & ~fpu_mxcsr_valid(c)))
		soft_gp(c, 0);
	x87_in(image, area, is_wide(c, i));
	if (sse) {
		le32_put(image + XS_MXCSR, mxcsr);
		fpu_copy(image + XS_XMM, area + XS_XMM, vec_regs(c) * 16);
	}
	fpu_image_used(c, XCR0_X87 | XCR0_SSE);
}

/* ---- saving ---------------------------------------------------------------------------------- */

enum save_kind { SAVE_PLAIN, SAVE_OPT, SAVE_COMPACT, SAVE_SUPERVISOR };

static uint64_t requested(const struct soft_vcpu *c, uint64_t allowed) {
	return (c->s->gpr[RDX] << 32 | (uint32_t)c->s->gpr[RAX]) & allowed;
}

static void put_area(struct soft_vcpu *c, const struct x86_insn *i, uint64_t off, const void *src,
					 unsigned len) {
	if (len)
		soft_write_bytes(c, i->seg, off, src, len);
}

static void save(struct soft_vcpu *c, const struct x86_insn *i, enum save_kind kind) {
	bool compact = kind >= SAVE_COMPACT;
	uint64_t want = requested(c, c->s->xcr0 | (kind == SAVE_SUPERVISOR ? c->s->xss : 0));
	/* The places of the components, and with them the length. */
	unsigned at[XS_PARTS] = {0}, end = XS_YMMH;
	for (unsigned n = 2; n < XS_PARTS; n++) {
		if (!(want & BIT(n)))
			continue;
		at[n] = compact ? end : parts[n].offset;
		end = at[n] + parts[n].size;
	}
	uint64_t off = aligned_ea(c, i, 64, end, ACCESS_WRITE);
	soft_probe(c, i->seg, off, end, ACCESS_WRITE);
	const uint8_t *image = fpu_image(c);
	uint64_t used = le64_get(image + XS_BV);
	if (compact && le32_get(image + XS_MXCSR) != MXCSR_RESET)
		used |= XCR0_SSE;
	uint64_t old = compact ? 0 : soft_read(c, i->seg, off + XS_BV, 8);
	uint64_t put = kind == SAVE_PLAIN ? want : want & used;

	uint8_t head[XS_XMM];
	fpu_copy(head, image, sizeof(head));
	pointers_out(head, is_wide(c, i));
	le32_put(head + XS_MXCSR_MASK, fpu_mxcsr_valid(c));
	if (put & XCR0_X87) {
		put_area(c, i, off, head, XS_MXCSR);
		put_area(c, i, off + XS_ST, head + XS_ST, XS_XMM - XS_ST);
	}
	if (compact ? put & XCR0_SSE : want & (XCR0_SSE | XCR0_AVX))
		put_area(c, i, off + XS_MXCSR, head + XS_MXCSR, 8);
	if (put & XCR0_SSE)
		put_area(c, i, off + XS_XMM, image + XS_XMM, vec_regs(c) * 16);
	for (unsigned n = 2; n < XS_PARTS; n++)
		if (put & BIT(n))
			put_area(c, i, off + at[n], image + parts[n].offset, part_bytes(c, n));
	soft_write(c, i->seg, off + XS_BV, 8, (old & ~want) | (want & used));
	if (compact)
		soft_write(c, i->seg, off + XS_XCOMP, 8, want | COMPACTED);
}

void op_xsave(struct soft_vcpu *c, const struct x86_insn *i) {
	check_xsave(c, i, X86_FEAT_XSAVE);
	save(c, i, SAVE_PLAIN);
}

void op_xsaveopt(struct soft_vcpu *c, const struct x86_insn *i) {
	check_xsave(c, i, X86_FEAT_XSAVEOPT);
	save(c, i, SAVE_OPT);
}

void op_xsavec(struct soft_vcpu *c, const struct x86_insn *i) {
	check_xsave(c, i, X86_FEAT_XSAVEC);
	save(c, i, SAVE_COMPACT);
}

void op_xsaves(struct soft_vcpu *c, const struct x86_insn *i) {
	check_xsave(c, i, X86_FEAT_XSAVES);
	if (c->cpl)
		soft_gp(c, 0);
	save(c, i, SAVE_SUPERVISOR);
}

/* ---- restoring ---------------------------------------------------------------------------------
 */

static bool all_zero(const uint8_t *p, unsigned len) {
	uint8_t any = 0;
	for (unsigned n = 0; n < len; n++)
		any |= p[n];
	return !any;
}

/* The header's rules; whether it is compacted. `h` are its 64 bytes. */
static bool check_header(struct soft_vcpu *c, const uint8_t *h, uint64_t allowed, bool supervisor) {
	uint64_t bv = le64_get(h), comp = le64_get(h + 8);
	if (comp & COMPACTED) {
		comp &= ~COMPACTED;
		if (!soft_has_feature(c, X86_FEAT_XSAVEC) || (comp & ~allowed) || (bv & ~comp) ||
			!all_zero(h + 16, 48))
			soft_gp(c, 0);
		return true;
	}
	if (supervisor || (bv & ~c->s->xcr0) || !all_zero(h + 8, 16))
		soft_gp(c, 0);
	return false;
}

static void x87_init(uint8_t *image) {
	fpu_zero(image, XS_MXCSR);
	fpu_zero(image + XS_ST, XS_XMM - XS_ST);
	le16_put(image + XS_FCW, 0x37f);
}

static void restore(struct soft_vcpu *c, const struct x86_insn *i, bool supervisor) {
	uint64_t allowed = c->s->xcr0 | (supervisor ? c->s->xss : 0);
	uint64_t want = requested(c, allowed);
	uint64_t off = aligned_ea(c, i, 64, XS_YMMH, ACCESS_READ);
	uint8_t area[XS_END];
	uint8_t *image = fpu_image(c);

	soft_read_bytes(c, i->seg, off, area, XS_YMMH);
	bool compact = check_header(c, area + XS_BV, allowed, supervisor);
	uint64_t bv = le64_get(area + XS_BV), comp = le64_get(area + XS_XCOMP);
	uint64_t load = want & bv;
	bool mxcsr = compact ? load & XCR0_SSE : want & (XCR0_SSE | XCR0_AVX);
	if (mxcsr && (le32_get(area + XS_MXCSR) & ~fpu_mxcsr_valid(c)))
		soft_gp(c, 0);
	unsigned end = XS_YMMH;
	for (unsigned n = 2; n < XS_PARTS; n++) {
		unsigned at = compact ? end : parts[n].offset;
		if (compact && (comp & BIT(n)))
			end += parts[n].size;
		if ((load & BIT(n)) && part_bytes(c, n))
			soft_read_bytes(c, i->seg, off + at, area + parts[n].offset, part_bytes(c, n));
	}

	/* Nothing faults from here on. */
	if (load & XCR0_X87)
		x87_in(image, area, is_wide(c, i));
	else if (want & XCR0_X87)
		x87_init(image);
	if (mxcsr)
		le32_put(image + XS_MXCSR, le32_get(area + XS_MXCSR));
	else if (compact && (want & XCR0_SSE))
		le32_put(image + XS_MXCSR, MXCSR_RESET);
	if (load & XCR0_SSE)
		fpu_copy(image + XS_XMM, area + XS_XMM, vec_regs(c) * 16);
	else if (want & XCR0_SSE)
		fpu_zero(image + XS_XMM, vec_regs(c) * 16);
	for (unsigned n = 2; n < XS_PARTS; n++) {
		if (load & BIT(n))
			fpu_copy(image + parts[n].offset, area + parts[n].offset, part_bytes(c, n));
		else if (want & BIT(n))
			fpu_zero(image + parts[n].offset, part_bytes(c, n));
	}
	/* In 64-bit mode what is not loaded is all of the component, so it is unused again. */
	uint64_t used = le64_get(image + XS_BV);
	used = c->mode == X86_MODE_64 ? (used & ~want) | load : used | load;
	le64_put(image + XS_BV, used);
}

void op_xrstor(struct soft_vcpu *c, const struct x86_insn *i) {
	check_xsave(c, i, X86_FEAT_XSAVE);
	restore(c, i, false);
}

void op_xrstors(struct soft_vcpu *c, const struct x86_insn *i) {
	check_xsave(c, i, X86_FEAT_XSAVES);
	if (c->cpl)
		soft_gp(c, 0);
	restore(c, i, true);
}

/* ---- XCR0, MXCSR
 * --------------------------------------------------------------------------------- */

static void put_edx_eax(struct soft_vcpu *c, uint64_t val) {
	soft_set_reg(c, RAX, 4, (uint32_t)val);
	soft_set_reg(c, RDX, 4, val >> 32);
}

void op_xgetbv(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	if (!soft_has_feature(c, X86_FEAT_XSAVE) || !(c->s->cr4 & CR4_OSXSAVE))
		soft_ud(c);
	uint32_t n = (uint32_t)c->s->gpr[RCX];
	if (n == 0)
		put_edx_eax(c, c->s->xcr0);
	else if (n == 1 && soft_has_feature(c, X86_FEAT_XGETBV1))
		put_edx_eax(c, le64_get(fpu_peek(c) + XS_BV) & c->s->xcr0);
	else
		soft_gp(c, 0);
}

void op_xsetbv(struct soft_vcpu *c, const struct x86_insn *i) {
	(void)i;
	if (!soft_has_feature(c, X86_FEAT_XSAVE) || !(c->s->cr4 & CR4_OSXSAVE))
		soft_ud(c);
	uint64_t val = requested(c, ~0ull), offered = XCR0_X87 | XCR0_SSE, wide = val & XCR0_AVX512;
	if (soft_has_feature(c, X86_FEAT_AVX))
		offered |= XCR0_AVX;
	if (soft_has_feature(c, X86_FEAT_AVX512F))
		offered |= XCR0_AVX512;
	if (c->cpl || (uint32_t)c->s->gpr[RCX] || (val & ~(offered & fpu_of(c)->mask)) ||
		!(val & XCR0_X87) || ((val & XCR0_AVX) && !(val & XCR0_SSE)) ||
		(wide && (wide != XCR0_AVX512 || !(val & XCR0_AVX))))
		soft_gp(c, 0);
	c->s->xcr0 = val;
	c->leave_block = true;
}

/* Also VLDMXCSR and VSTMXCSR. */
static void check_mxcsr(struct soft_vcpu *c, const struct x86_insn *i) {
	bool vex = i->prefix & X86_PFX_VEX;
	uint64_t need = XCR0_SSE | XCR0_AVX;
	if (!soft_has_feature(c, vex ? X86_FEAT_AVX : X86_FEAT_SSE))
		soft_ud(c);
	if (vex ? !soft_protected(c) || !(c->s->cr4 & CR4_OSXSAVE) || (c->s->xcr0 & need) != need
			: !(c->s->cr4 & CR4_OSFXSR) || (c->s->cr0 & CR0_EM))
		soft_ud(c);
	if (c->s->cr0 & CR0_TS)
		soft_raise(c, VEC_NM);
}

void op_ldmxcsr(struct soft_vcpu *c, const struct x86_insn *i) {
	check_mxcsr(c, i);
	uint32_t val = (uint32_t)soft_read(c, i->seg, fast_ea(c, i), 4);
	if (val & ~fpu_mxcsr_valid(c))
		soft_gp(c, 0);
	fpu_load_mxcsr(c, val);
}

void op_stmxcsr(struct soft_vcpu *c, const struct x86_insn *i) {
	check_mxcsr(c, i);
	soft_fpu_load(c);
	soft_write(c, i->seg, fast_ea(c, i), 4, fpu_mxcsr());
}
