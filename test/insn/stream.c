/* See stream.h. */
#include "test/insn/stream.h"

#include <stdlib.h>
#include <string.h>

#include "core/vm/vcpu.h"
#include "core/x86/regs.h"
#include "test/insn/gen.h"

/* 16-bit code has its segments where the pages are, and moves 32 bits with a prefix. */
const struct stream_mode stream_modes[] = {
	{"64", X86_MODE_64, true, 0, 0},
	{"compat32", X86_MODE_32, true, 0, 0},
	{"compat32-based", X86_MODE_32, true, 0x1000, 0x8000},
	{"compat16", X86_MODE_16, true, CODE, DATA - 0x3000},
	{"32", X86_MODE_32, false, 0, 0},
	{"32-based", X86_MODE_32, false, 0x5000, 0x3000},
	{"16", X86_MODE_16, false, CODE, DATA - 0x3000},
	{0},
};
const struct stream_mode *stream_mode = stream_modes;

#define PROTOS 8
static struct form_protos {
	unsigned n;
	uint8_t bytes[PROTOS][16];
} * protos;
static bool has_avx512;
static unsigned int_forms[X86_FORM_COUNT], n_int, all_forms[X86_FORM_COUNT], n_all;
static unsigned forms512[X86_FORM_COUNT], n_512;

static bool usable(const struct x86_insn *i, const struct cpuid_policy *p) {
	const struct x86_form *f = &x86_forms[i->form];
	if (!(f->attr & X86_ATTR_NATIVE) || (f->feature && !cpuid_has(p, f->feature)) ||
		f->attr & X86_ATTR_VSIB || (has_avx512 && !gen_bochs_takes(i)))
		return false;
	switch (i->op) { /* host addresses in memory; control words from anywhere */
	case X86_OP_FNSTENV:
	case X86_OP_FNSAVE:
	case X86_OP_FLDENV:
	case X86_OP_FRSTOR:
	case X86_OP_FXSAVE:
	case X86_OP_FXRSTOR:
	case X86_OP_LDMXCSR:
	case X86_OP_VLDMXCSR:
		return false;
	default:
		return strncmp(f->mnemonic, "xsave", 5) != 0 && strncmp(f->mnemonic, "xrstor", 6) != 0;
	}
}

void stream_collect(const struct cpuid_policy *p) {
	free(protos);
	protos = calloc(X86_FORM_COUNT, sizeof(*protos));
	n_all = n_int = n_512 = 0;
	has_avx512 = cpuid_has(p, X86_FEAT_AVX512F);
	for (unsigned k = 0; k < (has_avx512 ? 600000 : 2500000); k++) { /* see avx512.py: it is slow */
		uint8_t b[16];
		struct x86_insn i;
		if (has_avx512 && gen_below(2))
			gen_avx512(b, stream_mode->mode == X86_MODE_64);
		else
			gen_bytes(b, stream_mode->mode == X86_MODE_64);
		if (x86_decode(&i, b, 15, stream_mode->mode) <= 0 || !usable(&i, p))
			continue;
		struct form_protos *fp = &protos[i.form];
		memcpy(fp->bytes[fp->n < PROTOS ? fp->n++ : gen_below(PROTOS)], b, 16);
	}
	for (unsigned f = 0; f < X86_FORM_COUNT; f++) {
		if (!protos[f].n)
			continue;
		all_forms[n_all++] = f;
		if (x86_forms[f].cls == X86_CLASS_INT)
			int_forms[n_int++] = f;
		if (x86_forms[f].cls == X86_CLASS_AVX512)
			forms512[n_512++] = f;
	}
}

struct stream st;

static void emit(const void *bytes, bool branch) {
	struct x86_insn i;
	static const uint8_t cmp[] = {0x39, 0xc8};
	int len = x86_decode(&i, bytes, 15, stream_mode->mode);
	if (len <= 0 || st.n + 2 >= STREAM_INSNS || st.len + 64 > CODE_SIZE)
		return;
	const struct x86_form *f = &x86_forms[i.form];
	if (st.undefined && (branch || st.undefined & f->flags_read)) {
		uint8_t padded[16] = {0};
		memcpy(padded, cmp, 2);
		st.undefined = 0;
		emit(padded, false);
	}
	st.at[st.n].off = (uint16_t)st.len;
	st.at[st.n].undefined = st.undefined;
	st.at[st.n++].insn = i;
	memcpy(st.code + st.len, bytes, (size_t)len);
	st.len += (unsigned)len;
	st.undefined =
		(uint16_t)(((st.undefined & ~f->flags_written) | f->flags_undefined) & RFLAGS_ARITH);
}

static bool is_16(void) {
	return stream_mode->mode == X86_MODE_16;
}

/* MOV r32, imm32; patchable. */
static void emit_mov32(unsigned reg, uint32_t v) {
	uint8_t b[16] = {0x66};
	unsigned n = is_16();
	b[n++] = (uint8_t)(0xb8 | (reg & 7));
	memcpy(b + n, &v, 4);
	if (st.n < STREAM_INSNS - 4)
		st.patchable[st.npatchable++] = st.len + n;
	emit(b, false);
}

/* The register, as wide as the mode has it. */
static void emit_mov(unsigned reg, uint64_t v) {
	uint8_t b[16] = {(uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7))};
	memcpy(b + 2, &v, 8);
	if (stream_mode->mode == X86_MODE_64)
		emit(b, false);
	else
		emit_mov32(reg, (uint32_t)v);
}

static gva_t target_linear(unsigned size) {
	size = size ? size : 64;
	switch (gen_below(24)) {
	case 0:
	case 1:
		return DATA + 0x2000 - gen_below(size);
	case 2:
		return DATA + DATA_SIZE - gen_below(size + 1);
	case 3:
		return RODATA + (gen_below(4096) & ~63u);
	case 4:
		return gen_rnd();
	case 5:
	case 6:
	case 7:
		return DATA + gen_below(DATA_SIZE - 128);
	default:
		return DATA + (gen_below(DATA_SIZE - 4096) & ~63u) + 0x800;
	}
}

/* An offset in the data segments. */
static uint64_t target(unsigned size) {
	uint64_t t = target_linear(size) - stream_mode->data_base;
	return stream_mode->mode == X86_MODE_64 ? t : (uint32_t)t;
}

static void fix_stack(void) {
	if (gen_below(10))
		emit_mov(RSP, DATA - stream_mode->data_base + 0x2000 + (gen_below(64) & ~7u));
}

/* A jump of some kind to the instruction of index `to`. */
static void emit_jump(unsigned kind, unsigned to) {
	uint8_t b[16] = {0};
	unsigned n = 0;
	bool absolute = false;
	switch (kind) {
	case 0: /* jcc */
		b[n++] = 0x0f;
		b[n++] = (uint8_t)(0x80 | gen_below(16));
		break;
	case 1:
		b[n++] = 0xe9;
		break;
	case 2:
		fix_stack();
		b[n++] = 0xe8;
		break;
	case 3: /* push, ret */
		fix_stack();
		b[n++] = 0x68;
		absolute = true;
		break;
	default: /* mov eax, jmp rax or call rax */
		fix_stack();
		b[n++] = 0xb8;
		absolute = true;
	}
	if (st.undefined) { /* so that no CMP comes between */
		static const uint8_t cmp[16] = {0x39, 0xc8};
		emit(cmp, false);
	}
	if (st.n + 8 >= STREAM_INSNS || st.len + 128 > CODE_SIZE)
		return;
	st.fix[st.nfix].off = st.len + n;
	st.fix[st.nfix].absolute = absolute;
	st.fix[st.nfix].byte = false;
	st.fix[st.nfix++].target = to;
	emit(b, true);
	static const uint8_t ret[16] = {0xc3}, jmp[16] = {0xff, 0xe0}, call[16] = {0xff, 0xd0};
	if (kind == 3)
		emit(ret, true);
	if (kind > 3)
		emit(kind == 4 ? jmp : call, true);
}

/* LOOP, LOOPE, LOOPNE or JCXZ, forward, with a count that is now and then what matters. */
static void emit_count(void) {
	uint8_t b[16] = {0x67}, n = 0;
	emit_mov(RCX, gen_below(3) | (gen_below(4) ? 0 : gen_rnd() << 16 << gen_below(2) * 16));
	n += gen_below(3) == 0;
	b[n++] = (uint8_t)(0xe0 + gen_below(4));
	b[n++] = 0;
	if (st.undefined) {
		static const uint8_t cmp[16] = {0x39, 0xc8};
		emit(cmp, false);
	}
	if (st.n + 8 >= STREAM_INSNS || st.len + 128 > CODE_SIZE)
		return;
	st.fix[st.nfix].off = st.len + n - 1;
	st.fix[st.nfix].absolute = false;
	st.fix[st.nfix].byte = true;
	st.fix[st.nfix++].target = st.n + 2 + gen_below(4);
	emit(b, true);
}

static void emit_loop(void) {
	uint8_t sub[16] = {0x67, 0x83, 0x2c, 0x25, 0, 0, 0, 0, 1};
	uint32_t at = (uint32_t)(COUNTER - stream_mode->data_base);
	memcpy(sub + 4, &at, 4);
	unsigned to = st.n - gen_below(st.n < 30 ? st.n : 30);
	emit(sub + !is_16(), false);
	if (st.n + 8 >= STREAM_INSNS || st.len + 128 > CODE_SIZE)
		return;
	uint8_t jns[16] = {0x0f, 0x89};
	st.fix[st.nfix].off = st.len + 2;
	st.fix[st.nfix].absolute = st.fix[st.nfix].byte = false;
	st.fix[st.nfix++].target = to;
	emit(jns, true);
}

/* A store into the immediate of some MOV of the stream: 32 bits of address, from CS's base if
 * need be, which is where data may be written through in these modes, too. */
static void emit_patch(void) {
	uint8_t b[16] = {0x67, 0xc6, 0x04, 0x25};
	if (is_16()) /* out of the data segments' reach */
		return;
	unsigned off =
		gen_below(2) && st.npatchable ? st.patchable[gen_below(st.npatchable)] : st.len + 9;
	uint32_t at =
		(uint32_t)(CODE - stream_mode->data_base) + off + (off == st.len + 9 ? 0 : gen_below(4));
	memcpy(b + 4, &at, 4);
	b[8] = (uint8_t)gen_rnd();
	unsigned before = st.len;
	emit(b + 1, false);
	if (st.len == before + 8)
		emit_mov32(gen_below(3), (uint32_t)gen_rnd());
}

static void emit_random(void) {
	unsigned form = gen_below(10) < 6 ? int_forms[gen_below(n_int)] : all_forms[gen_below(n_all)];
	if (n_512 && gen_below(2))
		form = forms512[gen_below(n_512)];
	const struct form_protos *fp = &protos[form];
	uint8_t b[16];
	struct x86_insn i;
	memcpy(b, fp->bytes[gen_below(fp->n)], 16);
	if (x86_decode(&i, b, 15, stream_mode->mode) <= 0)
		return;
	if (i.modrm_off && gen_below(2)) { /* other registers */
		uint8_t old = b[i.modrm_off];
		b[i.modrm_off] = (uint8_t)((old & 0xc0) | (gen_rnd() & 0x3f));
		struct x86_insn j;
		if (x86_decode(&j, b, 15, stream_mode->mode) != i.len || j.form != i.form)
			b[i.modrm_off] = old;
		if (x86_decode(&i, b, 15, stream_mode->mode) <= 0)
			return;
	}
	if (i.imm_off && gen_below(2))
		for (unsigned n = 0; n < i.imm_len; n++)
			b[i.imm_off + n] = (uint8_t)gen_edgy();
	if (x86_decode(&i, b, 15, stream_mode->mode) != i.len)
		return;
	if (x86_forms[form].cls == X86_CLASS_STRING || i.op == X86_OP_XLAT) {
		emit_mov(RSI, target(16));
		emit_mov(RDI, target(16));
		emit_mov(RCX, gen_below(40));
		emit_mov(RBX, target(16));
	}
	if (x86_forms[form].attr & X86_ATTR_STACK)
		fix_stack();
	for (unsigned n = 0; n < i.nopnds; n++) {
		if (i.opnd[n].kind != OPND_MEM || gen_below(16) == 0)
			continue;
		uint64_t idx = 0, t = target(i.opnd[n].size);
		if (i.index < 16 && i.index != i.base) {
			uint64_t v = gen_below(2) ? gen_below(64) : (uint64_t) - (int64_t)gen_below(64);
			if (i.index == RSP)
				return;
			emit_mov(i.index, v);
			idx = v << i.scale;
		}
		if (i.base < 16)
			emit_mov(i.base, t - (uint64_t)i.disp - idx);
		else if (i.base == X86_REG_RIP && i.disp_len == 4) {
			int32_t d = (int32_t)(t - (CODE + st.len + i.len));
			if (st.undefined & x86_forms[i.form].flags_read)
				return; /* a CMP would come between */
			memcpy(b + i.disp_off, &d, 4);
		} else if (i.base == X86_REG_NONE && i.disp_len >= 4 && t < 0x7fffffff) {
			uint64_t d = t - idx;
			memcpy(b + i.disp_off, &d, i.disp_len);
		}
	}
	emit(b, false);
}

void stream_make(struct stream_start *p) {
	st.n = st.len = st.nfix = st.npatchable = 0;
	st.undefined = 0;
	memset(st.code, 0xcc, sizeof(st.code));
	if (gen_below(4) == 0) /* across the pages */
		for (unsigned n = 0; n < 400; n++)
			st.code[st.len++] = 0x90;
	if (st.len)
		st.len = 4096 - gen_below(200);
	unsigned start = st.len, want = 50 + gen_below(150);
	emit_mov32(RAX, 0);
	while (st.n < want && st.len + 256 < CODE_SIZE) {
		unsigned what = gen_below(100);
		if (what < 8)
			emit_jump(0, st.n + 2 + gen_below(8));
		else if (what < 12)
			emit_jump(1 + gen_below(5), st.n + 4 + gen_below(8));
		else if (what < 15)
			emit_loop();
		else if (what < 17)
			emit_patch();
		else if (what < 20)
			emit_count();
		else
			emit_random();
	}
	for (unsigned n = 0; n < 14; n++) { /* where the last jumps may go */
		static const uint8_t nop[16] = {0x90};
		emit(nop, false);
	}
	for (unsigned n = 0; n < st.nfix; n++) {
		unsigned t = st.fix[n].target; /* not between a jump and what goes before */
		while (t < st.n && x86_forms[st.at[t].insn.form].attr & X86_ATTR_ENDS)
			t++;
		unsigned to = t < st.n ? st.at[t].off : st.len;
		unsigned size = st.fix[n].byte ? 1 : is_16() ? 2 : 4;
		uint32_t v = st.fix[n].absolute ? (uint32_t)(CODE - stream_mode->code_base) + to
										: to - (st.fix[n].off + size);
		if (st.fix[n].byte && v > 127) /* too far: the next one */
			v = 0;
		memcpy(st.code + st.fix[n].off, &v, size);
	}
	memset(p, 0, sizeof(*p));
	for (unsigned k = 0; k < DATA_SIZE; k += 8) {
		uint64_t v = gen_edgy();
		memcpy(p->data + k, &v, 8);
	}
	p->counter = gen_below(24);
	for (unsigned n = 0; n < 16; n++)
		p->gpr[n] = gen_below(3) ? gen_edgy() : target(8);
	for (unsigned n = 0; n < 16 && stream_mode->mode != X86_MODE_64; n++)
		p->gpr[n] = n < 8 ? (uint32_t)p->gpr[n] : 0;
	p->rip = CODE - stream_mode->code_base + start;
	p->rflags = (gen_rnd() & RFLAGS_ARITH) | RFLAGS_FIXED | RFLAGS_IF;
	uint8_t *x = p->x;
	for (unsigned k = 160; k < (has_avx512 ? XSTATE : 832); k += 8) {
		double d = (double)(int64_t)(gen_rnd() % 4000) - 2000.25;
		uint64_t v = gen_rnd();
		memcpy(x + k, gen_below(2) ? (void *)&d : (void *)&v, 8);
	}
	uint16_t fcw = gen_below(10) ? 0x037f : (uint16_t)(0x340 | gen_below(64));
	uint32_t mxcsr = gen_below(10) ? 0x1f80 : 0x1f80 ^ gen_below(64) << 7;
	memset(x + 416, 0, 160);
	memcpy(x, &fcw, 2);
	memcpy(x + 24, &mxcsr, 4);
	for (unsigned r = 0; r < 8; r++) {
		long double d = (long double)(int64_t)gen_rnd() / 65536.0L;
		memcpy(x + 32 + r * 16, &d, 10);
	}
	x[4] = (uint8_t)gen_rnd();
}
