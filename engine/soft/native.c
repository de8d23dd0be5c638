/* soft_native(): x87, MMX, SSE, AVX and AVX-512 instructions, run as themselves.
 *
 * The order is that of the hardware: #UD and #NM, a pending x87 exception, memory
 * faults; only then anything changes. Unmasked SIMD exceptions never reach the
 * host: the instruction first runs masked, and the flags tell what would have
 * happened ([SDM1 11.5]). DEVIATION: after an unmasked overflow or underflow, PE
 * is what the masked instruction reports. */
#include "core/base/le.h"
#include "core/x86/decode_table.h"
#include "core/x86/feature.h"
#include "engine/soft/fpu.h"

static bool is_fwait(const struct x86_insn *i) {
	return !i->modrm_off;
}

void native_check(struct soft_vcpu *c, const struct x86_insn *i) {
	const struct x86_form *form = &x86_forms[i->form];
	const struct x86_state *s = c->s;
	uint64_t parts = XCR0_SSE | XCR0_AVX;
	if (form->feature && unlikely(!soft_has_feature(c, form->feature)))
		soft_ud(c);
	switch (form->cls) {
	case X86_CLASS_X87:
		if (is_fwait(i) ? (s->cr0 & CR0_TS) && (s->cr0 & CR0_MP) : s->cr0 & (CR0_EM | CR0_TS))
			soft_raise(c, VEC_NM);
		return;
	case X86_CLASS_MMX:
		if (unlikely(s->cr0 & CR0_EM))
			soft_ud(c);
		break;
	case X86_CLASS_AVX512:
		parts |= XCR0_AVX512; /* fall through */
	case X86_CLASS_AVX:
		if (unlikely(!(s->cr4 & CR4_OSXSAVE) || (s->xcr0 & parts) != parts || !soft_protected(c)))
			soft_ud(c);
		break;
	default:
		if (unlikely((s->cr0 & CR0_EM) || !(s->cr4 & CR4_OSFXSR)))
			soft_ud(c);
	}
	if (unlikely(s->cr0 & CR0_TS))
		soft_raise(c, VEC_NM);
}

/* Bounded copies without the vector registers. */
static inline void copy_piece(uint8_t *dst, const uint8_t *src, unsigned len) {
	if (len >= 8 && !(len & 7)) {
		for (unsigned n = 0; n < len; n += 8)
			*(uint64_t *)(dst + n) = *(const volatile uint64_t *)(src + n);
	} else {
		fpu_copy(dst, src, len);
	}
}

void native_read(struct soft_vcpu *c, unsigned seg, uint64_t off, uint8_t *dst, unsigned len) {
	if (len <= 8 && is_pow2(len)) {
		*(uint64_t *)dst = fast_read(c, seg, off, len);
		return;
	}
	gva_t gva = fast_linear(c, seg, off, len, ACCESS_READ);
	const uint8_t *p = fast_host(c, gva, len, ACCESS_READ, fast_user(c));
	if (likely(p != NULL)) {
		copy_piece(dst, p, len);
		return;
	}
	soft_fpu_unload(c); /* memcpy and exits below */
	soft_read_bytes(c, seg, off, dst, len);
}

void native_write(struct soft_vcpu *c, unsigned seg, uint64_t off, const uint8_t *src,
				  unsigned len) {
	if (len <= 8 && is_pow2(len)) {
		fast_write(c, seg, off, len, fast_load(src, len));
		return;
	}
	gva_t gva = fast_linear(c, seg, off, len, ACCESS_WRITE);
	uint8_t *p = fast_host(c, gva, len, ACCESS_WRITE, fast_user(c));
	if (likely(p != NULL)) {
		copy_piece(p, src, len);
		fast_note_store(c, p);
		return;
	}
	soft_fpu_unload(c);
	soft_write_bytes(c, seg, off, src, len);
}

/* ---- unmasked SIMD exceptions ------------------------------------------------------------ */

#define MXCSR_UM (1u << 11)
#define FLAG_UE 0x10u
#define FLAGS_BEFORE 7u /* IE, DE, ZE: found before the result is computed */

static uint32_t run_masked(struct soft_fpu *f, const struct thunk_regs *in, uint32_t mxcsr) {
	f->regs = *in;
	fpu_set_mxcsr(mxcsr);
	thunk_call(&f->regs);
	return fpu_mxcsr() & MXCSR_FLAGS;
}

static void run_watched(struct soft_vcpu *c, struct soft_fpu *f, bool mmx) {
	struct thunk_regs in = f->regs;
	uint32_t mxcsr = fpu_mxcsr(), tiny = 0;
	uint32_t masked = (mxcsr & ~MXCSR_FLAGS) | MXCSR_RESET;
	fpu_zero(f->saved + XS_BV, 64);
	fpu_save(f, f->saved);
	if (!(mxcsr & MXCSR_UM)) {
		/* Unmasked underflow looks at tininess alone: flush-to-zero shows it. */
		tiny = run_masked(f, &in, masked | MXCSR_FTZ) & FLAG_UE;
		fpu_restore(f, f->saved);
	}
	uint32_t raised = run_masked(f, &in, masked);
	if (!(mxcsr & MXCSR_UM))
		raised = (raised & ~FLAG_UE) | tiny;
	uint32_t unmasked = raised & ~(mxcsr >> 7);
	if (!unmasked) {
		fpu_set_mxcsr(mxcsr | raised);
		return;
	}
	if (unmasked & FLAGS_BEFORE)
		raised &= FLAGS_BEFORE;
	fpu_restore(f, f->saved);
	fpu_set_mxcsr(mxcsr | raised);
	if (mmx) /* CVTPS2PI and its like have made MMX registers of the stack by now */
		__asm__ volatile("movd %%mm0, %%eax" : : : "eax");
	soft_raise(c, c->s->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
}

/* ---- stores ------------------------------------------------------------------------------ */

#define UNTOUCHED 0xa5

/* An x87 store that meets an unmasked exception stores nothing and pops nothing. */
static bool x87_stored(const struct soft_fpu *f, unsigned len) {
	uint16_t fsw;
	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	if (likely(!(fsw & FSW_ES)))
		return true;
	for (unsigned n = 0; n < len; n++)
		if (f->bounce[n] != UNTOUCHED)
			return true;
	return false;
}

static void run_thunk(struct soft_vcpu *c, struct soft_fpu *f, bool watched, bool mmx) {
	if (watched)
		run_watched(c, f, mmx);
	else
		thunk_call(&f->regs);
}

static void fill(struct soft_fpu *f, uint8_t byte, unsigned len) {
	for (unsigned n = 0; n < len; n += 8)
		*(uint64_t *)(f->bounce + n) = byte * 0x0101010101010101ull;
}

/* A masked store touches only some bytes: those that come out the same over zeros and ones. */
static void masked_store(struct soft_vcpu *c, const struct x86_insn *i, uint64_t off, unsigned len,
						 bool watched) {
	struct soft_fpu *f = c->fpu;
	struct thunk_regs in = f->regs;
	uint8_t zeros[64], ones[64];
	fill(f, 0, 64);
	run_thunk(c, f, watched, false);
	fpu_copy(zeros, f->bounce, 64);
	f->regs = in;
	fill(f, 0xff, 64);
	run_thunk(c, f, watched, false);
	fpu_copy(ones, f->bounce, 64);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned n = 0; n < len;) {
			unsigned end = n;
			while (end < len && zeros[end] == ones[end])
				end++;
			if (end == n) {
				n++;
				continue;
			}
			if (!pass)
				soft_probe(c, i->seg, off + n, end - n, ACCESS_WRITE);
			else
				native_write(c, i->seg, off + n, zeros + n, end - n);
			n = end;
		}
	}
}

/* A store to what is not RAM in one page: into the bounce buffer, and from there. */
static void run_store(struct soft_vcpu *c, const struct x86_insn *i, const struct thunk *t,
					  uint64_t off, unsigned len, bool watched, bool masked) {
	struct soft_fpu *f = c->fpu;
	bool x87 = x86_forms[i->form].cls == X86_CLASS_X87;
	if (masked) {
		masked_store(c, i, off, len, watched);
		return;
	}
	if (x87)
		fill(f, UNTOUCHED, 16);
	run_thunk(c, f, watched, false);
	if (!x87 || (t->flags & THUNK_CONTROL) || x87_stored(f, len))
		native_write(c, i->seg, off, f->bounce, len);
}

/* ---- masked loads -------------------------------------------------------------------------- */

/* Instructions that access all of their operand whatever the mask says, which the exception classes
 * NF of [SDM2 2.8] are: they move elements about, or there is one count for all. */
static bool ignores_mask(const struct x86_insn *i) {
	switch (i->op) {
	case X86_OP_VPACKSSDW:
	case X86_OP_VPACKSSWB:
	case X86_OP_VPACKUSDW:
	case X86_OP_VPACKUSWB:
	case X86_OP_VPALIGNR:
	case X86_OP_VPMADDUBSW:
	case X86_OP_VPMADDWD:
	case X86_OP_VPSHUFB:
	case X86_OP_VPSHUFD:
	case X86_OP_VPSHUFHW:
	case X86_OP_VPSHUFLW:
	case X86_OP_VPUNPCKHBW:
	case X86_OP_VPUNPCKHDQ:
	case X86_OP_VPUNPCKHQDQ:
	case X86_OP_VPUNPCKHWD:
	case X86_OP_VPUNPCKLBW:
	case X86_OP_VPUNPCKLDQ:
	case X86_OP_VPUNPCKLQDQ:
	case X86_OP_VPUNPCKLWD:
	case X86_OP_VSHUFPD:
	case X86_OP_VSHUFPS:
	case X86_OP_VSHUFF32X4:
	case X86_OP_VSHUFF64X2:
	case X86_OP_VSHUFI32X4:
	case X86_OP_VSHUFI64X2:
	case X86_OP_VUNPCKHPD:
	case X86_OP_VUNPCKHPS:
	case X86_OP_VUNPCKLPD:
	case X86_OP_VUNPCKLPS:
	case X86_OP_VALIGND:
	case X86_OP_VALIGNQ:
	case X86_OP_VCVTNE2PS2BF16:
	case X86_OP_VDBPSADBW:
	case X86_OP_VMOVDDUP:
	case X86_OP_VMOVSHDUP:
	case X86_OP_VMOVSLDUP:
	case X86_OP_VPCONFLICTD:
	case X86_OP_VPCONFLICTQ:
	case X86_OP_VPERMB:
	case X86_OP_VPERMD:
	case X86_OP_VPERMI2B:
	case X86_OP_VPERMI2D:
	case X86_OP_VPERMI2PD:
	case X86_OP_VPERMI2PS:
	case X86_OP_VPERMI2Q:
	case X86_OP_VPERMI2W:
	case X86_OP_VPERMILPD:
	case X86_OP_VPERMILPS:
	case X86_OP_VPERMPD:
	case X86_OP_VPERMPS:
	case X86_OP_VPERMQ:
	case X86_OP_VPERMT2B:
	case X86_OP_VPERMT2D:
	case X86_OP_VPERMT2PD:
	case X86_OP_VPERMT2PS:
	case X86_OP_VPERMT2Q:
	case X86_OP_VPERMT2W:
	case X86_OP_VPERMW:
	case X86_OP_VPMULTISHIFTQB:
	case X86_OP_VINSERTF32X4:
	case X86_OP_VINSERTF32X8:
	case X86_OP_VINSERTF64X2:
	case X86_OP_VINSERTF64X4:
	case X86_OP_VINSERTI32X4:
	case X86_OP_VINSERTI32X8:
	case X86_OP_VINSERTI64X2:
	case X86_OP_VINSERTI64X4:
		return true;
	case X86_OP_VPSLLW:
	case X86_OP_VPSLLD:
	case X86_OP_VPSLLQ:
	case X86_OP_VPSRLW:
	case X86_OP_VPSRLD:
	case X86_OP_VPSRLQ:
	case X86_OP_VPSRAW:
	case X86_OP_VPSRAD:
	case X86_OP_VPSRAQ:
		return i->opnd[2].kind == OPND_MEM; /* the count */
	default:
		return false;
	}
}

static bool name_begins(const struct x86_insn *i, const char *with) {
	const char *m = x86_forms[i->form].mnemonic;
	while (*with && *m == *with)
		m++, with++;
	return !*with;
}

/* Bytes of an element of the destination, by the instruction's name: AVX-512 names end so. */
static unsigned element_size(const struct x86_insn *i) {
	const char *m = x86_forms[i->form].mnemonic, *e = m;
	while (*e)
		e++;
	if (e - m < 3)
		return 4;
	char last = e[-1], before = e[-2];
	if (before == 'x' || (last == '2' && before == '3') || (last == '4' && before == '6'))
		return i->rex & 8 ? 8 : 4; /* 32x4, 64x2, 32, 64 */
	if (last == '8' || last == 'b')
		return 1;
	if (last == 'w' || last == '6' || last == 'h')
		return 2;
	if (last == 'q')
		return before == 'd' && name_begins(i, "vcvt") ? 4 : 8;
	return (last == 'd' && before == 'p') || name_begins(i, "vbroadcastsd") ? 8 : 4;
}

/* Which elements of the memory operand are accessed, and their size. */
static uint64_t wanted_elements(struct soft_vcpu *c, const struct x86_insn *i, unsigned len,
								unsigned *size) {
	const struct x86_dec *dec = &x86_decs[i->form];
	uint64_t mask = le64_get(fpu_peek(c) + XS_K + (i->evex & 7) * 8);
	unsigned dest = element_size(i), lanes;
	*size = len;
	if (dec->flags & DEC_LIG)
		return mask & 1;
	if (i->evex & 0x10) {
		lanes = (16u << i->vl) / MAX(dest, dec->bcast);
	} else if (dec->bcast) {
		*size = dec->bcast;
		lanes = len / *size;
	} else {
		lanes = (16u << i->vl) / dest;
		*size = name_begins(i, "vbroadcast") || name_begins(i, "vpbroadcast") ? dest : len / lanes;
	}
	mask &= ~0ull >> (64 - lanes);
	if (name_begins(i, "vexpand") || name_begins(i, "vpexpand")) { /* as many as are wanted */
		unsigned n = (unsigned)__builtin_popcountll(mask);
		return n ? ~0ull >> (64 - n) : 0;
	}
	uint64_t on = 0; /* a broadcast has fewer than lanes */
	for (unsigned n = 0; n < lanes; n++)
		on |= (mask >> n & 1) << n % (len / *size);
	return on;
}

/* Lanes that the mask leaves out are not accessed and cannot fault ([SDM2 2.7.4]). */
static void masked_load(struct soft_vcpu *c, const struct x86_insn *i, uint64_t off, unsigned len) {
	struct soft_fpu *f = c->fpu;
	if (ignores_mask(i)) {
		native_read(c, i->seg, off, f->bounce, len);
		return;
	}
	unsigned size;
	uint64_t on = wanted_elements(c, i, len, &size);
	fill(f, 0, 64);
	for (unsigned n = 0; n < len / size; n++) {
		if (!(on & BIT(n)))
			continue;
		uint8_t lane[64] __attribute__((aligned(8)));
		native_read(c, i->seg, off + n * size, lane, size);
		fpu_copy(f->bounce + n * size, lane, size);
	}
}

/* ---- the handler ----------------------------------------------------------------------------- */

/* Operands that the host takes unaligned although the table says otherwise, both AMD's: SHA
 * always, SSE with MXCSR.MM unless it is a MOVAPS or the like. */
static bool is_unaligned(const struct soft_fpu *f, const struct x86_form *form) {
	const char *m = form->mnemonic;
	if (unlikely(f->misaligned) && form->cls == X86_CLASS_SSE)
		return !(m[0] == 'm' && m[1] == 'o' && m[2] == 'v');
	return form->feature == X86_FEAT_SHA && f->sha_unaligned;
}

static gva_t linear64(const struct soft_vcpu *c, unsigned seg, uint64_t off) {
	return off + (seg >= SEG_FS ? c->s->seg[seg].base : 0);
}

static void note_x87(struct soft_vcpu *c, struct soft_fpu *f, const struct x86_insn *i,
					 uint64_t off) {
	f->fip = c->s->rip;
	f->fop = (uint16_t)((i->raw[i->modrm_off - 1] & 7) << 8 | i->modrm);
	if (i->modrm < 0xc0)
		f->fdp = off;
}

static void run(struct soft_vcpu *c, const struct x86_insn *i);

void soft_native(struct soft_vcpu *c, const struct x86_insn *i) {
	run(c, i);
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
}

/* VZEROUPPER and VZEROALL of 32-bit modes: the eight registers that there are. The host's would
 * clear sixteen. */
static void zero_eight(struct soft_vcpu *c, bool all) {
	soft_fpu_unload(c);
	fpu_zero(c->s->xsave + XS_YMMH, 8 * 16);
	if (all)
		fpu_zero(c->s->xsave + XS_XMM, 8 * 16);
}

static void run(struct soft_vcpu *c, const struct x86_insn *i) {
	struct soft_fpu *f = c->fpu;
	const struct x86_form *form = &x86_forms[i->form];
	const struct x86_opnd *m = NULL;
	bool mmx = form->cls == X86_CLASS_MMX || i->op == X86_OP_CVTPI2PS,
		 x87 = form->cls == X86_CLASS_X87;
	bool mmx_operand = false;
	uint64_t off = 0;

	native_check(c, i);
	if (unlikely(c->mode != X86_MODE_64 &&
				 (i->op == X86_OP_VZEROUPPER || i->op == X86_OP_VZEROALL))) {
		zero_eight(c, i->op == X86_OP_VZEROALL);
		return;
	}
	if (unlikely(form->attr & X86_ATTR_VSIB)) /* the rest of them has handlers: prefetches */
		return;
	for (unsigned n = 0; n < i->nopnds; n++) {
		if (i->opnd[n].kind == OPND_MEM)
			m = &i->opnd[n];
		else if (i->opnd[n].kind == OPND_MMX)
			mmx = mmx_operand = true;
	}
	soft_fpu_load(c);
	const struct thunk *t = thunk_find(f, i);
	if ((x87 && !(t->flags & THUNK_NONWAIT)) || mmx)
		fpu_check_pending(c);

	bool masked = m && (i->prefix & X86_PFX_EVEX) && (i->evex & 7);
	bool watched = unlikely(f->unmasked) && !x87;
	unsigned len = m ? m->size : 0;
	bool store = m && (m->access & OPND_W);
	uint8_t *direct = NULL;
	if (m) {
		enum soft_access kind = store ? ACCESS_WRITE : ACCESS_READ;
		off = fast_ea(c, i);
		if (unlikely(len > 64))
			soft_ud(c);
		bool align = (form->attr & X86_ATTR_ALIGN) && !is_unaligned(f, form);
		/* In 64-bit mode the misaligned comes before the non-canonical, as on the host: #GP
		 * also for SS. */
		if (align && c->mode == X86_MODE_64 && unlikely(linear64(c, i->seg, off) & (len - 1)))
			soft_gp(c, 0);
		/* An address that is not canonical is a fault of the lanes that are accessed. */
		bool lanes = masked && !align && c->mode == X86_MODE_64 && !ignores_mask(i);
		gva_t gva =
			lanes ? linear64(c, i->seg, off) : fast_linear(c, i->seg, off, MAX(len, 1), kind);
		if (align && unlikely(gva & (len - 1)))
			soft_gp(c, 0);
		/* Mostly it is RAM in one page, and the instruction may have it as it is. 64 bytes,
		 * the longest operand of all: what the table says of its length is no matter of
		 * the host's safety. */
		if (likely(!c->align_check && !watched))
			direct = fast_host(c, gva, 64, kind, fast_user(c));
		if (unlikely(!direct)) {
			if (!store && masked)
				masked_load(c, i, off, len);
			else if (!store)
				native_read(c, i->seg, off, f->bounce, len);
			else if (!masked)
				soft_probe(c, i->seg, off, len, ACCESS_WRITE);
			if (store && (m->access & OPND_R))
				native_read(c, i->seg, off, f->bounce, len);
			soft_fpu_load(c); /* a slow access took it away */
		}
	}

	if (t->flags & THUNK_EMPTY)
		return;
	struct x86_state *s = c->s;
	f->regs.rax = s->gpr[t->gpr];
	f->regs.rcx = s->gpr[RCX];
	f->regs.rdx = s->gpr[RDX];
	f->regs.flags = form->flags_read | form->flags_written;
	if (f->regs.flags)
		f->regs.rflags = flags_to_ax(s->rflags);
	f->regs.mem = direct ? direct : f->bounce;
	f->regs.code = t->code;
	if (x87 && !(t->flags & THUNK_CONTROL))
		note_x87(c, f, i, off);

	if (likely(!store || direct)) {
		run_thunk(c, f, watched, mmx_operand);
		if (store)
			fast_note_store(c, direct);
	} else {
		run_store(c, i, t, off, len, watched, masked);
	}
	s->gpr[t->gpr] = f->regs.rax;
	if (t->flags & THUNK_RCX)
		s->gpr[RCX] = f->regs.rcx;
	if (form->flags_written)
		s->rflags = (s->rflags & ~(uint64_t)RFLAGS_ARITH) | (f->regs.rflags & RFLAGS_ARITH);
}
