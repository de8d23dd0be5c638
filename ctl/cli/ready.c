/* See ready.h. */
#include "ctl/cli/ready.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/launch.h"
#include "ctl/wire/wire.h"

#define SSH_TRY_MS 5000	 /* for the first line of a server that is there */
#define SSH_OLD_MS 10000 /* for one in a guest that has started long ago */

/* What its process says. An exit code: it does not run, or is paused. */
static int look(const struct store_vm *vm, json_t **status) {
	struct err e;
	int r = wire_ask(vm, json_pack("{s:s}", "op", "status"), status, WIRE_ANSWER_MS, NULL, &e);
	if (r)
		return cli_fail(r, &e);
	const char *state = json_string_value(json_object_get(*status, "state"));
	if (!state || strcmp(state, "paused") != 0)
		return CLI_OK;
	cli_error("VM %s is paused: its guest answers nothing; 'joist resume %s'", vm->name, vm->name);
	json_decref(*status);
	*status = NULL;
	return CLI_WRONG_STATE;
}

static int64_t young_ms(const json_t *status) {
	int64_t up = json_integer_value(json_object_get(status, "uptime"));
	return up < READY_YOUNG_S ? (READY_YOUNG_S - up) * 1000 : 0;
}

/* Where progress cannot be shown, one line says what takes so long. */
static void say(const struct store_vm *vm) {
	if (!isatty(STDERR_FILENO))
		cli_error("waiting for the guest of VM %s, which is still starting", vm->name);
}

int ready_agent(const struct store_vm *vm, uint64_t timeout_ns) {
	json_t *status = NULL;
	int code = look(vm, &status);
	if (code)
		return code;
	int64_t ms = young_ms(status);
	bool answers = json_is_true(json_object_get(status, "agent"));
	json_decref(status);
	if (answers || !ms)
		return CLI_OK;
	json_t *reply = NULL;
	struct err e;
	json_t *ping =
		json_pack("{s:s, s:s, s:i}", "op", "agent", "execute", "guest-ping", "timeout", 1);
	if (wire_ask(vm, ping, &reply, WIRE_ANSWER_MS, NULL, &e) == 0) {
		json_decref(reply);
		return CLI_OK;
	}
	say(vm);
	code = launch_wait_agent(vm, timeout_ns ? timeout_ns : (uint64_t)ms * 1000000, false);
	/* No limit was given: then the request itself says why there is no answer. */
	return code == CLI_TIMEOUT && !timeout_ns ? CLI_OK : code;
}

/* A server's first line is "SSH-...". [RFC 4253 4.2] */
static bool greets(unsigned port) {
	struct sockaddr_in a = {.sin_family = AF_INET,
							.sin_port = htons((uint16_t)port),
							.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	char text[4];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool good = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
	struct pollfd p = {fd, POLLIN, 0};
	good = good && poll(&p, 1, SSH_TRY_MS) > 0 && recv(fd, text, 4, MSG_DONTWAIT) == 4 &&
		   memcmp(text, "SSH-", 4) == 0;
	if (fd >= 0)
		close(fd);
	return good;
}

int ready_ssh(const struct store_vm *vm, unsigned port, uint64_t timeout_ns) {
	json_t *status = NULL;
	struct progress p;
	int code = look(vm, &status);
	if (code)
		return code;
	int64_t ms = young_ms(status);
	if (timeout_ns)
		ms = (int64_t)(timeout_ns / 1000000);
	else if (ms < SSH_OLD_MS)
		ms = SSH_OLD_MS;
	json_decref(status);
	int64_t end = progress_now_ms() + ms;
	bool good = greets(port);
	if (!good)
		say(vm);
	progress_start(&p, "waiting for the guest's ssh server", false);
	while (!good && code == CLI_OK && progress_now_ms() < end) {
		if ((code = look(vm, &status)) == CLI_OK) {
			progress_show(&p, json_string_value(json_object_get(status, "console")));
			json_decref(status);
			nanosleep(&(struct timespec){0, 500000000}, NULL);
			good = greets(port);
		}
	}
	progress_end(&p);
	if (good || code)
		return code;
	cli_error("no ssh server answers in the guest of VM %s; 'joist console %s' shows it", vm->name,
			  vm->name);
	return timeout_ns ? CLI_TIMEOUT : CLI_FAILED;
}
