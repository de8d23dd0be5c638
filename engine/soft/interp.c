/* The reference interpreter's run loop.
 *
 * Instructions are decoded once into short straight-line blocks, found by the host
 * address of their first byte. A block keeps the bytes it was decoded from and is compared
 * with memory each time it is entered, so that self-modifying code, DMA and other vCPUs'
 * stores need no tracking at all. A store into the page that the running block lies in ends it
 * (fast_note_store), which gives the coherence that x86 promises to the storing CPU.
 *
 * Interrupts, mode changes and stop-the-world requests are looked at between blocks.
 * Single steps, breakpoints and interrupt shadows are handled one instruction at a time. */
#include <stdlib.h>
#include <string.h>

#include "core/x86/cpuid.h"
#include "engine/soft/fast.h"

#define BLOCKS 8192 /* 12 MiB a vCPU; a kernel boot's working set fits */
#define BLOCK_INSNS 16
#define BLOCK_BYTES 128

struct soft_op {
	soft_handler *handler;
	struct x86_insn insn;
};

struct soft_block {
	const uint8_t *host; /* of the first byte; NULL: unused */
	uint8_t mode, n, len;
	uint8_t bytes[BLOCK_BYTES];
	struct soft_op op[BLOCK_INSNS];
};

int soft_interp_create(struct soft_vcpu *c) {
	c->blocks = calloc(BLOCKS, sizeof(*c->blocks));
	return c->blocks ? 0 : -ERR_NOMEM;
}

void soft_interp_destroy(struct soft_vcpu *c) {
	free(c->blocks);
}

/* ---- leaving an instruction ------------------------------------------------------------ */

void soft_unwind(struct soft_vcpu *c, int why) {
	c->unwind_why = why;
	__builtin_longjmp(c->unwind, 1);
}

static void SOFT_NORETURN raise_event(struct soft_vcpu *c, uint8_t vector, bool has_error,
									  uint32_t error) {
	c->event = (struct soft_event){EVENT_KIND_EXCEPTION, vector, has_error, error};
	soft_unwind(c, UNWIND_EXCEPTION);
}

void soft_raise(struct soft_vcpu *c, uint8_t vector) {
	raise_event(c, vector, false, 0);
}

void soft_raise_error(struct soft_vcpu *c, uint8_t vector, uint32_t error) {
	raise_event(c, vector, true, error);
}

void soft_raise_pf(struct soft_vcpu *c, gva_t gva, uint32_t error) {
	c->s->cr2 = gva;
	raise_event(c, VEC_PF, true, error);
}

/* ---- decoding -------------------------------------------------------------------------- */

static soft_handler op_undefined;
static void op_undefined(struct soft_vcpu *c, const struct x86_insn *i) {
	soft_ud(c);
}

soft_handler *soft_handler_of(const struct soft_vcpu *c, const struct x86_insn *i) {
	const struct x86_form *f = &x86_forms[i->form];
	if (f->feature && !soft_has_feature(c, f->feature)) {
		/* CPUs without BMI1 and ABM ignore the prefix that makes these new instructions. */
		if (i->op == X86_OP_TZCNT)
			return soft_handlers[X86_OP_BSF];
		return i->op == X86_OP_LZCNT ? soft_handlers[X86_OP_BSR] : op_undefined;
	}
	if (soft_handlers[i->op])
		return soft_handlers[i->op];
	switch (f->cls) {
	case X86_CLASS_X87:
	case X86_CLASS_MMX:
	case X86_CLASS_SSE:
	case X86_CLASS_AVX:
	case X86_CLASS_AVX512:
		return soft_native;
	default:
		return op_undefined;
	}
}

/* The linear address of the next instruction; raises what fetching there raises. */
static gva_t fetch_linear(struct soft_vcpu *c, uint64_t rip, unsigned len) {
	const struct x86_state *s = c->s;
	if (c->mode == X86_MODE_64) {
		if (!soft_canonical(rip) || !soft_canonical(rip + len - 1))
			soft_gp(c, 0);
		return rip;
	}
	if (rip + len - 1 > s->seg[SEG_CS].limit)
		soft_gp(c, 0);
	return (uint32_t)(s->seg[SEG_CS].base + rip);
}

/* Up to 15 bytes of code at RIP, page by page as far as the instruction needs them. For the rare
 * places: instructions across pages, at segment limits, in MMIO. */
static void fetch_slowly(struct soft_vcpu *c, struct soft_op *op) {
	uint8_t bytes[X86_MAX_LEN];
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
	bool user = fast_user(c);
	unsigned n = 0;
	for (;;) {
		gva_t gva = fetch_linear(c, c->s->rip + n, 1);
		struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_EXEC, user);
		if (e->host) {
			unsigned more = MIN(X86_MAX_LEN - n, PAGE_SIZE - (unsigned)(gva & PAGE_MASK));
			if (c->mode != X86_MODE_64) /* no byte from behind the limit */
				more = (unsigned)MIN(more, c->s->seg[SEG_CS].limit - (c->s->rip + n) + 1);
			fast_copy(bytes + n, e->host + (gva & PAGE_MASK), more);
			n += more;
		} else {
			c->exit = (struct vm_exit){
				.kind = EXIT_MMIO,
				.mmio = {.gpa = e->gpa + (gva & PAGE_MASK), .size = 1},
			};
			soft_exit(c);
			bytes[n++] = (uint8_t)c->exit.mmio.val;
		}
		int len = x86_decode(&op->insn, bytes, n, c->mode);
		if (len == X86_DECODE_SHORT)
			continue;
		if (len == X86_DECODE_LONG)
			soft_gp(c, 0);
		op->handler = len > 0 ? soft_handler_of(c, &op->insn) : op_undefined;
		return;
	}
}

/* Whether the block's bytes are still those in memory. */
static inline bool block_current(const struct soft_block *b, const uint8_t *host) {
	unsigned len = b->len;
	if (len >= 8) {
		for (unsigned n = 0; n + 8 <= len; n += 8)
			if (*(const uint64_t *)(b->bytes + n) != *(const uint64_t *)(host + n))
				return false;
		return *(const uint64_t *)(b->bytes + len - 8) == *(const uint64_t *)(host + len - 8);
	}
	for (unsigned n = 0; n < len; n++)
		if (b->bytes[n] != host[n])
			return false;
	return true;
}

/* Decodes what lies at `host` up to a branch, the page's end or the block's size. n = 0 if
 * not even one instruction can be had in this way. */
static void block_make(struct soft_vcpu *c, struct soft_block *b, const uint8_t *host,
					   unsigned avail) {
	if (SOFT_FPU_EAGER)
		soft_fpu_unload(c);
	b->host = host;
	b->mode = (uint8_t)c->mode;
	b->n = b->len = 0;
	avail = MIN(avail, BLOCK_BYTES);
	c->blocks_made++;
	/* Decode from the copy: memory may change under us. */
	fast_copy(b->bytes, host, avail);
	while (b->n < BLOCK_INSNS) {
		struct soft_op *op = &b->op[b->n];
		int len = x86_decode(&op->insn, b->bytes + b->len, avail - b->len, c->mode);
		if (len <= 0)
			break;
		op->handler = soft_handler_of(c, &op->insn);
		b->len = (uint8_t)(b->len + len);
		b->n++;
		if (x86_forms[op->insn.form].attr & X86_ATTR_ENDS || op->handler == op_undefined)
			break;
	}
}

static struct soft_block *block_find(struct soft_vcpu *c) {
	uint64_t rip = c->s->rip;
	gva_t gva = fetch_linear(c, rip, 1);
	bool user = fast_user(c);
	const uint8_t *host = fast_host(c, gva, 1, ACCESS_EXEC, user);
	if (unlikely(!host)) {
		struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_EXEC, user);
		if (!e->host)
			return NULL;
		host = e->host + (gva & PAGE_MASK);
	}
	uintptr_t h = (uintptr_t)host;
	struct soft_block *b = &c->blocks[(h ^ h >> 13) & (BLOCKS - 1)];
	if (unlikely(b->host != host || b->mode != c->mode || !block_current(b, host)))
		block_make(c, b, host, PAGE_SIZE - (unsigned)(gva & PAGE_MASK));
	if (!b->n)
		return NULL;
	/* A block that would run over the segment's limit is taken one by one. */
	if (c->mode != X86_MODE_64 && rip + b->len - 1 > c->s->seg[SEG_CS].limit)
		return NULL;
	c->code_page = (const uint8_t *)((uintptr_t)host & ~PAGE_MASK);
	return b;
}

/* ---- execution ------------------------------------------------------------------------- */

static inline void execute(struct soft_vcpu *c, const struct soft_op *op) {
	uint64_t next = c->s->rip + op->insn.len;
	c->next_rip = c->mode == X86_MODE_64 ? next : (uint32_t)next;
	op->handler(c, &op->insn);
	c->s->rip = c->next_rip;
	c->insns++;
}

/* Instruction breakpoints of DR7 at RIP: DR6 bits, 0 = none. */
static uint32_t breakpoint_hit(const struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	gva_t gva = c->mode == X86_MODE_64 ? s->rip : (uint32_t)(s->seg[SEG_CS].base + s->rip);
	uint32_t hit = 0;
	for (unsigned n = 0; n < 4; n++)
		if ((s->dr7 >> (n * 2) & 3) && !(s->dr7 >> (16 + n * 4) & 15) && s->dr[n] == gva)
			hit |= 1u << n;
	return hit;
}

static bool code_breakpoints(const struct x86_state *s) {
	if (!(s->dr7 & 0xff))
		return false;
	for (unsigned n = 0; n < 4; n++)
		if ((s->dr7 >> (n * 2) & 3) && !(s->dr7 >> (16 + n * 4) & 3))
			return true;
	return false;
}

/* #DB as a trap (after an instruction) or as a fault (instruction breakpoint). */
static void SOFT_NORETURN raise_debug(struct soft_vcpu *c, uint64_t dr6) {
	c->s->dr6 = (c->s->dr6 & ~15ull) | dr6 | DR6_FIXED;
	c->s->dr7 &= ~DR7_GD;
	soft_raise(c, VEC_DB);
}

/* One instruction with everything that can accompany it. */
void soft_step(struct soft_vcpu *c) {
	struct x86_state *s = c->s;
	struct soft_op op;
	uint8_t shadow = s->shadow;
	bool tf = s->rflags & RFLAGS_TF;

	if (!(s->rflags & RFLAGS_RF) && shadow != SHADOW_MOV_SS) {
		uint32_t hit = code_breakpoints(s) ? breakpoint_hit(c) : 0;
		if (hit)
			raise_debug(c, hit);
	}
	c->code_page = NULL;
	fetch_slowly(c, &op);
	bool rf = s->rflags & RFLAGS_RF;
	c->single_step = tf;
	c->db_pending = 0;
	execute(c, &op);
	/* Entering a handler (INT n) cleared TF and this with it. */
	tf = c->single_step;
	c->single_step = false;
	/* RF lasts for one instruction, but IRET and a task switch load a new one. */
	if (rf && op.insn.op != X86_OP_IRET && op.insn.op != X86_OP_POPF)
		s->rflags &= ~(uint64_t)RFLAGS_RF;
	if (shadow && s->shadow == shadow)
		s->shadow = 0;
	uint64_t dr6 = c->db_pending;
	if (tf && s->shadow != SHADOW_MOV_SS)
		dr6 |= DR6_BS;
	if (dr6 && s->shadow != SHADOW_MOV_SS) {
		c->db_pending = 0;
		raise_debug(c, dr6);
	}
}

static void run_block(struct soft_vcpu *c, const struct soft_block *b) {
	c->leave_block = false;
	const struct soft_op *op = b->op, *end = op + b->n;
	do {
		execute(c, op);
	} while (++op < end && !c->leave_block);
	if (unlikely(c->db_pending)) {
		uint32_t hit = c->db_pending;
		c->db_pending = 0;
		raise_debug(c, hit);
	}
}

/* Interrupts and requests, between two instructions. true: leave with *kind. */
static bool look_around(struct soft_vcpu *c, uint32_t events, enum vm_exit_kind *kind) {
	struct x86_state *s = c->s;
	if (events & (EVENT_KICK | EVENT_INIT | EVENT_SIPI)) {
		*kind = EXIT_PREEMPTED;
		return true;
	}
	if (events & EVENT_FLUSH) {
		vcpu_unpost(c->v, EVENT_FLUSH);
		c->ram = (struct mem_range){0};
		soft_tlb_flush(c, true);
	}
	if (s->shadow)
		return false;
	struct soft_event ev = {0};
	if ((events & EVENT_NMI) && !s->nmi_masked) {
		vcpu_unpost(c->v, EVENT_NMI);
		s->nmi_masked = true;
		ev = (struct soft_event){.kind = EVENT_KIND_NMI, .vector = VEC_NMI};
	} else if ((events & EVENT_INTR) && (s->rflags & RFLAGS_IF)) {
		soft_fpu_unload(c);
		soft_leave_guest(c);
		int vector = vcpu_intack(c->v);
		soft_enter_guest(c);
		if (vector < 0)
			return false;
		ev = (struct soft_event){.kind = EVENT_KIND_EXT_INT, .vector = (uint8_t)vector};
	} else {
		return false;
	}
	c->event = ev;
	c->next_rip = s->rip;
	c->deliver = true;
	return false;
}

bool soft_must_step(const struct soft_vcpu *c) {
	const struct x86_state *s = c->s;
	return s->shadow || (s->rflags & (RFLAGS_TF | RFLAGS_RF)) || code_breakpoints(s);
}

bool soft_between(struct soft_vcpu *c, enum vm_exit_kind *kind) {
	struct x86_state *s = c->s;
	for (;;) {
		if (unlikely(c->deliver)) {
			struct soft_event ev = c->event;
			c->deliver = false;
			c->next_rip = s->rip;
			soft_deliver(c, &ev);
		}
		if (unlikely(s->activity != CPU_RUNNING)) {
			*kind = s->activity == CPU_SHUTDOWN ? EXIT_SHUTDOWN : EXIT_HALT;
			return true;
		}
		if (unlikely(__atomic_load_n(&c->soft->excl_wanted, __ATOMIC_RELAXED)))
			soft_enter_guest(c);
		uint32_t events = vcpu_events(c->v);
		if (likely(!events))
			return false;
		if (look_around(c, events, kind))
			return true;
		if (!c->deliver)
			return false;
	}
}

bool soft_trace(struct soft_vcpu *c) {
	soft_fpu_unload(c);
	return c->soft->trace(c->v);
}

void soft_run_block(struct soft_vcpu *c) {
	struct soft_block *b = block_find(c);
	if (likely(b != NULL))
		run_block(c, b);
	else
		soft_step(c);
}

static enum vm_exit_kind run_until_exit(struct soft_vcpu *c) {
	enum vm_exit_kind kind;
	while (!soft_between(c, &kind)) {
		bool trace = c->soft->trace;
		if (unlikely(trace) && soft_trace(c))
			return EXIT_PREEMPTED;
		if (unlikely(trace || soft_must_step(c)))
			soft_step(c);
		else
			soft_run_block(c);
	}
	return kind;
}

void soft_unwound(struct soft_vcpu *c) {
	if (c->soft->excl_owner == c)
		soft_exclusive_end(c);
	c->single_step = false;
	switch (c->unwind_why) {
	case UNWIND_EXCEPTION:
		c->deliver = true;
		break;
	case UNWIND_SHUTDOWN:
		c->deliver = false;
		c->delivering = SOFT_VEC_NONE;
		c->s->activity = CPU_SHUTDOWN;
		break;
	default:
		break;
	}
}

enum vm_exit_kind soft_interp_run(struct soft_vcpu *c) {
	for (;;) {
		if (!__builtin_setjmp(c->unwind))
			return run_until_exit(c);
		soft_unwound(c); /* an instruction or a delivery was left half way */
	}
}
