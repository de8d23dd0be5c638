/* Can this host's KVM run stock kernels? Found out by running what they need in a throw-away
 * VM, since there are KVMs whose device opens and whose small guests run, but which emulate
 * kernel-mode code and fail at the first instruction that they do not know.
 *
 * Takes some milliseconds; probe_cache.c remembers the answer until the host is booted anew. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "core/base/le.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/probe.h"

/* probe_guest.S */
extern const uint8_t kvm_probe_code[], kvm_probe_code_end[];
extern const uint32_t kvm_probe_steps[], kvm_probe_handlers[5];

/* The throw-away VM's memory. */
#define MEMORY (256u << 10)
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define GDT 0x4000
#define IDT 0x5000
#define STACK 0x8000
#define CODE 0x10000
#define VECTORS 256
#define IRQ_VECTOR 0x30

#define PORT_PASS 0x10
#define PORT_FAIL 0x11
#define PORT_FAULT 0x12

/* Of the processor's time, so that a busy host does no harm: far beyond anything but a hang, even
 * where the processor is emulated. */
#define STEP_NS 5000000000ll

/* What KVM cannot do fails each time. Under QEMU's TCG a step can fail by chance: XSETBV does not
 * exit there, and if an interrupt does before XSAVE, XCR0 is back at what KVM knows. */
#define TRIES 3

static const struct step {
	const char *what;
	bool xsave; /* only where the CPU has it */
} steps[] = {
	{"real mode", false},
	{"64-bit code with paging", false},
	{"rdmsr, wrmsr, cpuid", false},
	{"control registers, invlpg", false},
	{"string instructions", false},
	{"rdtsc, fences, clflush", false},
	{"lock cmpxchg16b", false},
	{"xsave, xrstor", true},
	{"int3 and ud2 in kernel mode", false},
	{"page fault in kernel mode", false},
	{"iretq, syscall, swapgs", false},
	{"interrupt that ends hlt", false},
};
_Static_assert(ARRAY_LEN(steps) + 4 <= ARRAY_LEN(((struct engine_probe *)0)->findings),
			   "a finding a step");

struct trial {
	int dev, vm, vcpu;
	size_t run_size;
	struct kvm_run *run;
	uint8_t *ram;
	struct kvm_sregs first; /* as KVM made the vCPU */
	bool xsave;
	timer_t timer;
	bool has_timer;
};

static struct engine_finding *find(struct engine_probe *p, bool ok, const char *what) {
	struct engine_finding *f = &p->findings[p->nfindings++];
	f->ok = ok;
	fmt_text(f->what, sizeof(f->what), "%s", what);
	f->found[0] = 0;
	return f;
}

/* ---- making the VM ------------------------------------------------------------------------ */

static void make_tables(uint8_t *ram) {
	const uint64_t table = PTE_P | PTE_W | PTE_U;
	le64_put(ram + PML4, PDPT | table);
	le64_put(ram + PDPT, PD | table);
	le64_put(ram + PD, table | PTE_PS); /* the first 2 MiB as they are */
	le64_put(ram + GDT + 0x08, 0x00af9b000000ffff);
	le64_put(ram + GDT + 0x10, 0x00cf93000000ffff);
	le64_put(ram + GDT + 0x20, 0x00cff3000000ffff);
	le64_put(ram + GDT + 0x28, 0x00affb000000ffff);
	for (unsigned i = 0; i < VECTORS; i++) {
		unsigned n = i == VEC_BP ? 0 : i == VEC_UD ? 1 : i == VEC_PF ? 2 : i == IRQ_VECTOR ? 3 : 4;
		uint64_t at = CODE + kvm_probe_handlers[n];
		le64_put(ram + IDT + i * 16, (at & 0xffff) | 0x08 << 16 | 0x8e00ull << 32 | at >> 16 << 48);
	}
	memcpy(ram + CODE, kvm_probe_code, (size_t)(kvm_probe_code_end - kvm_probe_code));
}

static bool set_cpuid(struct trial *t) {
	enum { ENTRIES = 256 };
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[ENTRIES];
	} *list = calloc(1, sizeof(*list));
	bool ok = false;
	if (list) {
		list->head.nent = ENTRIES;
		ok = kvm_ioctl(t->dev, KVM_GET_SUPPORTED_CPUID, list) >= 0 &&
			 kvm_ioctl(t->vcpu, KVM_SET_CPUID2, list) >= 0;
		for (unsigned i = 0; ok && i < list->head.nent; i++)
			if (list->entries[i].function == 1)
				t->xsave = list->entries[i].ecx & BIT(26);
	}
	free(list);
	return ok;
}

/* Signals this thread again and again, so that no KVM_RUN lasts for ever. */
static bool watch(struct trial *t) {
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
	struct itimerspec when = {{0, 100000000}, {0, 100000000}};
	kvm_signal_ready();
	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	t->has_timer = timer_create(CLOCK_MONOTONIC, &ev, &t->timer) == 0;
	return t->has_timer && timer_settime(t->timer, 0, &when, NULL) == 0;
}

/* NULL, or what did not work, with errno. */
static const char *make(struct trial *t) {
	t->vm = kvm_ioctl_val(t->dev, KVM_CREATE_VM, 0);
	if (t->vm < 0)
		return "making a VM";
	if (!kvm_has(t->vm, KVM_CAP_IMMEDIATE_EXIT) || !kvm_has(t->vm, KVM_CAP_X86_MSR_FILTER) ||
		!kvm_has(t->vm, KVM_CAP_XSAVE) || !kvm_has(t->vm, KVM_CAP_READONLY_MEM)) {
		errno = ENOSYS;
		return "asking for what KVM has since Linux 5.10";
	}
	t->ram = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t->ram == MAP_FAILED)
		return "memory for it";
	make_tables(t->ram);
	struct kvm_userspace_memory_region r = {.memory_size = MEMORY,
											.userspace_addr = (uintptr_t)t->ram};
	uint64_t identity = 0xfffbc000;
	if (kvm_ioctl(t->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
		kvm_ioctl_val(t->vm, KVM_SET_TSS_ADDR, 0xfffbd000) < 0 ||
		kvm_ioctl(t->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0)
		return "giving it memory";
	t->vcpu = kvm_ioctl_val(t->vm, KVM_CREATE_VCPU, 0);
	if (t->vcpu < 0)
		return "making a vCPU";
	int size = kvm_ioctl_val(t->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size >= 0 && size < (int)sizeof(*t->run))
		errno = EPROTO;
	if (size < (int)sizeof(*t->run))
		return "asking for the size of a vCPU's page";
	t->run_size = (size_t)size;
	t->run = mmap(NULL, t->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->vcpu, 0);
	if (t->run == MAP_FAILED || !set_cpuid(t) || kvm_ioctl(t->vcpu, KVM_GET_SREGS, &t->first) < 0)
		return "setting up a vCPU";
	return watch(t) ? NULL : "setting a timer";
}

static void unmake(struct trial *t) {
	if (t->has_timer)
		timer_delete(t->timer);
	if (t->run && t->run != MAP_FAILED)
		munmap(t->run, t->run_size);
	if (t->vcpu >= 0)
		close(t->vcpu);
	if (t->vm >= 0)
		close(t->vm);
	if (t->ram && t->ram != MAP_FAILED)
		munmap(t->ram, MEMORY);
	close(t->dev);
}

/* ---- one step ------------------------------------------------------------------------------- */

static void long_mode(struct kvm_sregs *s) {
	struct kvm_segment data = {
		.selector = 0x10, .limit = 0xffffffff, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	s->cs = (struct kvm_segment){
		.selector = 8, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){.selector = 0x30, .limit = 0x67, .type = 11, .present = 1};
	s->gdt = (struct kvm_dtable){.base = GDT, .limit = 0x2f};
	s->idt = (struct kvm_dtable){.base = IDT, .limit = VECTORS * 16 - 1};
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE;
}

static bool set_registers(struct trial *t, unsigned n) {
	struct kvm_sregs s = t->first;
	struct kvm_regs r = {.rip = CODE + kvm_probe_steps[n], .rsp = STACK, .rflags = RFLAGS_FIXED};
	struct kvm_vcpu_events none = {.flags = KVM_VCPUEVENT_VALID_NMI_PENDING |
											KVM_VCPUEVENT_VALID_SHADOW};
	if (n == 0) {
		s.cs.base = CODE;
		s.cs.selector = CODE >> 4;
		r.rip -= CODE;
	} else {
		long_mode(&s);
		if (t->xsave)
			s.cr4 |= CR4_OSXSAVE;
	}
	return kvm_ioctl(t->vcpu, KVM_SET_SREGS, &s) >= 0 &&
		   kvm_ioctl(t->vcpu, KVM_SET_REGS, &r) >= 0 &&
		   kvm_ioctl(t->vcpu, KVM_SET_VCPU_EVENTS, &none) >= 0;
}

static int64_t now_ns(clockid_t id) {
	struct timespec ts;
	clock_gettime(id, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Runs until the step has ended. true: well; else `found` says how. */
static bool run_step(struct trial *t, unsigned n, char *found, size_t size) {
	int64_t until = now_ns(CLOCK_THREAD_CPUTIME_ID) + STEP_NS;
	if (!set_registers(t, n)) {
		fmt_text(found, size, "KVM refuses its registers: %s", strerror(errno));
		return false;
	}
	for (;;) {
		int r = ioctl(t->vcpu, KVM_RUN, 0);
		bool again = r < 0 && (errno == EINTR || errno == EAGAIN);
		if (r < 0 && !again) {
			fmt_text(found, size, "KVM_RUN fails: %s", strerror(errno));
			return false;
		}
		if (!again && t->run->exit_reason != KVM_EXIT_HLT)
			break;
		if (now_ns(CLOCK_THREAD_CPUTIME_ID) > until) {
			fmt_text(found, size, "it does not come to an end");
			return false;
		}
		if (again)
			continue;
		struct kvm_interrupt irq = {.irq = IRQ_VECTOR};
		if (kvm_ioctl(t->vcpu, KVM_INTERRUPT, &irq) < 0) {
			fmt_text(found, size, "KVM takes no interrupt: %s", strerror(errno));
			return false;
		}
	}
	const struct kvm_run *run = t->run;
	if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT_PASS)
		return true;
	if (run->exit_reason == KVM_EXIT_IO)
		fmt_text(found, size, "%s",
				 run->io.port == PORT_FAULT ? "an unexpected exception" : "a wrong result");
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		fmt_text(found, size, "KVM's internal error %u%s", run->internal.suberror,
				 run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
					 ? ": it has to emulate it and cannot"
					 : "");
	else if (run->exit_reason == KVM_EXIT_SHUTDOWN)
		fmt_text(found, size, "triple fault");
	else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		fmt_text(found, size, "the processor refuses its state (hardware's reason %llx)",
				 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
	else
		fmt_text(found, size, "KVM's exit %u", run->exit_reason);
	return false;
}

/* What the engine uses where it is there, and does without where it is not. */
static void find_parts(const struct trial *t, struct engine_probe *p) {
	static const struct {
		int cap;
		const char *name;
	} parts[] = {
		{KVM_CAP_SPLIT_IRQCHIP, "local APICs"}, {KVM_CAP_IRQCHIP, "8259s and I/O APIC"},
		{KVM_CAP_IOEVENTFD, "doorbells"},		{KVM_CAP_DIRTY_LOG_RING, "dirty rings"},
		{KVM_CAP_TSC_CONTROL, "TSC scaling"},
	};
	struct engine_finding *f = find(p, true, "parts that it may have");
	for (unsigned i = 0, at = 0; i < ARRAY_LEN(parts); i++) {
		bool has = kvm_has(t->vm, parts[i].cap) || (parts[i].cap == KVM_CAP_DIRTY_LOG_RING &&
													kvm_has(t->vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL));
		at += (unsigned)fmt_text(f->found + at, sizeof(f->found) - at, "%s%s%s", i ? ", " : "",
								 has ? "" : "no ", parts[i].name);
	}
}

static void run_steps(struct trial *t, struct engine_probe *p) {
	unsigned bad = 0;
	const char *first = NULL;
	for (unsigned n = 0; n < ARRAY_LEN(steps); n++) {
		struct engine_finding *f = find(p, false, steps[n].what);
		if (steps[n].xsave && !t->xsave) {
			f->ok = true;
			fmt_text(f->found, sizeof(f->found), "not tried: KVM shows no XSAVE");
			continue;
		}
		for (unsigned k = 0; k < TRIES && !f->ok; k++)
			f->ok = run_step(t, n, f->found, sizeof(f->found));
		if (f->ok)
			fmt_text(f->found, sizeof(f->found), "works");
		else if (!bad++)
			first = steps[n].what;
	}
	p->usable = !bad;
	if (bad)
		fmt_text(p->why, sizeof(p->why),
				 "KVM is there, but cannot run stock kernels: %u of %u things that they need fail, "
				 "the first is %s",
				 bad, (unsigned)ARRAY_LEN(steps), first);
}

bool kvm_probe_now(struct engine_probe *p) {
	struct trial t = {.vm = -1, .vcpu = -1};
	struct err e = {{0}};
	int64_t began = now_ns(CLOCK_MONOTONIC);
	t.dev = kvm_open(&e);
	struct engine_finding *f = find(p, t.dev >= 0, "open the device");
	fmt_text(f->found, sizeof(f->found), "%s", t.dev >= 0 ? kvm_device() : e.text);
	if (t.dev < 0) {
		fmt_text(p->why, sizeof(p->why), "%s", e.text);
		return false;
	}
	const char *failed = make(&t);
	f = find(p, !failed, "make a VM");
	if (failed) {
		fmt_text(f->found, sizeof(f->found), "%s fails: %s", failed, strerror(errno));
		fmt_text(p->why, sizeof(p->why), "KVM is there, but %s", f->found);
	} else {
		fmt_text(f->found, sizeof(f->found), "works");
		find_parts(&t, p);
		run_steps(&t, p);
		fmt_text(f->found, sizeof(f->found), "works; the whole probe took %llu us",
				 (unsigned long long)(now_ns(CLOCK_MONOTONIC) - began) / 1000);
	}
	unmake(&t);
	return !failed;
}

void kvm_probe(struct engine_probe *p, bool fresh) {
	p->usable = false;
	p->nfindings = 0;
	p->why[0] = 0;
	if (!fresh && kvm_probe_recall(p))
		return;
	if (kvm_probe_now(p))
		kvm_probe_remember(p);
}
