/* What the code verifier's files share; private to them. What is proved, and how, says verify.c.
 *
 *   verify_value.c  what is known of a value
 *   verify_word.c   the engine's words that code may name
 *   verify_mem.c    memory operands: what checks look like, and what one allows
 *   verify_insn.c   instructions that are no jumps: which are allowed, what they change
 *   verify_jump.c   jumps, calls and returns: where they may go, with what
 *   verify_flow.c   places that are jumped to: what still holds there
 *   verify.c        all of it together
 *
 * Nothing of the emitter's is included here but jit.h, which has what both must agree on. Functions
 * that return bool say whether the block may still be good: false comes with v->why, unless it says
 * something else. jit->lock is held throughout. */
#ifndef ENGINE_SOFT_VERIFY_INT_H
#define ENGINE_SOFT_VERIFY_INT_H

#include "engine/soft/jit.h"

#define AREA ((sizeof(struct vcpu) + 63) & ~(size_t)63)
#define STATE(f) ((uint32_t)offsetof(struct vcpu, state.f))
#define JIT(f) ((uint32_t)(AREA + offsetof(struct soft_vcpu, jit.f)))

#define SCRATCH 11 /* R11, in which thunks get what they need */
#define MAX_BYTES 16384
#define MAX_ATOMS 8192
#define TERMS 5
#define PASSED 128
#define MAX_PARTS 64
#define WORDS 61

/* ---- values ------------------------------------------------------------------------------ */

/* The sum of coef[] times unknowns, and c, modulo 2^64. */

struct lin {
	uint8_t n;
	uint16_t atom[TERMS];
	uint64_t coef[TERMS];
	uint64_t c;
};

struct val {
	struct lin lin;
	bool bits; /* also: (of >> shift) & mask; shift < 0: to the left */
	int shift;
	uint64_t mask;
	struct lin of;
};

/* A place in the TLB, and which bytes around Y it stands for once its tag has matched. */
struct probe {
	bool on, write;
	struct val index;
	int64_t lo, hi;
};

/* An unknown, and what it was loaded from or is made of. */
struct atom {
	bool addend, write;
	bool lo_of;	  /* loaded from slot's lo */
	bool of_slot; /* the slot's addend: y is any address that passed its check */
	bool part;	  /* is (of >> shift) & mask, for which there is no other atom */
	int shift;
	uint64_t mask;
	struct lin of;
	uint32_t slot;
	struct lin y;
	int64_t lo, hi;
};

/* A slot whose check has passed for the bytes from x on. */
struct passed {
	uint32_t slot;
	struct lin x;
	unsigned reg;	   /* that was compared ... */
	struct lin dist;   /* ... and held this, x - lo */
	bool intact;	   /* ... and still does at the branch */
	const uint8_t *pc; /* of the branch that was not taken */
};

/* ---- the block --------------------------------------------------------------------------- */

/* Its code lies in two pieces: what mostly runs, and what is out of line. */
struct region {
	const uint8_t *at; /* writable address */
	size_t len;
	uint8_t marks[MAX_BYTES];
	/* Of a label: the first and the end of the last jump to it from its own region. */
	uint16_t from[MAX_BYTES], to[MAX_BYTES];
	uint8_t sources[MAX_BYTES];	 /* how many jumps go there, up to 2 */
	uint16_t returns[MAX_BYTES]; /* with MARK_RETURN: where the other region jumps back here */
};
#define MARK_START 1u
#define MARK_LABEL 2u
#define MARK_OUTER 4u  /* jumped to from elsewhere, too */
#define MARK_RETURN 8u /* a missed slot's code comes back to behind the check (missed_slot()) */
#define MARK_FALLS 16u /* the instruction before it goes on here */

/* ---- what is known at one place ------------------------------------------------------------ */

enum pending { PENDING_NONE, PENDING_TLB, PENDING_SLOT };

struct verifier {
	const struct jit *j;
	const struct jit_block *b;
	struct region region[2];
	unsigned natoms;
	struct atom atoms[MAX_ATOMS];
	unsigned nparts;
	uint16_t parts[MAX_PARTS];

	struct val reg[16], word[WORDS], blank[16];
	bool blank_made;
	bool word_known[WORDS];
	enum pending pending; /* what the flags say */
	struct probe compared;
	struct probe hit;
	struct passed slot_compared, passed[PASSED];
	unsigned npassed;
	struct {
		bool on;
		struct lin now;
		struct val before;
	} swapped[4]; /* RAX..RBX with their low bytes exchanged: doing it again undoes it */

	const uint8_t *pc; /* writable address of the instruction, and of the next one */
	struct x86_insn insn;
	const char *why;
};

/* Once per block: remembers the first reason. Always false. */
bool verify_refuse(struct verifier *v, const char *why);

static inline bool insn_is_relative(const struct x86_insn *i) {
	return i->nopnds && i->opnd[0].kind == OPND_REL;
}

static inline bool insn_is_branch(const struct x86_insn *i) {
	return i->op == X86_OP_JMP || i->op == X86_OP_CALL || i->op == X86_OP_JCC ||
		   i->op == X86_OP_JCXZ || i->op == X86_OP_RET;
}

/* ---- verify_value.c ---------------------------------------------------------------------- */

static inline struct lin lin_constant(uint64_t c) {
	return (struct lin){.c = c};
}

static inline struct val val_of(struct lin l) {
	return (struct val){.lin = l};
}

/* A new unknown. */
struct lin verify_lin_fresh(struct verifier *v);
/* The same as the result of an instruction with that operand size in bytes. */
struct val verify_val_fresh(struct verifier *v, unsigned size);
/* x + k * y; too many terms: an unknown. */
struct lin verify_lin_add(struct verifier *v, const struct lin *x, const struct lin *y, uint64_t k);
/* Whether x - y is a constant, which goes to *d. */
bool verify_lin_diff(struct verifier *v, const struct lin *x, const struct lin *y, uint64_t *d);
/* The low bits that are 0 whatever the unknowns are, as a mask. */
uint64_t verify_lin_zeros(const struct lin *x);
bool verify_val_same(struct verifier *v, const struct val *x, const struct val *y);
/* x as some bits of an expression: all of its own, if nothing else is known. */
struct val verify_val_bits(const struct val *x);
/* x & mask */
struct val verify_val_mask(struct verifier *v, const struct val *x, uint64_t mask);
/* All registers, words and flags become unknown. */
void verify_forget(struct verifier *v);

/* ---- verify_word.c ----------------------------------------------------------------------- */

/* The word that a GS-relative operand lies in, or -1. */
int verify_word_of(const struct x86_insn *i, unsigned size, unsigned access);
/* An instruction with such an operand m: allowed, and what it changes. */
bool verify_word_access(struct verifier *v, const struct x86_opnd *m);

/* ---- verify_mem.c ------------------------------------------------------------------------ */

/* Of the memory operand, without its segment. */
struct lin verify_address(struct verifier *v);
/* These three: whether the instruction, with a GS-relative operand, is one of theirs (it may be
 * refused, too). A comparison with a tag; the load of an addend; what code does with a slot. */
bool verify_tlb_compare(struct verifier *v);
bool verify_tlb_addend(struct verifier *v);
bool verify_slot_operand(struct verifier *v, const struct x86_opnd *m);
/* The branch of a slot's check was not taken. */
void verify_slot_passed(struct verifier *v);
/* A check allows the memory operand, without segment, of the current instruction. */
bool verify_guest_operand(struct verifier *v, unsigned size, unsigned access);

/* ---- verify_insn.c ----------------------------------------------------------------------- */

/* The registers that an instruction changes, as a mask. */
unsigned verify_written(const struct x86_insn *i);
/* Makes them unknown. */
void verify_clobber(struct verifier *v);
/* The current instruction, which is no branch. */
bool verify_plain(struct verifier *v);

/* ---- verify_jump.c ----------------------------------------------------------------------- */

/* The current instruction, which is a branch. */
bool verify_branch(struct verifier *v);
/* The thunk for missed slots at an executable address: class << 1 | write; -1: it is none. */
int verify_slot_turn(const struct verifier *v, const uint8_t *target);
/* The region that a writable address lies in, and the offset; NULL: it is not in the block. */
struct region *verify_inside(struct verifier *v, const uint8_t *target, size_t *off);

/* ---- verify_flow.c ----------------------------------------------------------------------- */

/* Makes the instruction there the current one; its length, or <= 0 with v->why. */
int verify_fetch(struct verifier *v, const struct region *r, size_t at);
/* A place that is jumped to; `more`: MARK_*. False without v->why: it is not in the block. */
bool verify_mark_label(struct verifier *v, const uint8_t *at, unsigned more);
/* Marks what the region's jumps go to. */
bool verify_find_labels(struct verifier *v, struct region *r);
/* Once all labels are known: which returns from out of line are those of missed slots. */
void verify_check_returns(struct verifier *v);
/* At a label: forgets what need not hold there. */
void verify_arrive(struct verifier *v, const struct region *r, size_t label);

#endif
