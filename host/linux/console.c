/* See console.h. */
#include "host/linux/console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/terminal.h"

#define NOT_THIS_LINE (~0u)

static const char panic_phrase[] = "Kernel panic - not syncing";

/* One character of output past the matcher. The phrase counts at the start of a line or
 * after a printk time stamp ("[    1.234567] "). */
static void watch(struct console *c, uint8_t ch) {
	unsigned len = sizeof(panic_phrase) - 1;
	if (c->panicked) {
		if (ch == '\r' || ch == '\n')
			c->why_len = sizeof(c->why) - 1; /* the line is over */
		else if (c->why_len < sizeof(c->why) - 1 && ch >= ' ' && ch < 127)
			c->why[c->why_len++] = (char)ch;
		return;
	}
	if (ch == '\n' || ch == '\r') {
		c->panic_at = 0;
	} else if (c->panic_at == NOT_THIS_LINE) {
		/* A time stamp's end: the message may follow. */
		if (ch == ']')
			c->panic_at = 0;
	} else if (c->panic_at == 0 && ch == ' ') {
		return;
	} else if (ch == (uint8_t)panic_phrase[c->panic_at]) {
		if (++c->panic_at == len)
			c->panicked = true;
	} else {
		c->panic_at = NOT_THIS_LINE;
	}
}

static size_t take_output(void *opaque, const uint8_t *buf, size_t len) {
	struct console *c = opaque;
	pthread_mutex_lock(&c->lock);
	size_t n = MIN(len, CONSOLE_RING - c->count);
	if (n < len)
		c->was_full = true;
	for (size_t i = 0; i < n; i++) {
		watch(c, buf[i]);
		/* Nobody there to read it: gone, as on a line without a cable. */
		if (c->dead || c->out < 0)
			continue;
		c->ring[(c->head + c->count++) % CONSOLE_RING] = buf[i];
	}
	if (c->count)
		pthread_cond_signal(&c->data);
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void wake_input(struct console *c) {
	uint64_t one = 1;
	ssize_t n = write(c->wake, &one, sizeof(one));
	(void)n; /* fails only when the counter is full, and then it wakes anyway */
}

static void device_readable(void *opaque) {
	wake_input(opaque);
}

struct char_backend console_backend(struct console *c) {
	return (struct char_backend){take_output, device_readable, c};
}

static void lock_vm(struct console *c) {
	c->vm->lock(c->vm->opaque);
}

static void unlock_vm(struct console *c) {
	c->vm->unlock(c->vm->opaque);
}

static bool abandoned(struct console *c) {
	pthread_mutex_lock(&c->lock);
	bool quit = c->quit;
	pthread_mutex_unlock(&c->lock);
	return quit;
}

/* Blocking; a non-blocking descriptor (inherited so) is waited for. 0 or an errno value:
 * EINTR when console_destroy() waits no longer. */
static int write_all(struct console *c, const uint8_t *buf, size_t len) {
	int fd = c->out;
	while (len) {
		ssize_t n = write(fd, buf, len);
		if (n >= 0) {
			buf += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			struct pollfd p = {fd, POLLOUT, 0};
			poll(&p, 1, 1000);
		} else if (errno != EINTR) {
			return errno;
		}
		if (n < 0 && abandoned(c))
			return EINTR;
	}
	return 0;
}

static void *out_main(void *opaque) {
	struct console *c = opaque;
	uint8_t buf[4096];
	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (!c->count && !c->quit)
			pthread_cond_wait(&c->data, &c->lock);
		if (!c->count)
			break;
		if (c->count < 256 && !c->quit) {
			/* Guests write byte by byte; a millisecond later there is a line to write. */
			pthread_mutex_unlock(&c->lock);
			nanosleep(&(struct timespec){0, 1000000}, NULL);
			pthread_mutex_lock(&c->lock);
		}
		size_t n = MIN(MIN(c->count, CONSOLE_RING - c->head), sizeof(buf));
		memcpy(buf, c->ring + c->head, n);
		pthread_mutex_unlock(&c->lock);

		int error = write_all(c, buf, n);

		pthread_mutex_lock(&c->lock);
		c->head = (c->head + n) % CONSOLE_RING;
		c->count -= n;
		if (error) {
			c->dead = true;
			c->count = 0;
		}
		if (!c->count)
			pthread_cond_broadcast(&c->drained);
		bool room = c->was_full, quit = c->quit;
		c->was_full = false;
		pthread_mutex_unlock(&c->lock);
		if (quit)
			room = false; /* nobody would write more, and the device may be gone */
		else if (error)
			c->broken(c->opaque, error);
		if (room && c->device.writable) {
			lock_vm(c);
			c->device.writable(c->device.dev);
			unlock_vm(c);
		}
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* Bytes that were read and that the guest's port has not taken yet. */
struct input {
	uint8_t buf[4096];
	size_t len;
	bool open; /* more may come */
};

/* Reads what is there. On a terminal this goes on while the guest takes nothing, since the
 * escape key must be seen; what does not fit then is lost, as with any keyboard. */
static void read_input(struct console *c, struct input *in) {
	uint8_t chunk[512];
	size_t room = sizeof(in->buf) - in->len;
	ssize_t n = read(c->in, chunk, c->escape ? sizeof(chunk) : MIN(room, sizeof(chunk)));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		in->open = false; /* the end of a file or pipe, or the terminal is gone */
		return;
	}
	size_t len = (size_t)n;
	uint8_t *esc = c->escape ? memchr(chunk, TERMINAL_ESCAPE, len) : NULL;
	if (esc) {
		len = (size_t)(esc - chunk);
		in->open = false;
		c->escaped(c->opaque);
	}
	len = MIN(len, room);
	memcpy(in->buf + in->len, chunk, len);
	in->len += len;
}

/* What the port does not take stays; it says `readable` when it takes more. */
static void give_input(struct console *c, struct input *in) {
	lock_vm(c);
	size_t n = c->device.receive ? c->device.receive(c->device.dev, in->buf, in->len) : in->len;
	unlock_vm(c);
	in->len -= n;
	memmove(in->buf, in->buf + n, in->len);
}

static void *in_main(void *opaque) {
	struct console *c = opaque;
	struct input in = {.open = true};
	while (in.open || in.len) {
		bool more = in.open && (c->escape || in.len < sizeof(in.buf));
		struct pollfd p[2] = {{c->wake, POLLIN, 0}, {more ? c->in : -1, POLLIN, 0}};
		/* The time limit is for a guest that reset its port meanwhile. */
		if (poll(p, 2, in.len ? 1000 : -1) < 0)
			continue;
		uint64_t n;
		if (p[0].revents && read(c->wake, &n, sizeof(n)) < 0)
			break;
		pthread_mutex_lock(&c->lock);
		bool quit = c->quit;
		pthread_mutex_unlock(&c->lock);
		if (quit)
			break;
		if (p[1].revents)
			read_input(c, &in);
		if (in.len)
			give_input(c, &in);
	}
	return NULL;
}

int console_create(struct console *c, struct err *e) {
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->data, NULL);
	pthread_cond_init(&c->drained, NULL);
	c->wake = eventfd(0, EFD_CLOEXEC);
	if (c->wake < 0)
		return err_set(e, errno, "cannot make the console: %s", strerror(errno));
	return 0;
}

int console_start(struct console *c, struct char_device device, struct err *e) {
	c->device = device;
	int r = 0;
	if (c->out >= 0)
		r = pthread_create(&c->out_thread, NULL, out_main, c);
	if (r)
		return err_set(e, r, "cannot start the console's thread: %s", strerror(r));
	if (c->in >= 0 && (r = pthread_create(&c->in_thread, NULL, in_main, c)) != 0) {
		c->in = -1;
		c->started = true;
		return err_set(e, r, "cannot start the console's thread: %s", strerror(r));
	}
	c->started = true;
	return 0;
}

bool console_drain(struct console *c, unsigned ms) {
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&c->lock);
	while (c->started && c->count && !c->dead)
		if (pthread_cond_timedwait(&c->drained, &c->lock, &until) == ETIMEDOUT)
			break;
	bool drained = !c->started || !c->count || c->dead;
	pthread_mutex_unlock(&c->lock);
	return drained;
}

static void on_interrupt(int sig) {
}

/* Joins a thread that hangs in write(). A signal that comes just before write() does not end
 * it, so there are more until the thread is gone. */
static void interrupt(pthread_t thread) {
	struct sigaction sa = {.sa_handler = on_interrupt}; /* no SA_RESTART: write() says EINTR */
	struct timespec until;
	sigaction(SIGURG, &sa, NULL);
	do {
		pthread_kill(thread, SIGURG);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 10000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
	} while (pthread_timedjoin_np(thread, NULL, &until) == ETIMEDOUT);
}

void console_destroy(struct console *c) {
	pthread_mutex_lock(&c->lock);
	c->quit = true;
	bool stuck = c->count && !c->dead; /* drain gave up: the writer hangs in write() */
	pthread_cond_broadcast(&c->data);
	pthread_mutex_unlock(&c->lock);
	wake_input(c);
	if (c->started) {
		if (c->in >= 0)
			pthread_join(c->in_thread, NULL);
		if (c->out >= 0) {
			if (stuck)
				interrupt(c->out_thread);
			else
				pthread_join(c->out_thread, NULL);
		}
	}
	close(c->wake);
	pthread_cond_destroy(&c->data);
	pthread_cond_destroy(&c->drained);
	pthread_mutex_destroy(&c->lock);
}

const char *console_panic(struct console *c) {
	pthread_mutex_lock(&c->lock);
	bool seen = c->panicked;
	pthread_mutex_unlock(&c->lock);
	if (!seen)
		return NULL;
	const char *why = c->why;
	while (*why == ':' || *why == ' ')
		why++;
	return why;
}

void console_forget(struct console *c) {
	pthread_mutex_lock(&c->lock);
	c->panicked = false;
	c->panic_at = c->why_len = 0;
	memset(c->why, 0, sizeof(c->why));
	pthread_mutex_unlock(&c->lock);
}
