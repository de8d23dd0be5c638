/* Random bytes for a guest from the kernel's generator. Any thread. */
#ifndef HOST_LINUX_RNG_H
#define HOST_LINUX_RNG_H

#include "core/vm/backend.h"

struct rng_backend host_rng(void);

#endif
