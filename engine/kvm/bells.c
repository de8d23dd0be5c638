/* Doorbells that need no exit ([KVM api.rst] KVM_IOEVENTFD): a guest's write to one of struct
 * mem_bell makes an eventfd readable and the guest goes on at once; a thread does the write then,
 * with the VM lock held, as if it had come late. Where KVM has no ioeventfd, or no descriptor is
 * left, the write exits as any other.
 *
 * Nothing is served while all vCPUs are outside of kvm_run(), and nothing is left over then:
 * the last one out does what the thread has not done yet. So a VM that stands still does stand
 * still, and its state is whole. */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"
#include "engine/kvm/kvm.h"

#define AT_ONCE 16
#define QUIT UINT32_MAX /* in epoll's data: not a bell */

static void futex(uint32_t *word, int op, uint32_t val) {
	syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, NULL, NULL, 0);
}

static void lock(struct kvm_engine *e) {
	e->vm->host->lock(e->vm->host->opaque);
}

static void unlock(struct kvm_engine *e) {
	e->vm->host->unlock(e->vm->host->opaque);
}

/* ---- serving ------------------------------------------------------------------------------ */

/* VM lock held. */
static void serve(struct kvm_engine *e, const struct kvm_bell *b) {
	uint64_t times;
	if (!b->region || read(b->fd, &times, sizeof(times)) != sizeof(times))
		return;
	e->rings++;
	b->region->ops->write(b->region->dev, b->gpa - b->region->base, b->size ? b->size : 2, b->val);
}

static void serve_all(struct kvm_engine *e, const struct epoll_event *ev, int n) {
	for (int i = 0; i < n; i++)
		if (ev[i].data.u32 != QUIT)
			serve(e, &e->bells[ev[i].data.u32]);
}

static void *bell_main(void *opaque) {
	struct kvm_engine *e = opaque;
	struct epoll_event ev[AT_ONCE];
	while (!__atomic_load_n(&e->bells_quit, __ATOMIC_ACQUIRE)) {
		int n = epoll_wait(e->bells_epoll, ev, AT_ONCE, -1);
		if (!__atomic_load_n(&e->running, __ATOMIC_SEQ_CST)) {
			futex(&e->running, FUTEX_WAIT, 0);
			continue;
		}
		lock(e);
		if (__atomic_load_n(&e->running, __ATOMIC_SEQ_CST))
			serve_all(e, ev, n);
		unlock(e);
	}
	return NULL;
}

void kvm_bells_enter(struct kvm_engine *e) {
	if (!__atomic_fetch_add(&e->running, 1, __ATOMIC_SEQ_CST) && e->has_bells)
		futex(&e->running, FUTEX_WAKE, 1);
}

void kvm_bells_leave(struct kvm_engine *e) {
	struct epoll_event ev[AT_ONCE];
	int n;
	if (__atomic_sub_fetch(&e->running, 1, __ATOMIC_SEQ_CST) || !e->has_bells)
		return;
	lock(e);
	while ((n = epoll_wait(e->bells_epoll, ev, AT_ONCE, 0)) > 0)
		serve_all(e, ev, n);
	unlock(e);
}

/* ---- which there are ---------------------------------------------------------------------- */

/* 0, or an errno value; what it has opened then close_all() closes. */
static int start(struct kvm_engine *e) {
	struct epoll_event ev = {.events = EPOLLIN, .data.u32 = QUIT};
	sigset_t all, before;
	e->bells_epoll = epoll_create1(EPOLL_CLOEXEC);
	e->bells_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->bells_epoll < 0 || e->bells_wake < 0 ||
		epoll_ctl(e->bells_epoll, EPOLL_CTL_ADD, e->bells_wake, &ev) < 0)
		return errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&e->bells_thread, NULL, bell_main, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return r;
	pthread_setname_np(e->bells_thread, "doorbells");
	e->has_bells = true;
	return 0;
}

static void close_all(struct kvm_engine *e) {
	if (e->bells_wake >= 0)
		close(e->bells_wake);
	if (e->bells_epoll >= 0)
		close(e->bells_epoll);
	e->bells_wake = e->bells_epoll = -1;
}

/* Is the thread there, or can it be made? */
static bool started(struct kvm_engine *e) {
	if (e->has_bells)
		return true;
	int r = start(e);
	if (r) {
		log_line(LOG_DEBUG, "no thread for doorbells (%s): the guest exits there", strerror(r));
		close_all(e);
	}
	return !r;
}

static int assign(struct kvm_engine *e, const struct kvm_bell *b, bool on) {
	struct kvm_ioeventfd k = {
		.addr = b->gpa,
		.len = b->size,
		.fd = b->fd,
		.datamatch = b->val,
		.flags =
			(b->size ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) | (on ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};
	return kvm_ioctl(e->fd, KVM_IOEVENTFD, &k);
}

static void drop(struct kvm_engine *e, struct kvm_bell *b) {
	if (assign(e, b, false) < 0)
		log_line(LOG_ERROR, "KVM keeps a doorbell at %llx: %s", (unsigned long long)b->gpa,
				 strerror(errno));
	serve(e, b);
	close(b->fd);
	b->region = NULL;
}

static bool make(struct kvm_engine *e, struct kvm_bell *b) {
	struct epoll_event ev = {.events = EPOLLIN, .data.u32 = (uint32_t)(b - e->bells)};
	b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->fd >= 0 && assign(e, b, true) >= 0) {
		if (epoll_ctl(e->bells_epoll, EPOLL_CTL_ADD, b->fd, &ev) >= 0)
			return true;
		assign(e, b, false);
	}
	log_line(LOG_DEBUG, "no ioeventfd at %llx (%s): the guest exits there",
			 (unsigned long long)b->gpa, strerror(errno));
	if (b->fd >= 0)
		close(b->fd);
	b->region = NULL;
	return false;
}

/* The wanted ones, as far as there is room. */
static unsigned wanted(const struct mem_space *m, struct kvm_bell want[KVM_BELLS]) {
	unsigned n = 0;
	for (unsigned i = 0; i < m->nflat; i++) {
		const struct mem_range *at = &m->flat[i];
		for (unsigned k = 0; at->region && k < at->region->nbells && n < KVM_BELLS; k++) {
			const struct mem_bell *b = &at->region->bells[k];
			gpa_t gpa = at->region->base + b->off;
			if (gpa >= at->start && gpa < at->end)
				want[n++] = (struct kvm_bell){at->region, gpa, b->val, -1, b->size};
		}
	}
	return n;
}

static bool same(const struct kvm_bell *a, const struct kvm_bell *b) {
	return a->region == b->region && a->gpa == b->gpa && a->val == b->val && a->size == b->size;
}

void kvm_update_bells(struct kvm_engine *e) {
	struct kvm_bell want[KVM_BELLS];
	bool usable = kvm_part(KVM_PART_IOEVENTFD) && kvm_has(e->fd, KVM_CAP_IOEVENTFD) &&
				  kvm_has(e->fd, KVM_CAP_IOEVENTFD_ANY_LENGTH);
	unsigned n = wanted(&e->vm->mem, want);
	if (!usable || (!n && !e->has_bells) || !started(e))
		return;
	for (unsigned i = 0; i < KVM_BELLS; i++) {
		struct kvm_bell *b = &e->bells[i];
		unsigned k = 0;
		while (b->region && k < n && !same(b, &want[k]))
			k++;
		if (b->region && k < n)
			want[k].region = NULL; /* there is it */
		else if (b->region)
			drop(e, b);
	}
	for (unsigned k = 0, i = 0; k < n; k++) {
		if (!want[k].region)
			continue;
		while (e->bells[i].region)
			i++;
		e->bells[i] = want[k];
		if (!make(e, &e->bells[i]))
			return;
	}
}

void kvm_bells_destroy(struct kvm_engine *e) {
	if (e->has_bells) {
		uint64_t one = 1;
		__atomic_store_n(&e->bells_quit, true, __ATOMIC_RELEASE);
		__atomic_store_n(&e->running, 1, __ATOMIC_SEQ_CST); /* nobody runs: it must not sleep */
		futex(&e->running, FUTEX_WAKE, 1);
		check(write(e->bells_wake, &one, sizeof(one)) == sizeof(one));
		pthread_join(e->bells_thread, NULL);
	}
	for (unsigned i = 0; i < KVM_BELLS; i++)
		if (e->bells[i].region)
			close(e->bells[i].fd);
	close_all(e);
}
