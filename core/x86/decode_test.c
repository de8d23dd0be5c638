/* The decoder on chosen encodings: prefix orders, the 15-byte limit, modes, operands. Breadth is
 * what test/insn/zydis_length.c is for; here stand the rules one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/x86/decode_table.h"
#include "core/x86/regs.h"

static struct x86_insn insn;

/* Hex text to bytes; returns their number. */
static size_t unhex(const char *hex, uint8_t *out) {
	size_t n = 0;
	for (; *hex; hex++) {
		if (*hex == ' ')
			continue;
		unsigned v = 0;
		for (int d = 0; d < 2; d++, hex++)
			v = v * 16 + (unsigned)(*hex <= '9' ? *hex - '0' : *hex - 'a' + 10);
		out[n++] = (uint8_t)v;
		hex--;
	}
	return n;
}

static int decode(const char *hex, enum x86_mode mode) {
	uint8_t bytes[32];
	size_t n = unhex(hex, bytes);
	return x86_decode(&insn, bytes, n, mode);
}

/* ---- text: the shortest way to say what an encoding means -------------------------------- */

static const struct {
	enum x86_mode mode;
	const char *hex, *text;
} texts[] = {
	/* Integer */
	{X86_MODE_64, "01 d8", "add eax, ebx"},
	{X86_MODE_64, "48 01 d8", "add rax, rbx"},
	{X86_MODE_64, "66 01 d8", "add ax, bx"},
	{X86_MODE_64, "66 48 01 d8", "add rax, rbx"},
	{X86_MODE_16, "01 d8", "add ax, bx"},
	{X86_MODE_16, "66 01 d8", "add eax, ebx"},
	{X86_MODE_64, "00 e0", "add al, ah"},
	{X86_MODE_64, "40 00 e0", "add al, spl"},
	{X86_MODE_64, "44 00 e0", "add al, r12b"},
	{X86_MODE_64, "83 c0 ff", "add eax, 0xffffffff"},
	{X86_MODE_64, "48 81 c0 00 00 00 80", "add rax, 0xffffffff80000000"},
	{X86_MODE_64, "48 b8 88 77 66 55 44 33 22 11", "mov rax, 0x1122334455667788"},
	{X86_MODE_64, "b8 00 00 00 80", "mov eax, 0x80000000"},
	{X86_MODE_64, "f0 83 00 01", "lock add dword ptr [rax], 0x1"},
	{X86_MODE_64, "6a ff", "push 0xffffffffffffffff"},
	{X86_MODE_64, "66 6a ff", "push 0xffff"},
	{X86_MODE_64, "50", "push rax"},
	{X86_MODE_64, "41 50", "push r8"},
	{X86_MODE_64, "66 50", "push ax"},
	{X86_MODE_32, "50", "push eax"},
	{X86_MODE_64, "d3 e0", "shl eax, cl"},
	{X86_MODE_64, "d1 f0", "shl eax, 1"},
	{X86_MODE_64, "6b c3 05", "imul eax, ebx, 0x5"},
	{X86_MODE_64, "0f b6 c4", "movzx eax, ah"},
	{X86_MODE_64, "48 63 c1", "movsxd rax, ecx"},
	{X86_MODE_32, "63 c1", "arpl cx, ax"},
	{X86_MODE_64, "90", "nop"},
	{X86_MODE_64, "41 90", "xchg r8d, eax"},
	{X86_MODE_64, "f3 90", "pause"},
	{X86_MODE_32, "40", "inc eax"},
	{X86_MODE_64, "48 98", "cdqe"},
	{X86_MODE_64, "48 99", "cqo"},
	{X86_MODE_64, "0f 94 c0", "setz al"},
	{X86_MODE_64, "48 0f 4f c1", "cmovnle rax, rcx"},
	{X86_MODE_64, "f3 0f b8 c1", "popcnt eax, ecx"},
	{X86_MODE_64, "66 f3 0f b8 c1", "popcnt ax, cx"},
	{X86_MODE_64, "f2 0f 38 f1 c1", "crc32 eax, ecx"},
	{X86_MODE_64, "48 0f c7 08", "cmpxchg16b xmmword ptr [rax]"},
	{X86_MODE_64, "0f c8", "bswap eax"},
	{X86_MODE_64, "c8 10 00 03", "enter 0x10, 0x3"},
	/* Memory */
	{X86_MODE_64, "8b 05 10 00 00 00", "mov eax, dword ptr [0x1016]"},
	{X86_MODE_32, "8b 05 10 00 00 00", "mov eax, dword ptr [0x10]"},
	{X86_MODE_64, "8b 04 25 10 00 00 00", "mov eax, dword ptr [0x10]"},
	{X86_MODE_64, "8b 44 8b f0", "mov eax, dword ptr [rbx+rcx*4-0x10]"},
	{X86_MODE_64, "42 8b 04 a3", "mov eax, dword ptr [rbx+r12*4]"},
	{X86_MODE_64, "8b 04 23", "mov eax, dword ptr [rbx]"},
	{X86_MODE_64, "67 8b 00", "mov eax, dword ptr [eax]"},
	{X86_MODE_16, "8b 42 08", "mov ax, word ptr [bp+si+0x8]"},
	{X86_MODE_16, "8b 06 34 12", "mov ax, word ptr [0x1234]"},
	{X86_MODE_64, "a1 88 77 66 55 44 33 22 11", "mov eax, dword ptr [0x1122334455667788]"},
	{X86_MODE_16, "a0 34 12", "mov al, byte ptr [0x1234]"},
	{X86_MODE_64, "65 8b 00", "mov eax, dword ptr gs:[rax]"},
	/* Branches and system */
	{X86_MODE_64, "74 fe", "jz 0x1000"},
	{X86_MODE_64, "e8 00 00 00 00", "call 0x1005"},
	{X86_MODE_64, "66 e8 00 00 00 00", "call 0x1006"},
	{X86_MODE_32, "66 e9 00 00", "jmp 0x1004"},
	{X86_MODE_32, "9a 78 56 34 12 08 00", "callf 0x8:0x12345678"},
	{X86_MODE_64, "ff e0", "jmp rax"},
	{X86_MODE_64, "67 e3 fd", "jecxz 0x1000"},
	{X86_MODE_64, "f3 a4", "rep movsb"},
	{X86_MODE_64, "f2 48 af", "repne scasq"},
	{X86_MODE_64, "0f 20 c0", "mov rax, cr0"},
	{X86_MODE_64, "44 0f 20 c0", "mov rax, cr8"},
	{X86_MODE_32, "0f 22 18", "mov cr3, eax"},
	{X86_MODE_64, "8e d8", "mov ds, ax"},
	{X86_MODE_64, "66 8c c8", "mov ax, cs"},
	{X86_MODE_64, "0f 01 f8", "swapgs"},
	{X86_MODE_64, "0f 01 18", "lidt tbyte ptr [rax]"},
	{X86_MODE_32, "0f 01 18", "lidt fword ptr [eax]"},
	{X86_MODE_64, "e6 80", "out 0x80, al"},
	{X86_MODE_64, "48 ed", "in eax, dx"},
	/* x87, MMX, SSE */
	{X86_MODE_64, "d8 c1", "fadd st(0), st(1)"},
	{X86_MODE_64, "db 28", "fld tbyte ptr [rax]"},
	{X86_MODE_64, "df e0", "fnstsw ax"},
	{X86_MODE_64, "0f 6f 00", "movq mm0, qword ptr [rax]"},
	{X86_MODE_64, "66 48 0f 6e c0", "movq xmm0, rax"},
	{X86_MODE_64, "66 0f 6e c0", "movd xmm0, eax"},
	{X86_MODE_64, "f3 0f 58 00", "addss xmm0, dword ptr [rax]"},
	{X86_MODE_64, "66 f3 0f 58 00", "addss xmm0, dword ptr [rax]"},
	{X86_MODE_64, "66 0f 38 20 00", "pmovsxbw xmm0, qword ptr [rax]"},
	{X86_MODE_64, "66 48 0f 3a 16 c0 01", "pextrq rax, xmm0, 0x1"},
	{X86_MODE_64, "0f 60 00", "punpcklbw mm0, dword ptr [rax]"},
	/* VEX, EVEX */
	{X86_MODE_64, "c5 f4 58 c2", "vaddps ymm0, ymm1, ymm2"},
	{X86_MODE_64, "c4 c1 70 58 c0", "vaddps xmm0, xmm1, xmm8"},
	{X86_MODE_64, "c4 e2 f8 f2 c1", "andn rax, rax, rcx"},
	{X86_MODE_32, "c4 e2 f8 f2 c1", "andn eax, eax, ecx"},
	{X86_MODE_64, "c4 e3 71 4a c2 30", "vblendvps xmm0, xmm1, xmm2, xmm3"},
	{X86_MODE_64, "c4 e2 75 90 04 90", "vpgatherdd ymm0, dword ptr [rax+ymm2*4], ymm1"},
	{X86_MODE_64, "62 f1 74 48 58 40 01", "vaddps zmm0, zmm1, zmmword ptr [rax+0x40]"},
	{X86_MODE_64, "62 f1 74 58 58 40 01", "vaddps zmm0, zmm1, dword ptr [rax+0x4]{b}"},
	{X86_MODE_64, "62 81 74 c9 58 c0", "vaddps zmm16{k1}{z}, zmm1, zmm24"},
	{X86_MODE_64, "62 f2 fd 49 8a 40 01", "vcompresspd zmmword ptr [rax+0x8]{k1}, zmm0"},
	{X86_MODE_64, "62 f1 74 48 c2 ca 00", "vcmpps k1, zmm1, zmm2, 0x0"},
	{X86_MODE_64, "c5 f8 90 08", "kmovw k1, word ptr [rax]"},
};

static void test_texts(void **state) {
	for (size_t n = 0; n < ARRAY_LEN(texts); n++) {
		char text[128];
		uint8_t bytes[32];
		int len = decode(texts[n].hex, texts[n].mode);
		if (len != (int)unhex(texts[n].hex, bytes))
			fail_msg("%s: %d", texts[n].hex, len);
		size_t full = x86_format(text, sizeof(text), &insn, 0x1000);
		assert_int_equal(full, strlen(text));
		if (strcmp(text, texts[n].text))
			fail_msg("%s: %s, not %s", texts[n].hex, text, texts[n].text);
	}
}

static void test_not_instructions(void **state) {
	static const struct {
		enum x86_mode mode;
		const char *hex;
	} bad[] = {
		{X86_MODE_64, "06"}, /* no PUSH ES */
		{X86_MODE_64, "9a 00 00 00 00 00 00"},
		{X86_MODE_64, "d4 0a"},
		{X86_MODE_64, "f0 01 d8"}, /* LOCK without memory */
		{X86_MODE_64, "f0 03 00"}, /* LOCK with a register destination */
		{X86_MODE_64, "f0 38 00"}, /* LOCK CMP */
		{X86_MODE_64, "f0 90"},
		{X86_MODE_64, "8e c8"},			 /* MOV CS */
		{X86_MODE_64, "8c f0"},			 /* segment register 6 */
		{X86_MODE_64, "0f 20 c8"},		 /* CR1 */
		{X86_MODE_64, "44 0f 21 c0"},	 /* DR8 */
		{X86_MODE_64, "8d c0"},			 /* LEA of a register */
		{X86_MODE_64, "f2 0f 5b c0"},	 /* no such mandatory prefix */
		{X86_MODE_64, "66 c5 f4 58 c2"}, /* prefixes that VEX does not take */
		{X86_MODE_64, "40 c5 f4 58 c2"},
		{X86_MODE_64, "f0 c5 f4 58 00"},
		{X86_MODE_64, "c5 a8 51 c0"},		/* vvvv given, but not used */
		{X86_MODE_64, "c4 e2 6d 90 04 90"}, /* gather: mask is the index */
		{X86_MODE_64, "62 f1 74 68 58 c2"}, /* L'L 3 */
		{X86_MODE_64, "62 f1 74 c8 58 c2"}, /* zeroing without a mask */
		{X86_MODE_64, "62 f1 7c c9 11 00"}, /* zeroing into memory */
		{X86_MODE_64, "62 f1 7d 58 6f 00"}, /* no broadcast here */
		{X86_MODE_64, "0f 0f c0 b4"},		/* 3DNow! */
		{X86_MODE_64, "8f e9 78 01 c8"},	/* XOP */
		{X86_MODE_32, "0f 01 f8"},			/* SWAPGS */
		{X86_MODE_64, "fe d0"},
	};
	for (size_t n = 0; n < ARRAY_LEN(bad); n++) {
		int rc = decode(bad[n].hex, bad[n].mode);
		if (rc != X86_DECODE_UD)
			fail_msg("%s: %d", bad[n].hex, rc);
	}
}

/* ---- prefixes ---------------------------------------------------------------------------- */

/* All orders of four prefixes mean the same. */
static void test_prefix_orders(void **state) {
	static const uint8_t set[4] = {0x66, 0x67, 0x64, 0xf0};
	for (unsigned a = 0; a < 256; a++) {
		unsigned order[4] = {a & 3, a >> 2 & 3, a >> 4 & 3, a >> 6}, seen = 0;
		for (unsigned n = 0; n < 4; n++)
			seen |= 1u << order[n];
		if (seen != 15)
			continue;
		uint8_t bytes[8] = {set[order[0]], set[order[1]], set[order[2]], set[order[3]],
							0x48,		   0x01,		  0x18,			 0};
		assert_int_equal(x86_decode(&insn, bytes, 8, X86_MODE_64), 7);
		assert_int_equal(insn.op, X86_OP_ADD);
		assert_int_equal(insn.opsize, 8); /* REX.W beats 66 */
		assert_int_equal(insn.addrsize, 4);
		assert_int_equal(insn.seg, 4);
		assert_int_equal(insn.prefix,
						 X86_PFX_LOCK | X86_PFX_OPSIZE | X86_PFX_ADDRSIZE | X86_PFX_REX);
		assert_int_equal(insn.opcode_off, 5);
		assert_int_equal(insn.modrm_off, 6);
	}
}

static void test_rex_only_before_opcode(void **state) {
	assert_int_equal(decode("48 66 01 d8", X86_MODE_64), 4);
	assert_int_equal(insn.opsize, 2);
	assert_int_equal(insn.rex, 0);
	assert_false(insn.prefix & X86_PFX_REX);
	assert_int_equal(decode("48 41 01 d8", X86_MODE_64), 4); /* the last REX counts */
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(insn.opnd[0].reg, 8);
}

static void test_segments(void **state) {
	assert_int_equal(decode("64 65 8b 00", X86_MODE_64), 4);
	assert_int_equal(insn.seg, 5); /* the last wins */
	assert_int_equal(decode("64 3e 8b 00", X86_MODE_64), 4);
	assert_int_equal(insn.seg, 4); /* DS is no prefix in 64-bit mode */
	assert_int_equal(insn.seg_prefix, 4);
	assert_int_equal(decode("64 3e 8b 00", X86_MODE_32), 4);
	assert_int_equal(insn.seg, 3);
	assert_int_equal(decode("8b 45 00", X86_MODE_32), 3);
	assert_int_equal(insn.seg, 2); /* rBP and rSP: SS */
	assert_int_equal(decode("8b 04 24", X86_MODE_64), 3);
	assert_int_equal(insn.seg, 2);
	assert_int_equal(decode("41 8b 04 24", X86_MODE_64), 4); /* R12: DS */
	assert_int_equal(insn.seg, 3);
	assert_int_equal(decode("8b 04 2b", X86_MODE_64), 3); /* RBP as index: DS */
	assert_int_equal(insn.seg, 3);
	assert_int_equal(decode("8b 02", X86_MODE_16), 2); /* BP+SI: SS */
	assert_int_equal(insn.seg, 2);
	assert_int_equal(decode("2e a4", X86_MODE_16), 2); /* implicit operand: seg still says it */
	assert_int_equal(insn.seg, 1);
	assert_int_equal(insn.seg_prefix, 1);
}

/* The last of F2 and F3 is the one. */
static void test_rep_and_repne(void **state) {
	assert_int_equal(decode("f2 f3 a4", X86_MODE_64), 3);
	assert_int_equal(insn.prefix, X86_PFX_REP);
	assert_int_equal(decode("f3 f2 a6", X86_MODE_64), 3);
	assert_int_equal(insn.prefix, X86_PFX_REPNE);
	assert_int_equal(decode("f2 f3 0f 58 c0", X86_MODE_64), 5);
	assert_int_equal(insn.op, X86_OP_ADDSS);
	assert_int_equal(insn.prefix, 0); /* part of the opcode */
}

static void test_length_limit(void **state) {
	uint8_t bytes[32];
	memset(bytes, 0x66, sizeof(bytes));
	bytes[13] = 0x01;
	bytes[14] = 0xd8;
	assert_int_equal(x86_decode(&insn, bytes, 15, X86_MODE_64), 15);
	assert_int_equal(x86_decode(&insn, bytes, 14, X86_MODE_64), X86_DECODE_SHORT);
	assert_int_equal(x86_decode(&insn, bytes, 0, X86_MODE_64), X86_DECODE_SHORT);
	bytes[13] = 0x66;
	bytes[14] = 0x01;
	bytes[15] = 0xd8;
	assert_int_equal(x86_decode(&insn, bytes, 32, X86_MODE_64), X86_DECODE_LONG);
	assert_int_equal(x86_decode(&insn, bytes, 15, X86_MODE_64), X86_DECODE_LONG);
	memset(bytes, 0x66, sizeof(bytes));
	assert_int_equal(x86_decode(&insn, bytes, 32, X86_MODE_64), X86_DECODE_LONG);
	assert_int_equal(x86_decode(&insn, bytes, 14, X86_MODE_64), X86_DECODE_SHORT);
}

/* Each instruction of texts[], cut anywhere, is short; whole, its length does not depend on what
 * follows. */
static void test_short(void **state) {
	for (size_t n = 0; n < ARRAY_LEN(texts); n++) {
		uint8_t bytes[32];
		memset(bytes, 0xcc, sizeof(bytes));
		size_t len = unhex(texts[n].hex, bytes);
		for (size_t cut = 0; cut < len; cut++)
			assert_int_equal(x86_decode(&insn, bytes, cut, texts[n].mode), X86_DECODE_SHORT);
		assert_int_equal(x86_decode(&insn, bytes, 32, texts[n].mode), len);
	}
}

/* ---- fields ------------------------------------------------------------------------------ */

static void test_offsets(void **state) {
	assert_int_equal(decode("66 c7 84 8b 78 56 34 12 cd ab", X86_MODE_64), 10);
	assert_int_equal(insn.opcode_off, 1);
	assert_int_equal(insn.modrm_off, 2);
	assert_int_equal(insn.disp_off, 4);
	assert_int_equal(insn.disp_len, 4);
	assert_int_equal(insn.imm_off, 8);
	assert_int_equal(insn.imm_len, 2);
	assert_int_equal(insn.disp, 0x12345678);
	assert_int_equal(insn.imm & 0xffff, 0xabcd);
	assert_int_equal(insn.base, 3);
	assert_int_equal(insn.index, 1);
	assert_int_equal(insn.scale, 2);
	assert_int_equal(decode("c8 34 12 05", X86_MODE_64), 4);
	assert_int_equal(insn.imm, 0x1234);
	assert_int_equal(insn.imm2, 5);
	assert_int_equal(insn.imm_off, 1);
	assert_int_equal(insn.imm_len, 3);
}

static void test_operand_sizes(void **state) {
	static const struct {
		enum x86_mode mode;
		const char *hex;
		uint8_t opsize, size0;
	} sizes[] = {
		{X86_MODE_64, "c3", 8, 0},
		{X86_MODE_64, "66 c3", 8, 0}, /* near branches: always 8 */
		{X86_MODE_32, "66 c3", 2, 0},
		{X86_MODE_64, "cb", 4, 0}, /* far ones are not */
		{X86_MODE_64, "48 cb", 8, 0},
		{X86_MODE_64, "cf", 4, 0},
		{X86_MODE_64, "9c", 8, 0},
		{X86_MODE_64, "66 9c", 2, 0},
		{X86_MODE_64, "a4", 1, 0},
		{X86_MODE_64, "66 a5", 2, 0},
		{X86_MODE_64, "48 a5", 8, 0},
		{X86_MODE_64, "48 6d", 4, 0}, /* no 64-bit ports */
		{X86_MODE_64, "ff 30", 8, 8},
		{X86_MODE_64, "8f 00", 8, 8},
		{X86_MODE_16, "0f 20 c0", 2, 4},
		{X86_MODE_64, "8c 00", 4, 2}, /* MOV to memory from a segment register: 2 bytes */
		{X86_MODE_64, "8c c0", 4, 4},
		{X86_MODE_32, "ff 18", 4, 6}, /* far pointers */
		{X86_MODE_64, "48 ff 18", 8, 10},
		{X86_MODE_64, "dd 20", 4, 108},
		{X86_MODE_16, "dd 20", 2, 94},
		{X86_MODE_64, "0f ae 00", 4, 0}, /* FXSAVE: 512 does not fit, size 0 */
		{X86_MODE_32, "62 00", 4, 4},
	};
	for (size_t n = 0; n < ARRAY_LEN(sizes); n++) {
		if (decode(sizes[n].hex, sizes[n].mode) <= 0)
			fail_msg("%s", sizes[n].hex);
		unsigned memory = insn.opnd[0].size;
		if (insn.opsize != sizes[n].opsize || (sizes[n].size0 && memory != sizes[n].size0))
			fail_msg("%s: opsize %u, operand %u", sizes[n].hex, insn.opsize, memory);
	}
}

static void test_modrm_or_vex(void **state) {
	assert_int_equal(decode("c5 00", X86_MODE_32), 2);
	assert_int_equal(insn.op, X86_OP_LDS);
	assert_int_equal(decode("c4 00", X86_MODE_16), 2);
	assert_int_equal(insn.op, X86_OP_LES);
	assert_int_equal(decode("62 00", X86_MODE_32), 2);
	assert_int_equal(insn.op, X86_OP_BOUND);
	assert_int_equal(decode("c5 f8 77", X86_MODE_32), 3);
	assert_int_equal(insn.op, X86_OP_VZEROUPPER);
	assert_int_equal(decode("8f 00", X86_MODE_32), 2);
	assert_int_equal(insn.op, X86_OP_POP);
}

static void test_vector_fields(void **state) {
	/* vaddpd zmm30{k5}, zmm29, [rax+rcx*8 + 2 * 8]{1to8} */
	assert_int_equal(decode("62 61 95 55 58 74 c8 02", X86_MODE_64), 8);
	assert_int_equal(insn.op, X86_OP_VADDPD);
	assert_int_equal(insn.vl, 2);
	assert_int_equal(insn.vvvv, 29);
	assert_int_equal(insn.evex, 5 | 1 << 4);
	assert_int_equal(insn.disp, 16);
	assert_int_equal(insn.disp_len, 1);
	assert_int_equal(insn.opnd[0].reg, 30);
	assert_int_equal(insn.opnd[0].size, 64);
	assert_int_equal(insn.opnd[0].access, OPND_R | OPND_W); /* merging */
	assert_int_equal(insn.opnd[1].reg, 29);
	assert_int_equal(insn.opnd[2].kind, OPND_MEM);
	assert_int_equal(insn.opnd[2].size, 8);
	/* vgatherqpd: the index vector's size is in reg */
	assert_int_equal(decode("62 f2 fd 49 93 44 c8 02", X86_MODE_64), 8);
	assert_int_equal(insn.opnd[1].kind, OPND_MEM);
	assert_int_equal(insn.opnd[1].size, 8);
	assert_int_equal(insn.opnd[1].reg, 64);
	assert_int_equal(insn.disp, 16);
}

/* ---- the table --------------------------------------------------------------------------- */

static const struct x86_form *form_of(const char *hex, enum x86_mode mode) {
	assert_true(decode(hex, mode) > 0);
	return &x86_forms[insn.form];
}

static void test_attributes(void **state) {
	assert_true(form_of("0f 28 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_true(form_of("0f 58 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_false(form_of("0f 10 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_false(form_of("f3 0f 58 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_false(form_of("66 0f 3a 63 00 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_false(form_of("66 0f 38 20 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_true(form_of("c5 f8 28 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_false(form_of("c5 f0 58 00", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_true(form_of("48 0f c7 08", X86_MODE_64)->attr & X86_ATTR_ALIGN);
	assert_true(form_of("f4", X86_MODE_64)->attr & X86_ATTR_PRIV);
	assert_true(form_of("0f 01 f8", X86_MODE_64)->attr & X86_ATTR_PRIV);
	assert_true(form_of("eb 00", X86_MODE_64)->attr & X86_ATTR_ENDS);
	assert_true(form_of("f3 a4", X86_MODE_64)->attr & X86_ATTR_REP);
	assert_true(form_of("50", X86_MODE_64)->attr & X86_ATTR_D64);
	assert_true(form_of("01 d8", X86_MODE_64)->attr & X86_ATTR_NATIVE);
	assert_false(form_of("0f a2", X86_MODE_64)->attr & X86_ATTR_NATIVE);
	assert_true(form_of("8d 00", X86_MODE_64)->attr & X86_ATTR_NOMEM_FAULT);
	assert_true(form_of("c4 e2 75 90 04 90", X86_MODE_64)->attr & X86_ATTR_VSIB);
}

static void test_flags(void **state) {
	const struct x86_form *f = form_of("11 d8", X86_MODE_64); /* ADC */
	assert_int_equal(f->flags_read, RFLAGS_CF);
	assert_int_equal(f->flags_written, RFLAGS_ARITH);
	assert_int_equal(f->flags_undefined, 0);
	f = form_of("21 d8", X86_MODE_64); /* AND */
	assert_int_equal(f->flags_written, RFLAGS_ARITH);
	assert_int_equal(f->flags_undefined, RFLAGS_AF);
	f = form_of("ff c0", X86_MODE_64); /* INC leaves CF */
	assert_int_equal(f->flags_written, RFLAGS_ARITH & ~RFLAGS_CF);
	f = form_of("8b 00", X86_MODE_64);
	assert_int_equal(f->flags_written | f->flags_read, 0);
}

/* Every form but the first belongs to an op; what is undefined is written too. */
static void test_forms(void **state) {
	for (unsigned n = 1; n < X86_FORM_COUNT; n++) {
		const struct x86_form *f = &x86_forms[n];
		assert_true(f->op > X86_OP_INVALID && f->op < X86_OP_COUNT);
		assert_int_equal(f->flags_undefined & ~f->flags_written, 0);
		assert_non_null(f->mnemonic);
		assert_true(x86_decs[n].nopnds <= X86_OPNDS);
		assert_int_equal(x86_decs[n].op, f->op);
	}
}

static void test_format_fits(void **state) {
	char text[64];
	assert_true(decode("62 f1 74 48 58 40 01", X86_MODE_64) > 0);
	size_t full = x86_format(text, sizeof(text), &insn, 0);
	for (size_t size = 0; size <= full + 1; size++) {
		memset(text, 0x7f, sizeof(text));
		assert_int_equal(x86_format(text, size, &insn, 0), full);
		if (size)
			assert_true(memchr(text, 0, size) != NULL);
		assert_int_equal(text[size], 0x7f);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts),		  cmocka_unit_test(test_not_instructions),
		cmocka_unit_test(test_prefix_orders), cmocka_unit_test(test_rex_only_before_opcode),
		cmocka_unit_test(test_segments),	  cmocka_unit_test(test_rep_and_repne),
		cmocka_unit_test(test_length_limit),  cmocka_unit_test(test_short),
		cmocka_unit_test(test_offsets),		  cmocka_unit_test(test_operand_sizes),
		cmocka_unit_test(test_modrm_or_vex),  cmocka_unit_test(test_vector_fields),
		cmocka_unit_test(test_attributes),	  cmocka_unit_test(test_flags),
		cmocka_unit_test(test_forms),		  cmocka_unit_test(test_format_fits),
	};
	return cmocka_run_group_tests_name("decode", tests, NULL, NULL);
}
