/* A vCPU's thread: runs the engine, sleeps while the guest halts, stands still when
 * the machine is held. What an exit means is machine.c's business. */
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/check.h"
#include "host/linux/machine_int.h"

static void futex(uint32_t *word, int op, uint32_t val) {
	syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, NULL, NULL, 0);
}

/* ---- kicks, and the VM lock that they wait for ---------------------------------------- */

/* What a vCPU that wakes does first is to take the VM lock, for its interrupt. Woken by its holder
 * it would only go back to sleep, at the price of two switches; so those wait for the unlock. */
static _Thread_local const struct machine *locked;

_Static_assert(VM_VCPUS <= 64, "a bit each in to_wake");

void machine_lock_init(struct machine *m) {
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	/* It is held for a microsecond or two: to look again costs less than to sleep. */
	pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&m->lock, &a);
	pthread_mutexattr_destroy(&a);
}

void machine_lock(struct machine *m) {
	pthread_mutex_lock(&m->lock);
	locked = m;
}

void machine_unlock(struct machine *m) {
	uint64_t wake = m->to_wake;
	struct vm_work *after = m->after;
	m->to_wake = 0;
	m->after = NULL;
	locked = NULL;
	if (after)
		__atomic_fetch_add(&after->running, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&m->lock);
	if (after) {
		after->run(after->opaque);
		__atomic_fetch_sub(&after->running, 1, __ATOMIC_SEQ_CST);
	}
	for (; wake; wake &= wake - 1)
		futex(&m->threads[__builtin_ctzll(wake)].kicks, FUTEX_WAKE, 1);
}

void machine_after(struct machine *m, struct vm_work *w) {
	check(locked == m && (!m->after || m->after == w));
	m->after = w;
}

void vcpu_thread_kick(struct machine *m, unsigned id) {
	struct vcpu_thread *t = &m->threads[id];
	__atomic_fetch_add(&t->kicks, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&t->sleeping, __ATOMIC_SEQ_CST)) {
		if (locked == m)
			m->to_wake |= 1ull << id;
		else
			futex(&t->kicks, FUTEX_WAKE, 1);
	} else if (__atomic_load_n(&m->started, __ATOMIC_ACQUIRE) &&
			   !pthread_equal(pthread_self(), t->thread)) {
		engine_kick(&m->engine, m->vm.vcpus[id]);
	}
}

/* ---- the thread ------------------------------------------------------------------------ */

static void sleep_until_kicked(struct vcpu_thread *t, uint32_t seen) {
	__atomic_store_n(&t->sleeping, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&t->kicks, __ATOMIC_SEQ_CST) == seen)
		futex(&t->kicks, FUTEX_WAIT, seen);
	__atomic_store_n(&t->sleeping, 0, __ATOMIC_SEQ_CST);
}

/* Stands still while the machine is held. false: the thread shall end. */
static bool park(struct machine *m) {
	pthread_mutex_lock(&m->park_lock);
	if (m->hold) {
		m->parked++;
		pthread_cond_broadcast(&m->park_changed);
		while (m->hold && !m->quit)
			pthread_cond_wait(&m->park_changed, &m->park_lock);
		m->parked--;
	}
	bool go_on = !m->quit;
	pthread_mutex_unlock(&m->park_lock);
	return go_on;
}

static void *vcpu_main(void *opaque) {
	struct vcpu_thread *t = opaque;
	struct machine *m = t->m;
	struct vcpu *v = m->vm.vcpus[t->id];
	while (park(m)) {
		struct vm_exit exit;
		uint32_t seen = __atomic_load_n(&t->kicks, __ATOMIC_SEQ_CST);
		engine_run(&m->engine, v, &exit);
		switch (exit.kind) {
		case EXIT_HALT:
			sleep_until_kicked(t, seen);
			break;
		case EXIT_PREEMPTED:
		case EXIT_DEBUG: /* nobody debugs: a stray breakpoint of the engine */
			break;
		case EXIT_SHUTDOWN:
			machine_shutdown(m, t->id);
			break;
		case EXIT_FAILED:
			machine_fail(m, t->id, exit.failed.why);
			break;
		default:
			unreachable();
		}
	}
	return NULL;
}

int vcpu_threads_start(struct machine *m, struct err *e) {
	for (unsigned i = 0; i < m->vm.nvcpus; i++) {
		struct vcpu_thread *t = &m->threads[i];
		char name[16];
		t->m = m;
		t->id = i;
		int r = pthread_create(&t->thread, NULL, vcpu_main, t);
		if (r)
			return err_set(e, r, "cannot start the thread of vCPU %u: %s", i, strerror(r));
		t->created = true;
		snprintf(name, sizeof(name), "vcpu%u", i);
		pthread_setname_np(t->thread, name);
	}
	return 0;
}

void vcpu_threads_join(struct machine *m) {
	pthread_mutex_lock(&m->park_lock);
	m->quit = true;
	pthread_cond_broadcast(&m->park_changed);
	pthread_mutex_unlock(&m->park_lock);
	for (unsigned i = 0; i < m->vm.nvcpus; i++) {
		if (!m->threads[i].created)
			continue;
		vcpu_post(m->vm.vcpus[i], EVENT_KICK);
		vcpu_thread_kick(m, i);
		pthread_join(m->threads[i].thread, NULL);
	}
}
