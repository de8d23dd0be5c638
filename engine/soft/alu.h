/* The host's ALU as the guest's: every arithmetic handler executes the guest's own
 * instruction on values, with the guest's flags going in and coming out, so that results
 * and flags (the undefined ones too) are those of the CPU we run on. */
#ifndef ENGINE_SOFT_ALU_H
#define ENGINE_SOFT_ALU_H

#include "engine/soft/fast.h"
#include "engine/soft/ops.h"

/* Flags travel in AX as LAHF and SETO have them; 0x7f + OF overflows exactly when OF is set. */
#define FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* Repeats `body(type, suffix, register modifier)` for the operand's size. */
#define BY_SIZE(size, body)                                                                        \
	switch (size) {                                                                                \
	case 1:                                                                                        \
		body(uint8_t, "b", "b");                                                                   \
		break;                                                                                     \
	case 2:                                                                                        \
		body(uint16_t, "w", "w");                                                                  \
		break;                                                                                     \
	case 4:                                                                                        \
		body(uint32_t, "l", "k");                                                                  \
		break;                                                                                     \
	default:                                                                                       \
		body(uint64_t, "q", "q");                                                                  \
	}

/* Runs `body` with other vCPUs stopped: the LOCK of what the host cannot lock for us. */
static inline bool locked(const struct x86_insn *i) {
	return i->prefix & X86_PFX_LOCK;
}

#endif
