/* Native copies of guest x87/MMX/SSE/AVX instructions. A thunk is the guest's
 * instruction with its memory operand turned into [rdi], its general register
 * into EAX/RAX, followed by RET; everything else of it stays as the guest wrote
 * it. One cache a vCPU, so there is nothing to lock.
 *
 * No thunk can fault or trap: native.c has checked the features, the memory is
 * ours, MXCSR is masked or watched, and pending x87 exceptions were raised. */
#include "engine/soft/fpu.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/check.h"

int thunk_create(struct soft_fpu *f) {
	int fd = memfd_create("joist-thunks", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = 0;
	if (ftruncate(fd, THUNK_CODE))
		r = -errno;
	f->code_rw = f->code_rx = MAP_FAILED;
	if (!r) {
		f->code_rw = mmap(NULL, THUNK_CODE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		f->code_rx = mmap(NULL, THUNK_CODE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		if (f->code_rw == MAP_FAILED || f->code_rx == MAP_FAILED)
			r = -errno;
	}
	close(fd);
	if (r)
		thunk_destroy(f);
	return r;
}

void thunk_destroy(struct soft_fpu *f) {
	if (f->code_rw != MAP_FAILED)
		munmap(f->code_rw, THUNK_CODE);
	if (f->code_rx != MAP_FAILED)
		munmap(f->code_rx, THUNK_CODE);
}

/* The way in and out. Flags go in as flags_to_ax() has them and come out whole. */
__asm__(".pushsection .text\n"
		".globl thunk_call\n"
		".hidden thunk_call\n"
		".type thunk_call, @function\n"
		"thunk_call:\n"
		"	push %rbx\n"
		"	mov %rdi, %rbx\n"
		"	cmpq $0, 48(%rbx)\n"
		"	je 1f\n"
		"	mov 24(%rbx), %rax\n"
		"	add $0x7f, %al\n"
		"	sahf\n"
		"1:	mov (%rbx), %rax\n"
		"	mov 8(%rbx), %rcx\n"
		"	mov 16(%rbx), %rdx\n"
		"	mov 32(%rbx), %rdi\n"
		"	call *40(%rbx)\n"
		"	mov %rax, (%rbx)\n"
		"	mov %rcx, 8(%rbx)\n"
		"	mov 48(%rbx), %rcx\n"
		"	jrcxz 2f\n"
		"	pushf\n"
		"	pop %rax\n"
		"	mov %rax, 24(%rbx)\n"
		"2:"
		"	pop %rbx\n"
		"	ret\n"
		".size thunk_call, . - thunk_call\n"
		".popsection\n");

/* ---- re-encoding ------------------------------------------------------------------------ */

enum map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };
enum gpr_field { GPR_NO, GPR_REG, GPR_RM };

struct parsed {
	unsigned at; /* of VEX/EVEX or of the opcode's first byte */
	uint8_t rex, op, modrm;
	bool opsize;
	uint8_t rep; /* F2, F3 or 0 */
	unsigned map, pp;
	bool vex, evex, w;
	bool has_modrm, mem;
	enum gpr_field gpr;
};

static bool is_prefix(uint8_t b) {
	return b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e || (b >= 0x64 && b <= 0x67) ||
		   b == 0xf0 || b == 0xf2 || b == 0xf3;
}

/* Which field of ModRM names a general register. One list for SSE, VEX and EVEX: where they
 * have the same opcode they agree. */
static enum gpr_field gpr_field(const struct parsed *p) {
	if (p->map == MAP_0F) {
		switch (p->op) {
		case 0x50: /* movmsk */
		case 0xc5: /* pextrw */
		case 0xd7: /* pmovmskb */
		case 0x93: /* kmov r, k */
			return p->mem ? GPR_NO : GPR_REG;
		case 0x2c: /* cvt(t)s[sd]2si */
		case 0x2d:
			return p->pp >= 2 ? GPR_REG : GPR_NO;
		case 0x78: /* vcvt(t)s[sd]2usi; without EVEX: EXTRQ and INSERTQ */
		case 0x79:
			return p->evex && p->pp >= 2 ? GPR_REG : GPR_NO;
		case 0x6e: /* movd */
		case 0xc4: /* pinsrw */
		case 0x92: /* kmov k, r */
			return p->mem ? GPR_NO : GPR_RM;
		case 0x7e:
			return p->mem || p->pp >= 2 ? GPR_NO : GPR_RM;
		case 0x2a: /* cvtsi2s[sd]; with pp < 2 the source is MMX */
			return p->mem || p->pp < 2 ? GPR_NO : GPR_RM;
		case 0x7b: /* vcvtusi2s[sd] */
			return p->evex && !p->mem && p->pp >= 2 ? GPR_RM : GPR_NO;
		}
	} else if (p->map == MAP_0F38) {
		if (p->evex && !p->mem && p->op >= 0x7a && p->op <= 0x7c) /* vpbroadcast r */
			return GPR_RM;
	} else if (p->map == MAP_0F3A) {
		if (!p->mem && ((p->op >= 0x14 && p->op <= 0x17) || p->op == 0x20 || p->op == 0x22))
			return GPR_RM; /* pextr, extractps, pinsr */
	}
	return GPR_NO;
}

/* In 32-bit modes VEX.W chooses nothing for these: the general operand has 32 bits. */
static bool w_is_width(const struct parsed *p) {
	if (p->map == MAP_0F)
		return p->op == 0x2a || p->op == 0x2c || p->op == 0x2d || p->op == 0x6e ||
			   (p->op == 0x7e && p->pp == 1) || p->op == 0x92 || p->op == 0x93 ||
			   (p->evex && (p->op == 0x78 || p->op == 0x79 || p->op == 0x7b));
	/* pextr, pinsr; and vpcmpestr, whose lengths are general registers */
	return p->map == MAP_0F3A && (p->op == 0x16 || p->op == 0x22 || p->op == 0x60 || p->op == 0x61);
}

static void parse(const struct x86_insn *i, struct parsed *p) {
	const uint8_t *b = i->raw;
	unsigned at = 0;
	*p = (struct parsed){0};
	for (; at < i->len && is_prefix(b[at]); at++) {
		if (b[at] == 0x66)
			p->opsize = true;
		else if (b[at] == 0xf2 || b[at] == 0xf3)
			p->rep = b[at];
	}
	while (i->mode == X86_MODE_64 && at < i->len && (b[at] & 0xf0) == 0x40) {
		p->rex = b[at++];
		/* A REX that another prefix follows means nothing. */
		for (; at < i->len && is_prefix(b[at]); at++) {
			p->rex = 0;
			if (b[at] == 0x66)
				p->opsize = true;
			else if (b[at] == 0xf2 || b[at] == 0xf3)
				p->rep = b[at];
		}
	}
	p->at = at;
	p->vex = i->prefix & X86_PFX_VEX;
	p->evex = i->prefix & X86_PFX_EVEX;
	if (p->evex) {
		p->map = b[at + 1] & 7;
		p->pp = b[at + 2] & 3;
		p->w = b[at + 2] >> 7;
		p->op = b[at + 4];
	} else if (p->vex && b[at] == 0xc5) {
		p->map = MAP_0F;
		p->pp = b[at + 1] & 3;
		p->op = b[at + 2];
	} else if (p->vex) {
		p->map = b[at + 1] & 31;
		p->pp = b[at + 2] & 3;
		p->w = b[at + 2] >> 7;
		p->op = b[at + 3];
	} else {
		p->map = b[at] != 0x0f		 ? MAP_ONE
				 : b[at + 1] == 0x38 ? MAP_0F38
				 : b[at + 1] == 0x3a ? MAP_0F3A
									 : MAP_0F;
		p->op = b[at + (p->map > 1 ? 2 : p->map)];
		p->pp = p->rep == 0xf3 ? 2 : p->rep == 0xf2 ? 3 : p->opsize ? 1 : 0;
		p->w = p->rex & 8;
	}
	p->has_modrm = i->modrm_off != 0;
	p->modrm = p->has_modrm ? b[i->modrm_off] : 0;
	p->mem = p->has_modrm && p->modrm < 0xc0;
	p->gpr = p->has_modrm ? gpr_field(p) : GPR_NO;
}

/* The bytes after displacement and SIB. */
static unsigned tail_at(const struct x86_insn *i, const struct parsed *p) {
	if (!p->has_modrm)
		return 0;
	unsigned at = i->modrm_off + 1u;
	if (p->mem)
		at += ((p->modrm & 7) == 4 && i->addrsize != 2) + i->disp_len;
	return at;
}

static unsigned encode(const struct x86_insn *i, const struct parsed *p, uint8_t *out) {
	const uint8_t *b = i->raw;
	bool long_mode = i->mode == X86_MODE_64;
	bool clear_rm = p->mem || p->gpr == GPR_RM, clear_reg = p->gpr == GPR_REG;
	unsigned n = 0, op_end = p->has_modrm ? i->modrm_off : i->len;

	if (p->evex) {
		uint8_t p0 = b[p->at + 1], p1 = b[p->at + 2], p2 = b[p->at + 3];
		if (!long_mode) {
			p0 |= 0xf0;
			p1 |= 0x40;
			p2 |= 8;
		}
		if (clear_rm)
			p0 |= 0x60;
		if (clear_reg)
			p0 |= 0x90;
		if (!long_mode && w_is_width(p))
			p1 &= 0x7f;
		out[n++] = 0x62;
		out[n++] = p0;
		out[n++] = p1;
		out[n++] = p2;
		out[n++] = p->op;
	} else if (p->vex) {
		uint8_t p0, p1;
		if (b[p->at] == 0xc5) {
			p0 = (b[p->at + 1] & 0x80) | 0x61;
			p1 = b[p->at + 1] & 0x7f;
		} else {
			p0 = b[p->at + 1];
			p1 = b[p->at + 2];
		}
		if (!long_mode) {
			p0 |= 0xe0;
			p1 |= 0x40;
		}
		if (clear_rm)
			p0 |= 0x60;
		if (clear_reg)
			p0 |= 0x80;
		if (!long_mode && w_is_width(p))
			p1 &= 0x7f;
		out[n++] = 0xc4;
		out[n++] = p0;
		out[n++] = p1;
		out[n++] = p->op;
	} else {
		if (p->opsize)
			out[n++] = 0x66;
		if (p->rep)
			out[n++] = p->rep;
		uint8_t rex = p->rex;
		if (clear_rm)
			rex &= ~3u;
		if (clear_reg)
			rex &= ~4u;
		if (rex)
			out[n++] = rex;
		for (unsigned k = p->at; k < op_end; k++)
			out[n++] = b[k];
	}
	if (p->has_modrm) {
		uint8_t modrm = p->modrm;
		if (p->mem)
			modrm = (modrm & 0x38) | 7;
		else if (p->gpr == GPR_RM)
			modrm &= 0xf8;
		if (clear_reg)
			modrm &= 0xc7;
		out[n++] = modrm;
		for (unsigned k = tail_at(i, p); k < i->len; k++)
			out[n++] = b[k];
		/* A register in the immediate's high nibble: 32-bit modes ignore its top bit. */
		if (!long_mode && p->vex && p->map == MAP_0F3A && p->op >= 0x4a && p->op <= 0x4c)
			out[n - 1] &= 0x7f;
	}
	out[n++] = 0xc3;
	return n;
}

/* What the x87 instruction is to FIP and to pending exceptions. */
static unsigned x87_flags(const struct parsed *p) {
	if (p->op == 0x9b)
		return THUNK_EMPTY | THUNK_CONTROL;
	unsigned reg = p->modrm >> 3 & 7;
	if (p->mem) {
		if (p->op == 0xd9 && reg == 5) /* FLDCW */
			return THUNK_CONTROL;
		if ((p->op == 0xd9 && reg == 7) || (p->op == 0xdd && reg == 7)) /* FNSTCW, FNSTSW */
			return THUNK_CONTROL | THUNK_NONWAIT;
		return 0;
	}
	if ((p->op == 0xdb && reg == 4) || (p->op == 0xdf && p->modrm == 0xe0))
		return THUNK_CONTROL | THUNK_NONWAIT; /* FNCLEX, FNINIT, FNSTSW AX */
	return 0;
}

static void thunk_make(struct soft_fpu *f, const struct x86_insn *i, struct thunk *t) {
	struct parsed p;
	parse(i, &p);
	t->gpr = RAX;
	t->flags = 0;
	if (p.gpr == GPR_REG)
		t->gpr = (p.modrm >> 3 & 7) | (i->rex & 4) << 1;
	else if (p.gpr == GPR_RM)
		t->gpr = (p.modrm & 7) | (i->rex & 1) << 3;
	if (i->mode != X86_MODE_64)
		t->gpr &= 7;
	if (p.map == MAP_0F3A && (p.op == 0x61 || p.op == 0x63))
		t->flags |= THUNK_RCX;
	if (p.map == MAP_ONE && !p.vex && !p.evex)
		t->flags |= x87_flags(&p);
	uint8_t *out = f->code_rw + f->code_used;
	t->code = f->code_rx + f->code_used;
	f->code_used += encode(i, &p, out);
}

static void flush(struct soft_fpu *f) {
	fpu_zero(f->table, sizeof(f->table));
	f->code_used = f->table_used = 0;
	/* New code takes the place of old at another linear address: serialise, [SDM3 8.1.3]. */
	unsigned a, b, c, d;
	__cpuid(0, a, b, c, d);
}

#define THUNK_MAX 24 /* a prefix longer than the guest's, and the RET */

const struct thunk *thunk_find(struct soft_fpu *f, const struct x86_insn *i) {
	uint64_t key[2];
	__builtin_memcpy(key, i->raw, 16);
	key[1] |= (uint64_t)(i->mode + 1) << 56; /* never all zero, which is an empty entry */
	uint64_t hash = (key[0] ^ (key[1] << 7 | key[1] >> 57)) * 0x9e3779b97f4a7c15ull;
	unsigned at = (unsigned)(hash >> 52) & (THUNKS - 1);
	for (;; at = (at + 1) & (THUNKS - 1)) {
		struct thunk *t = &f->table[at];
		if (likely(t->key[0] == key[0] && t->key[1] == key[1]))
			return t;
		if (t->key[1])
			continue;
		if (f->table_used >= THUNKS * 3 / 4 || f->code_used + THUNK_MAX > THUNK_CODE) {
			flush(f);
			return thunk_find(f, i);
		}
		f->table_used++;
		t->key[0] = key[0];
		t->key[1] = key[1];
		thunk_make(f, i, t);
		return t;
	}
}
