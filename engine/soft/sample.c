/* Which code is hot: a thread looks, a thousand times a second or more, at every vCPU that executes
 * guest code, by asking it to stop at its next block (jit.sample, jit.poll). A block that is found
 * there twice is translated again by the second tier (blocks.c, jit_promote()). Translated code
 * counts nothing. The thread looks more often while that finds something, less often while no vCPU
 * runs, and hardly at all when none has run for long: an idle VM costs its host nothing.
 */
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/check.h"
#include "engine/soft/jit.h"

#define BUSY_NS 250000 /* something was promoted */
#define PERIOD_NS 1000000
#define IDLE_NS 16000000
#define IDLE_AFTER 64
#define ASLEEP_NS 250000000
#define ASLEEP_AFTER 256
#define BUSY_FOR 32

static void *sample(void *opaque) {
	struct jit *j = opaque;
	unsigned idle = IDLE_AFTER + 1, busy = 0; /* a VM that starts loads its kernel first */
	uint32_t promoted = 0;
	while (__atomic_load_n(&j->sampling, __ATOMIC_RELAXED)) {
		uint32_t now = __atomic_load_n(&j->promoted, __ATOMIC_RELAXED);
		if (now != promoted)
			busy = BUSY_FOR;
		else if (busy)
			busy--;
		promoted = now;
		struct timespec ts = {0, idle > ASLEEP_AFTER ? ASLEEP_NS
								 : idle > IDLE_AFTER ? IDLE_NS
								 : busy				 ? BUSY_NS
													 : PERIOD_NS};
		/* Or until jit_sampler_destroy(). */
		syscall(SYS_futex, &j->sampling, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, &ts, NULL, 0);
		bool any = false;
		unsigned nvcpus = __atomic_load_n(&j->soft->nvcpus, __ATOMIC_ACQUIRE);
		for (unsigned n = 0; n < nvcpus; n++) {
			struct soft_vcpu *c = j->soft->vcpus[n];
			if (!__atomic_load_n(&c->in_guest, __ATOMIC_RELAXED))
				continue;
			any = true;
			__atomic_store_n(&c->jit.sample, 1, __ATOMIC_RELAXED);
			__atomic_store_n(&c->jit.poll, 1, __ATOMIC_SEQ_CST);
		}
		idle = any ? 0 : idle + 1;
	}
	return NULL;
}

int jit_sampler_create(struct jit *j) {
	if (j->off & (JIT_OFF_HOT | JIT_OFF_TIER))
		return 0;
	j->sampling = 1;
	if (pthread_create(&j->sampler, NULL, sample, j) != 0)
		return -ERR_NOMEM;
	j->has_sampler = true;
	pthread_setname_np(j->sampler, "sampler");
	return 0;
}

void jit_sampler_destroy(struct jit *j) {
	if (!j->has_sampler)
		return;
	__atomic_store_n(&j->sampling, 0, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &j->sampling, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
	pthread_join(j->sampler, NULL);
	j->has_sampler = false;
}
