/* See launch.h. */
#include "ctl/cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/machine.h"
#include "ctl/image/image.h"
#include "ctl/wire/wire.h"

/* A word without a folder names an image, if there is one of that name, or no file here has it: a
 * folder `debian` or a file that is called like an image is ./debian. */
static bool is_image(const char *operand) {
	struct vm_image i;
	struct err e;
	return !strchr(operand, '/') &&
		   (access(operand, F_OK) != 0 || image_find(&i, operand, &e) == 0);
}

bool launch_is_stored(const struct cli_args *a) {
	if (cli_flag(a, "detach") || cli_text(a, "image") || cli_text(a, "file"))
		return true;
	return a->noperands && !cli_text(a, "kernel") && is_image(a->operands[0]);
}

static int define(const struct cli_args *a, struct def *d, struct err *e) {
	const char *file = cli_text(a, "file");
	char path[PATHS_MAX];
	int r = file ? def_read(d, file, e) : 0;
	if (r || (r = def_take_args(d, a, e)) != 0)
		return r;
	if (a->noperands && is_image(a->operands[0]))
		r = def_add(d, "image", a->operands[0], e);
	else if (a->noperands && (r = paths_absolute(path, sizeof(path), a->operands[0], NULL, e)) == 0)
		r = def_add(d, "kernel", path, e);
	return r;
}

/* Would the machine take these values? Looks at no file but the image's. */
static int rehearse(const struct def *d, const struct cli_verb *v, struct err *e) {
	static struct run_request q;
	static struct cli_args args;
	struct def with = {0};
	int r = 0;
	for (unsigned i = 0; !r && i < d->n; i++)
		r = def_add(&with, d->values[i].option->name, d->values[i].text, e);
	if (!r)
		r = image_apply(&with, e);
	if (r) {
		def_free(&with);
		return cli_fail(r, e);
	}
	def_give_args(&with, &args, v);
	memset(&q, 0, sizeof(q));
	r = cli_configure(&args, &q);
	def_free(&with);
	return r;
}

int launch_make(const struct cli_args *a, struct store_vm *vm) {
	struct def d = {0};
	struct err e = {{0}};
	char path[PATHS_MAX];
	int code, r = define(a, &d, &e);
	if (r) {
		def_free(&d);
		code = cli_fail(r, &e);
		return r == -ERR_INVAL ? CLI_USAGE : code;
	}
	code = rehearse(&d, a->verb, &e);
	if (code) {
		def_free(&d);
		return code;
	}
	r = store_begin(vm, def_text(&d, "name"), &e);
	if (r) {
		def_free(&d);
		return cli_fail(r, &e);
	}
	if ((r = image_make_disks(&d, vm->name, vm->dir, &e)) == 0 &&
		(r = paths_join(path, sizeof(path), vm->dir, "vm.yaml", &e)) == 0 &&
		(r = def_save(&d, path, &e)) == 0)
		r = store_publish(vm, &e);
	if (r)
		store_abandon(vm);
	def_free(&d);
	return r ? cli_fail(r, &e) : CLI_OK;
}

/* ---- starting --------------------------------------------------------------------------- */

/* The child: a session of its own, nothing of our terminal but standard error. */
static void become(const struct store_vm *vm, int ready) {
	char fd[16];
	int null = open("/dev/null", O_RDWR);
	sigset_t none;
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	snprintf(fd, sizeof(fd), "%d", ready);
	char *argv[] = {"joist", "process", "--ready", fd, (char *)vm->name, NULL};
	execv("/proc/self/exe", argv);
	_exit(CLI_FAILED);
}

int launch_start(const struct store_vm *vm) {
	int pipe_fds[2], status = 0;
	uint8_t code = CLI_FAILED;
	/* The child's end has no CLOEXEC: it goes through the exec. */
	if (pipe(pipe_fds) < 0 || fcntl(pipe_fds[0], F_SETFD, FD_CLOEXEC) < 0) {
		cli_error("cannot start VM %s: %s", vm->name, strerror(errno));
		return CLI_FAILED;
	}
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		become(vm, pipe_fds[1]);
	close(pipe_fds[1]);
	if (pid < 0) {
		cli_error("cannot start VM %s: %s", vm->name, strerror(errno));
		close(pipe_fds[0]);
		return CLI_FAILED;
	}
	ssize_t n;
	do
		n = read(pipe_fds[0], &code, 1);
	while (n < 0 && errno == EINTR);
	close(pipe_fds[0]);
	if (n == 1)
		return code;
	/* It ended and has said why on our standard error. */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status)) {
		cli_error("the process of VM %s was killed by signal %d while starting", vm->name,
				  WTERMSIG(status));
		return CLI_FAILED;
	}
	return WEXITSTATUS(status) ? WEXITSTATUS(status) : CLI_FAILED;
}

int launch_wait_agent(const struct store_vm *vm, uint64_t timeout_ns, bool quiet) {
	struct progress p;
	struct store_vm now = *vm;
	struct err e;
	int64_t end = timeout_ns ? progress_now_ms() + (int64_t)(timeout_ns / 1000000) : INT64_MAX;
	progress_start(&p, "waiting for the guest", quiet);
	for (;;) {
		json_t *reply, *ping = json_pack("{s:s, s:s, s:i}", "op", "agent", "execute", "guest-ping",
										 "timeout", 5);
		int r = store_load(&now, &e) ? -1 : wire_ask(&now, ping, &reply, 8000, NULL, &e);
		if (r == 0) {
			json_decref(reply);
			progress_end(&p);
			return CLI_OK;
		}
		if (store_load(&now, &e) || now.phase != STORE_RUNNING) {
			progress_end(&p);
			cli_error("VM %s ended while starting: %s%s%s", vm->name, now.end,
					  now.why[0] ? ": " : "", now.why);
			return CLI_FAILED;
		}
		const char *console = "";
		json_t *status = NULL;
		if (wire_ask(&now, json_pack("{s:s}", "op", "status"), &status, 2000, NULL, &e) == 0)
			console = json_string_value(json_object_get(status, "console"));
		if (progress_now_ms() > end) {
			progress_end(&p);
			cli_error("the guest of VM %s did not come up in time; its console says: %s", vm->name,
					  console);
			json_decref(status);
			return CLI_TIMEOUT;
		}
		progress_show(&p, console);
		json_decref(status);
		nanosleep(&(struct timespec){0, 500000000}, NULL);
	}
}

int launch_run(const struct cli_args *a) {
	struct store_vm vm;
	int code = launch_make(a, &vm);
	if (code)
		return code;
	code = launch_start(&vm);
	if (code) {
		/* Made by this command for this command: a second try must not find half of it. */
		struct err e;
		if (store_load(&vm, &e) == 0)
			store_remove(&vm, &e);
		return code;
	}
	if (cli_flag(a, "detach")) {
		printf("%s\n", vm.name);
		fflush(stdout);
		return cli_flag(a, "wait")
				   ? launch_wait_agent(&vm, cli_nanoseconds(a, "timeout"), cli_flag(a, "quiet"))
				   : CLI_OK;
	}
	struct err e;
	if (store_load(&vm, &e))
		return cli_fail(-ERR_NOENT, &e);
	return attach_console(&vm, 65536, cli_flag(a, "quiet"));
}
