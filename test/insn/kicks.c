/* See kicks.h. */
#include "test/insn/kicks.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *kicker(void *arg) {
	struct kicks *k = arg;
	unsigned s = 1;
	while (!__atomic_load_n(&k->stop, __ATOMIC_ACQUIRE)) {
		usleep(k->least_us + (unsigned)rand_r(&s) % k->more_us);
		if (__atomic_load_n(&k->armed, __ATOMIC_ACQUIRE))
			vcpu_post(k->b->cpu, EVENT_KICK);
	}
	return NULL;
}

void kicks_start(struct kicks *k) {
	if (pthread_create(&k->thread, NULL, kicker, k))
		exit(2);
}

void kicks_run(struct kicks *k) {
	__atomic_store_n(&k->armed, 1, __ATOMIC_RELEASE);
	enum vm_exit_kind kind;
	while ((kind = bench_vm_run(k->b)) != EXIT_PREEMPTED)
		if (kind == EXIT_FAILED) {
			printf("1..1\nnot ok 1 - %s\n# the guest does not run: %s\n", k->name, k->b->why);
			exit(1);
		}
	__atomic_store_n(&k->armed, 0, __ATOMIC_RELEASE);
}

void kicks_stop(struct kicks *k) {
	__atomic_store_n(&k->stop, 1, __ATOMIC_RELEASE);
	pthread_join(k->thread, NULL);
}
