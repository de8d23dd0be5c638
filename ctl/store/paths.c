/* See paths.h. */
#include "ctl/store/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int paths_join(char *buf, size_t size, const char *dir, const char *name, struct err *e) {
	int n = snprintf(buf, size, "%s/%s", dir, name);
	if (n < 0 || (size_t)n >= size)
		return err_set(e, ERR_RANGE, "the path %.80s/%.80s is too long", dir, name);
	return 0;
}

/* mkdir -p. */
static int make_folder(const char *path, struct err *e) {
	char part[PATHS_MAX];
	size_t len = strlen(path);
	if (len >= sizeof(part))
		return err_set(e, ERR_RANGE, "the path %.100s is too long", path);
	for (size_t i = 1; i <= len; i++) {
		if (path[i] != '/' && path[i])
			continue;
		memcpy(part, path, i);
		part[i] = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return err_set(e, errno, "cannot make the folder %s: %s", part, strerror(errno));
	}
	return 0;
}

int paths_data(char *buf, size_t size, const char *sub, struct err *e) {
	const char *base = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	int n;
	/* A service of the system has neither. */
	if (!(base && base[0] == '/') && !(home && home[0] == '/')) {
		const struct passwd *p = getpwuid(geteuid());
		home = p ? p->pw_dir : NULL;
	}
	/* Relative ones do not count, says the specification. */
	if (base && base[0] == '/')
		n = snprintf(buf, size, "%s/joist/%s", base, sub);
	else if (home && home[0] == '/')
		n = snprintf(buf, size, "%s/.local/share/joist/%s", home, sub);
	else
		return err_set(
			e, ERR_NOENT,
			"where to keep VMs? Neither XDG_DATA_HOME nor HOME is set, and user %u has no "
			"home in /etc/passwd",
			(unsigned)geteuid());
	if (n < 0 || (size_t)n >= size)
		return err_set(e, ERR_RANGE, "the path in XDG_DATA_HOME is too long");
	return make_folder(buf, e);
}

int paths_each(const char *sub, int (*fn)(void *opaque, const char *root, const char *name),
			   void *opaque, struct err *e) {
	char root[PATHS_MAX];
	struct dirent *de;
	int r = paths_data(root, sizeof(root), sub, e);
	if (r)
		return r;
	DIR *d = opendir(root);
	if (!d)
		return err_set(e, errno, "%s: %s", root, strerror(errno));
	while (!r && (de = readdir(d)) != NULL)
		r = fn(opaque, root, de->d_name);
	closedir(d);
	return r;
}

int paths_socket(char *buf, size_t size, const char *id, const char *suffix, struct err *e) {
	const char *base = getenv("XDG_RUNTIME_DIR");
	char dir[PATHS_MAX];
	struct stat st;
	int n;
	if (base && base[0] == '/' && strlen(base) < 60 && access(base, W_OK) == 0)
		n = snprintf(dir, sizeof(dir), "%s/joist", base);
	else /* longer ones leave no room in a socket's address */
		n = snprintf(dir, sizeof(dir), "/tmp/joist-%u", (unsigned)getuid());
	if (n < 0 || (size_t)n >= sizeof(dir))
		return err_set(e, ERR_RANGE, "the path in XDG_RUNTIME_DIR is too long");
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_set(e, errno, "cannot make the folder %s: %s", dir, strerror(errno));
	if (lstat(dir, &st) < 0)
		return err_set(e, errno, "%s: %s", dir, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != getuid() || st.st_mode & 077)
		return err_set(
			e, ERR_PERM,
			"%s must be a folder that belongs to you and is closed to others (chmod 700)", dir);
	n = snprintf(buf, size, "%s/%s%s", dir, id, suffix);
	if (n < 0 || (size_t)n >= size)
		return err_set(e, ERR_RANGE, "the path %.100s is too long for a socket", dir);
	return 0;
}

int paths_absolute(char *buf, size_t size, const char *path, const char *base, struct err *e) {
	char cwd[PATHS_MAX];
	size_t prefix = strncmp(path, "raw:", 4) == 0 ? 4 : strncmp(path, "qcow2:", 6) == 0 ? 6 : 0;
	if (prefix) {
		if (size <= prefix)
			return err_set(e, ERR_RANGE, "the path %.100s is too long", path);
		memcpy(buf, path, prefix);
		return paths_absolute(buf + prefix, size - prefix, path + prefix, base, e);
	}
	if (path[0] == '/') {
		int n = snprintf(buf, size, "%s", path);
		return n >= 0 && (size_t)n < size
				   ? 0
				   : err_set(e, ERR_RANGE, "the path %.100s is too long", path);
	}
	if (!base) {
		if (!getcwd(cwd, sizeof(cwd)))
			return err_set(e, errno, "cannot find the current folder: %s", strerror(errno));
		base = cwd;
	}
	return paths_join(buf, size, base, path, e);
}

static int sync_folder_of(const char *path) {
	char dir[PATHS_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	if (n >= sizeof(dir))
		return -1;
	memcpy(dir, path, n);
	dir[n] = 0;
	int fd = open(slash ? (n ? dir : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int r = fsync(fd);
	close(fd);
	return r;
}

int paths_write_file(const char *path, const char *text, size_t len, struct err *e) {
	char part[PATHS_MAX];
	int n = snprintf(part, sizeof(part), "%s.part", path);
	if (n < 0 || (size_t)n >= sizeof(part))
		return err_set(e, ERR_RANGE, "the path %.100s is too long", path);
	int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(e, errno, "cannot write %s: %s", path, strerror(errno));
	bool good = true;
	while (good && len) {
		ssize_t done = write(fd, text, len);
		if (done < 0 && errno == EINTR)
			continue;
		good = done > 0;
		text += good ? done : 0;
		len -= good ? (size_t)done : 0;
	}
	good = good && fsync(fd) == 0;
	int error = errno;
	close(fd);
	if (good && rename(part, path) == 0 && sync_folder_of(path) == 0)
		return 0;
	if (good)
		error = errno;
	unlink(part);
	return err_set(e, error, "cannot write %s: %s", path, strerror(error));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

int paths_remove_tree(const char *path, struct err *e) {
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
		return err_set(e, errno, "cannot remove %s: %s", path, strerror(errno));
	return 0;
}
