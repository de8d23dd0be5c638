/* See halt.h. The process of each VM keeps the guest's time itself (ctl/proc/ending.c), so that
 * this command may be broken off; here one only looks on, and insists where a process is late. */
#include "ctl/cli/halt.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/bits.h"
#include "ctl/cli/launch.h"
#include "ctl/wire/wire.h"

#define LOOK_MS 20
#define SHOW_MS 500
#define FORCE_MS 15000 /* what a process may take to end its machine */
#define RETRY_MS 3000
#define TRIES 3
#define STATUS_MS 300 /* for a line of progress only */

enum halt_step { HALT_ASKED, HALT_QUIT, HALT_KILLED, HALT_DONE };

struct halt {
	const struct store_vm *vm;
	enum halt_step step;
	struct wire_client client; /* fd -1: nothing is to be answered */
	int64_t begun_ms, deadline_ms, timeout_ms;
	unsigned tries;
	bool sent;
	int code;
	struct err e;
};

struct halting {
	const struct halt_how *how;
	struct progress progress;
	struct halt *all;
	unsigned n;
};

/* What is said for good stands above what is rewritten. */
#define SAY(g, ...) (progress_rewind(&(g)->progress), cli_error(__VA_ARGS__))

static void hang_up(struct halt *h) {
	if (h->client.fd >= 0)
		wire_close(&h->client);
}

static void done(struct halt *h, int code) {
	hang_up(h);
	h->step = HALT_DONE;
	h->code = code;
}

/* A process that cannot be reached may be ending by itself just now, or be about to start its VM
 * again (--restart): then the next try finds it. */
static void ask(struct halt *h, const struct halt_how *how) {
	json_t *q = h->step == HALT_QUIT ? json_pack("{s:s}", "op", "quit")
				: how->own_timeout	 ? json_pack("{s:s}", "op", "stop")
									 : json_pack("{s:s, s:I}", "op", "stop", "timeout-ms",
												 (json_int_t)(how->timeout_ns / 1000000));
	hang_up(h);
	h->tries++;
	h->sent = wire_connect(&h->client, h->vm, &h->e) == 0 && wire_send(h->client.fd, q);
	if (!h->sent)
		hang_up(h);
	json_decref(q);
	h->deadline_ms = progress_now_ms() + (h->sent ? FORCE_MS : RETRY_MS);
}

/* Its answer, if it is there. */
static void hear(struct halting *g, struct halt *h) {
	json_t *reply = NULL;
	struct err e;
	int r = wire_next(&h->client, &reply, 0, &e);
	if (r == -ERR_AGAIN)
		return;
	hang_up(h);
	const char *error = json_string_value(json_object_get(reply, "error"));
	const json_t *ms = json_object_get(reply, "timeout-ms");
	if (error) {
		SAY(g, "%s", error);
		done(h, (int)json_integer_value(json_object_get(reply, "code")));
	} else if (json_is_integer(ms)) {
		h->timeout_ms = json_integer_value(ms);
		h->deadline_ms = progress_now_ms() + h->timeout_ms + FORCE_MS;
	}
	json_decref(reply);
}

static void ended(struct halting *g, struct halt *h) {
	struct store_vm now = *h->vm;
	struct err e;
	done(h, CLI_OK);
	/* One that removes itself (--rm) leaves nothing to read. */
	bool known = store_load(&now, &e) == 0 && now.phase == STORE_STOPPED;
	if (known && h->timeout_ms && strcmp(now.end, "forced off") == 0)
		SAY(g, "the guest of VM %s has not shut down in %lld s: its power was taken away", now.name,
			(long long)(h->timeout_ms / 1000));
	else if (g->progress.on && g->n > 1)
		SAY(g, "%s: %s after %lld s", now.name, known ? now.end : "ended",
			(long long)(progress_now_ms() - h->begun_ms) / 1000);
}

/* Its process still lives, and its time is over. */
static void insist(struct halting *g, struct halt *h) {
	struct store_vm now = *h->vm;
	struct err e;
	if (!h->sent && h->tries < TRIES) {
		ask(h, g->how);
		return;
	}
	if (h->step == HALT_ASKED && h->sent) {
		h->step = HALT_QUIT;
		h->tries = 0;
		ask(h, g->how);
		return;
	}
	/* It holds its lock, and so it is the process that wrote its number down. */
	if (h->step < HALT_KILLED && g->how->force && store_load(&now, &e) == 0 &&
		now.phase == STORE_RUNNING && now.pid > 0 && kill(now.pid, SIGKILL) == 0) {
		SAY(g, "the process of VM %s did not answer and is killed", now.name);
		h->step = HALT_KILLED;
		h->sent = true;
		h->deadline_ms = progress_now_ms() + FORCE_MS;
		return;
	}
	if (!h->sent) {
		SAY(g, "%s; its process is %d%s%s", h->e.text, now.pid,
			g->how->force ? "" : ", and it is killed by joist stop -f ",
			g->how->force ? "" : now.name);
		done(h, CLI_FAILED);
	} else {
		SAY(g, "VM %s does not end; its process is %d", now.name, now.pid);
		done(h, CLI_TIMEOUT);
	}
}

static void show(struct halting *g) {
	struct err e;
	unsigned room = progress_rows(&g->progress);
	progress_rewind(&g->progress);
	for (unsigned i = 0; i < g->n && room; i++) {
		struct halt *h = &g->all[i];
		char line[400];
		json_t *status = NULL;
		if (h->step == HALT_DONE)
			continue;
		wire_ask(h->vm, json_pack("{s:s}", "op", "status"), &status, STATUS_MS, NULL, &e);
		const char *console = json_string_value(json_object_get(status, "console"));
		snprintf(line, sizeof(line), "%s: %s, %lld s%s%s", h->vm->name,
				 h->step == HALT_ASKED && h->timeout_ms ? "the guest shuts down" : "the VM ends",
				 (long long)(progress_now_ms() - h->begun_ms) / 1000,
				 console && console[0] ? ": " : "", console ? console : "");
		json_decref(status);
		progress_line(&g->progress, line);
		room--;
	}
}

static bool look(struct halting *g) {
	bool some = false;
	for (unsigned i = 0; i < g->n; i++) {
		struct halt *h = &g->all[i];
		if (h->step == HALT_DONE)
			continue;
		if (!store_is_locked(h->vm)) {
			ended(g, h);
			continue;
		}
		if (h->client.fd >= 0)
			hear(g, h);
		if (h->step != HALT_DONE && progress_now_ms() > h->deadline_ms)
			insist(g, h);
		some |= h->step != HALT_DONE;
	}
	return some;
}

int halt_vms(const struct store_vm *vms, unsigned n, const struct halt_how *how, int *codes) {
	struct halting g = {.how = how, .n = n, .all = calloc(MAX(n, 1u), sizeof(*g.all))};
	int64_t shown = progress_now_ms();
	int worst = CLI_OK;
	if (!g.all) {
		cli_error("no memory to stop %u VMs", n);
		return CLI_FAILED;
	}
	progress_start(&g.progress, "", how->quiet);
	for (unsigned i = 0; i < n; i++) {
		g.all[i] = (struct halt){.vm = &vms[i], .client.fd = -1, .begun_ms = progress_now_ms()};
		if (how->force || (!how->own_timeout && !how->timeout_ns))
			g.all[i].step = HALT_QUIT;
		ask(&g.all[i], how);
	}
	while (look(&g)) {
		if (g.progress.on && progress_now_ms() - shown >= SHOW_MS) {
			show(&g);
			shown = progress_now_ms();
		}
		nanosleep(&(struct timespec){0, LOOK_MS * 1000000}, NULL);
	}
	progress_rewind(&g.progress);
	for (unsigned i = 0; i < n; i++) {
		worst = g.all[i].code ? g.all[i].code : worst;
		if (codes)
			codes[i] = g.all[i].code;
	}
	free(g.all);
	return worst;
}
