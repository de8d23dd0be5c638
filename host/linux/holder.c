/* See holder.h. [man 5 proc] */
#include "host/linux/holder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH 4096
#define FLAG_EXITING 4u			/* PF_EXITING of Linux */
#define SIGNAL_KILL (1ull << 8) /* SIGKILL in a mask */

static bool read_start(const char *path, char *text, size_t size) {
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return n > 0;
}

static uint64_t mask_of(const char *status, const char *name) {
	const char *at = strstr(status, name);
	return at ? strtoull(at + strlen(name), NULL, 16) : 0;
}

/* Its first thread tells: all of them get the signal that ends them, and it waits for the rest. */
static bool ends(const char *pid) {
	char path[64], text[PATH], state;
	unsigned flags;
	snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
	if (!read_start(path, text, sizeof(text)))
		return true;
	/* The name is in parentheses and may have some of its own. */
	const char *at = strrchr(text, ')');
	if (!at || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return false;
	if (state == 'Z' || state == 'X' || (flags & FLAG_EXITING))
		return true;
	snprintf(path, sizeof(path), "/proc/%.20s/status", pid);
	if (!read_start(path, text, sizeof(text)))
		return true;
	return ((mask_of(text, "\nSigPnd:") | mask_of(text, "\nShdPnd:")) & SIGNAL_KILL) != 0;
}

/* `but`: a descriptor that does not count. */
static bool has_open(const char *pid, const char *file, const char *but) {
	char path[64], link[PATH];
	struct dirent *de;
	bool found = false;
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	DIR *d = opendir(path);
	while (d && !found && (de = readdir(d)) != NULL) {
		ssize_t n = readlinkat(dirfd(d), de->d_name, link, sizeof(link) - 1);
		link[n > 0 ? n : 0] = 0;
		found = n > 0 && strcmp(link, file) == 0 && !(but && strcmp(de->d_name, but) == 0);
	}
	if (d)
		closedir(d);
	return found;
}

bool holder_lives(int fd) {
	char link[64], file[PATH], own[24], number[16];
	struct dirent *de;
	bool lives = false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, file, sizeof(file) - 1);
	if (n <= 0)
		return false;
	file[n] = 0;
	snprintf(own, sizeof(own), "%d", (int)getpid());
	snprintf(number, sizeof(number), "%d", fd);
	DIR *d = opendir("/proc");
	while (d && !lives && (de = readdir(d)) != NULL)
		lives = de->d_name[0] >= '1' && de->d_name[0] <= '9' &&
				has_open(de->d_name, file, strcmp(de->d_name, own) == 0 ? number : NULL) &&
				!ends(de->d_name);
	if (d)
		closedir(d);
	return lives;
}
