/* The control socket: connections, their buffers, who may connect. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "ctl/proc/proc.h"
#include "host/linux/unix.h"

#define CLIENTS 64
#define OUT_MAX (4u << 20) /* bytes that a slow client may be behind */

static void drop(struct client *c) {
	if (c->gone)
		return;
	c->gone = true;
	agent_forget(&c->p->agent, c);
	loop_remove(&c->p->loop, &c->source);
	close(c->source.fd);
	c->source.fd = -1;
}

void server_reap(struct proc *p) {
	for (struct client **at = &p->clients; *at;) {
		struct client *c = *at;
		if (!c->gone) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		wire_buffer_free(&c->in);
		wire_buffer_free(&c->out);
		free(c);
	}
}

static void flush(struct client *c) {
	while (c->out.len) {
		ssize_t n = send(c->source.fd, c->out.data, c->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			drop(c);
			return;
		}
		if (n <= 0)
			break;
		wire_buffer_drop(&c->out, (size_t)n);
	}
	loop_change(&c->p->loop, &c->source, EPOLLIN | (c->out.len ? EPOLLOUT : 0));
}

void client_send(struct client *c, const void *data, size_t len) {
	if (c->gone)
		return;
	size_t limit = c->mode == CLIENT_CONTROL ? WIRE_LINE_MAX : OUT_MAX;
	if (c->out.len + len > limit || !wire_buffer_add(&c->out, data, len))
		drop(c);
	else
		flush(c);
}

void client_reply(struct client *c, json_t *j) {
	char *s = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	if (s) {
		size_t len = strlen(s);
		s[len] = '\n'; /* in the place of the null */
		client_send(c, s, len + 1);
		free(s);
	} else {
		drop(c);
	}
}

void client_error(struct client *c, int code, const char *fmt, ...) {
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	client_reply(c, json_pack("{s:s, s:i}", "error", text, "code", code));
}

void server_event(struct proc *p, const char *what, json_t *fields) {
	char when[40];
	struct timespec t;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &t);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t.tv_sec, &tm));
	json_t *j = json_pack("{s:s, s:s, s:s, s:s}", "time", when, "vm", p->vm.name, "id", p->vm.id,
						  "event", what);
	if (fields)
		json_object_update(j, fields);
	for (struct client *c = p->clients; c; c = c->next)
		if (c->mode == CLIENT_EVENTS && !c->gone)
			client_reply(c, json_incref(j));
	json_decref(j);
	json_decref(fields);
}

static void control_lines(struct client *c) {
	char *line;
	while (!c->gone && c->mode == CLIENT_CONTROL && (line = wire_buffer_line(&c->in)) != NULL) {
		json_error_t je;
		json_t *j = json_loads(line, 0, &je);
		free(line);
		if (json_is_object(j))
			ops_handle(c, j);
		else
			client_error(c, CLI_USAGE, "a request is a JSON object in a line: %s", je.text);
		json_decref(j);
	}
}

static void ready(void *opaque, uint32_t events) {
	struct client *c = opaque;
	if (c->gone)
		return;
	if (events & EPOLLOUT)
		flush(c);
	if (c->gone || !(events & ~(uint32_t)EPOLLOUT))
		return;
	int n = wire_buffer_read(&c->in, c->source.fd);
	if (n == -EMSGSIZE)
		client_error(c, CLI_USAGE, "a request has more than %u bytes", WIRE_LINE_MAX);
	if (n <= 0 && n != -EAGAIN) {
		drop(c);
		return;
	}
	control_lines(c);
	if (c->mode == CLIENT_CONSOLE && c->in.len)
		hub_type(&c->p->hub, c->in.data, c->in.len);
	if (c->mode != CLIENT_CONTROL)
		wire_buffer_drop(&c->in, c->in.len);
}

static void on_connect(void *opaque, uint32_t events) {
	struct proc *p = opaque;
	struct ucred who;
	socklen_t len = sizeof(who);
	int fd = accept4(p->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	unsigned n = 0;
	if (fd < 0)
		return;
	for (struct client *c = p->clients; c; c = c->next)
		n += !c->gone;
	/* The folder is closed to others already; this holds if somebody opens it. */
	bool ours = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.uid == getuid();
	struct client *c = ours && n < CLIENTS ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		log_line(LOG_WARN, ours ? "too many connections" : "refused a connection of another user");
		close(fd);
		return;
	}
	c->p = p;
	c->source = (struct loop_source){fd, ready, c};
	if (loop_add(&p->loop, &c->source, EPOLLIN) < 0) {
		close(fd);
		free(c);
		return;
	}
	c->next = p->clients;
	p->clients = c;
}

int server_create(struct proc *p, struct err *e) {
	int fd = unix_listen(p->socket, "control socket", e);
	if (fd < 0)
		return fd;
	p->listener = (struct loop_source){fd, on_connect, p};
	int r = loop_add(&p->loop, &p->listener, EPOLLIN);
	if (r == 0)
		return 0;
	close(fd);
	p->listener.fd = -1;
	return err_set(e, -r, "cannot listen at %s: %s", p->socket, strerror(-r));
}

void server_destroy(struct proc *p) {
	for (struct client *c = p->clients; c; c = c->next) {
		if (!c->gone)
			flush(c);
		drop(c);
	}
	server_reap(p);
	if (p->listener.fd >= 0) {
		loop_remove(&p->loop, &p->listener);
		close(p->listener.fd);
		unlink(p->socket);
	}
}
