/* Between cp.c and cp_folder.c. */
#ifndef CTL_CLI_CP_H
#define CTL_CLI_CP_H

#include "ctl/cli/guest.h"

/* What is in folder `from` into folder `to`, which is made if it is not there; the guest's is a
 * path from its root on. */
int cp_folder_in(struct wire_client *c, const char *from, const char *to, struct err *e);
int cp_folder_out(struct wire_client *c, const char *from, const char *to, struct err *e);

#endif
