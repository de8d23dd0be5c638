/* What translated code reaches of each vCPU, at fixed distances from GS. Part of struct
 * soft_vcpu; see jit.h. */
#ifndef ENGINE_SOFT_JIT_VCPU_H
#define ENGINE_SOFT_JIT_VCPU_H

#include "core/base/types.h"
#include "core/x86/insn.h"

#define JIT_TLB 4096
#define JIT_JUMPS 8192
#define JIT_TARGETS 4096
#define JIT_FAR 16384
#define JIT_TOUCHED 4096
#define JIT_PAGE_BITS 17

/* Probed by emitted code: `tag` is the page's guest address, or no page's; host address = guest
 * address + addend. */
struct jit_tlb_entry {
	uint64_t tag, addend;
};

/* Guest addresses [lo, lo + lim) begin operands of the slot's size that lie in host memory at
 * address + addend; see slots.c. */
struct jit_slot {
	uint64_t lo, lim, addend;
	uint64_t lo2, lim2, addend2; /* another run, which takes turns with the first */
	uint64_t filled;			 /* when, by the TSC */
	int32_t credit;				 /* misses until C is asked again */
	uint16_t patience;
	uint8_t denied; /* times that its page could be read only */
	uint8_t listed; /* in slot_list: SLOT_LOCAL or SLOT_GLOBAL, which tells of its pages */
};
#define SLOT_LOCAL 1
#define SLOT_GLOBAL 2
#define JIT_SLOTS 256
#define JIT_SLOT_CLASSES 3
#define JIT_HELD 16

/* Jump targets that hold for the current mode and mappings. Code goes straight to jumps[hash] and
 * compares there (entry_checked); what is not it goes to the thunk `miss`, which looks into
 * `targets`, hashed in another way, before it asks C. */
struct jit_target {
	uint64_t rip;
	const uint8_t *entry;
};

/* Which of the entries that depend on mappings are in use, and on that of which page, so that
 * forgetting them need not look at all. More than JIT_TOUCHED: all of them may be. */
enum jit_table { JIT_TABLE_JUMPS, JIT_TABLE_TARGETS, JIT_TABLE_FAR };
struct jit_touched {
	uint32_t n;
	struct {
		uint16_t table, index;
		uint32_t page; /* the lowest bits of its number */
	} entry[JIT_TOUCHED];
};

/* Of a segment outside of 64-bit mode: so many offsets from 0 on may be read, written without
 * the interpreter's look; made by jit_legacy_key(). */
struct jit_seg {
	uint64_t reach[2];
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
#define JIT_BEHIND 64

/* Per vCPU; reached by emitted code at fixed distances from GS. */
struct jit_vcpu {
	struct jit_tlb_entry tlb[2][2][JIT_TLB]; /* [user][write] */
	const uint8_t *jumps[2][JIT_JUMPS];		 /* [user] */
	struct jit_target targets[2][JIT_TARGETS];
	bool target_global[2][JIT_TARGETS];
	const uint8_t *far[JIT_FAR]; /* a slot for each far target: its entry, or `miss` */
	struct jit_slot slots[4 * JIT_SLOT_CLASSES * JIT_SLOTS]; /* [user][write][class][n] */
	uint16_t slot_list[4 * JIT_SLOT_CLASSES * JIT_SLOTS];
	uint32_t nslots;
	uint64_t held[JIT_HELD];	 /* addends of groups that a block has probed for */
	struct jit_windows *windows; /* NULL: none yet (windows.c) */
	bool slots_bad;				 /* and the block to be translated again */
	uint64_t bad_rip;
	const uint8_t *bad_host;
	uint32_t bad_key;
	uint64_t self;					 /* the struct vcpu itself */
	uint64_t host_rsp;				 /* the C stack while emitted code runs */
	uint64_t shadow_top, shadow_rsp; /* the stack of return addresses in emitted code */
	uint64_t save_rax, save_rcx, tmp;
	uint64_t spare[2]; /* of thunks that need more (quick_string.c) */
	uint64_t flags_ax; /* arithmetic flags as LAHF and SETO have them, while not in RFLAGS */
	uint32_t poll;	   /* look at events before the next block */
	uint32_t key;	   /* mode of the code that runs */
	uint32_t keys[2];  /* [user]; modes that the tables of targets belong to */
	struct jit_seg segs[6];
	bool on;					   /* this vCPU runs translated code */
	struct jit_touched touched[2]; /* [user]; the kernel's: only in pages that are not global */
	/* Bitmaps of hashes: pages that have entries, which hold for one address space and for all.
	 * Large, as INVLPG of other pages should miss them. */
	uint64_t jump_pages[1 << (JIT_PAGE_BITS - 6)], global_pages[1 << (JIT_PAGE_BITS - 6)];
	uint32_t vain_looks;		/* for entries of a page that the bitmap has, and there were none */
	uint64_t jump_clears;		/* how often all entries went */
	void *shadow;				/* its memory, with a guard page below */
	bool fpu_known, fpu_masked; /* all x87 and SSE exceptions are masked */
	uint32_t epoch;				/* of the cache when emitted code was entered */
	struct jit_crossing crossings[JIT_CROSSINGS];
	/* An instruction may have written code of its own page: what comes behind it is executed once
	 * before it is translated, since it may be written, too. */
	bool stored;
	uint64_t behind_stores[JIT_BEHIND];
	uint32_t sample; /* the next poll tells where this vCPU spends its time; atomic */
	uint64_t enters, polls, interpreted, calls, fills, links, slot_fills, promotions,
		windows_opened;
	uint64_t direct;					/* went on from a handler to another block */
	uint64_t calls_of[2][X86_OP_COUNT]; /* handler calls: [with REP or REPNE][enum x86_op] */
};

#endif
