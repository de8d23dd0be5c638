/* joist cp: a file or folder into the guest or out of it, by its agent. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/cli/cp.h"
#include "ctl/cli/launch.h"
#include "ctl/cli/ready.h"
#include "ctl/store/store.h"

/* The part before the colon of VM:PATH; a path with a slash before the colon is none. */
static bool is_guest(const char *text) {
	const char *colon = strchr(text, ':'), *slash = strchr(text, '/');
	return colon && colon != text && (!slash || slash > colon);
}

/* Of a path that may end in slashes, as folders do; in a buffer of its own. */
static const char *last_part(const char *path) {
	static char name[256];
	size_t end = strlen(path), start;
	while (end > 1 && path[end - 1] == '/')
		end--;
	for (start = end; start && path[start - 1] != '/'; start--)
		;
	snprintf(name, sizeof(name), "%.*s", (int)(end - start), path + start);
	return name;
}

/* "DIR/" means a file of the same name in it. */
static void target_of(const char *to, const char *from, char *path, size_t size) {
	size_t n = strlen(to);
	bool folder = !n || to[n - 1] == '/';
	snprintf(path, size, "%s%s", to, folder ? last_part(from) : "");
}

/* The agent would make a file that all may write. A new one gets the mode of ours; one that is
 * there keeps its own. */
static int put(struct wire_client *c, int fd, mode_t mode, const char *to, struct err *e) {
	char octal[8];
	json_int_t h;
	snprintf(octal, sizeof(octal), "%03o", (unsigned)mode & 0755);
	int r = guest_run(c,
					  json_pack("[s, s, s, s, s]", "/bin/sh", "-c",
								"[ -e \"$0\" ] || { umask 077; : >\"$0\" && chmod $1 \"$0\"; }", to,
								octal),
					  e);
	if (r || (r = guest_open(c, to, "w", &h, e)) != 0)
		return r;
	r = guest_write_from(c, h, fd, e);
	struct err other;
	int closed = guest_close(c, h, r ? &other : e);
	return r ? r : closed;
}

static int get(struct wire_client *c, const char *from, int fd, struct err *e) {
	json_int_t h;
	struct err other;
	int r = guest_open(c, from, "r", &h, e);
	if (r)
		return r;
	r = guest_read_to(c, h, fd, e);
	guest_close(c, h, &other);
	return r;
}

static bool is_guest_folder(struct wire_client *c, const char *path) {
	struct err none;
	return guest_run(c, json_pack("[s, s, s]", "/usr/bin/test", "-d", path), &none) == 0;
}

static int copy_in(struct wire_client *c, const char *from, const char *to, struct err *e) {
	char path[1024], folder[1024];
	struct stat st;
	int r, fd = strcmp(from, "-") == 0 ? dup(STDIN_FILENO) : open(from, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = err_set(e, errno, "%s: %s", from, strerror(errno));
	} else {
		/* A folder that is there is one to copy into, with or without its slash. */
		if (to[strlen(to) - 1] != '/' && is_guest_folder(c, to)) {
			snprintf(folder, sizeof(folder), "%s/", to);
			to = folder;
		}
		target_of(to, from, path, sizeof(path));
		r = S_ISDIR(st.st_mode) ? cp_folder_in(c, from, path, e)
								: put(c, fd, S_ISREG(st.st_mode) ? st.st_mode : 0644, path, e);
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
	if (is_guest_folder(c, from))
		return cp_folder_out(c, from, path, e);
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
	int code = r ? cli_fail(r, &e) : ready_agent(&vm, 0);
	if (code)
		return code;
	if ((r = wire_connect(&c, &vm, &e)) != 0)
		return cli_fail(r, &e);
	signal(SIGPIPE, SIG_IGN); /* a tar that ends early is an error to be told */
	r = in ? copy_in(&c, from, path, &e) : copy_out(&c, path, to, &e);
	wire_close(&c);
	return r ? cli_fail(r, &e) : CLI_OK;
}

static const struct cli_option options[] = {
	{"recursive", 'r', CLI_FLAG, NULL, "As it is anyway: a folder goes with what is in it", NULL,
	 NULL, false},
	{0},
};

const struct cli_verb cli_verb_cp = {
	.name = "cp",
	.operands = "FILE VM:PATH | VM:PATH FILE",
	.min_operands = 2,
	.max_operands = 2,
	.summary = "copy files and folders into the guest or out of it",
	.about =
		"Copies a file or a folder by the guest's agent, as root. Into a folder that is there, "
		"and into a path that ends in /, it goes under its own name; - is standard input or "
		"output. A folder goes as an archive (tar) that lies on the "
		"guest's disk for a moment.",
	.examples = "  joist cp nginx.conf web:/etc/nginx/\n"
				"  joist cp web:/var/log/syslog .\n"
				"  joist cp site web:/var/www/\n",
	.options = options,
	.run = run,
};
