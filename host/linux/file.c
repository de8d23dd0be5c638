/* See file.h. */
#include "host/linux/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"

#define FILE_MAX GIB(4)

static int judge(int fd, const char *path, const char *what, size_t *len, struct err *e) {
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_set(e, errno, "%s %s: %s", what, path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVAL, "%s %s is not a regular file", what, path);
	if (st.st_size == 0)
		return err_set(e, ERR_INVAL, "%s %s is empty", what, path);
	if ((uint64_t)st.st_size > FILE_MAX)
		return err_set(e, ERR_FBIG, "%s %s has %llu MiB; the limit is 4096", what, path,
					   (unsigned long long)st.st_size >> 20);
	*len = (size_t)st.st_size;
	return 0;
}

int host_file_open(const char *path, const char *what, size_t *len, struct err *e) {
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set(e, errno, "%s %s: %s", what, path, strerror(errno));
	int r = judge(fd, path, what, len, e);
	if (!r)
		return fd;
	close(fd);
	return r;
}

static int read_all(int fd, struct host_file *f, size_t len, const char *path, const char *what,
					struct err *e) {
	f->data = malloc(len);
	if (!f->data)
		return err_set(e, ERR_NOMEM, "%s %s: no memory for %zu bytes", what, path, len);
	while (f->len < len) {
		ssize_t n = read(fd, f->data + f->len, len - f->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, errno, "reading %s %s: %s", what, path, strerror(errno));
		if (n == 0)
			break;
		f->len += (size_t)n;
	}
	return 0;
}

int host_file_read(struct host_file *f, const char *path, const char *what, struct err *e) {
	size_t len;
	*f = (struct host_file){0};
	int fd = host_file_open(path, what, &len, e);
	if (fd < 0)
		return fd;
	int r = read_all(fd, f, len, path, what, e);
	close(fd);
	if (r < 0)
		host_file_free(f);
	return r;
}

void host_file_free(struct host_file *f) {
	free(f->data);
	*f = (struct host_file){0};
}
