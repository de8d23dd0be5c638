/* The soft engine's inside: one software CPU per vCPU.
 *
 * Everything in engine/soft is integer only (-mgeneral-regs-only), so that the
 * guest's x87/SSE/AVX state can stay in the host's registers between guest
 * instructions; soft_fpu_unload() comes before any call out of the engine.
 *
 * An instruction handler checks first and commits last: whatever can fault is
 * done before the first change of guest state. Faults leave by soft_raise*(),
 * which never return (they jump back to the run loop), with RIP still at the
 * instruction. */
#ifndef ENGINE_SOFT_SOFT_H
#define ENGINE_SOFT_SOFT_H

#include <pthread.h>

#include "core/base/bits.h"
#include "core/vm/vm.h"
#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "engine/engine.h"
#include "engine/soft/jit_vcpu.h"

struct jit;
struct soft;
struct soft_vcpu;
struct soft_block;

typedef void soft_handler(struct soft_vcpu *c, const struct x86_insn *i);

/* Software TLB, one set for supervisor (0) and one for user (1) accesses. A tag is the page
 * address of a linear address when that kind of access may go to `host` directly. */
enum soft_access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };
#define SOFT_TLB 4096
#define SOFT_LOCAL 2048
#define SOFT_TLB_INVALID 1ull /* never equal to a page address */
struct soft_tlb_entry {
	gva_t tag[3];  /* by enum soft_access */
	uint8_t *host; /* host address of the page; NULL: not RAM/ROM, go through `gpa` */
	gpa_t gpa;	   /* of the page */
	bool global;
	uint8_t shift; /* of the page's size; this is 4 KiB of it */
	bool code;	   /* writes are slow because translated code came from there */
};

/* Where the TLB may hold pieces of larger pages: bitmaps, hashed by regions of 4 MiB and 1 GiB. */
#define SOFT_LARGE_BITS 12
struct soft_large {
	bool any, global;
	uint64_t huge, large[(1 << SOFT_LARGE_BITS) / 64];
};

/* An exception or interrupt on its way into the guest. */
enum soft_event_kind {
	EVENT_KIND_EXCEPTION,
	EVENT_KIND_SOFT_INT,
	EVENT_KIND_EXT_INT,
	EVENT_KIND_NMI,
	EVENT_KIND_ICEBP
};
struct soft_event {
	enum soft_event_kind kind;
	uint8_t vector;
	bool has_error;
	uint32_t error;
};

/* 1 in sanitizer builds, whose C code uses vector registers wherever it likes: then guest state is
 * never left in them. */
#ifndef SOFT_FPU_EAGER
#define SOFT_FPU_EAGER 0
#endif

#define SOFT_VEC_NONE 0xff

struct soft_vcpu {
	struct vcpu *v;
	struct x86_state *s; /* = &v->state: always the live state */
	struct soft *soft;

	/* The instruction being executed. The loop sets next_rip to the following
	 * instruction (truncated to the mode's width); branches change it; the loop commits it. */
	uint64_t next_rip;
	int unwind_why;
	bool leave_block; /* set: look at events/mode again before the next instruction */
	bool single_step; /* RFLAGS.TF or a debugger: REP does one element at a time */
	bool deliver;	  /* `event` is to be delivered before anything else runs */
	uint32_t pauses;
	uint64_t synced[4]; /* CR0, CR3, CR4, EFER that the TLB was filled under */
	void *unwind[5];	/* __builtin_setjmp buffer of the run loop */

	/* What follows from the state; soft_update_mode() after any change of CR0, CR4, EFER,
	 * RFLAGS.VM, CS or SS. */
	enum x86_mode mode; /* of code: CS.L/D, EFER.LMA */
	uint8_t cpl;
	bool long_mode;		/* EFER.LMA (64-bit or compatibility) */
	uint8_t stack_size; /* 2, 4, 8: width of SP */
	bool paging;
	bool align_check; /* CR0.AM, RFLAGS.AC and CPL 3: #AC on unaligned data */
	bool flat;		  /* 64-bit mode: segments but FS/GS have no base and no limit */

	/* The event being delivered, for #DF ([SDM3 6.15]); SOFT_VEC_NONE outside of delivery. */
	uint8_t delivering;
	struct soft_event event; /* what UNWIND_EXCEPTION delivers */
	bool delivering_ext;	 /* the EXT bit of error codes made during delivery */

	struct soft_tlb_entry tlb[2][SOFT_TLB];
	uint32_t tlb_frame[2][SOFT_TLB]; /* bits of each entry's `host`, to find it by */
	/* Entries made since the last flush that are not global; full: any may be. */
	uint16_t local[SOFT_LOCAL];
	unsigned nlocal;
	struct soft_space *spaces; /* SOFT_SPACES; see spaces.c */
	uint64_t space_clock, space_hits;
	struct soft_large large[2]; /* by half of the address space: pages above 4 KiB, see mmu.c */
	uint8_t phys_bits;			/* MAXPHYADDR that CPUID shows */
	bool has_1g_pages;
	struct mem_range ram;  /* the range that the last page walk read its tables from */
	bool data_breakpoints; /* DR7 watches data: every access takes the slow path */
	uint32_t db_pending; /* DR6 bits of breakpoints hit by the current instruction: trap after it */

	/* x87/SSE/AVX, see fpu.c */
	bool fpu_loaded;
	void *fpu; /* thunks, owned by fpu.c */

	/* Decoded blocks of the interpreter, see interp.c */
	struct soft_block *blocks;
	const uint8_t *code_page; /* host page that the running block lies in: writes there leave it */

	struct jit_vcpu jit;

	/* Stop-the-world, see exclusive.c */
	uint32_t in_guest;	 /* atomic */
	struct vm_exit exit; /* scratch for vcpu_exit() */

	uint64_t insns, blocks_made, tlb_misses, tlb_flushes;
	uint64_t xsave_sizes[4]; /* fpu.c's, precomputed */
};

struct soft {
	struct vm *vm;
	struct soft_vcpu *vcpus[VM_VCPUS];
	unsigned nvcpus;
	struct jit *jit; /* NULL: interpreter only */
	pthread_mutex_t excl_lock;
	pthread_cond_t excl_cond;
	struct soft_vcpu *excl_owner;
	uint32_t excl_wanted; /* how many want or have it; atomic */
	/* For tests: called before each block, and the interpreter goes step by step. true: leave
	 * with EXIT_PREEMPTED. */
	bool (*trace)(struct vcpu *v);
};

bool soft_trace(struct soft_vcpu *c); /* calls it */

/* ---- raising exceptions; none returns ------------------------------------------------ */
#define SOFT_NORETURN __attribute__((noreturn))
void soft_raise(struct soft_vcpu *c, uint8_t vector) SOFT_NORETURN; /* without an error code */
void soft_raise_error(struct soft_vcpu *c, uint8_t vector, uint32_t error) SOFT_NORETURN;
void soft_raise_pf(struct soft_vcpu *c, gva_t gva, uint32_t error) SOFT_NORETURN; /* sets CR2 */
/* Leaves the instruction without completing it (RIP stays): EXIT_SHUTDOWN after a triple fault ...
 */
void soft_unwind(struct soft_vcpu *c, int why) SOFT_NORETURN;
#define UNWIND_EXCEPTION 1 /* c->event is to be delivered */
#define UNWIND_RESTART 2   /* go back to the loop, nothing to deliver */
#define UNWIND_SHUTDOWN 3  /* triple fault */
static inline void SOFT_NORETURN soft_gp(struct soft_vcpu *c, uint32_t error) {
	soft_raise_error(c, 13, error);
}
static inline void SOFT_NORETURN soft_ud(struct soft_vcpu *c) {
	soft_raise(c, 6);
}

/* ---- memory (mmu.c, access.c) ---------------------------------------------------------- */

/* Segmentation: checks seg:off for an access of `size` bytes (type, limit, canonical form)
 * and gives the linear address. Raises #GP(0)/#SS(0). `off` is already of address size. */
gva_t soft_linear(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size,
				  enum soft_access kind);

/* Data access through a segment with the current privilege; size 1, 2, 4, 8. */
uint64_t soft_read(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size);
void soft_write(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t val);

/* The same for any number of bytes (operands of 10, 16, 32, 64 .. 4096 bytes). The write
 * probes all pages before the first byte changes. */
void soft_read_bytes(struct soft_vcpu *c, unsigned seg, uint64_t off, void *buf, unsigned len);
void soft_write_bytes(struct soft_vcpu *c, unsigned seg, uint64_t off, const void *buf,
					  unsigned len);

/* Raises whatever writing (reading) [off, off+len) would raise, and changes nothing but A/D bits.
 */
void soft_probe(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned len,
				enum soft_access kind);

/* Linear addresses: `user` says with whose rights (false = supervisor, for descriptor
 * tables, TSS and stacks of inner levels). Raises #PF. */
uint64_t soft_read_linear(struct soft_vcpu *c, gva_t gva, unsigned size, bool user);
void soft_write_linear(struct soft_vcpu *c, gva_t gva, unsigned size, uint64_t val, bool user);
void soft_probe_linear(struct soft_vcpu *c, gva_t gva, unsigned len, enum soft_access kind,
					   bool user);
static inline uint64_t soft_sys_read(struct soft_vcpu *c, gva_t gva, unsigned size) {
	return soft_read_linear(c, gva, size, false);
}
static inline void soft_sys_write(struct soft_vcpu *c, gva_t gva, unsigned size, uint64_t val) {
	soft_write_linear(c, gva, size, val, false);
}

/* A read-modify-write target: the host address if [off, off+size) lies in one page of RAM
 * (write permission checked), else NULL; then use soft_read/soft_write, and for LOCK run
 * the three steps between soft_exclusive_begin/end. */
uint8_t *soft_rmw(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size);

/* The page walk ([SDM3 4]) and TLB upkeep. soft_translate raises #PF, sets A/D bits and
 * returns the TLB entry (valid until the next translation). */
struct soft_tlb_entry *soft_translate(struct soft_vcpu *c, gva_t gva, enum soft_access kind,
									  bool user);
/* Whether writes to that guest-physical address change RAM. */
bool soft_is_ram(const struct soft_vcpu *c, gpa_t gpa);
/* The vCPU wrote RAM whose TLB entry says the slow way (no-op if nothing was translated there). */
void soft_code_written(struct soft_vcpu *c, gpa_t gpa, unsigned len);
void soft_tlb_flush(struct soft_vcpu *c, bool global_too);
void soft_tlb_flush_page(struct soft_vcpu *c, gva_t gva);
/* Makes e the TLB's entry `index`, and the translator's. */
void soft_tlb_put(struct soft_vcpu *c, unsigned user, unsigned index,
				  const struct soft_tlb_entry *e);
/* Sends writes to the page of e the slow way. */
void soft_tlb_slow_writes(struct soft_tlb_entry *e);
/* The entry of gva's page if it may be written but for code in it; or NULL. */
const struct soft_tlb_entry *soft_tlb_code_page(const struct soft_vcpu *c, unsigned user,
												gva_t gva);
/* Sends writes to the page of RAM at `host` the slow way from now on; world stopped. */
void soft_tlb_purge_writes(struct soft_vcpu *c, const uint8_t *host);

/* Address spaces that are not the current one (spaces.c). */
#define SOFT_SPACES 8
int soft_spaces_create(struct soft_vcpu *c); /* 0 or -ERR_* */
void soft_spaces_destroy(struct soft_vcpu *c);
/* CR3 changes from one PCID to another, or to the same; `keep`: without a flush of the new one. */
void soft_space_switch(struct soft_vcpu *c, unsigned from, unsigned to, bool keep);
void soft_space_drop(struct soft_vcpu *c, unsigned pcid);
void soft_spaces_drop(struct soft_vcpu *c);
void soft_spaces_purge_writes(struct soft_vcpu *c, const uint8_t *host);

/* ---- operands (operand.c) ---------------------------------------------------------------- */

/* Offset of the memory operand within its segment, wrapped to the address size. */
uint64_t soft_ea(struct soft_vcpu *c, const struct x86_insn *i);
/* Operand n as an integer (GPR, memory, immediate, segment selector), zero-extended from its size.
 */
uint64_t soft_get(struct soft_vcpu *c, const struct x86_insn *i, unsigned n);
/* Writes operand n (GPR or memory); 32-bit GPR writes clear the upper half in every mode. */
void soft_put(struct soft_vcpu *c, const struct x86_insn *i, unsigned n, uint64_t val);
/* Register `reg` as numbered in struct x86_opnd. */
uint64_t soft_reg(const struct soft_vcpu *c, unsigned reg, unsigned size);
void soft_set_reg(struct soft_vcpu *c, unsigned reg, unsigned size, uint64_t val);

/* Stack with the width of SS; `size` is the operand's. Push: probes, stores, then moves SP. */
void soft_push(struct soft_vcpu *c, unsigned size, uint64_t val);
uint64_t soft_pop(struct soft_vcpu *c, unsigned size);
uint64_t soft_sp(const struct soft_vcpu *c);		/* masked to the stack's width */
void soft_set_sp(struct soft_vcpu *c, uint64_t sp); /* keeps the bits above the width */

/* Sets next_rip after checking limit / canonical form: #GP(0). `rip` is truncated by the caller
 * to the operand size. */
void soft_branch(struct soft_vcpu *c, uint64_t rip);

static inline bool soft_canonical(gva_t gva) {
	return (uint64_t)sext(gva, 48) == gva;
}

static inline bool soft_protected(const struct soft_vcpu *c) { /* protected, not virtual-8086 */
	return (c->s->cr0 & CR0_PE) && !(c->s->rflags & RFLAGS_VM);
}

/* ---- mode and control (mode.c) ---------------------------------------------------------- */
void soft_update_mode(struct soft_vcpu *c);
void soft_set_cr0(struct soft_vcpu *c, uint64_t val); /* with all checks of MOV CR0: #GP(0) */
void soft_set_cr3(struct soft_vcpu *c, uint64_t val);
void soft_set_cr4(struct soft_vcpu *c, uint64_t val);
void soft_set_efer(struct soft_vcpu *c, uint64_t val);
/* Writes RFLAGS: only bits of `mask` change; fixes reserved bits; notices TF, IF, AC, VM. */
void soft_set_flags(struct soft_vcpu *c, uint64_t val, uint64_t mask);
bool soft_has_feature(const struct soft_vcpu *c, unsigned feature); /* enum x86_feature */

/* ---- segments and far transfers (segment.c, far.c, interrupt.c, task.c) ------------------ */

/* Loads a data or stack segment register with all protected-mode checks (real and v86 mode too). */
void soft_load_segment(struct soft_vcpu *c, unsigned seg, uint16_t sel);
/* Delivers through the IVT/IDT. For software ints, c->next_rip is what is pushed; for
 * exceptions and interrupts, s->rip. Raises further faults by itself (#DF logic inside). */
void soft_deliver(struct soft_vcpu *c, const struct soft_event *ev);

/* ---- x87/SSE/AVX (fpu.c, thunk.c, xsave.c) ----------------------------------------------- */
int soft_fpu_create(struct soft_vcpu *c); /* 0 or -ERR_* */
void soft_fpu_destroy(struct soft_vcpu *c);
void soft_fpu_load(struct soft_vcpu *c); /* guest FPU state into host registers; no-op when there */
void soft_fpu_unload(struct soft_vcpu *c); /* and back, restoring the host's MXCSR/FCW */
soft_handler soft_native;				   /* any x87/MMX/SSE/AVX instruction, run as itself */

/* ---- exits and other vCPUs --------------------------------------------------------------- */

/* vcpu_exit() on c->exit, with the FPU unloaded and this vCPU counted as outside the guest. */
void soft_exit(struct soft_vcpu *c);
/* Between these no other vCPU executes guest code. Not nested. Any other vCPU's own request
 * is served before begin returns. */
void soft_exclusive_begin(struct soft_vcpu *c);
void soft_exclusive_end(struct soft_vcpu *c);

/* Marks this vCPU as executing guest code, waiting while another one has the world stopped; and the
 * reverse. */
void soft_enter_guest(struct soft_vcpu *c);
void soft_leave_guest(struct soft_vcpu *c);

/* ---- the interpreter (interp.c) ----------------------------------------------------------- */
int soft_interp_create(struct soft_vcpu *c);
void soft_interp_destroy(struct soft_vcpu *c);
/* Runs until an exit of the second group; gives its kind. */
enum vm_exit_kind soft_interp_run(struct soft_vcpu *c);

/* Its pieces, for the translator's loop: one instruction with everything that can accompany it; one
 * block; what to look at between two of them (true: leave with *kind). */
void soft_step(struct soft_vcpu *c);
void soft_run_block(struct soft_vcpu *c);
bool soft_between(struct soft_vcpu *c, enum vm_exit_kind *kind);
void soft_unwound(struct soft_vcpu *c);
bool soft_must_step(const struct soft_vcpu *c);
/* Who executes this instruction on this CPU model; never NULL. */
soft_handler *soft_handler_of(const struct soft_vcpu *c, const struct x86_insn *i);

/* Handlers by enum x86_op; NULL: by class (x87 ... AVX-512: soft_native) or #UD. handlers.c */
extern soft_handler *const soft_handlers[X86_OP_COUNT];

#endif
