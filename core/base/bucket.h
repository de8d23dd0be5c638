/* Token buckets: how fast something may go on, with bursts. Integers only; pure. */
#ifndef CORE_BASE_BUCKET_H
#define CORE_BASE_BUCKET_H

#include "core/base/types.h"

/* `rate` a second, up to `burst` at once after a pause. rate 0: no limit. */
struct rate {
	uint64_t rate, burst;
};

struct bucket {
	struct rate limit;
	int64_t tokens; /* billionths; negative: in debt */
	uint64_t last_ns;
};

/* Also to change a limit; the bucket starts full. A burst of 0 becomes a tenth of a second's. */
void bucket_init(struct bucket *b, struct rate limit, uint64_t now_ns);

/* 0: one may go on now. Otherwise how many nanoseconds to wait before asking again. */
uint64_t bucket_wait(struct bucket *b, uint64_t now_ns);

/* Takes `n`. What is larger than the burst goes as a whole and leaves a debt. */
void bucket_take(struct bucket *b, uint64_t n);

#endif
