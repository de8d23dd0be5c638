/* libFuzzer: a hostile saved state. The input is laid over a good one, byte by byte, so
 * that most of what is loaded has the right form; whatever is taken must then run. */
#include <stdlib.h>
#include <string.h>

#include "core/base/le.h"
#include "test/fuzz/fuzz_machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t *save(struct fuzz_machine *m, size_t *len) {
	struct state_io io;
	state_io_save(&io, NULL, 0);
	vm_state(&m->vm, &io);
	*len = io.pos;
	uint8_t *x = malloc(*len);
	state_io_save(&io, x, *len);
	vm_state(&m->vm, &io);
	return x;
}

/* Some accesses and time, for what a bad value may break later. */
static void use(struct fuzz_machine *m) {
	static const uint16_t ports[] = {0x20,	0x40, 0x61, 0x71,  0x3f8,
									 0x3fd, 0x60, 0x64, 0x600, 0x608};
	for (unsigned i = 0; i < 40; i++) {
		struct vm_exit e = {.kind = EXIT_PORT};
		e.port.port = ports[i % (sizeof(ports) / sizeof(ports[0]))];
		e.port.size = 1;
		vcpu_exit(m->vm.vcpus[0], &e);
		struct vm_exit w = {.kind = EXIT_MMIO};
		w.mmio.gpa = (i & 1 ? 0xd0000000 : 0xfee00000) + i * 16;
		w.mmio.size = 4;
		vcpu_exit(m->vm.vcpus[i & 1], &w);
		vcpu_intack(m->vm.vcpus[i & 1]);
		fake_clock_set(&m->clock, m->clock.now_ns + 100000);
	}
}

/* Input: board, then pairs of a position (3 bytes) and a byte to put there. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	struct state_io io;
	size_t size;
	if (len < 1)
		return 0;
	struct fuzz_machine *m = fuzz_machine(data[0] & 1 ? "micro" : "pc");
	uint8_t *x = save(m, &size);
	for (data++, len--; len >= 4; data += 4, len -= 4)
		x[(le32_get(data) & 0xffffff) % size] = data[3];
	state_io_load(&io, x, size);
	vm_state(&m->vm, &io);
	if (!io.error)
		use(m);
	free(x);
	return 0;
}
