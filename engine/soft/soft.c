/* The soft engine's entry points: engine_soft, its vCPUs and their life. */
#include "engine/soft/soft.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/fmt.h"
#include "core/x86/cpuid.h"
#include "core/x86/feature.h"
#include "engine/soft/jit.h"

#define CODE_CACHE 128u /* MiB */
#define CODE_CACHE_MIN 4u
#define CODE_CACHE_MAX 1024u

static void soft_probe_host(struct engine_probe *p, bool fresh) {
	p->usable = true;
	p->nfindings = 1;
	p->findings[0] = (struct engine_finding){.ok = true};
	fmt_text(p->findings[0].what, sizeof(p->findings[0].what), "x86-64 host");
	fmt_text(p->findings[0].found, sizeof(p->findings[0].found), "runs guests without privileges");
}

/* "jit", "interp", "cache=64M" and commas. */
static int parse_options(const char *s, bool *jit, unsigned *cache, struct err *e) {
	while (s && *s) {
		size_t len = strcspn(s, ",");
		char *end;
		if (len == 3 && !strncmp(s, "jit", 3)) {
			*jit = true;
		} else if (len == 6 && !strncmp(s, "interp", 6)) {
			*jit = false;
		} else if (len >= 6 && !strncmp(s, "cache=", 6)) {
			unsigned long n = strtoul(s + 6, &end, 10);
			if (end == s + 6 || end + 1 != s + len || (*end != 'M' && *end != 'm') ||
				n < CODE_CACHE_MIN || n > CODE_CACHE_MAX)
				return err_set(e, ERR_INVAL,
							   "engine soft: %.*s is no size for its code cache: %uM to %uM are",
							   (int)len, s, CODE_CACHE_MIN, CODE_CACHE_MAX);
			*cache = (unsigned)n;
		} else {
			return err_set(
				e, ERR_INVAL,
				"engine soft has no option \"%.*s\": there are jit, interp and cache=SIZE",
				(int)len, s);
		}
		s += len;
		s += *s == ',';
	}
	return 0;
}

static int soft_create(struct vm *vm, const struct engine_options *o, void **self, struct err *e) {
	bool jit = true;
	unsigned cache = CODE_CACHE;
	int code = parse_options(o ? o->tier : NULL, &jit, &cache, e);
	if (code)
		return code;
	struct soft *s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, ERR_NOMEM, "no memory for engine soft");
	s->vm = vm;
	pthread_mutex_init(&s->excl_lock, NULL);
	pthread_cond_init(&s->excl_cond, NULL);
	/* No executable memory (a locked-down host)? The interpreter needs none but for vectors. */
	if (jit && jit_create(s, (size_t)cache << 20))
		log_line(LOG_WARN, "no memory for translated code: engine soft interprets, which is slow");
	*self = s;
	return 0;
}

static void soft_destroy(void *self) {
	struct soft *s = self;
	if (s->jit)
		jit_sampler_destroy(s->jit);
	for (unsigned n = 0; n < s->nvcpus; n++) {
		struct soft_vcpu *c = s->vcpus[n];
		soft_fpu_destroy(c);
		soft_interp_destroy(c);
		soft_spaces_destroy(c);
		jit_vcpu_destroy(c);
		c->v->engine = NULL;
	}
	jit_destroy(s);
	pthread_cond_destroy(&s->excl_cond);
	pthread_mutex_destroy(&s->excl_lock);
	free(s);
}

/* Another engine was stopped on the way into a handler: go on with that. */
static void take_event(struct soft_vcpu *c) {
	static const enum soft_event_kind kinds[X86_EVENT_KINDS] = {
		[X86_EVENT_EXCEPTION] = EVENT_KIND_EXCEPTION,
		[X86_EVENT_SOFT_INT] = EVENT_KIND_SOFT_INT,
		[X86_EVENT_EXT_INT] = EVENT_KIND_EXT_INT,
		[X86_EVENT_NMI] = EVENT_KIND_NMI,
	};
	struct x86_event *ev = &c->s->event;
	if (ev->kind != X86_EVENT_NONE) {
		c->event = (struct soft_event){kinds[ev->kind], ev->vector, ev->has_error, ev->error};
		c->deliver = true;
	}
	*ev = (struct x86_event){0};
}

static void soft_set_state(struct vcpu *v) {
	struct soft_vcpu *c = v->engine;
	const struct x86_state *s = c->s;
	uint64_t now[4] = {s->cr0, s->cr3, s->cr4, s->efer};
	if (memcmp(now, c->synced, sizeof(now)) != 0) {
		memcpy(c->synced, now, sizeof(now));
		soft_tlb_flush(c, true);
	}
	soft_update_mode(c);
	take_event(c);
}

static int soft_add_vcpu(void *self, struct vcpu *v, struct err *e) {
	struct soft *s = self;
	struct soft_vcpu *c = vcpu_engine_area(v);
	_Static_assert(sizeof(*c) <= VCPU_ENGINE_AREA, "the engine's area is too small");
	/* Not cleared: it is zero, and most of it is not looked at before it is written. */
	c->v = v;
	c->s = &v->state;
	c->soft = s;
	c->delivering = SOFT_VEC_NONE;
	uint32_t regs[4];
	cpuid_query(v->vm->cpuid, 0x80000008, 0, c->s, v->id, regs);
	c->phys_bits = (uint8_t)regs[0];
	c->has_1g_pages = cpuid_has(v->vm->cpuid, X86_FEAT_GBPAGES);
	v->engine = c;
	if (soft_spaces_create(c) || soft_interp_create(c) || soft_fpu_create(c)) {
		soft_spaces_destroy(c);
		soft_interp_destroy(c);
		return err_set(e, ERR_NOMEM, "no memory for the caches of vCPU %u", v->id);
	}
	if (s->jit && jit_vcpu_init(c)) {
		soft_fpu_destroy(c);
		soft_interp_destroy(c);
		return err_set(e, ERR_NOMEM, "no memory for the stacks of vCPU %u", v->id);
	}
	soft_tlb_flush(c, true);
	s->vcpus[s->nvcpus] = c;
	__atomic_store_n(&s->nvcpus, s->nvcpus + 1, __ATOMIC_RELEASE); /* the sampler may be looking */
	soft_set_state(v);
	return 0;
}

static void soft_run(struct vcpu *v, struct vm_exit *out) {
	struct soft_vcpu *c = v->engine;
	soft_enter_guest(c);
	out->kind = c->jit.on ? jit_run(c) : soft_interp_run(c);
	soft_fpu_unload(c);
	/* What changed inside is in the TLB already. */
	c->synced[0] = c->s->cr0;
	c->synced[1] = c->s->cr3;
	c->synced[2] = c->s->cr4;
	c->synced[3] = c->s->efer;
	soft_leave_guest(c);
}

static void soft_mem_changed(void *self) {
	struct soft *s = self;
	for (unsigned n = 0; n < s->nvcpus; n++)
		vcpu_post(s->vcpus[n]->v, EVENT_FLUSH);
}

static void soft_kick(struct vcpu *v) {
	struct soft_vcpu *c = v->engine;
	__atomic_store_n(&c->jit.poll, 1, __ATOMIC_SEQ_CST);
}

static void soft_mem_written(void *self, gpa_t gpa, uint64_t len) {
	struct soft *s = self;
	if (s->jit)
		jit_device_wrote(s, gpa, len);
}

/* What a counter calls the handler of `op`: as assemblers do, but for those that share a name. */
static const char *handler_name(unsigned op) {
	unsigned form = 0;
	switch (op) {
	case X86_OP_INVALID: /* not decoded when the block was made */
		return "crossing_pages";
	case X86_OP_MOV_SEG:
		return "mov_seg";
	case X86_OP_PUSH_SEG:
		return "push_seg";
	case X86_OP_POP_SEG:
		return "pop_seg";
	case X86_OP_MOV_CR:
		return "mov_cr";
	case X86_OP_MOV_DR:
		return "mov_dr";
	default:
		while (form + 1 < X86_FORM_COUNT && x86_forms[form].op != op)
			form++;
		return x86_forms[form].mnemonic;
	}
}

static void soft_trim(void *self) {
	struct soft *s = self;
	if (s->jit)
		jit_trim(s->jit);
}

/* Which handlers translated code calls most, with a repeat prefix and without one. */
static void stats_calls(const struct soft *s,
						void (*line)(void *out, const char *name, uint64_t val), void *out) {
	uint64_t calls[2 * X86_OP_COUNT] = {0};
	for (unsigned n = 0; n < s->nvcpus; n++)
		for (unsigned op = 0; op < 2 * X86_OP_COUNT; op++)
			calls[op] += s->vcpus[n]->jit.calls_of[op / X86_OP_COUNT][op % X86_OP_COUNT];
	for (unsigned k = 0; k < 24; k++) {
		unsigned most = 0;
		for (unsigned op = 1; op < 2 * X86_OP_COUNT; op++)
			if (calls[op] > calls[most])
				most = op;
		if (!calls[most])
			return;
		char name[40];
		fmt_text(name, sizeof(name), "calls.%s%s", most >= X86_OP_COUNT ? "rep_" : "",
				 handler_name(most % X86_OP_COUNT));
		line(out, name, calls[most]);
		calls[most] = 0;
	}
}

static void soft_stats(void *self, void (*line)(void *out, const char *name, uint64_t val),
					   void *out) {
	const struct soft *s = self;
	uint64_t insns = 0, blocks = 0, misses = 0, flushes = 0, spaces = 0;
	for (unsigned n = 0; n < s->nvcpus; n++) {
		insns += s->vcpus[n]->insns;
		blocks += s->vcpus[n]->blocks_made;
		misses += s->vcpus[n]->tlb_misses;
		flushes += s->vcpus[n]->tlb_flushes;
		spaces += s->vcpus[n]->space_hits;
	}
	line(out, "instructions", insns);
	line(out, "blocks_decoded", blocks);
	line(out, "tlb_misses", misses);
	line(out, "tlb_flushes", flushes);
	line(out, "address_spaces_kept", spaces);
	if (!s->jit)
		return;
	struct jit_vcpu sum = {0};
	for (unsigned n = 0; n < s->nvcpus; n++) {
		const struct jit_vcpu *v = &s->vcpus[n]->jit;
		sum.enters += v->enters;
		sum.polls += v->polls;
		sum.interpreted += v->interpreted;
		sum.calls += v->calls;
		sum.fills += v->fills;
		sum.links += v->links;
		sum.slot_fills += v->slot_fills;
		sum.promotions += v->promotions;
		sum.windows_opened += v->windows_opened;
		sum.direct += v->direct;
	}
	line(out, "translated_blocks", s->jit->blocks - s->jit->rebased);
	line(out, "rebased_blocks", s->jit->rebased);
	line(out, "translated_instructions", s->jit->insns);
	line(out, "translated_bytes", s->jit->bytes);
	line(out, "cache_flushes", s->jit->flushes);
	line(out, "cache_trims", s->jit->trims);
	line(out, "blocks_invalidated", s->jit->invalidations);
	line(out, "block_links", sum.links);
	line(out, "cache_entries", sum.enters);
	line(out, "handlers_to_block", sum.direct);
	line(out, "exits_poll", sum.polls);
	line(out, "exits_interpret", sum.interpreted);
	line(out, "handler_calls", sum.calls);
	line(out, "tlb_fills", sum.fills);
	line(out, "slot_fills", sum.slot_fills);
	line(out, "hot_blocks", sum.promotions);
	line(out, "windows", sum.windows_opened);
	line(out, "self_checking_blocks", s->jit->self_blocks);
	line(out, "self_checking_misses", s->jit->self_misses);
	line(out, "self_checking_restarts", s->jit->self_restarts);
	line(out, "self_checking_calmed", s->jit->self_calmed);
	stats_calls(s, line, out);
}

const struct engine_ops engine_soft = {
	.name = "soft",
	.probe = soft_probe_host,
	.create = soft_create,
	.destroy = soft_destroy,
	.add_vcpu = soft_add_vcpu,
	.run = soft_run,
	.kick = soft_kick,
	.set_state = soft_set_state,
	.mem_changed = soft_mem_changed,
	.mem_written = soft_mem_written,
	.trim = soft_trim,
	.stats = soft_stats,
};
