/* Doorbells (mem_set_bells()) on this host's KVM: a guest counts in its memory and rings, without
 * end, and is stopped by kicks that come at any time. The device looks at the count when the late
 * write reaches it: when the guest stands still, the last ring has been seen, nothing more comes,
 * and no write has cost an exit. Without bells each one does. Prints TAP.
 *
 *     bells [--rounds N] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

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
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t writes[3], seen[3], strange;
static int stop, armed;

static void take(void *opaque) {
	pthread_mutex_lock(&lock);
}

static void give(void *opaque) {
	pthread_mutex_unlock(&lock);
}

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

static void *kicker(void *arg) {
	unsigned s = 1;
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		usleep(50 + rand_r(&s) % 1000);
		if (__atomic_load_n(&armed, __ATOMIC_ACQUIRE))
			vcpu_post(b.cpu, EVENT_KICK);
	}
	return arg;
}

static void put64(uint32_t at, uint64_t v) {
	memcpy(b.ram + at, &v, 8);
}

static void prepare(void) {
	struct x86_state *s = &b.cpu->state;
	memcpy(b.ram + CODE, bells_code, (size_t)(bells_end - bells_code));
	put64(TABLES, (TABLES + 0x1000) | 3);
	put64(TABLES + 0x1000, (TABLES + 0x2000) | 3);
	for (unsigned n = 0; n < 2; n++)
		put64(TABLES + 0x2000 + 8 * n, n * (2u << 20) | 0x83);
	bench_vm_long_mode(&b, TABLES, CODE);
	s->gpr[RBX] = COUNT;
	s->gpr[RBP] = DEVICE;
	b.host.lock = take;
	b.host.unlock = give;
	mem_add(&b.vm.mem, &device);
}

static void run(void) {
	__atomic_store_n(&armed, 1, __ATOMIC_RELEASE);
	enum vm_exit_kind kind;
	while ((kind = bench_vm_run(&b)) != EXIT_PREEMPTED)
		if (kind == EXIT_FAILED) {
			printf("1..1\nnot ok 1 - bells\n# the guest does not run: %s\n", b.why);
			exit(1);
		}
	__atomic_store_n(&armed, 0, __ATOMIC_RELEASE);
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
	struct engine_probe p = {0};
	pthread_t thread;
	engine_kvm.probe(&p, true);
	if (p.nfindings < 3) {
		printf("1..0 # SKIP %s\n", p.why);
		return 0;
	}
	bench_vm_create(&b, RAM, "kvm");
	prepare();
	if (pthread_create(&thread, NULL, kicker, NULL))
		return 2;
	mem_set_bells(&b.vm.mem, &device, bells, 3);
	for (unsigned n = 0; n < rounds; n++) {
		run();
		lost += !complete();
		uint64_t before = sum();
		usleep(500);
		late += sum() != before;
	}
	uint64_t exits = b.cpu->exits[EXIT_MMIO], rings = sum(), went = count();
	bool each = writes[0] && writes[1] && writes[2] && !strange;
	mem_set_bells(&b.vm.mem, &device, NULL, 0);
	for (unsigned n = 0; n < rounds && b.cpu->exits[EXIT_MMIO] == exits; n++)
		run(); /* a slow processor does little in one */
	bool without = b.cpu->exits[EXIT_MMIO] > exits;
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
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
