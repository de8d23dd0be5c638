/* A client of the QEMU guest agent (qemu-ga's protocol: docs/interop/qemu-ga-ref of QEMU),
 * which listens in the guest at the virtio port org.qemu.guest_agent.0. It answers one request
 * at a time and may be absent, slow or hostile: requests queue, each has a deadline, and after a
 * missed one the stream is synchronised anew with guest-sync-delimited. Loop's thread only. */
#ifndef CTL_PROC_AGENT_H
#define CTL_PROC_AGENT_H

#include <jansson.h>

#include "ctl/wire/wire.h"
#include "host/linux/loop.h"

#define AGENT_PORT "org.qemu.guest_agent.0"
#define AGENT_QUEUE 64

/* `reply`: the agent's "return"; NULL and a sentence: it failed. */
typedef void agent_done_fn(void *opaque, const json_t *reply, const char *error);

struct agent_request {
	json_t *message;
	agent_done_fn *done;
	void *opaque; /* NULL after agent_forget() */
	bool forgotten;
	uint64_t limit_ns;
};

struct agent {
	struct loop *loop;
	struct loop_source source; /* fd -1: not connected */
	struct loop_timer timer;
	char path[128];
	struct wire_buffer in, out;
	struct agent_request queue[AGENT_QUEUE];
	unsigned head, count;
	bool created, sent, synced, syncing;
	int64_t sync_id;
	bool known;	  /* it has answered once */
	bool answers; /* it answered the last thing that it was asked */
};

int agent_create(struct agent *a, struct loop *l, const char *path, struct err *e);
/* Steals `message` ({"execute": ...}). false: too many wait; `done` was not called. */
bool agent_ask(struct agent *a, json_t *message, uint64_t limit_ns, agent_done_fn *done,
			   void *opaque);
/* Who asked is gone: `done` is not called any more for them. */
void agent_forget(struct agent *a, void *opaque);
void agent_destroy(struct agent *a);

#endif
