/* See bucket.h. Tokens are counted in units of 1/RESOLUTION, so that slow rates lose nothing to
 * rounding and fast ones do not overflow: rates up to 2^40 a second, bursts up to 2^40. */
#include "core/base/bucket.h"

#include "core/base/bits.h"

#define RESOLUTION 1000000ll
#define LARGEST (1ull << 40)
#define SECOND 1000000000ull

void bucket_init(struct bucket *b, struct rate limit, uint64_t now_ns) {
	limit.rate = MIN(limit.rate, LARGEST);
	limit.burst = MIN(limit.burst, LARGEST);
	if (!limit.burst)
		limit.burst = MAX(limit.rate / 10, 1u);
	b->limit = limit;
	b->last_ns = now_ns;
	b->tokens = (int64_t)limit.burst * RESOLUTION;
}

static void refill(struct bucket *b, uint64_t now_ns) {
	int64_t full = (int64_t)b->limit.burst * RESOLUTION;
	uint64_t passed = now_ns > b->last_ns ? now_ns - b->last_ns : 0;
	/* A second at a time: rate * RESOLUTION * SECOND would be too much. */
	if (passed >= SECOND) {
		uint64_t seconds = MIN(passed / SECOND, 1000u);
		int64_t more = (int64_t)(b->limit.rate) * RESOLUTION;
		for (; seconds && b->tokens < full; seconds--)
			b->tokens += more;
		passed %= SECOND;
	}
	/* In microseconds; what is left over counts the next time. */
	uint64_t us = passed / 1000;
	b->tokens += (int64_t)(b->limit.rate * us); /* rate * us / 10^6 * RESOLUTION */
	b->last_ns = now_ns - passed % 1000;
	if (b->tokens > full)
		b->tokens = full;
}

uint64_t bucket_wait(struct bucket *b, uint64_t now_ns) {
	if (!b->limit.rate)
		return 0;
	refill(b, now_ns);
	if (b->tokens > 0)
		return 0;
	uint64_t missing = (uint64_t)-b->tokens + 1;
	return (missing / b->limit.rate + 1) * 1000;
}

void bucket_take(struct bucket *b, uint64_t n) {
	if (b->limit.rate)
		b->tokens -= (int64_t)MIN(n, LARGEST) * RESOLUTION;
}
