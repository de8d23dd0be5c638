/* The translator's inside ([doc] engine/soft/README.md).
 *
 * Guest code becomes host code block by block (of 16 and 32 bits: legacy.c). Host registers hold
 * the guest's of the same name, but for three: RSP is in R14, and R10, R11 and R14 live in memory;
 * host R10 and R11 are scratch, host RSP is the engine's C stack. GS points to the struct
 * vcpu, behind which the engine's own data lie, so that code is the same for every vCPU.
 * Flags and vector state are the guest's own. */
#ifndef ENGINE_SOFT_JIT_H
#define ENGINE_SOFT_JIT_H

#include "core/x86/shape.h"
#include "engine/soft/soft.h"

struct jit;
struct jit_block;
struct verifier;
struct emit_fixups;

/* One way out of a block to a known address; its jump is patched once the target exists. */
struct jit_link {
	uint64_t rip;			   /* of the target */
	const uint8_t *host;	   /* guest code of the block that it leaves */
	uint8_t *patch;			   /* the rel32, writable address; NULL: never patched */
	uint8_t *stub;			   /* where it goes when not linked */
	struct jit_block *to;	   /* linked to, or NULL */
	struct jit_link *next;	   /* others that are linked to the same block */
	struct jit_link *own_next; /* others of the same block */
	bool plain;				   /* to a block of the first tier */
	bool changed;			   /* of a self-checking block: to its next version */
};

/* A guest instruction that is executed by its interpreter handler. */
struct jit_op {
	soft_handler *handler;
	uint64_t rip;
	bool last; /* of its block */
	struct x86_insn insn;
};

/* What the translator judges of an instruction in code of one mode. */
struct jit_fact {
	uint16_t reads, kills; /* arithmetic flags: needed before it; made anew */
	int8_t quick;		   /* enum jit_quick, or -1 */
	bool call : 1;		   /* by its handler */
	bool ends : 1;		   /* the block */
	bool as_is : 1;		   /* its bytes need no change */
	bool native : 1;	   /* tx_native() is all that it takes */
	bool string : 1;	   /* tx_string() */
	bool tidy : 1;		   /* its code minds what struct tx says of T0 and T1 */
	bool bare : 1; /* no prefix but REX, of 64-bit code: REX, if it has one, is the first byte */
};

/* What was decoded and judged lately, by its shape. */
struct jit_shape {
	uint32_t key; /* of the block, and JIT_KEY_SECOND for the second tier */
	bool shifts;  /* the judgement holds for counts that are not 0 only */
	struct jit_fact fact;
	struct x86_shape shape;
};

/* What emitted code has at some place that depends on where it is, or on where the guest's code is
 * (rebase.c). */
enum jit_fix {
	FIX_REL32,	 /* a distance to code of the block, or to a thunk */
	FIX_ADDRESS, /* 8 bytes: a guest address as far from the block's as ever */
	FIX_NEGATIVE,
	FIX_OP,	  /* 8 bytes: its struct jit_op */
	FIX_LINK, /* its struct jit_link */
	FIX_FAR	  /* the slot of jit.far[] for the guest address in the instruction before */
};
struct jit_fixup {
	uint16_t at; /* from where that part of the block begins */
	uint8_t kind;
	bool cold;
};

struct jit_block {
	const uint8_t *host; /* of the guest code's first byte */
	uint64_t rip;		 /* jit address, see legacy.c */
	uint32_t key;
	uint16_t len;
	uint16_t peek_from, peek_to;  /* offsets in the page: code that it was looked into for flags */
	const uint8_t *entry;		  /* flags in the host's flags */
	const uint8_t *entry_checked; /* the same, for whoever comes with an address in R10 */
	const uint8_t *hot, *cold;	  /* its code, writable addresses */
	uint32_t hot_len, cold_len;
	struct jit_block *hash_next, *page_next;
	uint64_t page; /* guest-physical, in whose list it is */
	struct jit_link *incoming;
	struct jit_link *out; /* its own */
	/* Of an instruction that reaches into the next page (span.c), else NULL: that page in RAM. */
	const uint8_t *next_page;
	const uint8_t *span_body; /* behind the check of its mapping */
	uint32_t span_slot;		  /* of jit.far[] */
	struct jit_block *whole;  /* it is in the list of that page as a dummy: the block */
	/* What to change in a copy for another guest address; NULL: it cannot be copied. */
	const struct jit_fixup *fixups;
	uint32_t nfixups;
	/* Of a self-checking block (self.c), else NULL: the guest code that it is for; the first and
	 * the next one of its versions; the way to that. */
	const uint8_t *bytes;
	uint64_t loose; /* those of them that it loads instead of comparing */
	struct jit_block *first_version, *next_version;
	struct jit_link *changed;
	uint16_t misses; /* of the first version: times that none fitted and there were enough */
	bool second;	 /* of the second tier */
	uint8_t samples; /* how often it was found running */
};

/* Mode key bits: what a translation depends on besides bytes and address. */
#define JIT_KEY_USER 1u
#define JIT_KEY_FPU 2u /* x87, MMX and SSE can run natively */
#define JIT_KEY_AVX 4u
#define JIT_KEY_32 8u /* 32-bit code; neither this nor the next one: 64-bit code */
#define JIT_KEY_16 0x10u
#define JIT_KEY_SEGS 0x20u	  /* legacy: DS, ES and SS are not all flat */
#define JIT_KEY_STACK16 0x40u /* legacy: the stack pointer is SP */
#define JIT_KEY_CS64K 0x80u	  /* legacy: CS ends at 64 KiB, else at 4 GiB */
#define JIT_KEY_AVX512 0x100u
#define JIT_KEY_SECOND 0x200u /* never of a block's: see struct jit_shape */
#define JIT_KEY_LEGACY (JIT_KEY_32 | JIT_KEY_16)

/* A line of 64 bytes whose code was rewritten of late (self.c). */
struct jit_restless {
	const uint8_t *line; /* in RAM */
	uint64_t blocks;	 /* that were made when it was rewritten last */
	uint64_t stored;	 /* its bytes that were rewritten: a bit for each */
	uint8_t kills, restarts;
};
#define JIT_RESTLESS 4096

int jit_create(struct soft *s, size_t cache_size);
void jit_destroy(struct soft *s);
int jit_vcpu_init(struct soft_vcpu *c); /* 0 or -ERR_* */
void jit_vcpu_destroy(struct soft_vcpu *c);
enum vm_exit_kind jit_run(struct soft_vcpu *c);

/* The interpreter's TLB upkeep calls these. */
void jit_tlb_flush(struct soft_vcpu *c, bool global_too);
void jit_tlb_flush_page(struct soft_vcpu *c, gva_t gva);
/* One entry, and not what slots know of its page. */
void jit_tlb_drop(struct soft_vcpu *c, unsigned user, unsigned index);
/* A handler has found RAM at `host` for the page of gva, of plain accesses of that kind: emitted
 * code will want it. */
void jit_tlb_learn(struct soft_vcpu *c, gva_t gva, bool write, uint8_t *host);
void jit_jumps_flush(struct soft_vcpu *c, bool global_too);
void jit_jumps_flush_page(struct soft_vcpu *c, gva_t gva);

/* Whether translated code came from the page of RAM at gpa: writes must go the slow way. */
bool jit_is_code_page(const struct soft *s, gpa_t gpa);
/* The vCPU wrote [gpa, gpa+len) of such a page. */
void jit_code_written(struct soft_vcpu *c, gpa_t gpa, unsigned len);
/* A device wrote RAM; any thread with the VM lock. */
void jit_device_wrote(struct soft *s, gpa_t gpa, uint64_t len);
/* Serves what devices wrote; on the vCPU's thread, between blocks. */
void jit_serve_writes(struct soft_vcpu *c);

/* Translates the block at `host` (guest address rip; `next_page`: the page behind it, or NULL)
 * under the mode `key`; NULL: nothing there can be translated. jit->lock held. (translate.c) */
struct jit_block *jit_translate(struct soft_vcpu *c, const uint8_t *host, const uint8_t *next_page,
								uint64_t rip, uint32_t key, bool hot);
/* The same for a self-checking block that is made from the JIT_SELF_BYTES bytes at `bytes`.
 * `loose`: any immediates will do that tx_self_loads() knows. */
struct jit_block *jit_translate_self(struct soft_vcpu *c, const uint8_t *bytes, const uint8_t *host,
									 uint64_t rip, uint32_t key, bool loose);

/* Blocks of code that is mapped at several guest addresses (rebase.c); jit->lock held, or the world
 * stopped. The first: whether the translator shall note the fixups of the block that it is about to
 * make, in *f, which is made ready. */
bool jit_twin_begin(const struct jit *j, const struct jit_block *draft, struct emit_fixups *f);
void jit_twin_end(struct jit *j, struct jit_block *b, const struct emit_fixups *f);
void jit_twin_forget(struct jit *j, const struct jit_block *b);
/* A block as jit_translate() would make it for the first tier, if there is one of the same code to
 * copy; else NULL. */
struct jit_block *jit_rebase(struct jit *j, const uint8_t *host, uint64_t rip, uint32_t key);

/* ---- the code cache, for translate.c ----------------------------------------------------- */

/* Thunks for single instructions, see quick.c. */
enum jit_quick {
	QUICK_CLI,
	QUICK_STI,
	QUICK_CLD,
	QUICK_STD,
	QUICK_SWAPGS,
	QUICK_PUSHF,
	QUICK_RDTSC,
	QUICK_RDTSCP,
	QUICK_DIV32,
	QUICK_DIV64,
	QUICK_IDIV32,
	QUICK_IDIV64,
	QUICK_DIV32_FLAGS, /* the same four, where somebody looks at the flags behind them */
	QUICK_DIV64_FLAGS,
	QUICK_IDIV32_FLAGS,
	QUICK_IDIV64_FLAGS,
	QUICK_RDFSBASE,
	QUICK_RDGSBASE,
	QUICK_WRFSBASE,
	QUICK_WRGSBASE,
	QUICK_CR0,
	QUICK_CR2,
	QUICK_CR3,
	QUICK_CR4,
	QUICK_FLDCW,
	QUICK_LDMXCSR,
	QUICK_STRING, /* REP STOS and REP MOVS: + 8 if MOVS, + 4 for user code, + log2 of the size */
	QUICK_COMPARE = QUICK_STRING + 16, /* REPE SCAS and CMPS: the same; + 16 for REPNE */
	JIT_QUICKS = QUICK_COMPARE + 32
};

/* Whether it is a string instruction with REP, REPE or REPNE, which elsewhere mean other things. */
static inline bool jit_repeats(const struct x86_insn *i) {
	return i->prefix & (X86_PFX_REP | X86_PFX_REPNE) && x86_forms[i->form].attr & X86_ATTR_REP;
}

/* What a thunk needs and does. */
#define JIT_QUICK_SPOILS 1u	 /* the host's flags */
#define JIT_QUICK_FAILS 2u	 /* T0 != 0: the interpreter's turn */
#define JIT_QUICK_OPERAND 4u /* operand 0 in T1 */
#define JIT_QUICK_RESULT 8u	 /* gives operand 0 in T1 */
#define JIT_QUICK_CALLS 64u	 /* T0 != 0: the handler's turn, and on behind it */
#define JIT_QUICK_FLAGS 128u /* the guest's are in jit.flags_ax afterwards, if they were before */
extern const uint8_t jit_quick_ops[X86_OP_COUNT]; /* 0: there is none */
int jit_quick_which(const struct jit *j, uint32_t key, const struct x86_insn *i);
/* Which enum jit_quick executes the instruction in code of the mode `key`; -1: none does. */
static inline int jit_quick(const struct jit *j, uint32_t key, const struct x86_insn *i) {
	return jit_quick_ops[i->op] ? jit_quick_which(j, key, i) : -1;
}
uint8_t jit_quick_traits(int quick);

enum jit_code {
	CODE_NONE,
	CODE_YES,	/* no vCPU has a write entry for the page */
	CODE_SHARED /* but maybe slots for writing to lines that are not code */
};

#define JIT_SHAPE_BITS 11
#define JIT_TWINS (1u << 15)
#define JIT_HUGE (2u << 20) /* bytes of a huge page */
#define JIT_SIZES 8			/* of accesses: 1, 2, 4, 8, 10, 16, 32, 64 */

/* Emitted code has two addresses: written at `rw`, executed at rw + jit->exec. */
struct jit {
	struct soft *soft;
	uint8_t *rw, *end; /* the cache's writable mapping */
	intptr_t exec;	   /* distance to the executable one */
	size_t size, arena_size;
	uint8_t *hot, *cold; /* hot grows up from the thunks, cold grows up from the middle */
	uint8_t *hot_start, *hot_end, *cold_start, *cold_end;
	uint8_t *hot_ready, *cold_ready;	   /* up to there the host has given memory already */
	uint8_t *arena, *arena_at, *arena_end; /* blocks, links, ops; reset with the cache */
	struct jit_block **hash;
	struct jit_block **twins; /* by a hash of host address and key: the newest that can be copied */
	struct jit_block **pages; /* by guest-physical page: blocks that lie there */
	uint64_t (*code_bytes)[64]; /* by the same: a bit for each of its bytes: code depends on it */
	uint64_t *lines;			/* and for each of its lines of 64 bytes */
	uint8_t *code;				/* by the same: stores there must be seen (enum jit_code); atomic */
	uint8_t *idle;				/* by the same: stores since its last block was killed */
	uint64_t npages;
	struct jit_shape *shapes; /* 1 << JIT_SHAPE_BITS of them */
	uint32_t epoch;			  /* counts flushes and invalidations; atomic */
	pthread_mutex_t lock;
	/* thunks, executable addresses */
	const uint8_t *quick[JIT_QUICKS];
	const uint8_t *slot_fill;
	const uint8_t *slot_turn[2][2][JIT_SLOT_CLASSES]; /* [user][write][class] */
	const uint8_t *enter, *exit_code, *exit_saved, *call, *call_saved, *step_saved,
		*fill[2][JIT_SIZES];
	const uint8_t *miss[2], *ret_miss[2], *far_miss; /* [user] */
	bool crc;										 /* the host has CRC32: the better hash */
	struct jit_far *far_hash;						 /* far targets and their slots, see jumps.c */
	uint8_t far_user[JIT_FAR];
	unsigned nfar;
	uint32_t next_slot;
	struct jit_slot_user {
		const uint8_t *host; /* of the block that uses it, which was made last */
		uint64_t rip, access;
		uint32_t key;
	} slot_user[4 * JIT_SLOT_CLASSES * JIT_SLOTS];
	uint8_t slot_bad[8192]; /* by a hash of the access's address */
	struct jit_restless restless[JIT_RESTLESS];
	bool unrest; /* there has been a restless line */
	uint64_t self_blocks, self_misses, self_restarts, self_calmed;
	pthread_t sampler;
	uint32_t sampling; /* the sampler runs; atomic */
	uint32_t promoted; /* blocks that were made hot; atomic */
	bool has_sampler;
	gpa_t written[64];
	uint32_t nwritten; /* > 64: all */
	uint64_t blocks, insns, flushes, trims, invalidations, bytes, rebased;
	struct tx *tx; /* the translator's, for the block that is being made */
	bool verify;   /* every new block */
	struct verifier *verifier;
	uint32_t off; /* JIT_OFF_*: what is left out */
};

void *jit_arena(struct jit *j, size_t size); /* NULL: full */
/* Gives back the memory of all that was translated. While no vCPU runs. */
void jit_trim(struct jit *j);
/* Points the jump whose displacement is at `at` (writable) to `to` (executable), at once. */
static inline void jit_put_rel32(uint8_t *at, const uint8_t *to, intptr_t exec) {
	__atomic_store_n((int32_t *)at, (int32_t)(to - (at + 4 + exec)), __ATOMIC_RELEASE);
}
/* A block's code is complete at j->hot and j->cold, which go on behind it. */
void jit_emitted(struct jit *j, const struct jit_block *b);

/* What translating needs besides: 0 or -ERR_*. (translate.c) */
int jit_translator_create(struct jit *j);
void jit_translator_destroy(struct jit *j);

/* Proves that the block's code does nothing that it must not: NULL, or what is wrong. The other one
 * stops the VM with a listing. (verify.c) */
int jit_verifier_create(struct jit *j); /* 0 or -ERR_*; before the others, for jit->verify */
void jit_verifier_destroy(struct jit *j);
const char *jit_verify(const struct jit *j, const struct jit_block *b);
void jit_verify_or_stop(const struct jit *j, const struct jit_block *b);

/* Parts that can be left out; see README.md. (switch.c) */
#define JIT_OFF_LINK 0x0001u   /* direct jumps between blocks */
#define JIT_OFF_JUMPS 0x0002u  /* the table of jump targets is never filled */
#define JIT_OFF_FLAGS 0x0004u  /* knowing which flags are dead */
#define JIT_OFF_INT 0x0008u	   /* integer instructions that run as themselves */
#define JIT_OFF_LEA 0x0010u	   /* LEA */
#define JIT_OFF_MEM 0x0020u	   /* operands in memory */
#define JIT_OFF_STACK 0x0040u  /* PUSH, POP, LEAVE */
#define JIT_OFF_BRANCH 0x0080u /* Jcc, JMP, CALL, RET */
#define JIT_OFF_X87 0x0100u	   /* x87 and MMX */
#define JIT_OFF_SSE 0x0200u
#define JIT_OFF_AVX 0x0400u
#define JIT_OFF_AVX512 0x20000000u
#define JIT_OFF_BLOCK 0x0800u	   /* more than one instruction in a block */
#define JIT_OFF_TLB 0x1000u		   /* more than one entry in the TLB */
#define JIT_OFF_CACHE 0x2000u	   /* what was translated is kept */
#define JIT_OFF_POLL 0x4000u	   /* each block is first entered with a request to leave it */
#define JIT_OFF_RET 0x8000u		   /* calls are host calls, returns are host returns */
#define JIT_OFF_HOT 0x80000u	   /* the second tier */
#define JIT_OFF_TIER 0x100000u	   /* the first one, but for what the second leaves to it */
#define JIT_OFF_GROUP 0x200000u	   /* accesses checked in groups */
#define JIT_OFF_PCID 0x10000u	   /* address spaces are forgotten when they are left */
#define JIT_OFF_NEXT 0x20000u	   /* from a handler to another block without the loop */
#define JIT_OFF_SYSTEM 0x40000u	   /* system instructions and divisions by short thunks */
#define JIT_OFF_32 0x1000000u	   /* 32-bit code */
#define JIT_OFF_16 0x2000000u	   /* 16-bit code */
#define JIT_OFF_LOOP 0x10000000u   /* checks made before a loop */
#define JIT_OFF_WINDOW 0x4000000u  /* scattered pages mapped side by side */
#define JIT_OFF_SELF 0x8000000u	   /* self-checking blocks */
#define JIT_OFF_REBASE 0x40000000u /* copying blocks for other guest addresses */
#define JIT_OFF_SHAPE 0x80000000u  /* instructions decoded by their shape */
uint32_t jit_switches(void);

/* What emitted code leaves with, in R11. Otherwise it is a struct jit_link *. */
#define JIT_EXIT_DISPATCH 0u /* go on at state.rip */
#define JIT_EXIT_INTERP 1u	 /* execute one instruction at state.rip, then go on */
#define JIT_EXIT_POLL 2u

uint32_t jit_size_class(unsigned size);
void jit_emit_thunks(struct jit *j);
struct emit;
void jit_emit_quick(struct emit *e, struct jit *j);	   /* those of quick.c */
void jit_emit_string(struct emit *e, unsigned which);  /* QUICK_STRING + which (quick_string.c) */
void jit_emit_compare(struct emit *e, unsigned which); /* QUICK_COMPARE + which */
/* R11 = 8 * index into jit.jumps for the address in R10; no flags change. */
void jit_emit_jump_index(struct emit *e, const struct jit *j);

/* ---- 16- and 32-bit code (legacy.c) ---------------------------------------------------------- */

/* Linear addresses that legacy code's accesses may have in the translator's TLB: below this, so
 * that neither an address that has not wrapped around, nor one behind an access, has 33 bits. */
#define JIT_LEGACY_END 0xfffff000ull

/* Whether the current state, which is not 64-bit mode, can be translated; its key's bits. The
 * latter also brings jit.segs up to date. */
bool jit_legacy_ok(const struct soft_vcpu *c);
uint32_t jit_legacy_key(struct soft_vcpu *c);
/* Whether legacy code may go on under another key behind the instruction. */
bool jit_loads_segments(const struct x86_insn *i);
/* The jit address of the current state. */
uint64_t jit_address(const struct soft_vcpu *c);
/* The linear address to fetch from; false: beyond the segment, or not canonical. */
bool jit_fetch_from(const struct soft_vcpu *c, gva_t *gva);
static inline gva_t jit_linear(bool legacy, uint64_t address) {
	return legacy ? (uint32_t)(address + (address >> 32)) : address;
}
/* Makes the vCPU's tables for user (supervisor) code those of the mode `key`. */
void jit_set_mode(struct soft_vcpu *c, unsigned user, uint32_t key);

/* The host's TSC: what misses cost is judged by it. */
static inline uint64_t jit_cycles(void) {
	uint32_t lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* ---- slots (slots.c) ------------------------------------------------------------------------ */

#define JIT_SLOT_SIZE_MAX 256
unsigned jit_slot_size(unsigned class);
/* Distance of the next slot of this kind from jit.slots: one that many share who use the stack, or
 * one that few share. jit->lock held. */
uint32_t jit_slot_pick(struct jit *j, const struct jit_block *b, uint64_t rip, unsigned write,
					   unsigned class, bool stack);
/* Whether the accesses from guest address rip on missed their slot too often. */
bool jit_slot_bad(const struct jit *j, uint64_t rip);
/* Whether writes further on must not share the check of the read there. */
bool jit_slot_apart(const struct jit *j, uint64_t rip);
/* Whether there is a slot for that mode; what it checks. */
bool jit_slot_valid(uint32_t off, unsigned user, unsigned *write, unsigned *size);
void jit_slots_empty(struct soft_vcpu *c);
void jit_slots_empty_local(struct soft_vcpu *c);	  /* those with pages that are not global */
void jit_slots_drop(struct soft_vcpu *c, gva_t page); /* those with this page */
/* The lines that len bytes at offset `at` of a page touch. */
static inline uint64_t jit_lines(uint64_t at, uint64_t len) {
	uint64_t first = at / 64, last = MIN((at + len - 1) / 64, 63u);
	return ~0ull >> (63 - last) & ~0ull << first;
}
/* Called from emitted code: makes the slot hold gva, if the TLB does. 0: it does now, and nothing
 * else that emitted code relies on has changed. */
uint64_t jit_slot_fill(struct vcpu *v, gva_t gva, uint32_t off);

/* ---- windows (windows.c) --------------------------------------------------------------------- */

#define JIT_AREAS 16
/* Where emitted code is to reach the guest's page, which lies at `host` in RAM: there, or in a
 * window. */
uint8_t *jit_window_host(const struct soft_vcpu *c, gva_t page, uint8_t *host);
/* And back: the page of RAM that lies at an address that a TLB entry may have. */
const uint8_t *jit_window_real(const struct soft_vcpu *c, const uint8_t *host);
/* Slots are missed around gva: maps more of it. false: that makes no difference. All slots are
 * empty afterwards. */
bool jit_window_open(struct soft_vcpu *c, gva_t gva);
void jit_windows_destroy(struct soft_vcpu *c);

/* ---- who is hot (sample.c) ------------------------------------------------------------------- */

int jit_sampler_create(struct jit *j); /* 0 or -ERR_*; without one nothing becomes hot */
void jit_sampler_destroy(struct jit *j);

/* ---- jump targets (jumps.c) --------------------------------------------------------------- */

/* The slot of a far target, made if need be; -1: there are no more. jit->lock held. */
int jit_far_slot(struct jit *j, uint64_t rip, unsigned user);
/* The same for what lies in two pages at rip: its slot says that the second one is where it was. */
int jit_span_slot(struct jit *j, uint64_t rip, unsigned user);
void jit_span_learn(struct soft_vcpu *c, const struct jit_block *b, gva_t second, bool global);
int jit_far_create(struct jit *j);
void jit_far_reset(struct jit *j);
/* What is known of the current vCPU's jumps to s->rip: an entry that takes flags in the host's
 * flags, or NULL. */
const uint8_t *jit_jump_known(struct soft_vcpu *c, unsigned user, uint64_t rip);
void jit_jump_learn(struct soft_vcpu *c, unsigned user, const struct jit_block *b, bool global);
/* Forgets a block (any vCPU's; world stopped), everything. */
void jit_jump_forget(struct soft_vcpu *c, const struct jit_block *b);
void jit_jumps_clear(struct soft_vcpu *c);
void jit_jumps_clear_half(struct soft_vcpu *c, unsigned user);
/* The targets that hold for the current address space only, and the same again when it is back.
 * What does not hold any more is left out. */
#define JIT_KEPT 512
struct jit_jumps_kept {
	uint32_t n, epoch;
	uint64_t clears;
	struct jit_kept {
		uint8_t user, table;
		uint16_t index;
		uint32_t page;
		uint64_t rip;
		const uint8_t *entry;
	} entry[JIT_KEPT];
};
void jit_jumps_save(struct soft_vcpu *c, struct jit_jumps_kept *k);
void jit_jumps_restore(struct soft_vcpu *c, const struct jit_jumps_kept *k);

/* Gives the vCPU its stack of return addresses, whose overflow is caught (fault.c). 0 or -ERR_*. */
int jit_shadow_create(struct soft_vcpu *c);
void jit_shadow_destroy(struct soft_vcpu *c);
/* On the thread that is going to run it. */
void jit_fault_thread(struct soft_vcpu *c);

/* Called from emitted code through the thunks. */
uint64_t jit_fill(struct vcpu *v, gva_t gva, uint32_t what); /* 0: probe again, 1: interpret */
/* 0: go on in the block; 1: leave; else: the entry of another block to go on with. */
uint64_t jit_call(struct vcpu *v, const struct jit_op *op);
/* The same for the instruction at RIP, which lies in one page. */
uint64_t jit_step(struct vcpu *v, uint64_t rip);

/* ---- blocks (blocks.c) ------------------------------------------------------------------------
 */

#define JIT_HASH (1u << 20)
/* The block at RIP; NULL: let the interpreter do it. `plain`: of the first tier. *global: it holds
 * in all address spaces. Raises what fetching raises. */
struct jit_block *jit_block_find(struct soft_vcpu *c, uint32_t key, bool plain, bool *global);
/* The jump of l goes to b from now on. */
void jit_link_to(struct jit *j, struct jit_link *l, struct jit_block *b);
/* A sample found the vCPU at the block at jit address rip. */
void jit_promote(struct soft_vcpu *c, uint64_t rip);
/* The block that missed its slots too often goes; when it is made again, jit_slot_bad() tells. */
void jit_demote(struct soft_vcpu *c);
/* Throws everything away; world stopped. */
void jit_flush_all(struct jit *j);
/* Kills the best block there. */
void jit_discard(struct soft_vcpu *c, const uint8_t *host, uint64_t rip, uint32_t key);
void jit_cache_begin(struct jit *j); /* an empty cache */
/* That, and of all tables what they say of blocks; `give_back`: the host gets their pages. The
 * vCPUs' own tables are the caller's. No other vCPU runs. */
void jit_cache_forget(struct jit *j, bool give_back);

/* ---- self-checking blocks (self.c) ----------------------------------------------------------- */

#define JIT_SELF_BYTES 64
/* A store of the guest's into [host, host + len) has killed blocks; world stopped. */
void jit_self_note_kill(struct jit *j, const uint8_t *host, uint64_t len);
/* Whether blocks that check nothing must not depend on [host, host + len). */
bool jit_is_restless(const struct jit *j, const uint8_t *host, unsigned len);
static inline bool jit_restless(const struct jit *j, const uint8_t *host, unsigned len) {
	return j->unrest && jit_is_restless(j, host, len);
}
/* Whether a block that begins there is to check itself. */
bool jit_self_wanted(const struct jit *j, const uint8_t *host);
/* Whether memory has the bytes that the block is for. */
bool jit_self_fits(const struct jit_block *b);
/* Makes one for what is there now, behind the `last` of its versions (NULL: none); NULL: no. The
 * caller publishes it. jit->lock held. */
struct jit_block *jit_self_make(struct soft_vcpu *c, const uint8_t *host, uint64_t rip,
								uint32_t key, struct jit_block *last);
/* There are as many versions as there may be, and none fits. true: they are to go. */
bool jit_self_miss(struct jit *j, struct jit_block *first);
/* A sample found it running. true: it runs so much that it is to be made without a check. */
bool jit_self_sampled(struct jit_block *b);
void jit_self_calm(struct jit *j, const struct jit_block *b);

/* ---- instructions in two pages (span.c) ------------------------------------------------------ */

/* The page behind the one at gva, for an instruction that begins at `host` and may reach into it.
 */
struct jit_span {
	uint8_t *host; /* NULL: none, or not to be translated */
	gpa_t gpa;
};
/* Raises what fetching raises. */
struct jit_span jit_span_find(struct soft_vcpu *c, const uint8_t *host, gva_t gva);
/* The block may be entered: its pages are where they were. false: it is dead. Raises the same. */
bool jit_span_ready(struct soft_vcpu *c, const struct jit_block *b, gva_t gva);
/* The handler of what is not translated: fetches, decodes and executes the instruction at RIP. */
soft_handler jit_cross_pages;
bool jit_changes_masks(unsigned op);

#define JIT_FILL_WRITE 0x100u

#endif
