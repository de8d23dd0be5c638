/* Random numbers and random instructions, shared by the tests that make code up. */
#ifndef TEST_INSN_GEN_H
#define TEST_INSN_GEN_H

#include "core/base/types.h"
#include "core/x86/insn.h"

extern uint64_t gen_seed; /* not 0 */

uint64_t gen_rnd(void);
unsigned gen_below(unsigned n); /* 0 .. n - 1 */
uint64_t gen_edgy(void);		/* finds edges more often than a random number does */

/* 16 random bytes in the shapes of real encodings, so that every form turns up when many are
 * decoded. `long_mode`: with REX prefixes. */
void gen_bytes(uint8_t *b, bool long_mode);

/* The same for EVEX's encodings and the opmask instructions of VEX's. */
void gen_avx512(uint8_t *b, bool long_mode);

/* Bochs 2.7 refuses some instructions whose W the manual ignores, with W set, takes EVEX.X for a
 * fifth bit of a general register's number, and doubles VPINSRB's short displacements, which
 * [SDM2 2.7.5] scales by 1. */
bool gen_bochs_takes(const struct x86_insn *i);

#endif
