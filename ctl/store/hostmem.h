/* The host's memory, and what VMs were promised of it. A VM takes memory as its guest uses it, so
 * that more can be promised than there is; it goes well until it does not. */
#ifndef CTL_STORE_HOSTMEM_H
#define CTL_STORE_HOSTMEM_H

#include "core/base/types.h"

/* Bytes that programs can still get: of the host, or of the control group (v2) that this process is
 * in, or one above it, if that is less. UINT64_MAX: nobody knows. Left out: cgroup v1. */
uint64_t hostmem_available(void);
/* How many processes the kernel has killed for want of memory since it started. */
uint64_t hostmem_kills(void);
/* If memory runs out, the kernel is to kill this VM, and not what the user works with. */
void hostmem_offer_oneself(void);
/* Warns if a VM of `bytes` and what the others that run may yet take are more than there is. `id`
 * is its own, to be left out; NULL: it is not kept. */
void hostmem_check(const char *name, const char *id, uint64_t bytes);

#endif
