/* Small facts about the host that take time to find out, kept until it is booted anew: files in
 * $XDG_RUNTIME_DIR/joist, each one line "BOOT-ID TEXT". Without that variable nothing is kept. Any
 * thread. */
#ifndef HOST_LINUX_BOOT_CACHE_H
#define HOST_LINUX_BOOT_CACHE_H

#include "core/base/types.h"

/* The fact `name`, if one of this boot is there and is a file of this user's. */
bool boot_cache_get(const char *name, char *text, size_t size);

/* Keeps `text` (one line); failing to is no error. */
void boot_cache_put(const char *name, const char *text);

/* The path of a file `name` in that folder; "" is the folder. false: there is none, or no room. */
bool boot_cache_path(char *path, size_t size, const char *name);

#endif
