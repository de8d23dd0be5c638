/* See agent.h. */
#include "ctl/proc/agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/linux/unix.h"

#define SYNC_NS 3000000000ull

static void begin(struct agent *a);

static void disconnect(struct agent *a) {
	if (a->source.fd >= 0) {
		loop_remove(a->loop, &a->source);
		close(a->source.fd);
	}
	a->source.fd = -1;
	a->synced = a->syncing = a->sent = false;
	wire_buffer_free(&a->in);
	wire_buffer_free(&a->out);
}

/* The first request is answered; the next one's turn. */
static void finish(struct agent *a, const json_t *reply, const char *error) {
	struct agent_request q = a->queue[a->head];
	a->head = (a->head + 1) % AGENT_QUEUE;
	a->count--;
	a->sent = false;
	loop_timer_set(&a->timer, UINT64_MAX);
	if (!q.forgotten)
		q.done(q.opaque, reply, error);
	json_decref(q.message);
	if (a->count && !a->sent)
		begin(a);
}

static void flush(struct agent *a) {
	while (a->out.len) {
		ssize_t n = send(a->source.fd, a->out.data, a->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n <= 0)
			break;
		wire_buffer_drop(&a->out, (size_t)n);
	}
	loop_change(a->loop, &a->source, EPOLLIN | (a->out.len ? EPOLLOUT : 0));
}

static void put(struct agent *a, const json_t *j) {
	char *s = json_dumps(j, JSON_COMPACT);
	if (s) {
		wire_buffer_add(&a->out, s, strlen(s));
		wire_buffer_add(&a->out, "\n", 1);
	}
	free(s);
	flush(a);
}

static void start_sync(struct agent *a) {
	a->sync_id = (a->sync_id + 1) & 0x7fffffff;
	a->syncing = true;
	/* FFh makes the agent's parser forget half a message of somebody before us. */
	wire_buffer_add(&a->out, "\xff", 1);
	json_t *j = json_pack("{s:s, s:{s:I}}", "execute", "guest-sync-delimited", "arguments", "id",
						  (json_int_t)a->sync_id);
	put(a, j);
	json_decref(j);
	loop_timer_set(&a->timer, SYNC_NS);
}

static void line(struct agent *a, char *text) {
	/* Before a synchronised answer stands FFh, and before that whatever was on the way. */
	char *mark = strrchr(text, '\xff');
	json_t *j = json_loads(mark ? mark + 1 : text, 0, NULL);
	if (!j)
		return;
	const json_t *reply = json_object_get(j, "return");
	if (a->syncing) {
		if (mark && json_integer_value(reply) == a->sync_id) {
			a->syncing = false;
			a->synced = a->answers = a->known = true;
			begin(a);
		}
	} else if (a->sent) {
		const json_t *error = json_object_get(j, "error");
		const char *desc = json_string_value(json_object_get(error, "desc"));
		a->answers = a->known = true;
		if (reply)
			finish(a, reply, NULL);
		else
			finish(a, NULL, desc ? desc : "the guest's agent refused without a reason");
	}
	json_decref(j);
}

static void ready(void *opaque, uint32_t events) {
	struct agent *a = opaque;
	char *text;
	if (events & EPOLLOUT)
		flush(a);
	if (!(events & ~(uint32_t)EPOLLOUT))
		return;
	if (wire_buffer_read(&a->in, a->source.fd) <= 0) {
		bool waiting = a->sent;
		disconnect(a);
		if (waiting)
			finish(a, NULL, "the connection to the guest's agent broke");
		return;
	}
	while (a->source.fd >= 0 && (text = wire_buffer_line(&a->in)) != NULL) {
		line(a, text);
		free(text);
	}
}

static void late(void *opaque) {
	struct agent *a = opaque;
	bool never = a->syncing;
	a->answers = false;
	disconnect(a); /* the next request begins with a clean stream */
	if (a->count)
		finish(a, NULL,
			   never
				   ? "the guest's agent does not answer: is qemu-guest-agent installed and has the "
					 "guest started?"
				   : "the guest's agent did not answer in time");
}

static bool join(struct agent *a) {
	struct sockaddr_un addr;
	if (unix_address(&addr, a->path, "agent socket", NULL))
		return false;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	a->source = (struct loop_source){fd, ready, a};
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		loop_add(a->loop, &a->source, EPOLLIN) < 0) {
		close(fd);
		a->source.fd = -1;
		return false;
	}
	return true;
}

static void begin(struct agent *a) {
	if (a->sent || a->syncing || !a->count)
		return;
	if (a->source.fd < 0 && !join(a)) {
		finish(a, NULL, "the VM has no port for a guest agent");
		return;
	}
	if (!a->synced) {
		start_sync(a);
		return;
	}
	a->sent = true;
	loop_timer_set(&a->timer, a->queue[a->head].limit_ns);
	put(a, a->queue[a->head].message);
}

bool agent_ask(struct agent *a, json_t *message, uint64_t limit_ns, agent_done_fn *done,
			   void *opaque) {
	if (a->count == AGENT_QUEUE || !a->created) {
		json_decref(message);
		return false;
	}
	a->queue[(a->head + a->count++) % AGENT_QUEUE] =
		(struct agent_request){message, done, opaque, false, limit_ns};
	if (a->count == 1)
		begin(a);
	return true;
}

void agent_forget(struct agent *a, void *opaque) {
	for (unsigned i = 0; i < a->count; i++) {
		struct agent_request *q = &a->queue[(a->head + i) % AGENT_QUEUE];
		if (q->opaque == opaque)
			q->forgotten = true;
	}
}

int agent_create(struct agent *a, struct loop *l, const char *path, struct err *e) {
	*a = (struct agent){.loop = l, .source.fd = -1};
	if (strlen(path) >= sizeof(a->path))
		return err_set(e, ERR_RANGE, "the path %s is too long", path);
	strcpy(a->path, path);
	int r = loop_timer_create(l, &a->timer, late, a);
	if (r)
		return err_set(e, -r, "cannot make a timer: %s", strerror(-r));
	a->created = true;
	return 0;
}

void agent_destroy(struct agent *a) {
	if (!a->created)
		return;
	disconnect(a);
	for (unsigned i = 0; i < a->count; i++)
		json_decref(a->queue[(a->head + i) % AGENT_QUEUE].message);
	loop_timer_destroy(a->loop, &a->timer);
}
