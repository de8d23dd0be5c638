/* The seed that tells cloud-init who the guest is (NoCloud: an ISO 9660 volume "cidata" with
 * user-data and meta-data). */
#ifndef CTL_IMAGE_SEED_H
#define CTL_IMAGE_SEED_H

#include "ctl/def/def.h"

/* Writes dir/seed.iso for the VM `name`. */
int seed_make(const struct def *d, const char *name, const char *dir, struct err *e);

/* The private key that joist made for this user's VMs; makes it with ssh-keygen if need be. */
int seed_key(char *path, size_t size, struct err *e);

#endif
