/* See guest.h. Names of commands and fields: docs/interop/qemu-ga-ref of QEMU. */
#include "ctl/cli/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS 70000

int guest_ask(struct wire_client *c, const char *execute, json_t *arguments, json_t **result,
			  struct err *e) {
	json_t *reply,
		*q = json_pack("{s:s, s:s, s:i}", "op", "agent", "execute", execute, "timeout", 60);
	if (arguments)
		json_object_set_new(q, "arguments", arguments);
	if (result)
		*result = NULL;
	int r = wire_call(c, q, &reply, ANSWER_MS, NULL, e);
	if (r)
		return r;
	if (result)
		*result = json_incref(json_object_get(reply, "return"));
	json_decref(reply);
	return 0;
}

/* The first line of what a program wrote to standard error. */
static void first_line(const json_t *status, char *line, size_t size) {
	const char *text = json_string_value(json_object_get(status, "err-data"));
	char all[1024] = "";
	long n = text && strlen(text) < sizeof(all) ? base64_decode(text, all, sizeof(all) - 1) : 0;
	all[n > 0 ? n : 0] = 0;
	all[strcspn(all, "\n")] = 0;
	snprintf(line, size, "%s", all);
}

int guest_run(struct wire_client *c, json_t *argv, struct err *e) {
	char path[256], why[256];
	json_t *result;
	long wait_ns = 5000000;
	snprintf(path, sizeof(path), "%s", json_string_value(json_array_get(argv, 0)));
	json_array_remove(argv, 0);
	int r = guest_ask(c, "guest-exec",
					  json_pack("{s:s, s:o, s:b}", "path", path, "arg", argv, "capture-output", 1),
					  &result, e);
	if (r)
		return r;
	json_int_t pid = json_integer_value(json_object_get(result, "pid"));
	for (bool exited = false; !exited;) {
		json_decref(result);
		nanosleep(&(struct timespec){0, wait_ns}, NULL);
		wait_ns = wait_ns < 160000000 ? wait_ns * 2 : wait_ns;
		r = guest_ask(c, "guest-exec-status", json_pack("{s:I}", "pid", pid), &result, e);
		if (r)
			return r;
		exited = json_is_true(json_object_get(result, "exited"));
	}
	const json_t *code = json_object_get(result, "exitcode");
	first_line(result, why, sizeof(why));
	if (!json_is_integer(code) || json_integer_value(code) != 0)
		r = err_set(e, ERR_IO, "%s in the guest failed: %s", path,
					why[0] ? why : "no reason given");
	json_decref(result);
	return r;
}

int guest_write_from(struct wire_client *c, json_int_t handle, int fd, struct err *e) {
	static uint8_t buf[GUEST_CHUNK];
	ssize_t n;
	while ((n = read(fd, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		int r = n < 0 ? err_set(e, errno, "reading: %s", strerror(errno))
					  : guest_write(c, handle, buf, (size_t)n, e);
		if (r)
			return r;
	}
	return 0;
}

int guest_open(struct wire_client *c, const char *path, const char *mode, json_int_t *handle,
			   struct err *e) {
	json_t *result;
	int r = guest_ask(c, "guest-file-open", json_pack("{s:s, s:s}", "path", path, "mode", mode),
					  &result, e);
	if (r)
		return r;
	*handle = json_integer_value(result);
	json_decref(result);
	return 0;
}

long guest_read(struct wire_client *c, json_int_t handle, void *buf, size_t size, struct err *e) {
	json_t *result;
	int r =
		guest_ask(c, "guest-file-read",
				  json_pack("{s:I, s:I}", "handle", handle, "count", (json_int_t)size), &result, e);
	if (r)
		return r;
	const char *text = json_string_value(json_object_get(result, "buf-b64"));
	long n = text ? base64_decode(text, buf, size) : 0;
	json_decref(result);
	return n < 0 ? err_set(e, ERR_IO, "the guest's agent sent no base64") : n;
}

int guest_write(struct wire_client *c, json_int_t handle, const void *buf, size_t size,
				struct err *e) {
	json_t *result;
	char *text = base64_encode(buf, size);
	int r = text ? guest_ask(c, "guest-file-write",
							 json_pack("{s:I, s:s}", "handle", handle, "buf-b64", text), &result, e)
				 : err_set(e, ERR_NOMEM, "no memory");
	free(text);
	if (r)
		return r;
	if (json_integer_value(json_object_get(result, "count")) != (json_int_t)size)
		r = err_set(e, ERR_NOSPC, "the guest wrote less than it was given: is its disk full?");
	json_decref(result);
	return r;
}

int guest_read_to(struct wire_client *c, json_int_t handle, int fd, struct err *e) {
	static uint8_t buf[GUEST_CHUNK];
	long n;
	while ((n = guest_read(c, handle, buf, sizeof(buf), e)) > 0)
		for (long at = 0; at < n;) {
			ssize_t done = write(fd, buf + at, (size_t)(n - at));
			if (done < 0 && errno == EINTR)
				continue;
			if (done <= 0)
				return err_set(e, errno, "cannot write: %s", strerror(errno));
			at += done;
		}
	return (int)n;
}

int guest_close(struct wire_client *c, json_int_t handle, struct err *e) {
	return guest_ask(c, "guest-file-close", json_pack("{s:I}", "handle", handle), NULL, e);
}
