/* What the translator's files share while one block is made; private to them.
 *
 *   judge.c      which instructions run as themselves; which flags are needed where
 *   tx_mem.c     flags put aside, access checks, what is out of line
 *   tx_copy.c    an instruction with its registers renamed
 *   tx_flow.c    calls of handlers, branches, the ways in and out
 *   tx_hot.c     the second tier: accesses in groups, checked once against a slot
 *   tx_string.c  string instructions that do not repeat
 *   tx_self.c    the check of a block that checks itself
 *   tx_legacy.c  what is different outside of 64-bit mode
 *   translate.c  all of it together
 *
 * jit->lock is held throughout, on the vCPU's thread, FPU unloaded. */
#ifndef ENGINE_SOFT_TX_H
#define ENGINE_SOFT_TX_H

#include "core/base/check.h"
#include "core/base/string.h"
#include "core/x86/decode_table.h"
#include "engine/soft/emit.h"
#include "engine/soft/fast.h"

#define TX_INSNS 64
#define TX_INSNS_PLAIN 32 /* of the first tier */
#define TX_COLD (5 * TX_INSNS + 8)
#define TX_GROUPS 64
#define TX_REGS 18 /* the sixteen, and the bases of FS and GS */

enum tx_cold_kind {
	COLD_PROBE, /* fill the TLB for an instruction's memory operand and try again */
	COLD_STACK, /* the same for [stack_reg + stack_disp] */
	COLD_TMP,	/* the same for the address in jit.tmp */
	COLD_INTERP,
	COLD_POLL,
	COLD_POLL_RCX, /* with guest RCX in T0 */
	COLD_LINK,	   /* a jump within the page that is not linked yet */
	COLD_FAR,	   /* a conditional jump to another page */
	COLD_CALL,	   /* a thunk could not do it: call the handler and come back */
	COLD_PLAIN,	   /* a group's probe failed: go on in the first tier */
	COLD_SLOT	   /* a group's check failed: maybe fill the slot, go on in the first tier */
};

/* What waits to be emitted out of line. */
struct tx_cold {
	uint8_t *from;		  /* the rel32 that leads here */
	const uint8_t *retry; /* where the probe begins */
	const uint8_t *done;  /* behind the instruction, for who has executed it elsewhere; or NULL */
	uint64_t rip;
	union {
		const struct x86_insn *insn;  /* COLD_PROBE */
		struct jit_link *link;		  /* COLD_LINK */
		const struct jit_op *op;	  /* COLD_CALL */
		const struct tx_group *group; /* COLD_SLOT */
	};
	int32_t stack_disp;
	uint8_t kind; /* enum tx_cold_kind */
	uint8_t size, stack_reg;
	bool write;
	bool saved; /* guest flags are in jit.flags_ax, and needed; COLD_PROBE: also at `done` */
	bool save;	/* COLD_CALL: and the handler's are to be there */
};

/* Accesses at constant distances from one address, for which one check is enough. The address is
 * a sum of registers as they were at one place; `ver` names register values (tx_hot.c). */
struct tx_group {
	unsigned base, index, scale, seg; /* registers, or NOREG */
	uint32_t base_ver, index_ver, seg_ver;
	int64_t min, max; /* bytes [min, max) from it */
	bool write;
	bool exact; /* legacy: the address wraps around, so only accesses that begin at min belong here
				 */
	unsigned first;	   /* instruction that needs it */
	unsigned check_at; /* where it is checked: there, or earlier where no flags are needed */
	unsigned naccesses;
	bool late;		/* not to be checked before the instruction that needs it */
	bool outside;	/* check_at is a loop's head, and the check stands before the loop */
	bool probe;		/* slots do no good here: each time by the TLB */
	bool shared;	/* its slot is another group's, too */
	int held;		/* ... whose addend is kept in jit.held[], or -1: it is used at once */
	uint32_t slot;	/* distance of its struct jit_slot from jit.slots */
	unsigned class; /* of slots: of the size that it checks, at least max - min */
};

struct tx {
	struct emit e; /* hot */
	struct jit *j;
	struct soft_vcpu *c;
	struct jit_block *b;
	uint32_t key;
	const uint8_t *code; /* the block's first byte, in RAM or in a copy */
	unsigned n;
	struct x86_insn insn[TX_INSNS];
	uint64_t rip[TX_INSNS + 1]; /* of each; the last one: behind the block */
	struct jit_fact fact[TX_INSNS];
	bool hot;					 /* second tier: branches within, groups */
	bool label[TX_INSNS];		 /* a branch of this block goes there, backwards */
	bool follow[TX_INSNS];		 /* a JMP to the next instruction of the block */
	int16_t target[TX_INSNS];	 /* of a branch: the instruction of this block, or -1 */
	uint16_t needed[TX_INSNS];	 /* flags that are needed where a branch goes */
	const uint8_t *at[TX_INSNS]; /* the label's code */
	unsigned ngroups;
	struct tx_group group[TX_GROUPS];
	/* Of the memory operand (a string instruction's source) and of the stack access (its
	 * destination); or -1. */
	int8_t groups_of[TX_INSNS][2];
	uint32_t ver[TX_INSNS + 1][TX_REGS];
	int32_t delta[TX_INSNS + 1][TX_REGS];
	uint16_t live[TX_INSNS + 1]; /* arithmetic flags that are needed before it */
	/* Where the guest's flags are between two instructions: in the host's, or (those of the
	 * host being spoilt by a probe) in jit.flags_ax until somebody wants them. */
	bool saved;
	bool crossing; /* the block's one instruction reaches into the next page */
	bool loose;	   /* a self-checking block that loads its immediates */
	/* What the scratch registers hold on the straight way, so that it need not be loaded again. */
	int kept;		   /* T0: the addend of that group; or -1 */
	unsigned kept_reg; /* T1: that resident register; or NOREG */
	bool lend;		   /* an address may be made of T1, which stays until the access */
	bool failed;	   /* no room */
	bool again;		   /* an instruction turned out to need its handler */
	unsigned ncold;
	struct tx_cold cold[TX_COLD];
	struct emit_fixups fixups; /* of a block that may be copied */
};

enum tx_emitted { EMIT_OK, EMIT_END, EMIT_CALL };

/* ---- guest addresses: jit addresses (legacy.c) ---- */

static inline bool tx_legacy(const struct tx *t) {
	return t->key & JIT_KEY_LEGACY;
}

static inline enum x86_mode tx_mode(const struct tx *t) {
	return t->key & JIT_KEY_32 ? X86_MODE_32 : t->key & JIT_KEY_16 ? X86_MODE_16 : X86_MODE_64;
}

/* What the guest has as its RIP there. */
static inline uint64_t tx_rip(const struct tx *t, uint64_t address) {
	return tx_legacy(t) ? (uint32_t)address : address;
}

/* `by` bytes further on, within the instruction pointer's width. */
static inline uint64_t tx_plus(const struct tx *t, uint64_t address, uint64_t by) {
	if (!tx_legacy(t))
		return address + by;
	return (address & ~0xffffffffull) | (uint32_t)(address + by);
}

/* Where relative branch i at `address` goes. */
static inline uint64_t tx_target(const struct tx *t, const struct x86_insn *i, uint64_t address) {
	uint64_t to = tx_plus(t, address, i->len + i->imm);
	return tx_legacy(t) && i->opsize == 2 ? to & ~0xffff0000ull : to;
}

static inline bool tx_same_page(const struct tx *t, uint64_t a, uint64_t b) {
	bool legacy = tx_legacy(t);
	return ((jit_linear(legacy, a) ^ jit_linear(legacy, b)) & ~PAGE_MASK) == 0;
}

static inline unsigned tx_page_offset(const struct tx *t, uint64_t address) {
	return (unsigned)(jit_linear(tx_legacy(t), address) & PAGE_MASK);
}

static inline const uint8_t *tx_here(const struct tx *t) {
	return t->e.at + t->j->exec;
}

static inline unsigned tx_user(const struct tx *t) {
	return t->key & JIT_KEY_USER ? 1 : 0;
}

static inline bool tx_resident(unsigned reg) { /* lives in memory */
	return reg == R10 || reg == R11 || reg == R14;
}

static inline unsigned tx_host_reg(unsigned reg) {
	return reg == RSP ? H_RSP : reg;
}

/* Whoever writes T0 or T1, or calls what does, says so. */
static inline void tx_forget_scratch(struct tx *t) {
	t->kept = -1;
	t->kept_reg = NOREG;
}

/* ---- judge.c ---- */
/* As x86_decode(), for the t's mode, and what is judged of it. */
int tx_decode(struct tx *t, struct x86_insn *i, struct jit_fact *f, const uint8_t *host,
			  unsigned avail);
void tx_judge(const struct tx *t, const struct x86_insn *i, struct jit_fact *f);
/* Leaves instruction n to its handler, which may read or push any flags. */
void tx_leave_to_handler(struct tx *t, unsigned n);
/* Flags needed before an instruction if `after` are behind it. */
static inline uint16_t tx_flags_before(const struct jit_fact *f, uint16_t after) {
	return (uint16_t)((after & ~f->kills) | f->reads);
}
void tx_find_live_flags(struct tx *t);
/* Whether control never goes on behind i. */
bool tx_is_jump_away(const struct tx *t, unsigned n);

/* ---- tx_mem.c ---- */
struct tx_cold *tx_add_cold(struct tx *t);
void tx_flags_aside(struct tx *t, unsigned n);
void tx_flags_for(struct tx *t, unsigned n);
/* Before leaving to code that needs `live` in the host's flags. */
void tx_flags_back(struct tx *t, uint16_t live);
/* To jit.flags_ax; RAX survives; T1 does not. */
void tx_save_flags(struct emit *e);
/* RAX survives; T1 does not. */
void tx_restore_flags(struct emit *e);
uint64_t tx_const_ea(const struct x86_insn *i, uint64_t rip);
bool tx_is_const_ea(const struct x86_insn *i);
/* MOV of the lowest `size` bytes of it, 4 or 8. */
void tx_mov_const_ea(struct emit *e, unsigned reg, unsigned size, const struct x86_insn *i,
					 uint64_t rip);
struct emem tx_operand(struct emit *e, const struct x86_insn *i);
void tx_ea(struct emit *e, const struct x86_insn *i, uint64_t rip);
/* The whole access check of instruction n's memory operand; afterwards *m addresses it, T1 is
 * free. */
void tx_access(struct tx *t, unsigned n, struct emem *m);
/* The same for `size` bytes at [reg + disp], which needs no segment; afterwards [reg + T0 + disp].
 * `which`: of instruction n's groups. */
void tx_reg_access(struct tx *t, unsigned n, unsigned which, unsigned reg, int32_t disp,
				   unsigned size, bool write);
/* The same for 8 bytes of the stack. */
void tx_stack_access(struct tx *t, unsigned n, unsigned reg, int32_t disp, bool write);

/* With the addend of its page in T0: *m addresses instruction n's memory operand, T1 is free. */
void tx_address(struct tx *t, unsigned n, struct emem *m);
/* With the linear address in T0: #GP for an operand that must be aligned and is not. */
void tx_check_alignment(struct tx *t, unsigned n);
/* With the linear address in T0: T0 = addend of its page, or off to cold code k. Flags lost. */
void tx_probe(struct tx *t, unsigned size, bool write, struct tx_cold *k);

/* ---- tx_hot.c ---- */
/* Gives the number of instructions from the first on whose accesses all belong to a group. */
unsigned tx_find_groups(struct tx *t);
/* Those to be checked before instruction n; `outside`: before the loop that begins with it. */
void tx_check_groups(struct tx *t, unsigned n, bool outside);
/* T0 = addend for instruction n's access `which`; false: it belongs to no group. */
bool tx_group_addend(struct tx *t, unsigned n, unsigned which);
void tx_group_address(const struct tx *t, struct emit *e, const struct tx_group *g);

/* ---- tx_copy.c ---- */
/* BT and the like with a bit offset in a register, which reaches beyond the operand. */
static inline bool tx_is_bit_string(const struct x86_insn *i) {
	return (i->op == X86_OP_BT || i->op == X86_OP_BTS || i->op == X86_OP_BTR ||
			i->op == X86_OP_BTC) &&
		   i->mem && i->opnd[1].kind == OPND_GPR;
}
/* EMIT_CALL: then nothing was emitted. */
enum tx_emitted tx_native(struct tx *t, unsigned n);

/* ---- tx_string.c ---- */
/* LODS and the like that do not repeat, and that tx_string() can emit. */
bool tx_is_string(const struct tx *t, const struct x86_insn *i);
/* Whether it has an element at RSI, RDI, which is its destination; false if i is no such. */
bool tx_string_uses(const struct x86_insn *i, unsigned reg);
bool tx_string_writes(const struct x86_insn *i);
void tx_string(struct tx *t, unsigned n);

/* ---- tx_flow.c ---- */
/* movzx host, word gs:[selector] */
void tx_load_selector(struct emit *e, unsigned host, unsigned seg);
/* What a call of instruction n's handler gets; NULL: no room. */
const struct jit_op *tx_make_op(struct tx *t, unsigned n);
bool tx_emit_call(struct tx *t, unsigned n);
enum tx_emitted tx_special(struct tx *t, unsigned n);
void tx_goto(struct tx *t, uint64_t target, uint16_t live);
struct jit_link *tx_cold_link(struct tx *t, struct emit *e, uint64_t target);
void tx_poll(struct tx *t, unsigned n);
/* The way into a block whose instruction reaches into the next page: by a slot that says that this
 * page still is where it was (span.c). */
void tx_span_entry(struct tx *t);
/* Code at e that goes on at t->b->entry if T0 is the block's address, else looks T0 up. */
void tx_checked_entry(struct tx *t, struct emit *e);
void tx_far_jump(struct tx *t, struct emit *e, uint64_t target, bool call);
/* Below: a condition. ASIDE: as ALWAYS, but code of more than a jump is out of line. */
enum tx_jump { TX_JUMP_ASIDE = 16, TX_JUMP_ALWAYS, TX_JUMP_CALL };
void tx_jump_to(struct tx *t, unsigned how, uint64_t target);
/* To the address in T0, through the vCPU's table of jump targets. */
void tx_look_up(struct tx *t, bool call);
/* Goes on if T0 is `address`, else to `other`; changes no flags. Uses T1. */
void tx_expect(struct emit *e, uint64_t address, const uint8_t *other, intptr_t exec);

/* ---- tx_self.c ---- */
/* Where a self-checking block has to end: behind instruction n, which may store. */
bool tx_self_ends(const struct tx *t, unsigned n);
/* The way into such a block; sets its entry. */
void tx_self_entry(struct tx *t);
/* Whether the block loads the instruction's immediate from the code; does that. */
bool tx_self_loads(const struct tx *t, const struct x86_insn *i);
void tx_self_load(struct tx *t, unsigned n);

/* ---- tx_legacy.c: for code outside of 64-bit mode ---- */
/* Whether an instruction whose kind can run as itself is left to its handler all the same. */
bool tx_legacy_needs_call(const struct tx *t, const struct x86_insn *i);
/* As tx_access(), tx_special(); the latter for those that it knows (else EMIT_CALL + 1). */
void tx_legacy_access(struct tx *t, unsigned n, struct emem *m);
#define TX_NOT_SPECIAL ((enum tx_emitted)(EMIT_CALL + 1))
enum tx_emitted tx_legacy_special(struct tx *t, unsigned n);
/* T0 = linear address of instruction i's memory operand; of [reg + disp] on the stack. Uses T1,
 * flags are lost. */
void tx_legacy_linear(const struct tx *t, struct emit *e, const struct x86_insn *i);
void tx_legacy_stack_linear(const struct tx *t, struct emit *e, unsigned reg, int32_t disp);
/* Whether i is addressed without computing its address in 32 bits. */
bool tx_legacy_plain(const struct tx *t, const struct x86_insn *i);
/* T0 = linear address of an `exact` group with displacement d; before that, for one in a segment, a
 * check that the segment has it. */
void tx_legacy_group_address(const struct tx *t, struct emit *e, const struct tx_group *g,
							 int64_t d);
void tx_legacy_group_reach(struct tx *t, unsigned n, const struct tx_group *g, int64_t d);
/* Pushes jit.tmp. */
void tx_legacy_push_tmp(struct tx *t, unsigned n);
/* The prefix 66 for an instruction that is copied: whether it has one, if `*own` says so; else its
 * own bytes tell. */
bool tx_legacy_opsize(const struct x86_insn *i, bool *own);

#endif
