/*
 * 32-bit code, in compatibility mode: legacy32.c is mapped below 4 GiB and entered by a far jump
 * to Linux's 32-bit code segment, so neither a 32-bit C library nor another program is needed.
 */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

#define AT 0x10000000ul /* as tools/bench-image links it */
#define SIZE 0x100000ul
#define CS32 0x23 /* Linux's __USER32_CS */

#ifdef HAVE_LEGACY
__asm__(".section .rodata\n"
		".globl legacy_start, legacy_end\n"
		"legacy_start: .incbin \"legacy32.bin\"\n"
		"legacy_end:\n"
		".previous\n");
extern const uint8_t legacy_start[], legacy_end[];

static int setup(void) {
	static void *mapped;

	if (mapped)
		return 0;
	mapped = mmap((void *)AT, SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
	if (mapped != (void *)AT)
		return -1;
	memcpy(mapped, legacy_start, (size_t)(legacy_end - legacy_start));
	return 0;
}

/* 32-bit code keeps the lower halves of registers, and the stack must be where it can reach. */
static void call(uint32_t which, uint64_t n) {
	static uint64_t saved_rsp;
	static uint64_t stack = AT + SIZE - 64;
	/* QEMU's far returns and calls trip over SMAP; its far jumps use no stack. */
	static const struct __attribute__((packed)) {
		uint32_t eip;
		uint16_t cs;
	} target = {AT, CS32};

	__asm__ volatile("push %%rbx\n\t"
					 "push %%rbp\n\t"
					 "mov %%rsp, %0\n\t"
					 "mov %2, %%rsp\n\t"
					 "lea 1f(%%rip), %%rbx\n\t"
					 "ljmp *%3\n"
					 "1:	mov %0, %%rsp\n\t"
					 "pop %%rbp\n\t"
					 "pop %%rbx\n\t"
					 : "+m"(saved_rsp), "+c"(which)
					 : "m"(stack), "m"(target), "d"((uint32_t)n)
					 : "rax", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
					   "memory", "cc");
}
#else
static int setup(void) {
	return -1; /* no 32-bit code could be compiled */
}

static void call(uint32_t which, uint64_t n) {
}
#endif

static void run_fib(uint64_t n) {
	call(0, n);
}

static void run_sum(uint64_t n) {
	call(1, n);
}

static void run_sort(uint64_t n) {
	call(2, n);
}

static void run_switch(uint64_t n) {
	call(3, n);
}

static void run_chase(uint64_t n) {
	call(4, n);
}

const struct bench bench_legacy[] = {
	{"fib-32", setup, run_fib, 150049}, /* calls of fib(24) */
	{"sum-32", setup, run_sum, 4096},
	{"sort-32", setup, run_sort, 1024},
	{"switch-32", setup, run_switch, 1024},
	{"chase-32", setup, run_chase, 2048},
	{NULL, NULL, NULL, 0},
};
