/* What the control socket can be asked for. Each operation is one function and one line in
 * the table at the end; ctl/README.md describes them. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/proc/proc.h"

#define AGENT_NS 10000000000ull
#define STOP_MS_MAX 86400000 /* a day */

static json_t *ok(void) {
	return json_pack("{s:b}", "ok", 1);
}

static const char *state_of(const struct proc *p) {
	return p->stop_asked ? "stopping" : p->pauses ? "paused" : "running";
}

static uint64_t resident_bytes(void) {
	unsigned long long size, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	if (f) {
		if (fscanf(f, "%llu %llu", &size, &resident) != 2)
			resident = 0;
		fclose(f);
	}
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void add_stat(void *out, const char *name, uint64_t val) {
	json_object_set_new(out, name, json_integer((json_int_t)val));
}

static void op_status(struct client *c, const json_t *q) {
	struct proc *p = c->p;
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	int64_t cpu_us = (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
					 u.ru_utime.tv_usec + u.ru_stime.tv_usec;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	json_t *j = json_pack("{s:b, s:s, s:s, s:i, s:I, s:I, s:I, s:s, s:s, s:I, s:I}", "ok", 1,
						  "name", p->vm.name, "state", state_of(p), "pid", (int)getpid(), "uptime",
						  (json_int_t)(time(NULL) - p->vm.started), "cpu-us", (json_int_t)cpu_us,
						  "resident", (json_int_t)resident_bytes(), "console",
						  hub_last_line(&p->hub), "engine", p->request.config.engine->name,
						  "throttled-ns", (json_int_t)p->limit.throttled_ns, "memory",
						  (json_int_t)p->request.config.board.memory);
	/* When cpu-us was so, for rates: the answer may be late. */
	json_object_set_new(j, "clock-us",
						json_integer((json_int_t)now.tv_sec * 1000000 + now.tv_nsec / 1000));
	uint64_t usable, reported;
	machine_memory(p->machine, &usable, &reported);
	json_object_set_new(j, "memory-usable", json_integer((json_int_t)usable));
	json_object_set_new(j, "agent", json_boolean(p->agent.answers && !p->pauses));
	json_object_set_new(j, "cpus", json_integer(p->request.config.board.cpus));
	client_reply(c, j);
}

/* Exits by kind and the engine's counters; the world stops for it, for some milliseconds. */
static void op_counters(struct client *c, const json_t *q) {
	json_t *counters = json_object();
	if (!machine_pause(c->p->machine)) {
		json_decref(counters);
		client_error(c, CLI_FAILED, "a vCPU does not stop");
		return;
	}
	machine_stats(c->p->machine, add_stat, counters);
	machine_resume(c->p->machine);
	client_reply(c, json_pack("{s:b, s:o}", "ok", 1, "counters", counters));
}

static void op_powerbutton(struct client *c, const json_t *q) {
	struct proc *p = c->p;
	if (p->pauses) {
		client_error(c, CLI_WRONG_STATE, "VM %s is paused: its guest hears no power button",
					 p->vm.name);
		return;
	}
	bool heard = machine_power_button(p->machine);
	server_event(p, "power-button", NULL);
	client_reply(c, json_pack("{s:b, s:b}", "ok", 1, "heard", heard));
}

static json_int_t whole(const json_t *q, const char *key) {
	const json_t *v = json_object_get(q, key);
	return json_is_integer(v) ? json_integer_value(v) : -1;
}

/* The guest gets the time that is asked for, or what its definition says. */
static void op_stop(struct client *c, const json_t *q) {
	json_int_t ms = whole(q, "timeout-ms");
	uint64_t grace = ms >= 0 ? (uint64_t)MIN(ms, STOP_MS_MAX) * 1000000 : ending_grace(c->p);
	client_reply(c, json_pack("{s:b, s:I}", "ok", 1, "timeout-ms", (json_int_t)(grace / 1000000)));
	ending_ask(c->p, grace);
}

static void op_quit(struct client *c, const json_t *q) {
	client_reply(c, ok());
	ending_now(c->p);
}

static void op_pause(struct client *c, const json_t *q) {
	struct proc *p = c->p;
	if (p->pauses) {
		client_error(c, CLI_WRONG_STATE, "VM %s is paused already", p->vm.name);
	} else if (!machine_pause(p->machine)) {
		client_error(c, CLI_FAILED, "a vCPU does not stop");
	} else {
		p->pauses++;
		server_event(p, "paused", NULL);
		client_reply(c, ok());
	}
}

static void on_time_set(void *opaque, const json_t *reply, const char *error) {
	/* No agent, no clock to set: the guest's NTP does it then. */
}

void proc_resume(struct proc *p) {
	if (!p->pauses)
		return;
	p->pauses--;
	machine_resume(p->machine);
	server_event(p, "resumed", NULL);
	/* The guest's clock stood still meanwhile. */
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	if (p->agent.known)
		agent_ask(&p->agent,
				  json_pack("{s:s, s:{s:I}}", "execute", "guest-set-time", "arguments", "time",
							(json_int_t)t.tv_sec * 1000000000 + t.tv_nsec),
				  AGENT_NS, on_time_set, p);
}

static void op_resume(struct client *c, const json_t *q) {
	if (!c->p->pauses) {
		client_error(c, CLI_WRONG_STATE, "VM %s is not paused", c->p->vm.name);
		return;
	}
	proc_resume(c->p);
	client_reply(c, ok());
}

static void replay_part(void *opaque, const void *data, size_t len) {
	client_send(opaque, data, len);
}

static void op_console(struct client *c, const json_t *q) {
	const json_t *n = json_object_get(q, "replay");
	json_int_t max = json_is_integer(n) ? json_integer_value(n) : HUB_RING;
	client_reply(c, ok());
	c->mode = CLIENT_CONSOLE;
	hub_replay(&c->p->hub, (size_t)MIN(MAX(max, 0), HUB_RING), replay_part, c);
}

static void op_events(struct client *c, const json_t *q) {
	client_reply(c, ok());
	c->mode = CLIENT_EVENTS;
}

static void op_renamed(struct client *c, const json_t *q) {
	const char *name = json_string_value(json_object_get(q, "name"));
	struct proc *p = c->p;
	char cwd[PATHS_MAX];
	if (!name || !cli_valid_name(name) || !getcwd(cwd, sizeof(cwd))) {
		client_error(c, CLI_USAGE, "a rename needs a valid name");
		return;
	}
	snprintf(p->vm.name, sizeof(p->vm.name), "%s", name);
	snprintf(p->vm.dir, sizeof(p->vm.dir), "%s", cwd);
	server_event(p, "renamed", NULL);
	client_reply(c, ok());
}

/* The stricter of the limit and of fewer CPUs than it was started with: those cannot go while the
 * guest runs, but the time of them can. */
static const char *set_cpu_time(struct proc *p) {
	unsigned percent = p->cpu_percent;
	if (p->cpus && p->cpus < p->request.config.board.cpus)
		percent = percent ? MIN(percent, p->cpus * 100) : p->cpus * 100;
	return limit_set_cpu(&p->limit, percent);
}

static const char *set_cpus(struct proc *p, unsigned cpus) {
	p->cpus = cpus;
	const char *how = set_cpu_time(p);
	return cpus > p->request.config.board.cpus ? "restart" : how;
}

static const char *set_memory(struct proc *p, uint64_t bytes) {
	bool heard = machine_set_memory(p->machine, bytes);
	return bytes > p->request.config.board.memory ? "restart" : heard ? "balloon" : "none";
}

/* All network cards and all disks get the same; -ERR_INVAL: not a limit. */
static int set_io_limits(struct proc *p, const json_t *q, json_t *how, struct err *e) {
	const char *net = json_string_value(json_object_get(q, "net-limit"));
	const char *disk = json_string_value(json_object_get(q, "disk-limit"));
	struct host_net_limits n;
	struct host_disk_limits d;
	if ((net && host_net_read_limits(net, &n, e)) || (disk && host_disk_read_limits(disk, &d, e)))
		return -ERR_INVAL;
	for (unsigned i = 0; net && machine_net(p->machine, i); i++)
		host_net_set_limits(machine_net(p->machine, i), &n);
	for (unsigned i = 0; disk && machine_disk(p->machine, i); i++)
		host_disk_set_limits(machine_disk(p->machine, i), &d);
	if (net)
		json_object_set_new(how, "net-limit", json_string("own"));
	if (disk)
		json_object_set_new(how, "disk-limit", json_string("own"));
	return 0;
}

static void op_update(struct client *c, const json_t *q) {
	struct proc *p = c->p;
	struct limit *l = &p->limit;
	json_int_t percent = whole(q, "cpu-limit"), shares = whole(q, "cpu-shares"),
			   memory = whole(q, "memory-limit"), ram = whole(q, "memory"), cpus = whole(q, "cpus");
	json_t *how = ok();
	struct err e;
	if (set_io_limits(p, q, how, &e)) {
		json_decref(how);
		client_error(c, CLI_USAGE, "%s", e.text);
		return;
	}
	if (ram > 0)
		json_object_set_new(how, "memory", json_string(set_memory(p, (uint64_t)ram)));
	if (percent >= 0) {
		p->cpu_percent = (unsigned)percent;
		json_object_set_new(how, "cpu-limit", json_string(set_cpu_time(p)));
	}
	if (cpus > 0 && cpus <= VM_VCPUS)
		json_object_set_new(how, "cpus", json_string(set_cpus(p, (unsigned)cpus)));
	if (shares > 0)
		json_object_set_new(how, "cpu-shares", json_string(limit_set_shares(l, (unsigned)shares)));
	json_int_t disk_shares = whole(q, "disk-shares"), net_shares = whole(q, "net-shares");
	if (disk_shares > 0 && disk_shares <= 10000) {
		const char *word = limit_set_disk_shares(l, (unsigned)disk_shares);
		if (machine_set_disk_shares(p->machine, (unsigned)disk_shares) && strcmp(word, "none") == 0)
			word = "own";
		json_object_set_new(how, "disk-shares", json_string(word));
	}
	if (net_shares > 0 && net_shares <= 10000)
		json_object_set_new(
			how, "net-shares",
			json_string(machine_set_net_shares(p->machine, (unsigned)net_shares) ? "own" : "none"));
	if (memory >= 0)
		json_object_set_new(how, "memory-limit",
							json_string(limit_set_memory(l, (uint64_t)memory)));
	server_event(c->p, "updated", NULL);
	client_reply(c, how);
}

static void on_agent(void *opaque, const json_t *reply, const char *error) {
	struct client *c = opaque;
	if (reply)
		client_reply(c, json_pack("{s:b, s:O}", "ok", 1, "return", reply));
	else
		client_error(c, CLI_FAILED, "%s", error);
}

/* Hands a request on to the guest's agent: {"op": "agent", "execute": ..., "arguments": {}}. */
static void op_agent(struct client *c, const json_t *q) {
	const char *execute = json_string_value(json_object_get(q, "execute"));
	json_t *arguments = json_object_get(q, "arguments");
	json_int_t seconds = whole(q, "timeout");
	if (c->p->pauses) {
		client_error(c, CLI_WRONG_STATE,
					 "VM %s is paused: its guest answers nothing; 'joist resume %s'", c->p->vm.name,
					 c->p->vm.name);
		return;
	}
	if (!execute) {
		client_error(c, CLI_USAGE, "agent: what to execute?");
		return;
	}
	json_t *m = json_pack("{s:s}", "execute", execute);
	if (json_is_object(arguments))
		json_object_set(m, "arguments", arguments);
	uint64_t limit = seconds > 0 && seconds < 3600 ? (uint64_t)seconds * 1000000000u : AGENT_NS;
	if (!agent_ask(&c->p->agent, m, limit, on_agent, c))
		client_error(c, CLI_FAILED, "too many requests wait for the guest's agent");
}

static struct host_net *first_net(struct client *c) {
	struct host_net *n = machine_net(c->p->machine, 0);
	if (!n)
		client_error(c, CLI_WRONG_STATE, "VM %s has no network", c->p->vm.name);
	return n;
}

static void op_port_ls(struct client *c, const json_t *q) {
	static struct host_net_forward f[HOST_NET_FORWARDS];
	struct host_net *n = first_net(c);
	if (!n)
		return;
	unsigned count = host_net_forwards(n, f, HOST_NET_FORWARDS);
	json_t *list = json_array();
	for (unsigned i = 0; i < MIN(count, (unsigned)HOST_NET_FORWARDS); i++) {
		char text[HOST_NET_FORWARD_TEXT];
		host_net_forward_text(&f[i], text);
		json_array_append_new(list, json_string(text));
	}
	client_reply(c, json_pack("{s:b, s:o}", "ok", 1, "ports", list));
}

static void change_port(struct client *c, const json_t *q,
						int (*change)(struct host_net *, const struct host_net_forward *,
									  struct err *),
						const char *event) {
	const char *text = json_string_value(json_object_get(q, "port"));
	struct host_net_forward f = {0};
	struct err e;
	struct host_net *n = first_net(c);
	if (!n)
		return;
	if (!text || host_net_read_forward(text, &f, &e))
		client_error(c, CLI_USAGE, "%s", text ? e.text : "which port?");
	else if (change(n, &f, &e))
		client_error(c, CLI_FAILED, "%s", e.text);
	else {
		server_event(c->p, event, json_pack("{s:s}", "port", text));
		client_reply(c, ok());
	}
}

static void op_port_add(struct client *c, const json_t *q) {
	change_port(c, q, host_net_add_forward, "port-added");
}

static void op_port_rm(struct client *c, const json_t *q) {
	change_port(c, q, host_net_remove_forward, "port-removed");
}

static const struct {
	const char *name;
	void (*run)(struct client *c, const json_t *q);
} ops[] = {
	{"status", op_status},	 {"counters", op_counters}, {"power-button", op_powerbutton},
	{"stop", op_stop},		 {"quit", op_quit},			{"pause", op_pause},
	{"resume", op_resume},	 {"console", op_console},	{"events", op_events},
	{"renamed", op_renamed}, {"update", op_update},		{"agent", op_agent},
	{"port-ls", op_port_ls}, {"port-add", op_port_add}, {"port-rm", op_port_rm},
};

void ops_handle(struct client *c, const json_t *request) {
	const char *name = json_string_value(json_object_get(request, "op"));
	for (unsigned i = 0; name && i < ARRAY_LEN(ops); i++) {
		if (strcmp(ops[i].name, name) == 0) {
			ops[i].run(c, request);
			return;
		}
	}
	client_error(c, CLI_USAGE, "no operation %.60s", name ? name : "given");
}
