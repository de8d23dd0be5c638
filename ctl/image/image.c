/* See image.h. */
#include "ctl/image/image.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ctl/image/disk.h"
#include "ctl/image/seed.h"

#define IMAGE_VERSION 1

bool image_valid_name(const char *text) {
	static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	static const char rest[] = "abcdefghijklmnopqrstuvwxyz0123456789.:_-";
	size_t n = strlen(text);
	return n >= 1 && n < STORE_NAME && strchr(first, text[0]) && strspn(text, rest) == n;
}

static void copy(char *to, size_t size, const json_t *j, const char *key) {
	const char *s = json_string_value(json_object_get(j, key));
	snprintf(to, size, "%s", s ? s : "");
}

static bool has_file(const struct vm_image *i, const char *name, uint64_t *used) {
	char path[PATHS_MAX];
	struct stat st;
	if (paths_join(path, sizeof(path), i->dir, name, NULL) || stat(path, &st) < 0)
		return false;
	*used += (uint64_t)st.st_blocks * 512;
	return true;
}

static int load(struct vm_image *i, const char *root, const char *name, struct err *e) {
	char path[PATHS_MAX];
	*i = (struct vm_image){0};
	snprintf(i->name, sizeof(i->name), "%.63s", name);
	int r = paths_join(i->dir, sizeof(i->dir), root, name, e);
	if (r || (r = paths_join(path, sizeof(path), i->dir, "image.json", e)) != 0)
		return r;
	json_error_t je;
	json_t *j = json_load_file(path, 0, &je);
	if (!j)
		return err_set(e, access(path, F_OK) ? ERR_NOENT : ERR_INVAL, "image %s: %s", name,
					   je.text);
	if (json_integer_value(json_object_get(j, "version")) != IMAGE_VERSION) {
		json_decref(j);
		return err_set(e, ERR_NOTSUP, "image %s is of a version that this joist does not know",
					   name);
	}
	copy(i->disk, sizeof(i->disk), j, "disk");
	copy(i->append, sizeof(i->append), j, "append");
	copy(i->source, sizeof(i->source), j, "source");
	copy(i->sha256, sizeof(i->sha256), j, "sha256");
	i->size = (uint64_t)json_integer_value(json_object_get(j, "size"));
	i->created = json_integer_value(json_object_get(j, "created"));
	i->cloud_init = json_is_true(json_object_get(j, "cloud-init"));
	json_decref(j);
	if (strchr(i->disk, '/'))
		return err_set(e, ERR_INVAL, "image %s: its image.json is damaged", name);
	i->kernel = has_file(i, "vmlinuz", &i->used);
	i->initrd = has_file(i, "initrd", &i->used);
	if (i->disk[0])
		has_file(i, i->disk, &i->used);
	return 0;
}

static int by_name(const void *a, const void *b) {
	return strcmp(((const struct vm_image *)a)->name, ((const struct vm_image *)b)->name);
}

static int add_folder(void *opaque, const char *root, const char *name) {
	struct image_list *l = opaque;
	struct err skip = {{0}};
	if (!image_valid_name(name))
		return 0;
	struct vm_image *more = realloc(l->images, (l->n + 1) * sizeof(*more));
	if (!more)
		return -ERR_NOMEM;
	l->images = more;
	int r = load(&l->images[l->n], root, name, &skip);
	if (r == 0)
		l->n++;
	else if (r != -ERR_NOENT)
		cli_error("%s", skip.text);
	return 0;
}

int image_list(struct image_list *l, struct err *e) {
	*l = (struct image_list){0};
	int r = paths_each("images", add_folder, l, e);
	if (r == -ERR_NOMEM)
		err_set(e, ERR_NOMEM, "no memory for the list of images");
	if (r)
		image_list_free(l);
	else if (l->n)
		qsort(l->images, l->n, sizeof(l->images[0]), by_name);
	return r;
}

void image_list_free(struct image_list *l) {
	free(l->images);
	*l = (struct image_list){0};
}

int image_find(struct vm_image *i, const char *name, struct err *e) {
	struct image_list l;
	struct cli_suggest s = {.wanted = name};
	int r = image_list(&l, e);
	if (r)
		return r;
	for (unsigned k = 0; k < l.n; k++) {
		cli_suggest_add(&s, l.images[k].name);
		if (strcmp(l.images[k].name, name) == 0) {
			*i = l.images[k];
			image_list_free(&l);
			return 0;
		}
	}
	if (s.best)
		r = err_set(e, ERR_NOENT, "no image %s (did you mean %s?)", name, s.best);
	else
		r = err_set(e, ERR_NOENT,
					"no image %s; 'joist image build debian' or 'joist image pull' makes one, "
					"'joist image ls' lists them",
					name);
	image_list_free(&l);
	return r;
}

int image_begin(struct vm_image *i, const char *name, struct err *e) {
	char root[PATHS_MAX], folder[100];
	*i = (struct vm_image){.created = time(NULL)};
	snprintf(i->name, sizeof(i->name), "%s", name);
	int r = paths_data(root, sizeof(root), "images", e);
	if (r)
		return r;
	snprintf(folder, sizeof(folder), ".new-%s-%d", name, (int)getpid());
	if ((r = paths_join(i->dir, sizeof(i->dir), root, folder, e)) != 0)
		return r;
	if (mkdir(i->dir, 0700) < 0)
		return err_set(e, errno, "cannot make the folder %s: %s", i->dir, strerror(errno));
	return 0;
}

/* What is in an image stays as it is: nobody opens it for writing by mistake. */
static int seal(const struct vm_image *i, struct err *e) {
	DIR *d = opendir(i->dir);
	struct dirent *de;
	char path[PATHS_MAX];
	if (!d)
		return err_set(e, errno, "%s: %s", i->dir, strerror(errno));
	while ((de = readdir(d)) != NULL)
		if (de->d_name[0] != '.' && !paths_join(path, sizeof(path), i->dir, de->d_name, NULL))
			chmod(path, 0400);
	closedir(d);
	return 0;
}

int image_publish(struct vm_image *i, bool replace, struct err *e) {
	char path[PATHS_MAX], to[PATHS_MAX];
	struct vm_image old;
	int r = paths_join(path, sizeof(path), i->dir, "image.json", e);
	if (r)
		return r;
	json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:I, s:b}", "version", IMAGE_VERSION,
						  "disk", i->disk, "append", i->append, "source", i->source, "sha256",
						  i->sha256, "size", (json_int_t)i->size, "created", (json_int_t)i->created,
						  "cloud-init", i->cloud_init);
	char *s = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	json_decref(j);
	r = s ? paths_write_file(path, s, strlen(s), e) : err_set(e, ERR_NOMEM, "no memory");
	free(s);
	if (r || (r = seal(i, e)) != 0)
		return r;
	struct err none;
	if (replace && image_find(&old, i->name, &none) == 0 && (r = image_remove(&old, e)) != 0)
		return r;
	if ((r = paths_data(to, sizeof(to), "images", e)) != 0)
		return r;
	size_t n = strlen(to);
	snprintf(to + n, sizeof(to) - n, "/%s", i->name);
	if (rename(i->dir, to) == 0) {
		snprintf(i->dir, sizeof(i->dir), "%s", to);
		return 0;
	}
	if (errno == ENOTEMPTY || errno == EEXIST)
		return err_set(e, ERR_EXIST,
					   "there is an image %s already: 'joist image rm %s', or another --name",
					   i->name, i->name);
	return err_set(e, errno, "cannot rename %s to %s: %s", i->dir, to, strerror(errno));
}

void image_abandon(struct vm_image *i) {
	paths_remove_tree(i->dir, NULL);
}

/* Who stands on it: VMs whose definition names it. */
static int check_unused(const struct vm_image *i, struct err *e) {
	struct store_list l;
	int r = store_list(&l, e);
	for (unsigned k = 0; !r && k < l.n; k++) {
		char path[PATHS_MAX];
		struct def d = {0};
		struct err skip;
		if (paths_join(path, sizeof(path), l.vms[k].dir, "vm.yaml", &skip) ||
			def_read(&d, path, &skip)) {
			def_free(&d);
			continue;
		}
		const char *name = def_text(&d, "image");
		if (name && strcmp(name, i->name) == 0)
			r = err_set(e, ERR_BUSY, "image %s is in use by VM %s; 'joist rm %s' first", i->name,
						l.vms[k].name, l.vms[k].name);
		def_free(&d);
	}
	store_list_free(&l);
	return r;
}

int image_remove(struct vm_image *i, struct err *e) {
	char gone[PATHS_MAX];
	int r = check_unused(i, e);
	if (r)
		return r;
	const char *slash = strrchr(i->dir, '/');
	snprintf(gone, sizeof(gone), "%.*s/.rm-%s-%d", (int)(slash - i->dir), i->dir, i->name,
			 (int)getpid());
	if (rename(i->dir, gone) < 0)
		return err_set(e, errno, "cannot remove image %s: %s", i->name, strerror(errno));
	return paths_remove_tree(gone, e);
}

/* ---- a VM's share of it ------------------------------------------------------------------ */

int image_make_disks(const struct def *d, const char *name, const char *dir, struct err *e) {
	const char *image = def_text(d, "image"), *size_text = def_text(d, "disk-size");
	struct vm_image i;
	char base[PATHS_MAX];
	uint64_t size = 0;
	if (size_text && !cli_read_size(size_text, &size))
		return err_set(e, ERR_INVAL, "--disk-size %s: not a size", size_text);
	if (!image)
		return size ? disk_make_empty(dir, size, e) : 0;
	int r = image_find(&i, image, e);
	if (r)
		return r;
	if (i.disk[0]) {
		if (size && size < i.size)
			return err_set(e, ERR_INVAL, "--disk-size %s: image %s has %llu MiB", size_text, image,
						   (unsigned long long)(i.size >> 20));
		if ((r = paths_join(base, sizeof(base), i.dir, i.disk, e)) != 0 ||
			(r = disk_make_overlay(dir, base, size ? size : i.size, e)) != 0)
			return r;
	}
	return i.cloud_init ? seed_make(d, name, dir, e) : 0;
}

static int add_default(struct def *d, const char *key, const struct vm_image *i, const char *file,
					   struct err *e) {
	char path[PATHS_MAX];
	if (def_has(d, key))
		return 0;
	int r = paths_join(path, sizeof(path), i->dir, file, e);
	return r ? r : def_add(d, key, path, e);
}

/* The root disk is the first, the user's follow, the seed is the last: /dev/vda, vdb... */
static int add_disks(struct def *d, const char *first, bool seed, struct err *e) {
	struct def user = {0};
	int r = 0;
	for (unsigned i = 0; !r && i < d->n; i++)
		if (strcmp(d->values[i].option->name, "disk") == 0)
			r = def_add(&user, "disk", d->values[i].text, e);
	def_drop(d, "disk");
	if (!r && first)
		r = def_add(d, "disk", first, e);
	for (unsigned i = 0; !r && i < user.n; i++)
		r = def_add(d, "disk", user.values[i].text, e);
	if (!r && seed)
		r = def_add(d, "disk", "seed.iso,ro", e);
	def_free(&user);
	return r;
}

int image_apply(struct def *d, struct err *e) {
	const char *name = def_text(d, "image");
	struct vm_image i;
	if (!name)
		return def_has(d, "disk-size") ? add_disks(d, disk_file_name(), false, e) : 0;
	int r = image_find(&i, name, e);
	if (r)
		return r;
	if (!i.kernel && !def_has(d, "kernel"))
		return err_set(
			e, ERR_NOTSUP,
			"image %s has no kernel beside its disk, and Joist has no firmware yet to boot "
			"one inside: give --kernel (and --initrd, --append)",
			name);
	if (i.kernel && (r = add_default(d, "kernel", &i, "vmlinuz", e)) != 0)
		return r;
	if (i.initrd && (r = add_default(d, "initrd", &i, "initrd", e)) != 0)
		return r;
	if (i.append[0] && !def_has(d, "append") && (r = def_add(d, "append", i.append, e)) != 0)
		return r;
	return add_disks(d, i.disk[0] ? disk_file_name() : NULL, i.cloud_init, e);
}
