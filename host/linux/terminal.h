/* The user's terminal: raw while a guest's console owns it, and put back on every way out
 * of the process (return, exit, fatal signal, failed check). One terminal a process, so this
 * is one of the few places with a variable of its own. */
#ifndef HOST_LINUX_TERMINAL_H
#define HOST_LINUX_TERMINAL_H

#include "core/base/types.h"

#define TERMINAL_ESCAPE 0x1d /* Ctrl-] */

/* Puts the terminal behind `fd` into raw mode. false, and nothing changed, if `fd` is no
 * terminal or this process is not in its foreground. Installs the restoring at exit. */
bool terminal_make_raw(int fd);

/* Back to what it was; safe in a signal handler, and when nothing was changed. */
void terminal_restore(void);

bool terminal_is_raw(void);

#endif
