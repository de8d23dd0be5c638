/* See source.h. */
#include "host/linux/source.h"

#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "host/linux/file.h"

int host_source_open(struct host_source *s, const char *path, const char *what,
					 const struct host_ram *ram, struct err *e) {
	*s = (struct host_source){.fd = -1, .ram = ram};
	int r = host_file_open(path, what, &s->len, e);
	if (r < 0)
		return r;
	s->fd = r;
	return 0;
}

/* From file to memfd inside the kernel: half the time of read(), since no page is faulted in and
 * none zeroed before it is filled. How much of it was done. */
static size_t send(const struct host_source *s, uint64_t off, const uint8_t *to, size_t n) {
	off_t from = (off_t)off;
	size_t done = 0;
	if (lseek(s->ram->fd, to - s->ram->base, SEEK_SET) < 0)
		return 0;
	while (done < n) {
		ssize_t got = sendfile(s->ram->fd, s->fd, &from, n - done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return done;
}

static bool read_all(const struct host_source *s, uint64_t off, uint8_t *to, size_t n) {
	size_t done = 0;
	while (done < n) {
		ssize_t got = pread(s->fd, to + done, n - done, (off_t)(off + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

/* To small pages of the guest's RAM. */
static bool read_small(const struct host_source *s, uint64_t off, uint8_t *to, size_t n) {
	size_t done = n ? send(s, off, to, n) : 0;
	return read_all(s, off + done, to + done, n - done);
}

/* Huge pages once more halve the time of a kernel, which is mostly spent on one page after
 * another; what lies before and behind them goes to small ones. */
bool host_source_read(void *source, uint64_t off, void *buf, size_t n) {
	const struct host_source *s = source;
	const struct host_ram *ram = s->ram;
	uint8_t *to = buf, *huge = to;
	uintptr_t at = (uintptr_t)to - (uintptr_t)ram->base;
	if (at >= ram->size || n > ram->size - at)
		return read_all(s, off, to, n);
	size_t middle = host_ram_make_huge(ram, to, n, &huge);
	size_t before = middle ? (size_t)(huge - to) : n, after = n - before - middle;
	return read_small(s, off, to, before) && read_all(s, off + before, huge, middle) &&
		   read_small(s, off + before + middle, huge + middle, after);
}

void host_source_close(struct host_source *s) {
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}
