/* libFuzzer: a guest that gives an NVMe controller any commands on its admin queue and one I/O
 * queue, rings doorbells and writes registers. Chunks of 66 bytes: what to do, an offset, and a
 * command. */
#include <string.h>

#include "core/base/le.h"
#include "test/fuzz/fuzz_machine.h"

#define CONFIG (0x80000000u | 2u << 11) /* the second disk's slot */
#define ASQ 0x2000u
#define ACQ 0x3000u
#define SQ 0x4000u
#define CQ 0x5000u
#define ENTRIES 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint32_t port(struct fuzz_machine *m, uint16_t at, bool write, uint32_t val) {
	struct vm_exit e = {.kind = EXIT_PORT};
	e.port.port = at;
	e.port.size = 4;
	e.port.write = write;
	e.port.val = val;
	vcpu_exit(m->vm.vcpus[0], &e);
	return (uint32_t)e.port.val;
}

static void write_reg(struct fuzz_machine *m, uint32_t bar, uint32_t off, uint32_t val) {
	struct vm_exit e = {.kind = EXIT_MMIO};
	e.mmio.gpa = bar + off;
	e.mmio.size = 4;
	e.mmio.write = true;
	e.mmio.val = val;
	vcpu_exit(m->vm.vcpus[0], &e);
}

static void command(struct fuzz_machine *m, uint32_t bar, bool io, unsigned *tail,
					const uint8_t *bytes) {
	memcpy(m->ram + (io ? SQ : ASQ) + *tail * 64, bytes, 64);
	*tail = (*tail + 1) % ENTRIES;
	write_reg(m, bar, 0x1000 + (io ? 8 : 0), *tail);
	/* The driver has read all answers but, now and then, some. */
	write_reg(m, bar, 0x1004 + (io ? 8 : 0), (*tail + (bytes[63] & 7 ? 0 : 1)) % ENTRIES);
}

static void create(struct fuzz_machine *m, uint32_t bar, unsigned *tail, uint8_t opcode,
				   uint32_t base, uint32_t flags) {
	uint8_t c[64] = {opcode};
	le64_put(c + 24, base);
	le32_put(c + 40, 1 | (ENTRIES - 1) << 16);
	le32_put(c + 44, flags);
	c[63] = 1;
	command(m, bar, false, tail, c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	struct fuzz_machine *m = fuzz_machine("pc");
	unsigned tail[2] = {0, 0};
	port(m, 0xcf8, true, CONFIG | 0x04);
	port(m, 0xcfc, true, 6);
	port(m, 0xcf8, true, CONFIG | 0x10);
	uint32_t bar = port(m, 0xcfc, false, 0) & ~15u;
	write_reg(m, bar, 0x24, (ENTRIES - 1) | (ENTRIES - 1) << 16);
	write_reg(m, bar, 0x28, ASQ);
	write_reg(m, bar, 0x30, ACQ);
	write_reg(m, bar, 0x14, 1 | 6u << 16 | 4u << 20);
	create(m, bar, &tail[0], 5, CQ, 3 | 1u << 16);
	create(m, bar, &tail[0], 1, SQ, 1 | 1u << 16);
	for (; len >= 66; data += 66, len -= 66) {
		uint8_t c[64];
		memcpy(c, data + 2, 64);
		if (data[0] & 1) { /* pages that are memory, mostly */
			memset(c + 26, 0, 6);
			memset(c + 34, 0, 6);
			c[4] = 1;
			c[5] = c[6] = c[7] = 0;
		}
		switch (data[0] >> 1 & 7) {
		case 0:
			write_reg(m, bar, (data[1] & 15) * 4, le32_get(c));
			break;
		case 1:
			write_reg(m, bar, 0x1000 + (data[1] & 15) * 4, le32_get(c));
			break;
		case 2:
			command(m, bar, false, &tail[0], c);
			break;
		default:
			command(m, bar, true, &tail[1], c);
			break;
		}
	}
	return 0;
}
