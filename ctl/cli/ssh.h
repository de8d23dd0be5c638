/* The way to a guest's ssh server. */
#ifndef CTL_CLI_SSH_H
#define CTL_CLI_SSH_H

#include "ctl/store/store.h"

/* Becomes ssh(1); returns an exit code if it cannot. `user` NULL: the VM's. */
int ssh_run(const struct store_vm *vm, const char *user, bool tty, const char *const *command,
			unsigned n);

#endif
