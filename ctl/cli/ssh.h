/* The way to a guest's ssh server. */
#ifndef CTL_CLI_SSH_H
#define CTL_CLI_SSH_H

#include "ctl/cli/cli.h"
#include "ctl/store/store.h"

/* The arguments of joist exec -t: becomes ssh(1); returns an exit code if it cannot. */
int ssh_exec(const struct store_vm *vm, const struct cli_args *a);

#endif
