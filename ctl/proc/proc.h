/* The process of a kept VM: the machine, its console for any number of people, its control
 * socket, its limits and the way to its guest agent, all on one event loop. Started by
 * `joist start` and independent of it afterwards. Its current folder is the VM's. */
#ifndef CTL_PROC_PROC_H
#define CTL_PROC_PROC_H

#include "ctl/cli/machine.h"
#include "ctl/def/def.h"
#include "ctl/proc/agent.h"
#include "ctl/proc/hub.h"
#include "ctl/proc/limit.h"
#include "ctl/store/store.h"
#include "ctl/wire/wire.h"
#include "host/linux/loop.h"
#include "host/linux/signals.h"

enum client_mode {
	CLIENT_CONTROL, /* requests and answers */
	CLIENT_CONSOLE, /* raw bytes of the console */
	CLIENT_EVENTS,	/* lines as things happen */
};

struct proc;

/* A connection to the control socket. */
struct client {
	struct client *next;
	struct proc *p;
	struct loop_source source;
	struct wire_buffer in, out;
	enum client_mode mode;
	bool gone; /* to be freed by the loop, not amid its own callback */
};

/* See ending.c. */
struct ending {
	struct loop_timer timer;
	uint64_t deadline_ns; /* of host_now_ns() */
	bool told_agent, heard;
	char why[100]; /* the power was taken away; empty: it was not, or not by us */
};

struct proc {
	struct store_vm vm;
	struct def def;
	struct loop loop;
	struct signals signals;
	struct machine *machine;
	struct run_request request;
	struct hub hub;
	struct agent agent;
	struct limit limit;
	char socket[PATHS_MAX], agent_socket[PATHS_MAX];
	struct loop_source listener;
	struct client *clients;
	struct loop_timer housekeeping; /* once a second */
	unsigned pauses;				/* by request; machine pauses nest */
	unsigned cpu_percent, cpus;		/* as asked for while it runs; 0: no limit, as started */
	struct ending ending;
	bool stop_asked, again;
	int lock; /* descriptor */
};

/* server.c */
int server_create(struct proc *p, struct err *e);
void server_destroy(struct proc *p);
void server_reap(struct proc *p);
/* Bytes for a client; one that reads too slowly is dropped. */
void client_send(struct client *c, const void *data, size_t len);
void client_reply(struct client *c, json_t *j); /* steals `j` */
void client_error(struct client *c, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* To all that listen for events; steals `fields` (may be NULL). */
void server_event(struct proc *p, const char *what, json_t *fields);

/* ops.c: one request; steals nothing. */
void ops_handle(struct client *c, const json_t *request);
/* Lets the guest go on if it is paused. */
void proc_resume(struct proc *p);

/* ending.c: on the loop's thread. */
int ending_create(struct proc *p, struct err *e);
void ending_destroy(struct proc *p);
/* Asks the guest to shut down, and takes the power away after the time. Asking again changes
 * nothing, or shortens it. */
void ending_ask(struct proc *p, uint64_t grace_ns);
/* Takes the power away. */
void ending_now(struct proc *p);
/* The first one asks, the second one insists. */
void ending_on_signal(struct proc *p, int signo);
/* The definition's stop-timeout. */
uint64_t ending_grace(const struct proc *p);

#endif
