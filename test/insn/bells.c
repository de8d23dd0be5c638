/* Doorbells (mem_set_bells()) on this host's KVM: a guest counts in its memory and rings, without
 * end, and is stopped by kicks that come at any time. The device looks at the count when the late
 * write reaches it: when the guest stands still, the last ring has been seen, nothing more comes,
 * and no write has cost an exit. Without bells each one does. Prints TAP.
 *
 *     bells [--rounds N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/regs.h"
#include "test/insn/kicks.h"

#define CODE 0x1000u
#define TABLES 0x10000u
#define COUNT 0x20000u
#define RAM (2u << 20)
#define DEVICE RAM /* a page behind it */

/* Rings 0 and 1 at one place by their values, and one at another by any value. */
__asm__(".pushsection .rodata\n"
		"bells_code:\n"
		"1:	incq (%rbx); mov %eax, 0x10(%rbp); xor $1, %eax; mov %cx, 0x20(%rbp)\n"
		"	jmp 1b\n"
		"bells_end:\n"
		".popsection\n");
extern const uint8_t bells_code[], bells_end[];

static const struct mem_bell bells[] = {{0x10, 4, 0}, {0x10, 4, 1}, {0x20, 0, 0}};

static struct bench_vm b;
static struct kicks kicks = {.b = &b, .name = "bells", .least_us = 50, .more_us = 1000};
static uint64_t writes[3], seen[3], strange;

static uint64_t count(void) {
	return __atomic_load_n((uint64_t *)(void *)(b.ram + COUNT), __ATOMIC_RELAXED);
}

static uint64_t device_read(void *dev, uint64_t off, unsigned size) {
	return 0;
}

static void device_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	unsigned n = off == 0x20 ? 2 : (unsigned)val;
	if ((off != 0x10 && off != 0x20) || n > 2) {
		strange++;
		return;
	}
	writes[n]++;
	seen[n] = count();
}

static const struct io_ops ops = {device_read, device_write, 1, 4};
static struct mem_region device = {.name = "bells",
								   .base = DEVICE,
								   .size = PAGE_SIZE,
								   .kind = MEM_MMIO,
								   .priority = 1,
								   .ops = &ops};

static void prepare(void) {
	struct x86_state *s = &b.cpu->state;
	memcpy(b.ram + CODE, bells_code, (size_t)(bells_end - bells_code));
	bench_vm_map_large(&b, TABLES, 2);
	bench_vm_long_mode(&b, TABLES, CODE);
	s->gpr[RBX] = COUNT;
	s->gpr[RBP] = DEVICE;
	bench_vm_lock(&b);
	mem_add(&b.vm.mem, &device);
}

/* The guest stands still in round `c`, or before that round's rings: has the last one been seen? */
static bool complete(void) {
	uint64_t c = count(), last = seen[0] > seen[1] ? seen[0] : seen[1];
	return last + 1 >= c && seen[2] + 1 >= c;
}

static uint64_t sum(void) {
	return writes[0] + writes[1] + writes[2];
}

int main(int argc, char **argv) {
	unsigned rounds = argc == 3 && !strcmp(argv[1], "--rounds") ? (unsigned)atoi(argv[2]) : 200;
	unsigned lost = 0, late = 0;
	if (!bench_vm_has_kvm())
		return 0;
	bench_vm_create(&b, RAM, "kvm");
	prepare();
	kicks_start(&kicks);
	mem_set_bells(&b.vm.mem, &device, bells, 3);
	for (unsigned n = 0; n < rounds; n++) {
		kicks_run(&kicks);
		lost += !complete();
		uint64_t before = sum();
		usleep(500);
		late += sum() != before;
	}
	uint64_t exits = b.cpu->exits[EXIT_MMIO], rings = sum(), went = count();
	bool each = writes[0] && writes[1] && writes[2] && !strange;
	mem_set_bells(&b.vm.mem, &device, NULL, 0);
	for (unsigned n = 0; n < rounds && b.cpu->exits[EXIT_MMIO] == exits; n++)
		kicks_run(&kicks); /* a slow processor does little in one */
	bool without = b.cpu->exits[EXIT_MMIO] > exits;
	kicks_stop(&kicks);
	bench_vm_destroy(&b);
	if (exits && !rings) {
		printf("1..0 # SKIP this host's KVM has no ioeventfd\n");
		return 0;
	}
	printf("1..5\n%sok 1 - bells-complete\n", lost ? "not " : "");
	printf("%sok 2 - bells-quiet-when-stopped\n", late ? "not " : "");
	printf("%sok 3 - bells-each\n", each ? "" : "not ");
	printf("%sok 4 - bells-no-exits\n# %llu late writes of %llu, %llu exits\n", exits ? "not " : "",
		   (unsigned long long)rings, (unsigned long long)went * 2, (unsigned long long)exits);
	printf("%sok 5 - bells-off\n", without ? "" : "not ");
	return lost || late || !each || exits || !without;
}
