/* joist cp: a file into the guest or out of it, by its agent. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/cli/guest.h"
#include "ctl/cli/launch.h"
#include "ctl/store/store.h"

/* The part before the colon of VM:PATH; a path with a slash before the colon is none. */
static bool is_guest(const char *text) {
	const char *colon = strchr(text, ':'), *slash = strchr(text, '/');
	return colon && colon != text && (!slash || slash > colon);
}

static const char *last_part(const char *path) {
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* "DIR/" means a file of the same name in it. */
static void target_of(const char *to, const char *from, char *path, size_t size) {
	size_t n = strlen(to);
	bool folder = !n || to[n - 1] == '/';
	snprintf(path, size, "%s%s", to, folder ? last_part(from) : "");
}

static int put(struct wire_client *c, int fd, const char *to, struct err *e) {
	static uint8_t buf[GUEST_CHUNK];
	json_int_t h;
	ssize_t n = 0;
	int r = guest_open(c, to, "w", &h, e);
	if (r)
		return r;
	while (r == 0 && ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)))
		if (n > 0)
			r = guest_write(c, h, buf, (size_t)n, e);
	if (r == 0 && n < 0)
		r = err_set(e, errno, "reading: %s", strerror(errno));
	struct err other;
	int closed = guest_close(c, h, r ? &other : e);
	return r ? r : closed;
}

static int get(struct wire_client *c, const char *from, int fd, struct err *e) {
	static uint8_t buf[GUEST_CHUNK];
	json_int_t h;
	long n;
	int r = guest_open(c, from, "r", &h, e);
	if (r)
		return r;
	while ((n = guest_read(c, h, buf, sizeof(buf), e)) > 0)
		for (long at = 0; at < n;) {
			ssize_t done = write(fd, buf + at, (size_t)(n - at));
			if (done < 0 && errno == EINTR)
				continue;
			if (done <= 0) {
				r = err_set(e, errno, "cannot write: %s", strerror(errno));
				goto out;
			}
			at += done;
		}
	r = n < 0 ? (int)n : 0;
out:
	guest_close(c, h, NULL);
	return r;
}

static int copy_in(struct wire_client *c, const char *from, const char *to, struct err *e) {
	char path[1024];
	struct stat st;
	int r, fd = strcmp(from, "-") == 0 ? dup(STDIN_FILENO) : open(from, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = err_set(e, errno, "%s: %s", from, strerror(errno));
	} else if (S_ISDIR(st.st_mode)) {
		r = err_set(e, ERR_INVAL,
					"%s is a folder; 'tar c %s | joist exec -i VM -- tar xC DIR' copies one", from,
					from);
	} else {
		target_of(to, from, path, sizeof(path));
		r = put(c, fd, path, e);
		/* What can be executed here can be there; only the bits that matter. */
		if (r == 0 && S_ISREG(st.st_mode) && st.st_mode & 0100)
			r = guest_ask(
				c, "guest-exec",
				json_pack("{s:s, s:[s, s, s]}", "path", "/bin/chmod", "arg", "+x", "--", path),
				NULL, e);
	}
	if (fd >= 0)
		close(fd);
	return r;
}

static int copy_out(struct wire_client *c, const char *from, const char *to, struct err *e) {
	char path[1024];
	struct stat st;
	if (strcmp(to, "-") == 0)
		return get(c, from, STDOUT_FILENO, e);
	if (stat(to, &st) == 0 && S_ISDIR(st.st_mode))
		snprintf(path, sizeof(path), "%s/%s", to, last_part(from));
	else
		target_of(to, from, path, sizeof(path));
	/* Under another name until it is whole. */
	char part[1040];
	snprintf(part, sizeof(part), "%s.part", path);
	int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set(e, errno, "cannot write %s: %s", path, strerror(errno));
	int r = get(c, from, fd, e);
	close(fd);
	if (r == 0 && rename(part, path) < 0)
		r = err_set(e, errno, "cannot write %s: %s", path, strerror(errno));
	if (r)
		unlink(part);
	return r;
}

static int run(const struct cli_args *a) {
	const char *from = a->operands[0], *to = a->operands[1];
	bool in = is_guest(to);
	char name[STORE_NAME];
	struct wire_client c;
	struct store_vm vm;
	struct err e;
	if (in == is_guest(from))
		return cli_usage(a->verb, "one of %s and %s must be VM:PATH, the other a file here", from,
						 to);
	const char *guest = in ? to : from, *path = strchr(guest, ':') + 1;
	snprintf(name, sizeof(name), "%.*s", (int)(path - guest - 1), guest);
	if (path[0] != '/')
		return cli_usage(a->verb, "%s: give the guest's path from its root on", guest);
	int r = store_find(&vm, name, &e);
	if (r || (r = wire_connect(&c, &vm, &e)) != 0)
		return cli_fail(r, &e);
	r = in ? copy_in(&c, from, path, &e) : copy_out(&c, path, to, &e);
	wire_close(&c);
	return r ? cli_fail(r, &e) : CLI_OK;
}

const struct cli_verb cli_verb_cp = {
	.name = "cp",
	.operands = "FILE VM:PATH | VM:PATH FILE",
	.min_operands = 2,
	.max_operands = 2,
	.summary = "copy a file into the guest or out of it",
	.about =
		"Copies a file by the guest's agent, as root. A path that ends in / keeps the file's name; "
		"- is standard input or output.",
	.examples = "  joist cp nginx.conf web:/etc/nginx/\n"
				"  joist cp web:/var/log/syslog .\n",
	.run = run,
};
