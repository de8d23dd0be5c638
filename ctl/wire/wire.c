/* See wire.h. */
#include "ctl/wire/wire.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ctl/store/store.h"
#include "host/linux/unix.h"

void wire_buffer_free(struct wire_buffer *b) {
	free(b->data);
	*b = (struct wire_buffer){0};
}

static bool reserve(struct wire_buffer *b, size_t len) {
	if (len > WIRE_LINE_MAX - b->len)
		return false;
	if (b->room - b->len >= len)
		return true;
	size_t room = b->room ? b->room : 4096;
	while (room - b->len < len)
		room *= 2;
	char *more = realloc(b->data, room);
	if (!more)
		return false;
	b->data = more;
	b->room = room;
	return true;
}

bool wire_buffer_add(struct wire_buffer *b, const void *data, size_t len) {
	if (!reserve(b, len))
		return false;
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return true;
}

void wire_buffer_drop(struct wire_buffer *b, size_t len) {
	b->len -= len;
	memmove(b->data, b->data + len, b->len);
}

int wire_buffer_read(struct wire_buffer *b, int fd) {
	if (b->len >= WIRE_LINE_MAX || !reserve(b, 1))
		return -EMSGSIZE;
	if (b->room - b->len < 4096)
		reserve(b, 4096);
	ssize_t n;
	do
		n = read(fd, b->data + b->len, b->room - b->len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	b->len += (size_t)n;
	return (int)n;
}

char *wire_buffer_line(struct wire_buffer *b) {
	char *end = b->len ? memchr(b->data, '\n', b->len) : NULL;
	if (!end)
		return NULL;
	size_t n = (size_t)(end - b->data);
	char *line = malloc(n + 1);
	if (!line)
		return NULL;
	memcpy(line, b->data, n);
	line[n] = 0;
	wire_buffer_drop(b, n + 1);
	return line;
}

/* ---- the client ------------------------------------------------------------------------ */

int wire_connect(struct wire_client *c, const struct store_vm *vm, struct err *e) {
	char path[PATHS_MAX];
	struct sockaddr_un a;
	*c = (struct wire_client){.fd = -1};
	if (vm->phase != STORE_RUNNING)
		return err_set(e, ERR_BUSY, "VM %s is not running; 'joist start %s' starts it", vm->name,
					   vm->name);
	/* Its process may have been started with another XDG_RUNTIME_DIR, or with none: a login here,
	 * cron or sudo there. */
	int r = vm->socket[0] ? 0 : paths_socket(path, sizeof(path), vm->id, ".sock", e);
	if (vm->socket[0])
		snprintf(path, sizeof(path), "%s", vm->socket);
	if (r || (r = unix_address(&a, path, "control socket", e)) != 0)
		return r;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* Its process lives but may still be on the way to its socket. */
	for (unsigned tries = 0; c->fd >= 0 && connect(c->fd, (struct sockaddr *)&a, sizeof(a)) < 0;) {
		if ((errno != ENOENT && errno != ECONNREFUSED) || ++tries > 50) {
			r = err_set(e, errno == ENOENT ? ERR_IO : errno,
						"VM %s runs (process %d) but cannot be reached: %s: %s", vm->name, vm->pid,
						path, strerror(errno));
			wire_close(c);
			return r;
		}
		nanosleep(&(struct timespec){0, 20000000}, NULL);
	}
	return c->fd < 0 ? err_set(e, errno, "cannot make a socket: %s", strerror(errno)) : 0;
}

void wire_close(struct wire_client *c) {
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	wire_buffer_free(&c->in);
}

bool wire_send(int fd, const json_t *j) {
	char *s = json_dumps(j, JSON_COMPACT);
	if (!s)
		return false;
	size_t len = strlen(s), at = 0;
	s[len++] = '\n'; /* in the place of the null */
	while (at < len) {
		ssize_t n = send(fd, s + at, len - at, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			break;
		at += n > 0 ? (size_t)n : 0;
	}
	free(s);
	return at == len;
}

static int64_t now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int wire_next(struct wire_client *c, json_t **j, int timeout_ms, struct err *e) {
	int64_t end = now_ms() + timeout_ms;
	char *line;
	while ((line = wire_buffer_line(&c->in)) == NULL) {
		struct pollfd p = {c->fd, POLLIN, 0};
		int64_t left = timeout_ms < 0 ? -1 : end - now_ms();
		if (timeout_ms >= 0 && left < 0)
			left = 0;
		int n = poll(&p, 1, (int)left);
		if (n == 0)
			return err_set(e, ERR_AGAIN, "the VM's process does not answer");
		if (n < 0 && errno == EINTR)
			continue;
		int got = wire_buffer_read(&c->in, c->fd);
		if (got <= 0)
			return err_set(e, ERR_IO, "the VM's process has ended");
	}
	json_error_t je;
	*j = json_loads(line, 0, &je);
	free(line);
	return *j ? 0 : err_set(e, ERR_IO, "the VM's process sent no JSON: %s", je.text);
}

int wire_call(struct wire_client *c, json_t *request, json_t **reply, int timeout_ms, int *code,
			  struct err *e) {
	*reply = NULL;
	bool sent = request && wire_send(c->fd, request);
	json_decref(request);
	if (!sent)
		return err_set(e, ERR_IO, "the VM's process has ended");
	int r = wire_next(c, reply, timeout_ms, e);
	if (r)
		return r;
	const char *error = json_string_value(json_object_get(*reply, "error"));
	if (!error)
		return 0;
	if (code)
		*code = (int)json_integer_value(json_object_get(*reply, "code"));
	r = err_set(e, ERR_IO, "%s", error);
	json_decref(*reply);
	*reply = NULL;
	return r;
}

int wire_ask(const struct store_vm *vm, json_t *request, json_t **reply, int timeout_ms, int *code,
			 struct err *e) {
	struct wire_client c;
	*reply = NULL; /* whatever happens, it can be given to json_decref() */
	int r = wire_connect(&c, vm, e);
	if (r) {
		json_decref(request);
		return r;
	}
	r = wire_call(&c, request, reply, timeout_ms, code, e);
	wire_close(&c);
	return r;
}
