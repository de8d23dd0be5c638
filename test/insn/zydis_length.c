/* The decoder against Zydis 4.0: does each accept what the other accepts, and with the same
 * length? Random byte strings (biased towards prefixes and two-byte maps) in the three modes,
 * then each instruction of real code in 64-bit mode.
 *
 * Where both accept, lengths must agree always. Where one refuses, the difference must fall into
 * a named class below, each with its reason; classes are counted and printed. Anything else fails.
 *
 *     zydis_length [--count N] [--seed N] [--verbose] [FILE.so ...]                           */
#include <Zydis/Zydis.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/host.h"
#include "core/x86/decode_table.h"

static __attribute__((noreturn)) void fail_bug(const char *file, int line, const char *what) {
	printf("# %s:%d: %s\n", file, line, what);
	exit(1);
}

static void drop_line(enum log_level level, const char *line) {
}

const struct host_ops host_ops = {.bug = fail_bug, .log = drop_line};

static uint64_t rng_state = 88172645463325252ull;

static uint64_t rng(void) {
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

/* ---- classes of known differences -------------------------------------------------------- */

struct known {
	const char *name;
	unsigned long count;
};

enum { K_COUNT = 64 };
static struct known known[K_COUNT];
static bool verbose;

static void count_known(const char *name) {
	for (unsigned n = 0; n < K_COUNT; n++) {
		if (!known[n].name)
			known[n].name = name;
		if (!strcmp(known[n].name, name)) {
			known[n].count++;
			return;
		}
	}
}

/* Zydis accepts, we do not. */
static const char *zydis_only(const ZydisDecodedInstruction *z) {
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_XOP:
	case ZYDIS_ISA_EXT_TBM:
	case ZYDIS_ISA_EXT_FMA4:
		return "XOP, FMA4, TBM, LWP";
	case ZYDIS_ISA_EXT_AMD3DNOW:
	case ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH:
		return "3DNow!";
	case ZYDIS_ISA_EXT_MPX:
		return "MPX";
	case ZYDIS_ISA_EXT_CET:
		return "CET";
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_AMX_INT8:
	case ZYDIS_ISA_EXT_AMX_BF16:
		return "AMX";
	case ZYDIS_ISA_EXT_KNC:
	case ZYDIS_ISA_EXT_KNCE:
	case ZYDIS_ISA_EXT_KNCV:
		return "KNC";
	case ZYDIS_ISA_EXT_PADLOCK:
		return "VIA PadLock";
	case ZYDIS_ISA_EXT_TDX:
		return "TDX";
	case ZYDIS_ISA_EXT_UINTR:
		return "UINTR";
	case ZYDIS_ISA_EXT_KEYLOCKER:
	case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
		return "Key Locker";
	default:
		return NULL;
	}
}

/* We accept, Zydis does not. */
static const char *ours_only(const struct x86_insn *o, const uint8_t *bytes) {
	/* Without MPX these are hint NOPs; Zydis holds them to MPX's own rules. */
	if (o->op == X86_OP_NOP && o->opcode_off && bytes[o->opcode_off - 1] == 0x0f &&
		(bytes[o->opcode_off] & 0xfe) == 0x1a)
		return "MPX as NOP";
	if ((o->op == X86_OP_VCVTSI2SD || o->op == X86_OP_VCVTUSI2SD) && o->mode != X86_MODE_64 &&
		o->rex & 8 && o->evex & 0x10)
		return "VCVT(U)SI2SD: W outside 64-bit mode, with rounding";
	return NULL;
}

/* ---- operands ------------------------------------------------------------------------------ */

static int zydis_seg(ZydisRegister r) {
	return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? (int)(r - ZYDIS_REGISTER_ES) : -1;
}

static unsigned zydis_base(ZydisRegister r) {
	if (r == ZYDIS_REGISTER_NONE)
		return X86_REG_NONE;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return X86_REG_RIP;
	return (unsigned)ZydisRegisterGetId(r);
}

/* Does our operand say what Zydis's says? Sizes of registers are not compared: Zydis gives the
 * register's, we the data's. */
static const char *operand_differs(const struct x86_insn *o, const struct x86_opnd *op,
								   const ZydisDecodedOperand *z) {
	static const char *const kinds[] = {"kind",		 "register", "memory size",	 "base",
										"index",	 "scale",	 "displacement", "segment",
										"immediate", "access"};
	bool w = z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	bool r = z->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	switch (z->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (op->kind == OPND_GPR && op->reg >= X86_REG_HIGH) {
			if (z->reg.value != ZYDIS_REGISTER_AH + (op->reg & 3u))
				return kinds[1];
		} else if (op->kind == OPND_GPR || op->kind == OPND_VEC || op->kind == OPND_MMX ||
				   op->kind == OPND_MASK || op->kind == OPND_ST || op->kind == OPND_CR ||
				   op->kind == OPND_DR || op->kind == OPND_SEG) {
			/* Zydis numbers SPL..DIL and AH..BH as one row of twenty. */
			unsigned id = (unsigned)ZydisRegisterGetId(z->reg.value);
			if (ZydisRegisterGetClass(z->reg.value) == ZYDIS_REGCLASS_GPR8)
				id = z->reg.value >= ZYDIS_REGISTER_SPL
						 ? (unsigned)(z->reg.value - ZYDIS_REGISTER_SPL + 4)
						 : (unsigned)(z->reg.value - ZYDIS_REGISTER_AL);
			if (op->reg != id)
				return kinds[1];
			if (op->kind == OPND_GPR && op->size * 8 != z->size)
				return "register size";
		} else {
			return kinds[0];
		}
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (op->kind != OPND_MEM)
			return kinds[0];
		if (op->size && op->size * 8 != z->size)
			return kinds[2];
		/* SIB base 5 without a displacement byte is no base, also with REX.B [SDM2 table 2-5];
		 * with 32-bit addresses Zydis 4.0 sees r13d. */
		if (o->base == X86_REG_NONE && z->mem.base == ZYDIS_REGISTER_R13D)
			return NULL;
		if (o->base != zydis_base(z->mem.base))
			return kinds[3];
		if (o->index != zydis_base(z->mem.index))
			return kinds[4];
		if (o->index != X86_REG_NONE && 1u << o->scale != z->mem.scale)
			return kinds[5];
		if ((uint64_t)(o->disp ^ z->mem.disp.value) << (64 - o->addrsize * 8))
			return kinds[6];
		/* 3E on an indirect branch is CET's NOTRACK to Zydis, a segment to CPUs without CET. */
		if ((o->op == X86_OP_CALL || o->op == X86_OP_JMP) && o->seg_prefix == 3)
			return NULL;
		if (z->mem.type == ZYDIS_MEMOP_TYPE_MEM && o->seg != zydis_seg(z->mem.segment))
			return kinds[7];
		if (z->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			return NULL;
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		if (op->kind == OPND_REL || op->kind == OPND_IMM) {
			if (op->kind == OPND_IMM && op->size < 8 && z->imm.is_signed
					? (o->imm ^ z->imm.value.u) << (64 - op->size * 8)
					: o->imm != z->imm.value.u)
				return kinds[8];
		} else if (op->kind == OPND_IMM2) {
			if (o->imm2 != z->imm.value.u)
				return kinds[8];
		} else if (op->kind != OPND_ONE) {
			return kinds[0];
		}
		return NULL;
	case ZYDIS_OPERAND_TYPE_POINTER:
		if (op->kind != OPND_FAR || o->imm2 != z->ptr.segment || o->imm != z->ptr.offset)
			return kinds[0];
		return NULL;
	default:
		return NULL;
	}
	/* We may say "read" where Zydis does not (a register of which a part stays as it was), but
	 * not leave it out. */
	if (!(op->access & OPND_W) != !w || (r && !(op->access & OPND_R) && op->kind != OPND_MASK))
		return kinds[9];
	return NULL;
}

/* Compares explicit operands; NULL: alike (or not comparable). */
static const char *operands_differ(const struct x86_insn *o, const ZydisDecodedInstruction *z,
								   const ZydisDecodedOperand *zop) {
	unsigned n = 0;
	const struct x86_form *f = &x86_forms[o->form];
	/* Hints and #UD with operands: nothing is accessed, sizes mean nothing. */
	if (o->op == X86_OP_NOP || o->op == X86_OP_PREFETCH || f->attr & X86_ATTR_NOMEM_FAULT)
		return NULL;
	switch (o->op) {
	case X86_OP_CLFLUSH: /* a byte to us, a line to Zydis */
	case X86_OP_CLFLUSHOPT:
	case X86_OP_CLWB:
	case X86_OP_LAR: /* 16 bits of the source count, whatever its size */
	case X86_OP_LSL:
	case X86_OP_MOVMSKPS: /* REX.W makes no difference */
	case X86_OP_MOVMSKPD:
	case X86_OP_PMOVMSKB:
	case X86_OP_PEXTRW:
		return NULL;
	case X86_OP_XCHG: /* F3 with REX.B: exchanges on real CPUs, PAUSE to Zydis */
		if (z->mnemonic == ZYDIS_MNEMONIC_PAUSE)
			return NULL;
		break;
	case X86_OP_MOVSXD: /* 66: two bytes [SDM2] or four [APM3] */
		if (o->opsize == 2)
			return NULL;
	}
	for (unsigned k = 0; k < z->operand_count; k++) {
		/* st(0) is implicit to Zydis in places. */
		if (f->cls == X86_CLASS_X87 && zop[k].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		while (f->cls == X86_CLASS_X87 && n < o->nopnds && o->opnd[n].kind != OPND_MEM)
			n++;
		if (zop[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		/* EVEX masks stand in insn.evex. */
		if (zop[k].encoding == ZYDIS_OPERAND_ENCODING_MASK)
			continue;
		if (n >= o->nopnds) {
			if (zop[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
				return "operand count";
			continue;
		}
		const char *what = operand_differs(o, &o->opnd[n++], &zop[k]);
		if (what)
			return what;
	}
	/* xmm0 is implicit to Zydis. */
	return n == o->nopnds || f->cls == X86_CLASS_X87 || f->cls == X86_CLASS_SSE ? NULL
																				: "operand count";
}

/* ---- comparison ------------------------------------------------------------------------- */

struct tally {
	unsigned long both, none, length, zydis, ours, operands;
	unsigned shown;
};

static void show(struct tally *t, const char *what, const uint8_t *bytes, int ours,
				 const ZydisDecodedInstruction *z, bool zok, const char *text) {
	if (t->shown++ > 40 && !verbose)
		return;
	printf("# %s:", what);
	for (unsigned n = 0; n < 15; n++)
		printf(" %02x", bytes[n]);
	printf(" ours %d %s zydis %d %s\n", ours, text, zok ? z->length : -1,
		   zok ? ZydisMnemonicGetString(z->mnemonic) : "");
}

static int compare(struct tally *t, const ZydisDecoder *dec, const uint8_t *bytes, unsigned avail,
				   enum x86_mode mode) {
	struct x86_insn o;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand zop[ZYDIS_MAX_OPERAND_COUNT];
	char text[160] = "";
	int len = x86_decode(&o, bytes, avail, mode);
	bool zok = ZYAN_SUCCESS(ZydisDecoderDecodeFull(dec, bytes, avail, &z, zop));
	if (len > 0)
		x86_format(text, sizeof(text), &o, 0);
	if (len <= 0 && !zok) {
		t->none++;
	} else if (len > 0 && zok) {
		t->both++;
		if (len != z.length) {
			t->length++;
			show(t, "length", bytes, len, &z, zok, text);
		} else {
			const char *what = operands_differ(&o, &z, zop);
			if (what) {
				t->operands++;
				show(t, what, bytes, len, &z, zok, text);
			}
		}
	} else if (zok) {
		const char *k = zydis_only(&z);
		if (k) {
			count_known(k);
		} else {
			t->zydis++;
			show(t, "zydis only", bytes, len, &z, zok, text);
		}
	} else if (ours_only(&o, bytes)) {
		count_known(ours_only(&o, bytes));
	} else {
		t->ours++;
		show(t, "ours only", bytes, len, &z, zok, text);
	}
	return len > 0 ? len : zok ? z.length : 1;
}

static void random_bytes(uint8_t *b) {
	static const uint8_t prefix[] = {0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x64, 0x65,
									 0x40, 0x48, 0x41, 0x44, 0x4f, 0x36, 0x26, 0x3e};
	uint64_t r = rng();
	for (unsigned n = 0; n < 16; n += 8) {
		uint64_t v = rng();
		memcpy(b + n, &v, 8);
	}
	unsigned at = 0;
	for (; r & 1 && at < 14; r >>= 1)
		b[at++] = prefix[rng() % sizeof(prefix)];
	r = rng();
	switch (r & 7) {
	case 0:
	case 1:
		if (at < 13)
			b[at++] = 0x0f;
		break;
	case 2:
		if (at < 12) {
			b[at++] = 0x0f;
			b[at++] = r & 8 ? 0x38 : 0x3a;
		}
		break;
	case 3:
		if (at < 10) {
			b[at] = r & 8 ? 0xc4 : 0xc5;
			if (r & 8)
				b[at + 1] = (b[at + 1] & 0xe0) | (1 + r / 16 % 3);
			if (r & 0x100) /* vvvv = 1111 */
				b[at + 1 + (r >> 3 & 1)] |= 0x78;
			if (r & 0x200)
				b[at + 1 + (r >> 3 & 1)] &= 0x7f;
			if (r & 0x400)
				b[at + 1] |= 0xc0;
		}
		break;
	case 4:
	case 5:
		if (at < 9) {
			static const uint8_t maps[8] = {1, 2, 3, 5, 6, 1, 2, 3};
			b[at] = 0x62;
			b[at + 1] = (b[at + 1] & 0xf0) | maps[r >> 3 & 7];
			b[at + 2] |= 4;
			if (r & 0x100)
				b[at + 2] |= 0x78;
			if (r & 0x200)
				b[at + 3] &= 0x67;
			if (r & 0x400)
				b[at + 3] |= 8;
			if (r & 0x800)
				b[at + 3] &= 0x78;
			if (r & 0x1000)
				b[at + 1] |= 0xc0;
		}
		break;
	}
}

static unsigned tests, failures;

static void report(const char *name, const struct tally *t) {
	bool ok = !t->length && !t->zydis && !t->ours && !t->operands;
	failures += !ok;
	printf("# %s: both accept %lu, both refuse %lu, length differs %lu, unexplained: zydis only "
		   "%lu, ours only %lu; operands differ %lu\n",
		   name, t->both, t->none, t->length, t->zydis, t->ours, t->operands);
	printf("%s %u - zydis/%s\n", ok ? "ok" : "not ok", ++tests, name);
}

static const struct {
	const char *name;
	ZydisMachineMode mode;
	ZydisStackWidth stack;
} modes[] = {
	[X86_MODE_16] = {"random-16", ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
	[X86_MODE_32] = {"random-32", ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
	[X86_MODE_64] = {"random-64", ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
};

static void random_mode(enum x86_mode mode, unsigned long count) {
	ZydisDecoder dec;
	struct tally t = {0};
	uint8_t bytes[16];
	ZydisDecoderInit(&dec, modes[mode].mode, modes[mode].stack);
	for (unsigned long n = 0; n < count; n++) {
		random_bytes(bytes);
		compare(&t, &dec, bytes, 15, mode);
	}
	report(modes[mode].name, &t);
}

static double now(void) {
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void measure(const uint8_t *text, size_t size, const char *name) {
	struct x86_insn o;
	unsigned long insns = 0;
	double best = 1e9;
	for (unsigned round = 0; round < 9; round++) {
		double t0 = now();
		insns = 0;
		for (size_t at = 0; at + 15 < size; insns++) {
			int len = x86_decode(&o, text + at, size - at, X86_MODE_64);
			at += len > 0 ? (size_t)len : 1;
		}
		double t1 = (now() - t0) / insns;
		best = t1 < best ? t1 : best;
	}
	printf("# %s: %lu instructions, %.1f ns per x86_decode\n", name, insns, best * 1e9);
}

static void real_code(const char *path) {
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	FILE *f = fopen(path, "rb");
	static uint8_t image[64 << 20];
	size_t got = f ? fread(image, 1, sizeof(image), f) : 0;
	if (f)
		fclose(f);
	const Elf64_Ehdr *eh = (const void *)image;
	if (got < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, 4) || eh->e_ident[4] != ELFCLASS64 ||
		eh->e_shoff > got || eh->e_shoff + (size_t)eh->e_shnum * sizeof(Elf64_Shdr) > got) {
		printf("ok %u - zydis/%s # SKIP not an ELF file here\n", ++tests, base);
		return;
	}
	const Elf64_Shdr *sh = (const void *)(image + eh->e_shoff);
	ZydisDecoder dec;
	struct tally t = {0};
	ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned n = 0; n < eh->e_shnum; n++) {
		if (!(sh[n].sh_flags & SHF_EXECINSTR) || sh[n].sh_offset > got ||
			sh[n].sh_size > got - sh[n].sh_offset)
			continue;
		const uint8_t *text = image + sh[n].sh_offset;
		for (size_t at = 0; at + 15 < sh[n].sh_size;)
			at += (size_t)compare(&t, &dec, text + at, 15, X86_MODE_64);
		if (sh[n].sh_size > 100000)
			measure(text, sh[n].sh_size, base);
	}
	report(base, &t);
}

int main(int argc, char **argv) {
	static const char *const files[] = {"/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6",
										"/lib/x86_64-linux-gnu/libcrypto.so.3",
										"/lib/x86_64-linux-gnu/libm.so.6"};
	unsigned long count = 1000000;
	unsigned given = 0;
	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--count") && n + 1 < argc)
			count = strtoul(argv[++n], NULL, 0);
		else if (!strcmp(argv[n], "--seed") && n + 1 < argc)
			rng_state ^= strtoull(argv[++n], NULL, 0) * 0x9e3779b97f4a7c15ull;
		else if (!strcmp(argv[n], "--verbose"))
			verbose = true;
		else
			given++, real_code(argv[n]);
	}
	for (enum x86_mode m = X86_MODE_16; m <= X86_MODE_64; m++)
		random_mode(m, count / 3);
	for (unsigned n = 0; n < sizeof(files) / sizeof(files[0]) && !given; n++)
		real_code(files[n]);
	for (unsigned n = 0; n < K_COUNT && known[n].name; n++)
		printf("# known difference: %s: %lu\n", known[n].name, known[n].count);
	printf("1..%u\n", tests);
	return failures != 0;
}
