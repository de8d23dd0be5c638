/* Why a VM's process is gone without a word. It had no chance to say so, and nobody watches it; but
 * the kernel counts whom it kills for want of memory, and the process writes down that number as
 * long as it lives. */
#ifndef CTL_STORE_DEATH_H
#define CTL_STORE_DEATH_H

#include "ctl/store/store.h"

/* Notes in `vm` what the host says now. true: it is other than what was noted. */
bool death_note(struct store_vm *vm);
/* Of a VM that has died, from what was noted: `end` in some words, `why` as a sentence. The
 * kernel's number is the host's: a kill after the VM's death and before it is looked at counts,
 * too, and so the sentence says "most likely". */
void death_explain(struct store_vm *vm);

#endif
