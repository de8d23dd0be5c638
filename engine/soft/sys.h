/* What the system half of the interpreter shares between its files: descriptors,
 * stack frames of far transfers and events, and the hardware task switch. */
#ifndef ENGINE_SOFT_SYS_H
#define ENGINE_SOFT_SYS_H

#include "engine/soft/soft.h"

/* ---- descriptors (desc.c) ---------------------------------------------------------------- */

/* System descriptor types ([SDM3 3.5]). */
enum sys_type {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INT16 = 6,
	SYS_TRAP16 = 7,
	SYS_TSS32 = 9, /* in long mode: the 64-bit TSS */
	SYS_TSS32_BUSY = 11,
	SYS_CALL32 = 12,
	SYS_INT32 = 14,
	SYS_TRAP32 = 15,
};

/* A descriptor as it lies in memory; `high` is the second half of long mode's 16-byte ones. */
struct sys_desc {
	uint64_t raw, high;
	gva_t addr;
};

#define DESC_TYPE(raw) ((unsigned)((raw) >> 40) & 0xf)
#define DESC_S(raw) ((raw) >> 44 & 1)
#define DESC_DPL(raw) ((unsigned)((raw) >> 45) & 3)
#define DESC_P(raw) ((raw) >> 47 & 1)
#define DESC_L(raw) ((raw) >> 53 & 1)
#define DESC_DB(raw) ((raw) >> 54 & 1)
#define DESC_IS_CODE(raw) (DESC_S(raw) && ((raw) >> 43 & 1))
#define DESC_IS_DATA(raw) (DESC_S(raw) && !((raw) >> 43 & 1))
#define DESC_IS_CONFORMING(raw) ((raw) >> 42 & 1) /* of code */
#define DESC_IS_WRITABLE(raw) ((raw) >> 41 & 1)	  /* data: writable; code: readable */

#define SEL_RPL(sel) ((sel)&3u)
#define SEL_IS_NULL(sel) (((sel)&0xfffcu) == 0)
#define SEL_ERR(sel) ((uint32_t)(sel)&0xfffcu)

/* Reads the descriptor of `sel`, 8 bytes or (wide) 16. false: outside of its table. */
bool sys_desc_read(struct soft_vcpu *c, uint16_t sel, bool wide, struct sys_desc *d);

/* The hidden part that a descriptor makes; `sel` is stored as it is. */
struct x86_segment sys_desc_segment(const struct sys_desc *d, uint16_t sel);

/* Sets bits in the access byte of a descriptor in memory (accessed, busy) and in d->raw. */
void sys_desc_set(struct soft_vcpu *c, struct sys_desc *d, uint8_t bits);

/* A segment register that a null selector was loaded into. */
struct x86_segment sys_null_segment(uint16_t sel, unsigned dpl);
struct x86_segment sys_flat_code(uint16_t sel, unsigned dpl, bool long_code);
struct x86_segment sys_flat_data(uint16_t sel, unsigned dpl);
struct x86_segment sys_v86_segment(uint16_t sel);

/* Whether [off, off+size) lies within the limit; for stacks and TSSs. */
bool sys_in_limit(const struct x86_segment *seg, uint64_t off, unsigned size);

/* 1 if error codes made now carry the EXT bit. */
static inline uint32_t sys_ext(const struct soft_vcpu *c) {
	return c->delivering != SOFT_VEC_NONE && c->delivering_ext;
}

/* Checks a data segment descriptor for SS at privilege `cpl`; `vec` is what a bad one raises
 * (#GP or #TS). Reads it into *d. */
void sys_check_stack(struct soft_vcpu *c, uint16_t sel, unsigned cpl, uint8_t vec,
					 struct sys_desc *d);

/* ---- stack frames (desc.c) ---------------------------------------------------------------- */

/* A stack that is written or read before SS and RSP change. */
struct sys_stack {
	struct x86_segment ss;
	uint64_t sp;
	uint8_t width; /* 2, 4, 8: of SP; 8: 64-bit mode, no limits */
	bool user;	   /* accessed with user rights */
	uint32_t err;  /* error code of #SS */
};

struct sys_stack sys_stack_current(struct soft_vcpu *c);
/* The stack that `ss` with `sp` will be; `long_code`: for 64-bit mode. */
struct sys_stack sys_stack_new(struct x86_segment ss, uint64_t sp, unsigned cpl, bool long_code,
							   uint32_t err);
void sys_push(struct soft_vcpu *c, struct sys_stack *st, unsigned size, uint64_t val);
uint64_t sys_pop(struct soft_vcpu *c, struct sys_stack *st, unsigned size);
/* RSP after the frame: bits above the width stay. */
void sys_stack_commit_sp(struct soft_vcpu *c, const struct sys_stack *st);

/* SS:SP for privilege `cpl` from the TSS (legacy); #TS if the TSS is too short. */
void sys_tss_stack(struct soft_vcpu *c, unsigned cpl, uint16_t *ss, uint64_t *sp);
/* RSP from the 64-bit TSS: `slot` 0..2 = RSPn, 4..10 = IST1..7. */
uint64_t sys_tss_rsp(struct soft_vcpu *c, unsigned slot);

/* ---- far transfers (far.c) ------------------------------------------------------------------ */

/* Raises #GP(0) (with EXT) if `rip` is outside of the code segment `cs`. */
void sys_check_rip(struct soft_vcpu *c, const struct x86_segment *cs, uint64_t rip);
/* Loads CS and RIP and what follows from them. */
void sys_set_code(struct soft_vcpu *c, struct x86_segment cs, uint64_t rip);
/* Whether a code descriptor has L and D set, which long mode forbids. */
static inline bool sys_bad_long_code(const struct soft_vcpu *c, uint64_t raw) {
	return c->long_mode && DESC_L(raw) && DESC_DB(raw);
}
static inline bool sys_is_long_code(const struct soft_vcpu *c, const struct x86_segment *cs) {
	return c->long_mode && (cs->attr & SEG_ATTR_L);
}

/* ---- task switch (task.c) -------------------------------------------------------------------- */

enum sys_task_why { TASK_JMP, TASK_CALL, TASK_INT, TASK_IRET };

/* Switches to the task of TSS `sel`, whose descriptor is *d (type, busy and present checked).
 * `rip` goes to the old TSS. Sets RIP and c->next_rip; may raise in the new task. */
void sys_task_switch(struct soft_vcpu *c, uint16_t sel, struct sys_desc *d, enum sys_task_why why,
					 uint64_t rip, const struct soft_event *ev);
/* Through a task gate whose DPL and presence are checked already. */
void sys_task_gate(struct soft_vcpu *c, uint16_t tss_sel, enum sys_task_why why, uint64_t rip,
				   const struct soft_event *ev);
/* IRET with NT set. */
void sys_task_return(struct soft_vcpu *c);

/* ---- between 64-bit code at one level and at another, the quick way (far.c) ---------------------
 */

/* The descriptor of a GDT selector, if it can be had without a page walk; 0 if not. */
uint64_t sys_quick_desc(struct soft_vcpu *c, uint16_t sel);
/* Commits such a transfer: what soft_update_mode() would find is known. */
void sys_enter_64(struct soft_vcpu *c, struct x86_segment cs, struct x86_segment ss, unsigned cpl,
				  uint64_t rip);

/* ---- common checks -----------------------------------------------------------------------------
 */

static inline void sys_need_cpl0(struct soft_vcpu *c) {
	if (c->cpl)
		soft_gp(c, 0);
}

/* Instructions that real and virtual-8086 mode do not know. */
static inline void sys_need_protected(struct soft_vcpu *c) {
	if (!soft_protected(c))
		soft_ud(c);
}

static inline void sys_need_64(struct soft_vcpu *c) {
	if (c->mode != X86_MODE_64)
		soft_ud(c);
}

static inline void sys_need_feature(struct soft_vcpu *c, unsigned feature) {
	if (!soft_has_feature(c, feature))
		soft_ud(c);
}

static inline unsigned sys_iopl(const struct soft_vcpu *c) {
	return (c->s->rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;
}

static inline bool sys_v86(const struct soft_vcpu *c) {
	return (c->s->cr0 & CR0_PE) && (c->s->rflags & RFLAGS_VM);
}

static inline void sys_set_zf(struct soft_vcpu *c, bool zf) {
	c->s->rflags = (c->s->rflags & ~(uint64_t)RFLAGS_ZF) | (zf ? RFLAGS_ZF : 0);
}

/* Whether the byte for `vector` in the TSS's redirection bitmap sends INT n of virtual-8086 mode
 * to the guest's own handler ([SDM3 20.3.3]); and the port's bits in the I/O bitmap. */
bool sys_vme_redirected(struct soft_vcpu *c, uint8_t vector);
/* INT n through the 8086-style table at linear 0, within virtual-8086 mode. */
void sys_deliver_vme(struct soft_vcpu *c, uint8_t vector);

#endif
