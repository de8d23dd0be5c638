/* See vsock.h. A link is a connected Unix socket. Its stream of the device may come later than the
 * link (a client first says where it wants to go) and end earlier (what the guest wrote before it
 * went is still passed on). */
#include "host/linux/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "host/linux/unix.h"

#define LINKS (2 * VSOCK_CONNS) /* with those that have no stream */
#define INPUT_SIZE 16384
#define GREETING_SIZE 32 /* "CONNECT 4294967295\n" and some patience */

enum phase {
	GREETING, /* reading where the client wants to go */
	ASKED,	  /* the guest has been asked */
	OPEN,
	FLUSHING, /* the stream is over, bytes of the guest's are not yet sent */
	DEAD,	  /* the loop's thread closes and frees it */
};

struct link {
	struct host_vsock *h;
	struct link *next;
	struct loop_source source;
	enum phase phase;
	unsigned conn;	   /* in ASKED and OPEN */
	uint32_t events;   /* that the loop waits for */
	bool watched;	   /* by the loop at all */
	bool hung_up;	   /* the client has closed */
	bool ended;		   /* the client sends no more */
	bool finish, both; /* the guest sends no more; nor reads */
	size_t in_len, out_len, greeting_len;
	char greeting[GREETING_SIZE];
	uint8_t in[INPUT_SIZE];	   /* for the guest */
	uint8_t out[VSOCK_WINDOW]; /* from it */
};

struct host_vsock {
	struct loop *loop;
	const struct vm_host *vm;
	char *path;
	struct vsock_device device;
	struct loop_source listener;
	struct loop_event reap;
	bool started;
	struct link *links;
	struct link *streams[VSOCK_CONNS];
	unsigned nlinks;
};

/* ---- links ------------------------------------------------------------------------------- */

static void watch(struct link *l) {
	uint32_t events = l->out_len ? EPOLLOUT : 0;
	if (l->phase == GREETING || (l->phase == OPEN && !l->in_len && !l->ended))
		events |= EPOLLIN;
	/* Nobody can be asked not to tell of a client that has hung up. */
	bool watched = !l->hung_up || !l->in_len;
	if (l->phase == DEAD)
		return;
	if (watched && !l->watched)
		loop_add(l->h->loop, &l->source, events);
	else if (!watched && l->watched)
		loop_remove(l->h->loop, &l->source);
	else if (watched && events != l->events)
		loop_change(l->h->loop, &l->source, events);
	l->watched = watched;
	l->events = events;
}

static void die(struct link *l) {
	if (l->phase == DEAD)
		return;
	l->phase = DEAD;
	loop_event_signal(&l->h->reap);
}

/* The link lets go of its stream; the device is told. */
static void leave(struct link *l, bool reset) {
	struct host_vsock *h = l->h;
	if (l->phase != ASKED && l->phase != OPEN)
		return;
	unsigned conn = l->conn;
	h->streams[conn] = NULL;
	die(l);
	h->device.close(h->device.dev, conn, reset);
}

static void stop(struct link *l, bool reset) {
	leave(l, reset);
	die(l);
}

static struct link *add(struct host_vsock *h, int fd, enum phase phase,
						void (*ready)(void *, uint32_t)) {
	struct link *l = h->nlinks < LINKS ? calloc(1, sizeof(*l)) : NULL;
	if (!l) {
		close(fd);
		return NULL;
	}
	*l = (struct link){.h = h, .phase = phase, .events = EPOLLIN, .watched = true};
	l->source = (struct loop_source){fd, ready, l};
	if (loop_add(h->loop, &l->source, l->events) < 0) {
		close(fd);
		free(l);
		return NULL;
	}
	l->next = h->links;
	h->links = l;
	h->nlinks++;
	return l;
}

static void destroy(struct link *l) {
	if (l->watched)
		loop_remove(l->h->loop, &l->source);
	close(l->source.fd);
	l->h->nlinks--;
	free(l);
}

static void on_reap(void *opaque) {
	struct host_vsock *h = opaque;
	h->vm->lock(h->vm->opaque);
	for (struct link **at = &h->links; *at;) {
		struct link *l = *at;
		if (l->phase != DEAD) {
			at = &l->next;
			continue;
		}
		*at = l->next;
		destroy(l);
	}
	h->vm->unlock(h->vm->opaque);
}

/* ---- from the guest ----------------------------------------------------------------------- */

static bool gone(ssize_t n) {
	return n < 0 && errno != EAGAIN && errno != EINTR;
}

/* Sends; returns how much, -1: nobody reads any more. */
static ssize_t put(struct link *l, const uint8_t *buf, size_t len) {
	ssize_t n = len ? send(l->source.fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	return gone(n) ? -1 : MAX(n, 0);
}

/* All that the guest wrote is out: what it said about the end holds now. */
static void after_output(struct link *l) {
	if (l->out_len)
		return;
	if (l->phase == FLUSHING)
		die(l);
	else if (l->both)
		stop(l, false);
	else if (l->finish)
		shutdown(l->source.fd, SHUT_WR);
}

static void consumed(struct link *l, size_t n) {
	if (n && l->phase == OPEN)
		l->h->device.consumed(l->h->device.dev, l->conn, n);
}

static void flush_output(struct link *l) {
	ssize_t n = put(l, l->out, l->out_len);
	if (n < 0) {
		stop(l, true);
		return;
	}
	l->out_len -= (size_t)n;
	memmove(l->out, l->out + n, l->out_len);
	consumed(l, (size_t)n);
	after_output(l);
	watch(l);
}

static void take_output(void *opaque, unsigned conn, const uint8_t *buf, size_t len) {
	struct host_vsock *h = opaque;
	struct link *l = h->streams[conn];
	ssize_t n = l->out_len ? 0 : put(l, buf, len);
	if (n < 0) {
		stop(l, true);
		return;
	}
	check(len - (size_t)n <= sizeof(l->out) - l->out_len);
	memcpy(l->out + l->out_len, buf + n, len - (size_t)n);
	l->out_len += len - (size_t)n;
	consumed(l, (size_t)n);
	watch(l);
}

static void take_finish(void *opaque, unsigned conn, bool both) {
	struct link *l = ((struct host_vsock *)opaque)->streams[conn];
	l->finish = true;
	l->both = both;
	after_output(l);
}

static void take_close(void *opaque, unsigned conn) {
	struct host_vsock *h = opaque;
	struct link *l = h->streams[conn];
	h->streams[conn] = NULL;
	if (!l->out_len) {
		die(l);
		return;
	}
	l->phase = FLUSHING;
	l->in_len = 0;
	watch(l);
}

/* ---- to the guest ------------------------------------------------------------------------- */

/* Gives the guest what is there. false: it takes no more now. */
static bool give(struct link *l) {
	struct host_vsock *h = l->h;
	size_t n = l->in_len ? h->device.receive(h->device.dev, l->conn, l->in, l->in_len) : 0;
	l->in_len -= n;
	memmove(l->in, l->in + n, l->in_len);
	return l->in_len == 0;
}

/* As long as the client has bytes and the guest takes them, within reason. What was read is also
 * offered to the guest before this ends: else nobody would ask for it again. */
static void pump(struct link *l) {
	for (unsigned i = 0; l->phase == OPEN && give(l) && !l->ended && i < 16; i++) {
		ssize_t n = recv(l->source.fd, l->in, sizeof(l->in), MSG_DONTWAIT);
		if (n > 0) {
			l->in_len = (size_t)n;
		} else if (n == 0 || gone(n)) {
			l->ended = true;
			if (!l->hung_up)
				l->h->device.finish(l->h->device.dev, l->conn);
		} else {
			break;
		}
	}
	/* Closed for good: bytes of the guest's that nobody read are lost. */
	if (l->phase == OPEN && l->ended && l->hung_up && !l->in_len)
		stop(l, l->out_len != 0);
	watch(l);
}

static void readable(void *opaque, unsigned conn) {
	pump(((struct host_vsock *)opaque)->streams[conn]);
}

static void link_ready(void *opaque, uint32_t events) {
	struct link *l = opaque;
	const struct vm_host *vm = l->h->vm;
	vm->lock(vm->opaque);
	if (events & (EPOLLHUP | EPOLLERR))
		l->hung_up = true;
	if (l->out_len)
		flush_output(l);
	if (l->phase == OPEN)
		pump(l);
	else if (l->hung_up)
		stop(l, true);
	vm->unlock(vm->opaque);
}

/* ---- coming and going ----------------------------------------------------------------------- */

static bool take_connect(void *opaque, unsigned conn, uint32_t port) {
	struct host_vsock *h = opaque;
	struct sockaddr_un a;
	char path[sizeof(a.sun_path) + 16];
	snprintf(path, sizeof(path), "%s_%u", h->path, port);
	if (unix_address(&a, path, "vsock", NULL))
		return false;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		close(fd);
		return false;
	}
	struct link *l = add(h, fd, OPEN, link_ready);
	if (!l)
		return false;
	l->conn = conn;
	h->streams[conn] = l;
	return true;
}

static void connected(void *opaque, unsigned conn) {
	struct host_vsock *h = opaque;
	struct link *l = h->streams[conn];
	char text[20];
	int n = snprintf(text, sizeof(text), "OK %u\n", h->device.host_port(h->device.dev, conn));
	l->phase = OPEN;
	/* The first bytes on a socket: there is room for them. */
	if (put(l, (uint8_t *)text, (size_t)n) != n)
		stop(l, true);
	else
		watch(l);
}

/* The line is whole: "CONNECT 1234". */
static void greeted(struct link *l) {
	struct host_vsock *h = l->h;
	char *end = NULL;
	l->greeting[l->greeting_len] = 0;
	bool good =
		strncmp(l->greeting, "CONNECT ", 8) == 0 && l->greeting[8] >= '0' && l->greeting[8] <= '9';
	unsigned long long port = good ? strtoull(l->greeting + 8, &end, 10) : 0;
	int conn =
		good && !*end && port < UINT32_MAX ? h->device.connect(h->device.dev, (uint32_t)port) : -1;
	if (conn < 0) {
		die(l);
		return;
	}
	l->phase = ASKED;
	l->conn = (unsigned)conn;
	h->streams[conn] = l;
	watch(l);
}

/* A byte at a time: what follows the line is the stream's. */
static void greeting_ready(void *opaque, uint32_t events) {
	struct link *l = opaque;
	const struct vm_host *vm = l->h->vm;
	if (l->phase != GREETING) {
		link_ready(l, events);
		return;
	}
	vm->lock(vm->opaque);
	for (;;) {
		char c;
		ssize_t n = recv(l->source.fd, &c, 1, MSG_DONTWAIT);
		if (n < 0 && !gone(n))
			break;
		if (n <= 0 || l->greeting_len == sizeof(l->greeting) - 1) {
			die(l);
			break;
		}
		if (c == '\n') {
			greeted(l);
			break;
		}
		l->greeting[l->greeting_len++] = c;
	}
	vm->unlock(vm->opaque);
}

static void listener_ready(void *opaque, uint32_t events) {
	struct host_vsock *h = opaque;
	int fd = accept4(h->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	h->vm->lock(h->vm->opaque);
	add(h, fd, GREETING, greeting_ready);
	h->vm->unlock(h->vm->opaque);
}

struct vsock_backend host_vsock_backend(struct host_vsock *h) {
	return (struct vsock_backend){take_connect, connected, take_output, take_finish, take_close,
								  readable,		h};
}

int host_vsock_create(struct host_vsock **out, struct loop *l, const char *path,
					  const struct vm_host *vm, struct err *e) {
	struct host_vsock *h = calloc(1, sizeof(*h));
	char *copy = strdup(path);
	if (!h || !copy) {
		free(h);
		free(copy);
		return err_set(e, ERR_NOMEM, "no memory for vsock %s", path);
	}
	h->loop = l;
	h->vm = vm;
	h->path = copy;
	int fd = unix_listen(path, "vsock", e), r = fd < 0 ? fd : 0;
	if (!r && (r = loop_event_create(l, &h->reap, on_reap, h)) != 0) {
		r = err_set(e, -r, "cannot make an event: %s", strerror(-r));
		close(fd);
		unlink(path);
	}
	if (r) {
		free(copy);
		free(h);
		return r;
	}
	h->listener = (struct loop_source){fd, listener_ready, h};
	*out = h;
	return 0;
}

int host_vsock_start(struct host_vsock *h, struct vsock_device device, struct err *e) {
	h->device = device;
	int r = loop_add(h->loop, &h->listener, EPOLLIN);
	if (r < 0)
		return err_set(e, -r, "cannot serve vsock %s: %s", h->path, strerror(-r));
	h->started = true;
	return 0;
}

void host_vsock_destroy(struct host_vsock *h) {
	while (h->links) {
		struct link *next = h->links->next;
		destroy(h->links);
		h->links = next;
	}
	if (h->started)
		loop_remove(h->loop, &h->listener);
	loop_event_destroy(h->loop, &h->reap);
	close(h->listener.fd);
	unlink(h->path);
	free(h->path);
	free(h);
}
