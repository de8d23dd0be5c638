/* Why KVM could not go on, so that a person can tell a guest's mistake from a KVM that cannot
 * run it: one sentence for the user, registers and bytes in the log. */
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

/* The instruction's bytes, as far as they can be read. */
static unsigned read_code(struct kvm_cpu *c, uint8_t code[BYTES]) {
	const struct x86_state *s = &c->v->state;
	unsigned n = 0;
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

void kvm_report_internal(struct kvm_cpu *c) {
	const struct kvm_run *run = c->run;
	uint8_t code[BYTES];
	char hex[BYTES * 3 + 1] = "";
	char data[16 * 18 + 1] = "";
	bool known = kvm_fetch_state(c);
	unsigned n = known ? read_code(c, code) : 0;
	for (unsigned i = 0; i < n; i++)
		fmt_text(hex + i * 3, sizeof(hex) - i * 3, " %02x", code[i]);
	for (unsigned i = 0, at = 0; i < run->internal.ndata && i < 16; i++)
		at += (unsigned)fmt_text(data + at, sizeof(data) - at, " %llx",
								 (unsigned long long)run->internal.data[i]);
	log_line(LOG_ERROR, "vCPU %u: KVM gives up: %s (internal error %u, data%s)", c->v->id,
			 suberror(run->internal.suberror), run->internal.suberror, data);
	if (known)
		log_registers(c);
	kvm_report(c,
			   "KVM gives up: %s (internal error %u); code:%s; `joist doctor` tries what stock "
			   "kernels need, and --engine soft needs no KVM",
			   suberror(run->internal.suberror), run->internal.suberror, n ? hex : " not readable");
}
