/* See boot.h. Joist has no firmware: what a boot loader in the disk would start is taken out by the
 * names that distributions give it, out of /boot, or out of the top of a partition that is
 * mounted there. The boot loader's own configuration is not read. */
#include "ctl/image/boot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/block/parts.h"
#include "ctl/image/ext.h"
#include "ctl/store/paths.h"

#define KERNEL_MAX (256ull << 20)
#define INITRD_MAX (1ull << 30)

/* One file system that can be read. */
struct volume {
	struct ext *x;
	unsigned number; /* of the partition; 0: the whole disk */
	bool root;
	char folder[8]; /* "/boot" or "", if there is a kernel */
	char version[256], initrd[300];
};

struct disk {
	struct volume v[8];
	unsigned n;
	char seen[160]; /* "partition 1 holds xfs, partition 2 holds ..." */
};

/* ---- what is there ------------------------------------------------------------------------- */

/* File systems that are not read, and what is none, by name. */
static const char *name_of(struct block *b, uint64_t offset, uint64_t len) {
	static const struct {
		uint32_t at;
		const char *magic, *name;
	} known[] = {
		{0, "XFSB", "xfs"},
		{0x10040, "_BHRfS_M", "btrfs"},
		{0x52, "FAT32", "FAT"},
		{0x36, "FAT1", "FAT"},
		{3, "NTFS", "NTFS"},
		{3, "EXFAT", "exFAT"},
		{4086, "SWAPSPACE2", "swap"},
		{512, "LABELONE", "LVM"},
		{0, "LUKS\xba\xbe", "LUKS"},
		{0, "hsqs", "squashfs"},
		{1024, "\x10\x20\xf5\xf2", "f2fs"},
		{0x8001, "CD001", "ISO 9660"},
	};
	char got[16];
	for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
		size_t n = strlen(known[i].magic);
		if (known[i].at + n <= len && block_read_sync(b, offset + known[i].at, got, n) == 0 &&
			memcmp(got, known[i].magic, n) == 0)
			return known[i].name;
	}
	return NULL;
}

static void note(struct disk *d, unsigned number, const char *what) {
	size_t n = strlen(d->seen);
	if (number)
		snprintf(d->seen + n, sizeof(d->seen) - n, "%spartition %u %s", n ? ", " : "", number,
				 what);
	else
		snprintf(d->seen + n, sizeof(d->seen) - n, "%sthe whole disk %s", n ? ", " : "", what);
}

static int look(struct disk *d, struct block *b, unsigned number, uint64_t offset, uint64_t len) {
	struct err why;
	struct ext *x = NULL;
	char text[120];
	int r = d->n < ARRAY_LEN(d->v) ? ext_open(&x, b, offset, len, &why) : 1;
	if (r == 0) {
		d->v[d->n++] = (struct volume){.x = x, .number = number};
	} else if (r < 0) {
		snprintf(text, sizeof(text), "holds ext4 that cannot be read (%.80s)", why.text);
		note(d, number, text);
	} else {
		const char *name = name_of(b, offset, len);
		snprintf(text, sizeof(text), "holds %s, which is not read", name ? name : "");
		if (name)
			note(d, number, text);
	}
	return r;
}

static int look_all(struct disk *d, struct block *b, struct err *e) {
	struct parts *p = malloc(sizeof(*p));
	int r = p ? parts_read(b, p, e) : err_set(e, ERR_NOMEM, "no memory");
	for (unsigned i = 0; !r && i < p->n; i++)
		look(d, b, p->part[i].number, p->part[i].offset, p->part[i].len);
	/* What looks like a table may be a boot loader's: the whole disk may still be one. */
	if (!r && !d->n)
		look(d, b, 0, 0, b->size);
	if (!r && !d->n && !d->seen[0])
		snprintf(d->seen, sizeof(d->seen), "%s",
				 p->n		  ? "its partitions hold no file system that is known"
				 : p->damaged ? "its partition table is damaged"
							  : "it has no partition table and no file system that is known");
	free(p);
	return r;
}

/* ---- kernels ------------------------------------------------------------------------------- */

static bool is_file(struct volume *v, const char *folder, const char *name, const char *version,
					const char *ending) {
	char path[600];
	snprintf(path, sizeof(path), "%s/%s%s%s", folder, name, version, ending);
	if (ext_look(v->x, path) != EXT_FILE || strlen(path) >= sizeof(v->initrd))
		return false;
	snprintf(v->initrd, sizeof(v->initrd), "%s", path);
	return true;
}

/* Debian and Ubuntu; Fedora; Alpine; SUSE. */
static bool find_initrd(struct volume *v, const char *folder, const char *version) {
	return is_file(v, folder, "initrd.img", version, "") ||
		   is_file(v, folder, "initramfs", version, ".img") ||
		   is_file(v, folder, "initramfs", version, "") ||
		   is_file(v, folder, "initrd", version, "") ||
		   is_file(v, folder, "initrd", version, ".img");
}

struct search {
	struct volume *v;
	const char *folder;
	bool found, lonely;
	char without[256]; /* the newest kernel that has no initial RAM disk */
};

static bool has_ending(const char *s, const char *ending) {
	size_t n = strlen(s), k = strlen(ending);
	return n >= k && strcmp(s + n - k, ending) == 0;
}

/* Versions as they are: "-6.1.0-9-amd64" is older than "-6.1.0-10-amd64". */
static void on_name(void *opaque, const char *name) {
	struct search *s = opaque;
	struct volume *v = s->v;
	char old[sizeof(v->initrd)], path[300];
	/* Nothing that moves the cursor of who reads an error. */
	for (const char *p = name; *p; p++)
		if (*p <= ' ' || *p > '~')
			return;
	if (strncmp(name, "vmlinuz-", 8) != 0 || has_ending(name, ".old") ||
		has_ending(name, ".hmac") || has_ending(name, ".sig"))
		return;
	snprintf(path, sizeof(path), "%s/%s", s->folder, name);
	const char *version = name + 7;
	if (s->found && strverscmp(version, v->version) <= 0)
		return;
	if (ext_look(v->x, path) != EXT_FILE)
		return;
	snprintf(old, sizeof(old), "%s", v->initrd);
	if (find_initrd(v, s->folder, version)) {
		snprintf(v->version, sizeof(v->version), "%s", version);
		s->found = true;
		return;
	}
	snprintf(v->initrd, sizeof(v->initrd), "%s", old);
	if (!s->lonely || strverscmp(version, s->without) > 0)
		snprintf(s->without, sizeof(s->without), "%s", version);
	s->lonely = true;
}

static bool find_kernel(struct disk *d, struct volume *v) {
	static const char *const folders[] = {"/boot", ""};
	for (unsigned i = 0; i < ARRAY_LEN(folders); i++) {
		struct search s = {.v = v, .folder = folders[i]};
		char path[20], text[400];
		ext_each(v->x, i ? "/" : folders[i], on_name, &s);
		snprintf(path, sizeof(path), "%s/vmlinuz", folders[i]);
		if (!s.found && ext_look(v->x, path) == EXT_FILE) {
			v->version[0] = 0;
			s.found = find_initrd(v, folders[i], "");
			s.lonely |= !s.found;
		}
		snprintf(v->folder, sizeof(v->folder), "%s", folders[i]);
		if (s.found)
			return true;
		if (s.lonely) {
			snprintf(text, sizeof(text),
					 "has %s/vmlinuz%.60s but no initrd.img%.60s or initramfs%.60s", folders[i],
					 s.without, s.without, s.without);
			note(d, v->number, text);
			return false;
		}
	}
	note(d, v->number, "has no /boot/vmlinuz");
	return false;
}

/* ---- both together ------------------------------------------------------------------------- */

static void root_of(const struct volume *v, char *text, size_t size) {
	ext_root(v->x, text, size);
	if (text[0])
		return;
	if (v->number)
		snprintf(text, size, "/dev/vda%u", v->number);
	else
		snprintf(text, size, "/dev/vda");
}

static int take(struct volume *v, const char *dir, struct boot_found *f, struct err *e) {
	char to[PATHS_MAX];
	int r;
	if (snprintf(f->kernel, sizeof(f->kernel), "%s/vmlinuz%s", v->folder, v->version) >=
		(int)sizeof(f->kernel))
		return err_set(e, ERR_INVAL, "the kernel's name in the disk is too long");
	snprintf(f->initrd, sizeof(f->initrd), "%s", v->initrd);
	if ((r = paths_join(to, sizeof(to), dir, "vmlinuz", e)) != 0 ||
		(r = ext_copy(v->x, f->kernel, to, KERNEL_MAX, e)) != 0 ||
		(r = paths_join(to, sizeof(to), dir, "initrd", e)) != 0)
		return r;
	return ext_copy(v->x, f->initrd, to, INITRD_MAX, e);
}

static int take_any(struct disk *d, const char *dir, struct boot_found *f, struct err *e) {
	struct volume *root = NULL, *boot = NULL;
	char text[64];
	for (unsigned i = 0; i < d->n; i++) {
		struct volume *v = &d->v[i];
		v->root = ext_look(v->x, "/etc") == EXT_FOLDER;
		if (v->root && !root)
			root = v;
		if (!boot && find_kernel(d, v))
			boot = v;
	}
	if (!boot)
		return err_set(e, ERR_NOENT, "no kernel found in the disk: %s: give --kernel and --initrd",
					   d->seen);
	/* A test's or a tool's disk may be an initial RAM disk's only, and need no root. */
	if (!root)
		root = boot;
	root_of(root, text, sizeof(text));
	snprintf(f->append, sizeof(f->append), "root=%s rw console=ttyS0 quiet", text);
	f->cloud_init = ext_look(root->x, "/etc/cloud/cloud.cfg") == EXT_FILE;
	return take(boot, dir, f, e);
}

int boot_take(struct block *disk, const char *dir, struct boot_found *f, struct err *e) {
	struct disk *d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, ERR_NOMEM, "no memory");
	*f = (struct boot_found){0};
	int r = look_all(d, disk, e);
	if (r == 0)
		r = take_any(d, dir, f, e);
	for (unsigned i = 0; i < d->n; i++)
		ext_close(d->v[i].x);
	free(d);
	return r;
}
