/* See store.h. */
#include "ctl/store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/cli.h"
#include "ctl/store/death.h"
#include "ctl/store/names.h"

#define STATE_VERSION 1
#define NAME_TRIES 200
#define ID_WORD 4 /* characters of an id that name a VM */

static const char *const phases[] = {"created", "running", "stopped", "died"};

const char *store_phase_name(enum store_phase p) {
	return phases[p];
}

/* ---- the lock ------------------------------------------------------------------------ */

static int open_lock(const struct store_vm *vm) {
	char path[PATHS_MAX];
	if (paths_join(path, sizeof(path), vm->dir, "lock", NULL))
		return -1;
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* Locks of the open file description: they end with the last descriptor, however the process
 * dies, and can be looked at without being taken. Who holds the first byte runs the VM, or removes
 * it; those that want to remove it queue up for the second one. */
enum { LOCK_RUN, LOCK_REMOVE };

static int lock_byte(int fd, int byte, int command) {
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	int r;
	do
		r = fcntl(fd, command, &fl);
	while (r < 0 && errno == EINTR);
	return r < 0 ? errno : fl.l_type != F_UNLCK && command == F_OFD_GETLK ? EAGAIN : 0;
}

/* Whether the file that was opened is still the one of that folder, not that of a VM which has been
 * removed since. */
static bool is_lock_of(const struct store_vm *vm, int fd) {
	char path[PATHS_MAX];
	struct stat mine, there;
	return paths_join(path, sizeof(path), vm->dir, "lock", NULL) == 0 && fstat(fd, &mine) == 0 &&
		   stat(path, &there) == 0 && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

static int lock(const struct store_vm *vm, bool to_remove, struct err *e) {
	int fd = open_lock(vm), error = fd < 0 ? errno : 0;
	if (!error && to_remove)
		error = lock_byte(fd, LOCK_REMOVE, F_OFD_SETLKW);
	if (!error)
		error = lock_byte(fd, LOCK_RUN, F_OFD_SETLK);
	if (fd >= 0 && !is_lock_of(vm, fd))
		error = ENOENT;
	if (!error)
		return fd;
	if (fd >= 0)
		close(fd);
	if (error == ENOENT)
		return err_set(e, ERR_NOENT, "VM %s is gone", vm->name);
	if (error == EAGAIN || error == EACCES)
		return err_set(e, ERR_BUSY, "VM %s is running", vm->name);
	return err_set(e, error, "cannot lock VM %s: %s", vm->name, strerror(error));
}

int store_lock(const struct store_vm *vm, struct err *e) {
	return lock(vm, false, e);
}

bool store_is_locked(const struct store_vm *vm) {
	int fd = open_lock(vm);
	bool held = fd >= 0 && lock_byte(fd, LOCK_RUN, F_OFD_GETLK) == EAGAIN;
	if (fd >= 0)
		close(fd);
	return held;
}

/* ---- state.json ---------------------------------------------------------------------- */

static void copy(char *to, size_t size, const char *from) {
	snprintf(to, size, "%.*s", (int)size - 1, from ? from : "");
}

static int64_t number(const json_t *j, const char *key) {
	return json_integer_value(json_object_get(j, key));
}

static const char *text(const json_t *j, const char *key) {
	return json_string_value(json_object_get(j, key));
}

static int read_state(struct store_vm *vm, const json_t *j, bool alive, struct err *e) {
	if (number(j, "version") != STATE_VERSION)
		return err_set(e, ERR_NOTSUP,
					   "VM %s has state of version %lld; this joist knows version %d only",
					   vm->name, (long long)number(j, "version"), STATE_VERSION);
	const char *id = text(j, "id"), *phase = text(j, "phase");
	if (!id || strlen(id) != 12 || strspn(id, "0123456789abcdef") != 12 || !phase)
		return err_set(e, ERR_INVAL, "VM %s: its state.json is damaged", vm->name);
	copy(vm->id, sizeof(vm->id), id);
	vm->created = number(j, "created");
	vm->started = number(j, "started");
	vm->ended = number(j, "ended");
	vm->exit_code = (int)number(j, "exit-code");
	vm->pid = (int)number(j, "pid");
	copy(vm->end, sizeof(vm->end), text(j, "end"));
	copy(vm->why, sizeof(vm->why), text(j, "why"));
	copy(vm->socket, sizeof(vm->socket), text(j, "socket"));
	if (alive)
		vm->phase = STORE_RUNNING;
	else if (strcmp(phase, "running") == 0)
		vm->phase = STORE_DIED;
	else
		vm->phase = strcmp(phase, "created") == 0 ? STORE_CREATED : STORE_STOPPED;
	copy(vm->boot, sizeof(vm->boot), text(j, "boot"));
	vm->oom_kills = (uint64_t)number(j, "oom-kills");
	if (vm->phase == STORE_DIED)
		death_explain(vm);
	if (!alive)
		vm->pid = 0;
	return 0;
}

int store_load(struct store_vm *vm, struct err *e) {
	char path[PATHS_MAX];
	json_error_t je;
	int r = paths_join(path, sizeof(path), vm->dir, "state.json", e);
	if (r)
		return r;
	/* Before the file is read: a process writes how it ended while it holds the lock yet. */
	bool alive = store_is_locked(vm);
	json_t *j = json_load_file(path, 0, &je);
	if (!j)
		return err_set(e, access(path, F_OK) ? ERR_NOENT : ERR_INVAL, "%s: %s", path, je.text);
	r = read_state(vm, j, alive, e);
	json_decref(j);
	return r;
}

int store_save(const struct store_vm *vm, struct err *e) {
	char path[PATHS_MAX];
	int r = paths_join(path, sizeof(path), vm->dir, "state.json", e);
	if (r)
		return r;
	json_t *j =
		json_pack("{s:i, s:s, s:s, s:i, s:I, s:I, s:I, s:i, s:s, s:s, s:s, s:s, s:I}", "version",
				  STATE_VERSION, "id", vm->id, "phase", phases[vm->phase], "pid", vm->pid,
				  "created", (json_int_t)vm->created, "started", (json_int_t)vm->started, "ended",
				  (json_int_t)vm->ended, "exit-code", vm->exit_code, "end", vm->end, "why", vm->why,
				  "socket", vm->socket, "boot", vm->boot, "oom-kills", (json_int_t)vm->oom_kills);
	char *s = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	json_decref(j);
	if (!s)
		return err_set(e, ERR_NOMEM, "no memory to write %s", path);
	r = paths_write_file(path, s, strlen(s), e);
	free(s);
	return r;
}

/* ---- finding ------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
	return strcmp(((const struct store_vm *)a)->name, ((const struct store_vm *)b)->name);
}

static int load_folder(struct store_vm *vm, const char *root, const char *name, struct err *e) {
	*vm = (struct store_vm){0};
	copy(vm->name, sizeof(vm->name), name);
	int r = paths_join(vm->dir, sizeof(vm->dir), root, name, e);
	return r ? r : store_load(vm, e);
}

static int add_folder(void *opaque, const char *root, const char *name) {
	struct store_list *l = opaque;
	struct err skip = {{0}};
	if (!cli_valid_name(name))
		return 0;
	struct store_vm *more = realloc(l->vms, (l->n + 1) * sizeof(*more));
	if (!more)
		return -ERR_NOMEM;
	l->vms = more;
	int r = load_folder(&l->vms[l->n], root, name, &skip);
	if (r == 0)
		l->n++;
	else if (r != -ERR_NOENT) /* gone meanwhile, or no VM */
		cli_error("%s", skip.text);
	return 0;
}

int store_list(struct store_list *l, struct err *e) {
	*l = (struct store_list){0};
	int r = paths_each("vms", add_folder, l, e);
	if (r == -ERR_NOMEM)
		err_set(e, ERR_NOMEM, "no memory for the list of VMs");
	if (r)
		store_list_free(l);
	else if (l->n)
		qsort(l->vms, l->n, sizeof(l->vms[0]), by_name);
	return r;
}

void store_list_free(struct store_list *l) {
	free(l->vms);
	*l = (struct store_list){0};
}

static int pick_one(const struct store_list *l, struct store_vm *vm, const char *word,
					struct err *e) {
	const struct store_vm *found = NULL;
	struct cli_suggest s = {.wanted = word};
	size_t len = strlen(word);
	for (unsigned i = 0; i < l->n; i++) {
		const struct store_vm *x = &l->vms[i];
		cli_suggest_add(&s, x->name);
		if (strcmp(x->name, word) == 0 || strcmp(x->id, word) == 0) {
			*vm = *x;
			return 0;
		}
	}
	/* Names are whole: "rm -f web" must not take web2 where web is gone. */
	for (unsigned i = 0; len >= ID_WORD && i < l->n; i++) {
		const struct store_vm *x = &l->vms[i];
		if (strncmp(x->id, word, len) != 0)
			continue;
		if (found)
			return err_set(e, ERR_INVAL, "%s fits several VMs, as %s and %s: give more of the id",
						   word, found->id, x->id);
		found = x;
	}
	if (found) {
		*vm = *found;
		return 0;
	}
	if (s.best)
		return err_set(e, ERR_NOENT, "no VM %s (did you mean %s?)", word, s.best);
	return err_set(e, ERR_NOENT, "no VM %s; 'joist ls -a' lists all", word);
}

int store_find(struct store_vm *vm, const char *word, struct err *e) {
	struct store_list l;
	int r = store_list(&l, e);
	if (r)
		return r;
	r = pick_one(&l, vm, word, e);
	store_list_free(&l);
	return r;
}

/* ---- coming and going ------------------------------------------------------------------ */

static int make_id(char *id, struct err *e) {
	uint8_t raw[6];
	if (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		return err_set(e, ERR_IO, "the host gives no random numbers");
	for (unsigned i = 0; i < sizeof(raw); i++)
		snprintf(id + 2 * i, 3, "%02x", raw[i]);
	return 0;
}

static bool is_taken(const char *root, const char *name) {
	char path[PATHS_MAX];
	return paths_join(path, sizeof(path), root, name, NULL) || access(path, F_OK) == 0;
}

static int taken(const char *name, struct err *e) {
	return err_set(e, ERR_EXIST, "there is a VM %s already: choose another name, or 'joist rm %s'",
				   name, name);
}

int store_begin(struct store_vm *vm, const char *name, struct err *e) {
	char root[PATHS_MAX], folder[40];
	*vm = (struct store_vm){.phase = STORE_CREATED, .created = time(NULL)};
	int r = paths_data(root, sizeof(root), "vms", e);
	if (r || (r = make_id(vm->id, e)) != 0)
		return r;
	if (name) {
		if (is_taken(root, name))
			return taken(name, e);
		copy(vm->name, sizeof(vm->name), name);
	} else {
		unsigned i = 0;
		do
			names_make_up(vm->name, sizeof(vm->name));
		while (is_taken(root, vm->name) && ++i < NAME_TRIES);
	}
	snprintf(folder, sizeof(folder), ".new-%s", vm->id);
	r = paths_join(vm->dir, sizeof(vm->dir), root, folder, e);
	if (r)
		return r;
	if (mkdir(vm->dir, 0700) < 0)
		return err_set(e, errno, "cannot make the folder %s: %s", vm->dir, strerror(errno));
	return 0;
}

/* The lock's file goes along in the folder. renameat2() could say NOREPLACE, but not on every
 * file system; plain rename() replaces nothing but an empty folder, which is no VM. */
static int move(struct store_vm *vm, const char *name, struct err *e) {
	char root[PATHS_MAX], to[PATHS_MAX];
	int r = paths_data(root, sizeof(root), "vms", e);
	if (r || (r = paths_join(to, sizeof(to), root, name, e)) != 0)
		return r;
	if (rename(vm->dir, to) < 0) {
		if (errno == ENOTEMPTY || errno == EEXIST)
			return taken(name, e);
		return err_set(e, errno, "cannot rename %s to %s: %s", vm->dir, to, strerror(errno));
	}
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	copy(vm->dir, sizeof(vm->dir), to);
	return 0;
}

int store_publish(struct store_vm *vm, struct err *e) {
	int r = store_save(vm, e);
	return r ? r : move(vm, vm->name, e);
}

void store_abandon(struct store_vm *vm) {
	paths_remove_tree(vm->dir, NULL);
}

int store_rename(struct store_vm *vm, const char *name, struct err *e) {
	int r = move(vm, name, e);
	if (r == 0)
		copy(vm->name, sizeof(vm->name), name);
	return r;
}

int store_remove(struct store_vm *vm, struct err *e) {
	char gone[40];
	struct store_vm now = *vm;
	int fd = lock(vm, true, e);
	if (fd < 0)
		return fd;
	int r = store_load(&now, e);
	if (r == 0 && strcmp(now.id, vm->id) != 0)
		r = err_set(e, ERR_NOENT, "VM %s is gone, and another one has its name", vm->name);
	/* First out of sight, then in pieces. */
	snprintf(gone, sizeof(gone), ".rm-%s", vm->id);
	if (r == 0)
		r = move(vm, gone, e);
	if (r == 0)
		r = paths_remove_tree(vm->dir, e);
	close(fd);
	return r;
}
