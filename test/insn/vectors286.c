/* 65 000 single instructions captured from a real 80286 in real mode, run in an engine
 * (shared/vectors; the format is in its README).
 *
 * Usage: vectors286 FILE.xz [TIER]. What differs between a 286 and what came after it is
 * named below, counted and printed; every other difference fails. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/x86/insn.h"
#include "core/x86/regs.h"
#include "test/insn/bench_vm.h"

#define MEM_SIZE 0x110000u
#define MAX_BYTES 512

static const char *const reg_names[] = {"ax", "bx", "cx", "dx", "cs", "ss", "ds",
										"es", "sp", "bp", "si", "di", "ip", "flags"};
enum { V_AX, V_BX, V_CX, V_DX, V_CS, V_SS, V_DS, V_ES, V_SP, V_BP, V_SI, V_DI, V_IP, V_FLAGS, V_N };

struct vector {
	char form[8], text[64];
	uint8_t bytes[16];
	unsigned nbytes;
	uint16_t before[V_N], after[V_N];
	struct {
		uint32_t addr;
		uint8_t val;
	} mem[MAX_BYTES], out[MAX_BYTES];
	unsigned nmem, nout;
	int exception;
	uint32_t flags_addr;
};

/* Why a vector is not compared. */
enum skip {
	SKIP_NONE,
	SKIP_NEWER,
	SKIP_LENGTH,
	SKIP_LOCK,
	SKIP_ENCODING,
	SKIP_STACK,
	SKIP_STRING,
	SKIP_N
};
static const char *const skip_names[SKIP_N] = {
	[SKIP_NEWER] = "opcode or prefix that a 286 lacks (0F, 63-67, F1, FS, GS)",
	[SKIP_LENGTH] = "longer than the 286's limit of 10 bytes",
	[SKIP_LOCK] = "LOCK where later CPUs forbid it",
	[SKIP_STACK] = "stack operand at offset FFFF: exception 13 on a 286, 12 since",
	[SKIP_STRING] = "word string element at offset FFFF: a 286 has moved SI, DI, CX already",
	[SKIP_ENCODING] = "register form or MOV CS that later CPUs refuse",
};

static unsigned parse_mem(char *s, void *out) {
	struct {
		uint32_t addr;
		uint8_t val;
	} *m = out;
	unsigned n = 0;
	for (char *t = strtok(s, " "); t && n < MAX_BYTES; t = strtok(NULL, " ")) {
		unsigned addr, val;
		if (sscanf(t, "%x:%x", &addr, &val) == 2) {
			m[n].addr = addr;
			m[n++].val = (uint8_t)val;
		}
	}
	return n;
}

static bool parse(char *line, struct vector *v) {
	char *f[8];
	unsigned n = 0;
	memset(v, 0, sizeof(*v));
	line[strcspn(line, "\n")] = 0;
	for (char *s = line; n < 8 && s; n++) {
		f[n] = s;
		s = strchr(s, '|');
		if (s)
			*s++ = 0;
	}
	if (n != 8)
		return false;
	snprintf(v->form, sizeof(v->form), "%s", f[0]);
	snprintf(v->text, sizeof(v->text), "%s", f[1]);
	for (char *s = f[2]; s[0] && s[1] && v->nbytes < 16; s += 2) {
		unsigned b;
		sscanf(s, "%2x", &b);
		v->bytes[v->nbytes++] = (uint8_t)b;
	}
	n = 0;
	for (char *t = strtok(f[3], " "); t && n < V_N; t = strtok(NULL, " "))
		v->before[n++] = (uint16_t)strtoul(t, NULL, 16);
	v->nmem = parse_mem(f[4], v->mem);
	memcpy(v->after, v->before, sizeof(v->after));
	for (char *t = strtok(f[5], " "); t; t = strtok(NULL, " ")) {
		char *eq = strchr(t, '=');
		if (!eq)
			return false;
		*eq = 0;
		for (unsigned r = 0; r < V_N; r++)
			if (!strcmp(t, reg_names[r]))
				v->after[r] = (uint16_t)strtoul(eq + 1, NULL, 16);
	}
	v->nout = parse_mem(f[6], v->out);
	v->exception = -1;
	if (f[7][0] != '-')
		sscanf(f[7], "%d@%x", &v->exception, &v->flags_addr);
	return true;
}

static const struct {
	uint8_t seg;
	uint8_t v;
} seg_map[] = {{SEG_CS, V_CS}, {SEG_SS, V_SS}, {SEG_DS, V_DS}, {SEG_ES, V_ES}};
static const struct {
	uint8_t gpr;
	uint8_t v;
} gpr_map[] = {{RAX, V_AX}, {RBX, V_BX}, {RCX, V_CX}, {RDX, V_DX},
			   {RSP, V_SP}, {RBP, V_BP}, {RSI, V_SI}, {RDI, V_DI}};

static void load_state(struct bench_vm *b, const struct vector *v) {
	struct x86_state *s = &b->cpu->state;
	s->activity = CPU_RUNNING;
	s->shadow = 0;
	s->cr0 = 0x10 | CR0_NE;
	for (unsigned n = 0; n < 8; n++)
		s->gpr[gpr_map[n].gpr] = v->before[gpr_map[n].v];
	for (unsigned n = 0; n < 4; n++)
		s->seg[seg_map[n].seg] = (struct x86_segment){
			.sel = v->before[seg_map[n].v],
			.base = (uint64_t)v->before[seg_map[n].v] << 4,
			.limit = 0xffff,
			.attr = 0x93,
		};
	s->idtr = (struct x86_dtable){0, 0x3ff};
	s->rip = v->before[V_IP];
	s->rflags = (v->before[V_FLAGS] & 0xfd5) | RFLAGS_FIXED;
}

static void read_state(const struct bench_vm *b, uint16_t got[V_N]) {
	const struct x86_state *s = &b->cpu->state;
	for (unsigned n = 0; n < 8; n++)
		got[gpr_map[n].v] = (uint16_t)s->gpr[gpr_map[n].gpr];
	for (unsigned n = 0; n < 4; n++)
		got[seg_map[n].v] = s->seg[seg_map[n].seg].sel;
	got[V_IP] = (uint16_t)s->rip;
	got[V_FLAGS] = (uint16_t)s->rflags;
}

static enum skip classify(const struct vector *v, const struct x86_insn *i, int len) {
	unsigned n = 0;
	bool lock = false;
	for (; n < v->nbytes; n++) {
		uint8_t p = v->bytes[n];
		if (p == 0xf0)
			lock = true;
		else if (p != 0xf2 && p != 0xf3 && (p & 0xe7) != 0x26)
			break;
	}
	uint8_t op = v->bytes[n], modrm = v->bytes[n + 1];
	if (op == 0x0f || (op >= 0x63 && op <= 0x67) || op == 0xf1)
		return SKIP_NEWER;
	if (v->nbytes - 1 > 10)
		return SKIP_LENGTH;
	if (lock && len == X86_DECODE_UD)
		return SKIP_LOCK;
	if (len <= 0 && v->exception != 6 &&
		((op == 0x8e && (modrm >> 3 & 7) == 1) || op == 0x8c || op == 0x8e || op == 0xff ||
		 op == 0xc6 || op == 0xc7 || op == 0x8f))
		return SKIP_ENCODING;
	bool stack = x86_forms[i->form].attr & X86_ATTR_STACK;
	for (unsigned k = 0; len > 0 && k < i->nopnds; k++)
		stack |= i->opnd[k].kind == OPND_MEM && i->seg == SEG_SS;
	if (v->exception == 13 && x86_forms[i->form].cls == X86_CLASS_STRING)
		return SKIP_STRING;
	if (v->exception == 13 && (op == 0x6d || op == 0x6f))
		return SKIP_STRING;
	if ((op == 0x8c || op == 0x8e) && (modrm >> 4 & 3) == 2)
		return SKIP_NEWER;
	if (v->exception == 13 && stack)
		return SKIP_STACK;
	return SKIP_NONE;
}

/* Ends what runs astray: a vector takes microseconds of this process's own time, and only that is
 * counted, so that no other load on the host makes a run look like one. */
#define RUN_CPU_SECONDS 5

static void set_limit(long seconds) {
	struct itimerval limit = {.it_value = {seconds, 0}};
	setitimer(ITIMER_VIRTUAL, &limit, NULL);
}

static bool run_vector(struct bench_vm *b, uint8_t *expect, const struct vector *v,
					   uint16_t undefined, char *why, size_t size) {
	for (unsigned n = 0; n < v->nmem; n++)
		b->ram[v->mem[n].addr] = expect[v->mem[n].addr] = v->mem[n].val;
	for (unsigned n = 0; n < v->nout; n++)
		expect[v->out[n].addr] = v->out[n].val;
	mem_written(&b->vm.mem, 0, MEM_SIZE); /* and what was put back behind the last one */
	load_state(b, v);
	set_limit(RUN_CPU_SECONDS);
	enum vm_exit_kind kind = bench_vm_run(b);
	set_limit(0);
	uint16_t got[V_N];
	read_state(b, got);
	bool ok = true;
	if (kind != EXIT_HALT) {
		snprintf(why, size, kind == EXIT_PREEMPTED ? "runs for ever" : "exit kind %d", kind);
		ok = false;
	}
	for (unsigned r = 0; ok && r < V_N; r++) {
		uint16_t mask = r == V_FLAGS ? (uint16_t)(0xfd5 & ~undefined) : 0xffff;
		if ((got[r] ^ v->after[r]) & mask) {
			snprintf(why, size, "%s=%04x expected %04x", reg_names[r], got[r], v->after[r]);
			ok = false;
		}
	}
	if (v->exception >= 0) { /* the flags word pushed: undefined bits and the top four */
		/* The bus shows even addresses only; SP tells the rest. */
		uint32_t a = v->flags_addr | ((v->after[V_SP] + 4u) & 1);
		uint16_t mask = (uint16_t)(0xfd5 & ~undefined);
		b->ram[a] = (uint8_t)((b->ram[a] & mask) | (expect[a] & ~mask));
		b->ram[a + 1] = (uint8_t)((b->ram[a + 1] & mask >> 8) | (expect[a + 1] & ~(mask >> 8)));
	}
	/* INS read all ones from the empty bus; bytes that held them before are not listed. */
	if (!strncmp(v->form, "6C", 2) || !strncmp(v->form, "6D", 2))
		for (uint32_t a = 0; a < MEM_SIZE; a++)
			if (b->ram[a] == 0xff && expect[a] == 0xf4)
				b->ram[a] = 0xf4;
	if (!ok || memcmp(b->ram, expect, MEM_SIZE) != 0) {
		for (uint32_t a = 0; ok && a < MEM_SIZE; a++)
			if (b->ram[a] != expect[a]) {
				snprintf(why, size, "[%06x]=%02x expected %02x", a, b->ram[a], expect[a]);
				ok = false;
			}
		memset(b->ram, 0xf4, MEM_SIZE);
		memset(expect, 0xf4, MEM_SIZE);
		return false;
	}
	for (unsigned n = 0; n < v->nmem; n++)
		b->ram[v->mem[n].addr] = expect[v->mem[n].addr] = 0xf4;
	for (unsigned n = 0; n < v->nout; n++)
		b->ram[v->out[n].addr] = expect[v->out[n].addr] = 0xf4;
	return true;
}

static struct bench_vm vm;

static void on_limit(int sig) {
	vcpu_post(vm.cpu, EVENT_KICK);
}

int main(int argc, char **argv) {
	const char *tier = argc > 2 ? argv[2] : "interp";
	char cmd[4096], line[32768], why[128];
	if (argc < 2 || access(argv[1], R_OK) != 0) {
		printf("1..1\nok 1 - vectors286/%s # SKIP no file of vectors\n", tier);
		return 0;
	}
	snprintf(cmd, sizeof(cmd), "xz -dc '%s'", argv[1]);
	FILE *f = popen(cmd, "r");
	if (!f)
		return 1;
	bench_vm_create(&vm, MEM_SIZE, tier);
	signal(SIGVTALRM, on_limit);
	uint8_t *expect = malloc(MEM_SIZE);
	/* Whatever runs astray soon meets a HLT. */
	memset(vm.ram, 0xf4, MEM_SIZE);
	memset(expect, 0xf4, MEM_SIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	unsigned total = 0, failed = 0, skipped[SKIP_N] = {0}, masked = 0;
	static struct vector v;
	while (fgets(line, sizeof(line), f)) {
		if (!parse(line, &v))
			continue;
		total++;
		struct x86_insn insn;
		int len = x86_decode(&insn, v.bytes, v.nbytes, X86_MODE_16);
		enum skip skip = classify(&v, &insn, len);
		if (skip) {
			skipped[skip]++;
			continue;
		}
		uint16_t undefined = len > 0 ? x86_forms[insn.form].flags_undefined : 0;
		masked += undefined != 0;
		/* The translator does not keep what the faulting instruction would have overwritten if
		 * the block is left before it, as the sampler's thread may ask for at any time
		 * (engine/soft/README.md, dead flags). */
		if (len > 0 && v.exception >= 0 && strcmp(tier, "interp") != 0)
			undefined |= x86_forms[insn.form].flags_written;
		if (!run_vector(&vm, expect, &v, undefined, why, sizeof(why))) {
			if (failed++ < 40)
				printf("# %s %s exc %d: %s\n", v.form, v.text, v.exception, why);
		}
	}
	pclose(f);
	printf("# %u vectors; %u with undefined flags masked\n", total, masked);
	for (unsigned n = 1; n < SKIP_N; n++)
		printf("# %u not compared: %s\n", skipped[n], skip_names[n]);
	printf("1..1\n%s 1 - vectors286/%s (%u differ)\n", failed || !total ? "not ok" : "ok", tier,
		   failed);
	bench_vm_destroy(&vm);
	free(expect);
	return failed || !total;
}
