/* See net_store.h. */
#include "host/linux/net_store.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/linux/unix.h"

#define FIRST_HOST 11 /* below are the network's own: .1 gateway, .2 names */
#define LAST_HOST 250
#define SUBNETS 0x0a590000u /* 10.89.0.0/16 */
#define FILE_MAX 32768

bool net_store_valid_name(const char *name) {
	static const char *const kinds[] = {"user", "none", "tap", "bridge", NULL};
	size_t n = strlen(name);
	for (unsigned i = 0; kinds[i]; i++)
		if (!strcmp(name, kinds[i]))
			return false;
	return n && n < NET_NAME_MAX && name[0] >= 'a' && name[0] <= 'z' && name[n - 1] != '-' &&
		   strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

/* mkdir -p, below an existing folder. */
static int make_folders(char *path, struct err *e) {
	for (char *p = path + 1;; p++) {
		if (*p != '/' && *p)
			continue;
		char c = *p;
		*p = 0;
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return err_set(e, errno, "cannot make the folder %s: %s", path, strerror(errno));
		*p = c;
		if (!c)
			return 0;
	}
}

/* The folder of all networks, made if need be. Returns a descriptor. */
static int open_base(struct err *e) {
	char path[1024];
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	int n;
	if (data && data[0] == '/')
		n = snprintf(path, sizeof(path), "%s/joist/networks", data);
	else if (home && home[0] == '/')
		n = snprintf(path, sizeof(path), "%s/.local/share/joist/networks", home);
	else
		return err_set(e, ERR_NOENT,
					   "neither XDG_DATA_HOME nor HOME is set: where to keep networks?");
	if (n < 0 || (size_t)n >= sizeof(path))
		return err_set(e, ERR_RANGE, "the path in XDG_DATA_HOME or HOME is too long");
	int r = make_folders(path, e);
	if (r)
		return r;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : err_set(e, errno, "cannot open %s: %s", path, strerror(errno));
}

/* A file's text, with an end mark; empty if there is none. */
static void read_file(int dir, const char *name, char text[FILE_MAX]) {
	size_t n = 0;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	while (fd >= 0 && n < FILE_MAX - 1) {
		ssize_t got = read(fd, text + n, FILE_MAX - 1 - n);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	text[n] = 0;
	if (fd >= 0)
		close(fd);
}

/* Whole or not at all, whenever the power goes. */
static int write_file(int dir, const char *name, const char *text, struct err *e) {
	size_t len = strlen(text);
	int fd = openat(dir, "new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool good = fd >= 0 && write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
	int error = errno;
	if (fd >= 0)
		close(fd);
	if (good && renameat(dir, "new", dir, name) == 0) {
		fsync(dir);
		return 0;
	}
	return err_set(e, good ? errno : error, "cannot write the network's file %s: %s", name,
				   strerror(good ? errno : error));
}

static int lock_folder(int dir) {
	int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	while (fd >= 0 && flock(fd, LOCK_EX) < 0 && errno == EINTR)
		;
	return fd;
}

static bool read_subnet(const char *text, uint32_t *subnet) {
	char copy[32];
	struct in_addr a;
	size_t n = strcspn(text, "/");
	if (n >= sizeof(copy) || strcmp(text + n, "/24") != 0)
		return false;
	memcpy(copy, text, n);
	copy[n] = 0;
	if (inet_pton(AF_INET, copy, &a) != 1)
		return false;
	*subnet = ntohl(a.s_addr);
	uint32_t net = *subnet >> 24;
	return !(*subnet & 255) && net != 0 && net != 127 && net < 224;
}

static uint32_t subnet_of(int dir) {
	char text[FILE_MAX], word[32];
	uint32_t subnet = 0;
	read_file(dir, "network", text);
	if (sscanf(text, "subnet %31s", word) != 1 || !read_subnet(word, &subnet))
		return 0;
	return subnet;
}

/* Whether the process behind a member's socket lives; one that does not is removed. */
static bool alive(int dir, const char *name) {
	struct sockaddr_un a;
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || unix_address(&a, path, "network", NULL)) {
		if (fd >= 0)
			close(fd);
		return true; /* cannot tell */
	}
	int code = connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
	close(fd);
	/* One that is not there may be about to come: its lease is written before. */
	if (code == ECONNREFUSED)
		unlinkat(dir, name, 0);
	return code != ECONNREFUSED && code != ENOENT;
}

static unsigned members(int dir) {
	unsigned n = 0;
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	for (struct dirent *entry; d && (entry = readdir(d)) != NULL;)
		n += entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && alive(dir, entry->d_name);
	if (d)
		closedir(d);
	return n;
}

/* Calls `fn` for each network of the user. */
static int each(int base, void (*fn)(void *opaque, const char *name, int dir), void *opaque,
				struct err *e) {
	struct dirent **names;
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", base);
	int n = scandir(path, &names, NULL, alphasort);
	if (n < 0)
		return err_set(e, errno, "cannot read the folder of networks: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		int dir = net_store_valid_name(names[i]->d_name)
					  ? openat(base, names[i]->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
					  : -1;
		if (dir >= 0) {
			fn(opaque, names[i]->d_name, dir);
			close(dir);
		}
		free(names[i]);
	}
	free(names);
	return 0;
}

static void mark_used(void *opaque, const char *name, int dir) {
	uint8_t *used = opaque;
	uint32_t subnet = subnet_of(dir);
	if ((subnet & 0xffff0000u) == SUBNETS)
		used[subnet >> 8 & 255] = 1;
}

static int choose_subnet(int base, uint32_t *subnet, struct err *e) {
	uint8_t used[256] = {0};
	int r = each(base, mark_used, used, e);
	for (unsigned i = 0; !r && i < 256; i++) {
		if (used[i])
			continue;
		*subnet = SUBNETS | i << 8;
		return 0;
	}
	return r ? r : err_set(e, ERR_NOSPC, "256 networks have used up 10.89.0.0/16; give --subnet");
}

int net_store_create(const char *name, const char *subnet, struct err *e) {
	uint32_t net = 0;
	char text[64];
	if (!net_store_valid_name(name))
		return err_set(
			e, ERR_INVAL,
			"network %s: a name is small letters, digits and '-' in between, up to %d of "
			"them, and no kind of network (user, none, tap, bridge)",
			name, NET_NAME_MAX - 1);
	if (subnet && !read_subnet(subnet, &net))
		return err_set(e, ERR_INVAL, "subnet %s: not like 10.89.3.0/24", subnet);
	int base = open_base(e);
	if (base < 0)
		return base;
	int lock = lock_folder(base),
		r = lock < 0 ? err_set(e, errno, "cannot lock the folder of networks: %s", strerror(errno))
					 : 0;
	if (!r && !subnet)
		r = choose_subnet(base, &net, e);
	if (!r && mkdirat(base, name, 0700) < 0)
		r = errno == EEXIST
				? err_set(e, ERR_EXIST, "there is a network %s already", name)
				: err_set(e, errno, "cannot make network %s: %s", name, strerror(errno));
	if (!r) {
		int dir = openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		snprintf(text, sizeof(text), "subnet %u.%u.%u.0/24\n", net >> 24, net >> 16 & 255,
				 net >> 8 & 255);
		r = dir < 0 ? err_set(e, errno, "cannot open network %s: %s", name, strerror(errno))
					: write_file(dir, "network", text, e);
		if (dir >= 0)
			close(dir);
	}
	if (lock >= 0)
		close(lock);
	close(base);
	return r;
}

int net_store_remove(const char *name, struct err *e) {
	struct net_store s;
	int r = net_store_open(&s, name, e);
	if (r)
		return r;
	int base = open_base(e);
	if (base < 0) {
		net_store_close(&s);
		return base;
	}
	int lock = lock_folder(s.dir);
	unsigned n = members(s.dir);
	if (n) {
		r = err_set(e, ERR_BUSY, "network %s: %u VM%s in it; stop %s first", name, n,
					n == 1 ? " is" : "s are", n == 1 ? "it" : "them");
	} else {
		static const char *const files[] = {"network", "leases", "new", "lock"};
		for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++)
			unlinkat(s.dir, files[i], 0);
		if (unlinkat(base, name, AT_REMOVEDIR) < 0)
			r = err_set(e, errno, "cannot remove network %s: %s", name, strerror(errno));
	}
	if (lock >= 0)
		close(lock);
	close(base);
	net_store_close(&s);
	return r;
}

struct lister {
	void (*line)(void *out, const char *name, uint32_t subnet, unsigned members);
	void *out;
};

static void list_one(void *opaque, const char *name, int dir) {
	struct lister *l = opaque;
	uint32_t subnet = subnet_of(dir);
	if (subnet)
		l->line(l->out, name, subnet, members(dir));
}

int net_store_list(void (*line)(void *out, const char *name, uint32_t subnet, unsigned members),
				   void *out, struct err *e) {
	struct lister l = {line, out};
	int base = open_base(e);
	if (base < 0)
		return base;
	int r = each(base, list_one, &l, e);
	close(base);
	return r;
}

int net_store_open(struct net_store *s, const char *name, struct err *e) {
	*s = (struct net_store){.dir = -1};
	if (!net_store_valid_name(name))
		return err_set(e, ERR_INVAL, "%s cannot be a network's name", name);
	int base = open_base(e);
	if (base < 0)
		return base;
	s->dir = openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int error = errno;
	close(base);
	if (s->dir < 0 && error == ENOENT)
		return err_set(e, ERR_NOENT,
					   "there is no network %s; make it with: joist network create %s", name, name);
	if (s->dir < 0)
		return err_set(e, error, "cannot open network %s: %s", name, strerror(error));
	s->subnet = subnet_of(s->dir);
	if (!s->subnet) {
		net_store_close(s);
		return err_set(e, ERR_INVAL, "network %s: its file \"network\" names no subnet", name);
	}
	strcpy(s->name, name);
	snprintf(s->domain, sizeof(s->domain), "%s.internal", name);
	return 0;
}

void net_store_close(struct net_store *s) {
	if (s->dir >= 0)
		close(s->dir);
	s->dir = -1;
}

/* Reads one line of leases; returns where the next starts, or NULL after the last. Lines that are
 * not of this subnet have host 0. */
static const char *read_lease(const struct net_store *s, const char *at, uint32_t *host,
							  char name[NET_NAME_MAX]) {
	char address[32];
	struct in_addr a;
	size_t n = strcspn(at, "\n");
	*host = 0;
	if (!*at)
		return NULL;
	if (sscanf(at, "%31s %63s", address, name) == 2 && inet_pton(AF_INET, address, &a) == 1 &&
		(ntohl(a.s_addr) & ~255u) == s->subnet)
		*host = ntohl(a.s_addr) & 255;
	return at + n + (at[n] == '\n');
}

static void address_text(const struct net_store *s, unsigned host, char text[16]) {
	snprintf(text, 16, "%u.%u.%u.%u", s->subnet >> 24, s->subnet >> 16 & 255, s->subnet >> 8 & 255,
			 host & 255);
}

/* The folder is locked. Writes the lines of names[], by host. */
static int write_leases(const struct net_store *s, char names[256][NET_NAME_MAX], struct err *e) {
	char text[FILE_MAX], address[16];
	size_t n = 0;
	text[0] = 0;
	for (unsigned i = 0; i < 256; i++) {
		if (!names[i][0])
			continue;
		address_text(s, i, address);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %s\n", address, names[i]);
	}
	return write_file(s->dir, "leases", text, e);
}

int net_store_lease(struct net_store *s, const char *vm, uint32_t *address, struct err *e) {
	char text[FILE_MAX], name[NET_NAME_MAX], ip[16];
	char names[256][NET_NAME_MAX] = {{0}};
	uint32_t host, dead = 0, free_host = 0;
	int lock = lock_folder(s->dir);
	if (lock < 0)
		return err_set(e, errno, "cannot lock network %s: %s", s->name, strerror(errno));
	read_file(s->dir, "leases", text);
	*address = 0;
	for (const char *at = text; (at = read_lease(s, at, &host, name)) != NULL;) {
		if (host >= FIRST_HOST && host <= LAST_HOST)
			strcpy(names[host], name);
		if (host && !strcmp(name, vm))
			*address = s->subnet | host;
	}
	for (host = LAST_HOST; !*address && host >= FIRST_HOST; host--) {
		address_text(s, host, ip);
		if (!names[host][0])
			free_host = host;
		else if (!alive(s->dir, ip))
			dead = host;
	}
	int r = 0;
	if (!*address && !free_host)
		free_host = dead;
	if (!*address && !free_host)
		r = err_set(e, ERR_NOSPC, "network %s is full: %d VMs are in it", s->name,
					LAST_HOST - FIRST_HOST + 1);
	if (!*address && !r) {
		snprintf(names[free_host], NET_NAME_MAX, "%s", vm);
		*address = s->subnet | free_host;
		r = write_leases(s, names, e);
	}
	close(lock);
	return r;
}

uint32_t net_store_lookup(struct net_store *s, const char *vm) {
	char text[FILE_MAX], name[NET_NAME_MAX];
	uint32_t host;
	read_file(s->dir, "leases", text);
	for (const char *at = text; (at = read_lease(s, at, &host, name)) != NULL;)
		if (host && !strcmp(name, vm))
			return s->subnet | host;
	return 0;
}

bool net_store_reverse(struct net_store *s, uint32_t address, char name[NET_NAME_MAX]) {
	char text[FILE_MAX];
	uint32_t host;
	read_file(s->dir, "leases", text);
	for (const char *at = text; (at = read_lease(s, at, &host, name)) != NULL;)
		if (host && (s->subnet | host) == address)
			return true;
	return false;
}
