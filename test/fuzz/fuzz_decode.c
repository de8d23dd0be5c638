/* libFuzzer: the instruction decoder and the formatter on any bytes. First byte: the mode. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/decode_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void hold(int cond) {
	if (!cond)
		abort();
}

/* A field of the instruction lies behind its opcode and within it. */
static void inside(const struct x86_insn *i, unsigned off, unsigned len) {
	if (off)
		hold(off > i->opcode_off && off + len <= i->len);
}

static void examine(const struct x86_insn *i) {
	char text[160];
	hold(i->len >= 1 && i->len <= X86_MAX_LEN);
	hold(i->form > 0 && i->form < X86_FORM_COUNT && i->op == x86_forms[i->form].op);
	hold(i->opcode_off < i->len);
	inside(i, i->modrm_off, 1);
	inside(i, i->disp_off, i->disp_len);
	inside(i, i->imm_off, i->imm_len);
	hold(i->opsize == 1 || i->opsize == 2 || i->opsize == 4 || i->opsize == 8);
	hold(i->addrsize == 2 || i->addrsize == 4 || i->addrsize == 8);
	hold(i->seg < 6 && i->scale < 4 && i->vl < 3 && i->cond < 16);
	hold(i->nopnds <= X86_OPNDS);
	unsigned memories = 0;
	for (unsigned n = 0; n < i->nopnds; n++) {
		const struct x86_opnd *o = &i->opnd[n];
		unsigned regs = i->mode == X86_MODE_64 ? 16 : 8;
		hold(o->kind != OPND_NONE && o->access <= (OPND_R | OPND_W));
		memories += o->kind == OPND_MEM;
		if (o->kind == OPND_GPR)
			hold(o->reg < regs || (o->size == 1 && o->reg - X86_REG_HIGH < 4u));
		if (o->kind == OPND_VEC)
			hold(o->reg < (i->prefix & X86_PFX_EVEX ? regs * 2 : regs));
		if (o->kind == OPND_MMX || o->kind == OPND_MASK || o->kind == OPND_ST)
			hold(o->reg < 8);
		if (o->kind == OPND_SEG)
			hold(o->reg < 6);
	}
	hold(memories <= 1 && memories == (i->mem != 0));
	hold(!i->mem || (i->mem <= i->nopnds && x86_memory_operand(i)->kind == OPND_MEM));
	hold(i->base < 16 || i->base == X86_REG_RIP || i->base == X86_REG_NONE);
	hold(i->index < 32 || i->index == X86_REG_NONE);
	for (size_t size = 0; size < sizeof(text); size = size * 2 + 1) {
		memset(text, 0x7f, sizeof(text));
		size_t full = x86_format(text, size, i, 0x1000);
		hold(full < sizeof(text) && text[size] == 0x7f);
		if (size)
			hold(memchr(text, 0, size) != NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	struct x86_insn insn, again;
	if (len < 1)
		return 0;
	enum x86_mode mode = data[0] % 3;
	data++, len--;
	/* A copy of its own, so that each byte past the end is seen. */
	uint8_t *bytes = malloc(len ? len : 1);
	memcpy(bytes, data, len);
	int rc = x86_decode(&insn, bytes, len, mode);
	hold(rc >= X86_DECODE_LONG && rc <= X86_MAX_LEN);
	if (rc > 0) {
		hold((size_t)rc <= len && rc == insn.len && insn.mode == mode);
		examine(&insn);
		/* What follows does not matter, and fewer bytes do not do. */
		hold(x86_decode(&again, bytes, (size_t)rc, mode) == rc);
		hold(!memcmp(&insn, &again, sizeof(insn)));
		hold(x86_decode(&again, bytes, (size_t)rc - 1, mode) == X86_DECODE_SHORT);
	} else if (rc == X86_DECODE_SHORT) {
		hold(len < X86_MAX_LEN);
	}
	free(bytes);
	return 0;
}
