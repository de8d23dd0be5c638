/* Stop-the-world, and the way in and out of guest code.
 *
 * A vCPU's in_guest flag is set while it executes guest instructions. Whoever wants to be
 * alone announces it (excl_wanted), then waits until every other flag is clear; the others
 * see the announcement at their next block and stand aside. Entering is a store, a
 * fence and a load, so the usual case takes no lock. */
#include "engine/soft/soft.h"

static void stand_aside(struct soft_vcpu *c) {
	struct soft *e = c->soft;
	pthread_mutex_lock(&e->excl_lock);
	for (;;) {
		__atomic_store_n(&c->in_guest, 0, __ATOMIC_SEQ_CST);
		pthread_cond_broadcast(&e->excl_cond);
		if (e->excl_owner == c || !__atomic_load_n(&e->excl_wanted, __ATOMIC_SEQ_CST))
			break;
		pthread_cond_wait(&e->excl_cond, &e->excl_lock);
	}
	__atomic_store_n(&c->in_guest, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&e->excl_lock);
}

void soft_enter_guest(struct soft_vcpu *c) {
	__atomic_store_n(&c->in_guest, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&c->soft->excl_wanted, __ATOMIC_SEQ_CST) && c->soft->excl_owner != c) {
		soft_fpu_unload(c);
		stand_aside(c);
	}
}

void soft_leave_guest(struct soft_vcpu *c) {
	__atomic_store_n(&c->in_guest, 0, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&c->soft->excl_wanted, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&c->soft->excl_lock);
		pthread_cond_broadcast(&c->soft->excl_cond);
		pthread_mutex_unlock(&c->soft->excl_lock);
	}
}

static bool others_in_guest(const struct soft_vcpu *c) {
	for (unsigned n = 0; n < c->soft->nvcpus; n++) {
		const struct soft_vcpu *o = c->soft->vcpus[n];
		if (o && o != c && __atomic_load_n(&o->in_guest, __ATOMIC_SEQ_CST))
			return true;
	}
	return false;
}

void soft_exclusive_begin(struct soft_vcpu *c) {
	struct soft *e = c->soft;
	soft_fpu_unload(c);
	pthread_mutex_lock(&e->excl_lock);
	__atomic_fetch_add(&e->excl_wanted, 1, __ATOMIC_SEQ_CST);
	for (unsigned n = 0; n < e->nvcpus; n++) /* translated code sees only this */
		if (e->vcpus[n] != c)
			__atomic_store_n(&e->vcpus[n]->jit.poll, 1, __ATOMIC_SEQ_CST);
	/* Aside while another one is alone; then alone oneself. */
	__atomic_store_n(&c->in_guest, 0, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&e->excl_cond);
	while (e->excl_owner || others_in_guest(c))
		pthread_cond_wait(&e->excl_cond, &e->excl_lock);
	e->excl_owner = c;
	__atomic_store_n(&c->in_guest, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&e->excl_lock);
}

void soft_exclusive_end(struct soft_vcpu *c) {
	struct soft *e = c->soft;
	pthread_mutex_lock(&e->excl_lock);
	e->excl_owner = NULL;
	__atomic_fetch_sub(&e->excl_wanted, 1, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&e->excl_cond);
	pthread_mutex_unlock(&e->excl_lock);
	/* Others may be waiting for their turn: let them see us outside for a moment. */
	soft_enter_guest(c);
}

void soft_exit(struct soft_vcpu *c) {
	soft_fpu_unload(c);
	soft_leave_guest(c);
	vcpu_exit(c->v, &c->exit);
	soft_enter_guest(c);
	if (vcpu_events(c->v)) /* an interrupt that the access raised comes right behind it */
		c->leave_block = true;
}
