/* A terminal, or pipes, on the console of a running VM; see launch.h. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/launch.h"
#include "ctl/wire/wire.h"
#include "host/linux/log.h"
#include "host/linux/terminal.h"

#define END_TRIES 250 /* of 20 ms */

static bool write_all(int fd, const char *data, size_t len) {
	while (len) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

/* Until the VM ends (true) or the user leaves. */
static bool pump(struct wire_client *c, bool raw) {
	struct pollfd p[2] = {{c->fd, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
	char buf[8192];
	/* What came along with the answer. */
	if (!write_all(STDOUT_FILENO, c->in.data, c->in.len))
		return false;
	for (;;) {
		if (poll(p, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return false;
		}
		if (p[0].revents) {
			ssize_t n = read(c->fd, buf, sizeof(buf));
			if (n <= 0)
				return true;
			if (!write_all(STDOUT_FILENO, buf, (size_t)n))
				return false;
		}
		if (p[1].revents) {
			ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
			if (n <= 0) {
				p[1].fd = -1; /* the end of a pipe: look on */
				continue;
			}
			char *escape = raw ? memchr(buf, TERMINAL_ESCAPE, (size_t)n) : NULL;
			if (escape)
				n = escape - buf;
			if (n && send(c->fd, buf, (size_t)n, MSG_NOSIGNAL) < 0)
				return true;
			if (escape)
				return false;
		}
	}
}

int attach_console(const struct store_vm *vm, size_t replay, bool quiet) {
	struct wire_client c;
	struct err e;
	json_t *reply;
	int code = CLI_FAILED, r = wire_connect(&c, vm, &e);
	if (r)
		return cli_fail(r, &e);
	r = wire_call(&c, json_pack("{s:s, s:I}", "op", "console", "replay", (json_int_t)replay),
				  &reply, WIRE_ANSWER_MS, &code, &e);
	if (r) {
		wire_close(&c);
		cli_fail(r, &e);
		return code;
	}
	json_decref(reply);
	if (!quiet && isatty(STDIN_FILENO))
		log_say("console of %s; Ctrl-] leaves, the VM goes on", vm->name);
	bool raw = terminal_make_raw(STDIN_FILENO);
	bool ended = pump(&c, raw);
	terminal_restore();
	wire_close(&c);
	struct store_vm now = *vm;
	/* Its process says goodbye before it has tidied up. */
	for (unsigned i = 0; ended && i < END_TRIES && store_is_locked(vm); i++)
		nanosleep(&(struct timespec){0, 20000000}, NULL);
	if (ended && store_load(&now, &e)) {
		if (!quiet)
			log_say("%s has ended and is removed", vm->name);
		return CLI_OK;
	}
	if (!ended || now.phase == STORE_RUNNING) {
		if (raw && !quiet)
			log_say("left %s; 'joist console %s' comes back", vm->name, vm->name);
		return CLI_OK;
	}
	if (!quiet)
		log_say("%s: %s%s%s", vm->name, now.end, now.why[0] ? ": " : "", now.why);
	return now.exit_code;
}
