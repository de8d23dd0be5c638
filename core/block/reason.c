/* Why a request failed, in words, for the sentences of this folder: there is no strerror() in
 * core/. The values are Linux's errno (core/base/err.h); a host's file may answer others than the
 * formats themselves do. */
#include "core/base/bits.h"
#include "core/block/block.h"

static const struct {
	int code;
	const char *text;
} reasons[] = {
	{ERR_PERM, "it is open for reading only"},
	{ERR_IO, "an input/output error of what it lies on; the host's kernel log (dmesg) tells more"},
	{ERR_AGAIN, "what it lies on has no room for one more request; try again"},
	{ERR_NOMEM, "no memory; end other programs and try again"},
	{ERR_ACCES, "no permission; see its owner and mode (ls -l)"},
	{ERR_BUSY, "another program has it; end that one first"},
	{ERR_NODEV, "the device that it lies on is gone"},
	{ERR_INVAL, "its tables point where nothing is; 'joist disk check' tells more"},
	{ERR_FBIG,
	 "the file would be bigger than the file system or the process's limit (ulimit -f) allows"},
	{ERR_NOSPC, "no room is left on the file system; make room and try again"},
	{ERR_ROFS, "the file system is mounted for reading only"},
	{ERR_NOTSUP, "what it lies on cannot do that"},
	{ERR_STALE, "the server of its file system does not know it any more; mount that anew"},
	{ERR_DQUOT, "the user's quota of the file system is used up; make room and try again"},
};

int block_fail(struct err *e, int r, const char *what) {
	for (unsigned i = 0; i < ARRAY_LEN(reasons); i++)
		if (reasons[i].code == -r)
			return err_set(e, -r, "%s: %s", what, reasons[i].text);
	/* None that a file gives: the number is all that is known ('man 3 errno'). */
	return err_set(e, -r, "%s: the host answered errno %d ('errno %d' of moreutils names it)", what,
				   -r, -r);
}
