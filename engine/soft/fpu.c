/* Where the guest's x87/SSE/AVX state is: in the host's registers while
 * fpu_loaded, in state.xsave otherwise. Runs on the vCPU's thread.
 *
 * FIP, FDP and FOP are kept aside: the host's registers would show the thunk's
 * addresses. FCS and FDS read as zero (CPUID says that they are deprecated). */
#include "engine/soft/fpu.h"

#include <cpuid.h>
#include <stdlib.h>

#include "core/base/le.h"
#include "core/x86/feature.h"

#ifndef signature_HYGON_ebx
#define signature_HYGON_ebx 0x6f677948
#endif

/* Our offsets: those of Intel's standard format. */
static const uint16_t part_offset[XS_PARTS] = {0, 160, XS_YMMH, 0, 0, XS_K, XS_ZMMH, XS_ZMM16};
static const uint16_t part_size[XS_PARTS] = {0, 0, 256, 0, 0, 64, 512, 1024};

static uint64_t host_xcr0(void) {
	unsigned a, b, c, d;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a | (uint64_t)d << 32;
}

int soft_fpu_create(struct soft_vcpu *c) {
	struct soft_fpu *f = aligned_alloc(64, sizeof(*f));
	if (!f)
		return -ERR_NOMEM;
	fpu_zero(f, sizeof(*f));
	f->mask = host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
	if (!f->mask) { /* every x86-64 host of the last decade has XSAVE; doctor says so too */
		free(f);
		return -ERR_NOTSUP;
	}
	f->has_avx = f->mask & XCR0_AVX;
	for (unsigned n = 2; n < XS_PARTS; n++) {
		unsigned ra, rb, rc, rd;
		if (!(f->mask & BIT(n)))
			continue;
		__cpuid_count(0xd, n, ra, rb, rc, rd);
		f->host_offset[n] = rb;
		if (ra != part_size[n] || rb + ra > sizeof(f->host_image))
			f->mask &= n == 2 ? (XCR0_X87 | XCR0_SSE) : ~XCR0_AVX512;
		else if (rb != part_offset[n])
			f->odd_layout = true;
	}
	unsigned va, vb, vc, vd;
	__cpuid(0, va, vb, vc, vd);
	f->sha_unaligned = vb == signature_AMD_ebx || vb == signature_HYGON_ebx;
	__asm__ volatile("fxsave %0" : "=m"(*(uint8_t(*)[512])f->saved));
	f->mxcsr_mask = le32_get(f->saved + XS_MXCSR_MASK) & (MXCSR_VALID | MXCSR_MM);
	int r = thunk_create(f);
	if (r) {
		free(f);
		return r;
	}
	c->fpu = f;
	c->fpu_loaded = false;
	return 0;
}

void soft_fpu_destroy(struct soft_vcpu *c) {
	struct soft_fpu *f = c->fpu;
	if (!f)
		return;
	soft_fpu_unload(c);
	thunk_destroy(f);
	free(f);
	c->fpu = NULL;
}

/* ---- the move between registers and image ------------------------------------------------ */

static void xsave(uint8_t *image, uint64_t mask) {
	__asm__ volatile("xsave64 %0"
					 : "+m"(*(uint8_t(*)[XSAVE_AREA])image)
					 : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
					 : "memory");
}

static void xrstor(const uint8_t *image, uint64_t mask) {
	__asm__ volatile("xrstor64 %0"
					 :
					 : "m"(*(const uint8_t(*)[XSAVE_AREA])image), "a"((uint32_t)mask),
					   "d"((uint32_t)(mask >> 32))
					 : "memory");
}

void fpu_save(struct soft_fpu *f, uint8_t *image) {
	if (!f->odd_layout) {
		xsave(image, f->mask);
		return;
	}
	xsave(f->host_image, f->mask);
	fpu_copy(image, f->host_image, XS_YMMH);
	for (unsigned n = 2; n < XS_PARTS; n++)
		if (f->mask & BIT(n))
			fpu_copy(image + part_offset[n], f->host_image + f->host_offset[n], part_size[n]);
}

/* The header must stand a native XRSTOR: components of the host only, no compaction. And ES must
 * be what flags and masks say, which some CPUs see to by themselves: else the next x87
 * instruction would trap on the host. */
void fpu_restore(struct soft_fpu *f, uint8_t *image) {
	uint16_t fsw = le16_get(image + XS_FSW) & (uint16_t) ~(FSW_ES | FSW_B);
	if (fsw & ~le16_get(image + XS_FCW) & 0x3f)
		fsw |= FSW_ES | FSW_B;
	le16_put(image + XS_FSW, fsw);
	le64_put(image + XS_BV, le64_get(image + XS_BV) & f->mask);
	if (!f->odd_layout) {
		xrstor(image, f->mask);
		return;
	}
	fpu_copy(f->host_image, image, XS_YMMH);
	for (unsigned n = 2; n < XS_PARTS; n++)
		if (f->mask & BIT(n))
			fpu_copy(f->host_image + f->host_offset[n], image + part_offset[n], part_size[n]);
	xrstor(f->host_image, f->mask);
}

/* Puts the guest's own x87 pointers where the host's are. */
static void put_pointers(struct soft_fpu *f, uint8_t *image) {
	le16_put(image + XS_FOP, f->fop);
	le64_put(image + XS_FIP, f->fip);
	le64_put(image + XS_FDP, f->fdp);
}

static void note_mxcsr(struct soft_fpu *f, uint32_t v) {
	f->unmasked = (v & 0x1f80) != 0x1f80;
	f->misaligned = v & MXCSR_MM;
}

uint32_t fpu_mxcsr_valid(const struct soft_vcpu *c) {
	const struct soft_fpu *f = c->fpu;
	return soft_has_feature(c, X86_FEAT_MISALIGNSSE) ? f->mxcsr_mask : MXCSR_VALID;
}

void soft_fpu_load(struct soft_vcpu *c) {
	if (likely(c->fpu_loaded))
		return;
	struct soft_fpu *f = c->fpu;
	uint8_t *image = c->s->xsave;
	__asm__ volatile("fnstcw %0" : "=m"(f->host_fcw));
	f->host_mxcsr = fpu_mxcsr();
	f->fop = f->fip = f->fdp = 0;
	if (le64_get(image + XS_BV) & XCR0_X87) {
		f->fop = le16_get(image + XS_FOP);
		f->fip = le64_get(image + XS_FIP);
		f->fdp = le64_get(image + XS_FDP);
	}
	uint32_t mxcsr = le32_get(image + XS_MXCSR) & f->mxcsr_mask;
	le32_put(image + XS_MXCSR, mxcsr);
	note_mxcsr(f, mxcsr);
	fpu_restore(f, image);
	c->fpu_loaded = true;
}

void soft_fpu_unload(struct soft_vcpu *c) {
	if (!c->fpu_loaded)
		return;
	struct soft_fpu *f = c->fpu;
	fpu_save(f, c->s->xsave);
	put_pointers(f, c->s->xsave);
	c->fpu_loaded = false;
	/* C code expects an empty x87 stack, and is slow with the upper halves in use. */
	if (f->has_avx)
		__asm__ volatile("vzeroupper");
	__asm__ volatile("fninit; fldcw %0" : : "m"(f->host_fcw));
	fpu_set_mxcsr(f->host_mxcsr);
}

const uint8_t *fpu_peek(struct soft_vcpu *c) {
	soft_fpu_load(c);
	fpu_save(c->fpu, c->s->xsave);
	put_pointers(c->fpu, c->s->xsave);
	return c->s->xsave;
}

uint8_t *fpu_image(struct soft_vcpu *c) {
	/* Through the registers even if it is not live: that gives parts in their initial
	 * state their initial values. */
	soft_fpu_load(c);
	soft_fpu_unload(c);
	return c->s->xsave;
}

void fpu_image_used(struct soft_vcpu *c, uint64_t parts) {
	uint8_t *bv = c->s->xsave + XS_BV;
	le64_put(bv, le64_get(bv) | parts);
}

void fpu_load_mxcsr(struct soft_vcpu *c, uint32_t val) {
	soft_fpu_load(c);
	note_mxcsr(fpu_of(c), val);
	fpu_set_mxcsr(val);
}

/* DEVIATION: with CR0.NE = 0 a PC reports through FERR# and IRQ 13; we raise #MF there too. */
void fpu_check_pending(struct soft_vcpu *c) {
	soft_fpu_load(c);
	uint16_t fsw;
	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	if (unlikely(fsw & FSW_ES))
		soft_raise(c, VEC_MF);
}
