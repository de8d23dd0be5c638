/* FNSTENV, FLDENV, FNSAVE and FRSTOR: the x87 environment in its four formats,
 * by operand size and by protected or real mode [SDM1 8.1.10]. */
#include "core/base/le.h"
#include "engine/soft/fpu.h"

struct env {
	uint16_t fcw, fsw, ftw, fop;
	uint64_t fip, fdp;
};

static unsigned env_size(const struct x86_insn *i) {
	return i->opsize == 2 ? 14 : 28;
}

/* The image has one bit a register; the environment two, which say what is in it. */
static uint16_t full_tags(const uint8_t *image) {
	unsigned top = le16_get(image + XS_FSW) >> 11 & 7, tags = 0;
	for (unsigned n = 0; n < 8; n++) {
		const uint8_t *st = image + XS_ST + ((n - top) & 7) * 16;
		uint64_t mantissa = le64_get(st);
		unsigned exponent = le16_get(st + 8) & 0x7fff, tag = 0;
		if (!(image[XS_FTW] & 1u << n))
			tag = 3;
		else if (!exponent && !mantissa)
			tag = 1;
		else if (!exponent || exponent == 0x7fff || !(mantissa >> 63))
			tag = 2;
		tags |= tag << (n * 2);
	}
	return (uint16_t)tags;
}

static void env_get(const uint8_t *image, struct env *e) {
	*e = (struct env){.fcw = le16_get(image + XS_FCW),
					  .fsw = le16_get(image + XS_FSW),
					  .ftw = full_tags(image),
					  .fop = le16_get(image + XS_FOP) & 0x7ff,
					  .fip = le64_get(image + XS_FIP),
					  .fdp = le64_get(image + XS_FDP)};
}

/* ES and B follow from flags and masks. */
static uint16_t summary(uint16_t fcw, uint16_t fsw) {
	fsw &= (uint16_t) ~(FSW_ES | FSW_B);
	return fsw & ~fcw & 0x3f ? fsw | FSW_ES | FSW_B : fsw;
}

/* The physical registers stay where they are; the image has them relative to the top. */
static void rotate(uint8_t *image, unsigned from, unsigned to) {
	uint8_t regs[128];
	if (from == to)
		return;
	fpu_copy(regs, image + XS_ST, sizeof(regs));
	for (unsigned n = 0; n < 8; n++)
		fpu_copy(image + XS_ST + n * 16, regs + ((n + to - from) & 7) * 16, 16);
}

static unsigned top_of(uint16_t fsw) {
	return fsw >> 11 & 7;
}

static void env_put(uint8_t *image, const struct env *e) {
	uint8_t tags = 0;
	rotate(image, top_of(le16_get(image + XS_FSW)), top_of(e->fsw));
	for (unsigned n = 0; n < 8; n++)
		tags |= (uint8_t)(((e->ftw >> (n * 2) & 3) != 3) << n);
	le16_put(image + XS_FCW, (e->fcw & 0x1f3f) | 0x40);
	le16_put(image + XS_FSW, summary(e->fcw, e->fsw));
	image[XS_FTW] = tags;
	le16_put(image + XS_FOP, e->fop);
	le64_put(image + XS_FIP, e->fip);
	le64_put(image + XS_FDP, e->fdp);
}

static void env_encode(struct soft_vcpu *c, const struct x86_insn *i, const struct env *e,
					   uint8_t *out) {
	uint32_t fip = (uint32_t)e->fip, fdp = (uint32_t)e->fdp;
	if (i->opsize == 2) {
		bool prot = soft_protected(c);
		le16_put(out, e->fcw);
		le16_put(out + 2, e->fsw);
		le16_put(out + 4, e->ftw);
		le16_put(out + 6, (uint16_t)fip);
		le16_put(out + 8, prot ? 0 : (uint16_t)((fip >> 16 & 15) << 12 | e->fop));
		le16_put(out + 10, (uint16_t)fdp);
		le16_put(out + 12, prot ? 0 : (uint16_t)((fdp >> 16 & 15) << 12));
		return;
	}
	le32_put(out, 0xffff0000u | e->fcw);
	le32_put(out + 4, 0xffff0000u | e->fsw);
	le32_put(out + 8, 0xffff0000u | e->ftw);
	if (soft_protected(c)) {
		le32_put(out + 12, fip);
		le32_put(out + 16, (uint32_t)e->fop << 16);
		le32_put(out + 20, fdp);
		le32_put(out + 24, 0xffff0000u);
	} else {
		le32_put(out + 12, 0xffff0000u | (fip & 0xffff));
		le32_put(out + 16, (fip >> 16) << 12 | e->fop);
		le32_put(out + 20, 0xffff0000u | (fdp & 0xffff));
		le32_put(out + 24, (fdp >> 16) << 12);
	}
}

static void env_decode(struct soft_vcpu *c, const struct x86_insn *i, const uint8_t *in,
					   struct env *e) {
	if (i->opsize == 2) {
		*e = (struct env){.fcw = le16_get(in),
						  .fsw = le16_get(in + 2),
						  .ftw = le16_get(in + 4),
						  .fip = le16_get(in + 6),
						  .fdp = le16_get(in + 10)};
		if (!soft_protected(c)) {
			e->fop = le16_get(in + 8) & 0x7ff;
			e->fip |= (uint32_t)(le16_get(in + 8) >> 12) << 16;
			e->fdp |= (uint32_t)(le16_get(in + 12) >> 12) << 16;
		}
		return;
	}
	*e = (struct env){.fcw = le16_get(in), .fsw = le16_get(in + 4), .ftw = le16_get(in + 8)};
	if (soft_protected(c)) {
		e->fip = le32_get(in + 12);
		e->fop = le16_get(in + 18) & 0x7ff;
		e->fdp = le32_get(in + 20);
	} else {
		e->fip = le16_get(in + 12) | (le32_get(in + 16) >> 12) << 16;
		e->fop = le16_get(in + 16) & 0x7ff;
		e->fdp = le16_get(in + 20) | (le32_get(in + 24) >> 12) << 16;
	}
}

void op_fnstenv(struct soft_vcpu *c, const struct x86_insn *i) {
	native_check(c, i);
	struct env e;
	uint8_t out[28];
	env_get(fpu_image(c), &e);
	env_encode(c, i, &e, out);
	soft_write_bytes(c, i->seg, fast_ea(c, i), out, env_size(i));
	e.fcw |= 0x3f;
	env_put(fpu_image(c), &e);
	fpu_image_used(c, XCR0_X87);
}

void op_fldenv(struct soft_vcpu *c, const struct x86_insn *i) {
	native_check(c, i);
	fpu_check_pending(c);
	struct env e;
	uint8_t in[28], *image = fpu_image(c);
	soft_read_bytes(c, i->seg, fast_ea(c, i), in, env_size(i));
	env_decode(c, i, in, &e);
	env_put(image, &e);
	fpu_image_used(c, XCR0_X87);
}

void op_fnsave(struct soft_vcpu *c, const struct x86_insn *i) {
	native_check(c, i);
	struct env e;
	uint8_t out[108], *image = fpu_image(c);
	unsigned at = env_size(i);
	env_get(image, &e);
	env_encode(c, i, &e, out);
	for (unsigned n = 0; n < 8; n++)
		fpu_copy(out + at + n * 10, image + XS_ST + n * 16, 10);
	soft_write_bytes(c, i->seg, fast_ea(c, i), out, at + 80);
	image = fpu_image(c);
	env_put(image, &(struct env){.fcw = 0x37f, .ftw = 0xffff});
	fpu_image_used(c, XCR0_X87);
}

void op_frstor(struct soft_vcpu *c, const struct x86_insn *i) {
	native_check(c, i);
	fpu_check_pending(c);
	struct env e;
	uint8_t in[108], *image = fpu_image(c);
	unsigned at = env_size(i);
	soft_read_bytes(c, i->seg, fast_ea(c, i), in, at + 80);
	env_decode(c, i, in, &e);
	env_put(image, &e);
	for (unsigned n = 0; n < 8; n++) {
		fpu_copy(image + XS_ST + n * 16, in + at + n * 10, 10);
		fpu_zero(image + XS_ST + n * 16 + 10, 6);
	}
	fpu_image_used(c, XCR0_X87);
}
