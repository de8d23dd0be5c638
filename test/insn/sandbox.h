/* Runs a block of emitted code as a guest of the interpreter, to see what it can touch. */
#ifndef TEST_INSN_SANDBOX_H
#define TEST_INSN_SANDBOX_H

#include "core/base/check.h"
#include "engine/soft/emit.h"
#include "test/insn/bench_vm.h"

void sandbox_create(void);
void sandbox_destroy(void);
/* So many runs of 64-bit supervisor code from random states (gen_seed). NULL: it did nothing that
 * it must not; else what, valid until the next call. */
const char *sandbox_run(const struct jit *j, const struct jit_block *b, unsigned trials);

#endif
