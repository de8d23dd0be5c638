/* Host faults that emitted code is allowed to raise.
 *
 * There is one: a guest CALL is a host call on the vCPU's shadow stack, and a guest that calls
 * deeper than it is long, or never returns, runs into the guard page below it. Then the oldest
 * return addresses are forgotten: the stack begins anew at its top, and returns that find no pair
 * look their target up. Everything else is our own bug and ends the process, as without a handler.
 * The handler runs on its own stack and touches only the interrupted thread's vCPU. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "core/base/check.h"
#include "engine/soft/jit.h"

#define SHADOW_SIZE (64u << 10)
#define SIGNAL_STACK (64u << 10)
#define GUARD PAGE_SIZE

/* One mapping: the signal stack, a guard page, the shadow stack. */
#define SHADOW_MAP (SIGNAL_STACK + GUARD + SHADOW_SIZE)

static __thread struct soft_vcpu *running;
static struct sigaction before;

int jit_shadow_create(struct soft_vcpu *c) {
	uint8_t *p = mmap(NULL, SHADOW_MAP, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ERR_NOMEM;
	if (mprotect(p + SIGNAL_STACK, GUARD, PROT_NONE) != 0) {
		munmap(p, SHADOW_MAP);
		return -ERR_NOMEM;
	}
	c->jit.shadow = p;
	c->jit.shadow_top = (uintptr_t)p + SHADOW_MAP - 64;
	return 0;
}

void jit_shadow_destroy(struct soft_vcpu *c) {
	if (running == c) {
		stack_t none = {.ss_flags = SS_DISABLE};
		sigaltstack(&none, NULL);
		running = NULL;
	}
	if (c->jit.shadow)
		munmap(c->jit.shadow, SHADOW_MAP);
	c->jit.shadow = NULL;
}

static void on_fault(int sig, siginfo_t *info, void *context) {
	ucontext_t *u = context;
	struct soft_vcpu *c = running;
	if (c && c->jit.shadow) {
		const struct jit *j = c->soft->jit;
		uint64_t rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
		uint64_t code = (uintptr_t)j->rw + (uint64_t)j->exec;
		uint64_t guard = (uintptr_t)c->jit.shadow + SIGNAL_STACK, at = (uintptr_t)info->si_addr;
		if (rip - code < j->size && at - guard < GUARD) {
			u->uc_mcontext.gregs[REG_RSP] = (greg_t)c->jit.shadow_top;
			return;
		}
	}
	/* Not ours: the instruction faults again, under whoever was there before. */
	sigaction(sig, &before, NULL);
}

static void install(void) {
	struct sigaction a;
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_fault;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigemptyset(&a.sa_mask);
	sigaction(SIGSEGV, &a, &before);
}

void jit_fault_thread(struct soft_vcpu *c) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, install);
	if (running == c)
		return;
	stack_t s = {.ss_sp = c->jit.shadow, .ss_size = SIGNAL_STACK};
	check(sigaltstack(&s, NULL) == 0);
	running = c;
}
