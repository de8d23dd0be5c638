/* Shared by the loader fuzzers: a guest of 4 MiB, loaded with the input. */
#ifndef TEST_FUZZ_FUZZ_BOOT_H
#define TEST_FUZZ_FUZZ_BOOT_H

#include "core/boot/boot.h"

/* `initrd`: there is one, too. Aborts if a load that succeeded left nonsense. */
void fuzz_boot(const uint8_t *image, size_t len, bool initrd,
			   int (*load)(const struct boot_params *p, struct x86_state *s, struct err *e));

#endif
