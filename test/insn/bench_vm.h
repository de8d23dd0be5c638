/* The smallest VM that executes instructions: one vCPU or some, some RAM, no chips. For the
 * instruction tests, which set its state directly. */
#ifndef TEST_INSN_BENCH_VM_H
#define TEST_INSN_BENCH_VM_H

#include "core/vm/vm.h"
#include "engine/engine.h"

#define BENCH_ALLOCS 8

struct bench_vm {
	struct vm vm;
	struct vm_host host;
	void *allocs[BENCH_ALLOCS]; /* what vm_alloc() gave */
	unsigned nallocs;
	struct vcpu *cpu;
	struct engine engine;
	uint8_t *ram;
	uint64_t ram_size;
	struct mem_region region;
	struct cpuid_policy *cpuid;
	const char *why; /* of the last EXIT_FAILED */
};

/* Makes it with RAM at guest-physical 0. Exits the program on failure. `tier`: as in
 * struct engine_options, or "kvm" for that engine. The CPU is what the engine can show, or one
 * like another VM's. */
void bench_vm_create(struct bench_vm *b, uint64_t ram_size, const char *tier);
void bench_vm_create_like(struct bench_vm *b, uint64_t ram_size, const char *tier,
						  const struct cpuid_policy *like);
/* With several vCPUs, b->vm.vcpus[0..]; b->cpu is the first one. */
void bench_vm_create_cpus(struct bench_vm *b, uint64_t ram_size, const char *tier, unsigned cpus);
/* On KVM with interrupt controllers there: `tier` is "split" or "kernel", and the board's side of
 * them the caller's. */
void bench_vm_create_apics(struct bench_vm *b, uint64_t ram_size, const char *tier, unsigned cpus,
						   const struct vm_board_apics *apics, void *board);
/* Shows the guest AVX-512 even if the host has none, for code that is translated and never run. */
void bench_vm_show_avx512(struct bench_vm *b);
void bench_vm_destroy(struct bench_vm *b);

/* Writes 8 bytes into RAM. */
void bench_vm_put64(struct bench_vm *b, uint64_t at, uint64_t v);
/* Page tables in three pages at `tables` that map the first n pages of 2 MiB to themselves. */
void bench_vm_map_large(struct bench_vm *b, uint64_t tables, unsigned n);
/* Makes the VM lock a real one, for engines with threads of their own, and vm_host.after() work.
 * One VM at a time. */
void bench_vm_lock(struct bench_vm *b);
/* Whether this host's KVM runs instructions at all; if not, says so as TAP wants it. */
bool bench_vm_has_kvm(void);

/* The vCPU in 64-bit kernel mode at rip, with page tables at `tables`, which the caller writes. */
void bench_vm_long_mode(struct bench_vm *b, uint64_t tables, uint64_t rip);
void bench_vm_long_mode_cpu(struct vcpu *v, uint64_t tables, uint64_t rip);

/* Runs from b->cpu->state until the engine gives an exit of the second group. */
enum vm_exit_kind bench_vm_run(struct bench_vm *b);
/* The same for any of them, each by a thread of its own. */
enum vm_exit_kind bench_vm_run_cpu(struct bench_vm *b, struct vcpu *v);

/* One of the engine's counters; 0 if there is none of that name. */
uint64_t bench_vm_stat(struct bench_vm *b, const char *name);

#endif
