/* Reading files out of an ext2, ext3 or ext4 file system that lies in a disk, by libext2fs through
 * core/block: nothing is mounted, converted or written, and no root is needed.
 *
 * The file system is hostile: what it makes us read and keep in memory has bounds. A journal that
 * was not replayed is not looked at: of a machine that was not shut down, files may be older. */
#ifndef CTL_IMAGE_EXT_H
#define CTL_IMAGE_EXT_H

#include "core/block/block.h"

struct ext;

/* 1: no such file system there; or 0, or -ERR_*. `disk` stays the caller's. */
int ext_open(struct ext **x, struct block *disk, uint64_t offset, uint64_t len, struct err *e);
void ext_close(struct ext *x); /* may be NULL */

/* "UUID=...", else "LABEL=...", else empty. */
void ext_root(const struct ext *x, char *text, size_t size);

enum ext_kind { EXT_NONE, EXT_FILE, EXT_FOLDER, EXT_OTHER };

/* What the path leads to; symbolic links are followed within the file system. What cannot be read
 * is none. */
enum ext_kind ext_look(struct ext *x, const char *path);

/* Calls with the name of each entry; nothing if there is no such folder. */
void ext_each(struct ext *x, const char *path, void (*entry)(void *opaque, const char *name),
			  void *opaque);

/* Copies a file of 1 to `max` bytes to `to`, which must not exist. */
int ext_copy(struct ext *x, const char *path, const char *to, uint64_t max, struct err *e);

#endif
