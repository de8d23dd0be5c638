/* See bench_vm.h. */
#include "test/insn/bench_vm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "core/base/check.h"
#include "core/x86/cpuid.h"
#include "core/x86/regs.h"

static void nothing(void *opaque) {
}

static struct engine *kicked; /* one VM at a time runs in these tests */

static void kick(void *opaque, unsigned vcpu) {
	if (kicked)
		engine_kick(kicked, kicked->vm->vcpus[vcpu]);
}

static void no_power(void *opaque, enum vm_power what) {
}

static void *alloc(void *opaque, size_t size) {
	struct bench_vm *b = opaque;
	check(b->nallocs < BENCH_ALLOCS);
	return b->allocs[b->nallocs++] = calloc(1, size);
}

static uint64_t zero(void *opaque) {
	return 0;
}

static uint64_t tsc(void *opaque) {
	return __rdtsc();
}

static bool no_rdmsr(void *board, struct vcpu *v, uint32_t index, uint64_t *val) {
	return false;
}

static bool no_wrmsr(void *board, struct vcpu *v, uint32_t index, uint64_t val) {
	return false;
}

static int no_intack(void *board, struct vcpu *v) {
	return -1;
}

static const struct vm_host host = {
	.lock = nothing,
	.unlock = nothing,
	.kick = kick,
	.power = no_power,
	.alloc = alloc,
};

static int make_cpu(struct bench_vm *b, bool kvm, const struct cpuid_policy *like, struct err *e) {
	struct cpuid_host h;
	b->cpuid = calloc(1, sizeof(*b->cpuid));
	if (like) {
		*b->cpuid = *like;
		return 0;
	}
	int r = engine_cpuid_host(kvm ? &engine_kvm : &engine_soft, &h, e);
	return r ? r : cpuid_init_from(b->cpuid, &h, "host", 1, 1000000, e);
}

/* Up to the engine. */
static void prepare(struct bench_vm *b, uint64_t ram_size, bool kvm, unsigned cpus,
					const struct cpuid_policy *like) {
	static const struct vm_clock clock = {zero, tsc, zero, .tsc_khz = 1000000};
	struct err e;
	memset(b, 0, sizeof(*b));
	b->ram_size = ram_size;
	b->ram = mmap(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->ram == MAP_FAILED)
		abort();
	b->host = host;
	b->host.opaque = b;
	vm_init(&b->vm, &b->host, &clock);
	if (make_cpu(b, kvm, like, &e)) {
		fprintf(stderr, "%s\n", e.text);
		exit(1);
	}
	b->vm.cpuid = b->cpuid;
	b->vm.rdmsr = no_rdmsr;
	b->vm.wrmsr = no_wrmsr;
	b->vm.intack = no_intack;
	b->region =
		(struct mem_region){.name = "ram", .size = ram_size, .kind = MEM_RAM, .host = b->ram};
	mem_add(&b->vm.mem, &b->region);
	for (unsigned i = 0; i < cpus; i++)
		vcpu_reset(vcpu_create(&b->vm, i), false);
	b->cpu = b->vm.vcpus[0];
}

static void add_engine(struct bench_vm *b, bool kvm, const char *tier) {
	struct engine_options o = {.tier = tier};
	struct err e;
	if (engine_create(&b->engine, kvm ? &engine_kvm : &engine_soft, &b->vm, &o, &e)) {
		fprintf(stderr, "%s\n", e.text);
		exit(1);
	}
}

static void create(struct bench_vm *b, uint64_t ram_size, const char *tier, unsigned cpus,
				   const struct cpuid_policy *like) {
	bool kvm = tier && !strncmp(tier, "kvm", 3);
	prepare(b, ram_size, kvm, cpus, like);
	add_engine(b, kvm, kvm ? "off" : tier);
}

void bench_vm_create_apics(struct bench_vm *b, uint64_t ram_size, const char *tier, unsigned cpus,
						   const struct vm_board_apics *apics, void *board) {
	prepare(b, ram_size, true, cpus, NULL);
	b->vm.board_apics = apics;
	b->vm.board = board;
	add_engine(b, true, tier);
}

void bench_vm_create(struct bench_vm *b, uint64_t ram_size, const char *tier) {
	create(b, ram_size, tier, 1, NULL);
}

void bench_vm_create_like(struct bench_vm *b, uint64_t ram_size, const char *tier,
						  const struct cpuid_policy *like) {
	create(b, ram_size, tier, 1, like);
}

void bench_vm_create_cpus(struct bench_vm *b, uint64_t ram_size, const char *tier, unsigned cpus) {
	create(b, ram_size, tier, cpus, NULL);
}

void bench_vm_show_avx512(struct bench_vm *b) {
	static const uint8_t some[] = {
		X86_FEAT_AVX512F,		  X86_FEAT_AVX512BW,		  X86_FEAT_AVX512CD,
		X86_FEAT_AVX512DQ,		  X86_FEAT_AVX512VL,		  X86_FEAT_AVX512IFMA,
		X86_FEAT_AVX512VBMI,	  X86_FEAT_AVX512VBMI2,		  X86_FEAT_AVX512VNNI,
		X86_FEAT_AVX512FP16,	  X86_FEAT_AVX512BITALG,	  X86_FEAT_AVX512BF16,
		X86_FEAT_AVX512VPOPCNTDQ, X86_FEAT_AVX512VP2INTERSECT};
	for (unsigned n = 0; n < sizeof(some) / sizeof(some[0]); n++)
		b->cpuid->features[some[n] / 64] |= 1ull << some[n] % 64;
}

void bench_vm_destroy(struct bench_vm *b) {
	kicked = NULL; /* a test's alarm may still come */
	engine_destroy(&b->engine);
	munmap(b->ram, b->ram_size);
	for (unsigned n = 0; n < b->nallocs; n++)
		free(b->allocs[n]);
	free(b->cpuid);
}

void bench_vm_put64(struct bench_vm *b, uint64_t at, uint64_t v) {
	memcpy(b->ram + at, &v, 8);
}

void bench_vm_map_large(struct bench_vm *b, uint64_t tables, unsigned n) {
	bench_vm_put64(b, tables, (tables + 0x1000) | 3);
	bench_vm_put64(b, tables + 0x1000, (tables + 0x2000) | 3);
	for (unsigned k = 0; k < n; k++)
		bench_vm_put64(b, tables + 0x2000 + 8 * k, k * (2u << 20) | 0x83);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct vm_work *waiting; /* for the lock to be given back */

static void take(void *opaque) {
	pthread_mutex_lock(&lock);
}

static void give(void *opaque) {
	struct vm_work *w = waiting;
	waiting = NULL;
	if (w)
		__atomic_fetch_add(&w->running, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&lock);
	if (w) {
		w->run(w->opaque);
		__atomic_fetch_sub(&w->running, 1, __ATOMIC_SEQ_CST);
	}
}

static void after(void *opaque, struct vm_work *w) {
	waiting = w;
}

void bench_vm_lock(struct bench_vm *b) {
	b->host.lock = take;
	b->host.unlock = give;
	b->host.after = after;
}

bool bench_vm_has_kvm(void) {
	struct engine_probe p = {0};
	engine_kvm.probe(&p, true);
	if (p.nfindings < 3)
		printf("1..0 # SKIP %s\n", p.why);
	return p.nfindings >= 3;
}

void bench_vm_long_mode(struct bench_vm *b, uint64_t tables, uint64_t rip) {
	bench_vm_long_mode_cpu(b->cpu, tables, rip);
}

void bench_vm_long_mode_cpu(struct vcpu *v, uint64_t tables, uint64_t rip) {
	struct x86_state *s = &v->state;
	s->activity = CPU_RUNNING;
	s->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE;
	s->cr4 = CR4_PAE | CR4_OSFXSR;
	s->cr3 = tables;
	s->efer = EFER_LME | EFER_LMA;
	s->seg[SEG_CS] = (struct x86_segment){8, 0xa09b, ~0u, 0};
	s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_ES] = (struct x86_segment){16, 0xc093, ~0u, 0};
	s->rip = rip;
	s->rflags = RFLAGS_FIXED;
}

enum vm_exit_kind bench_vm_run(struct bench_vm *b) {
	return bench_vm_run_cpu(b, b->cpu);
}

enum vm_exit_kind bench_vm_run_cpu(struct bench_vm *b, struct vcpu *v) {
	struct vm_exit e;
	__atomic_store_n(&kicked, &b->engine, __ATOMIC_RELEASE);
	engine_set_state(&b->engine, v);
	engine_run(&b->engine, v, &e);
	engine_get_state(&b->engine, v);
	if (e.kind == EXIT_FAILED)
		b->why = e.failed.why;
	return e.kind;
}

struct wanted {
	const char *name;
	uint64_t val;
};

static void pick(void *out, const char *name, uint64_t val) {
	struct wanted *w = out;
	if (!strcmp(name, w->name))
		w->val = val;
}

uint64_t bench_vm_stat(struct bench_vm *b, const char *name) {
	struct wanted w = {name, 0};
	b->engine.ops->stats(b->engine.self, pick, &w);
	return w.val;
}
