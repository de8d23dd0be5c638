/* What the translator makes of typical instructions: how many host instructions and bytes on the
 * straight way, without any timing. A worse count than golden.txt's fails; a better one asks for
 * an update.
 *
 * Usage: golden FILE [--update]
 *
 * The cost of an instruction is what a block with two of it has more than a block with one, so what
 * the first leaves in a scratch register costs nothing; of one that ends a block, all that the
 * block has. Twice: with flags that are dead behind it, and with flags that are alive. Padding does
 * not count. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "engine/soft/jit.h"
#include "test/insn/bench_vm.h"

static const char *const forms[] = {
	"89d8", /* moves */
	"4889d8",
	"4c89d0",
	"4d89f2",
	"4989e3",
	"b801000000",
	"41ba01000000",
	"48b8efcdab8967452301",
	"0fb6c3",
	"0fbec7",
	"4863c3",
	"4887d8",
	"4d87d3",
	"480fc8",
	"488b03", /* loads */
	"488b4308",
	"488b04cb",
	"488b840b00010000",
	"4b8b04da",
	"4d8b16",
	"488b0424",
	"488b442408",
	"8b0500100000",
	"48a1b002343a00000000",
	"48a1b002343a8b7f0000",
	"8a03",
	"668b03",
	"0fb603",
	"480fbe03",
	"4863043b",
	"65488b042528000000",
	"64488b03",
	"480faf03",
	"488903", /* stores */
	"48894308",
	"4c8913",
	"894424fc",
	"8803",
	"66890b",
	"c60301",
	"48c70300000000",
	"658b00",
	"4801d8", /* arithmetic */
	"4c01d0",
	"4d01da",
	"4883c001",
	"4983c201",
	"4883ec20",
	"4811d8",
	"4839d8",
	"4885c0",
	"4d85d2",
	"31c0",
	"48f7d8",
	"48ffc0",
	"480fafc3",
	"48f7e3",
	"48c1e003",
	"49c1ea03",
	"48d3e0",
	"480fbcc3",
	"f3480fb8c3",
	"c4e2f8f2c3",
	"c462abf61e", /* both results in memory */
	"480303",	  /* with memory */
	"480103",
	"48830301",
	"483b03",
	"803b00",
	"f60301",
	"48ff03",
	"48c12302",
	"480fba2b05",
	"480fa30b",
	"0fab0b",
	"f0480fab0b",
	"f0480fb10b", /* atomic */
	"f0480fc103",
	"488703",
	"f0ff0b",
	"488d4308", /* addresses */
	"488d04cb",
	"4d8d14db",
	"488d0500100000",
	"0f94c0", /* conditions */
	"480f44c3",
	"480f4403",
	"9f",
	"9c",
	"50", /* stack */
	"5b",
	"4152",
	"415a",
	"6a05",
	"ff33",
	"c9",
	"0f1003", /* vectors */
	"0f1103",
	"0f2803",
	"f20f5803",
	"660fefc0",
	"f3480f2ac0",
	"c5fe6f03",
	"c5fe7f03",
	"c5fcc2c100",
	"660f38dcc1",
	"62f17e486f03", /* AVX-512: unmasked as themselves, masked accesses by their handler */
	"62f17e486f4301",
	"62f17e487f03",
	"62f17d486f03",
	"62f16c4858c8",
	"62f16c495808",
	"62f16c5858cb",
	"62f16c585803",
	"62c17d487b00",
	"62527d487cc3",
	"62d17f082af2",
	"c5fb92c8",
	"c57893d1",
	"c5ec41d9",
	"c5f898d9",
	"c5f89003",
	"d9e8", /* x87 */
	"dd03",
	"dd1b",
	"dec1",
	"f390", /* the rest */
	"0fa2",
	"0f31",
	"48f7f3",
	"f348ab",
	"ac",
	"48ad",
	"aa",
	"48ab",
	"ae",
	"a4",
	"48a5",
	"a6",
	"fa",
	"eb10", /* ends of blocks */
	"7410",
	"8c1b",
	"e310",
	"67e310",
	"e210",
	"e110",
	"ffe0",
	"ff23",
	"e810000000",
	"ffd0",
	"ff10",
	"c3",
	"32:89d8", /* 32-bit code */
	"32:0fa30b",
	"32:0fab0b",
	"32:0fa0",
	"32:89e5",
	"32:8b03",
	"32:8b4308",
	"32:8b048b",
	"32:8b83604512c0",
	"32:a100000008",
	"32:65a114000000",
	"32:64a1604512c0",
	"32:894424fc",
	"32:66890b",
	"32:0fb603",
	"32:014308",
	"32:40",
	"32:4b",
	"32:ff03",
	"32:f00fb10b",
	"32:8d448b08",
	"32:668d4308",
	"32:50",
	"32:5b",
	"32:6a05",
	"32:ff33",
	"32:c9",
	"32:9c",
	"32:dd03",
	"32:0f1003",
	"32:0f2803",
	"32:c5fe6f03",
	"32:f7f3",
	"32:8ed8",
	"32:f3ab",
	"32:ac",
	"32:ab",
	"32:ae",
	"32:a5",
	"32:a6",
	"d92b",
	"0fae13",
	"32:f3a5",
	"f3a6",
	"f2ae",
	"32:f2ae",
	"32:eb10",
	"32:7410",
	"32:ffe0",
	"32:e810000000",
	"32:ff10",
	"32:c3",
	"16:89d8", /* 16-bit code, segments not flat */
	"16:6689d8",
	"16:8b07",
	"16:668b07",
	"16:8b4008",
	"16:67668b03",
	"16:26894702",
	"16:a10010",
	"16:ff07",
	"16:43",
	"16:8d4008",
	"16:50",
	"16:5b",
	"16:6650",
	"16:c9",
	"16:7410",
	"16:e310",
	"16:e210",
	"16:e81000",
	"16:66e810000000",
	"16:ffe0",
	"16:c3",
	"16:66c3",
};
#define FORMS (sizeof(forms) / sizeof(forms[0]))

struct cost {
	unsigned insns, bytes;
};

static struct bench_vm vm;

static bool hot; /* the tier */

static enum x86_mode mode;
static const struct {
	uint64_t rip;
	uint32_t key;
} places[] = {
	[X86_MODE_64] = {0x401000, JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX | JIT_KEY_AVX512},
	[X86_MODE_32] = {0x401000, JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX | JIT_KEY_32},
	[X86_MODE_16] = {0x400000001000, JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_16 | JIT_KEY_SEGS |
										 JIT_KEY_STACK16 | JIT_KEY_CS64K},
};

static struct cost measure(const uint8_t *code, unsigned len) {
	struct soft_vcpu *c = vm.cpu->engine;
	struct cost k = {0, 0};
	memset(vm.ram + 0x1000, 0xf4, 4096);
	memcpy(vm.ram + 0x1000, code, len);
	struct jit_block *b =
		jit_translate(c, vm.ram + 0x1000, NULL, places[mode].rip, places[mode].key, hot);
	if (!b) {
		printf("Bail out! no block\n");
		exit(1);
	}
	for (uint32_t at = 0; at < b->hot_len;) {
		struct x86_insn i;
		int n = x86_decode(&i, b->hot + at, b->hot_len - at, X86_MODE_64);
		if (n <= 0)
			break;
		if (i.op != X86_OP_NOP) {
			k.insns++;
			k.bytes += (unsigned)n;
		}
		at += (unsigned)n;
	}
	return k;
}

/* The bytes, and what mode they are of: "32:" and "16:" stand before legacy ones. */
static unsigned from_hex(const char *s, uint8_t *out) {
	unsigned n = 0, v;
	mode = !strncmp(s, "32:", 3) ? X86_MODE_32 : !strncmp(s, "16:", 3) ? X86_MODE_16 : X86_MODE_64;
	s += mode == X86_MODE_64 ? 0 : 3;
	while (s[0] && sscanf(s, "%2x", &v) == 1) {
		out[n++] = (uint8_t)v;
		s += 2;
	}
	return n;
}

static struct cost cost_of(const uint8_t *code, unsigned len, bool ends, bool live) {
	/* cmp eax,ecx; jmp: all flags dead; lahf; rcl ebx,1; jmp: alive */
	static const uint8_t dead[] = {0x39, 0xc8, 0xeb, 0x00},
						 alive[] = {0x9f, 0xd1, 0xd3, 0xeb, 0x00};
	uint8_t buf[64];
	const uint8_t *tail = live ? alive : dead;
	unsigned tail_len = live ? sizeof(alive) : sizeof(dead);
	memcpy(buf, code, len);
	memcpy(buf + len, tail, tail_len);
	struct cost one = measure(buf, len + tail_len);
	if (ends)
		return one;
	memcpy(buf + len, code, len);
	memcpy(buf + 2 * len, tail, tail_len);
	struct cost two = measure(buf, 2 * len + tail_len);
	return (struct cost){two.insns - one.insns, two.bytes - one.bytes};
}

/* The line of the file for this form. */
static bool find(FILE *f, const char *form, struct cost want[2]) {
	char line[200], hex[64];
	rewind(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %u %u %u %u", hex, &want[0].insns, &want[0].bytes, &want[1].insns,
				   &want[1].bytes) == 5 &&
			!strcmp(hex, form))
			return true;
	return false;
}

int main(int argc, char **argv) {
	bool update = argc > 2 && !strcmp(argv[2], "--update");
	FILE *f = argc > 1 ? fopen(argv[1], update ? "w" : "r") : NULL;
	unsigned failed = 0, better = 0;
	if (!f) {
		printf("Bail out! golden FILE [--update]\n");
		return 1;
	}
	unsetenv("JOIST_SOFT_OFF");
	bench_vm_create(&vm, 1 << 20, "jit");
	bench_vm_show_avx512(&vm);
	printf("1..%zu\n", FORMS);
	if (update)
		fprintf(f, "# Made by `golden FILE --update`, see golden.c.\n"
				   "# form, host instructions and bytes with flags dead, with flags alive, text\n");
	for (unsigned n = 0; n < FORMS; n++) {
		uint8_t code[16];
		char text[96];
		struct x86_insn i;
		struct cost got[2], want[2];
		unsigned len = from_hex(forms[n], code);
		if (x86_decode(&i, code, len, mode) != (int)len) {
			printf("not ok %u - %s is no instruction\n", n + 1, forms[n]);
			failed++;
			continue;
		}
		x86_format(text, sizeof(text), &i, 0x401000);
		bool ends = x86_forms[i.form].attr & X86_ATTR_ENDS;
		for (unsigned live = 0; live < 2; live++)
			got[live] = cost_of(code, len, ends, live);
		if (update) {
			fprintf(f, "%-20s %3u %4u %3u %4u  %s\n", forms[n], got[0].insns, got[0].bytes,
					got[1].insns, got[1].bytes, text);
			printf("ok %u - %s\n", n + 1, text);
			continue;
		}
		bool known = find(f, forms[n], want), worse = !known;
		for (unsigned live = 0; known && live < 2; live++) {
			worse |= got[live].insns > want[live].insns || got[live].bytes > want[live].bytes;
			better += got[live].insns < want[live].insns || got[live].bytes < want[live].bytes;
		}
		if (worse && known)
			printf("# %u insns %u bytes, alive %u and %u; were %u and %u, %u and %u\n",
				   got[0].insns, got[0].bytes, got[1].insns, got[1].bytes, want[0].insns,
				   want[0].bytes, want[1].insns, want[1].bytes);
		printf("%s %u - %s\n", worse ? "not ok" : "ok", n + 1, text);
		failed += worse;
	}
	if (better)
		printf("# %u counts are better than %s: run `golden %s --update`\n", better, argv[1],
			   argv[1]);
	fclose(f);
	bench_vm_destroy(&vm);
	return failed != 0;
}
