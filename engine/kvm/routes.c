/* Interrupt messages on their way into KVM's local APICs ([KVM api.rst] KVM_SET_GSI_ROUTING,
 * KVM_IRQFD, KVM_SIGNAL_MSI).
 *
 * A device raises an interrupt with the VM lock held, since the lock guards the device. What wakes
 * a vCPU then, which wants this lock before anything else, waits until the lock is given back
 * (vm_host.after()): a message is a bit in `raised` until then, and equal ones are one. The thread
 * that raised it sends it: a write to the eventfd that has KVM's route for this message, or
 * KVM_SIGNAL_MSI.
 *
 * A message gets a wire when it is first sent, the place of another one's that has been quiet for
 * longest when all are taken; nothing in KVM changes then. It gets a route when it has been sent
 * ROUTE_AFTER times: a change of routes waits for all of KVM's readers of the table (SRCU), up to a
 * millisecond, and a guest that moves its interrupts from CPU to CPU makes new messages all the
 * time. That is done without the VM lock, too, by the thread that has sent the message, for all
 * messages that want one. So a masked vector costs nothing, and one that a guest programs and never
 * uses costs nothing either.
 *
 * Only messages that KVM delivers within the write have routes (direct()): for others it may ask
 * one of its threads to, later, which nobody here could wait for but by taking the route away.
 *
 * kvm_settle() makes the messages arrive: before the APICs' state is read, and before a guest that
 * has masked something goes on. Where the host has no after(), all are sent at once. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "engine/kvm/kvm.h"

#define ROUTE_AFTER 16
#define MSI_LEVEL BIT(15)
#define MSI_LOGICAL BIT(2) /* in the address */
#define MSI_HINT BIT(3)
#define MSI_BROADCAST 0xff
#define MODE_FIXED 0
#define MODE_LOWEST 1

_Static_assert(KVM_WIRES <= 64, "a bit each in `raised`");

static unsigned mode(uint32_t data) {
	return (unsigned)bits(data, 10, 8);
}

/* Does KVM deliver it within the write (kvm_arch_set_irq_inatomic() and what it calls)? For one
 * destination by its number it does. */
static bool direct(gpa_t addr, uint32_t data) {
	return !(addr & (MSI_LOGICAL | MSI_HINT)) && bits(addr, 19, 12) != MSI_BROADCAST &&
		   mode(data) == MODE_FIXED && !(data & MSI_LEVEL);
}

static void count(uint64_t *counter) {
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* ---- KVM's table of routes --------------------------------------------------------------- */

static struct kvm_irq_routing_entry msi(unsigned gsi, gpa_t addr, uint32_t data) {
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data},
	};
}

static unsigned gsi_of(const struct kvm_engine *e, const struct kvm_wire *w) {
	unsigned first = e->irqs == KVM_IRQS_KERNEL ? KVM_CHIP_GSIS : KVM_LEVELS;
	return first + (unsigned)(w - e->wires);
}

/* All of it: there is no smaller change. routes_lock held, or nothing else runs. */
int kvm_set_routes(struct kvm_engine *e) {
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entries[KVM_CHIP_GSIS + KVM_WIRES];
	} k = {0};
	if (e->irqs == KVM_IRQS_KERNEL)
		k.head.nr = kvm_chip_routes(k.entries);
	for (unsigned i = 0; e->irqs == KVM_IRQS_SPLIT && i < KVM_LEVELS; i++)
		k.entries[k.head.nr++] = msi(i, e->levels[i].addr, e->levels[i].data);
	for (unsigned i = 0; i < KVM_WIRES; i++) {
		const struct kvm_wire *w = &e->wires[i];
		if (w->wanted)
			k.entries[k.head.nr++] = msi(gsi_of(e, w), w->addr, w->data);
	}
	e->route_changes++;
	return kvm_ioctl(e->fd, KVM_SET_GSI_ROUTING, &k);
}

/* Makes KVM know this level-triggered message: of an EOI it tells only then. VM lock held. */
static void know_level(struct kvm_engine *e, gpa_t addr, uint32_t data) {
	for (unsigned i = 0; i < KVM_LEVELS; i++)
		if (e->levels[i].data == data && e->levels[i].addr == addr)
			return;
	struct kvm_level *added = &e->levels[e->next_level];
	pthread_mutex_lock(&e->routes_lock);
	*added = (struct kvm_level){addr, data};
	bool ok = kvm_set_routes(e) >= 0;
	if (!ok) { /* the next message tries again */
		log_line(LOG_ERROR, "KVM refuses an interrupt route: %s", strerror(errno));
		*added = (struct kvm_level){0};
	}
	pthread_mutex_unlock(&e->routes_lock);
	e->next_level = (e->next_level + ok) % KVM_LEVELS;
}

/* A route for each wire that wants one: the table in one go, then eventfds for those without. What
 * KVM refuses stays with KVM_SIGNAL_MSI. routes_lock held. */
static void route(struct kvm_engine *e) {
	if (kvm_set_routes(e) < 0) {
		log_line(LOG_DEBUG, "no routes for interrupts (%s): they go without", strerror(errno));
		__atomic_store_n(&e->no_routes, true, __ATOMIC_RELAXED);
		return;
	}
	for (unsigned i = 0; i < KVM_WIRES; i++) {
		struct kvm_wire *w = &e->wires[i];
		if (!w->wanted || w->routed)
			continue;
		if (!w->bound) {
			struct kvm_irqfd k = {.gsi = gsi_of(e, w)};
			w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
			k.fd = (uint32_t)w->fd;
			if (w->fd < 0 || kvm_ioctl(e->fd, KVM_IRQFD, &k) < 0) {
				log_line(LOG_DEBUG, "no irqfd (%s): interrupts go without", strerror(errno));
				if (w->fd >= 0)
					close(w->fd);
				__atomic_store_n(&e->no_routes, true, __ATOMIC_RELAXED);
				return;
			}
			w->bound = true;
		}
		__atomic_store_n(&w->routed, true, __ATOMIC_RELEASE);
	}
}

/* ---- sending ----------------------------------------------------------------------------- */

static void signal_msi(struct kvm_engine *e, gpa_t addr, uint32_t data) {
	struct kvm_msi m = {
		.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};
	count(&e->signals);
	/* 0: nobody took it, e.g. an APIC that is off. That is the guest's affair. */
	if (kvm_ioctl(e->fd, KVM_SIGNAL_MSI, &m) < 0)
		log_line(LOG_DEBUG, "KVM refuses an interrupt message: %s", strerror(errno));
}

/* true: it would be worth a route. */
static bool send(struct kvm_engine *e, struct kvm_wire *w) {
	uint64_t one = 1;
	/* KVM takes the count out of it at once, so it is never full. */
	if (__atomic_load_n(&w->routed, __ATOMIC_ACQUIRE) &&
		write(w->fd, &one, sizeof(one)) == sizeof(one)) {
		count(&e->events);
		return false;
	}
	signal_msi(e, w->addr, w->data);
	return __atomic_add_fetch(&w->sent, 1, __ATOMIC_RELAXED) >= ROUTE_AFTER &&
		   direct(w->addr, w->data);
}

/* The wires' messages do not change meanwhile, see take(). */
static void send_raised(void *opaque) {
	struct kvm_engine *e = opaque;
	uint64_t raised = __atomic_exchange_n(&e->raised, 0, __ATOMIC_SEQ_CST), worth = 0;
	for (uint64_t left = raised; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);
		worth |= (uint64_t)send(e, &e->wires[i]) << i;
	}
	/* Somebody else changes them: the next one will do. */
	if (!worth || __atomic_load_n(&e->no_routes, __ATOMIC_RELAXED) ||
		pthread_mutex_trylock(&e->routes_lock))
		return;
	for (unsigned i = 0; i < KVM_WIRES; i++)
		e->wires[i].wanted |= worth >> i & 1;
	route(e);
	pthread_mutex_unlock(&e->routes_lock);
}

void kvm_settle(struct kvm_engine *e) {
	send_raised(e);
	while (__atomic_load_n(&e->sender.running, __ATOMIC_SEQ_CST))
		sched_yield();
}

/* ---- raising: VM lock held --------------------------------------------------------------- */

/* A wire for a message that has none. NULL: not now, somebody may be looking at them. */
static struct kvm_wire *take(struct kvm_engine *e, gpa_t addr, uint32_t data) {
	struct kvm_wire *best = NULL;
	if (__atomic_load_n(&e->sender.running, __ATOMIC_SEQ_CST))
		return NULL;
	uint64_t raised = __atomic_load_n(&e->raised, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < KVM_WIRES; i++) {
		struct kvm_wire *w = &e->wires[i];
		if (!(raised >> i & 1) && (!best || w->last < best->last))
			best = w;
	}
	if (best) {
		best->addr = addr;
		best->data = data;
		best->sent = 0;
		best->wanted = best->routed = false;
	}
	return best;
}

static struct kvm_wire *find(struct kvm_engine *e, gpa_t addr, uint32_t data) {
	for (unsigned i = 0; i < KVM_WIRES; i++)
		if (e->wires[i].last && e->wires[i].data == data && e->wires[i].addr == addr)
			return &e->wires[i];
	return take(e, addr, data);
}

void kvm_raise(struct kvm_engine *e, gpa_t addr, uint32_t data) {
	const struct vm_host *host = e->vm->host;
	e->messages++;
	if ((data & MSI_LEVEL) && e->irqs == KVM_IRQS_SPLIT)
		know_level(e, addr, data);
	/* NMI, INIT and the like are counted by those who send them: none is joined. */
	struct kvm_wire *w = mode(data) <= MODE_LOWEST ? find(e, addr, data) : NULL;
	if (!w) {
		signal_msi(e, addr, data);
		return;
	}
	w->last = e->messages;
	uint64_t bit = 1ull << (w - e->wires);
	if (__atomic_fetch_or(&e->raised, bit, __ATOMIC_SEQ_CST) & bit)
		e->joined++;
	else if (host->after)
		host->after(host->opaque, &e->sender);
	else
		send_raised(e);
}

void kvm_routes_create(struct kvm_engine *e) {
	pthread_mutex_init(&e->routes_lock, NULL);
	e->sender = (struct vm_work){.run = send_raised, .opaque = e};
	e->no_routes = !kvm_part(KVM_PART_IRQFD) || !kvm_has(e->fd, KVM_CAP_IRQFD) ||
				   kvm_has(e->fd, KVM_CAP_IRQ_ROUTING) < KVM_CHIP_GSIS + KVM_WIRES;
}

void kvm_routes_destroy(struct kvm_engine *e) {
	if (!e->sender.run) /* the VM could not be made */
		return;
	for (unsigned i = 0; i < KVM_WIRES; i++)
		if (e->wires[i].bound)
			close(e->wires[i].fd);
	pthread_mutex_destroy(&e->routes_lock);
}
