/* Between probe.c and probe_cache.c. */
#ifndef ENGINE_KVM_PROBE_H
#define ENGINE_KVM_PROBE_H

#include "engine/engine.h"

/* Tries it; `p` is empty before. */
void kvm_probe_now(struct engine_probe *p);

/* What was found since the host booted, with the same device and the same version of joist. Only
 * `usable` and `why` are kept. */
bool kvm_probe_recall(struct engine_probe *p);
void kvm_probe_remember(const struct engine_probe *p);

#endif
