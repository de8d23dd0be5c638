/* Random streams of 50 to 200 user-mode instructions: random bytes that decode to a form marked
 * NATIVE, most of them with pointers made to fit just before; conditional and other jumps, calls,
 * returns, loops, and (not in 16-bit code) stores into the stream itself. */
#ifndef TEST_INSN_STREAM_H
#define TEST_INSN_STREAM_H

#include "core/x86/cpuid.h"
#include "core/x86/insn.h"

/* Linear addresses. */
#define CODE 0x10000000ull /* two pages */
#define CODE_SIZE 0x2000u
#define DATA 0x10010000ull /* four pages; before and behind: nothing */
#define DATA_SIZE 0x4000u
#define RODATA 0x10018000ull
#define COUNTER 0x1001a000ull /* one page: what is left of the loops */
#define XSTATE 2688 /* legacy, header, AVX at 576; from 1088 on AVX-512, if the CPU has it */

struct stream_mode {
	const char *name;
	enum x86_mode mode;
	bool long_mode;				/* else legacy protected mode */
	gva_t code_base, data_base; /* of the segments */
};

extern const struct stream_mode stream_modes[]; /* ends with name NULL */
extern const struct stream_mode *stream_mode;	/* the current one */

#define STREAM_INSNS 900
struct stream {
	unsigned n, len;
	struct {
		uint16_t off, undefined; /* flags that are, before it */
		struct x86_insn insn;
	} at[STREAM_INSNS];
	unsigned nfix;
	struct {
		unsigned off, target; /* of a rel32 or abs32; an index into `at` */
		bool absolute, byte;  /* byte: a displacement of one, forward */
	} fix[STREAM_INSNS];
	unsigned patchable[STREAM_INSNS], npatchable; /* MOV r32, imm32 */
	uint16_t undefined;
	uint8_t code[CODE_SIZE];
};
extern struct stream st;
/* What a stream starts with. */
struct stream_start {
	uint64_t gpr[16], rip, rflags;
	uint32_t counter;
	uint8_t data[DATA_SIZE];
	uint8_t x[XSTATE]; /* XSAVE area */
};

/* Collects instructions for the current mode. */
void stream_collect(const struct cpuid_policy *p);

/* Makes `st` and what it starts with out of gen_seed. */
void stream_make(struct stream_start *p);

#endif
