/* What it costs to give KVM a message-signalled interrupt, by the ways it has: KVM_SIGNAL_MSI, an
 * eventfd with a route of its own (irqfd), and changing such a route. For engine/kvm/README.md,
 * which says which way the engine goes and when. One vCPU, which does not run; medians of the
 * rounds in nanoseconds a call. Each way is tried alone and the interrupt must arrive (in the
 * APIC's IRR). Prints TAP.
 *
 *     messages [--rounds N] */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define CALLS 2000
#define ROUTES 24
#define VECTOR 0x41u
#define GSI 1
#define SVR 0xf0 /* offsets in the APIC's page */
#define IRR 0x200

static int vm, cpu, event;

static uint64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool set_route(uint32_t data) {
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry;
	} k = {.head.nr = 1, .entry = {.gsi = GSI, .type = KVM_IRQ_ROUTING_MSI}};
	k.entry.u.msi.address_lo = 0xfee00000;
	k.entry.u.msi.data = data;
	return ioctl(vm, KVM_SET_GSI_ROUTING, &k) >= 0;
}

static bool by_signal(unsigned n) {
	struct kvm_msi m = {.address_lo = 0xfee00000, .data = VECTOR};
	(void)n;
	return ioctl(vm, KVM_SIGNAL_MSI, &m) >= 0;
}

static bool by_event(unsigned n) {
	uint64_t one = 1;
	(void)n;
	return write(event, &one, sizeof(one)) == sizeof(one);
}

/* Another vector each time, as when a guest moves an interrupt, and then the message. */
static bool by_route(unsigned n) {
	return set_route(VECTOR + n % 8) && by_event(n);
}

static bool make(void) {
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {ROUTES}};
	struct kvm_irqfd irqfd = {.gsi = GSI};
	int dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (dev < 0 || (vm = ioctl(dev, KVM_CREATE_VM, 0)) < 0 || ioctl(vm, KVM_ENABLE_CAP, &cap) < 0 ||
		(cpu = ioctl(vm, KVM_CREATE_VCPU, 0)) < 0 || !set_route(VECTOR))
		return false;
	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	irqfd.fd = (uint32_t)event;
	return event >= 0 && ioctl(vm, KVM_IRQFD, &irqfd) >= 0;
}

/* An APIC that is on and has nothing waiting. */
static bool clean(void) {
	struct kvm_lapic_state s;
	if (ioctl(cpu, KVM_GET_LAPIC, &s) < 0)
		return false;
	s.regs[SVR + 1] |= 1;
	memset(s.regs + IRR, 0, 8 * 16);
	return ioctl(cpu, KVM_SET_LAPIC, &s) >= 0;
}

static bool arrived(void) {
	struct kvm_lapic_state s;
	/* 32 vectors in each 16 bytes */
	return ioctl(cpu, KVM_GET_LAPIC, &s) >= 0 &&
		   (s.regs[IRR + VECTOR / 32 * 16 + VECTOR % 32 / 8] >> VECTOR % 8 & 1);
}

static int by_size(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		bool (*send)(unsigned n);
		unsigned calls;
	} ways[] = {{"signal-msi", by_signal, CALLS},
				{"irqfd", by_event, CALLS},
				{"route-and-irqfd", by_route, CALLS / 100}};
	int rounds = argc == 3 && !strcmp(argv[1], "--rounds") ? atoi(argv[2]) : 31;
	double *ns = calloc((size_t)(rounds > 0 ? rounds : 1), sizeof(*ns));
	int failed = 0;
	if (!ns || rounds < 1)
		return 2;
	if (!make()) {
		printf("1..0 # SKIP no KVM with split irqchip and irqfd\n");
		return 0;
	}
	for (unsigned w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
		bool ok = true;
		for (int r = 0; ok && r < rounds; r++) {
			ok = clean();
			uint64_t began = now_ns();
			for (unsigned n = 0; ok && n < ways[w].calls; n++)
				ok = ways[w].send(n);
			ns[r] = (double)(now_ns() - began) / ways[w].calls;
			ok = ok && arrived();
		}
		qsort(ns, (size_t)rounds, sizeof(*ns), by_size);
		if (ok)
			printf("ok %u - messages/%s: %.0f ns\n", w + 1, ways[w].name, ns[rounds / 2]);
		else
			printf("not ok %u - messages/%s\n", w + 1, ways[w].name);
		failed += !ok;
	}
	printf("1..%zu\n", sizeof(ways) / sizeof(ways[0]));
	return failed != 0;
}
