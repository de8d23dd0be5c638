/* libFuzzer: a guest that touches every port, register and MSR of a whole machine in
 * any order while time passes. The first byte picks the board. */
#include "core/base/le.h"
#include "test/fuzz/fuzz_machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Where chips are: so that most accesses hit one. */
static const uint16_t ports[] = {0x20,	0x21,  0xa0,  0xa1,	 0x4d0, 0x4d1, 0x40,  0x41,
								 0x42,	0x43,  0x61,  0x70,	 0x71,	0x3f8, 0x60,  0x64,
								 0x92,	0x600, 0x604, 0x608, 0x620, 0x628, 0xb2,  0xcf9,
								 0xcf8, 0xcfc, 0x505, 0xf4,	 0xe9,	0x3fa, 0x3fc, 0x2f8};
static const uint64_t pages[] = {0xfee00000, 0xfec00000, 0xfed00000, 0xe0000000, 0xe0008000,
								 0xe00f8000, 0xc0000000, 0xc0004000, 0xd0000000, 0xd0001000,
								 0xd0002000, 0x0,		 0xfeefe000, 0xfffff000, 0x5000000000};
static const uint32_t msrs[] = {0x1b, 0x6e0, 0x800, 0x4b564d00, 0x10, 0x830, 0x80b, 0x83f};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void step(struct fuzz_machine *m, const uint8_t b[12]) {
	struct vcpu *v = m->vm.vcpus[b[0] >> 7];
	uint64_t val = le64_get(b + 4);
	struct vm_exit e = {0};
	switch (b[0] & 7) {
	case 0:
	case 1:
		e.kind = EXIT_PORT;
		e.port.port = (uint16_t)(ports[b[1] % COUNT(ports)] + b[2] % 8);
		e.port.size = (uint8_t)(1u << b[3] % 3);
		e.port.write = b[0] & 1;
		e.port.val = (uint32_t)val;
		break;
	case 2:
	case 3:
		e.kind = EXIT_MMIO;
		e.mmio.gpa = pages[b[1] % COUNT(pages)] + ((b[3] & 0xf) << 8 | b[2]);
		e.mmio.size = (uint8_t)(1 + (b[3] >> 4) % 8);
		e.mmio.write = b[0] & 1;
		e.mmio.val = val;
		break;
	case 4:
	case 5:
		e.kind = b[0] & 1 ? EXIT_WRMSR : EXIT_RDMSR;
		e.msr.index = msrs[b[1] % COUNT(msrs)] + b[2] % 64;
		e.msr.val = val;
		break;
	case 6:
		vcpu_intack(v);
		return;
	default:
		/* Up to 16 ms: a timer at its shortest period fires often enough. */
		fake_clock_set(&m->clock, m->clock.now_ns + (val & 0xffffff));
		return;
	}
	vcpu_exit(v, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	if (len < 1)
		return 0;
	struct fuzz_machine *m = fuzz_machine(data[0] & 1 ? "micro" : "pc");
	unsigned steps = 0;
	for (data++, len--; len >= 12 && steps < 500; data += 12, len -= 12, steps++)
		step(m, data);
	return 0;
}
