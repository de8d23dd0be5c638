/* Making kept VMs and starting their processes; for the verbs run, create, start, restart. */
#ifndef CTL_CLI_LAUNCH_H
#define CTL_CLI_LAUNCH_H

#include "ctl/cli/cli.h"
#include "ctl/store/store.h"

/* Does `joist run` with these arguments make a VM that is kept? */
bool launch_is_stored(const struct cli_args *a);
int launch_run(const struct cli_args *a); /* exit code */

/* From --file, options and operand to a VM in the store. An exit code, message printed. */
int launch_make(const struct cli_args *a, struct store_vm *vm);
/* Starts its process and waits until the machine runs or has said why not. An exit code. */
int launch_start(const struct store_vm *vm);
/* Waits until the guest's agent answers; shows what the console says meanwhile. */
int launch_wait_agent(const struct store_vm *vm, uint64_t timeout_ns, bool quiet);

/* attach.c: this terminal as the VM's console until Ctrl-] or the VM's end. */
int attach_console(const struct store_vm *vm, size_t replay, bool quiet);

/* progress.c: a line on a terminal's standard error that says what one waits for, for how
 * long, and what the guest's console last said. Nothing where there is no terminal. */
struct progress {
	const char *what;
	int64_t start_ms;
	bool shown, on;
	unsigned lines; /* that stand there, of several */
};
void progress_start(struct progress *p, const char *what, bool quiet);
void progress_show(struct progress *p, const char *console);
void progress_end(struct progress *p);
/* Several lines: each round begins with progress_rewind(), and so does the end. */
void progress_rewind(struct progress *p);
void progress_line(struct progress *p, const char *text);
unsigned progress_rows(const struct progress *p); /* how many there is room for */
int64_t progress_now_ms(void);

#endif
