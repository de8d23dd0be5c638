/* joist ssh, ssh-config: through a forwarded port; one is made if there is none. */
#include "ctl/cli/ssh.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ctl/cli/look.h"
#include "ctl/cli/ready.h"
#include "ctl/image/seed.h"
#include "ctl/wire/wire.h"
#include "host/linux/net.h"

/* A port of this host that nobody has now. */
static unsigned free_port(void) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unsigned port = 0;
	if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
		getsockname(fd, (struct sockaddr *)&a, &len) == 0)
		port = ntohs(a.sin_port);
	if (fd >= 0)
		close(fd);
	return port;
}

static unsigned find_port(const json_t *ports) {
	struct host_net_forward f;
	const json_t *p;
	size_t i;
	json_array_foreach((json_t *)ports, i, p) {
		memset(&f, 0, sizeof(f));
		if (host_net_read_forward(json_string_value(p), &f, NULL) == 0 && !f.udp &&
			f.guest_port == 22)
			return f.host_port;
	}
	return 0;
}

static int port_of(const struct store_vm *vm, unsigned *port, struct err *e) {
	char text[40];
	json_t *reply;
	int r = wire_ask(vm, json_pack("{s:s}", "op", "port-ls"), &reply, WIRE_ANSWER_MS, NULL, e);
	if (r)
		return r;
	*port = find_port(json_object_get(reply, "ports"));
	json_decref(reply);
	if (*port)
		return 0;
	*port = free_port();
	snprintf(text, sizeof(text), "%u:22", *port);
	r = wire_ask(vm, json_pack("{s:s, s:s}", "op", "port-add", "port", text), &reply,
				 WIRE_ANSWER_MS, NULL, e);
	json_decref(reply);
	return r;
}

struct ssh_place {
	unsigned port;
	char user[40], key[PATHS_MAX], known[PATHS_MAX];
};

/* The key: the private part of --ssh-key's file, or joist's own. */
static int place_of(const struct store_vm *vm, const char *user, struct ssh_place *s,
					struct err *e) {
	struct look l;
	int r = port_of(vm, &s->port, e);
	if (r)
		return r;
	look_at(&l, vm, false);
	const char *key = def_text(&l.def, "ssh-key");
	snprintf(s->user, sizeof(s->user), "%.32s", user ? user : def_text(&l.def, "user"));
	if (key) {
		size_t n = strlen(key);
		if (n > 4 && strcmp(key + n - 4, ".pub") == 0)
			n -= 4;
		snprintf(s->key, sizeof(s->key), "%.*s", (int)n, key);
	} else {
		r = seed_key(s->key, sizeof(s->key), e);
	}
	look_free(&l);
	return r ? r : paths_join(s->known, sizeof(s->known), vm->dir, "known_hosts", e);
}

/* Becomes ssh(1); returns an exit code if it cannot. */
static int ssh_run(const struct store_vm *vm, const struct ssh_place *s, const struct cli_args *a,
				   bool tty, const char *const *command, unsigned n, uint64_t timeout_ns) {
	char port[16], known[PATHS_MAX + 40], to[80];
	char *argv[CLI_OPERANDS + CLI_FOREIGN + 24] = {"ssh"};
	unsigned at = 1;
	int code = ready_ssh(vm, s->port, timeout_ns);
	if (code)
		return code;
	snprintf(port, sizeof(port), "%u", s->port);
	snprintf(known, sizeof(known), "UserKnownHostsFile=%s", s->known);
	snprintf(to, sizeof(to), "%s@127.0.0.1", s->user);
	/* Of an option that is given twice ssh takes the first: the user's go before ours. */
	for (unsigned i = 0; i < a->nforeign; i++)
		argv[at++] = (char *)a->foreign[i];
	static char *const fixed[] = {"-o", "StrictHostKeyChecking=accept-new",
								  "-o", "LogLevel=ERROR",
								  "-o", "IdentitiesOnly=yes"};
	for (unsigned i = 0; i < 6; i++)
		argv[at++] = fixed[i];
	char *own[] = {"-o", known, "-i", (char *)s->key, "-p", port};
	for (unsigned i = 0; i < 6; i++)
		argv[at++] = own[i];
	if (tty)
		argv[at++] = "-t";
	argv[at++] = to;
	if (n)
		argv[at++] = "--";
	for (unsigned i = 0; i < n; i++)
		argv[at++] = (char *)command[i];
	execvp("ssh", argv);
	cli_error("cannot run ssh: %s (apt-get install openssh-client)", strerror(errno));
	return CLI_NO_CAPABILITY;
}

/* One word for the guest's shell, in single quotes. */
static void quote(FILE *out, const char *word) {
	fputs(" '", out);
	for (; *word; word++)
		fputs(*word == '\'' ? "'\\''" : (char[]){*word, 0}, out);
	fputc('\'', out);
}

int ssh_exec(const struct store_vm *vm, const struct cli_args *a) {
	const char *user = cli_text(a, "user"), *dir = cli_text(a, "workdir"), *env;
	struct ssh_place s;
	struct err e;
	char *text = NULL;
	size_t len;
	int r = place_of(vm, NULL, &s, &e);
	if (r)
		return cli_fail(r, &e);
	FILE *out = open_memstream(&text, &len);
	if (!out)
		return cli_fail(err_set(&e, ERR_NOMEM, "no memory for the command"), &e);
	if (!user)
		user = "root";
	if (strcmp(user, s.user) != 0) {
		fputs("sudo -H -u", out);
		quote(out, user);
		fputs(" -- ", out);
	}
	fputs("env", out);
	if (dir) {
		fputs(" -C", out);
		quote(out, dir);
	}
	for (unsigned i = 0; (env = cli_nth(a, "env", i)) != NULL; i++)
		quote(out, env);
	for (unsigned i = 1; i < a->noperands; i++)
		quote(out, a->operands[i]);
	fclose(out);
	const char *command = text;
	int code = ssh_run(vm, &s, a, true, &command, 1, cli_nanoseconds(a, "timeout"));
	free(text);
	return code;
}

/* VM, or USER@VM as with ssh(1). */
static int run_ssh(const struct cli_args *a) {
	struct store_vm vm;
	struct ssh_place s;
	struct err e;
	char name[33];
	const char *user = cli_text(a, "user"), *word = a->operands[0], *sign = strchr(word, '@');
	if (sign && sign > word && sign - word < (long)sizeof(name)) {
		snprintf(name, sizeof(name), "%.*s", (int)(sign - word), word);
		user = name;
		word = sign + 1;
	}
	int r = store_find(&vm, word, &e);
	if (r || (r = place_of(&vm, user, &s, &e)) != 0)
		return cli_fail(r, &e);
	return ssh_run(&vm, &s, a, false, &a->operands[1], a->noperands - 1,
				   cli_nanoseconds(a, "timeout"));
}

static const struct cli_option options[] = {
	{"user", 'u', CLI_TEXT, "USER", "As this user, else the one that cloud-init made", NULL, NULL,
	 false},
	{"timeout", 0, CLI_SECONDS, "TIME",
	 "Wait no longer than this for a guest that is starting, exit code 124", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_ssh = {
	.name = "ssh",
	.operands = "[USER@]VM [--] [COMMAND...]",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.end_options = 2,
	/* Not -l and -p: user and port are known here. */
	.foreign = "46AaB:b:Cc:D:E:e:F:fGgI:i:J:KkL:Mm:NnO:o:Q:qR:S:sTtVvW:w:XxYy",
	.complete = "vm",
	.summary = "log in to the guest",
	.about =
		"Runs ssh to the guest's port 22 through a forwarded port of 127.0.0.1; if none is "
		"forwarded, a free one is until the VM ends. Key and user are those that cloud-init was "
		"given. A guest that is still starting is waited for.\n\nOptions of ssh(1) before and "
		"after "
		"the VM are handed on to it (-A, -L, -o, -v...; not -l and -p: that is USER@). For other "
		"programs there is 'joist ssh-config'.",
	.examples = "  joist ssh web\n"
				"  joist ssh web -- journalctl -n 20\n"
				"  joist ssh -A web -L 8080:localhost:80\n",
	.options = options,
	.run = run_ssh,
};

static int run_config(const struct cli_args *a) {
	struct store_vm vm;
	struct ssh_place s;
	struct err e;
	int r = store_find(&vm, a->operands[0], &e);
	if (r || (r = place_of(&vm, NULL, &s, &e)) != 0)
		return cli_fail(r, &e);
	printf("Host %s\n    HostName 127.0.0.1\n    Port %u\n    User %s\n    IdentityFile \"%s\"\n"
		   "    IdentitiesOnly yes\n    UserKnownHostsFile \"%s\"\n"
		   "    StrictHostKeyChecking accept-new\n",
		   vm.name, s.port, s.user, s.key, s.known);
	return CLI_OK;
}

const struct cli_verb cli_verb_ssh_config = {
	.name = "ssh-config",
	.operands = "VM",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "vm",
	.summary = "print what ssh(1) needs to know about a VM",
	.about =
		"Prints a block for ~/.ssh/config, so that ssh, scp, rsync and editors find the guest.",
	.examples = "  joist ssh-config web >> ~/.ssh/config && scp file web:\n",
	.run = run_config,
};
