/* What translated code reaches of each vCPU, at fixed distances from GS. Part of struct
 * soft_vcpu; see jit.h. */
#ifndef ENGINE_SOFT_JIT_VCPU_H
#define ENGINE_SOFT_JIT_VCPU_H

#include "core/base/types.h"
#include "core/x86/insn.h"

#define JIT_TLB 1024
#define JIT_JUMPS 4096

/* Probed by emitted code: `tag` is the page's guest address, or no page's; host address = guest
 * address + addend. */
struct jit_tlb_entry {
	uint64_t tag, addend;
};

/* Where an indirect branch finds its target: valid for the current mode and mappings. */
struct jit_jump {
	uint64_t rip;
	const uint8_t *entry; /* the entry that takes flags from jit.flags_ax */
};

struct soft_vcpu;

/* A decoded instruction that lies in two pages; valid while memory still holds insn.raw, so that
 * nothing has to be told of changes. */
struct jit_crossing {
	uint64_t rip;
	void (*handler)(struct soft_vcpu *c, const struct x86_insn *i);
	struct x86_insn insn;
};
#define JIT_CROSSINGS 64

/* Per vCPU; reached by emitted code at fixed distances from GS. */
struct jit_vcpu {
	struct jit_tlb_entry tlb[2][2][JIT_TLB]; /* [user][write] */
	struct jit_jump jumps[2][JIT_JUMPS];	 /* [user] */
	uint64_t self;							 /* the struct vcpu itself */
	uint64_t host_rsp;						 /* the C stack while emitted code runs */
	uint64_t save_rax, tmp;
	uint64_t flags_ax;	/* arithmetic flags as LAHF and SETO have them, while not in RFLAGS */
	uint32_t poll;		/* look at events before the next block */
	uint32_t key;		/* mode that `jumps` belong to */
	bool on;			/* this vCPU runs translated code */
	bool local_jumps;	/* jumps[0] has targets in pages that are not global */
	bool jumps_used[2]; /* since they were cleared */
	uint64_t jump_pages[2][16]; /* hashed: pages that they may lead to */
	bool fpu_known, fpu_masked; /* all x87 and SSE exceptions are masked */
	uint32_t epoch;				/* of the cache when emitted code was entered */
	struct jit_crossing crossings[JIT_CROSSINGS];
	uint64_t enters, polls, interpreted, calls, fills, links;
	uint64_t direct;				 /* went on from a handler to another block */
	uint64_t calls_of[X86_OP_COUNT]; /* handler calls by enum x86_op */
};

#endif
