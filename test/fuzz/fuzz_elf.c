/* libFuzzer: the ELF loader on hostile images. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "test/fuzz/fuzz_boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	if (len < 1)
		return 0;
	/* A copy of its own, so that each byte past the end is seen. */
	uint8_t *image = malloc(len - 1 ? len - 1 : 1);
	memcpy(image, data + 1, len - 1);
	fuzz_boot(image, len - 1, data[0] & 1, boot_elf);
	free(image);
	return 0;
}
