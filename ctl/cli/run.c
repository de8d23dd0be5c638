/* joist run: makes a VM, gives it the terminal, and waits for its end. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/cli/cli.h"
#include "ctl/cli/launch.h"
#include "ctl/cli/machine.h"
#include "ctl/cli/pick.h"
#include "ctl/proc/limit.h"
#include "ctl/store/hostmem.h"
#include "host/linux/log.h"
#include "host/linux/loop.h"
#include "host/linux/machine.h"
#include "host/linux/signals.h"
#include "host/linux/terminal.h"

#define SIGNAL_LIMIT 64
#define GRACE_NS 10000000000ull /* with nobody to ask for more */

struct session {
	struct loop loop;
	struct signals signals;
	struct loop_timer timeout, grace;
	uint64_t grace_ns;
	struct machine *machine;
	struct limit limit;
	const char *name; /* of the VM; NULL: it has none */
	int signo;
	bool timed_out;
	int exit_code;
};

/* "joist: [NAME: ]sentence"; right on a raw terminal, too. */
static void say(const struct session *s, const char *what, const char *why) {
	bool with = why && why[0];
	log_say("%s%s%s%s%s", s->name ? s->name : "", s->name ? ": " : "", what, with ? ": " : "",
			with ? why : "");
}

static void on_end(void *opaque, enum machine_end end, const char *why) {
	struct session *s = opaque;
	switch (end) {
	case MACHINE_OFF:
		s->exit_code = s->signo ? CLI_SIGNAL + s->signo : CLI_OK;
		break;
	case MACHINE_RESET:
		say(s, "the guest asked for a reset", why);
		s->exit_code = CLI_OK;
		break;
	case MACHINE_PANICKED:
		say(s, "guest panicked", why);
		s->exit_code = CLI_FAILED;
		break;
	case MACHINE_FAILED:
		say(s, "the VM failed", why);
		s->exit_code = CLI_FAILED;
		break;
	case MACHINE_ESCAPED:
		say(s, "left with Ctrl-]; the VM is stopped", NULL);
		s->exit_code = CLI_OK;
		break;
	case MACHINE_STOPPED:
		if (s->timed_out) {
			say(s, "the time given with --timeout is over; the VM is stopped", NULL);
			s->exit_code = CLI_TIMEOUT;
		} else if (s->signo) {
			say(s, strsignal(s->signo), "the VM is stopped");
			s->exit_code = CLI_SIGNAL + s->signo;
		} else {
			s->exit_code = CLI_FAILED;
		}
		break;
	}
	loop_quit(&s->loop);
}

static void on_signal(void *opaque, int signo) {
	struct session *s = opaque;
	/* A terminal that went away takes the power with it; what listens to no button cannot be asked;
	 * and who says it twice means it. */
	if (signo == SIGHUP || s->signo || !machine_power_button(s->machine)) {
		s->signo = signo;
		machine_stop(s->machine);
		return;
	}
	s->signo = signo;
	say(s, strsignal(signo), "the guest is asked to shut down; a second time takes the power away");
	loop_timer_set(&s->grace, s->grace_ns);
}

/* The guest has had its time. */
static void on_grace(void *opaque) {
	struct session *s = opaque;
	machine_stop(s->machine);
}

static void on_timeout(void *opaque) {
	struct session *s = opaque;
	s->timed_out = true;
	machine_stop(s->machine);
}

static void print_stat(void *out, const char *name, uint64_t val) {
	fprintf(out, "%-28s %llu\n", name, (unsigned long long)val);
}

/* --disk FILE[,ro][,serial=TEXT][,bus=nvme][,cache=none]. What follows the path is cut off in
 * `path`, which has the option's text; other commas belong to the path. */
static int read_disk(const char *text, struct machine_disk *d, char *path, size_t size) {
	char *comma;
	if (strlen(text) >= size)
		return -ENAMETOOLONG;
	strcpy(path, text);
	d->path = path;
	while ((comma = strrchr(path, ',')) != NULL) {
		if (strcmp(comma, ",ro") == 0)
			d->options.read_only = true;
		else if (strncmp(comma, ",serial=", 8) == 0)
			d->options.serial = comma + 8;
		else if (strcmp(comma, ",cache=none") == 0 || strcmp(comma, ",cache=writeback") == 0)
			d->options.direct = comma[7] == 'n';
		else if (strcmp(comma, ",bus=nvme") == 0 || strcmp(comma, ",bus=virtio") == 0)
			d->nvme = comma[5] == 'n';
		else
			break;
		*comma = 0;
	}
	return 0;
}

/* --channel NAME=SOCKET. The name is the guest's /dev/virtio-ports/NAME. */
static int configure_channels(const struct cli_args *a, struct run_request *q) {
	const char *text;
	struct machine_config *c = &q->config;
	while ((text = cli_nth(a, "channel", c->nchannels)) != NULL) {
		if (c->nchannels == BOARD_CHANNELS)
			return cli_usage(a->verb, "--channel: no more than %d", BOARD_CHANNELS);
		char *name = q->channels[c->nchannels];
		size_t len = strcspn(text, "=");
		if (!len || len >= sizeof(q->channels[0]) || memchr(text, '/', len) || !text[len] ||
			!text[len + 1])
			return cli_usage(a->verb,
							 "--channel %s: not NAME=SOCKET with a name of up to %zu characters",
							 text, sizeof(q->channels[0]) - 1);
		memcpy(name, text, len);
		c->channels[c->nchannels++] = (struct machine_channel){name, text + len + 1};
	}
	return 0;
}

/* --net, and -p of the first network. */
static int configure_nets(const struct cli_args *a, struct machine_config *c) {
	struct err e = {{0}};
	const char *text;
	for (unsigned i = 0; (text = cli_nth(a, "net", i)) != NULL || i == 0; i++) {
		if (c->nnets == BOARD_NETS)
			return cli_usage(a->verb, "--net: no more than %d", BOARD_NETS);
		struct host_net_config *n = &c->nets[c->nnets].config;
		n->hostname = c->name;
		if (host_net_read(text ? text : "user", n, &e))
			return cli_usage(a->verb, "--net %s", e.text);
		if (n->kind != HOST_NET_NONE)
			c->nnets++;
	}
	text = cli_text(a, "net-limit");
	struct host_net_limits limits;
	if (text && host_net_read_limits(text, &limits, &e))
		return cli_usage(a->verb, "--net-limit %s", e.text);
	for (unsigned i = 0; text && i < c->nnets; i++)
		c->nets[i].config.limits = limits;
	struct machine_net *first = &c->nets[0];
	while ((text = cli_nth(a, "publish", first->nforwards)) != NULL) {
		if (!c->nnets)
			return cli_usage(a->verb, "--publish %s needs a network, and --net is none", text);
		if (first->nforwards == HOST_NET_FORWARDS)
			return cli_usage(a->verb, "--publish: no more than %d", HOST_NET_FORWARDS);
		if (host_net_read_forward(text, &first->forwards[first->nforwards++], &e))
			return cli_usage(a->verb, "--publish %s", e.text);
	}
	return 0;
}

int cli_configure(const struct cli_args *a, struct run_request *q) {
	struct machine_config *c = &q->config;
	struct board_config *b = &c->board;
	struct err e = {{0}};
	int r = pick_engine_named(cli_text(a, "engine"), cli_flag(a, "force"), &q->engine, &e);
	if (r) {
		cli_error("%s", e.text);
		return r == -ERR_INVAL ? CLI_USAGE : cli_code(r);
	}
	c->engine = q->engine.ops;
	c->engine_options.tier = q->engine.tier;
	c->engine_options.stats = cli_flag(a, "engine-stats");
	c->name = cli_text(a, "name");
	c->kernel = cli_text(a, "kernel");
	if (a->noperands && c->kernel)
		return cli_usage(a->verb, "--kernel %s and %s: which is the kernel?", c->kernel,
						 a->operands[0]);
	if (a->noperands)
		c->kernel = a->operands[0];
	if (!c->kernel)
		return cli_usage(a->verb, "needs an image, as debian ('joist image ls' lists them), or a "
								  "kernel: --kernel FILE");
	c->initrd = cli_text(a, "initrd");
	b->append = cli_text(a, "append");
	b->board = cli_text(a, "board");
	b->memory = cli_size(a, "memory");
	b->cpus = (unsigned)cli_number(a, "cpus");
	const char *disk;
	while ((disk = cli_nth(a, "disk", c->ndisks)) != NULL) {
		if (c->ndisks == BOARD_DISKS)
			return cli_usage(a->verb, "--disk: no more than %d", BOARD_DISKS);
		if (read_disk(disk, &c->disks[c->ndisks], q->paths[c->ndisks], sizeof(q->paths[0])))
			return cli_usage(a->verb, "--disk: the path is too long");
		c->ndisks++;
	}
	const char *limit = cli_text(a, "disk-limit");
	struct host_disk_limits limits = {{0, 0}, {0, 0}};
	if (limit && host_disk_read_limits(limit, &limits, &e))
		return cli_usage(a->verb, "--disk-limit %s", e.text);
	for (unsigned i = 0; i < c->ndisks; i++)
		c->disks[i].options.limits = limits;
	c->disk_shares = (unsigned)cli_number(a, "disk-shares");
	c->net_shares = (unsigned)cli_number(a, "net-shares");
	c->cpu_model = cli_text(a, "cpu-model");
	c->no_reboot = cli_flag(a, "no-reboot");
	c->no_balloon = strcmp(cli_text(a, "balloon"), "off") == 0;
	c->virtio_console = strcmp(cli_text(a, "console"), "virtio") == 0;
	c->vsock = cli_text(a, "vsock");
	c->vsock_cid = (uint32_t)cli_number(a, "vsock-cid");
	r = configure_channels(a, q);
	return r ? r : configure_nets(a, c);
}

/* Shares and limits, if any were asked for: a group of its own is made for them only. */
static bool wishes_limits(const struct cli_args *a, struct limit_wish *w) {
	*w = (struct limit_wish){.cpu_limit = cli_text(a, "cpu-limit"),
							 .cpu_shares = cli_text(a, "cpu-shares"),
							 .disk_shares = cli_text(a, "disk-shares"),
							 .memory_limit = cli_text(a, "memory-limit")};
	return w->cpu_limit || w->memory_limit || cli_number(a, "cpu-shares") != 100 ||
		   cli_number(a, "disk-shares") != 100;
}

static int run_machine(struct session *s, const struct cli_args *a, struct run_request *q) {
	struct err e = {{0}};
	struct limit_wish wish;
	bool limits = wishes_limits(a, &wish);
	char id[24];
	snprintf(id, sizeof(id), "run-%d", (int)getpid());
	if (limits)
		limit_create(&s->limit, &s->loop, id, id, NULL);
	int r = machine_create(&s->machine, &s->loop, &q->config, &e);
	if (r) {
		cli_error("%s", e.text);
		limit_destroy(&s->limit);
		return cli_code(r);
	}
	hostmem_check(s->name, NULL, q->config.board.memory);
	if (q->engine.why[0] && !cli_flag(a, "quiet"))
		say(s, q->engine.why, NULL);
	bool raw = q->config.escape && terminal_make_raw(STDIN_FILENO);
	if (raw && !cli_flag(a, "quiet"))
		say(s, "Ctrl-] stops the VM and leaves", NULL);
	if (limits)
		limit_attach(&s->limit, s->machine, &e);
	r = machine_start(s->machine, &e);
	if (r == 0) {
		if (limits)
			limit_apply(&s->limit, &wish);
		uint64_t limit = cli_nanoseconds(a, "timeout");
		if (limit)
			loop_timer_set(&s->timeout, limit);
		loop_run(&s->loop);
	}
	terminal_restore();
	if (r) {
		cli_error("%s", e.text);
		s->exit_code = cli_code(r);
	} else if (cli_flag(a, "engine-stats")) {
		machine_stats(s->machine, print_stat, stderr);
	}
	limit_destroy(&s->limit);
	machine_destroy(s->machine);
	return s->exit_code;
}

static int with_loop(struct session *s, const struct cli_args *a, struct run_request *q) {
	struct err e = {{0}};
	int r = loop_create(&s->loop, &e);
	if (r) {
		cli_error("%s", e.text);
		return CLI_FAILED;
	}
	/* Before there is any thread: all of them inherit the mask. */
	r = signals_create(&s->signals, &s->loop, &e);
	if (r) {
		cli_error("%s", e.text);
		loop_destroy(&s->loop);
		return CLI_FAILED;
	}
	r = loop_timer_create(&s->loop, &s->timeout, on_timeout, s);
	if (r == 0 && (r = loop_timer_create(&s->loop, &s->grace, on_grace, s)) != 0)
		loop_timer_destroy(&s->loop, &s->timeout);
	if (r) {
		cli_error("cannot make a timer: %s", strerror(-r));
		s->exit_code = CLI_FAILED;
	} else {
		s->exit_code = run_machine(s, a, q);
		loop_timer_destroy(&s->loop, &s->timeout);
		loop_timer_destroy(&s->loop, &s->grace);
	}
	signals_destroy(&s->signals);
	loop_destroy(&s->loop);
	return s->exit_code;
}

static int run(const struct cli_args *a) {
	static struct run_request q; /* big, and once a process */
	struct session s = {.signals = {.end = on_signal, .raw_fd = STDIN_FILENO},
						.grace_ns = cli_text(a, "stop-timeout") ? cli_nanoseconds(a, "stop-timeout")
																: GRACE_NS};
	int r = launch_is_stored(a) ? -1 : 0;
	if (r)
		return launch_run(a);
	r = cli_configure(a, &q);
	if (r)
		return r;
	if (cli_flag(a, "verbose"))
		log_set_level(LOG_DEBUG);
	s.signals.opaque = &s;
	s.name = q.config.name;
	q.config.in = STDIN_FILENO;
	q.config.out = STDOUT_FILENO;
	q.config.escape = isatty(STDIN_FILENO);
	/* In the background, reading the terminal would stop the process. */
	if (q.config.escape && tcgetpgrp(STDIN_FILENO) != getpgrp())
		q.config.in = -1;
	q.config.ended = on_end;
	q.config.opaque = &s;
	hostmem_offer_oneself();
	return with_loop(&s, a, &q);
}

const struct cli_option cli_machine_options[] = {
	{"kernel", 0, CLI_FILE, "FILE", "Linux bzImage or ELF kernel to boot", NULL, NULL, false},
	{"initrd", 0, CLI_FILE, "FILE", "Initial RAM disk for the kernel", NULL, NULL, false},
	{"append", 0, CLI_TEXT, "TEXT", "The kernel's command line", "", NULL, false},
	{"memory", 'm', CLI_SIZE, "SIZE", "Memory of the guest", "512M", NULL, false},
	{"cpus", 'c', CLI_NUMBER, "N", "Virtual CPUs", "1", NULL, false},
	{"disk", 0, CLI_FILE, "FILE[,ro][,bus=nvme][,cache=none][,serial=TEXT]",
	 "Image as a disk: raw, or qcow2 if it is called .qcow2 or qcow2:FILE; cache=none goes past "
	 "this "
	 "host's page cache",
	 NULL, NULL, true},
	{"name", 'n', CLI_NAME, "NAME", "Name of the VM, else one is made up", NULL, NULL, false},
	{"engine", 0, CLI_TEXT, "ENGINE", "What runs the guest's code", "auto",
	 "auto kvm kvm,split kvm,kernel kvm,off soft soft,jit soft,interp soft,cache=128M", false},
	{"force", 0, CLI_FLAG, NULL, "Use the engine named even where its probe fails", NULL, NULL,
	 false},
	{"board", 0, CLI_CHOICE, "BOARD", "Kind of machine, pc with PCI or micro with virtio-mmio only",
	 "pc", "pc micro", false},
	{"cpu-model", 0, CLI_CHOICE, "MODEL",
	 "What CPU the guest sees, this host's or a level of x86-64", "host", "host base v2 v3 v4",
	 false},
	{"console", 0, CLI_CHOICE, "KIND", "The guest's console, ttyS0 or hvc0", "serial",
	 "serial virtio", false},
	{"balloon", 0, CLI_CHOICE, "WHETHER",
	 "A memory balloon, which gives back what the guest leaves free", "on", "on off", false},
	{"net", 0, CLI_TEXT, "KIND[,KEY=VALUE]",
	 "A network card and its network: user (NAT, the default; with ,loopback the guest reaches the "
	 "host's 127.0.0.1 as 10.0.2.2), a network made with joist network create, tap[=DEVICE], "
	 "bridge=BRIDGE, or none; ,mac= and ,mtu=",
	 NULL, "user none tap", true},
	{"net-limit", 0, CLI_TEXT, "RATE[,burst=SIZE][,packets=N]",
	 "Bytes a second each network card may send and receive, 10M or 100Mbit, and packets", NULL,
	 NULL, false},
	{"disk-limit", 0, CLI_TEXT, "RATE[,burst=SIZE][,iops=N]",
	 "Bytes a second that each disk may read and write together, as 10M, and requests", NULL, NULL,
	 false},
	{"disk-shares", 0, CLI_NUMBER, "N",
	 "Weight against your other VMs when a disk of the host is short, 2 to 10000", "100", NULL,
	 false},
	{"net-shares", 0, CLI_NUMBER, "N",
	 "Weight against your other VMs when the network is short, 2 to 10000", "100", NULL, false},
	{"publish", 'p', CLI_TEXT, "[ADDR:]HOST:GUEST[/udp]",
	 "Forward a port of the host, on 127.0.0.1 if no address is given, to one of the guest", NULL,
	 NULL, true},
	{"channel", 0, CLI_TEXT, "NAME=SOCKET",
	 "The guest's /dev/virtio-ports/NAME as a Unix socket, as org.qemu.guest_agent.0=agent.sock",
	 NULL, NULL, true},
	{"vsock", 0, CLI_FILE, "SOCKET",
	 "The guest's AF_VSOCK as Unix sockets: write \"CONNECT PORT\" and a newline into SOCKET to "
	 "reach "
	 "the guest's PORT; SOCKET_PORT is what the guest finds at CID 2, port PORT",
	 NULL, NULL, false},
	{"vsock-cid", 0, CLI_NUMBER, "N", "The guest's own address on it", "3", NULL, false},
	{"no-reboot", 0, CLI_FLAG, NULL, "End when the guest resets instead of booting again", NULL,
	 NULL, false},
	{"engine-stats", 0, CLI_FLAG, NULL, "Print the engine's counters at the end, on stderr", NULL,
	 NULL, false},
	{"verbose", 'v', CLI_FLAG, NULL, "Log what the machine's devices notice, on stderr", NULL, NULL,
	 false},
	{0},
};

static const struct cli_option options[] = {
	{"detach", 'd', CLI_FLAG, NULL, "Keep the VM and run it in the background", NULL, NULL, false},
	{"file", 'f', CLI_FILE, "FILE",
	 "Take the definition from a YAML file (-: standard input), options override it", NULL, NULL,
	 false},
	{"wait", 'w', CLI_FLAG, NULL, "With -d: wait until the guest's agent answers", NULL, NULL,
	 false},
	{"timeout", 0, CLI_SECONDS, "TIME", "Stop the VM (or waiting) after this time, exit code 124",
	 NULL, NULL, false},
	{"interactive", 'i', CLI_FLAG, NULL, "As it is without -d: the console is attached", NULL, NULL,
	 false},
	{"tty", 't', CLI_FLAG, NULL, "The same", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No hints on the terminal", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_run = {
	.name = "run",
	.operands = "[IMAGE|KERNEL]",
	.max_operands = 1,
	.surplus = "a VM starts its own system: 'joist exec VM -- COMMAND' runs something in it, and "
			   "'joist cp' takes folders into it",
	.complete = "image",
	.summary = "make and run a VM",
	.about = "With -d or an image, makes a VM that is kept, with a process of its own: closing "
			 "the terminal ends nothing. Without -d, its console is attached then; Ctrl-] leaves "
			 "and the VM goes on.\n\n"
			 "With a kernel and no -d, the VM lives in this command and nothing is kept: boots "
			 "the kernel in a new VM whose serial line is standard input and output. The "
			 "command ends with the VM: exit code 0 when the guest powers off, 1 when its kernel "
			 "panics. A reset boots the guest again.\n\n"
			 "On a terminal, all keys go to the guest but Ctrl-], which stops the VM and leaves. "
			 "Without one, input ends with the end of the file and the VM goes on.\n\n"
			 "SIGINT and SIGTERM ask the guest to shut down, as its power button does, and "
			 "--stop-timeout is its time for that; a second one takes the power away at once, as "
			 "does the first where the guest listens to no power button. The exit code is 128 and "
			 "the signal's number.\n\n"
			 "Sizes are binary: 512M, 2G. Times are seconds, or 10m, 2h.",
	.examples = "  joist run -d --name web debian -m 1G\n"
				"  joist run --kernel vmlinuz --initrd initrd --append \"console=ttyS0 quiet\"\n"
				"  joist run -m 1G -c 2 --disk root.img --kernel vmlinuz \\\n"
				"      --append \"console=ttyS0 root=/dev/vda\"\n",
	.options = options,
	.shared = {cli_machine_options, cli_vm_options},
	.run = run,
};
