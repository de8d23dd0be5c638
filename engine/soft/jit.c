/* The translator's run loop, its code cache, and what emitted code calls. Its blocks are in
 * blocks.c. */
#include "engine/soft/jit.h"

#include <asm/prctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/fmt.h"
#include "engine/soft/fast.h"

#define ARENA_SMALL (2u << 20)

/* ---- the cache -------------------------------------------------------------------------- */

void *jit_arena(struct jit *j, size_t size) {
	size = align_up(size, 16);
	if (j->arena_at + size > j->arena_end)
		return NULL;
	void *p = j->arena_at;
	j->arena_at += size;
	return p;
}

void jit_emitted(struct jit *j, const struct jit_block *b) {
	if (j->verify)
		jit_verify_or_stop(j, b);
	j->bytes += b->hot_len + b->cold_len;
	j->hot = (uint8_t *)align_up((uintptr_t)j->hot + b->hot_len, 16);
	j->cold += b->cold_len;
	j->blocks++;
}

void jit_cache_begin(struct jit *j) {
	j->hot = j->hot_start;
	j->cold = j->cold_start;
	j->arena_at = j->arena;
	if (j->blocks)
		memset(j->twins, 0, JIT_TWINS * sizeof(*j->twins));
}

static uint64_t ram_pages(const struct vm *vm) {
	gpa_t end = 0;
	for (unsigned n = 0; n < vm->mem.nflat; n++) {
		const struct mem_range *r = &vm->mem.flat[n];
		if (r->region && r->region->kind == MEM_RAM)
			end = MAX(end, r->end);
	}
	return end >> 12;
}

/* Of `pages`, `lines`, `code` and `idle` together. */
static size_t pages_size(const struct jit *j) {
	return align_up(j->npages * (sizeof(*j->pages) + sizeof(*j->lines) + 2) + 1, PAGE_SIZE);
}

static void clear(void *table, size_t size, bool give_back) {
	if (give_back)
		madvise(table, size, MADV_DONTNEED);
	else
		memset(table, 0, size);
}

void jit_cache_forget(struct jit *j, bool give_back) {
	/* Large, and used in few places. */
	for (uint64_t n = 0; n < j->npages && !give_back; n++)
		if (j->lines[n])
			memset(j->code_bytes[n], 0, sizeof(j->code_bytes[n]));
	if (give_back)
		clear(j->code_bytes, j->npages * sizeof(*j->code_bytes), true);
	clear(j->pages, pages_size(j), give_back);
	clear(j->hash, JIT_HASH * sizeof(*j->hash), give_back);
	jit_cache_begin(j);
	jit_far_reset(j);
	__atomic_fetch_add(&j->epoch, 1, __ATOMIC_SEQ_CST);
}

static bool host_has_crc32(void) {
	uint32_t a = 1, b, c = 0, d;
	__asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return c & (1u << 20);
}

/* Where huge pages can be; MAP_FAILED. */
static uint8_t *map_aligned(int fd, size_t size, int prot) {
	size_t room = size + JIT_HUGE;
	uint8_t *p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return p;
	uint8_t *at = (uint8_t *)align_up((uintptr_t)p, JIT_HUGE), *end = at + size;
	if (at > p)
		munmap(p, (size_t)(at - p));
	munmap(end, (size_t)(p + room - end));
	uint8_t *mapped = mmap(at, size, prot, MAP_SHARED | MAP_FIXED, fd, 0);
	if (mapped == MAP_FAILED)
		munmap(at, size);
	return mapped;
}

int jit_create(struct soft *s, size_t cache_size) {
	struct jit *j = calloc(1, sizeof(*j));
	if (!j)
		return -ERR_NOMEM;
	j->soft = s;
	j->size = cache_size;
	j->arena_size = cache_size / 4 * 3;
	j->verify = getenv("JOIST_SOFT_VERIFY") != NULL;
	j->off = jit_switches();
	j->crc = host_has_crc32();
	int fd = (int)syscall(SYS_memfd_create, "joist-code", 1u /* close on exec */);
	uint8_t *rx = MAP_FAILED;
	j->rw = MAP_FAILED;
	if (fd >= 0 && ftruncate(fd, (off_t)cache_size) == 0) {
		j->rw = map_aligned(fd, cache_size, PROT_READ | PROT_WRITE);
		rx = map_aligned(fd, cache_size, PROT_READ | PROT_EXEC);
	}
	if (fd >= 0)
		close(fd);
	j->npages = ram_pages(s->vm);
	j->arena = mmap(NULL, j->arena_size, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->hash = mmap(NULL, JIT_HASH * sizeof(*j->hash), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->twins = calloc(JIT_TWINS, sizeof(*j->twins));
	j->pages = mmap(NULL, pages_size(j), PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->code_bytes = mmap(NULL, j->npages * sizeof(*j->code_bytes) + 1, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->lines = (uint64_t *)(j->pages + j->npages);
	j->code = (uint8_t *)(j->lines + j->npages);
	j->idle = j->code + j->npages;
	s->jit = j;
	if (j->rw == MAP_FAILED || rx == MAP_FAILED || j->arena == MAP_FAILED ||
		j->hash == MAP_FAILED || !j->twins || j->pages == MAP_FAILED ||
		j->code_bytes == MAP_FAILED || jit_far_create(j) || jit_translator_create(j) ||
		(j->verify && jit_verifier_create(j))) {
		if (rx != MAP_FAILED)
			munmap(rx, cache_size);
		jit_destroy(s);
		return -ERR_NOMEM;
	}
	j->exec = rx - j->rw;
	j->end = j->rw + cache_size;
	j->arena_end = j->arena + j->arena_size;
	pthread_mutex_init(&j->lock, NULL);
	j->hot_end = j->cold_start = j->rw + align_up(cache_size / 2, PAGE_SIZE);
	j->cold_end = j->end;
	j->hot_start = j->hot_ready = j->rw;
	j->cold_ready = j->cold_start;
	/* But the first of it: a guest that does little needs little. */
	madvise(j->arena + ARENA_SMALL, j->arena_size - ARENA_SMALL, MADV_HUGEPAGE);
	jit_emit_thunks(j); /* moves hot_start */
	jit_cache_begin(j); /* the tables are zero, and need no memory yet */
	if (jit_sampler_create(j))
		log_line(LOG_WARN, "no thread for the sampler: engine soft translates in one tier only");
	return 0;
}

void jit_destroy(struct soft *s) {
	struct jit *j = s->jit;
	if (!j)
		return;
	if (j->exec)
		munmap(j->rw + j->exec, j->size);
	if (j->rw != MAP_FAILED)
		munmap(j->rw, j->size);
	if (j->arena != MAP_FAILED)
		munmap(j->arena, j->arena_size);
	if (j->pages != MAP_FAILED)
		munmap(j->pages, pages_size(j));
	if (j->code_bytes != MAP_FAILED)
		munmap(j->code_bytes, j->npages * sizeof(*j->code_bytes) + 1);
	if (j->hash != MAP_FAILED)
		munmap(j->hash, JIT_HASH * sizeof(*j->hash));
	free(j->twins);
	free(j->far_hash);
	jit_translator_destroy(j);
	jit_verifier_destroy(j);
	free(j);
	s->jit = NULL;
}

void jit_trim(struct jit *j) {
	uint8_t *unused = (uint8_t *)align_up((uintptr_t)j->hot_start, PAGE_SIZE);
	for (unsigned n = 0; n < j->soft->nvcpus; n++) {
		jit_tlb_flush(j->soft->vcpus[n], true);
		jit_windows_destroy(j->soft->vcpus[n]);
	}
	jit_cache_forget(j, true);
	madvise(j->arena, j->arena_size, MADV_DONTNEED);
	/* Of both mappings. */
	madvise(unused, (size_t)(j->end - unused), MADV_REMOVE);
	j->hot_ready = unused;
	j->cold_ready = j->cold_start;
	j->trims++;
}

/* ---- per vCPU --------------------------------------------------------------------------- */

void jit_tlb_drop(struct soft_vcpu *c, unsigned user, unsigned index) {
	c->jit.tlb[user][0][index].tag = c->jit.tlb[user][1][index].tag = SOFT_TLB_INVALID;
}

void jit_tlb_flush(struct soft_vcpu *c, bool global_too) {
	jit_slots_empty(c);
	for (unsigned user = 0; user < 2; user++)
		for (unsigned n = 0; n < JIT_TLB; n++)
			jit_tlb_drop(c, user, n);
	jit_jumps_flush(c, global_too);
}

void jit_tlb_flush_page(struct soft_vcpu *c, gva_t gva) {
	unsigned n = (gva >> 12) & (JIT_TLB - 1);
	for (unsigned user = 0; user < 2; user++)
		jit_tlb_drop(c, user, n);
	jit_slots_drop(c, gva & ~PAGE_MASK);
	jit_jumps_flush_page(c, gva);
}

int jit_vcpu_init(struct soft_vcpu *c) {
	if (jit_shadow_create(c))
		return -ERR_NOMEM;
	c->jit.on = true;
	c->jit.self = (uintptr_t)c->v;
	const struct jit *j = c->soft->jit;
	for (unsigned n = 0; n < j->nfar; n++)
		c->jit.far[n] = j->far_miss;
	jit_tlb_flush(c, true);
	return 0;
}

void jit_vcpu_destroy(struct soft_vcpu *c) {
	jit_shadow_destroy(c);
	jit_windows_destroy(c);
}

/* ---- called from emitted code ------------------------------------------------------------- */

void jit_tlb_learn(struct soft_vcpu *c, gva_t gva, bool write, uint8_t *host) {
	gva_t page = gva & ~PAGE_MASK;
	struct jit_tlb_entry *t = &c->jit.tlb[fast_user(c)][write][(gva >> 12) & (JIT_TLB - 1)];
	if (t->tag == page || c->soft->jit->off & JIT_OFF_TLB ||
		(c->mode != X86_MODE_64 && gva >= JIT_LEGACY_END))
		return;
	*t = (struct jit_tlb_entry){page, (uintptr_t)jit_window_host(c, page, host) - page};
}

uint64_t jit_fill(struct vcpu *v, gva_t gva, uint32_t what) {
	struct soft_vcpu *c = v->engine;
	unsigned size = what & 0xff;
	enum soft_access kind = what & JIT_FILL_WRITE ? ACCESS_WRITE : ACCESS_READ;
	c->jit.fills++;
	flags_from_ax(c, (uint32_t)c->jit.flags_ax);
	if ((gva & PAGE_MASK) + size > PAGE_SIZE || !soft_canonical(gva) ||
		(c->mode != X86_MODE_64 && gva >= JIT_LEGACY_END))
		return 1;
	bool user = fast_user(c);
	struct soft_tlb_entry *e = soft_translate(c, gva, kind, user);
	gva_t page = gva & ~PAGE_MASK;
	if (e->tag[kind] != page)
		return 1;
	if (c->soft->jit->off & JIT_OFF_TLB)
		jit_tlb_flush(c, true);
	struct jit_tlb_entry *t = &c->jit.tlb[user][kind == ACCESS_WRITE][(gva >> 12) & (JIT_TLB - 1)];
	t->tag = page;
	t->addend = (uint64_t)(uintptr_t)jit_window_host(c, page, e->host) - page;
	soft_fpu_load(c); /* a page walk through a device takes the guest's registers away */
	return 0;
}

/* All exceptions masked, so that vector and x87 code may run as it is; FPU loaded. */
static bool fpu_masked(void) {
	uint32_t mxcsr;
	uint16_t fcw;
	asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(fcw));
	/* and not AMD's MM: alignment checks are emitted */
	return (mxcsr & 0x21f80) == 0x1f80 && (fcw & 0x3f) == 0x3f;
}

static uint32_t current_key(struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	uint32_t key = c->cpl == 3 ? JIT_KEY_USER : 0;
	bool legacy = c->mode != X86_MODE_64;
	if (legacy)
		key |= jit_legacy_key(c);
	if ((s->cr0 & (CR0_EM | CR0_TS)) || !(s->cr4 & CR4_OSFXSR))
		return key;
	if (!c->jit.fpu_known) {
		soft_fpu_load(c);
		c->jit.fpu_masked = fpu_masked();
		if (SOFT_FPU_EAGER)
			soft_fpu_unload(c);
		c->jit.fpu_known = true;
	}
	if (!c->jit.fpu_masked)
		return key;
	if ((s->cr4 & CR4_OSXSAVE) && (s->xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX) &&
		!(legacy && !soft_protected(c)))
		key |= JIT_KEY_AVX | ((s->xcr0 & XCR0_AVX512) == XCR0_AVX512 ? JIT_KEY_AVX512 : 0);
	return key | JIT_KEY_FPU;
}

/* RF lasts for one instruction and matters to breakpoints only: without any it ends here. */
static void end_resume(struct x86_state *s) {
	if (!(s->dr7 & 0xff))
		s->rflags &= ~(uint64_t)RFLAGS_RF;
}

/* Translated code is made for these. */
static bool can_translate(const struct soft_vcpu *c) {
	return (c->cpl == 0 || c->cpl == 3) && !c->align_check && !(c->s->dr7 & 0xff) &&
		   (c->mode == X86_MODE_64 || jit_legacy_ok(c));
}

/* The stack of return addresses, empty. */
static void start_shadow(struct soft_vcpu *c, unsigned user) {
	*(const uint8_t **)(uintptr_t)c->jit.shadow_top = c->soft->jit->ret_miss[user];
}

/* Where to go on after a handler that went elsewhere or changed something, if that needs no look
 * around: what jit_call() returns. */
static uint64_t next_entry(struct soft_vcpu *c) {
	struct x86_state *s = c->s;
	const struct jit *j = c->soft->jit;
	if (!can_translate(c) || (s->rflags & RFLAGS_TF) || vcpu_events(c->v) ||
		__atomic_load_n(&j->nwritten, __ATOMIC_RELAXED) ||
		(j->off & (JIT_OFF_NEXT | JIT_OFF_CACHE | JIT_OFF_POLL)))
		return 1;
	uint32_t key = current_key(c);
	unsigned user = key & JIT_KEY_USER;
	if (key != c->jit.keys[user])
		return 1;
	const uint8_t *entry = jit_jump_known(c, user, jit_address(c));
	if (!entry)
		return 1;
	end_resume(s);
	c->jit.key = key;
	c->jit.epoch = __atomic_load_n(&j->epoch, __ATOMIC_RELAXED);
	c->jit.direct++;
	start_shadow(c, user);
	return (uintptr_t)entry;
}

/* Instructions after which the loop must choose anew who executes: exception masks, breakpoints. */
bool jit_changes_masks(unsigned op) {
	switch (op) {
	case X86_OP_FLDCW:
	case X86_OP_FLDENV:
	case X86_OP_FRSTOR:
	case X86_OP_FXRSTOR:
	case X86_OP_XRSTOR:
	case X86_OP_XRSTORS:
	case X86_OP_LDMXCSR:
	case X86_OP_VLDMXCSR:
	case X86_OP_MOV_DR:
	case X86_OP_XSETBV:
	case X86_OP_CLTS:
		return true;
	default:
		return false;
	}
}

uint64_t jit_call(struct vcpu *v, const struct jit_op *op) {
	struct soft_vcpu *c = v->engine;
	struct x86_state *s = c->s;
	struct jit *j = c->soft->jit;
	uint64_t next = op->rip + op->insn.len, flushes = c->tlb_flushes;
	bool legacy = op->insn.mode != X86_MODE_64;
	if (legacy)
		next = (uint32_t)next;
	c->jit.calls++;
	flags_from_ax(c, (uint32_t)c->jit.flags_ax);
	s->rip = op->rip;
	c->next_rip = next;
	c->leave_block = false;
	c->code_page = NULL;
	unsigned code = op->insn.op;
	c->jit.calls_of[jit_repeats(&op->insn)][code]++;
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
	op->handler(c, &op->insn);
	s->rip = c->next_rip;
	c->jit.flags_ax = flags_to_ax(s->rflags);
	/* Interrupts are on again, and none waits: on with the block. The instruction behind STI is
	 * in it, before the next look at events. */
	if ((code == X86_OP_STI || code == X86_OP_POPF) && !op->last && !vcpu_events(v) &&
		!(s->rflags & (RFLAGS_TF | RFLAGS_RF | RFLAGS_AC | RFLAGS_NT))) {
		s->shadow = 0;
		c->leave_block = false;
	}
	/* Where x87 and SSE are off, or left to handlers, nobody knows, nor needs to. */
	bool masks = jit_changes_masks(code);
	if (unlikely(masks))
		c->jit.fpu_known = false;
	masks |= !c->jit.fpu_known && c->jit.key & JIT_KEY_FPU;
	soft_fpu_load(c); /* the handler may have taken the guest's registers away */
	if (unlikely(masks || s->activity != CPU_RUNNING || s->shadow ||
				 __atomic_load_n(&c->jit.poll, __ATOMIC_RELAXED)))
		return 1;
	if (unlikely(legacy && jit_loads_segments(&op->insn)))
		return next_entry(c);
	if (likely(!c->leave_block && s->rip == next && c->tlb_flushes == flushes &&
			   __atomic_load_n(&j->epoch, __ATOMIC_RELAXED) == c->jit.epoch))
		return 0;
	return next_entry(c);
}

uint64_t jit_step(struct vcpu *v, uint64_t rip) {
	struct soft_vcpu *c = v->engine;
	struct jit_op op = {.rip = rip, .last = true};
	gva_t gva;
	c->s->rip = rip;
	jit_fetch_from(c, &gva);
	const struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_EXEC, fast_user(c));
	unsigned at = (unsigned)(gva & PAGE_MASK);
	/* It was there when the block was made; another vCPU's store may be on its way here. */
	if (!e->host || x86_decode(&op.insn, e->host + at, PAGE_SIZE - at, c->mode) <= 0) {
		c->jit.fpu_known = false;
		soft_step(c);
		return 1;
	}
	op.handler = soft_handler_of(c, &op.insn);
	return jit_call(v, &op);
}

/* ---- the loop ----------------------------------------------------------------------------- */

/* The interpreter may have changed the exception masks. */
static void interpret(struct soft_vcpu *c, void (*how)(struct soft_vcpu *c)) {
	c->jit.fpu_known = false;
	how(c);
}

typedef uint64_t enter_fn(struct vcpu *v, const uint8_t *entry);

static enum vm_exit_kind loop(struct soft_vcpu *c) {
	struct jit *j = c->soft->jit;
	struct x86_state *s = c->s;
	struct jit_link *link = NULL;
	bool polled = false;
	enum vm_exit_kind kind;
	for (;;) {
		if (unlikely(j->off & JIT_OFF_CACHE) && !polled) {
			soft_exclusive_begin(c);
			jit_flush_all(j);
			soft_exclusive_end(c);
		}
		__atomic_store_n(&c->jit.poll, 0, __ATOMIC_SEQ_CST);
		if (unlikely(__atomic_load_n(&j->nwritten, __ATOMIC_RELAXED)))
			jit_serve_writes(c);
		if (soft_between(c, &kind))
			return kind;
		if (unlikely(c->soft->trace) && soft_trace(c))
			return EXIT_PREEMPTED;
		uint32_t key;
		end_resume(s);
		if (unlikely(soft_must_step(c))) {
			interpret(c, soft_step);
			link = NULL;
			continue;
		}
		if (unlikely(!can_translate(c))) {
			interpret(c, soft_run_block);
			link = NULL;
			continue;
		}
		key = current_key(c);
		uint32_t epoch = __atomic_load_n(&j->epoch, __ATOMIC_SEQ_CST);
		unsigned user = key & JIT_KEY_USER;
		jit_set_mode(c, user, key);
		const uint8_t *entry = link ? NULL : jit_jump_known(c, user, jit_address(c));
		if (!entry) {
			bool global = false;
			struct jit_block *b = jit_block_find(c, key, link && link->plain, &global);
			if (!b) {
				interpret(c, soft_step);
				link = NULL;
				continue;
			}
			epoch = __atomic_load_n(&j->epoch, __ATOMIC_SEQ_CST);
			/* Only within one page of memory: the mapping may have changed since the exit. */
			if (link && link->rip == jit_address(c) && epoch == c->jit.epoch && key == c->jit.key &&
				((uintptr_t)link->host ^ (uintptr_t)b->host) <= PAGE_MASK) {
				if (!(j->off & JIT_OFF_LINK))
					jit_link_to(j, link, b);
				c->jit.links++;
			} else if (!link && !b->next_page && !(j->off & JIT_OFF_JUMPS)) {
				jit_jump_learn(c, user, b->bytes ? b->first_version : b, global);
			}
			entry = b->entry;
		}
		link = NULL;
		c->jit.key = key;
		c->jit.epoch = epoch;
		c->jit.flags_ax = flags_to_ax(s->rflags);
		soft_fpu_load(c);
		c->jit.enters++;
		c->code_page = NULL;
		if (unlikely(j->off & JIT_OFF_POLL))
			__atomic_store_n(&c->jit.poll, !polled, __ATOMIC_SEQ_CST);
		start_shadow(c, user);
		uint64_t code = ((enter_fn *)(uintptr_t)j->enter)(c->v, entry);
		if (SOFT_FPU_EAGER)
			soft_fpu_unload(c);
		flags_from_ax(c, (uint32_t)c->jit.flags_ax);
		polled = code == JIT_EXIT_POLL;
		if (c->mode != X86_MODE_64) /* a jit address */
			s->rip = (uint32_t)s->rip;
		switch (code) {
		case JIT_EXIT_DISPATCH:
			break;
		case JIT_EXIT_INTERP:
			c->jit.interpreted++;
			c->leave_block = false;
			interpret(c, soft_step);
			c->jit.stored = c->leave_block;
			break;
		case JIT_EXIT_POLL:
			c->jit.polls++;
			if (c->jit.slots_bad)
				jit_demote(c);
			if (__atomic_exchange_n(&c->jit.sample, 0, __ATOMIC_RELAXED))
				jit_promote(c, c->jit.tmp);
			break;
		default:
			link = (struct jit_link *)code;
			s->rip = c->mode == X86_MODE_64 ? link->rip : (uint32_t)link->rip;
		}
	}
}

enum vm_exit_kind jit_run(struct soft_vcpu *c) {
	c->jit.fpu_known = false;
	jit_fault_thread(c);
	static __thread struct vcpu *gs_of;
	if (gs_of != c->v) { /* nothing else in a 64-bit Linux process uses GS */
		if (syscall(SYS_arch_prctl, ARCH_SET_GS, c->v) != 0)
			return soft_interp_run(c);
		gs_of = c->v;
	}
	for (;;) {
		if (!__builtin_setjmp(c->unwind))
			return loop(c);
		soft_unwound(c);
	}
}
