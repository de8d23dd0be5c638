/* See guest.h. Names of commands and fields: docs/interop/qemu-ga-ref of QEMU. */
#include "ctl/cli/guest.h"

#include <stdlib.h>

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

int guest_close(struct wire_client *c, json_int_t handle, struct err *e) {
	return guest_ask(c, "guest-file-close", json_pack("{s:I}", "handle", handle), NULL, e);
}
