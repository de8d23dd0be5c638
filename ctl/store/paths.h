/* Where Joist keeps its files: the XDG Base Directory Specification 0.8.
 *   $XDG_DATA_HOME/joist (~/.local/share/joist)  VMs and images
 *   $XDG_RUNTIME_DIR/joist (/tmp/joist-UID)      control sockets
 * Folders are made when they are asked for, for their owner only. */
#ifndef CTL_STORE_PATHS_H
#define CTL_STORE_PATHS_H

#include "core/base/err.h"
#include "core/base/types.h"

#define PATHS_MAX 1024

/* Writes the path of folder `sub` of the data folder, and makes it. */
int paths_data(char *buf, size_t size, const char *sub, struct err *e);

/* For each entry of that folder, in no order: `fn` with the folder's path and the entry's name,
 * until it returns something else than 0, which is returned. */
int paths_each(const char *sub, int (*fn)(void *opaque, const char *root, const char *name),
			   void *opaque, struct err *e);

/* The control socket of the VM with this id. Its folder exists afterwards and belongs to us;
 * -ERR_PERM if somebody else made it. */
int paths_socket(char *buf, size_t size, const char *id, const char *suffix, struct err *e);

/* "DIR/NAME"; -ERR_RANGE: too long. */
int paths_join(char *buf, size_t size, const char *dir, const char *name, struct err *e);

/* A path as one may use it from any folder: relative ones are taken from `base` (NULL: from the
 * current folder). A disk's prefix, raw: or qcow2:, stays in front. */
int paths_absolute(char *buf, size_t size, const char *path, const char *base, struct err *e);

/* Puts a whole file there or nothing (a power cut in between leaves the old one): writes a
 * neighbour, fsync, rename, fsync of the folder. */
int paths_write_file(const char *path, const char *text, size_t len, struct err *e);

/* Removes a folder and all that is in it; follows no links. 0 or the first error. */
int paths_remove_tree(const char *path, struct err *e);

#endif
