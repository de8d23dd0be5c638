/* See boot_cache.h. */
#include "host/linux/boot_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE 256

static bool read_line(const char *path, bool mine, char line[LINE]) {
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return false;
	bool ok = !mine || (fstat(fd, &st) == 0 && st.st_uid == geteuid());
	ssize_t n = ok ? read(fd, line, LINE - 1) : 0;
	close(fd);
	if (n <= 0)
		return false;
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	return true;
}

bool boot_cache_path(char *path, size_t size, const char *name) {
	const char *dir = getenv("XDG_RUNTIME_DIR");
	if (!dir || dir[0] != '/')
		return false;
	if ((size_t)snprintf(path, size, "%s/joist%s%s", dir, name[0] ? "/" : "", name) < size)
		return true;
	return false;
}

static bool boot_id(char id[LINE]) {
	return read_line("/proc/sys/kernel/random/boot_id", false, id);
}

bool boot_cache_get(const char *name, char *text, size_t size) {
	char path[512], line[LINE], id[LINE];
	if (!boot_cache_path(path, sizeof(path), name) || !boot_id(id) || !read_line(path, true, line))
		return false;
	size_t n = strlen(id);
	return !strncmp(line, id, n) && line[n] == ' ' &&
		   (size_t)snprintf(text, size, "%s", line + n + 1) < size;
}

void boot_cache_put(const char *name, const char *text) {
	char path[512], temp[540], id[LINE];
	if (!boot_cache_path(path, sizeof(path), "") || !boot_id(id) ||
		(mkdir(path, 0700) < 0 && errno != EEXIST) || !boot_cache_path(path, sizeof(path), name))
		return;
	snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
	int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	bool ok = dprintf(fd, "%s %s\n", id, text) > 0;
	if (close(fd) < 0 || !ok || rename(temp, path) < 0)
		unlink(temp);
}
