/* joist process NAME: the hidden verb that `joist start` executes in a session of its own. Until
 * the machine runs, standard error is the starter's, so that what goes wrong is seen; then the
 * exit code 0 goes down the pipe, and standard error becomes vm.log. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "ctl/image/image.h"
#include "ctl/proc/proc.h"
#include "ctl/store/death.h"
#include "ctl/store/hostmem.h"
#include "host/linux/log.h"

#define RESTART_SECONDS 1

static void housekeeping(void *opaque) {
	struct proc *p = opaque;
	server_reap(p);
	struct err e;
	if (p->vm.phase == STORE_RUNNING && death_note(&p->vm) && store_save(&p->vm, &e))
		log_line(LOG_WARN, "%s", e.text);
	loop_timer_set(&p->housekeeping, 1000000000u);
}

static void on_output(void *opaque, const uint8_t *data, size_t len) {
	struct proc *p = opaque;
	for (struct client *c = p->clients; c; c = c->next)
		if (c->mode == CLIENT_CONSOLE)
			client_send(c, data, len);
}

static void on_end(void *opaque, enum machine_end end, const char *why) {
	static const struct {
		const char *word;
		int code;
	} ends[] = {
		[MACHINE_OFF] = {"powered off", CLI_OK},	   [MACHINE_RESET] = {"reset", CLI_OK},
		[MACHINE_PANICKED] = {"panicked", CLI_FAILED}, [MACHINE_FAILED] = {"failed", CLI_FAILED},
		[MACHINE_STOPPED] = {"forced off", CLI_OK},	   [MACHINE_ESCAPED] = {"forced off", CLI_OK},
	};
	struct proc *p = opaque;
	snprintf(p->vm.end, sizeof(p->vm.end), "%s", ends[end].word);
	snprintf(p->vm.why, sizeof(p->vm.why), "%s",
			 end == MACHINE_STOPPED ? p->ending.why
			 : why					? why
									: "");
	p->vm.exit_code = ends[end].code;
	const char *policy = def_text(&p->def, "restart");
	p->again = !p->stop_asked && end != MACHINE_STOPPED &&
			   (strcmp(policy, "always") == 0 ||
				(strcmp(policy, "on-failure") == 0 && p->vm.exit_code != CLI_OK));
	loop_quit(&p->loop);
}

static void on_signal(void *opaque, int signo) {
	struct proc *p = opaque;
	if (signo == SIGHUP)
		return; /* a terminal went away, which is not ours */
	ending_on_signal(p, signo);
}

/* ---- coming up -------------------------------------------------------------------------- */

static int load(struct proc *p, const char *name, struct err *e) {
	int r = store_find(&p->vm, name, e);
	if (r)
		return r;
	if (strcmp(p->vm.name, name) != 0)
		return err_set(e, ERR_NOENT, "no VM %s", name);
	if (chdir(p->vm.dir) < 0)
		return err_set(e, errno, "%s: %s", p->vm.dir, strerror(errno));
	strcpy(p->vm.dir, "."); /* whoever renames the VM renames the folder under us */
	p->lock = store_lock(&p->vm, e);
	if (p->lock < 0)
		return p->lock;
	if ((r = def_read(&p->def, "vm.yaml", e)) != 0 || (r = image_apply(&p->def, e)) != 0 ||
		(r = def_add(&p->def, "name", name, e)) != 0)
		return r;
	if ((r = paths_socket(p->socket, sizeof(p->socket), p->vm.id, ".sock", e)) != 0 ||
		(r = paths_socket(p->agent_socket, sizeof(p->agent_socket), p->vm.id, ".agent", e)) != 0)
		return r;
	char channel[PATHS_MAX + 40];
	snprintf(channel, sizeof(channel), AGENT_PORT "=%s", p->agent_socket);
	return strcmp(def_text(&p->def, "board"), "pc") == 0 ? def_add(&p->def, "channel", channel, e)
														 : 0;
}

/* Pieces that need the loop; what was made is unmade in down(). */
static int up(struct proc *p, struct err *e) {
	int r;
	if ((r = hub_create(&p->hub, &p->loop, on_output, p, e)) != 0)
		return r;
	p->request.config.in = p->request.config.out = p->hub.machine_end;
	p->request.config.ended = on_end;
	p->request.config.opaque = p;
	limit_create(&p->limit, &p->loop, p->vm.id, p->vm.name, NULL);
	if ((r = agent_create(&p->agent, &p->loop, p->agent_socket, e)) != 0 ||
		(r = machine_create(&p->machine, &p->loop, &p->request.config, e)) != 0 ||
		(r = ending_create(p, e)) != 0 || (r = server_create(p, e)) != 0)
		return r;
	r = loop_timer_create(&p->loop, &p->housekeeping, housekeeping, p);
	if (r)
		return err_set(e, -r, "cannot make a timer: %s", strerror(-r));
	housekeeping(p);
	limit_attach(&p->limit, p->machine, e);
	return machine_start(p->machine, e);
}

static void apply_limits(struct proc *p) {
	const struct limit_wish w = {.cpu_limit = def_text(&p->def, "cpu-limit"),
								 .cpu_shares = def_text(&p->def, "cpu-shares"),
								 .disk_shares = def_text(&p->def, "disk-shares"),
								 .memory_limit = def_text(&p->def, "memory-limit")};
	p->cpu_percent = w.cpu_limit ? limit_read_percent(w.cpu_limit) : 0;
	limit_apply(&p->limit, &w);
}

/* From here on nobody watches standard error. */
static void detach(int ready) {
	int log = open("vm.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	uint8_t code = CLI_OK;
	if (log >= 0) {
		dup2(log, STDERR_FILENO);
		close(log);
	}
	if (ready >= 0) {
		ssize_t n = write(ready, &code, 1);
		(void)n; /* the starter may be gone already */
		close(ready);
	}
}

static void down(struct proc *p) {
	if (p->hub.loop)
		hub_drain(&p->hub);
	json_t *f = json_pack("{s:s, s:s, s:i}", "end", p->vm.end, "why", p->vm.why, "exit-code",
						  p->vm.exit_code);
	server_event(p, "ended", f);
	limit_destroy(&p->limit);
	if (p->machine)
		machine_destroy(p->machine); /* what the guest wrote is durable after this */
	agent_destroy(&p->agent);
	hub_destroy(&p->hub);
	server_destroy(p);
	ending_destroy(p);
	if (p->housekeeping.ready)
		loop_timer_destroy(&p->loop, &p->housekeeping);
}

static int serve(struct proc *p, int ready, struct err *e) {
	int r = up(p, e);
	if (r == 0) {
		p->vm.phase = STORE_RUNNING;
		p->vm.pid = (int)getpid();
		p->vm.started = time(NULL);
		p->vm.end[0] = p->vm.why[0] = 0;
		snprintf(p->vm.socket, sizeof(p->vm.socket), "%.107s", p->socket);
		p->vm.boot[0] = 0;
		death_note(&p->vm);
		r = store_save(&p->vm, e);
	}
	if (r == 0) {
		hostmem_check(p->vm.name, p->vm.id, p->request.config.board.memory);
		apply_limits(p);
		detach(ready);
		loop_run(&p->loop);
		p->vm.ended = time(NULL);
		p->vm.phase = STORE_STOPPED;
	}
	down(p);
	if (p->vm.phase == STORE_STOPPED && p->vm.started) {
		p->vm.pid = 0;
		if (store_save(&p->vm, e))
			log_line(LOG_ERROR, "%s", e->text);
	}
	return r;
}

/* The same process anew, as after a power cut; no state of the old machine is left. */
static void start_again(struct proc *p) {
	char *argv[] = {"joist", "process", p->vm.name, NULL};
	log_line(LOG_WARN, "%s%s%s; starting again, as --restart says", p->vm.end,
			 p->vm.why[0] ? ": " : "", p->vm.why);
	sleep(RESTART_SECONDS);
	close(p->lock);
	execv("/proc/self/exe", argv);
}

static void remove_itself(struct proc *p) {
	struct store_vm vm;
	struct err e;
	close(p->lock);
	if (store_find(&vm, p->vm.id, &e) || store_remove(&vm, &e))
		log_line(LOG_WARN, "%s", e.text);
}

static int run(const struct cli_args *a) {
	static struct proc p;
	static struct cli_args args;
	struct err e = {{0}};
	const char *fd = cli_text(a, "ready");
	int ready = fd ? atoi(fd) : -1;
	if (ready >= 0)
		fcntl(ready, F_SETFD, FD_CLOEXEC);
	p.listener.fd = -1;
	p.agent.source.fd = -1;
	int r = load(&p, a->operands[0], &e);
	if (r)
		return cli_fail(r, &e);
	def_give_args(&p.def, &args, a->verb);
	r = cli_configure(&args, &p.request);
	if (r)
		return r;
	p.request.config.name = p.vm.name;
	p.signals = (struct signals){.end = on_signal, .opaque = &p, .raw_fd = -1};
	r = loop_create(&p.loop, &e);
	if (r)
		return cli_fail(r, &e);
	r = signals_create(&p.signals, &p.loop, &e);
	if (r)
		return cli_fail(r, &e);
	hostmem_offer_oneself();
	r = serve(&p, ready, &e);
	if (r)
		return cli_fail(r, &e);
	if (p.again)
		start_again(&p);
	if (def_has(&p.def, "rm"))
		remove_itself(&p);
	return p.vm.exit_code;
}

static const struct cli_option options[] = {
	{"ready", 0, CLI_NUMBER, "FD", "Where to say that the machine runs", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_process = {
	.name = "process",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "be the process of a kept VM",
	.options = options,
	.shared = {cli_machine_options, cli_vm_options},
	.run = run,
	.hidden = true,
};
