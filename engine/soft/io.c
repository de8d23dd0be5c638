/* IN, OUT, INS and OUTS: permission ([SDM1 19.5]), I/O breakpoints ([SDM3
 * 17.2.4]) and the way to the devices. Runs on the vCPU's thread.
 *
 * A repeated INS or OUTS can be interrupted after any element: registers are up to date and
 * RIP is still at the instruction. Memory is probed before the port is touched, since
 * reading a port may not be repeated. */
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

#define REP_CHUNK 4096 /* elements before the loop looks around, whatever happens */

static void check_port(struct soft_vcpu *c, uint16_t port, unsigned size) {
	const struct x86_segment *tr = &c->s->seg[SEG_TR];

	if (!(c->s->cr0 & CR0_PE))
		return;
	if (!(c->s->rflags & RFLAGS_VM) && c->cpl <= sys_iopl(c))
		return;
	if ((tr->attr & (SEG_ATTR_UNUSABLE | SEG_ATTR_P)) != SEG_ATTR_P ||
		(tr->attr & SEG_ATTR_TYPE) < SYS_TSS32 || tr->limit < 0x67)
		soft_gp(c, 0);
	uint64_t base = tr->base;
	uint32_t map = (uint32_t)soft_sys_read(c, base + 0x66, 2) + port / 8;
	if (map + 1 > tr->limit)
		soft_gp(c, 0);
	uint64_t denied = soft_sys_read(c, base + map, 2) >> (port & 7);
	if (denied & ((1u << size) - 1))
		soft_gp(c, 0);
}

/* Notes I/O breakpoints: R/W field 2, with CR4.DE. */
static void watch_port(struct soft_vcpu *c, uint16_t port, unsigned size) {
	static const uint8_t lengths[] = {1, 2, 8, 4};
	const struct x86_state *s = c->s;

	if (!(s->cr4 & CR4_DE) || !(s->dr7 & 0xff))
		return;
	for (unsigned n = 0; n < 4; n++) {
		unsigned control = (unsigned)(s->dr7 >> (16 + n * 4)) & 0xf;
		if (!(s->dr7 >> (n * 2) & 3) || (control & 3) != 2)
			continue;
		uint64_t len = lengths[control >> 2], at = s->dr[n] & ~(len - 1);
		if (port < at + len && at < port + (uint64_t)size)
			c->db_pending |= 1u << n;
	}
}

static uint32_t port_io(struct soft_vcpu *c, uint16_t port, unsigned size, bool write,
						uint32_t val) {
	struct vm_exit *e = &c->exit;
	*e = (struct vm_exit){.kind = EXIT_PORT};
	e->port.port = port;
	e->port.size = (uint8_t)size;
	e->port.write = write;
	e->port.val = val;
	soft_exit(c);
	watch_port(c, port, size);
	c->leave_block = true; /* the device may have raised an interrupt or changed the map */
	return (uint32_t)(e->port.val & size_mask(size));
}

static uint16_t port_operand(struct soft_vcpu *c, const struct x86_insn *i) {
	for (unsigned n = 0; n < i->nopnds; n++)
		if (i->opnd[n].kind == OPND_IMM)
			return (uint8_t)i->imm;
	return (uint16_t)c->s->gpr[RDX];
}

/* In 64-bit mode a REX.W makes no 8-byte port access. */
static unsigned port_size(const struct x86_insn *i) {
	return MIN(i->opsize, 4);
}

void op_in(struct soft_vcpu *c, const struct x86_insn *i) {
	uint16_t port = port_operand(c, i);
	unsigned size = port_size(i);
	check_port(c, port, size);
	soft_set_reg(c, RAX, size, port_io(c, port, size, false, 0));
}

void op_out(struct soft_vcpu *c, const struct x86_insn *i) {
	uint16_t port = port_operand(c, i);
	unsigned size = port_size(i);
	check_port(c, port, size);
	port_io(c, port, size, true, (uint32_t)soft_reg(c, RAX, size));
}

/* ---- strings
 * ------------------------------------------------------------------------------------------ */

static void advance(struct soft_vcpu *c, unsigned reg, const struct x86_insn *i, unsigned size) {
	uint64_t step = c->s->rflags & RFLAGS_DF ? -(uint64_t)size : size;
	soft_set_reg(c, reg, i->addrsize,
				 (soft_reg(c, reg, i->addrsize) + step) & size_mask(i->addrsize));
}

static void one_in(struct soft_vcpu *c, const struct x86_insn *i, uint16_t port, unsigned size) {
	uint64_t di = soft_reg(c, RDI, i->addrsize);
	soft_probe(c, SEG_ES, di, size, ACCESS_WRITE);
	soft_write(c, SEG_ES, di, size, port_io(c, port, size, false, 0));
	advance(c, RDI, i, size);
}

static void one_out(struct soft_vcpu *c, const struct x86_insn *i, uint16_t port, unsigned size) {
	uint64_t si = soft_reg(c, RSI, i->addrsize);
	unsigned seg = i->seg_prefix != X86_REG_NONE ? i->seg_prefix : SEG_DS;
	port_io(c, port, size, true, (uint32_t)soft_read(c, seg, si, size));
	advance(c, RSI, i, size);
}

/* Something wants attention before the next element. */
static bool must_stop(const struct soft_vcpu *c) {
	uint32_t events = vcpu_events(c->v);
	if (!(c->s->rflags & RFLAGS_IF))
		events &= ~EVENT_INTR;
	if (c->s->nmi_masked)
		events &= ~EVENT_NMI;
	return events || c->db_pending || c->single_step || (c->s->rflags & RFLAGS_TF) ||
		   __atomic_load_n(&c->soft->excl_wanted, __ATOMIC_RELAXED);
}

static void string_io(struct soft_vcpu *c, const struct x86_insn *i, bool in) {
	uint16_t port = (uint16_t)c->s->gpr[RDX];
	unsigned size = port_size(i);
	bool rep = i->prefix & (X86_PFX_REP | X86_PFX_REPNE);

	check_port(c, port, size);
	if (!rep) {
		in ? one_in(c, i, port, size) : one_out(c, i, port, size);
		return;
	}
	uint64_t count = soft_reg(c, RCX, i->addrsize);
	for (unsigned n = 0; count; n++) {
		in ? one_in(c, i, port, size) : one_out(c, i, port, size);
		soft_set_reg(c, RCX, i->addrsize, --count);
		if (count && (n == REP_CHUNK || must_stop(c))) {
			c->next_rip = c->s->rip;
			break;
		}
	}
	c->leave_block = true;
}

void op_ins(struct soft_vcpu *c, const struct x86_insn *i) {
	string_io(c, i, true);
}

void op_outs(struct soft_vcpu *c, const struct x86_insn *i) {
	string_io(c, i, false);
}
