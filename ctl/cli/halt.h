/* Ends running VMs, all of them at the same time: asks each guest, takes the power away from those
 * that do not shut down, and with `force` kills a process that does not answer. */
#ifndef CTL_CLI_HALT_H
#define CTL_CLI_HALT_H

#include "ctl/store/store.h"

struct halt_how {
	uint64_t timeout_ns; /* how long the guests may take; 0: the power goes at once */
	bool own_timeout;	 /* each as its definition says, instead */
	bool force;			 /* as timeout 0, and no process is waited for in vain */
	bool quiet;			 /* no progress on a terminal */
};

/* Returns the worst exit code, messages printed. `codes` (may be NULL) gets one each. All of them
 * must be running; one that ends by itself meanwhile is as good as stopped. */
int halt_vms(const struct store_vm *vms, unsigned n, const struct halt_how *how, int *codes);

#endif
