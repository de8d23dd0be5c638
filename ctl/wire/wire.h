/* The control protocol: JSON objects, one a line, over the VM's Unix socket. A request has "op"
 * and its fields; the answer has "ok": true and fields, or "error" (a sentence) and "code" (an exit
 * code). ctl/README.md lists the operations. Only processes of the same user are answered. */
#ifndef CTL_WIRE_WIRE_H
#define CTL_WIRE_WIRE_H

#include <jansson.h>

#include "core/base/err.h"
#include "core/base/types.h"

/* A VM's process answers within microseconds, unless the host is overloaded: then it is late, and
 * that is no failure. */
#define WIRE_ANSWER_MS 15000
#define WIRE_LINE_MAX (8u << 20) /* bytes of one request or answer */

/* Bytes that came and make no line yet. */
struct wire_buffer {
	char *data;
	size_t len, room;
};

void wire_buffer_free(struct wire_buffer *b);
/* Reads once. >0: so many bytes; 0: end; negative errno. -EMSGSIZE: the line gets too long. */
int wire_buffer_read(struct wire_buffer *b, int fd);
/* Adds bytes. false: no memory, or beyond WIRE_LINE_MAX. */
bool wire_buffer_add(struct wire_buffer *b, const void *data, size_t len);
void wire_buffer_drop(struct wire_buffer *b, size_t len);
/* Takes a line off, without its end; NULL: there is none yet. The caller frees it. */
char *wire_buffer_line(struct wire_buffer *b);

/* The client's side: blocking, one thread. */
struct wire_client {
	int fd;
	struct wire_buffer in;
};

struct store_vm;

/* -ERR_BUSY: the VM does not run. */
int wire_connect(struct wire_client *c, const struct store_vm *vm, struct err *e);
void wire_close(struct wire_client *c);
/* Steals `request`. `reply` is the caller's to decref, also on an error of the VM's (then
 * NULL). timeout_ms < 0: none. An error's exit code, if the VM named one, is in `code`. */
int wire_call(struct wire_client *c, json_t *request, json_t **reply, int timeout_ms, int *code,
			  struct err *e);
/* The next line as JSON. 0, -ERR_AGAIN after the time, -ERR_IO at the end. */
int wire_next(struct wire_client *c, json_t **j, int timeout_ms, struct err *e);
bool wire_send(int fd, const json_t *j);

/* One question and its answer on a connection of its own. */
int wire_ask(const struct store_vm *vm, json_t *request, json_t **reply, int timeout_ms, int *code,
			 struct err *e);

#endif
