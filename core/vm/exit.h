/* The neutral exit record: what a vCPU needs from outside its engine. Every
 * engine produces it; everything above the engine consumes only this. */
#ifndef CORE_VM_EXIT_H
#define CORE_VM_EXIT_H

#include "core/base/types.h"

enum vm_exit_kind {
	/* Served in place: the engine calls vcpu_exit() and carries on with the answer. */
	EXIT_PORT,	/* in/out */
	EXIT_MMIO,	/* access to what is not RAM (reads of ROM are the engine's) */
	EXIT_RDMSR, /* an MSR that the engine does not own: APIC, kvmclock ... */
	EXIT_WRMSR,
	EXIT_HYPERCALL,
	/* Ending engine_run(): the thread's owner has to act. */
	EXIT_HALT,		/* HLT (or wait-for-SIPI) and nothing pending: wait for an event */
	EXIT_PREEMPTED, /* kicked: look at what was asked, then run again */
	EXIT_SHUTDOWN,	/* triple fault: the machine resets or stops */
	EXIT_DEBUG,		/* the debugger's breakpoint or step */
	EXIT_FAILED,	/* the engine cannot go on; `why` says it */
	EXIT_KINDS,
};

struct vm_exit {
	enum vm_exit_kind kind;
	union {
		struct {
			uint16_t port;
			uint8_t size;
			bool write;
			uint32_t val;
		} port;
		struct {
			gpa_t gpa;
			uint8_t size; /* 1..8 */
			bool write;
			uint64_t val;
		} mmio;
		struct {
			uint32_t index;
			uint64_t val;
			bool fault; /* answer: raise #GP(0) */
		} msr;
		struct {
			uint64_t nr, args[4];
			uint64_t ret;
		} hypercall;
		struct {
			const char *why;
		} failed;
	};
};

#endif
