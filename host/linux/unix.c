/* See unix.h and unix(7). */
#include "host/linux/unix.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 16

int unix_address(struct sockaddr_un *a, const char *path, const char *what, struct err *e) {
	size_t len = strlen(path);
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!len || len >= sizeof(a->sun_path))
		return err_set(e, ERR_INVAL, "%s: a socket's path has 1 to %zu bytes, this one %zu: %s",
					   what, sizeof(a->sun_path) - 1, len, path);
	memcpy(a->sun_path, path, len);
	return 0;
}

/* Whether somebody listens at `a`. */
static bool alive(const struct sockaddr_un *a) {
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return true; /* cannot tell: leave it alone */
	bool refused = connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED;
	close(fd);
	return !refused;
}

int unix_listen(const char *path, const char *what, struct err *e) {
	struct sockaddr_un a;
	struct stat st;
	int r = unix_address(&a, path, what, e);
	if (r)
		return r;
	if (lstat(path, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return err_set(e, ERR_EXIST, "%s: %s exists and is no socket", what, path);
		if (alive(&a))
			return err_set(e, ERR_BUSY, "%s: somebody listens at %s already", what, path);
		unlink(path);
	}
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, errno, "%s: cannot make a socket: %s", what, strerror(errno));
	/* On Linux the file gets the descriptor's mode: nobody else can connect at any time. */
	fchmod(fd, 0600);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0) {
		r = err_set(e, errno, "%s: cannot listen at %s: %s", what, path, strerror(errno));
		close(fd);
		return r;
	}
	return fd;
}
