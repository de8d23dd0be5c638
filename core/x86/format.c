/* Intel-syntax text of a decoded instruction, for traces, reports and failing tests. Meant for
 * people: string instructions and other implicit operands are shown by size suffix only.
 * Pure; called from any thread. */
#include "core/base/fmt.h"
#include "core/x86/decode_table.h"

struct text {
	char *buf;
	size_t size, len;
};

#define put(t, ...)                                                                                \
	((t)->len += fmt_text((t)->len < (t)->size ? (t)->buf + (t)->len : NULL,                       \
						  (t)->len < (t)->size ? (t)->size - (t)->len : 0, __VA_ARGS__))

static const char *const conds[16] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
									  "s", "ns", "p", "np", "l", "nl", "le", "nle"};
static const char *const segs[8] = {"es", "cs", "ss", "ds", "fs", "gs", "?", "?"};
static const char *const low_names[8] = {"a", "c", "d", "b", "sp", "bp", "si", "di"};

static void put_gpr(struct text *t, unsigned reg, unsigned size) {
	if (reg >= X86_REG_HIGH) {
		put(t, "%ch", low_names[reg & 3][0]);
		return;
	}
	if (reg >= 8) {
		put(t, "r%u%s", reg, size == 1 ? "b" : size == 2 ? "w" : size == 4 ? "d" : "");
		return;
	}
	const char *name = low_names[reg];
	if (size == 1)
		put(t, "%sl", name);
	else
		put(t, "%s%s%s", size == 8 ? "r" : size == 4 ? "e" : "", name, reg < 4 ? "x" : "");
}

static void put_vec(struct text *t, unsigned reg, unsigned size) {
	put(t, "%cmm%u", size == 64 ? 'z' : size == 32 ? 'y' : 'x', reg);
}

static void put_signed(struct text *t, int64_t val, bool plus) {
	if (val < 0)
		put(t, "-0x%llx", 0 - (unsigned long long)val);
	else
		put(t, "%s0x%llx", plus ? "+" : "", (unsigned long long)val);
}

static const char *ptr_name(unsigned size) {
	switch (size) {
	case 1:
		return "byte ptr ";
	case 2:
		return "word ptr ";
	case 4:
		return "dword ptr ";
	case 6:
		return "fword ptr ";
	case 8:
		return "qword ptr ";
	case 10:
		return "tbyte ptr ";
	case 16:
		return "xmmword ptr ";
	case 32:
		return "ymmword ptr ";
	case 64:
		return "zmmword ptr ";
	default:
		return "";
	}
}

static void put_mem(struct text *t, const struct x86_insn *i, const struct x86_opnd *op,
					uint64_t rip) {
	bool some = false;
	put(t, "%s", ptr_name(op->size));
	if (i->seg_prefix != X86_REG_NONE)
		put(t, "%s:", segs[i->seg & 7]);
	put(t, "[");
	if (i->base == X86_REG_RIP) {
		uint64_t at = rip + i->len + (uint64_t)i->disp;
		put(t, "0x%llx]", (unsigned long long)(i->addrsize == 4 ? (uint32_t)at : at));
		return;
	}
	if (i->base != X86_REG_NONE) {
		put_gpr(t, i->base, i->addrsize);
		some = true;
	}
	if (i->index != X86_REG_NONE) {
		if (some)
			put(t, "+");
		if (op->reg) /* VSIB */
			put_vec(t, i->index, op->reg);
		else
			put_gpr(t, i->index, i->addrsize);
		if (i->scale)
			put(t, "*%u", 1u << i->scale);
		some = true;
	}
	if (some) {
		if (i->disp)
			put_signed(t, i->disp, true);
	} else {
		uint64_t at = (uint64_t)i->disp;
		put(t, "0x%llx",
			(unsigned long long)(i->addrsize == 2	? (uint16_t)at
								 : i->addrsize == 4 ? (uint32_t)at
													: at));
	}
	put(t, "]");
}

static uint64_t low_bytes(uint64_t val, unsigned size) {
	return size >= 8 || !size ? val : val & ((1ull << size * 8) - 1);
}

static void put_operand(struct text *t, const struct x86_insn *i, const struct x86_opnd *op,
						uint64_t rip) {
	switch (op->kind) {
	case OPND_GPR:
		put_gpr(t, op->reg, op->size);
		break;
	case OPND_MEM:
		put_mem(t, i, op, rip);
		break;
	case OPND_IMM:
		put(t, "0x%llx", (unsigned long long)low_bytes(i->imm, op->size));
		break;
	case OPND_IMM2:
		put(t, "0x%x", i->imm2);
		break;
	case OPND_REL:
		put(t, "0x%llx", (unsigned long long)low_bytes(rip + i->len + i->imm, i->opsize));
		break;
	case OPND_FAR:
		put(t, "0x%x:0x%llx", i->imm2, (unsigned long long)i->imm);
		break;
	case OPND_SEG:
		put(t, "%s", segs[op->reg & 7]);
		break;
	case OPND_CR:
		put(t, "cr%u", op->reg);
		break;
	case OPND_DR:
		put(t, "dr%u", op->reg);
		break;
	case OPND_ST:
		put(t, "st(%u)", op->reg);
		break;
	case OPND_MMX:
		put(t, "mm%u", op->reg);
		break;
	case OPND_VEC:
		put_vec(t, op->reg, op->size);
		break;
	case OPND_MASK:
		put(t, "k%u", op->reg);
		break;
	case OPND_ONE:
		put(t, "1");
		break;
	}
}

static void put_mnemonic(struct text *t, const struct x86_insn *i) {
	const struct x86_form *f = &x86_forms[i->form];
	if (i->prefix & X86_PFX_LOCK)
		put(t, "lock ");
	if (f->attr & X86_ATTR_REP && i->prefix & (X86_PFX_REP | X86_PFX_REPNE))
		put(t, i->prefix & X86_PFX_REP ? "rep " : "repne ");
	if (x86_decs[i->form].flags & DEC_COND) {
		/* jcc, setcc, cmovcc */
		size_t stem = 0;
		while (f->mnemonic[stem + 2])
			stem++;
		for (size_t n = 0; n < stem; n++)
			put(t, "%c", f->mnemonic[n]);
		put(t, "%s", conds[i->cond & 15]);
		return;
	}
	switch (i->op) {
	case X86_OP_CBW:
		put(t, i->opsize == 2 ? "cbw" : i->opsize == 4 ? "cwde" : "cdqe");
		return;
	case X86_OP_CWD:
		put(t, i->opsize == 2 ? "cwd" : i->opsize == 4 ? "cdq" : "cqo");
		return;
	case X86_OP_JCXZ:
		put(t, "j%scxz", i->addrsize == 8 ? "r" : i->addrsize == 4 ? "e" : "");
		return;
	}
	put(t, "%s", f->mnemonic);
	if (f->cls == X86_CLASS_STRING || f->attr & X86_ATTR_REP)
		put(t, "%c", i->opsize == 1 ? 'b' : i->opsize == 2 ? 'w' : i->opsize == 4 ? 'd' : 'q');
}

size_t x86_format(char *buf, size_t size, const struct x86_insn *i, uint64_t rip) {
	struct text t = {buf, size, 0};
	if (size)
		buf[0] = '\0';
	put_mnemonic(&t, i);
	for (unsigned n = 0; n < i->nopnds; n++) {
		put(&t, n ? ", " : " ");
		put_operand(&t, i, &i->opnd[n], rip);
		if (n == 0 && i->evex & 7)
			put(&t, "{k%u}%s", i->evex & 7, i->evex & 8 ? "{z}" : "");
		if (i->opnd[n].kind == OPND_MEM && i->evex & 0x10)
			put(&t, "{b}");
	}
	return t.len;
}
