/* Interrupt messages on their way into KVM (engine/kvm/routes.c): threads raise them without end,
 * as devices do, some of them often and some seldom, more than there are routes. The guest has its
 * interrupts off, so each that has arrived waits in its APIC. The VM is stopped at any time, and
 * its APICs' state taken out: it has all that were raised so far, and no other. What is raised
 * while it stands still goes into that state, and with it in again. Prints TAP.
 *
 *     routes [--tier split|kernel] [--rounds N] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define CPUS 2
#define SENDERS 2
#define CODE 0x1000u
#define TABLES 0x10000u
#define RAM (2u << 20)
#define FIRST_VECTOR 32u
#define VECTORS (256 - FIRST_VECTOR)
#define OFTEN 12u

enum { ID = 0x20, VERSION = 0x30, DFR = 0xe0, SVR = 0xf0, IRR = 0x200, LVT = 0x320 };

static struct bench_vm b;
/* All under the VM lock. */
static struct apic_image images[CPUS];
static struct chips_image chips;
static bool raised[CPUS][256];
static unsigned settles, early; /* kvm_settle() that came back before all had arrived */

static pthread_barrier_t begin, end;
static bool quit;
static const char *broken; /* why a vCPU does not run */

/* ---- the board's side */

static void moved(void *board) {
}

static void get(void *board, struct vcpu *v, struct apic_image *a) {
	*a = images[v->id];
}

static void set(void *board, struct vcpu *v, const struct apic_image *a) {
	images[v->id] = *a;
}

static void get_chips(void *board, struct chips_image *c) {
	*c = chips;
}

static void set_chips(void *board, const struct chips_image *c) {
	chips = *c;
}

static void eoi(void *board, uint8_t vector) {
}

static uint8_t get_tpr(void *board, struct vcpu *v) {
	return 0;
}

static const struct vm_board_apics board_apics = {moved, get, set, get_chips, set_chips, eoi};

static void put32(struct apic_image *a, unsigned reg, uint32_t val) {
	memcpy(a->regs + reg, &val, sizeof(val));
}

/* On, as software does it, with all of its own interrupts masked. */
static void power_on(unsigned cpu) {
	struct apic_image *a = &images[cpu];
	memset(a, 0, sizeof(*a));
	a->base = 0xfee00800 | (cpu ? 0 : 0x100);
	put32(a, ID, cpu << 24);
	put32(a, VERSION, 0x50014);
	put32(a, DFR, ~0u);
	put32(a, SVR, 0x1ff);
	for (unsigned n = 0; n < 6; n++)
		put32(a, LVT + n * 0x10, 0x10000);
}

static uint8_t *irr(unsigned cpu, unsigned vector, uint8_t *bit) {
	*bit = (uint8_t)(1u << vector % 8);
	return &images[cpu].regs[IRR + vector / 32 * 16 + vector % 32 / 8];
}

/* ---- devices */

static uint64_t stat(const char *name) {
	return bench_vm_stat(&b, name);
}

static bool all_arrived(void) {
	return stat("irq_messages") == stat("irq_joined") + stat("irq_eventfds") + stat("irq_signals");
}

/* VM lock held. */
static void raise_one(unsigned cpu, unsigned vector) {
	const struct vm_apics *a = b.vm.apics;
	uint8_t bit, *byte = irr(cpu, vector, &bit);
	raised[cpu][vector] = true;
	if (a)
		a->message(a->opaque, 0xfee00000 | cpu << 12, vector);
	else
		*byte |= bit;
}

static void *sender(void *arg) {
	unsigned seed = (unsigned)(uintptr_t)arg;
	while (!__atomic_load_n(&quit, __ATOMIC_ACQUIRE)) {
		b.host.lock(&b);
		for (unsigned n = (unsigned)rand_r(&seed) % 4; n < 4; n++) {
			unsigned r = (unsigned)rand_r(&seed), which = r % 8 ? r / 64 % OFTEN : r / 64 % VECTORS;
			raise_one(r / 8 % CPUS, FIRST_VECTOR + which);
		}
		if (b.vm.apics && rand_r(&seed) % 16 == 0) {
			b.vm.apics->settle(b.vm.apics->opaque);
			settles++;
			early += !all_arrived();
		}
		b.host.unlock(&b);
		if (rand_r(&seed) % 32 == 0)
			usleep(100);
	}
	return NULL;
}

/* ---- the VM */

static void *run(void *arg) {
	struct vcpu *v = arg;
	for (;;) {
		struct vm_exit e;
		pthread_barrier_wait(&begin);
		if (quit)
			return NULL;
		engine_run(&b.engine, v, &e);
		if (e.kind != EXIT_PREEMPTED)
			__atomic_store_n(&broken, e.kind == EXIT_FAILED ? e.failed.why : "it ends",
							 __ATOMIC_RELEASE);
		pthread_barrier_wait(&end);
	}
}

static void kick(void *opaque, unsigned vcpu) {
	engine_kick(&b.engine, b.vm.vcpus[vcpu]);
}

/* How many interrupts are lost, and how many are there that nobody raised. Then, at times, the
 * guest has handled all of them. */
static void compare(unsigned *lost, unsigned *strange, bool handle) {
	for (unsigned cpu = 0; cpu < CPUS; cpu++)
		for (unsigned v = FIRST_VECTOR; v < 256; v++) {
			uint8_t bit, *byte = irr(cpu, v, &bit);
			bool there = *byte & bit;
			*lost += raised[cpu][v] && !there;
			*strange += there && !raised[cpu][v];
			if (!handle)
				continue;
			*byte &= (uint8_t)~bit;
			raised[cpu][v] = false;
		}
}

static void prepare(void) {
	static const uint8_t code[] = {0xf3, 0x90, 0xeb, 0xfc}; /* 1: pause; jmp 1b */
	memcpy(b.ram + CODE, code, sizeof(code));
	bench_vm_map_large(&b, TABLES, 1);
	b.vm.get_tpr = get_tpr;
	for (unsigned i = 0; i < CPUS; i++) {
		bench_vm_long_mode_cpu(b.vm.vcpus[i], TABLES, CODE);
		engine_set_state(&b.engine, b.vm.vcpus[i]);
		power_on(i);
	}
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		chips.ioapic.redir[pin] = 0x10000;
	bench_vm_lock(&b);
	b.host.kick = kick;
}

static void round_of(unsigned us, unsigned *lost, unsigned *strange, bool handle) {
	pthread_barrier_wait(&begin);
	usleep(us);
	for (unsigned i = 0; i < CPUS; i++)
		vcpu_post(b.vm.vcpus[i], EVENT_KICK);
	pthread_barrier_wait(&end);
	for (unsigned i = 0; i < CPUS; i++)
		engine_get_state(&b.engine, b.vm.vcpus[i]);
	b.host.lock(&b);
	compare(lost, strange, handle);
	b.host.unlock(&b);
}

int main(int argc, char **argv) {
	const char *tier = "split", *without = getenv("JOIST_KVM_OFF");
	unsigned rounds = 200, lost = 0, strange = 0, seed = 1;
	bool off = without && strstr(without, "irqfd");
	pthread_t cpus[CPUS], senders[SENDERS];
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--tier"))
			tier = argv[i + 1];
		else if (!strcmp(argv[i], "--rounds"))
			rounds = (unsigned)atoi(argv[i + 1]);
	}
	if (!bench_vm_has_kvm())
		return 0;
	bench_vm_create_apics(&b, RAM, tier, CPUS, &board_apics, &b);
	prepare();
	pthread_barrier_init(&begin, NULL, CPUS + 1);
	pthread_barrier_init(&end, NULL, CPUS + 1);
	for (unsigned i = 0; i < CPUS; i++)
		if (pthread_create(&cpus[i], NULL, run, b.vm.vcpus[i]))
			return 2;
	for (unsigned i = 0; i < SENDERS; i++)
		if (pthread_create(&senders[i], NULL, sender, (void *)(uintptr_t)(i + 1)))
			return 2;
	/* As long as it takes: on a busy host little is sent in a round. */
	for (unsigned n = 0;
		 !broken && (n < rounds || (n < 50 * rounds && stat("irq_messages") < 20000)); n++)
		round_of(50 + (unsigned)rand_r(&seed) % 1500, &lost, &strange, rand_r(&seed) % 2);
	__atomic_store_n(&quit, true, __ATOMIC_RELEASE);
	pthread_barrier_wait(&begin);
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_join(senders[i], NULL);
	for (unsigned i = 0; i < CPUS; i++)
		pthread_join(cpus[i], NULL);
	if (broken) {
		printf("1..1\nnot ok 1 - routes\n# the guest does not run: %s\n", broken);
		return 1;
	}
	uint64_t events = stat("irq_eventfds"), changes = stat("irq_routes");
	bool right = off ? !events : events > 0;
	printf("1..5\n%sok 1 - routes-none-lost\n%sok 2 - routes-none-invented\n", lost ? "not " : "",
		   strange ? "not " : "");
	printf("# %u lost, %u invented; %llu messages, %llu joined with others, %llu by eventfd, %llu "
		   "by KVM_SIGNAL_MSI, %llu changes of routes, %u times settled\n",
		   lost, strange, (unsigned long long)stat("irq_messages"),
		   (unsigned long long)stat("irq_joined"), (unsigned long long)events,
		   (unsigned long long)stat("irq_signals"), (unsigned long long)changes, settles);
	printf("%sok 3 - routes-settled\n", early ? "not " : "");
	printf("%sok 4 - routes-used\n", right ? "" : "not ");
	printf("%sok 5 - routes-all-sent\n", all_arrived() ? "" : "not ");
	bool ok = !lost && !strange && !early && right && all_arrived();
	bench_vm_destroy(&b);
	return !ok;
}
