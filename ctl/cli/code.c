/* Errors as exit codes. */
#include <errno.h>
#include <signal.h>

#include "ctl/cli/cli.h"

int cli_code(int r) {
	switch (-r) {
	case 0:
		return CLI_OK;
	case ERR_NOENT:
		return CLI_NOT_FOUND;
	case ERR_NOTSUP:
	case ERR_NOSYS:
		return CLI_NO_CAPABILITY;
	case EINTR:
		return CLI_SIGNAL + SIGINT;
	default:
		return CLI_FAILED;
	}
}

int cli_fail(int r, const struct err *e) {
	cli_error("%s", e->text);
	/* Of a VM: it runs, or there is one already. */
	return r == -ERR_BUSY || r == -ERR_EXIST ? CLI_WRONG_STATE : cli_code(r);
}
