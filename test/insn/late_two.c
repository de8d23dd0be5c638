/* Late writes (engine/kvm/late.c) of two vCPUs: both take turns by a lock in memory. Whoever has it
 * writes an index and notes in memory which one, or reads the data and compares it with the note.
 * The other one may have made it: then its write has to be done before this read, though it took
 * no exit. A port's index register and a page's, and another page's where only a flag in memory
 * orders the two. Both are stopped by kicks that come at any time; then no write may be left over.
 * The same with IPIs for order, on whole boards: test/guest/late.c. Prints TAP.
 *
 *     late-two [--rounds N] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define CPUS 2
#define CODE 0x1000u
#define TABLES 0x10000u
#define COUNTS                                                                                     \
	0x20000u /* a page a vCPU: [0] late writes, [1] differences, [2] reads of what the other wrote \
			  */
#define SHARED 0x30000u /* lines: the lock; the port's note; the page's; the mail */
#define RAM (2u << 20)
#define DEVICE RAM /* two pages behind it: index at 0, data at 0x10 */
#define PORT 0x70  /* index at 0, data at 1 */

/* RBX: this vCPU's counts; RBP: DEVICE; R12: SHARED; R13: random numbers; R14: this vCPU's number.
 * A register's data is the complement of its index. A note is the index and who wrote it << 8.
 *
 * The mail is in memory, without a lock: the first vCPU writes the page's index, then a number into
 * the mail; the second one waits for the number, reads the data and answers. Only they use the
 * second page, so that nothing but the mail orders them. */
__asm__(".pushsection .rodata\n"
		"late_two_code:\n"
		"1:	mov %r13, %rax; shl $13, %rax; xor %rax, %r13\n"
		"	mov %r13, %rax; shr $7, %rax; xor %rax, %r13\n"
		"	mov %r13, %rax; shl $17, %rax; xor %rax, %r13\n"
		"2:	mov $1, %eax; xchg %eax, (%r12); test %eax, %eax; jz 3f; pause; jmp 2b\n"
		"3:	mov %r13, %rcx; shr $8, %rcx; movzbl %cl, %ecx\n"
		"	test $2, %r13b; jnz 6f\n"
		/* The port. */
		"	test $5, %r13b; jnz 4f\n"
		"	mov $0x71, %edx; in %dx, %al; not %al; mov 64(%r12), %ecx; cmp %al, %cl; je 5f\n"
		"	incq 8(%rbx); jmp 5f\n"
		"4:	mov %ecx, %eax; mov $0x70, %edx; out %al, %dx; incq (%rbx)\n"
		"	mov %r14d, %esi; shl $8, %esi; or %esi, %ecx; mov %ecx, 64(%r12); jmp 8f\n"
		"5:	shr $8, %ecx; cmp %r14d, %ecx; je 8f; incq 16(%rbx); jmp 8f\n"
		/* The page. */
		"6:	test $5, %r13b; jnz 7f\n"
		"	mov 0x10(%rbp), %eax; not %al; mov 128(%r12), %ecx; cmp %al, %cl; je 5b\n"
		"	incq 8(%rbx); jmp 5b\n"
		"7:	mov %ecx, (%rbp); incq (%rbx)\n"
		"	mov %r14d, %esi; shl $8, %esi; or %esi, %ecx; mov %ecx, 128(%r12)\n"
		"8:	movl $0, (%r12)\n"
		/* The mail: the number's lowest bit says whose turn it is. */
		"	mov 192(%r12), %rcx; mov %ecx, %eax; and $1, %eax; cmp %r14, %rax; jne 1b\n"
		"	test %r14, %r14; jnz 9f\n"
		"	lea 1(%rcx), %rcx; mov %r13, %rax; shr $16, %rax; movzbl %al, %eax\n"
		"	mov %eax, 0x1000(%rbp); incq (%rbx); mov %eax, 200(%r12); mov %rcx, 192(%r12); jmp 1b\n"
		"9:	mov 0x1010(%rbp), %eax; not %al; cmp %al, 200(%r12); je 9f; incq 8(%rbx)\n"
		"9:	incq 16(%rbx); incq 192(%r12); jmp 1b\n"
		"late_two_end:\n"
		".popsection\n");
extern const uint8_t late_two_code[], late_two_end[];

static struct bench_vm b;
static uint64_t index_writes, data_reads, strange;
static uint8_t indices[3]; /* the port's, the pages' */
static pthread_barrier_t begin, end;
static bool quit;
static const char *broken; /* why a vCPU does not run */

static uint64_t count(unsigned cpu, unsigned n) {
	return __atomic_load_n((uint64_t *)(void *)(b.ram + COUNTS + cpu * PAGE_SIZE + 8 * n),
						   __ATOMIC_RELAXED);
}

static uint32_t shared(unsigned at) {
	return __atomic_load_n((uint32_t *)(void *)(b.ram + SHARED + at), __ATOMIC_RELAXED);
}

/* `dev` is the device's index register; its data is at 1 or 0x10. */
static uint64_t get(void *dev, uint64_t off, unsigned size) {
	data_reads += off == 1 || off == 0x10;
	strange += off != 1 && off != 0x10;
	return (uint8_t) ~*(uint8_t *)dev;
}

static void put(void *dev, uint64_t off, unsigned size, uint64_t val) {
	*(uint8_t *)dev = (uint8_t)val;
	index_writes += !off;
	strange += off || val > 0xff;
}

static const struct io_ops port_ops = {get, put, 1, 1}, page_ops = {get, put, 0, 0};
static struct port_region port = {
	.name = "port", .base = PORT, .size = 2, .ops = &port_ops, .dev = &indices[0], .latch = 1};
static struct mem_region pages[2];

static void prepare(void) {
	memcpy(b.ram + CODE, late_two_code, (size_t)(late_two_end - late_two_code));
	bench_vm_map_large(&b, TABLES, 2);
	for (unsigned i = 0; i < CPUS; i++) {
		struct x86_state *s = &b.vm.vcpus[i]->state;
		bench_vm_long_mode_cpu(b.vm.vcpus[i], TABLES, CODE);
		s->gpr[RBX] = COUNTS + i * PAGE_SIZE;
		s->gpr[RBP] = DEVICE;
		s->gpr[R12] = SHARED;
		s->gpr[R13] = 0x1234567 + i;
		s->gpr[R14] = i;
	}
	bench_vm_lock(&b);
	port_add(&b.vm.mem, &port);
	for (unsigned i = 0; i < 2; i++) {
		pages[i] = (struct mem_region){.name = "page",
									   .base = DEVICE + i * PAGE_SIZE,
									   .size = PAGE_SIZE,
									   .kind = MEM_MMIO,
									   .priority = 1,
									   .ops = &page_ops,
									   .dev = &indices[1 + i],
									   .latch = 4};
		mem_add(&b.vm.mem, &pages[i]);
	}
}

static void *run(void *arg) {
	struct vcpu *v = arg;
	for (;;) {
		pthread_barrier_wait(&begin);
		if (quit)
			return NULL;
		enum vm_exit_kind kind = EXIT_KINDS;
		while (kind != EXIT_PREEMPTED && kind != EXIT_FAILED)
			kind = bench_vm_run_cpu(&b, v);
		if (kind == EXIT_FAILED)
			__atomic_store_n(&broken, b.why, __ATOMIC_RELEASE);
		pthread_barrier_wait(&end);
	}
}

/* Both stand still. Whoever is about to note what it has written holds the lock. */
static bool complete(void) {
	uint64_t noted = count(0, 0) + count(1, 0), before = index_writes;
	bool same =
		shared(0) || ((uint8_t)shared(64) == indices[0] && (uint8_t)shared(128) == indices[1]);
	usleep(100);
	return same && index_writes == before && index_writes >= noted && index_writes <= noted + CPUS;
}

static bool enough(unsigned n, unsigned rounds) {
	bool seen = count(0, 2) >= 20 && count(1, 2) >= 20;
	return broken ||
		   (n >= rounds && (seen || n >= 100 * rounds)); /* a slow one does little in a round */
}

int main(int argc, char **argv) {
	unsigned rounds = argc == 3 && !strcmp(argv[1], "--rounds") ? (unsigned)atoi(argv[2]) : 200;
	const char *without = getenv("JOIST_KVM_OFF");
	bool off = without && strstr(without, "coalesced");
	unsigned left = 0, seed = 1;
	pthread_t threads[CPUS];
	if (!bench_vm_has_kvm())
		return 0;
	bench_vm_create_cpus(&b, RAM, "kvm", CPUS);
	prepare();
	pthread_barrier_init(&begin, NULL, CPUS + 1);
	pthread_barrier_init(&end, NULL, CPUS + 1);
	for (unsigned i = 0; i < CPUS; i++)
		if (pthread_create(&threads[i], NULL, run, b.vm.vcpus[i]))
			return 2;
	for (unsigned n = 0; !enough(n, rounds); n++) {
		pthread_barrier_wait(&begin);
		usleep(50 + (unsigned)rand_r(&seed) % 1000);
		for (unsigned i = 0; i < CPUS; i++)
			vcpu_post(b.vm.vcpus[i], EVENT_KICK);
		pthread_barrier_wait(&end);
		left += !complete();
	}
	quit = true;
	pthread_barrier_wait(&begin);
	uint64_t wrong = strange, exits = 0, foreign[CPUS];
	for (unsigned i = 0; i < CPUS; i++) {
		struct vcpu *v = b.vm.vcpus[i];
		pthread_join(threads[i], NULL);
		wrong += count(i, 1);
		foreign[i] = count(i, 2);
		exits += v->exits[EXIT_PORT] + v->exits[EXIT_MMIO];
	}
	/* Each read is an exit; the others are writes. */
	uint64_t late = index_writes - (exits - data_reads);
	bool met = foreign[0] >= 20 && foreign[1] >= 20;
	if (broken) {
		printf("1..1\nnot ok 1 - late-two\n# the guest does not run: %s\n", broken);
	} else if (!off && !late) {
		printf("1..0 # SKIP this host's KVM has no coalesced writes\n");
	} else {
		/* How often they meet is up to who else is on the host. */
		printf("1..3\n%sok 1 - late-two-order%s\n", wrong ? "not " : "",
			   met ? "" : " # SKIP they hardly met: is the host busy?");
		printf("# %llu and %llu reads of what the other one wrote, %llu wrong\n",
			   (unsigned long long)foreign[0], (unsigned long long)foreign[1],
			   (unsigned long long)wrong);
		printf("%sok 2 - late-two-nothing-left\n", left ? "not " : "");
		printf("%sok 3 - late-two-exits\n# %llu of %llu writes without an exit\n",
			   off && late ? "not " : "", (unsigned long long)late,
			   (unsigned long long)index_writes);
	}
	bench_vm_destroy(&b);
	return broken || wrong || left || (off && late);
}
