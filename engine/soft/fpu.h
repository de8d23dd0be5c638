/* The inside of fpu.c, thunk.c, native.c and xsave.c: the guest's x87/SSE/AVX state
 * and the small pieces of native code that work on it. */
#ifndef ENGINE_SOFT_FPU_H
#define ENGINE_SOFT_FPU_H

#include "engine/soft/fast.h"

/* Offsets within the XSAVE image, [SDM1 13.4]. */
#define XS_FCW 0
#define XS_FSW 2
#define XS_FTW 4
#define XS_FOP 6
#define XS_FIP 8
#define XS_FDP 16
#define XS_MXCSR 24
#define XS_MXCSR_MASK 28
#define XS_ST 32
#define XS_XMM 160
#define XS_LEGACY 512
#define XS_BV 512
#define XS_XCOMP 520
#define XS_YMMH 576
#define XS_K 1088
#define XS_ZMMH 1152
#define XS_ZMM16 1664
#define XS_END 2688
#define XS_PARTS 8 /* components 0-7 */

#define MXCSR_VALID 0xffffu
#define MXCSR_MM 0x20000u /* AMD: misaligned operands are fine */
#define MXCSR_RESET 0x1f80u
#define MXCSR_FLAGS 0x3fu
#define MXCSR_FTZ 0x8000u
#define FSW_ES 0x80u
#define FSW_B 0x8000u

/* What a thunk finds in registers and leaves there. */
struct thunk_regs {
	uint64_t rax, rcx, rdx;
	uint64_t rflags; /* in: flags_to_ax(), out: RFLAGS */
	uint8_t *mem;	 /* the memory operand */
	const void *code;
	uint64_t flags; /* not 0: the instruction reads or writes RFLAGS */
};

/* A thunk: the key is the instruction's bytes with the mode in the last one. */
struct thunk {
	uint64_t key[2];
	const uint8_t *code;
	uint8_t gpr;   /* which guest register is in RAX */
	uint8_t flags; /* THUNK_* */
};
#define THUNK_RCX 1u	 /* writes RCX too */
#define THUNK_CONTROL 2u /* x87 control: leaves FIP, FDP and FOP alone */
#define THUNK_NONWAIT 4u /* x87 without a check for pending exceptions */
#define THUNK_EMPTY 8u	 /* nothing to run: FWAIT */
#define THUNKS 4096		 /* a Linux guest with a desktop's libraries uses some 3000 */
#define THUNK_CODE (256u << 10)

struct soft_fpu {
	uint8_t bounce[128] __attribute__((aligned(64))); /* the memory operand */
	uint8_t saved[XSAVE_AREA + 64] __attribute__((aligned(64)));
	uint8_t host_image[4096] __attribute__((aligned(64))); /* see odd_layout */
	struct thunk_regs regs;
	uint64_t mask;	 /* the state components that both sides have */
	bool odd_layout; /* the host keeps AVX-512 at other offsets (AMD) */
	bool has_avx;
	bool sha_unaligned; /* AMD's SHA instructions take operands of any alignment */
	uint32_t host_offset[XS_PARTS];
	uint32_t host_mxcsr;
	uint16_t host_fcw;
	bool unmasked;		 /* MXCSR has an unmasked exception */
	bool misaligned;	 /* and MM set */
	uint32_t mxcsr_mask; /* the host's valid bits */
	/* The last x87 instruction as the guest sees it; the host's own pointers would leak. */
	uint16_t fop;
	uint64_t fip, fdp;
	/* The thunks; the code is one memfd mapped twice, never writable and executable at once. */
	uint8_t *code_rw, *code_rx;
	unsigned code_used, table_used;
	struct thunk table[THUNKS];
};

static inline struct soft_fpu *fpu_of(struct soft_vcpu *c) {
	return c->fpu;
}

/* memcpy() of libc uses the vector registers, which hold the guest's. */
static inline void fpu_copy(void *dst, const void *src, unsigned len) {
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

static inline void fpu_zero(void *dst, unsigned len) {
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(0) : "memory");
}

/* fpu.c: the image brought up to date with the state still live; it may be read only. */
const uint8_t *fpu_peek(struct soft_vcpu *c);
/* The image, valid in all its parts, and the state not live: it may be changed. */
uint8_t *fpu_image(struct soft_vcpu *c);
/* Says which parts were changed in it. */
void fpu_image_used(struct soft_vcpu *c, uint64_t parts);
void fpu_save(struct soft_fpu *f, uint8_t *image);
void fpu_restore(struct soft_fpu *f, uint8_t *image);
static inline uint32_t fpu_mxcsr(void) {
	uint32_t v;
	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}
static inline void fpu_set_mxcsr(uint32_t v) {
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}
/* The bits that the guest's MXCSR has; others are #GP(0). */
uint32_t fpu_mxcsr_valid(const struct soft_vcpu *c);
/* Sets the guest's MXCSR, live. */
void fpu_load_mxcsr(struct soft_vcpu *c, uint32_t val);
/* #MF if an unmasked x87 exception is pending. Loads the state. */
void fpu_check_pending(struct soft_vcpu *c);

/* thunk.c */
int thunk_create(struct soft_fpu *f);
void thunk_destroy(struct soft_fpu *f);
const struct thunk *thunk_find(struct soft_fpu *f, const struct x86_insn *i);
void thunk_call(struct thunk_regs *r); /* runs r->code on the live state */

/* native.c: the checks of a class, #UD and #NM. */
void native_check(struct soft_vcpu *c, const struct x86_insn *i);
void native_read(struct soft_vcpu *c, unsigned seg, uint64_t off, uint8_t *dst, unsigned len);
void native_write(struct soft_vcpu *c, unsigned seg, uint64_t off, const uint8_t *src,
				  unsigned len);

/* Per-lane memory: lanes.c */
soft_handler op_vmaskmov, op_maskmov, op_gather, op_scatter;

/* xsave.c */
soft_handler op_fxsave, op_fxrstor, op_xsave, op_xsaveopt, op_xsavec, op_xsaves, op_xrstor,
	op_xrstors, op_xgetbv, op_xsetbv, op_ldmxcsr, op_stmxcsr;
/* x87env.c */
soft_handler op_fnstenv, op_fldenv, op_fnsave, op_frstor;

#endif
