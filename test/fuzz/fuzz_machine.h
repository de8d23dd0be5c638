/* Shared by the fuzzers of whole machines: a board on a fake host, reused between
 * inputs by resetting it. */
#ifndef TEST_FUZZ_FUZZ_MACHINE_H
#define TEST_FUZZ_FUZZ_MACHINE_H

#include "core/board/board.h"
#include "test/unit/fake.h"

#define FUZZ_RAM (8u << 20)

struct fuzz_machine {
	struct fake_clock clock;
	struct vm_host host;
	struct vm vm;
	struct board *board;
	uint8_t *ram;
	struct block_backend disk;
};

/* The machine of this board, made when first asked for and reset each time. */
struct fuzz_machine *fuzz_machine(const char *board);

#endif
