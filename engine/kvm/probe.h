/* Between probe.c and probe_cache.c. */
#ifndef ENGINE_KVM_PROBE_H
#define ENGINE_KVM_PROBE_H

#include "engine/engine.h"

/* Tries it; `p` is empty before. true: the answer holds until the host is booted anew. What keeps
 * KVM from making a VM at all (no module yet, another program's grip on the hardware, no memory)
 * can pass. */
bool kvm_probe_now(struct engine_probe *p);

/* What was found since the host booted, with the same device and the same version of joist. Only
 * `usable` and `why` are kept. */
bool kvm_probe_recall(struct engine_probe *p);
void kvm_probe_remember(const struct engine_probe *p);

#endif
