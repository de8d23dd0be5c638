/* The code verifier against broken code: blocks are translated, must pass, and are then damaged in
 * every place and in every way that is listed below; each damage must be refused. Random bit flips
 * come last: many are harmless, but none may upset the verifier.
 *
 * Usage: verify [--flips N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "engine/soft/jit.h"
#include "test/insn/bench_vm.h"

#define CODE(...)                                                                                  \
	{ sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}, 0 }
#define CODE32(...)                                                                                \
	{ sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}, 32 }
#define CODE16(...)                                                                                \
	{ sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}, 16 }

/* Guest code: one block each, of all the kinds that the translator treats in their own way. */
static const struct {
	unsigned len;
	uint8_t bytes[64];
	unsigned legacy; /* bits of the code, when not 64 */
} samples[] = {
	/* mov rax,[rbx]; mov [rbx+8],rax; add dword [rsi+rcx*4+16],5; jz */
	CODE(0x48, 0x8b, 0x03, 0x48, 0x89, 0x43, 0x08, 0x83, 0x44, 0x8e, 0x10, 0x05, 0x74, 0x10),
	/* adc rax,[r10+r11*8]; mov [r14-8],r10; mov r11,[rsp]; jmp rax */
	CODE(0x4b, 0x13, 0x04, 0xda, 0x4d, 0x89, 0x56, 0xf8, 0x4c, 0x8b, 0x1c, 0x24, 0xff, 0xe0),
	/* push rbp; mov rbp,rsp; push r14; pop r10; push 5; leave; ret */
	CODE(0x55, 0x48, 0x89, 0xe5, 0x41, 0x56, 0x41, 0x5a, 0x6a, 0x05, 0xc9, 0xc3),
	/* mov rax,fs:[0x28]; movzx ecx,byte gs:[rdi]; mov al,[rip+0x1000]; call +0x20 */
	CODE(0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x65, 0x0f, 0xb6, 0x0f, 0x8a, 0x05, 0, 0x10,
		 0, 0, 0xe8, 0x20, 0, 0, 0),
	/* movups xmm0,[rdi]; movaps [rsi+rax],xmm0; fld qword [rbx]; fstp tbyte [rbx+16]; ret */
	CODE(0x0f, 0x10, 0x07, 0x0f, 0x29, 0x04, 0x06, 0xdd, 0x03, 0xdb, 0x7b, 0x10, 0xc3),
	/* lock cmpxchg [rsi],rdx; cpuid */
	CODE(0xf0, 0x48, 0x0f, 0xb1, 0x16, 0x0f, 0xa2),
	/* cmp rax,rbx; mov [rdi],ecx; jl; with the flags alive over the store */
	CODE(0x48, 0x39, 0xd8, 0x89, 0x0f, 0x7c, 0x05),
	/* vmovdqu64 zmm16,[rdx+64]; vaddps zmm17,zmm1,dword [rsi+rcx*4+4]{1to16}; kmovq k1,[rdi];
	 * vmovups [r10-128],zmm16; kmovd r11d,k1; kortestb k1,k1; jz */
	CODE(0x62, 0xe1, 0xfe, 0x48, 0x6f, 0x42, 0x01, 0x62, 0xe1, 0x74, 0x58, 0x58, 0x4c, 0x8e, 0x01,
		 0xc4, 0xe1, 0xf8, 0x90, 0x0f, 0x62, 0xc1, 0x7c, 0x48, 0x11, 0x42, 0xfe, 0xc5, 0x7b, 0x93,
		 0xd9, 0xc5, 0xf9, 0x98, 0xc9, 0x74, 0x05),
	/* call [rax+rbx]; */
	CODE(0xff, 0x14, 0x18),
	/* vmovdqu ymm1,[rdx]; mov byte [rdx+31],1; lea r10,[r11+rsp]; cli */
	CODE(0xc5, 0xfe, 0x6f, 0x0a, 0xc6, 0x42, 0x1f, 0x01, 0x4d, 0x8d, 0x14, 0x23, 0xfa),
	/* 1: mov rax,[rbx]; add [rsp+8],rax; lea rsi,[rsi+8]; mov [rsi],rax; dec rdi; jnz 1b */
	CODE(0x48, 0x8b, 0x03, 0x48, 0x01, 0x44, 0x24, 0x08, 0x48, 0x8d, 0x76, 0x08, 0x48, 0x89, 0x06,
		 0x48, 0xff, 0xcf, 0x75, 0xec),
	/* mov eax,[ebx]; mov [ebx+8],eax; add dword [esi+ecx*4+16],5; mov eax,[0xc0001000]; inc eax; jz
	 */
	CODE32(0x8b, 0x03, 0x89, 0x43, 0x08, 0x83, 0x44, 0x8e, 0x10, 0x05, 0xa1, 0x00, 0x10, 0x00, 0xc0,
		   0x40, 0x74, 0x10),
	/* push ebp; mov ebp,esp; push 5; pop ecx; mov eax,gs:[20]; push [eax]; leave; ret */
	CODE32(0x55, 0x89, 0xe5, 0x6a, 0x05, 0x59, 0x65, 0xa1, 0x14, 0, 0, 0, 0xff, 0x30, 0xc9, 0xc3),
	/* push ebp; mov ebp,esp; sub esp,8; mov [ebp-4],ecx; push edx; mov [ebp-8],edx; ret */
	CODE32(0x55, 0x89, 0xe5, 0x83, 0xec, 0x08, 0x89, 0x4d, 0xfc, 0x52, 0x89, 0x55, 0xf8, 0xc3),
	/* mov fs:[ebx+4],al; cmp eax,ebx; mov [edi-8],ecx; jl, with the flags alive; call [eax] */
	CODE32(0x64, 0x88, 0x43, 0x04, 0x39, 0xd8, 0x89, 0x4f, 0xf8, 0x7c, 0x05, 0xff, 0x10),
	/* movups xmm0,[edi]; movaps [esi+eax],xmm0; lock cmpxchg [esi],edx; call +0x20 */
	CODE32(0x0f, 0x10, 0x07, 0x0f, 0x29, 0x04, 0x06, 0xf0, 0x0f, 0xb1, 0x16, 0xe8, 0x20, 0, 0, 0),
	/* mov ax,[bx]; mov es:[bp+si+8],ax; push ax; pop cx; add dword [ecx],5; jz */
	CODE16(0x8b, 0x07, 0x26, 0x89, 0x42, 0x08, 0x50, 0x59, 0x66, 0x67, 0x83, 0x01, 0x05, 0x74,
		   0x10),
	/* push 5; leave; inc word [0x1000]; call [bx]; */
	CODE16(0x6a, 0x05, 0xc9, 0xff, 0x06, 0x00, 0x10, 0xff, 0x17),
	/* pop di; retl */
	CODE16(0x5f, 0x66, 0xc3),
};
#define SAMPLES (sizeof(samples) / sizeof(samples[0]))

enum damage {
	DROP_BRANCH,   /* the check's JNE becomes NOPs */
	TURN_BRANCH,   /* ... JE */
	MOVE_JUMP,	   /* a jump or call goes one byte further */
	JUMP_WRONG,	   /* a jump or call goes to the thunk that enters */
	SHORT_CHECK,   /* the size that is checked */
	LOAD_TO_STORE, /* a load becomes a store */
	MOVE_UP,	   /* the displacement of an access */
	MOVE_DOWN,
	OTHER_BASE, /* a register of its address */
	OTHER_INDEX,
	WIDE_INDEX, /* the mask of the table's index */
	WIDE_PAGE,	/* the mask of the page */
	OTHER_SHIFT,
	OTHER_TABLE, /* a GS-relative displacement: next entry */
	OTHER_HALF,	 /* ... the entry's other word */
	INTO_ENGINE, /* ... the engine's own words */
	NO_PREFIX,	 /* GS: becomes DS: */
	PREFIX_FS,
	WRONG_ARGUMENT, /* a constant for a thunk */
	OTHER_SLOT,		/* a missed slot's code fills another one of its kind */
	CHANGED_BASE,	/* a loop changes an address that is checked before it */
	DROP_END,		/* the last jump becomes NOPs */
	FORBIDDEN,		/* any instruction becomes one that must not be there */
	DAMAGES,
};
static const char *const damage_names[DAMAGES] = {
	"a check's branch dropped",
	"a check's branch turned round",
	"jumps moved",
	"jumps to where nothing may jump",
	"a shorter check",
	"a store after a check for loads",
	"accesses moved up",
	"accesses moved down",
	"another base",
	"another index",
	"a wider index",
	"another page mask",
	"another shift",
	"the table's next entry",
	"the entry's other half",
	"into the engine's own words",
	"no prefix",
	"FS",
	"wrong arguments for thunks",
	"another slot filled than the one that was missed",
	"a loop that changes what was checked before it",
	"no jump at the end",
	"forbidden instructions",
};

static const struct {
	uint8_t len, bytes[10];
} forbidden[] = {
	{1, {0xcc}},									 /* int3 */
	{1, {0xf4}},									 /* hlt */
	{1, {0x50}},									 /* push */
	{1, {0x58}},									 /* pop */
	{3, {0xc2, 0x08, 0}},							 /* ret 8 */
	{2, {0xf3, 0xc3}},								 /* rep ret */
	{1, {0xa4}},									 /* movsb */
	{1, {0xec}},									 /* in */
	{1, {0xfd}},									 /* std */
	{1, {0x9d}},									 /* popf */
	{1, {0xd7}},									 /* xlat */
	{1, {0xc9}},									 /* leave */
	{2, {0x0f, 0x05}},								 /* syscall */
	{2, {0x0f, 0x34}},								 /* sysenter */
	{2, {0xcd, 0x80}},								 /* int 0x80 */
	{2, {0x8e, 0xe8}},								 /* mov gs,eax */
	{2, {0x0f, 0x0b}},								 /* ud2 */
	{2, {0x0f, 0x30}},								 /* wrmsr */
	{2, {0x0f, 0x31}},								 /* rdtsc */
	{2, {0xff, 0xe0}},								 /* jmp rax */
	{2, {0xff, 0xd0}},								 /* call rax */
	{2, {0x89, 0x00}},								 /* mov [rax],eax */
	{2, {0x8b, 0x00}},								 /* mov eax,[rax] */
	{2, {0xf7, 0xf1}},								 /* div ecx */
	{3, {0x48, 0x89, 0xc4}},						 /* mov rsp,rax */
	{3, {0x48, 0x89, 0xe0}},						 /* mov rax,rsp */
	{3, {0x0f, 0xf7, 0xc1}},						 /* maskmovq */
	{4, {0x48, 0x8b, 0x04, 0x24}},					 /* mov rax,[rsp] */
	{4, {0x8b, 0x04, 0x10, 0x90}},					 /* mov eax,[rax+rdx] */
	{4, {0x66, 0x0f, 0xf7, 0xc1}},					 /* maskmovdqu */
	{6, {0x62, 0xf1, 0x7c, 0x48, 0x11, 0x00}},		 /* vmovups [rax],zmm0 */
	{6, {0x62, 0xf1, 0x7c, 0x48, 0x10, 0x00}},		 /* vmovups zmm0,[rax] */
	{7, {0x62, 0xf2, 0x7d, 0x49, 0x90, 0x04, 0x08}}, /* vpgatherdd zmm0{k1},[rax+zmm1] */
	{4, {0x48, 0x83, 0xc4, 0x08}},					 /* add rsp,8 */
	{5, {0xf3, 0x48, 0x0f, 0xae, 0xd8}},			 /* wrgsbase rax */
	{3, {0x0f, 0xae, 0x10}},						 /* ldmxcsr [rax] */
	{3, {0x64, 0x8b, 0x00}},						 /* mov eax,fs:[rax] */
	{4, {0x41, 0x8b, 0x01, 0x90}},					 /* mov eax,[r9] */
	{6, {0x8b, 0x05, 0x00, 0x10, 0, 0}},			 /* mov eax,[rip+0x1000] */
	{8, {0x8b, 0x04, 0x25, 0, 0, 0x40, 0}},			 /* mov eax,[0x400000] */
};
#define FORBIDDEN_N (sizeof(forbidden) / sizeof(forbidden[0]))

static const uint32_t keys[] = {0, JIT_KEY_USER,
								JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX | JIT_KEY_AVX512};
#define KEYS (sizeof(keys) / sizeof(keys[0]))
/* The same of 32- and 16-bit code. */
static const uint32_t legacy_keys[2][KEYS] = {
	{JIT_KEY_32, JIT_KEY_32 | JIT_KEY_USER,
	 JIT_KEY_32 | JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX | JIT_KEY_SEGS},
	{JIT_KEY_16 | JIT_KEY_SEGS | JIT_KEY_STACK16 | JIT_KEY_CS64K,
	 JIT_KEY_16 | JIT_KEY_USER | JIT_KEY_SEGS | JIT_KEY_FPU,
	 JIT_KEY_16 | JIT_KEY_USER | JIT_KEY_SEGS | JIT_KEY_STACK16 | JIT_KEY_FPU},
};

static struct bench_vm vm;
static struct jit *j;
static struct jit_block *block;
static unsigned long done[DAMAGES], passed[DAMAGES];
static unsigned sample;

static void judge(enum damage d, const uint8_t *at, const uint8_t *orig, unsigned len) {
	const char *why = jit_verify(j, block);
	/* The second tier checks more than one access needs: these may be harmless. */
	if (block->second && !why && (d == LOAD_TO_STORE || d == MOVE_UP || d == MOVE_DOWN))
		return;
	done[d]++;
	if (!why && passed[d]++ < 3) {
		struct x86_insn i;
		char was[96] = "?", is[96] = "?";
		if (x86_decode(&i, orig, len, X86_MODE_64) > 0)
			x86_format(was, sizeof(was), &i, 0);
		if (x86_decode(&i, at, 15, X86_MODE_64) > 0)
			x86_format(is, sizeof(is), &i, 0);
		printf("# sample %u: %s: \"%s\" was \"%s\": passed\n", sample, damage_names[d], is, was);
	}
}

static void nops(uint8_t *at, unsigned len) {
	memset(at, 0x90, len);
}

static int32_t get32(const uint8_t *p) {
	int32_t v;
	memcpy(&v, p, 4);
	return v;
}

static void add32(uint8_t *p, int32_t n) {
	n += get32(p);
	memcpy(p, &n, 4);
}

static uint32_t gs_of(size_t off) {
	return (uint32_t)(((sizeof(struct vcpu) + 63) & ~(size_t)63) + offsetof(struct soft_vcpu, jit) +
					  off);
}

/* Applies damage d to the instruction at `at`. false: it has no such place. */
static bool damage(enum damage d, uint8_t *at, const struct x86_insn *i,
				   const struct x86_insn *prev, bool last) {
	const struct x86_opnd *m = x86_memory_operand(i);
	bool gs = i->seg_prefix == SEG_GS, guest = m && !gs && i->op != X86_OP_LEA && m->size;
	bool rel = i->nopnds && i->opnd[0].kind == OPND_REL;
	bool table = gs && m && (i->base < 16 || i->index < 16);
	bool check_branch = i->op == X86_OP_JCC && i->cond == 5 && prev->op == X86_OP_CMP &&
						prev->seg_prefix == SEG_GS && prev->base < 16;
	switch (d) {
	case DROP_BRANCH:
		if (check_branch)
			nops(at, i->len);
		return check_branch;
	case TURN_BRANCH:
		if (check_branch)
			at[1] ^= 1;
		return check_branch;
	case MOVE_JUMP: /* not over padding */
		if (!rel || i->imm_len != 4 || at[i->len + (int64_t)i->imm] == 0x90)
			return false;
		add32(at + i->imm_off, 1);
		return true;
	case JUMP_WRONG:
		if (!rel || i->imm_len != 4)
			return false;
		add32(at + i->imm_off, (int32_t)(j->enter - (at + j->exec + i->len) - (int64_t)i->imm));
		return true;
	case SHORT_CHECK:
		if (i->op != X86_OP_ADD || i->opnd[0].kind != OPND_GPR || i->opnd[0].size != 8 ||
			i->imm_len != 1 || !i->imm)
			return false;
		at[i->imm_off] >>= 1;
		return true;
	case LOAD_TO_STORE: /* where the same operand is not written anyway */
		if (!guest || i->op != X86_OP_MOV || m != &i->opnd[1])
			return false;
		at[i->modrm_off - 1] ^= 2;
		return true;
	case MOVE_UP:
	case MOVE_DOWN:
		if (!guest || !i->disp_len)
			return false;
		at[i->disp_off] = (uint8_t)(at[i->disp_off] + (d == MOVE_UP ? 1 : 0xff));
		return true;
	case OTHER_BASE:
		if (!guest)
			return false;
		if ((i->modrm & 7) == 4)
			at[i->modrm_off + 1] ^= 1;
		else
			at[i->modrm_off] ^= 1;
		return true;
	case OTHER_INDEX:
		if (!guest || (i->modrm & 7) != 4)
			return false;
		at[i->modrm_off + 1] ^= 0x08;
		return true;
	case WIDE_INDEX:
		if (i->op != X86_OP_AND || i->opnd[0].size != 4 || i->opnd[0].reg != R11 || m)
			return false;
		at[i->imm_off + 2] ^= 0x01;
		return true;
	case WIDE_PAGE:
		if (i->op != X86_OP_AND || i->opnd[0].size != 8 || i->opnd[0].reg != R10 || m)
			return false;
		at[i->imm_off + 1] ^= 0x10;
		return true;
	case OTHER_SHIFT:
		if (i->op != X86_OP_SHR || i->opnd[0].reg != R11 || i->imm != 8)
			return false;
		at[i->imm_off] ^= 1;
		return true;
	case OTHER_TABLE:
		if (table)
			add32(at + i->disp_off, 16);
		return table;
	case OTHER_HALF:
		if (table)
			add32(at + i->disp_off, 8);
		return table;
	case INTO_ENGINE: {
		if (!gs || !m || i->disp_len != 4)
			return false;
		uint32_t to = gs_of(offsetof(struct jit_vcpu, host_rsp));
		memcpy(at + i->disp_off, &to, 4);
		return true;
	}
	case NO_PREFIX:
	case PREFIX_FS:
		if (!gs || at[0] != 0x65)
			return false;
		at[0] = d == PREFIX_FS ? 0x64 : 0x3e;
		return true;
	case WRONG_ARGUMENT: /* what goes to a thunk at once; RIP may be anything */
		if (i->op != X86_OP_MOV || i->opnd[0].kind != OPND_GPR || i->opnd[0].reg != R11 ||
			i->opnd[1].kind != OPND_IMM || i->imm < 0x10000 || (at[i->len] & 0xfe) != 0xe8)
			return false;
		at[i->imm_off + 3] ^= 0x80; /* so far that nothing of its kind can be there */
		return true;
	case OTHER_SLOT: {
		if (i->op != X86_OP_MOV || i->opnd[0].kind != OPND_GPR || i->opnd[0].reg != R11 ||
			i->opnd[1].kind != OPND_IMM || at[i->len] != 0xe8)
			return false;
		const uint8_t *to = at + i->len + 5 + get32(at + i->len + 1) + j->exec;
		bool turn = false;
		for (unsigned n = 0; n < 4 * JIT_SLOT_CLASSES; n++)
			turn |= to == j->slot_turn[n & 1][n >> 1 & 1][n >> 2];
		if (turn)
			at[i->imm_off] ^= sizeof(struct jit_slot);
		return turn;
	}
	case CHANGED_BASE:
		if (i->op != X86_OP_DEC || i->opnd[0].kind != OPND_GPR || !block->second)
			return false;
		at[i->modrm_off] = (uint8_t)((at[i->modrm_off] & 0xf8) | RBX);
		return true;
	case DROP_END:
		if (last)
			nops(at, i->len);
		return last;
	default:
		return false;
	}
}

static void damage_region(uint8_t *code, size_t len) {
	struct x86_insn i, prev = {0};
	for (size_t at = 0; at < len; at += i.len, prev = i) {
		uint8_t orig[16], *p = code + at;
		int n = x86_decode(&i, p, len - at, X86_MODE_64);
		if (n <= 0)
			break;
		memcpy(orig, p, i.len);
		bool last = at + i.len == len;
		for (enum damage d = 0; d < FORBIDDEN; d++) {
			if (damage(d, p, &i, &prev, last))
				judge(d, p, orig, i.len);
			memcpy(p, orig, i.len);
		}
		for (unsigned f = 0; f < FORBIDDEN_N; f++) {
			if (forbidden[f].len > i.len)
				continue;
			nops(p, i.len);
			memcpy(p, forbidden[f].bytes, forbidden[f].len);
			judge(FORBIDDEN, p, orig, i.len);
			memcpy(p, orig, i.len);
		}
	}
}

static uint64_t seed = 0x9e3779b97f4a7c15ull;

static uint32_t rnd(void) {
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (uint32_t)((seed * 0x2545f4914f6cdd1dull) >> 32);
}

static unsigned long flip(unsigned long count) {
	unsigned long ok = 0;
	for (unsigned long k = 0; k < count; k++) {
		uint32_t at = rnd() % (block->hot_len + block->cold_len);
		uint8_t *p =
			(uint8_t *)(uintptr_t)(at < block->hot_len ? block->hot + at
													   : block->cold + at - block->hot_len);
		uint8_t bit = (uint8_t)(1u << rnd() % 8);
		*p ^= bit;
		ok += !jit_verify(j, block);
		*p ^= bit;
	}
	return ok;
}

static void host_code(uint8_t *ram, unsigned n) {
	memset(ram, 0x90, 4096);
	memcpy(ram + 0x100, samples[n].bytes, samples[n].len);
	memset(ram + 0x100 + samples[n].len, 0xf4, 16);
}

int main(int argc, char **argv) {
	unsigned long flips = 500, total = 0, bad = 0, harmless = 0;
	if (argc > 2 && !strcmp(argv[1], "--flips"))
		flips = strtoul(argv[2], NULL, 0);
	setenv("JOIST_SOFT_VERIFY", "1", 1);
	bench_vm_create(&vm, 1 << 20, "jit");
	bench_vm_show_avx512(&vm);
	struct soft_vcpu *c = vm.cpu->engine;
	j = c->soft->jit;
	for (sample = 0; sample < SAMPLES; sample++)
		for (unsigned k = 0; k < 2 * KEYS; k++) {
			unsigned bits = samples[sample].legacy;
			uint32_t key = bits ? legacy_keys[bits == 16][k / 2] : keys[k / 2];
			/* Legacy: CS has a base every other time. */
			uint64_t rip = !bits ? 0x7f0012345100 : k / 2 ? 0x12345100 : 0x1234500000000100;
			bool tier = k & 1;
			host_code(vm.ram, sample);
			block = jit_translate(c, vm.ram + 0x100, NULL, rip, key, tier);
			if (!block && tier && key & (JIT_KEY_16 | JIT_KEY_SEGS))
				continue; /* not for the second tier */
			if (!block) {
				printf("Bail out! no block of sample %u\n", sample);
				return 1;
			}
			const char *why = jit_verify(j, block);
			if (why) {
				printf("# sample %u key %u, undamaged: %s\n", sample, key, why);
				bad++;
				continue;
			}
			damage_region((uint8_t *)(uintptr_t)block->hot, block->hot_len);
			damage_region((uint8_t *)(uintptr_t)block->cold, block->cold_len);
			harmless += flip(flips);
			if (jit_verify(j, block))
				bad++;
		}
	printf("1..%d\n", DAMAGES + 1);
	printf("%s 1 - intact blocks pass\n", bad ? "not ok" : "ok");
	for (unsigned d = 0; d < DAMAGES; d++) {
		printf("%s %u - %s (%lu)\n", passed[d] || !done[d] ? "not ok" : "ok", d + 2,
			   damage_names[d], done[d]);
		total += passed[d] + !done[d];
	}
	printf("# of %lu flipped bits %lu passed: immediates, registers that are the guest's own\n",
		   2 * flips * SAMPLES * KEYS, harmless);
	bench_vm_destroy(&vm);
	return bad || total;
}
