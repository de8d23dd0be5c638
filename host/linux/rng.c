/* See rng.h. */
#include "host/linux/rng.h"

#include <errno.h>
#include <sys/random.h>

#include "core/base/check.h"

static void fill(void *opaque, void *buf, size_t len) {
	uint8_t *p = buf;
	while (len) {
		ssize_t n = getrandom(p, len, 0);
		if (n < 0) {
			check(errno == EINTR);
			continue;
		}
		p += n;
		len -= (size_t)n;
	}
}

struct rng_backend host_rng(void) {
	return (struct rng_backend){fill, NULL};
}
