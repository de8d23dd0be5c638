/* Waiting for a guest that is still starting, for the verbs that talk to it: a VM runs within
 * milliseconds, its guest only after seconds, and nobody should have to poll. */
#ifndef CTL_CLI_READY_H
#define CTL_CLI_READY_H

#include "ctl/cli/cli.h"
#include "ctl/store/store.h"

/* So long after its start a guest that does not answer may be starting, in seconds. Later than
 * that it has no agent, or no ssh server, and waiting would only hide it. */
#define READY_YOUNG_S 300

/* CLI_OK: the agent answers, or the VM runs for so long that asking it will tell more. Else an exit
 * code, message printed. timeout_ns 0: until READY_YOUNG_S after the VM's start. */
int ready_agent(const struct store_vm *vm, uint64_t timeout_ns);

/* CLI_OK: an ssh server answers on 127.0.0.1's `port`, which leads to the guest. Else an exit code,
 * message printed. */
int ready_ssh(const struct store_vm *vm, unsigned port, uint64_t timeout_ns);

#endif
