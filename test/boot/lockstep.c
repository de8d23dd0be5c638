/* A whole boot in lockstep: the same machine twice, one under the interpreter and one under the
 * translator, both with every device, and neither with anything that is not in the program. State
 * is compared at each exit to a device, all of it, RAM included, every few hundred of these.
 *
 * Usage: boot-lockstep KERNEL INITRD [--append TEXT] [--memory MIB] [--disk FILE] [--exits N]
 *                      [--seed N] [--until TEXT] [--dense] [--strict] [--verbose]
 *                      [--break N] [--break-flags N]
 *
 * Time is a count: reading the TSC and each exit advance the clock, by amounts out of a
 * generator, and a guest that halts is taken to its next timer. So interrupts come after exits,
 * the same ones in both machines. It ends when the guest powers off, writes TEXT to its serial
 * line, or after N exits.
 *
 * A difference is pinned down by doing it all again up to the last exit where both agreed, now with
 * blocks that return to the loop, whose state the translator writes down at each block;
 * the interpreter then goes instruction by instruction and has to come through every one of
 * these states. If blocks of one instruction show the difference, too, it is down to that.
 *
 * With --dense the translator goes ahead by some entries into translated code, and the interpreter
 * follows instruction by instruction to the very state where it stopped; there both clocks go on,
 * so that interrupts come anywhere. JOIST_SOFT_OFF=link,jumps or link,jumps,block makes the steps
 * smaller.
 *
 * What may differ: RFLAGS and copies of it in registers and memory, by arithmetic flags, which may
 * have been dead at a fault (engine/soft/README.md) or undefined (AF behind a shift; Linux saves
 * them with PUSHF), and accessed and dirty bits, which depend on what the TLB holds. In RAM these
 * are counted and made equal again. A copy of RFLAGS is told by its form alone: the bits that are
 * always set and always clear in it, and those that no kernel sets. With --strict the translator
 * keeps all flags (JOIST_SOFT_OFF=flags), and then none may differ anywhere. The FPU's last
 * instruction and operand pointers are host addresses, in saved states too. `--break N` damages a
 * register of the translator's at exit N, `--break-flags N` its ZF, to show that the test sees
 * it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/board/board.h"
#include "core/x86/cpuid.h"
#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "engine/soft/soft.h"
#include "test/unit/fake.h"

#define CHUNK 512u			 /* exits between two comparisons of everything */
#define TRACE_MAX (1u << 22) /* states of one interval */
#define DENSE (1u << 15)
#define KEPT 24 /* instructions to print */

struct traced {
	uint64_t gpr[16], rip, rflags;
};

struct point { /* how an exit found the vCPU */
	uint64_t rip, hash, now;
	struct traced state;
};

struct machine {
	const char *tier;
	uint64_t now, random; /* nanoseconds; of the clock's steps */
	struct vm_clock clock;
	struct vm_host host;
	struct vm vm;
	struct board *board;
	struct engine engine;
	uint8_t *ram;
	struct block_backend disk;
	uint8_t *disk_data;
	uint64_t exits, stop_at, insns;
	bool ended, failed, stopped; /* stopped: by its tracer */
	struct point points[CHUNK + 64];
	unsigned npoints;
	char line[256]; /* of the serial line, so far */
	unsigned column;
};

static struct {
	const char *append, *disk, *until;
	uint64_t memory, exits, seed, break_at, break_flags_at;
	struct boot_image kernel, initrd;
	size_t disk_size;
	bool verbose, dense, strict;
} options = {.append = "",
			 .memory = 256,
			 .exits = ~0ull,
			 .seed = 1,
			 .break_at = ~0ull,
			 .break_flags_at = ~0ull};

static struct machine machines[2]; /* 0: interpreter, 1: translator */
static struct cpuid_policy cpuid;
/* What was accepted: of RFLAGS, its copies in registers and in words of RAM; the others. */
static unsigned long rflags_differed, regs_differed, flags_differed, bits_differed,
	pointers_differed;

/* ---- a host where nothing is left to chance ---------------------------------------------------
 */

static uint64_t step(struct machine *m, unsigned max) {
	m->random = m->random * 6364136223846793005ull + 1442695040888963407ull;
	return (m->random >> 33) % max + 1;
}

static uint64_t clock_now(void *opaque) {
	return ((struct machine *)opaque)->now;
}

static uint64_t clock_wall(void *opaque) {
	return 1700000000000000000ull + ((struct machine *)opaque)->now;
}

static uint64_t clock_tsc(void *opaque) {
	struct machine *m = opaque;
	m->now += step(m, 2000);
	return m->now;
}

static uint64_t mix(uint64_t h, uint64_t v) {
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

/* What is not in struct traced. */
static uint64_t hash_of(const struct x86_state *s) {
	uint64_t h = mix(mix(s->cr0, s->cr3), s->cr4);
	return mix(mix(h, s->seg[SEG_FS].base), s->seg[SEG_GS].base);
}

static void take(struct traced *t, const struct vcpu *v) {
	memcpy(t->gpr, v->state.gpr, sizeof(t->gpr));
	t->rip = v->state.rip;
	t->rflags = v->state.rflags;
}

/* Bits that are 0 in every RFLAGS [SDM1 3.4.3], and those that the guests here leave alone: IOPL,
 * NT, VIF and VIP, and what lies above. */
#define NO_FLAGS (~0x3fffffull | 0x8028 | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_VIF | RFLAGS_VIP)

/* A copy of RFLAGS, whose arithmetic flags may be dead or undefined ones. */
static bool is_flags(uint64_t a, uint64_t b) {
	return !options.strict && !((a ^ b) & ~(uint64_t)RFLAGS_ARITH) && (a & RFLAGS_FIXED) &&
		   !(a & NO_FLAGS);
}

static bool same_rflags(uint64_t a, uint64_t b) {
	return !((a ^ b) & (options.strict ? ~0ull : ~(uint64_t)RFLAGS_ARITH));
}

/* RF, of an IRET, is gone before the translator's next instruction, not behind it. */
static bool same(const struct traced *a, const struct traced *b) {
	if (a->rip != b->rip || !same_rflags(a->rflags & ~RFLAGS_RF, b->rflags & ~RFLAGS_RF))
		return false;
	for (unsigned n = 0; n < 16; n++)
		if (a->gpr[n] != b->gpr[n] && !is_flags(a->gpr[n], b->gpr[n]))
			return false;
	return true;
}

/* Of two that are the same: what was accepted for that. */
static void count(const struct traced *a, const struct traced *b) {
	rflags_differed += a->rflags != b->rflags;
	for (unsigned n = 0; n < 16; n++)
		regs_differed += a->gpr[n] != b->gpr[n];
}

/* Each exit begins here. */
static void host_lock(void *opaque) {
	struct machine *m = opaque;
	struct x86_state *s = &m->vm.vcpus[0]->state;
	if (m == &machines[1] && m->exits == options.break_flags_at)
		s->rflags ^= RFLAGS_ZF;
	if (m->npoints < CHUNK + 64) {
		struct point *p = &m->points[m->npoints++];
		*p = (struct point){.rip = s->rip, .hash = mix(hash_of(s), m->now), .now = m->now};
		take(&p->state, m->vm.vcpus[0]);
	}
	if (m == &machines[1] && m->exits == options.break_at)
		s->gpr[RBX] ^= 1, s->gpr[RSP] ^= 8;
	m->exits++;
}

static void host_unlock(void *opaque) {
	struct machine *m = opaque;
	m->now += step(m, step(m, 256) == 1 ? 1000000 : 4000);
	timers_run(&m->vm.timers, m->now);
	if (m->exits >= m->stop_at)
		vcpu_post(m->vm.vcpus[0], EVENT_KICK);
}

static void host_kick(void *opaque, unsigned vcpu) {
	struct machine *m = opaque;
	if (m->engine.self)
		engine_kick(&m->engine, m->vm.vcpus[vcpu]);
}

static void host_power(void *opaque, enum vm_power what) {
	struct machine *m = opaque;
	m->ended = true;
	vcpu_post(m->vm.vcpus[0], EVENT_KICK);
}

static void *host_alloc(void *opaque, size_t size) {
	void *p = aligned_alloc(64, (size + 63) & ~63ull);
	return p ? memset(p, 0, size) : NULL;
}

static size_t serial_write(void *opaque, const uint8_t *buf, size_t len) {
	struct machine *m = opaque;
	for (size_t n = 0; n < len; n++) {
		if (buf[n] == '\n') {
			if (options.verbose && m == &machines[1])
				printf("# guest: %s\n", m->line);
			m->column = 0;
		} else if (buf[n] != '\r' && m->column < sizeof(m->line) - 1) {
			m->line[m->column++] = (char)buf[n];
		}
		m->line[m->column] = 0;
		if (options.until && strstr(m->line, options.until))
			host_power(m, VM_POWER_OFF);
	}
	return len;
}

static void rng_fill(void *opaque, void *buf, size_t len) {
	uint8_t *p = buf;
	while (len--)
		*p++ = (uint8_t)step(opaque, 256);
}

static void disk_submit(void *opaque, struct block_request *r) {
	struct machine *m = opaque;
	uint64_t at = r->offset;
	for (unsigned n = 0; n < r->nsegs; n++) {
		if (r->op == BLOCK_READ)
			memcpy(r->segs[n].host, m->disk_data + at, r->segs[n].len);
		else if (r->op == BLOCK_WRITE)
			memcpy(m->disk_data + at, r->segs[n].host, r->segs[n].len);
		at += r->segs[n].len;
	}
	r->done(r, 0);
}

static void *map(size_t size, const char *file) {
	int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
				   (file ? MAP_PRIVATE : MAP_SHARED | MAP_ANONYMOUS) | MAP_NORESERVE, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED) {
		perror(file ? file : "memory");
		exit(1);
	}
	return p;
}

static void die(const struct err *e) {
	printf("Bail out! %s\n", e->text);
	exit(1);
}

static void machine_make(struct machine *m, const char *tier) {
	struct err e;
	memset(m, 0, sizeof(*m));
	m->tier = tier;
	m->random = options.seed;
	m->clock = (struct vm_clock){clock_now, clock_tsc, clock_wall, .opaque = m, .tsc_khz = 1000000};
	m->host = (struct vm_host){host_lock, host_unlock, host_kick, host_power, host_alloc, m, NULL};
	m->stop_at = ~0ull;
	m->ram = map(options.memory << 20, NULL);
	struct board_config c = {
		.board = "pc",
		.memory = options.memory << 20,
		.cpus = 1,
		.cpuid = &cpuid,
		.kernel = options.kernel,
		.initrd = options.initrd,
		.append = options.append,
		.serial = {.write = serial_write, .opaque = m},
		.rng = {rng_fill, m},
	};
	if (options.disk) {
		m->disk_data = map(options.disk_size, options.disk);
		m->disk = (struct block_backend){
			.submit = disk_submit, .opaque = m, .size = options.disk_size, .block_size = 512};
		c.disks[c.ndisks++] = &m->disk;
	}
	vm_init(&m->vm, &m->host, &m->clock);
	if (board_create(&m->vm, m->ram, &c, &m->board, &e))
		die(&e);
	struct engine_options o = {.tier = tier};
	if (engine_create(&m->engine, &engine_soft, &m->vm, &o, &e))
		die(&e);
	vm_reset(&m->vm);
	if (board_load(m->board, &e))
		die(&e);
	engine_set_state(&m->engine, m->vm.vcpus[0]);
}

/* The chips' memory stays: the program makes few machines. */
static void machine_end(struct machine *m) {
	m->insns = ((struct soft_vcpu *)m->vm.vcpus[0]->engine)->insns;
	engine_destroy(&m->engine);
	munmap(m->ram, options.memory << 20);
	if (m->disk_data)
		munmap(m->disk_data, options.disk_size);
}

/* Until that many exits, or the end. */
static void machine_run(struct machine *m, uint64_t stop_at) {
	struct vcpu *v = m->vm.vcpus[0];
	m->npoints = 0;
	m->stop_at = stop_at;
	m->stopped = false;
	while (!m->ended && !m->stopped && m->exits < stop_at) {
		struct vm_exit out;
		engine_run(&m->engine, v, &out);
		if (out.kind == EXIT_HALT) {
			host_lock(m);
			if (!m->vm.timers.first) {
				m->ended = true;
				break;
			}
			m->now =
				m->vm.timers.first->deadline_ns > m->now ? m->vm.timers.first->deadline_ns : m->now;
			host_unlock(m);
		} else if (out.kind != EXIT_PREEMPTED) {
			printf("# %s: exit %d at %lx, cr2 %lx, cr3 %lx\n", m->tier, out.kind, v->state.rip,
				   v->state.cr2, v->state.cr3);
			m->ended = m->failed = true;
		}
	}
	engine_get_state(&m->engine, v);
}

/* ---- comparing ------------------------------------------------------------------------------ */

static char why[256];

/* Vector and x87 registers; 0: equal. */
static bool fpu_equal(const struct x86_state *a, const struct x86_state *b) {
	uint8_t x[2][832];
	for (unsigned n = 0; n < 2; n++) {
		static const uint8_t init[2] = {0x7f, 3};
		const struct x86_state *s = n ? b : a;
		uint64_t in_use;
		memcpy(x[n], s->xsave, sizeof(x[n]));
		memcpy(&in_use, s->xsave + 512, 8);
		if (!(in_use & 1)) {
			memset(x[n], 0, 24);
			memcpy(x[n], init, 2);
			memset(x[n] + 32, 0, 128);
		}
		if (!(in_use & 2))
			memset(x[n] + 160, 0, 256);
		if (!(in_use & 4))
			memset(x[n] + 576, 0, 256);
		memset(x[n] + 5, 0, 19); /* FOP, FIP, FDP */
		memset(x[n] + 28, 0, 4);
		memset(x[n] + 416, 0, 160); /* reserved, header */
		for (unsigned r = 0; r < 8; r++)
			memset(x[n] + 32 + r * 16 + 10, 0, 6);
	}
	for (unsigned n = 0; n < sizeof(x[0]); n++)
		if (x[0][n] != x[1][n]) {
			snprintf(why, sizeof(why), "FPU state, byte %u: interp %02x jit %02x", n, x[0][n],
					 x[1][n]);
			return false;
		}
	return true;
}

static bool state_equal(void) {
	const struct x86_state *a = &machines[0].vm.vcpus[0]->state,
						   *b = &machines[1].vm.vcpus[0]->state;
	const struct {
		const char *name;
		uint64_t a, b;
	} one[] = {
		{"clock", machines[0].now, machines[1].now},
		{"rip", a->rip, b->rip},
		{"rflags", a->rflags, same_rflags(a->rflags, b->rflags) ? a->rflags : b->rflags},
		{"cr0", a->cr0, b->cr0},
		{"cr2", a->cr2, b->cr2},
		{"cr3", a->cr3, b->cr3},
		{"cr4", a->cr4, b->cr4},
		{"efer", a->efer, b->efer},
		{"activity", a->activity, b->activity},
		{"shadow", a->shadow, b->shadow},
	};
	for (unsigned n = 0; n < 16; n++)
		if (a->gpr[n] != b->gpr[n] && !is_flags(a->gpr[n], b->gpr[n])) {
			snprintf(why, sizeof(why), "register %u: interp %lx jit %lx at %lx", n, a->gpr[n],
					 b->gpr[n], a->rip);
			return false;
		}
	for (unsigned n = 0; n < sizeof(one) / sizeof(one[0]); n++)
		if (one[n].a != one[n].b) {
			snprintf(why, sizeof(why), "%s: interp %lx jit %lx at %lx", one[n].name, one[n].a,
					 one[n].b, a->rip);
			return false;
		}
	for (unsigned n = 0; n < SEG_COUNT; n++)
		if (a->seg[n].sel != b->seg[n].sel || a->seg[n].attr != b->seg[n].attr ||
			a->seg[n].limit != b->seg[n].limit || a->seg[n].base != b->seg[n].base) {
			snprintf(why, sizeof(why), "segment %u at %lx", n, a->rip);
			return false;
		}
	return fpu_equal(a, b);
}

/* A saved FPU state's pointers: what the translator's and the interpreter's host addresses are. */
static bool host_address(uint64_t v) {
	return v >> 40 >= 0x55 && v >> 40 <= 0x7f;
}

static bool ram_equal(void) {
	uint64_t *a = (uint64_t *)machines[0].ram, *b = (uint64_t *)machines[1].ram;
	size_t words = options.memory << 17;
	for (size_t page = 0; page < words; page += 512) {
		if (!memcmp(a + page, b + page, 4096))
			continue;
		for (size_t n = page; n < page + 512; n++) {
			uint64_t differ = a[n] ^ b[n];
			if (!differ)
				continue;
			if (!(differ & ~(uint64_t)(PTE_A | PTE_D)) && a[n] & PTE_P)
				bits_differed++;
			else if (is_flags(a[n], b[n]))
				flags_differed++;
			else if (host_address(a[n]) && host_address(b[n]) && n % 8 % 2 == 1)
				pointers_differed++;
			else {
				snprintf(why, sizeof(why), "memory %lx: interp %016lx jit %016lx", n * 8, a[n],
						 b[n]);
				return false;
			}
			a[n] = b[n];
		}
	}
	return true;
}

/* The number of the first exit of the chunk that differs; or how many there were. */
static unsigned first_difference(void) {
	const struct machine *a = &machines[0], *b = &machines[1];
	unsigned n = 0;
	while (n < a->npoints && n < b->npoints && a->points[n].hash == b->points[n].hash &&
		   same(&a->points[n].state, &b->points[n].state)) {
		count(&a->points[n].state, &b->points[n].state);
		n++;
	}
	return n;
}

/* ---- pinning down ------------------------------------------------------------------------------
 */

static struct traced *trace; /* the translator's states */
static size_t ntrace, matched;
static struct traced steps[KEPT]; /* the interpreter's last ones */
static unsigned long nsteps;

static size_t trace_limit = TRACE_MAX;

static struct machine *machine_of(const struct vcpu *v) {
	return &machines[v->vm == &machines[1].vm];
}

#define LOST 2000000000ul /* so many instructions behind the last equal state */

/* true: this is the state to stop at, and it was the last to be written down. A look at events
 * comes back to where it left, maybe without flags that are dead there; the interpreter comes there
 * once. */
static bool write_down(struct vcpu *v) {
	struct traced now;
	take(&now, v);
	const struct traced *last = &trace[ntrace - 1];
	if (ntrace && now.rip == last->rip && !memcmp(now.gpr, last->gpr, sizeof(now.gpr)))
		return false;
	if (ntrace < TRACE_MAX)
		trace[ntrace++] = now;
	if (ntrace < trace_limit)
		return false;
	machine_of(v)->stopped = true;
	vcpu_post(v, EVENT_KICK);
	return true;
}

static bool follow(struct vcpu *v) {
	if (matched == ntrace)
		return false;
	struct traced now;
	take(&now, v);
	const struct traced *t = &trace[matched];
	if (same(&now, t)) {
		matched++;
		nsteps = 0;
	}
	steps[nsteps++ % KEPT] = now;
	if (trace_limit == TRACE_MAX || (nsteps < LOST && (matched < ntrace || !machines[1].stopped)))
		return false;
	machine_of(v)->stopped = true;
	vcpu_post(v, EVENT_KICK);
	return true;
}

static void set_trace(struct machine *m, bool (*fn)(struct vcpu *v)) {
	((struct soft *)m->engine.self)->trace = fn;
}

/* The instruction of a step. The address of the next one, or 0. */
static uint64_t print_insn(const struct traced *t) {
	struct soft_vcpu *c = machines[0].vm.vcpus[0]->engine;
	uint8_t bytes[X86_MAX_LEN] = {0};
	struct x86_insn i;
	char text[96] = "(not mapped any more)";
	uint64_t next = 0;
	for (unsigned user = 0; user < 2; user++) {
		const struct soft_tlb_entry *e = &c->tlb[user][(t->rip >> 12) & (SOFT_TLB - 1)];
		if (e->tag[ACCESS_EXEC] != (t->rip & ~PAGE_MASK) || !e->host)
			continue;
		unsigned room = PAGE_SIZE - (unsigned)(t->rip & PAGE_MASK);
		memcpy(bytes, e->host + (t->rip & PAGE_MASK), room < 15 ? room : 15);
		if (x86_decode(&i, bytes, 15, c->mode) > 0) {
			x86_format(text, sizeof(text), &i, t->rip);
			next = t->rip + i.len;
		}
	}
	printf("#   %lx: %s\n", (unsigned long)t->rip, text);
	return next;
}

static void print_registers(const char *who, const struct traced *t) {
	printf("#  %s: rip %lx rflags %lx\n", who, t->rip, t->rflags);
	for (unsigned n = 0; n < 16; n += 4)
		printf("#     %016lx %016lx %016lx %016lx\n", t->gpr[n], t->gpr[n + 1], t->gpr[n + 2],
			   t->gpr[n + 3]);
}

static void print_points(const struct point *a, const struct point *b) {
	printf("#  clocks: interp %lu jit %lu\n", (unsigned long)a->now, (unsigned long)b->now);
	print_registers("interpreter, at the exit", &a->state);
	print_registers("translator, at the exit", &b->state);
}

static void make_both(void) {
	machine_make(&machines[0], "interp");
	machine_make(&machines[1], "jit");
}

static void end_both(void) {
	for (unsigned n = 0; n < 2; n++)
		machine_end(&machines[n]);
}

/* Where the two parted. */
static void print_parting(void) {
	printf("#  the block at %lx leads to a state where the interpreter never comes:\n",
		   trace[matched - 1].rip);
	struct traced at = trace[matched - 1];
	for (unsigned n = 0; n < 12 && at.rip; n++)
		at.rip = print_insn(&at);
	print_registers("translator, before", &trace[matched - 1]);
	print_registers("translator, behind", &trace[matched]);
	unsigned long n = nsteps > KEPT ? nsteps - KEPT : 0;
	if (nsteps > KEPT) /* the first ones are overwritten: it went far away */
		n = nsteps - 4;
	for (; n < nsteps; n++) {
		print_insn(&steps[n % KEPT]);
		if (steps[n % KEPT].rip == trace[matched].rip)
			print_registers("interpreter, there", &steps[n % KEPT]);
	}
}

/* Runs both to exit `from` and follows them from there to exit `to`. true: said where. */
static bool follow_from(uint64_t from, uint64_t to, const char *off) {
	char all[64];
	snprintf(all, sizeof(all), "%s%s", off, options.strict ? ",flags" : "");
	setenv("JOIST_SOFT_OFF", all, 1);
	make_both();
	ntrace = matched = nsteps = 0;
	for (unsigned n = 0; n < 2; n++)
		machine_run(&machines[n], from);
	set_trace(&machines[1], write_down);
	machine_run(&machines[1], to);
	set_trace(&machines[0], follow);
	machine_run(&machines[0], to);
	bool found = matched < ntrace && matched > 0;
	printf("# without %s: %zu of %zu states of the translator's reached\n", off, matched, ntrace);
	if (found)
		print_parting();
	end_both();
	return found;
}

static void pin_down(uint64_t from, uint64_t to) {
	static const char *const off[] = {"link,jumps,block", "link,jumps"};
	trace = map(TRACE_MAX * sizeof(*trace), NULL);
	printf("# equal up to exit %lu; again:\n", (unsigned long)from);
	for (unsigned n = 0; n < 2; n++)
		if (follow_from(from, to, off[n]))
			return;
	printf("# not seen without links between blocks\n");
}

/* true: equal to the end. */
static bool lockstep(void) {
	struct machine *a = &machines[0], *b = &machines[1];
	while (!b->ended && b->exits < options.exits) {
		uint64_t from = b->exits, stop = from + CHUNK;
		machine_run(b, stop);
		machine_run(a, stop);
		unsigned n = first_difference();
		if (n < a->npoints || n < b->npoints) {
			printf("# exit %lu differs: interp at %lx, jit at %lx\n", (unsigned long)(from + n),
				   n < a->npoints ? a->points[n].rip : 0, n < b->npoints ? b->points[n].rip : 0);
			if (n < a->npoints && n < b->npoints)
				print_points(&a->points[n], &b->points[n]);
			stop = from + n + 1;
			from += n > 1 ? n - 1 : 0;
		} else if (state_equal() && ram_equal()) {
			continue;
		} else {
			printf("# after exit %lu: %s\n", (unsigned long)b->exits, why);
		}
		end_both();
		pin_down(from, stop);
		return false;
	}
	return true;
}

/* The same with the translator ahead by a random number of entries into translated code, and the
 * interpreter following it instruction by instruction to where it stopped. There the clocks go on,
 * so that interrupts come anywhere. */
static bool lockstep_dense(void) {
	struct machine *a = &machines[0], *b = &machines[1];
	uint64_t random = options.seed, stops = 0, steps_taken = 0;
	trace = map(DENSE * sizeof(*trace), NULL);
	set_trace(a, follow);
	set_trace(b, write_down);
	while (!b->ended && b->exits < options.exits) {
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		trace_limit = (random >> 33) % (1u << (random >> 20) % 14) + 1;
		ntrace = matched = nsteps = 0;
		machine_run(b, b->exits + CHUNK);
		machine_run(a, b->stopped || b->ended ? b->exits + 1 : b->exits);
		unsigned n = first_difference();
		steps_taken += ntrace;
		if (matched < ntrace || n < a->npoints || n < b->npoints || !state_equal() ||
			((++stops & 255) == 0 && !ram_equal())) {
			printf("# stop %lu, exit %lu: %zu of %zu states reached; %u of %u and %u exits; %s\n",
				   (unsigned long)stops, (unsigned long)b->exits, matched, ntrace, n, a->npoints,
				   b->npoints, why);
			if (n < a->npoints && n < b->npoints)
				print_points(&a->points[n], &b->points[n]);
			if (matched < ntrace && matched)
				print_parting();
			return false;
		}
		for (unsigned k = 0; k < 2; k++) {
			machines[k].now += (random >> 40) % 400000;
			timers_run(&machines[k].vm.timers, machines[k].now);
		}
	}
	printf("# %lu stops, %lu states of the translator's\n", (unsigned long)stops,
		   (unsigned long)steps_taken);
	return ram_equal();
}

static struct boot_image read_image(const char *path) {
	struct stat st;
	if (stat(path, &st) != 0) {
		printf("1..0 # SKIP no %s; tools/fetch-guest makes it\n", path);
		exit(0);
	}
	size_t len = (size_t)st.st_size;
	return (struct boot_image){.data = map(len, path), .len = len, .name = path};
}

/* This CPU without RDRAND and RDSEED. */
static void query(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
	cpuid_this_host().query(leaf, subleaf, out);
	if (leaf == 1)
		out[2] &= ~(1u << 30);
	if (leaf == 7 && !subleaf)
		out[1] &= ~(1u << 18);
}

int main(int argc, char **argv) {
	const char *files[2] = {0};
	unsigned nfiles = 0;
	struct err e;
	for (int n = 1; n < argc; n++) {
		const char *value = n + 1 < argc ? argv[n + 1] : "";
		if (!strcmp(argv[n], "--verbose"))
			options.verbose = true;
		else if (!strcmp(argv[n], "--dense"))
			options.dense = true;
		else if (!strcmp(argv[n], "--strict"))
			options.strict = true;
		else if (argv[n][0] != '-' && nfiles < 2)
			files[nfiles++] = argv[n];
		else if (n++, !strcmp(argv[n - 1], "--append"))
			options.append = value;
		else if (!strcmp(argv[n - 1], "--until"))
			options.until = value;
		else if (!strcmp(argv[n - 1], "--disk"))
			options.disk = value;
		else if (!strcmp(argv[n - 1], "--memory"))
			options.memory = strtoull(value, NULL, 0);
		else if (!strcmp(argv[n - 1], "--exits"))
			options.exits = strtoull(value, NULL, 0);
		else if (!strcmp(argv[n - 1], "--seed"))
			options.seed = strtoull(value, NULL, 0);
		else if (!strcmp(argv[n - 1], "--break"))
			options.break_at = strtoull(value, NULL, 0);
		else if (!strcmp(argv[n - 1], "--break-flags"))
			options.break_flags_at = strtoull(value, NULL, 0);
	}
	if (nfiles != 2) {
		fprintf(stderr, "usage: boot-lockstep KERNEL INITRD [--append TEXT] ...\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	options.kernel = read_image(files[0]);
	options.initrd = read_image(files[1]);
	if (options.disk)
		options.disk_size = read_image(options.disk).len;
	struct cpuid_host host = cpuid_this_host();
	host.query = query;
	if (cpuid_init_from(&cpuid, &host, "host", 1, 1000000, &e))
		die(&e);
	if (options.strict)
		setenv("JOIST_SOFT_OFF", "flags", 1);
	make_both();
	bool equal = options.dense ? lockstep_dense() : lockstep(), reached = !machines[1].failed;
	if (equal)
		end_both();
	if (options.until && equal && !strstr(machines[1].line, options.until) &&
		options.exits == ~0ull) {
		printf("# the guest never wrote \"%s\"; last: %s\n", options.until, machines[1].line);
		reached = false;
	}
	printf("# %lu exits, %lu instructions of the interpreter's, %lu ms of the guest's time\n",
		   (unsigned long)machines[1].exits, (unsigned long)machines[0].insns,
		   (unsigned long)(machines[1].now / 1000000));
	printf("# accepted dead flags: %lu times in RFLAGS, in %lu registers, %lu words of RAM; "
		   "also %lu page table entries with other accessed or dirty bits, %lu FPU pointers\n",
		   rflags_differed, regs_differed, flags_differed, bits_differed, pointers_differed);
	printf("1..1\n%s 1 - boot in lockstep\n", equal && reached ? "ok" : "not ok");
	return !(equal && reached);
}
