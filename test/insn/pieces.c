/* Memory in more pieces than an engine has places for: a page of a device after each page of RAM.
 * The guest reads and writes both, whatever an engine does about it. Prints TAP.
 *
 *     pieces [jit|interp|kvm] */
#include <stdio.h>
#include <string.h>

#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define CODE 0x1000u
#define TABLES 0x10000u
#define RAM (2u << 20)
#define FIRST 0x40u /* page of the first device; then every other one is RAM */
#define DEVICES 100u
#define ADD 0x01010101u

/* RSI to RDI: adds R8 to a dword in each page; RAX: their sum before. */
__asm__(".pushsection .rodata\n"
		"pieces_code:\n"
		"1:	mov (%rsi), %ecx; add %rcx, %rax; add %r8d, %ecx; mov %ecx, (%rsi)\n"
		"	add $0x1000, %rsi; cmp %rdi, %rsi; jb 1b; hlt\n"
		"pieces_end:\n"
		".popsection\n");
extern const uint8_t pieces_code[], pieces_end[];

static struct bench_vm b;
static struct mem_region devices[DEVICES];
static uint32_t registers[DEVICES];

static uint64_t get(void *dev, uint64_t off, unsigned size) {
	return off ? 0 : *(uint32_t *)dev;
}

static void put(void *dev, uint64_t off, unsigned size, uint64_t val) {
	if (!off)
		*(uint32_t *)dev = (uint32_t)val;
}

static const struct io_ops ops = {get, put, 4, 4};

/* A page's dword: a device's register, or in RAM. */
static uint32_t at(unsigned page) {
	uint32_t val;
	if (page % 2 == 0)
		return registers[(page - FIRST) / 2];
	memcpy(&val, b.ram + page * PAGE_SIZE, 4);
	return val;
}

int main(int argc, char **argv) {
	const char *tier = argc > 1 ? argv[1] : "jit";
	const unsigned end = FIRST + 2 * DEVICES;
	uint64_t sum = 0;
	unsigned wrong = 0;
	if (!strcmp(tier, "kvm") && !bench_vm_has_kvm())
		return 0;
	bench_vm_create(&b, RAM, tier);
	struct x86_state *s = &b.cpu->state;
	memcpy(b.ram + CODE, pieces_code, (size_t)(pieces_end - pieces_code));
	bench_vm_map_large(&b, TABLES, 1);
	bench_vm_long_mode(&b, TABLES, CODE);
	for (unsigned i = 0; i < DEVICES; i++) {
		uint32_t val = 7919 * i;
		registers[i] = 1000003 * i;
		memcpy(b.ram + (FIRST + 2 * i + 1) * PAGE_SIZE, &val, 4);
		sum += val + registers[i];
		devices[i] = (struct mem_region){.name = "device",
										 .base = (FIRST + 2 * i) * PAGE_SIZE,
										 .size = PAGE_SIZE,
										 .kind = MEM_MMIO,
										 .priority = 1,
										 .ops = &ops,
										 .dev = &registers[i]};
		mem_add(&b.vm.mem, &devices[i]);
	}
	s->gpr[RAX] = 0;
	s->gpr[RSI] = FIRST * PAGE_SIZE;
	s->gpr[RDI] = end * PAGE_SIZE;
	s->gpr[R8] = ADD;
	enum vm_exit_kind kind = bench_vm_run(&b);
	for (unsigned i = 0; i < DEVICES; i++) {
		wrong += at(FIRST + 2 * i) != 1000003 * i + ADD;
		wrong += at(FIRST + 2 * i + 1) != 7919 * i + ADD;
	}
	bool ran = kind == EXIT_HALT, read = s->gpr[RAX] == sum;
	printf("1..3\n%sok 1 - pieces-run/%s\n", ran ? "" : "not ", tier);
	if (!ran)
		printf("# exit %d: %s\n", kind, kind == EXIT_FAILED ? b.why : "");
	printf("%sok 2 - pieces-read/%s\n", read ? "" : "not ", tier);
	printf("%sok 3 - pieces-written/%s\n# %u wrong\n", wrong ? "not " : "", tier, wrong);
	bench_vm_destroy(&b);
	return !ran || !read || wrong;
}
