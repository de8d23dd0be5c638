/* One virtual CPU: its architectural state, the events posted to it, and the
 * way out of an engine. The state is in the terms of the SDM and the same for
 * every engine, so that what one engine stopped another can continue. */
#ifndef CORE_VM_VCPU_H
#define CORE_VM_VCPU_H

#include "core/base/types.h"
#include "core/vm/exit.h"
#include "core/x86/cpuid.h"

struct vm;
struct state_io;

enum x86_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum x86_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* A segment register with its hidden part. `attr` is the descriptor's bits 40-47 and
 * 52-55 packed as VMX and SVM have it: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, DB 14,
 * G 15; bit 16: unusable (a null selector was loaded). `limit` is in bytes. */
struct x86_segment {
	uint16_t sel;
	uint32_t attr;
	uint32_t limit;
	uint64_t base;
};

#define SEG_ATTR_TYPE 0xfu
#define SEG_ATTR_S (1u << 4)
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_P (1u << 7)
#define SEG_ATTR_AVL (1u << 12)
#define SEG_ATTR_L (1u << 13)
#define SEG_ATTR_DB (1u << 14)
#define SEG_ATTR_G (1u << 15)
#define SEG_ATTR_UNUSABLE (1u << 16)

struct x86_dtable {
	uint64_t base;
	uint16_t limit;
};

enum x86_activity { CPU_RUNNING, CPU_HALTED, CPU_WAIT_SIPI, CPU_SHUTDOWN };

/* Shadows: interrupts that the next instruction still holds off. */
#define SHADOW_STI 1u
#define SHADOW_MOV_SS 2u

/* An exception or interrupt that the processor took and has not delivered yet. Engine soft always
 * delivers before it stops; hardware may be stopped in between, e.g. by a page of the stack that
 * is not there yet. */
enum x86_event_kind {
	X86_EVENT_NONE,
	X86_EVENT_EXCEPTION,
	X86_EVENT_SOFT_INT, /* INT n: RIP is already behind it */
	X86_EVENT_EXT_INT,
	X86_EVENT_NMI,
	X86_EVENT_KINDS,
};

struct x86_event {
	uint8_t kind; /* enum x86_event_kind */
	uint8_t vector;
	bool has_error;
	uint32_t error;
};

#define XSAVE_AREA 2816 /* legacy, header, AVX, and AVX-512 at the standard offsets */

struct x86_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	struct x86_segment seg[SEG_COUNT];
	struct x86_dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
	uint64_t dr[4], dr6, dr7;
	/* MSRs */
	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_offset, tsc_adjust, tsc_aux, misc_enable, xss;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
	uint64_t mcg_status, feature_control, spec_ctrl, smbase;
	/* What is in flight between instructions. */
	enum x86_activity activity;
	uint8_t shadow;	 /* SHADOW_* */
	bool nmi_masked; /* an NMI handler runs: until IRET */
	uint8_t sipi_vector;
	struct x86_event event;
	/* x87, SSE, AVX, AVX-512: the XSAVE image in standard (non-compacted) format. */
	uint8_t xsave[XSAVE_AREA] __attribute__((aligned(64)));
};

/* What CPUID answers with this state. out: EAX EBX ECX EDX. */
static inline void cpuid_query(const struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf,
							   const struct x86_state *s, uint32_t apic_id, uint32_t out[4]) {
	struct cpuid_dynamic dyn = {.cr4 = s->cr4, .xcr0 = s->xcr0, .xss = s->xss};
	dyn.apic_id = apic_id;
	cpuid_answer(p, leaf, subleaf, &dyn, out);
}

/* Events posted to a vCPU from any thread, bits of vcpu.events. */
#define EVENT_INTR 1u /* the level of its INTR pin: intack() gives the vector */
#define EVENT_NMI 2u
#define EVENT_INIT 4u
#define EVENT_SIPI 8u
#define EVENT_KICK 16u	/* leave engine_run() with EXIT_PREEMPTED */
#define EVENT_FLUSH 32u /* engine-internal: translations are stale */

struct vcpu {
	struct x86_state state; /* valid for others only while engine_run() is not running */
	struct vm *vm;
	unsigned id;	 /* = APIC id */
	uint32_t events; /* EVENT_*; atomic */
	void *engine;	 /* the engine's own part */
	void *chip;		 /* the board's: this vCPU's local APIC */
	uint64_t exits[EXIT_KINDS];
};

/* Bytes behind every struct vcpu that belong to its engine, so that translated code reaches
 * both from one base register. Zeroed at creation. */
#define VCPU_ENGINE_AREA (1536u << 10)

static inline void *vcpu_engine_area(struct vcpu *v) {
	return (uint8_t *)v + ((sizeof(*v) + 63) & ~(size_t)63);
}

/* Makes vCPU `id` with memory from the host and adds it to the VM; ids count up from 0. NULL: out
 * of memory. */
struct vcpu *vcpu_create(struct vm *vm, unsigned id);

/* Power-on reset, and INIT (which keeps caches' and FPU's state, [SDM3 9.1.1]). */
void vcpu_reset(struct vcpu *v, bool init);

/* Enters the real-mode code that a SIPI names ([SDM3 8.4.4.1]). */
void vcpu_start_sipi(struct vcpu *v, uint8_t vector);

/* Posts or clears events; any thread. Posting a new one kicks the vCPU. */
void vcpu_post(struct vcpu *v, uint32_t events);
void vcpu_unpost(struct vcpu *v, uint32_t events);
static inline uint32_t vcpu_events(const struct vcpu *v) {
	return __atomic_load_n(&v->events, __ATOMIC_ACQUIRE);
}

/* Serves an exit of the first group in place: takes the VM lock, finds the device or
 * MSR, fills in the answer. Called by engines on the vCPU's thread. */
void vcpu_exit(struct vcpu *v, struct vm_exit *e);

/* The interrupt acknowledge cycle: a vector 0..255, or -1. Takes the VM lock. */
int vcpu_intack(struct vcpu *v);

/* The TPR of this vCPU's local APIC: CR8 is its bits 7:4. Takes the VM lock. */
uint8_t vcpu_get_tpr(struct vcpu *v);
void vcpu_set_tpr(struct vcpu *v, uint8_t tpr);

/* A vector that this vCPU finished, for engines that have its local APIC (apic.h). Takes the VM
 * lock. */
void vcpu_eoi(struct vcpu *v, uint8_t vector);

/* Guest TSC now: the VM's clock plus tsc_offset, which already contains tsc_adjust (who
 * writes IA32_TSC or IA32_TSC_ADJUST changes both by the same amount, [SDM3 17.17.3]). */
uint64_t vcpu_tsc(const struct vcpu *v);

/* Moves the guest's TSC, and TSC_ADJUST with it. On the vCPU's thread; takes the VM lock. */
void vcpu_adjust_tsc(struct vcpu *v, uint64_t delta);

/* Walks the architectural state both ways. */
#define VCPU_STATE_VERSION 2 /* 2: the event in flight */
void vcpu_state(struct state_io *io, void *vcpu);

#endif
