/* Why KVM could not go on, so that a person can tell a guest's mistake from a KVM that cannot
 * run it: one sentence for the user, with the instruction's bytes; registers in the log. */
#include <stdarg.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "core/x86/regs.h"
#include "engine/kvm/kvm.h"

#define BYTES 15

void kvm_report(struct kvm_cpu *c, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	fmt_vtext(c->why, sizeof(c->why), fmt, ap);
	va_end(ap);
}

/* The instruction's bytes, as far as they can be read: those that KVM failed with if it tells them.
 */
static unsigned read_code(struct kvm_cpu *c, uint8_t code[BYTES]) {
	const struct x86_state *s = &c->v->state;
	const struct kvm_run *run = c->run;
	unsigned n = 0;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
		run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
		run->emulation_failure.ndata >= 3 &&
		(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		n = MIN(run->emulation_failure.insn_size, (unsigned)BYTES);
		memcpy(code, run->emulation_failure.insn_bytes, n);
	}
	if (n)
		return n;
	for (; n < BYTES; n++) {
		struct kvm_translation t = {.linear_address = s->seg[SEG_CS].base + s->rip + n};
		if (kvm_ioctl(c->fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
			break;
		struct mem_segment at = mem_segment(&c->v->vm->mem, t.physical_address, 1, false);
		if (!at.host || !at.len)
			break;
		code[n] = *at.host;
	}
	return n;
}

static void log_registers(const struct kvm_cpu *c) {
	static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
										  "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const segs[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"};
	const struct x86_state *s = &c->v->state;
	for (unsigned i = 0; i < 16; i += 4)
		log_line(LOG_ERROR, "  %s %016llx  %s %016llx  %s %016llx  %s %016llx", names[i],
				 (unsigned long long)s->gpr[i], names[i + 1], (unsigned long long)s->gpr[i + 1],
				 names[i + 2], (unsigned long long)s->gpr[i + 2], names[i + 3],
				 (unsigned long long)s->gpr[i + 3]);
	log_line(LOG_ERROR,
			 "  rip %016llx  rflags %llx  cr0 %llx  cr2 %llx  cr3 %llx  cr4 %llx  efer %llx",
			 (unsigned long long)s->rip, (unsigned long long)s->rflags, (unsigned long long)s->cr0,
			 (unsigned long long)s->cr2, (unsigned long long)s->cr3, (unsigned long long)s->cr4,
			 (unsigned long long)s->efer);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		log_line(LOG_ERROR, "  %s %04x  base %016llx  limit %08x  attr %05x", segs[i],
				 s->seg[i].sel, (unsigned long long)s->seg[i].base, s->seg[i].limit,
				 s->seg[i].attr);
}

static const char *suberror(uint32_t n) {
	switch (n) {
	case KVM_INTERNAL_ERROR_EMULATION:
		return "it has to emulate an instruction and cannot";
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return "two exceptions at once";
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return "an exit while it delivered an event";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		return "an exit that it does not know";
	default:
		return "an internal error";
	}
}

#define HEX (BYTES * 3 + 16)

/* Logs `what` and, if KVM tells them, the registers; `hex`: the bytes at RIP for a sentence. */
static void log_state(struct kvm_cpu *c, const char *what, char hex[HEX]) {
	uint8_t code[BYTES];
	bool known = kvm_fetch_state(c);
	unsigned n = known ? read_code(c, code) : 0;
	fmt_text(hex, HEX, " not readable");
	for (unsigned i = 0; i < n; i++)
		fmt_text(hex + i * 3, HEX - i * 3, " %02x", code[i]);
	log_line(LOG_ERROR, "vCPU %u: %s", c->v->id, what);
	if (known)
		log_registers(c);
	else
		log_line(LOG_ERROR, "  its registers are not known: %s", c->why);
}

void kvm_report_stuck(struct kvm_cpu *c, const char *fmt, ...) {
	char hex[HEX], what[KVM_WHY];
	va_list ap;
	va_start(ap, fmt);
	fmt_vtext(what, sizeof(what), fmt, ap);
	va_end(ap);
	log_state(c, what, hex);
	kvm_report(c, "%s; code:%s", what, hex);
}

void kvm_report_internal(struct kvm_cpu *c) {
	const struct kvm_run *run = c->run;
	char hex[HEX], what[KVM_WHY + 16 * 18];
	uint32_t error = run->internal.suberror;
	unsigned at = (unsigned)fmt_text(
		what, sizeof(what), "KVM gives up: %s (internal error %u, data", suberror(error), error);
	for (unsigned i = 0; i < run->internal.ndata && i < 16; i++)
		at += (unsigned)fmt_text(what + at, sizeof(what) - at, " %llx",
								 (unsigned long long)run->internal.data[i]);
	fmt_text(what + at, sizeof(what) - at, ")");
	log_state(c, what, hex);
	kvm_report(c,
			   "KVM gives up: %s (internal error %u); code:%s; `joist doctor` tries what stock "
			   "kernels need, and --engine soft needs no KVM",
			   suberror(error), error, hex);
}
