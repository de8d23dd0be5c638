/* Index registers (`latch` in core/vm/mem.h) on this host's KVM: a guest reads a port's and a
 * page's table by index and data, in widths that are the index register's and in others, and checks
 * each value itself; it is stopped by kicks that come at any time, and then no write may be left
 * over. Each access by index and data is one exit, without this part of KVM two. Prints TAP.
 *
 *     late [--rounds N] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/regs.h"
#include "test/insn/kicks.h"

#define CODE 0x1000u
#define TABLES 0x10000u
#define COUNTS 0x20000u
#define RAM (2u << 20)
#define DEVICE RAM /* a page behind it: index at 0 (4 bytes), data at 0x10 */
#define PORT 0x70  /* index at 0, data at 1, one that looks at the index at 2 */

/* RBX: COUNTS, where [0] counts pairs, [8] differences, [16] writes of two bytes at once; RBP:
 * DEVICE. A register holds the complement of its index. Every 64th turn writes index and data at
 * once. */
__asm__(".pushsection .rodata\n"
		"late_code:\n"
		"1:	inc %ecx; mov %ecx, %eax; mov $0x70, %edx; out %al, %dx; inc %edx; in %dx, %al\n"
		"	not %al; cmp %al, %cl; je 2f; incq 8(%rbx)\n"
		"2:	incq (%rbx); movzbl %cl, %esi; mov %esi, (%rbp); mov 0x10(%rbp), %eax\n"
		"	not %al; cmp %al, %cl; je 3f; incq 8(%rbx)\n"
		"3:	incq (%rbx); test $63, %cl; jne 1b\n"
		/* A byte and a word in the four of the latch; two ports by one access. */
		"	movb $0x5a, (%rbp); mov 0x10(%rbp), %eax; cmp $0xa5, %al; je 4f; incq 8(%rbx)\n"
		"4:	movw $0x3c, (%rbp); mov 0x10(%rbp), %eax; cmp $0xc3, %al; je 5f; incq 8(%rbx)\n"
		"5:	mov $0x70, %edx; mov $0x77, %ax; out %ax, %dx; incq 16(%rbx)\n"
		"	mov $0x72, %edx; in %dx, %al; cmp $0x77, %al; je 1b; incq 8(%rbx); jmp 1b\n"
		"late_end:\n"
		".popsection\n");
extern const uint8_t late_code[], late_end[];

static struct bench_vm b;
static struct kicks kicks = {.b = &b, .name = "late", .least_us = 50, .more_us = 1000};
static uint64_t index_writes, data_writes, strange;
static uint8_t indices[2]; /* the port's, the page's */

static uint64_t count(unsigned n) {
	return __atomic_load_n((uint64_t *)(void *)(b.ram + COUNTS + 8 * n), __ATOMIC_RELAXED);
}

static uint64_t port_get(void *dev, uint64_t off, unsigned size) {
	return off == 1 ? (uint8_t)~indices[0] : off == 2 ? indices[0] : 0xff;
}

static void port_put(void *dev, uint64_t off, unsigned size, uint64_t val) {
	if (off == 0) {
		indices[0] = (uint8_t)val;
		index_writes++;
	} else if (off == 1) {
		data_writes++;
	} else {
		strange++;
	}
}

static uint64_t page_get(void *dev, uint64_t off, unsigned size) {
	return off == 0x10 ? (uint8_t)~indices[1] : 0;
}

static void page_put(void *dev, uint64_t off, unsigned size, uint64_t val) {
	if (off || val > 0xff)
		strange++;
	indices[1] = (uint8_t)val;
	index_writes++;
}

static const struct io_ops port_ops = {port_get, port_put, 1, 1},
						   page_ops = {page_get, page_put, 0, 0};
static struct port_region port = {
	.name = "port", .base = PORT, .size = 3, .ops = &port_ops, .latch = 1};
static struct mem_region page = {.name = "page",
								 .base = DEVICE,
								 .size = PAGE_SIZE,
								 .kind = MEM_MMIO,
								 .priority = 1,
								 .ops = &page_ops,
								 .latch = 4};

static void prepare(void) {
	struct x86_state *s = &b.cpu->state;
	memcpy(b.ram + CODE, late_code, (size_t)(late_end - late_code));
	bench_vm_map_large(&b, TABLES, 2);
	bench_vm_long_mode(&b, TABLES, CODE);
	s->gpr[RBX] = COUNTS;
	s->gpr[RBP] = DEVICE;
	bench_vm_lock(&b);
	port_add(&b.vm.mem, &port);
	mem_add(&b.vm.mem, &page);
}

/* Of the accesses so far: what the guest found wrong, and how many exits they took. */
static uint64_t exits(void) {
	return b.cpu->exits[EXIT_PORT] + b.cpu->exits[EXIT_MMIO];
}

int main(int argc, char **argv) {
	unsigned rounds = argc == 3 && !strcmp(argv[1], "--rounds") ? (unsigned)atoi(argv[2]) : 200;
	const char *without = getenv("JOIST_KVM_OFF");
	bool off = without && strstr(without, "coalesced");
	unsigned late = 0;
	if (!bench_vm_has_kvm())
		return 0;
	bench_vm_create(&b, RAM, "kvm");
	prepare();
	kicks_start(&kicks);
	/* A slow processor does little in a round. */
	for (unsigned n = 0; n < rounds || (n < 100 * rounds && !count(2)); n++) {
		kicks_run(&kicks);
		uint64_t before = index_writes;
		usleep(100);
		/* Of a pair that has been begun the first half may be done. */
		late += index_writes != before || index_writes < count(0);
	}
	kicks_stop(&kicks);
	uint64_t pairs = count(0), wrong = count(1) + strange, both = count(2), took = exits();
	/* A turn through the odd widths: two reads, the wide write and the look at what it did; of the
	 * writes in between, none or two. Kicks can come between the halves of an access. */
	uint64_t want = off ? 2 * pairs + 6 * both : pairs + 4 * both;
	bool counted = took >= want && took - want <= 6;
	bool none = !off && took >= 2 * pairs;
	bench_vm_destroy(&b);
	if (none) {
		printf("1..0 # SKIP this host's KVM has no coalesced writes\n");
		return 0;
	}
	printf("1..4\n%sok 1 - late-values\n", wrong || !pairs ? "not " : "");
	printf("%sok 2 - late-nothing-left\n", late ? "not " : "");
	printf("%sok 3 - late-wide-at-once\n", both && data_writes >= both ? "" : "not ");
	printf("%sok 4 - late-exits\n# %llu pairs and %llu wide writes: %llu exits\n",
		   counted ? "" : "not ", (unsigned long long)pairs, (unsigned long long)both,
		   (unsigned long long)took);
	return wrong || !pairs || late || !both || data_writes < both || !counted;
}
