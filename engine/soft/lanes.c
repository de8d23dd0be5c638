/* Instructions whose memory operand is many: masked moves, gathers, scatters.
 * Only the chosen lanes are accessed. */
#include "core/base/le.h"
#include "engine/soft/fpu.h"

static unsigned vec_bytes(const struct x86_insn *i) {
	return 16u << i->vl;
}

/* A vector register's 64 bytes from / into an image; registers above 15 are AVX-512's. */
static void get_vec(const uint8_t *image, unsigned reg, uint8_t out[64]) {
	if (reg >= 16) {
		fpu_copy(out, image + XS_ZMM16 + (reg - 16) * 64, 64);
		return;
	}
	fpu_copy(out, image + XS_XMM + reg * 16, 16);
	fpu_copy(out + 16, image + XS_YMMH + reg * 16, 16);
	fpu_copy(out + 32, image + XS_ZMMH + reg * 32, 32);
}

static void put_vec(struct soft_vcpu *c, uint8_t *image, unsigned reg, const uint8_t in[64]) {
	if (reg >= 16) {
		fpu_copy(image + XS_ZMM16 + (reg - 16) * 64, in, 64);
		fpu_image_used(c, BIT(7));
		return;
	}
	fpu_copy(image + XS_XMM + reg * 16, in, 16);
	fpu_copy(image + XS_YMMH + reg * 16, in + 16, 16);
	fpu_image_used(c, XCR0_SSE | XCR0_AVX);
	if (fpu_of(c)->mask & BIT(6)) {
		fpu_copy(image + XS_ZMMH + reg * 32, in + 32, 32);
		fpu_image_used(c, BIT(6));
	}
}

static uint64_t lane_get(const uint8_t *v, unsigned n, unsigned size) {
	return size == 8 ? le64_get(v + n * 8) : le32_get(v + n * 4);
}

static void lane_put(uint8_t *v, unsigned n, unsigned size, uint64_t val) {
	if (size == 8)
		le64_put(v + n * 8, val);
	else
		le32_put(v + n * 4, (uint32_t)val);
}

static unsigned opcode_byte(const struct x86_insn *i) {
	return i->raw[i->modrm_off - 1];
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q, both ways. */
void op_vmaskmov(struct soft_vcpu *c, const struct x86_insn *i) {
	native_check(c, i);
	unsigned op = opcode_byte(i), len = vec_bytes(i);
	bool store = op == 0x2e || op == 0x2f || op == 0x8e;
	unsigned size = op == 0x2d || op == 0x2f   ? 8
					: op == 0x2c || op == 0x2e ? 4
					: i->rex & 8			   ? 8
											   : 4;
	unsigned reg = (i->modrm >> 3 & 7) | (i->rex & 4) << 1, mask_reg = i->vvvv & 15;
	if (i->mode != X86_MODE_64) {
		reg &= 7;
		mask_reg &= 7;
	}
	uint64_t off = fast_ea(c, i);
	uint8_t mask[64], data[64] __attribute__((aligned(8)));
	const uint8_t *now = fpu_peek(c);
	get_vec(now, mask_reg, mask);
	if (store)
		get_vec(now, reg, data);
	else
		fpu_zero(data, 64);
	for (unsigned n = 0; n < len / size; n++) {
		if (!(lane_get(mask, n, size) >> (size * 8 - 1)))
			continue;
		if (store)
			soft_probe(c, i->seg, off + n * size, size, ACCESS_WRITE);
		else
			lane_put(data, n, size, soft_read(c, i->seg, off + n * size, size));
	}
	if (!store) {
		put_vec(c, fpu_image(c), reg, data);
		return;
	}
	for (unsigned n = 0; n < len / size; n++)
		if (lane_get(mask, n, size) >> (size * 8 - 1))
			soft_write(c, i->seg, off + n * size, size, lane_get(data, n, size));
}

/* MASKMOVQ and (V)MASKMOVDQU: bytes of one register to [DI], by the top bits of another. */
void op_maskmov(struct soft_vcpu *c, const struct x86_insn *i) {
	native_check(c, i);
	bool mmx = false;
	for (unsigned n = 0; n < i->nopnds; n++)
		mmx |= i->opnd[n].kind == OPND_MMX;
	unsigned reg = i->modrm >> 3 & 7, mask_reg = i->modrm & 7, len = mmx ? 8 : 16;
	uint8_t data[64], mask[64];
	if (mmx) {
		fpu_check_pending(c);
		const uint8_t *now = fpu_peek(c);
		/* MMn is physical register n; the image has them relative to the top. */
		unsigned top = le16_get(now + XS_FSW) >> 11 & 7;
		fpu_copy(data, now + XS_ST + ((reg - top) & 7) * 16, 8);
		fpu_copy(mask, now + XS_ST + ((mask_reg - top) & 7) * 16, 8);
	} else {
		if (i->mode == X86_MODE_64) {
			reg |= (i->rex & 4) << 1;
			mask_reg |= (i->rex & 1) << 3;
		}
		const uint8_t *now = fpu_peek(c);
		get_vec(now, reg, data);
		get_vec(now, mask_reg, mask);
	}
	if (mmx) { /* as every MMX instruction, and even if it faults: all tags valid, the top 0 */
		soft_fpu_load(c);
		__asm__ volatile("movd %%mm0, %%eax" : : : "eax");
	}
	uint64_t off = c->s->gpr[RDI] & size_mask(i->addrsize);
	unsigned seg = i->seg_prefix == X86_REG_NONE ? SEG_DS : i->seg_prefix;
	/* The manuals leave it open whether bytes that are not stored can fault; on hosts they do. */
	soft_probe(c, seg, off, len, ACCESS_WRITE);
	for (unsigned n = 0; n < len; n++)
		if (mask[n] & 0x80)
			soft_write(c, seg, (off + n) & size_mask(i->addrsize), 1, data[n]);
}

/* ---- gathers and scatters ---------------------------------------------------------------- */

struct vsib {
	unsigned lanes, size, index_size;
	uint8_t index[64];
	uint64_t offs[16];
	bool on[16];
};

/* Opcodes 90-93 and A0-A3: bit 0 says 64-bit indices, W says 64-bit elements. */
static void vsib_init(struct soft_vcpu *c, const struct x86_insn *i, const uint8_t *now,
					  struct vsib *v) {
	unsigned op = opcode_byte(i);
	v->index_size = op & 1 ? 8 : 4;
	v->size = i->rex & 8 ? 8 : 4;
	v->lanes = vec_bytes(i) / MAX(v->index_size, v->size);
	/* The index register: SIB.index, VEX.X, EVEX.V'. */
	unsigned sib = i->raw[i->modrm_off + 1], reg = sib >> 3 & 7;
	if (i->mode == X86_MODE_64) {
		reg |= (i->rex & 2) << 2;
		if ((i->prefix & X86_PFX_EVEX) && !(i->raw[i->modrm_off - 2] & 8))
			reg |= 16;
	}
	get_vec(now, reg, v->index);
	uint64_t base = (uint64_t)i->disp;
	if (i->base < 16)
		base += c->s->gpr[i->base];
	for (unsigned n = 0; n < v->lanes; n++) {
		int64_t x = v->index_size == 8 ? (int64_t)lane_get(v->index, n, 8)
									   : (int32_t)lane_get(v->index, n, 4);
		v->offs[n] = (base + ((uint64_t)x << (sib >> 6))) & size_mask(i->addrsize);
	}
}

static unsigned vsib_reg(const struct x86_insn *i) {
	unsigned reg = i->modrm >> 3 & 7;
	if (i->mode == X86_MODE_64) {
		reg |= (i->rex & 4) << 1;
		if ((i->prefix & X86_PFX_EVEX) && !(i->raw[i->modrm_off - 4] & 0x10))
			reg |= 16;
	}
	return reg;
}

static void vsib_mask(const struct x86_insn *i, const uint8_t *now, struct vsib *v) {
	uint8_t mask[64];
	uint64_t k = 0;
	if (i->prefix & X86_PFX_EVEX)
		k = le64_get(now + XS_K + (i->evex & 7) * 8);
	else
		get_vec(now, i->mode == X86_MODE_64 ? i->vvvv & 15 : i->vvvv & 7, mask);
	for (unsigned n = 0; n < v->lanes; n++)
		v->on[n] =
			i->prefix & X86_PFX_EVEX ? k >> n & 1 : lane_get(mask, n, v->size) >> (v->size * 8 - 1);
}

/* Lanes below `done` are no longer wanted. */
static void mask_clear(struct soft_vcpu *c, const struct x86_insn *i, uint8_t *image,
					   const struct vsib *v, unsigned done) {
	bool all = done == v->lanes;
	if (i->prefix & X86_PFX_EVEX) {
		uint8_t *k = image + XS_K + (i->evex & 7) * 8;
		le64_put(k, all ? 0 : le64_get(k) & ~(BIT(done) - 1));
		fpu_image_used(c, BIT(5));
		return;
	}
	uint8_t mask[64];
	unsigned reg = i->mode == X86_MODE_64 ? i->vvvv & 15 : i->vvvv & 7;
	get_vec(image, reg, mask);
	fpu_zero(mask, all ? 64 : done * v->size);
	put_vec(c, image, reg, mask);
}

static void gathered(struct soft_vcpu *c, const struct x86_insn *i, const struct vsib *v,
					 const uint8_t *out, unsigned done) {
	uint8_t *image = fpu_image(c);
	mask_clear(c, i, image, v, done);
	put_vec(c, image, vsib_reg(i), out);
}

/* When a lane faults, those below it are done ([SDM2 VGATHERDPS]): what lies ready in the TLB
 * cannot fault, and before anything else the progress is put down. */
static bool lane_is_ready(struct soft_vcpu *c, const struct x86_insn *i, uint64_t off,
						  unsigned size, enum soft_access kind) {
	return c->flat && i->seg < SEG_FS && !c->align_check &&
		   fast_host(c, off, size, kind, fast_user(c));
}

void op_gather(struct soft_vcpu *c, const struct x86_insn *i) {
	struct vsib v;
	uint8_t out[64];
	native_check(c, i);
	const uint8_t *now = fpu_peek(c);
	vsib_init(c, i, now, &v);
	vsib_mask(i, now, &v);
	get_vec(now, vsib_reg(i), out);
	for (unsigned n = 0, put = 0; n < v.lanes; n++) {
		if (!v.on[n])
			continue;
		if (n > put && !lane_is_ready(c, i, v.offs[n], v.size, ACCESS_READ)) {
			gathered(c, i, &v, out, n);
			put = n;
		}
		lane_put(out, n, v.size, soft_read(c, i->seg, v.offs[n], v.size));
	}
	fpu_zero(out + v.lanes * v.size, 64 - v.lanes * v.size);
	gathered(c, i, &v, out, v.lanes);
}

/* Lanes are written from the lowest to the highest; a fault leaves those below it done. */
void op_scatter(struct soft_vcpu *c, const struct x86_insn *i) {
	struct vsib v;
	uint8_t data[64];
	native_check(c, i);
	const uint8_t *now = fpu_peek(c);
	vsib_init(c, i, now, &v);
	vsib_mask(i, now, &v);
	get_vec(now, vsib_reg(i), data);
	for (unsigned n = 0, put = 0; n < v.lanes; n++) {
		if (!v.on[n])
			continue;
		if (n > put && !lane_is_ready(c, i, v.offs[n], v.size, ACCESS_WRITE)) {
			mask_clear(c, i, fpu_image(c), &v, n);
			put = n;
		}
		soft_write(c, i->seg, v.offs[n], v.size, lane_get(data, n, v.size));
	}
	mask_clear(c, i, fpu_image(c), &v, v.lanes);
}
