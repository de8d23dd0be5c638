/* The code verifier against code that is wrong in small ways: blocks are translated, taken apart
 * into instructions, changed, put together again elsewhere, and shown to the verifier. Whether a
 * mutant is dangerous is decided without it: sandbox.c runs the mutant where nothing is mapped but
 * what its checks have allowed, against thunks that give it what hurts most. What the verifier
 * accepts must never be caught there.
 *
 * What the verifier refuses is only counted: it may be careful. That the sandbox sees danger is
 * shown by how many of these it catches; each kind of mutant must be caught in both ways.
 *
 * Damage within an instruction (displacements, registers, prefixes) is test/insn/verify.c's.
 *
 * Usage: mutants [--trials N] [--every N] [--seed N] [--verbose]
 *
 * --every: only each N-th mutant of a kind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "test/insn/gen.h"
#include "test/insn/sandbox.h"

#define ITEMS 600
#define LINKS 64

/* ---- what is mutated ----------------------------------------------------------------------- */

#define CODE(...)                                                                                  \
	{                                                                                              \
		sizeof((uint8_t[]){__VA_ARGS__}), {                                                        \
			__VA_ARGS__                                                                            \
		}                                                                                          \
	}

/* 64-bit guest code whose blocks have checks of every kind. */
static const struct {
	unsigned len;
	uint8_t bytes[64];
} samples[] = {
	/* mov rax,[rbx]; mov [rbx+8],rax; add dword [rsi+rcx*4+16],5 */
	CODE(0x48, 0x8b, 0x03, 0x48, 0x89, 0x43, 0x08, 0x83, 0x44, 0x8e, 0x10, 0x05),
	/* mov rax,[rsp]; lea rsp,[rbx+8]; mov [rsp+8],rax; mov rcx,[rsp]; mov rsp,rcx; pop rdx */
	CODE(0x48, 0x8b, 0x04, 0x24, 0x48, 0x8d, 0x63, 0x08, 0x48, 0x89, 0x44, 0x24, 0x08, 0x48, 0x8b,
		 0x0c, 0x24, 0x48, 0x89, 0xcc, 0x5a),
	/* pop rax; lea rsp,[rbx]; pop rcx; lea rsp,[rsi]; pop rdx; push rdx */
	CODE(0x58, 0x48, 0x8d, 0x23, 0x59, 0x48, 0x8d, 0x26, 0x5a, 0x52),
	/* 1: mov rax,[rbx]; add [rsp+8],rax; lea rsi,[rsi+8]; mov [rsi],rax; dec rdi; jnz 1b */
	CODE(0x48, 0x8b, 0x03, 0x48, 0x01, 0x44, 0x24, 0x08, 0x48, 0x8d, 0x76, 0x08, 0x48, 0x89, 0x06,
		 0x48, 0xff, 0xcf, 0x75, 0xec),
	/* adc rax,[r10+r11*8]; mov [r14-8],r10; mov r11,[rsp] */
	CODE(0x4b, 0x13, 0x04, 0xda, 0x4d, 0x89, 0x56, 0xf8, 0x4c, 0x8b, 0x1c, 0x24),
	/* cmp rax,rbx; mov [rdi],ecx; jl +5; mov [rdi+4],edx */
	CODE(0x48, 0x39, 0xd8, 0x89, 0x0f, 0x7c, 0x05, 0x89, 0x57, 0x04),
	/* 1: lodsb; scasb; jne 2f; test al,al; jne 1b; 2: movsq; cmpsd */
	CODE(0xac, 0xae, 0x75, 0x04, 0x84, 0xc0, 0x75, 0xf8, 0x48, 0xa5, 0xa7),
	/* mov rax,fs:[rbx+8]; movzx ecx,byte gs:[rdi]; bts [rdx],rax; mov [rdx],cl */
	CODE(0x64, 0x48, 0x8b, 0x43, 0x08, 0x65, 0x0f, 0xb6, 0x0f, 0x48, 0x0f, 0xab, 0x02, 0x88, 0x0a),
	/* push rbp; mov rbp,rsp; mov [rbp-16],rdi; call +0; mov rax,[rbp-16]; leave */
	CODE(0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0x7d, 0xf0, 0xe8, 0, 0, 0, 0, 0x48, 0x8b, 0x45, 0xf0,
		 0xc9),
};

/* ---- a block, taken apart ------------------------------------------------------------------ */

struct item {
	uint8_t bytes[16];
	unsigned len;
	struct x86_insn insn;
	int to;				 /* of a branch within the block: the item that it goes to; else -1 */
	const uint8_t *out;	 /* ... out of it: the executable address; else NULL */
	int link;			 /* ... that is patched: number of its struct jit_link; else -1 */
	const uint8_t *from; /* where it was; NULL: it is new */
};

struct code {
	unsigned n, ncold; /* items; those from ncold on are out of line */
	struct item item[ITEMS];
	int entry, entry_checked, stub[LINKS];
};

static struct bench_vm vm;
static struct jit *j;
static struct jit_block *block;
static struct jit_link *links[LINKS], saved[LINKS];
static unsigned nlinks;

static int find(const struct code *c, const uint8_t *at) {
	for (unsigned n = 0; n < c->n; n++)
		if (c->item[n].from == at)
			return (int)n;
	return -1;
}

static void lift_region(struct code *c, const uint8_t *at, size_t len) {
	for (size_t off = 0; off < len; off += c->item[c->n++].len) {
		struct item *i = &c->item[c->n];
		check(c->n < ITEMS);
		*i = (struct item){.to = -1, .link = -1, .from = at + off};
		check(x86_decode(&i->insn, at + off, len - off, X86_MODE_64) > 0);
		i->len = i->insn.len;
		memcpy(i->bytes, at + off, i->len);
		for (unsigned k = 0; k < nlinks; k++)
			if (links[k]->patch == at + off + i->insn.imm_off && i->insn.imm_len == 4)
				i->link = (int)k;
	}
}

static bool is_relative(const struct item *i) {
	return i->insn.nopnds && i->insn.opnd[0].kind == OPND_REL;
}

static void lift(struct code *c) {
	nlinks = 0;
	for (struct jit_link *l = block->out; l; l = l->own_next) {
		check(nlinks < LINKS);
		saved[nlinks] = *l;
		links[nlinks++] = l;
	}
	c->n = 0;
	lift_region(c, block->hot, block->hot_len);
	c->ncold = c->n;
	lift_region(c, block->cold, block->cold_len);
	for (unsigned n = 0; n < c->n; n++) {
		struct item *i = &c->item[n];
		if (!is_relative(i))
			continue;
		const uint8_t *to = i->from + i->len + (int64_t)i->insn.imm;
		i->to = find(c, to);
		if (i->to < 0)
			i->out = to + j->exec;
	}
	c->entry = find(c, block->entry - j->exec);
	c->entry_checked = find(c, block->entry_checked - j->exec);
	for (unsigned k = 0; k < nlinks; k++)
		c->stub[k] = find(c, links[k]->stub);
}

/* Puts it together at `hot` and `cold` as block *b, with the links' own structures. false: a short
 * jump does not reach. */
static bool lower(const struct code *c, struct jit_block *b, uint8_t *hot, uint8_t *cold) {
	static uint8_t *at[ITEMS];
	uint8_t *p = hot;
	*b = *block;
	for (unsigned n = 0; n < c->n; n++) {
		const struct item *i = &c->item[n];
		if (n == c->ncold) {
			b->hot_len = (uint32_t)(p - hot);
			p = cold;
		}
		while (i->link >= 0 && ((uintptr_t)p + i->insn.imm_off) & 3)
			*p++ = 0x90;
		at[n] = p;
		memcpy(p, i->bytes, i->len);
		p += i->len;
	}
	b->hot = hot;
	b->cold = cold;
	b->cold_len = (uint32_t)(p - cold);
	b->entry = at[c->entry] + j->exec;
	b->entry_checked = at[c->entry_checked] + j->exec;
	for (unsigned n = 0; n < c->n; n++) {
		const struct item *i = &c->item[n];
		if (!is_relative(i))
			continue;
		int64_t rel = (i->to >= 0 ? at[i->to] : i->out - j->exec) - (at[n] + i->len);
		if (i->insn.imm_len == 1 && rel != (int8_t)rel)
			return false;
		memcpy(at[n] + i->insn.imm_off, &rel, i->insn.imm_len);
		if (i->link >= 0) {
			links[i->link]->patch = at[n] + i->insn.imm_off;
			links[i->link]->stub = at[c->stub[i->link]];
		}
	}
	return true;
}

static void put_links_back(void) {
	for (unsigned k = 0; k < nlinks; k++)
		*links[k] = saved[k];
}

/* ---- changing it ---------------------------------------------------------------------------- */

static void shift_references(struct code *c, unsigned from, int by) {
	for (unsigned n = 0; n < c->n; n++)
		c->item[n].to += c->item[n].to >= (int)from ? by : 0;
	c->entry += c->entry >= (int)from ? by : 0;
	c->entry_checked += c->entry_checked >= (int)from ? by : 0;
	for (unsigned k = 0; k < nlinks; k++)
		c->stub[k] += c->stub[k] >= (int)from ? by : 0;
	c->ncold = (unsigned)((int)c->ncold + (c->ncold >= from ? by : 0));
}

/* What jumped to it goes to the next one. */
static void drop(struct code *c, unsigned at) {
	shift_references(c, at + 1, -1);
	memmove(&c->item[at], &c->item[at + 1], (c->n - at - 1) * sizeof(c->item[0]));
	c->n--;
}

/* Before item `at`, out of reach of what jumps there. */
static void insert(struct code *c, unsigned at, const uint8_t *bytes, unsigned len) {
	struct item i = {.to = -1, .link = -1, .len = len};
	check(c->n < ITEMS);
	memcpy(i.bytes, bytes, len);
	check(x86_decode(&i.insn, bytes, len, X86_MODE_64) == (int)len);
	shift_references(c, at, 1);
	memmove(&c->item[at + 1], &c->item[at], (c->n - at) * sizeof(c->item[0]));
	c->n++;
	c->item[at] = i;
}

/* Labels stay where they are. */
static void swap(struct code *c, unsigned a, unsigned b) {
	struct item t = c->item[a];
	c->item[a] = c->item[b];
	c->item[b] = t;
}

/* The slot whose field the item names, as its distance from jit.slots; -1: none. */
static int64_t slot_of(const struct item *i, size_t *field) {
	uint64_t off = (uint64_t)i->insn.disp - GS_JIT(slots);
	if (i->insn.seg_prefix != SEG_GS || i->insn.disp_len != 4 || i->insn.base != X86_REG_NONE ||
		off >= sizeof(((struct jit_vcpu *)0)->slots))
		return -1;
	*field = off % sizeof(struct jit_slot);
	return (int64_t)(off - *field);
}

static void set_disp(struct item *i, uint32_t disp) {
	memcpy(i->bytes + i->insn.disp_off, &disp, 4);
	x86_decode(&i->insn, i->bytes, i->len, X86_MODE_64);
}

enum kind {
	DROP_ONE,	   /* any instruction */
	DROP_TWO,	   /* ... and the next one: a comparison with its branch */
	DROP_THREE,	   /* a slot's whole check */
	SWAP,		   /* with the next one */
	MOVE_UP,	   /* some places further up: an access before its check */
	MOVE_DOWN,	   /* ... down: a check behind its access */
	RETARGET,	   /* a branch goes to another instruction: past a check */
	CHANGE_BASE,   /* a guest register changes between check and access */
	SWAP_REGISTER, /* ... becomes another one's value */
	OTHER_SLOT,	   /* an instruction looks into another slot of the block */
	ALL_ONE_SLOT,  /* two slots become one, whose checks then refill each other's */
	OLD_ADDEND,	   /* a slot's addend is kept in a word and used later */
	OLD_INDEX,	   /* the TLB's addend is that of an earlier probe */
	TWICE,		   /* an instruction is there twice */
	KINDS
};
static const char *const kind_names[KINDS] = {
	"one instruction dropped",
	"two instructions dropped",
	"three instructions dropped",
	"two instructions swapped",
	"an instruction moved up",
	"an instruction moved down",
	"a branch to somewhere else",
	"a register changed",
	"a register replaced",
	"another slot",
	"two slots made one",
	"an addend older than the last check",
	"an addend of an earlier probe",
	"an instruction twice",
};

/* mov r10, gs:[a word], or mov to it. */
static struct item word_item(bool load) {
	struct item i = {.to = -1, .link = -1, .len = 9};
	uint32_t off = GS_JIT(held[JIT_HELD - 1]);
	memcpy(i.bytes, (const uint8_t[]){0x65, 0x4c, load ? 0x8b : 0x89, 0x14, 0x25}, 5);
	memcpy(i.bytes + 5, &off, 4);
	x86_decode(&i.insn, i.bytes, i.len, X86_MODE_64);
	return i;
}

/* What item n loads is kept, and is what item k loads, which is further on. */
static void keep_for(struct code *c, unsigned n, unsigned k) {
	struct item keep = word_item(false);
	c->item[k] = word_item(true);
	insert(c, n + 1, keep.bytes, keep.len);
}

/* There are so few that all are made, and all are tried. */
static bool is_rare(enum kind kind) {
	return kind >= OTHER_SLOT && kind <= OLD_INDEX;
}

/* What is done with slot `other` is done with `slot`. */
static void make_one(struct code *c, int64_t slot, int64_t other) {
	for (unsigned n = 0; n < c->n; n++) {
		struct item *i = &c->item[n];
		size_t field = 0;
		if (slot_of(i, &field) == other)
			set_disp(i, GS_JIT(slots) + (uint32_t)(slot + (int64_t)field));
		else if (n >= c->ncold && i->insn.op == X86_OP_MOV && (int64_t)i->insn.imm == other &&
				 i->insn.opnd[0].kind == OPND_GPR && i->insn.opnd[0].reg == R11)
			memcpy(i->bytes + i->insn.imm_off, &(uint32_t){(uint32_t)slot}, 4);
	}
}

/* Makes the k-th mutant of that kind at item n. 0: there are no more; -1: none here. */
static int mutate(struct code *c, enum kind kind, unsigned n, unsigned k) {
	struct item *i = &c->item[n];
	unsigned end = n < c->ncold ? c->ncold : c->n; /* of its part of the code */
	size_t field = 0, other_field;
	int64_t slot = slot_of(i, &field);
	switch (kind) {
	case DROP_ONE:
	case DROP_TWO:
	case DROP_THREE: {
		unsigned count = 1 + (unsigned)(kind - DROP_ONE);
		if (k || n + count >= end)
			return 0;
		while (count--)
			drop(c, n);
		return 1;
	}
	case SWAP:
		if (k || n + 2 >= end)
			return 0;
		swap(c, n, n + 1);
		return 1;
	case MOVE_UP:
		if (k >= 5 || n < k + 2 || (n >= c->ncold && n - k - 2 < c->ncold))
			return 0;
		for (unsigned m = n; m > n - k - 2; m--)
			swap(c, m, m - 1);
		return 1;
	case MOVE_DOWN:
		if (k >= 5 || n + k + 3 >= end)
			return 0;
		for (unsigned m = n; m < n + k + 2; m++)
			swap(c, m, m + 1);
		return 1;
	case RETARGET:
		if (k >= c->n || !is_relative(i) || i->insn.op == X86_OP_CALL || i->link >= 0)
			return 0;
		if (i->to == (int)k || (k + 24 < n && (int)k + 24 < i->to) || k > n + 24)
			return -1;
		i->to = (int)k;
		i->out = NULL;
		return 1;
	case CHANGE_BASE: {
		static const uint8_t adds[][4] = {
			{0x48, 0x8d, 0x5b, 0x40}, {0x48, 0x8d, 0x76, 0x40}, {0x48, 0x8d, 0x7f, 0x40},
			{0x4d, 0x8d, 0x76, 0x40}, {0x4d, 0x8d, 0x52, 0x40}, {0x48, 0x8d, 0x49, 0x40},
		}; /* lea reg,[reg+64] of RBX, RSI, RDI, R14 (RSP), R10, RCX */
		if (k >= ARRAY_LEN(adds))
			return 0;
		insert(c, n, adds[k], 4);
		return 1;
	}
	case SWAP_REGISTER: {
		static const uint8_t moves[][3] = {
			{0x48, 0x89, 0xcb}, {0x48, 0x89, 0xde}, {0x48, 0x89, 0xdf},
			{0x49, 0x89, 0xde}, {0x49, 0x89, 0xda}, {0x49, 0x89, 0xdb},
		}; /* mov RBX,RCX; RSI, RDI, R14, R10, R11 = RBX */
		if (k >= ARRAY_LEN(moves))
			return 0;
		insert(c, n, moves[k], 3);
		return 1;
	}
	case OTHER_SLOT:
		if (k >= c->n || slot < 0)
			return 0;
		if (slot_of(&c->item[k], &other_field) < 0 || slot_of(&c->item[k], &other_field) == slot)
			return -1;
		set_disp(i,
				 GS_JIT(slots) + (uint32_t)(slot_of(&c->item[k], &other_field) + (int64_t)field));
		return 1;
	case ALL_ONE_SLOT: {
		if (k >= c->n || slot < 0 || n >= c->ncold)
			return 0;
		int64_t other = slot_of(&c->item[k], &other_field);
		if (k <= n || other < 0 || other == slot)
			return -1;
		make_one(c, slot, other);
		return 1;
	}
	case OLD_ADDEND: {
		if (k >= c->ncold || slot < 0 || field != offsetof(struct jit_slot, addend))
			return 0;
		int64_t other = slot_of(&c->item[k], &other_field);
		if (k <= n || other < 0 || other_field != field)
			return -1;
		if (other != slot) /* a check of it comes between them, and may fill it anew */
			make_one(c, slot, other);
		keep_for(c, n, k);
		return 1;
	}
	case OLD_INDEX: { /* the loads of addends from the TLB */
		const struct item *o = &c->item[k];
		if (k >= c->ncold || i->insn.op != X86_OP_MOV || i->insn.seg_prefix != SEG_GS ||
			i->insn.base != R11)
			return 0;
		if (k <= n || o->insn.op != X86_OP_MOV || o->insn.seg_prefix != SEG_GS ||
			o->insn.base != R11)
			return -1;
		keep_for(c, n, k);
		return 1;
	}
	case TWICE:
		if (k || is_relative(i))
			return 0;
		insert(c, n, i->bytes, i->len);
		return 1;
	default:
		return 0;
	}
}

/* ---- judging --------------------------------------------------------------------------------- */

static struct {
	unsigned long found, made, refused, refused_caught, tried, harmless, holes;
} counts[KINDS];
static unsigned trials = 12, every = 1;
static bool verbose;
static unsigned sample;

static void print_code(const struct code *c) {
	char text[96];
	for (unsigned n = 0; n < c->n; n++) {
		struct x86_insn i;
		if (x86_decode(&i, c->item[n].bytes, c->item[n].len, X86_MODE_64) > 0)
			x86_format(text, sizeof(text), &i, 0);
		printf("#  %3u%s %s", n, n == c->ncold ? " cold" : "", text);
		printf(c->item[n].to >= 0 ? " -> %d\n" : "\n", c->item[n].to);
	}
}

static void judge(const struct code *c, enum kind kind, unsigned n, unsigned k, uint8_t *hot,
				  uint8_t *cold) {
	struct jit_block b;
	const char *danger = NULL;
	if (!lower(c, &b, hot, cold)) {
		put_links_back();
		return;
	}
	const char *why = jit_verify(j, &b);
	bool try = counts[kind].made++ % 8 == 0 || is_rare(kind) || !counts[kind].refused_caught;
	counts[kind].refused += why != NULL;
	/* Of what is refused, some; and all until the sandbox has caught one of that kind, which a run
	 * from random states does not always. */
	if (!why || try)
		danger = sandbox_run(j, &b, trials);
	if (why && try) {
		counts[kind].tried++;
		counts[kind].refused_caught += danger != NULL;
	}
	if (!why && danger) {
		if (counts[kind].holes++ < 2) {
			printf("# sample %u: %s at %u (%u): accepted, but: %s\n", sample, kind_names[kind], n,
				   k, danger);
			print_code(c);
		}
	} else if (!why) {
		counts[kind].harmless++;
		if (verbose)
			printf("# sample %u: %s at %u (%u): accepted, harmless\n", sample, kind_names[kind], n,
				   k);
	}
	put_links_back();
}

static void mutate_block(void) {
	static struct code whole, c;
	struct jit_block b;
	uint8_t *hot = (uint8_t *)align_up((uintptr_t)j->hot + PAGE_SIZE, PAGE_SIZE);
	uint8_t *cold = (uint8_t *)align_up((uintptr_t)j->cold + PAGE_SIZE, PAGE_SIZE);
	lift(&whole);
	lower(&whole, &b, hot, cold);
	const char *why = jit_verify(j, &b), *danger = sandbox_run(j, &b, 10 * trials);
	put_links_back();
	if (why || danger) {
		printf("Bail out! sample %u as it is: %s; %s\n", sample, why ? why : "accepted",
			   danger ? danger : "harmless");
		exit(1);
	}
	for (enum kind kind = 0; kind < KINDS; kind++)
		for (unsigned n = 0; n < whole.n; n++)
			for (unsigned k = 0;; k++) {
				c = whole;
				int r = mutate(&c, kind, n, k);
				if (!r)
					break;
				if (r > 0 && (counts[kind].found++ % every == 0 || is_rare(kind)))
					judge(&c, kind, n, k, hot, cold);
			}
}

int main(int argc, char **argv) {
	unsigned bad = 0;
	gen_seed = 0x9e3779b97f4a7c15ull;
	for (int n = 1; n < argc; n++) {
		if (n + 1 < argc && !strcmp(argv[n], "--trials"))
			trials = (unsigned)strtoul(argv[++n], NULL, 0);
		else if (n + 1 < argc && !strcmp(argv[n], "--every"))
			every = (unsigned)strtoul(argv[++n], NULL, 0);
		else if (n + 1 < argc && !strcmp(argv[n], "--seed"))
			gen_seed = strtoull(argv[++n], NULL, 0) | 1;
		else if (!strcmp(argv[n], "--verbose"))
			verbose = true;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	setenv("JOIST_SOFT_VERIFY", "1", 1);
	bench_vm_create(&vm, 1 << 20, "jit");
	sandbox_create();
	struct soft_vcpu *c = vm.cpu->engine;
	j = c->soft->jit;
	for (sample = 0; sample < ARRAY_LEN(samples); sample++)
		for (unsigned hot = 0; hot < 2; hot++) {
			memset(vm.ram, 0x90, 4096);
			memcpy(vm.ram + 0x100, samples[sample].bytes, samples[sample].len);
			memset(vm.ram + 0x100 + samples[sample].len, 0xf4, 16);
			block = jit_translate(c, vm.ram + 0x100, NULL, 0x7f0012345100, 0, hot);
			if (!block) {
				printf("Bail out! no block of sample %u\n", sample);
				return 1;
			}
			mutate_block();
		}
	printf("1..%d\n", KINDS);
	for (enum kind k = 0; k < KINDS; k++) {
		bool ok = !counts[k].holes && counts[k].refused && counts[k].refused_caught;
		printf("%s %u - %s: %lu mutants, %lu refused (%lu of %lu caught in the sandbox), %lu "
			   "harmless, %lu holes\n",
			   ok ? "ok" : "not ok", k + 1u, kind_names[k], counts[k].made, counts[k].refused,
			   counts[k].refused_caught, counts[k].tried, counts[k].harmless, counts[k].holes);
		bad += !ok;
	}
	sandbox_destroy();
	bench_vm_destroy(&vm);
	return bad != 0;
}
