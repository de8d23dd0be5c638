/* AVX-512 without a host that has it: random EVEX and opmask instructions are translated, never
 * run, and what was emitted is decoded again. The copy must be the same instruction on the same
 * vector and mask registers, with the general registers that stand for the guest's and the same
 * distance from its address; what masks its accesses, gathers or scatters must be left to a
 * handler. The verifier looks at each block. test/nested/avx512.py runs them.
 *
 * Usage: copies [--count INSTRUCTIONS] [--seed N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "engine/soft/jit.h"
#include "test/insn/bench_vm.h"
#include "test/insn/gen.h"

#define AT 0x100u

static bool stays_guest_reg(unsigned reg) {
	return reg != RSP && reg != R10 && reg != R11 && reg != R14;
}

/* Why b is no copy of a, or NULL. */
static const char *differs(const struct x86_insn *a, const struct x86_insn *b) {
	if ((a->prefix ^ b->prefix) & (X86_PFX_VEX | X86_PFX_EVEX))
		return "encoding";
	if (a->vl != b->vl || a->evex != b->evex || a->nopnds != b->nopnds)
		return "length, mask, broadcast or rounding";
	for (unsigned n = 0; n < a->nopnds; n++) {
		const struct x86_opnd *x = &a->opnd[n], *y = &b->opnd[n];
		if (x->kind != y->kind || x->size != y->size || x->access != y->access)
			return "kind of an operand";
		if (x->kind == OPND_GPR && x->reg == RSP && y->reg != R14)
			return "RSP";
		if (x->kind == OPND_GPR && !stays_guest_reg(x->reg) && x->reg != RSP && y->reg != R10 &&
			y->reg != R11)
			return "scratch register";
		if ((x->kind == OPND_VEC || x->kind == OPND_MASK ||
			 (x->kind == OPND_GPR && stays_guest_reg(x->reg))) &&
			x->reg != y->reg)
			return "register";
		if (x->kind == OPND_IMM && a->imm != b->imm)
			return "immediate";
	}
	if (a->mem && a->base < 16 && a->disp != b->disp)
		return "displacement";
	return NULL;
}

static bool is_handlers(const struct x86_insn *i) {
	return (i->mem && i->evex & 7) || x86_forms[i->form].attr & X86_ATTR_VSIB ||
		   soft_handlers[i->op] || (i->mem && i->seg_prefix < SEG_FS) ||
		   (i->mem && i->addrsize != 8);
}

/* The copy in the block; NULL: none. */
static const struct x86_insn *find(const struct jit_block *b, unsigned form) {
	static struct x86_insn i;
	for (uint32_t at = 0; at < b->hot_len; at += i.len) {
		if (x86_decode(&i, b->hot + at, b->hot_len - at, X86_MODE_64) <= 0)
			return NULL;
		if (i.form == form)
			return &i;
	}
	return NULL;
}

int main(int argc, char **argv) {
	unsigned long count = 40000, failed = 0, copied = 0, handled = 0, forms = 0;
	static bool seen[X86_FORM_COUNT];
	static struct bench_vm vm;
	gen_seed = 0x9e3779b97f4a7c15ull;
	for (int n = 1; n + 1 < argc; n += 2) {
		if (!strcmp(argv[n], "--count"))
			count = strtoul(argv[n + 1], NULL, 0);
		else if (!strcmp(argv[n], "--seed"))
			gen_seed = strtoul(argv[n + 1], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
	}
	unsetenv("JOIST_SOFT_OFF");
	setenv("JOIST_SOFT_VERIFY", "1", 1);
	bench_vm_create(&vm, 1 << 20, "jit");
	bench_vm_show_avx512(&vm);
	while (copied + handled < count) {
		struct x86_insn i;
		uint8_t b[16];
		gen_avx512(b, true);
		int len = x86_decode(&i, b, 15, X86_MODE_64);
		const struct x86_form *f = &x86_forms[len > 0 ? i.form : 0];
		if (len <= 0 || f->cls != X86_CLASS_AVX512 || !(f->attr & X86_ATTR_NATIVE) ||
			!cpuid_has(vm.cpuid, f->feature))
			continue;
		bool hot = gen_below(2);
		memset(vm.ram, 0xf4, PAGE_SIZE);
		memcpy(vm.ram + AT, b, (size_t)len);
		struct jit_block *block =
			jit_translate(vm.cpu->engine, vm.ram + AT, NULL, 0x401000 + AT,
						  JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX | JIT_KEY_AVX512, hot);
		if (!block) {
			printf("Bail out! no block\n");
			return 1;
		}
		const struct x86_insn *copy = find(block, i.form);
		const char *why = NULL;
		if (is_handlers(&i))
			why = copy ? "emitted" : NULL;
		else
			why = copy ? differs(&i, copy) : "not emitted";
		*(copy ? &copied : &handled) += 1;
		forms += copy && !seen[i.form];
		seen[i.form] |= copy != NULL;
		if (!why || failed++ > 20)
			continue;
		char text[96];
		x86_format(text, sizeof(text), &i, 0x401000 + AT);
		printf("# %s: %s", why, text);
		if (copy)
			x86_format(text, sizeof(text), copy, 0);
		printf(" | %s\n", copy ? text : "");
	}
	printf("# %lu copied of %lu forms, %lu left to handlers\n", copied, forms, handled);
	printf("1..1\n%s 1 - copies of AVX-512 (%lu of %lu differ)\n", failed ? "not ok" : "ok", failed,
		   copied + handled);
	bench_vm_destroy(&vm);
	return failed != 0;
}
