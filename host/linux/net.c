/* See net.h. Here: the thread, its queues, and what is asked of it from outside. The order of
 * locks is: VM lock, then the network's own. */
#include "host/linux/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/split.h"
#include "core/net/merge.h"
#include "host/linux/clock.h"
#include "host/linux/ledger.h"
#include "host/linux/net_int.h"

#define FIFO_SIZE MIB(1)
/* With this much waiting for the guest, nothing more is read from the link. */
#define RX_ENOUGH KIB(512)
#define TX_BATCH 64
/* Until a link that had no room is asked again. */
#define BUSY_NS 500000
/* Frames up to this size need not wait for the thread to wake (net_link_ops.send_now). */
#define NOW_MAX KIB(2)
/* After traffic the thread's first sleep is no longer than this, and an interrupt that the device
 * owes for what was sent may be late by it: so the thread need not wake to see to that. */
#define LIVELY_NS 4000000

/* What another thread wants done on the network's. */
struct request {
	int (*run)(struct host_net *n, const struct host_net_forward *f, struct err *e);
	const struct host_net_forward *forward;
	struct err *e;
	int result;
	bool done;
};

struct host_net {
	struct host_net_config config;
	const struct vm_host *vm;
	struct net_device device;
	struct net_link link;
	int wake; /* eventfd */
	pthread_t thread;
	bool started;

	pthread_mutex_t lock;
	pthread_cond_t served;
	struct frame_fifo tx; /* from the guest; pushed by VM lock holders, popped by the thread */
	bool asleep, quit;
	uint64_t sleeps_until; /* while asleep; UINT64_MAX: for ever */
	bool tx_full;		   /* the device waits for room */
	bool new_limits;	   /* in config.limits */
	uint64_t flush_ns;	   /* when the device wants its flush(); UINT64_MAX: not. Changed by VM lock
							* holders only */
	struct request *request;
	struct host_net_counters counters;

	bool paused, up; /* VM lock */

	/* The thread's own; before it starts, whoever makes the network. */
	struct frame_fifo rx;
	bool rx_blocked; /* the device has no room: wait for readable() */
	bool readable;	 /* under `lock` */
	struct host_net_forward forwards[HOST_NET_FORWARDS];
	unsigned nforwards; /* under `lock`, with the above */
	struct net_poll poll;
	struct bucket tx_bytes, tx_frames, rx_bytes, rx_frames;
	struct share {
		struct bucket bucket; /* what the other VMs leave; no rate: all */
		uint64_t moved;		  /* not yet in the ledger */
		bool held;
	} shares[2];		/* by enum ledger_way */
	uint64_t shares_ns; /* when they were last looked up */
	int64_t wait_ns;	/* for a limit or a busy link, before it goes on; -1: for nothing */
	bool tx_held;		/* so: frames of the guest wait */
	bool rx_held;
	bool lively; /* something came or went since it last slept */
};

int net_poll_add(struct net_poll *p, int fd, short events) {
	if (p->n == p->size) {
		unsigned size = p->size ? 2 * p->size : 16;
		struct pollfd *fds = realloc(p->fds, size * sizeof(*fds));
		if (!fds)
			return -1;
		p->fds = fds;
		p->size = size;
	}
	p->fds[p->n] = (struct pollfd){fd, events, 0};
	return (int)p->n++;
}

void net_poll_within(struct net_poll *p, int64_t ns) {
	if (p->timeout_ns < 0 || ns < p->timeout_ns)
		p->timeout_ns = MAX(ns, 0);
}

static void lock_vm(struct host_net *n) {
	n->vm->lock(n->vm->opaque);
}

static void unlock_vm(struct host_net *n) {
	n->vm->unlock(n->vm->opaque);
}

/* --- limits --- */

/* May a frame go on? If not, notes when to ask again. */
static bool allowed(struct host_net *n, struct bucket *bytes, struct bucket *frames,
					struct share *s) {
	if (!bytes->limit.rate && !frames->limit.rate && !s->bucket.limit.rate)
		return true;
	uint64_t now = host_now_ns(), a = bucket_wait(bytes, now), b = bucket_wait(frames, now);
	uint64_t c = bucket_wait(&s->bucket, now);
	int64_t wait = (int64_t)MAX(MAX(a, b), c);
	s->held |= c && c >= MAX(a, b);
	if (wait && (n->wait_ns < 0 || wait < n->wait_ns))
		n->wait_ns = wait;
	return !wait;
}

static void take_share(struct share *s, size_t len) {
	bucket_take(&s->bucket, len);
	s->moved += len;
}

/* What a large frame is on the wire: its segments count, not the one piece. */
static unsigned frames_in(const struct frame *f) {
	return f->gso == FRAME_GSO_NONE ? 1 : (unsigned)(f->len / f->gso_size + 1);
}

/* One of the guest's has gone. */
static void account_tx(struct host_net *n, const struct frame *f) {
	bucket_take(&n->tx_bytes, f->len);
	bucket_take(&n->tx_frames, frames_in(f));
	take_share(&n->shares[LEDGER_OUT], f->len);
}

/* --- for the device; VM lock held --- */

/* With `lock` held, which it gives back first: the thread takes it as soon as it is awake. */
static void unlock_and_wake(struct host_net *n) {
	uint64_t one = 1;
	bool asleep = n->asleep; /* if not, it looks again before it sleeps */
	n->asleep = false;
	pthread_mutex_unlock(&n->lock);
	ssize_t r = asleep ? write(n->wake, &one, sizeof(one)) : 0;
	(void)r; /* fails only when the counter is full, and then it wakes anyway */
}

static uint8_t *backend_room(void *opaque) {
	struct host_net *n = opaque;
	pthread_mutex_lock(&n->lock);
	uint8_t *room = fifo_room(&n->tx);
	n->tx_full = !room;
	pthread_mutex_unlock(&n->lock);
	return room;
}

static void backend_send(void *opaque, const struct frame *f) {
	struct host_net *n = opaque;
	pthread_mutex_lock(&n->lock);
	fifo_commit(&n->tx, f);
	n->counters.tx_frames++;
	n->counters.tx_bytes += f->len;
	pthread_mutex_unlock(&n->lock);
}

/* After so many ns from now; UINT64_MAX: never. */
static uint64_t after(uint64_t ns) {
	return ns == UINT64_MAX ? ns : host_now_ns() + ns;
}

/* Sends small frames from here: to wake the thread for them is three system calls and a switch.
 * With `lock` held and the thread asleep, so that all that is its own is at rest. false: something
 * is left for it. */
static bool send_now(struct host_net *n) {
	struct frame f;
	if (!n->link.ops->send_now || n->tx_full || n->new_limits)
		return false;
	while (fifo_peek(&n->tx, &f)) {
		if (f.len > NOW_MAX || !allowed(n, &n->tx_bytes, &n->tx_frames, &n->shares[LEDGER_OUT]) ||
			!n->link.ops->send_now(n->link.self, &f, (uint8_t *)(uintptr_t)f.data))
			return false;
		account_tx(n, &f);
		fifo_pop(&n->tx);
		n->counters.tx_now++;
	}
	return true;
}

static void backend_kick(void *opaque, uint64_t flush_ns) {
	struct host_net *n = opaque;
	uint64_t at = after(flush_ns);
	pthread_mutex_lock(&n->lock);
	n->flush_ns = at;
	if (n->asleep && n->sleeps_until - LIVELY_NS <= at && send_now(n))
		pthread_mutex_unlock(&n->lock);
	else
		unlock_and_wake(n);
}

static void backend_readable(void *opaque) {
	struct host_net *n = opaque;
	pthread_mutex_lock(&n->lock);
	n->readable = true;
	unlock_and_wake(n);
}

struct net_backend host_net_backend(struct host_net *n) {
	return (struct net_backend){backend_room, backend_send, backend_kick, backend_readable, n};
}

/* --- the thread --- */

static void count_rx(struct host_net *n, const struct frame *f, bool taken) {
	n->lively = true;
	pthread_mutex_lock(&n->lock);
	if (taken) {
		n->counters.rx_frames++;
		n->counters.rx_bytes += f->len;
	} else {
		n->counters.rx_dropped++;
	}
	pthread_mutex_unlock(&n->lock);
}

void net_to_guest(struct host_net *n, const struct frame *f) {
	struct frame last;
	size_t size;
	bool taken = fifo_last(&n->rx, &last, &size) &&
				 frame_merge(&last, (uint8_t *)(uintptr_t)last.data, MIN(size, FRAME_MAX), f);
	if (taken)
		fifo_grow(&n->rx, &last);
	else
		taken = fifo_push(&n->rx, f);
	count_rx(n, f, taken);
}

uint8_t *net_guest_room(struct host_net *n) {
	return fifo_room(&n->rx);
}

void net_guest_commit(struct host_net *n, const struct frame *f) {
	if (!f) {
		fifo_refuse(&n->rx);
		return;
	}
	fifo_commit(&n->rx, f);
	count_rx(n, f, true);
}

static void take_limits(struct host_net *n) {
	uint64_t now = host_now_ns();
	pthread_mutex_lock(&n->lock);
	struct host_net_limits l = n->config.limits;
	bool fresh = n->new_limits;
	n->new_limits = false;
	pthread_mutex_unlock(&n->lock);
	if (!fresh)
		return;
	bucket_init(&n->tx_bytes, l.tx_bytes, now);
	bucket_init(&n->tx_frames, l.tx_frames, now);
	bucket_init(&n->rx_bytes, l.rx_bytes, now);
	bucket_init(&n->rx_frames, l.rx_frames, now);
}

/* Writes into the ledger what went through, and once a window looks up how much may. */
static void take_shares(struct host_net *n) {
	struct ledger *l = n->config.ledger;
	if (!l)
		return;
	uint64_t now = host_now_ns();
	bool fresh = now - n->shares_ns >= SPLIT_WINDOW_NS;
	for (unsigned way = 0; way < 2; way++) {
		struct share *s = &n->shares[way];
		if (s->moved)
			ledger_net_moved(l, way, s->moved);
		if (s->held)
			ledger_net_held(l, way);
		s->moved = 0;
		s->held = false;
		uint64_t rate = fresh ? ledger_net_limit(l, way) : s->bucket.limit.rate;
		if (rate == s->bucket.limit.rate)
			continue;
		/* A new bucket starts full: only the tokens that the old one had, or debt. */
		int64_t tokens = s->bucket.tokens;
		bool was = s->bucket.limit.rate != 0;
		bucket_init(&s->bucket, (struct rate){rate, MAX(rate / 50, 2u * FRAME_MAX)}, now);
		if (was)
			s->bucket.tokens = MIN(tokens, s->bucket.tokens);
	}
	if (fresh)
		n->shares_ns = now;
}

static void send_waiting(struct host_net *n) {
	struct frame f;
	bool room = false;
	n->tx_held = false;
	for (unsigned i = 0; i < TX_BATCH; i++) {
		pthread_mutex_lock(&n->lock);
		bool any = fifo_peek(&n->tx, &f);
		pthread_mutex_unlock(&n->lock);
		if (!any)
			break;
		n->lively = true;
		if (!allowed(n, &n->tx_bytes, &n->tx_frames, &n->shares[LEDGER_OUT])) {
			n->tx_held = true;
			break;
		}
		if (!n->link.ops->send(n->link.self, &f, (uint8_t *)(uintptr_t)f.data)) {
			n->tx_held = true;
			if (n->wait_ns < 0 || n->wait_ns > BUSY_NS)
				n->wait_ns = BUSY_NS;
			break;
		}
		account_tx(n, &f);
		pthread_mutex_lock(&n->lock);
		fifo_pop(&n->tx);
		/* Not at the first free byte: the guest shall send in batches, too. */
		if (n->tx_full && n->tx.bytes < FIFO_SIZE / 2) {
			n->tx_full = false;
			room = true;
		}
		pthread_mutex_unlock(&n->lock);
		if (room)
			break;
	}
	if (!room)
		return;
	lock_vm(n);
	if (n->paused) {
		pthread_mutex_lock(&n->lock);
		n->tx_full = true; /* said again by host_net_pause() */
		pthread_mutex_unlock(&n->lock);
	} else {
		n->device.writable(n->device.dev);
	}
	unlock_vm(n);
}

static bool flush_due(struct host_net *n) {
	pthread_mutex_lock(&n->lock);
	uint64_t at = n->flush_ns;
	pthread_mutex_unlock(&n->lock);
	return at != UINT64_MAX && at <= host_now_ns();
}

/* VM lock held. Paused, the guest is told later: host_net_pause() asks for it. */
static void flush(struct host_net *n) {
	uint64_t at = n->paused ? UINT64_MAX : after(n->device.flush(n->device.dev));
	pthread_mutex_lock(&n->lock);
	n->flush_ns = at;
	pthread_mutex_unlock(&n->lock);
}

static void deliver_waiting(struct host_net *n) {
	struct frame f;
	n->rx_held = false;
	if ((!n->rx.count || n->rx_blocked) && !flush_due(n))
		return;
	lock_vm(n);
	n->rx_blocked |= n->paused;
	while (!n->rx_blocked && fifo_peek(&n->rx, &f)) {
		n->rx_held = !allowed(n, &n->rx_bytes, &n->rx_frames, &n->shares[LEDGER_IN]);
		if (n->rx_held)
			break;
		bucket_take(&n->rx_bytes, f.len);
		bucket_take(&n->rx_frames, frames_in(&f));
		take_share(&n->shares[LEDGER_IN], f.len);
		if (n->device.receive(n->device.dev, &f))
			fifo_pop(&n->rx);
		else
			n->rx_blocked = true;
	}
	flush(n);
	unlock_vm(n);
}

static void serve_request(struct host_net *n) {
	struct request *r = n->request;
	if (!r)
		return;
	r->result = r->run(n, r->forward, r->e);
	r->done = true;
	n->request = NULL;
	pthread_cond_broadcast(&n->served);
}

/* Waits for the link or a call; false: to end. */
static bool wait_ready(struct host_net *n) {
	struct net_poll *p = &n->poll;
	p->n = 0;
	p->timeout_ns = n->wait_ns;
	net_poll_add(p, n->wake, POLLIN);
	bool listen = n->rx.bytes < RX_ENOUGH;
	if (listen)
		n->link.ops->fill(n->link.self, p);
	if (n->lively && n->link.ops->send_now)
		net_poll_within(p, LIVELY_NS);
	n->lively = false;

	pthread_mutex_lock(&n->lock);
	serve_request(n);
	if (n->readable) {
		n->readable = n->rx_blocked = false;
		if (n->rx.count && !n->rx_held)
			p->timeout_ns = 0;
	}
	if (n->tx.count && !n->tx_held)
		p->timeout_ns = 0;
	if (n->flush_ns != UINT64_MAX && p->timeout_ns)
		net_poll_within(p, (int64_t)(n->flush_ns - host_now_ns()));
	n->asleep = p->timeout_ns != 0;
	n->sleeps_until = p->timeout_ns < 0 ? UINT64_MAX : host_now_ns() + (uint64_t)p->timeout_ns;
	bool quit = n->quit;
	pthread_mutex_unlock(&n->lock);
	if (quit)
		return false;

	struct timespec t = {p->timeout_ns / 1000000000, p->timeout_ns % 1000000000};
	int r = ppoll(p->fds, p->n, p->timeout_ns < 0 ? NULL : &t, NULL);
	pthread_mutex_lock(&n->lock);
	n->asleep = false;
	pthread_mutex_unlock(&n->lock);
	uint64_t count;
	if (r > 0 && p->fds[0].revents) {
		ssize_t got = read(n->wake, &count, sizeof(count));
		(void)got;
	}
	if (listen)
		n->link.ops->ready(n->link.self, p, r < 0);
	return true;
}

static void *net_main(void *opaque) {
	struct host_net *n = opaque;
	do {
		n->wait_ns = -1;
		take_limits(n);
		take_shares(n);
		send_waiting(n);
		deliver_waiting(n);
	} while (wait_ready(n));
	return NULL;
}

/* --- calls from outside --- */

static int call(struct host_net *n,
				int (*run)(struct host_net *n, const struct host_net_forward *f, struct err *e),
				const struct host_net_forward *f, struct err *e) {
	struct request r = {run, f, e, 0, false};
	pthread_mutex_lock(&n->lock);
	if (!n->started) {
		r.result = run(n, f, e);
	} else {
		while (n->request)
			pthread_cond_wait(&n->served, &n->lock);
		n->request = &r;
		unlock_and_wake(n);
		pthread_mutex_lock(&n->lock);
		while (!r.done)
			pthread_cond_wait(&n->served, &n->lock);
	}
	pthread_mutex_unlock(&n->lock);
	return r.result;
}

static int find_forward(const struct host_net *n, const struct host_net_forward *f) {
	for (unsigned i = 0; i < n->nforwards; i++) {
		const struct host_net_forward *g = &n->forwards[i];
		if (g->udp == f->udp && g->host.s_addr == f->host.s_addr && g->host_port == f->host_port)
			return (int)i;
	}
	return -1;
}

static int run_add(struct host_net *n, const struct host_net_forward *f, struct err *e) {
	char text[HOST_NET_FORWARD_TEXT];
	host_net_forward_text(f, text);
	if (!n->link.ops->add_forward)
		return err_set(e, ERR_NOTSUP, "forward %s: this kind of network forwards no ports", text);
	if (find_forward(n, f) >= 0)
		return err_set(e, ERR_EXIST, "forward %s: the host's port is forwarded already", text);
	if (n->nforwards == HOST_NET_FORWARDS)
		return err_set(e, ERR_NOSPC, "forward %s: no more than %d", text, HOST_NET_FORWARDS);
	int r = n->link.ops->add_forward(n->link.self, f, e);
	if (!r)
		n->forwards[n->nforwards++] = *f;
	return r;
}

static int run_remove(struct host_net *n, const struct host_net_forward *f, struct err *e) {
	char text[HOST_NET_FORWARD_TEXT];
	int i = find_forward(n, f);
	host_net_forward_text(f, text);
	if (i < 0)
		return err_set(e, ERR_NOENT, "forward %s: there is none of this host port", text);
	int r = n->link.ops->remove_forward(n->link.self, f, e);
	if (!r)
		n->forwards[i] = n->forwards[--n->nforwards];
	return r;
}

int host_net_add_forward(struct host_net *n, const struct host_net_forward *f, struct err *e) {
	return call(n, run_add, f, e);
}

int host_net_remove_forward(struct host_net *n, const struct host_net_forward *f, struct err *e) {
	return call(n, run_remove, f, e);
}

unsigned host_net_forwards(struct host_net *n, struct host_net_forward *out, unsigned max) {
	pthread_mutex_lock(&n->lock);
	unsigned count = n->nforwards;
	memcpy(out, n->forwards, MIN(count, max) * sizeof(*out));
	pthread_mutex_unlock(&n->lock);
	return count;
}

void host_net_set_limits(struct host_net *n, const struct host_net_limits *limits) {
	pthread_mutex_lock(&n->lock);
	n->config.limits = *limits;
	n->new_limits = true;
	unlock_and_wake(n);
}

void host_net_set_link(struct host_net *n, bool up) {
	lock_vm(n);
	n->up = up;
	n->device.set_link(n->device.dev, up);
	unlock_vm(n);
}

bool host_net_link(const struct host_net *n) {
	return n->up;
}

void host_net_pause(struct host_net *n, bool paused) {
	lock_vm(n);
	n->paused = paused;
	pthread_mutex_lock(&n->lock);
	bool room = !paused && n->tx_full;
	n->tx_full &= !room;
	n->readable = true;
	n->flush_ns = paused ? UINT64_MAX : 0;
	unlock_and_wake(n);
	if (room && n->started)
		n->device.writable(n->device.dev);
	unlock_vm(n);
}

void host_net_counters(struct host_net *n, struct host_net_counters *out) {
	pthread_mutex_lock(&n->lock);
	*out = n->counters;
	pthread_mutex_unlock(&n->lock);
}

void host_net_mac(const struct host_net *n, uint8_t mac[6]) {
	memcpy(mac, n->config.mac, 6);
}

/* --- making and ending --- */

/* 52:54:00 is what VMs have used for long; locally administered, not multicast. */
static int make_mac(uint8_t mac[6]) {
	static const uint8_t none[6];
	if (memcmp(mac, none, 6) != 0)
		return 0;
	mac[0] = 0x52;
	mac[1] = 0x54;
	return getrandom(mac + 3, 3, 0) == 3 ? 0 : -EIO;
}

static int make_link(struct host_net *n, struct err *e) {
	struct net_user_config alone = net_user_alone(n);
	int r = 0;
	if (n->config.kind == HOST_NET_LAN)
		r = net_lan_create(&n->link, n, &n->config, e);
	else if (n->config.kind == HOST_NET_TAP)
		r = net_tap_create(&n->link, n, &n->config, e);
	else
		r = net_user_create(&n->link, &alone, &n->config, e);
	if (!r && (r = make_mac(n->config.mac)))
		err_set(e, -r, "no random numbers for a network card's address");
	return r;
}

int host_net_create(struct host_net **out, const struct host_net_config *c,
					const struct vm_host *vm, struct err *e) {
	struct host_net *n = calloc(1, sizeof(*n));
	uint8_t *tx = aligned_alloc(16, FIFO_SIZE), *rx = aligned_alloc(16, FIFO_SIZE);
	int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!n || !tx || !rx || wake_fd < 0) {
		free(n);
		free(tx);
		free(rx);
		if (wake_fd >= 0)
			close(wake_fd);
		return err_set(e, ERR_NOMEM, "no memory for a network");
	}
	n->config = *c;
	n->vm = vm;
	n->wake = wake_fd;
	n->up = n->new_limits = true;
	n->flush_ns = UINT64_MAX;
	fifo_init(&n->tx, tx, FIFO_SIZE);
	fifo_init(&n->rx, rx, FIFO_SIZE);
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->served, NULL);
	int r = make_link(n, e);
	if (r) {
		host_net_destroy(n);
		return r;
	}
	*out = n;
	return 0;
}

int host_net_start(struct host_net *n, struct net_device device, struct err *e) {
	n->device = device;
	n->started = true;
	int r = pthread_create(&n->thread, NULL, net_main, n);
	if (r) {
		n->started = false;
		return err_set(e, r, "cannot start a network's thread: %s", strerror(r));
	}
	pthread_setname_np(n->thread, "net");
	return 0;
}

void host_net_destroy(struct host_net *n) {
	if (n->started) {
		pthread_mutex_lock(&n->lock);
		n->quit = true;
		unlock_and_wake(n);
		pthread_join(n->thread, NULL);
	}
	if (n->link.ops)
		n->link.ops->destroy(n->link.self);
	close(n->wake);
	free(n->tx.buf);
	free(n->rx.buf);
	free(n->poll.fds);
	pthread_cond_destroy(&n->served);
	pthread_mutex_destroy(&n->lock);
	free(n);
}
