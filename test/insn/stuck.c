/* What is said when this host's KVM cannot go on (engine/kvm/report.c): a guest executes from a
 * device's memory, which KVM would have to emulate, and touches memory that the host does not have.
 * The sentence names the reason and the code; the log gets the registers. Prints TAP. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"
#include "test/unit/fake.h"

#define CODE 0x1000u
#define TABLES 0x10000u
#define HOLE 0x20000u
#define RAM (2u << 20)
#define DEVICE RAM /* a page behind it */

/* RBX: HOLE; RBP: DEVICE, whose bytes are UD0's: nothing emulates that. */
__asm__(".pushsection .rodata\n"
		"stuck_jumps: movabs $0x5afe5afe, %rdx; jmp *%rbp\n"
		"stuck_reads: movabs $0x5afe5afe, %rdx; mov (%rbx), %eax; hlt\n"
		"stuck_end:\n"
		".popsection\n");
extern const uint8_t stuck_jumps[], stuck_reads[], stuck_end[];

static uint64_t device_read(void *dev, uint64_t off, unsigned size) {
	return 0xff0fff0fff0fff0full;
}

static void device_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
}

static const struct io_ops ops = {device_read, device_write, 1, 8};
static unsigned failed;

/* Ends as it should: with a sentence that has `reason` and `code`, all registers in the log. */
static void try(unsigned n, const char *name, const uint8_t *code, const char *reason,
				const char *bytes) {
	struct bench_vm b;
	struct mem_region device = {.name = "device",
								.base = DEVICE,
								.size = PAGE_SIZE,
								.kind = MEM_MMIO,
								.priority = 1,
								.ops = &ops};
	bench_vm_create(&b, RAM, "kvm");
	memcpy(b.ram + CODE, code, (size_t)(stuck_end - code));
	bench_vm_map_large(&b, TABLES, 2);
	bench_vm_long_mode(&b, TABLES, CODE);
	b.cpu->state.gpr[RBX] = HOLE;
	b.cpu->state.gpr[RBP] = DEVICE;
	mem_add(&b.vm.mem, &device);
	mprotect(b.ram + HOLE, PAGE_SIZE, PROT_NONE);
	fake_log_count = 0;
	enum vm_exit_kind kind = bench_vm_run(&b);
	const char *why = kind == EXIT_FAILED ? b.why : "it ends otherwise";
	/* The sentence, 4 lines of general registers, one of others, 8 of segments. */
	bool ok = strstr(why, reason) && strstr(why, bytes) && fake_log_count == 14 &&
			  strstr(fake_log_last, "tr ") && b.cpu->state.gpr[RDX] == 0x5afe5afe;
	printf("%sok %u - stuck-%s\n# %s (exit %d, %u lines in the log)\n", ok ? "" : "not ", n, name,
		   why, kind, fake_log_count);
	failed += !ok;
	bench_vm_destroy(&b);
}

int main(void) {
	struct engine_probe p = {0};
	if (!bench_vm_has_kvm())
		return 0;
	printf("1..2\n");
	try(1, "device-code", stuck_jumps, "it has to emulate an instruction and cannot", "code:");
	/* One that emulates all of the kernel's code takes such memory for a device's. */
	engine_kvm.probe(&p, true);
	if (p.usable)
		try(2, "no-memory", stuck_reads, "KVM_RUN fails: Bad address (the host has no memory",
			"code: 8b 03 f4");
	else
		printf("ok 2 - stuck-no-memory # SKIP %s\n", p.why);
	return failed != 0;
}
