/* From options to a machine: used by `joist run` and by the process of a kept VM. */
#ifndef CTL_CLI_MACHINE_H
#define CTL_CLI_MACHINE_H

#include "ctl/cli/cli.h"
#include "ctl/cli/pick.h"
#include "host/linux/machine.h"

/* Holds what `config` points to. */
struct run_request {
	struct engine_pick engine;
	struct machine_config config;
	char paths[BOARD_DISKS][1024];
	char channels[BOARD_CHANNELS][32]; /* their names */
};

/* The tables' values (cli_machine_options) as a machine's configuration. 0, or an exit code,
 * message printed. `q` starts zeroed; it points into the arguments. */
int cli_configure(const struct cli_args *a, struct run_request *q);

#endif
