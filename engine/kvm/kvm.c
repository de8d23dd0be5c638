/* See kvm.h. Here: a VM and its vCPUs from begin to end. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"

/* Three pages and one page that KVM needs on Intel without "unrestricted guest", in the hole
 * below the BIOS where no board puts anything. */
#define TSS_ADDR 0xfffbd000ul
#define IDENTITY_MAP_ADDR 0xfffbc000ull

int kvm_ioctl(int fd, unsigned long request, void *arg) {
	int r;
	do {
		r = ioctl(fd, request, arg);
	} while (r < 0 && errno == EINTR);
	return r;
}

int kvm_ioctl_val(int fd, unsigned long request, unsigned long arg) {
	return kvm_ioctl(fd, request, (void *)arg);
}

int kvm_has(int fd, int cap) {
	int r = kvm_ioctl_val(fd, KVM_CHECK_EXTENSION, (unsigned long)cap);
	return r > 0 ? r : 0;
}

const char *kvm_device(void) {
	const char *path = getenv("JOIST_KVM");
	return path && path[0] ? path : "/dev/kvm";
}

int kvm_open(struct err *e) {
	const char *path = kvm_device();
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, ERR_NOENT,
					   "there is no %s: the kernel has no KVM, or this is a VM or container "
					   "without it",
					   path);
	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(e, ERR_ACCES,
					   "%s is there, but may not be opened: add yourself to group kvm (usermod "
					   "-aG kvm USER) and log in again",
					   path);
	if (fd < 0)
		return err_set(e, errno,
					   "%s does not open: %s; is the kernel's kvm_intel or kvm_amd loaded, and "
					   "virtualization on in the firmware?",
					   path, strerror(errno));
	int version = kvm_ioctl_val(fd, KVM_GET_API_VERSION, 0);
	if (version == KVM_API_VERSION)
		return fd;
	close(fd);
	if (version < 0)
		return err_set(e, ERR_NOTSUP, "%s is no KVM device: %s", path, strerror(errno));
	return err_set(e, ERR_NOTSUP, "%s speaks version %d of KVM's API, not %d", path, version,
				   KVM_API_VERSION);
}

/* ---- kicks ----------------------------------------------------------------------------- */

static void on_kick(int signo) {
	(void)signo; /* it only had to interrupt KVM_RUN */
}

static void install_handler(void) {
	/* SA_RESTART: no other system call of the thread notices. KVM_RUN is never restarted. */
	struct sigaction a = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
	sigaction(KVM_KICK_SIGNAL, &a, NULL);
}

void kvm_signal_ready(void) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	sigset_t set;
	pthread_once(&once, install_handler);
	sigemptyset(&set);
	sigaddset(&set, KVM_KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* The flag first: a vCPU on its way into KVM_RUN sees it there, one inside gets the signal. */
static void kick(struct vcpu *v) {
	struct kvm_cpu *c = v->engine;
	__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&c->inside, __ATOMIC_SEQ_CST))
		pthread_kill(c->thread, KVM_KICK_SIGNAL);
}

/* ---- the VM ------------------------------------------------------------------------------ */

static int need(struct kvm_engine *e, int cap, const char *what, struct err *err) {
	if (kvm_has(e->fd, cap))
		return 0;
	return err_set(err, ERR_NOTSUP, "the kernel's KVM is too old: it has no %s", what);
}

/* With its preemption timer in use, KVM on Intel answers a write of the TSC deadline itself, before
 * it asks its MSR filter, and drops it if the local APIC is not its own (6.1,
 * handle_fastpath_set_tscdeadline()): the guest's clock stands still. It leaves the timer alone in
 * a VM whose MWAIT does not exit. No guest is told of MWAIT; one that executes it all the same
 * waits in the processor until the next interrupt. */
static void keep_deadlines(struct kvm_engine *e) {
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_DISABLE_EXITS,
								 .args = {KVM_X86_DISABLE_EXITS_MWAIT}};
	if (!(kvm_has(e->fd, KVM_CAP_X86_DISABLE_EXITS) & KVM_X86_DISABLE_EXITS_MWAIT) ||
		kvm_ioctl(e->fd, KVM_ENABLE_CAP, &cap) < 0)
		log_line(LOG_DEBUG,
				 "KVM may keep writes of the TSC deadline to itself: a guest that stands still "
				 "needs --engine kvm,split");
}

static int make_vm(struct kvm_engine *e, struct err *err) {
	int r = kvm_open(err);
	if (r < 0)
		return r;
	e->dev = r;
	e->fd = kvm_ioctl_val(e->dev, KVM_CREATE_VM, 0);
	if (e->fd < 0)
		return err_set(err, errno, "KVM cannot make a VM: %s", strerror(errno));
	if ((r = need(e, KVM_CAP_IMMEDIATE_EXIT, "prompt kicks (IMMEDIATE_EXIT, Linux 4.12)", err)) ||
		(r = need(e, KVM_CAP_X86_MSR_FILTER, "MSR filter (X86_MSR_FILTER, Linux 5.10)", err)) ||
		(r = need(e, KVM_CAP_XSAVE, "XSAVE", err)) ||
		(r = need(e, KVM_CAP_READONLY_MEM, "read-only memory", err)))
		return r;
	int size = kvm_ioctl_val(e->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return err_set(err, ERR_NOTSUP, "KVM's shared page has an impossible size: %d", size);
	e->run_size = (size_t)size;
	uint64_t identity = IDENTITY_MAP_ADDR;
	if (kvm_ioctl(e->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
		kvm_ioctl_val(e->fd, KVM_SET_TSS_ADDR, TSS_ADDR) < 0)
		return err_set(err, errno, "KVM refuses the pages it asks for: %s", strerror(errno));
	if ((e->irqs != KVM_IRQS_OFF && (r = kvm_apics_create(e, err))) || (r = kvm_msr_filter(e, err)))
		return r;
	if (e->irqs == KVM_IRQS_OFF && __builtin_cpu_is("intel"))
		keep_deadlines(e);
	kvm_dirty_create(e);
	r = kvm_update_slots(e);
	return r ? err_set(err, -r, "KVM refuses the guest's memory: %s", strerror(-r)) : 0;
}

static void destroy(void *self) {
	struct kvm_engine *e = self;
	kvm_bells_destroy(e);
	kvm_apics_destroy(e);
	for (unsigned i = 0; i < e->ncpus; i++) {
		struct kvm_cpu *c = e->cpus[i];
		kvm_dirty_remove(c);
		munmap(c->run, e->run_size);
		close(c->fd);
		c->v->engine = NULL;
	}
	if (e->fd >= 0)
		close(e->fd);
	if (e->dev >= 0)
		close(e->dev);
	free(e);
}

static int create(struct vm *vm, const struct engine_options *o, void **self, struct err *err) {
	static const char *const tiers[] = {
		[KVM_IRQS_OFF] = "off", [KVM_IRQS_SPLIT] = "split", [KVM_IRQS_KERNEL] = "kernel"};
	const char *tier = o && o->tier ? o->tier : "split";
	unsigned irqs = 0;
	while (irqs < ARRAY_LEN(tiers) && strcmp(tier, tiers[irqs]) != 0)
		irqs++;
	if (irqs == ARRAY_LEN(tiers))
		return err_set(err, ERR_INVAL,
					   "engine kvm has no tier \"%s\": interrupt controllers can be kernel, "
					   "split or off",
					   tier);
	struct kvm_engine *e = calloc(1, sizeof(*e));
	if (!e)
		return err_set(err, ERR_NOMEM, "no memory for engine kvm");
	e->vm = vm;
	e->irqs = (enum kvm_irqs)irqs;
	e->dev = e->fd = e->bells_epoll = e->bells_wake = -1;
	int r = make_vm(e, err);
	if (r) {
		destroy(e);
		return r;
	}
	*self = e;
	return 0;
}

static int add_vcpu(void *self, struct vcpu *v, struct err *err) {
	struct kvm_engine *e = self;
	struct kvm_cpu *c = vcpu_engine_area(v);
	struct kvm_sregs s;
	_Static_assert(sizeof(*c) <= VCPU_ENGINE_AREA, "the engine's area is too small");
	*c = (struct kvm_cpu){.v = v, .e = e, .push = true, .tpr_moved = true};
	c->fd = kvm_ioctl_val(e->fd, KVM_CREATE_VCPU, v->id);
	if (c->fd < 0)
		return err_set(err, errno, "KVM cannot make vCPU %u: %s", v->id, strerror(errno));
	c->run = mmap(NULL, e->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->run == MAP_FAILED) {
		int code = errno;
		close(c->fd);
		return err_set(err, code, "cannot map vCPU %u's page: %s", v->id, strerror(code));
	}
	e->cpus[e->ncpus++] = c;
	v->engine = c;
	if (kvm_ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
		return err_set(err, errno, "KVM does not tell vCPU %u's registers: %s", v->id,
					   strerror(errno));
	c->apic_base = s.apic_base;
	if (e->ncpus == 1)
		kvm_late_create(e);
	int r;
	if ((r = kvm_dirty_add(c, err)) || (r = kvm_tsc_create(c, err)))
		return r;
	return kvm_set_cpuid(c, err);
}

static void get_state(struct vcpu *v) {
	struct kvm_cpu *c = v->engine;
	/* The controllers first: an INIT or SIPI that waits there changes registers. */
	if (!kvm_chips_out(c) || (c->stale && !kvm_fetch_state(c)))
		log_line(LOG_ERROR, "vCPU %u: %s", v->id, c->why);
}

static bool waits(void *self) {
	const struct kvm_engine *e = self;
	return e->irqs != KVM_IRQS_OFF;
}

static void set_state(struct vcpu *v) {
	struct kvm_cpu *c = v->engine;
	kvm_chips_lost(c->e);
	c->push = true;
	c->stale = false;
	c->unfinished = false;
}

static void mem_changed(void *self) {
	int r = kvm_update_slots(self);
	if (r)
		log_line(LOG_ERROR, "KVM refuses a change of the guest's memory map: %s", strerror(-r));
	kvm_update_bells(self);
	kvm_update_late(self);
}

static void bells_changed(void *self) {
	kvm_update_bells(self);
}

static void stats(void *self, void (*line)(void *out, const char *name, uint64_t val), void *out) {
	const struct kvm_engine *e = self;
	uint64_t entries = 0, windows = 0, injected = 0;
	for (unsigned i = 0; i < e->ncpus; i++) {
		entries += e->cpus[i]->entries;
		windows += e->cpus[i]->windows;
		injected += e->cpus[i]->injected;
	}
	line(out, "kvm_entries", entries);
	line(out, "irq_windows", windows);
	line(out, "irqs_injected", injected);
	line(out, "irq_messages", e->messages);
	line(out, "irq_joined", e->joined);
	line(out, "irq_eventfds", e->events);
	line(out, "irq_signals", e->signals);
	line(out, "irq_routes", e->route_changes);
	line(out, "irq_pins", e->pins);
	line(out, "doorbells", e->rings);
	line(out, "late_writes", e->late_writes);
	line(out, "dirty_rings", e->dirty_rings);
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.hardware_tsc = true,
	.tsc_scaler = kvm_tsc_scaler,
	.probe = kvm_probe,
	.cpuid_host = kvm_cpuid_host,
	.create = create,
	.destroy = destroy,
	.add_vcpu = add_vcpu,
	.run = kvm_run,
	.kick = kick,
	.waits = waits,
	.get_state = get_state,
	.set_state = set_state,
	.mem_changed = mem_changed,
	.bells_changed = bells_changed,
	.stats = stats,
};
