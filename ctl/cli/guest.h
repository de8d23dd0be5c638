/* Requests to a VM's guest agent, from the command line's side. */
#ifndef CTL_CLI_GUEST_H
#define CTL_CLI_GUEST_H

#include <stdio.h>

#include "ctl/wire/wire.h"

/* qemu-ga's `execute` with `arguments` (stolen; may be NULL). `result` is the caller's to
 * decref; may be NULL. */
int guest_ask(struct wire_client *c, const char *execute, json_t *arguments, json_t **result,
			  struct err *e);

/* Runs a program of the guest to its end; `argv` (stolen) is a JSON array of strings, a whole path
 * first. An exit code other than 0 is -ERR_IO with what it wrote to standard error. */
int guest_run(struct wire_client *c, json_t *argv, struct err *e);

/* A file of the guest. `mode` as fopen()'s. */
int guest_open(struct wire_client *c, const char *path, const char *mode, json_int_t *handle,
			   struct err *e);
/* Bytes read, 0 at the end for now, or -ERR_*. */
long guest_read(struct wire_client *c, json_int_t handle, void *buf, size_t size, struct err *e);
int guest_write(struct wire_client *c, json_int_t handle, const void *buf, size_t size,
				struct err *e);
/* All that can be read from `fd`, to its end. */
int guest_write_from(struct wire_client *c, json_int_t handle, int fd, struct err *e);
/* All of a file of the guest, from where it is to its end for now. */
int guest_read_to(struct wire_client *c, json_int_t handle, int fd, struct err *e);
int guest_close(struct wire_client *c, json_int_t handle, struct err *e);

#define GUEST_CHUNK (96u << 10) /* bytes of a file a request */

/* base64.c [RFC 4648 4]. The text is the caller's to free; NULL: no memory. */
char *base64_encode(const void *data, size_t len);
/* Bytes, or -1: no base64 or too many. */
long base64_decode(const char *text, void *buf, size_t size);

#endif
