/* See channel.h. */
#include "host/linux/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/unix.h"

#define INPUT_SIZE 16384

struct host_channel {
	struct loop *loop;
	const struct vm_host *vm;
	char *path;
	struct char_device device;
	void (*set_open)(void *opaque, unsigned index, bool open);
	void *opaque;
	unsigned index;
	bool started;

	struct loop_source listener;
	/* VM lock, as all below. fd -1: nobody is there. */
	struct loop_source client;
	uint32_t events; /* that the loop waits for at the client */
	size_t len;		 /* of input that the guest has not taken yet */
	uint8_t input[INPUT_SIZE];
};

static void wait_for(struct host_channel *c, uint32_t events) {
	if (c->client.fd >= 0 && events != c->events) {
		c->events = events;
		loop_change(c->loop, &c->client, events);
	}
}

/* The guest writes. */
static size_t take_output(void *opaque, const uint8_t *buf, size_t len) {
	struct host_channel *c = opaque;
	if (c->client.fd < 0)
		return len;
	ssize_t n = send(c->client.fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return len; /* it has gone; the loop will see that */
	if (n < 0)
		n = 0;
	if ((size_t)n < len)
		wait_for(c, c->events | EPOLLOUT);
	return (size_t)n;
}

/* Gives the guest what is there, and reads on only when it took all of it. */
static void give_input(struct host_channel *c) {
	if (c->len) {
		size_t n = c->device.receive(c->device.dev, c->input, c->len);
		c->len -= n;
		memmove(c->input, c->input + n, c->len);
	}
	wait_for(c, c->len ? c->events & ~EPOLLIN : c->events | EPOLLIN);
}

static void readable(void *opaque) {
	give_input(opaque);
}

struct char_backend host_channel_backend(struct host_channel *c) {
	return (struct char_backend){take_output, readable, c};
}

static void drop_client(struct host_channel *c) {
	loop_remove(c->loop, &c->client);
	close(c->client.fd);
	c->client.fd = -1;
	c->len = 0;
}

static void client_gone(struct host_channel *c) {
	drop_client(c);
	c->set_open(c->opaque, c->index, false);
	/* A chain that waited for the client is dropped, not kept for the next one. */
	c->device.writable(c->device.dev);
	loop_change(c->loop, &c->listener, EPOLLIN);
}

static void client_ready(void *opaque, uint32_t events) {
	struct host_channel *c = opaque;
	c->vm->lock(c->vm->opaque);
	if (events & EPOLLOUT) {
		wait_for(c, c->events & ~EPOLLOUT);
		c->device.writable(c->device.dev);
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		size_t room = sizeof(c->input) - c->len;
		ssize_t n = room ? recv(c->client.fd, c->input + c->len, room, MSG_DONTWAIT) : -1;
		if (n > 0) {
			c->len += (size_t)n;
			give_input(c);
		} else if (n == 0 || (events & (EPOLLHUP | EPOLLERR)) ||
				   (errno != EAGAIN && errno != EINTR)) {
			client_gone(c);
		}
	}
	c->vm->unlock(c->vm->opaque);
}

static void listener_ready(void *opaque, uint32_t events) {
	struct host_channel *c = opaque;
	c->vm->lock(c->vm->opaque);
	int fd =
		c->client.fd < 0 ? accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
	if (fd >= 0) {
		c->client.fd = fd;
		c->events = EPOLLIN;
		if (loop_add(c->loop, &c->client, c->events) < 0) {
			close(fd);
			c->client.fd = -1;
		} else {
			c->set_open(c->opaque, c->index, true);
		}
	}
	/* The next client waits until this one has gone. */
	if (c->client.fd >= 0)
		loop_change(c->loop, &c->listener, 0);
	c->vm->unlock(c->vm->opaque);
}

int host_channel_create(struct host_channel **out, struct loop *l, const char *path,
						const struct vm_host *vm, struct err *e) {
	struct host_channel *c = calloc(1, sizeof(*c));
	char *copy = strdup(path);
	if (!c || !copy) {
		free(c);
		free(copy);
		return err_set(e, ERR_NOMEM, "no memory for channel %s", path);
	}
	c->loop = l;
	c->vm = vm;
	c->path = copy;
	c->client = (struct loop_source){-1, client_ready, c};
	int fd = unix_listen(path, "channel", e);
	if (fd < 0) {
		free(copy);
		free(c);
		return fd;
	}
	c->listener = (struct loop_source){fd, listener_ready, c};
	*out = c;
	return 0;
}

int host_channel_start(struct host_channel *c, struct char_device device,
					   void (*set_open)(void *opaque, unsigned index, bool open), void *opaque,
					   unsigned index, struct err *e) {
	c->device = device;
	c->set_open = set_open;
	c->opaque = opaque;
	c->index = index;
	int r = loop_add(c->loop, &c->listener, EPOLLIN);
	if (r < 0)
		return err_set(e, -r, "cannot serve channel %s: %s", c->path, strerror(-r));
	c->started = true;
	return 0;
}

void host_channel_destroy(struct host_channel *c) {
	if (c->client.fd >= 0)
		drop_client(c);
	if (c->started)
		loop_remove(c->loop, &c->listener);
	close(c->listener.fd);
	unlink(c->path);
	free(c->path);
	free(c);
}
