/* Names for VMs whose user gave none: adjective-noun. */
#ifndef CTL_STORE_NAMES_H
#define CTL_STORE_NAMES_H

#include "core/base/types.h"

/* A valid VM name, at random among some thousands. */
void names_make_up(char *buf, size_t size);

#endif
