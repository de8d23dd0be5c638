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
	case ZYDIS_ISA_EXT_UINTR:
		return "UINTR";
	case ZYDIS_ISA_EXT_KEYLOCKER:
	case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
		return "Key Locker";
	default:
		return NULL;
	}
}

/* ---- comparison ------------------------------------------------------------------------- */

struct tally {
	unsigned long both, none, length, zydis, ours;
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
	char text[160] = "";
	int len = x86_decode(&o, bytes, avail, mode);
	bool zok = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(dec, NULL, bytes, avail, &z));
	if (len > 0)
		x86_format(text, sizeof(text), &o, 0);
	if (len <= 0 && !zok) {
		t->none++;
	} else if (len > 0 && zok) {
		t->both++;
		if (len != z.length) {
			t->length++;
			show(t, "length", bytes, len, &z, zok, text);
		}
	} else if (zok) {
		const char *k = zydis_only(&z);
		if (k) {
			count_known(k);
		} else {
			t->zydis++;
			show(t, "zydis only", bytes, len, &z, zok, text);
		}
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
	bool ok = !t->length && !t->zydis && !t->ours;
	failures += !ok;
	printf("# %s: both accept %lu, both refuse %lu, length differs %lu, unexplained: zydis only "
		   "%lu, ours only %lu\n",
		   name, t->both, t->none, t->length, t->zydis, t->ours);
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
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void measure(const uint8_t *text, size_t size, const char *name) {
	struct x86_insn o;
	unsigned long insns = 0;
	double best = 1e9;
	for (unsigned round = 0; round < 5; round++) {
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
