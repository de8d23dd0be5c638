/* Limits as people write them: RATE[,burst=SIZE][,iops=N][,iops-burst=N]. */
#ifndef HOST_LINUX_LIMIT_TEXT_H
#define HOST_LINUX_LIMIT_TEXT_H

#include "core/base/bucket.h"
#include "core/base/err.h"

/* "none", or bytes a second (10M, binary; 100Mbit, decimal bits), a burst of bytes, and how many
 * `unit`s a second, with a burst of their own by the key `unit_burst`. What is not said is 0: no
 * limit. -ERR_INVAL with a sentence. */
int limit_read(const char *text, const char *unit, const char *unit_burst, struct rate *bytes,
			   struct rate *units, struct err *e);

#endif
