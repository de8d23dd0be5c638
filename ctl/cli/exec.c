/* joist exec: a command in the guest, by its agent. The agent itself gives output only when the
 * command has ended; so the command writes into two files of the guest's /run, which are read while
 * it runs. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/cli/guest.h"
#include "ctl/cli/launch.h"
#include "ctl/cli/ready.h"
#include "ctl/cli/ssh.h"
#include "ctl/store/store.h"

#define STDIN_MAX (5u << 20) /* that travels with the request; more goes through a file */

/* $0 is the folder, $1 the user, whose home is HOME as with docker; the rest the command. A shell
 * of POSIX, as small as the guest may have. The command leads a process group where it can, for
 * what Ctrl-C is to reach. */
static const char script[] =
	"case $1 in *[!A-Za-z0-9_.-]*) ;; *) eval \"HOME=~$1\"; export HOME; esac; shift; "
	"umask 077; mkdir -p \"$0\" && : >\"$0/out\" && : >\"$0/err\" && "
	"if [ -f \"$0/in\" ]; then exec <\"$0/in\" && rm -f \"$0/in\"; fi && umask 022 && "
	"exec $(command -v setsid) \"$@\" >\"$0/out\" 2>\"$0/err\"";

struct job {
	struct wire_client c;
	char dir[64];
	json_int_t pid;
	json_int_t files[2]; /* of out and err; -1: not open yet */
};

/* What is in `data` and then the rest of standard input, as a file of the guest. On its disk, since
 * it may be big; nobody but root sees it, and the command's shell unlinks it. */
static int stage_input(struct job *j, const char *data, size_t len, struct err *e) {
	char path[80];
	json_int_t h;
	snprintf(path, sizeof(path), "%s/in", j->dir);
	int r = guest_run(&j->c, json_pack("[s, s, s, s]", "/bin/mkdir", "-m", "700", j->dir), e);
	if (r || (r = guest_open(&j->c, path, "w", &h, e)) != 0)
		return r;
	for (size_t at = 0; !r && at < len; at += GUEST_CHUNK)
		r = guest_write(&j->c, h, data + at, MIN(len - at, (size_t)GUEST_CHUNK), e);
	if (r == 0)
		r = guest_write_from(&j->c, h, STDIN_FILENO, e);
	struct err other;
	int closed = guest_close(&j->c, h, r ? &other : e);
	return r ? r : closed;
}

/* Standard input: small as a part of the request, else as a file. */
static int add_input(struct job *j, json_t *request, struct err *e) {
	char *data = malloc(STDIN_MAX + 1);
	size_t len = 0;
	ssize_t n;
	int r = 0;
	while (data && len <= STDIN_MAX &&
		   ((n = read(STDIN_FILENO, data + len, STDIN_MAX + 1 - len)) > 0 ||
			(n < 0 && errno == EINTR)))
		len += n > 0 ? (size_t)n : 0;
	if (data && len > STDIN_MAX) {
		r = stage_input(j, data, len, e);
	} else {
		char *text = data ? base64_encode(data, len) : NULL;
		if (text)
			json_object_set_new(request, "input-data", json_string(text));
		else
			r = err_set(e, ERR_NOMEM, "no memory for standard input");
		free(text);
	}
	free(data);
	return r;
}

static json_t *arguments_of(const struct cli_args *a, const struct job *j) {
	const char *user = cli_text(a, "user"), *dir = cli_text(a, "workdir"), *env;
	json_t *args = json_array();
	json_array_append_new(args, json_string("-c"));
	json_array_append_new(args, json_string(script));
	json_array_append_new(args, json_string(j->dir));
	json_array_append_new(args, json_string(user ? user : "root"));
	if (user) {
		json_array_append_new(args, json_string("runuser"));
		json_array_append_new(args, json_string("-u"));
		json_array_append_new(args, json_string(user));
		json_array_append_new(args, json_string("--"));
	}
	json_array_append_new(args, json_string("env"));
	if (dir)
		json_array_append_new(args, json_sprintf("--chdir=%s", dir));
	json_array_append_new(
		args, json_string("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
	for (unsigned i = 0; (env = cli_nth(a, "env", i)) != NULL; i++)
		json_array_append_new(args, json_string(env));
	for (unsigned i = 1; i < a->noperands; i++)
		json_array_append_new(args, json_string(a->operands[i]));
	return args;
}

static int begin(struct job *j, const struct cli_args *a, struct err *e) {
	uint64_t secret;
	json_t *result;
	if (getrandom(&secret, sizeof(secret), 0) != sizeof(secret))
		return err_set(e, ERR_IO, "the host gives no random numbers");
	/* /run is memory, in which a big input has no room. */
	snprintf(j->dir, sizeof(j->dir), "%s/joist-exec-%016llx",
			 cli_flag(a, "interactive") ? "/var/tmp" : "/run", (unsigned long long)secret);
	json_t *q = json_pack("{s:s, s:o, s:b}", "path", "/bin/sh", "arg", arguments_of(a, j),
						  "capture-output", 0);
	int r = cli_flag(a, "interactive") ? add_input(j, q, e) : 0;
	if (r) {
		json_decref(q);
		return r;
	}
	r = guest_ask(&j->c, "guest-exec", q, &result, e);
	if (r)
		return r;
	j->pid = json_integer_value(json_object_get(result, "pid"));
	json_decref(result);
	return 0;
}

/* What the command wrote since the last time. */
static int pass_on(struct job *j, unsigned which, struct err *e) {
	static char buf[GUEST_CHUNK];
	char path[80];
	FILE *to = which ? stderr : stdout;
	long n;
	if (j->files[which] < 0) {
		snprintf(path, sizeof(path), "%s/%s", j->dir, which ? "err" : "out");
		if (guest_open(&j->c, path, "r", &j->files[which], e))
			return 0; /* not there yet */
	}
	while ((n = guest_read(&j->c, j->files[which], buf, sizeof(buf), e)) > 0)
		if (fwrite(buf, 1, (size_t)n, to) != (size_t)n)
			return err_set(e, ERR_IO, "cannot write the output");
	fflush(to);
	return (int)n;
}

/* Its exit code, or -1: it runs. */
static int status_of(struct job *j, int *code, struct err *e) {
	json_t *result;
	int r = guest_ask(&j->c, "guest-exec-status", json_pack("{s:I}", "pid", j->pid), &result, e);
	if (r)
		return r;
	const json_t *exit_code = json_object_get(result, "exitcode");
	const json_t *sig = json_object_get(result, "signal");
	*code = !json_is_true(json_object_get(result, "exited")) ? -1
			: sig ? CLI_SIGNAL + (int)json_integer_value(sig)
				  : (int)json_integer_value(exit_code);
	json_decref(result);
	return 0;
}

/* Ctrl-C is meant for the command. */
static volatile sig_atomic_t caught;

static void on_signal(int signo) {
	caught = signo;
}

static void catch_signals(void) {
	struct sigaction s = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	sigaction(SIGINT, &s, NULL);
	sigaction(SIGTERM, &s, NULL);
	sigaction(SIGHUP, &s, NULL);
}

/* A second one does not wait for a command that takes no notice. */
static int pass_signal(struct job *j, struct err *e) {
	static const char send[] = "kill -$0 -- -$1 2>/dev/null || kill -$0 $1";
	char number[16], pid[24];
	snprintf(number, sizeof(number), "%d", (int)caught);
	snprintf(pid, sizeof(pid), "%lld", (long long)j->pid);
	signal(caught, SIG_DFL);
	caught = 0;
	return guest_run(&j->c, json_pack("[s, s, s, s, s]", "/bin/sh", "-c", send, number, pid), e);
}

static int follow(struct job *j, uint64_t limit_ns, int *code, struct err *e) {
	int64_t end = limit_ns ? progress_now_ms() + (int64_t)(limit_ns / 1000000) : INT64_MAX;
	long wait_ns = 5000000;
	int r;
	do {
		if ((r = status_of(j, code, e)) != 0 || (r = pass_on(j, 0, e)) != 0 ||
			(r = pass_on(j, 1, e)) != 0)
			return r;
		if (*code < 0 && progress_now_ms() > end) {
			cli_error("the command runs on in the guest, as process %lld: the time given with "
					  "--timeout is over",
					  (long long)j->pid);
			*code = CLI_TIMEOUT;
			return 0;
		}
		if (*code < 0 && caught && (r = pass_signal(j, e)) != 0)
			return r;
		if (*code < 0)
			nanosleep(&(struct timespec){0, wait_ns}, NULL);
		wait_ns = wait_ns < 160000000 ? wait_ns * 2 : wait_ns;
	} while (*code < 0);
	return 0;
}

static void tidy(struct job *j) {
	struct err e;
	for (unsigned i = 0; i < 2; i++)
		if (j->files[i] >= 0)
			guest_close(&j->c, j->files[i], &e);
	guest_ask(&j->c, "guest-exec",
			  json_pack("{s:s, s:[s, s, s]}", "path", "/bin/rm", "arg", "-rf", "--", j->dir), NULL,
			  &e);
}

static int run(const struct cli_args *a) {
	struct store_vm vm;
	struct job j = {.files = {-1, -1}};
	struct err e = {{0}};
	int code, r = store_find(&vm, a->operands[0], &e);
	if (r)
		return cli_fail(r, &e);
	if (cli_flag(a, "tty"))
		return ssh_exec(&vm, a);
	code = ready_agent(&vm, cli_nanoseconds(a, "timeout"));
	if (code)
		return code;
	if ((r = wire_connect(&j.c, &vm, &e)) != 0)
		return cli_fail(r, &e);
	code = CLI_FAILED;
	catch_signals();
	if ((r = begin(&j, a, &e)) == 0)
		r = follow(&j, cli_nanoseconds(a, "timeout"), &code, &e);
	if (j.dir[0])
		tidy(&j);
	wire_close(&j.c);
	return r ? cli_fail(r, &e) : code;
}

static const struct cli_option options[] = {
	{"interactive", 'i', CLI_FLAG, NULL, "Give it this command's standard input, to its end", NULL,
	 NULL, false},
	{"tty", 't', CLI_FLAG, NULL, "On a terminal, over ssh and sudo", NULL, NULL, false},
	{"user", 'u', CLI_TEXT, "USER", "As this user, else root", NULL, NULL, false},
	{"workdir", 'w', CLI_TEXT, "DIR", "In this folder of the guest", NULL, NULL, false},
	{"env", 'e', CLI_TEXT, "NAME=VALUE", "Environment variable", NULL, NULL, true},
	{"timeout", 0, CLI_SECONDS, "TIME", "Wait no longer than this, exit code 124", NULL, NULL,
	 false},
	{0},
};

const struct cli_verb cli_verb_exec = {
	.name = "exec",
	.operands = "VM [--] COMMAND [ARGUMENT...]",
	.min_operands = 2,
	.max_operands = CLI_OPERANDS,
	.end_options = 1,
	.complete = "vm",
	.summary = "run a command in the guest",
	.about =
		"Runs a command in the guest by its agent (qemu-guest-agent), as root. Output comes while "
		"it runs, the exit code is the command's. No shell is between: give sh -c for one. Ctrl-C "
		"goes to "
		"the command. With "
		"-t it goes over ssh and the guest's sudo, for programs that want a terminal. A guest that "
		"is still starting is waited for.",
	.examples = "  joist exec web -- apt-get install -y nginx\n"
				"  echo hello | joist exec -i web -- tee /etc/motd\n"
				"  joist exec -it web bash\n",
	.options = options,
	.run = run,
};
